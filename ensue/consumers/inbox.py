"""The inbox: messages of a channel become events of the log, each once, and only then are acknowledged.

    receive → decode → one transaction, in the order received → accept

A message is known by its source and id (`ensue.consumers.wire`); one that is in the log already is accepted and nothing more.
A crash anywhere before the acceptance brings it again. What cannot be read is stored as it came, under a type of its own, in its
place; the consumer `inbox.CHANNEL` handles these: reads them again, and parks what still nobody can read, so that it can be
shown, edited, redriven (after a deployment that knows the type, say) or discarded as any dead letter.

One process receives, where the broker does not assign partitions (`ensue.consumers.receiving`); the handling of what is in the log
is spread over all of them as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ensue.channels import Channel
from ensue.channels.base import Broker, Received, Subscription
from ensue.channels.connection import Connection
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.handling import Handling, Scope
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry
from ensue.consumers.wire import Wire, stored_type
from ensue.errors import ApplyFailed, DuplicateEventId, EnsueError, StorageFull, TryAgain
from ensue.events.registry import Registry
from ensue.events.stored import Draft
from ensue.observe.signals import Observer, WriterTrouble
from ensue.store.base import Request, Store
from ensue.world import World

__all__ = ["Inbox", "InboxHandling", "Writer"]

MOST_BYTES = 4 * 1024 * 1024
STORAGE_RETRY_SECONDS = 1.0


class InboxHandling(Handling):
    """Reads again what could not be read when it came."""

    failures_trip = False

    def __init__(
        self, definition: HandlerDefinition, registry: Registry, world: World, scope: Scope, channel: Channel
    ) -> None:
        super().__init__(definition, registry, world, scope, retry=Retry.never)
        self.channel = channel
        self.type_names = (stored_type(definition.name),)
        self.wire: Wire | None = None

    def policy(self, error: BaseException) -> Retry:
        return Retry.never

    def call(self, slot: Slot) -> Sequence[Draft]:
        assert self.wire is not None, "connected before it runs"
        row = slot.row
        stored = self.wire.stored(row[11] if slot.data is None else slot.data)
        draft = self.wire.draft(self.wire.envelope(stored), now=self._world.now())
        # A new id: the message may have come a second time since, in a form that can be read.
        root = row[0] if row[7] is None else row[7]
        id = self._world.new_id()
        return (msgspec.structs.replace(draft, id=id, cause=row[0], root=root, maker=self._maker, nth=0),)


class Writer:
    """Stores events that come from outside the log, in order, each once by its id."""

    def __init__(self, store: Store, world: World, observe: Observer, *, consumer: str) -> None:
        self._store = store
        self._world = world
        self._observe = observe
        self._consumer = consumer

    async def write(self, drafts: Sequence[Draft]) -> None:
        """Returns when all of them are durable; asks again until then. Errors: those of a store that nothing can be written to any
        more."""
        start = 0
        while start < len(drafts):
            size, end = 0, start
            while end < len(drafts) and (end == start or size + drafts[end].size <= MOST_BYTES):
                size += drafts[end].size
                end += 1
            await self._write(drafts[start:end])
            start = end

    async def _write(self, drafts: Sequence[Draft]) -> None:
        while True:
            try:
                await self._store.room()
                await self._store.write(Request(events=drafts))
                return
            except DuplicateEventId:
                # What is stored already mostly stands together: what came again does, and is followed by what is new.
                half = len(drafts) // 2
                if half:
                    await self._write(drafts[:half])
                    await self._write(drafts[half:])
                return
            except ApplyFailed as error:
                # An inline view cannot take one of them. What comes before it is stored; the rest waits until the code can.
                half = len(drafts) // 2
                if half:
                    await self._write(drafts[:half])
                    await self._write(drafts[half:])
                    return
                await self.troubled(error)
            except (TryAgain, StorageFull) as error:
                # Also of an unknown outcome: what is stored already is a duplicate then.
                await self.troubled(error)

    async def troubled(self, error: Exception) -> None:
        """Tell it, and wait before trying again."""
        self._observe(WriterTrouble(consumer=self._consumer, error=str(error), retry_in_seconds=STORAGE_RETRY_SECONDS))
        await self._world.sleep(STORAGE_RETRY_SECONDS)


class Inbox:
    """The work of an inbox on what is received, see `ensue.consumers.receiving`."""

    error: BaseException | None = None

    def __init__(
        self, handling: InboxHandling, store: Store, world: World, observe: Observer, connection: Connection
    ) -> None:
        self._handling = handling
        self._connection = connection
        self._world = world
        self._writer = Writer(store, world, observe, consumer=handling.name)
        self._subscription: Subscription | None = None

    async def begin(self, broker: Broker, subscription: Subscription) -> None:
        self._subscription = subscription

    async def take(self, batch: Sequence[Received]) -> None:
        """Store, then accept."""
        assert self._subscription is not None, "begun before anything is received"
        self._world.failpoint("inbox.received")
        drafts = [await self._draft(received) for received in batch]
        await self._writer.write([draft for draft in drafts if draft is not None])
        self._world.failpoint("inbox.stored")
        await self._subscription.accept(batch)
        self._world.failpoint("inbox.accepted")
        self._connection.worked()

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What is being stored may come to another process as well, which then finds it stored."""

    async def end(self) -> None:
        self._subscription = None

    async def _draft(self, received: Received) -> Draft | None:
        """What to store of a message, if anything. While the keys of what is personal in it cannot be had, it waits."""
        while True:
            try:
                return self._drafted(received)
            except (TryAgain, StorageFull) as error:
                await self._writer.troubled(error)

    def _drafted(self, received: Received) -> Draft | None:
        wire, now = self._handling.wire, self._world.now()
        assert wire is not None, "connected before it runs"
        try:
            envelope = wire.envelope(received)
            if wire.ours(envelope):
                return None
            if self._handling.channel.unknown == "skip" and not wire.carries(envelope):
                return None
            return wire.draft(envelope, now=now)
        except (TryAgain, StorageFull):
            raise
        except Exception as error:  # whatever it is: it is the message's, and comes again with it
            told = str(error) if isinstance(error, EnsueError) else repr(error)
            return wire.kept(received, self._handling.name, told, now=now, fresh=self._world.new_id)
