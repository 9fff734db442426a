"""The application's log, bare: append, read, follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ensue.app.checks import checked_key
from ensue.app.receipt import Receipt
from ensue.events.message import Event, tag_of
from ensue.events.recorded import Criteria, Position, Recorded
from ensue.events.registry import declaration
from ensue.events.stored import Row, tag_hash
from ensue.store.base import Condition, Expected, Page, Selection, Term

if TYPE_CHECKING:
    import asyncio

    from ensue.app.engine import Engine

__all__ = ["LogView"]

E = TypeVar("E", bound=Event)

FIRST_PAGE, LONGEST_PAGE, PAGE_BYTES = 16, 1000, 2 * 1024 * 1024
"""Pages begin small, for those who want the newest few, and grow while their payloads stay small. Two are held at a time."""


class LogView:
    """Every method may be called while the application runs or only connected. All reads are of committed events."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def append(
        self,
        *events: Event | Recorded[Any],
        expected_version: int | None = None,
        unless: Criteria | None = None,
        since: Position | int | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt[None]:
        """Append these events atomically, contiguous, in this order; returns when they are durable.

        `expected_version`: the version of the stream of the first event's key (0: no event yet). `unless`: nothing
        after `since` (the beginning without it) matches these criteria. A `Recorded` is written again byte for byte.
        With `idempotency_key` a second call returns the first receipt.

        Errors: `InvalidEvent`, `Conflict`, `IdempotencyKeyReused`, `DuplicateEventId`, `InsideHandler`; those of the store.
        """
        engine = self._engine()
        await engine.registry.prepare(events)
        drafts = engine.drafts(events)
        expected: tuple[Expected, ...] = ()
        if expected_version is not None:
            stream = drafts[0].stream if drafts else None
            if stream is None:
                raise ValueError(
                    "expected_version= is about the stream of the first event's key, but there is no such key"
                )
            expected = (Expected(stream, expected_version),)
        conditions: tuple[Condition, ...] = ()
        if unless is not None:
            conditions = (Condition(engine.selection((), unless), await engine.after(since)),)
        elif since is not None:
            raise ValueError("since= says from where on unless= counts; give both")
        return await engine.append(drafts, expected, conditions, checked_key(idempotency_key))

    @overload
    def read(
        self,
        *,
        criteria: Criteria | None = None,
        after: Position | datetime | int | None = None,
        before: Position | datetime | int | None = None,
        backwards: bool = False,
        follow: bool = False,
    ) -> AsyncIterator[Recorded[Event]]: ...
    @overload
    def read(
        self,
        *types: type[E],
        criteria: Criteria | None = None,
        after: Position | datetime | int | None = None,
        before: Position | datetime | int | None = None,
        backwards: bool = False,
        follow: bool = False,
    ) -> AsyncIterator[Recorded[E]]: ...
    async def read(
        self,
        *types: type[Event],
        criteria: Criteria | None = None,
        after: Position | datetime | int | None = None,
        before: Position | datetime | int | None = None,
        backwards: bool = False,
        follow: bool = False,
    ) -> AsyncIterator[Recorded[Any]]:
        """Events in position order, or newest first with `backwards`; in bounded memory, whatever the log's size.

        Without types, events of any type, those unknown to the application as `UnknownEvent`. An event whose type has become
        others is given as those of them that were asked for, in their order, at one position. `after` a write or a
        position is behind it, after a time is at its first event; `before` ends in front of what it names. `follow` goes
        on with what is appended, with no gap and no repeat in between, until the caller stops.
        Errors: `UnreadableEvent`, `WrongLog`, those of the store.
        """
        if backwards and follow:
            raise ValueError("backwards= ends at the oldest event and follow= never ends; give one of them")
        engine = self._engine()
        selection = engine.selection(types, criteria)
        low, high = await engine.after(after), await engine.before(before)
        pages = self._backwards(engine, selection, low, high)
        if not backwards:
            pages = self._forwards(engine, selection, low, high, follow)
        decode = engine.recorder(selection)
        async for rows in pages:
            for recorded in decode(rows):
                yield recorded

    @staticmethod
    async def _forwards(
        engine: Engine, selection: Selection, low: int, high: int | None, follow: bool
    ) -> AsyncIterator[list[Row]]:
        store, last, limit = engine.store, low, FIRST_PAGE
        ahead: asyncio.Task[Page] | None = None
        try:
            while high is None or last < high - 1:
                page = await (ahead or store.read(selection, after=last, before=high, limit=limit))
                ahead = None
                full = len(page.rows) >= limit
                last, limit = max(last, page.reached), _next_limit(limit, page.rows)
                if full and store.remote and (high is None or last < high - 1):
                    reading = store.read(selection, after=last, before=high, limit=limit)
                    ahead = engine.world.spawn(reading, name="ensue read ahead")
                    await engine.world.sleep(0)
                yield page.rows
                if ahead is None and last >= store.head():
                    if not follow:
                        return
                    await store.changed(last)
        finally:
            if ahead is not None:
                ahead.add_done_callback(_dropped)
                ahead.cancel()

    @staticmethod
    async def _backwards(engine: Engine, selection: Selection, low: int, high: int | None) -> AsyncIterator[list[Row]]:
        limit = FIRST_PAGE
        while high is None or high > low + 1:
            page = await engine.store.read(selection, after=low, before=high, limit=limit, backwards=True)
            yield page.rows
            high, limit = page.reached, _next_limit(limit, page.rows)

    async def version(self, event: type[Event], key: object) -> int:
        """The version of a key's stream: how many events it has."""
        declared = declaration(event).key
        if declared is None:
            raise ValueError(f"{event.__name__} declares no key, so it has no streams")
        stream = tag_hash(tag_of(declared[1], key))
        own = self._engine().stream(stream)
        # Events of other types may carry the key as a further tag; they are not of its stream.
        async for rows in self._backwards(self._engine(), (Term(tags=(stream,)),), 0, None):
            for row in rows:
                if row[3] == own:
                    return row[4] or 0
        return 0

    async def head(self) -> Position:
        """The position of the last event."""
        engine = self._engine()
        # Read, not asked for: what this process knows may lag behind what another one has written.
        page = await engine.store.read(limit=1, backwards=True)
        head = page.rows[0][0] if page.rows else 0
        return Position.of(engine.store.log_id, head, head)


def _dropped(ahead: asyncio.Task[Page]) -> None:
    """Nobody wants the page any more, nor its error."""
    if not ahead.cancelled():
        ahead.exception()


def _next_limit(limit: int, rows: list[Row]) -> int:
    """How many rows to ask for next, so that a page holds about `PAGE_BYTES` at most."""
    size = sum(len(row[11]) for row in rows)
    return max(1, min(LONGEST_PAGE, 2 * limit, limit * PAGE_BYTES // max(size, 1)))
