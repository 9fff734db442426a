"""Watching: the present answer of a query first, then every other one, until the caller stops.

An answer is asked for again when something came that may have changed it: an event, for what is made of states; for what is made
of rows, a commit of one of the consumers that keep rows, in this process or in another. Nobody asks while nothing happens.

Whether something came is counted before the question is asked, so that what comes while it is answered asks again: no change is
missed. Whoever reads slowly gets the newest answer next, and not those between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.consumers.waiting import Bell, wait_until_done
from ensue.errors import HandlerFailed, NotCaughtUp, Unavailable
from ensue.events.stored import Row
from ensue.store.base import Store, Term

if TYPE_CHECKING:
    from collections.abc import Generator

    from ensue.world import World

__all__ = ["Changes", "Keepers", "differing"]

PAGE = 1000
TROUBLE_SECONDS = 1.0
"""While a consumer that keeps rows is stopped, or a key of one parked, nothing tells when another process mends it."""
BELL_SECONDS = 3600.0


class Keepers(msgspec.Struct, frozen=True):
    """The consumers that keep rows in the log's database, by name, and the names of the types that they handle."""

    consumers: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


class Changes:
    """Counts what may change answers, as long as anybody watches."""

    def __init__(self, store: Store, world: World, bell: Bell, keepers: Callable[[], Keepers]) -> None:
        self._store = store
        self._world = world
        self._bell = bell
        self._keepers = keepers
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
        if self._watching == 1:
            self._error = None
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
        keepers = self._keepers()
        works = [self._follow_log()]
        if keepers.consumers:
            works += [self._follow_rows_here(), self._follow_rows_elsewhere(keepers)]
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
            raise self._error

    def rows_changed(self) -> None:
        """Rows may be others now, though no consumer did it."""
        self._rows += 1
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _follow_log(self) -> None:
        head = self._store.head()
        while True:
            head = await self._store.changed(head)
            self._events += 1
            self._wake()

    async def _follow_rows_here(self) -> None:
        while True:
            await self._bell.wait(self._world, BELL_SECONDS)
            self.rows_changed()

    async def _follow_rows_elsewhere(self, keepers: Keepers) -> None:
        """What consumers do in other processes is in their progress: an event that comes is followed until it is done."""
        store, after = self._store, self._store.head()
        selection = (Term(types=keepers.types),)
        troubled: list[Row] = []
        while True:
            page = await store.read(selection, after=after, limit=PAGE)
            after = page.reached
            if page.rows and await self._in_trouble(page.rows, keepers):
                troubled = [*troubled, *page.rows][-PAGE:]
            if page.rows:
                self.rows_changed()
            if len(page.rows) == PAGE or after < store.head():
                continue
            try:
                async with asyncio.timeout(TROUBLE_SECONDS if troubled else None):
                    await store.changed(after)
            except TimeoutError:
                if not await self._in_trouble(troubled, keepers):
                    troubled = []
                self.rows_changed()

    async def _in_trouble(self, rows: Sequence[Row], keepers: Keepers) -> bool:
        """Wait until the consumers that keep rows are done with these events; whether one of them cannot be."""
        try:
            wait = (self._store, self._world, self._bell, rows)
            await wait_until_done(*wait, consumers=keepers.consumers, timeout_seconds=TROUBLE_SECONDS)
        except (HandlerFailed, NotCaughtUp):
            return True
        return False


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
