"""Watching: the present answer of a query first, then every other one, until the caller stops.

An answer is asked for again when something came that may have changed it: an event, for what is made of states; for what is made
of rows, a commit of one of the consumers that keep rows, in this process or in another. Nobody asks while nothing happens.

Whether something came is counted before the question is asked, so that what comes while it is answered asks again: no change is
missed. Whoever reads slowly gets the newest answer next, and not those between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ensue.consumers.waiting import Bell
from ensue.errors import HandlerFailed, NotCaughtUp, Unavailable
from ensue.events.recorded import Position
from ensue.store.base import Store

if TYPE_CHECKING:
    from collections.abc import Generator

    from ensue.world import World

__all__ = ["Changes", "Kept", "differing"]

Kept: TypeAlias = Callable[[Position, float], Awaitable[None]]

PAGE = 1000
TROUBLE_SECONDS = 1.0
"""While a consumer that keeps rows is stopped, or a key of one parked, nothing tells when another process mends it."""
TROUBLES = 8
BELL_SECONDS = 3600.0


class Changes:
    """Counts what may change answers, as long as anybody watches. `kept` waits until rows have what was written at a position;
    None where nothing keeps any."""

    def __init__(self, store: Store, world: World, bell: Bell, kept: Kept | None) -> None:
        self._store = store
        self._world = world
        self._bell = bell
        self._kept = kept
        self._events = 0
        self._rows = 0
        self._watching = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._error: BaseException | None = None

    @contextmanager
    def watched(self) -> Generator[None, None, None]:
        """Count within the block."""
        self._watching += 1
        if not self._tasks:
            # The first one, or the first after a failure. Whoever has not heard of that yet asks again: nobody counted since.
            self._error = None
            self._events += 1
            self._rows += 1
            self._tasks = [self._world.spawn(work, name="ensue watch") for work in self._works()]
            for task in self._tasks:
                task.add_done_callback(self._ended)
        try:
            yield
        finally:
            self._watching -= 1
            if self._watching == 0:
                self._stop()

    def _works(self) -> list[Coroutine[Any, Any, None]]:
        head = self._store.head()  # now, not when the tasks begin: the first question is asked before
        works: list[Coroutine[Any, Any, None]] = [self._follow_log(head)]
        if self._kept is not None:
            works += [self._follow_rows_here(), self._follow_rows_elsewhere(self._kept, head)]
        return works

    def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task not in self._tasks:
            return
        error = None if task.cancelled() else task.exception()
        self._fail(error or Unavailable("the application is closed, and with it what was watched"))

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._stop()
        self._wake()

    def close(self) -> None:
        """Those who watch get `Unavailable`."""
        if self._tasks:
            self._fail(Unavailable("the application is closed, and with it what was watched"))

    # ------------------------------------------------------------------------------------------------------- counting

    def count(self, *, events: bool, rows: bool) -> int:
        """A number that is another when something came."""
        return (self._events if events else 0) + (self._rows if rows else 0)

    async def other(self, count: int, *, events: bool, rows: bool) -> None:
        """Wait until the number is another than this. Errors: those of the store; `Unavailable` when it is closed."""
        while self._error is None and self.count(events=events, rows=rows) == count:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        if self._error is not None:
            raise self._error.with_traceback(None)  # several get it

    def rows_changed(self) -> None:
        """Rows may be others now, though no consumer did it."""
        self._rows += 1
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _follow_log(self, head: int) -> None:
        while True:
            head = await self._store.changed(head)
            self._events += 1
            self._wake()

    async def _follow_rows_here(self) -> None:
        while True:
            await self._bell.wait(self._world, BELL_SECONDS)
            self.rows_changed()

    async def _follow_rows_elsewhere(self, kept: Kept, after: int) -> None:
        """What is done in other processes tells nothing of itself: what comes is waited for until the rows have it."""
        store = self._store
        troubled: deque[tuple[int, int]] = deque(maxlen=TROUBLES)
        while True:
            last = min(store.head(), after + PAGE)
            if last > after:
                if not await self._are_kept(kept, after + 1, last):
                    troubled.append((after + 1, last))
                after = last
                self.rows_changed()
                continue
            try:
                async with asyncio.timeout(TROUBLE_SECONDS if troubled else None):
                    await store.changed(after)
            except TimeoutError:
                for span in list(troubled):
                    if await self._are_kept(kept, *span):
                        troubled.remove(span)
                self.rows_changed()

    async def _are_kept(self, kept: Kept, first: int, last: int) -> bool:
        """Wait until the rows have these events; False where that takes long, or cannot be."""
        try:
            await kept(Position.of(self._store.log_id, first, last), TROUBLE_SECONDS)
        except (HandlerFailed, NotCaughtUp):
            return False
        return True


async def differing(
    changes: Changes, ask: Callable[[], Awaitable[Any]], *, events: bool, rows: bool
) -> AsyncGenerator[Any, None]:
    """The present answer, then each that differs from the one before."""
    with changes.watched():
        before: Any = _NOTHING
        while True:
            count = changes.count(events=events, rows=rows)
            answer = await ask()
            kept = _kept(answer)
            if before is _NOTHING or kept != before:
                before = kept
                yield answer
            await changes.other(count, events=events, rows=rows)


_NOTHING = object()
_encode = msgspec.msgpack.Encoder(order="deterministic", decimal_format="string").encode


def _kept(answer: Any) -> Any:
    """What the next answer is compared with: bytes, because an answer is its reader's to change; itself where it is no data."""
    try:
        return _encode(answer)
    except (TypeError, ValueError, OverflowError):
        return answer
