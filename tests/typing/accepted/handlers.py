"""Every kind of handler, every way to register it, every way to declare a pattern and a window."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

from shop import Gateway, OrderPlaced, OrderShipped, PaymentProcessed, StockMissing, shop

from ensue import ONE_ORDER, Context, Event, Recorded, Retry, Service, Transaction, hours, minutes, seconds
from ensue.patterns import (
    Late,
    Pattern,
    TimedOut,
    Window,
    absent,
    count,
    either,
    largest,
    one,
    optional,
    several,
    smallest,
)

books = Service("books", retry={ConnectionError: Retry(attempts=8), Exception: Retry.never})


@books.on
def nothing(event: OrderPlaced) -> None: ...


@books.on
async def several_types(event: OrderPlaced | OrderShipped) -> list[OrderShipped]:
    return [OrderShipped(order_id=event.order_id)]


@books.on(pure=True, key="order_id", name="many")
def many(event: OrderPlaced) -> Iterator[Event]:
    yield OrderShipped(order_id=event.order_id)


@books.on(key=ONE_ORDER, start=datetime(2026, 1, 1, tzinfo=UTC))
def everything(event: Event, tx: Transaction) -> None:
    tx.execute("INSERT INTO seen VALUES (?)", type(event).__name__)


@books.on(retry=Retry.forever, timeout=seconds(5), concurrency=4, start="now")
async def asks_for_much(
    event: Recorded[OrderPlaced], ctx: Context, gateway: Gateway
) -> tuple[PaymentProcessed, OrderShipped] | StockMissing | None:
    placed = event.event
    if ctx.attempt > 1:
        return None
    return PaymentProcessed(order_id=placed.order_id, amount=placed.total), OrderShipped(order_id=placed.order_id)


class Unpaid(Pattern, within=minutes(15), skip="past_last"):
    order = one(OrderPlaced)
    payment = absent(PaymentProcessed)


class Fulfilled(Pattern, within=hours(4), disorder=seconds(30)):
    placed = one(OrderPlaced)
    paid = optional(PaymentProcessed)
    more = several(OrderPlaced, lambda order: order.total > 9, times=(2, None), within=hours(1))
    end = either(one(OrderShipped), one(StockMissing))


class Busy(Window, gap=minutes(5)):
    orders = count(OrderPlaced)
    least = smallest(OrderPlaced, lambda order: order.total)
    most = largest(OrderPlaced, lambda order: order.quantity)


@shop.on
def unpaid(match: Unpaid) -> StockMissing:
    silence: None = match.payment
    return StockMissing(order_id=f"{match.order.order_id} {silence} {match.ended}")


@shop.on
def fulfilled(match: Fulfilled) -> None:
    end: OrderShipped | StockMissing = match.end
    paid: PaymentProcessed | None = match.paid
    totals: list[Decimal] = [order.total for order in match.more]
    print(end, paid, totals)


@shop.on
async def stuck(out: TimedOut[Fulfilled], gateway: Gateway) -> StockMissing:
    return StockMissing(order_id=out.match.placed.order_id)


@shop.on
def busy(window: Busy) -> None:
    orders: int = window.orders
    least: Decimal = window.least
    most: int = window.most
    print(orders, least, most)


@shop.on
def late(payment: Late[PaymentProcessed]) -> None:
    print(payment.event.amount, payment.by)
