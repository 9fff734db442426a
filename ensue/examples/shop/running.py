"""One run of the shop: customers or a file place orders, the services work, and the log is audited at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from ensue import App
from ensue.examples.shop.audit import audit
from ensue.examples.shop.customers import Customers
from ensue.examples.shop.events import OrderPlaced
from ensue.examples.shop.meter import Figures, Meter
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.placing import place_file, place_purchases
from ensue.world import World

__all__ = ["MOST_AT_ONCE", "ORDERS_PER_SECOND", "STEP_SECONDS", "Latency", "Report", "Run"]

ORDERS_PER_SECOND = 100
MOST_AT_ONCE = 50
STEP_SECONDS = 0.01
LOOK_SECONDS = 0.25


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """In milliseconds."""

    p50: float
    p99: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. All counts are of the whole log, recomputed from it; the amounts are exact decimal texts.
    `duplicates_ignored` (writes that an earlier run had made), the speed and the latency are of this run."""

    lines: int
    orders_placed: int
    orders_cancelled: int
    lines_rejected: int
    amount_placed: str
    amount_cancelled: str
    amount_rejected: str
    payments: int
    shipments: int
    stock_balanced: bool
    events_in_log: int
    duplicates_ignored: int
    dead_letters: int
    seconds: float
    events_per_second: float
    latency_ms: Latency


class Run:
    """Of an application that is open. `show` is called with the figures now and then; when `stop` is set, nothing more is
    placed, and what is placed stays in the log for the next run."""

    def __init__(
        self, app: App, world: World, meter: Meter, *, stop: asyncio.Event, show: Callable[[Figures, int], None]
    ) -> None:
        self.lines_done = 0
        """How many lines of the file have been placed or rejected."""
        self.complete = True
        """Nothing was stopped: all is placed, and all that it caused is done."""
        self._app = app
        self._world = world
        self._meter = meter
        self._stop = stop
        self._show = show
        self._store = app.open_store()
        self._looked = float("-inf")
        self._first = self._store.head() + 1
        self._replayed = 0

    async def customers(self, seed: int, *, seconds: float | None) -> Report:
        """Simulated customers order for so long, or until `stop`."""
        await self._look()
        customers = Customers(seed)
        number = len([None async for _ in self._app.log.read(OrderPlaced)])
        began, first = self._world.monotonic(), number
        while not self._stop.is_set():
            passed = self._world.monotonic() - began
            if seconds is not None and passed >= seconds:
                break
            due = first + 1 + int(passed * ORDERS_PER_SECOND) - number
            some = range(number, number + min(due, MOST_AT_ONCE))
            at = self._world.now()
            for receipt in await place_purchases(self._app, [each for n in some for each in customers.purchases(n)]):
                self._replayed += receipt.replayed
                self._meter.placed(receipt.position.first, at)
            number = some.stop
            await self._look()
            await self._world.sleep(STEP_SECONDS)
        self._stop.clear()
        return await self._finish()

    async def file(self, file: OrderFile) -> Report:
        """All orders of a file. Errors: `BadFile`."""
        await self._look()
        placing: AsyncIterator[None] = self._place(file)
        async for _ in placing:
            await self._look()
            if self._stop.is_set():
                self.complete = False
                break
        return await self._finish()

    async def _place(self, file: OrderFile) -> AsyncIterator[None]:
        at = self._world.now()
        async for invoices, receipts in place_file(self._app, file):
            for invoice, receipt in zip(invoices, receipts, strict=True):
                self.lines_done += invoice.records
                self._replayed += receipt.replayed
                if invoice.lines and not receipt.replayed:
                    self._meter.placed(receipt.position.first, at)
            yield
            at = self._world.now()

    async def _look(self, *, now: bool = False) -> None:
        if now or self._world.monotonic() - self._looked >= LOOK_SECONDS:
            self._show(await self._meter.look(self._store), self.lines_done)
            self._looked = self._world.monotonic()

    async def _finish(self) -> Report:
        """Wait until all is done, then do the books."""
        await self._look(now=True)
        while not self._meter.quiet and not self._stop.is_set():
            await self._world.sleep(STEP_SECONDS)
            await self._meter.look(self._store)
            await self._look()
        self.complete = self.complete and self._meter.quiet
        seconds = self._world.monotonic() - self._meter.began
        head = self._store.head()
        books = await audit(self._app)
        letters = len([letter async for letter in self._app.dead_letters.list()])
        return Report(
            lines=books.lines,
            orders_placed=books.orders_placed,
            orders_cancelled=books.orders_cancelled,
            lines_rejected=books.lines_rejected,
            amount_placed=f"{books.amount_placed:f}",
            amount_cancelled=f"{books.amount_cancelled:f}",
            amount_rejected=f"{books.amount_rejected:f}",
            payments=books.payments,
            shipments=books.shipments,
            stock_balanced=books.stock_balanced and self._shelf_agrees(books.stock),
            events_in_log=head,
            duplicates_ignored=self._replayed,
            dead_letters=letters,
            seconds=round(seconds, 3),
            events_per_second=round((head + 1 - self._first) / seconds, 1),
            latency_ms=Latency(p50=round(self._meter.latency(0.50), 3), p99=round(self._meter.latency(0.99), 3)),
        )

    def _shelf_agrees(self, stock: dict[str, int]) -> bool:
        """The rows that the inventory decides by are what the log says."""
        return not stock or dict(self._app.sql("SELECT sku, on_hand FROM shop_stock")) == stock
