"""The three ways to use what is written: go on, wait until it is done, or wait for a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ensue import App, Event, Position, Retry, Service
from ensue.errors import HandlerFailed, InvalidEvent, NotCaughtUp
from ensue.events.recorded import microseconds
from ensue.store.base import Node
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed, until

SOON = timedelta(milliseconds=50)


def shop(url: str) -> App:
    """An order is paid, a payment is shipped."""
    app, billing = App("shop", url=url), Service("billing")

    @billing.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    app.include(billing)
    return app


def running(app: App, work: Callable[[App], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), app:
            await work(app)

    asyncio.run(run())


async def types(app: App) -> list[str]:
    return [row.type_name async for row in app.log.read()]


def test_publish_returns_before_anything_is_handled(url: str) -> None:
    app, go = App("shop", url=url), asyncio.Event()

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        await go.wait()
        return PaymentProcessed(order_id=order.order_id)

    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        assert await types(app) == ["OrderPlaced"]
        go.set()
        await receipt.wait()

    running(app, work)


def test_wait_for_all_returns_when_all_that_was_caused_is_done(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        assert await receipt.wait() is receipt
        assert await types(app) == ["OrderPlaced", "PaymentProcessed", "OrderShipped"]

    running(shop(url), work)


def test_wait_by_name_returns_when_that_consumer_is_done_and_not_later(url: str) -> None:
    app, go = App("shop", url=url), asyncio.Event()

    @app.on
    async def fast(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    async def slow(order: OrderPlaced) -> None:
        await go.wait()

    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        await receipt.wait("fast")
        await receipt.wait(fast)
        assert "PaymentProcessed" in await types(app)
        with pytest.raises(NotCaughtUp, match=r"the event at position 1 is not done by slow"):
            await receipt.wait(fast, slow, timeout=SOON)
        go.set()
        await receipt.wait(fast, slow)

    running(app, work)


def test_a_consumer_that_does_not_handle_the_event_is_done_with_it(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(OrderShipped(order_id="o1"))
        await receipt.wait("ship", "billing.charge")

    running(shop(url), work)


def test_a_name_that_no_consumer_has_is_told_with_those_that_there_are(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        with pytest.raises(ValueError, match=r"no consumer is called 'shipping'; .*: ship, billing\.charge"):
            await receipt.wait("shipping")
        with pytest.raises(ValueError, match="handles nothing here"):
            await receipt.wait(types)

    running(shop(url), work)


def test_first_is_the_reply_however_many_handlers_later(url: str) -> None:
    async def work(app: App) -> None:
        shipped = await (await app.publish(placed())).first(OrderShipped)
        assert shipped == OrderShipped(order_id="o1")

    running(shop(url), work)


class PaymentRefused(Event, key="order_id"):
    order_id: str


def test_first_of_several_types_is_whichever_comes(url: str) -> None:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed | PaymentRefused:
        if order.order_id == "o2":
            return PaymentRefused(order_id="o2")
        return PaymentProcessed(order_id=order.order_id)

    async def work(app: App) -> None:
        replies = [await (await app.publish(placed(n))).first(PaymentProcessed, PaymentRefused) for n in (1, 2)]
        assert replies == [PaymentProcessed(order_id="o1"), PaymentRefused(order_id="o2")]

    running(app, work)


def test_first_takes_only_what_this_write_caused(url: str) -> None:
    async def work(app: App) -> None:
        receipts = await asyncio.gather(*(app.publish(placed(number)) for number in range(20)))
        replies = await asyncio.gather(*(receipt.first(OrderShipped) for receipt in receipts))
        assert [reply.order_id for reply in replies] == [f"o{number}" for number in range(20)]

    running(shop(url), work)


def test_first_tells_when_all_is_done_and_no_such_event_came(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        with pytest.raises(NotCaughtUp, match="no PaymentRefused or OrderPlaced came of it"):
            await receipt.first(PaymentRefused, OrderPlaced)

    running(shop(url), work)


def test_first_needs_a_type(url: str) -> None:
    async def work(app: App) -> None:
        receipt: Any = await app.publish(placed())
        with pytest.raises(ValueError, match=r"receipt\.first\(OrderShipped\)"):
            await receipt.first()
        with pytest.raises(InvalidEvent, match="'OrderShipped' is not an event type"):
            await receipt.first("OrderShipped")

    running(shop(url), work)


def test_a_write_of_many_events_is_waited_for_as_a_whole(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(*(placed(number) for number in range(2_500)))
        await receipt.wait("billing.charge")
        await receipt.wait()
        assert (await types(app)).count("OrderShipped") == 2_500
        assert (await receipt.first(OrderShipped)).order_id.startswith("o")

    running(shop(url), work)


# ----------------------------------------------------------------------------------------------------------- failing


def failing(url: str, retry: Retry = Retry.never) -> App:
    """An order of c2 is not paid."""
    app = App("shop", url=url, retry=retry)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        if order.customer_id == "c2":
            raise ConnectionError("no gateway")
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    async def count(order: OrderPlaced) -> None: ...

    return app


def test_a_wait_fails_at_once_when_a_handler_has_given_up_and_names_the_dead_letter(url: str) -> None:
    async def work(app: App) -> None:
        receipt = await app.publish(placed(1, "c2"))
        for wait in (receipt.wait("charge"), receipt.wait(), receipt.first(PaymentProcessed)):
            with pytest.raises(HandlerFailed, match=r"no gateway.*See `ensue dead-letters show \d+`") as caught:
                await wait
            (letter,) = [letter async for letter in app.dead_letters.list()]
            assert (caught.value.consumer, caught.value.position) == ("charge", receipt.position.last)
            assert caught.value.dead_letter == letter.id
        await receipt.wait("count")

    running(failing(url), work)


def test_a_wait_fails_at_once_when_the_event_waits_behind_a_parked_one(url: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(HandlerFailed):
            await (await app.publish(placed(1, "c2"))).wait()
        behind = await app.publish(placed(1, "c1"))
        with pytest.raises(HandlerFailed, match="its key order_id=o1 is parked: ConnectionError: no gateway") as caught:
            await behind.wait()
        assert caught.value.position == behind.position.last
        assert caught.value.dead_letter is not None
        await (await app.publish(placed(2, "c1"))).wait()

    running(failing(url), work)


def test_a_handler_that_is_async_inside_a_plain_function_is_told_what_is_wrong(url: str) -> None:
    app = App("shop", url=url, retry=Retry.never)

    async def inner(order: OrderPlaced) -> None: ...

    @app.on
    def charge(order: OrderPlaced) -> None:
        return inner(order)  # type: ignore[return-value]

    async def work(app: App) -> None:
        with pytest.raises(HandlerFailed, match="must be `async def` as well"):
            await (await app.publish(placed())).wait()

    running(app, work)


@pytest.mark.parametrize("result", [5, "o1", {"order_id": "o1"}, OrderPlaced, [placed(2), 5]])
def test_a_handler_that_returns_something_else_fails_and_nothing_of_it_is_stored(result: Any, url: str) -> None:
    app = App("shop", url=url, retry=Retry.never)

    @app.on
    async def charge(order: OrderPlaced) -> None:
        return result  # type: ignore[no-any-return]

    async def work(app: App) -> None:
        with pytest.raises(HandlerFailed, match="TypeError: the handler returned a"):
            await (await app.publish(placed())).wait()
        assert await types(app) == ["OrderPlaced"]

    running(app, work)


def test_a_wait_outlasts_retries(url: str) -> None:
    app, attempts = App("shop", url=url, retry=Retry(first=timedelta(milliseconds=1))), list[int]()

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        attempts.append(1)
        if len(attempts) < 4:
            raise ConnectionError("no gateway")
        return PaymentProcessed(order_id=order.order_id)

    async def work(app: App) -> None:
        assert await (await app.publish(placed())).first(PaymentProcessed)

    running(app, work)
    assert len(attempts) == 4


@pytest.mark.parametrize("status", ["paused", "tripped"])
def test_a_wait_fails_at_once_on_a_consumer_that_is_stopped(status: str, url: str) -> None:
    app, go = App("shop", url=url), asyncio.Event()

    @app.on
    async def charge(order: OrderPlaced) -> None:
        await go.wait()

    async def work(app: App) -> None:
        store = app.open_store()
        (consumer,) = await store.consumers()
        receipt = await app.publish(placed())
        await store.set_status(consumer.id, status, "for the stocktaking")
        for wait in (receipt.wait(charge), receipt.wait()):
            with pytest.raises(HandlerFailed, match=f"the consumer is {status}: for the stocktaking") as caught:
                await wait
            assert caught.value.dead_letter is None
        go.set()

    running(app, work)


@pytest.mark.slow
def test_a_wait_fails_when_nobody_runs_the_consumer(file_url: str) -> None:
    app = shop(file_url)

    async def run() -> None:
        async with app.connected():
            receipt = await app.publish(placed())
            with pytest.raises(HandlerFailed, match="no running process owns the consumer") as caught:
                await receipt.wait("billing.charge")
            assert caught.value.consumer == "billing.charge"

    asyncio.run(run())


@pytest.mark.slow
def test_a_wait_fails_when_the_process_that_ran_the_consumer_is_dead(file_url: str) -> None:
    app = shop(file_url)

    async def run() -> None:
        async with app.connected():
            store, now = app.open_store(), microseconds(datetime.now(UTC))
            dead = Node(id=b"a dead process..", host="here", pid=1, started_at=now - 60_000_000, expires_at=now - 1)
            await store.beat(dead)
            for consumer in await store.consumers():
                await store.claim(consumer.id, dead, now=now, most=consumer.segments)
            receipt = await app.publish(placed())
            with pytest.raises(HandlerFailed, match="no running process owns the consumer"):
                await receipt.wait()

    asyncio.run(run())


def test_a_wait_ends_at_its_deadline_and_what_was_written_stays(url: str) -> None:
    app, go = App("shop", url=url), asyncio.Event()

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        await go.wait()
        return PaymentProcessed(order_id=order.order_id)

    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        with pytest.raises(NotCaughtUp, match=r"waited 0\.05 s; the event at position 1 is not done by charge"):
            await receipt.wait(timeout=SOON)
        with pytest.raises(NotCaughtUp):
            await receipt.first(PaymentProcessed, timeout=SOON)
        with pytest.raises(NotCaughtUp):
            await receipt.wait(timeout=timedelta())
        go.set()
        await receipt.wait()

    running(app, work)


# ------------------------------------------------------------------------------------------------------ by a position


def test_a_position_is_a_text_that_one_can_wait_for_elsewhere(file_url: str) -> None:
    async def run() -> None:
        worker, web = shop(file_url), App("web", url=file_url)
        async with asyncio.timeout(30), worker, web.connected():
            text = str((await web.publish(placed())).position)
            async with App("other", url=file_url).connected() as other:
                await other.wait(Position(text), "billing.charge", "ship")
                assert "PaymentProcessed" in await types(other)
                await other.wait(Position(text))
                assert await types(other) == ["OrderPlaced", "PaymentProcessed", "OrderShipped"]

    asyncio.run(run())


def test_a_position_that_is_not_written_yet_is_waited_for(file_url: str) -> None:
    async def run() -> None:
        worker, reader = shop(file_url), App("reader", url=file_url)
        async with asyncio.timeout(30), worker, reader.connected():
            head = await reader.log.head()
            waiting = asyncio.create_task(reader.wait(Position.of(head.log_id, 1, 1), "billing.charge"))
            with pytest.raises(NotCaughtUp, match="the log has come to 0"):
                await reader.wait(Position.of(head.log_id, 1, 1), timeout=SOON)
            await worker.publish(placed())
            await waiting

    asyncio.run(run())


def test_the_head_is_a_position_and_waiting_for_it_waits_for_the_last_event(url: str) -> None:
    async def work(app: App) -> None:
        await app.wait(await app.log.head())
        await app.publish(placed(1))
        await app.wait(await app.log.head())
        assert len(await types(app)) == 3

    running(shop(url), work)


@pytest.mark.parametrize("text", ["", "17", "abc", "abc.1", "abc.1-", "abc.-1", "abc.x-y", ".1-2"])
def test_a_text_that_no_position_gave_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a position"):
        Position(text)


def test_a_wait_may_be_cancelled(url: str) -> None:
    app, go = App("shop", url=url), asyncio.Event()

    @app.on
    async def charge(order: OrderPlaced) -> None:
        await go.wait()

    async def work(app: App) -> None:
        receipt = await app.publish(placed())
        task = asyncio.create_task(receipt.wait())
        await until(lambda: bool(task.get_stack()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await receipt.wait()

    running(app, work)


def test_hundreds_of_requests_at_once_each_get_their_own_reply(url: str) -> None:
    async def ask(app: App, number: int) -> OrderShipped:
        return await (await app.publish(placed(number))).first(OrderShipped)

    async def work(app: App) -> None:
        replies = await asyncio.gather(*(ask(app, number) for number in range(300)))
        assert [reply.order_id for reply in replies] == [f"o{number}" for number in range(300)]

    running(shop(url), work)
