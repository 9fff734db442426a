"""What the tests of NATS stand on: a broker that is open, the field's own client beside it, a line that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from nats.aio.client import Client

from ensue.channels.base import Message
from ensue.channels.nats import NatsBroker
from ensue.channels.nats_subscriptions import Broadcast, Member, Received
from ensue.channels.urls import place
from ensue.world import RealWorld
from tests.servers.nats import NatsAddress

__all__ = ["Line", "another_tool", "made", "new_address", "opened", "taken", "until"]

WORLD = RealWorld()


def new_address() -> str:
    return f"orders.{WORLD.new_id().hex()}"


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsBroker]:
    broker = NatsBroker(place(url))
    await broker.open(WORLD)
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def another_tool(server: NatsAddress) -> AsyncGenerator[Client]:
    """The field's own client."""
    client = Client()
    await client.connect(server.url())
    try:
        yield client
    finally:
        await client.close()


def made(*messages: bytes) -> list[Message]:
    return [Message(body=body, headers={"ce-type": "Opened"}) for body in messages]


async def taken(subscription: Member | Broadcast, count: int) -> list[Received]:
    received: list[Received] = []
    async with asyncio.timeout(20):
        while len(received) < count:
            received += await subscription.receive(count - len(received))
    return received


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Line:
    """A line to the server that can be cut after so many bytes, or fall silent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._passing = 0
        self.left = 1 << 60
        """How many bytes still get to the server."""

    async def __aenter__(self) -> Line:
        self._listening = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._listening.close()
        await until(lambda: not self._passing)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_server]
        await asyncio.gather(
            self._pass(reader, to_server, limited=True), self._pass(from_server, writer, limited=False)
        )

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if limited and len(data) >= self.left:
                    writer.write(data[: self.left])
                    with suppress(OSError):
                        await writer.drain()
                    self.cut()
                    return
                self.left -= len(data) if limited else 0
                writer.write(data)
            writer.close()
