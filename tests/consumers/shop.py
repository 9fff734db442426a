"""A small shop with one handler of each kind, for tests: nothing in it is aware of being tested."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from ensue import App, Context, Event, Retry, Service, Transaction

__all__ = ["Gateway", "OrderPlaced", "OrderShipped", "PaymentProcessed", "order", "shop"]


class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
    order_id: str
    customer_id: str
    total: Decimal


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: Decimal


class OrderShipped(Event, key="order_id"):
    order_id: str


class Gateway(Protocol):
    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None: ...


payments, shipping, books = Service("payments"), Service("shipping"), Service("books")


@payments.on(retry={ConnectionError: Retry(attempts=8, first=timedelta(milliseconds=10))})
async def take_payment(order: OrderPlaced, gateway: Gateway, ctx: Context) -> PaymentProcessed:
    await gateway.charge(order.total, idempotency_key=ctx.idempotency_key)
    return PaymentProcessed(order_id=order.order_id, amount=order.total)


@shipping.on
def ship(payment: PaymentProcessed) -> OrderShipped:
    return OrderShipped(order_id=payment.order_id)


@books.on
def turnover(payment: PaymentProcessed, tx: Transaction) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS turnover (order_id TEXT, amount TEXT)")
    tx.execute("INSERT INTO turnover VALUES (?, ?)", payment.order_id, str(payment.amount))


shop = App("shop")
shop.include(payments, shipping, books)


def order(number: int, customer: str = "c1") -> OrderPlaced:
    return OrderPlaced(order_id=f"o{number}", customer_id=customer, total=Decimal(number))
