"""Watching: the present answer of a query first, then every other one, until the caller stops.

An answer is asked for again when something came that may have changed it: an event with the tag of one of its states; for what is
made of rows, a commit of one of the consumers that keep rows, in this process or in another. Nobody asks while nothing happens.

Whether something came is counted before the question is asked, so that what comes while it is answered asks again: no change is
missed. Whoever reads slowly gets the newest answer next, and not those between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ensue.consumers.waiting import Bell
from ensue.errors import EnsueError, Unavailable
from ensue.events.personal import SubjectForgotten
from ensue.events.recorded import Position
from ensue.events.registry import declaration
from ensue.events.stored import decode_meta, tag_hash
from ensue.store.base import Store

if TYPE_CHECKING:
    from collections.abc import Generator

    from ensue.world import World

__all__ = ["Changes", "Kept", "Watch", "differing"]

Kept: TypeAlias = Callable[[Position, float], Awaitable[None]]

PAGE = 1000
TROUBLE_SECONDS = 1.0
"""While a consumer that keeps rows is stopped, or a key of one parked, nothing tells when another process mends it."""
TROUBLES = 8
BELL_SECONDS = 3600.0


class Watch:
    """One watched question: `count` is another number when something came that may have changed its answer."""

    __slots__ = ("count", "rows", "tags", "waiter")

    def __init__(self, tags: Collection[bytes] | None, *, rows: bool) -> None:
        self.tags = tags
        self.rows = rows
        self.count = 0
        self.waiter: asyncio.Future[None] | None = None

    def raised(self) -> None:
        """Something came."""
        self.count += 1
        self.woken()

    def woken(self) -> None:
        """Look at the count again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Changes:
    """Raises the counts of what is watched. `kept` waits until rows have what was written at a position; None where nothing keeps
    any."""

    def __init__(self, store: Store, world: World, bell: Bell, kept: Kept | None) -> None:
        self._store = store
        self._world = world
        self._bell = bell
        self._kept = kept
        self._watches: set[Watch] = set()
        self._of_any_event: set[Watch] = set()
        self._of_tag: dict[bytes, set[Watch]] = {}
        self._of_rows: set[Watch] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._error: BaseException | None = None

    @contextmanager
    def watched(self, tags: Collection[bytes] | None, *, rows: bool) -> Generator[Watch, None, None]:
        """Count within the block: events that carry one of these tags (None: any event), and changes of rows."""
        watch = Watch(tags, rows=rows)
        places = [self._watches]
        places += [self._of_any_event] if tags is None else [self._of_tag.setdefault(tag, set()) for tag in tags]
        places += [self._of_rows] if rows else []
        for place in places:
            place.add(watch)
        if not self._tasks:
            self._begin()
        try:
            yield watch
        finally:
            for place in places:
                place.discard(watch)
            for tag in tags or ():
                if not self._of_tag.get(tag, True):
                    del self._of_tag[tag]
            if not self._watches:
                self._stop()

    def _begin(self) -> None:
        """The first one, or the first after a failure: whoever has not heard of that yet asks again, as nobody counted since."""
        self._error = None
        _raise(self._watches)
        self._tasks = [self._world.spawn(work, name="ensue watch") for work in self._works()]
        for task in self._tasks:
            task.add_done_callback(self._ended)

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
        for watch in self._watches:
            watch.woken()

    def close(self) -> None:
        """Those who watch get `Unavailable`."""
        if self._tasks:
            self._fail(Unavailable("the application is closed, and with it what was watched"))

    # ------------------------------------------------------------------------------------------------------- counting

    @property
    def watching(self) -> int:
        """How many questions are watched."""
        return len(self._watches)

    async def other(self, watch: Watch, count: int) -> None:
        """Wait until its count is another than this. Errors: those of the store; `Unavailable` when it is closed."""
        while self._error is None and watch.count == count:
            watch.waiter = asyncio.get_running_loop().create_future()
            try:
                await watch.waiter
            finally:
                watch.waiter = None
        if self._error is not None:
            raise self._error.with_traceback(None)  # several get it

    def rows_changed(self) -> None:
        """Rows may be others now, though no consumer did it."""
        _raise(self._of_rows)

    async def _follow_log(self, head: int) -> None:
        while True:
            after, head = head, await self._store.changed(head)
            _raise(self._of_any_event)
            if self._of_tag:
                await self._look_at(after, head)

    async def _look_at(self, after: int, head: int) -> None:
        """Whom the events behind a position concern: read once, however many watch. Of very many at once nothing is read."""
        everybody = {watch for watches in self._of_tag.values() for watch in watches} if head - after > PAGE else None
        while everybody is None and after < head:
            page = await self._store.read((), after=after, before=head + 1, limit=PAGE)
            types = self._store.known_types()
            for row in page.rows:
                if types[row[2]][0] == _FORGOTTEN:  # changes what is read of events that came long before
                    everybody = {watch for watches in self._of_tag.values() for watch in watches}
                    break
                meta = decode_meta(row[10])
                for text in (meta.key, *meta.tags):
                    if text is not None:
                        _raise(self._of_tag.get(tag_hash(text), ()))
            after = page.reached
        _raise(everybody or ())

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
        except EnsueError:
            # Why rows are behind is told to those who ask for them, not to all who watch; a store that is lost tells itself.
            return False
        return True


async def differing(
    changes: Changes, ask: Callable[[], Awaitable[Any]], *, tags: Collection[bytes] | None, rows: bool
) -> AsyncGenerator[Any, None]:
    """The present answer, then each that differs from the one before. See `Changes.watched`."""
    with changes.watched(tags, rows=rows) as watch:
        before: Any = _NOTHING
        while True:
            count = watch.count
            answer = await ask()
            kept = _kept(answer)
            if before is _NOTHING or kept != before:
                before = kept
                yield answer
            await changes.other(watch, count)


def _raise(watches: Iterable[Watch]) -> None:
    for watch in watches:
        watch.raised()


_FORGOTTEN = declaration(SubjectForgotten).name
_NOTHING = object()
_encode = msgspec.msgpack.Encoder(order="deterministic", decimal_format="string").encode


def _kept(answer: Any) -> Any:
    """What the next answer is compared with: bytes, because an answer is its reader's to change; itself where it is no data."""
    try:
        return _encode(answer)
    except (TypeError, ValueError, OverflowError):
        return answer
