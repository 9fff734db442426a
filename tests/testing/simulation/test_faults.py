"""Faults that no real store can be made to show: the answer of a commit that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import cast

from ensue.store.base import Log, Request, Written
from ensue.testing.simulation import Outcome, Setting, SimulatedWorld, Simulation, Tape, forgetful, run


class Ledger:
    """As much of a log as an idempotent caller needs. It lives outside of the process, as a database does."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.asked = 0

    def write(self, request: Request) -> Awaitable[Written]:
        assert request.idempotency_key is not None
        self.asked += 1
        replayed = request.idempotency_key in self.keys
        if not replayed:
            self.keys.append(request.idempotency_key)
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        position = self.keys.index(request.idempotency_key) + 1
        answer.set_result(Written(position, position, replayed))
        return answer


class Application:
    def __init__(self, log: Log) -> None:
        self.log = log

    async def publish(self, *, idempotency_key: str | None = None) -> int:
        written = await self.log.write(Request(idempotency_key=(idempotency_key or "").encode()))
        return written.first


@asynccontextmanager
async def start(world: SimulatedWorld, _database: str) -> AsyncGenerator[Application, None]:
    log = cast(Log, world.outside(Ledger, Ledger))
    yield Application(forgetful(log, world))


def outcome(tape: Tape, asked: list[int] | None = None) -> Outcome:
    async def scenario(sim: Simulation[Application]) -> None:
        positions = [await sim.app.publish() for _ in range(20)]
        ledger = sim.world.outside(Ledger, Ledger)
        assert positions == list(range(1, 21))
        assert len(ledger.keys) == 20
        if asked is not None:
            asked.append(ledger.asked)

    return run(Setting(scenario, start), tape)


def test_a_caller_whose_answer_is_lost_asks_again_and_stores_once() -> None:
    asked: list[int] = []
    for seed in range(1, 40):
        assert outcome(Tape.record(seed), asked).error is None
    assert max(asked) > 25


def test_no_answer_is_lost_where_nothing_is_to_go_wrong() -> None:
    asked: list[int] = []
    assert outcome(Tape.boring(), asked).error is None
    assert asked == [20]


def test_a_lost_answer_is_part_of_the_story() -> None:
    notes = {entry.what for seed in range(1, 40) for entry in outcome(Tape.record(seed)).trace if entry.kind == "note"}
    assert "fault: the answer of a commit is lost" in notes
    assert "fault: publish is repeated by the caller" in notes
