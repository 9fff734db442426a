"""RabbitMQ 3.10 or later: a topic exchange for each address, a quorum queue for each group.

The address `orders` is a durable exchange of that name, and the group `billing` a durable quorum queue `orders.billing`, bound
to it with `#`. A broadcast is a queue of its connection's own. So other programs publish to the exchange, bind queues of their
own by the types of events, which are the routing keys, and see the id, time and content type of messages where their tools look.

What RabbitMQ does not do: it keeps nothing that is published while there is no group (the parameter `groups` makes them
beforehand), and replays nothing. Order holds with one member that receives, which `single=yes` has the broker see to. It ends a
member that holds a message unaccepted for longer than its `consumer_timeout`, half an hour where nobody has changed it.

A broker is two connections, one that publishes, opened by the first publish, and one for all else: RabbitMQ stops reading from
those that publish when its memory or disk is used up, and what was handled could not be accepted any more.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from ensue.channels.amqp import Encoder, Line, Link, Properties, acknowledgement, read_properties
from ensue.channels.base import Capabilities, From, Message, Received, Revoked
from ensue.channels.urls import Place
from ensue.errors import (
    AccessRefused,
    EnsueError,
    MessageRefused,
    MissingCapability,
    OutcomeUnknown,
    Unavailable,
    WiringError,
)
from ensue.world import World

__all__ = ["RabbitBroker", "RabbitMessage", "RabbitSubscription"]

OLDEST = (3, 10)
LARGEST, LARGEST_SINCE_4 = 128 << 20, 16 << 20
"""What the server takes where nobody has changed its `max_message_size`. It does not tell."""
WRITE_BYTES = 256 * 1024
"""So much is encoded before it is written: the server begins with a batch while the rest of it is being encoded."""
DEAD_SECONDS = 0.5
MOST_PREFETCH = 65535
TAG = "ensue"


class RabbitMessage:
    """A message that came. Its properties are read when one of them is asked for."""

    __slots__ = ("_method", "_properties", "_queue", "_raw", "body", "tag")

    def __init__(self, queue: str, method: bytes, raw: bytes, body: bytes) -> None:
        self.body = body
        self.tag = int.from_bytes(method[1 + method[0] : 9 + method[0]])
        """Its number among those of its subscription."""
        self._queue = queue
        self._method = method
        self._raw = raw
        self._properties: Properties | None = None

    def __repr__(self) -> str:
        return f"RabbitMessage({self.where!r})"

    @property
    def properties(self) -> Properties:
        if self._properties is None:
            self._properties = read_properties(self._raw)
        return self._properties

    @property
    def content_type(self) -> str | None:
        return self.properties.content_type

    @property
    def key(self) -> str | None:
        """RabbitMQ has none; what the routing key says is `routing_key`."""
        return None

    @property
    def routing_key(self) -> str:
        at = 10 + self._method[0]
        at += 1 + self._method[at]
        return self._method[at + 1 : at + 1 + self._method[at]].decode(errors="replace")

    @property
    def partition(self) -> int:
        return 0

    @property
    def deliveries(self) -> int:
        return 1 + self.properties.numbers.get("x-delivery-count", 0)

    @property
    def where(self) -> str:
        id = self.properties.message_id
        return f"{self._queue} @ {id}" if id is not None else f"{self._queue} # {self.tag}"

    @property
    def headers(self) -> Mapping[str, str]:
        return self.properties.headers

    def header(self, name: str) -> str | None:
        return self.properties.headers.get(name)


class RabbitSubscription(Line):
    """See `Subscription`."""

    def __init__(self, link: Link, address: str, seconds: float) -> None:
        super().__init__(link)
        self.queue = ""
        self._address = address
        self._seconds = seconds
        self._channel: AbstractChannel | None = None
        self._held: deque[RabbitMessage] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._ended_by_server = False
        self._closing = False
        self._first = 1
        """The first delivery of which nothing was said to the server."""
        self._settled: set[int] = set()
        """Those behind it of which something was said."""

    async def begin(self, channel: AbstractChannel, queue: str, prefetch: int) -> None:
        """Errors: those of the library."""
        self._channel = channel
        self.queue = queue
        await channel.basic_qos(prefetch_count=min(prefetch, MOST_PREFETCH))
        await channel.basic_consume(queue, _pass, consumer_tag=TAG)

    # --------------------------------------------------------------------------------------------- what the server says

    def delivered(self, method: bytes, properties: bytes, body: bytes) -> None:
        self._held.append(RabbitMessage(self.queue, method, properties, body))
        if self._waiting is not None:
            self._wake()

    def cancelled(self) -> None:
        self._ended_by_server = True
        self._wake()

    def closed(self, code: int, text: str) -> EnsueError:
        return Unavailable(f"{self.link.shown}: the server ended a member of {self.queue}: {text}")

    def ended(self, error: EnsueError) -> None:
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # -------------------------------------------------------------------------------------------------------- the port

    async def receive(self, most: int) -> Sequence[Received]:
        while True:
            await self._check()
            if self._held:
                held = self._held
                if len(held) <= most:
                    self._held = deque()
                    return list(held)
                return [held.popleft() for _ in range(most)]
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None

    async def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self._ended_by_server:
            gone = await _missing(self.link, self.queue, self._seconds)
            if gone is not None:
                raise WiringError(f"{self.link.shown}: the queue {self.queue} is gone while it was read: {gone}")
            raise Unavailable(f"{self.link.shown}: the server ended a member of {self.queue}")

    async def accept(self, received: Sequence[Received]) -> None:
        await self._say(received, accept=True)

    async def reject(self, received: Sequence[Received]) -> None:
        await self._say(received)

    async def requeue(self, received: Sequence[Received]) -> None:
        await self._say(received, requeue=True)

    async def _say(self, received: Sequence[Received], *, accept: bool = False, requeue: bool = False) -> None:
        """All before which nothing is open are said at once, the others one by one."""
        if self.error is not None:
            raise self.error
        first, settled = self._first, self._settled
        tags = {message.tag for message in received if isinstance(message, RabbitMessage)}
        tags = {tag for tag in tags if tag >= first and tag not in settled}
        if not tags:
            return
        settled |= tags
        while first in settled:
            settled.remove(first)
            first += 1
        self._first = first
        upto = max((tag for tag in tags if tag < first), default=0)
        frames = [
            acknowledgement(self.number, tag, multiple=False, accept=accept, requeue=requeue)
            for tag in sorted(tags)
            if tag > upto
        ]
        if upto:
            frames.insert(0, acknowledgement(self.number, upto, multiple=True, accept=accept, requeue=requeue))
        self.link.write(b"".join(frames))

    async def backlog(self) -> int | None:
        if self.error is not None:
            raise self.error
        async with self.link.asking(f"count what waits in {self.queue}", self._seconds) as channel:
            found = await channel.queue_declare(self.queue, passive=True)
        return (found.message_count or 0) + len(self._held)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        broken = self.error is not None
        self.end(Unavailable(f"{self.link.shown}: this subscription to {self._address} was closed"))
        self._held.clear()
        if self._channel is None or broken:
            return
        try:
            async with self.link.translating(f"leave {self.queue}", self._seconds):
                await self._channel.close()
        except EnsueError:
            pass  # what was not accepted comes again all the same
        finally:
            self.link.lines.pop(self.number, None)


async def _pass(message: DeliveredMessage) -> None:
    """For the library, to which no message comes."""


async def _missing(link: Link, queue: str, seconds: float) -> str | None:
    """What the server says of a queue that is not there."""
    try:
        async with link.asking(f"look for {queue}", seconds) as channel:
            await channel.queue_declare(queue, passive=True)
    except WiringError as error:
        return str(error)
    return None


class _Call:
    """One call of `publish`: what of it is not confirmed."""

    __slots__ = ("confirmed", "errors", "left", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.errors: dict[int, EnsueError] = {}
        self.left = 0
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def one_less(self) -> None:
        self.left -= 1
        if not self.left and not self.confirmed.done():
            self.confirmed.set_result(None)


class _Publisher(Line):
    """A channel that publishes to one address, and is told by number what was stored."""

    def __init__(self, broker: RabbitBroker, link: Link, address: str, world: World) -> None:
        super().__init__(link)
        self._broker = broker
        self._address = address
        self._world = world
        self._next = self._oldest = 1
        self._open: dict[int, tuple[_Call, int]] = {}
        self._encoder: Encoder | None = None

    async def begin(self) -> None:
        """Errors: those of the library, `WiringError`."""
        await self.link.channel(self, confirms=True)
        try:
            self._encoder = Encoder(
                self.number, self._address, mandatory=self._broker.mandatory, frame_bytes=self.link.frame_bytes
            )
        except ValueError as error:
            raise WiringError(f"{self.link.shown}: {self._address!r} cannot be an address: {error}") from error

    async def publish(self, messages: Sequence[Message]) -> dict[int, EnsueError]:
        call = _Call(messages)
        frames: list[bytes] = []
        indexes: list[int] = []
        size = 0
        seconds = self._world.now() // 1_000_000
        for index, message in enumerate(messages):
            try:
                encoded = self._encoded(message, seconds)
            except ValueError as error:  # and what cannot be encoded
                call.errors[index] = MessageRefused(f"{self._address}: RabbitMQ takes no such message: {error}")
                continue
            frames.append(encoded)
            indexes.append(index)
            size += len(encoded)
            if size >= WRITE_BYTES:
                self._write(call, frames, indexes)
                frames, indexes, size = [], [], 0
                await self.link.drain()
        self._write(call, frames, indexes)
        if call.left:
            await call.confirmed
        return call.errors

    def _encoded(self, message: Message, seconds: int) -> bytes:
        largest = self._broker.largest
        if len(message.body) > largest:
            raise ValueError(f"it has {len(message.body)} bytes, and the server takes {largest}")
        if message.delay_seconds > 0:
            raise ValueError("it is to be delayed, which RabbitMQ does not do")
        headers = message.headers
        by_type = self._broker.routes_by_type
        id = headers.get("cloudEvents:id", "")
        assert self._encoder is not None
        return self._encoder.message(
            message.body,
            headers,
            message.content_type,
            routing_key=(headers.get("cloudEvents:type") if by_type else message.key) or "",
            message_id=id if len(id) < 256 and id.isascii() else "",
            seconds=seconds,
        )

    def _write(self, call: _Call, frames: list[bytes], indexes: list[int]) -> None:
        error = self.error
        if error is None and self.link.blocked is not None:
            error = Unavailable(f"{self.link.shown}: the server takes no messages for now: {self.link.blocked}")
        if error is not None:
            call.errors.update(dict.fromkeys(indexes, _not_sent(error)))
            return
        first = self._next
        self._next += len(indexes)
        call.left += len(indexes)
        self._open.update(zip(range(first, self._next), [(call, index) for index in indexes], strict=True))
        self.link.write(b"".join(frames))

    # --------------------------------------------------------------------------------------------- what the server says

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        opened = self._open
        for number in range(self._oldest, tag + 1) if multiple else (tag,):
            found = opened.pop(number, None)
            if found is None:
                continue
            call, index = found
            if not stored:
                call.errors[index] = Unavailable(
                    f"{self._address}: the queue of some group is full; other groups may have the message"
                )
            call.left -= 1
            if not call.left and not call.confirmed.done():
                call.confirmed.set_result(None)
        if multiple:
            self._oldest = max(self._oldest, tag + 1)

    def returned(self, properties: bytes) -> None:
        """It is confirmed as well, afterwards: to know it by its id is enough, for equal ones go equal ways."""
        id = read_properties(properties).headers.get("cloudEvents:id")
        for call, index in self._open.values():
            if call.messages[index].headers.get("cloudEvents:id") == id:
                call.errors[index] = Unavailable(f"{self._address}: there is no group that would get the message")

    def held_up(self) -> None:
        self._give_up(
            OutcomeUnknown(f"{self.link.shown}: the server stopped taking messages: {self.link.blocked}; nobody knows")
        )

    def closed(self, code: int, text: str) -> EnsueError:
        if code == 404:
            return WiringError(f"{self.link.shown}: cannot publish to {self._address}: {text}")
        if code == 403:
            return AccessRefused(f"{self.link.shown}: may not publish to {self._address}: {text}")
        too_large = re.search(r"message size \d+ is larger than configured max size (\d+)", text)
        if too_large:
            self._refuse_larger(int(too_large[1]))
        return OutcomeUnknown(f"{self.link.shown}: the server stopped taking messages: {text}")

    def _refuse_larger(self, largest: int) -> None:
        """The server takes less than is usual: it closes the channel at the first that is too large, and reads on nowhere."""
        self._broker.largest = largest
        behind = False
        for number, (call, index) in list(self._open.items()):
            size = len(call.messages[index].body)
            if size > largest:
                behind = True
                text = f"{self._address}: it has {size} bytes, and the server takes {largest}"
                call.errors[index] = MessageRefused(text)
            elif behind:
                text = f"{self._address}: it was behind one that was refused, and was not read"
                call.errors[index] = Unavailable(text)
            else:
                continue
            del self._open[number]
            call.one_less()

    def ended(self, error: EnsueError) -> None:
        unknown = isinstance(error, Unavailable)
        self._give_up(OutcomeUnknown(f"{error}; it was not confirmed") if unknown else error)

    def _give_up(self, error: EnsueError) -> None:
        opened, self._open = self._open, {}
        for call, index in opened.values():
            call.errors.setdefault(index, error)
            call.one_less()


def _not_sent(error: EnsueError) -> EnsueError:
    return Unavailable(str(error)) if isinstance(error, OutcomeUnknown) else error


class RabbitBroker:
    """See `Broker`, and the module."""

    prefix: ClassVar[str] = "cloudEvents:"
    parameters: ClassVar[Mapping[str, str]] = {
        "groups": "groups, separated by commas, that are made with the address: what is published before their first member "
        "comes is kept for them",
        "routing": "the routing key: `type` (default) is the event's type, `key` its key (at most 255 bytes)",
        "single": "`yes`: of the members of a group one receives, and another when it ends, so that order holds; part of the "
        "queue (`x-single-active-consumer`)",
        "mandatory": "`yes`: what no group would get is not confirmed but `Unavailable`; without it RabbitMQ drops it",
        "max_length": "how many messages the queue of a group takes before publishing is `Unavailable`; part of the queue "
        "(`x-max-length`, `x-overflow=reject-publish`)",
        "dead_letter_exchange": "where rejected messages go; made, with a queue of its name, if it is not there; part of the "
        "queue (`x-dead-letter-exchange`, at least once)",
        "settle_seconds": "how long the first member of a new group waits before it begins: RabbitMQ loses a queue or a binding, "
        "with what was confirmed meanwhile, that was made less than two seconds before its server is killed (default: 2.5)",
        "max_message_bytes": "the server's `max_message_size`, where it is not as usual",
        "heartbeat_seconds": "how often each side must hear the other; three times that without a sign is the end (default: 15)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        self._place = place
        self._world: World | None = None
        self._create = place.create
        self._seconds = place.connect_seconds
        self._groups = [group for group in place.text("groups").split(",") if group]
        self._settle_seconds = place.seconds("settle_seconds", 2.5)
        self._heartbeat_seconds = place.number("heartbeat_seconds", 15)
        self.mandatory = place.flag("mandatory", False)
        self.routes_by_type = place.choice("routing", "type", "key") == "type"
        self.largest = place.number("max_message_bytes", LARGEST)
        """In bytes, as far as it is known."""
        self._dead_letters = place.text("dead_letter_exchange")
        self._arguments = self._queue_arguments()
        self._context = _context(place)
        self._error: EnsueError | None = None
        self._receiving: Link | None = None
        self._publishing: Link | None = None
        self._publishers: dict[str, _Publisher] = {}
        self._opening = asyncio.Lock()

    def _queue_arguments(self) -> dict[str, str | int | bool]:
        arguments: dict[str, str | int | bool] = {"x-queue-type": "quorum"}
        length = self._place.number("max_length", 0, lowest=1)
        if self._place.flag("single", False):
            arguments["x-single-active-consumer"] = True
        if length:
            arguments |= {"x-max-length": length, "x-overflow": "reject-publish"}
        if self._dead_letters:
            arguments |= {
                "x-dead-letter-exchange": self._dead_letters,
                "x-dead-letter-strategy": "at-least-once",  # else they are lost where a server dies
                "x-overflow": "reject-publish",  # which that needs
            }
        return arguments

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            durable=True,
            groups=True,
            broadcast=True,
            replay=False,
            assigns=False,
            cumulative=False,
            counts=True,
            delay=False,
            largest=self.largest,
        )

    # ------------------------------------------------------------------------------------------------------ connections

    async def open(self, world: World) -> None:
        self._world = world
        self._receiving = await self._link()
        found = self._receiving.server
        version = tuple(int(part) for part in re.findall(r"\d+", str(found.get("version", "")))[:2])
        if found.get("product") == "RabbitMQ" and version < OLDEST:
            error = WiringError(
                f"{self._place.shown}: this is RabbitMQ {found.get('version')}; it is to be 3.10 or later"
            )
            await self._receiving.close()
            raise error
        if version >= (4,):
            self._arguments["x-delivery-limit"] = -1  # without it, what was delivered twenty times is dropped
            if "max_message_bytes" not in self._place.parameters:
                self.largest = LARGEST_SINCE_4

    async def _link(self) -> Link:
        """A new connection, to the first host that lets us in."""
        place = self._place
        error: EnsueError = WiringError(f"{place.shown}: the URL names no host")
        assert self._world is not None
        for host, port in place.hosts or (("localhost", 0),):
            link = Link(place.shown, self._world, context=self._context, heartbeat_seconds=self._heartbeat_seconds)
            try:
                async with asyncio.timeout(self._seconds):
                    await link.open(
                        host,
                        port or (5671 if self._context else 5672),
                        place.user if place.user is not None else "guest",
                        place.password if place.password is not None else "guest",
                        place.path or "/",
                    )
                return link
            except TimeoutError:
                error = Unavailable(f"{place.shown}: {host} did not let us in within {self._seconds:g} s")
                await link.close()
            except Unavailable as unavailable:
                error = unavailable
                await link.close()
            except BaseException:
                await link.close()
                raise
        raise error

    def _working(self) -> Link:
        """The connection for all but publishing. Errors: `Unavailable`, once any of them is broken."""
        for link in (self._publishing, self._receiving):
            if link is not None and link.error is not None:
                self._error = self._error or Unavailable(str(link.error))
        if self._error is not None or self._receiving is None:
            raise self._error or Unavailable(f"{self._place.shown}: it is not open")
        return self._receiving

    async def close(self) -> None:
        self._error = self._error or Unavailable(f"the connection to {self._place.shown} was closed")
        for link in (self._publishing, self._receiving):
            if link is not None:
                await link.close()

    # --------------------------------------------------------------------------------------------------------- topology

    async def declare(self, address: str) -> None:
        async with self._working().asking(
            f"declare the exchange {address}", self._seconds + self._settle_seconds * len(self._groups)
        ) as channel:
            await self._declare(channel, address)
            for group in self._groups:
                await self._declare_group(channel, address, group)

    async def _declare(self, channel: AbstractChannel, address: str) -> None:
        await channel.exchange_declare(address, exchange_type="topic", durable=True, passive=not self._create)

    async def _declare_group(self, channel: AbstractChannel, address: str, group: str) -> str:
        queue = f"{address}.{group}"
        if not self._create:
            await channel.queue_declare(queue, passive=True)
            return queue
        await self._declare_dead_letters()
        is_new = await _missing(self._working(), queue, self._seconds) is not None
        await channel.queue_declare(queue, durable=True, arguments=dict(self._arguments))
        await channel.queue_bind(queue, address, "#")
        if is_new:
            # Seen with 3.10: a queue is noted in a table that is written a second later, its binding two seconds later.
            assert self._world is not None
            await self._world.sleep(self._settle_seconds)
        return queue

    async def _wait_for_the_dead(self, queue: str) -> None:
        """A member that died may not have been noticed yet: what it held would come behind what is new. One that lives is waited
        for in vain, and no longer than noticing takes.

        A server that just came back says that there is nothing, until it knows what there is: to try and get a message waits
        for that. If there is one, it is given back behind those that the dead held, which were before it.
        """
        if "x-single-active-consumer" in self._arguments:
            return  # there the next one becomes active after what the one before held was put back
        async with self._working().asking(f"look for members of {queue}", self._seconds) as channel:
            found = await channel.queue_declare(queue, passive=True)
            got: Basic.GetOk | None = None
            if not found.message_count and not found.consumer_count:
                delivery = (await channel.basic_get(queue)).delivery
                if not isinstance(delivery, Basic.GetOk):
                    return
                got = delivery
                found = await channel.queue_declare(queue, passive=True)
            assert self._world is not None
            deadline = self._world.monotonic() + DEAD_SECONDS
            while found.consumer_count and self._world.monotonic() < deadline:
                await self._world.sleep(0.02)
                found = await channel.queue_declare(queue, passive=True)
            if got is not None:
                await channel.basic_nack(got.delivery_tag or 0, requeue=True)

    async def _declare_dead_letters(self) -> None:
        """As it is, if it is there."""
        name = self._dead_letters
        if not name:
            return
        link = self._working()
        try:
            async with link.asking(f"look for the exchange {name}", self._seconds) as channel:
                await channel.exchange_declare(name, passive=True)
        except WiringError as error:
            if not isinstance(error.__cause__, ChannelNotFoundEntity):
                raise
            async with link.asking(f"declare the exchange {name}", self._seconds) as channel:
                await channel.exchange_declare(name, exchange_type="topic", durable=True)
                await channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
                await channel.queue_bind(name, name, "#")

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        async with self._working().asking(f"remove {address}", self._seconds) as channel:
            await channel.exchange_delete(address)
            for group in groups:
                await channel.queue_delete(f"{address}.{group}")

    # ------------------------------------------------------------------------------------------- publishing, receiving

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        if not messages:
            return {}
        try:
            publisher = await self._publisher(address)
        except EnsueError as error:
            return dict.fromkeys(range(len(messages)), error)
        return await publisher.publish(messages)

    async def _publisher(self, address: str) -> _Publisher:
        """Errors: `Unavailable`, `AccessRefused`, `WiringError`."""
        self._working()
        found = self._publishers.get(address)
        if found is not None and found.error is None:
            return found
        async with self._opening:
            self._working()
            found = self._publishers.get(address)
            if found is not None and found.error is None:
                return found
            if self._publishing is None:
                self._publishing = await self._link()
                self._working()
            assert self._world is not None
            made = _Publisher(self, self._publishing, address, self._world)
            async with self._publishing.translating(f"begin to publish to {address}", self._seconds):
                await made.begin()
            self._publishers[address] = made
            return made

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> RabbitSubscription:
        if not isinstance(start, str):
            raise MissingCapability(f"{self._place.shown}: RabbitMQ replays nothing; a group of {address} begins now")
        link = self._working()
        subscription = RabbitSubscription(link, address, self._seconds)
        try:
            async with link.translating(f"subscribe to {address}", self._seconds + self._settle_seconds):
                channel = await link.channel(subscription)
                await self._declare(channel, address)
                if group is not None:
                    queue = await self._declare_group(channel, address, group)
                    await self._wait_for_the_dead(queue)
                else:
                    made = await channel.queue_declare("", exclusive=True, auto_delete=True)
                    queue = made.queue or ""
                    await channel.queue_bind(queue, address, "#")
                await subscription.begin(channel, queue, prefetch)
        except BaseException:
            await subscription.close()
            raise
        return subscription


def _context(place: Place) -> ssl.SSLContext | None:
    """Errors: `WiringError` for files that cannot be read."""
    if not place.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=place.text("tls_ca") or None)
        if place.text("tls_certificate"):
            context.load_cert_chain(place.text("tls_certificate"), place.text("tls_key") or None)
    except (OSError, ssl.SSLError) as error:
        raise WiringError(
            f"{place.shown}: the files of tls_ca, tls_certificate or tls_key cannot be used: {error}"
        ) from error
    return context
