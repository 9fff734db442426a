"""The secrets of subjects in a table of a PostgreSQL database: that of the log, or better another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg

from ensue.errors import Unavailable
from ensue.events.stored import tag_hash
from ensue.store.keys import KeyRow
from ensue.store.postgresql.errors import is_transient, translated
from ensue.store.postgresql.server import Server

__all__ = ["PostgresqlKeys"]

T = TypeVar("T")
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ensue_key (subject bytea PRIMARY KEY, name text NOT NULL, secret bytea, "
    "created_at bigint NOT NULL, forgotten_at bigint)"
)
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ensue_key'))"
_EXISTS = "SELECT to_regclass('ensue_key') IS NOT NULL"
_FIND = "SELECT subject, name, secret FROM ensue_key WHERE subject = ANY($1)"
_CREATE = (
    "INSERT INTO ensue_key SELECT *, $4::bigint, NULL FROM unnest($1::bytea[], $2::text[], $3::bytea[]) "
    "ORDER BY 1 ON CONFLICT DO NOTHING"
)
_DESTROY = (
    "INSERT INTO ensue_key SELECT *, NULL, $3::bigint, $3::bigint FROM unnest($1::bytea[], $2::text[]) ORDER BY 1 "
    "ON CONFLICT (subject) DO UPDATE SET secret = NULL, forgotten_at = excluded.forgotten_at WHERE ensue_key.secret IS NOT NULL"
)


class PostgresqlKeys:
    """See the module. One connection, which blocks; one that was lost is made anew, once for each call.

    What is destroyed is vacuumed from its table. The server's write-ahead files, its replicas and its backups keep it for as long
    as they are kept.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._server = Server(url)
        self.shown = self._server.shown
        self._create = create
        self._sql: psycopg.Connection[Any] | None = None

    def open(self) -> None:
        """See `KeyStore.open`."""

        def prepare(sql: psycopg.Connection[Any]) -> None:
            if sql.execute(_EXISTS.encode()).fetchall() == [(True,)]:
                return
            if not self._create:
                raise Unavailable(f"there are no keys at {self.shown}: say where they are with --keys or ENSUE_KEYS")
            with sql.transaction():
                sql.execute(_LOCK.encode())  # two processes that create it at once would fail
                sql.execute(SCHEMA.encode())

        self._ask("open", prepare)

    def close(self) -> None:
        """See `KeyStore.close`."""
        if self._sql is not None:
            self._sql.close()
            self._sql = None

    def find(self, subjects: Sequence[bytes], /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.find`."""
        rows = self._rows("read", _FIND, list(subjects))
        return {bytes(subject): _row(name, secret) for subject, name, secret in rows}

    def create(self, secrets: Mapping[str, bytes], now: int, /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.create`."""
        hashes = [tag_hash(name) for name in secrets]
        self._rows("write", _CREATE, hashes, list(secrets), list(secrets.values()), now)
        return self.find(hashes)

    def destroy(self, subjects: Sequence[str], now: int, /) -> int:
        """See `KeyStore.destroy`."""
        hashes = [tag_hash(name) for name in subjects]
        before = self.find(hashes)
        self._rows("destroy", _DESTROY, hashes, list(subjects), now)
        self._rows("destroy", "VACUUM ensue_key")
        return sum(row.secret is not None for row in before.values())

    def forgotten(self) -> Sequence[str]:
        """See `KeyStore.forgotten`."""
        return [name for (name,) in self._rows("read", "SELECT name FROM ensue_key WHERE secret IS NULL")]

    def is_empty(self) -> bool:
        """See `KeyStore.is_empty`."""
        return not self._rows("read", "SELECT 1 FROM ensue_key LIMIT 1")

    def _rows(self, what: str, text: str, *values: object) -> list[tuple[Any, ...]]:
        def run(sql: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            cursor = sql.execute(text.encode(), values)
            return cursor.fetchall() if cursor.description is not None else []

        return self._ask(what, run)

    def _ask(self, what: str, call: Callable[[psycopg.Connection[Any]], T]) -> T:
        """All that is asked may be asked twice."""
        again = self._sql is not None
        while True:
            try:
                if self._sql is None or self._sql.closed:
                    self._sql = self._server.connect_to_keys()
                return call(self._sql)
            except psycopg.Error as error:
                lost = self._sql is None or self._sql.closed or is_transient(error)
                if not (again and lost):
                    raise translated(error, f"{what} the keys at {self.shown}") from error
                self.close()
                again = False


def _row(name: str, secret: object) -> KeyRow:
    return KeyRow(name, None if secret is None else bytes(secret))  # type: ignore[call-overload]
