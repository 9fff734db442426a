"""What a function inside the transaction is told of the log, and how it refuses one event of its request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from ensue.errors import ApplyFailed
from ensue.events.stored import Draft
from ensue.store.base import Request, Store, Term, WriterTransaction, Written
from ensue.store.memory import MemoryStore
from ensue.store.postgresql import PostgresqlStore
from ensue.store.sqlite import SqliteStore
from ensue.world import RealWorld
from tests.store.logs import draft
from tests.store.postgresql_logs import opened, rows_of, told


async def _positions(store: Store) -> None:
    seen: list[int] = []
    rows: list[list[tuple[int, tuple[str, int]]]] = []
    first = await store.write(Request(events=[draft(type_name="Closed"), draft()]))
    assert first.last == 2

    def function(transaction: WriterTransaction) -> Sequence[Draft]:
        seen.append(transaction.head)
        found = transaction.read((Term(types=("Opened",)),), after=0, limit=3)
        rows.append([(row[0], transaction.types[row[2]]) for row in found])
        return [draft()]

    def refuses(transaction: WriterTransaction) -> Sequence[Draft]:
        raise ApplyFailed("not this one", unit=0, event=1)

    requests = [
        Request(events=[draft(), draft()]),
        Request(apply=(function, function), events=[draft()]),
        Request(apply=(refuses,), events=[draft(), draft()]),
        Request(apply=(function,)),
    ]
    answers = await asyncio.gather(*(store.write(request) for request in requests), return_exceptions=True)
    assert [(one.first, one.last) for one in answers if isinstance(one, Written)] == [(3, 4), (5, 7), (8, 8)]
    assert rows[0][:1] == [(2, ("Opened", 1))]
    assert seen == [4, 4, 7], "the position before the request's events, also within one batch"
    refused = answers[2]
    assert isinstance(refused, ApplyFailed)
    assert (refused.unit, refused.event) == (0, 1)
    assert "not this one" in str(refused)


async def _opened(store: Store) -> None:
    await store.open(RealWorld())
    try:
        await _positions(store)
    finally:
        await store.close()


def test_a_function_is_told_the_position_before_its_events_on_sqlite(tmp_path: Path) -> None:
    asyncio.run(_opened(SqliteStore(str(tmp_path / "log.db"))))


def test_a_function_is_told_the_position_before_its_events_in_memory() -> None:
    asyncio.run(_opened(MemoryStore()))


def test_a_function_is_told_the_position_before_its_events_on_postgresql(postgresql_url: str) -> None:
    asyncio.run(_opened(PostgresqlStore(postgresql_url)))


def test_functions_run_in_the_commit_of_a_transaction_of_the_callers_own(postgresql_url: str) -> None:
    seen: list[int] = []

    def function(transaction: WriterTransaction) -> Sequence[Draft]:
        seen.append(transaction.head)
        transaction.execute("INSERT INTO kept VALUES (?)", (transaction.head,))
        return [draft()]

    def raises(transaction: WriterTransaction) -> Sequence[Draft]:
        transaction.execute("INSERT INTO kept VALUES (-1)")
        raise ValueError("no")

    async def story() -> None:
        async with opened(postgresql_url) as store:
            own = await store.begin()
            await own.execute("CREATE TABLE kept (head BIGINT)")
            written = await own.commit(Request(events=[draft(key="b")], apply=(function,)))
            assert (written.first, written.last) == (1, 2)
            refused = await store.begin()
            await refused.execute("INSERT INTO kept VALUES (-2)")
            with pytest.raises(ApplyFailed, match="ValueError: no"):
                await refused.commit(Request(events=[draft()], apply=(raises,)))
            assert store.query("SELECT head FROM kept") == [(0,)]
            assert len(await rows_of(store)) == 2

    told(story)
    assert seen == [0]


async def _later(store: Store) -> None:
    def makes(transaction: WriterTransaction) -> Sequence[Draft]:
        transaction.execute("CREATE TABLE kept (name TEXT PRIMARY KEY, number INTEGER)")
        return ()

    def puts(name: str, *, fails: bool = False) -> Request:
        def function(transaction: WriterTransaction) -> Sequence[Draft]:
            batches.append(transaction.batch)
            transaction.later("INSERT INTO kept VALUES (?, 0)", (name,))
            transaction.later("UPDATE kept SET number = number + 1")
            if fails:
                raise ValueError("no")
            return [draft()]

        return Request(apply=(function,))

    def looks(transaction: WriterTransaction) -> Sequence[Draft]:
        transaction.later("INSERT INTO kept VALUES (?, 0)", ("d",))
        seen.append(transaction.execute("SELECT name, number FROM kept ORDER BY name"))
        return ()

    batches: list[object] = []
    seen: list[list[tuple[object, ...]]] = []
    await store.write(Request(apply=(makes,)))
    requests = [puts("a"), puts("b", fails=True), puts("c"), puts("a"), Request(apply=(looks,)), puts("e"), puts("a")]
    answers = await asyncio.gather(*(store.write(request) for request in requests), return_exceptions=True)
    assert [isinstance(answer, Written) for answer in answers] == [True, False, True, False, True, True, False]
    assert all(isinstance(answer, ApplyFailed) for answer in answers if not isinstance(answer, Written))
    assert seen[-1] == [("a", 2), ("c", 1), ("d", 0)], "in their order, without those of what was refused"
    assert batches[0] is batches[1], "of one batch"
    assert store.head() == 3


async def _opened_for_later(store: Store) -> None:
    await store.open(RealWorld())
    try:
        await _later(store)
    finally:
        await store.close()


def test_statements_that_nobody_waits_for_run_in_their_order_on_sqlite(tmp_path: Path) -> None:
    asyncio.run(_opened_for_later(SqliteStore(str(tmp_path / "log.db"))))


def test_statements_that_nobody_waits_for_run_in_their_order_on_postgresql(postgresql_url: str) -> None:
    asyncio.run(_opened_for_later(PostgresqlStore(postgresql_url)))
