"""What members of groups and broadcasts receive from NATS. `ensue.channels.nats` says how order is kept when a member ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ensue.channels.base import Received as AnyReceived
from ensue.channels.nats_connection import NoResponder, Wire
from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.world import World

__all__ = ["Broadcast", "Member", "Received"]

EXPIRES_SECONDS, HEARTBEAT_SECONDS = 10, 3
"""How long a request for messages waits at the server, and how often the server says meanwhile that it does."""
SILENCE_SECONDS = 4.0 * HEARTBEAT_SECONDS
"""Without any word for so long, what was asked for never comes."""
LIVING_SECONDS = 2.0
"""A member that does not answer within this time is taken for dead, as after a loss of its machine."""
ANSWER_SECONDS = 10.0
LEAVE_SECONDS = 5.0
WRITTEN_SECONDS = 0.15
"""The server writes what a group has acknowledged to its disk at most every 100 ms, and says nothing of it."""
GIVEN_BACK = 4096
"""How many messages are given back for a dead member in one write."""
SLOW_MESSAGES, SLOW_BYTES = 500_000, 128 * 1024 * 1024
"""What a broadcast holds that is not received; the limits of the field's clients."""

_REQUEST = b'{"batch":%d,"expires":%d000000000,"idle_heartbeat":%d000000000}'


class Received:
    """A message that came. Its headers are read when they are asked for."""

    __slots__ = ("_head", "_reply", "_stream", "body", "number")

    def __init__(self, stream: str, number: int, reply: bytes, head: bytes, body: bytes) -> None:
        self.number = number
        """Its place in the stream; in a broadcast, where that is not known, in the subscription."""
        self.body = body
        self._stream = stream
        self._reply = reply
        self._head = head

    @property
    def content_type(self) -> str | None:
        found = self.header("content-type")
        return self.header("Content-Type") if found is None else found

    @property
    def key(self) -> str | None:
        return None

    @property
    def partition(self) -> int:
        return 0

    @property
    def deliveries(self) -> int:
        if not self._reply.startswith(b"$JS.ACK."):
            return 1
        words = self._reply.split(b".")
        return int(words[4] if len(words) == 9 else words[6])

    @property
    def where(self) -> str:
        return f"{self._stream} @ {self.number}"

    @property
    def headers(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        try:
            lines = self._head.decode().split("\r\n")
        except UnicodeDecodeError:
            lines = [text for text in map(_text, self._head.split(b"\r\n")) if text is not None]
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value[1:] if value.startswith(" ") else value
        return found

    def header(self, name: str) -> str | None:
        start = self._head.find(b"\r\n%b:" % name.encode())
        if start < 0:
            return None
        value = self._head[start + len(name.encode()) + 3 : self._head.index(b"\r\n", start + 2)]
        return _text(value.removeprefix(b" "))


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


class _Subscription:
    """What comes, until it is received; what is received, until it is settled."""

    def __init__(
        self, wire: Wire, shown: str, address: str, prefetch: int, ended: Callable[[Any], None], stream: str
    ) -> None:
        self._wire = wire
        self._name = f"{shown}: receiving from {address}"
        self._address = address
        self._prefetch = prefetch
        self._ended = ended
        self._stream = stream
        self._open: dict[int, Received] = {}
        """What is here and neither accepted, rejected nor requeued, by its place; for broadcasts without what waits below."""
        self._buffer: list[Received] = []
        """What was not received yet."""
        self._error: EnsueError | None = None
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def _check(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._name}: the subscription is closed")
        if self._error is not None:
            raise type(self._error)(*self._error.args)
        self._wire.check()

    def fail(self, error: EnsueError) -> None:
        """It ends: whoever waits for messages is told."""
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _taken(self, most: int) -> list[Received]:
        if most >= len(self._buffer):
            taken, self._buffer = self._buffer, []
        else:
            taken = self._buffer[:most]
            del self._buffer[:most]
        return taken


class Member(_Subscription):
    """A member of a group. See `ensue.channels.base.Subscription`."""

    def __init__(
        self,
        wire: Wire,
        world: World,
        shown: str,
        address: str,
        prefetch: int,
        ended: Callable[[Any], None],
        *,
        stream: str,
        consumer: str,
        ack_wait: float,
        info: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        super().__init__(wire, shown, address, prefetch, ended, stream)
        self._world = world
        self._info = info
        self._consumer = consumer
        self._interval = ack_wait / 3
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
        self._acks = f"$JS.ACK.{stream}.{consumer}".encode()
        self._inbox = f"_INBOX.{world.new_id().hex()}".encode()
        self._living = f"_ensue.living.{stream}.{consumer}"
        self._subscribed: list[int] = []
        self._asked = 0
        """How many messages the server has been asked for that did not come yet."""
        self._heard = True
        self._accepted_at: float | None = None
        self._beating: asyncio.Task[None] | None = None

    # --------------------------------------------------------------------------------------------------------- joining

    async def begin(self) -> None:
        """Join the group. Errors: `WiringError`, `AccessRefused`, `Unavailable`."""
        alone, silent = await self._is_alone()
        wire = self._wire
        self._subscribed = [
            wire.subscribe(self._inbox, self._came, self.fail),
            wire.subscribe(self._living.encode(), self._lives, self.fail),
        ]
        await wire.settle(self._living, self._inbox.decode(), seconds=ANSWER_SECONDS)
        if alone:
            await self._take_over(silent)
        self._ask()
        self._beating = self._world.spawn(self._beat(), name=f"receiving from {self._address}")

    async def _is_alone(self) -> tuple[bool, bool]:
        """Whether no other member lives, and whether one may that does not answer."""
        try:
            await self._wire.request(self._living, seconds=LIVING_SECONDS)
            return False, False
        except NoResponder:
            return True, False
        except TimeoutError:
            return True, True

    def _lives(self, _subject: bytes, reply: bytes, _head: bytes, _body: bytes) -> None:
        if reply and not self._closed:
            self._wire.send(b"PUB %b 0\r\n\r\n" % reply)

    async def _take_over(self, silent: bool) -> None:
        """Get what those who are gone have held, in order, before anything else comes."""
        info = await self._info()
        left = EXPIRES_SECONDS + 1.0
        while silent and info["num_waiting"] and left > 0:
            # A request of one whose connection the server has not given up yet: it would get messages, and lose them.
            await self._world.sleep(0.1)
            left -= 0.1
            info = await self._info()
        count: int = info["num_ack_pending"]
        if not count:
            return
        first = info["ack_floor"]["stream_seq"] + 1
        last = max(info["delivered"]["stream_seq"], first + count - 1)
        newest = info["delivered"]["consumer_seq"]
        for start in range(first, last + 1, GIVEN_BACK):
            numbers = range(start, min(start + GIVEN_BACK, last + 1))
            lines = [b"PUB %b.1.%d.%d.0.0 4\r\n-NAK\r\n" % (self._acks, number, newest) for number in numbers]
            self._wire.send(b"".join(lines))
            await self._wire.drain()
        await self._known(b"%b.1.%d.%d.0.0" % (self._acks, last, newest))
        # All of it, for the server has it in the order in which it was given back, some of it perhaps by several members one after
        # another. It is as much as those held, which is more than this one may hold only if it may hold less than they did.
        self._request(count, b',"no_wait":true')
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while self._asked > 0 and self._error is None:
                    await self._changed()
        except TimeoutError as error:
            raise Unavailable(f"{self._name}: what a former member held did not come") from error
        self._check()
        self._buffer.sort(key=lambda received: received.number)

    async def _known(self, ack: bytes) -> None:
        """Wait until the group's leader has dealt with all that was sent to it. Errors: `Unavailable`."""
        try:
            # Says that one is in work, which changes nothing for one that is not.
            await self._wire.request(ack.decode(), b"+WPI", seconds=ANSWER_SECONDS)
        except (NoResponder, TimeoutError) as error:
            raise Unavailable(f"{self._name}: the server did not take what was acknowledged") from error

    # ------------------------------------------------------------------------------------------------------- receiving

    def _ask(self) -> None:
        """Ask for what there is room for: not for one at a time, unless nothing else is on its way."""
        room = self._prefetch - len(self._open) - self._asked
        if room > 0 and (self._asked <= 0 or (4 * room >= self._prefetch and self._asked <= room)) and not self._closed:
            self._request(room)

    def _request(self, count: int, more: bytes = b"") -> None:
        body = _REQUEST % (count, EXPIRES_SECONDS, HEARTBEAT_SECONDS) if not more else b'{"batch":%d%b}' % (count, more)
        self._asked += count
        self._heard = True
        self._wire.send(b"PUB %b %b %d\r\n%b\r\n" % (self._next, self._inbox, len(body), body))

    def _came(self, _subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
        self._heard = True
        if head.startswith(b"NATS/1.0 "):
            self._status(head)
            return
        words = reply.split(b".")
        number = int(words[5] if len(words) == 9 else words[7])
        self._asked -= 1
        if number not in self._open:  # else it is given again although it is in work: this process slept
            self._open[number] = received = Received(self._stream, number, reply, head, body)
            self._buffer.append(received)
        if self._asked <= 0 and self._beating is not None:
            self._ask()
        self._wake()

    def _status(self, head: bytes) -> None:
        """What the server says of a request for messages, in place of messages."""
        line, _, rest = head[9:].partition(b"\r\n")
        code, _, text = line.partition(b" ")
        if code == b"100":
            return
        _, found, left = rest.partition(b"Nats-Pending-Messages: ")
        self._asked = max(0, self._asked - int(left.partition(b"\r\n")[0])) if found else 0
        if code == b"503" or b"Deleted" in text:
            self.fail(WiringError(f"{self._name}: the group's consumer {self._consumer} is gone; was it deleted?"))
        elif b"Shutdown" in text:
            self.fail(Unavailable(f"{self._name}: the server shuts down"))
        elif code in (b"404", b"408") or b"Leadership" in text or b"Batch" in text:
            if self._beating is not None:
                self._ask()
            self._wake()
        else:
            self.fail(WiringError(f"{self._name}: the server gives no messages: {code.decode()} {text.decode()}"))

    async def receive(self, most: int) -> Sequence[Received]:
        self._check()
        while not self._buffer or self._room() <= 0:
            await self._changed()
            self._check()
        return self._taken(min(most, self._room()))

    def _room(self) -> int:
        """How many more may be received."""
        return self._prefetch - len(self._open) + len(self._buffer)

    async def _beat(self) -> None:
        """Say what is in work here, and notice when nothing comes that was asked for."""
        silent = 0.0
        while self._error is None:
            await self._world.sleep(self._interval)
            if self._error is not None:
                return
            try:
                self._wire.send(b"".join([b"PUB %b 4\r\n+WPI\r\n" % one._reply for one in self._open.values()]))
            except Unavailable as error:
                self.fail(error)
                return
            silent = 0.0 if self._heard or not self._asked else silent + self._interval
            self._heard = False
            if silent > SILENCE_SECONDS:
                self.fail(Unavailable(f"{self._name}: {self._asked} messages were asked for, and the server is silent"))

    # -------------------------------------------------------------------------------------------------------- settling

    async def accept(self, received: Sequence[AnyReceived]) -> None:
        self._accepted_at = self._world.monotonic()
        await self._settle(received, b"0\r\n\r\n")

    async def reject(self, received: Sequence[AnyReceived]) -> None:
        """The server says so on `$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED`, where tools take it up; the stream keeps it."""
        self._accepted_at = self._world.monotonic()
        await self._settle(received, b"5\r\n+TERM\r\n")

    async def requeue(self, received: Sequence[AnyReceived]) -> None:
        await self._settle(received, b"4\r\n-NAK\r\n")

    async def _settle(self, received: Sequence[AnyReceived], how: bytes) -> None:
        self._check()
        lines: list[bytes] = []
        for one in received:
            assert isinstance(one, Received)
            if self._open.pop(one.number, None) is not None:
                lines.append(b"PUB %b %b" % (one._reply, how))
        self._wire.send(b"".join(lines))
        self._ask()
        self._wake()
        await self._wire.drain()

    async def backlog(self) -> int | None:
        self._check()
        waiting: int = (await self._info())["num_pending"]
        return waiting + len(self._buffer)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
        self._wake()
        with suppress(Unavailable, AccessRefused, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._leave()
        for subscription in self._subscribed:
            self._wire.forget(subscription)
        self._ended(self)

    async def _leave(self) -> None:
        """Give back what is here, in order, once nothing more can come. Errors: `Unavailable`, `AccessRefused`."""
        wire = self._wire
        wire.send(b"".join([b"UNSUB %d\r\n" % subscription for subscription in self._subscribed]))
        await wire.settle(seconds=ANSWER_SECONDS)
        held = sorted(self._open.items())
        if held:
            wire.send(b"".join([b"PUB %b 4\r\n-NAK\r\n" % one._reply for _, one in held]))
        if held or self._accepted_at is not None:
            await self._known(b"%b.1.1.1.0.0" % self._acks)
        if self._accepted_at is not None:
            await self._world.sleep(self._accepted_at + WRITTEN_SECONDS - self._world.monotonic())


class Broadcast(_Subscription):
    """A subscription without a group. See `ensue.channels.base.Subscription`."""

    def __init__(self, wire: Wire, shown: str, address: str, prefetch: int, ended: Callable[[Any], None]) -> None:
        super().__init__(wire, shown, address, prefetch, ended, address)
        self._subscribed: list[int] = []
        self._count = 0
        self._size = 0

    async def begin(self, subjects: Iterable[str]) -> None:
        """Subscribe. Errors: `AccessRefused`, `Unavailable`."""
        self._subscribed = [self._wire.subscribe(subject.encode(), self._came, self.fail) for subject in subjects]
        try:
            await self._wire.settle(*subjects, seconds=ANSWER_SECONDS)
        except BaseException:
            await self.close()
            raise

    def _came(self, _subject: bytes, _reply: bytes, head: bytes, body: bytes) -> None:
        if self._error is not None or self._closed:
            return
        self._count += 1
        self._size += len(head) + len(body)
        self._buffer.append(Received(self._address, self._count, b"", head, body))
        if len(self._buffer) > SLOW_MESSAGES or self._size > SLOW_BYTES:
            self.fail(
                Unavailable(
                    f"{self._name}: this broadcast is too slow: {len(self._buffer)} messages of {self._size} bytes wait; "
                    "a group is not sent more than it can take"
                )
            )
        self._wake()

    async def receive(self, most: int) -> Sequence[Received]:
        self._check()
        while not self._buffer or len(self._open) >= self._prefetch:
            await self._changed()
            self._check()
        taken = self._taken(min(most, self._prefetch - len(self._open)))
        for one in taken:
            self._size -= len(one._head) + len(one.body)
            self._open[one.number] = one
        return taken

    async def accept(self, received: Sequence[AnyReceived]) -> None:
        self._check()
        for one in received:
            assert isinstance(one, Received)
            self._open.pop(one.number, None)
        self._wake()

    async def reject(self, received: Sequence[AnyReceived]) -> None:
        await self.accept(received)

    async def requeue(self, received: Sequence[AnyReceived]) -> None:
        """Nothing of a broadcast comes again."""
        await self.accept(received)

    async def backlog(self) -> int | None:
        self._check()
        return len(self._buffer)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        with suppress(Unavailable):
            self._wire.send(b"".join([b"UNSUB %d\r\n" % subscription for subscription in self._subscribed]))
        for subscription in self._subscribed:
            self._wire.forget(subscription)
        self._ended(self)
