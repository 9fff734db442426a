"""The secrets of subjects in a SQLite file of their own, beside the log and none of its tables."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence

import apsw

from ensue.errors import CorruptLog, Unavailable
from ensue.events.stored import tag_hash
from ensue.store.keys import KeyRow
from ensue.store.sqlite.errors import translated

__all__ = ["SqliteKeys"]

APPLICATION_ID = 0x456E4B79
SCHEMA = """
CREATE TABLE IF NOT EXISTS ensue_key (
    subject BLOB PRIMARY KEY, name TEXT NOT NULL, secret BLOB, created_at INTEGER NOT NULL, forgotten_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ensue_key_forgotten ON ensue_key (name) WHERE secret IS NULL;
"""
BUSY_MILLISECONDS = 5_000
_FIND = "SELECT subject, name, secret FROM ensue_key WHERE subject = ?"
_CREATE = "INSERT INTO ensue_key VALUES (?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING"
_DESTROY = (
    "INSERT INTO ensue_key VALUES (?, ?, NULL, ?, ?) "
    "ON CONFLICT DO UPDATE SET secret = NULL, forgotten_at = excluded.forgotten_at WHERE secret IS NOT NULL"
)


class SqliteKeys:
    """See the module. `path` is a file, or `file:/name?vfs=memdb`. Without `create` there must be one.

    What is destroyed is overwritten in the file, and its write-ahead file is emptied. What the file system and the disk keep of
    blocks that were overwritten is beyond it.
    """

    def __init__(self, path: str, *, create: bool = True) -> None:
        self._in_memory = path.startswith("file:") and "vfs=memdb" in path
        self.path = path if self._in_memory else os.path.realpath(path)
        self.shown = f"sqlite:///{path}"
        self._create = create
        self._sql: apsw.Connection | None = None

    def open(self) -> None:
        """See `KeyStore.open`. Errors besides: `CorruptLog` for a file that is something else."""
        if self._sql is not None:
            return
        if not self._create and not self._in_memory and not os.path.exists(self.path):
            raise Unavailable(f"there is no key store {self.path}: say where the keys are with --keys or ENSUE_KEYS")
        with self._translated("open"):
            if not self._in_memory:
                # For its owner alone, before anything is in it; SQLite gives its side files the same mode.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
            connection = apsw.Connection(self.path, flags=flags)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._sql = connection

    def _prepare(self, connection: apsw.Connection) -> None:
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if tables and connection.pragma("application_id") != APPLICATION_ID:
            raise CorruptLog(f"{self.path} is a SQLite database, but holds no keys; nothing was written to it")
        if not self._in_memory:
            connection.pragma("journal_mode", "wal")
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if not tables:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.execute(SCHEMA)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")

    def close(self) -> None:
        """See `KeyStore.close`."""
        if self._sql is not None:
            self._sql.close(True)
            self._sql = None

    def find(self, subjects: Sequence[bytes], /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.find`."""
        with self._translated("read") as sql:
            rows = [row for subject in subjects for row in sql.execute(_FIND, (subject,))]
        return {subject: KeyRow(name, secret) for subject, name, secret in rows}

    def create(self, secrets: Mapping[str, bytes], now: int, /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.create`."""
        rows = [(tag_hash(name), name, secret, now) for name, secret in secrets.items()]
        with self._transaction("write") as sql:
            sql.executemany(_CREATE, rows)
        return self.find([subject for subject, *_ in rows])

    def destroy(self, subjects: Sequence[str], now: int, /) -> int:
        """See `KeyStore.destroy`."""
        before = self.find([tag_hash(name) for name in subjects])
        with self._transaction("destroy") as sql:
            sql.executemany(_DESTROY, [(tag_hash(name), name, now, now) for name in subjects])
        with self._translated("destroy") as sql:
            sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(row.secret is not None for row in before.values())

    def forgotten(self) -> Sequence[str]:
        """See `KeyStore.forgotten`."""
        with self._translated("read") as sql:
            return [name for (name,) in sql.execute("SELECT name FROM ensue_key WHERE secret IS NULL")]

    def is_empty(self) -> bool:
        """See `KeyStore.is_empty`."""
        with self._translated("read") as sql:
            return not list(sql.execute("SELECT 1 FROM ensue_key LIMIT 1"))

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Generator[apsw.Connection, None, None]:
        with self._translated(what) as sql:
            sql.execute("BEGIN IMMEDIATE")
            try:
                yield sql
                sql.execute("COMMIT")
            except BaseException:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self, what: str) -> Generator[apsw.Connection, None, None]:
        try:
            if self._sql is None and what != "open":
                raise Unavailable(f"the key store {self.path} is not open")
            yield self._sql  # type: ignore[misc]  # not used while it opens
        except (apsw.Error, OSError) as error:
            raise translated(error, f"{what} the keys in {self.path}") from error
