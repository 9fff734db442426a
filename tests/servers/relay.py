"""A proxy in front of any server, which forwards what it does not understand, and cuts connections when it is told to.

It runs on a thread with a loop of its own: whoever uses it may block.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from ensue.world import LoopThread, RealWorld

__all__ = ["Relay"]


class Relay:
    """`with Relay() as relay:` listens at `relay.port` and forwards to the port `behind`, once that is set."""

    def __init__(self) -> None:
        self.behind = 0
        self._world = RealWorld()
        self._thread = LoopThread("relay")
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._passing = 0
        self.accepted = 0
        """How many connections were made so far."""
        self._listening = self._thread.call(asyncio.start_server(self._accepted, "127.0.0.1", 0))
        self.port = int(self._listening.sockets[0].getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def close() -> None:
            self._listening.close()
            self._open = False
            while self._passing:
                self._abort()
                await self._world.sleep(0.001)

        self._thread.call(close())
        self._thread.close()

    def sever(self) -> int:
        """Cut all connections, in the midst of whatever is said; how many there were."""

        async def sever() -> int:
            return self._abort()

        return self._thread.call(sever())

    def _abort(self) -> int:
        for writer in self._writers:
            writer.transport.abort()
        return self._passing

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._passing += 1
        self.accepted += 1
        try:
            with contextlib.suppress(OSError):
                if self._open:
                    await self._pass(reader, writer, *await asyncio.open_connection("127.0.0.1", self.behind))
        finally:
            await self._end(writer)
            self._passing -= 1

    async def _pass(
        self,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._writers |= {to_client, to_server}
        back = self._world.spawn(self._forward(from_server, to_client), name="back")
        try:
            await self._forward(from_client, to_server)
        finally:
            await self._end(to_server)
            await self._end(to_client)
            await asyncio.gather(back, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
