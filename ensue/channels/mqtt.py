"""MQTT 5: `mqtt://user:password@host:1883`, `mqtts://`; an address is a topic, or to receive a filter like `plant/+/temperature`.

The packets are those of the package `mqtt5`, which writes and reads them and nothing else; the connection is asyncio's. All is
published with QoS 1 on one connection. Each subscription has a connection of its own, because in MQTT it is the *client* that a
server keeps messages for:

- A *group* is a client with the name `CLIENT:GROUP:ADDRESS`, whose session the server keeps. There its messages wait while nobody
  is connected, and what it had received and not accepted comes again. It has one member at a time: another one that subscribes
  takes its place, and the one before is told that its connection broke.
- With `member=` the members of a group are clients of their own, `CLIENT:GROUP:ADDRESS:MEMBER`, and share (`$share/GROUP/ADDRESS`).
  The server gives each message to one of them, present or not, and keeps it for that one: so a name must come back.
- A broadcast is a client whose session ends with its connection.

MQTT wants acknowledgements in the order of the messages (its section 4.6), and Mosquitto uses a message's number again after
65,535 others, whether it was acknowledged or not. So accepting a message accepts all before it, and acknowledges them in order.

What MQTT does not have: a message goes to the sessions that there are, so what is published before a group's first member came is
not for it, and what nobody subscribes to is confirmed and dropped. It knows no rejecting: what is rejected is accepted. It knows no
requeueing: what is requeued waits here, still unacknowledged at the server. It counts no deliveries and tells no backlog. And
Mosquitto tells nobody when it drops a message because a session's queue is full (`max_queued_messages`: 1000 if nothing is set),
nor when its access rules let nobody read: only its log and `$SYS/broker/publish/messages/dropped` say so.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, TypeAlias, cast
from urllib.parse import quote

import mqtt5
import msgspec
from mqtt5 import PubAckReasonCode as Confirmed
from mqtt5 import SubAckReasonCode as Subscribed

from ensue.channels.base import Capabilities, From, Message, Received, Revoked
from ensue.channels.mqtt_connection import (
    PACKET_TOO_LARGE,
    Connection,
    Owner,
    Packet,
    Refused,
    connect,
    said,
    tls_context,
)
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

__all__ = ["MqttBroker", "MqttSubscription"]

FOR_EVER = 2**32 - 1
"""Seconds that a session is kept, as MQTT says it."""
MOST = 65535
"""Messages that may be on their way: their numbers have 16 bits."""
WINDOW = 2048
"""Messages on their way to the server. More make nothing quicker, and would be written while nothing else runs."""
PIECE_BYTES = 1 << 17
"""As much is written at once, or one message more."""
KEY = "partitionkey"
QOS = mqtt5.QoS.AT_LEAST_ONCE
SUCCESS, NOBODY_SUBSCRIBES = Confirmed.SUCCESS, Confirmed.NO_MATCHING_SUBSCRIBERS
BACKSLASH, DELETE = b"\\\x7f"
PUBACK = b"\x40\x02"
"""How an acknowledgement begins; the number of the message follows."""
NO_TEXT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef" + "".join(chr((p << 16) + e) for p in range(17) for e in (0xFFFE, 0xFFFF)) + "]"
)
"""What MQTT and CloudEvents keep out of texts. Mosquitto ends the connection on which it comes."""

_json = msgspec.json.Encoder().encode

_Refusal: TypeAlias = (
    type[AccessRefused] | type[MessageRefused] | type[MissingCapability] | type[Unavailable] | type[WiringError]
)

# What answers mean. What is not listed may go better another time.
_SUBSCRIBE: Mapping[int, _Refusal] = {
    Subscribed.NOT_AUTHORIZED.value: AccessRefused,
    Subscribed.TOPIC_FILTER_INVALID.value: WiringError,
    Subscribed.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED.value: MissingCapability,
    Subscribed.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED.value: MissingCapability,
}
_PUBLISH: Mapping[int, _Refusal] = {
    Confirmed.NOT_AUTHORIZED.value: AccessRefused,
    Confirmed.TOPIC_NAME_INVALID.value: WiringError,
    Confirmed.PAYLOAD_FORMAT_INVALID.value: MessageRefused,
    PACKET_TOO_LARGE: MessageRefused,
}


class _Batch:
    """Messages that are published together."""

    __slots__ = ("done", "errors", "messages", "next", "open", "topic")

    def __init__(self, topic: str, messages: Sequence[Message], done: asyncio.Future[None]) -> None:
        self.topic = topic
        self.messages = messages
        self.next = 0
        """The first that was not sent."""
        self.open = len(messages)
        """How many there is no answer for."""
        self.errors: dict[int, EnsueError] = {}
        self.done = done

    def settle(self) -> None:
        """There is an answer for another one."""
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


class MqttBroker:
    """See the module."""

    prefix: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, str]] = {
        "client": "what the names of our clients begin with, which access rules can name (default: ensue)",
        "member": "the name of this member of its groups, the same each time it starts: with it members share a group, by "
        "`$share`, and what one of them was given waits for that one (default: a group has one member at a time)",
        "session_seconds": "how long the server keeps a group's messages while it has no member (default: for ever)",
        "keep_alive_seconds": "by when it is noticed that the server is gone without a word (default: 30)",
        "retained": "`yes` also receives what the server retains, when a subscription is new (default: no)",
        "durable": "`yes` says that the server has messages and sessions on disk before it confirms; MQTT does not tell. "
        "Mosquitto has not: killed, it loses what it did not save since (default: no)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        if not place.hosts:
            raise WiringError(f"{place.shown} names no host; it looks like mqtt://host:1883")
        if place.path:
            raise WiringError(
                f"{place.shown}: MQTT has nothing that a path could name; a topic is `?address={place.path}`"
            )
        self.place = place
        self.session_seconds = min(place.number("session_seconds", FOR_EVER), FOR_EVER)
        self.retained = place.flag("retained", False)
        self.member = place.text("member") or None
        self._keep_alive_seconds = min(place.number("keep_alive_seconds", 30), MOST)
        self._client = place.text("client", "ensue")
        if not self._client.isprintable():
            raise WiringError(f"{place.shown}: client={self._client!r} has what is no letter")
        self._tls: ssl.SSLContext | None = None
        self._largest: int | None = None
        self._durable = place.flag("durable", False)
        self._host = place.hosts[0]
        self._world: World | None = None
        self._connection: Connection | None = None
        self._subscriptions: set[MqttSubscription] = set()
        self._waiting: deque[_Batch] = deque()
        self._sent: dict[int, tuple[_Batch, int]] = {}
        """Messages without an answer, by their numbers."""
        self._window = 0
        self._number = 0
        _ = place.connect_seconds, place.create, place.tls  # their values are possible

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            durable=self._durable,
            groups=True,
            shares=self.member is not None,
            broadcast=True,
            replay=False,
            assigns=False,
            cumulative=True,
            counts=False,
            delay=False,
            largest=self._largest,
        )

    async def open(self, world: World) -> None:
        assert self._world is None, "opened once"
        self._world = world
        self._tls = tls_context(self.place)
        problem: EnsueError | None = None
        for host in self.place.hosts:
            self._host = host
            try:
                self._connection, answer = await self.connect(self, self.new_client(), 0)
            except Unavailable as error:
                problem = error
                continue
            self._window = min(answer.receive_max, WINDOW)
            self._largest = answer.max_packet_size
            if answer.max_qos == mqtt5.QoS.AT_MOST_ONCE:
                raise WiringError(f"{self.place.shown} confirms nothing: it knows no QoS 1")
            return
        assert problem is not None, "there is a host"
        raise problem

    async def declare(self, address: str) -> None:
        """There is nothing to create or to check in MQTT, but that it is a topic or a filter."""
        self._opened()
        if wrong := _wrong(address):
            raise WiringError(f"{address!r} is no topic and no filter of MQTT: {wrong}")

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        error = None if self._connection is None else self._connection.error
        if self._connection is None or error is not None:
            refused = Unavailable(f"{self.place.shown} is not connected") if error is None else error
            return dict.fromkeys(range(len(messages)), refused)
        if not messages:
            return {}
        if (wrong := _wrong(address)) or "+" in address or "#" in address:
            why = wrong or "it is a filter, and can only be subscribed to"
            return dict.fromkeys(range(len(messages)), WiringError(f"{address!r} is no topic to publish to: {why}"))
        batch = _Batch(address, messages, asyncio.get_running_loop().create_future())
        self._waiting.append(batch)
        self.may_write()
        try:
            await batch.done
        finally:
            if not batch.done.done() or batch.done.cancelled():
                batch.next = len(messages)  # what was not sent is not sent any more
        return batch.errors

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> MqttSubscription:
        """With `start="beginning"` a new group begins now: MQTT has nothing from before."""
        self._opened()
        if isinstance(start, int):
            raise MissingCapability(f"{self.place.shown}: MQTT keeps nothing from which a group could start at a time")
        if wrong := _wrong(address):
            raise WiringError(f"{address!r} is no topic and no filter of MQTT: {wrong}")
        subscription = MqttSubscription(self, address, group, prefetch, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        try:
            await subscription.open()
            self._opened()
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        """The sessions of these groups, or with `member=` this member's. A topic is nothing that could be removed."""
        self._opened()
        for group in groups:
            connection, _ = await self.connect(_Nobody(), self.client_of(group, address), 0)
            await connection.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        await asyncio.gather(*(subscription.close() for subscription in list(self._subscriptions)))
        if connection is not None:
            await connection.close()

    # ------------------------------------------------------------------------------------------------- connecting

    def new_client(self) -> str:
        """A name that nobody else has."""
        assert self._world is not None, "opened"
        return f"{self._client}:{self._world.new_id().hex()}"

    def client_of(self, group: str, address: str) -> str:
        """Its name. No part of it has a colon, nor what topics and access rules are made of."""
        parts = (group, address) if self.member is None else (group, address, self.member)
        return ":".join((self._client, *(quote(part, safe="") for part in parts)))

    async def connect(
        self, owner: Owner, client: str, session_seconds: int, *, prefetch: int = MOST
    ) -> tuple[Connection, mqtt5.ConnAckPacket]:
        """A connection as this client, with what the server answered. Without `session_seconds` all that the server has of the
        client is dropped, now and when the connection ends. Errors: those of `open`."""
        assert self._world is not None, "opened"
        place = self.place
        packet = mqtt5.ConnectPacket(
            client,
            username=place.user,
            password=None if place.password is None else place.password.encode(),
            clean_start=not session_seconds,
            session_expiry_interval=session_seconds,
            keep_alive=self._keep_alive_seconds,
            receive_max=min(prefetch, MOST),
        )
        return await connect(owner, self._world, place, self._host, self._tls, packet)

    def _opened(self) -> None:
        if self._connection is None:
            raise Unavailable(f"{self.place.shown} is not connected")
        if self._connection.error is not None:
            raise self._connection.error

    # ------------------------------------------------------------------------------------------------- publishing

    def room(self) -> int:
        return MOST

    def take(self, packets: list[Packet]) -> None:
        sent = self._sent
        for packet in packets:
            if type(packet) is mqtt5.PubAckPacket:
                code = packet.reason_code
                found = sent.pop(packet.packet_id, None)
                if found is None:
                    continue
                batch, index = found
                if code in (SUCCESS, NOBODY_SUBSCRIBES):
                    batch.settle()
                else:
                    self._refuse(batch, index, code.value, said(code.name, packet.reason_str))
            elif type(packet) is Refused:
                found = sent.pop(packet.packet_id, None)
                if found is not None:
                    why = "it is too large" if packet.code == PACKET_TOO_LARGE else f"code {packet.code}"
                    self._refuse(*found, packet.code, why)
            elif self._connection is not None:
                self._connection.other(packet)

    def _refuse(self, batch: _Batch, index: int, code: int, why: str) -> None:
        kind = _PUBLISH.get(code, Unavailable)
        batch.errors[index] = kind(f"{self.place.shown} does not take a message for {batch.topic}: {why}")
        batch.settle()

    def may_write(self) -> None:
        """Send what waits, as far as the server takes it."""
        connection = self._connection
        if connection is None:
            return
        while self._waiting and len(self._sent) < self._window and connection.may_write and connection.error is None:
            batch = self._waiting[0]
            connection.write(b"".join(self._pieces(batch)))
            if batch.next >= len(batch.messages):
                self._waiting.popleft()

    def _pieces(self, batch: _Batch) -> list[bytes]:
        """The next of its messages that may be sent, as far as they are to be written together."""
        pieces: list[bytes] = []
        size, number, sent = 0, self._number, self._sent
        while batch.next < len(batch.messages) and len(sent) < self._window and size < PIECE_BYTES:
            number = number % MOST + 1
            while number in sent:
                number = number % MOST + 1
            index = batch.next
            batch.next += 1
            try:
                piece = self._encoded(batch.topic, batch.messages[index], number)
            except MessageRefused as error:
                batch.errors[index] = error
                batch.settle()
            else:
                sent[number] = batch, index
                size += len(piece)
                pieces.append(piece)
        self._number = number
        return pieces

    def _encoded(self, topic: str, message: Message, number: int) -> bytes:
        headers, key, content_type = message.headers, message.key, message.content_type
        properties = list(headers.items())
        if key is not None and KEY not in headers:
            properties.append((KEY, key))
        if message.delay_seconds > 0:
            raise MessageRefused(f"the message for {topic} is to be delayed, and MQTT keeps no delays")
        try:
            # As JSON, which takes half the time of any other way, it shows that nothing has to be looked at more closely.
            texts = _json((properties, content_type))
            if not texts.isascii() or BACKSLASH in texts or DELETE in texts:
                _check_texts(properties, content_type)
            data = mqtt5.PublishPacket(
                topic,
                message.body,
                qos=QOS,
                packet_id=number,
                content_type=content_type,
                user_properties=properties,
            ).write()
        except ValueError as error:
            raise MessageRefused(f"the message for {topic} cannot be sent by MQTT: {error}") from error
        if self._largest is not None and len(data) > self._largest:
            raise MessageRefused(
                f"the message for {topic} has {len(data)} bytes; {self.place.shown} takes {self._largest} at most"
            )
        return data

    def ended(self, error: EnsueError) -> None:
        """Nothing of what waits will ever be answered, and nothing more is received: one connection broke, so all did."""
        sent, self._sent = self._sent, {}
        for batch, index in sent.values():
            batch.errors[index] = OutcomeUnknown(f"{error}; the message for {batch.topic} is there or is not")
            batch.settle()
        waiting, self._waiting = self._waiting, deque()
        for batch in waiting:
            for index in range(batch.next, len(batch.messages)):
                batch.errors[index] = error
                batch.settle()
        for subscription in list(self._subscriptions):
            subscription.end(error)


class _Nobody:
    """The owner of a connection on which nothing is sent or received."""

    def room(self) -> int:
        return MOST

    def take(self, packets: list[Packet]) -> None:
        pass

    def may_write(self) -> None:
        pass

    def ended(self, error: EnsueError) -> None:
        pass


class _Received(msgspec.Struct, gc=False, eq=False):
    """A message that came. It does not keep the packet, whose parts the collector of garbage would look at again and again."""

    topic: str
    packet_id: int | None
    """None for what was published with QoS 0: there is nothing to acknowledge."""
    number: int
    """Counted by the subscription, in the order in which they came."""
    body: bytes
    content_type: str | None
    headers: Mapping[str, str]
    """Of several with one name it is the last."""

    @property
    def key(self) -> str | None:
        return self.headers.get(KEY)

    @property
    def partition(self) -> int:
        return 0

    @property
    def deliveries(self) -> int:
        return 1

    @property
    def where(self) -> str:
        """The topic itself, also where the subscription is to a filter, and the number in the log of the server."""
        return f"{self.topic} @ m{self.packet_id or 0}"

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


class MqttSubscription:
    """See the module."""

    def __init__(
        self,
        broker: MqttBroker,
        address: str,
        group: str | None,
        prefetch: int,
        gone: Callable[[MqttSubscription], None],
    ) -> None:
        self._broker = broker
        self._address = address
        self._group = group
        self._prefetch = prefetch
        self._gone = gone
        self._connection: Connection | None = None
        self._error: EnsueError | None = None
        self._subscribed: asyncio.Future[mqtt5.SubAckPacket] = asyncio.get_running_loop().create_future()
        self._wakes: asyncio.Future[None] | None = None
        self._waiting: deque[_Received] = deque()
        """What came and was not received, or was requeued."""
        self._held: deque[_Received] = deque()
        """What was received and not accepted; all of it came before what waits."""
        self._count = 0
        self._wanted = 0
        """By a receive that waits."""

    async def open(self) -> None:
        """Errors: those of `MqttBroker.subscribe`."""
        broker, group = self._broker, self._group
        client = broker.new_client() if group is None else broker.client_of(group, self._address)
        seconds = 0 if group is None else broker.session_seconds
        self._connection, answer = await broker.connect(self, client, seconds, prefetch=self._prefetch)
        shown = broker.place.shown
        granted = answer.session_expiry_interval
        if granted is not None and granted < seconds:
            raise WiringError(
                f"{shown} keeps the session of {client} for {granted} s only, and it was to be {seconds} s: change the setting of "
                f"the server, or say session_seconds={granted}"
            )
        shared = group is not None and broker.member is not None
        retained = mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        topic = mqtt5.TopicFilter(
            f"$share/{quote(group or '', safe='')}/{self._address}" if shared else self._address,
            max_qos=QOS,
            retain_handling=retained if broker.retained and not shared else mqtt5.RetainHandling.SEND_NEVER,
        )
        self._connection.write(mqtt5.SubscribePacket(1, [topic]).write())
        (code,) = (await self._subscribed).reason_codes
        if code == Subscribed.GRANTED_QOS_AT_MOST_ONCE:
            raise WiringError(f"{shown} acknowledges nothing of {self._address}: it grants QoS 0 only")
        if code != Subscribed.GRANTED_QOS_AT_LEAST_ONCE:
            kind = _SUBSCRIBE.get(code.value, Unavailable)
            raise kind(f"{shown} does not let {client} subscribe to {topic.pattern}: {said(code.name, None)}")

    async def receive(self, most: int) -> Sequence[Received]:
        """What came stays as it came until it is asked for."""
        self._wanted = most
        try:
            while True:
                connection = self._check()
                if not self._waiting:
                    connection.read()
                count = min(most, len(self._waiting), self._prefetch - len(self._held))
                if count > 0:
                    break
                self._check()  # what was read may have broken it
                self._wakes = asyncio.get_running_loop().create_future()
                await self._wakes
        finally:
            self._wanted = 0
        taken = [self._waiting.popleft() for _ in range(count)]
        self._held.extend(taken)
        return taken

    async def accept(self, received: Sequence[Received]) -> None:
        connection = self._check()
        if not received:
            return
        held = self._held
        last = max([one.number for one in cast("Sequence[_Received]", received)])
        # Their numbers have no gaps.
        count = min(last - held[0].number + 1, len(held)) if held else 0
        done = [held.popleft().packet_id for _ in range(count)]
        # What was published with QoS 0 has no number: there is nothing to acknowledge.
        connection.write(b"".join([PUBACK + number.to_bytes(2, "big") for number in done if number is not None]))
        if self._wanted:
            connection.read()  # there is room again
            self._wake()

    async def reject(self, received: Sequence[Received]) -> None:
        await self.accept(received)

    async def requeue(self, received: Sequence[Received]) -> None:
        """They wait here, in front of all others, and still unacknowledged at the server."""
        self._check()
        if not received:
            return
        first = min([one.number for one in cast("Sequence[_Received]", received)])
        while self._held and self._held[-1].number >= first:
            self._waiting.appendleft(self._held.pop())
        self._wake()

    async def backlog(self) -> int | None:
        self._check()
        return None

    async def close(self) -> None:
        if self._error is None:
            self._error = Unavailable(f"the subscription to {self._address} is closed")
        self._gone(self)
        self._wake()
        if self._connection is not None:
            await self._connection.close()

    def end(self, error: EnsueError) -> None:
        """The connection of its broker broke."""
        if self._connection is not None:
            self._connection.end(error)

    def _check(self) -> Connection:
        if self._error is not None:
            raise self._error
        assert self._connection is not None, "opened"
        return self._connection

    def _wake(self) -> None:
        if self._wakes is not None and not self._wakes.done() and (self._waiting or self._error is not None):
            self._wakes.set_result(None)

    # ------------------------------------------------------------------------------------------- of its connection

    def room(self) -> int:
        if not self._subscribed.done():
            return MOST  # the answer comes behind what the server sends again
        return min(self._wanted, self._prefetch - len(self._held)) - len(self._waiting)

    def take(self, packets: list[Packet]) -> None:
        number = self._count
        for packet in packets:
            if type(packet) is mqtt5.PublishPacket:
                number += 1
                headers = dict(packet.user_properties)
                self._waiting.append(
                    _Received(packet.topic, packet.packet_id, number, packet.payload, packet.content_type, headers)
                )
            elif isinstance(packet, mqtt5.SubAckPacket) and not self._subscribed.done():
                self._subscribed.set_result(packet)
            elif self._connection is not None:
                self._connection.other(packet)
        self._count = number
        self._wake()

    def may_write(self) -> None:
        pass  # what it writes is bounded by what it holds

    def ended(self, error: EnsueError) -> None:
        if self._error is None:
            self._error = error
        if not self._subscribed.done():
            self._subscribed.set_exception(error)
            self._subscribed.exception()  # whoever subscribed may have given up
        self._gone(self)
        self._wake()


def _wrong(address: str) -> str | None:
    """Why it is neither a topic nor a filter."""
    if not address or NO_TEXT.search(address):
        return "it is empty, or has control characters"
    try:
        mqtt5.TopicFilter(address)
    except ValueError as error:
        return str(error)
    return None


def _check_texts(properties: Sequence[tuple[str, str]], content_type: str) -> None:
    """Errors: `ValueError`."""
    texts = "".join([content_type, *(text for pair in properties for text in pair)])
    if (found := NO_TEXT.search(texts)) is not None:
        raise ValueError(f"there is {found[0]!a} in a header, which is kept out of texts")
