"""Payloads of closed streams go into files, and tombstones take their place: whatever dies in between, nothing is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from ensue.app import open_store
from ensue.consumers.archiving import Archived, archive_closed, bury_archived, drop_old
from ensue.consumers.verify import verify
from ensue.errors import CorruptLog, Misuse, Unavailable, WrongLog
from ensue.events.stored import Draft, Meta, Row, Tombstone, encode_meta, tag_hash, tombstone_of
from ensue.store import archives
from ensue.store.archives import open_archive
from ensue.store.base import Consumer, Request, Store, Term
from ensue.store.memory import MemoryStore
from ensue.store.restored import with_archives
from ensue.world import RealWorld

CLOSING = ("Closed",)


class Died(BaseException):
    """The process ended here."""


class Watched:
    """A store in which the process may also die when something was buried, whatever it was about to do."""

    def __init__(self, store: Store, world: Mortal) -> None:
        self._store = store
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        await self._store.bury(positions, tombstone)
        self._world.failpoint("archive.of the store")


class Mortal(RealWorld):
    """A world in which the process dies at its n-th named step."""

    def __init__(self, steps: int = 10**9) -> None:
        super().__init__()
        self.left = steps
        self.passed: list[str] = []

    def failpoint(self, name: str) -> None:
        if not name.startswith("archive."):
            return
        self.passed.append(name)
        self.left -= 1
        if not self.left:
            raise Died(name)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """An adapter of this test's log, not yet open."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    url = f"sqlite:///{tmp_path}/log.db" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    return lambda: open_store(url)


@asynccontextmanager
async def opened(open_log: Callable[[], Store]) -> AsyncGenerator[Store, None]:
    store = open_log()
    async with asyncio.timeout(60):
        await store.open(RealWorld())
        try:
            yield store
        finally:
            await store.close()


def draft(name: str, key: str | None, number: int, *tags: str, data: bytes | None = None) -> Draft:
    text = f"account_id={key}" if key else None
    return Draft(
        id=number.to_bytes(16, "big"),
        type_name=name,
        type_version=1,
        stream=tag_hash(text) if text else None,
        tags=tuple(map(tag_hash, tags)),
        meta=encode_meta(Meta(number, b"c" * 16, key=text, tags=tags)),
        data=data or b'{"number":%d,"text":"%s"}' % (number, b"x" * (number % 50)),
    )


async def fill(store: Store, count: int = 120) -> None:
    """Accounts a to e with events in turn, some tagged with another account; a, c and e are closed, and e has gone on."""
    drafts = [draft("Moved", "abcde"[number % 5], number + 1, "account_id=a") for number in range(count)]
    drafts.append(draft("Noted", None, count + 1, "account_id=a"))
    drafts += [draft("Closed", key, count + 2 + number) for number, key in enumerate("ace")]
    drafts.append(draft("Moved", "e", count + 9, data=b'{\n "pretty": true\n}'))
    for first in range(0, len(drafts), 50):
        await store.write(Request(events=drafts[first : first + 50]))


async def rows_of(store: Store) -> list[Row]:
    rows: list[Row] = []
    while not rows or rows[-1][0] < store.head():
        rows += (await store.read(after=rows[-1][0] if rows else 0)).rows
    return rows


def buried(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows if tombstone_of(row[11]) is not None]


def of_streams(rows: Sequence[Row], keys: str) -> list[int]:
    streams = {tag_hash(f"account_id={key}") for key in keys}
    return [row[0] for row in rows if row[3] in streams]


async def archived(store: Store, path: Path, world: Mortal | None = None, **more: Any) -> Archived:
    return await archive_closed(store, world or Mortal(), path, closing=CLOSING, **more)


@pytest.fixture(params=["old.jsonl.gz", "old.parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_closed_streams_are_archived_whole_and_read_back_byte_for_byte(
    open_log: Callable[[], Store], file: Path
) -> None:
    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store)
            before = await rows_of(store)
            done = await archived(store, file)
            assert (done.streams, done.waiting, done.resumed) == (2, 0, False)
            after = await rows_of(store)
            assert buried(after) == of_streams(before, "ac"), "not e, which has gone on, nor what only mentions a"
            assert done.events == len(buried(after))
            assert [row[:11] for row in after] == [row[:11] for row in before]
            assert {tombstone_of(after[position - 1][11]) for position in buried(after)} == {
                Tombstone(open_archive(file).id, file.name)
            }
            found = await verify(store, RealWorld())
            assert found.whole, found.findings
        async with opened(lambda: with_archives(open_log(), lambda: [open_archive(file)])) as store:
            assert await rows_of(store) == before
            page = await store.read((Term(types=CLOSING),), backwards=True)
            assert page.rows == [row for row in reversed(before) if row[0] in range(122, 125)]

    asyncio.run(work())


def test_wherever_it_dies_no_payload_is_lost_and_the_next_run_goes_on(
    open_log: Callable[[], Store], file: Path
) -> None:
    """Every named step of a run, one after the other, each on the log as the deaths before have left it."""

    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store, 1_500)
            before = await rows_of(store)
            closed = of_streams(before, "ac")
            steps = died = 0
            while True:
                steps += 1
                world = Mortal(steps)
                try:
                    await archived(cast(Store, Watched(store, world)), file, world)
                except Died:
                    died += 1
                rows = await rows_of(store)
                there = {one.id: one for one in map(open_archive, file.parent.glob(file.name))}
                for row, old in zip(rows, before, strict=True):
                    tombstone = tombstone_of(row[11])
                    if tombstone is not None:
                        assert tombstone.archive is not None
                        assert there[tombstone.archive].get(row[0]) == old[11]
                if buried(rows) == closed:
                    break
            assert died >= 4
            assert (await archived(store, file)).resumed
            assert buried(await rows_of(store)) == closed

    asyncio.run(work())


def test_a_file_that_is_not_what_the_log_says_buries_nothing(open_log: Callable[[], Store], tmp_path: Path) -> None:
    async def work() -> None:
        other = MemoryStore()
        await other.open(RealWorld())
        async with opened(open_log) as store:
            await fill(store)
            await fill(other)
            await archived(other, tmp_path / "other.jsonl.gz")
            with pytest.raises(WrongLog, match="is an archive of the log"):
                await archived(store, tmp_path / "other.jsonl.gz")
            assert buried(await rows_of(store)) == []
        await other.close()

    asyncio.run(work())


def rewritten(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Block by block, as it was written."""
    blocks = [change(text) for _, _, text in archives._members(file)]
    assert blocks != [text for _, _, text in archives._members(file)]
    file.write_bytes(b"".join(map(gzip.compress, blocks)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-30]),
        lambda file: file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("events\n"),
        lambda file: file.write_bytes(file.read_bytes() + file.read_bytes()),
        lambda file: rewritten(file, lambda text: text.replace(b'"number":6,', b'"number":7,', 1)),
    ],
)
def test_a_file_that_was_cut_short_or_changed_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file = tmp_path / "old.jsonl.gz"

    async def work() -> None:
        store = MemoryStore()
        await store.open(RealWorld())
        await fill(store)
        with pytest.raises(Died):
            await archived(store, file, Mortal(3))
        assert file.exists()
        damage(file)
        with pytest.raises(CorruptLog, match=r"old.jsonl.gz is no(t as it was written| whole archive of events)"):
            await archived(store, file)
        assert buried(await rows_of(store)) == []
        await store.close()

    asyncio.run(work())


def test_an_event_that_differs_from_the_file_is_not_buried(tmp_path: Path) -> None:
    async def work() -> None:
        store = MemoryStore()
        await store.open(RealWorld())
        await fill(store)
        with pytest.raises(Died):
            await archived(store, tmp_path / "old.jsonl.gz", Mortal(3))
        store._rows[0] = (*store._rows[0][:11], b'{"number":0}')
        with pytest.raises(CorruptLog, match="the event at position 1 is not in the log as it is in"):
            await archived(store, tmp_path / "old.jsonl.gz")
        assert buried(await rows_of(store)) == []
        await store.close()

    asyncio.run(work())


def test_only_what_was_asked_for_is_archived(open_log: Callable[[], Store], tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store)
            before = await rows_of(store)
            nothing = await archived(store, tmp_path / "none.jsonl.gz", before=before[0][5])
            assert (nothing.events, (tmp_path / "none.jsonl.gz").exists()) == (0, False)
            await archived(store, tmp_path / "c.jsonl.gz", keys=[tag_hash("account_id=c"), tag_hash("account_id=b")])
            assert buried(await rows_of(store)) == of_streams(before, "c")
            rest = await archived(store, tmp_path / "rest.jsonl.gz")
            assert rest.streams == 1
            assert buried(await rows_of(store)) == of_streams(before, "ac")
        both = [open_archive(tmp_path / name) for name in ("c.jsonl.gz", "rest.jsonl.gz")]
        async with opened(lambda: with_archives(open_log(), lambda: both)) as store:
            assert await rows_of(store) == before
        async with opened(lambda: with_archives(open_log(), lambda: both[:1])) as store:
            assert buried(await rows_of(store)) == of_streams(before, "a")

    asyncio.run(work())


def test_what_a_consumer_has_yet_to_handle_is_neither_archived_nor_dropped(
    open_log: Callable[[], Store], tmp_path: Path
) -> None:
    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store)
            consumer = Consumer(id=0, name="slow", start=60, key_tag=None, segments=16, handles={"Moved": 60})
            consumer = await store.define(consumer)
            done = await archived(store, tmp_path / "old.jsonl.gz")
            assert (done.events, done.streams, done.waiting) == (0, 0, 2)
            (dropped,) = await drop_old(store, RealWorld(), {"Moved": -(10**7)}, dry_run=False)
            assert (dropped.events, dropped.waiting) == (60, 61)
            assert buried(await rows_of(store)) == list(range(1, 61))
            await store.set_status(consumer.id, "retired", None)
            (dropped,) = await drop_old(store, RealWorld(), {"Moved": -(10**7)}, dry_run=True)
            assert (dropped.events, dropped.waiting) == (61, 0)
            assert buried(await rows_of(store)) == list(range(1, 61)), "a dry run changes nothing"

    asyncio.run(work())


def test_dropping_leaves_tombstones_without_a_file_and_dies_anywhere(open_log: Callable[[], Store]) -> None:
    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store, 1_000)
            with pytest.raises(Died):
                await drop_old(store, Mortal(2), {"Moved": -(10**7)}, dry_run=False)
            assert 0 < len(buried(await rows_of(store))) < 1_001
            await drop_old(store, Mortal(), {"Moved": -(10**7), "Never": 1}, dry_run=False)
            rows = await rows_of(store)
            assert len(buried(rows)) == 1_001
            assert tombstone_of(rows[0][11]) == Tombstone()
            assert (await drop_old(store, Mortal(), {"Moved": -(10**7)}, dry_run=False))[0].events == 0
            assert (await verify(store, RealWorld())).whole
            (young,) = await drop_old(store, Mortal(), {"Closed": 10**9}, dry_run=False)
            assert young.events == 0

    asyncio.run(work())


def test_where_no_type_closes_a_stream_it_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        store = MemoryStore()
        await store.open(RealWorld())
        with pytest.raises(Misuse, match="closes=True"):
            await archive_closed(store, RealWorld(), tmp_path / "x", closing=())
        with pytest.raises(Unavailable, match="there is no archive"):
            open_archive(tmp_path / "x")
        await fill(store)
        with pytest.raises(Unavailable, match=r"could not write .*Nothing of the log was changed"):
            await archived(store, tmp_path / "no folder" / "x.jsonl.gz")
        await store.close()

    asyncio.run(work())


def test_two_runs_that_meet_lose_nothing(open_log: Callable[[], Store], tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(open_log) as store:
            await fill(store, 1_000)
            before = await rows_of(store)
            files = [tmp_path / "one.jsonl.gz", tmp_path / "two.parquet"]
            await asyncio.gather(*(archived(store, file) for file in files))
            assert buried(await rows_of(store)) == of_streams(before, "ac")
        there = [open_archive(file) for file in files if file.exists()]
        async with opened(lambda: with_archives(open_log(), lambda: there)) as store:
            assert await rows_of(store) == before

    asyncio.run(work())


def test_a_file_can_be_read_without_ensue(tmp_path: Path) -> None:
    async def work() -> None:
        store = MemoryStore()
        await store.open(RealWorld())
        await fill(store)
        await archived(store, tmp_path / "old.jsonl.gz")
        await archived(store, tmp_path / "again.parquet", keys=[tag_hash("account_id=a")])
        await bury_archived(store, RealWorld(), open_archive(tmp_path / "old.jsonl.gz"))
        await store.close()

    asyncio.run(work())
    lines = list(_lines(tmp_path / "old.jsonl.gz"))
    assert lines[0]["ensue_archive"] == 1
    assert lines[-1]["end"] == len(lines) - 2
    assert {"position": 1, "type": "Moved", "key": "account_id=a", "stream_version": 1}.items() <= lines[1].items()
    assert lines[1]["data"]["number"] == 1
    assert not (tmp_path / "again.parquet").exists(), "nothing was left to archive"
    assert list(tmp_path.glob("*.part")) == []


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt") as opened:
        yield from map(json.loads, opened)
