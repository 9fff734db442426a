"""A proxy in front of a PostgreSQL server that cuts connections at the place a test names.

It knows where it is, because it reads the protocol: which statement a message runs, and where a flight of them ends. So a cut
is no matter of time. It runs on a thread with a loop of its own: whoever uses it may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from ensue.world import LoopThread, RealWorld

__all__ = ["Cut", "Incident", "Proxy", "proxy_to"]

_ENCRYPTION_REQUESTS = (80877103, 80877104)
_CANCEL_REQUEST = 80877102


class Cut(enum.Enum):
    """What the server has got of a flight that ends in COMMIT when its connection is cut."""

    BEFORE = "nothing of it"
    WITHOUT_COMMIT = "all but the COMMIT"
    ANSWER = "all of it; its answer is lost"


class Incident:
    """A cut that is to happen, once. `when` decides at which flight, given the texts of its statements.

    With `late` the client alone is cut off, with nothing forwarded; with `silent` nobody is, but neither side hears anything
    of the other. In both cases the rest happens at `end`.
    """

    def __init__(self, cut: Cut, when: Callable[[list[str]], bool], *, late: bool, silent: bool) -> None:
        self.cut, self.when, self.late, self.silent = cut, when, late, silent
        self.happened = False
        """The server has got, and has answered, what it was to get; who is to be cut off is."""
        self.over = asyncio.Event()
        self.deliver = False


class _Connection:
    def __init__(
        self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.statements: set[str] = set()
        """The texts of all that it has run."""
        self.silenced: asyncio.Event | None = None
        """Set when the server's answer to what was forwarded last has come and was kept back."""
        self._prepared: dict[bytes, str] = {}

    def run(self, kind: bytes, body: bytes) -> str | None:
        """The text of the statement that this message runs, if it runs one."""
        if kind == b"P":
            name, text = body.split(b"\0")[:2]
            self._prepared[name] = text.decode()
        elif kind == b"B":
            text_run = self._prepared[body.split(b"\0")[1]]
            self.statements.add(text_run)
            return text_run
        return None

    def cut(self) -> None:
        self.cut_client()
        self.to_server.transport.abort()

    def cut_client(self) -> None:
        self.to_client.transport.abort()


class Proxy:
    """See the module. All methods may be called from any thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._parts = parts
        self._server = parts.hostname, parts.port
        self._thread = LoopThread("proxy")
        self._world = RealWorld()
        self._closed = False
        self._incidents: deque[Incident] = deque()
        self._connections: list[_Connection] = []
        self._listening = self._thread.call(asyncio.start_server(self._accepted, "127.0.0.1", 0))
        port = self._listening.sockets[0].getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))
        """The URL that was given, by way of the proxy."""
        self.behind = url

    def close(self) -> None:
        async def close() -> None:
            self._listening.close()
            for connection in self._connections:
                connection.cut()

        self._thread.call(close())
        self._thread.close()

    def at_commit(self, cut: Cut, *, late: bool = False, silent: bool = False) -> Incident:
        """Cut the next connection that commits what it has written. Returns what will tell that it has happened."""
        return self.at(_commits, cut, late=late, silent=silent)

    def at(self, when: Callable[[list[str]], bool], cut: Cut, *, late: bool = False, silent: bool = False) -> Incident:
        """The same at the next flight of such statements, once all that was to happen before has happened."""
        incident = Incident(cut, when, late=late, silent=silent)
        self._incidents.append(incident)
        return incident

    def end(self, incident: Incident, *, deliver: bool = False) -> None:
        """Let what was held back come to the server after all, or let the server know that the connection is gone."""

        async def end() -> None:
            incident.deliver = deliver
            incident.over.set()

        self._thread.call(end())

    def sever(self, which: Callable[[set[str]], bool] = lambda statements: True) -> int:
        """Cut all connections, or those that have run statements like these; how many were cut."""

        async def sever() -> int:
            cut = [one for one in self._connections if which(one.statements)]
            for connection in cut:
                connection.cut()
            return len(cut)

        return self._thread.call(sever())

    def has(self, which: Callable[[set[str]], bool]) -> bool:
        """Whether a connection is open that has run statements like these."""

        async def has() -> bool:
            return any(which(one.statements) for one in self._connections)

        return self._thread.call(has())

    @contextmanager
    def closed(self) -> Generator[None, None, None]:
        """Nobody gets through any more who is not through already."""
        self._closed = True
        try:
            yield
        finally:
            self._closed = False

    # ------------------------------------------------------------------------------------------------------- passing

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        server = await asyncio.open_connection(*self._server)
        connection = _Connection((reader, writer), server)
        self._connections.append(connection)
        back = self._world.spawn(self._answers(connection), name="answers")
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._requests(connection)
        finally:
            self._connections.remove(connection)
            connection.cut()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _requests(self, connection: _Connection) -> None:
        await self._begin(connection)
        flight: list[bytes] = []
        texts: list[str] = []
        async for kind, message in _messages(connection.from_client):
            text = connection.run(kind, message[5:])
            if text is not None:
                texts.append(text)
            flight.append(message)
            if kind not in (b"P", b"B", b"D", b"E", b"C"):
                if texts and self._incidents and self._incidents[0].when(texts):
                    await self._happen(connection, self._incidents.popleft(), flight)
                    return
                connection.to_server.write(b"".join(flight))
                flight, texts = [], []

    async def _begin(self, connection: _Connection) -> None:
        """The messages before a session, which have no type. Encryption is declined."""
        while True:
            head = await connection.from_client.readexactly(8)
            size, code = struct.unpack("!ii", head)
            rest = await connection.from_client.readexactly(size - 8)
            if code not in _ENCRYPTION_REQUESTS:
                connection.to_server.write(head + rest)
                return
            connection.to_client.write(b"N")

    async def _answers(self, connection: _Connection) -> None:
        try:
            async for kind, message in _messages(connection.from_server):
                if connection.silenced is None:
                    connection.to_client.write(message)
                elif kind == b"Z":
                    connection.silenced.set()
        except (OSError, asyncio.IncompleteReadError):
            if connection.silenced is None:
                connection.to_client.close()  # with all that was said before
            else:
                connection.silenced.set()

    async def _happen(self, connection: _Connection, incident: Incident, flight: list[bytes]) -> None:
        connection.silenced = asyncio.Event()
        if incident.late:
            connection.cut_client()
        elif incident.cut is Cut.WITHOUT_COMMIT:
            connection.to_server.write(b"".join(_without_the_last(flight)))
            await connection.silenced.wait()
        elif incident.cut is Cut.ANSWER:
            connection.to_server.write(b"".join(flight))
            await connection.silenced.wait()
        if incident.late or incident.silent:
            incident.happened = True
            await incident.over.wait()
            if incident.deliver:
                connection.to_server.write(b"".join(flight))
                await connection.silenced.wait()
        connection.cut()
        incident.happened = True


def _commits(texts: list[str]) -> bool:
    """The flight writes, and ends the transaction that an earlier one has begun."""
    return len(texts) > 1 and texts[-1] == "COMMIT" and not texts[0].startswith("BEGIN")


def _without_the_last(flight: list[bytes]) -> list[bytes]:
    """A flight without its last statement, with the Sync that makes the server do the others."""
    last = max(number for number, message in enumerate(flight) if message[:1] == b"B")
    if flight[last - 1][:1] == b"P":
        last -= 1
    return [*flight[:last], flight[-1]]


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Type and whole text of each message."""
    while True:
        head = await reader.readexactly(5)
        yield head[:1], head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


@contextmanager
def proxy_to(url: str) -> Generator[Proxy, None, None]:
    """A proxy to the server of this URL, closed at the end."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
