"""What happened, recomputed from the log alone: every count, every amount, and whether the stock adds up."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from ensue import App, Event
from ensue.examples.shop.events import (
    LineRejected,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentProcessed,
    StockUpdated,
    exact,
)
from ensue.examples.shop.inventory import INITIAL_STOCK

__all__ = ["Audit", "audit"]

CENT = Decimal("0.00")


class Audit:
    """The books of the shop, written up from its events in the order of the log."""

    def __init__(self) -> None:
        self.lines = 0
        self.orders_placed = 0
        self.orders_cancelled = 0
        self.lines_rejected = 0
        self.amount_placed = CENT
        self.amount_cancelled = CENT
        """Not positive: what comes back is paid back."""
        self.amount_rejected = CENT
        self.payments = 0
        self.shipments = 0
        self._wanted: Counter[str] = Counter()
        self._on_hand: dict[str, int] = {}
        self._broken: set[str] = set()

    def add(self, event: Event) -> None:
        """Enter the next event."""
        if isinstance(event, StockUpdated):
            self._move(event)
        elif isinstance(event, OrderPlaced):
            self.orders_placed += 1
            self.amount_placed = exact.add(self.amount_placed, event.total)
            self._want(event, -1)
        elif isinstance(event, OrderCancelled):
            self.orders_cancelled += 1
            self.amount_cancelled = exact.subtract(self.amount_cancelled, event.total)
            self._want(event, 1)
        elif isinstance(event, LineRejected):
            self.lines += 1
            self.lines_rejected += 1
            self.amount_rejected = exact.add(self.amount_rejected, event.amount)
        elif isinstance(event, PaymentProcessed):
            self.payments += 1
        elif isinstance(event, OrderShipped):
            self.shipments += 1

    @property
    def stock_balanced(self) -> bool:
        """For every product, each change of stock follows from the one before, and all of them together are what was
        ordered and what came back."""
        moved = {sku: on_hand - INITIAL_STOCK for sku, on_hand in self._on_hand.items()}
        return not self._broken and moved == {sku: self._wanted[sku] for sku in self._wanted}

    @property
    def stock(self) -> dict[str, int]:
        """What the log says is on hand."""
        return self._on_hand

    def _want(self, order: OrderPlaced | OrderCancelled, sign: int) -> None:
        self.lines += len(order.lines)
        for line in order.lines:
            self._wanted[line.sku] += sign * line.quantity

    def _move(self, event: StockUpdated) -> None:
        before = self._on_hand.get(event.sku, INITIAL_STOCK)
        if before + event.change != event.on_hand:
            self._broken.add(event.sku)
        self._on_hand[event.sku] = event.on_hand


async def audit(app: App) -> Audit:
    """Read the whole log, in bounded memory."""
    books = Audit()
    wanted = (OrderPlaced, OrderCancelled, LineRejected, StockUpdated, PaymentProcessed, OrderShipped)
    async for recorded in app.log.read(*wanted):
        books.add(recorded.event)
    return books
