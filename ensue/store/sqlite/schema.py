"""The tables of a log in SQLite, and what a file must say to be one."""

from __future__ import annotations

from pathlib import Path

import apsw

from ensue.store.sqlite.errors import translated
from ensue.store.sqlite.files import standing, unchanging
from ensue.store.steps import Step

__all__ = ["APPLICATION_ID", "SCHEMA", "SCHEMA_VERSION", "STEPS", "is_half_copied", "is_log", "missing_steps"]

APPLICATION_ID = 0x456E7375
SCHEMA_VERSION = 2
STEPS = {1: "ALTER TABLE ensue_node ADD COLUMN can TEXT NOT NULL DEFAULT '[]'"}
"""What makes of a log of that schema one of the next."""

# An index on one column ends in the row's position, so each of them is searched from a position on, in its order. Versions
# rise with positions within a stream, so the last of a stream is found there as well.
SCHEMA = """
CREATE TABLE ensue_log (
    one INTEGER PRIMARY KEY CHECK (one = 1), log_id TEXT NOT NULL, position INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, batch BLOB NOT NULL
) STRICT;
CREATE TABLE ensue_event (
    position INTEGER PRIMARY KEY, id BLOB NOT NULL, type INTEGER NOT NULL, stream BLOB, version INTEGER,
    recorded_at INTEGER NOT NULL, cause INTEGER, root INTEGER, maker INTEGER, nth INTEGER, meta BLOB NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX ensue_event_id ON ensue_event (id);
CREATE INDEX ensue_event_by_stream ON ensue_event (stream) WHERE stream IS NOT NULL;
CREATE INDEX ensue_event_by_type ON ensue_event (type);
CREATE INDEX ensue_event_by_root ON ensue_event (root) WHERE root IS NOT NULL;
CREATE TABLE ensue_event_tag (
    tag BLOB NOT NULL, position INTEGER NOT NULL, type INTEGER NOT NULL, PRIMARY KEY (tag, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE ensue_event_type (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, UNIQUE (name, version)
) STRICT;
CREATE TABLE ensue_former_name (former TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE ensue_request (
    key BLOB PRIMARY KEY, fingerprint BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    result BLOB NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ensue_consumer (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, start INTEGER NOT NULL, key_tag TEXT, segments INTEGER NOT NULL,
    handles BLOB NOT NULL, status TEXT NOT NULL, reason TEXT
) STRICT;
CREATE TABLE ensue_progress (
    consumer INTEGER NOT NULL, segment INTEGER NOT NULL, position INTEGER NOT NULL, ahead BLOB NOT NULL,
    fence INTEGER NOT NULL, owner BLOB, rev INTEGER NOT NULL, unclean INTEGER NOT NULL, count INTEGER NOT NULL,
    digest INTEGER NOT NULL, PRIMARY KEY (consumer, segment)
) STRICT, WITHOUT ROWID;
CREATE TABLE ensue_lane (
    consumer INTEGER NOT NULL, key BLOB NOT NULL, segment INTEGER NOT NULL, key_text TEXT NOT NULL,
    after INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, due_at INTEGER, error TEXT, edit BLOB,
    edits INTEGER NOT NULL, discard INTEGER NOT NULL, rev INTEGER NOT NULL, PRIMARY KEY (consumer, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE ensue_dead_letter (
    id INTEGER PRIMARY KEY, consumer INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL,
    key_text TEXT NOT NULL, reason TEXT NOT NULL, traceback TEXT NOT NULL, attempts INTEGER NOT NULL,
    parked_at INTEGER NOT NULL, resolution TEXT, note TEXT, by TEXT, resolved_at INTEGER
) STRICT;
CREATE INDEX ensue_dead_letter_open ON ensue_dead_letter (consumer, resolved_at);
CREATE TABLE ensue_node (
    id BLOB PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, can TEXT NOT NULL DEFAULT '[]'
) STRICT, WITHOUT ROWID;
CREATE TABLE ensue_delivery (
    consumer INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, at INTEGER NOT NULL, packed BLOB NOT NULL
) STRICT;
CREATE INDEX ensue_delivery_by_last ON ensue_delivery (last, first);
CREATE INDEX ensue_delivery_by_time ON ensue_delivery (at);
"""


def missing_steps(path: str) -> tuple[int, list[Step]]:
    """The schema of the log in this file, and what makes of it one of today. Nothing is written. Errors: as `Log.open`."""
    try:
        connection = apsw.Connection(
            path if standing(path)[0] else unchanging(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        try:
            found: int = connection.pragma("user_version")
        finally:
            connection.close()
    except apsw.Error as error:
        raise translated(error, f"read the log {path}") from error
    return found, [Step(old + 1, f"of schema {old} to {old + 1}", sql) for old, sql in STEPS.items() if old >= found]


def is_half_copied(connection: apsw.Connection) -> bool:
    """Whether `ensue copy` has not finished here."""
    return bool(list(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ensue_transfer'")))


def is_log(path: str) -> bool:
    """Whether there is a file that says it is a log, or a damaged database, which may be one. Nothing is written."""
    if not Path(path).is_file():
        return False
    try:
        connection = apsw.Connection(
            path if standing(path)[0] else unchanging(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
    except apsw.Error:
        return False
    try:
        return bool(connection.pragma("application_id") == APPLICATION_ID)
    except apsw.CorruptError:
        return True
    except apsw.Error:
        return False
    finally:
        connection.close()
