"""Stopping, stuck threads, clocks that are set back, and stores that cannot be reached for a while."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from ensue import App, Context, Retry
from ensue.errors import Unavailable
from ensue.observe.signals import HandlerStuck, Signal
from ensue.store.base import Page, Request, Selection, Written
from ensue.store.memory import MemoryStore
from ensue.store.sqlite import SqliteStore
from ensue.testing import AppSimulation, simulate
from ensue.testing.applications import is_quiet
from ensue.world import RealWorld
from tests.consumers.clocks import Rang, Ticked, rung, said, tick

seconds: list[float] = [0.0]
attempts: list[int] = []
app = App("stopping")


@app.on(retry=Retry(attempts=2))
async def take_time(event: Ticked, ctx: Context) -> Rang:
    attempts.append(ctx.attempt)
    await asyncio.sleep(seconds[0])
    return Rang(clock_id=event.clock_id, number=event.number)


async def stopped_while_it_runs(sim: AppSimulation, *, takes: float) -> None:
    attempts.clear()
    seconds[0] = takes
    await sim.app.publish(tick(1))
    await sim.advance(timedelta(seconds=1))
    await sim._first.stop()


@simulate(app, crashes="none", runs=0)
async def test_a_handler_may_finish_when_the_application_stops(sim: AppSimulation) -> None:
    await stopped_while_it_runs(sim, takes=10)
    other = sim.start_another()
    await sim.run_until_quiet()
    assert attempts == [1]
    assert await other.call(_rung) == [1]


@simulate(app, crashes="none", runs=0)
async def test_one_that_takes_too_long_is_cancelled_and_no_attempt_is_counted(sim: AppSimulation) -> None:
    await stopped_while_it_runs(sim, takes=3600)
    assert sim.world.monotonic() < 40, "the limit is thirty seconds"
    seconds[0] = 0.0
    other = sim.start_another()
    await sim.run_until_quiet()
    assert attempts == [1, 1]
    assert await other.call(_rung) == [1]


async def _rung(app: App) -> list[int]:
    return [recorded.event.number async for recorded in app.log.read(Rang)]


# ------------------------------------------------------------------------------------------------------------ threads


def test_a_thread_that_is_stuck_is_told_of_and_only_its_key_waits() -> None:
    goes_on = threading.Event()
    told: list[Signal] = []
    stuck = App("stuck")

    @stuck.on(retry=Retry.never, timeout=timedelta(milliseconds=50))
    def block(event: Ticked) -> Rang:
        if event.clock_id == "stuck":
            assert goes_on.wait(10)
        return Rang(clock_id=event.clock_id, number=event.number)

    async def until(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def run() -> None:
        async with stuck.in_world(RealWorld(), MemoryStore(), observe=told.append) as running:
            await running.publish(tick(1, "stuck"), tick(2, "stuck"), tick(3, "other"))

            async def others_go_on() -> bool:
                return any(isinstance(signal, HandlerStuck) for signal in told) and await _rung(running) == [3]

            await until(others_go_on)
            goes_on.set()

            async def quiet() -> bool:
                return await is_quiet(running)

            await until(quiet)
            (letter,) = [letter async for letter in running.dead_letters.list()]
            assert letter.position == 1
            assert letter.reason.startswith("TimeoutError: the handler took ")
            assert await _rung(running) == [3], "what a thread returns after its limit is thrown away"

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------- clocks

failing = App("failing")


@failing.on(retry=Retry(attempts=2, first=timedelta(minutes=1), jitter=False))
async def fail_first(event: Ticked, ctx: Context) -> Rang:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(failing, crashes="none", runs=0)
async def test_a_retry_does_not_wait_for_a_clock_that_was_set_back(sim: AppSimulation) -> None:
    await sim.app.publish(tick(1))
    await sim.advance(timedelta(seconds=30))
    sim.world.jump_clock(timedelta(days=-1))
    await sim.advance(timedelta(seconds=31))
    assert await rung(sim) == [1]


@simulate(failing, crashes="none", runs=0)
async def test_a_retry_planned_before_the_clock_was_set_back_is_made_by_the_next_process(sim: AppSimulation) -> None:
    await sim.app.publish(tick(1))
    await sim.advance(timedelta(seconds=30))
    sim.world.jump_clock(timedelta(days=-1))
    await sim.crash()
    await sim.run_until_quiet()
    assert await rung(sim) == [1]


# ------------------------------------------------------------------------------------------------- stores that are away


class Away(SqliteStore):
    """Cannot be reached while it is away: reads fail, and so do the commits of consumers."""

    away = False

    async def read(self, selection: Selection = (), **options: Any) -> Page:
        if Away.away:
            raise Unavailable("the store is away")
        return await super().read(selection, **options)

    def write(self, request: Request) -> asyncio.Future[Written]:
        if Away.away and request.commit is not None:
            answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
            answer.set_exception(Unavailable("the store is away"))
            return answer
        return super().write(request)


@simulate(app, crashes="none", runs=0, store=Away)
async def test_a_store_that_was_away_is_asked_again_and_nothing_is_handled_twice(sim: AppSimulation) -> None:
    Away.away = False
    attempts.clear()
    seconds[0] = 1.0
    await sim.app.publish(tick(1))
    await sim.advance(timedelta(milliseconds=500))
    Away.away = True
    await sim.app.publish(tick(2, "b"))
    await sim.advance(timedelta(seconds=5))
    Away.away = False
    await sim.run_until_quiet()
    assert sorted(await rung(sim)) == [1, 2]
    assert attempts == [1, 1]
    assert not said(sim, "ConsumerFailed")
