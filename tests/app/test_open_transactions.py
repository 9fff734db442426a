"""`transaction`: rows of the caller's own and events in one commit, on PostgreSQL, whichever way its writers come to one order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from ensue import App
from ensue.app import OpenTransaction
from ensue.errors import IdempotencyKeyReused, InsideHandler, MissingCapability, Misuse
from tests.app.orders import OrderPlaced, PaymentProcessed

LIMIT_SECONDS = 30.0


@pytest.fixture(params=["few", "many"])
def server_url(request: pytest.FixtureRequest, postgresql_url: str) -> str:
    return f"{postgresql_url}&ensue_writers={request.param}"


def connected(url: str, story: Callable[[App], Awaitable[None]]) -> None:
    """Run the story on an application with a table of its own."""

    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            async with app.transaction() as tx:
                await tx.execute("CREATE TABLE book (entry text PRIMARY KEY)")
            await asyncio.wait_for(story(app), LIMIT_SECONDS)

    asyncio.run(run())


def order(entry: str) -> OrderPlaced:
    return OrderPlaced(order_id=entry, customer_id="c1")


async def write(tx: OpenTransaction, entry: str) -> None:
    await tx.execute("INSERT INTO book VALUES (?)", entry)
    tx.emit(order(entry))


async def attempt(
    app: App, work: Callable[[OpenTransaction], Awaitable[object]], key: str | None = None
) -> OpenTransaction:
    async with app.transaction(idempotency_key=key) as tx:
        await work(tx)
    return tx


async def events(app: App, count: int = 0) -> list[str]:
    """All of them, once there are so many. Where many write, what is committed is read when every transaction that was under
    way has ended, those of other tests on this server among them; an acknowledgement does not wait that long."""
    await app.open_store().changed(count - 1)
    return [recorded.event.order_id async for recorded in app.log.read(OrderPlaced)]


def entries(app: App) -> list[Any]:
    return [entry for (entry,) in app.sql("SELECT entry FROM book ORDER BY entry")]


def test_rows_and_events_are_committed_together_at_the_end_of_the_block(server_url: str) -> None:
    async def story(app: App) -> None:
        async with app.transaction() as tx:
            await write(tx, "one")
            assert (entries(app), await events(app)) == ([], [])
            assert await tx.execute("SELECT entry FROM book") == [("one",)]
        assert (entries(app), await events(app, 1)) == (["one"], ["one"])
        assert tx.receipt.position.first == (await app.log.head()).first

    connected(server_url, story)


def test_what_is_raised_in_the_block_undoes_rows_and_events(server_url: str) -> None:
    async def story(app: App) -> None:
        opened: list[OpenTransaction] = []

        async def fails(tx: OpenTransaction) -> None:
            opened.append(tx)
            await write(tx, "one")
            raise LookupError

        with pytest.raises(LookupError):
            await attempt(app, fails)
        assert (entries(app), await events(app)) == ([], [])
        with pytest.raises(ValueError, match="not committed"):
            assert opened[0].receipt

    connected(server_url, story)


def test_others_append_while_a_transaction_is_open(server_url: str) -> None:
    """It holds no lock of the log before its end, so its events come behind those that were stored meanwhile."""

    async def story(app: App) -> None:
        async with app.transaction() as tx:
            await write(tx, "later")
            await app.publish(order("first"))
        assert await events(app, 2) == ["first", "later"]
        assert tx.receipt.position.first == 2

    connected(server_url, story)


def test_a_row_that_cannot_be_stored_is_told_as_the_database_tells_it_and_no_event_is_stored(server_url: str) -> None:
    async def story(app: App) -> None:
        async with app.transaction() as tx:
            await write(tx, "one")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await attempt(app, lambda tx: write(tx, "one"))
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE page (entry text REFERENCES book DEFERRABLE INITIALLY DEFERRED)")

        async def leads_nowhere(tx: OpenTransaction) -> None:
            tx.emit(order("three"))
            await tx.execute("INSERT INTO page VALUES ('nowhere')")

        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await attempt(app, leads_nowhere)
        assert await events(app, 1) == ["one"]

    connected(server_url, story)


def test_a_second_transaction_with_the_same_key_is_undone_and_has_the_first_receipt(server_url: str) -> None:
    async def story(app: App) -> None:
        async with app.transaction(idempotency_key="monday") as first:
            await write(first, "one")
        async with app.transaction(idempotency_key="monday") as again:
            await again.execute("INSERT INTO book VALUES ('more')")
            again.emit(order("one"))
        assert again.receipt.position == first.receipt.position
        assert again.receipt.replayed
        with pytest.raises(IdempotencyKeyReused):
            await attempt(app, lambda tx: write(tx, "another"), "monday")
        assert (entries(app), await events(app, 1)) == (["one"], ["one"])

    connected(server_url, story)


def test_of_many_at_the_same_time_each_is_committed_once(server_url: str) -> None:
    async def story(app: App) -> None:
        async def one(number: int) -> int:
            async with app.transaction() as tx:
                await write(tx, f"{number:02}")
            return tx.receipt.position.first

        positions = await asyncio.gather(*map(one, range(20)))
        assert sorted(positions) == list(range(1, 21))
        assert sorted(await events(app, 20)) == entries(app) == [f"{number:02}" for number in range(20)]

    connected(server_url, story)


def test_a_statement_that_would_end_the_transaction_is_refused(server_url: str) -> None:
    async def story(app: App) -> None:
        with pytest.raises(Misuse, match="commits and rolls back by itself"):
            await attempt(app, lambda tx: tx.execute("COMMIT"))
        async with app.transaction() as tx:
            await write(tx, "one")
        assert entries(app) == ["one"]

    connected(server_url, story)


def test_a_handler_may_not_open_one(postgresql_url: str) -> None:
    async def run() -> None:
        app = App("shop", url=postgresql_url)
        raised: list[Exception] = []

        @app.on
        async def charge(order: OrderPlaced) -> PaymentProcessed:
            try:
                await attempt(app, lambda tx: tx.execute("SELECT 1"))
            except InsideHandler as error:
                raised.append(error)
            return PaymentProcessed(order_id=order.order_id)

        async with app:
            receipt = await app.publish(order("one"))
            await receipt.wait()
        assert len(raised) == 1

    asyncio.run(run())


def test_a_store_that_has_none_says_what_to_use(url: str) -> None:
    async def run() -> None:
        async with App("shop", url=url).connected() as app:
            with pytest.raises(MissingCapability, match="postgresql: URL"):
                await attempt(app, lambda tx: tx.execute("SELECT 1"))

    asyncio.run(run())
