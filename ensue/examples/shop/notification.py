"""Notification: tells the customer how it ended."""

from __future__ import annotations

from ensue import Service
from ensue.examples.shop.events import CustomerNotified, OrderShipped, PaymentRefunded

__all__ = ["notification", "notify"]

notification = Service("notification")


@notification.on(pure=True)
def notify(news: OrderShipped | PaymentRefunded) -> CustomerNotified:
    """Say that the parcel is on its way, or that the money is."""
    if isinstance(news, OrderShipped):
        return CustomerNotified(order_id=news.order_id, message=f"Your order {news.order_id} is on its way.")
    return CustomerNotified(order_id=news.order_id, message=f"We have paid back {news.amount} for {news.order_id}.")
