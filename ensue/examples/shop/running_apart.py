"""One run of the shop taken apart: customers or a file place orders in the first log, and the books are made over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from ensue.examples.shop.apart import Apart, State
from ensue.examples.shop.customers import Customers
from ensue.examples.shop.events import OrderPlaced
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.placing import place_file, place_purchases
from ensue.examples.shop.running import MOST_AT_ONCE, ORDERS_PER_SECOND, STEP_SECONDS, Latency
from ensue.world import World

__all__ = ["ReportApart", "RunApart"]

LOOK_SECONDS = 0.5


class ReportApart(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints: as of the shop in one process, over all five logs, each event counted where it was made."""

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
    events_in_logs: int
    events_received: int
    dead_letters: int
    restarts: int
    seconds: float
    events_per_second: float
    latency_ms: Latency
    services: Mapping[str, State]


class RunApart:
    """Of services that run. `show` is called with how they stand now and then, and how many lines of the file are placed."""

    def __init__(
        self,
        apart: Apart,
        world: World,
        *,
        stop: asyncio.Event,
        show: Callable[[Mapping[str, State], float, int], None],
    ) -> None:
        self.lines_done = 0
        self.complete = True
        """Nothing was stopped: all is placed, and all that it caused is done."""
        self._apart = apart
        self._world = world
        self._stop = stop
        self._show = show
        self._began = world.monotonic()
        self._looked = float("-inf")
        self._states: Mapping[str, State] = {}

    async def customers(self, seed: int, *, seconds: float | None) -> ReportApart:
        """Simulated customers order for so long, or until `stop`."""
        customers, front = Customers(seed), self._apart.front
        number = len([None async for _ in front.log.read(OrderPlaced)])
        began, first = self._world.monotonic(), number
        while not self._stop.is_set():
            passed = self._world.monotonic() - began
            if seconds is not None and passed >= seconds:
                break
            due = first + 1 + int(passed * ORDERS_PER_SECOND) - number
            some = range(number, number + min(due, MOST_AT_ONCE))
            await place_purchases(front, [each for n in some for each in customers.purchases(n)])
            number = some.stop
            await self._look()
            await self._world.sleep(STEP_SECONDS)
        self._stop.clear()
        return await self._finish()

    async def file(self, file: OrderFile) -> ReportApart:
        """All orders of a file. Errors: `BadFile`."""
        async for invoices, _ in place_file(self._apart.front, file):
            self.lines_done += sum(invoice.records for invoice in invoices)
            await self._look()
            if self._stop.is_set():
                self.complete = False
                break
        return await self._finish()

    async def _look(self, *, now: bool = False) -> None:
        if now or self._world.monotonic() - self._looked >= LOOK_SECONDS:
            self._states = await self._apart.look()
            self._show(self._states, self._world.monotonic() - self._began, self.lines_done)
            self._looked = self._world.monotonic()

    async def _finish(self) -> ReportApart:
        await self._look(now=True)
        while not self._apart.quiet and not self._stop.is_set():
            await self._world.sleep(STEP_SECONDS)
            await self._look()
        await self._look(now=True)
        self.complete = self.complete and self._apart.quiet
        seconds = self._world.monotonic() - self._began
        books, states = self._apart.books, self._states
        events = sum(state.events for state in states.values())
        p50, p99 = (round(self._apart.latency(quantile), 3) for quantile in (0.50, 0.99))
        return ReportApart(
            lines=books.lines,
            orders_placed=books.orders_placed,
            orders_cancelled=books.orders_cancelled,
            lines_rejected=books.lines_rejected,
            amount_placed=f"{books.amount_placed:f}",
            amount_cancelled=f"{books.amount_cancelled:f}",
            amount_rejected=f"{books.amount_rejected:f}",
            payments=books.payments,
            shipments=books.shipments,
            stock_balanced=books.stock_balanced and self._apart.shelf_agrees(),
            events_in_logs=events,
            events_received=sum(state.received for state in states.values()),
            dead_letters=sum(state.dead_letters for state in states.values()),
            restarts=sum(state.starts - 1 for state in states.values()),
            seconds=round(seconds, 3),
            events_per_second=round(events / seconds, 1),
            latency_ms=Latency(p50=p50, p99=p99),
            services=states,
        )
