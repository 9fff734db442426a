"""The events that tests of applications use, and a way to wait that is no sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ensue import Event

__all__ = ["OrderPlaced", "OrderShipped", "PaymentProcessed", "placed", "until"]


class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
    order_id: str
    customer_id: str = "c1"


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: int = 1


class OrderShipped(Event, key="order_id"):
    order_id: str


def placed(number: int | str = 1, customer: str = "c1") -> OrderPlaced:
    return OrderPlaced(order_id=f"o{number}", customer_id=customer)


async def until(true: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Look again and again until it is true; an error after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)
