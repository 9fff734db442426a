"""What a version of a view does with events, inside a transaction of the database that holds its rows; and waiting for it.

`Kept` is what `keeper.py` and `inline.py` know of a view: rows of a class (`RowsKept`), or tables that a function writes
(`ensue.domain.views.sql_view`). It makes its tables, takes events in the order of the log, and shows a version to readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from ensue.domain.view import View
from ensue.domain.views import registry
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import Database, Version
from ensue.domain.views.table import KEYS_AT_ONCE, Key, Table, quoted
from ensue.errors import ApplyFailed, NotCaughtUp, UnreadableEvent
from ensue.events.stored import Row
from ensue.store.base import Request, Selection, SqlTransaction, WriterTransaction
from ensue.world import World

__all__ = [
    "CannotTake",
    "Kept",
    "Line",
    "LogPlace",
    "Mark",
    "Place",
    "RowsKept",
    "Types",
    "key_text",
    "show",
    "show_others",
]

T = TypeVar("T")
Types: TypeAlias = Mapping[int, tuple[str, int]]
Line: TypeAlias = Sequence[Any]
"""A row as columns: as the database gave it, or is given it."""


class CannotTake(Exception):
    """An event that a view cannot take: the `nth` of those that it was given. Its cause is what was raised; `key` is that of the
    row which it would have changed, as text, where only that one is concerned."""

    def __init__(self, message: str, nth: int, *, key: str | None = None) -> None:
        super().__init__(message)
        self.nth = nth
        self.key = key


class Place(Protocol):
    """A database with tables of views: that of the log, or another."""

    dialect: str

    async def transact(self, function: Callable[[SqlTransaction], T]) -> T:
        """Run the function in one transaction, and commit what it did. Errors: what it raises; those of the store, or target."""
        ...

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        """A reading statement."""
        ...


class LogPlace:
    """The log's own database, by its one writer."""

    def __init__(self, store: Database) -> None:
        self._store = store
        self.dialect = store.dialect

    async def transact(self, function: Callable[[SqlTransaction], T]) -> T:
        """See `Place`."""
        result: list[T] = []

        def apply(sql: SqlTransaction) -> tuple[()]:
            result[:] = [function(sql)]
            return ()

        await self._store.room()
        try:
            await self._store.write(Request(apply=(apply,)))
        except ApplyFailed as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        return result[0]

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        """See `Place`."""
        return await self._store.select(sql, values)


class Kept(Protocol):
    """See the module."""

    name: str
    """Of its first table, by which it is known."""
    shown: str
    """What its author calls it."""
    definition: Any
    names: tuple[str, ...]
    selection: Selection
    former_names: Mapping[str, tuple[str, ...]]
    tables: tuple[str, ...]
    fingerprint: str
    shape: str

    def creation(self, number: int, dialect: str) -> list[str]:
        """The statements that make the tables of a version, which are not there."""
        ...

    def take(
        self,
        sql: SqlTransaction,
        number: int,
        rows: Sequence[Row],
        types: Types,
        log_id: str,
        *,
        stopped: Collection[str] = (),
    ) -> None:
        """Change the tables of a version by these events, but not the rows of the keys that have `stopped`. Where it raises, the
        whole transaction is to be undone. Errors: `CannotTake`; `UnreadableEvent` where this code is too old for one of them."""
        ...


class RowsKept:
    """Rows of a class."""

    def __init__(self, reading: Reading, dialect: str) -> None:
        definition = reading.definition
        self.reading = reading
        self.definition: Any = definition
        self.name, self.shown = definition.name, definition.row.__name__
        self.names, self.selection = reading.names, reading.selection
        self.former_names: Mapping[str, tuple[str, ...]] = reading.former_names
        self.tables: tuple[str, ...] = (definition.name,)
        self.fingerprint = registry.fingerprint(definition, reading.names, reading.covered)
        self.shape = registry.shape(definition)
        self._dialect = dialect
        self._tables: dict[int, Table] = {}

    def table(self, number: int) -> Table:
        """That of a version."""
        found = self._tables.get(number)
        if found is None:
            name = registry.table_name(self.name, number)
            found = self._tables[number] = Table(self.definition, name, self._dialect)
        return found

    def creation(self, number: int, dialect: str) -> list[str]:
        """See `Kept`."""
        table = self.table(number)
        return [*table.creation(), *table.indexes()]

    def take(
        self,
        sql: SqlTransaction,
        number: int,
        rows: Sequence[Row],
        types: Types,
        log_id: str,
        *,
        stopped: Collection[str] = (),
    ) -> None:
        """See `Kept`. Rows that the events touch are read once and written once."""
        table, touched = self.table(number), self.touched(rows, types, log_id)
        if stopped:
            touched = [one for one in touched if key_text(one[1]) not in stopped]
        keys = list(dict.fromkeys(key for _, key, _ in touched))
        found = {key: table.row(line) for key, line in _load(sql, table, keys).items()}
        changed = self._follow(table, touched, found, rows, types)
        try:
            _write(sql, table, changed)
        except Exception as error:
            if len(rows) != 1:  # the database does not say which: whoever asks finds out
                raise
            raise self._cannot(0, rows[0], types, error) from error

    def take_in_batch(
        self,
        sql: WriterTransaction,
        number: int,
        rows: Sequence[Row],
        types: Types,
        log_id: str,
        *,
        lines: dict[Key, Line | None],
        more: Callable[[], Iterable[Key]],
    ) -> dict[Key, Line | None]:
        """The same with what is known already of this batch's `lines`, to which what had to be read is added; `more` are keys that
        are worth reading with them. What is written is sent with what comes next. The lines as they are then. Errors: as `take`."""
        table, touched = self.table(number), self.touched(rows, types, log_id)
        keys = list(dict.fromkeys(key for _, key, _ in touched))
        if any(key not in lines for key in keys):
            wanted = [key for key in dict.fromkeys((*keys, *more())) if key not in lines]
            lines.update(dict.fromkeys(wanted))
            lines.update(_load(sql, table, wanted))
        found = {key: table.row(line) for key in keys if (line := lines[key]) is not None}
        changed = self._follow(table, touched, found, rows, types)
        _write(_Later(sql), table, changed)
        return changed

    def touched(self, rows: Sequence[Row], types: Types, log_id: str) -> list[tuple[int, Key, Any]]:
        """Which event touches which row: number of the event, key, event. Errors: as `take`."""
        reading = self.reading
        touched: list[tuple[int, Key, Any]] = []
        for nth, row in enumerate(rows):
            try:
                for recorded in reading.events(row, types, log_id):
                    touched.extend((nth, key, recorded) for key in reading.keys(recorded))
            except UnreadableEvent:
                raise
            except Exception as error:
                raise self._cannot(nth, row, types, error) from error
        return touched

    def _follow(
        self,
        table: Table,
        touched: Sequence[tuple[int, Key, Any]],
        before: Mapping[Key, View],
        rows: Sequence[Row],
        types: Types,
    ) -> dict[Key, Line | None]:
        """The rows that change, as the database is given them; None for those that are deleted."""
        found: dict[Key, View | None] = {**before}
        last: dict[Key, int] = {}
        for nth, key, recorded in touched:
            try:
                found[key] = self.reading.follow(found.get(key), key, recorded)
            except Exception as error:
                raise self._cannot(nth, rows[nth], types, error, key) from error
            last[key] = nth
        changed: dict[Key, Line | None] = {}
        for key, nth in last.items():
            row = found[key]
            try:
                changed[key] = table.values(row) if row is not None else None
            except Exception as error:
                raise self._cannot(nth, rows[nth], types, error, key) from error
        return changed

    def _cannot(self, nth: int, row: Row, types: Types, error: Exception, key: Key | None = None) -> CannotTake:
        said = f"the view {self.shown} cannot take the {types[row[2]][0]}: {type(error).__name__}: {error}"[:1000]
        return CannotTake(said, nth, key=key_text(key) if key is not None else None)


def _load(sql: SqlTransaction, table: Table, keys: Sequence[Key]) -> dict[Key, Line]:
    found: dict[Key, Line] = {}
    for first in range(0, len(keys), KEYS_AT_ONCE):
        for line in sql.execute(*table.selection_of(keys[first : first + KEYS_AT_ONCE])):
            found[table.key_of(table.row(line))] = line
    return found


def _write(sql: SqlTransaction, table: Table, changed: Mapping[Key, Line | None]) -> None:
    written = [line for line in changed.values() if line is not None]
    if written:
        table.put(sql, written)
    if len(written) < len(changed):
        table.remove(sql, [key for key, line in changed.items() if line is None])


class _Later:
    """A transaction whose statements nobody waits for."""

    def __init__(self, sql: WriterTransaction) -> None:
        self._sql = sql

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        assert not isinstance(values, Mapping)
        self._sql.later(sql, values)
        return []


def key_text(key: Key) -> str:
    """A key as text, for a column and for people."""
    return msgspec.json.encode(key).decode()


def show(sql: SqlTransaction, kept: Kept, version: Version, *, dialect: str, now: int) -> Version:
    """Readers see this version from now on, unless they see a newer one, or one that a person chose."""
    registry.lock(sql, version.name)
    current = next((one for one in registry.of_name(sql, version.name) if one.current), None)
    if current is not None and (current.pinned or current.number > version.number):
        return version
    shown = registry.show(sql, version, dialect=dialect, now=now)
    show_others(sql, kept, shown)
    return shown


def show_others(sql: SqlTransaction, kept: Kept, version: Version) -> None:
    """The further tables of a view are shown with its first."""
    for table in kept.tables[1:]:
        sql.execute(f"DROP VIEW IF EXISTS {quoted(table)}")
        sql.execute(
            f"CREATE VIEW {quoted(table)} AS SELECT * FROM {quoted(registry.table_name(table, version.number))}"
        )


class Mark:
    """How far something has come in this process, and who waits for it."""

    def __init__(self, what: str, world: World) -> None:
        self.position = 0
        self.failure: Exception | None = None
        """Why it does not go on."""
        self.reason = ""
        """Why it does not go on for now."""
        self._what = what
        self._world = world
        self._waiters: set[asyncio.Future[None]] = set()

    def reach(self, position: int) -> None:
        """Everything up to there is done."""
        self.position = position
        self.wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will be done."""
        self.failure = error
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, position: int, timeout_seconds: float) -> None:
        """Until it has come to a position. Errors: `NotCaughtUp`, what made it fail."""
        try:
            async with asyncio.timeout(max(timeout_seconds, 0.0)):
                while self.position < position:
                    if self.failure is not None:
                        raise self.failure
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            why = f": {self.reason}" if self.reason else ". Wait longer, or ask again"
            raise NotCaughtUp(
                f"{self._what} has come to position {self.position} of {position} within {timeout_seconds:g} s{why}"
            ) from None
