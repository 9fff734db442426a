"""Errors of SQLite in the words of Ensue: one table, used at the edge."""

from __future__ import annotations

import apsw

from ensue.errors import CorruptLog, DuplicateEventId, EnsueError, ReadOnlyLog, StorageFull, Unavailable

__all__ = ["translated"]

_TABLE: tuple[tuple[type[apsw.Error], type[EnsueError], str], ...] = (
    (
        apsw.FullError,
        StorageFull,
        "the disk is full. Nothing of this write is stored, what was acknowledged is safe; make room",
    ),
    (apsw.IOError, StorageFull, "the disk refused the write. Nothing of it is stored; see the system's log"),
    (apsw.NotADBError, CorruptLog, "the file is not an Ensue log; nothing was written to it"),
    (
        apsw.CorruptError,
        CorruptLog,
        "the file is damaged; nothing was written to it. Restore a backup, or copy what can be read",
    ),
    (apsw.ReadOnlyError, ReadOnlyLog, "the file or its folder cannot be written by this user; reading still works"),
    (apsw.PermissionsError, ReadOnlyLog, "this user may not open the file"),
    (
        apsw.CantOpenError,
        Unavailable,
        "the file cannot be opened: does its folder exist, and may this user write there?",
    ),
    (apsw.BusyError, Unavailable, "another program holds the file locked; nothing was stored"),
    (apsw.LockedError, Unavailable, "another connection holds the table locked; nothing was stored"),
    (apsw.ConstraintError, DuplicateEventId, "an event with this id is in the log already; nothing was stored"),
)


def translated(error: BaseException, attempted: str) -> EnsueError:
    """The error to raise, with the cause set."""
    for vendor, ours, words in _TABLE:
        if isinstance(error, vendor):
            result: EnsueError = ours(f"could not {attempted}: {words} ({error})")
            break
    else:
        result = Unavailable(f"could not {attempted}: {type(error).__name__}: {error}")
    result.__cause__ = error
    return result
