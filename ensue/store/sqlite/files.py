"""Keeping a SQLite log's file safe between processes, and telling other processes that it changed.

Three dangers are met here, each measured to lose acknowledged events otherwise:

- A second SQLite library in this process (the standard `sqlite3` module beside ours) drops our locks or removes the
  write-ahead file when it closes. A guard descriptor holds an open-file-description lock on the range that SQLite uses for
  its shared lock, which stops the removal; the audit hook refuses such a connection before it is made.
- Whatever happens all the same is noticed before an answer is given: the write-ahead file must still be the one that was
  opened.
- Processes take turns by `flock` on a file beside the log. That lock cannot be dropped by the bug above, and it is fairer
  and faster than SQLite's busy timeout.

The same side file carries the news: a commit touches it, and whoever waits in another process watches it (inotify).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from ensue.errors import ForeignConnection, LogFileReplaced
from ensue.world import Threads

__all__ = ["LogFiles", "Watch", "standing", "unchanging", "writable"]

_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_IN_ATTRIB, _IN_NONBLOCK, _IN_CLOEXEC = 0x4, 0o4000, 0o2000000

_guarded: Counter[tuple[int, int]] = Counter()
"""How often this process has each file open."""
_hooked = False


def _refuse_second_library(event: str, arguments: tuple[object, ...]) -> None:
    if event != "sqlite3.connect" or not _guarded or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    database = os.fsdecode(arguments[0])
    for path in (database, _path_of_uri(database)):
        if _identity(path) in _guarded:
            raise ForeignConnection(
                f"{path} is an Ensue log that this process has open, and a second SQLite library on the same file can lose "
                "acknowledged events. Read it with app.sql(), or from another process"
            )


def _path_of_uri(database: str) -> str:
    path = unquote(database.removeprefix("file:").partition("?")[0].partition("#")[0])
    return "/" + path[2:].partition("/")[2] if path.startswith("//") else path


class LogFiles:
    """The files of one open log. `path` is absolute and no symbolic link: SQLite puts its side files beside the real file.
    `guard=False` leaves the dangers open; only tests do that. Errors: `OSError`."""

    def __init__(self, path: str, *, guard: bool = True) -> None:
        global _hooked
        self.path = path
        self._guard_on = guard
        self._lock = self._open_lock()
        try:
            self._guard = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            os.close(self._lock)
            raise
        self._closed = self._turn = False
        self._wal: tuple[int, int] | None = None
        self._identity = _identity(path)
        if guard and self._identity is not None:
            _guarded[self._identity] += 1
            if not _hooked:
                sys.addaudithook(_refuse_second_library)
                _hooked = True

    def _open_lock(self) -> int:
        return os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _guard_shared_range(self, kind: int) -> None:
        if self._guard_on and hasattr(fcntl, "F_OFD_SETLK"):
            lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
            fcntl.fcntl(self._guard, fcntl.F_OFD_SETLK, lock)

    def opened(self) -> None:
        """Hold the guard and remember the write-ahead file, once the log is open: its first opening, when the file's mode is
        set, needs the range for itself."""
        self._guard_shared_range(fcntl.F_RDLCK)
        self._wal = _identity(f"{self.path}-wal")

    def check(self) -> None:
        """Errors: `LogFileReplaced` if the write-ahead file is not the one that was opened."""
        if self._guard_on and _identity(f"{self.path}-wal") != self._wal:
            raise LogFileReplaced(
                f"{self.path}-wal was replaced or removed while the log was open, by a second SQLite library or by hand. "
                "What was just written is not acknowledged, and this process writes no more: restart it"
            )

    def try_lock(self) -> bool:
        """Take the turn to write, if it is free."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._turn = True
        return True

    def lock(self) -> None:
        """Take the turn to write. Blocks while another process writes."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._turn = True

    def try_lock_to_open(self) -> bool:
        """Take the turn before the log is opened, if it is free."""
        return self.try_lock() and self._is_current()

    def lock_to_open(self) -> None:
        """Take the turn before the log is opened. Blocks while another process writes."""
        while True:
            self.lock()
            if self._is_current():
                return

    def _is_current(self) -> bool:
        """Whether the locked file is the one of that name: whoever closed the log last may have removed it meanwhile. It is
        opened anew then."""
        found = os.fstat(self._lock)
        if self._closed or (found.st_dev, found.st_ino) == _identity(f"{self.path}-lock"):
            return True
        os.close(self._lock)
        self._lock = self._open_lock()
        return False

    async def turn(self, threads: Threads, take: Callable[[], None]) -> None:
        """Take the turn (`take` is one of the above) without blocking the loop."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: object, error: BaseException | None) -> None:
            if taken.done():
                return
            if error is None:
                taken.set_result(None)
            else:
                taken.set_exception(error)

        threads.run(take, done)
        await taken

    def unlock(self) -> None:
        self._turn = False
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def tell_others(self) -> None:
        """Wake whoever watches the log in other processes."""
        os.utime(self._lock)

    def closing(self) -> None:
        """Let go of the guard, so that SQLite can tidy up when this was the last process."""
        self._guard_shared_range(fcntl.F_UNLCK)

    def close(self) -> None:
        """After the connections. With the turn held, the lock file is removed if SQLite has removed its own files beside the
        log: nobody has it open."""
        self._closed = True
        if self._turn and _identity(f"{self.path}-wal") is None:
            os.unlink(f"{self.path}-lock")
        if self._guard_on and self._identity is not None:
            _guarded[self._identity] -= 1
            if not _guarded[self._identity]:
                del _guarded[self._identity]
        os.close(self._guard)
        os.close(self._lock)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


class Watch:
    """Calls back on the loop when the lock file beside a log is touched. Costs nothing while nothing happens."""

    def __init__(self, path: str, add_reader: Callable[..., None], remove_reader: Callable[[int], object]) -> None:
        """Errors: `OSError` where the system has no inotify, or no watch left."""
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            raise OSError("this system has no inotify")
        self._remove_reader = remove_reader
        self._add_reader = add_reader
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if (
            self._descriptor < 0
            or libc.inotify_add_watch(self._descriptor, os.fsencode(f"{path}-lock"), _IN_ATTRIB) < 0
        ):
            if self._descriptor >= 0:
                os.close(self._descriptor)
            raise OSError(ctypes.get_errno(), "inotify cannot watch the log")

    def start(self, callback: Callable[[], None]) -> None:
        def read() -> None:
            try:
                os.read(self._descriptor, 65536)
            except BlockingIOError:
                return
            callback()

        self._add_reader(self._descriptor, read)

    def close(self) -> None:
        self._remove_reader(self._descriptor)
        os.close(self._descriptor)


def unchanging(path: str) -> str:
    """How to open a file at rest for reading only: told that it does not change, SQLite makes no files beside it, for which
    it may lack permission."""
    return f"file:{quote(os.path.abspath(path))}?immutable=1"


def standing(path: str) -> tuple[bool, int, int]:
    """Whether a log is being written: something is in its write-ahead file. And what changes in its own file when it has
    been. Errors: `FileNotFoundError`."""
    found = os.stat(path)
    try:
        written = os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        written = False
    return written, found.st_mtime_ns, found.st_size


def writable(path: str) -> bool:
    """Whether this process can write the file, if there is one, and its folder: a log has files beside it."""
    target = Path(path)
    return os.access(target.parent, os.W_OK) and (not target.exists() or os.access(target, os.W_OK))
