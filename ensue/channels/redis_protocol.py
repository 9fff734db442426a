"""Redis' protocol, as the adapter needs it: a connection, what its errors mean, and an entry of a stream.

Parsing and packing are those of `hiredis`, the library that Redis' own client for Python has underneath. That client takes five
times as long to publish: it packs each command in Python and reads each answer through three coroutines.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import hiredis
import msgspec

from ensue.channels.urls import Place
from ensue.errors import AccessRefused, EnsueError, MessageRefused, Unavailable, WiringError
from ensue.world import World

__all__ = ["NOTHING", "OWN", "SILENCE_SECONDS", "Connection", "Entry", "command", "error_said", "secure", "unwelcome"]

SILENCE_SECONDS = 15.0
"""A server that owes an answer and has said nothing for so long is not there."""
WRITE_BYTES = 32 * 1024
"""So much is sent at once: the server begins with it."""
NOTHING = object()
"""No answer; None is one."""
OWN = frozenset(("data", "content-type", "key"))
"""The fields of an entry that are no headers."""

# --------------------------------------------------------------------------------------------------------- what is said


_KINDS: Mapping[str, type[EnsueError]] = {
    **dict.fromkeys(("WRONGPASS", "NOAUTH", "NOPERM", "DENIED"), AccessRefused),
    **dict.fromkeys(
        ("OOM", "MISCONF", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS"),
        Unavailable,
    ),
}
_SAYINGS: tuple[tuple[str, type[EnsueError]], ...] = (
    ("max number of clients", Unavailable),
    ("Elements are too large", MessageRefused),
    ("invalid bulk length", MessageRefused),
)


def error_said(reply: object, what: str) -> EnsueError:
    """What an answer that is no good means. All that is not known otherwise is for a person to put right."""
    said = str(reply)
    kind = _KINDS.get(said.partition(" ")[0]) or next((kind for text, kind in _SAYINGS if text in said), WiringError)
    return kind(f"{what}: Redis says {said!r}")


@functools.lru_cache(maxsize=4096)
def _name(field: bytes) -> str | None:
    """The name of a header; None for what is no text, or no header."""
    name = _text(field)
    return None if name in OWN else name


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


class Entry(msgspec.Struct, gc=False):
    """A `Received`. Its fields are looked up when they are asked for."""

    id: bytes
    fields: list[bytes]
    address: str
    deliveries: int

    @property
    def body(self) -> bytes:
        return self.fields[1] if self.fields[0] == b"data" else self._value(b"data") or b""

    @property
    def content_type(self) -> str | None:
        return _text(self._value(b"content-type"))

    @property
    def key(self) -> str | None:
        return _text(self._value(b"key"))

    @property
    def partition(self) -> int:
        return 0

    @property
    def where(self) -> str:
        return f"{self.address} @ {self.id.decode()}"

    @property
    def headers(self) -> Mapping[str, str]:
        fields = self.fields
        first = 2 if fields[0] == b"data" else 0  # a body can be long
        pairs = zip(fields[first::2], fields[first + 1 :: 2], strict=True)
        try:
            return {name: value.decode() for field, value in pairs if (name := _name(field)) is not None}
        except UnicodeDecodeError:
            names = {name for field in fields[first::2] if (name := _name(field)) is not None}
            return {name: text for name in names if (text := self.header(name)) is not None}

    def header(self, name: str) -> str | None:
        return None if name in OWN else _text(self._value(name.encode()))

    def _value(self, name: bytes) -> bytes | None:
        fields, place = self.fields, -1
        try:
            while True:
                place = fields.index(name, place + 1)
                if not place % 2:
                    return fields[place + 1]
        except ValueError:
            return None


# ---------------------------------------------------------------------------------------------------------- connection


class _Asked:
    """Commands whose answers are awaited together."""

    __slots__ = ("answered", "answers", "count")

    def __init__(self, answered: Callable[[list[Any]], None]) -> None:
        self.count = 0
        self.answers: list[Any] = []
        self.answered = answered


class Connection(asyncio.Protocol):
    """Commands go out in order, answers come back in order, each to whoever asked. No task, and no future but an asker's own.

    What is written waits in memory until the server takes it: askers wait for their answers, and so bound it.
    """

    def __init__(self, world: World, lost: Callable[[BaseException | None], None]) -> None:
        self.lost = False
        self.cause: BaseException | None = None
        """Why it was lost, as far as that is known."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._world = world
        self._on_lost = lost
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._asked: deque[_Asked] = deque()
        self._heard = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        opened: socket.socket | None = transport.get_extra_info("socket")
        if opened is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * SILENCE_SECONDS))

    def data_received(self, data: bytes) -> None:
        gets, asked = self._reader.gets, self._asked
        self._heard = self._world.monotonic()
        try:
            self._reader.feed(data)
            while (answer := gets()) is not NOTHING:
                if not asked or (type(answer) is hiredis.PushNotification and answer[0] != b"subscribe"):
                    continue  # nobody asked: its last words, or what somebody tells the members
                first = asked[0]
                first.answers.append(answer)
                if len(first.answers) == first.count:
                    asked.popleft().answered(first.answers)
        except hiredis.ProtocolError as error:
            self.abort(error)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lose(exc)

    def _lose(self, error: BaseException | None) -> None:
        if self.lost:
            return
        self.lost = True
        self.cause = error
        self._on_lost(error)
        while self._asked:
            first = self._asked.popleft()
            first.answered(first.answers)  # fewer than it asked for
        if not self.ended.done():
            self.ended.set_result(None)

    def send(self, commands: Iterable[bytes], answered: Callable[[list[Any]], None]) -> None:
        """Send commands; `answered` gets the answer of each, or fewer when the connection breaks before. The first are on their
        way while the last are made."""
        assert self._transport is not None
        if self.lost:
            answered([])
            return
        if not self._asked:
            self._heard = self._world.monotonic()
        asked = _Asked(answered)
        self._asked.append(asked)
        pieces: list[bytes] = []
        size = 0
        try:
            for one in commands:
                asked.count += 1
                pieces.append(one)
                size += len(one)
                if size > WRITE_BYTES:
                    self._transport.write(b"".join(pieces))
                    pieces, size = [], 0
        finally:
            self._transport.write(b"".join(pieces))
            if not asked.count:
                self._asked.pop()
                answered([])

    async def ask(self, commands: Iterable[bytes]) -> list[Any]:
        """The same for those who wait."""
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.send(commands, lambda come: None if answers.done() else answers.set_result(come))
        return await answers

    def silent(self) -> bool:
        """The server has all that was sent, and does not answer."""
        assert self._transport is not None
        owes = self._asked and not self._transport.get_write_buffer_size()
        return bool(owes) and self._world.monotonic() - self._heard > SILENCE_SECONDS

    def abort(self, error: BaseException | None = None) -> None:
        """End it now."""
        self._lose(error)
        if self._transport is not None:
            self._transport.abort()

    async def end(self) -> None:
        """Return when the server knows that it has ended: no member lives on it any more."""
        if self._transport is None or self.lost:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        await self.ended


def command(*parts: bytes | str | int) -> bytes:
    return cast("bytes", hiredis.pack_command(cast("Any", parts)))


def unwelcome(cause: BaseException | None, place: Place) -> EnsueError:
    """Why a server ends a connection that has just begun."""
    if isinstance(cause, hiredis.ProtocolError):
        return WiringError(f"{place.shown} is no Redis server: {cause}")
    text = f"{place.shown}: the server ended the connection: {cause or 'it closed it'}"
    if place.tls:
        text += "; does it ask for a certificate (tls_certificate)?"
    return AccessRefused(text) if isinstance(cause, ssl.SSLError) else Unavailable(text)


def secure(place: Place) -> ssl.SSLContext:
    """Errors: `WiringError` for files that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=place.text("tls_ca") or None)
        if certificate := place.text("tls_certificate"):
            context.load_cert_chain(certificate, place.text("tls_key") or None)
    except OSError as error:  # SSLError is one
        raise WiringError(f"{place.shown}: tls_ca, tls_certificate or tls_key cannot be read: {error}") from error
    return context
