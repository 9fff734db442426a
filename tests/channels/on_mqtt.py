"""What the tests of MQTT stand on: a broker that is open, another client beside it, a line that can be cut, a server by script."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import mqtt5

from ensue.channels.base import Message, Received
from ensue.channels.mqtt import MqttBroker, MqttSubscription
from ensue.channels.urls import place
from ensue.world import RealWorld

__all__ = ["GRANTED", "WORLD", "Line", "Scripted", "Tool", "made", "new_topic", "opened", "story", "taken", "until"]

WORLD = RealWorld()
LIMIT_SECONDS = 30
GRANTED = mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE])


def story(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test as a plain function, with a limit of time."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT_SECONDS):
                await test(*given, **named)

        asyncio.run(limited())

    return run


def new_topic() -> str:
    return f"tests/{WORLD.new_id().hex()}"


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[MqttBroker]:
    broker = MqttBroker(place(url))
    try:
        await broker.open(WORLD)
        yield broker
    finally:
        await broker.close()


def made(*bodies: bytes, **headers: str) -> list[Message]:
    return [Message(body=body, headers={"type": "Opened", **headers}) for body in bodies]


async def taken(subscription: MqttSubscription, count: int) -> list[Received]:
    received: list[Received] = []
    while len(received) < count:
        received += await subscription.receive(count - len(received))
    return received


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Tool:
    """Another client, which says what it is told to and does nothing by itself."""

    def __init__(self, port: int, packet: mqtt5.ConnectPacket | None = None) -> None:
        self._port = port
        self._packet = packet or mqtt5.ConnectPacket("", clean_start=True)

    async def __aenter__(self) -> Tool:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.greeting = await self.asks(self._packet)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.says(mqtt5.DisconnectPacket())
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def says(self, *packets: mqtt5.Packet) -> None:
        self._writer.write(b"".join(packet.write() for packet in packets))

    async def asks(self, packet: mqtt5.Packet) -> mqtt5.Packet:
        self.says(packet)
        return await _packet(self._reader)


class Line:
    """A line to the server, which can be cut, or keep back what the server answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._passing = 0
        self._passes = asyncio.Event()
        self._passes.set()

    async def __aenter__(self) -> Line:
        self._listening = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._listening.close()
        await until(lambda: not self._passing)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._passes.set()

    def waits(self) -> None:
        """No answer comes through."""
        self._passes.clear()

    def goes_on(self) -> None:
        self._passes.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._passing += 1
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_server]
        await asyncio.gather(self._pass(reader, to_server, True), self._pass(from_server, writer, False))
        self._passing -= 1

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_server: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not to_server:
                    await self._passes.wait()
                writer.write(data)
        writer.close()


class Scripted:
    """A server that says what a real one cannot be made to say. It answers each kind of packet as it is told, or not at all;
    what is given as bytes is said to whoever connects, before anything is asked."""

    def __init__(self, first: bytes = b"", **answers: Sequence[mqtt5.Packet] | bytes) -> None:
        self._first = first
        self._answers = {"connect": [mqtt5.ConnAckPacket()]} | answers
        self._writers: list[asyncio.StreamWriter] = []
        self._serving = 0
        self.heard: list[mqtt5.Packet] = []
        """What clients said, but for asking whether it lives."""

    async def __aenter__(self) -> Scripted:
        self._listening = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._listening.close()
        await until(lambda: not self._serving)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        self._writers.append(writer)
        writer.write(self._first)
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            while not self._first:
                packet = await _packet(reader)
                kind = type(packet).__name__.removesuffix("Packet").lower()
                if kind != "pingreq":
                    self.heard.append(packet)
                if kind == "disconnect":
                    break
                answer = self._answers.get(kind, b"")
                writer.write(answer if isinstance(answer, bytes) else b"".join(one.write() for one in answer))
            if self._first:
                await reader.read()
        writer.close()
        self._serving -= 1


async def _packet(reader: asyncio.StreamReader) -> mqtt5.Packet:
    data = await reader.readexactly(2)
    while True:
        try:
            return mqtt5.read(memoryview(data))[0]
        except IndexError:
            data += await reader.readexactly(1)
