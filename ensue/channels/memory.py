"""A broker in memory: for the tests of applications, and the one that others are compared with.

`memory:` and `memory://name` are brokers of this process, one for each name: whoever opens the same URL, on any event loop of any
thread, meets there. It keeps what it is given until the address is removed or the process ends: tests that are to know nothing
of each other use names of their own. In a simulation it is outside of
the simulated processes: there is one for each run, and it survives their deaths.

It fails as real ones do: what a member held when it ended, however it ended, comes again, in order and before what is new. Other
failures are planted by a double that wraps it; there is no switch for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Protocol, cast, runtime_checkable

import msgspec

from ensue.channels.base import Capabilities, From, Message, Received, Revoked, Subscription
from ensue.channels.urls import Place
from ensue.errors import EnsueError, MessageRefused, MissingCapability, Unavailable, WiringError
from ensue.world import World, new_lock

__all__ = ["MemoryBroker"]

PATIENCE_SECONDS = 30.0
"""How long a member may take to finish what is revoked."""


class MemoryBroker:
    """See the module."""

    prefix: ClassVar[str] = "ce-"
    parameters: ClassVar[Mapping[str, str]] = {
        "partitions": "how many partitions an address gets, if it is created (default: 1)",
        "assign": "`yes` assigns each partition to one member of a group, as Kafka does (default: no)",
        "largest": "the largest message in bytes (default: any is taken)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        self._place = place
        self._partitions = place.number("partitions", 1)
        self._assign = place.flag("assign", False)
        self._largest = place.number("largest", 0) or None
        self._create = place.create
        self._server: _Server | None = None
        self._members: set[_Member] = set()

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker.capabilities`."""
        return Capabilities(
            durable=False,
            groups=True,
            broadcast=True,
            replay=True,
            assigns=self._assign,
            cumulative=False,
            counts=True,
            delay=True,
            largest=self._largest,
        )

    async def open(self, world: World) -> None:
        """See `Broker.open`."""
        self._world = world
        name = (self._place.hosts, self._place.path)
        if isinstance(world, _HasOutside):
            self._server = world.outside(("memory:", name), _Server)
            if world.process is not None:
                world.process.owns(self._leave)
        else:
            self._server = _SERVERS.setdefault(name, _Server())

    async def close(self) -> None:
        """See `Broker.close`."""
        members = list(self._members)
        self._leave()
        for member in members:
            await member.close()

    def _leave(self) -> None:
        self._server = None
        for member in list(self._members):
            member.leave(_closed(self._place))
        self._members.clear()

    def _opened(self) -> _Server:
        if self._server is None:
            raise _closed(self._place)
        return self._server

    # --------------------------------------------------------------------------------------------------------- addresses

    async def declare(self, address: str) -> None:
        """See `Broker.declare`."""
        server = self._opened()
        with server.lock:
            if self._create and address not in server.topics:
                server.topics[address] = _Topic(address, self._partitions)
            found = len(self._topic(server, address).logs)
        if "partitions" in self._place.parameters and found != self._partitions:
            raise WiringError(
                f"{self._place.shown}: {address} has {found} partitions and not {self._partitions}; "
                "remove it, or leave out the parameter `partitions`"
            )

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        """See `Broker.remove`."""
        server = self._opened()
        with server.lock:
            topic = server.topics.pop(address, None)
            if topic is not None:
                for member in topic.members():
                    member.end(WiringError(f"{self._place.shown}: {address} was removed"))

    def _topic(self, server: _Server, address: str) -> _Topic:
        topic = server.topics.get(address)
        if topic is None:
            raise WiringError(
                f"{self._place.shown}: there is no address {address!r}; it is created by declaring it without `create=no`"
            )
        return topic

    # -------------------------------------------------------------------------------------------- publishing, receiving

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        """See `Broker.publish`."""
        errors: dict[int, EnsueError] = {}
        try:
            server = self._opened()
            with server.lock:
                topic = self._topic(server, address)
                for index, message in enumerate(messages):
                    if self._largest is not None and len(message.body) > self._largest:
                        errors[index] = self._too_large(address, message)
                    else:
                        topic.publish(message, self._world)
                topic.wake()
        except EnsueError as error:
            return dict.fromkeys(range(len(messages)), error)
        self._world.failpoint("memory.stored")
        # The confirmation comes back on its own way.
        await self._world.sleep(0)
        return errors

    def _too_large(self, address: str, message: Message) -> MessageRefused:
        return MessageRefused(
            f"{self._place.shown}: a message of {len(message.body)} bytes to {address} is larger than {self._largest}; "
            "make it smaller"
        )

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
        server = self._opened()
        if group is None and start != "now" and start != "beginning":
            raise MissingCapability(f"{self._place.shown}: a subscription without a group begins now, not at a time")
        with server.lock:
            topic = self._topic(server, address)
            joined = (
                topic.group(None, "now", assign=False) if group is None else topic.group(group, start, self._assign)
            )
            member = _Member(self, self._world, server, topic, joined, prefetch, revoked)
            self._members.add(member)
            joined.join(member)
        return member

    def forget(self, member: _Member) -> None:
        """It has left."""
        self._members.discard(member)


class _Process(Protocol):
    def owns(self, release: Callable[[], object]) -> None: ...


@runtime_checkable
class _HasOutside(Protocol):
    """A simulated world: what is outside of its processes is there for one run, and hears when a process dies."""

    process: _Process | None

    def outside(self, key: object, make: Callable[[], _Server]) -> _Server: ...


def _closed(place: Place) -> Unavailable:
    return Unavailable(f"{place.shown}: the connection is not open; open another one")


class _Server:
    """All addresses of one name. Whatever is below here is touched by who holds the lock."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.topics: dict[str, _Topic] = {}


_SERVERS: dict[object, _Server] = {}


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """A message that was stored: the `number`th of its address, the `offset`th of its partition, counted from 0."""

    message: Message
    number: int
    partition: int
    offset: int
    stored_at: int


class _Topic:
    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.logs: list[list[_Entry]] = [[] for _ in range(partitions)]
        self._count = 0
        self._groups: dict[str, _Group] = {}
        self._broadcasts: set[_Group] = set()
        self._delayed: list[tuple[float, int, Message]] = []
        """A heap: when it is due by the clock that never goes back, and the order in which they came."""

    def publish(self, message: Message, world: World) -> None:
        message = msgspec.structs.replace(message, headers=dict(message.headers))
        if message.delay_seconds > 0:
            due = world.monotonic() + message.delay_seconds
            heapq.heappush(self._delayed, (due, self._count, message))
            self._count += 1
        else:
            self._store(message, world)

    def _store(self, message: Message, world: World) -> None:
        partition = zlib.crc32((message.key or "").encode()) % len(self.logs)
        log = self.logs[partition]
        log.append(_Entry(message, self._count, partition, len(log), world.now()))
        self._count += 1

    def next_due(self) -> float | None:
        """When the next delayed message is due."""
        return self._delayed[0][0] if self._delayed else None

    def store_due(self, world: World) -> None:
        """Store what was delayed and is due."""
        stored = False
        while self._delayed and self._delayed[0][0] <= world.monotonic():
            self._store(heapq.heappop(self._delayed)[2], world)
            stored = True
        if stored:
            self.wake()

    def group(self, name: str | None, start: From, assign: bool) -> _Group:
        found = None if name is None else self._groups.get(name)
        if found is None:
            found = _Group(self, name, start, assign)
            if name is None:
                self._broadcasts.add(found)
            else:
                self._groups[name] = found
        return found

    def drop(self, group: _Group) -> None:
        self._broadcasts.discard(group)

    def members(self) -> list[_Member]:
        return [member for group in (*self._groups.values(), *self._broadcasts) for member in group.members]

    def wake(self) -> None:
        for member in self.members():
            member.wake()


class _Cursor:
    """How far a group is in one partition."""

    def __init__(self, log: list[_Entry], start: From) -> None:
        self.owner: _Member | None = None
        self.returned: list[int] = []
        """A heap of the offsets that were given back: all of them are before `next`."""
        if start == "beginning":
            self.next = 0
        elif start == "now":
            self.next = len(log)
        else:
            self.next = next((entry.offset for entry in log if entry.stored_at >= start), len(log))
        self._log = log

    def peek(self) -> _Entry | None:
        offset = self.returned[0] if self.returned else self.next
        return self._log[offset] if offset < len(self._log) else None

    def take(self) -> None:
        if self.returned:
            heapq.heappop(self.returned)
        else:
            self.next += 1

    @property
    def waiting(self) -> int:
        return len(self.returned) + len(self._log) - self.next


class _Group:
    def __init__(self, topic: _Topic, name: str | None, start: From, assign: bool) -> None:
        self.members: list[_Member] = []
        self.again: dict[int, int] = {}
        """How often a message has been delivered that came back, by its number."""
        self._topic = topic
        self._name = name
        self._assign = assign
        self._cursors = [_Cursor(log, start) for log in topic.logs]

    @property
    def waiting(self) -> int:
        return sum(cursor.waiting for cursor in self._cursors)

    def next_for(self, member: _Member) -> _Entry | None:
        """Take what this member is to receive next: of its partitions that which was stored first."""
        first: tuple[_Entry, _Cursor] | None = None
        for partition, cursor in enumerate(self._cursors):
            if self._assign and (cursor.owner is not member or partition in member.leaving):
                continue
            entry = cursor.peek()
            if entry is not None and (first is None or entry.number < first[0].number):
                first = entry, cursor
        if first is None:
            return None
        first[1].take()
        return first[0]

    def give_back(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self.again[entry.number] = self.again.get(entry.number, 0) + 1
            heapq.heappush(self._cursors[entry.partition].returned, entry.offset)
        if entries:
            for member in self.members:
                member.wake()

    def join(self, member: _Member) -> None:
        self.members.append(member)
        self._balance()

    def leave(self, member: _Member) -> None:
        if member in self.members:
            self.members.remove(member)
            if self._name is None:
                self._topic.drop(self)
            self.release(member, range(len(self._cursors)))

    def release(self, member: _Member, partitions: Collection[int]) -> None:
        """Partitions that the member has finished with go to others."""
        for partition in partitions:
            if self._cursors[partition].owner is member:
                self._cursors[partition].owner = None
        self._balance()

    def _balance(self) -> None:
        """Give every member its share, and move no more partitions than that needs."""
        if not self._assign or not self.members:
            return
        mine = {
            member: [number for number, cursor in enumerate(self._cursors) if cursor.owner is member]
            for member in self.members
        }
        free = [number for number, cursor in enumerate(self._cursors) if cursor.owner is None]
        share, left = divmod(len(self._cursors), len(self.members))
        # What does not divide stays with those who have more already.
        for rank, member in enumerate(sorted(self.members, key=lambda member: -len(mine[member]))):
            most = share + (rank < left)
            staying = [number for number in mine[member] if number not in member.leaving]
            if len(staying) > most:
                member.revoke(frozenset(staying[most:]))
            while free and len(staying) < most:
                self._cursors[free[0]].owner = member
                staying.append(free.pop(0))
                member.wake()


class _Received:
    """A message that came, with the entry it stands in."""

    __slots__ = ("_address", "deliveries", "entry")

    def __init__(self, address: str, entry: _Entry, deliveries: int) -> None:
        self._address = address
        self.entry = entry
        self.deliveries = deliveries

    @property
    def body(self) -> bytes:
        return self.entry.message.body

    @property
    def content_type(self) -> str | None:
        return self.entry.message.content_type

    @property
    def key(self) -> str | None:
        return self.entry.message.key

    @property
    def partition(self) -> int:
        return self.entry.partition

    @property
    def where(self) -> str:
        return f"{self._address}/{self.entry.partition} @ {self.entry.offset}"

    @property
    def headers(self) -> Mapping[str, str]:
        return self.entry.message.headers

    def header(self, name: str) -> str | None:
        return self.entry.message.headers.get(name)


class _Member:
    """A `Subscription`."""

    def __init__(
        self,
        broker: MemoryBroker,
        world: World,
        server: _Server,
        topic: _Topic,
        group: _Group,
        prefetch: int,
        revoked: Revoked | None,
    ) -> None:
        self.leaving: set[int] = set()
        """Partitions that it is to finish and to give up."""
        self._broker = broker
        self._world = world
        self._server = server
        self._topic = topic
        self._group = group
        self._prefetch = prefetch
        self._revoked = revoked
        self._held: dict[int, _Entry] = {}
        self._ended: EnsueError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._handing_over: set[asyncio.Task[None]] = set()

    async def receive(self, most: int) -> Sequence[Received]:
        """See `Subscription.receive`."""
        while True:
            with self._server.lock:
                if self._ended is not None:
                    raise self._ended
                self._topic.store_due(self._world)
                taken = self._take(min(most, self._prefetch - len(self._held)))
                if taken:
                    return taken
                self._waiter = self._loop.create_future()
                due = self._topic.next_due()
            timer = None
            if due is not None:
                timer = self._world.call_later(max(0.0, due - self._world.monotonic()), self.wake)
            try:
                await self._waiter
            finally:
                if timer is not None:
                    timer.cancel()

    def _take(self, most: int) -> list[Received]:
        taken: list[Received] = []
        while len(taken) < most and (entry := self._group.next_for(self)) is not None:
            self._held[entry.number] = entry
            taken.append(_Received(self._topic.name, entry, self._group.again.get(entry.number, 0) + 1))
        return taken

    async def accept(self, received: Sequence[Received]) -> None:
        """See `Subscription.accept`."""
        with self._server.lock:
            for entry in self._let_go(received):
                self._group.again.pop(entry.number, None)

    reject = accept

    async def requeue(self, received: Sequence[Received]) -> None:
        """See `Subscription.requeue`."""
        with self._server.lock:
            self._group.give_back(self._let_go(received))

    def _let_go(self, received: Sequence[Received]) -> list[_Entry]:
        """What of it is held here, and is no more."""
        if self._ended is not None:
            raise Unavailable(str(self._ended))
        self.wake()
        numbers = [cast(_Received, one).entry.number for one in received]
        return [self._held.pop(number) for number in numbers if number in self._held]

    async def backlog(self) -> int | None:
        """See `Subscription.backlog`."""
        with self._server.lock:
            if self._ended is not None:
                raise Unavailable(str(self._ended))
            self._topic.store_due(self._world)
            return self._group.waiting

    async def close(self) -> None:
        """See `Subscription.close`."""
        self.leave(Unavailable(f"the subscription to {self._topic.name} is closed; make another one"))
        self._broker.forget(self)
        tasks = self._handing_over - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def leave(self, why: EnsueError) -> None:
        """End, and give back what is held."""
        with self._server.lock:
            self.end(why)
            held, self._held = self._held, {}
            self._group.give_back(list(held.values()))
            self._group.leave(self)

    # --------------------------------------------------------------------------------------------------- with the lock

    def end(self, why: EnsueError) -> None:
        """Receive no more."""
        self._ended = self._ended or why
        self.wake()

    def wake(self) -> None:
        """Let `receive` look again."""
        self._on_loop(self._look)

    def _look(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_loop(self, call: Callable[[], None]) -> None:
        """On the loop of this member, at once if the caller is there."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # no loop runs here
            here = False
        if here:
            call()
        else:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                self._loop.call_soon_threadsafe(call)

    # ------------------------------------------------------------------------------------------------------ handing over

    def revoke(self, partitions: frozenset[int]) -> None:
        """They go to another member as soon as this one has finished with them."""
        self.leaving |= partitions

        def begin() -> None:
            task = self._world.spawn(self._hand_over(partitions), name=f"hand over {self._topic.name}")
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

        self._on_loop(begin)

    async def _hand_over(self, partitions: frozenset[int]) -> None:
        failure: EnsueError | None = None
        try:
            if self._revoked is not None:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._revoked(partitions)
        except Exception as error:
            failure = Unavailable(f"{self._topic.name}: what was revoked could not be finished: {error!r}")
            failure.__cause__ = error
        with self._server.lock:
            if failure is not None:
                self.end(failure)
            gone = [number for number, entry in self._held.items() if entry.partition in partitions]
            self._group.give_back([self._held.pop(number) for number in gone])
            self.leaving -= partitions
            self._group.release(self, partitions)
