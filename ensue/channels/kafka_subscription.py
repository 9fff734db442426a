"""What a member of a group, or a broadcast, receives from Kafka.

All that touches a consumer happens on one thread, which goes on polling whatever the application does: so a member is never put
out of its group for being slow. What it reads goes to the loop in batches; what the loop wants of it are *orders*, run between
two polls. When so much is here as may be, the thread reads no more; after a while it pauses the partitions, which throws away
what the library has read ahead, and polls for the group alone.

An offset is given to the library when its message was accepted, never before. The library commits it within half a second, the
thread itself when partitions go and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from ensue.channels.base import Received, Revoked
from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.world import World

__all__ = ["ACCESS", "GONE", "PASSING", "KafkaReceived", "KafkaSubscription", "Reading", "Topic", "translated"]

POLL_SECONDS = 0.05
"""How long an order waits at most when nothing comes."""
PAUSE_SECONDS = 0.5
"""How long the thread may do without polling when it is full: as long may another member wait for a partition."""
CLOSE_SECONDS = 5.0
"""What is not done by then is left to its thread: without a broker the library waits for the end of the session."""
MOST = 10_000

ACCESS = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )
)
GONE = frozenset(
    (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    )
)
WRONG = frozenset(
    (
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._INVALID_ARG,
        KafkaError._SSL,
    )
)
PASSING = frozenset(
    (
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    )
)
"""Said for a moment after a topic was made, or a broker came."""
_LIBRARYS = PASSING | {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._MAX_POLL_EXCEEDED,
}
"""What the library gets over by itself. That there is no broker any more, is found out elsewhere."""


def translated(error: KafkaError, what: str) -> EnsueError:
    """Kafka's error as one of ours; `what` was attempted, and where."""
    said = f"{what}: {error.str()} ({error.name()})"
    if error.code() in ACCESS:
        return AccessRefused(said)
    if error.code() in GONE or error.code() in WRONG:
        return WiringError(said)
    return Unavailable(said)


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it was found. One of the same name that was made later has another `identity`."""

    name: str
    identity: str
    partitions: int
    replicas: int
    largest: int
    """The most bytes that it takes at once."""


class KafkaReceived(msgspec.Struct, eq=False, gc=False):
    """See `Received`. Headers are read when one is asked for."""

    record: Record

    @property
    def body(self) -> bytes:
        return self.record.value() or b""

    @property
    def content_type(self) -> str | None:
        return self.header("content-type")

    @property
    def key(self) -> str | None:
        """Bytes that are no text as escapes: keys that differ stay different."""
        key = self.record.key()
        return None if key is None else key.decode("utf-8", "backslashreplace")

    @property
    def partition(self) -> int:
        return cast(int, self.record.partition())

    @property
    def deliveries(self) -> int:
        return 1

    @property
    def where(self) -> str:
        return f"{self.record.topic()}/{self.record.partition()} @ {self.record.offset()}"

    @property
    def headers(self) -> Mapping[str, str]:
        found = {name: _text(value) for name, value in self._listed()}
        return {name: text for name, text in found.items() if text is not None}

    def header(self, name: str) -> str | None:
        # A list of ten is searched sooner than made a dictionary. Of several the last counts.
        for known, value in reversed(self._listed()):
            if known == name:
                return _text(value)
        return None

    def _listed(self) -> Sequence[tuple[str, bytes | None]]:
        return cast(Sequence[tuple[str, bytes | None]], self.record.headers() or ())


def _text(value: object) -> str | None:
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is to read, and how."""

    config: Mapping[str, Any]
    """Of the consumer."""
    topic: Topic
    starts: Mapping[int, int] | None
    """Of a broadcast: where it begins in each partition. None for a member of a group."""
    prefetch: int
    patience_seconds: float
    """How long the broker lets a member finish what is revoked."""
    look_seconds: float
    look: Callable[[], Awaitable[Topic | None]]
    """The topic as it is now. Errors: `EnsueError`."""
    waiting: Callable[[Mapping[int, int]], Awaitable[int]]
    """How many messages are behind these offsets, and in other partitions behind what the group committed."""


class _Held:
    """Of a partition that is ours. Both are -1 until something was read of it."""

    __slots__ = ("settled", "fetched")

    def __init__(self) -> None:
        self.settled = -1
        """Behind what was accepted last, or where reading began."""
        self.fetched = -1
        """Behind what was read last."""


_Order: TypeAlias = Callable[[], None]
_Answer: TypeAlias = "queue.SimpleQueue[None]"


class _Poller:
    """The side of the thread. What it tells the other side is called there on the loop, in this order."""

    def __init__(self, reading: Reading, world: World, tell: Callable[..., None], listener: KafkaSubscription) -> None:
        self.orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self.held: dict[int, _Held] = {}
        """The partitions that are ours; changed by the thread alone."""
        self.leave = True
        """Whether the broker is to be told at the end. Not one that is gone."""
        self._reading = reading
        self._name = reading.topic.name
        self._world = world
        self._tell = tell
        self._listener = listener
        self._unstored: dict[int, int] = {}
        self._full_since: float | None = None
        self._paused = False
        self._ending = False

    # --------------------------------------------------------------------------------------------------------- orders

    def accept(self, ends: Mapping[int, int]) -> None:
        """Offsets behind what was accepted. Of a partition that went meanwhile, they are another member's matter."""
        for partition, end in ends.items():
            held = self.held.get(partition)
            if held is not None and held.settled < end <= held.fetched:
                held.settled = self._unstored[partition] = end

    def seek(self, offsets: Mapping[int, int]) -> None:
        self._resume()  # a partition that is resumed after it was sought to would go on where it was
        for partition, offset in offsets.items():
            held = self.held.get(partition)
            if held is not None and held.settled <= offset < held.fetched:
                self._consumer.seek(TopicPartition(self._name, partition, offset))
                held.fetched = offset
        self._tell(self._listener.sought, tuple(offsets))

    def assign(self, starts: Mapping[int, int]) -> None:
        self._consumer.incremental_assign([TopicPartition(self._name, *start) for start in starts.items()])
        self.held |= {partition: _Held() for partition in starts}

    def end(self) -> None:
        self._ending = True

    # --------------------------------------------------------------------------------------------------------- thread

    def run(self) -> None:
        """Read until it is to end. Errors: `KafkaException`."""
        self._consumer = Consumer(dict(self._reading.config))
        try:
            if self._reading.starts is not None:
                self.assign(self._reading.starts)
            else:
                self._consumer.subscribe(
                    [self._name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
                )
            while not self._ending:
                self._turn()
            if self.leave:
                self._run_orders()
                self._commit(self.held)
        finally:
            if self.leave:
                self._consumer.close()
            # It knows us by its callbacks, and ends when nobody knows it any more.
            del self._consumer

    def _turn(self) -> None:
        self._run_orders()
        room = self._reading.prefetch - sum(held.fetched - held.settled for held in self.held.values())
        if room < 1:
            self._wait_for_room()
            return
        self._full_since = None
        self._resume()
        first = self._consumer.poll(POLL_SECONDS)
        if first is not None:
            self._hand_over([first, *self._consumer.consume(min(room - 1, MOST), 0)] if room > 1 else [first])

    def _run_orders(self) -> None:
        while not self.orders.empty():
            self.orders.get()()
        self._store()

    def _store(self) -> None:
        """What the library is to commit."""
        if self._unstored and self._reading.starts is None:
            offsets = [TopicPartition(self._name, *end) for end in self._unstored.items()]
            # A partition that is being taken away: what was accepted of it comes again elsewhere.
            with contextlib.suppress(KafkaException):
                self._consumer.store_offsets(offsets=offsets)
        self._unstored.clear()

    def _commit(self, partitions: Iterable[int]) -> None:
        """Wait until the broker knows what was accepted of these. If it cannot be told, that comes again."""
        ends = {partition: self.held[partition].settled for partition in partitions if partition in self.held}
        offsets = [TopicPartition(self._name, partition, end) for partition, end in ends.items() if end >= 0]
        if offsets and self._reading.starts is None:
            with contextlib.suppress(KafkaException):
                self._consumer.commit(offsets=offsets, asynchronous=False)

    def _wait_for_room(self) -> None:
        now = self._world.monotonic()
        if self._full_since is None:
            self._full_since = now
        if not self._paused and now - self._full_since > PAUSE_SECONDS:
            self._consumer.pause(self._ours())
            self._paused = True
        if self._paused:
            came = self._consumer.poll(0)
            if came is not None:
                self._hand_over([came])
        with contextlib.suppress(queue.Empty):
            self.orders.get(timeout=POLL_SECONDS)()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._ours())

    def _ours(self) -> list[TopicPartition]:
        return [TopicPartition(self._name, partition) for partition in self.held]

    def _hand_over(self, batch: list[Record]) -> None:
        failed = [record for record in batch if record.error() is not None]
        if failed:
            batch = [record for record in batch if record.error() is None]
            for record in failed:
                self._tell(self._listener.told, record.error())
        last = {record.partition(): record for record in batch}
        if not last.keys() <= self.held.keys():  # it went while the batch was read
            batch = [record for record in batch if record.partition() in self.held]
        for partition, record in last.items():
            held = self.held.get(cast(int, partition))
            if held is not None:
                if held.settled < 0:
                    first = next(one for one in batch if one.partition() == partition)
                    held.settled = cast(int, first.offset())
                held.fetched = cast(int, record.offset()) + 1
        if batch:
            self._tell(self._listener.came, list(map(KafkaReceived, batch)))

    # ------------------------------------------------------------------------------------- callbacks, within a poll

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.held |= {partition.partition: _Held() for partition in partitions}
        if self._paused:
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = self._let_go(partitions)
        self._commit(gone)
        for partition in gone:
            self.held.pop(partition, None)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others have them already: nothing of them is ours to commit."""
        for partition in self._let_go(partitions):
            self.held.pop(partition, None)

    def _let_go(self, partitions: list[TopicPartition]) -> frozenset[int]:
        gone = frozenset(partition.partition for partition in partitions)
        if gone and not self._ending:
            answer: _Answer = queue.SimpleQueue()
            self._tell(self._listener.going, gone, answer)
            with contextlib.suppress(queue.Empty):
                answer.get(timeout=self._reading.patience_seconds)
            self._run_orders()
        return gone


class KafkaSubscription:
    """See `Subscription`. `ended` is called when its thread is done."""

    def __init__(
        self, reading: Reading, world: World, *, revoked: Revoked | None, ended: Callable[[KafkaSubscription], None]
    ) -> None:
        self._reading = reading
        self._world = world
        self._on_revoked = revoked
        self._on_ended = ended
        self._loop = asyncio.get_running_loop()
        self._poller = _Poller(reading, world, self._tell, self)
        self._buffer: deque[list[KafkaReceived]] = deque()
        self._seeking: Counter[int] = Counter()
        """Partitions of which what comes is from before it was requeued, and how often that was."""
        self._waiter: asyncio.Future[None] | None = None
        self._error: EnsueError | None = None
        self._closed = False
        self._answers: set[_Answer] = set()
        self._letting_go: set[asyncio.Task[None]] = set()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._threads = world.threads(1, name=f"kafka-{reading.topic.name}")
        self._threads.run(self._poller.run, self._finished)
        self._looking = world.spawn(self._look(), name=f"kafka {reading.topic.name}: is it there")

    @property
    def _what(self) -> str:
        return f"receiving from the topic {self._reading.topic.name}"

    async def receive(self, most: int) -> Sequence[Received]:
        while self._error is not None or not self._buffer:
            self._check()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        first = self._buffer.popleft()
        if len(first) <= most:
            return first
        self._buffer.appendleft(first[most:])
        return first[:most]

    async def accept(self, received: Sequence[Received]) -> None:
        self._check()
        ends: dict[int, int] = {}
        for one in cast(Sequence[KafkaReceived], received):
            partition, end = cast(int, one.record.partition()), cast(int, one.record.offset()) + 1
            if ends.get(partition, 0) < end:
                ends[partition] = end
        if ends:
            self._poller.orders.put(partial(self._poller.accept, ends))

    async def reject(self, received: Sequence[Received]) -> None:
        await self.accept(received)

    async def requeue(self, received: Sequence[Received]) -> None:
        self._check()
        offsets: dict[int, int] = {}
        for one in cast(Sequence[KafkaReceived], received):
            partition, offset = one.partition, cast(int, one.record.offset())
            offsets[partition] = min(offset, offsets.get(partition, offset))
        if offsets:
            self._drop(offsets)
            self._seeking.update(offsets.keys())
            self._poller.orders.put(partial(self._poller.seek, offsets))

    async def backlog(self) -> int | None:
        self._check()
        here = Counter(one.partition for batch in self._buffer for one in batch)
        behind = {partition: held.fetched for partition, held in dict(self._poller.held).items() if held.fetched >= 0}
        if self._reading.starts is not None:
            behind = {**self._reading.starts, **behind}
        return here.total() + await self._reading.waiting(behind)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.fail(Unavailable(f"{self._what}: the subscription is closed"))
            self._poller.orders.put(self._poller.end)
            for answer in self._answers:
                answer.put(None)
        await asyncio.wait((self._done,), timeout=CLOSE_SECONDS)

    def abandon(self, error: EnsueError) -> None:
        """The broker is gone: end without a word to it."""
        self._poller.leave = False
        self.fail(error)

    def fail(self, error: EnsueError) -> None:
        """Receive nothing any more; the first error is told."""
        if self._error is None:
            self._error = error
            self._looking.cancel()
        self._wake()

    # ----------------------------------------------------------------------------------------- what the thread tells

    def came(self, received: list[KafkaReceived]) -> None:
        if self._seeking:
            received = [one for one in received if one.partition not in self._seeking]
        if received:
            self._buffer.append(received)
            self._wake()

    def sought(self, partitions: tuple[int, ...]) -> None:
        self._seeking -= Counter(partitions)

    def told(self, error: KafkaError) -> None:
        """By the library, in the place of a message. Whether the topic is gone, `_look` looks."""
        if error.code() in _LIBRARYS or error.code() in GONE:
            return
        found = translated(error, self._what)
        self.fail(WiringError(str(found)) if isinstance(found, AccessRefused) else found)

    def going(self, partitions: frozenset[int], answer: _Answer) -> None:
        self._drop(partitions)
        if self._on_revoked is None or self._closed:
            answer.put(None)
            return
        self._answers.add(answer)
        task = self._world.spawn(self._let_go(self._on_revoked, partitions, answer), name=f"{self._what}: revoked")
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)

    async def _let_go(self, revoked: Revoked, partitions: frozenset[int], answer: _Answer) -> None:
        try:
            await revoked(partitions)
        finally:
            self._answers.discard(answer)
            answer.put(None)

    def _finished(self, result: None, error: BaseException | None) -> None:
        if isinstance(error, KafkaException):
            self.fail(translated(error.args[0], self._what))
        elif error is not None:
            self.fail(Unavailable(f"{self._what}: {error!r}"))
        self._threads.close()
        self._done.set_result(None)
        self._on_ended(self)

    # ---------------------------------------------------------------------------------------------------------- parts

    async def _look(self) -> None:
        """The broker says nothing to those who read a topic that was deleted, nor to a broadcast of new partitions."""
        partitions = self._reading.topic.partitions
        missing = False
        while True:
            await self._world.sleep(self._reading.look_seconds)
            with contextlib.suppress(EnsueError):
                found = await self._reading.look()
                if found is None and not missing:  # a broker that has just come may not know it yet
                    missing = True
                    continue
                missing = False
                if found is None or found.identity != self._reading.topic.identity:
                    what = "is gone" if found is None else "was deleted and made again"
                    self.fail(WiringError(f"{self._what}: the topic {what}; subscribe again to receive from a new one"))
                    return
                if self._reading.starts is not None and found.partitions > partitions:
                    starts = dict.fromkeys(range(partitions, found.partitions), 0)
                    self._poller.orders.put(partial(self._poller.assign, starts))
                partitions = found.partitions

    def _tell(self, call: Callable[..., None], *given: Any) -> None:
        # A loop that is closed has nobody any more who would wait.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *given)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop(self, partitions: Collection[int]) -> None:
        """What is here of these and was not received."""
        kept = ([one for one in batch if one.partition not in partitions] for batch in self._buffer)
        self._buffer = deque(batch for batch in kept if batch)
