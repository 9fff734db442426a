"""A view in plain SQL, kept: its function is called for each event, and its statements lead to the tables of a version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from ensue.consumers.transaction import Transaction
from ensue.domain.views.keeping import CannotTake, Types
from ensue.domain.views.sql_text import own_statement, renamed
from ensue.domain.views.sql_view import SqlViewDefinition
from ensue.errors import Misuse, UnreadableEvent
from ensue.events.fingerprint import fingerprint_of
from ensue.events.message import Event
from ensue.events.recorded import Recorded
from ensue.events.registry import Read, Registry
from ensue.events.stored import Row
from ensue.events.upcasting import Parts
from ensue.store.base import Selection, SqlTransaction, Term

__all__ = ["SqlKept"]


class SqlKept:
    """A view in plain SQL, read with the types of an application. See `ensue.domain.views.keeping.Kept`."""

    def __init__(self, definition: SqlViewDefinition, registry: Registry) -> None:
        covered = registry.covering(definition.events)
        self.definition: Any = definition
        self.name = definition.name
        self.shown = str(getattr(definition.function, "__name__", definition.name))
        self.names = tuple(dict.fromkeys(registry.names(covered)))
        self.selection: Selection = (Term(types=self.names),)
        self.former_names: Mapping[str, tuple[str, ...]] = {
            name: was for name, was in registry.former().items() if name in self.names
        }
        self.tables = definition.schema.tables
        self.shape = _printed(definition.schema.statements)
        code = definition.version or fingerprint_of((), (definition.function,), covered).hex()
        self.fingerprint = _printed([self.shape, sorted(self.names), code])
        self._registry = registry
        self._readers: dict[int, tuple[str, int, Read]] = {}

    def creation(self, number: int, dialect: str) -> list[str]:
        """See `Kept`."""
        found: list[str] = self.definition.schema.made(number)
        return found

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
        """See `Kept`. It has no keys of its own."""
        transaction = _OwnTables(sql, self.tables, number)
        function, whole = self.definition.function, self.definition.recorded
        for nth, row in enumerate(rows):
            try:
                for recorded in self._events(row, types, log_id):
                    function(recorded if whole else recorded.event, transaction)
            except UnreadableEvent:
                raise
            except Exception as error:
                raise CannotTake(
                    f"the view {self.shown} cannot take the {types[row[2]][0]}: {type(error).__name__}: {error}"[:1000],
                    nth,
                ) from error

    def _events(self, row: Row, types: Types, log_id: str) -> Sequence[Recorded[Any]]:
        found = self._readers.get(row[2])
        if found is None:
            name, version = types[row[2]]
            found = self._readers[row[2]] = (name, version, self._registry.reader(name, version))
        name, version, read = found
        event = read(row[11])
        if not isinstance(event, Parts):
            return (Recorded(event, row, name, version, log_id),)
        parts = self._registry.selected(event, row, [(self.names, ())])
        return [Recorded(one, row, name, version, log_id, part) for part, one in parts]


class _OwnTables(Transaction):
    """A transaction in which the names of a view's tables lead to those of one of its versions."""

    __slots__ = ()

    def __init__(self, sql: SqlTransaction, tables: tuple[str, ...], number: int) -> None:
        super().__init__(_Renaming(sql, tables, number))

    def emit(self, *events: Event) -> None:
        """Errors: `Misuse`."""
        raise Misuse("a view emits no events: it is made anew from them at any time, and would emit them again")


class _Renaming:
    def __init__(self, sql: SqlTransaction, tables: tuple[str, ...], number: int) -> None:
        self._sql = sql
        self._tables = tables
        self._number = number

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        return self._sql.execute(_led(sql, self._tables, self._number), values)


@lru_cache(maxsize=1024)
def _led(sql: str, tables: tuple[str, ...], number: int) -> str:
    own_statement(sql, tables)
    return renamed(sql, {table: f"{table}__v{number}" for table in tables})


def _printed(facts: object) -> str:
    return blake2b(msgspec.json.encode(facts), digest_size=12).hexdigest()
