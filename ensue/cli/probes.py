"""`GET /healthz` and `GET /readyz` for orchestrators: a few lines of HTTP, and what may be asked of whom.

It answers one request on a connection, of bounded size, in bounded time, to bounded many at once. Beyond loopback only to
those who know the token.

Whoever is asked may be stuck. So a question waits for its answer for less than an orchestrator does; meanwhile the last
answer stands in for it, until the question has been open for `STALLED_SECONDS`: then nothing there is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec

from ensue.app.health import Health, HealthPart
from ensue.cli.failures import WrongUsage
from ensue.world import World

__all__ = ["Address", "Inquiry", "Probes"]

PATIENCE_SECONDS = 0.8
"""Orchestrators commonly wait for one second."""
STALLED_SECONDS = 5.0
REQUEST_SECONDS = 5.0
REQUEST_BYTES = 8192
REST_BYTES = 1024 * 1024
"""What a client may have sent beyond its request is read and dropped, so that it sees the answer and not a broken connection."""
MOST_AT_ONCE = 32
DEFAULT_HOST = "127.0.0.1"


class Address(msgspec.Struct, frozen=True):
    """Where the probes listen, and the token that must be known there, if any."""

    host: str
    port: int
    token: str | None

    @classmethod
    def read(cls, text: str, environment: Mapping[str, str]) -> Address:
        """`HOST:PORT`, `[::1]:PORT`, or `PORT` alone for 127.0.0.1; port 0 is any that is free. Errors: `WrongUsage` for
        anything else, and for an address beyond loopback without ENSUE_HEALTH_TOKEN."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and not _literal(host)):
            raise WrongUsage(f"--health {text}: write HOST:PORT, such as {DEFAULT_HOST}:8080")
        token = environment.get("ENSUE_HEALTH_TOKEN") or None
        found = cls(host or DEFAULT_HOST, int(port), token)
        if token is None and not found.is_loopback:
            raise WrongUsage(
                f"--health {text}: everybody who reaches this machine could ask there. Set ENSUE_HEALTH_TOKEN, and let those who "
                f'ask send it as "Authorization: Bearer TOKEN"; or listen on {DEFAULT_HOST}'
            )
        return found

    @property
    def is_loopback(self) -> bool:
        """Only this machine can ask there."""
        literal = _literal(self.host)
        return self.host == "localhost" or (literal is not None and literal.is_loopback)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Inquiry:
    """Asks one who may be stuck; see the module. `ask` gives the parts of a health, and may raise or never end."""

    def __init__(self, world: World, ask: Callable[[], Awaitable[Health]]) -> None:
        self._world = world
        self._ask = ask
        self._open: asyncio.Task[Health] | None = None
        self._since = 0.0
        self._last = Health(parts=(HealthPart(name="application", ok=False, said="has not answered yet"),))

    async def health(self) -> Health:
        """Within `PATIENCE_SECONDS`: what is known, and whether the loop there turns."""
        if self._open is None:
            self._open = self._world.spawn(self._answer(), name="health inquiry")
            self._since = self._world.monotonic()
        question, since = self._open, self._since
        await asyncio.wait({question}, timeout=PATIENCE_SECONDS)
        ok, said = True, "turns"
        if question.cancelled():
            said = "has ended"
            self._last = Health(parts=(HealthPart(name="application", ok=False, said="is not running any more"),))
        elif question.done():
            self._last = question.result()
            self._open = None if self._open is question else self._open
        else:
            silent = self._world.monotonic() - since
            ok, said = silent < STALLED_SECONDS, f"has not answered for {silent:.1f} s"
        return Health(parts=(HealthPart(name="loop", ok=ok, said=said, vital=True), *self._last.parts))

    async def _answer(self) -> Health:
        try:
            return await self._ask()
        except Exception as error:
            said = f"did not answer: {type(error).__name__}: {error}"
            return Health(parts=(HealthPart(name="application", ok=False, said=said),))

    def close(self) -> None:
        """Ask no more."""
        if self._open is not None:
            self._open.cancel()


class Probes:
    """The server. `look` is asked at each request."""

    def __init__(self, world: World, address: Address, look: Callable[[], Awaitable[Health]]) -> None:
        self._world = world
        self._address = address
        self._look = look
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def open(self) -> str:
        """Listen; the URL of what is served. Errors: `WrongUsage` when the address cannot be had."""
        host, port = self._address.host, self._address.port
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=REQUEST_BYTES)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
            raise WrongUsage(f"--health {host}:{port}: cannot listen there: {reason}") from None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write(await self._respond(reader))
                await writer.drain()
                writer.write_eof()
                left = REST_BYTES
                while left > 0 and (rest := await reader.read(REQUEST_BYTES)):
                    left -= len(rest)
        except (TimeoutError, OSError):
            pass  # whoever asks is slow, or gone
        finally:
            self._connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        if self._connections > MOST_AT_ONCE:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, "too many ask at once")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large")
        except asyncio.IncompleteReadError:
            return _response(HTTPStatus.BAD_REQUEST, "the request is not complete")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
        method, path = words[0], words[1].partition("?")[0]
        if not self._knows_token(lines):
            return _response(
                HTTPStatus.UNAUTHORIZED, "the token of ENSUE_HEALTH_TOKEN is missing", "WWW-Authenticate: Bearer"
            )
        if path not in ("/healthz", "/readyz"):
            return _response(HTTPStatus.NOT_FOUND, "there are /healthz and /readyz")
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", "Allow: GET, HEAD")
        whole = await self._look()
        vital = path == "/healthz"
        response = _answered(whole.alive if vital else whole.ready, [p for p in whole.parts if p.vital or not vital])
        return response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else response

    def _knows_token(self, lines: list[str]) -> bool:
        if self._address.token is None:
            return True
        given = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == "authorization"]
        kind, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        wanted = self._address.token.encode()
        return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), wanted)


class _Body(msgspec.Struct, frozen=True):
    ok: bool
    parts: list[dict[str, str | bool]]


def _answered(ok: bool, parts: list[HealthPart]) -> bytes:
    """The answer to a question that was understood, in the shape that is documented."""
    told: list[dict[str, str | bool]] = [{"name": part.name, "ok": part.ok, "said": part.said} for part in parts]
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _http(status, msgspec.json.encode(_Body(ok, told)))


def _response(status: HTTPStatus, said: str, header: str = "") -> bytes:
    return _http(status, msgspec.json.encode({"ok": False, "error": said}), header)


def _http(status: HTTPStatus, body: bytes, header: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) + 1}",
        "Cache-Control: no-store",
        "Connection: close",
        *([header] if header else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body + b"\n"
