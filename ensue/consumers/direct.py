"""A channel read directly: messages go to a handler without the log, in lanes by key, at least once.

Order per key is kept: of a key one message is in work, and those behind it wait in its lane. Workers take messages from what was
received, in order, and call the handler themselves: a handler that does not wait costs no task. A batch is accepted when all of
it is done (and, where accepting is cumulative, all before it), so nothing is accepted over a gap.

    received → in work → done → accepted
                   └──→ kept: the log has it, and its key's later messages after it, until the log is done with them

A message whose handler fails is *kept*: stored in the log as it came, for this same consumer, which handles it there with its
retry policy, parks it in the end, and keeps the key waiting; and so are the key's later messages, behind it, until the log is done
with the key. That is done as well, so a failing key holds nothing up but itself, and a person finds it where all dead letters are.

What a handler returns is appended before the message is accepted, under ids made of the message's, so that a repetition adds
nothing. Calls to the world may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import msgspec

from ensue.channels import Channel
from ensue.channels.base import Broker, Received, Subscription
from ensue.channels.cloudevents import NotAnEvent
from ensue.channels.connection import BROKEN, Connection
from ensue.channels.outgoing import Outgoing
from ensue.consumers.calls import CANCEL_SECONDS
from ensue.consumers.handler import HandlerDefinition, Wants
from ensue.consumers.handling import Handling, Mode, Scope, Undecodable, inside_handler
from ensue.consumers.inbox import Writer
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry
from ensue.consumers.routing import ONE_ORDER, segment_of
from ensue.consumers.wire import Wire, id_of, stored_type
from ensue.errors import InvalidEvent, UnreadableEvent
from ensue.events.context import Context
from ensue.events.message import Event, tag_text
from ensue.events.registry import Registry, declaration
from ensue.events.stored import Draft, decode_meta, tag_hash
from ensue.observe.signals import AttemptFailed, Observer
from ensue.store.base import Consumer, Store, Term
from ensue.world import Threads, World

__all__ = ["Direct", "DirectHandling"]

INLINE_MESSAGES = 64
INLINE_SECONDS = 0.005
SLOW_SECONDS = 1.0
RETURN_SECONDS = 1.0
"""How often to look whether the log is done with the keys that were kept."""
PAGE = 1000
_UNREADABLE = (NotAnEvent, UnreadableEvent, InvalidEvent)
Lane: TypeAlias = object
"""A key before it is a text: the value of its field, with the name of its tag where there are several. None: no key."""


class DirectHandling(Handling):
    """The handler of a direct subscription: for messages as they come, and for those that the log keeps."""

    def __init__(
        self,
        definition: HandlerDefinition,
        registry: Registry,
        world: World,
        scope: Scope,
        channel: Channel,
        *,
        retry: Retry,
    ) -> None:
        # What the log keeps is ordered by the key that it was kept under.
        super().__init__(msgspec.structs.replace(definition, key=None), registry, world, scope, retry=retry)
        self.channel = channel
        self.type_names = (stored_type(definition.name),)
        self.former_names = {}
        self.start = "beginning"
        self.channel_start = definition.start
        self.function = definition.function
        self.parameters = definition.parameters
        self.batch = definition.batch
        self.registry = registry
        self.wire: Wire | None = None
        self._tag = definition.key
        self.fields = {kind: self._field(kind) for kind in registry.covering(definition.events)}
        """Of each type that is handled, the field that its key is and the name of its tag; None where it has no key."""
        self.one_tag = len({field[1] for field in self.fields.values() if field is not None}) < 2

    def _field(self, kind: type[Event]) -> tuple[str, str] | None:
        declared = declaration(kind)
        if self._tag is None:
            return declared.key
        if self._tag == ONE_ORDER:
            return ("", "#")
        return next(pair for pair in (declared.key, *declared.tags) if pair is not None and pair[1] == self._tag)

    def lane(self, event: Event) -> Lane:
        """Of which key it is; None for an event that waits for nobody."""
        field = self.fields[type(event)]
        if field is None:
            return None
        value = getattr(event, field[0]) if field[0] else ""
        return value if self.one_tag else (field[1], value)

    def key(self, event: Event) -> str | None:
        """The key as `name=value`. Errors: `InvalidEvent`."""
        field = self.fields[type(event)]
        if field is None:
            return None
        return tag_text(event, *field) if field[0] else "#="

    def _event(self, slot: Slot) -> Event | list[Event]:  # type: ignore[override]
        """Of a message that the log keeps."""
        assert self.wire is not None, "connected before it runs"
        try:
            event = self.wire.event(self.wire.stored(slot.row[11] if slot.data is None else slot.data))
        except _UNREADABLE as error:
            raise Undecodable(str(error)) from error
        return [event] if self.batch else event

    def _context(self, slot: Slot) -> Context:
        assert self.wire is not None, "connected before it runs"
        stored = self.wire.stored(slot.row[11] if slot.data is None else slot.data)
        return self.context(stored, attempt=slot.attempt, edits=slot.edits)

    def context(self, received: Received, *, attempt: int, edits: int = 0) -> Context:
        """What a handler may ask about a message. Its idempotency key is the same where the log keeps it."""
        assert self.wire is not None, "connected before it runs"
        now = self._world.now()
        draft = self.wire.draft(self.wire.envelope(received), now=now)
        key = blake2b(draft.id + f"{self.name}/{edits}".encode(), digest_size=16).hexdigest()
        row = (0, draft.id, 0, draft.stream, None, now, None, None, None, None, draft.meta, draft.data)
        return Context(row, self._world, key=decode_meta(draft.meta).key or "", attempt=attempt, idempotency_key=key)

    def quick(self) -> Callable[[Any], Any] | None:
        """The handler itself, where it wants nothing but the event and waits by itself."""
        alone = not self.parameters and self.timeout_seconds is None
        return self.function if alone and self.mode is Mode.ASYNC else None


class _Batch:
    """What one `receive` gave. `states` has a byte a message: 0 not done, 1 done, 2 accepted."""

    __slots__ = ("left", "messages", "rest", "states")

    def __init__(self, messages: Sequence[Received]) -> None:
        self.messages = messages
        self.left = len(messages)
        self.states = bytearray(len(messages))
        self.rest: Iterator[tuple[int, Received]] = iter(enumerate(messages))


_Waiting: TypeAlias = "tuple[_Batch, int, Received, Event]"


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
        concurrency: int,
    ) -> None:
        self._handling = handling
        self._consumer = consumer
        self._store = store
        self._world = world
        self._observe = observe
        self._connection = connection
        self._window = window
        self._drain_seconds = drain_seconds
        self._concurrency = concurrency
        self._writer = Writer(store, world, observe, consumer=handling.name)
        self._replies: dict[str, Outgoing] = {}
        self._threads: Threads | None = None
        self._subscription: Subscription | None = None
        self._cumulative = False
        self._session: asyncio.Task[object] | None = None
        self._reset()
        self._kept: dict[bytes, int] = {}
        """Keys that the log holds messages of, with the position of the last one."""
        self._returning: asyncio.Task[None] | None = None

    def _reset(self) -> None:
        self._queue: deque[_Batch] = deque()
        self._batches: deque[_Batch] = deque()
        self._lanes: dict[Lane, deque[_Waiting] | None] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._done: list[Received] = []
        self._held = 0
        self._moved = asyncio.Event()
        self.error: BaseException | None = None
        self._yielding = False
        self._partitions: set[int] = set()

    # ------------------------------------------------------------------------------------------------------ receiving

    async def begin(self, broker: Broker, subscription: Subscription) -> None:
        self._reset()
        self._subscription = subscription
        self._session = asyncio.current_task()
        self._cumulative = broker.capabilities.cumulative

    async def take(self, batch: Sequence[Received]) -> None:
        """Hand the batch to the workers; wait until there is room for another."""
        self._world.failpoint("direct.received")
        partitions = {received.partition for received in batch}
        if not partitions <= self._partitions:
            await self._find_kept()
            self._partitions |= partitions
        found = _Batch(batch)
        self._held += len(batch)
        self._batches.append(found)
        self._queue.append(found)
        while self._queue and len(self._workers) < self._concurrency and not self._yielding:
            worker = self._world.spawn(self._work(), name=f"{self._handling.name}: worker")
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)
            await self._world.sleep(0)
        while self._held >= self._window and self.error is None:
            self._moved.clear()
            try:
                async with asyncio.timeout(SLOW_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                self._accept_finished()
        self._check()

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What is in hand of any partition is finished; the others lose no time by it."""
        while self._held and self.error is None:
            self._moved.clear()
            await self._moved.wait()
        self._partitions -= partitions

    async def end(self) -> None:
        """What was not begun comes again. What works has its time."""
        self._session = None
        self._queue.clear()
        for batch in self._batches:
            deque(batch.rest, maxlen=0)  # the workers take no more of it
        for lane in self._lanes.values():
            if lane is not None:
                lane.clear()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=self._drain_seconds)
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=CANCEL_SECONDS)
        self._accept_finished()
        if self._accepting is not None:
            await asyncio.gather(self._accepting, return_exceptions=True)
        for outgoing in self._replies.values():
            await outgoing.close()
        self._replies.clear()
        self._subscription = None
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _fail(self, error: BaseException) -> None:
        """End the session: nothing more can be done on this subscription."""
        self.error = self.error or error
        self._moved.set()
        if self._session is not None and self._subscription is not None:
            self._session.cancel()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._fail(error)
        self._moved.set()

    # -------------------------------------------------------------------------------------------------------- working

    async def _work(self) -> None:
        inside_handler.set(self._handling.name)
        handling, lanes, wire = self._handling, self._lanes, self._handling.wire
        assert wire is not None, "connected before it runs"
        read, call, many = wire.event, self._caller(), handling.batch
        fields, one_tag, unhandled = handling.fields, handling.one_tag, ("", "unhandled")
        quick = self._handling.quick()
        until, count = self._world.monotonic() + INLINE_SECONDS, 0
        while self._queue:
            batch = self._queue[0]
            if many:
                await self._call_many(batch)
                continue
            states = batch.states
            for index, received in batch.rest:
                try:
                    event = read(received)
                except _UNREADABLE as error:
                    await self._unreadable(received, error)
                    self._finished(batch, index)
                    continue
                field = fields.get(type(event), unhandled)
                if field is None:
                    await self._one(call, received, event, None)
                    self._finished(batch, index)
                    continue
                if field is unhandled:
                    self._finished(batch, index)
                    continue
                lane: Lane = getattr(event, field[0]) if field[0] else ""
                if not one_tag:
                    lane = (field[1], lane)
                if lane in lanes:
                    waiting = lanes[lane]
                    if waiting is None:
                        waiting = lanes[lane] = deque()
                    waiting.append((batch, index, received, event))
                    continue
                else:
                    lanes[lane] = None
                    if self._kept:
                        await self._one(call, received, event, lane)
                    else:
                        try:
                            result = await (quick(event) if quick is not None else call(event, received))
                            if result is not None:
                                await self._emit(received, result)
                        except Exception as error:
                            await self._failed(received, event, lane, error)
                    states[index] = 1
                    batch.left -= 1
                    if not batch.left:
                        self._complete(batch)
                    if lanes[lane] is None:
                        del lanes[lane]
                    else:
                        await self._lane(call, lane)
                count += 1
                if count >= INLINE_MESSAGES:
                    count = 0
                    if self._world.monotonic() > until:
                        self._yielding = True
                        await self._world.sleep(0)
                        self._yielding = False
                        until = self._world.monotonic() + INLINE_SECONDS
            if self._queue and self._queue[0] is batch:
                self._queue.popleft()

    async def _lane(self, call: Any, lane: Lane) -> None:
        """What came of the key while a message of it was in work, in order."""
        waiting = self._lanes[lane]
        while waiting:
            batch, index, received, event = waiting.popleft()
            await self._one(call, received, event, lane)
            self._finished(batch, index)
        del self._lanes[lane]

    async def _one(self, call: Any, received: Received, event: Event, lane: Lane) -> None:
        if lane is not None and self._kept:
            key = self._handling.key(event)
            if key is not None and tag_hash(key) in self._kept:
                await self._keep(received, key, "waits behind an earlier message of its key")
                return
        try:
            result = await call(event, received)
            if result is not None:
                await self._emit(received, result)
        except Exception as error:
            await self._failed(received, event, lane, error)

    async def _call_many(self, batch: _Batch) -> None:
        """All of the batch that can be read and whose keys are free, in one call; the rest one by one."""
        call, wire = self._caller(), self._handling.wire
        assert wire is not None, "connected before it runs"
        chosen: list[tuple[int, Received, Event, Lane]] = []
        taken: set[Lane] = set()
        for index, received in batch.rest:
            try:
                event = wire.event(received)
            except _UNREADABLE as error:
                await self._unreadable(received, error)
                self._finished(batch, index)
                continue
            if type(event) not in self._handling.fields:
                self._finished(batch, index)
                continue
            lane = self._handling.lane(event)
            if lane is not None and lane in self._lanes and lane not in taken:
                waiting = self._lanes[lane] = self._lanes[lane] or deque()
                waiting.append((batch, index, received, event))
            elif lane is not None and self._is_kept(event):
                await self._one(call, received, event, lane)
                self._finished(batch, index)
            else:
                if lane is not None and lane not in taken:
                    taken.add(lane)
                    self._lanes[lane] = None
                chosen.append((index, received, event, lane))
        if self._queue and self._queue[0] is batch:
            self._queue.popleft()
        await self._many(batch, chosen)
        for lane in taken:
            await self._lane(call, lane)

    async def _many(self, batch: _Batch, chosen: list[tuple[int, Received, Event, Lane]]) -> None:
        if not chosen:
            return
        try:
            result = await self._caller()([event for _, _, event, _ in chosen], chosen[0][1])
            if result is not None:
                await self._emit(chosen[-1][1], result)
        except Exception as error:
            for index, received, event, lane in chosen:
                await self._failed(received, event, lane, error)
                self._finished(batch, index)
        else:
            for index, _, _, _ in chosen:
                self._finished(batch, index)

    def _is_kept(self, event: Event) -> bool:
        key = self._handling.key(event) if self._kept else None
        return key is not None and tag_hash(key) in self._kept

    # --------------------------------------------------------------------------------------------------------- calling

    def _caller(self) -> Callable[[Any, Received], Any]:
        """How the handler is called with an event, or a list of them."""
        function, parameters, mode = self._handling.function, self._handling.parameters, self._handling.mode
        limit = self._handling.timeout_seconds

        def arguments(event: Any, received: Received) -> list[Any]:
            given = [event]
            for parameter in parameters:
                if parameter.wants is Wants.CONTEXT:
                    given.append(self._handling.context(received, attempt=max(1, received.deliveries)))
                else:
                    given.append(self._handling.provided(parameter))
            return given

        async def on_thread(event: Any, received: Received) -> Any:
            return await self._on_thread(function, arguments(event, received))

        async def inline(event: Any, received: Received) -> Any:
            return function(event)

        async def given(event: Any, received: Received) -> Any:
            return await function(*arguments(event, received))

        async def limited(event: Any, received: Received) -> Any:
            async with asyncio.timeout(limit):
                return await function(*arguments(event, received))

        if mode is Mode.PURE:
            return inline
        if mode is Mode.THREAD:
            return on_thread
        if limit is not None:
            return limited
        return given

    async def _on_thread(self, function: Callable[..., Any], arguments: list[Any]) -> Any:
        if self._threads is None:
            self._threads = self._world.threads(self._concurrency, name=self._handling.name)
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def call() -> Any:
            inside_handler.set(self._handling.name)
            return function(*arguments)

        def done(result: Any, error: BaseException | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(result)
            else:
                ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        self._threads.run(call, done)
        async with asyncio.timeout(self._handling.timeout_seconds):
            return await ended

    async def _emit(self, received: Received, result: Any) -> None:
        """Store what the handler returned, and send it to whoever asked."""
        wire, world = self._handling.wire, self._world
        assert wire is not None, "connected before it runs"
        events = self._handling.events_of(result)
        envelope = wire.envelope(received)
        id = id_of(envelope.source, envelope.id)
        cause = decode_meta(wire.draft(envelope, now=world.now()).meta)
        drafts: list[Draft] = []
        for nth, event in enumerate(events):
            own = blake2b(id + f"{self._handling.name}/{nth}".encode(), digest_size=16).digest()
            drafts.append(self._handling.after(event, cause, causation=id, id=own))
        await self._writer.write(drafts)
        if envelope.reply_to is not None:
            for draft in drafts:
                await self._reply(envelope.reply_to, wire, draft)

    async def _reply(self, address: str, wire: Wire, draft: Draft) -> None:
        outgoing = self._replies.get(address)
        if outgoing is None:
            outgoing = self._replies[address] = Outgoing(self._connection, self._world, address=address)
        await outgoing.send(wire.of_draft(draft))

    # --------------------------------------------------------------------------------------------------------- failing

    async def _failed(self, received: Received, event: Event, lane: Lane, error: Exception) -> None:
        told = f"{type(error).__name__}: {error}"
        key = self._handling.key(event) if lane is not None else None
        self._observe(
            AttemptFailed(consumer=self._handling.name, position=0, key=key or received.where, attempt=1, error=told)
        )
        await self._keep(received, key, told)

    async def _unreadable(self, received: Received, error: Exception) -> None:
        """Kept for a person, without a key: nobody can tell which it is of."""
        wire = self._handling.wire
        assert wire is not None, "connected before it runs"
        if self._handling.channel.unknown == "skip":
            try:
                if not wire.carries(wire.envelope(received)):
                    return
            except NotAnEvent:
                pass
        await self._keep(received, None, str(error))

    async def _keep(self, received: Received, key: str | None, reason: str) -> None:
        wire = self._handling.wire
        assert wire is not None, "connected before it runs"
        draft = wire.kept(received, self._handling.name, reason, now=self._world.now(), key=key)
        await self._writer.write((draft,))
        self._world.failpoint("direct.kept")
        if draft.stream is not None:
            self._kept[draft.stream] = self._store.head()
            if self._returning is None:
                self._returning = self._world.spawn(self._return_keys(), name=f"{self._handling.name}: kept keys")

    async def _return_keys(self) -> None:
        """Until the log is done with every key."""
        try:
            while self._kept and self._subscription is not None:
                await self._world.sleep(RETURN_SECONDS)
                seen = dict(self._kept)
                standing = await self._store.standing(self._consumer.id)
                behind = {lane.key for lane in standing.lanes}
                marks = {row.segment: row.position for row in standing.progress}
                for key, position in seen.items():
                    done = key not in behind and marks[segment_of(key, self._consumer.segments)] >= position
                    if done and self._kept.get(key) == position:
                        del self._kept[key]
        except BROKEN:
            pass
        finally:
            self._returning = None

    async def _find_kept(self) -> None:
        """Which keys the log still holds messages of, also those that other processes kept."""
        standing = await self._store.standing(self._consumer.id)
        lowest = min((row.position for row in standing.progress), default=0)
        head = self._store.head()
        for lane in standing.lanes:
            self._kept.setdefault(lane.key, head)
        while True:
            page = await self._store.read((Term(types=self._handling.type_names),), after=lowest, limit=PAGE)
            for row in page.rows:
                if row[3] is not None:
                    self._kept[row[3]] = max(row[0], self._kept.get(row[3], 0))
            lowest = page.reached
            if lowest >= self._store.head():
                break
        if self._kept and self._returning is None:
            self._returning = self._world.spawn(self._return_keys(), name=f"{self._handling.name}: kept keys")

    # ------------------------------------------------------------------------------------------------------- accepting

    def _finished(self, batch: _Batch, index: int) -> None:
        batch.states[index] = 1
        batch.left -= 1
        if not batch.left:
            self._complete(batch)

    def _complete(self, batch: _Batch) -> None:
        """All of the batch is done."""
        if self._cumulative:
            while self._batches and not self._batches[0].left:
                self._accept(self._batches.popleft())
        else:
            self._batches.remove(batch)
            self._accept(batch)

    def _accept(self, batch: _Batch) -> None:
        if 2 in batch.states:
            self._done.extend(m for m, state in zip(batch.messages, batch.states, strict=True) if state == 1)
        else:
            self._done.extend(batch.messages)
        self._accept_soon()

    def _accept_finished(self) -> None:
        """What is done of batches that are not: where accepting is cumulative, what has nothing open before it in its
        partition, else each message. So a slow one holds up no others, or none of another partition."""
        blocked: set[int] = set()
        for batch in self._batches:
            for index, state in enumerate(batch.states):
                if state == 0 and self._cumulative:
                    blocked.add(batch.messages[index].partition)
                elif state == 1 and batch.messages[index].partition not in blocked:
                    batch.states[index] = 2
                    self._done.append(batch.messages[index])
        self._accept_soon()

    def _accept_soon(self) -> None:
        if self._accepting is None and self._done:
            self._accepting = self._world.spawn(self._accept_all(), name=f"{self._handling.name}: accept")

    async def _accept_all(self) -> None:
        try:
            while self._done and self._subscription is not None:
                done, self._done = self._done, []
                await self._subscription.accept(done)
                self._world.failpoint("direct.accepted")
                self._held -= len(done)
                self._moved.set()
        except BROKEN as error:
            self._fail(error)
        finally:
            self._accepting = None
