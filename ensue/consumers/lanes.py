"""The work of a direct subscription from its beginning to its end: messages in lanes by key, workers that take them in order.

Of a key one message is in work, and those behind it wait in its lane. Workers take messages from what was received and call the
handler themselves: a handler that does not wait costs no task. What is done is accepted by `ensue.consumers.acceptance`.

A subscription that ended leaves nothing to the next but the keys of calls that could not be stopped (a thread; a coroutine that
swallowed its cancellation): `unended`. Whatever these still do here concerns no other subscription.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ensue.channels.base import Received, Subscription
from ensue.channels.cloudevents import NotAnEvent
from ensue.consumers.acceptance import Acceptance, Batch
from ensue.consumers.calls import CANCEL_SECONDS
from ensue.consumers.direct_handling import DirectHandling, Lane
from ensue.consumers.handling import Inside, inside_handler
from ensue.errors import InvalidEvent
from ensue.events.message import Event
from ensue.events.stored import Draft, tag_hash
from ensue.observe.signals import AttemptFailed, Observer
from ensue.world import World

__all__ = ["Beside", "Lanes"]

INLINE_MESSAGES = 64
INLINE_SECONDS = 0.005
SLOW_SECONDS = 1.0
REVOKED_LOOK_SECONDS = 0.02
MOST_BYTES = 64 * 1024 * 1024
"""Of bodies that are held here; one message more than that is taken, however large."""
_Waiting: TypeAlias = "tuple[Batch, int, Received, Event]"


class Beside(Protocol):
    """What stands beside all lanes: the log for what fails, and the way back to whoever asked."""

    async def keep(self, received: Received, key: str | None, reason: str, /) -> None:
        """Returns when the log has it. Errors: those of a store that nothing can be written to any more."""
        ...

    async def reply(self, address: str, drafts: Sequence[Draft], /) -> None:
        """Errors: `Unavailable`, `OutcomeUnknown`."""
        ...

    def worked(self) -> None:
        """Something was accepted."""
        ...


class Lanes:
    """See the module. `error` is why nothing more can be done on this subscription; `failed` is called then, once."""

    def __init__(
        self,
        handling: DirectHandling,
        beside: Beside,
        kept: Mapping[bytes, int],
        subscription: Subscription,
        world: World,
        observe: Observer,
        failed: Callable[[], object],
        *,
        cumulative: bool,
        window: int,
        blocked: dict[Lane, Collection[asyncio.Future[Any]]],
    ) -> None:
        """`kept` are the keys that the log holds messages of; `blocked` those of calls that nobody could stop, with what is to be
        waited for."""
        self.error: BaseException | None = None
        self.ended = False
        self._handling = handling
        self._beside = beside
        self._kept = kept
        self._subscription = subscription
        self._world = world
        self._observe = observe
        self._tell_failed = failed
        self._window = window
        self._blocked = blocked
        self._acceptance = Acceptance(cumulative=cumulative)
        self._queue: deque[Batch] = deque()
        self._lanes: dict[Lane, deque[_Waiting] | None] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._yielding = False

    # ------------------------------------------------------------------------------------------------------ receiving

    async def take(self, batch: Sequence[Received]) -> None:
        """Hand the batch to the workers; wait until there is room for another. Errors: `error`."""
        self._queue.append(self._acceptance.add(batch))
        while self._queue and len(self._workers) < self._handling.concurrency:
            if not self._yielding:
                worker = self._world.spawn(self._work(), name=f"{self._handling.name}: worker")
                self._workers.add(worker)
                worker.add_done_callback(self._worker_ended)
            await self._world.sleep(0)
        while self._full and self.error is None:
            if not await self._moves(SLOW_SECONDS) and self._acceptance.collect():
                self._accept_soon()
        if self.error is not None:
            raise self.error

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Returns when what is held of these partitions is accepted; the others go on."""
        while not (self.ended or self.error is not None) and self._acceptance.holds_of(partitions):
            if self._acceptance.collect():
                self._accept_soon()
            await self._moves(REVOKED_LOOK_SECONDS)

    async def end(self, *, drain_seconds: float) -> None:
        """What was not begun comes again. What works has its time."""
        self._queue.clear()
        self._acceptance.stop()
        for lane in self._lanes.values():
            if lane is not None:
                lane.clear()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=drain_seconds)
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=CANCEL_SECONDS)
        if self.error is None and self._acceptance.collect():
            self._accept_soon()
        accepting = self._accepting
        if accepting is not None:
            await asyncio.wait({accepting}, timeout=CANCEL_SECONDS)
            accepting.cancel()
        self.ended = True
        self._moved.set()

    def unended(self) -> dict[Lane, Collection[asyncio.Future[Any]]]:
        """The keys of calls that go on after the end, each with what is to be waited for."""
        running: list[asyncio.Future[Any]] = [worker for worker in self._workers if not worker.done()]
        running += self._handling.unended()
        left = {lane: calls for lane, calls in self._blocked.items() if not all(call.done() for call in calls)}
        if running:
            left.update(dict.fromkeys(self._lanes, running))
        return left

    @property
    def _full(self) -> bool:
        return self._acceptance.held >= self._window or self._acceptance.bytes >= MOST_BYTES

    async def _moves(self, seconds: float) -> bool:
        """Wait for something to change, not longer than this."""
        self._moved.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _fail(self, error: BaseException) -> None:
        if self.error is None and not self.ended:
            self.error = error
            self._moved.set()
            self._tell_failed()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._fail(error)
        self._moved.set()

    # -------------------------------------------------------------------------------------------------------- working

    async def _work(self) -> None:
        inside_handler.set(Inside(self._handling.name, may_send=True))
        handling, lanes, wire = self._handling, self._lanes, self._handling.wire
        assert wire is not None, "connected before it runs"
        read, call, many, kept, blocked = wire.event, handling.caller(), handling.batch, self._kept, self._blocked
        fields, one_tag, unhandled = handling.fields, handling.one_tag, ("", "unhandled")
        quick = handling.quick()
        until, count = self._world.monotonic() + INLINE_SECONDS, 0
        while self._queue:
            batch = self._queue[0]
            if many:
                await self._call_many(call, batch)
                continue
            states = batch.states
            for index, received in batch.rest:
                try:
                    event = read(received)
                except Exception as error:  # whatever it is: it is the message's, and comes again with it
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
                lanes[lane] = None
                if kept or blocked or quick is None:
                    await self._one(call, received, event, lane)
                else:
                    try:
                        result = await quick(event)
                    except (Exception, asyncio.CancelledError) as error:
                        await self._failed(received, event, lane, self._own(error))
                    else:
                        if result is not None:
                            await self._came(received, event, lane, result)
                states[index] = 1
                batch.left -= 1
                if not batch.left and self._acceptance.complete(batch):
                    self._accept_soon()
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
        if lane is not None:
            if lane in self._blocked:
                await asyncio.wait(self._blocked[lane])
                self._blocked.pop(lane, None)
            if self._kept and (key := self._kept_key(event)) is not None:
                await self._beside.keep(received, key, "waits behind an earlier message of its key")
                return
        try:
            result = await call([event] if self._handling.batch else event, received)
        except (Exception, asyncio.CancelledError) as error:
            await self._failed(received, event, lane, self._own(error))
        else:
            if result is not None:
                await self._came(received, event, lane, result)

    async def _came(self, received: Received, event: Event, lane: Lane, result: Any) -> None:
        """Store what the handler returned, and send it to whoever asked."""
        try:
            drafts, reply_to = await self._handling.store(received, result)
        except Exception as error:
            await self._failed(received, event, lane, error)
        else:
            if reply_to is not None:
                await self._beside.reply(reply_to, drafts)

    async def _call_many(self, call: Any, batch: Batch) -> None:
        """All of the batch that can be read and whose keys are free, in one call; what waits meanwhile in further ones."""
        wire, lanes = self._handling.wire, self._lanes
        assert wire is not None, "connected before it runs"
        chosen: list[_Waiting] = []
        taken: dict[Lane, None] = {}
        for index, received in batch.rest:
            try:
                event = wire.event(received)
            except Exception as error:  # as in `_work`
                await self._unreadable(received, error)
                self._finished(batch, index)
                continue
            if type(event) not in self._handling.fields:
                self._finished(batch, index)
                continue
            lane = self._handling.lane(event)
            if lane is not None and lane not in taken:
                if lane in lanes:
                    behind = lanes[lane] = lanes[lane] or deque()
                    behind.append((batch, index, received, event))
                    continue
                taken[lane] = lanes[lane] = None
            chosen.append((batch, index, received, event))
        if self._queue and self._queue[0] is batch:
            self._queue.popleft()
        await self._many(call, chosen)
        for lane in taken:
            while waiting := lanes[lane]:
                lanes[lane] = None
                await self._many(call, list(waiting))
            del lanes[lane]

    async def _many(self, call: Any, chosen: Sequence[_Waiting]) -> None:
        """Those whose keys the log does not hold in one call; if it fails, each is kept."""
        free: list[_Waiting] = []
        for batch, index, received, event in chosen:
            lane = self._handling.lane(event)
            if lane in self._blocked:
                await asyncio.wait(self._blocked[lane])
                self._blocked.pop(lane, None)
            if self._kept and (key := self._kept_key(event)) is not None:
                await self._beside.keep(received, key, "waits behind an earlier message of its key")
                self._finished(batch, index)
            else:
                free.append((batch, index, received, event))
        if not free:
            return
        try:
            result = await call([event for _, _, _, event in free], free[0][2])
            if result is not None:
                await self._handling.store(free[-1][2], result)
        except (Exception, asyncio.CancelledError) as error:
            failure = self._own(error)
            for _, _, received, event in free:
                await self._failed(received, event, self._handling.lane(event), failure)
        for batch, index, _, _ in free:
            self._finished(batch, index)

    # --------------------------------------------------------------------------------------------------------- failing

    def _own(self, error: BaseException) -> Exception:
        """What a handler raised. Raises what somebody else wants of this task."""
        if isinstance(error, Exception):
            return error
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
        return RuntimeError("the handler was cancelled from inside")

    async def _failed(self, received: Received, event: Event, lane: Lane, error: Exception) -> None:
        told = f"{type(error).__name__}: {error}"
        key = self._key(event) if lane is not None else None
        self._observe(
            AttemptFailed(consumer=self._handling.name, position=0, key=key or received.where, attempt=1, error=told)
        )
        await self._beside.keep(received, key, told)

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
        await self._beside.keep(received, None, str(error))

    def _key(self, event: Event) -> str | None:
        """None also for a key that no event may have: nothing can wait for it."""
        try:
            return self._handling.key(event)
        except InvalidEvent:
            return None

    def _kept_key(self, event: Event) -> str | None:
        """The key of the event if the log holds earlier messages of it."""
        key = self._key(event)
        return key if key is not None and tag_hash(key) in self._kept else None

    # ------------------------------------------------------------------------------------------------------- accepting

    def _finished(self, batch: Batch, index: int) -> None:
        if self._acceptance.finished(batch, index):
            self._accept_soon()

    def _accept_soon(self) -> None:
        if self._accepting is None and not self.ended:
            self._accepting = self._world.spawn(self._accept_all(), name=f"{self._handling.name}: accept")

    async def _accept_all(self) -> None:
        try:
            while done := self._acceptance.take():
                await self._subscription.accept(done)
                self._world.failpoint("direct.accepted")
                self._acceptance.accepted()
                self._beside.worked()
                self._moved.set()
        except Exception as error:
            self._fail(error)
        finally:
            self._accepting = None
