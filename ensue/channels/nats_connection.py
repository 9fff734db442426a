"""One connection to a NATS server: requests, answers, and what comes to subscriptions. It knows nothing of streams.

nats-py connects, checks certificates, logs in, pings and reads what a server says about itself. Messages go by it: it takes a
regular expression, a dictionary of headers, a queue and a task for each, which is four fifths of the time of a consumer. Here a
message costs two searches and one call. Only what the protocol has had since its beginnings is used of the client's inside.

When the connection breaks, every request that waits and every subscription is told, once.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import msgspec
from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from ensue.channels.urls import Place
from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.world import World

__all__ = ["NoResponder", "Route", "Waiting", "Wire"]

PORT = 4222
PING_SECONDS = 10
"""A server that answers no three of these in a row is gone."""
CLOSE_SECONDS = 2.0
"""For what is still to be sent, to a server that may not take it."""
REFUSED = ("authorization violation", "authentication", "user credentials", "account")
"""What a server says to those whom it does not let in, in lower case: `'Authorization Violation'`, `'User Authentication Expired'`."""

Route: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply subject, headers (empty where there are none) and body of each message of a subscription."""

_permission = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"').search


class NoResponder(Exception):
    """Nobody listens to the subject of a request."""


class Waiting(Protocol):
    """What waits for answers."""

    subjects: frozenset[str]
    """That it sent to, in lower case: what a server says of permissions names no more than these."""

    def answered(self, part: bytes, headers: bytes, body: bytes) -> None:
        """`part` is what the reply subject has behind the number of whoever waits."""
        ...

    def failed(self, error: EnsueError) -> None: ...


class Wire:
    """See the module. Opened once, closed once."""

    def __init__(self, place: Place, world: World) -> None:
        self._place = place
        self._shown = place.shown
        self._client: _Client | None = None
        self._error: EnsueError | None = Unavailable(f"{place.shown}: not connected")
        self._inbox = f"_INBOX.{world.new_id().hex()}".encode()
        self._numbers = 0
        self._waiting: dict[bytes, Waiting] = {}
        self._ends: dict[int, Callable[[EnsueError], None]] = {}

    # ----------------------------------------------------------------------------------------------- opening, closing

    async def open(self) -> None:
        """Connect to the first of the hosts that answers. Errors: see `Broker.open`."""
        tls = _tls(self._place)
        failure = ""
        try:
            async with asyncio.timeout(self._place.connect_seconds):
                for host, port in self._place.hosts or (("localhost", 0),):
                    name = f"[{host}]" if ":" in host else host
                    client = _Client(
                        wants_tls=self._place.tls, has_certificate="tls_certificate" in self._place.parameters
                    )
                    try:
                        await self._connect(client, f"nats://{name}:{port or PORT}", tls)
                        return
                    except (OSError, errors.Error) as error:
                        failure = _told(self._shown, error, client)
        except TimeoutError:
            failure = failure or f"nothing answered within {self._place.connect_seconds:g} s"
        raise Unavailable(f"cannot connect to {self._shown}: {failure}; is the server running?")

    async def _connect(self, client: _Client, url: str, tls: ssl.SSLContext | None) -> None:
        user, password = self._place.user, self._place.password
        try:
            await client.connect(
                url,
                error_cb=self._said,
                allow_reconnect=False,
                connect_timeout=max(1, int(self._place.connect_seconds)),
                ping_interval=PING_SECONDS,
                tls=tls,
                user=user if password is not None else None,
                password=password,
                token=user if password is None else None,
                name="ensue",
            )
        except BaseException:
            client.abandon()
            raise
        self._client, self._error = client, None
        client.when_over(self._over)
        self.subscribe(self._inbox + b".>", self._answer, self.broke)

    @property
    def server(self) -> dict[str, Any]:
        """What the server said about itself."""
        return self._client._server_info if self._client is not None else {}

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", str(self.server.get("version", "0")))[:3])

    async def close(self) -> None:
        """Idempotent; raises nothing."""
        self.broke(Unavailable(f"{self._shown}: the connection is closed"))
        client, self._client = self._client, None
        if client is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.close()
            client.abandon()

    def check(self) -> None:
        """Errors: `Unavailable` when it is closed or broken."""
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    def broke(self, error: EnsueError) -> None:
        """Tell all that wait. Only the first time does anything."""
        if self._error is None:
            self._error = error
            waiting, self._waiting = self._waiting, {}
            ends, self._ends = self._ends, {}
            for one in waiting.values():
                one.failed(error)
            for end in ends.values():
                end(error)

    def _over(self) -> None:
        reason = self._client.last_error if self._client is not None else None
        self.broke(Unavailable(f"{self._shown}: the connection broke{f' ({reason})' if reason else ''}"))

    async def _said(self, error: Exception) -> None:
        """What the server, or the client, has to say beside the answers. What ends the connection comes to `_over`."""
        refused = _permission(str(error).lower())
        if refused is None:
            return
        kind, subject = refused.groups()
        told = AccessRefused(
            f"{self._shown}: {'publishing' if kind == 'publish' else 'subscribing'} to {subject} is denied"
        )
        for number, one in list(self._waiting.items()):
            if subject in one.subjects:
                self._waiting.pop(number, None)
                one.failed(told)

    # ---------------------------------------------------------------------------------------------- sending, receiving

    def send(self, data: bytes) -> None:
        """Whole lines of the protocol. Errors: `Unavailable`."""
        self.check()
        assert self._client is not None
        self._client.write(data)

    async def drain(self) -> None:
        """Wait while more than enough waits to be sent. Errors: `Unavailable`."""
        self.check()
        assert self._client is not None
        try:
            await self._client.drained()
        except OSError as error:
            raise Unavailable(f"{self._shown}: the connection broke ({error})") from error

    def subscribe(self, subject: bytes, route: Route, end: Callable[[EnsueError], None]) -> int:
        """Its messages go to `route` until `unsubscribe`; `end` is told when the connection breaks. Errors: `Unavailable`."""
        self.check()
        assert self._client is not None
        self._numbers += 1
        self._client.routes[self._numbers] = route
        self._ends[self._numbers] = end
        self.send(b"SUB %b %d\r\n" % (subject, self._numbers))
        return self._numbers

    def forget(self, subscription: int) -> None:
        """What still comes to it is dropped."""
        self._ends.pop(subscription, None)
        if self._client is not None:
            self._client.routes.pop(subscription, None)

    def wait(self, waiting: Waiting) -> bytes:
        """The reply subject for what waits, to which a dot and a part may be added, until `done`."""
        self._numbers += 1
        number = b"%d" % self._numbers
        self._waiting[number] = waiting
        return self._inbox + b"." + number

    def done(self, reply: bytes) -> None:
        self._waiting.pop(reply.rpartition(b".")[2], None)

    async def request(self, subject: str, body: bytes = b"", *, seconds: float) -> bytes:
        """The first answer. Errors: `NoResponder`, `Unavailable`, `AccessRefused`; `TimeoutError` after so many seconds."""
        waiting = _Request(subject)
        reply = self.wait(waiting)
        try:
            self.send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(body), body))
            async with asyncio.timeout(seconds):
                return await waiting.answer
        finally:
            self.done(reply)

    async def settle(self, *subjects: str, seconds: float) -> None:
        """Wait until the server has seen all that was sent. Errors: `Unavailable`; `AccessRefused`, when it denied one of these
        subjects."""
        waiting = _Request(*subjects)
        reply = self.wait(waiting)
        try:
            self.send(b"PUB %b 0\r\n\r\n" % reply)
            async with asyncio.timeout(seconds):
                await waiting.answer
        except TimeoutError as error:
            raise Unavailable(f"{self._shown}: the server did not answer within {seconds:g} s") from error
        finally:
            self.done(reply)

    def _answer(self, subject: bytes, _reply: bytes, headers: bytes, body: bytes) -> None:
        number, _, part = subject[len(self._inbox) + 1 :].partition(b".")
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.answered(part, headers, body)


class _Request:
    def __init__(self, *subjects: str) -> None:
        self.subjects = frozenset(subject.lower() for subject in subjects)
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(self, part: bytes, headers: bytes, body: bytes) -> None:
        if self.answer.done():
            return
        if headers.startswith(b"NATS/1.0 503"):
            self.answer.set_exception(NoResponder())
        else:
            self.answer.set_result(body)

    def failed(self, error: EnsueError) -> None:
        if not self.answer.done():
            self.answer.set_exception(type(error)(*error.args))


# --------------------------------------------------------------------------------------------------------- the client


class _Client(Client):
    """nats-py's, that tries one server once, never sends a password in the clear when TLS was wanted, and hands out messages."""

    def __init__(self, *, wants_tls: bool = False, has_certificate: bool = False) -> None:
        super().__init__()
        self.routes: dict[int, Route] = {}
        self.verifies = False
        """The server wants a certificate."""
        self._wants_tls = wants_tls
        self._has_certificate = has_certificate
        self._ps = _Parser(self)

    def greeted(self, line: bytes) -> bytes:
        """What a server says first, as it is to be understood: the original speaks TLS only when the server demands it, whatever
        the URL says."""
        if not line.startswith(b"INFO {"):
            return line
        info = msgspec.json.decode(line[5:])
        if self._wants_tls and not (info.get("tls_required") or info.get("tls_available")):
            raise errors.SecureConnWantedError
        self.verifies = bool(info.get("tls_verify"))
        if self.verifies and not self._has_certificate:
            raise errors.SecureConnRequiredError
        info["tls_required"] = self._wants_tls or bool(info.get("tls_required"))
        return b"INFO %b\r\n" % msgspec.json.encode(info)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    async def drained(self) -> None:
        assert self._transport is not None
        await self._transport.drain()  # type: ignore[no-untyped-call]

    def when_over(self, over: Callable[[], None]) -> None:
        """Call back when nothing is read any more, for whatever reason: not all of them come to the callbacks of the original."""
        assert self._reading_task is not None
        self._reading_task.add_done_callback(lambda _: over())

    def abandon(self) -> None:
        """Close what a failed attempt to connect has left, or what cannot be closed in good order."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _select_next_server(self) -> None:
        """The original goes on for minutes."""
        (server,) = self._server_pool
        self._transport = _Transport(self)
        await self._transport.connect(server.uri, 1 << 16, self.options["connect_timeout"])
        self._current_server = server


class _Transport(TcpTransport):
    def __init__(self, client: _Client) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._client = client

    async def readline(self) -> bytes:
        """Read only while connecting. The original's caller takes an end for consent."""
        line: bytes = await super().readline()  # type: ignore[no-untyped-call]
        if not line:
            raise ConnectionResetError("the server closed the connection")
        return self._client.greeted(line)


class _Parser(Parser):
    """Takes messages out of what comes, and leaves all other lines to the original."""

    def __init__(self, client: _Client) -> None:
        super().__init__(client)
        self._client = client
        self._rest: list[bytes] = []
        self._size = 0
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        self._size += len(data)
        self._rest.append(data)
        if self._size < self._needed:
            return  # of a large message, which is put together once
        data = b"".join(self._rest)
        try:
            position, self._needed = await self._lines(data)
        except (ValueError, IndexError) as error:
            raise errors.ProtocolError from error
        self._rest = [data[position:]]
        self._size = len(data) - position

    async def _lines(self, data: bytes) -> tuple[int, int]:
        """Where the first line stands that is not whole, and how many bytes it has with its message."""
        routes = self._client.routes
        position = 0
        while (end := data.find(b"\r\n", position)) >= 0:
            with_headers = data.startswith(b"HMSG ", position)
            if not with_headers and not data.startswith(b"MSG ", position):
                await super().parse(data[position : end + 2])
                position = end + 2
                continue
            words = data[position:end].split()
            start = end + 2
            stop = start + int(words[-1])
            if len(data) < stop + 2:
                return position, stop + 2 - position
            body = start + int(words[-2]) if with_headers else start
            reply = words[3] if len(words) == (6 if with_headers else 5) else b""
            route = routes.get(int(words[2]))
            if route is not None:
                route(words[1], reply, data[start:body], data[body:stop])
            position = stop + 2
        return position, 0


def _tls(place: Place) -> ssl.SSLContext | None:
    """None where the system's authorities are to be trusted, if TLS is spoken at all. Errors: `WiringError`."""
    ca, certificate, key = (place.text(name) or None for name in ("tls_ca", "tls_certificate", "tls_key"))
    if not (place.tls or ca or certificate):
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # that of ssl is one, too
        raise WiringError(f"{place.shown}: tls_ca, tls_certificate or tls_key cannot be used: {error}") from error
    return context


def _told(shown: str, error: Exception, client: _Client) -> str:
    """What a failed attempt to connect means. Errors: `AccessRefused`, `WiringError`."""
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        raise WiringError(
            f"{shown}: the server's certificate is not to be trusted: {error.verify_message}; tls_ca names others to trust"
        ) from error
    if isinstance(error, errors.SecureConnRequiredError):
        raise AccessRefused(
            f"{shown}: the server wants a certificate of its clients: tls_certificate, tls_key"
        ) from error
    if client.verifies and isinstance(error, ssl.SSLError | ConnectionError):
        raise AccessRefused(f"{shown}: the server does not take the certificate of tls_certificate: {text}") from error
    if isinstance(error, errors.SecureConnWantedError):
        raise WiringError(f"{shown}: the server does not speak TLS") from error
    if any(part in text.lower() for part in REFUSED):
        raise AccessRefused(f"{shown}: the server does not let this user in: {text.removeprefix('nats: ')}") from error
    if "INFO" in text or "json" in text:
        raise WiringError(f"{shown}: this is no NATS server") from error
    return text.removeprefix("nats: ")
