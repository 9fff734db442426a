"""A channel that is read directly goes through crashes at every step: every message is handled at least once, in the order of its key, and
what the handler returned is in the log once, also where a message fails and the log keeps it with those behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta

import pytest

from ensue import App, Channel, Retry
from ensue.testing.simulation import Choice, Setting, Simulation, Tape, run
from tests.consumers.apart import BROKER, Apart, Paid, Placed, nothing_left, simulate_apart, starts

FAILPOINTS = ("direct.received", "direct.kept", "direct.accepted", "channel.publish", "channel.confirmed")
PLACED = Channel("orders", Placed, url=BROKER)
QUICK = Retry(attempts=50, first=timedelta(seconds=0.5), longest=timedelta(seconds=2), jitter=False)


class Outside:
    """What the handler did, as the world outside of its processes saw it."""

    def __init__(self) -> None:
        self.begun: list[Placed] = []
        self.done: list[Placed] = []
        self.failing: Counter[int] = Counter()
        """How often the message of a number fails from now on."""

    def clear(self, *failing: int) -> None:
        self.begun, self.done, self.failing = [], [], Counter(failing)


outside = Outside()
front, back = App("front", outbox=[PLACED]), App("back")


@back.on(source=PLACED, retry=QUICK)
async def pay(placed: Placed) -> Paid:
    outside.begun.append(placed)
    if outside.failing[placed.number]:
        outside.failing[placed.number] -= 1
        raise ValueError(f"{placed.number} fails")
    outside.done.append(placed)
    return Paid(order=placed.order, number=placed.number)


in_batches, on_threads = App("back"), App("back")


@in_batches.on(source=PLACED, name="pay", retry=QUICK)
async def pay_several(batch: Sequence[Placed]) -> None:
    failing = [placed for placed in batch if outside.failing[placed.number]]
    outside.failing.subtract(placed.number for placed in failing)
    if failing:
        raise ValueError(f"{failing} fail")
    outside.done.extend(batch)


@on_threads.on(source=PLACED, name="pay", retry=QUICK, timeout=timedelta(seconds=1))
def pay_slowly(placed: Placed) -> None:
    if outside.failing[placed.number]:
        outside.failing[placed.number] -= 1
        raise ValueError(f"{placed.number} fails")
    outside.done.append(placed)


def first_times(handled: list[Placed]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for placed in handled:
        if placed.number not in found[placed.order]:
            found[placed.order].append(placed.number)
    return found


async def are_handled(sim: Apart, events: list[Placed], *failing: int, apart_seconds: float = 0.0) -> None:
    outside.clear(*failing)
    for event in events:
        await sim.app.publish(event)
        if apart_seconds:
            await sim.world.sleep(apart_seconds)
    await sim.all_quiet()
    for event in events:
        assert event in outside.done, f"{event} was never handled"
    for what, handled in (("begun", outside.begun), ("done", outside.done)):
        for order, numbers in first_times(handled).items():
            assert numbers == sorted(numbers), f"of {order}, {what} in the order {numbers}"
    paid = [recorded.event for recorded in await sim.recorded_there() if type(recorded.event) is Paid]
    for event in events:
        count = paid.count(Paid(order=event.order, number=event.number))
        assert count == 1, f"{event} was paid {count} times"
    assert not await sim.back.call(dead), "something is parked"


async def all_are_done_in_order(sim: Apart) -> None:
    events = [Placed(order="ab"[number % 2], number=number) for number in range(6)]
    outside.clear(2, 2, 3)
    for event in events:
        await sim.app.publish(event)
    await sim.all_quiet()
    assert set(outside.done) == set(events)
    for order, numbers in first_times(outside.done).items():
        assert numbers == sorted(numbers), f"of {order}, done in the order {numbers}"
    assert not await sim.back.call(dead), "something is parked"


async def dead(app: App) -> int:
    return len([letter async for letter in app.dead_letters.list()])


async def one_fails_and_the_next_of_its_key_waits(sim: Apart) -> None:
    await are_handled(
        sim, [Placed(order="a", number=1), Placed(order="b", number=2), Placed(order="a", number=3)], 1, 1, 1
    )


async def one_fails_for_long_and_the_next_of_its_key_comes_meanwhile(sim: Apart) -> None:
    failing = (1,) * 8
    await are_handled(sim, [Placed(order="a", number=1), Placed(order="a", number=2)], *failing, apart_seconds=4.0)


async def two_are_done_and_the_third_fails(sim: Apart) -> None:
    await are_handled(sim, [Placed(order="a", number=number) for number in (1, 2, 3)], 2)


def quick_setting() -> Setting[App]:
    async def scenario(sim: Simulation[App]) -> None:
        assert isinstance(sim, Apart)
        await one_fails_and_the_next_of_its_key_waits(sim)

    return Setting(scenario, starts(front, back), quiet=nothing_left("back.pay"), simulation=Apart, permuted=False)


def test_a_crash_between_receiving_keeping_and_accepting_leaves_all_handled_and_what_came_of_it_stored_once() -> None:
    setting = quick_setting()
    crashed = set()
    for nth, label in run(setting, Tape.boring()).failpoints:
        name = label.split("/", 2)[2]
        if name in FAILPOINTS:
            outcome = run(setting, Tape.replay(0, [Choice(label, nth, 1)]))
            assert outcome.error is None, f"{label}#{nth}: {outcome.error}"
            crashed.add(name)
    assert crashed == set(FAILPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize("story", [one_fails_and_the_next_of_its_key_waits, two_are_done_and_the_third_fails])
def test_all_is_handled_in_order_and_stored_once_through_crashes_at_every_step_and_pairs_of_them(story) -> None:  # type: ignore[no-untyped-def]
    simulate_apart(front, back, crashes="pairs", pairs=60, groups=["back.pay"])(story)()


@pytest.mark.slow
def test_all_is_handled_in_order_and_stored_once_whatever_chance_does() -> None:
    simulate_apart(front, back, crashes="none", runs=60, groups=["back.pay"])(two_are_done_and_the_third_fails)()


@pytest.mark.slow
@pytest.mark.parametrize("app", [in_batches, on_threads], ids=["in batches", "on threads"])
def test_all_is_done_in_order_however_the_handler_is_called_and_whatever_chance_does(app: App) -> None:
    simulate_apart(front, app, crashes="none", runs=40, groups=["back.pay"])(all_are_done_in_order)()
