"""What the log takes: memory, processor time, the size of its side files, and how it looks things up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from ensue.events.stored import tag_hash
from ensue.store.base import Delivery, Request, Term
from ensue.store.queue import QUEUE_BYTES
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.reading import select
from ensue.testing.contracts import Bench, Contract, contract_test
from ensue.testing.contracts.bench import SECOND, commit_of
from tests.store.logs import append, draft, on


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def test_reading_a_long_log_holds_one_page_of_it(log: Path) -> None:
    size, count = 2_000, 10_000

    async def story(store: SqliteStore) -> int:
        for _ in range(10):
            await store.write(Request(events=[draft(b"." * size) for _ in range(count // 10)]))
        tracemalloc.start()
        reached = found = 0
        while reached < store.head():
            page = await store.read(after=reached)
            reached, found = page.reached, found + len(page.rows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == count
        return peak

    # Two pages may be held while the next is read.
    assert on(log, story) < 2 * 1_000 * (size + 1_000)


def test_room_is_waited_for_while_more_than_its_bound_is_queued(log: Path) -> None:
    async def story(store: SqliteStore) -> None:
        writes = [store.write(Request(events=[draft(b"." * 1_000_000)])) for _ in range(40)]
        waiting = asyncio.ensure_future(store.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await waiting
        assert 0 < sum(not one.done() for one in writes) <= QUEUE_BYTES // 1_000_000
        await asyncio.gather(*writes)
        await store.room()

    on(log, story)


def test_the_write_ahead_file_stays_small_while_events_are_written_and_read(log: Path) -> None:
    async def story(store: SqliteStore) -> int:
        assert store._writer is not None
        store._writer._sql.pragma("wal_autocheckpoint", 100)
        largest = 0
        reached = 0
        for _ in range(60):
            writes = [store.write(Request(events=[draft(b"." * 1_000)])) for _ in range(100)]
            while not writes[-1].done():
                reached = (await store.read(after=reached, limit=10)).reached
                await asyncio.wait(writes[:1])
                writes = writes[1:] or writes
            largest = max(largest, os.stat(f"{log}-wal").st_size)
        assert os.stat(log).st_size > 4_000_000
        return largest

    # 100 pages begin a checkpoint; some batches go by before one meets no reader.
    assert on(log, story) < 3_000_000


def test_an_idle_log_with_a_waiting_reader_uses_no_measurable_processor_time(log: Path) -> None:
    async def story(store: SqliteStore) -> float:
        await append(store, b"x")
        waiter = asyncio.ensure_future(store.changed(1))
        await asyncio.sleep(0)
        before = time.process_time()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiter), 0.4)
        used = time.process_time() - before
        await append(store, b"y")
        assert await waiter == 2
        return used

    assert on(log, story) < 0.01


def test_no_selection_walks_the_whole_log(log: Path) -> None:
    a, b = tag_hash("order=a"), tag_hash("customer=c1")
    terms = [
        Term(types=("Opened",)),
        Term(tags=(a,)),
        Term(tags=(a, b)),
        Term(types=("Opened",), tags=(b,)),
        Term(root=1),
        Term(root=1, types=("Opened",), tags=(a,)),
    ]

    async def story(store: SqliteStore) -> None:
        await append(store, b"x")
        for selection in [(term,) for term in terms] + [tuple(terms)]:
            for backwards in (False, True):
                text, values = select(
                    selection, lambda names: [1] * bool(names), after=0, before=9, limit=5, backwards=backwards
                )
                plan = [str(row[3]) for row in store.query(f"EXPLAIN QUERY PLAN {text}", values)]
                assert not any("SCAN ensue_event" in step or "SCAN e " in step for step in plan), plan
                # Each part is found in position order; only the positions found may be sorted.
                searches = [step for step in plan if "INDEX ensue_event_by" in step or "ensue_event_tag" in step]
                assert all("rowid>?" in step or "tag=? AND position" in step for step in searches), plan

    on(log, story)


class TestDeliveries(Contract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    def store(self) -> SqliteStore:
        return SqliteStore(str(self.path))

    @contract_test
    async def test_records_of_deliveries_are_dropped_after_a_week(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        (row,) = await bench.owner(consumer)
        old = Delivery(consumer.id, 1, 1, bench.world.now(), b"old")
        await bench.append(commit=commit_of(row, delivery=lambda: old))
        bench.world.moved += 8 * 24 * 3_600 * SECOND
        new = msgspec.structs.replace(old, at=bench.world.now(), packed=b"new")
        await bench.append(commit=commit_of(await bench.progress(consumer), delivery=lambda: new))
        await bench.log.beat(bench.node())
        assert await bench.log.deliveries([1]) == (new,)
