"""Redis as a broker: streams and their consumer groups. `redis://user:password@host:6379/0`, `rediss://` with TLS.

**Names.** An address is the stream at the key of that name, a group is a consumer group of it. A message is an entry: the field
`data` is the body, `content-type` and `key` are what they say, every other field is a header, and those of CloudEvents begin
with `ce_`. Nothing else is stored.

**States of an entry, for a group.** *New* until a member reads it; *pending* with that member until it is accepted (`XACK`).
Of a member that ended, entries are *orphaned*: whoever lives claims them, in order and before it reads what is new, and Redis
counts the delivery. A member looks for them when it begins, and each second while it receives.

**Who lives.** A member subscribes to a channel (of publish and subscribe) that has its name, on the connection that it reads
from: Redis itself knows when that ends, so the entries of a process that was killed come again within a second or two, and
those of one that lives stay with it however long it works. Only for a machine that vanishes without ending its connections a
time counts: a member that Redis has not heard of for `lease_seconds`. Ours are heard of several times in this time as long as
their event loop runs. Consumers of other programs in the same group keep what they have: it is known of none whether it lives.

**Broadcast** is reading the stream from its end (`XREAD`) and not Redis' publish and subscribe, because publishers need not know
who listens, nothing is lost while a subscription is connected, and one that is slow is not thrown out.

**Room.** A stream grows until something is removed. `trim=accepted` removes what all groups have accepted; then a new group cannot
begin with it, and a group that nobody uses any more keeps all (`XGROUP DESTROY` ends it). `max_length` removes the oldest, *also
when no group has read them*.

**Rights** of a user: `~ADDRESS &ensue-* +hello +ping +type +exists +unlink +xadd +xread +xreadgroup +xack +xclaim +xpending +xtrim
+xgroup +xinfo +eval +pubsub +subscribe`, with `+config|get` to be told what it can do, and `+wait` for `replicas`.

**Not supported**: Redis Cluster and Sentinel; the URL names one server. Redis keeps no message for later.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import hiredis
import msgspec

from ensue.channels.base import Capabilities, From, Message, Received, Revoked
from ensue.channels.redis_protocol import (
    NOTHING,
    OWN,
    SILENCE_SECONDS,
    Connection,
    Entry,
    command,
    error_said,
    secure,
    unwelcome,
)
from ensue.channels.urls import Place
from ensue.errors import EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.world import World

__all__ = ["RedisBroker", "RedisSubscription"]

OLDEST = (7, 0)
"""Older ones leave an entry pending for ever that was removed before it was accepted, and do not know the backlog of a group."""
LOOK_SECONDS = 1.0
"""How often a member that receives looks for orphans; and the longest that Redis lets it wait for an answer."""
TICK_SECONDS = 5.0
MOST = 1000
"""Entries of one answer. A script can pass on 8,000 texts."""
BULK_BYTES = 512 * 1024 * 1024
"""The longest text that Redis takes, where nothing else is configured."""
MEMBER = "ensue-"
"""What the names of our consumers begin with."""
_PAST = b"18446744073709551614-0"
"""Behind all ids. To read one's own entries from here finds nothing, and Redis has heard of the member."""
_CLAIM = b"""
local claimed, orphans, dead = {}, {}, {}
local group, member, prefix, most, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
for _, pairs in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
    local about = {}
    for i = 1, #pairs, 2 do about[pairs[i]] = pairs[i + 1] end
    local name = about['name']
    if name ~= member and string.sub(name, 1, #prefix) == prefix
        and (about['idle'] > lease or redis.call('PUBSUB', 'NUMSUB', name)[2] == 0) then
        if about['pending'] == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, name)
        else dead[#dead + 1] = name end
    end
end
for _, name in ipairs(dead) do
    for _, entry in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', most, name)) do
        local time, number = string.match(entry[1], '(%d+)-(%d+)')
        orphans[#orphans + 1] = {entry[1], entry[4], tonumber(time), tonumber(number)}
    end
end
table.sort(orphans, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[4] < b[4]) end)
if #orphans == 0 then return {0, {}} end
local ids, counts = {}, {}
for i = 1, math.min(most, #orphans) do
    ids[i] = orphans[i][1]
    counts[ids[i]] = orphans[i][2] + 1
end
for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], group, member, 0, unpack(ids))) do
    if entry then claimed[#claimed + 1] = {entry[1], entry[2], counts[entry[1]]} end
end
return {#orphans, claimed}
"""
"""Claim orphans, the oldest first; and forget members that are dead and have none. Tells how many it has seen of them."""

_TRIM = b"""
local lowest, time, number
for _, pairs in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local about = {}
    for i = 1, #pairs, 2 do about[pairs[i]] = pairs[i + 1] end
    local id = redis.call('XPENDING', KEYS[1], about['name'])[2] or about['last-delivered-id']
    local t, n = string.match(id, '(%d+)-(%d+)')
    t, n = tonumber(t), tonumber(n)
    if not lowest or t < time or (t == time and n < number) then lowest, time, number = id, t, n end
end
return lowest and redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest) or 0
"""
"""Remove what is older than what any group still has to read or to accept."""


class RedisBroker:
    """See the module. Besides the connection for everything else, each subscription has one that it reads from."""

    prefix: ClassVar[str] = "ce_"
    parameters: ClassVar[Mapping[str, str]] = {
        "durable": "`yes` or `no`: whether what Redis confirms survives its restart; without it Redis is asked, and says so when "
        "it has `appendonly yes` and `appendfsync always`; where it does not tell: no",
        "lease_seconds": "how long a member may not be heard of whose connection is still there (default: 60)",
        "max_length": "about how many messages a stream keeps; older ones are removed, *also when no group has read them* "
        "(default: all)",
        "replica_seconds": "how long to wait for replicas (default: 1)",
        "replicas": "how many replicas must have a message before it is confirmed (default: 0)",
        "trim": "`accepted` removes what all groups have accepted, so that a new group cannot begin with it; `no` keeps it "
        "(default: no)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        self._place = place
        if len(place.hosts) != 1:
            raise WiringError(f"{place.shown}: name one server; Redis Cluster and Sentinel are not supported")
        if place.path and not place.path.isdecimal():
            raise WiringError(f"{place.shown}: the path is the number of a database, as in redis://host:6379/0")
        self.lease = place.seconds("lease_seconds", 60.0)
        self.trims = place.choice("trim", "no", "accepted") == "accepted"
        self._limit: tuple[bytes | int, ...] = ()
        if "max_length" in place.parameters:
            self._limit = (b"MAXLEN", b"~", place.number("max_length", 0))
        self._replicas = place.number("replicas", 0, lowest=0)
        self._replica_seconds = place.seconds("replica_seconds", 1.0)
        self._capabilities = Capabilities(
            durable=place.flag("durable", False),
            groups=True,
            broadcast=True,
            replay=True,
            assigns=False,
            cumulative=False,
            counts=True,
            delay=False,
            largest=BULK_BYTES,
        )
        self._commands: Connection | None = None
        self._subscriptions: set[RedisSubscription] = set()
        self._error: EnsueError | None = Unavailable(f"{place.shown}: it was not opened")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self, world: World) -> None:
        self.world = world
        self._error = None
        try:
            async with self._in_time():
                self._commands = await self.connection(self.lost)
                await self._ask_what_it_can()
        except EnsueError as error:
            self.fail(error)
            raise
        self._tick()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None, None]:
        """What is done within has so long as connecting may take. Errors: `Unavailable`."""
        place = self._place
        try:
            async with asyncio.timeout(place.connect_seconds):
                yield
        except TimeoutError as error:
            kind = "a Redis server that speaks TLS there" if place.tls else "a Redis server"
            text = f"{place.shown}: no answer within {place.connect_seconds:g} s; is it {kind}?"
            raise Unavailable(text) from error

    async def connection(self, lost: Callable[[BaseException | None], None]) -> Connection:
        """Another connection to the server, logged in."""
        place = self._place
        host, port = place.hosts[0]
        tls = secure(place) if place.tls else None
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self.world, lost), host, port or 6379, ssl=tls
            )
        except ssl.SSLError as error:
            raise WiringError(
                f"{place.shown}: no TLS with this server: {error}; look at tls_ca, and at its port"
            ) from error
        except OSError as error:
            raise Unavailable(f"{place.shown} cannot be reached: {error}") from error
        try:
            await self._log_in(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _log_in(self, connection: Connection) -> None:
        place, shown = self._place, self._place.shown
        login: tuple[str, ...] = ()
        if place.user is not None or place.password is not None:
            login = ("AUTH", place.user or "default", place.password or "")
        commands = [command("HELLO", "3", *login, "SETNAME", "ensue")]
        if place.path not in ("", "0"):
            commands.append(command("SELECT", place.path))
        answers = await connection.ask(commands)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise error_said(answer, f"logging in to {shown}")
        if len(answers) < len(commands):
            raise unwelcome(connection.cause, place)
        about: Mapping[bytes, Any] = answers[0]
        if about[b"mode"] != b"standalone":
            raise WiringError(f"{shown} is a {about[b'mode'].decode()}; Redis Cluster and Sentinel are not supported")
        version: str = about[b"version"].decode()
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise WiringError(f"{shown} is Redis {version}; it is to be {OLDEST[0]}.{OLDEST[1]} or later")

    async def _ask_what_it_can(self) -> None:
        names = ("appendonly", "appendfsync", "proto-max-bulk-len")
        answers = await self._working().ask(command("CONFIG", "GET", name) for name in names)
        if len(answers) < len(names):
            self._working()
        # Many users may not ask this.
        told = {
            name: answer.get(name.encode()) for name, answer in zip(names, answers, strict=True) if type(answer) is dict
        }
        durable = told.get("appendonly") == b"yes" and told.get("appendfsync") == b"always"
        largest = told.get("proto-max-bulk-len")
        self._capabilities = msgspec.structs.replace(
            self._capabilities,
            durable=self._place.flag("durable", durable),
            largest=BULK_BYTES if largest is None else int(largest),
        )

    async def declare(self, address: str) -> None:
        what = f"{self._place.shown}: declaring {address!r}"
        kind = await self.answer("TYPE", address, what=what)
        if kind == b"none":
            if not self._place.create:
                raise WiringError(f"{what}: there is no such stream, and the URL says create=no")
            # The way to a stream with nothing in it.
            group = f"ensue-{self.world.new_id().hex()}"
            await self.answer("XGROUP", "CREATE", address, group, "$", "MKSTREAM", what=what)
            await self.answer("XGROUP", "DESTROY", address, group, what=what)
        elif kind != b"stream":
            raise WiringError(f"{what}: it was to be a stream, and is a {kind.decode()}; choose another address")

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        told: dict[int, EnsueError] = {}
        sent: list[int] = []
        what = f"{self._place.shown}: publishing to {address!r}"
        connection = self._commands
        if self._error is not None or connection is None:
            return dict.fromkeys(range(len(messages)), self._error or Unavailable(what))
        answers = await connection.ask(self._adding(address, messages, sent, told))
        for index, answer in zip(sent, answers, strict=False):
            if type(answer) is not bytes:
                gone = WiringError(f"{what}: there is no such stream any more")
                told[index] = gone if answer is None else error_said(answer, what)
        if len(answers) < len(sent):
            lost = OutcomeUnknown(f"{what}: the answer was lost: {self._error}")
            told |= dict.fromkeys(sent[len(answers) :], lost)
        if self._replicas and sent:
            have = answers[-1] if len(answers) > len(sent) else "nothing"
            if type(have) is not int or have < self._replicas:
                few = OutcomeUnknown(
                    f"{what}: {self._replicas} replicas were to have it; asked how many have, Redis says {have}"
                )
                told = dict.fromkeys(sent, few) | told
        return told

    def _adding(
        self, address: str, messages: Sequence[Message], sent: list[int], told: dict[int, EnsueError]
    ) -> Iterator[bytes]:
        """The commands; which messages they send, and what is told of the others."""
        head = ("XADD", address, "NOMKSTREAM", *self._limit, "*", "data")
        for index, message in enumerate(messages):
            wrong = self._wrong_with(message)
            if not wrong:
                parts: list[str | bytes | int] = [*head, message.body, "content-type", message.content_type]
                if message.key is not None:
                    parts += ("key", message.key)
                for header in message.headers.items():
                    parts += header
                try:
                    packed = command(*parts)
                    sent.append(index)
                    yield packed
                    continue
                except UnicodeEncodeError as error:
                    wrong = f"has a header that is no text: {error}"
            told[index] = MessageRefused(f"{self._place.shown}: publishing to {address!r}: message {index} {wrong}")
        if self._replicas and sent:
            yield command("WAIT", self._replicas, int(1000 * self._replica_seconds))

    def _wrong_with(self, message: Message) -> str:
        largest = self._capabilities.largest
        if largest is not None and len(message.body) > largest:
            return f"has {len(message.body)} bytes, and Redis takes {largest} (proto-max-bulk-len)"
        if not OWN.isdisjoint(message.headers):
            return f"has a header that is named like a field of the channel: {', '.join(sorted(OWN))}"
        return "is to be delayed, which Redis cannot" if message.delay_seconds > 0 else ""

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> RedisSubscription:
        await self.declare(address)
        if group is None:
            what = f"{self._place.shown}: subscribing to {address!r}"
            about = await self.answer("XINFO", "STREAM", address, what=what)
            subscription = RedisSubscription(self, address, prefetch=prefetch, since=about[b"last-generated-id"])
        else:
            await self._declare_group(address, group, start)
            subscription = _Member(self, address, group, prefetch=prefetch)
        async with self._in_time():
            await subscription.begin()
        self._subscriptions.add(subscription)
        if self._error is not None:
            subscription.fail(self._error)
            raise self._error
        return subscription

    async def _declare_group(self, address: str, group: str, start: From) -> None:
        what = f"{self._place.shown}: subscribing to {address!r} as {group!r}"
        if not self._place.create:
            groups = await self.answer("XINFO", "GROUPS", address, what=what)
            if group.encode() not in [about[b"name"] for about in groups]:
                raise WiringError(
                    f"{what}: the stream has no such group, and the URL says create=no; XGROUP CREATE makes one"
                )
            return
        answers = await self._working().ask((command("XGROUP", "CREATE", address, group, _since(start)),))
        if not answers:
            self._working()
        if isinstance(answers[0], hiredis.ReplyError) and not str(answers[0]).startswith("BUSYGROUP"):
            raise error_said(answers[0], what)

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        await self.answer("UNLINK", address, what=f"{self._place.shown}: removing {address!r}")

    async def close(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        self.fail(Unavailable(f"{self._place.shown}: the connection is closed"))

    # ------------------------------------------------------------------------------------------- for its subscriptions

    async def answer(self, *parts: bytes | str | int, what: str) -> Any:
        """Of one command. Errors: by what Redis says; `Unavailable` when the connection broke."""
        answers = await self._working().ask((command(*parts),))
        if not answers:
            self._working()
        if isinstance(answers[0], hiredis.ReplyError):
            raise error_said(answers[0], what)
        return answers[0]

    def send(self, packed: bytes, answered: Callable[[list[Any]], None]) -> None:
        """One command, whose answer nobody waits for. Errors: `Unavailable` when the connection is broken already."""
        self._working().send((packed,), answered)

    def fail(self, error: EnsueError) -> None:
        """Break for ever: whatever waits is told."""
        if self._error is not None:
            return
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
        for subscription in list(self._subscriptions):
            subscription.fail(error)
        if self._commands is not None:
            self._commands.abort()

    def forget(self, subscription: RedisSubscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def place(self) -> Place:
        return self._place

    @property
    def broken(self) -> bool:
        return self._error is not None

    def lost(self, error: BaseException | None) -> None:
        """A connection broke."""
        self.fail(Unavailable(f"the connection to {self._place.shown} broke: {error or 'the server closed it'}"))

    def _working(self) -> Connection:
        if self._error is not None or self._commands is None:
            raise self._error or Unavailable(f"{self._place.shown}: it was not opened")
        return self._commands

    def _tick(self) -> None:
        """Be heard of, and see whether the server still answers."""
        if self._error is not None:
            return
        connections = [self._working(), *(subscription.connection for subscription in self._subscriptions)]
        if any(connection.silent() for connection in connections):
            self.fail(Unavailable(f"{self._place.shown} has not answered for {SILENCE_SECONDS:g} s"))
            return
        self.send(command("PING"), _ignore)
        for subscription in self._subscriptions:
            subscription.be_heard_of()
        self._timer = self.world.call_later(min(TICK_SECONDS, self.lease / 4), self._tick)


# -------------------------------------------------------------------------------------------------------- subscriptions


class RedisSubscription:
    """A broadcast: the stream from its end. Only what is asked for is read, and one answer ahead while that is worked on."""

    connection: Connection

    def __init__(self, broker: RedisBroker, address: str, *, prefetch: int, since: bytes = b"$") -> None:
        self._broker = broker
        self._world = broker.world
        self._address = address
        self._prefetch = prefetch
        self._since = since
        self._what = f"{broker.place.shown}: receiving from {address!r}"
        self._buffer: list[Entry] = []
        self._held = 0
        """How many are here, or with the caller, that are not done with."""
        self._most = 1
        self._asked = False
        """Redis was asked for entries, and has not answered."""
        self._look_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._error: EnsueError | None = None

    async def begin(self) -> None:
        """Connect. Errors: as `Broker.subscribe`."""
        self.connection = await self._broker.connection(self._lost)

    async def receive(self, most: int) -> Sequence[Received]:
        self._most = most
        self._check()
        while not self._buffer:
            self._ask()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            self._check()
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        if not self._buffer:
            self._ask()
        return taken

    async def accept(self, received: Sequence[Received]) -> None:
        self._check()
        self._made_room(len(received))

    async def reject(self, received: Sequence[Received]) -> None:
        await self.accept(received)

    async def requeue(self, received: Sequence[Received]) -> None:
        self._check()
        again = [msgspec.structs.replace(one, deliveries=one.deliveries + 1) for one in _entries(received)]
        self._buffer[:0] = again
        self._wake()

    async def backlog(self) -> int | None:
        self._check()
        return None

    async def close(self) -> None:
        if self._error is None:
            self.fail(Unavailable(f"{self._what}: the subscription is closed"), end=False)
            try:
                async with asyncio.timeout(self._broker.place.connect_seconds):
                    await self._leave()
            except (EnsueError, TimeoutError):
                pass  # what the broker was not told comes again
            finally:
                self.connection.abort()
        self._broker.forget(self)

    async def _leave(self) -> None:
        await self.connection.end()

    def be_heard_of(self) -> None:
        """Called several times in the time after which a member counts as gone."""

    def fail(self, error: EnsueError, *, end: bool = True) -> None:
        """End it: whoever waits is told."""
        if self._error is None:
            self._error = error
            self._wake()
            if end:
                self.connection.abort()

    def _lost(self, error: BaseException | None) -> None:
        if self._error is None:
            self._broker.lost(error)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _made_room(self, count: int) -> None:
        self._held -= count
        if self._waiter is not None:
            self._ask()

    def _ask(self) -> None:
        """Ask for more, unless that was done, or there is no room."""
        count = min(self._prefetch - self._held, self._most, MOST)
        if self._asked or count < 1 or self._error is not None:
            return
        self._asked = True
        now = self._world.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look(count)
        else:
            self.connection.send((self._reading(count),), self._was_read)

    def _reading(self, count: int) -> bytes:
        return command(
            "XREAD", "COUNT", count, "BLOCK", int(1000 * LOOK_SECONDS), "STREAMS", self._address, self._since
        )

    def _was_read(self, answers: list[Any]) -> None:
        self._asked = False
        if (answer := self._good(answers)) is NOTHING:
            return
        entries = [] if answer is None else next(iter(answer.values()))
        self._come([Entry(id, fields, self._address, 1) for id, fields in entries])

    def _look(self, count: int) -> None:
        """What is to be done each second: to wait for a stream that is gone would be to wait for ever."""
        self.connection.send((command("EXISTS", self._address),), self._was_looked_at)

    def _was_looked_at(self, answers: list[Any]) -> None:
        self._asked = False
        if (answer := self._good(answers)) is NOTHING:
            return
        if answer == 0:
            self.fail(WiringError(f"{self._what}: it is not there any more"))
        self._come([])

    def _good(self, answers: list[Any]) -> Any:
        """The answer; `NOTHING` when it is an error, which ends the subscription, or when the connection broke."""
        if not answers:
            return NOTHING
        if isinstance(answers[0], hiredis.ReplyError):
            self.fail(error_said(answers[0], self._what))
            return NOTHING
        return answers[0]

    def _come(self, entries: list[Entry]) -> None:
        if entries:
            self._since = entries[-1].id
            self._held += len(entries)
            self._buffer += entries
            self._wake()
        elif self._waiter is not None:
            self._ask()


class _Member(RedisSubscription):
    """A member of a group."""

    def __init__(self, broker: RedisBroker, address: str, group: str, *, prefetch: int) -> None:
        super().__init__(broker, address, prefetch=prefetch)
        self._group = group
        self._name = MEMBER + broker.world.new_id().hex()
        self._what = f"{self._what} as {group!r}"
        self._accepted: list[bytes] = []

    async def begin(self) -> None:
        await super().begin()
        try:
            # Before it reads anything: who is not subscribed counts as dead.
            answers = await self.connection.ask((command("SUBSCRIBE", self._name),))
            self._check()
            if not answers:
                raise Unavailable(f"{self._what}: the connection broke")
            if isinstance(answers[0], hiredis.ReplyError):
                raise error_said(
                    answers[0], f"{self._what}: its member subscribes to the channel of its name, {MEMBER}…"
                )
        except BaseException:
            self.connection.abort()
            raise

    async def accept(self, received: Sequence[Received]) -> None:
        self._check()
        if not self._accepted:
            # All that is accepted until the loop comes round again is one command.
            asyncio.get_running_loop().call_soon(self._tell)
        self._accepted += [one.id for one in _entries(received)]
        self._made_room(len(received))

    def _tell(self) -> None:
        if self._accepted and not self._broker.broken:
            self._broker.send(command("XACK", self._address, self._group, *self._accepted), self._was_told)
            self._accepted = []

    def _was_told(self, answers: list[Any]) -> None:
        self._good(answers)

    async def requeue(self, received: Sequence[Received]) -> None:
        self._check()
        if not received:
            return
        counts = {one.id: one.deliveries + 1 for one in _entries(received)}
        # To itself, so that Redis counts it.
        entries = await self._broker.answer(
            "XCLAIM", self._address, self._group, self._name, 0, *counts, what=f"{self._what}: requeueing"
        )
        self._held -= len(received) - len(entries)
        self._buffer[:0] = [Entry(id, fields, self._address, counts[id]) for id, fields in entries]
        self._wake()

    async def backlog(self) -> int | None:
        self._check()
        groups = await self._broker.answer("XINFO", "GROUPS", self._address, what=self._what)
        lag = next((about.get(b"lag") for about in groups if about[b"name"] == self._group.encode()), None)
        return None if lag is None else lag + len(self._buffer)

    async def _leave(self) -> None:
        self._tell()
        await self._broker.answer("PING", what=self._what)  # behind all that was told
        await super()._leave()

    def be_heard_of(self) -> None:
        group = ("GROUP", self._group, self._name)
        self._broker.send(command("XREADGROUP", *group, "COUNT", 1, "STREAMS", self._address, _PAST), _ignore)

    def _reading(self, count: int) -> bytes:
        group, block = ("GROUP", self._group, self._name), int(1000 * LOOK_SECONDS)
        return command("XREADGROUP", *group, "COUNT", count, "BLOCK", block, "STREAMS", self._address, ">")

    def _look(self, count: int) -> None:
        lease = int(1000 * self._broker.lease)
        claiming = command("EVAL", _CLAIM, 1, self._address, self._group, self._name, MEMBER, count, lease)
        self.connection.send((claiming,), functools.partial(self._was_claimed, count))
        if self._broker.trims:
            self._broker.send(command("EVAL", _TRIM, 1, self._address), self._was_told)

    def _was_claimed(self, count: int, answers: list[Any]) -> None:
        self._asked = False
        if (answer := self._good(answers)) is NOTHING:
            return
        seen, claimed = answer
        if seen >= count:
            self._look_at = 0.0  # there may be more, and they come before what is new
        self._come([Entry(id, fields, self._address, deliveries) for id, fields, deliveries in claimed])


def _entries(received: Sequence[Received]) -> Sequence[Entry]:
    return cast("Sequence[Entry]", received)


def _ignore(answers: list[Any]) -> None:
    """Nobody waits for these."""


def _since(start: From) -> str:
    """What a group has behind it when it begins."""
    if isinstance(start, str):
        return "0" if start == "beginning" else "$"
    millisecond = start // 1000
    return f"{millisecond - 1}-18446744073709551615" if millisecond > 0 else "0"
