"""Four processes write to one log at once, all kinds of requests, while a fifth follows it. A failure prints the seed of its
requests; what their timing was, nobody can repeat: for that there are `test_postgresql_races.py` and its like."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections import Counter

import pytest

from ensue.consumers.verify import verify
from ensue.events.stored import Row, tag_hash
from ensue.store.postgresql import PostgresqlStore
from tests.store.logs import WORLD, child, line, rest
from tests.store.postgresql_logs import append, opened, rows_of, sql, told

PROCESSES, REQUESTS = 4, 96


@pytest.mark.parametrize("writers", ["few", "many"])
def test_what_four_processes_write_at_once_is_one_log_that_keeps_every_promise(
    postgresql_url: str, writers: str
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    url = f"{postgresql_url}&ensue_writers={writers}"

    async def story() -> tuple[list[list[str]], list[int], list[Row]]:
        async with opened(url) as store:
            with contextlib.ExitStack() as stack:
                said, followed = await _run_and_follow(url, seed, store, stack)
            found = await verify(store, WORLD)
            allowed = {"contents"} if writers == "few" else {"contents", "positions"}
            assert [one for one in found.findings if one.check not in allowed] == []
            return said, followed, await rows_of(store)

    said, followed, rows = told(story)
    positions = [row[0] for row in rows]
    assert followed == positions, "a reader skipped something, or saw it twice"
    if writers == "few":
        assert positions == list(range(1, len(rows) + 1))
    _acknowledged(said, rows)
    _versions(rows)
    _conditions(said, url)
    keys = Counter(key for *_, key in said if key != "-")
    assert keys and set(keys.values()) == {1}


async def _run_and_follow(
    url: str, seed: int, store: PostgresqlStore, stack: contextlib.ExitStack
) -> tuple[list[list[str]], list[int]]:
    """What the processes said of each request that was acknowledged, and what a reader saw meanwhile."""
    processes = [
        stack.enter_context(child("mixes", url, seed + number, REQUESTS, programs="tests.store.postgresql_children"))
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert line(process) == "ready"
    following = asyncio.ensure_future(_follow(store))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = await asyncio.gather(*(asyncio.to_thread(_rest, process) for process in processes))
    end = (await append(store, b"the end")).first
    seen = await following
    assert seen[-1] == end
    return [request for one in said for request in one], seen


def _rest(process: subprocess.Popen[str]) -> list[list[str]]:
    return [said.split() for said in rest(process)]


async def _follow(store: PostgresqlStore) -> list[int]:
    """Positions in the order in which a reader sees them, up to the end."""
    seen: list[int] = []
    reached = 0
    while True:
        page = await store.read(after=reached, limit=7)
        seen += [row[0] for row in page.rows]
        if page.rows and page.rows[-1][11] == b"the end":
            return seen
        reached = page.reached
        if reached >= store.head():
            await store.changed(reached)


def _acknowledged(said: list[list[str]], rows: list[Row]) -> None:
    by_position = {row[0]: row for row in rows}
    events = 0
    for first, count, id, *_ in said:
        assert by_position[int(first)][1].hex() == id, "another event is where this one was said to be"
        assert all(int(first) + more in by_position for more in range(int(count))), "not contiguous"
        events += int(count)
    assert events == len(rows) - 1, "something is there that nobody was told of"


def _versions(rows: list[Row]) -> None:
    streams: dict[bytes, list[int | None]] = {}
    for row in rows:
        if row[3] is not None:
            streams.setdefault(row[3], []).append(row[4])
    assert all(versions == list(range(1, len(versions) + 1)) for versions in streams.values())


def _conditions(said: list[list[str]], url: str) -> None:
    conditions = [(int(first), int(after), tag) for first, _, _, after, tag, _ in said if tag != "-"]
    assert conditions
    for first, after, tag in conditions:
        found = sql(
            url,
            "SELECT position FROM ensue_event_tag WHERE tag = %s AND position > %s AND position < %s",
            values=(tag_hash(tag), after, first),
        )
        assert found == [], f"{first} was appended though {tag} had happened since {after}"
