"""A shop of five services that know nothing of each other: everything between them is an event.

    OrderPlaced ──► orders.split_order ──► GoodsOrdered (one a product) ──► inventory.update_stock ──► StockUpdated
        └─────────► payment.take_payment ──► PaymentProcessed ──► shipping.ship ──► OrderShipped
                                                                                        └─► notification.notify
    OrderCancelled ──► orders.split_cancellation ──► GoodsReturned ──► inventory.update_stock ──► StockUpdated
        └────────────► payment.refund ──► PaymentRefunded ──► notification.notify ──► CustomerNotified

Read `events.py`, then the services: `orders.py`, `inventory.py`, `payment.py`, `shipping.py`, `notification.py`. Around them:
`gateway.py` is the bank of the demo, `customers.py` makes customers, `order_file.py` reads real order lines,
`placing.py` publishes both, `audit.py` recomputes from the log what happened. `ensue demo shop` runs it;
`ensue run ensue.examples.shop:app` runs its services alone.
"""

from __future__ import annotations

from ensue.examples.shop.application import shop

__all__ = ["app", "shop"]

app = shop()
