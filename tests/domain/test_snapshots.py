"""Snapshots save time and nothing depends on them: whatever becomes of them, states are what their events make them."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from typing import Any, Self

import pytest

from ensue import App, Command, Decided, Event, State, Transaction
from ensue.domain import snapshots as snapshots_module
from ensue.domain.snapshots import TABLE, SqlSnapshots
from ensue.errors import Unavailable
from ensue.events.fingerprint import fingerprint_of
from ensue.observe.signals import Signal, SnapshotsLost
from ensue.store.base import Request
from tests.domain.school import Account, Balance, Deposited, Withdraw, Withdrawn, application
from tests.domain.test_deciding import counting

HISTORY = 350


async def filled(app: App, count: int = HISTORY) -> None:
    await app.publish(*(Deposited(account_id="a", amount=1) for _ in range(count)))


async def kept(app: App) -> list[tuple[Any, ...]]:
    """What is kept, once nothing is left to be written."""
    snapshots = app._open_engine().domain.snapshots
    assert snapshots is not None
    await snapshots.settle()
    return app.sql(f"SELECT state, position, data FROM {TABLE}")


def test_a_long_history_is_read_from_its_snapshot_and_what_came_behind_it(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app:
            await filled(app)
            assert (await app.state(Account, "a")).balance == HISTORY
            assert [row[:2] for row in await kept(app)] == [("Account", HISTORY)]
        async with application(shared_url).connected() as app:
            await filled(app, 20)
            pages = counting(app.open_store())
            assert (await app.state(Account, "a")).balance == HISTORY + 20
            assert [len(page) for page in pages] == [20]
            assert [row[:2] for row in await kept(app)] == [("Account", HISTORY)]

    asyncio.run(run())


def test_what_is_decided_is_kept_after_so_many_events_and_short_histories_are_not(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app:
            for number in range(260):
                await app.send(Balance(account_id="a", amount=1))
                if number < 40:
                    await app.send(Balance(account_id="b", amount=1))
            rows = await kept(app)
            assert [row[0] for row in rows] == ["Account"]
            (last,) = [row[1] for row in rows]
            assert last >= 200
        async with application(shared_url).connected() as app:
            assert (await app.state(Account, "a")).balance == 260

    asyncio.run(run())


@pytest.mark.parametrize("spoilt", ["data", "fingerprint", "row", "table", "nonsense"])
def test_a_snapshot_that_is_damaged_or_gone_costs_time_and_nothing_else(file_url: str, spoilt: str) -> None:
    statement: Any = {
        "data": f"UPDATE {TABLE} SET data = x'0099'",
        "nonsense": f"UPDATE {TABLE} SET data = x''",
        "fingerprint": f"UPDATE {TABLE} SET fingerprint = x'00', data = x'0081a762616c616e636563'",
        "row": f"DELETE FROM {TABLE}",
        "table": f"DROP TABLE {TABLE}",
    }[spoilt]

    async def run() -> None:
        async with application(file_url).connected() as app:
            await filled(app)
            await app.state(Account, "a")
            await kept(app)
            await app.transact(lambda tx: tx.execute(statement))
        async with application(file_url).connected() as app:
            assert (await app.state(Account, "a")).balance == HISTORY
            assert [row[:2] for row in await kept(app)] == [("Account", HISTORY)]
        async with application(file_url).connected() as app:
            assert (await app.state(Account, "a")).balance == HISTORY

    asyncio.run(run())


def test_a_snapshot_that_another_log_left_or_that_is_ahead_of_the_log_is_no_snapshot(file_url: str) -> None:
    async def run() -> None:
        async with application(f"{file_url}2").connected() as other:
            await other.publish(*(Deposited(account_id="a", amount=7) for _ in range(200)))
            await other.state(Account, "a")
            await kept(other)
            (row,) = other.sql(f"SELECT * FROM {TABLE}")
        async with application(file_url).connected() as app:
            await filled(app)
            await app.state(Account, "a")
            await kept(app)

            def replace(tx: Transaction) -> None:
                tx.execute(f"DELETE FROM {TABLE}")
                tx.execute(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?, ?)", *row)

            await app.transact(replace)
            app._open_engine().domain.states.forget()
            assert (await app.state(Account, "a")).balance == HISTORY
            await kept(app)
            await app.transact(lambda tx: tx.execute(f"UPDATE {TABLE} SET position = 100000"))
            await filled(app, 1)
            app._open_engine().domain.states.forget()
            assert (await app.state(Account, "a")).balance == HISTORY + 1

    asyncio.run(run())


def test_an_older_snapshot_never_replaces_a_newer_one(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            await filled(app)
            await app.state(Account, "a")
            old = app._open_engine().domain.states.memory
            await kept(app)
            await filled(other)
            await other.state(Account, "a")
            assert [row[1] for row in await kept(other)] == [2 * HISTORY]
            ((boundary, remembered),) = old._kept.items()
            snapshots = app._open_engine().domain.snapshots
            assert snapshots is not None
            assert snapshots.offer(boundary, types.SimpleNamespace(followed=999, data=remembered.data, position=5))  # type: ignore[arg-type]
            assert [row[1] for row in await kept(app)] == [2 * HISTORY]

    asyncio.run(run())


def test_code_that_makes_other_states_of_the_same_events_ignores_the_snapshots_of_before(file_url: str) -> None:
    def ledger(rate: int) -> App:
        app = App("ledger", url=file_url)

        class Total(State, key="account_id"):
            total: int = 0

            def evolve(self, event: Deposited) -> Self:
                self.total += event.amount * rate
                return self

        class Ask(Command[int]):
            account_id: str

        @app.command
        def ask(command: Ask, total: Total) -> Decided[int]:
            return Decided([], result=total.total)

        app.ask_total = lambda: app.send(Ask(account_id="a"))  # type: ignore[attr-defined]
        return app

    async def run() -> None:
        for rate in (1, 1, 3, 1):
            async with ledger(rate).connected() as app:
                if rate == 1 and not [one async for one in app.log.read()]:
                    await filled(app)
                assert (await app.ask_total()).result == HISTORY * rate  # type: ignore[attr-defined]
                assert len(await kept(app)) == 1

    asyncio.run(run())


def test_trouble_with_writing_snapshots_is_told_and_troubles_nobody(file_url: str) -> None:
    told: list[Signal] = []
    app = App("school", url=file_url, observe=told.append)
    app.include(*application(file_url)._included)

    async def run() -> None:
        async with app.connected():
            await filled(app)
            store = app.open_store()
            write = store.write

            def refusing(request: Request) -> asyncio.Future[Any]:
                if not request.apply:
                    return write(request)
                refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                refused.set_exception(Unavailable("the disk is away"))
                return refused

            store.write = refusing  # type: ignore[method-assign]
            assert (await app.state(Account, "a")).balance == HISTORY
            await app.send(Withdraw(account_id="a", amount=1))
            snapshots = app._open_engine().domain.snapshots
            assert snapshots is not None
            await snapshots.settle()
            lost = [one for one in told if isinstance(one, SnapshotsLost)]
            assert [(one.attempted, one.error) for one in lost] == [("write", "Unavailable: the disk is away")]

    asyncio.run(run())


def test_an_application_closes_while_snapshots_wait(shared_url: str) -> None:
    async def run() -> None:
        for _ in range(5):
            async with application(shared_url).connected() as app:
                await filled(app)
                await app.state(Account, "a")
        async with application(shared_url).connected() as app:
            assert (await app.state(Account, "a")).balance == 5 * HISTORY

    asyncio.run(run())


def test_more_states_than_can_wait_are_not_kept(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "WAITING", 2)
    monkeypatch.setattr(snapshots_module, "EVERY", 1)

    async def run() -> None:
        async with application(file_url).connected() as app:
            await asyncio.gather(*(app.send(Balance(account_id=f"a{number}", amount=1)) for number in range(20)))
            rows = await kept(app)
            assert 1 <= len(rows) <= 20
            snapshots = app._open_engine().domain.snapshots
            assert isinstance(snapshots, SqlSnapshots)

    asyncio.run(run())


# -------------------------------------------------------------------------------------------------------- fingerprints

RATE = 3


def helper(amount: int) -> int:
    return amount * RATE


def evolve_by_helper(total: int, event: Deposited) -> int:
    return total + helper(event.amount)


def evolve_alone(total: int, event: Deposited) -> int:
    return total + event.amount


def evolve_alone_again(total: int, event: Deposited) -> int:
    """Another name and another comment."""
    # and a comment
    return total + event.amount


def _of(*functions: Callable[..., Any], events: tuple[type[Event], ...] = (Deposited,)) -> bytes:
    return fingerprint_of((int,), functions, events)


def test_a_fingerprint_covers_code_helpers_constants_shapes_and_events(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _of(evolve_by_helper)
    assert before == _of(evolve_by_helper)
    assert before != _of(evolve_alone)
    monkeypatch.setitem(globals(), "RATE", 4)
    assert before != _of(evolve_by_helper)
    monkeypatch.setitem(globals(), "RATE", 3)
    assert before == _of(evolve_by_helper)
    monkeypatch.setitem(globals(), "helper", lambda amount: amount)
    assert before != _of(evolve_by_helper)
    assert _of(evolve_alone) != _of(evolve_alone, events=(Deposited, Withdrawn))


def test_a_fingerprint_is_the_same_in_every_process(tmp_path: Any) -> None:
    import os
    import subprocess
    import sys

    program = (
        "from tests.domain.school import *; from ensue.events.fingerprint import fingerprint_of as of;"
        "from tests.domain.school import evolve, Places;"
        "print(of((Account,), (Account.evolve,), (Deposited, Withdrawn)).hex(), of((Places,), (evolve,), (Deposited,)).hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(said) == 1
