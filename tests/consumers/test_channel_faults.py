"""What brokers do wrong is got over: every event arrives once and in order, nothing spins, and no application ends by it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import pytest

from ensue import App
from ensue.channels.base import Message, Received, Subscription
from ensue.channels.urls import Place
from ensue.errors import AccessRefused, EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.observe.signals import ChannelRepaired
from ensue.testing import applications
from ensue.testing.simulation import Outcome, Setting, SimulatedWorld, Simulation, Tape, run
from ensue.world import World
from tests.channels.doubles import Double, DoubleSubscription
from tests.consumers.apart import Apart, Placed, back_of, front_of, nothing_left, simulate_apart, starts
from tests.consumers.test_channel_crashes import orders_are_paid
from tests.consumers.test_direct_crashes import are_handled, front, two_are_done_and_the_third_fails
from tests.consumers.test_direct_crashes import back as direct

Strikes = Callable[[int, float], BaseException | None]
"""What is raised by the call of this number (from 1), at this second."""


class Trouble:
    """What goes wrong, by the name of the call; and when each call was made."""

    def __init__(self, **strikes: Strikes) -> None:
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.struck: Counter[str] = Counter()
        self._strikes = strikes

    def at(self, call: str, world: World) -> None:
        now = world.monotonic()
        self.calls[call].append(now)
        strike = self._strikes.get(call)
        error = strike(len(self.calls[call]), now) if strike is not None else None
        if error is not None:
            self.struck[call] += 1
            raise error


class TroubledSubscription(DoubleSubscription):
    @property
    def troubled(self) -> Troubled:
        return cast(Troubled, self.broker)

    async def receive(self, most: int) -> Sequence[Received]:
        self.troubled.at("receive")
        received = await super().receive(most)
        self.troubled.at("received")
        return received

    async def accept(self, received: Sequence[Received]) -> None:
        self.troubled.at("accept")
        await super().accept(received)
        self.troubled.at("accepted")

    async def backlog(self) -> int | None:
        self.troubled.at("backlog")
        return await super().backlog()


class Troubled(Double):
    """A broker in memory with which a test has something in mind."""

    subscription = TroubledSubscription

    def __init__(self, place: Place, trouble: Trouble) -> None:
        super().__init__(place)
        self.trouble = trouble

    def at(self, call: str) -> None:
        try:
            self.trouble.at(call, self.world)
        except EnsueError:
            self.breaks()
            raise

    async def open(self, world: World) -> None:
        await super().open(world)
        self.at("open")

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        half = len(messages) // 2
        try:
            self.trouble.at("publish", self.world)
        except EnsueError as error:
            # The first of them are stored, and nobody hears of any.
            await super().publish(address, messages[: half + 1])
            self.breaks()
            return dict.fromkeys(range(len(messages)), error)
        return await super().publish(address, messages)

    async def subscribe(self, *given: Any, **more: Any) -> Subscription:
        self.at("subscribe")
        return await super().subscribe(*given, **more)


def under(
    trouble: Trouble,
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Apart], Any] = orders_are_paid,
    *,
    first: App | None = None,
    second: App | None = None,
    groups: Sequence[str] = ("front", "back"),
) -> Outcome:
    """One run without any other fault. Raises what it found."""
    monkeypatch.setattr("ensue.app.traffic.open_broker", lambda where: Troubled(where, trouble))

    async def scenario(sim: Simulation[App]) -> None:
        assert isinstance(sim, Apart)
        await story(sim)

    setting = Setting(
        scenario,
        starts(first or front_of(), second or back_of()),
        quiet=nothing_left(*groups),
        simulation=Apart,
        permuted=False,
    )
    outcome = run(setting, Tape.boring())
    if outcome.error is not None:
        raise outcome.error
    return outcome


def directly(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    story = two_are_done_and_the_third_fails
    return under(trouble, monkeypatch, story, first=front, second=direct, groups=["back.pay"])


def first(count: int, error: BaseException) -> Strikes:
    return lambda number, _: error if number <= count else None


def until(seconds: float, error: BaseException) -> Strikes:
    return lambda _, now: error if now < seconds else None


def after(seconds: float, until: float, error: BaseException) -> Strikes:
    return lambda _, now: error if seconds <= now < until else None


CALLS = ("subscribe", "receive", "received", "accept", "accepted", "publish", "open")
LOST = Unavailable("the connection broke")
UNFORESEEN = [KeyError("a bug of an adapter"), TimeoutError(), OSError(9, "bad file descriptor")]
WAYS = pytest.mark.parametrize("way", [under, directly], ids=["inbox", "directly"])
Way = Callable[[Trouble, pytest.MonkeyPatch], Outcome]


@WAYS
@pytest.mark.parametrize("call", ["subscribe", "receive", "received", "accept", "accepted", "publish"])
def test_a_connection_that_breaks_at_any_call_is_opened_again(
    way: Way, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OutcomeUnknown("nobody knows") if call == "publish" else LOST
    trouble = Trouble(**{call: first(3, error)})
    way(trouble, monkeypatch)
    assert trouble.struck[call]


@WAYS
@pytest.mark.parametrize(("call", "error"), list(zip(CALLS, cycle(UNFORESEEN), strict=False)))
def test_what_an_adapter_should_never_raise_is_got_over_without_haste(
    way: Way, call: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A start waits for half a minute, and no longer.
    trouble = Trouble(**{call: until(20.0 if call in ("open", "subscribe") else 60.0, error)})
    way(trouble, monkeypatch)
    assert 1 < trouble.struck[call] < 4 * 20, "of four connections in a minute"


@WAYS
@pytest.mark.parametrize("call", ["receive", "received", "accept"])
def test_a_broker_that_breaks_each_time_is_asked_less_and_less_often(
    way: Way, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(**{call: until(300.0, LOST)})
    way(trouble, monkeypatch)
    assert 20 < len(trouble.calls["open"]) < 150


@WAYS
def test_access_that_is_refused_after_some_time_is_asked_for_once_a_minute(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = AccessRefused("the password has changed")
    trouble = Trouble(
        receive=after(20.0, 40.0, LOST),
        open=after(20.0, 420.0, refused),
    )

    async def story(sim: Apart) -> None:
        await sim.world.sleep(60.0)
        await (orders_are_paid(sim) if way is under else two_are_done_and_the_third_fails(sim))

    if way is under:
        under(trouble, monkeypatch, story)
    else:
        under(trouble, monkeypatch, story, first=front, second=direct, groups=["back.pay"])
    refusals = [at for at in trouble.calls["open"] if 20.0 <= at < 420.0]
    assert 5 <= len(refusals) <= 3 * 7, f"of at most three connections in 400 seconds: {refusals}"


@pytest.mark.parametrize("refused", [AccessRefused("not you"), WiringError("no such queue")])
def test_a_subscription_that_is_refused_at_start_ends_the_start(
    refused: EnsueError, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(subscribe=lambda number, now: refused)
    with pytest.raises(type(refused)):
        under(trouble, monkeypatch)


def test_a_subscription_that_cannot_be_had_is_waited_for_at_start_as_long_as_the_url_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trouble = Trouble(subscribe=lambda number, now: LOST)
    with pytest.raises(Unavailable, match="nothing could be subscribed to within 30 s"):
        under(trouble, monkeypatch)


@WAYS
def test_a_subscription_that_gets_nothing_although_messages_wait_is_opened_anew_from_the_connection_on(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(TroubledSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            if self.troubled in deaf:
                await asyncio.Event().wait()
            return await super().receive(most)

    deaf: list[object] = []

    class OnceDeaf(Troubled):
        subscription = Deaf

        async def subscribe(self, *given: Any, **more: Any) -> Subscription:
            if len(self.trouble.calls["subscribe"]) < 2:
                deaf.append(self)
            return await super().subscribe(*given, **more)

    trouble = Trouble()
    monkeypatch.setattr(applications, "_TOLD", (*applications._TOLD, ChannelRepaired))
    monkeypatch.setattr("tests.consumers.test_channel_faults.Troubled", OnceDeaf)
    outcome = way(trouble, monkeypatch)
    assert any("ChannelRepaired" in entry.what for entry in outcome.trace)
    assert len(trouble.calls["open"]) > len(deaf) + 1


class ByChance(Troubled):
    """Goes wrong wherever it can, when the tape says so."""

    def at(self, call: str) -> None:
        world = self.world
        assert isinstance(world, SimulatedWorld)
        if call != "open" and world.fault(f"the connection breaks at {call}"):
            self.breaks()
            raise Unavailable(f"the connection broke at {call}")

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        world = self.world
        assert isinstance(world, SimulatedWorld)
        stored = len(messages)
        if world.fault("a batch is cut in two"):
            stored = world.choose("after how many", len(messages) + 1)
        answered = world.choose("how many confirmations are lost", stored + 1)
        failed = dict(await Double.publish(self, address, messages[:stored]))
        if stored < len(messages) or answered:
            self.breaks()
        for index in range(stored - answered, stored):
            failed[index] = OutcomeUnknown("its confirmation was lost")
        for index in range(stored, len(messages)):
            failed[index] = Unavailable("the connection broke before it was sent")
        return failed


@pytest.mark.slow
def test_two_applications_come_to_the_same_whatever_a_broker_and_chance_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.app.traffic.open_broker", lambda where: ByChance(where, Trouble()))
    simulate_apart(front_of(), back_of(), crashes="none", runs=60)(orders_are_paid)()


@pytest.mark.slow
def test_a_direct_subscription_comes_to_the_same_whatever_a_broker_and_chance_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensue.app.traffic.open_broker", lambda where: ByChance(where, Trouble()))
    simulate_apart(front, direct, crashes="none", runs=60, groups=["back.pay"])(two_are_done_and_the_third_fails)()


# -------------------------------------------------------------------------------------------------- what is refused


def test_messages_that_are_refused_are_parked_however_many_and_the_others_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(Troubled):
        async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
            failed: dict[int, EnsueError] = {}
            for index, message in enumerate(messages):
                if b'"number":0' in message.body:
                    failed[index] = MessageRefused("too large")
                else:
                    assert not await Double.publish(self, address, [message])
            return failed

    monkeypatch.setattr("tests.consumers.test_channel_faults.Troubled", Small)

    async def story(sim: Apart) -> None:
        await sim.app.publish(*(Placed(order=f"bad{number}", number=0) for number in range(30)))
        await are_handled(sim, [Placed(order="good", number=1)])
        assert len(await sim.dead_letters()) == 30

    under(Trouble(), monkeypatch, story, first=front, second=direct, groups=["back.pay"])
