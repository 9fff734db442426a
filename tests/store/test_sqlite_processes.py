"""Several processes, and several stores of one process, on one file."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

import pytest

from ensue.errors import Unavailable
from ensue.store.base import Consumer, Node, Request, Written
from ensue.store.nodes import here
from ensue.store.sqlite import SqliteStore, writer
from tests.store.logs import WORLD, append, child, draft, line, on, opened, rest, rows, told


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def test_two_processes_that_append_at_once_share_one_dense_order(log: Path) -> None:
    with child("appends", log, 300) as first, child("appends", log, 300) as second:
        acknowledged = [*map(int, rest(first)), *map(int, rest(second))]
    assert sorted(acknowledged) == list(range(1, 601))
    stored = on(log, rows)
    assert [row[0] for row in stored] == [row[4] for row in stored] == list(range(1, 601))
    assert len({row[11].partition(b"-")[0] for row in stored}) == 2


def test_processes_that_open_and_close_at_once_never_write_beside_each_other(log: Path) -> None:
    with child("reopens", log, 60) as first, child("reopens", log, 60) as second, child("reopens", log, 60) as third:
        acknowledged = [int(position) for process in (first, second, third) for position in rest(process)]
    assert sorted(acknowledged) == list(range(1, 181))
    assert [row[4] for row in on(log, rows)] == list(range(1, 181))
    assert os.listdir(log.parent) == ["log.db"]


def test_a_reader_in_another_process_is_woken_within_fifty_milliseconds(log: Path) -> None:
    async def story(store: SqliteStore) -> list[float]:
        late: list[float] = []
        with child("watches", log, 30) as reader:
            assert line(reader) == "ready"
            for position in range(1, 31):
                await append(store, b"x")
                answered = time.monotonic()
                seen, at = line(reader).split()
                assert int(seen) == position
                late.append(float(at) - answered)
        return late

    late = on(log, story)
    assert statistics.median(late) < 0.05


def test_a_log_that_was_open_before_a_fork_is_refused_in_the_child_and_goes_on_in_the_parent(log: Path) -> None:
    write, read, count = told("forks", log)
    assert write.startswith(
        f"write Unavailable: the log {log} was opened before a fork; open it in the process that uses it"
    )
    assert (read, count) == ("read Unavailable", "2")
    assert len(on(log, rows)) == 2


def test_what_a_dead_process_of_this_machine_owned_is_taken_at_once_and_a_living_ones_is_not(log: Path) -> None:
    async def story(store: SqliteStore) -> None:
        defined = await store.define(
            Consumer(id=0, name="billing", start=0, key_tag=None, segments=1, handles={"Opened": 0})
        )
        with child("watches", log, 1) as process:
            assert line(process) == "ready"
            owner = _node(process.pid)
            await store.beat(owner)
            await store.claim(defined.id, owner, now=WORLD.now(), most=1)
            assert (await store.claim(defined.id, _node(os.getpid()), now=WORLD.now(), most=1)).progress == ()
            process.kill()
            process.wait()
        (row,) = (await store.claim(defined.id, _node(os.getpid()), now=WORLD.now(), most=1)).progress
        assert (row.owner, row.unclean) == (_node(os.getpid()).id, 1)

    on(log, story)


def _node(pid: int) -> Node:
    now = WORLD.now()
    return Node(id=pid.to_bytes(16, "big"), host=here(), pid=pid, started_at=now, expires_at=now + 10_000_000)


def test_a_program_that_locks_the_file_delays_writes_and_leaves_the_loop_free(log: Path) -> None:
    async def story(store: SqliteStore) -> None:
        with child("holds", log) as stranger:
            assert line(stranger) == "locked"
            waiting = [store.write(Request(events=[draft()])) for _ in range(3)]
            for _ in range(10):
                await WORLD.sleep(0.001)
                assert (await store.read()).rows == []
            assert not any(one.done() for one in waiting)
            assert stranger.stdin is not None
            stranger.stdin.write("let go\n")
            stranger.stdin.flush()
            assert [written.first for written in await asyncio.gather(*waiting)] == [1, 2, 3]

    on(log, story)


def test_a_program_that_keeps_the_file_locked_makes_all_that_waits_unavailable_at_once(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BUSY_SECONDS", 0.05)

    async def story(store: SqliteStore) -> None:
        with child("holds", log) as stranger:
            assert line(stranger) == "locked"
            answers = await asyncio.gather(
                *(store.write(Request(events=[draft()])) for _ in range(50)), return_exceptions=True
            )
            assert {str(answer) for answer in answers} == {
                "could not write to the log: another program holds the file locked; nothing was stored (database is locked)"
            }
            assert {type(answer) for answer in answers} == {Unavailable}
        assert (await append(store, b"x")).first == 1

    on(log, story)


def test_a_process_that_keeps_the_turn_makes_what_waits_unavailable_until_it_ends(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TURN_SECONDS", 0.05)

    async def story(store: SqliteStore) -> None:
        with child("keeps", log) as stopped:
            assert line(stopped) == "locked"
            for _ in range(2):
                answers = await asyncio.gather(
                    *(store.write(Request(events=[draft()])) for _ in range(20)), return_exceptions=True
                )
                assert {type(answer) for answer in answers} == {Unavailable}
                assert "another process has had the turn to write to this log for over" in str(answers[0])
        # It is dead: as soon as the system has noticed, the turn is ours.
        answer: object = None
        while not isinstance(answer, Written):
            (answer,) = await asyncio.gather(store.write(Request(events=[draft()])), return_exceptions=True)
        assert answer.first == 1

    on(log, story)
    assert os.listdir(log.parent) == ["log.db"]


def test_closing_does_not_wait_for_ever_for_a_process_that_keeps_the_turn(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TURN_SECONDS", 0.05)

    async def story() -> None:
        store = SqliteStore(str(log))
        await store.open(WORLD)
        await append(store, b"x")
        with child("keeps", log) as stopped:
            assert line(stopped) == "locked"
            await store.close()

    asyncio.run(story())
    assert len(on(log, rows)) == 1


def test_a_store_is_opened_and_closed_beside_one_that_writes_on_the_same_loop(log: Path) -> None:
    async def story() -> None:
        async with opened(log) as store:
            futures = []
            for _ in range(10):
                futures += [store.write(Request(events=[draft()])) for _ in range(5)]
                async with opened(log) as beside:
                    futures.append(beside.write(Request(events=[draft()])))
            assert sorted(one.first for one in await asyncio.gather(*futures)) == list(range(1, 61))

    asyncio.run(story())
