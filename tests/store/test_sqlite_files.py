"""Files that are not as they should be: a clear error, and nothing is written to them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from ensue.errors import CorruptLog, LogTooNew, ReadOnlyLog, Unavailable
from tests.store.logs import append, child, filled, line, on, opened, rest, rows, told

PAGE = 4096


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def open_folder() -> Generator[Path, None, None]:
    """A folder that other users may enter; those of pytest are private."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


def _refused(path: Path, error: type[Exception], words: str) -> None:
    """Opening raises this error, and leaves the file and its folder as they were."""
    before = path.read_bytes()
    with pytest.raises(error, match=words):
        on(path, rows)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# ------------------------------------------------------------------------------------------------- one file, any path


def test_a_log_is_one_file_after_a_clean_stop(log: Path) -> None:
    filled(log, 500)
    assert os.listdir(log.parent) == ["log.db"]


def test_the_last_of_two_to_close_leaves_one_file(log: Path) -> None:
    async def story() -> None:
        async with opened(log) as first:
            async with opened(log) as second:
                await append(second, b"x")
            assert "log.db-wal" in os.listdir(log.parent)
            await append(first, b"y")
        assert os.listdir(log.parent) == ["log.db"]

    asyncio.run(story())


def test_a_log_reached_by_a_link_is_the_same_log(log: Path) -> None:
    filled(log, 1)
    folder = log.parent / "elsewhere"
    folder.mkdir()
    (folder / "link.db").symlink_to(log)

    async def story() -> None:
        async with opened(log) as first, opened(folder / "link.db") as second:
            await append(first, b"one")
            assert (await append(second, b"two")).first == 3
        assert os.listdir(folder) == ["link.db"]

    asyncio.run(story())


def test_a_relative_path_stays_the_same_file_when_the_folder_is_left(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(log.parent)

    async def story() -> None:
        async with opened(Path("log.db")) as store:
            os.chdir("/")
            await append(store, b"x")

    asyncio.run(story())
    assert os.listdir(log.parent) == ["log.db"]


# ---------------------------------------------------------------------------------------------------- what is no log


def test_a_log_of_a_newer_version_is_refused_and_untouched(log: Path) -> None:
    filled(log, 3)
    newer = apsw.Connection(str(log))
    newer.execute("PRAGMA journal_mode = DELETE")
    newer.execute("PRAGMA user_version = 99; ALTER TABLE ensue_log RENAME TO ensue_head")
    newer.close()
    _refused(log, LogTooNew, r"newer Ensue \(schema 99")


@pytest.mark.parametrize("size", [2, 100, 5_000])
def test_a_file_of_something_else_is_refused_and_untouched(log: Path, size: int) -> None:
    log.write_bytes(b"hello, world" * (size // 12) + b"!" * (size % 12))
    _refused(log, CorruptLog, "not an Ensue log")


def test_a_database_of_something_else_is_refused_and_untouched(log: Path) -> None:
    other = sqlite3.connect(log)
    other.execute("CREATE TABLE account (name)")
    other.close()
    _refused(log, CorruptLog, "not an Ensue log")


def test_a_log_with_a_damaged_header_is_refused_and_untouched(log: Path) -> None:
    content = filled(log, 3)
    log.write_bytes(b"\0" * 16 + content[16:])
    _refused(log, CorruptLog, "not an Ensue log")


def test_a_log_without_its_head_row_is_refused(log: Path) -> None:
    filled(log, 3)
    database = apsw.Connection(str(log))
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("DELETE FROM ensue_log")
    database.close()
    with pytest.raises(CorruptLog, match="lost its head row"):
        on(log, rows)


def test_a_truncated_log_is_told(log: Path) -> None:
    content = filled(log, 2_000)
    log.write_bytes(content[: len(content) // 2 // PAGE * PAGE])
    with pytest.raises(CorruptLog, match="damaged"):
        on(log, rows)


def test_a_damaged_page_is_told_and_what_is_before_it_can_be_read(log: Path) -> None:
    content = filled(log, 2_000)
    middle = content.index(b"1500....") // PAGE * PAGE
    log.write_bytes(content[:middle] + b"\xa5" * PAGE + content[middle + PAGE :])

    async def story(store: object) -> None:
        async with opened(log) as other:
            page = await other.read(limit=1_000)
            assert len(page.rows) == 1_000
            with pytest.raises(CorruptLog, match=r"could not read events of the log .*log\.db: the file is damaged"):
                await other.read(after=1_000, limit=1_000)

    on(log, story)


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"could not open the log {tmp_path}"):
        on(tmp_path, rows)


def test_a_log_in_a_folder_that_does_not_exist_names_the_folder(log: Path) -> None:
    with pytest.raises(ReadOnlyLog, match=r"its folder .*nowhere does not exist"):
        on(log.parent / "nowhere" / "log.db", rows)


# ---------------------------------------------------------------------------------------------------------- read only


def test_a_file_that_may_only_be_read_is_read_and_not_written(open_folder: Path) -> None:
    filled(open_folder / "log.db", 7)
    os.chmod(open_folder / "log.db", 0o444)
    seven, refusal = told("looks", open_folder / "log.db")
    assert seven == "7"
    assert refusal.startswith(f"ReadOnlyLog: could not write to {open_folder}/log.db: this user may only read it")


def test_a_log_in_a_folder_that_may_not_be_written_is_read_and_not_written(open_folder: Path) -> None:
    filled(open_folder / "log.db", 7)
    os.chmod(open_folder / "log.db", 0o666)
    os.chmod(open_folder, 0o555)
    assert [said.partition(":")[0] for said in told("looks", open_folder / "log.db")] == ["7", "ReadOnlyLog"]


def test_a_log_cannot_be_made_in_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    os.chmod(open_folder, 0o555)
    (error,) = told("looks", open_folder / "log.db")
    assert error == (
        f"ReadOnlyLog: could not create the log {open_folder}/log.db: its folder {open_folder} may not be written"
    )


def test_a_file_that_may_not_even_be_read_is_told(open_folder: Path) -> None:
    filled(open_folder / "log.db", 7)
    os.chmod(open_folder / "log.db", 0o000)
    (error,) = told("looks", open_folder / "log.db")
    assert error.startswith(f"Unavailable: could not open the log {open_folder}/log.db: the file cannot be opened.")


def test_a_reader_that_may_not_write_sees_what_others_write(open_folder: Path) -> None:
    async def story() -> None:
        async with opened(open_folder / "log.db") as store:
            await append(store, b"one")
            with child("looks", open_folder / "log.db", "waits") as reader:
                assert [line(reader).partition(":")[0] for _ in range(2)] == ["1", "ReadOnlyLog"]
                await append(store, b"two")
                assert rest(reader) == ["2"]

    asyncio.run(story())


def test_a_reader_of_a_log_at_rest_sees_when_somebody_begins_to_write(open_folder: Path) -> None:
    filled(open_folder / "log.db", 7)
    with child("looks", open_folder / "log.db", "waits") as reader:
        assert [line(reader).partition(":")[0] for _ in range(2)] == ["7", "ReadOnlyLog"]
        filled(open_folder / "log.db", 1)
        assert rest(reader) == ["8"]


def test_looking_at_a_log_at_rest_leaves_nothing_beside_it(log: Path) -> None:
    content = filled(log, 5)
    assert len(on(log, rows, read_only=True)) == 5
    assert (os.listdir(log.parent), log.read_bytes()) == (["log.db"], content)


def test_looking_at_a_log_that_is_not_there_makes_none(log: Path) -> None:
    with pytest.raises(Unavailable, match="there is no such file"):
        on(log, rows, read_only=True)
    assert os.listdir(log.parent) == []


def test_looking_beside_a_writer_takes_nothing_from_it(log: Path) -> None:
    async def story() -> None:
        async with opened(log) as store:
            await append(store, b"one")
            async with opened(log, read_only=True) as looking:
                await append(store, b"two")
                assert await looking.changed(1) == 2
            await append(store, b"three")
        assert os.listdir(log.parent) == ["log.db"]

    asyncio.run(story())
