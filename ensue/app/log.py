"""The application's log, bare: append, read, follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, TypeVar

from ensue.app.engine import Engine
from ensue.app.receipt import Receipt
from ensue.events.message import Event
from ensue.events.recorded import Criteria, Position, Recorded
from ensue.events.registry import declaration
from ensue.events.stored import tag_hash
from ensue.store.base import Condition, Expected, Term

__all__ = ["LogView"]

E = TypeVar("E", bound=Event)

PAGE = 1000


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
        drafts = engine.drafts(events)
        expected: tuple[Expected, ...] = ()
        if expected_version is not None:
            stream = drafts[0].stream
            if stream is None:
                raise ValueError("expected_version= is about the stream of the first event's key, but it has no key")
            expected = (Expected(stream, expected_version),)
        conditions: tuple[Condition, ...] = ()
        if unless is not None:
            after = since.within(engine.store.log_id).last if isinstance(since, Position) else since or 0
            conditions = (Condition(engine.selection((), unless), after),)
        return await engine.append(drafts, expected, conditions, idempotency_key)

    async def read(
        self,
        *types: type[E],
        criteria: Criteria | None = None,
        after: Position | datetime | int | None = None,
        before: Position | datetime | int | None = None,
        backwards: bool = False,
        follow: bool = False,
    ) -> AsyncIterator[Recorded[E]]:
        """Events in position order, or newest first with `backwards`; in bounded memory, whatever the log's size.

        Without types, events of any type, those unknown to the application as `UnknownEvent`. `follow` goes on with
        what is appended, with no gap and no repeat in between, until the caller stops.
        Errors: `UnreadableEvent`, `WrongLog`, those of the store.
        """
        engine = self._engine()
        selection = engine.selection(types, criteria)
        low = await engine.position(after)
        high = await engine.position(before)
        store, recorded = engine.store, engine.recorder()
        last = low or 0
        while True:
            page = await store.read(
                selection, after=low or 0 if backwards else last, before=high, limit=PAGE, backwards=backwards
            )
            decode = await recorded()
            for row in page.rows:
                yield decode(row)
            if backwards:
                high = page.reached
                if page.reached <= (low or 0) + 1 or (not page.rows and page.reached <= (low or 0) + 1):
                    return
                continue
            at_end = page.reached >= store.head() if high is None else page.reached >= high - 1
            last = max(last, page.reached)
            if at_end and not follow:
                return
            if at_end:
                await store.changed(last)

    async def version(self, event: type[Event], key: object) -> int:
        """The version of a key's stream: how many events it has."""
        declared = declaration(event).key
        if declared is None:
            raise ValueError(f"{event.__name__} declares no key, so it has no streams")
        stream = tag_hash(f"{declared[1]}={key}")
        page = await self._engine().store.read((Term(tags=(stream,)),), limit=1, backwards=True)
        versions = [row[4] or 0 for row in page.rows if row[3] == stream]
        return max(versions, default=0)

    async def head(self) -> Position:
        """The position of the last event."""
        engine = self._engine()
        head = engine.store.head()
        return Position.of(engine.store.log_id, head, head)
