"""What every side stores: the same orders."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from hashlib import blake2b
from typing import TypeAlias

from ensue import Event

__all__ = ["Content", "OrderPlaced", "PaymentProcessed", "content", "digest", "order", "share"]

Content: TypeAlias = tuple[str, str, int, Decimal]


class OrderPlaced(Event, key="order_id"):
    order_id: str
    sku: str
    quantity: int
    total: Decimal


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: Decimal


EVENTS_AN_ORDER = 10
_PRICES = [Decimal(f"{cents // 100}.{cents % 100:02}") for cents in range(99, 10_000, 37)]


def content(number: int) -> Content:
    """The fields of event `number`. Every ten events in a row belong to one order."""
    return (
        f"order-{number // EVENTS_AN_ORDER:06}",
        f"sku-{number % 997:03}",
        number % 9 + 1,
        _PRICES[number % len(_PRICES)],
    )


def order(number: int) -> OrderPlaced:
    """Event `number`, typed."""
    order_id, sku, quantity, total = content(number)
    return OrderPlaced(order_id=order_id, sku=sku, quantity=quantity, total=total)


def share(count: int, producers: int, producer: int) -> range:
    """The events of one producer: whole orders, so that each order's events are stored in order on every side."""
    each = count // producers
    return range(producer * each, (producer + 1) * each)


def digest(contents: Iterable[Content]) -> str:
    """Of all contents, whatever the order in which concurrent producers came to store them."""
    lines = sorted(f"{order_id} {sku} {quantity} {total}" for order_id, sku, quantity, total in contents)
    return f"{len(lines)} events {blake2b(chr(10).join(lines).encode(), digest_size=8).hexdigest()}"
