"""A small application with a log that has everything the commands show: effects, dead letters, what waits behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal

from ensue import App, Event, Retry
from ensue.world import RealWorld


class OrderPlaced(Event, key="order_id", tags=("customer",)):
    order_id: str
    customer: str
    total: Decimal


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: Decimal


class OrderShipped(Event, key="order_id"):
    order_id: str


class CustomerNotified(Event, key="order_id"):
    order_id: str
    text: str


def shop(url: str | None = None) -> App:
    """The application; without a URL on shop.db in the current folder."""
    app = App("shop", url=url, retry=Retry(attempts=2, first=timedelta()))

    @app.on
    async def take_payment(order: OrderPlaced) -> PaymentProcessed:
        if order.customer == "broke":
            raise ValueError(f"the card of {order.customer} was declined")
        return PaymentProcessed(order_id=order.order_id, amount=order.total)

    @app.on
    async def ship(payment: PaymentProcessed) -> list[Event]:
        shipped = OrderShipped(order_id=payment.order_id)
        return [shipped, CustomerNotified(order_id=payment.order_id, text="It is on its way")]

    return app


app = shop()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until it holds. Errors: `TimeoutError`."""
    world = RealWorld()
    async with asyncio.timeout(seconds):
        while not await condition():
            await world.sleep(0.005)


async def fill(url: str) -> None:
    """Positions 1 to 4 are orders in one write, the last of a customer whose payment is given up; 5 is behind it. Then what
    they caused. The last position is an order that nobody has handled."""
    application = shop(url)

    async def is_done() -> bool:
        store = application.open_store()
        letters = await store.dead_letters()
        return bool(letters) and (await store.read((), limit=100)).reached == 14 and await _accounted(application)

    async with application:
        await application.publish(
            OrderPlaced(order_id="o1", customer="anna", total=Decimal("9.50")),
            OrderPlaced(order_id="o2", customer="ben", total=Decimal("20.00")),
            OrderPlaced(order_id="o3", customer="anna", total=Decimal("1.00")),
            OrderPlaced(order_id="o4", customer="broke", total=Decimal("99.00")),
            OrderPlaced(order_id="o4", customer="broke", total=Decimal("1.00")),
        )
        await until(is_done)
    async with application.connected():
        await application.publish(OrderPlaced(order_id="o5", customer="anna", total=Decimal("5.00")))


async def _accounted(application: App) -> bool:
    store = application.open_store()
    for consumer in await store.consumers():
        standing = await store.standing(consumer.id)
        if any(row.position < store.head() for row in standing.progress):
            return False
    return True
