"""Acknowledged is durable: processes that are killed, disks that fail or fill, files that are taken away."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from ensue.errors import ForeignConnection, LogFileReplaced, OutcomeUnknown, StorageFull, Unavailable, WriterStopped
from ensue.store.base import Request, Written
from ensue.store.sqlite import SqliteStore
from tests.store.logs import WORLD, append, child, draft, filled, line, on, opened, rows, told


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def _data(path: Path) -> list[bytes]:
    return [row[11] for row in on(path, rows)]


def _positions(path: Path) -> list[int]:
    return [row[0] for row in on(path, rows)]


# ------------------------------------------------------------------------------------------------------- sudden death


def test_a_killed_process_loses_nothing_that_it_had_acknowledged(log: Path) -> None:
    acknowledged: list[int] = []
    for lines in (5, 40, 120):
        with child("appends", log, 1_000_000) as writer:
            acknowledged += [int(line(writer)) for _ in range(lines)]
            writer.kill()
            # What it said until it died; the last line may be cut.
            said, _ = writer.communicate()
        acknowledged += map(int, said.split("\n")[:-1])
        positions = _positions(log)
        assert positions == list(range(1, len(positions) + 1))
        assert acknowledged == sorted(set(acknowledged))
        assert set(acknowledged) <= set(positions)


def test_the_next_process_goes_on_behind_what_a_killed_one_wrote(log: Path) -> None:
    with child("appends", log, 1_000_000) as writer:
        line(writer)
        writer.kill()
    before = len(_positions(log))
    assert told("appends", log, 3) == [str(before + number) for number in (1, 2, 3)]
    assert [row[4] for row in on(log, rows)] == list(range(1, before + 4))


# ---------------------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(log: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await append(store, b"kept")
        assert store._writer is not None
        sql = store._writer._sql
        pages = sql.pragma("page_count")
        sql.pragma("max_page_count", pages + 20)
        large = [store.write(Request(events=[draft(b"." * 20_000)])) for _ in range(30)]
        answers = await asyncio.gather(*large, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StorageFull}
        assert "make room" in str(answers[0])
        assert len(await rows(store)) == 1
        sql.pragma("max_page_count", pages + 10_000)
        assert (await append(store, b"later")).first == 2

    on(log, story)
    assert _data(log) == [b"kept", b"later"]


def test_where_no_file_may_grow_a_write_is_refused_and_later_ones_are_stored(log: Path) -> None:
    *acknowledged, refusal, count, again = told("fills", log, 2)
    assert refusal.startswith("StorageFull: could not commit to the log: the disk takes no more.")
    assert int(count) == len(acknowledged) > 3
    assert int(again) == len(acknowledged) + 1
    assert _positions(log) == [*map(int, acknowledged), int(again)]


# ------------------------------------------------------------------------------------------------------ a failing disk


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: _FailingDisk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._is_wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xSync(self, flags: int) -> None:
        if self._is_wal and self._disk.fails:
            raise apsw.IOError("the disk does not answer")
        super().xSync(flags)


class _FailingDisk(apsw.VFS):
    """The real file system, but that the write-ahead file cannot be brought to disk while it `fails`."""

    def __init__(self) -> None:
        self.fails = False
        super().__init__("failing disk", "unix", makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        return _FailingFile(self, name, flags)


@pytest.fixture
def disk() -> Generator[_FailingDisk, None, None]:
    disk = _FailingDisk()
    yield disk
    disk.unregister()


def test_a_commit_that_could_not_be_brought_to_disk_is_in_doubt(log: Path, disk: _FailingDisk) -> None:
    async def story(store: SqliteStore) -> None:
        await append(store, b"kept")
        disk.fails = True
        with pytest.raises(OutcomeUnknown, match="the disk failed while a commit was written"):
            await append(store, b"in doubt")
        disk.fails = False

    on(log, story)
    assert _data(log)[0] == b"kept"


def test_after_a_commit_in_doubt_the_process_writes_no_more(log: Path, disk: _FailingDisk) -> None:
    async def story(store: SqliteStore) -> None:
        await append(store, b"kept")
        disk.fails = True
        in_doubt = store.write(Request(events=[draft(b"in doubt")]))
        await asyncio.sleep(0)  # its batch has begun; what comes now waits for the next
        queued = store.write(Request(events=[draft(b"queued")]))
        with pytest.raises(OutcomeUnknown):
            await in_doubt
        disk.fails = False
        for refused in (queued, store.write(Request(events=[draft(b"later")]))):
            with pytest.raises(WriterStopped, match="writes no more since an earlier failure"):
                await refused

    on(log, story)
    assert b"later" not in _data(log)
    assert b"queued" not in _data(log)


# ------------------------------------------------------------------------------------------- a second SQLite library


def test_a_second_library_really_loses_an_acknowledged_event_where_nothing_guards(log: Path) -> None:
    """The danger that the guard is against. Should this fail, the guard may have become needless."""
    assert told("loses", log, "unguarded") == ["opened", "acknowledged 2"]
    assert _data(log) == [b"first"]


def test_a_second_library_is_refused_and_nothing_is_lost(log: Path) -> None:
    assert told("loses", log, "guarded") == ["refused", "acknowledged 2"]
    assert _data(log) == [b"first", b"second"]


def test_a_second_library_that_gets_in_all_the_same_loses_nothing(log: Path) -> None:
    assert told("attaches", log) == ["acknowledged 2"]
    assert _data(log) == [b"first", b"second"]


def test_the_standard_library_is_refused_by_whatever_name_it_asks(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = log.parent / "other name.db"
    link.symlink_to(log)
    monkeypatch.chdir(log.parent)
    names: list[tuple[str | bytes | Path, bool]] = [
        (str(log), False),
        (log, False),
        (os.fsencode(log), False),
        ("log.db", False),
        (f"{log.parent}/../{log.parent.name}/log.db", False),
        (link, False),
        (f"file:{log}", True),
        (f"file:{log}?mode=ro", True),
        (f"file://{log}?immutable=1", True),
        (f"file://localhost{log}", True),
        ("file:other%20name.db", True),
    ]

    async def story(store: SqliteStore) -> None:
        for name, uri in names:
            with pytest.raises(ForeignConnection, match=r"can lose acknowledged events. Read it with app.sql\(\)"):
                sqlite3.connect(name, uri=uri)

    on(log, story)


def test_other_files_and_closed_logs_may_be_opened_with_the_standard_library(log: Path, tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await append(store, b"x")
        for name in (":memory:", "", str(tmp_path / "other.db")):
            sqlite3.connect(name).close()

    on(log, story)
    connection = sqlite3.connect(log)
    assert connection.execute("SELECT count(*) FROM ensue_event").fetchone() == (1,)
    connection.close()


def test_a_log_stays_guarded_until_the_last_store_of_the_process_is_closed(log: Path) -> None:
    async def story() -> None:
        async with opened(log) as first:
            async with opened(log):
                pass
            with pytest.raises(ForeignConnection):
                sqlite3.connect(log)
            await append(first, b"x")

    asyncio.run(story())


def test_a_write_ahead_file_that_was_taken_away_is_noticed_before_anything_is_acknowledged(log: Path) -> None:
    filled(log, 3)

    async def story(store: SqliteStore) -> None:
        await append(store, b"x")
        os.unlink(f"{log}-wal")
        with pytest.raises(LogFileReplaced, match="replaced or removed while the log was open"):
            await append(store, b"lost")
        with pytest.raises(LogFileReplaced, match="writes no more"):
            await append(store, b"refused")
        with pytest.raises(LogFileReplaced):
            await store.read()

    on(log, story)
    assert b"lost" not in _data(log)


def test_a_log_that_was_just_opened_notices_as_well(log: Path) -> None:
    filled(log, 3)

    async def story(store: SqliteStore) -> None:
        os.unlink(f"{log}-wal")
        with pytest.raises(LogFileReplaced):
            await append(store, b"lost")

    on(log, story)
    assert len(_data(log)) == 3


# ------------------------------------------------------------------------------------------------------------ closing


def test_closing_at_once_answers_everything(log: Path) -> None:
    async def story() -> None:
        store = SqliteStore(str(log))
        await store.open(WORLD)
        futures = [store.write(Request(events=[draft()])) for _ in range(3)]
        store.abandon()
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        assert "nothing of it is stored" in str(answers[0])

    asyncio.run(story())
    assert _data(log) == []


def test_a_store_may_be_opened_again(log: Path) -> None:
    async def story() -> None:
        store = SqliteStore(str(log))
        for number in range(1, 4):
            await store.open(WORLD)
            assert (await append(store, b"x")).first == number
            await store.close()

    asyncio.run(story())


def test_closing_at_once_while_a_commit_is_under_way_leaves_its_outcome_open(log: Path) -> None:
    async def story() -> None:
        store = SqliteStore(str(log))
        await store.open(WORLD)
        under_way = store.write(Request(events=[draft(b"." * 1_000_000)]))
        await asyncio.sleep(0)
        queued = store.write(Request(events=[draft()]))
        store.abandon()
        answers = await asyncio.gather(under_way, queued, return_exceptions=True)
        assert isinstance(answers[0], OutcomeUnknown | Written)
        assert isinstance(answers[1], Unavailable)

    asyncio.run(story())
    assert len(_data(log)) in (0, 1)


def test_closing_that_is_cancelled_answers_everything(log: Path) -> None:
    async def story() -> None:
        store = SqliteStore(str(log))
        await store.open(WORLD)
        futures = [store.write(Request(events=[draft(b"." * 100_000)])) for _ in range(100)]
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {Written, Unavailable, OutcomeUnknown}
        stored = [answer.first for answer in answers if isinstance(answer, Written)]
        async with opened(log) as again:
            assert {row[0] for row in await rows(again)} >= set(stored)

    asyncio.run(story())
