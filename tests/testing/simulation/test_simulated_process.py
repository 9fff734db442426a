"""A process in simulation: its clock, its threads, its ids, and its death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import apsw
import pytest

from ensue.testing.simulation import (
    Choice,
    Crashed,
    Outcome,
    Setting,
    SimulatedWorld,
    Simulation,
    Stuck,
    Tape,
    memory_database,
)
from ensue.testing.simulation import run as run_setting
from ensue.testing.simulation.simulated import STARTS_AT
from ensue.world import World


class Diary:
    """An application that writes down what it does, outside of itself."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.lines: list[str] = world.outside("diary", list[str])

    def write(self, line: str) -> None:
        self.lines.append(line)

    async def wait(self, seconds: float) -> None:
        try:
            await self.world.sleep(seconds)
            self.write("waited")
        finally:
            self.write("cleaned up")

    async def pass_point(self, name: str) -> str:
        self.world.failpoint(name)
        return name

    async def identify(self) -> bytes:
        return self.world.new_id()


@asynccontextmanager
async def diary(world: SimulatedWorld, _name: str) -> AsyncGenerator[Diary, None]:
    application = Diary(world)
    application.write(f"started {world.process}")
    yield application
    application.write("stopped")


def outcome_of(scenario: Callable[[Simulation[Diary]], Awaitable[None]], *choices: Choice) -> Outcome:
    async def test(sim: Simulation[Diary]) -> None:
        await scenario(sim)

    return run_setting(Setting(test, diary), Tape.replay(1, choices))


def passes(scenario: Callable[[Simulation[Diary]], Awaitable[None]], *choices: Choice) -> Outcome:
    outcome = outcome_of(scenario, *choices)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def lines(sim: Simulation[Diary]) -> list[str]:
    return sim.world.outside("diary", list[str])


def test_a_crash_runs_no_finally_and_the_next_life_starts() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        waiting = asyncio.ensure_future(sim.app.wait(10))
        await sim.advance(timedelta(seconds=5))
        await sim.crash()
        assert lines(sim) == ["started app#1", "started app#2"]
        await waiting
        assert lines(sim) == ["started app#1", "started app#2", "waited", "cleaned up"]

    passes(scenario)


def test_a_call_that_dies_is_made_again_in_the_next_life() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        assert await sim.app.pass_point("here") == "here"
        assert lines(sim) == ["started app#1", "started app#2"]

    outcome = passes(scenario, Choice("crash/app/here", 0, 1))
    assert [entry.kind for entry in outcome.trace] == ["starts", "calls", "passes", "dies", "starts", "passes"]


def test_a_dead_process_is_told_so_by_every_call_of_its_world() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        await sim.run_until_quiet()
        world: World = sim.app.world
        await sim.crash()
        asks: list[Callable[[], object]] = [
            world.now, world.monotonic, world.random, world.new_id, lambda: world.failpoint("late"),
            lambda: world.call_later(1, print), lambda: world.threads(1, name="late"),
            lambda: world.spawn(asyncio.Event().wait(), name="late"),
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(Crashed):
                ask()
        with pytest.raises(Crashed):
            await world.sleep(1)

    passes(scenario)


def test_ids_ascend_also_when_the_clock_goes_back_and_lives_differ() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        ids = [await sim.app.identify() for _ in range(3)]
        sim.world.jump_clock(timedelta(hours=-1))
        ids += [await sim.app.identify() for _ in range(3)]
        assert ids == sorted(set(ids))
        assert all(len(each) == 16 and each[6] >> 4 == 7 and each[8] >> 6 == 2 for each in ids)
        await sim.crash()
        assert await sim.app.identify() not in ids

    passes(scenario)


def test_the_wall_clock_may_be_set_back_while_durations_go_on() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        assert sim.world.now() == STARTS_AT
        await sim.advance(timedelta(minutes=1))
        sim.world.jump_clock(timedelta(minutes=-2))
        assert sim.world.now() == STARTS_AT - 60_000_000
        assert sim.world.monotonic() == 60

    passes(scenario)


def test_a_paused_process_does_nothing_and_then_goes_on() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        await sim.run_until_quiet()
        other = sim.start_another()
        await sim.run_until_quiet()
        waiting = asyncio.ensure_future(other.app.wait(1))
        await sim.advance(timedelta(seconds=0.5))
        other.pause(timedelta(seconds=60))
        await sim.advance(timedelta(seconds=30))
        assert lines(sim) == ["started app#1", "started app2#1"]
        await waiting
        assert lines(sim)[2:] == ["waited", "cleaned up"]
        assert sim.world.monotonic() == 60.5

    passes(scenario)


def test_an_application_that_cannot_start_fails_the_run() -> None:
    @asynccontextmanager
    async def broken(_world: SimulatedWorld, _name: str) -> AsyncGenerator[Diary, None]:
        raise ValueError("no such table")
        yield

    async def test(sim: Simulation[Diary]) -> None:
        await sim.app.pass_point("never")

    outcome = run_setting(Setting(test, broken), Tape.boring())
    assert isinstance(outcome.error, ValueError)


def test_a_program_beside_the_application_runs_again_until_it_ends() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        lives: list[str] = []

        async def program(world: SimulatedWorld, _database: str) -> str:
            lives.append(str(world.process))
            await world.sleep(1)
            world.failpoint("half way")
            return "done"

        assert await sim.process(program, name="batch") == "done"
        assert lives == ["batch#1", "batch#2"]

    passes(scenario, Choice("crash/batch/half way", 0, 1))


def test_a_pool_of_one_thread_keeps_the_order_of_its_calls_and_answers() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        assert await pooled(sim, 1) == (list(range(20)), list(range(20)))

    for seed in range(30):
        outcome = run_setting(Setting(scenario, diary), Tape.record(seed))
        assert outcome.error is None, outcome.error


def test_calls_of_a_larger_pool_overtake_each_other() -> None:
    orders: set[tuple[int, ...]] = set()

    async def scenario(sim: Simulation[Diary]) -> None:
        calls, answers = await pooled(sim, 4)
        assert calls == answers
        orders.add(tuple(calls))

    for seed in range(30):
        run_setting(Setting(scenario, diary), Tape.record(seed))
    assert len(orders) > 5


async def pooled(sim: Simulation[Diary], threads: int) -> tuple[list[int], list[int]]:
    calls: list[int] = []
    answers: list[int] = []

    async def program(world: SimulatedWorld, _database: str) -> None:
        calls.clear()
        answers.clear()
        pool = world.threads(threads, name="pool")
        finished = asyncio.Event()

        def answered(number: int, _result: object, _error: object) -> None:
            answers.append(number)
            if len(answers) == 20:
                finished.set()

        for number in range(20):
            pool.run(partial(calls.append, number), partial(answered, number))
        await finished.wait()

    await sim.process(program, name="program")
    return calls, answers


def test_a_call_that_never_answers_fails_the_run() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        await sim.app.wait(1e9)

    outcome = outcome_of(scenario)
    assert isinstance(outcome.error, Stuck)
    assert "wait has not answered" in str(outcome.error)


def test_an_error_in_a_callback_fails_the_run() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        await sim.run_until_quiet()
        sim.app.world.call_later(1, lambda: print(1 // 0))
        await sim.advance(timedelta(seconds=2))

    assert isinstance(outcome_of(scenario).error, ZeroDivisionError)


def test_what_a_dead_process_had_not_committed_is_rolled_back() -> None:
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE

    async def scenario(sim: Simulation[Diary]) -> None:
        async def program(world: SimulatedWorld, database: str) -> list[object]:
            connection: Any = apsw.Connection(memory_database(database), flags=flags)
            connection.execute("create table if not exists note (text)")
            connection.execute("begin immediate")
            connection.execute("insert into note values (?)", (str(world.process),))
            world.failpoint("written")
            connection.execute("commit")
            return [text for (text,) in connection.execute("select text from note")]

        assert await sim.process(program, name="program") == ["program#2"]

    passes(scenario, Choice("crash/program/written", 0, 1))


def test_code_that_swallows_its_death_stays_dead() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        async def program(world: SimulatedWorld, _database: str) -> str:
            try:
                world.failpoint("dies")
            except BaseException:
                await asyncio.sleep(1)
                world.outside("diary", list[str]).append("lived on")
            return str(world.process)

        assert await sim.process(program, name="program") == "program#2"
        assert "lived on" not in lines(sim)

    passes(scenario, Choice("crash/program/dies", 0, 1))


def test_a_call_on_a_thread_that_dies_is_never_answered() -> None:
    async def scenario(sim: Simulation[Diary]) -> None:
        answers: list[object] = []

        async def program(world: SimulatedWorld, _database: str) -> str:
            answered = asyncio.Event()

            def done(result: object, error: object) -> None:
                answers.append((result, error))
                answered.set()

            world.threads(1, name="pool").run(partial(world.failpoint, "on a thread"), done)
            await answered.wait()
            return str(world.process)

        assert await sim.process(program, name="program") == "program#2"
        assert answers == [(None, None)]

    passes(scenario, Choice("crash/program/on a thread", 0, 1))
