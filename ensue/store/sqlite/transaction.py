"""The open transaction, as functions inside it see it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from ensue.errors import Misuse
from ensue.events.stored import Row
from ensue.store.base import Selection
from ensue.store.sqlite.names import Types
from ensue.store.sqlite.reading import select

__all__ = ["SqliteTransaction", "inside_only"]

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_ENDS_TRANSACTIONS = frozenset(
    ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM")
)


class SqliteTransaction:
    """What functions inside the transaction are given."""

    def __init__(self, connection: apsw.Connection, names: Types, *, head: int, committed: int, batch: object) -> None:
        self.head = head
        self.batch = batch
        self.types = names.by_number
        self._names = names
        self._committed = committed
        self._cursor = connection.cursor()
        self._cursor.exec_trace = inside_only

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """Run one statement and return all its rows. Errors: those of SQLite; `Misuse` for one that would end the
        transaction, and with it the promise that all of the request is stored or nothing."""
        return list(self._cursor.execute(sql, values))

    def later(self, sql: str, values: Sequence[object] = (), /) -> None:
        """See `WriterTransaction.later`. Nothing is gained by waiting."""
        self._cursor.execute(sql, values).fetchall()

    def read(self, selection: Selection, *, after: int, limit: int) -> list[Row]:
        """See `WriterTransaction.read`."""
        before = self._committed + 1
        text, values = select(selection, self._names.expand, after=after, before=before, limit=limit, backwards=False)
        rows: list[Any] = list(self._cursor.execute(text, values))
        return rows


def inside_only(_cursor: object, sql: str, _values: object) -> bool:
    """What a cursor is to check before it runs a statement. Errors: `Misuse`."""
    words = _COMMENTS.sub(" ", sql).split(None, 1)
    if words and words[0].rstrip(";").upper() in _ENDS_TRANSACTIONS:
        raise Misuse(f"{words[0]} inside the application's transaction: it begins, commits and rolls back by itself")
    return True
