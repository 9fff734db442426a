"""Placing: publishes what customers ask for, many writes at a time, each once.

Every write has an idempotency key that follows from what is placed: the number of the invoice, or of the simulated order.
So it may be placed again at any time, after a crash or from another file, and nothing is stored twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice

from ensue import App, Receipt
from ensue.errors import IdempotencyKeyReused
from ensue.examples.shop.events import OrderCancelled, OrderPlaced
from ensue.examples.shop.order_file import Invoice, OrderFile

__all__ = ["place_file", "place_invoice", "place_purchases"]

IN_FLIGHT = 64
"""How many writes wait for the disk together: one commit stores them all."""


async def place_file(app: App, file: OrderFile) -> AsyncIterator[tuple[list[Invoice], list[Receipt[None]]]]:
    """Publish all invoices of a file, in order; gives some at a time with their receipts when they are durable.

    Errors: `BadFile`; those of `App.publish`. What was given is stored, and the same call goes on where it stopped.
    """
    coming = iter(file)
    while some := list(islice(coming, IN_FLIGHT)):
        yield some, await asyncio.gather(*(place_invoice(app, invoice, file=file.name) for invoice in some))


async def place_invoice(app: App, invoice: Invoice, *, file: str) -> Receipt[None]:
    """Publish an invoice in one write: the order or cancellation, and its rejected lines. Where they were is kept in the
    headers, which are no part of what is placed: the same invoice in another file is the same.

    Returns the first receipt if it was placed before. If it was placed with other lines, all its lines are rejected.
    """
    headers = {"file": file, "lines": f"{invoice.first_line}-{invoice.last_line}"}
    try:
        return await app.publish(*invoice.events(), idempotency_key=invoice.idempotency_key, headers=headers)
    except IdempotencyKeyReused:
        key = f"{invoice.idempotency_key} as {invoice.content}"
        return await app.publish(*invoice.refused(), idempotency_key=key, headers=headers)


async def place_purchases(app: App, purchases: Iterable[OrderPlaced | OrderCancelled]) -> list[Receipt[None]]:
    """Publish simulated orders and cancellations, all at once."""
    return await asyncio.gather(
        *(app.publish(purchase, idempotency_key=f"order {purchase.order_id}") for purchase in purchases)
    )
