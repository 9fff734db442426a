"""Our side, through the public interface, as an application would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from bench.measure import Outcome, folder
from bench.orders import Content, OrderPlaced, digest, order, share
from ensue import App

__all__ = [
    "BATCH",
    "append_batches",
    "append_one_by_one",
    "application",
    "contents",
    "fill",
    "fill_two_at_a_time",
    "publish_all",
    "read_typed",
]

BATCH = 1_000


def application(path: Path) -> App:
    """A log in one file."""
    return App("bench", url=f"sqlite:///{path / 'log.db'}")


async def publish_all(app: App, count: int, producers: int, first: int = 0) -> float:
    """Producers publish one event after another, all at the same time; the seconds it took."""
    shares = [[order(first + number) for number in share(count, producers, one)] for one in range(producers)]

    async def produce(events: list[OrderPlaced]) -> None:
        for event in events:
            await app.publish(event)

    began = time.perf_counter()
    await asyncio.gather(*map(produce, shares))
    return time.perf_counter() - began


async def fill(app: App, events: Sequence[OrderPlaced]) -> float:
    """Append in batches, one after another; the seconds it took."""
    began = time.perf_counter()
    for start in range(0, len(events), BATCH):
        await app.log.append(*events[start : start + BATCH])
    return time.perf_counter() - began


async def fill_two_at_a_time(app: App, events: Sequence[OrderPlaced]) -> float:
    """Append in batches, one on its way to the disk while the next is encoded; the seconds it took."""
    began = time.perf_counter()
    starts = iter(range(0, len(events), BATCH))

    async def append() -> None:
        for start in starts:
            await app.log.append(*events[start : start + BATCH])

    await asyncio.gather(append(), append())
    return time.perf_counter() - began


async def contents(app: App, after: int = 0) -> list[Content]:
    """What the log says it holds."""
    found: list[Content] = []
    async for recorded in app.log.read(OrderPlaced, after=after):
        event = recorded.event
        found.append((event.order_id, event.sku, event.quantity, event.total))
    return found


Fill: TypeAlias = Callable[[App, Sequence[OrderPlaced]], Awaitable[float]]


def append_one_by_one(count: int, producers: int) -> Outcome:
    """Single appends into a new log."""

    async def run() -> Outcome:
        with folder() as path:
            async with application(path).connected() as app:
                seconds = await publish_all(app, count, producers)
                return Outcome(count / seconds, digest(await contents(app)))

    return asyncio.run(run())


def append_batches(events: Sequence[OrderPlaced], *, fill: Fill = fill) -> Outcome:
    """Batches into a new log."""

    async def run() -> Outcome:
        with folder() as path:
            async with application(path).connected() as app:
                seconds = await fill(app, events)
                return Outcome(len(events) / seconds, digest(await contents(app)))

    return asyncio.run(run())


def read_typed(path: Path) -> Outcome:
    """The whole log into typed events, one after another; what they hold is checked in a second reading."""
    app = application(path)

    @app.on(start="now")
    def seen(order: OrderPlaced) -> None:  # never runs; it makes the type known to the application
        assert order

    async def run() -> Outcome:
        async with app.connected():
            count = 0
            began = time.perf_counter()
            async for recorded in app.log.read():
                count += isinstance(recorded.event, OrderPlaced)
            seconds = time.perf_counter() - began
            return Outcome(count / seconds, digest(await contents(app)))

    return asyncio.run(run())
