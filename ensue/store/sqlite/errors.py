"""Errors of SQLite in the words of Ensue: one table, used at the edge."""

from __future__ import annotations

import errno

import apsw

from ensue.errors import CorruptLog, DuplicateEventId, EnsueError, ReadOnlyLog, StorageFull, Unavailable

__all__ = ["extended", "translated"]

_FULL = "the disk is full. Nothing of this write is stored, what was acknowledged is safe; make room"
_READ_ONLY = "the file or its folder cannot be written by this user; reading still works"
_TABLE: tuple[tuple[type[apsw.Error], type[EnsueError], str], ...] = (
    (apsw.FullError, StorageFull, _FULL),
    (apsw.IOError, Unavailable, "the disk failed. Nothing of it is stored; see the system's log"),
    (apsw.NotADBError, CorruptLog, "the file is not an Ensue log; nothing was written to it"),
    (
        apsw.CorruptError,
        CorruptLog,
        "the file is damaged; nothing was written to it. Restore a backup, or copy what can be read",
    ),
    (apsw.ReadOnlyError, ReadOnlyLog, _READ_ONLY),
    (apsw.PermissionsError, ReadOnlyLog, "this user may not open the file"),
    (
        apsw.CantOpenError,
        Unavailable,
        "the file cannot be opened. Is it a file, and may this user read it and write in its folder?",
    ),
    (apsw.BusyError, Unavailable, "another program holds the file locked; nothing was stored"),
    (apsw.LockedError, Unavailable, "another connection holds the table locked; nothing was stored"),
)
_NO_ROOM = frozenset((apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_SHMSIZE))
"""A quota, or a limit on the size of files: SQLite calls only a full disk full."""


def translated(error: BaseException, attempted: str) -> EnsueError:
    """The error to raise, with the cause set."""
    ours, words = _meaning(error)
    result = ours(f"could not {attempted}: {words} ({error})")
    result.__cause__ = error
    return result


def extended(error: BaseException) -> int:
    """SQLite's extended code of the error, 0 for another's."""
    return getattr(error, "extendedresult", 0)


def _meaning(error: BaseException) -> tuple[type[EnsueError], str]:
    if isinstance(error, OSError):
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ReadOnlyLog, _READ_ONLY
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull, _FULL
    if isinstance(error, apsw.ConstraintError):
        if "ensue_event.id" in str(error):
            return DuplicateEventId, "an event with this id is in the log already; nothing was stored"
        return CorruptLog, "the log contradicts itself; nothing was stored. Run `ensue verify`"
    if extended(error) in _NO_ROOM:
        return StorageFull, "the disk takes no more. Nothing of it is stored, what was acknowledged is safe; make room"
    for vendor, ours, words in _TABLE:
        if isinstance(error, vendor):
            return ours, words
    return Unavailable, type(error).__name__
