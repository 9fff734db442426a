"""Shipping: sends what is paid."""

from __future__ import annotations

from ensue import Service
from ensue.examples.shop.events import OrderShipped, PaymentProcessed

__all__ = ["ship", "shipping"]

shipping = Service("shipping")


@shipping.on(pure=True)
def ship(paid: PaymentProcessed) -> OrderShipped:
    """A paid order leaves."""
    return OrderShipped(order_id=paid.order_id)
