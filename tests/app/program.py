"""A program for tests of real processes: it tells by lines on its output what it does.

`python -m tests.app.program ACT URL`. A handler appends a row to a table in the transaction of its progress, so that effects
can be counted; `hold` keeps each handler until the process is told on its input to go on.
"""

from __future__ import annotations

import asyncio
import sys
import threading

from ensue import App, Retry, Transaction
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed

__all__ = ["application"]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def application(url: str, act: str = "work") -> App:
    app = App("shop", url=url, retry=Retry.forever)

    @app.on(start="beginning")
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        say(f"charging {order.order_id}")
        if act == "hang":
            await asyncio.Event().wait()
        if act == "hold":
            await asyncio.to_thread(sys.stdin.readline)
        return PaymentProcessed(order_id=order.order_id)

    @app.on(start="beginning")
    def ship(payment: PaymentProcessed) -> OrderShipped:
        if act == "stuck":
            say(f"stuck with {payment.order_id}")
            threading.Event().wait()
        return OrderShipped(order_id=payment.order_id)

    @app.on(start="beginning")
    def book(shipment: OrderShipped, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS book (order_id TEXT)")
        tx.execute("INSERT INTO book VALUES (?)", shipment.order_id)

    return app


async def publish(app: App, count: int) -> None:
    """Publish one after another; each line is an acknowledged event."""
    async with app.connected():
        for number in range(count):
            await app.publish(placed(number), idempotency_key=f"order {number}")
            say(f"acknowledged {number}")


async def hold_open(app: App) -> None:
    """What a program does that knows nothing of `serve`."""
    async with app:
        say("ready")
        await asyncio.Event().wait()


async def publish_and_wait(app: App) -> None:
    async with app.connected():
        receipt = await app.publish(placed())
        say(str(receipt.position))
        shipped = await receipt.first(OrderShipped)
        say(f"shipped {shipped.order_id}")


def main() -> None:
    act, url = sys.argv[1:3]
    app = application(url, act)
    if act == "publish":
        asyncio.run(publish(app, int(sys.argv[3])))
    elif act == "block":
        try:
            asyncio.run(hold_open(app))
        except KeyboardInterrupt:
            say("stopped")
    elif act == "wait":
        asyncio.run(publish_and_wait(app))
    else:
        asyncio.run(app.serve(ready=lambda: say("ready")))
        say("stopped")


if __name__ == "__main__":
    main()
