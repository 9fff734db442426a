"""Building a version of a view from history: pages of the log, folded in memory, many rows a transaction.

Each transaction writes the rows that changed and the position up to which all is in them, under the condition that nobody else has
changed the version meanwhile: a builder that was killed is followed by one that goes on from there, and of two at the same time
one stops. At the end of the log the last transaction writes, in one: the last rows, that the consumer goes on from this very
position, and, where nothing speaks against it, that readers see this version.

What cannot be folded or written ends the building before it: the consumer goes on, one event after another, and parks that key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ensue.domain.view import View
from ensue.domain.views import indexes, registry
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import FOLLOWING, Database, Stale, Version
from ensue.domain.views.table import KEYS_AT_ONCE, Key, Table, quoted
from ensue.errors import ApplyFailed
from ensue.events.stored import Row
from ensue.store.base import SqlTransaction
from ensue.world import World

__all__ = ["Builder", "Touched"]

Touched: TypeAlias = tuple[Row, Key, Any]
"""A stored event, the key of a row that it touches, and the event as `evolve` takes it."""

PAGE = 1000
EVENTS_AT_ONCE = 20_000
"""A transaction of the builder keeps the log's writer for as long as it takes to write the rows of so many events."""
ROWS_AT_ONCE = 2_000
BYTES_AT_ONCE = 8 * 1024 * 1024
"""Of the payloads that were folded."""
ROWS_KEPT = 100_000
BYTES_KEPT = 256 * 1024 * 1024
"""So many rows are in memory, made of so many bytes of payloads; beyond it all are forgotten, and read again as they are needed."""


class Builder:
    """Builds one version, once."""

    _before: int | None = None
    """Where it ends. None: at the end of the log, with the hand-over."""

    def __init__(self, reading: Reading, store: Database, world: World, version: Version, *, owner: str) -> None:
        self.version = version
        self._reading = reading
        self._store = store
        self._world = world
        self._owner = owner
        self._table = Table(reading.definition, registry.table_name(version.name, version.number), store.dialect)
        self._rows: dict[Key, View | None] = {}
        self._changed: dict[Key, None] = {}
        self._position = version.position
        self._bytes = 0
        self._bytes_kept = 0
        self._whole = False
        """All rows of the table are in memory."""

    async def run(self) -> bool:
        """Until the consumer can take over. False where somebody else has changed the version: the builder is of no use any more.
        Errors: those of the store; `UnreadableEvent` where this code is too old for an event, and must not go on."""
        try:
            await self._begin()
            failure = await self._build()
            if failure is not None:
                await self._finish_after(failure)
        except Stale:
            return False
        return True

    async def _begin(self) -> None:
        version, table = self.version, self._table
        begun = version.began_at is not None

        def begin(sql: SqlTransaction) -> None:
            # First: somebody else may have built and shown it meanwhile.
            self.version = registry.change(
                sql, version, owner=self._owner, began_at=version.began_at or self._world.now(), reason=None
            )
            if not begun:
                sql.execute(f"DROP TABLE IF EXISTS {quoted(table.name)}")
                for statement in table.creation():
                    sql.execute(statement)

        await registry.write(self._store, begin)
        self._world.failpoint("view.begun")
        self._whole = not begun
        if not begun:
            # On a table that is full it would take the log's writer seconds.
            await indexes.make(self._store, table, self.version, unique=False)

    async def _build(self) -> str | None:
        """Why it could not be built to the end, or None when it is."""
        store, position, events, indexed = self._store, self._position, 0, False
        while True:
            page = await store.read(self._reading.selection, after=position, before=self._before, limit=PAGE)
            failure = await self._fold(page.rows)
            if failure is not None:
                return failure
            position, events = page.reached, events + len(page.rows)
            at_end = position >= (store.head() if self._before is None else self._before - 1)
            full = len(self._changed) >= ROWS_AT_ONCE or self._bytes >= BYTES_AT_ONCE
            if events >= EVENTS_AT_ONCE or full or at_end:
                failure = await self._flush(position, last=at_end and indexed)
                if failure is not None or (at_end and (indexed or self._before is not None)):
                    return failure
                events = 0
            if at_end:
                await self._index()
                indexed = True
            await self._world.sleep(0)

    # --------------------------------------------------------------------------------------------------------- folding

    async def _fold(self, rows: Sequence[Row]) -> str | None:
        reading, types, log_id = self._reading, self._store.known_types(), self._store.log_id
        for number in {row[2] for row in rows}:
            reading.knows(number, types)
        size = sum([len(row[11]) for row in rows])
        self._bytes, self._bytes_kept = self._bytes + size, self._bytes_kept + size
        try:
            touched = self._ours(list(reading.touched(rows, types, log_id)))
        except Exception as error:
            return _told(error)
        if not self._whole:
            await self._know({key for _, key, _ in touched} - self._rows.keys())
        known, changed, after = self._rows, self._changed, reading.after
        position = 0
        try:
            for row, key, event in touched:
                position = row[0]
                known[key] = after(known.get(key), key, event)
                changed[key] = None
        except Exception as error:
            return f"{_told(error)}, at position {position}"
        return None

    def _ours(self, touched: list[Touched]) -> list[Touched]:
        """Those that are built here."""
        return touched

    async def _know(self, missing: set[Key]) -> None:
        """Have these rows in memory, where they are in the table."""
        keys = list(missing)
        for first in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[first : first + KEYS_AT_ONCE]
            for line in await self._store.select(*self._table.selection_of(some)):
                row = self._table.row(line)
                self._rows[self._table.key_of(row)] = row

    # --------------------------------------------------------------------------------------------------------- writing

    async def _flush(self, position: int, *, last: bool) -> str | None:
        table, version = self._table, self.version
        try:
            written = [table.values(row) for key in self._changed if (row := self._rows[key]) is not None]
        except Exception as error:
            return _told(error)
        removed = [key for key in self._changed if self._rows[key] is None]

        def flush(sql: SqlTransaction) -> None:
            table.put(sql, written)
            table.remove(sql, removed)
            if not last:
                self._move(sql, version, position)
                return
            following = registry.change(
                sql, version, position=position, state=FOLLOWING, ready=True, owner=None, changed_at=self._world.now()
            )
            self.version = self._show(sql, following)

        failure = await self._written(flush)
        if failure is not None:
            return failure
        self._world.failpoint("view.built" if last else "view.flushed")
        self._changed.clear()
        self._bytes = 0
        if len(self._rows) > ROWS_KEPT or self._bytes_kept > BYTES_KEPT:
            self._rows.clear()
            self._bytes_kept = 0
            self._whole = False
        return None

    def _move(self, sql: SqlTransaction, version: Version, position: int) -> None:
        self.version = registry.change(sql, version, position=position)

    def _show(self, sql: SqlTransaction, version: Version) -> Version:
        """Readers see it from now on, unless they see a newer one, or one that a person chose."""
        registry.lock(sql, version.name)
        current = next((one for one in registry.of_name(sql, version.name) if one.current), None)
        if current is not None and (current.pinned or current.number > version.number):
            return version
        return registry.show(sql, version, dialect=self._store.dialect, now=self._world.now())

    async def _written(self, function: Callable[[SqlTransaction], None]) -> str | None:
        try:
            await registry.write(self._store, function)
        except ApplyFailed as error:
            return _told(error.__cause__ or error)
        return None

    async def _index(self) -> None:
        failures = await indexes.make(self._store, self._table, self.version)
        if failures:
            version = self.version
            await registry.write(self._store, lambda sql: self._take(registry.change(sql, version, reason=failures)))
        self._world.failpoint("view.indexed")

    def _take(self, version: Version) -> None:
        self.version = version

    async def _finish_after(self, failure: str) -> None:
        """The consumer goes on from what is written: it redoes the rest one by one, and parks what fails."""
        await self._index()
        version = self.version
        reason = f"was built up to position {version.position:,} and follows from there: {failure}"

        def finish(sql: SqlTransaction) -> None:
            self.version = registry.change(
                sql, version, state=FOLLOWING, owner=None, changed_at=self._world.now(), reason=reason
            )

        await registry.write(self._store, finish)
        self._world.failpoint("view.built in part")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]
