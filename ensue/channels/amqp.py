"""AMQP 0.9.1 beneath the adapter of RabbitMQ: a connection on which messages go by the client library.

`aiormq` shakes hands, asks for topology and keeps the connection alive. Messages, confirmations and acknowledgements do not
pass through it: it makes tasks and queues for each of them, and is a fifth as fast. That they go by it uses what it offers, a
transport of one's own: what the server sends is cut into frames here first, and what is for a `Line` goes there; all else is
what the library reads. What is written goes to the same socket, in whole frames. The protocol has been the same since 2008.

Nothing here knows what a message means. A connection that broke stays broken, and every line of it is told once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, SupportsIndex

import aiormq
from aiormq.abc import AbstractChannel
from aiormq.connection import TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from yarl import URL

from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.world import World

__all__ = ["Encoder", "Line", "Link", "Properties", "acknowledgement", "read_properties", "translated"]

_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
_HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"
_CLOSE, _BLOCKED, _UNBLOCKED = (10 << 16) | 50, (10 << 16) | 60, (10 << 16) | 61
_CHANNEL_CLOSE = (20 << 16) | 40
_CANCEL, _RETURN, _DELIVER = (60 << 16) | 30, (60 << 16) | 50, (60 << 16) | 60
_ACK, _NACK = (60 << 16) | 80, (60 << 16) | 120
_frame = Struct(">BHI")
_kind = Struct(">I")
_tag = Struct(">Q")
_short = Struct(">H")
_long = Struct(">I")
_confirm = Struct(">QB")
_acknowledge = Struct(">BHIIQBB")
_content = Struct(">HHQH")

FRAME_BYTES = 131072
"""What a frame may have where the server does not say."""
WRITTEN_BYTES = 1 << 20
"""How much may wait to be written before a publish waits."""
CLOSING_SECONDS = 3.0
MOST_NAMES = 4096
QUIET_SECONDS = 1.0
"""The library must hear something now and then, or it thinks that the server is gone: messages go by it."""


class Line:
    """One channel of the protocol, as far as messages go. What a subclass does not expect does not come."""

    number = 0
    error: EnsueError | None = None
    """Why nothing comes any more."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._method = b""
        self._properties = b""
        self._missing = 0
        self._parts: list[bytes] = []
        self._is_returned = False

    def delivered(self, method: bytes, properties: bytes, body: bytes) -> None:
        """A message came: how, with which properties, and the bytes."""

    def returned(self, properties: bytes) -> None:
        """The server knows no queue for this message of ours."""

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """The server has a message of ours, or has not; with `multiple`, all up to it."""

    def cancelled(self) -> None:
        """The server delivers nothing more."""

    def held_up(self) -> None:
        """The server reads nothing more of this connection for a while."""

    def closed(self, code: int, text: str) -> EnsueError:
        """The server closed the channel; what `error` is to be."""
        return Unavailable(f"{self.link.shown}: the server closed the channel: {text}")

    def end(self, error: EnsueError) -> None:
        """Nothing comes any more, for this reason. Once."""
        if self.error is None:
            self.error = error
            self.ended(error)

    def ended(self, error: EnsueError) -> None:
        """For subclasses: tell those who wait."""

    def frame(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Take a frame; false for what the library is to read (also)."""
        if kind == _BODY:
            body = data[start:stop]
            self._missing -= stop - start
            if self._missing <= 0:
                if self._parts:
                    self._parts.append(body)
                    body = b"".join(self._parts)
                    self._parts = []
                self._whole(body)
            else:
                self._parts.append(body)
            return True
        if kind == _HEADER:
            self._properties = data[start + 12 : stop]
            self._missing = _tag.unpack_from(data, start + 4)[0]
            if self._missing == 0:
                self._whole(b"")
            return True
        return kind == _METHOD and self._method_frame(data, start, stop)

    def _whole(self, body: bytes) -> None:
        if self._is_returned:
            self._is_returned = False
            self.returned(self._properties)
        else:
            self.delivered(self._method, self._properties, body)

    def _method_frame(self, data: bytes, start: int, stop: int) -> bool:
        kind = _kind.unpack_from(data, start)[0]
        if kind == _DELIVER:
            self._method = data[start + 4 : stop]
        elif kind in (_ACK, _NACK):
            tag, bits = _confirm.unpack_from(data, start + 4)
            self.confirmed(tag, bool(bits & 1), kind == _ACK)
        elif kind == _RETURN:
            self._is_returned = True
        elif kind == _CANCEL:
            self.cancelled()
            return False
        elif kind == _CHANNEL_CLOSE:
            self.end(self.closed(*_reason(data, start + 4)))
            return False
        else:
            return False
        return True


def _reason(data: bytes, start: int) -> tuple[int, str]:
    """Code and text of a method that closes something."""
    code = _short.unpack_from(data, start)[0]
    return code, data[start + 3 : start + 3 + data[start + 2]].decode(errors="replace")


class _Tap(asyncio.StreamReader):
    """What the server sends, on its way to the library."""

    def __init__(self, link: Link, world: World) -> None:
        super().__init__()
        self._link = link
        self._world = world
        self._rest = b""
        self._heard_at = 0.0
        self.first = b""
        """What came first, by which the kind of a server is seen."""

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        data = bytes(data)
        if not self.first:
            self.first = data[:8]
            if data[:1] != b"\x01":  # no frame: the library says what it is
                super().feed_data(data)
                return
        data = self._rest + data if self._rest else data
        lines, others = self._link.lines, list[bytes]()
        position, end = 0, len(data)
        while end - position > 7:
            kind, number, size = _frame.unpack_from(data, position)
            start = position + 7
            stop = start + size
            if stop >= end:
                break
            if data[stop] != 0xCE:
                self._link.garbled()
                return
            line = lines.get(number)
            if line is None:
                if number == 0 and kind == _METHOD:
                    self._link.of_connection(data, start)
                others.append(data[position : stop + 1])
            elif not line.frame(kind, data, start, stop):
                others.append(data[position : stop + 1])
            position = stop + 1
        self._rest = data[position:]
        now = self._world.monotonic()
        if others or now - self._heard_at > QUIET_SECONDS:
            self._heard_at = now
            super().feed_data(b"".join(others) or _HEARTBEAT)

    def feed_eof(self) -> None:
        super().feed_eof()
        self._link.broke("the server ended it")


class _Protocol(asyncio.StreamReaderProtocol):
    def __init__(self, link: Link, tap: _Tap) -> None:
        super().__init__(tap)
        self._link = link

    def pause_writing(self) -> None:
        super().pause_writing()
        self._link.flowing.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._link.flowing.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._link.cause = exc
        self._link.broke(str(exc) if exc is not None else "it was ended")


class _Transport(TransportFactory):
    """The hook: what the library reads and writes is ours."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self._link.connect(str(url.host), int(url.port or 0))


class Link:
    """One connection. `shown` is where it leads, for people."""

    def __init__(self, shown: str, world: World, *, context: ssl.SSLContext | None, heartbeat_seconds: int) -> None:
        self.shown = shown
        self.error: EnsueError | None = None
        """Why it is broken."""
        self.blocked: str | None = None
        """Why the server takes no messages for now."""
        self.cause: Exception | None = None
        """What the socket ended with."""
        self.lines: dict[int, Line] = {}
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._context = context
        self._heartbeat_seconds = heartbeat_seconds
        self._tap = _Tap(self, world)
        self._transport: asyncio.Transport | None = None
        self._connection: aiormq.Connection | None = None

    async def open(self, host: str, port: int, user: str, password: str, path: str) -> None:
        """Connect to this virtual host, once. Errors: `Unavailable`, `AccessRefused`, `WiringError`."""
        library = logging.getLogger("aiormq")
        if library.level == logging.NOTSET:  # else a lost connection is two tracebacks, of what is raised here anyway
            library.setLevel(logging.CRITICAL)
        query = {"heartbeat": str(self._heartbeat_seconds), "name": "ensue"}
        url = URL.build(scheme="amqp", user=user, password=password, host=host, port=port, query=query)
        connection = aiormq.Connection(url, transport_factory=_Transport(self))
        connection.vhost = path
        try:
            await connection.connect()
        except (AMQPError, OSError, EOFError, RuntimeError, ValueError) as error:
            raise self._not_open(error) from error
        if self.error is not None:
            raise self.error
        self._connection = connection

    async def connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """For the library. Errors: `OSError`."""
        loop = asyncio.get_running_loop()
        protocol = _Protocol(self, self._tap)
        transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=self._context)
        transport.set_write_buffer_limits(high=WRITTEN_BYTES)
        self._transport = transport
        return self._tap, asyncio.StreamWriter(transport, protocol, self._tap, loop)

    def _not_open(self, error: Exception) -> EnsueError:
        first = self._tap.first
        if first[:4] == b"AMQP":
            return WiringError(f"{self.shown}: the server speaks another version of AMQP than 0.9.1")
        if first and first[:3] != b"\x01\0\0":
            return WiringError(f"{self.shown}: what answers there is no RabbitMQ; it said {first!r}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return WiringError(
                f"{self.shown}: the server's certificate is not trusted: {error.verify_message}; tls_ca names a file "
                "with the authority that signed it"
            )
        if isinstance(error, ssl.SSLError):
            return WiringError(f"{self.shown}: TLS could not be agreed on: {error.reason or error}")
        if isinstance(error, AuthenticationError):
            return WiringError(f"{self.shown}: the server takes no passwords: {error!r}")
        if isinstance(self.cause, ssl.SSLError):
            return AccessRefused(f"{self.shown}: the server does not take our certificate: {self.cause.reason}")
        if self.error is not None:
            return self.error
        return Unavailable(f"cannot connect to {self.shown}: {error}")

    @property
    def server(self) -> Mapping[str, object]:
        """What the server says of itself: `product`, `version`."""
        assert self._connection is not None
        properties: Mapping[str, object] = self._connection.server_properties
        return properties

    @property
    def frame_bytes(self) -> int:
        """How many bytes a frame may have, its own eight included."""
        assert self._connection is not None
        return self._connection.connection_tune.frame_max or FRAME_BYTES

    async def channel(self, line: Line | None = None, *, confirms: bool = False) -> AbstractChannel:
        """A new channel, whose messages go to that line. Errors: those of the library; see `translated`."""
        if self.error is not None:
            raise self.error
        assert self._connection is not None
        channel = await self._connection.channel(publisher_confirms=confirms)
        if line is not None:
            line.number = channel.number
            self.lines[channel.number] = line
        return channel

    @asynccontextmanager
    async def asking(self, what: str, seconds: float) -> AsyncGenerator[AbstractChannel]:
        """A channel for questions about topology, closed afterwards. Errors: `Unavailable`, `WiringError`, `AccessRefused`."""
        async with self.translating(what, seconds):
            channel = await self.channel()
            try:
                yield channel
            finally:
                await channel.close()

    @asynccontextmanager
    async def translating(self, what: str, seconds: float) -> AsyncGenerator[None]:
        """Errors of the library become ours; what takes longer is `Unavailable`."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise Unavailable(f"{self.shown}: {what}: there was no answer within {seconds:g} s") from error
        except (AMQPError, OSError, RuntimeError) as error:
            raise self.error or translated(error, f"{self.shown}: {what}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # How the library ends what waits when a channel or the connection is closed.
            raise self.error or Unavailable(f"{self.shown}: {what}: the channel was closed") from error

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        if self.error is None and self._transport is not None:
            self._transport.write(frames)

    async def drain(self) -> None:
        """Wait until there is room for more, or none is needed any more."""
        await self.flowing.wait()

    def of_connection(self, data: bytes, start: int) -> None:
        """A method that is for the connection."""
        kind = _kind.unpack_from(data, start)[0]
        if kind == _CLOSE:
            code, text = _reason(data, start + 4)
            self._end(_closed(self.shown, code, text))
        elif kind == _BLOCKED:
            self.blocked = data[start + 5 : start + 5 + data[start + 4]].decode(errors="replace")
            self.flowing.set()
            for line in list(self.lines.values()):
                line.held_up()
        elif kind == _UNBLOCKED:
            self.blocked = None

    def broke(self, why: str) -> None:
        """The socket is gone."""
        self._end(Unavailable(f"the connection to {self.shown} broke: {why}"))

    def garbled(self) -> None:
        """What came is no frame: nothing after it can be read."""
        self.broke("what the server sent cannot be read")
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: EnsueError) -> None:
        if self.error is None:
            self.error = error
            self.flowing.set()
            lines, self.lines = self.lines, {}
            for line in lines.values():
                line.end(error)

    async def close(self) -> None:
        """Send what was written, take leave and end it. Raises nothing; takes seconds where the server does not answer."""
        broken = self.error is not None or self.blocked is not None
        lines, self.lines = self.lines, {}
        for line in lines.values():
            line.end(Unavailable(f"the connection to {self.shown} was closed"))
        try:
            if self._connection is not None and not broken:
                with suppress(AMQPError, OSError, RuntimeError, TimeoutError):
                    async with asyncio.timeout(CLOSING_SECONDS):
                        await self._connection.close()
        finally:
            self._end(Unavailable(f"the connection to {self.shown} was closed"))
            if self._transport is not None:
                self._transport.abort()
            if self._connection is not None and broken:
                with suppress(AMQPError, OSError, RuntimeError, TimeoutError):
                    async with asyncio.timeout(CLOSING_SECONDS):
                        await self._connection.close()


def _closed(shown: str, code: int, text: str) -> EnsueError:
    """What the server means when it closes a connection."""
    if code == 403 or (code == 530 and "access to vhost" in text):
        return AccessRefused(f"{shown}: the server does not let this user in: {text}")
    if code == 530 and "not found" in text:
        return WiringError(f"{shown}: there is no such virtual host: {text}")
    return Unavailable(f"the connection to {shown} was closed by the server: {text}")


def translated(error: Exception, what: str) -> EnsueError:
    """An error of the library as one of ours."""
    if isinstance(error, EnsueError):
        return error
    text = str(error.args[-1]) if error.args else repr(error)
    if isinstance(error, ChannelPreconditionFailed | ChannelNotFoundEntity):
        return WiringError(f"{what}: {text}")
    if isinstance(error, ChannelAccessRefused):
        return AccessRefused(f"{what}: {text}")
    return Unavailable(f"{what}: {text}")


# ------------------------------------------------------------------------------------------------------------- writing


@lru_cache(4096)
def _header_name(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > 255:
        raise ValueError(f"the name of a header has {len(raw)} bytes; AMQP takes 255")
    return bytes((len(raw),)) + raw + b"S"


@lru_cache(1024)
def _short_text(text: str, what: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"{what} has {len(raw)} bytes; AMQP takes 255")
    return bytes((len(raw),)) + raw


class Encoder:
    """Messages to one exchange as frames of one channel."""

    def __init__(self, number: int, exchange: str, *, mandatory: bool, frame_bytes: int) -> None:
        """Errors: `ValueError` for a name that AMQP does not take."""
        self._number = number
        self._method = b"\0\x3c\0\x28\0\0" + _short_text(exchange, "the name of the exchange")
        self._bits = b"\x01" + _END if mandatory else b"\0" + _END
        self._most = frame_bytes - 8

    def message(
        self,
        body: bytes,
        headers: Mapping[str, str],
        content_type: str,
        *,
        routing_key: str,
        message_id: str,
        seconds: int,
    ) -> bytes:
        """Frames of a persistent message; `seconds` since 1970 is its time. An empty `message_id` is none. Errors: `ValueError`,
        saying what AMQP does not take."""
        number = self._number
        parts: list[bytes] = []
        for name, value in headers.items():
            raw = value.encode()
            parts += (_header_name(name), _long.pack(len(raw)), raw)
        table = b"".join(parts)
        properties = b"".join(
            (
                _content.pack(60, 0, len(body), 0xB0C0 if message_id else 0xB040),
                *(_short_text(content_type, "the content type"), _long.pack(len(table)), table, b"\x02"),
                *((bytes((len(message_id),)), message_id.encode("ascii")) if message_id else ()),
                _tag.pack(seconds),
            )
        )
        if len(properties) > self._most:
            raise ValueError(f"its headers have {len(table)} bytes, and must go into one frame of {self._most}")
        key = _short_text(routing_key, "the routing key")
        frames = [
            _frame.pack(_METHOD, number, len(self._method) + len(key) + 1), self._method, key, self._bits,
            _frame.pack(_HEADER, number, len(properties)), properties, _END,
        ]  # fmt: skip
        for first in range(0, len(body), self._most):
            part = body[first : first + self._most]
            frames += (_frame.pack(_BODY, number, len(part)), part, _END)
        return b"".join(frames)


def acknowledgement(number: int, tag: int, *, multiple: bool, accept: bool, requeue: bool) -> bytes:
    """A frame that says what became of a message, or with `multiple` of all up to it."""
    kind = _ACK if accept else _NACK
    return _acknowledge.pack(_METHOD, number, 13, kind, tag, multiple | requeue << 1, 0xCE)


# ------------------------------------------------------------------------------------------------------------- reading

_FIXED = {
    **dict.fromkeys(b"tbB", 1), **dict.fromkeys(b"suU", 2), **dict.fromkeys(b"Iif", 4), ord("D"): 5,
    **dict.fromkeys(b"lLdT", 8), ord("V"): 0,
}  # fmt: skip
"""Bytes of the values of a header table, by their kinds."""


class Properties(NamedTuple):
    """Of a message: what is a text, and what is a number."""

    content_type: str | None
    message_id: str | None
    headers: dict[str, str]
    numbers: dict[str, int]


class _Names(dict[bytes, str]):
    """Names of headers: there are few, and each comes with every message."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.decode(errors="replace")
        # The binding allows both; what is read with one prefix is written so.
        name = f"cloudEvents:{name[12:]}" if name.startswith("cloudEvents_") else name
        if len(self) < MOST_NAMES:
            self[raw] = name
        return name


_names = _Names()


def read_properties(raw: bytes) -> Properties:
    """All that can be read."""
    flags = _short.unpack_from(raw)[0]
    at = 2
    content_type = message_id = None
    headers, numbers = dict[str, str](), dict[str, int]()
    if flags & 0x8000:
        at += 1 + raw[at]
        content_type = raw[at - raw[2] : at].decode(errors="replace")
    if flags & 0x4000:  # the encoding of the content
        at += 1 + raw[at]
    if flags & 0x2000:
        stop = at + 4 + _long.unpack_from(raw, at)[0]
        headers, numbers = _read_table(raw, at + 4, stop)
        at = stop
    at += bool(flags & 0x1000) + bool(flags & 0x0800)  # whether it is durable, and its priority
    if flags & 0x0080:
        for bit in (0x0400, 0x0200, 0x0100):
            if flags & bit:
                at += 1 + raw[at]
        message_id = raw[at + 1 : at + 1 + raw[at]].decode(errors="replace")
    return Properties(content_type, message_id, headers, numbers)


def _read_table(raw: bytes, at: int, stop: int) -> tuple[dict[str, str], dict[str, int]]:
    texts, numbers = dict[str, str](), dict[str, int]()
    names, length = _names, _long.unpack_from
    while at < stop:
        first = at + 1
        at = first + raw[at]
        name = raw[first:at]
        kind = raw[at]
        at += 1
        if kind == 83:  # S, a text
            first = at + 4
            at = first + length(raw, at)[0]
            try:
                texts[names[name]] = raw[first:at].decode()
            except UnicodeDecodeError:
                continue
        elif kind in _FIXED:
            if kind == 108:  # l, a whole number
                numbers[names[name]] = _tag.unpack_from(raw, at)[0]
            at += _FIXED[kind]
        elif kind in b"FAx":
            at += 4 + length(raw, at)[0]
        else:
            break  # nobody knows where the next one begins
    return texts, numbers
