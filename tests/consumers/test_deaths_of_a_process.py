"""An event whose handler's process dies is not given up before any of the handler's policies would give it up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import apsw

from ensue import App, Event, Retry
from ensue.consumers.lease import Turn
from ensue.consumers.machine import Machine
from ensue.consumers.routing import segment_of
from ensue.events.stored import Row, tag_hash
from ensue.store.base import Lane, LaneState, Progress, Request
from ensue.store.rows import lane_values
from ensue.testing import AppSimulation, simulate
from ensue.world import RealWorld


class Asked(Event, key="question"):
    question: str


class Answered(Event, key="question"):
    question: str


def test_many_failures_and_two_deaths_do_not_use_up_a_patient_policy(tmp_path: Path) -> None:
    """The row is that of an event which failed seven times by a policy of twenty, in a process that then died twice."""
    url = f"sqlite:///{tmp_path / 'deaths.db'}"
    key = tag_hash("question=why")

    def application() -> App:
        app = App("deaths", url=url)

        @app.on(retry={ConnectionError: Retry(attempts=20, first=timedelta(milliseconds=1))})
        async def answer(asked: Asked) -> Answered:
            return Answered(question=asked.question)

        return app

    async def prepare(app: App) -> None:
        async with app.connected():
            await app.publish(Asked(question="why"))
        connection = apsw.Connection(str(tmp_path / "deaths.db"))
        segment = segment_of(key, 16)
        lane = Lane(
            consumer=1, segment=segment, key=key, key_text="question=why", after=0, state=LaneState.RETRY, attempts=7,
            due_at=0, error="ConnectionError",
        )  # fmt: skip
        connection.execute("INSERT INTO ensue_lane VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", lane_values(lane))
        connection.execute("UPDATE ensue_progress SET unclean = 2, position = 1 WHERE segment = ?", (segment,))
        connection.close()

    async def go_on(app: App) -> list[Answered]:
        async with app:
            while not (found := [recorded.event async for recorded in app.log.read(Answered)]):
                assert not [letter async for letter in app.dead_letters.list()]
                await asyncio.sleep(0)
            return found

    asyncio.run(prepare(application()))
    assert asyncio.run(go_on(application())) == [Answered(question="why")]


QUESTIONS = 40
DEATHS = 16
patient = App("patient")


@patient.on
async def think(asked: Asked) -> Answered:
    await asyncio.sleep(8)
    return Answered(question=asked.question)


@simulate(patient, crashes="none", runs=0)
async def test_many_deaths_from_outside_give_up_no_event(sim: AppSimulation) -> None:
    """Every life ends while handlers run, so that each event is in work at many deaths, and to blame for none."""
    questions = [f"q{number}" for number in range(QUESTIONS)]
    await sim.app.publish(*(Asked(question=question) for question in questions))
    for death in range(DEATHS):
        # A life takes over when the lease of the one before has ended, and dies while its handlers think.
        await sim.advance(timedelta(seconds=13 if death else 2))
        await sim.crash()
    await sim.run_until_quiet()
    assert not await sim.dead_letters()
    assert sorted(answered.question for answered in await sim.events(Answered)) == sorted(questions)


def test_one_at_a_time_has_the_turn_and_the_one_with_the_fewest_deaths_first() -> None:
    async def take_turns() -> list[str]:
        turn, told, woken = Turn(RealWorld()), list[str](), asyncio.Event()

        def ask(name: str, deaths: int) -> bool:
            def wake() -> None:
                told.append(name)
                woken.set()

            return turn.take(name, deaths, wake)

        assert not any([ask("twice", 2), ask("once", 1), ask("thrice", 3)])
        await asyncio.wait_for(woken.wait(), 5)
        assert ask("once", 1)
        assert not ask("twice", 2)
        turn.give_back("once")
        assert ask("twice", 2)
        turn.give_back("twice")
        return told

    assert asyncio.run(take_turns()) == ["once", "twice", "thrice"]


DEADLY = """
import asyncio, os, sys
from tests.consumers.test_deaths_of_a_process import Answered, Asked
from ensue import App

app = App("deadly", url=sys.argv[1])

@app.on
async def answer(asked: Asked) -> Answered:
    if asked.question == "q3":
        os._exit(9)
    return Answered(question=asked.question)

async def main() -> None:
    async with app:
        await app.publish(*(Asked(question=f"q{number}") for number in range(20)), idempotency_key="all")
        while len([0 async for _ in app.log.read(Answered)]) < 19 or not [0 async for _ in app.dead_letters.list()]:
            await asyncio.sleep(0.01)
        print([(letter.key_text, letter.reason) async for letter in app.dead_letters.list()])

asyncio.run(main())
"""


def test_the_one_event_that_kills_its_process_is_given_up_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DEADLY, f"sqlite:///{tmp_path / 'deadly.db'}"]

    def live() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    lives = [life := live()]
    while life.returncode == 9 and len(lives) < 20:
        lives.append(life := live())
    assert (life.returncode, life.stderr) == (0, "")
    assert life.stdout == "[('question=q3', 'the process died while handling it')]\n"


def suspect(lanes: Iterable[Lane] = ()) -> Machine:
    """The machine of a segment that was taken over twice from owners which had not released it."""
    progress = Progress(
        consumer=1, segment=0, position=1, ahead=(), fence=3, owner=b"n", rev=0, unclean=2, count=0, digest=0
    )
    return Machine(progress, lanes, by_position=False, retry=Retry(attempts=2), describe=lambda _: "question=why")


KEY = b"k" * 16


def asked(position: int) -> Row:
    return (position, b"i" * 16, 1, KEY, position, 0, None, None, None, None, b"", b"{}")


def test_while_nothing_may_be_parked_a_deadly_event_waits_before_it_is_tried_again() -> None:
    lane = Lane(
        consumer=1, segment=0, key=KEY, key_text="question=why", after=0, state=LaneState.LATE, attempts=2, rev=5
    )
    machine = suspect([lane])
    machine.may_park = False
    (lookup,) = machine.wanted(0, 1)
    assert machine.found(lookup, asked(1), 0) is None
    written = machine.commit(0)
    assert written is not None
    assert written.commit is not None
    (row,) = written.commit.lanes
    assert (row.state, row.attempts) == (LaneState.RETRY, 2)
    machine.committed()
    assert machine.wanted(0, 1) == []
    assert machine.wanted(machine.next_due() or 0, 1) == [lookup]


def test_a_clean_stop_takes_back_the_attempt_that_was_written_ahead() -> None:
    machine = suspect()
    machine.route(2, KEY, asked(2))
    assert machine.start(1, now=0) == []
    ahead = machine.commit(0)
    machine.committed()
    (lookup,) = machine.wanted(0, 1)
    slot = machine.found(lookup, asked(2), 0)
    assert ahead is not None
    assert slot is not None
    machine.cancelled(slot)
    assert _attempts(ahead, given_up(machine)) == [(1, 0), (0, 1)]


def test_a_hand_over_takes_back_the_attempt_that_was_written_ahead_and_not_made() -> None:
    machine = suspect()
    machine.route(2, KEY, asked(2))
    assert machine.start(1, now=0) == []
    ahead = machine.commit(0)
    machine.committed()
    assert ahead is not None
    assert _attempts(ahead, given_up(machine)) == [(1, 0), (0, 1)]


def given_up(machine: Machine) -> Request:
    machine.drain()
    released = machine.commit(0)
    assert released is not None
    assert released.commit is not None
    assert released.commit.release
    return released


def _attempts(*requests: Request) -> list[tuple[int, int]]:
    lanes = [request.commit.lanes[0] for request in requests if request.commit is not None]
    return [(lane.attempts, lane.rev) for lane in lanes]
