"""A channel read directly: messages go to a handler without the log, in lanes by key, at least once.

    received → in work → done → accepted
                   └──→ kept: the log has it, and its key's later messages after it, until the log is done with them

Order per key is kept (`ensue.consumers.lanes`), and nothing is accepted over a gap (`ensue.consumers.acceptance`).

A message whose handler fails is *kept*: stored in the log as it came, for this same consumer, which handles it there with its
retry policy, parks it in the end, and keeps the key waiting; and so are the key's later messages, behind it, until the log is done
with the key (`ensue.consumers.kept_keys`). Then it is done with here: a failing key holds nothing up but itself, and a person finds
it where all dead letters are.

What a handler returns is stored before the message is accepted, under ids made of the message's, so that a repetition adds nothing.
(What a handler of batches returns has the ids of its last message: other batches after a crash store it again.) Calls to the world
may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from ensue.channels.base import Broker, Received, Subscription
from ensue.channels.connection import Connection
from ensue.channels.outgoing import Outgoing
from ensue.consumers.direct_handling import DirectHandling, Lane
from ensue.consumers.inbox import Writer
from ensue.consumers.kept_keys import KeptKeys
from ensue.consumers.lanes import Lanes
from ensue.errors import EnsueError, OutcomeUnknown, Unavailable
from ensue.events.stored import Draft
from ensue.observe.signals import AttemptFailed, Observer
from ensue.store.base import Consumer, Store
from ensue.world import World

__all__ = ["Direct", "DirectHandling"]

MOST_ADDRESSES = 100
"""To so many addresses of those who ask, what is sent together is remembered."""


class Direct:
    """The work of a direct subscription on what is received, see `ensue.consumers.receiving`."""

    def __init__(
        self,
        handling: DirectHandling,
        consumer: Consumer,
        store: Store,
        world: World,
        observe: Observer,
        connection: Connection,
        *,
        window: int,
        drain_seconds: float,
    ) -> None:
        self._handling = handling
        self._world = world
        self._observe = observe
        self._connection = connection
        self._window = window
        self._drain_seconds = drain_seconds
        self._writer = Writer(store, world, observe, consumer=handling.name)
        self._kept = KeptKeys(consumer, store, world, observe, handling.type_names)
        self._lanes: Lanes | None = None
        self._partitions: set[int] = set()
        self._replies: dict[str, Outgoing] = {}
        self._session: asyncio.Task[object] | None = None
        self._blocked: dict[Lane, Collection[asyncio.Future[Any]]] = {}

    @property
    def error(self) -> BaseException | None:
        return self._lanes.error if self._lanes is not None else None

    async def begin(self, broker: Broker, subscription: Subscription) -> None:
        self._session = asyncio.current_task()
        self._partitions.clear()
        self._lanes = Lanes(
            self._handling,
            self,
            self._kept.positions,
            subscription,
            self._world,
            self._observe,
            self._failed,
            cumulative=broker.capabilities.cumulative,
            window=self._window,
            blocked=self._blocked,
        )

    async def take(self, batch: Sequence[Received]) -> None:
        """Hand the batch to the workers; wait until there is room for another."""
        assert self._lanes is not None, "begun before anything is received"
        self._world.failpoint("direct.received")
        partitions = {received.partition for received in batch}
        if not partitions <= self._partitions:
            await self._kept.find()
            self._partitions |= partitions
        await self._lanes.take(batch)

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What is in hand of these partitions is finished and accepted; the others go on."""
        try:
            if self._lanes is not None:
                await self._lanes.revoked(partitions)
        finally:
            # Others may keep keys of them from now on; also when whoever revokes waits no longer.
            self._partitions -= partitions

    async def end(self) -> None:
        """What was not begun comes again. What works has its time."""
        self._session = None
        lanes = self._lanes
        if lanes is not None:
            await lanes.end(drain_seconds=self._drain_seconds)
            self._blocked = lanes.unended()
        replies, self._replies = self._replies, {}
        for outgoing in replies.values():
            await outgoing.close()
        await self._kept.close()

    def _failed(self) -> None:
        """End the session: nothing more can be done on its subscription."""
        if self._session is not None:
            self._session.cancel()

    # ------------------------------------------------------------------------------------------------ for the lanes

    async def keep(self, received: Received, key: str | None, reason: str, /) -> None:
        """See `Beside`."""
        wire = self._handling.wire
        assert wire is not None, "connected before it runs"
        draft = wire.kept(
            received, self._handling.name, reason, now=self._world.now(), fresh=self._world.new_id, key=key
        )
        await self._writer.write((draft,))
        self._world.failpoint("direct.kept")
        if draft.stream is not None:
            self._kept.add(draft.stream)

    async def reply(self, address: str, drafts: Sequence[Draft], /) -> None:
        """See `Beside`. An answer that can never be sent is given up: whoever asked has a deadline."""
        wire = self._handling.wire
        assert wire is not None, "connected before it runs"
        for draft in drafts:
            try:
                await self._sent_to(address).send(wire.of_draft(draft))
            except (Unavailable, OutcomeUnknown):
                raise
            except EnsueError as error:
                told = f"the answer to {address} is given up: {type(error).__name__}: {error}"
                name = self._handling.name
                self._observe(AttemptFailed(consumer=name, position=0, key=address, attempt=1, error=told))

    def _sent_to(self, address: str) -> Outgoing:
        outgoing = self._replies.get(address)
        if outgoing is None:
            if len(self._replies) >= MOST_ADDRESSES:
                self._replies = {where: one for where, one in self._replies.items() if one.busy}
            outgoing = self._replies[address] = Outgoing(self._connection, self._world, address=address)
        return outgoing

    def worked(self) -> None:
        """See `Beside`."""
        self._connection.worked()
