"""What the tests of channels share: a place of their own in memory, events, raw messages, and waiting for what comes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from ensue import Channel, DeadLetter, Event
from ensue.app import App
from ensue.channels.base import Broker, Message, Received
from ensue.channels.memory import MemoryBroker
from ensue.channels.urls import place
from ensue.world import RealWorld

__all__ = ["Paid", "Placed", "broker_at", "channel", "dead", "drained", "raw", "until"]

_numbers = itertools.count()
LIMIT_SECONDS = 20


class Placed(Event, key="order"):
    order: str
    number: int = 0


class Paid(Event, key="order"):
    order: str
    number: int = 0


def channel(*carries: type[Event], **options: str) -> Channel:
    """A channel that no other test has."""
    return Channel("orders", *(carries or (Placed, Paid)), url=f"memory://test-{next(_numbers)}", **options)  # type: ignore[arg-type]


@asynccontextmanager
async def broker_at(where: Channel) -> AsyncGenerator[Broker, None]:
    """The broker behind a channel, with the channel's address declared."""
    broker = MemoryBroker(place(where.url or ""))
    await broker.open(RealWorld())
    try:
        await broker.declare(where.name)
        yield broker
    finally:
        await broker.close()


def raw(body: bytes, *, id: str = "1", type: str = "Placed", source: str = "/elsewhere", **more: str) -> Message:
    """What another program may send."""
    headers: Mapping[str, str] = {"specversion": "1.0", "id": id, "type": type, "source": source} | more
    return Message(body=body, headers={f"{MemoryBroker.prefix}{name}": value for name, value in headers.items()})


async def drained(where: Channel, group: str, count: int) -> list[Received]:
    """So many messages that a group of its own receives from the beginning."""
    found: list[Received] = []
    async with broker_at(where) as broker, asyncio.timeout(LIMIT_SECONDS):
        subscription = await broker.subscribe(where.name, group=group, start="beginning", prefetch=10_000)
        while len(found) < count:
            found += await subscription.receive(1000)
        await subscription.close()
    return found


async def until(holds: Callable[[], bool]) -> None:
    """Errors: `TimeoutError`."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not holds():  # noqa: ASYNC110 - what it waits for may be another application
            await asyncio.sleep(0.005)


async def dead(app: App, count: int = 1) -> list[DeadLetter]:
    """The open dead letters, once there are so many."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while len(found := [letter async for letter in app.dead_letters.list()]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found
