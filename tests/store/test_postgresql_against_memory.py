"""The same random programs in memory and on PostgreSQL, there by two processes in turn: the one in memory is the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue.store.base import Node, Store
from ensue.store.memory import MemoryStore
from ensue.store.postgresql import PostgresqlStore
from ensue.testing.contracts.bench import SECOND
from tests.store.postgresql_logs import sql
from tests.store.test_sqlite_against_memory import Runner, Step, steps

EMPTY = (
    "TRUNCATE ensue_event, ensue_event_tag, ensue_event_type, ensue_former_name, ensue_request, ensue_consumer, "
    "ensue_progress, ensue_lane, ensue_dead_letter, ensue_node, ensue_delivery RESTART IDENTITY",
    "UPDATE ensue_log SET position = 0, recorded_at = 0, batch = '\\x00', names = 0",
)
LEASES = (-65, -35, -15, 15, 35, 65)
# Leases are measured by the server's clock: no program moves it, and none depends on the seconds that it takes itself.
programs = st.lists(
    st.one_of(
        steps.filter(lambda step: step[0] not in ("clock", "beat")),
        st.tuples(st.just("beat"), st.integers(1, 2), st.sampled_from(LEASES)),
    ),
    max_size=12,
)


class _InTurn(Runner):
    """Each step of a program is another store's."""

    def __init__(self, stores: Sequence[Store]) -> None:
        super().__init__(stores[0])
        self._stores = stores

    async def run(self, program: Sequence[Step]) -> list[object]:
        for store in self._stores:
            await store.open(self.world)
        try:
            for number in (0, 1):
                await self._define(number, "Opened")
            for turn, step in enumerate(program):
                self.store = self._stores[turn % len(self._stores)]
                action: Callable[..., Any] = getattr(self, f"_{step[0]}")
                self.seen.append((step[0], _rounded(await action(*step[1:]), self.world.now())))
            for store in self._stores:
                self.store = store
                self.seen.append(_rounded(await self._everything(), self.world.now()))
        finally:
            for store in self._stores:
                await store.close()
        return self.seen

    def _node(self, number: int, seconds: int) -> Node:
        return super()._node(number, 15 if seconds == 10 else seconds)


def _rounded(seen: object, now: int) -> object:
    """The same with leases in tens of seconds from now on."""
    if isinstance(seen, Node):
        left = (seen.expires_at - now) // (10 * SECOND)
        return msgspec.structs.replace(seen, expires_at=left)
    if isinstance(seen, list | tuple):
        return [_rounded(one, now) for one in cast("Sequence[object]", seen)]
    return seen


@pytest.fixture
def url(postgresql_url: str) -> str:
    async def make() -> None:
        store = PostgresqlStore(postgresql_url)
        await _InTurn([store]).run([])

    asyncio.run(make())
    return postgresql_url


def test_two_processes_on_postgresql_answer_every_program_as_memory_does(url: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(program=programs)
    def answer_the_same(program: list[Step]) -> None:
        sql(url, *EMPTY)
        memory = MemoryStore()
        expected = asyncio.run(_InTurn([memory]).run(program))
        assert asyncio.run(_InTurn([PostgresqlStore(url), PostgresqlStore(url)]).run(program)) == [
            *expected,
            expected[-1],
        ]

    answer_the_same()
