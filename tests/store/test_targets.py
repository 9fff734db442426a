"""Databases beside the log's: what is done in one transaction is kept whole or not at all, and one that is away is told as away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ensue.app.urls import open_target
from ensue.errors import Misuse, Unavailable, WiringError
from ensue.store.base import SqlTransaction
from ensue.store.target import Target
from ensue.world import RealWorld
from tests.servers.postgresql import PostgresServer


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Target, None]:
    target = open_target(url)
    await target.open(RealWorld())
    try:
        yield target
    finally:
        await target.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rows.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(limited())


def make(sql: SqlTransaction) -> None:
    sql.execute("CREATE TABLE kept (name TEXT PRIMARY KEY, number INTEGER)")


def test_what_a_function_did_is_committed_and_its_result_given(url: str) -> None:
    async def story() -> None:
        async with opened(url) as target:
            await target.transact(make)

            def fill(sql: SqlTransaction) -> int:
                sql.execute("INSERT INTO kept VALUES (?, ?)", ("a ? b", 1))
                return len(sql.execute("SELECT * FROM kept"))

            assert await target.transact(fill) == 1
            assert await target.select("SELECT number FROM kept WHERE name = ?", ("a ? b",)) == [(1,)]
        async with opened(url) as again:
            assert await again.select("SELECT name FROM kept") == [("a ? b",)]

    told(story)


def test_nothing_is_kept_of_a_function_that_raises_and_the_next_goes_on(url: str) -> None:
    async def story() -> None:
        async with opened(url) as target:
            await target.transact(make)

            def fails(sql: SqlTransaction) -> None:
                sql.execute("INSERT INTO kept VALUES ('a', 1)")
                raise ValueError("no")

            def doubles(sql: SqlTransaction) -> None:
                sql.execute("INSERT INTO kept VALUES ('b', 1)")
                sql.execute("INSERT INTO kept VALUES ('b', 1)")

            with pytest.raises(ValueError, match="no"):
                await target.transact(fails)
            with pytest.raises(Exception, match=r"(?i)unique"):
                await target.transact(doubles)
            await target.transact(lambda sql: sql.execute("INSERT INTO kept VALUES ('c', 1)"))
            assert await target.select("SELECT name FROM kept") == [("c",)]

    told(story)


def test_a_function_cannot_end_the_transaction_that_it_runs_in(url: str) -> None:
    async def story() -> None:
        async with opened(url) as target:
            await target.transact(make)

            def ends(sql: SqlTransaction) -> None:
                sql.execute("INSERT INTO kept VALUES ('a', 1)")
                sql.execute("COMMIT")

            with pytest.raises(Misuse, match="COMMIT"):
                await target.transact(ends)
            assert await target.select("SELECT * FROM kept") == []

    told(story)


def test_transactions_come_one_after_another(url: str) -> None:
    async def story() -> None:
        async with opened(url) as target:
            await target.transact(make)
            await target.transact(lambda sql: sql.execute("INSERT INTO kept VALUES ('a', 0)"))

            def add(sql: SqlTransaction) -> None:
                ((number,),) = sql.execute("SELECT number FROM kept")
                assert isinstance(number, int)
                sql.execute("UPDATE kept SET number = ?", (number + 1,))

            await asyncio.gather(*(target.transact(add) for _ in range(50)))
            assert await target.select("SELECT number FROM kept") == [(50,)]

    told(story)


def test_a_server_that_is_away_is_told_as_such_and_is_used_again_when_it_is_back(
    own_postgresql: PostgresServer,
) -> None:
    async def story() -> None:
        async with opened(own_postgresql.address.url()) as target:
            await target.transact(make)
            own_postgresql.kill()
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await target.transact(lambda sql: sql.execute("INSERT INTO kept VALUES ('a', 1)"))
                with pytest.raises(Unavailable):
                    await target.select("SELECT * FROM kept")
            own_postgresql.start()
            await target.transact(lambda sql: sql.execute("INSERT INTO kept VALUES ('b', 1)"))
            assert await target.select("SELECT name FROM kept") == [("b",)]

    told(story)


def test_a_file_that_cannot_be_opened_is_told_as_such(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "text.db").write_text("this is no database, " * 100)
        for name in ("text.db", "nowhere/rows.db"):
            async with opened(f"sqlite:///{tmp_path / name}") as target:
                with pytest.raises(Unavailable, match=name):
                    await target.transact(make)

    told(story)


def test_a_closed_target_is_told_as_such(url: str) -> None:
    async def story() -> None:
        async with opened(url) as target:
            await target.transact(make)
        with pytest.raises(Unavailable, match="not open"):
            await target.select("SELECT 1")

    told(story)


def test_memory_is_no_target() -> None:
    with pytest.raises(WiringError, match="live"):
        open_target("memory:")
