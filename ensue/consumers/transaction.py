"""The commit that a handler's effects belong to, for handlers that read and write rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import LiteralString, TypeVar

import msgspec

from ensue.events.message import Event
from ensue.store.base import SqlTransaction

__all__ = ["Transaction"]

T = TypeVar("T")


class Transaction:
    """The transaction in which events, rows and progress are stored together.

    Only for plain `def` handlers and `app.transact`: they run one after another, in the commit itself, so what they read
    is true until they are stored. Keep them short; the log's only writer waits. SQL is a literal with `?` for values.
    A raised exception undoes all that the handler did.
    """

    __slots__ = ("_sql", "emitted")

    def __init__(self, sql: SqlTransaction, /) -> None:
        self._sql = sql
        self.emitted: list[Event] = []

    def emit(self, *events: Event) -> None:
        """Append these events in this transaction, for functions that return something else (`app.transact`)."""
        self.emitted.extend(events)

    def execute(self, sql: LiteralString, /, *values: object) -> list[tuple[object, ...]]:
        """Run one statement; returns its rows. Errors of the database are raised as they are."""
        return self._sql.execute(sql, values)

    def rows(self, row: type[T], sql: LiteralString, /, *values: object) -> list[T]:
        """The result as values of a type: for one column the type itself, else a struct or dataclass whose fields are
        the columns in order. Errors: `msgspec.ValidationError` for a value that is not of its field's type."""
        found = self._sql.execute(sql, values)
        reader: Callable[[Sequence[object]], T] | None = getattr(row, "__ensue_row__", None)
        if reader is not None:  # a view knows its columns
            return [reader(line) for line in found]
        fields: tuple[str, ...] | None = getattr(row, "__struct_fields__", None) or getattr(row, "__match_args__", None)
        if fields is None:
            return [msgspec.convert(line[0], row, strict=False) for line in found]
        return [msgspec.convert(dict(zip(fields, line, strict=True)), row, strict=False) for line in found]

    def row(self, row: type[T], sql: LiteralString, /, *values: object) -> T | None:
        """The first line of the result, or None."""
        found = self.rows(row, sql, *values)
        return found[0] if found else None
