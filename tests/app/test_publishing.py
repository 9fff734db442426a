"""Publishing: durable and atomic, once for an idempotency key, with headers and trace; and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ensue import App, Command, Context, Criteria, Position, Recorded
from ensue.errors import (
    DefinitionError,
    EnsueError,
    IdempotencyKeyReused,
    InsideHandler,
    InvalidEvent,
    Unavailable,
    WrongLog,
)
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed, until


def connected(url: str, work: Callable[[App], Awaitable[None]]) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            await work(app)

    asyncio.run(run())


async def everything(app: App) -> list[Recorded[Any]]:
    return [row async for row in app.log.read()]


def test_several_events_are_stored_together_in_the_order_given(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(1))
        receipt = await app.publish(placed(2), PaymentProcessed(order_id="o2"), placed(3))
        assert (receipt.position.first, receipt.position.last) == (2, 4)
        assert [row.event for row in await everything(app)][1:] == [
            placed(2),
            PaymentProcessed(order_id="o2"),
            placed(3),
        ]

    connected(url, work)


def test_one_bad_event_keeps_all_of_its_write_out(url: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(InvalidEvent):
            await app.publish(placed(1), OrderPlaced(order_id=""))
        assert await everything(app) == []

    connected(url, work)


def test_publishing_nothing_stores_nothing_and_its_receipt_waits_for_nothing(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed())
        receipt = await app.publish()
        await receipt.wait()
        with pytest.raises(EnsueError, match="no OrderPlaced came of it"):
            await receipt.first(OrderPlaced)
        assert len(await everything(app)) == 1

    connected(url, work)


def test_the_events_of_one_write_share_a_correlation_and_those_of_another_have_their_own(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(1), placed(2))
        await app.publish(placed(3))
        one, two, three = await everything(app)
        assert one.correlation_id == two.correlation_id == one.id
        assert three.correlation_id == three.id

    connected(url, work)


def test_an_event_written_again_beside_new_ones_lends_them_nothing(tmp_path: Any) -> None:
    async def run() -> None:
        source, target = App("source", url="memory:"), App("target", url="memory:")
        async with source.connected(), target.connected():
            await source.publish(placed(1))
            (recorded,) = await everything(source)
            await target.log.append(recorded, placed(2), placed(3))
            again, two, three = await everything(target)
            assert (again.id, again.correlation_id, again.data) == (recorded.id, recorded.id, recorded.data)
            assert two.correlation_id == three.correlation_id == two.id

    asyncio.run(run())


def test_a_key_used_again_stores_nothing_and_gives_the_first_receipt(url: str) -> None:
    async def work(app: App) -> None:
        first = await app.publish(placed(), idempotency_key="k")
        await app.publish(placed(2))
        again = await app.publish(placed(), idempotency_key="k")
        assert (first.replayed, again.replayed) == (False, True)
        assert first.position == again.position
        assert len(await everything(app)) == 2

    connected(url, work)


def test_a_key_is_remembered_after_a_restart(file_url: str) -> None:
    positions: list[Position] = []

    async def work(app: App) -> None:
        positions.append((await app.publish(placed(), idempotency_key="k")).position)

    connected(file_url, work)
    connected(file_url, work)
    assert positions[0] == positions[1]


def test_calls_with_one_key_at_the_same_time_store_once(url: str) -> None:
    async def work(app: App) -> None:
        receipts = await asyncio.gather(*(app.publish(placed(), idempotency_key="k") for _ in range(20)))
        assert len({receipt.position for receipt in receipts}) == 1
        assert sum(not receipt.replayed for receipt in receipts) == 1
        assert len(await everything(app)) == 1

    connected(url, work)


def test_a_key_used_again_for_other_events_is_an_error(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(), idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused):
            await app.publish(placed(2), idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused):
            await app.publish(placed(), placed(), idempotency_key="k")
        assert len(await everything(app)) == 1

    connected(url, work)


def test_headers_stand_beside_the_event_and_reach_its_handlers(url: str) -> None:
    app, seen = App("shop", url=url), list[Any]()

    @app.on
    async def charge(order: OrderPlaced, ctx: Context) -> PaymentProcessed:
        seen.append(dict(ctx.headers))
        return PaymentProcessed(order_id=order.order_id)

    async def run() -> None:
        async with app:
            receipt = await app.publish(placed(), headers={"tenant": "eu", "user": "ann"})
            await receipt.wait(charge)
            order, payment = await everything(app)
            assert order.headers == {"tenant": "eu", "user": "ann"}
            assert payment.headers == {}

    asyncio.run(run())
    assert seen == [{"tenant": "eu", "user": "ann"}]


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_on_in_what_the_event_causes(url: str) -> None:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    async def run() -> None:
        async with app:
            await (await app.publish(placed(), traceparent=TRACE)).wait()
            assert [row.meta.traceparent for row in await everything(app)] == [TRACE] * 3

    asyncio.run(run())


def test_what_is_caused_knows_its_cause_its_root_and_its_correlation(url: str) -> None:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    async def run() -> None:
        async with app:
            await (await app.publish(placed())).wait()
            order, payment, shipment = await everything(app)
            assert [row.cause for row in (order, payment, shipment)] == [None, 1, 2]
            assert [row.root for row in (order, payment, shipment)] == [None, 1, 1]
            assert payment.causation_id == order.id
            assert shipment.causation_id == payment.id
            assert {row.correlation_id for row in (order, payment, shipment)} == {order.id}
            assert order.time <= datetime.now(UTC)

    asyncio.run(run())


class Place(Command[None]):
    order_id: str


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ({"order_id": "o1"}, "is not an event, but a dict"),
        ("OrderPlaced", "is not an event, but a str"),
        (None, "is not an event, but a NoneType"),
        (OrderPlaced, r"OrderPlaced is a class; publish an instance of it: OrderPlaced\(…\)"),
        ([placed()], r"not as a list: publish\(\*events\)"),
        (Place(order_id="o1"), r"commands are for send\(\)"),
    ],
)
def test_what_is_no_event_is_refused_with_what_to_write(thing: Any, says: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(InvalidEvent, match=says):
            await app.publish(thing)
        with pytest.raises(InvalidEvent, match=says):
            await app.log.append(thing)

    connected("memory:", work)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (OrderPlaced(order_id=7), "OrderPlaced: order_id=7"),  # type: ignore[arg-type]
        (OrderPlaced(order_id=""), "order_id, which is a key or tag, is empty"),
        (OrderPlaced(order_id="x" * 600), "600 characters, the limit is 512"),
        (PaymentProcessed(order_id="o1", amount=float("nan")), "amount=nan"),  # type: ignore[arg-type]
    ],
)
def test_an_event_that_could_not_be_read_back_is_refused_and_nothing_is_stored(event: Any, says: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(InvalidEvent, match=says):
            await app.publish(event)
        assert await everything(app) == []

    connected("memory:", work)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"a": 1}, "headers are texts by name"),
        ({1: "a"}, "headers are texts by name"),
        ({str(n): "" for n in range(65)}, "65 headers .* limits are 64"),
        ({"a": "x" * 4096}, "4097 characters"),
    ],
)
def test_headers_that_are_none_or_too_many_are_refused(headers: Any, says: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(InvalidEvent, match=says):
            await app.publish(placed(), headers=headers)

    connected("memory:", work)


@pytest.mark.parametrize(
    "traceparent",
    ["", "x", TRACE[:-1], TRACE.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACE.replace("-", "_")],
)
def test_a_trace_parent_that_is_none_is_refused(traceparent: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(InvalidEvent, match="is not a W3C traceparent"):
            await app.publish(placed(), traceparent=traceparent)

    connected("memory:", work)


@pytest.mark.parametrize(
    "act",
    [
        lambda app: app.publish(placed()),
        lambda app: app.transact(lambda tx: None),
        lambda app: app.log.append(placed()),
        lambda app: app.log.head(),
        lambda app: app.wait(Position("a.1-1")),
    ],
)
def test_what_needs_an_open_app_says_how_to_open_it(act: Callable[[App], Awaitable[object]]) -> None:
    async def run() -> None:
        with pytest.raises(Unavailable, match=r"not open: use `async with app:` .* `async with app\.connected\(\):`"):
            await act(App("shop"))

    asyncio.run(run())


def test_a_closed_app_refuses_and_says_so(url: str) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with app.connected():
            receipt = await app.publish(placed())
        with pytest.raises(Unavailable, match="not open"):
            await app.publish(placed())
        with pytest.raises(Unavailable):
            await receipt.wait()

    asyncio.run(run())


def test_writes_and_waits_in_a_handler_are_refused_and_name_it(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.on
    async def charge(order: OrderPlaced) -> None:
        acts = [
            app.publish(placed()),
            app.log.append(placed()),
            app.transact(lambda tx: None),
            app.wait(Position("a.1-1")),
        ]
        for act in acts:
            with pytest.raises(InsideHandler) as caught:
                await act
            told.append(str(caught.value).partition(" while")[0])

    async def run() -> None:
        async with app:
            await (await app.publish(placed())).wait(charge)
            assert len(await everything(app)) == 1

    asyncio.run(run())
    assert told == [
        "charge tried to append events",
        "charge tried to append events",
        "charge tried to open a transaction",
        "charge tried to wait for others",
    ]


def test_a_handler_may_read_the_log(url: str) -> None:
    app, seen = App("shop", url=url), list[int]()

    @app.on
    async def charge(order: OrderPlaced) -> None:
        seen.append(len(await everything(app)))

    async def run() -> None:
        async with app:
            await (await app.publish(placed(1), placed(2))).wait(charge)

    asyncio.run(run())
    assert seen == [2, 2]


def test_a_position_of_another_log_is_refused() -> None:
    async def run() -> None:
        one, two = App("one", url="memory:"), App("two", url="memory:")
        async with one.connected(), two.connected():
            receipt = await one.publish(placed())
            with pytest.raises(WrongLog, match="another database"):
                await two.wait(receipt.position)
            with pytest.raises(WrongLog):
                async for _ in two.log.read(after=receipt.position):
                    pass
            with pytest.raises(WrongLog):
                await two.log.append(placed(), unless=Criteria(OrderPlaced), since=receipt.position)

    asyncio.run(run())


def test_a_command_that_nobody_decides_is_refused_with_what_to_write() -> None:
    async def work(app: App) -> None:
        with pytest.raises(DefinitionError, match=r"nothing decides Place: register a handler with @app\.command"):
            await app.send(Place(order_id="o1"))

    connected("memory:", work)


def test_an_observer_that_raises_disturbs_nobody(url: str, caplog: pytest.LogCaptureFixture) -> None:
    def observe(signal: object) -> None:
        raise LookupError("of the observer")

    app, seen = App("shop", url=url, observe=observe), list[str]()

    @app.on
    async def charge(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    async def run() -> None:
        async with app:
            await app.publish(placed())
            await until(lambda: seen == ["o1"])

    asyncio.run(run())
    assert "an observer raised on SegmentsClaimed" in caplog.text


def test_signals_reach_the_observer(url: str) -> None:
    names: list[str] = []
    app = App("shop", url=url, observe=lambda signal: names.append(type(signal).__name__))

    @app.on
    async def charge(order: OrderPlaced) -> None: ...

    async def run() -> None:
        async with app:
            pass

    asyncio.run(run())
    assert names[0] == "SegmentsClaimed"
    assert set(names) == {"SegmentsClaimed", "SegmentsReleased"}
