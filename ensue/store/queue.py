"""What waits to be written: bounded, in the order of the calls, each answered once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ensue.errors import EnsueError
from ensue.store.base import Request, Written

__all__ = ["Pending", "Queue"]

BATCH_EVENTS = 2_000
BATCH_BYTES = 4 * 1024 * 1024
QUEUE_BYTES, QUEUE_REQUESTS = 32 * 1024 * 1024, 20_000


class Pending:
    """A request, and its answer once there is one."""

    __slots__ = ("answer", "error", "future", "request", "size")

    def __init__(self, request: Request, future: asyncio.Future[Written]) -> None:
        self.request = request
        self.future = future
        self.size = request.size
        self.answer: Written | None = None
        self.error: EnsueError | None = None


class Queue:
    """See the module. `most` bounds the requests of a batch: halved to find the one at fault, doubled after a success."""

    def __init__(self) -> None:
        self.most = BATCH_EVENTS
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Pending] = deque()
        self._bytes = 0
        self._room: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return self._bytes > QUEUE_BYTES or len(self._waiting) > QUEUE_REQUESTS

    def put(self, request: Request) -> asyncio.Future[Written]:
        """Queue it; the future is its answer."""
        pending = Pending(request, self._loop.create_future())
        self._bytes += pending.size
        self._waiting.append(pending)
        return pending.future

    async def room(self) -> None:
        """Until it is within its bounds."""
        while self.full:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waiter)
            await waiter

    def take(self) -> list[Pending]:
        """The next batch: what is there, up to the bounds."""
        batch: list[Pending] = []
        events = size = 0
        while self._waiting and events < BATCH_EVENTS and size < BATCH_BYTES and len(batch) < self.most:
            pending = self._waiting.popleft()
            batch.append(pending)
            events += len(pending.request.events) or 1
            size += pending.size
        return batch

    def put_back(self, batch: Sequence[Pending]) -> None:
        """They are taken again, first, as if nothing had been tried."""
        for pending in batch:
            pending.answer, pending.error = None, None
        self._waiting.extendleft(reversed(batch))

    def answer(self, batch: Sequence[Pending], error: EnsueError | None = None) -> None:
        """Give each its own answer, or all of them this error."""
        for pending in batch:
            self._bytes -= pending.size
            if pending.future.done():
                continue
            refused = error or pending.error
            if refused is not None:
                pending.future.set_exception(refused)
            elif pending.answer is not None:
                pending.future.set_result(pending.answer)
        if self._room and not self.full:
            for waiter in self._room:
                if not waiter.done():
                    waiter.set_result(None)
            self._room.clear()

    def refuse(self, error: EnsueError) -> None:
        """Give all that waits this error."""
        waiting, self._waiting = list(self._waiting), deque()
        self.answer(waiting, error)
