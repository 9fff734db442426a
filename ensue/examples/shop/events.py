"""What happens in the shop: the only thing its services share.

An order concerns many products, and stock is kept for each product: so the order is one event keyed by `order_id`, and
what it means for one product is another, keyed by `sku`. A handler that reads state is keyed by that state.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import NamedTuple

from ensue import Event

__all__ = [
    "ORDER_LINES",
    "CustomerNotified",
    "GoodsOrdered",
    "GoodsReturned",
    "Line",
    "LineRejected",
    "OrderCancelled",
    "OrderPlaced",
    "OrderShipped",
    "PaymentProcessed",
    "PaymentRefunded",
    "StockUpdated",
    "exact",
    "total_of",
]

ORDER_LINES = 10_000
"""How many lines an order may have: an event is one value, and a log bounds its size."""

exact = Context(prec=100_000, Emax=999_999, Emin=-999_999, traps=[Inexact, InvalidOperation, Overflow])
"""Arithmetic that never rounds: money and quantities are bounded long before this precision is used up."""


class Line(NamedTuple):
    """One product of an order. The quantity is positive, also of what comes back."""

    sku: str
    quantity: int
    unit_price: Decimal


def total_of(lines: Iterable[Line]) -> Decimal:
    """What the lines cost together, exactly."""
    total = Decimal("0.00")
    for line in lines:
        total = exact.add(total, exact.multiply(line.quantity, line.unit_price))
    return total


class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
    """A customer has ordered. A guest has no `customer_id`; `ordered_at` is as the customer's side wrote it."""

    order_id: str
    customer_id: str | None
    country: str
    ordered_at: str
    lines: tuple[Line, ...]
    total: Decimal


class OrderCancelled(Event, key="order_id", tags=("customer_id",)):
    """A customer has sent goods back. The cancellation has a number of its own, and its lines say what comes back."""

    order_id: str
    customer_id: str | None
    country: str
    ordered_at: str
    lines: tuple[Line, ...]
    total: Decimal


class LineRejected(Event, tags=("order_id",)):
    """A line that is no part of any order, as it was written, and why. `amount` is quantity × price where both are
    numbers, else 0: so the amounts of a file always add up."""

    order_id: str | None
    sku: str
    quantity: str
    unit_price: str
    amount: Decimal
    reason: str


class GoodsOrdered(Event, key="sku", tags=("order_id",)):
    """An order takes this many of a product."""

    sku: str
    order_id: str
    quantity: int


class GoodsReturned(Event, key="sku", tags=("order_id",)):
    """A cancellation brings this many of a product back."""

    sku: str
    order_id: str
    quantity: int


class StockUpdated(Event, key="sku"):
    """The shelf has changed. Below zero are goods that are still to come in."""

    sku: str
    order_id: str
    change: int
    on_hand: int


class PaymentProcessed(Event, key="order_id"):
    """The order is paid."""

    order_id: str
    amount: Decimal
    receipt: str


class PaymentRefunded(Event, key="order_id"):
    """The cancelled goods are paid back."""

    order_id: str
    amount: Decimal
    receipt: str


class OrderShipped(Event, key="order_id"):
    """The parcel has left."""

    order_id: str


class CustomerNotified(Event, key="order_id"):
    """The customer knows."""

    order_id: str
    message: str
