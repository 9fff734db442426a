"""Random programs: what a log answers after it has moved is what it would have answered had it stayed."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue.store.base import Store
from ensue.store.memory import MemoryStore, MemoryTransfer
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.transfer import SqliteTransfer
from ensue.store.transfer import Transfer, copy
from ensue.testing.contracts.bench import SECOND
from tests.store.test_sqlite_against_memory import Runner, Step, steps

LATER = 3_600 * SECOND
programs = st.lists(steps, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(before=programs, after=programs)
def test_a_log_that_has_moved_answers_as_one_that_has_stayed(before: list[Step], after: list[Step]) -> None:
    async def story(folder: Path) -> None:
        stayed, last = MemoryStore(), MemoryStore()
        runner = Runner(stayed)
        await runner.run(before)
        stayed._nodes.clear()  # who ran it is not moved; nobody does any more
        moved = runner.world.moved + LATER
        way: list[Transfer] = [MemoryTransfer(stayed), SqliteTransfer(str(folder / "log.db")), MemoryTransfer(last)]
        for source, target in itertools.pairwise(way):
            assert (await copy(source, target, runner.world)).difference is None
        answers: list[object] = []
        stores: list[Store] = [stayed, SqliteStore(str(folder / "log.db")), last]
        for store in stores:
            runner = Runner(store)
            runner.world.moved = moved
            answers.append(await runner.run(after))
        assert answers[1] == answers[0]
        assert answers[2] == answers[0]

    with TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))
