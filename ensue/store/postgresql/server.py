"""How the server of a log is reached: the URL, and connections as the log needs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ensue.errors import WiringError
from ensue.store.postgresql.session import Session, Statement
from ensue.urls import is_readable

__all__ = ["OLDEST", "Server"]

OLDEST = 15
_DEFAULTS = {
    "fallback_application_name": "ensue",
    "connect_timeout": "5",
    # A server that is cut off without a word is given up after ten seconds, as long as a lease.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_VARIABLES = {"connect_timeout": "PGCONNECT_TIMEOUT", "target_session_attrs": "PGTARGETSESSIONATTRS"}
# A session that stops in the middle of a transaction holds the log's lock: the server ends it before a lease runs out.
_SETTINGS = (
    ("idle_in_transaction_session_timeout", "5s"),
    ("lock_timeout", "2s"),
    ("default_transaction_isolation", "read committed"),
)
_DURABLE = (
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END"
)


def _set(local: bool) -> Statement:
    parts = [f"set_config('{name}', '{value}', {str(local).lower()})" for name, value in _SETTINGS]
    return Statement(f"SELECT {', '.join(parts)}, set_config('synchronous_commit', {_DURABLE}, {str(local).lower()})")


_BEGIN, _ROLLBACK = Statement("BEGIN")(), Statement("ROLLBACK")()
_ONCE, _EACH_TIME = _set(False)(), _set(True)()


def _own(url: str) -> tuple[str, str | None]:
    """The URL without the parameter that is ours, and its value. Errors: `WiringError` for another than `few` and `many`."""
    base, _, query = url.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    values = [pair.partition("=")[2] for pair in pairs if pair.startswith("ensue_writers=")]
    if not values:
        return url, None
    if values[-1] not in ("few", "many"):
        raise WiringError("ensue_writers in the URL of a log is `few` (the default) or `many`, see docs/postgresql.md")
    left = "&".join(pair for pair in pairs if not pair.startswith("ensue_writers="))
    return f"{base}?{left}" if left else base, values[-1]


def _read(url: str) -> dict[str, Any]:
    """The parameters that it names. Errors: `WiringError`."""
    if is_readable(url):
        try:
            return dict(conninfo_to_dict(url))
        except psycopg.ProgrammingError:
            pass
    # Nothing of it is shown, nor of the error: what cannot be read may hold a password anywhere.
    raise WiringError(
        "the URL of the log cannot be read as one of PostgreSQL: it looks like "
        "postgresql://user@host:5432/database?sslmode=verify-full, with parameters that libpq knows, and %-escapes for what is "
        "not a letter or digit"
    )


class Server:
    """See the module. `writers` is what the URL says of them, if it does. `shown` names it without what may be secret."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        url, self.writers = _own(url)
        given = _read(url)
        wanted = {**_DEFAULTS, "target_session_attrs": "any" if read_only else "read-write"}
        for name, variable in _VARIABLES.items():
            if variable in os.environ:
                del wanted[name]
        self._conninfo = make_conninfo(**{**wanted, **{name: str(value) for name, value in given.items()}})
        host, port, database = given.get("host"), given.get("port"), given.get("dbname")
        self.shown = f"postgresql://{host or ''}{f':{port}' if port else ''}/{database or ''}"

    async def connect(self, *, notified: Callable[[], None] | None = None) -> Session:
        """A connection that is ready to write. Errors: `psycopg.Error`; `WiringError` for a server too old."""
        session = await Session.connect(self._conninfo, notified=notified)
        try:
            found = session.version // 10_000
            if found < OLDEST:
                raise WiringError(f"the server of {self.shown} is PostgreSQL {found}; a log needs {OLDEST} or later")
            if session.pooled:
                session.settings = (_EACH_TIME,)
                await self._transactions_are_possible(session)
            else:
                await session.run(_ONCE)
        except BaseException:
            session.close()
            raise
        return session

    async def _transactions_are_possible(self, session: Session) -> None:
        """Errors: `WiringError` where the pooler gives every statement another session."""
        try:
            await session.run(_BEGIN)
            await session.run(_ROLLBACK)
        except psycopg.Error as error:
            if "statement pooling" not in str(error):
                raise
            raise WiringError(
                f"a pooler in statement mode stands before {self.shown}, and a commit is more than one statement: let it work in "
                "transaction mode (pool_mode = transaction)"
            ) from error

    async def connect_to_copy(self) -> psycopg.AsyncConnection[Any]:
        """A connection for COPY, for which the pipeline has no place. Errors: `psycopg.Error`."""
        return await psycopg.AsyncConnection.connect(self._conninfo, prepare_threshold=None)

    def connect_to_keep(self) -> psycopg.Connection[Any]:
        """A connection for rows beside the log's, which commits what it is told to. Blocks. Errors: `psycopg.Error`."""
        return psycopg.connect(self._conninfo, cursor_factory=psycopg.RawCursor, autocommit=True)

    def connect_to_query(self) -> psycopg.Connection[Any]:
        """A connection for reading statements of the user's. Blocks. Errors: `psycopg.Error`."""
        connection = psycopg.connect(self._conninfo, cursor_factory=psycopg.RawCursor)
        connection.read_only = True
        return connection

    def connect_to_keys(self) -> psycopg.Connection[Any]:
        """A connection for a store of keys, each statement of it a durable transaction. Blocks. Errors: `psycopg.Error`."""
        connection: psycopg.Connection[Any] = psycopg.connect(
            self._conninfo, cursor_factory=psycopg.RawCursor, autocommit=True, prepare_threshold=None
        )
        connection.execute(f"SELECT set_config('synchronous_commit', {_DURABLE}, false)".encode())
        return connection
