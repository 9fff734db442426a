"""A SQLite file as a target, see `ensue.store.target`: an ordinary database, in which the log has no part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import apsw

from ensue.errors import EnsueError, Unavailable
from ensue.store.sqlite.errors import translated
from ensue.store.sqlite.transaction import inside_only

__all__ = ["SqliteDriver"]

BUSY_MILLISECONDS = 5_000
_TROUBLE = (
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.CantOpenError,
    apsw.BusyError,
    apsw.LockedError,
    OSError,
)


class SqliteDriver:
    """`path` is a file, made where there is none; or `file:/name?vfs=memdb`, shared by name within this process."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self._path = path if path.startswith("file:") else os.path.realpath(path)
        self.shown = self._path

    def connect(self, *, reading: bool) -> _Connection:
        """See `Driver.connect`."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(self._path, flags=flags)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        if not self._path.startswith("file:"):
            connection.pragma("journal_mode", "wal")
        # What a loss of power takes back it takes back with the position: it is done again.
        connection.pragma("synchronous", 1)
        if reading:
            connection.pragma("query_only", 1)
        return _Connection(connection)

    def trouble(self, error: BaseException, *, committing: bool) -> EnsueError | None:
        """See `Driver.trouble`. A commit that fails here has stored nothing."""
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return Unavailable(f"could not use the database {self.shown}: it is damaged, or is none ({error})")
        return translated(error, f"use the database {self.shown}") if isinstance(error, _TROUBLE) else None


class _Connection:
    def __init__(self, connection: apsw.Connection) -> None:
        self._sql = connection
        self._cursor = connection.cursor()
        self._cursor.exec_trace = inside_only

    def begin(self) -> None:
        self._sql.execute("BEGIN IMMEDIATE")

    def execute(self, sql: str, values: Sequence[object], /) -> list[tuple[Any, ...]]:
        return list(self._cursor.execute(sql, tuple(values)))

    def commit(self) -> None:
        self._sql.execute("COMMIT")

    def roll_back(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def close(self) -> None:
        self._sql.close(True)
