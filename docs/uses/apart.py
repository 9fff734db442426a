"""The shop taken apart: two applications with a log each, joined by channels. Runs as it stands: python docs/uses/apart.py

In one process and over memory, unless ENSUE_CHANNELS says another broker: kafka://…, amqp://…, nats://…, redis://…, mqtt://…
"""

import asyncio
import os
from decimal import Decimal

from shop import (
    CardTerminal,
    Gateway,
    OrderPlaced,
    OrderShipped,
    PaymentProcessed,
    StockMissing,
    StockReserved,
    fill_shelves,
    inventory,
    payments,
    shipping,
)

from ensue import App, Channel

os.environ.setdefault("ENSUE_CHANNELS", "memory:")
reserved = Channel("reserved", StockReserved)
done = Channel("done", PaymentProcessed, OrderShipped)

front = App("front", outbox=[reserved], inbox=[done])  # what it stores is sent; what comes is stored, each event once
front.include(inventory)

back = App("back", inbox=[reserved], outbox=[done])
back.include(payments, shipping)


@back.provide
def gateway() -> Gateway:
    return CardTerminal()


async def main() -> None:
    async with back, front:
        await front.transact(fill_shelves)
        for order_id in ("o1", "o2"):
            order = OrderPlaced(order_id=order_id, sku="tea", quantity=1, total=Decimal("9.50"))
            await front.publish(order, idempotency_key=order_id)
        answers = 0
        async for recorded in front.log.read(OrderShipped, StockMissing, follow=True):
            print(recorded.event)
            answers += 1
            if answers == 2:
                break


if __name__ == "__main__":
    asyncio.run(main())
