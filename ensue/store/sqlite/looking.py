"""Reading the user's rows in one snapshot, on the connection that reads the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import apsw

from ensue.errors import Misuse
from ensue.store.base import SqlTransaction
from ensue.store.looking import ONLY_READS
from ensue.store.sqlite.transaction import inside_only

__all__ = ["look"]

T = TypeVar("T")


class _Reading:
    """The snapshot begins with the first statement."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._cursor: apsw.Cursor | None = None

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """See `SqlTransaction`."""
        cursor = self._cursor
        if cursor is None:
            self._connection.execute("BEGIN")
            cursor = self._cursor = self._connection.cursor()
            cursor.exec_trace = inside_only
        try:
            return list(cursor.execute(sql, values))
        except apsw.ReadOnlyError as error:
            raise Misuse(ONLY_READS) from error

    def end(self) -> None:
        if self._cursor is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def look(connection: apsw.Connection, function: Callable[[SqlTransaction], T]) -> T:
    """See `Looking.look`: run at once, as all reading of a file is."""
    reading = _Reading(connection)
    try:
        return function(reading)
    finally:
        reading.end()
