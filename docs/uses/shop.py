"""A shop as services that know nothing of each other: stock, payment, shipping. Runs as it stands: python docs/uses/shop.py"""

import asyncio
from decimal import Decimal
from typing import Protocol

from ensue import App, Context, Event, Retry, Service, Transaction, minutes


class OrderPlaced(Event, key="order_id", tags=("sku",)):
    order_id: str
    sku: str
    quantity: int
    total: Decimal


class StockReserved(Event, key="order_id"):
    order_id: str
    total: Decimal


class StockMissing(Event, key="order_id"):
    order_id: str


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: Decimal


class OrderShipped(Event, key="order_id"):
    order_id: str


class Gateway(Protocol):
    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None: ...


inventory, payments, shipping = Service("inventory"), Service("payments"), Service("shipping")


@inventory.on(key="sku")  # reads and writes what is left of a sku, so it takes the orders of one sku one by one
def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved | StockMissing:
    taken = tx.execute(
        "UPDATE stock SET on_hand = on_hand - ? WHERE sku = ? AND on_hand >= ? RETURNING on_hand",
        order.quantity,
        order.sku,
        order.quantity,
    )
    if not taken:
        return StockMissing(order_id=order.order_id)
    return StockReserved(order_id=order.order_id, total=order.total)


@payments.on(retry={ConnectionError: Retry(attempts=8, longest=minutes(10))})
async def take_payment(order: StockReserved, gateway: Gateway, ctx: Context) -> PaymentProcessed:
    await gateway.charge(order.total, idempotency_key=ctx.idempotency_key)
    return PaymentProcessed(order_id=order.order_id, amount=order.total)


@shipping.on
def ship(payment: PaymentProcessed) -> OrderShipped:
    return OrderShipped(order_id=payment.order_id)


shop = App("shop")
shop.include(inventory, payments, shipping)


class CardTerminal:
    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None:
        print(f"charged {amount}")


@shop.provide
def gateway() -> Gateway:
    return CardTerminal()


def fill_shelves(tx: Transaction) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, on_hand INTEGER NOT NULL)")
    tx.execute("INSERT INTO stock VALUES ('tea', 1) ON CONFLICT (sku) DO UPDATE SET on_hand = 1")


async def main() -> None:
    async with shop:
        await shop.transact(fill_shelves)
        for order_id in ("o1", "o2"):
            order = OrderPlaced(order_id=order_id, sku="tea", quantity=1, total=Decimal("9.50"))
            receipt = await shop.publish(order, idempotency_key=order_id)
            print(await receipt.first(OrderShipped, StockMissing))


if __name__ == "__main__":
    asyncio.run(main())
