"""Waiting until named consumers, or all that a write causes, are done with it.

An event is *done* for a consumer when its effects are committed there or it was discarded: at or below the mark of its
segment, or ahead of it, or passed by the lane of its key. Effects and "done" are one commit, so the order of reading
decides: progress first, then the events. Reading the events first would call a write settled while a consumer that has
finished is about to show what it emitted.

Not waited for: retries that an operator has yet to make, and messages sent to other applications. A wait fails at once
on a dead letter, on what waits behind one, and on a consumer that is paused, tripped or that nobody runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from ensue.consumers.routing import Routing, segment_of
from ensue.errors import HandlerFailed, NotCaughtUp
from ensue.events.stored import Row
from ensue.store.base import Consumer, Lane, LaneState, Standing, Store, Term
from ensue.store.nodes import living
from ensue.world import World

__all__ = ["Bell", "Done", "Readings", "handled_numbers", "wait_until_done", "wait_until_settled"]

POLL_SECONDS = 0.05
"""How late the progress of another process is noticed at most; this process's own rings the bell."""
UNOWNED_SECONDS = 2.0
PAGE = 1000
ROOTS_LOOKED_UP = 20


class Bell:
    """Wakes everybody who waits for progress. Those who wake together share what they read: hundreds of waits would
    otherwise read the same rows hundreds of times for each commit."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self._shared: Readings | None = None

    def ring(self) -> None:
        self._shared = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def readings(self, store: Store) -> Readings:
        """What has been read in this turn of the loop. An earlier reading of progress is never wrong, it tells of less."""
        if self._shared is None:
            self._shared = Readings(store)
            asyncio.get_running_loop().call_soon(self._forget)
        return self._shared

    def _forget(self) -> None:
        self._shared = None

    @staticmethod
    def _silence(waiter: asyncio.Future[None]) -> Callable[[], None]:
        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        return wake

    async def wait(self, world: World, seconds: float) -> None:
        """Until the next ring, or for `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        timer = world.call_later(seconds, self._silence(waiter))
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


async def handled_numbers(store: Store, consumer: Consumer) -> dict[int, int]:
    """The number of each type that a consumer handles, and the position after which it does. What is stored under a former
    name is handled under that, under the present one, or under both: then from the earlier of the two on."""
    former, found = await store.former_names(), dict[int, int]()
    for number, (name, _) in (await store.types()).items():
        since = [consumer.handles[known] for known in {name, former.get(name, name)} if known in consumer.handles]
        if since:
            found[number] = min(since)
    return found


class Done:
    """What one consumer has done, by one consistent reading of its rows."""

    def __init__(self, consumer: Consumer, standing: Standing, handles: Mapping[int, int]) -> None:
        self.consumer = consumer
        self.owners = frozenset(row.owner for row in standing.progress if row.owner is not None)
        self._handles = handles
        self._routing = Routing(consumer.key_tag)
        self._progress = {row.segment: row for row in standing.progress}
        self._ahead = {row.segment: frozenset(row.ahead) for row in standing.progress}
        self._lanes = {lane.key: lane for lane in standing.lanes}

    def handles(self, row: Row) -> bool:
        """Whether the event is this consumer's to handle."""
        since = self._handles.get(row[2])
        return since is not None and row[0] > since

    def lane(self, row: Row) -> Lane | None:
        return self._lanes.get(self._routing.key(row))

    def done(self, row: Row) -> bool:
        """True for events that are done, and for those the consumer does not handle."""
        if not self.handles(row):
            return True
        key = self._routing.key(row)
        lane = self._lanes.get(key)
        if lane is not None:
            return row[0] <= lane.after
        segment = segment_of(key, self.consumer.segments)
        return row[0] <= self._progress[segment].position or row[0] in self._ahead[segment]

    def blocked(self, row: Row) -> str | None:
        """Why the event cannot be done without a person's help, if so."""
        if self.consumer.status in ("paused", "tripped"):
            return f"the consumer is {self.consumer.status}: {self.consumer.reason or 'by an operator'}"
        lane = self.lane(row)
        if lane is None or lane.state != LaneState.PARKED or row[0] <= lane.after:
            return None
        return f"its key {lane.key_text} is parked: {lane.error}"


class Readings:
    """One reading of the consumers, each read when it is first asked for.

    Progress is read first and the types of the log after it: what a commit that is seen here has emitted may be of a type
    that is new, and would otherwise pass for one that nobody handles.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._consumers: tuple[Consumer, ...] | None = None
        self._standings: dict[int, Standing] = {}
        self._done: dict[int, Done] = {}
        self._types = 0

    async def of(self, names: Collection[str]) -> list[Done]:
        """What these consumers have done; without names, all that are not retired."""
        if self._consumers is None:
            self._consumers = await self._store.consumers()
        wanted = [one for one in self._consumers if one.status != "retired" and (not names or one.name in names)]
        for consumer in wanted:
            if consumer.id not in self._standings:
                self._standings[consumer.id] = await self._store.standing(consumer.id)
        types = len(await self._store.types())
        if types != self._types:
            self._types = types
            self._done.clear()
        for consumer in wanted:
            if consumer.id not in self._done:
                handles = await handled_numbers(self._store, consumer)
                self._done[consumer.id] = Done(consumer, self._standings[consumer.id], handles)
        return [self._done[consumer.id] for consumer in wanted]


class _Wait:
    """One wait: its deadline, and a fresh reading of the consumers each time round."""

    def __init__(self, store: Store, world: World, bell: Bell, timeout_seconds: float, names: Collection[str]) -> None:
        self._store = store
        self._world = world
        self._bell = bell
        self._names = names
        self._began = world.monotonic()
        self._deadline = self._began + timeout_seconds
        self._timeout = timeout_seconds

    async def reading(self) -> list[Done]:
        return await self._bell.readings(self._store).of(self._names)

    async def undone(self, rows: Iterable[Row], readings: list[Done]) -> list[Row]:
        """The rows that some consumer has still to do. Raises `HandlerFailed` for one that will not be done."""
        pending: list[Row] = []
        for row in rows:
            waiting_for = [reading for reading in readings if not reading.done(row)]
            for reading in waiting_for:
                await self._check(row, reading)
            if waiting_for:
                pending.append(row)
        return pending

    async def _check(self, row: Row, reading: Done) -> None:
        name = reading.consumer.name
        reason = reading.blocked(row)
        if reason is None:
            if self._world.monotonic() - self._began <= UNOWNED_SECONDS or await self._runs(reading):
                return
            reason = "no running process owns the consumer"
        letters = await self._store.dead_letters(consumer=reading.consumer.id)
        lane = reading.lane(row)
        letter = next((letter for letter in letters if lane is not None and letter.key == lane.key), None)
        raise HandlerFailed(
            f"waited for {name} to handle the event at position {row[0]}, but {reason}. "
            + (f"See `ensue dead-letters show {letter.id}`." if letter else "See `ensue consumers`."),
            consumer=name,
            position=row[0],
            dead_letter=letter.id if letter else None,
        )

    async def _runs(self, reading: Done) -> bool:
        """Whether a living process owns any of the consumer, or can run it and so will."""
        id, owners = reading.consumer.id, reading.owners
        nodes = living(await self._store.nodes(), self._world.now())
        return any(node.id in owners or id in node.can for node in nodes)

    async def pause(self, pending: list[Row], readings: list[Done]) -> None:
        left = self._deadline - self._world.monotonic()
        if left <= 0:
            first = pending[0]
            late = sorted(reading.consumer.name for reading in readings if not reading.done(first))
            raise NotCaughtUp(
                f"waited {self._timeout:g} s; the event at position {first[0]} is not done by {', '.join(late)}. "
                "What was written is safe; wait longer, or see `ensue consumers`."
            )
        await self._bell.wait(self._world, min(left, POLL_SECONDS))


async def wait_until_done(
    store: Store, world: World, bell: Bell, rows: Iterable[Row], *, consumers: Collection[str], timeout_seconds: float
) -> None:
    """Until each named consumer that handles one of the rows is done with it. Errors: `HandlerFailed`, `NotCaughtUp`."""
    wait = _Wait(store, world, bell, timeout_seconds, consumers)
    pending = list(rows)
    while True:
        readings = await wait.reading()
        pending = await wait.undone(pending, readings)
        if not pending:
            return
        await wait.pause(pending, readings)


async def wait_until_settled(
    store: Store, world: World, bell: Bell, rows: Iterable[Row], *, timeout_seconds: float,
    seen: Callable[[Row], bool] | None = None,
) -> None:  # fmt: skip
    """Until these events and everything they cause, directly or not, are done by every active consumer.

    `seen` is called once with each caused event, in position order; when it returns True the wait is over.
    Errors: `HandlerFailed`, `NotCaughtUp`.
    """
    wait = _Wait(store, world, bell, timeout_seconds, ())
    pending = list(rows)
    roots = {row[7] or row[0] for row in pending}
    # What few caused is looked up in the index. For many it is quicker to read all that came since and compare.
    selection = tuple(Term(root=root) for root in sorted(roots)) if len(roots) <= ROOTS_LOOKED_UP else ()
    origin = {row[0] for row in pending}
    after = min(origin, default=0)
    while True:
        readings = await wait.reading()
        while True:
            page = await store.read(selection, after=after, limit=PAGE)
            for row in page.rows:
                if row[0] in origin or row[7] not in roots:
                    continue
                if seen is not None and seen(row):
                    return
                pending.append(row)
            if len(page.rows) < PAGE and page.reached >= store.head():
                break
            after = page.reached
        after = max(after, page.reached)
        pending = await wait.undone(pending, readings)
        if not pending:
            return
        await wait.pause(pending, readings)
