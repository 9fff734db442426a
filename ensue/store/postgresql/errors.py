"""Errors of PostgreSQL in the words of Ensue: one table, used at the edge."""

from __future__ import annotations

import psycopg
from psycopg import errors as sql

from ensue.errors import CorruptLog, DuplicateEventId, EnsueError, ReadOnlyLog, StorageFull, Unavailable

__all__ = ["is_of_a_row", "is_outdated", "is_transient", "translated"]

_TRANSIENT: tuple[type[psycopg.Error], ...] = (
    sql.AdminShutdown,
    sql.CrashShutdown,
    sql.CannotConnectNow,
    sql.IdleInTransactionSessionTimeout,
    sql.IdleSessionTimeout,
    sql.LockNotAvailable,
    sql.DeadlockDetected,
    sql.SerializationFailure,
    sql.TooManyConnections,
    sql.ReadOnlySqlTransaction,
    sql.QueryCanceled,
)
_TABLE: tuple[tuple[type[psycopg.Error], type[EnsueError], str], ...] = (
    (
        sql.DiskFull,
        StorageFull,
        "the server's disk is full. Nothing of this write is stored, what was acknowledged is safe; make room",
    ),
    (
        sql.TooManyConnections,
        Unavailable,
        "the server takes no more connections. Each process of an application has two, and a third while it queries: raise "
        "max_connections, run fewer processes, or put a pooler between",
    ),
    (
        sql.ReadOnlySqlTransaction,
        Unavailable,
        "the server takes no writes: it is a replica, or was made read-only. Name all servers in the URL, or wait until one "
        "is promoted",
    ),
    (sql.LockNotAvailable, Unavailable, "another process keeps the log locked; nothing was stored"),
    (sql.QueryCanceled, Unavailable, "the server ended the statement; nothing was stored"),
    (
        sql.InsufficientPrivilege,
        ReadOnlyLog,
        "this role may not do that. See docs/postgresql.md for what an application's role needs",
    ),
    (sql.InvalidPassword, Unavailable, "the server refused the role or its password"),
    (sql.InvalidAuthorizationSpecification, Unavailable, "the server refused the role"),
    (sql.InvalidCatalogName, Unavailable, "there is no such database on the server; make it with createdb"),
    (
        sql.UndefinedTable,
        CorruptLog,
        "a table of the log is missing: was it dropped, or does the search path name another schema?",
    ),
    (sql.IntegrityError, CorruptLog, "the log contradicts itself; nothing was stored. Run `ensue verify`"),
    (sql.DataError, CorruptLog, "the server refused a value"),
)
# What a server says to a connection that it does not take comes without a code, as text.
_CONNECTING = {
    "unsupported startup parameter": (
        "a pooler stands between, which takes no `options`. Say where the log is by ALTER ROLE … SET search_path, or give it a "
        "database of its own"
    ),
    "no password supplied": "the server wants a password: set PGPASSWORD, use a password file, or write it into the URL",
    "password": "the server refused the role or its password",
    "authentication failed": "the server refused the role or its password",
    "pg_hba.conf": "the server lets this role not in from here, or not without TLS",
    "certificate": "the server is not who the URL says, or its certificate is of an authority that sslrootcert does not name",
    "does not support SSL": "the server does not speak TLS, and the URL asks for it",
    "does not exist": "there is no such role or database on the server: make it, or correct the URL",
    "too many": "the server takes no more connections: raise max_connections, run fewer processes, or put a pooler between",
    "remaining connection slots": (
        "the server takes no more connections: raise max_connections, run fewer processes, or put a pooler between"
    ),
    "the database system is": "the server starts, stops or recovers: try again in a moment",
    "read-write": "no server that the URL names takes writes: a replica, or one that was made read-only",
    "read-only": "no server that the URL names takes writes: a replica, or one that was made read-only",
}

_SAID_ALREADY = ("connection failed: ", " Is the server running on that host and accepting TCP/IP connections?")


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed in a moment: the server starts or stops, fails over, or somebody holds a lock."""
    if isinstance(error, _TRANSIENT) or is_outdated(error):
        return True
    # What the client library says by itself has no code: the connection could not be made, or was lost. Codes of this class
    # are of connections, too; a pooler says with one that it has no server.
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith("08")


def is_outdated(error: BaseException) -> bool:
    """Whether the statement was prepared for a table that somebody has changed since: it must be prepared anew."""
    return isinstance(error, sql.FeatureNotSupported) and error.diag.source_function == "RevalidateCachedQuery"


def is_of_a_row(error: BaseException) -> bool:
    """Whether a row of the application's own tables was refused, and not one of the log's."""
    if not isinstance(error, psycopg.IntegrityError | psycopg.DataError):
        return False
    return not (error.diag.table_name or "").startswith("ensue_")


def translated(error: BaseException, attempted: str) -> EnsueError:
    """The error to raise, with the cause set. A connection's error names host and role, never a password."""
    ours, words = _meaning(error)
    detail = " ".join(str(error).split()) or type(error).__name__
    for said in _SAID_ALREADY:
        detail = detail.replace(said, "")
    result = ours(f"could not {attempted}: {words} ({detail})")
    result.__cause__ = error
    return result


def _meaning(error: BaseException) -> tuple[type[EnsueError], str]:
    if isinstance(error, sql.UniqueViolation) and error.diag.constraint_name == "ensue_event_id":
        return DuplicateEventId, "an event with this id is in the log already; nothing was stored"
    for vendor, ours, words in _TABLE:
        if isinstance(error, vendor):
            return ours, words
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        said = str(error)
        known = [words for part, words in _CONNECTING.items() if part in said]
        return Unavailable, known[
            0
        ] if known else "the server cannot be reached. Does it run, and are host and port right?"
    return Unavailable, type(error).__name__
