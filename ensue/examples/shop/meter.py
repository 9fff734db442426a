"""Looking at the shop while it runs: how much, how fast, how far behind, what failed. Takes no part in it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec

from ensue.examples.shop.events import CustomerNotified, OrderCancelled, OrderPlaced
from ensue.observe.signals import AttemptFailed, EventParked, Signal
from ensue.store.base import LaneState, Standing, Store
from ensue.world import World

__all__ = ["Figures", "Meter", "quantile_of"]

PAGE = 1_000
RATE_SECONDS = 0.5
LATENCIES = 100_000
"""Of how many orders, the last ones, the latency is known."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the meter shows."""

    seconds: float
    """Since the meter began."""
    events: int
    """In the log now."""
    events_per_second: float
    """Over the last half second or so."""
    orders: int
    notified: int
    retries: int
    dead_letters: int
    """Retries and dead letters since the meter began."""
    p50: float
    p99: float
    """Milliseconds from placing an order until the news for its customer is in the log, for orders placed since the meter
    began."""
    lag: Mapping[str, int]
    """Consumer → events it has still to handle."""


class Meter:
    """Reads the log's rows without decoding them, and the consumers' counts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.began = world.monotonic()
        self.retries = 0
        self.parked = 0
        self.quiet = False
        """At the last look, every consumer had done all there was, but for what waits behind dead letters."""
        self._placed: dict[int, int] = {}
        self._notified: dict[int, int] = {}
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._counts: Counter[int] = Counter()
        self._position = 0
        self._first: int | None = None
        self._rate = 0.0
        self._rated: tuple[float, int] | None = None

    def observe(self, signal: Signal) -> None:
        """For `App(observe=…)`."""
        if isinstance(signal, AttemptFailed):
            self.retries += 1
        elif isinstance(signal, EventParked):
            self.parked += 1

    def placed(self, position: int, at: int) -> None:
        """The order or cancellation at this position began to be placed at this time of the wall clock."""
        self._placed[position] = at
        self._match(position)

    async def look(self, store: Store) -> Figures:
        """Read what is new. Errors: those of the store."""
        now = self._world.monotonic()
        await self._read(store)
        lag = await self._lag(store)
        types = await store.types()
        of_name: Counter[str] = Counter()
        for number, count in self._counts.items():
            of_name[types[number][0]] += count
        self._measure_rate(now)
        return Figures(
            seconds=now - self.began,
            events=self._position,
            events_per_second=self._rate,
            orders=of_name[OrderPlaced.__name__] + of_name[OrderCancelled.__name__],
            notified=of_name[CustomerNotified.__name__],
            retries=self.retries,
            dead_letters=self.parked,
            p50=self.latency(0.50),
            p99=self.latency(0.99),
            lag=lag,
        )

    def latency(self, quantile: float) -> float:
        """In milliseconds; 0 when no order was seen from its beginning to its end."""
        return quantile_of(sorted(self._latencies), quantile)

    def _measure_rate(self, now: float) -> None:
        if self._rated is None:
            self._rated = now, self._position
        elif now - self._rated[0] >= RATE_SECONDS:
            self._rate = (self._position - self._rated[1]) / (now - self._rated[0])
            self._rated = now, self._position

    async def _read(self, store: Store) -> None:
        if self._first is None:
            self._first = store.head() + 1
        while True:
            page = await store.read((), after=self._position, limit=PAGE)
            types = await store.types()
            ends = {number for number, (name, _) in types.items() if name == CustomerNotified.__name__}
            for row in page.rows:
                self._counts[row[2]] += 1
                if row[2] in ends and row[7] is not None and row[7] >= self._first:
                    self._notified[row[7]] = row[5]
                    self._match(row[7])
            self._position = page.reached
            if page.reached >= store.head():
                return

    def _match(self, position: int) -> None:
        """Whether the publisher hears of the order's position first or the log of its end, is chance."""
        if position in self._placed and position in self._notified:
            took = self._notified.pop(position) - self._placed.pop(position)
            self._latencies.append(max(0, took) / 1000)

    async def _lag(self, store: Store) -> dict[str, int]:
        types = await store.types()
        lag: dict[str, int] = {}
        quiet = True
        for consumer in await store.consumers():
            standing = await store.standing(consumer.id)
            handled = [number for number, (name, _) in types.items() if name in consumer.handles]
            behind = sum(self._counts[number] for number in handled) - sum(row.count for row in standing.progress)
            lag[consumer.name] = max(0, behind)
            quiet = quiet and (behind == 0 or _is_quiet(standing, self._position))
        # Progress was read after the events: what a consumer emitted in between would not have been counted.
        newer = await store.read((), after=self._position, limit=1)
        self.quiet = quiet and not newer.rows
        return lag


def _is_quiet(standing: Standing, head: int) -> bool:
    """All that is left waits behind dead letters."""
    parked = all(lane.state == LaneState.PARKED for lane in standing.lanes)
    return parked and all(row.position >= head for row in standing.progress)


def quantile_of(ascending: Sequence[float], quantile: float) -> float:
    """0 for none."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * quantile))] if ascending else 0.0
