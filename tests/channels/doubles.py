"""A broker that behaves as the one in memory, but for what a test overrides in it; and the power switch of its server."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ensue.channels.base import Capabilities, From, Message, Received, Revoked, Subscription
from ensue.channels.memory import MemoryBroker, _Member
from ensue.channels.urls import Place
from ensue.errors import EnsueError, Unavailable
from ensue.world import World

__all__ = [
    "Changes",
    "Double",
    "DoubleSubscription",
    "HeldMessage",
    "Power",
    "Subscribes",
    "held_until",
    "message_of",
    "number_of",
]


class Power:
    """Whether the server runs. When it ends, all connections break; what it was given stays."""

    def __init__(self) -> None:
        self.on = True
        self.connections: set[Double] = set()

    def off(self) -> None:
        self.on = False
        for connection in self.connections:
            connection.breaks()
        self.connections.clear()


class DoubleSubscription:
    """What `inner` is, until a subclass says otherwise."""

    def __init__(self, inner: Subscription, broker: Double) -> None:
        self.inner: Any = inner
        self.broker = broker

    async def receive(self, most: int) -> Sequence[Received]:
        received: Sequence[Received] = await self.inner.receive(most)
        return received

    async def accept(self, received: Sequence[Received]) -> None:
        await self.inner.accept(received)

    async def reject(self, received: Sequence[Received]) -> None:
        await self.inner.reject(received)

    async def requeue(self, received: Sequence[Received]) -> None:
        await self.inner.requeue(received)

    async def backlog(self) -> int | None:
        waiting: int | None = await self.inner.backlog()
        return waiting

    async def close(self) -> None:
        await self.inner.close()


class Double:
    """See the module."""

    prefix: ClassVar[str] = MemoryBroker.prefix
    parameters: ClassVar[Mapping[str, str]] = MemoryBroker.parameters
    subscription: ClassVar[type[DoubleSubscription]] = DoubleSubscription

    def __init__(self, place: Place, power: Power | None = None) -> None:
        self.inner = MemoryBroker(place)
        self.place = place
        self.power = power or Power()
        self.at_its_end: list[Callable[[], Awaitable[None]]] = []
        """What is left to do when it is closed, and not when it breaks."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(self.inner.capabilities, durable=True)

    async def open(self, world: World) -> None:
        self.world = world
        if not self.power.on:
            raise Unavailable(f"{self.place.shown}: nobody answers")
        self.power.connections.add(self)
        await self.inner.open(world)

    def breaks(self) -> None:
        """The connection is cut."""
        self.inner._leave()

    async def declare(self, address: str) -> None:
        await self.inner.declare(address)

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await self.inner.publish(address, messages)

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        inner = await self.inner.subscribe(address, group=group, start=start, prefetch=prefetch, revoked=revoked)
        return self.subscription(inner, self)

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        await self.inner.remove(address, groups=groups)

    async def close(self) -> None:
        self.power.connections.discard(self)
        for call in self.at_its_end:
            with contextlib.suppress(EnsueError):
                await call()
        await self.inner.close()


class Changes(Double):
    """What is stored is not what was given."""

    def changed(self, message: Message) -> Message:
        raise NotImplementedError

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, list(map(self.changed, messages)))


class Subscribes(Double):
    """Subscribes as something else."""

    def as_what(self, given: dict[str, Any]) -> None:
        raise NotImplementedError

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        given: dict[str, Any] = {"group": group, "start": start, "prefetch": prefetch, "revoked": revoked}
        self.as_what(given)
        return await super().subscribe(address, **given)


def number_of(received: Received) -> int:
    number: int = received.entry.number  # type: ignore[attr-defined]
    return number


def message_of(received: Received) -> Message:
    message: Message = received.entry.message  # type: ignore[attr-defined]
    return message


def held_until(member: _Member, received: Sequence[Received], *, all_of_them: bool = False) -> Sequence[Received]:
    """With all that the member holds before it, or just all."""
    last = max(map(number_of, received), default=-1)
    return [HeldMessage(entry) for number, entry in member._held.items() if all_of_them or number <= last]  # type: ignore[misc]


class HeldMessage:
    def __init__(self, entry: object) -> None:
        self.entry = entry
