"""Payment: takes the money, and gives it back. The bank is outside: it can be down, and it can be asked twice.

Therefore every call carries the delivery's idempotency key, the same on every attempt, and a failure of the connection is
tried again. Whatever else the bank says is its last word: the payment becomes a dead letter, and only this order waits.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from ensue import Context, Retry, Service
from ensue.examples.shop.events import OrderCancelled, OrderPlaced, PaymentProcessed, PaymentRefunded

__all__ = ["Gateway", "payment", "refund", "take_payment"]


class Gateway(Protocol):
    """The way to the bank. Both calls do their work once for an idempotency key and return the same receipt again.

    Errors: `ConnectionError` when the bank could not be reached.
    """

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str: ...

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str: ...


payment = Service(
    "payment",
    retry={ConnectionError: Retry(attempts=10, first=timedelta(milliseconds=50)), Exception: Retry.never},
)


@payment.on
async def take_payment(order: OrderPlaced, gateway: Gateway, ctx: Context) -> PaymentProcessed:
    """Charge the order's total."""
    receipt = await gateway.charge(order.order_id, order.total, idempotency_key=ctx.idempotency_key)
    return PaymentProcessed(order_id=order.order_id, amount=order.total, receipt=receipt)


@payment.on
async def refund(order: OrderCancelled, gateway: Gateway, ctx: Context) -> PaymentRefunded:
    """Pay back what was cancelled."""
    receipt = await gateway.refund(order.order_id, order.total, idempotency_key=ctx.idempotency_key)
    return PaymentRefunded(order_id=order.order_id, amount=order.total, receipt=receipt)
