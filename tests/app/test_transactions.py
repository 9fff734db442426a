"""`transact`: rows and events stored together, and its result with an idempotency key; `sql`: rows read from any thread."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import apsw
import msgspec
import pytest

from ensue import App, Transaction
from ensue.consumers.deliveries import unpack
from ensue.errors import IdempotencyKeyReused, InvalidEvent, MissingCapability
from tests.app.orders import OrderPlaced, PaymentProcessed, placed


class Balance(msgspec.Struct):
    account: str
    amount: Decimal


def book(tx: Transaction) -> int:
    tx.execute("CREATE TABLE IF NOT EXISTS book (entry TEXT)")
    tx.execute("INSERT INTO book VALUES (?)", "one")
    tx.emit(placed())
    return tx.rows(int, "SELECT count(*) FROM book")[0]


def test_rows_and_events_are_stored_together(file_url: str) -> None:
    app = App("shop", url=file_url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    async def run() -> None:
        async with app:
            count, receipt = await app.transact(book)
            assert (count, receipt.result) == (1, None)
            assert await receipt.first(PaymentProcessed) == PaymentProcessed(order_id="o1")
            assert app.sql("SELECT entry FROM book") == [("one",)]

    asyncio.run(run())


def test_what_the_function_raises_undoes_it_all_and_is_raised_here(file_url: str) -> None:
    app = App("shop", url=file_url)

    def fail(tx: Transaction) -> None:
        book(tx)
        raise LookupError("of the function")

    async def run() -> None:
        async with app.connected():
            with pytest.raises(LookupError, match="of the function") as caught:
                await app.transact(fail)
            assert caught.value.__cause__ is None
            assert [row async for row in app.log.read()] == []
            assert app.sql("SELECT name FROM sqlite_schema WHERE name = 'book'") == []

    asyncio.run(run())


def test_events_need_no_sql(url: str) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            _, receipt = await app.transact(lambda tx: tx.emit(placed(1), placed(2)))
            assert receipt.position.last == 2
            assert len({row.correlation_id async for row in app.log.read()}) == 1

    asyncio.run(run())


def test_an_emitted_event_that_is_none_undoes_it_all(url: str) -> None:
    async def run() -> None:
        app: Any = App("shop", url=url)
        async with app.connected():
            with pytest.raises(InvalidEvent, match="is not an event, but a str"):
                await app.transact(lambda tx: tx.emit("o1"))
            assert [row async for row in app.log.read()] == []

    asyncio.run(run())


def balance(tx: Transaction) -> Balance:
    tx.emit(placed())
    return Balance("a", Decimal("1.50"))


def nothing(tx: Transaction) -> None:
    tx.emit(placed())


@pytest.mark.parametrize(
    ("function", "result"),
    [(balance, Balance("a", Decimal("1.50"))), (nothing, None), (lambda tx: [1, "two"], [1, "two"])],
)
def test_with_a_key_a_second_call_runs_nothing_and_gives_the_first_result(
    function: Any, result: object, url: str
) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            first, receipt = await app.transact(function, idempotency_key="k")
            again, replayed = await app.transact(function, idempotency_key="k")
            assert first == again == result
            assert (receipt.replayed, replayed.replayed) == (False, True)
            assert receipt.position == replayed.position

    asyncio.run(run())


def test_the_first_result_comes_again_after_a_restart(file_url: str) -> None:
    async def run() -> Balance:
        app = App("shop", url=file_url)
        async with app.connected():
            return (await app.transact(balance, idempotency_key="k"))[0]

    assert asyncio.run(run()) == asyncio.run(run()) == Balance("a", Decimal("1.50"))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda tx: object(), "cannot be kept"),
        (lambda tx: Decimal("1.50"), "would not come back as it is"),
        (lambda tx: Balance("a", Decimal(1)), "would not come back as it is"),
        (lambda tx: "x" * 70_000, "the limit is 65536"),
    ],
)
def test_a_result_that_could_not_come_again_is_refused_with_a_key_and_undoes_it_all(
    function: Any, says: str, url: str
) -> None:
    def emitting(tx: Transaction) -> object:
        tx.emit(placed())
        return function(tx)

    del emitting.__annotations__["return"]

    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            with pytest.raises(InvalidEvent, match=says):
                await app.transact(emitting, idempotency_key="k")
            assert [row async for row in app.log.read()] == []
            await app.transact(emitting)

    asyncio.run(run())


def test_a_key_of_other_work_is_refused(url: str) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            await app.publish(placed(), idempotency_key="published")
            await app.transact(balance, idempotency_key="balanced")
            with pytest.raises(IdempotencyKeyReused):
                await app.transact(balance, idempotency_key="published")
            with pytest.raises(IdempotencyKeyReused):
                await app.publish(placed(), idempotency_key="balanced")
            with pytest.raises(IdempotencyKeyReused, match="by a write with another result"):
                await app.transact(nothing, idempotency_key="balanced")

    asyncio.run(run())


def test_sql_reads_what_is_committed_and_cannot_write(file_url: str) -> None:
    async def run() -> None:
        app = App("shop", url=file_url)
        async with app.connected():
            await app.transact(book)
            assert app.sql("SELECT count(*) FROM book WHERE entry = ?", "one") == [(1,)]
            with pytest.raises(apsw.Error):
                app.sql("DELETE FROM book")
            with pytest.raises(apsw.SQLError, match="no such table"):
                app.sql("SELECT * FROM missing")

    asyncio.run(run())


def test_sql_may_be_asked_in_a_handler_on_a_thread_and_in_any_other(file_url: str) -> None:
    app, counts = App("shop", url=file_url), list[Any]()

    @app.on
    def count(order: OrderPlaced) -> None:
        counts.append(app.sql("SELECT count(*) FROM ensue_event")[0][0])

    async def run() -> None:
        async with app:
            receipt = await app.publish(*(placed(number) for number in range(50)))
            outside = [asyncio.to_thread(app.sql, "SELECT 7") for _ in range(50)]
            assert await asyncio.gather(*outside) == [[(7,)]] * 50
            await receipt.wait(count)

    asyncio.run(run())
    assert counts == [50] * 50


def test_a_store_without_sql_says_what_to_use() -> None:
    async def run() -> None:
        app = App("shop", url="memory:")
        async with app.connected():
            with pytest.raises(MissingCapability, match="use a sqlite: URL"):
                app.sql("SELECT 1")
            with pytest.raises(MissingCapability, match="use a sqlite: URL"):
                await app.transact(lambda tx: tx.execute("SELECT 1"))

    asyncio.run(run())


def test_a_handler_with_a_transaction_needs_sql_and_the_start_says_so() -> None:
    app = App("shop", url="memory:")

    @app.on
    def count(order: OrderPlaced, tx: Transaction) -> None: ...

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(
        MissingCapability, match=r"needs SQL, which this store \(MemoryStore\) has not, and is taken by count"
    ):
        asyncio.run(run())


def test_the_record_of_a_handler_inside_the_commit_ends_behind_it(file_url: str) -> None:
    app = App("shop", url=file_url)

    @app.on
    def count(order: OrderPlaced, tx: Transaction) -> None:
        tx.execute(
            "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 200000) SELECT sum(x) FROM n"
        )

    async def run() -> None:
        async with app:
            receipt = await app.publish(placed())
            await receipt.wait()
            store = app.open_store()
            (event,) = (await store.read()).rows
            (record,) = await store.deliveries([1])
            (delivered,) = unpack(record.packed)
            assert delivered.microseconds > 0
            assert record.at - event[5] >= delivered.microseconds

    asyncio.run(run())
