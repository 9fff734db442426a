"""The channels of an open application: what is sent on them, and what is received.

Each outbox, inbox and direct subscription is a consumer like any other, with a connection of its own. They are connected before
any consumer runs, so that an application whose broker is missing, refuses it or cannot do what is needed says so at start; what
happens to a broker later is got over without a word to the handlers.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence

from ensue.app.brokers import broker_class, open_broker, place_of
from ensue.channels import Channel
from ensue.channels.base import Broker, Capabilities, From
from ensue.channels.connection import Connection
from ensue.channels.outgoing import Outgoing
from ensue.channels.urls import Place
from ensue.consumers.direct import Direct, DirectHandling
from ensue.consumers.handler import HandlerDefinition, Role
from ensue.consumers.handling import Handling, Scope
from ensue.consumers.inbox import Inbox, InboxHandling, Writer
from ensue.consumers.outbox import OutboxHandling
from ensue.consumers.policy import Retry
from ensue.consumers.receiving import Receiving, Work
from ensue.consumers.runner import Runner
from ensue.consumers.wire import Wire, source_of
from ensue.errors import MissingCapability, Unavailable, WiringError
from ensue.events.recorded import microseconds
from ensue.events.registry import Registry
from ensue.observe.signals import Observer
from ensue.store.base import Store
from ensue.world import World

__all__ = ["Traffic", "handling_of", "wire_of"]

WAIT_SECONDS = 30.0
Sending = OutboxHandling | InboxHandling | DirectHandling


def handling_of(
    definition: HandlerDefinition, registry: Registry, world: World, scope: Scope, *, retry: Retry
) -> Handling:
    """How a consumer handles its events, by what it is."""
    channel = definition.channel
    if definition.role is Role.DETECTOR:
        from ensue.patterns.detection.detector import DetectorHandling

        return DetectorHandling(definition, registry, world, scope)
    if channel is None:
        return Handling(definition, registry, world, scope, retry=retry)
    if definition.role is Role.OUTBOX:
        return OutboxHandling(definition, registry, world, scope, channel)
    if definition.role is Role.INBOX:
        return InboxHandling(definition, registry, world, scope, channel)
    return DirectHandling(definition, registry, world, scope, channel, retry=retry)


def wire_of(where: Place, registry: Registry, channel: Channel, *, source: str) -> Wire:
    """How the channel is read and written at this place. Errors: `WiringError`."""
    id_from = where.parameters.get("id")
    if id_from is not None and not re.fullmatch("(header|field):.+", id_from):
        raise WiringError(
            f"{where.shown}: id={id_from!r}; it is header:NAME or field:NAME, with dots for fields in fields"
        )
    return Wire(
        registry,
        channel,
        source=source,
        prefix=broker_class(where).prefix,
        format=where.format,
        default_type=where.parameters.get("type"),
        id_from=id_from,
    )


class Traffic:
    """See the module. Opened once; closed once."""

    def __init__(
        self,
        application: str,
        registry: Registry,
        store: Store,
        world: World,
        observe: Observer,
        *,
        drain_seconds: float,
    ) -> None:
        self._application = application
        self._registry = registry
        self._store = store
        self._world = world
        self._observe = observe
        self._drain_seconds = drain_seconds
        self._connections: dict[str, Connection] = {}
        self._places: dict[str, Place] = {}
        self._capabilities: dict[str, Capabilities] = {}
        self._outgoing: list[Outgoing] = []
        self._direct: list[DirectHandling] = []
        self._receiving: list[Receiving] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, handlings: Sequence[Handling]) -> None:
        """Connect what these consumers need, all at the same time. Errors: `WiringError`, `MissingCapability`, `AccessRefused`;
        `Unavailable` when a broker could not be reached for as long as its URL says (`wait_seconds`)."""
        using = [handling for handling in handlings if isinstance(handling, Sending)]
        for handling in using:
            self._places[handling.name] = place_of(handling.channel, os.environ)
        tasks = [self._world.spawn(self._connect(handling), name=f"connect {handling.name}") for handling in using]
        try:
            await asyncio.gather(*tasks)  # what waiting does not help is told at once, whatever others still wait for
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, handling: Sending) -> None:
        where, channel = self._places[handling.name], handling.channel

        def make() -> Broker:
            return open_broker(where)

        address = where.address(channel.name)
        connection = Connection(
            make, self._world, self._observe, consumer=handling.name, channel=channel.name, address=address
        )
        self._connections[handling.name] = connection
        source = source_of(self._application, self._store.log_id)
        wire = wire_of(where, self._registry, channel, source=source)
        broker = await connection.broker(wait_seconds=where.seconds("wait_seconds", WAIT_SECONDS))
        self._capabilities[handling.name] = broker.capabilities
        if isinstance(handling, OutboxHandling):
            outgoing = Outgoing(connection, self._world)
            self._outgoing.append(outgoing)
            handling.connect(wire, outgoing)
            return
        wire.lasting = broker.capabilities.replay
        if isinstance(handling, DirectHandling):
            writer = Writer(self._store, self._world, self._observe, consumer=handling.name)
            handling.connect(wire, writer, self._observe)
            self._direct.append(handling)
        else:
            handling.wire = wire
        self._check(handling, broker.capabilities, where)

    def _check(self, handling: Sending, found: Capabilities, where: Place) -> None:
        if not found.groups:
            raise MissingCapability(
                f"{handling.name} receives from {where.shown}, which has no groups: what comes while it is away would be lost"
            )
        if handling.channel.start not in (None, "now") and not found.replay:
            raise MissingCapability(
                f"{handling.name} is to begin at {handling.channel.start!r}, and {where.shown} keeps nothing that was sent before a "
                'group existed: leave start= out, or say start="now"'
            )

    def receive(self, runners: Sequence[Runner]) -> list[asyncio.Task[None]]:
        """Begin to receive for these consumers; the tasks that do."""
        for runner in runners:
            handling = runner.handling
            if isinstance(handling, InboxHandling):
                connection = self._connections[handling.name]
                work: Work = Inbox(handling, self._store, self._world, self._observe, connection)
                self._receive(runner, handling, work, group=self._application)
            elif isinstance(handling, DirectHandling):
                name = handling.name
                work = Direct(
                    handling,
                    runner.consumer,
                    self._store,
                    self._world,
                    self._observe,
                    self._connections[name],
                    window=self._prefetch(name),
                    drain_seconds=self._drain_seconds,
                )
                self._receive(runner, handling, work, group=f"{self._application}.{name}")
        return self._tasks

    def _prefetch(self, name: str) -> int:
        return self._places[name].number("prefetch", 4096)

    def _receive(self, runner: Runner, handling: InboxHandling | DirectHandling, work: Work, *, group: str) -> None:
        name = handling.name
        found = self._capabilities[name]
        receiving = Receiving(
            work,
            runner,
            self._world,
            self._observe,
            self._connections[name],
            channel=handling.channel.name,
            group=self._places[name].group(group),
            start=_start(handling.channel, found),
            prefetch=self._prefetch(name),
            assigns=found.assigns,
            wait_seconds=self._places[name].seconds("wait_seconds", WAIT_SECONDS),
        )
        self._receiving.append(receiving)
        self._tasks.append(self._world.spawn(receiving.run(), name=f"receive {name}"))

    async def settled(self) -> None:
        """Until what is published on the channels from now on reaches this application, or another process of it. Errors: those
        of receiving."""
        for receiving, task in zip(self._receiving, self._tasks, strict=True):
            settled = self._world.spawn(receiving.settled.wait(), name="subscribed")
            limit = receiving.wait_seconds
            ended, _ = await asyncio.wait({settled, task}, return_when=asyncio.FIRST_COMPLETED, timeout=limit)
            settled.cancel()
            if task.done():
                task.result()
            if not ended:
                raise Unavailable(
                    f"{receiving.what}: nothing could be subscribed to within {limit:g} s; see what was logged"
                )

    async def stop_receiving(self) -> None:
        """Receive no more, and let what is in work end within its limit."""
        for receiving in self._receiving:
            receiving.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Send no more, and close the connections."""
        for outgoing in self._outgoing:
            await outgoing.close()
        for handling in self._direct:
            handling.close()
        for connection in self._connections.values():
            await connection.close()


def _start(channel: Channel, found: Capabilities) -> From:
    start = channel.start
    if start is None:
        return "beginning" if found.replay else "now"
    return start if isinstance(start, str) else microseconds(start)
