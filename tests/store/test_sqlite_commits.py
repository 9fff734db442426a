"""Where a COMMIT runs, and when the write-ahead file is copied: nobody waits for a slow disk but those who write."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from ensue.store.base import Request
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.writer import CHECKPOINT_PAGES, QUICK_SECONDS
from tests.store.logs import append, draft, on

DEADLINE_SECONDS = 10.0


class _SlowFile(apsw.VFSFile):
    def __init__(self, disk: _SlowDisk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._is_wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:
        if self._is_wal:
            self._disk.sync()
        super().xSync(flags)


class _SlowDisk(apsw.VFS):
    """The real file system, with a write-ahead file that is brought to disk when `gate` is open, and not at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = 0.0
        self.waited_in_vain = False
        super().__init__("slow disk", "unix", makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        return _SlowFile(self, name, flags)

    def sync(self) -> None:
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends:
            pass
        self.waited_in_vain |= not self.gate.wait(DEADLINE_SECONDS)


@pytest.fixture
def disk() -> Generator[_SlowDisk, None, None]:
    disk = _SlowDisk()
    yield disk
    disk.unregister()


def test_after_one_slow_commit_the_loop_is_free_while_others_are_written(tmp_path: Path, disk: _SlowDisk) -> None:
    async def story(store: SqliteStore) -> None:
        disk.seconds = 2 * QUICK_SECONDS
        await append(store, b"slow")
        disk.gate.clear()
        written = store.write(Request(events=[draft(b"waits for the disk")]))
        await asyncio.sleep(0)
        disk.gate.set()  # would never come to this if the loop waited for the disk
        await written

    on(tmp_path / "log.db", story)
    assert not disk.waited_in_vain


def test_the_write_ahead_file_begins_anew_when_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    sizes: list[int] = []

    def measure() -> None:
        sizes.append(Path(f"{path}-wal").stat().st_size)

    async def story(store: SqliteStore) -> None:
        for _ in range(3 * CHECKPOINT_PAGES * 4096 // 1_000_000):
            await append(store, b"x" * 1_000_000)
            measure()

    on(path, story)
    assert max(sizes) < 1.5 * CHECKPOINT_PAGES * 4096
