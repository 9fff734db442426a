"""The races of a caller's own transaction, which holds rows of its own for as long as it likes and takes the locks of the log at
its end. Step by step, as in `test_postgresql_races.py`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import pytest

from ensue.errors import ApplyFailed, Conflict, Unavailable
from ensue.events.stored import Draft, tag_hash
from ensue.store.base import Condition, Expected, Request, SqlTransaction, Term, Written
from ensue.testing.contracts.bench import key_of
from tests.store.logs import draft
from tests.store.postgresql_logs import Other, append, at_once, opened, rows_of, sql, told

UNLESS_TAGGED = (Condition((Term(tags=(tag_hash("x=1"),)),), 1),)


@pytest.fixture(params=["few", "many"])
def url(postgresql_url: str, request: pytest.FixtureRequest) -> str:
    """A log with one event and a table of the caller's beside it, for each way in which writers come to one order."""
    url = f"{postgresql_url}&application_name=test_{uuid.uuid4().hex[:12]}&ensue_writers={request.param}"

    async def make() -> None:
        async with opened(url) as store:
            await append(store, b"{}")

    told(make)
    sql(
        url,
        "CREATE TABLE account (name text PRIMARY KEY, balance integer NOT NULL)",
        "INSERT INTO account VALUES ('ann', 0)",
    )
    return url


def balance(url: str) -> int:
    ((found,),) = sql(url, "SELECT balance FROM account WHERE name = 'ann'")
    return int(found)


def kinds(answered: Sequence[object]) -> list[str]:
    return sorted(type(one).__name__ for one in answered)


RACES = {
    "a condition": lambda: Request(events=[draft(key="a", tags=["x=1"])], conditions=UNLESS_TAGGED),
    "a version": lambda: Request(events=[draft(key="b")], expected=(Expected(key_of("b"), 0),)),
}


@pytest.mark.parametrize("race", RACES)
def test_of_two_open_transactions_and_a_writer_that_decided_alike_one_commits(url: str, race: str) -> None:
    """All were begun, and had looked, before the first of them committed."""

    async def story() -> None:
        async with opened(url) as store, opened(url) as other:
            first, second = await store.begin(), await other.begin()
            for one in (first, second):
                assert await one.execute("SELECT balance FROM account") == [(0,)]
            await second.execute("INSERT INTO account VALUES ('bob', 1)")
            answered = await at_once(
                asyncio.gather(
                    first.commit(RACES[race]()), second.commit(RACES[race]()), store.write(RACES[race]()),
                    return_exceptions=True,
                )
            )  # fmt: skip
            assert kinds(answered) == ["Conflict", "Conflict", "Written"]
            stored = isinstance(answered[1], Written)
            assert len(sql(url, "SELECT name FROM account WHERE name = 'bob'")) == int(stored)
            assert len(await rows_of(store)) == 2

    told(story)


def test_a_transaction_that_looked_long_ago_is_judged_by_what_has_happened_since(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as other:
            open_one = await store.begin()
            await open_one.execute("UPDATE account SET balance = 1")
            await append(other, b"{}", key="c", tags=["x=1"])
            with pytest.raises(Conflict):
                await open_one.commit(Request(events=[draft()], conditions=UNLESS_TAGGED))
            assert await at_once(store.changed(1)) == 2

    told(story)
    assert balance(url) == 0


def test_an_open_transaction_and_a_writer_with_one_idempotency_key_store_it_once(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as other:
            open_one = await other.begin()
            await open_one.execute("UPDATE account SET balance = balance + 1")
            request = Request(events=[draft(key="d")], idempotency_key=b"k" * 16)
            again = Request(events=[draft(key="d")], idempotency_key=b"k" * 16)
            one, two = await at_once(asyncio.gather(store.write(request), open_one.commit(again)))
            assert sorted((one.replayed, two.replayed)) == [False, True]
            assert (one.first, one.last) == (two.first, two.last)
            assert len(await rows_of(store)) == 2
            assert balance(url) == int(not two.replayed)

    told(story)


def test_an_open_transaction_keeps_nobody_waiting_until_it_commits(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as other:
            open_one = await store.begin()
            await open_one.execute("SELECT balance FROM account FOR UPDATE")
            assert (await at_once(append(other, b"{}"))).first == 2
            written = await at_once(open_one.commit(Request(events=[draft()])))
            assert written.first == 3
            assert len(await rows_of(other)) == 3

    told(story)


def test_rows_that_both_want_make_nobody_wait_for_ever(url: str) -> None:
    """The open transaction has the row and waits for the log, a function inside a writer's has the log and waits for the row. The
    server ends one of them, and neither is half done."""

    def adds(transaction: SqlTransaction) -> Sequence[Draft]:
        transaction.execute("UPDATE account SET balance = balance + 10")
        return [draft(key="e")]

    async def story() -> None:
        async with opened(url) as store, opened(url) as other, Other(url) as look:
            await look.run("BEGIN", "SELECT FROM ensue_log FOR UPDATE")
            open_one = await other.begin()
            await open_one.execute("UPDATE account SET balance = balance + 1")
            await look.run("COMMIT")
            writes = asyncio.ensure_future(asyncio.to_thread(asyncio.run, _elsewhere(url, adds)))
            await look.waiting(1)
            committed = await asyncio.gather(open_one.commit(Request(events=[draft(key="f")])), return_exceptions=True)
            written = await writes
            assert isinstance(committed[0], Written | Unavailable)
            assert isinstance(written, Written | ApplyFailed)
            stored = [isinstance(committed[0], Written), isinstance(written, Written)]
            assert any(stored)
            assert balance(url) == stored[0] * 1 + stored[1] * 10
            await at_once(store.changed(sum(stored)))
            assert len(await rows_of(store)) == 1 + sum(stored)

    told(story)


async def _elsewhere(url: str, function: object) -> object:
    """In a loop of its own: a function inside the transaction blocks it."""
    async with opened(url) as store:
        (answer,) = await asyncio.gather(store.write(Request(apply=(function,))), return_exceptions=True)  # type: ignore[arg-type]
        return answer
