"""What waits for a store's one writer: bounded, in the order of the calls, each answered once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from ensue.errors import EnsueError
from ensue.store.base import Request

__all__ = ["QUEUE_BYTES", "Pending", "Queue"]

W = TypeVar("W")

BATCH_EVENTS = 2_000
BATCH_BYTES = 4 * 1024 * 1024
QUEUE_BYTES, QUEUE_REQUESTS = 32 * 1024 * 1024, 20_000


class Pending(Generic[W]):
    """A request, or other work of the adapter's, and its answer once there is one."""

    __slots__ = ("answer", "error", "future", "size", "work")

    def __init__(self, work: W, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.size = work.size if isinstance(work, Request) else 0
        self.answer: Any = None
        self.error: EnsueError | None = None


class Queue(Generic[W]):
    """See the module."""

    def __init__(self) -> None:
        self._most = BATCH_EVENTS
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Pending[W]] = deque()
        self._bytes = 0
        self._room: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return self._bytes > QUEUE_BYTES or len(self._waiting) > QUEUE_REQUESTS

    def put(self, work: W) -> asyncio.Future[Any]:
        """Queue it; the future is its answer."""
        pending = Pending(work, self._loop.create_future())
        self._bytes += pending.size
        self._waiting.append(pending)
        return pending.future

    async def room(self) -> None:
        """Until it is within its bounds."""
        while self.full:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waiter)
            await waiter

    def take(self) -> list[Pending[W]]:
        """The next batch: what is there, up to the bounds."""
        batch: list[Pending[W]] = []
        events = size = 0
        while self._waiting and events < BATCH_EVENTS and size < BATCH_BYTES and len(batch) < self._most:
            pending = self._waiting.popleft()
            batch.append(pending)
            work = pending.work
            events += len(work.events) or 1 if isinstance(work, Request) else 0
            size += pending.size
        return batch

    def put_back(self, batch: Sequence[Pending[W]]) -> None:
        """They are taken again, first, as if nothing had been tried."""
        for pending in batch:
            pending.answer, pending.error = None, None
        self._waiting.extendleft(reversed(batch))

    def halve(self, batch: Sequence[Pending[W]]) -> None:
        """One of them is at fault: they are taken again, half of them first."""
        self._most = len(batch) // 2
        self.put_back(batch)

    def stored(self) -> None:
        """A batch is stored: the next may be larger again."""
        self._most = min(self._most * 2, BATCH_EVENTS)

    def answer(self, batch: Sequence[Pending[W]], error: EnsueError | None = None) -> None:
        """Give each its own answer, or all of them this error."""
        for pending in batch:
            self._bytes -= pending.size
            if pending.future.done():
                continue
            refused = error or pending.error
            if refused is not None:
                pending.future.set_exception(refused)
            else:
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
