"""What becomes of an event whose handler fails, in each way a handler can, and what its neighbours notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ensue import App, Context, Event, Retry, Transaction
from ensue.consumers.handling import DEPTH_LIMIT
from ensue.errors import InsideHandler
from ensue.testing import AppSimulation, given, simulate
from tests.consumers.clocks import Rang, Ticked, rung, said, tick

attempts: dict[int, list[float]] = defaultdict(list)
"""When each number was tried, in seconds of virtual time. It stands for the world outside and survives processes."""


def tried(event: Ticked) -> int:
    attempts[event.number].append(asyncio.get_running_loop().time())
    return len(attempts[event.number])


# ----------------------------------------------------------------------------------------------------------- retries

retrying = App("retrying")
POLICY: dict[type[Exception], Retry] = {
    ConnectionError: Retry(attempts=4, first=timedelta(seconds=1), jitter=False),
    ValueError: Retry.never,
    OSError: Retry(attempts=2, first=timedelta(seconds=30), jitter=False),
}
CAUSES: dict[int, type[Exception]] = {1: ConnectionRefusedError, 2: ValueError, 3: FileNotFoundError, 4: KeyError}


@retrying.on(retry=POLICY)
async def fail(event: Ticked) -> None:
    tried(event)
    raise CAUSES[event.number](f"tick {event.number}")


def gaps(times: list[float]) -> list[int]:
    return [round(later - earlier) for earlier, later in itertools.pairwise(times)]


@simulate(retrying, crashes="none", runs=0)
async def test_the_nearest_class_of_the_exception_says_how_often_and_when_it_is_tried_again(sim: AppSimulation) -> None:
    attempts.clear()
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in CAUSES))
    await sim.run_until_quiet()
    assert gaps(attempts[1]) == [1, 2, 4], "ConnectionRefusedError is a ConnectionError before it is an OSError"
    assert gaps(attempts[2]) == []
    assert gaps(attempts[3]) == [30]
    assert len(attempts[4]) == 5, "what no policy names has the application's own: five attempts"
    letters = {letter.key_text: letter for letter in await sim.dead_letters()}
    assert letters["clock_id=clock-2"].reason == "ValueError: tick 2"
    assert "CAUSES[event.number]" in letters["clock_id=clock-2"].traceback
    assert letters["clock_id=clock-3"].attempts == 2


jittering = App("jittering")


@jittering.on(retry=Retry(attempts=2, first=timedelta(seconds=100)))
async def fail_once(event: Ticked) -> None:
    if tried(event) == 1:
        raise ConnectionError


@simulate(jittering, crashes="none", runs=0)
async def test_retries_are_spread_between_half_of_the_delay_and_all_of_it(sim: AppSimulation) -> None:
    attempts.clear()
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(15)))
    await sim.run_until_quiet()
    found = {gaps(times)[0] for times in attempts.values()}
    assert all(50 <= gap <= 100 for gap in found)
    assert len(found) > 5


patient = App("patient")


@patient.on(retry=Retry(attempts=3, first=timedelta(seconds=60), jitter=False))
async def fail_always(event: Ticked, ctx: Context) -> None:
    tried(event)
    numbers.append(ctx.attempt)
    raise ConnectionError("no")


numbers: list[int] = []


@simulate(patient, crashes="none", runs=0)
async def test_a_restart_neither_forgets_nor_repeats_an_attempt(sim: AppSimulation) -> None:
    attempts.clear()
    numbers.clear()
    await sim.app.publish(tick(1))
    await sim.advance(timedelta(seconds=30))
    await sim.crash()
    await sim.advance(timedelta(seconds=80))
    await sim.crash()
    await sim.run_until_quiet()
    (letter,) = await sim.dead_letters()
    assert (numbers, letter.attempts) == ([1, 2, 3], 3)


# -------------------------------------------------------------------------------------------- what a handler may do

odd = App("odd")


@odd.on(name="odd", retry=Retry.never, timeout=timedelta(seconds=5))
async def misbehave(event: Ticked, app: App) -> Any:
    match event.number:
        case 1:
            return "a text"
        case 2:
            return [Rang(clock_id="a", number=2), "a text among events"]
        case 3:
            await asyncio.sleep(3600)
        case 4:
            raise asyncio.CancelledError
        case 5:
            await app.publish(Rang(clock_id="a", number=5))
        case 6:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        case 7:
            return Rang(clock_id="", number=7)
        case _:
            return Rang(clock_id=event.clock_id, number=event.number)
    return None


@odd.provide
def itself() -> App:
    return odd


REASONS = {
    1: "TypeError: the handler returned a value of type str; it returns an event, several, or None",
    2: "TypeError: the handler returned a value of type str among its events",
    3: "TimeoutError: the handler took longer than its limit of 5 s",
    4: "RuntimeError: the handler was cancelled from inside",
    6: "RuntimeError: the handler was cancelled from inside",
    7: "InvalidEvent",
}


@pytest.mark.parametrize("number", REASONS)
def test_a_handler_that_does_what_it_must_not_parks_its_event_with_the_reason(number: int) -> None:
    outcome = given(odd).when(tick(number))
    assert outcome.caused == []
    assert outcome.letters[0].reason.startswith(REASONS[number])


publishing = App("publishing")


@publishing.on(retry=Retry.never)
async def publish_inside(event: Ticked, running: list[App]) -> None:
    await running[0].publish(Rang(clock_id="a", number=5))


here: list[App] = []


@publishing.provide
def running_app() -> list[App]:
    return here


@simulate(publishing, crashes="none", runs=0)
async def test_publishing_inside_a_handler_is_refused_and_nothing_is_stored(sim: AppSimulation) -> None:
    async def note(app: App) -> None:
        here[:] = [app]

    await sim.inside(note)
    await sim.app.publish(tick(1))
    await sim.run_until_quiet()
    (letter,) = await sim.dead_letters()
    assert letter.reason.startswith(InsideHandler.__name__)
    assert "Return the events instead" in letter.reason
    assert await rung(sim) == []


endless = App("endless")


@endless.on(retry=Retry.never, pure=True)
def again(event: Ticked) -> Ticked:
    return Ticked(clock_id=event.clock_id, number=event.number + 1)


@simulate(endless, crashes="none", runs=0)
async def test_a_chain_of_causes_without_end_is_a_dead_letter(sim: AppSimulation) -> None:
    await sim.app.publish(tick(0))
    await sim.run_until_quiet()
    (letter,) = await sim.dead_letters()
    assert "do handlers emit what they react to?" in letter.reason
    assert len(await sim.events(Ticked)) == DEPTH_LIMIT + 1


stubborn = App("stubborn")


@stubborn.on(retry=Retry.never, timeout=timedelta(seconds=2))
async def swallow(event: Ticked) -> Rang:
    if event.clock_id == "stuck":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(30)
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(stubborn, crashes="none", runs=0)
async def test_a_handler_that_swallows_its_cancellation_is_told_of_and_only_its_key_waits(sim: AppSimulation) -> None:
    await sim.app.publish(tick(1, "stuck"), tick(2, "stuck"), tick(3, "other"))
    await sim.advance(timedelta(seconds=4))
    assert said(sim, "HandlerStuck: consumer=swallow, position=1")
    assert await rung(sim) == [3]
    await sim.run_until_quiet()
    (letter,) = await sim.dead_letters()
    assert (letter.position, letter.reason) == (1, "TimeoutError: the handler took longer than its limit of 2 s")


inside = App("inside")


@inside.on(retry=Retry.never)
def write_row(event: Ticked, tx: Transaction) -> Rang:
    tx.execute("CREATE TABLE IF NOT EXISTS ticked (number INTEGER)")
    tx.execute("INSERT INTO ticked VALUES (?)", event.number)
    if event.number == 2:
        raise ValueError("two is not written")
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(inside, crashes="none", runs=10)
async def test_a_handler_inside_the_commit_that_fails_takes_nothing_of_its_neighbours_with_it(
    sim: AppSimulation,
) -> None:
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(1, 5)))
    await sim.run_until_quiet()
    assert sorted(await rung(sim)) == [1, 3, 4]
    assert sorted(await sim.rows("SELECT number FROM ticked")) == [(1,), (3,), (4,)]
    assert [letter.reason for letter in await sim.dead_letters()] == ["ValueError: two is not written"]


class Fragile(Event, key="clock_id"):
    clock_id: str


def test_the_reason_says_which_dependency_call_failed() -> None:
    app = App("fragile")

    class Gateway:
        async def charge(self) -> None:
            raise ConnectionError("the gateway is away")

    @app.provide
    def gateway() -> Iterator[Gateway]:
        yield Gateway()

    @app.on(retry=Retry(attempts=3, first=timedelta(hours=1)))
    async def charge(event: Fragile, gateway: Gateway) -> None:
        await gateway.charge()

    (letter,) = given(app).when(Fragile(clock_id="a")).then_dead_letter(ConnectionError).letters
    assert letter.attempts == 3
    assert "await gateway.charge()" in letter.traceback


class NotAnException(BaseException):
    """Such as a test's own failure, raised by a fake that a handler calls."""


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_what_is_no_exception_fails_its_event_as_well(kind: str) -> None:
    odd = App("odd", retry=Retry.never)

    async def waits(event: Ticked) -> None:
        raise NotAnException(event.number)

    def computes(event: Ticked) -> None:
        raise NotAnException(event.number)

    odd.on(waits if kind == "async" else computes)
    given(odd).when(tick(1, "clock")).then_dead_letter(NotAnException)
