"""Bugs that designs of this kind have had, planted into the real store: the simulation finds each and says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec
import pytest

from ensue import App
from ensue.store.base import ConsumerCommit, Page, Request, Selection, Written
from ensue.store.sqlite import SqliteStore, checkpoints
from ensue.testing import AppSimulation, simulate
from ensue.testing.applications import is_quiet, start
from ensue.testing.simulation import Choice, Crashes, Outcome, Setting, Simulation, SimulationFailure, Tape, run
from tests.consumers.shop import shop
from tests.consumers.test_simulated_shop import bank, orders_are_shipped


class IgnoresIdempotencyKeys(SqliteStore):
    """Stores again what is repeated with the same key."""

    def write(self, request: Request) -> asyncio.Future[Written]:
        return super().write(msgspec.structs.replace(request, idempotency_key=None))


class InTwoTransactions(SqliteStore):
    """Effects and checkpoint are two requests: a crash may fall between them, as their batches may."""

    checkpoint_first = False

    def write(self, request: Request) -> asyncio.Future[Written]:
        if request.commit is None or not (request.events or request.apply):
            return super().write(request)
        effects = msgspec.structs.replace(request, commit=None)
        checkpoint = msgspec.structs.replace(request, events=(), apply=())
        halves = (checkpoint, effects) if self.checkpoint_first else (effects, checkpoint)
        return asyncio.ensure_future(self._both(halves))

    async def _both(self, halves: Sequence[Request]) -> Written:
        await super().write(halves[0])
        return await super().write(halves[1])


class CheckpointFirst(InTwoTransactions):
    """The checkpoint, then the effects."""

    checkpoint_first = True


class AnswersBeforeTheCommit(SqliteStore):
    """Tells the caller that its events are durable, and gathers them a little while before it writes them."""

    def write(self, request: Request) -> asyncio.Future[Written]:
        if request.commit is not None or request.idempotency_key is None:
            return super().write(request)
        write = super().write
        early: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        early.set_result(Written(self.head() + 1, self.head() + len(request.events)))
        self._world.call_later(0.01, lambda: void(write(request)))
        return early


def void(_: object) -> None:
    """Nobody asks for it."""


class SkipsAPosition(SqliteStore):
    """A page says that it reached one event more than it holds."""

    async def read(self, selection: Selection = (), **options: Any) -> Page:
        page = await super().read(selection, **options)
        whole = options.get("limit") != 1 and not options.get("backwards")
        return Page(page.rows[:-1], page.reached) if whole and len(page.rows) > 1 else page


async def one_order_is_shipped(sim: AppSimulation) -> None:
    await orders_are_shipped(sim, orders=1)


class Plant(NamedTuple):
    """A bug, what a failure must say about it, and where it is looked for."""

    store: type[SqliteStore]
    words: str
    crashes: Crashes = "everywhere"
    runs: int = 0


PLANTS = [
    Plant(IgnoresIdempotencyKeys, "o1 has 2 OrderPlaced", crashes="none", runs=60),
    Plant(InTwoTransactions, "o1 has 2 PaymentProcessed"),
    Plant(CheckpointFirst, "o1 has 0 PaymentProcessed"),
    Plant(AnswersBeforeTheCommit, "o1 has 0 OrderPlaced"),
    Plant(SkipsAPosition, "says done=True for position 2, the truth is False"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.store.__name__)
def test_a_planted_bug_is_found_named_told_in_short_and_repeated(plant: Plant) -> None:
    explored = simulate(shop, replace=[bank], store=plant.store, crashes=plant.crashes, runs=plant.runs)
    checked = explored(one_order_is_shipped)
    with pytest.raises(SimulationFailure) as failure:
        checked()
    assert plant.words in str(failure.value)
    assert len(failure.value.story) <= 20
    with pytest.raises(SimulationFailure) as again:
        checked.replay(failure.value.replay)
    assert again.value.story == failure.value.story


# -------------------------------------------------------------------------------------------------------- zombies


async def two_processes_ship_an_order(sim: AppSimulation) -> None:
    sim.start_another()
    await orders_are_shipped(sim, orders=1)


BEYOND_A_LEASE = 2
"""What the tape answers to `pause` for one of twelve seconds."""


def paused_at_each_step() -> Iterator[Outcome]:
    """One run for each failpoint: who comes there does nothing for longer than its lease, and then goes on as if no time
    had passed."""

    async def scenario(sim: Simulation[App]) -> None:
        assert isinstance(sim, AppSimulation)
        await two_processes_ship_an_order(sim)

    setting = Setting(scenario, start(shop, replace=[bank]), quiet=is_quiet, simulation=AppSimulation, permuted=False)
    for nth in range(len(run(setting, Tape.boring()).failpoints)):
        yield run(setting, Tape.replay(0, [Choice("pause", nth, BEYOND_A_LEASE)]))


def test_a_process_that_is_paused_at_any_step_beyond_its_lease_changes_nothing_when_it_wakes() -> None:
    errors = [outcome.error for outcome in paused_at_each_step() if outcome.error is not None]
    assert not errors, errors[0]


def test_without_fences_a_process_that_wakes_after_its_lease_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def whoever_sends_it(sql: apsw.Connection, commit: ConsumerCommit) -> tuple[int, int]:
        place = (commit.fence.consumer, commit.fence.segment)
        found = sql.execute("SELECT count, digest FROM ensue_progress WHERE consumer = ? AND segment = ?", place)
        row: Any = next(iter(found))
        return row[0], row[1]

    monkeypatch.setattr(checkpoints, "fenced", whoever_sends_it)
    assert any("o1 has 2 PaymentProcessed" in str(outcome.error) for outcome in paused_at_each_step())
