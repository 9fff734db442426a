"""The application whose workers `bench/scale.py` counts: one handler that waits 5 ms, eight at a time in each process."""

from __future__ import annotations

import asyncio

from bench.orders import OrderPlaced, PaymentProcessed
from ensue import App

__all__ = ["AT_ONCE", "WAITING_SECONDS", "app"]

WAITING_SECONDS = 0.005
AT_ONCE = 8

app = App("bench")


@app.on(name="pay", concurrency=AT_ONCE, start="beginning")
async def pay(order: OrderPlaced) -> PaymentProcessed:
    await asyncio.sleep(WAITING_SECONDS)
    return PaymentProcessed(order_id=order.order_id, amount=order.total)
