"""Orders: says what an order means for each of its products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ensue import Service
from ensue.examples.shop.events import GoodsOrdered, GoodsReturned, Line, OrderCancelled, OrderPlaced

__all__ = ["orders", "split_cancellation", "split_order"]

orders = Service("orders")


@orders.on(pure=True)
def split_order(order: OrderPlaced) -> list[GoodsOrdered]:
    """One event for each product, however many lines name it."""
    return [
        GoodsOrdered(sku=sku, order_id=order.order_id, quantity=quantity)
        for sku, quantity in _quantities(order.lines).items()
    ]


@orders.on(pure=True)
def split_cancellation(order: OrderCancelled) -> list[GoodsReturned]:
    """The same for what comes back."""
    return [
        GoodsReturned(sku=sku, order_id=order.order_id, quantity=quantity)
        for sku, quantity in _quantities(order.lines).items()
    ]


def _quantities(lines: Iterable[Line]) -> Counter[str]:
    quantities: Counter[str] = Counter()
    for line in lines:
        quantities[line.sku] += line.quantity
    return quantities
