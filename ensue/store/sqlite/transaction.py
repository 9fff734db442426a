"""The open transaction, as functions inside it see it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import apsw

from ensue.errors import Misuse

__all__ = ["SqliteTransaction"]

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_ENDS_TRANSACTIONS = frozenset(
    ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM")
)


class SqliteTransaction:
    """What functions inside the transaction are given."""

    def __init__(self, connection: apsw.Connection, *, head: int) -> None:
        self.head = head
        self._cursor = connection.cursor()
        self._cursor.exec_trace = _inside_only

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """Run one statement and return all its rows. Errors: those of SQLite; `Misuse` for one that would end the
        transaction, and with it the promise that all of the request is stored or nothing."""
        return list(self._cursor.execute(sql, values))


def _inside_only(_cursor: apsw.Cursor, sql: str, _values: object) -> bool:
    words = _COMMENTS.sub(" ", sql).split(None, 1)
    if words and words[0].rstrip(";").upper() in _ENDS_TRANSACTIONS:
        raise Misuse(f"{words[0]} inside the application's transaction: it begins, commits and rolls back by itself")
    return True
