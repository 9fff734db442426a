"""Answers that go on: a watched query as server-sent events, a streamed one as lines of JSON.

The first of them is made before anything is sent, so that what goes wrong until then is told as any problem. What goes wrong
later ends the answer: a watch says so in its last event, a stream breaks the connection, because half of it is no answer.

A client that leaves ends the work for it at once, whatever it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ensue.events.recorded import Position
from ensue.http.problems import Problem
from ensue.world import World

__all__ = ["EVENT_STREAM", "JSON_LINES", "Answers", "Lines", "Watch"]

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/jsonl"

HEARTBEAT_SECONDS = 15.0
"""How long nothing is sent: proxies close what is silent for 30 seconds and more."""
WATCH_SECONDS = 900.0
"""How long a watch lasts. Clients come back by themselves: to a process that still runs, and who they are is asked again."""
_END = object()
_Part: TypeAlias = Callable[[bytes], Awaitable[None]]


class Answers:
    """What a query answers one after another, each made when it is asked for, all of them in one task."""

    def __init__(self, world: World, answers: AsyncGenerator[Any, None]) -> None:
        self.world = world
        self._answers = answers
        self._asked: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self._next: asyncio.Future[Any] | None = None
        self._stack = AsyncExitStack()
        self._task = world.spawn(self._run(), name="ensue http answers")

    async def begin(self) -> None:
        """Make the first. Errors: those of the query; it is closed then."""
        try:
            await asyncio.wait((self._ask(),))
            if self._ask().exception() is not None:
                self._taken()
        except BaseException:
            await self.close()
            raise

    async def next(self, seconds: float | None = None) -> Any:
        """The next one, or `_END`. Errors: those of the query; `TimeoutError`, and the next is the one that did not come."""
        if not (await asyncio.wait((self._ask(),), timeout=seconds))[0]:
            raise TimeoutError
        return self._taken()

    def ends(self, stack: AsyncExitStack) -> None:
        """This is closed with it."""
        self._stack = stack

    async def close(self) -> None:
        """End the query, whatever it waits for."""
        async with self._stack:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._next is not None and not self._next.cancel() and not self._next.cancelled():
            self._next.exception()  # nobody wants it any more

    def _ask(self) -> asyncio.Future[Any]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._asked.put_nowait(self._next)
        return self._next

    def _taken(self) -> Any:
        found, self._next = self._ask(), None
        return found.result()

    async def _run(self) -> None:
        async with aclosing(self._answers) as answers:
            while True:
                asked = await self._asked.get()
                try:
                    asked.set_result(await anext(answers, _END))
                except Exception as error:
                    asked.set_exception(error)
                except BaseException:
                    asked.cancel()
                    raise


class _Continued(Response):
    """Sends as long as the client is there and there are answers."""

    def __init__(self, answers: Answers, media_type: str) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type)
        del self.headers["content-length"]
        self._answers = answers
        self._world = answers.world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = self._world.spawn(self._send(send), name="ensue http answer")
        leaving = self._world.spawn(_left(receive), name="ensue http client")
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.wait((sending, leaving))
            await self._answers.close()
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        async def part(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send_all(part)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, part: _Part) -> None:
        raise NotImplementedError


class Lines(_Continued):
    """Each value as one line of JSON."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers, JSON_LINES)

    async def _send_all(self, part: _Part) -> None:
        while (value := await self._answers.next()) is not _END:
            await part(msgspec.json.encode(value) + b"\n")


class Watch(_Continued):
    """Each answer as one event. Its id is where the log was: given back as `Last-Event-ID`, no answer is older."""

    def __init__(
        self, answers: Answers, head: Callable[[], Awaitable[Position]], told: Callable[[Exception], Problem]
    ) -> None:
        super().__init__(answers, EVENT_STREAM)
        self._head = head
        self._told = told

    async def _send_all(self, part: _Part) -> None:
        until = self._world.monotonic() + WATCH_SECONDS
        try:
            while (left := until - self._world.monotonic()) > 0:
                try:
                    answer = await self._answers.next(min(left, HEARTBEAT_SECONDS))
                except TimeoutError:
                    await part(b": still here\n\n")
                    continue
                # The log is looked at behind the answer, which then holds nothing newer.
                await part(b"id: %b\ndata: %b\n\n" % (str(await self._head()).encode(), msgspec.json.encode(answer)))
        except Exception as error:
            await part(b"event: problem\ndata: %b\n\n" % self._told(error).encoded())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
