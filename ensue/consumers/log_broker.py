"""A log as the broker of a channel: applications that share a database, or a file on one machine, need no other broker.

**Names.** A message is an event of the type `ensue.Channel.ADDRESS`, whose payload is its headers, content type, key and body: as
text where it is one, else in base64. So it can be looked at with the tools for logs. It is confirmed when it is committed, is in
the stream of its address and key, and has a new id of its own: what was published twice is there twice.

**Addresses.** They are events, too: `ensue.ChannelDeclared.ADDRESS` and `ensue.ChannelRemoved.ADDRESS`, in one stream, whose
version every publishing names; so nothing is stored at an address that is gone. Messages before the last declaration count as
removed with the former address, although the log keeps them as it keeps everything.

**Groups.** A group is a consumer `channel.ADDRESS.GROUP` of the log, so what it has accepted is what any consumer's progress is: a
mark and the positions ahead of it, for each partition. Partitions are the consumer's segments, spread over the living members as
segments are over processes (`ensue.consumers.ownership`): each has one member, which keeps the order of each key; a member that
joins gets its share after those that had it have finished with it (`revoked`). Each member has a lease (`ensue.consumers.lease`).
When it dies, its partitions go to others once the lease has ended, or at once where it is known that its process is gone, and
begin at the progress that was committed: what was not accepted comes again, in order. What a member that lost its lease accepts
too late is refused by the fence of the commit, and its subscription ends.

**Accepting** is one commit for all that was accepted while the one before was on its way. Whoever accepts does not wait for it;
`close` does. What is rejected counts as accepted: a log has no place for what is given up. A partition of which so many messages
were accepted behind one that was not (`MOST_AHEAD`) gets no more until that one is.

**Waking** is the store's: nothing is polled for messages. That other members came, went or died is looked for as all processes of
an application do, twice a second while there are others.

A member whose group is paused by an operator receives nothing until it is resumed. What a store gets over by itself, such as a
server that is gone for some seconds, nobody here is told of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

import msgspec

from ensue.channels.base import Capabilities, From, Message, Revoked, Subscription
from ensue.channels.urls import Place
from ensue.consumers.log_subscription import LogMember, LogSubscription, encode_stored, message_type, removed_type
from ensue.consumers.routing import SEGMENTS
from ensue.errors import (
    AccessRefused,
    Conflict,
    EnsueError,
    LogFileReplaced,
    MessageRefused,
    MissingCapability,
    OutcomeUnknown,
    ReadOnlyLog,
    StorageFull,
    TryAgain,
    Unavailable,
    WiringError,
    WriterStopped,
)
from ensue.events.stored import Draft, Meta, encode_meta, tag_hash
from ensue.store.base import Consumer, Expected, Request, Store, Term
from ensue.world import World

__all__ = ["LogBroker"]

FAREWELL_SECONDS, BROKEN_FAREWELL_SECONDS = 5.0, 1.0
_REFUSED = ("the server refused the role", "the server wants a password", "the server lets this role not in")
"""What a store says of a server that does not let it in. It has no error of its own for that."""


class _Address(msgspec.Struct, frozen=True):
    """An address as it was found: the version of its stream, and where it was declared, if it is."""

    version: int
    since: int | None


def _declared_type(address: str) -> str:
    return f"ensue.ChannelDeclared.{address}"


def _consumer_name(address: str, group: str) -> str:
    return f"channel.{address}.{group}"


class LogBroker:
    """See the module. `open_store` makes the store of a place, not yet opened; the application's root knows how."""

    prefix: ClassVar[str] = "ce_"
    parameters: ClassVar[Mapping[str, str]] = {}

    def __init__(self, place: Place, open_store: Callable[[], Store]) -> None:
        place.check(self.parameters)
        self._place = place
        self._open_store = open_store
        self._durable = True
        self._create = place.create
        self._connect_seconds = place.connect_seconds
        self._store: Store | None = None
        self._broken: EnsueError | None = None
        self._addresses: dict[str, _Address] = {}
        self._subscriptions: set[LogSubscription] = set()
        self._watching: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker.capabilities`."""
        return Capabilities(
            durable=self._durable,
            groups=True,
            broadcast=True,
            replay=True,
            assigns=True,
            cumulative=False,
            counts=False,
            delay=False,
        )

    # ------------------------------------------------------------------------------------------------- open and close

    async def open(self, world: World) -> None:
        """See `Broker.open`."""
        self._world = world
        store = self._open_store()
        try:
            async with asyncio.timeout(self._connect_seconds):
                await store.open(world)
        except TimeoutError:
            raise Unavailable(f"{self._place.shown}: not open after {self._connect_seconds:g} s") from None
        except EnsueError as error:
            raise self._told(error) from error
        if not store.capabilities.many_processes:
            await store.close()
            raise WiringError(f"{self._place.shown}: one process only can use this log, so it joins none")
        self._durable = store.capabilities.durable
        self._store = store

    async def close(self) -> None:
        """See `Broker.close`."""
        for subscription in list(self._subscriptions):
            await subscription.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(EnsueError):
                await store.close()

    def _opened(self) -> Store:
        if self._broken is not None:
            raise Unavailable(str(self._broken)) from self._broken
        if self._store is None:
            raise Unavailable(f"{self._place.shown}: the connection is not open; open another one")
        return self._store

    def _told(self, error: EnsueError, *, sent: bool = False) -> EnsueError:
        """The store's error in the words of a broker; `sent` where it matters that something may have been stored."""
        text = f"{self._place.shown}: {error}"
        if isinstance(error, ReadOnlyLog) or any(said in text for said in _REFUSED):
            return AccessRefused(text)
        if sent and isinstance(error, OutcomeUnknown | LogFileReplaced):
            return OutcomeUnknown(text)
        if isinstance(error, TryAgain | StorageFull | WriterStopped | LogFileReplaced):
            return Unavailable(text)
        return error if isinstance(error, WiringError | MissingCapability) else WiringError(text)

    def failed(self, error: EnsueError, *, sent: bool = False) -> EnsueError:
        """The store failed with this: the connection is broken. What to raise for it."""
        told = self._told(error)
        self._broken = self._broken or told
        for subscription in list(self._subscriptions):
            subscription.end(told)
        return self._told(error, sent=True) if sent else told

    def forget(self, subscription: LogSubscription) -> None:
        """It is closed."""
        self._subscriptions.discard(subscription)

    @property
    def farewell_seconds(self) -> float:
        """How long a member may take to leave."""
        return FAREWELL_SECONDS if self._broken is None else BROKEN_FAREWELL_SECONDS

    # ------------------------------------------------------------------------------------------------------- addresses

    async def declare(self, address: str) -> None:
        """See `Broker.declare`."""
        await self._change(address, declare=True)

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        """See `Broker.remove`. The messages stay in the log, but are received no more."""
        await self._change(address, declare=False)
        store = self._opened()
        names = {_consumer_name(address, group) for group in groups}
        try:
            for consumer in await store.consumers():
                if consumer.name in names:
                    await store.set_status(consumer.id, "retired", "the address was removed")
        except EnsueError as error:
            raise self.failed(error) from error

    async def _change(self, address: str, *, declare: bool) -> None:
        while True:
            store = self._opened()
            found = await self._look(address)
            if (found.since is not None) == declare:
                return
            if declare and not self._create:
                raise self._missing(address)
            draft = self._draft(_declared_type(address) if declare else removed_type(address), _stream(address), b"{}")
            changed = Request(events=(draft,), expected=(Expected(tag_hash(_stream(address)), found.version),))
            try:
                await store.write(changed)
            except Conflict:
                continue  # somebody else did it
            except EnsueError as error:
                raise self.failed(error) from error
            self._world.failpoint("log broker.declared")

    async def _look(self, address: str) -> _Address:
        """Whether the address is declared; and the head is known then. Errors: `Unavailable`."""
        store = self._opened()
        before: int | None = None
        try:
            while True:
                term = Term(tags=(tag_hash(_stream(address)),))
                page = await store.read((term,), before=before, limit=1, backwards=True)
                if page.rows or not page.reached:
                    break
                before = page.reached
        except EnsueError as error:
            raise self.failed(error) from error
        found = _Address(0, None)
        if page.rows:
            row = page.rows[0]
            declared = store.known_types()[row[2]][0] == _declared_type(address)
            found = _Address(row[4] or 0, row[0] if declared else None)
        self._addresses[address] = found
        return found

    def _missing(self, address: str) -> WiringError:
        return WiringError(
            f"{self._place.shown}: there is no address {address!r} in this log; it is created by declaring it without `create=no`"
        )

    # ------------------------------------------------------------------------------------------------------ publishing

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        """See `Broker.publish`."""
        errors: dict[int, EnsueError] = {}
        drafts: list[Draft] = []
        for index, message in enumerate(messages):
            try:
                drafts.append(self._of(address, message))
            except MessageRefused as error:
                errors[index] = error
        try:
            if drafts:
                await self._publish(address, drafts)
        except EnsueError as error:
            return {index: errors.get(index, error) for index in range(len(messages))}
        return errors

    async def _publish(self, address: str, drafts: Sequence[Draft]) -> None:
        while True:
            store = self._opened()
            found = self._addresses.get(address)
            if found is None or found.since is None:
                found = await self._look(address)
            if found.since is None:
                raise self._missing(address)
            unchanged = Expected(tag_hash(_stream(address)), found.version)
            try:
                await store.room()
                await store.write(Request(events=drafts, expected=(unchanged,)))
                self._world.failpoint("log broker.stored")
                return
            except Conflict:
                del self._addresses[address]  # it was removed, and is perhaps there again
            except EnsueError as error:
                raise self.failed(error, sent=True) from error

    def _of(self, address: str, message: Message) -> Draft:
        if message.delay_seconds > 0:
            raise MessageRefused(f"{self._place.shown}: a log keeps no message for later; send it without a delay")
        key = None if message.key is None else f"channel.{address}={message.key}"
        try:
            return self._draft(message_type(address), key, encode_stored(message))
        except (msgspec.MsgspecError, UnicodeError, TypeError) as error:
            raise MessageRefused(
                f"{self._place.shown}: a message to {address} cannot be written as JSON: {error}"
            ) from error

    def _draft(self, type_name: str, key: str | None, data: bytes) -> Draft:
        id = self._world.new_id()
        meta = encode_meta(Meta(self._world.now(), id, None, key))
        stream = tag_hash(key) if key is not None else None
        return Draft(id=id, type_name=type_name, type_version=1, stream=stream, tags=(), meta=meta, data=data)

    # ------------------------------------------------------------------------------------------------------- receiving

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        """See `Broker.subscribe`."""
        if group is None and not isinstance(start, str):
            raise MissingCapability(f"{self._place.shown}: a subscription without a group begins now, not at a time")
        store = self._opened()
        found = await self._look(address)
        if found.since is None:
            raise self._missing(address)
        if group is None:
            subscription = LogSubscription(self, self._world, store, address, prefetch, after=store.head())
        else:
            subscription = await self._member(store, address, group, start, prefetch, revoked, found.since)
        if self._watching is None:
            self._watching = self._world.spawn(self._watch(store), name=f"watch {self._place.shown}")
        return subscription

    async def _member(
        self, store: Store, address: str, group: str, start: From, prefetch: int, revoked: Revoked | None, since: int
    ) -> LogMember:
        name, head = _consumer_name(address, group), store.head()
        try:
            known = {consumer.name: consumer for consumer in await store.consumers()}.get(name)
            skip = since
            if known is None or known.status == "retired":
                if start == "now":
                    skip = head
                elif start != "beginning":
                    skip = max(since, await store.position_at(start))
            consumer = await store.define(
                Consumer(
                    id=0,
                    name=name,
                    start=skip,
                    key_tag=None,
                    segments=SEGMENTS,
                    handles={message_type(address): skip},
                )
            )
            member = LogMember(self, self._world, store, address, prefetch, consumer, skip, revoked)
            try:
                await member.join()
            except BaseException:
                await member.close()
                raise
        except EnsueError as error:
            raise self.failed(error) from error
        return member

    def follow(self, subscription: LogSubscription) -> None:
        """Wake it when something is stored, and end it when the connection breaks."""
        self._subscriptions.add(subscription)

    async def _watch(self, store: Store) -> None:
        head = 0
        try:
            while True:
                head = await store.changed(head)
                for subscription in self._subscriptions:
                    subscription.wake()
        except EnsueError as error:
            self.failed(error)


def _stream(address: str) -> str:
    """The key of the events that tell of the address itself."""
    return f"channel={address}"
