"""Reading the user's rows in one snapshot, on the connection that reads the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import apsw

from ensue.errors import Misuse
from ensue.store.base import SqlTransaction
from ensue.store.looking import ONLY_READS
from ensue.store.sqlite.transaction import inside_only

__all__ = ["look"]

T = TypeVar("T")


class _Reading:
    """Most look once, and one statement is a snapshot in itself. With the second one a transaction begins; where something was
    committed between the two, the function runs again, in a transaction from the beginning."""

    __slots__ = ("_connection", "_count")

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._count = 0

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """See `SqlTransaction`."""
        _check(sql)
        self._count += 1
        try:
            if self._count == 2 and not self._connection.in_transaction:
                return self._second(sql, values)
            return list(self._connection.execute(sql, values))
        except apsw.ReadOnlyError as error:
            raise Misuse(ONLY_READS) from error

    def _second(self, sql: str, values: Sequence[object] | Mapping[str, object]) -> list[tuple[object, ...]]:
        connection = self._connection
        seen = connection.data_version()
        connection.execute("BEGIN")
        found = list(connection.execute(sql, values))
        if connection.data_version() != seen:
            raise _Again
        return found


class _Again(BaseException):
    """The statements would have seen different moments. No `Exception`: nobody is to take it for an error of a statement."""


@lru_cache(maxsize=1024)
def _check(sql: str) -> None:
    """Errors: `Misuse` for what would end the snapshot. Several statements in one text are checked each."""
    for statement in sql.split(";"):
        inside_only(None, statement, ())


def look(connection: apsw.Connection, function: Callable[[SqlTransaction], T]) -> T:
    """See `Looking.look`: run at once, as all reading of a file is."""
    try:
        return function(_Reading(connection))
    except _Again:
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        return function(_Reading(connection))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
