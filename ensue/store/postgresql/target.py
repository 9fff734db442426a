"""A PostgreSQL database as a target, see `ensue.store.target`: any that this role may make tables in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from ensue.errors import EnsueError, OutcomeUnknown
from ensue.store.postgresql.errors import is_transient, translated
from ensue.store.postgresql.server import Server
from ensue.store.postgresql.transaction import checked, numbered

__all__ = ["PostgresqlDriver"]

_LIMITS = (
    "SELECT set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '30s', true)"
)


class PostgresqlDriver:
    """`url` is as for a log; its schema is the one that the role finds first."""

    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self._server = Server(url)
        self.shown = self._server.shown

    def connect(self, *, reading: bool) -> _Connection:
        """See `Driver.connect`."""
        return _Connection(self._server.connect_to_keep())

    def trouble(self, error: BaseException, *, committing: bool) -> EnsueError | None:
        """See `Driver.trouble`."""
        if not isinstance(error, psycopg.Error):
            return None
        if committing and (error.sqlstate is None or error.sqlstate.startswith("08")):
            return OutcomeUnknown(f"the connection to {self.shown} was lost while this was being committed")
        ours = translated(error, f"use the database {self.shown}")
        return ours if is_transient(error) or isinstance(error, psycopg.errors.DiskFull) else None


class _Connection:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._sql = connection

    def begin(self) -> None:
        self._sql.execute("BEGIN")
        self._sql.execute(_LIMITS)

    def execute(self, sql: str, values: Sequence[object], /) -> list[tuple[Any, ...]]:
        checked(sql)
        cursor = self._sql.execute(numbered(sql).encode(), values)
        return cursor.fetchall() if cursor.description is not None else []

    def commit(self) -> None:
        self._sql.execute("COMMIT")

    def roll_back(self) -> None:
        self._sql.execute("ROLLBACK")

    def close(self) -> None:
        self._sql.close()
