"""Our side, through the public interface, as an application would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

from bench.measure import Outcome, folder
from bench.orders import Content, OrderPlaced, digest, order, share
from ensue import App

__all__ = [
    "BATCH",
    "Place",
    "append_batches",
    "append_one_by_one",
    "application",
    "contents",
    "fill",
    "fill_two_at_a_time",
    "in_file",
    "new_file",
    "publish_all",
    "read_typed",
]

BATCH = 1_000


Place: TypeAlias = Callable[[], AbstractContextManager[str]]
"""Makes room for a new log: gives its URL, and takes it away in the end."""


def in_file(path: Path) -> str:
    """The URL of a log in this folder."""
    return f"sqlite:///{path / 'log.db'}"


@contextmanager
def new_file() -> Generator[str, None, None]:
    """A `Place` on the project's own disk."""
    with folder() as path:
        yield in_file(path)


def application(url: str) -> App:
    """An application on this log."""
    return App("bench", url=url)


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


def append_one_by_one(place: Place, count: int, producers: int) -> Outcome:
    """Single appends into a new log."""

    async def run() -> Outcome:
        with place() as url:
            async with application(url).connected() as app:
                seconds = await publish_all(app, count, producers)
                return Outcome(count / seconds, digest(await contents(app)))

    return asyncio.run(run())


def append_batches(place: Place, events: Sequence[OrderPlaced], *, fill: Fill = fill) -> Outcome:
    """Batches into a new log."""

    async def run() -> Outcome:
        with place() as url:
            async with application(url).connected() as app:
                seconds = await fill(app, events)
                return Outcome(len(events) / seconds, digest(await contents(app)))

    return asyncio.run(run())


def read_typed(url: str) -> Outcome:
    """The whole log into typed events, one after another; what they hold is checked in a second reading."""
    app = application(url)

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
