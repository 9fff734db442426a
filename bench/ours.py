"""Our side, through the public interface, as an application would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Outcome, folder
from bench.orders import Content, OrderPlaced, digest, order, share
from ensue import App

__all__ = ["application", "append_batches", "append_one_by_one", "contents", "fill", "read_typed"]

BATCH = 1_000


def application(path: Path) -> App:
    """A log in one file."""
    return App("bench", url=f"sqlite:///{path / 'log.db'}")


async def publish_all(app: App, count: int, producers: int, first: int = 0) -> float:
    """Producers publish one event after another, all at the same time; the seconds it took."""

    async def produce(producer: int) -> None:
        for number in share(count, producers, producer):
            await app.publish(order(first + number))

    began = time.perf_counter()
    await asyncio.gather(*(produce(producer) for producer in range(producers)))
    return time.perf_counter() - began


async def fill(app: App, events: Sequence[OrderPlaced]) -> float:
    """Append in batches, one after another; the seconds it took."""
    began = time.perf_counter()
    for start in range(0, len(events), BATCH):
        await app.log.append(*events[start : start + BATCH])
    return time.perf_counter() - began


async def contents(app: App, after: int = 0) -> list[Content]:
    """What the log says it holds."""
    found: list[Content] = []
    async for recorded in app.log.read(OrderPlaced, after=after):
        event = recorded.event
        found.append((event.order_id, event.sku, event.quantity, event.total))
    return found


def append_one_by_one(count: int, producers: int) -> Outcome:
    """Single appends into a new log."""

    async def run() -> Outcome:
        with folder() as path:
            async with application(path).connected() as app:
                seconds = await publish_all(app, count, producers)
                return Outcome(count / seconds, digest(await contents(app)))

    return asyncio.run(run())


def append_batches(events: Sequence[OrderPlaced]) -> Outcome:
    """Batches into a new log."""

    async def run() -> Outcome:
        with folder() as path:
            async with application(path).connected() as app:
                seconds = await fill(app, events)
                return Outcome(len(events) / seconds, digest(await contents(app)))

    return asyncio.run(run())


def read_typed(path: Path) -> Outcome:
    """The whole log into typed events."""

    async def run() -> Outcome:
        async with application(path).connected() as app:
            began = time.perf_counter()
            events = [recorded.event async for recorded in app.log.read(OrderPlaced)]
            seconds = time.perf_counter() - began
        found = digest((event.order_id, event.sku, event.quantity, event.total) for event in events)
        return Outcome(len(events) / seconds, found)

    return asyncio.run(run())
