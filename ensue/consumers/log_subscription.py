"""What is received of a channel that a log carries, see `ensue.consumers.log_broker`: by one without a group, by a member of one."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from ensue.channels.base import Message, Received, Revoked
from ensue.consumers.lease import BEAT_SECONDS, Lease
from ensue.consumers.routing import SEGMENTS, key_of_position, segment_of
from ensue.errors import EnsueError, OutcomeUnknown, TryAgain, Unavailable, WiringError
from ensue.events.stored import Row
from ensue.store.base import Consumer, ConsumerCommit, Fence, Progress, Request, Store, Term
from ensue.store.nodes import here
from ensue.world import World

__all__ = ["Host", "LogMember", "LogSubscription", "encode_stored", "message_type", "removed_type"]

MOST_AHEAD = 10_000
"""So many messages of a partition may be accepted behind one that is not."""
PAGE = 1000
BACKLOG_PAGES = 10
FLUSH_POSITIONS = 1000
"""How far a mark may be behind for want of messages: so much is read again by who takes the partition next."""
PATIENCE_SECONDS = 30.0
"""How long a member may take to finish what is revoked."""
_DIGEST = (1 << 64) - 1


class Host(Protocol):
    """The connection that a subscription belongs to."""

    def follow(self, subscription: LogSubscription) -> None:
        """Wake it when something is stored, and end it when the connection breaks."""
        ...

    def forget(self, subscription: LogSubscription) -> None:
        """It is closed."""
        ...

    def failed(self, error: EnsueError) -> EnsueError:
        """The store failed with this: the connection is broken. What to raise for it."""
        ...

    @property
    def farewell_seconds(self) -> float:
        """How long a member that closes waits until it is known what it accepted and gave up."""
        ...


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message as the log keeps it."""

    headers: Mapping[str, str]
    content_type: str
    key: str | None = None
    text: str | None = None
    data: bytes | None = None
    """The body, base64 in the log, where it is no text."""

    @classmethod
    def of(cls, message: Message) -> _Stored:
        try:
            text, data = message.body.decode(), None
        except UnicodeDecodeError:
            text, data = None, message.body
        return cls(headers=message.headers, content_type=message.content_type, key=message.key, text=text, data=data)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode


def encode_stored(message: Message) -> bytes:
    """The payload of a message's event."""
    return _encode(_Stored.of(message))


def message_type(address: str) -> str:
    """Of the events that are the messages to an address."""
    return f"ensue.Channel.{address}"


def removed_type(address: str) -> str:
    """Of the events that remove an address."""
    return f"ensue.ChannelRemoved.{address}"


class _Received:
    """A message that came. What it holds is read when it is asked for."""

    __slots__ = ("_address", "_data", "_message", "partition", "position")

    def __init__(self, address: str, partition: int, position: int, data: bytes) -> None:
        self.partition = partition
        self.position = position
        self._address = address
        self._data = data
        self._message: _Stored | None = None

    def __lt__(self, other: _Received) -> bool:
        return self.position < other.position

    @property
    def _stored(self) -> _Stored:
        if self._message is None:
            self._message = _decode(self._data)
        return self._message

    @property
    def body(self) -> bytes:
        stored = self._stored
        return (stored.data or b"") if stored.text is None else stored.text.encode()

    @property
    def content_type(self) -> str | None:
        return self._stored.content_type

    @property
    def key(self) -> str | None:
        return self._stored.key

    @property
    def deliveries(self) -> int:
        return 1

    @property
    def where(self) -> str:
        return f"{self._address}/{self.partition} @ {self.position}"

    @property
    def headers(self) -> Mapping[str, str]:
        return self._stored.headers

    def header(self, name: str) -> str | None:
        return self._stored.headers.get(name)


class LogSubscription:
    """A broadcast: what is stored from position `after` on. And the reading of what a member receives."""

    def __init__(self, broker: Host, world: World, store: Store, address: str, prefetch: int, *, after: int) -> None:
        self._broker = broker
        self._world = world
        self._store = store
        self._address = address
        self._prefetch = prefetch
        self._partitions = SEGMENTS
        self._reached = after
        """All up to here was read."""
        self._held: dict[int, _Received] = {}
        self._again: list[_Received] = []
        """A heap of what was requeued."""
        self._since = after
        """What is at or before this position is done with, or removed."""
        self._selection = (Term(types=(message_type(address), removed_type(address))),)
        self._ended: EnsueError | None = None
        self._wake = asyncio.Event()
        self._leaving = asyncio.Lock()
        self._left = False
        broker.follow(self)

    # --------------------------------------------------------------------------------------------- what a caller does

    async def receive(self, most: int) -> Sequence[Received]:
        """See `Subscription.receive`."""
        while True:
            self._wake.clear()
            self._check()
            room = min(most, self._prefetch - len(self._held), PAGE)
            if room > 0:
                if self._again:
                    return self._hold([heapq.heappop(self._again) for _ in range(min(room, len(self._again)))])
                if self._reads:
                    taken = await self._read(room)
                    if taken:
                        return self._hold(taken)
                    if self._ended is not None or (self._reads and self._reached < self._store.head()):
                        continue
            await self._wake.wait()

    async def _read(self, most: int) -> list[_Received]:
        """The next of its messages, if there are any among the next rows."""
        after = self._reached
        try:
            page = await self._store.read(self._selection, after=after, limit=most)
        except EnsueError as error:
            raise self._broker.failed(error) from error
        self._check()
        if self._reached != after:
            return []  # a partition came meanwhile that begins before this
        taken: list[_Received] = []
        types = self._store.known_types()
        removed = removed_type(self._address)
        for row in page.rows:
            if types[row[2]][0] != removed:
                partition = self._partition(row)
                if self._take(partition, row[0]):
                    taken.append(_Received(self._address, partition, row[0], row[11]))
            elif row[0] > self._since:
                self.end(WiringError(f"the address {self._address} was removed"))
        self._advance(page.reached)
        return taken

    def _partition(self, row: Row) -> int:
        return segment_of(row[3] or key_of_position(row[0]), self._partitions)

    def _hold(self, received: list[_Received]) -> list[_Received]:
        for one in received:
            self._held[one.position] = one
        return received

    async def accept(self, received: Sequence[Received]) -> None:
        """See `Subscription.accept`."""
        self._let_go(received)

    reject = accept

    async def requeue(self, received: Sequence[Received]) -> None:
        """See `Subscription.requeue`."""
        for one in self._let_go(received, done=False):
            heapq.heappush(self._again, one)

    def _let_go(self, received: Sequence[Received], *, done: bool = True) -> list[_Received]:
        """What of it is held here, and is no more."""
        self._check(Unavailable)
        self._wake.set()
        found = [self._held.pop(one.position, None) for one in cast("Sequence[_Received]", received)]
        return [one for one in found if one is not None]

    async def backlog(self) -> int | None:
        """See `Subscription.backlog`. Of the partitions that are this member's; and no more are counted than ten reads find."""
        self._check(Unavailable)
        count, reached = len(self._again), self._reached
        try:
            for _ in range(BACKLOG_PAGES if self._reads else 0):
                page = await self._store.read(self._selection, after=reached, limit=PAGE)
                count += sum(self._waits(self._partition(row), row[0]) for row in page.rows)
                reached = page.reached
                if reached >= self._store.head():
                    break
        except EnsueError as error:
            raise self._broker.failed(error) from error
        return count

    async def close(self) -> None:
        """See `Subscription.close`."""
        async with self._leaving:
            if not self._left:
                self.end(Unavailable(f"the subscription to {self._address} is closed; make another one"))
                await self._leave()
                self._left = True
                self._broker.forget(self)

    # --------------------------------------------------------------------------------------------------- what happens

    def end(self, why: EnsueError) -> None:
        """Receive no more."""
        self._ended = self._ended or why
        self._wake.set()

    def wake(self) -> None:
        """There may be something to receive."""
        self._wake.set()

    def _check(self, kind: type[EnsueError] | None = None) -> None:
        """Errors: why it ended, as this kind of error if it is given."""
        if self._ended is not None:
            raise (kind or type(self._ended))(str(self._ended)) from self._ended

    # -------------------------------------------------------------------------------------- where a member is different

    @property
    def _reads(self) -> bool:
        """Whether there is anything that it may receive."""
        return True

    def _waits(self, partition: int, position: int) -> bool:
        """Whether a message is still to be received here."""
        return True

    def _take(self, partition: int, position: int) -> bool:
        """Whether a message that was read is to be received here."""
        return True

    def _advance(self, position: int) -> None:
        """All up to here was read."""
        self._reached = position

    async def _leave(self) -> None:
        """The last that it does."""


class _Part:
    """A partition in the hands of the member that owns it."""

    __slots__ = ("_digest", "_fence", "_open", "ahead", "count", "leaving", "mark", "release", "routed")

    def __init__(self, progress: Progress) -> None:
        self.mark = self.routed = progress.position
        """On disk; and up to where messages were taken from what was read."""
        self.ahead = set(progress.ahead)
        self.leaving = False
        """Nothing more of it is received: it goes to another member."""
        self.release = False
        """Nothing more of it is accepted, either: the next commit gives it up."""
        self.count = self._digest = 0
        self._open: dict[int, None] = {}
        """Taken and not accepted, ascending."""
        self._fence = Fence(progress.consumer, progress.segment, progress.fence, progress.rev)

    @property
    def fence(self) -> int:
        return self._fence.fence

    @property
    def full(self) -> bool:
        return bool(self._open) and len(self.ahead) >= MOST_AHEAD

    @property
    def done_to(self) -> int:
        """All up to here is accepted, or is no message of this partition."""
        return next(iter(self._open), self.routed + 1) - 1

    @property
    def dirty(self) -> bool:
        """There is something to commit."""
        return self.count > 0 or self.release or self.done_to - self.mark > FLUSH_POSITIONS

    def waits(self, position: int) -> bool:
        return position > self.routed and not self.leaving and position not in self.ahead

    def take(self, position: int) -> bool:
        """Whether it is to be received."""
        if not self.waits(position):
            return False
        self.routed = position
        self._open[position] = None
        return True

    def accept(self, position: int) -> None:
        if not self.release and position in self._open:
            del self._open[position]
            self.ahead.add(position)
            self.count += 1
            self._digest += position * position

    def commit(self) -> ConsumerCommit:
        """All that was accepted since the last one. It must be stored, or the partition given up."""
        self.mark = self.done_to
        self.ahead = {position for position in self.ahead if position > self.mark}
        commit = ConsumerCommit(
            fence=self._fence,
            position=self.mark,
            ahead=tuple(sorted(self.ahead)),
            count=self.count,
            digest=self._digest & _DIGEST,
            clear_unclean=True,
            release=self.release,
        )
        self.count = self._digest = 0
        self._fence = msgspec.structs.replace(self._fence, rev=self._fence.rev + 1)
        return commit


class LogMember(LogSubscription):
    """A member of a group. `join` before anything else."""

    def __init__(
        self,
        broker: Host,
        world: World,
        store: Store,
        address: str,
        prefetch: int,
        consumer: Consumer,
        since: int,
        revoked: Revoked | None,
    ) -> None:
        super().__init__(broker, world, store, address, prefetch, after=since)
        self._consumer = consumer
        self._partitions = consumer.segments
        self._revoked = revoked
        self._lease = Lease(store, world, host=here(), pid=os.getpid())
        self._able = consumer.status in ("active", "retired")
        self._parts: dict[int, _Part] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._committing: asyncio.Task[None] | None = None

    # --------------------------------------------------------------------------------------------------------- reading

    def _check(self, kind: type[EnsueError] | None = None) -> None:
        if self._ended is None and not self._lease.held:
            self.end(
                Unavailable(
                    f"the lease of {self._consumer.name} ran out: this process was paused, or could not write its heartbeat"
                )
            )
        super()._check(kind)

    @property
    def _reads(self) -> bool:
        return bool(self._parts) and not any(part.full for part in self._parts.values())

    def _waits(self, partition: int, position: int) -> bool:
        part = self._parts.get(partition)
        return part is not None and position > self._since and part.waits(position)

    def _take(self, partition: int, position: int) -> bool:
        part = self._parts.get(partition)
        if part is None or not part.take(position):
            return False
        if position > self._since:
            return True
        part.accept(position)
        return False

    def _advance(self, position: int) -> None:
        self._reached = position
        for part in self._parts.values():
            if not part.leaving:
                part.routed = max(part.routed, position)

    def _let_go(self, received: Sequence[Received], *, done: bool = True) -> list[_Received]:
        found = super()._let_go(received)
        if done:
            for one in found:
                part = self._parts.get(one.partition)
                if part is not None:
                    part.accept(one.position)
            self._commit()
        return found

    # ----------------------------------------------------------------------------------------------------- partitions

    async def join(self) -> None:
        """Make it known to the others, and take what is free of its share. Errors: those of the store."""
        await self._lease.beat(self._can)
        await self._lease.look()
        await self._spread()
        self._spawn(self._keep(), f"lease of {self._consumer.name}")

    @property
    def _can(self) -> tuple[int, ...]:
        return (self._consumer.id,) if self._able else ()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._world.spawn(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self) -> None:
        """Renew the lease, and see who else lives."""
        beat_at = self._world.monotonic() + BEAT_SECONDS
        try:
            while True:
                left = beat_at - self._world.monotonic()
                await self._world.sleep(max(0.0, min(left, self._lease.seconds_to_look)))
                if self._world.monotonic() >= beat_at or self._lease.misleads:
                    beat_at = self._world.monotonic() + BEAT_SECONDS
                    await self._renew()
                await self._lease.look()
                await self._spread()
        except EnsueError as error:
            self._broker.failed(error)

    async def _renew(self) -> None:
        """Beat, hear the operators' words, and see whether all is still its own that it holds."""
        await self._lease.beat(self._can)
        able = any(one.id == self._consumer.id and one.status == "active" for one in await self._store.consumers())
        if able != self._able:
            self._able = able
            await self._lease.beat(self._can)
        held = {number: part.fence for number, part in self._parts.items()}
        rows = (await self._store.standing(self._consumer.id)).progress
        own = {row.segment: row.fence for row in rows if row.owner == self._lease.node.id}
        for number, fence in held.items():
            part = self._parts.get(number)
            if part is not None and not part.release and own.get(number) != fence:
                self._lose(number)

    def _lose(self, number: int) -> None:
        self.end(
            Unavailable(
                f"another process owns partition {number} of {self._address} for {self._consumer.name} now: this one was taken for dead"
            )
        )

    async def _spread(self) -> None:
        """Give up what is more than its share, or take what is free of it."""
        if self._ended is not None:
            return
        share = self._lease.share(self._consumer.id, self._partitions) if self._able else 0
        staying = sorted(number for number, part in self._parts.items() if not part.leaving)
        if len(staying) > share:
            self._revoke(frozenset(staying[share:]))
        elif len(self._parts) < share and self._lease.may_judge and self._lease.may_start:
            most = share - len(self._parts)
            standing = await self._store.claim(
                self._consumer.id, self._lease.node, now=self._world.now(), most=most, held=tuple(self._parts)
            )
            for progress in standing.progress:
                self._reached = progress.position if not self._parts else min(self._reached, progress.position)
                self._parts[progress.segment] = _Part(progress)
            self._wake.set()

    def _revoke(self, numbers: frozenset[int]) -> None:
        for number in numbers:
            self._parts[number].leaving = True
        self._spawn(self._hand_over(numbers), f"hand over {self._address}")

    async def _hand_over(self, numbers: frozenset[int]) -> None:
        try:
            if self._revoked is not None:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._revoked(numbers)
        except Exception as error:
            self.end(Unavailable(f"{self._address}: what was revoked could not be finished: {error!r}"))
            return
        for number in numbers & self._parts.keys():
            self._parts[number].release = True
        self._commit()

    # ------------------------------------------------------------------------------------------------------ committing

    def _commit(self) -> None:
        """Let all be committed that was accepted."""
        if self._committing is None or self._committing.done():
            self._committing = self._world.spawn(self._commit_all(), name=f"accept of {self._consumer.name}")

    async def _commit_all(self) -> None:
        while dirty := {number: part for number, part in self._parts.items() if part.dirty}:
            releases = {number for number, part in dirty.items() if part.release}
            was_full = not self._reads
            requests = [Request(commit=part.commit()) for part in dirty.values()]
            if was_full:
                self._wake.set()
            answers = await asyncio.gather(*map(self._store.write, requests), return_exceptions=True)
            self._world.failpoint("log broker.accepted")
            for number, answer in zip(dirty, answers, strict=True):
                if isinstance(answer, BaseException):
                    self._refused(number, answer)
                if isinstance(answer, BaseException) or number in releases:
                    self._drop(number)

    def _refused(self, number: int, error: BaseException) -> None:
        if isinstance(error, Unavailable | OutcomeUnknown) or not isinstance(error, TryAgain):
            self._broker.failed(error if isinstance(error, EnsueError) else Unavailable(repr(error)))
        else:
            self._lose(number)

    def _drop(self, number: int) -> None:
        """The partition is not this member's any more, nor is what it holds of it."""
        del self._parts[number]
        self._held = {position: one for position, one in self._held.items() if one.partition != number}
        self._again = sorted(one for one in self._again if one.partition != number)
        self._wake.set()

    async def _leave(self) -> None:
        """What was accepted is committed, and everything given up."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(EnsueError, TimeoutError):
            async with asyncio.timeout(self._broker.farewell_seconds):
                if self._committing is not None:
                    await asyncio.wait([self._committing])
                for part in self._parts.values():
                    part.release = True
                await self._commit_all()
                await self._lease.end()
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
