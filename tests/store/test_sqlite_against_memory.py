"""The same random programs on both stores: the one in memory, written without a look at the SQL, is the oracle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import apsw
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue.errors import ApplyFailed, Conflict, EnsueError
from ensue.events.stored import Draft, tag_hash
from ensue.store.base import (
    Answered,
    Condition,
    Consumer,
    DeadLetter,
    Delivery,
    Expected,
    Lane,
    LaneState,
    Node,
    Operation,
    Page,
    Progress,
    Request,
    SqlTransaction,
    Store,
    Term,
    Written,
)
from ensue.store.memory import MemoryStore
from ensue.store.sqlite import SqliteStore
from ensue.testing.contracts import MovableWorld
from ensue.testing.contracts.bench import SECOND, commit_of, key_of
from ensue.testing.simulation import memory_database

_numbers = itertools.count()
KEYS, TAGS, TYPES = ("a", "b"), ("x=1", "x=2", "order=a"), ("Opened", "Paid", "Settled")


class CountedWorld(MovableWorld):
    """A clock that stands still until it is moved, so that two stores record the same times."""

    def now(self) -> int:
        return 1_767_225_600 * SECOND + self.moved


# ------------------------------------------------------------------------------------------------------------ programs

events = st.builds(
    lambda id, type_name, version, key, tags, root: Draft(
        id=id.to_bytes(16, "big"),
        type_name=type_name,
        type_version=version,
        stream=key_of(key) if key else None,
        tags=tuple(map(tag_hash, tags)),
        meta=b"m",
        data=b"{}",
        root=root,
    ),
    # Most ids are new by their size; small ones collide.
    id=st.one_of(st.integers(1, 12), st.integers(1 << 40, 1 << 100)),
    type_name=st.sampled_from(TYPES),
    version=st.integers(1, 2),
    key=st.sampled_from((*KEYS, None)),
    tags=st.lists(st.sampled_from(TAGS[:2]), unique=True, max_size=2),
    root=st.sampled_from((None, None, 1, 2)),
)
terms = st.builds(
    Term,
    types=st.lists(st.sampled_from((*TYPES, "Never")), max_size=2, unique=True).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(lambda tags: tuple(map(tag_hash, tags))),
    root=st.sampled_from((None, None, None, 1, 2)),
)
selections = st.lists(terms, max_size=3).map(tuple)
fenced = st.fixed_dictionaries(
    {
        "consumer": st.integers(0, 1),
        "segment": st.integers(0, 1),
        "stale": st.sampled_from((False, False, False, True)),
        "position": st.integers(0, 9),
        "ahead": st.lists(st.integers(1, 20), max_size=3, unique=True).map(lambda ahead: tuple(sorted(ahead))),
        "digest": st.integers(0, 2**64 - 1),
        "lane": st.sampled_from((None, *KEYS)),
        "state": st.sampled_from((LaneState.LATE, LaneState.RETRY, LaneState.PARKED)),
        "dropped": st.sampled_from((None, *KEYS)),
        "clear_unclean": st.booleans(),
        "release": st.booleans(),
    }
)
requests = st.fixed_dictionaries(
    {
        "events": st.lists(events, max_size=3),
        "expected": st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3)), max_size=1),
        "conditions": st.lists(st.tuples(selections, st.integers(0, 8)), max_size=1),
        "key": st.sampled_from((None, None, b"k" * 16, b"l" * 16)),
        "parts": st.lists(st.sampled_from((b"k" * 16, b"m" * 16, b"n" * 16)), max_size=2, unique=True),
        "fingerprint": st.sampled_from((b"f" * 16, b"f" * 16, b"g" * 16)),
        "result": st.binary(max_size=3),
        "apply": st.sampled_from(("none", "none", "emits", "raises")),
        "emitted": st.lists(events, min_size=1, max_size=2),
        "commit": st.one_of(st.none(), st.none(), fenced),
        "operation": st.one_of(st.none(), st.none(), st.none(), st.tuples(st.sampled_from(KEYS), st.integers(0, 1))),
    }
)
steps = st.one_of(
    st.tuples(st.just("write"), st.lists(requests, min_size=1, max_size=5)),
    st.tuples(st.just("write"), st.lists(requests, min_size=1, max_size=5)),
    st.tuples(
        st.just("read"), selections, st.integers(0, 9), st.one_of(st.none(), st.integers(0, 20)), st.integers(1, 5),
        st.booleans(),
    ),
    st.tuples(st.just("claim"), st.integers(0, 1), st.integers(1, 2), st.integers(1, 2), st.sets(st.integers(0, 1))),
    st.tuples(st.just("beat"), st.integers(1, 2), st.integers(-70, 70)),
    st.tuples(st.just("clock"), st.integers(-90, 90)),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("rename"), st.sampled_from((("Paid", "Settled"), ("Opened", "Paid"), ("Settled", "Opened")))),
    st.tuples(st.just("define"), st.integers(0, 1), st.sampled_from(TYPES)),
    st.tuples(st.just("status"), st.integers(0, 1), st.sampled_from(("active", "paused", "retired"))),
)  # fmt: skip
Step = tuple[Any, ...]


# ------------------------------------------------------------------------------------------------------------- running


class Runner:
    """Runs a program on one store and notes everything that can be seen."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.world = CountedWorld()
        self.seen: list[object] = []
        self.stale: dict[tuple[int, int], Progress] = {}

    async def run(self, program: Sequence[Step]) -> list[object]:
        await self.store.open(self.world)
        try:
            for number in (0, 1):
                await self._define(number, "Opened")
            for step in program:
                action: Callable[..., Any] = getattr(self, f"_{step[0]}")
                self.seen.append((step[0], await action(*step[1:])))
            self.seen.append(await self._everything())
        finally:
            await self.store.close()
        return self.seen

    async def _write(self, wanted: Sequence[dict[str, Any]]) -> list[object]:
        rows = {
            (consumer, segment): (await self.store.standing(consumer + 1)).progress[segment]
            for consumer in (0, 1)
            for segment in (0, 1)
        }
        lanes = {lane.key: lane for lane in (await self.store.standing(1)).lanes}
        futures = [self.store.write(self._request(one, rows, lanes)) for one in wanted]
        self.stale = rows
        return [_answer(answer) for answer in await asyncio.gather(*futures, return_exceptions=True)]

    def _request(
        self, wanted: dict[str, Any], rows: dict[tuple[int, int], Progress], lanes: dict[bytes, Lane]
    ) -> Request:
        def emits(_: SqlTransaction) -> Sequence[Draft]:
            return list(wanted["emitted"])

        def raises(_: SqlTransaction) -> Sequence[Draft]:
            raise ValueError("no")

        commit = operation = None
        if (fenced := wanted["commit"]) is not None:
            place = (fenced["consumer"], fenced["segment"])
            row = self.stale.get(place, rows[place]) if fenced["stale"] else rows[place]
            number = row.consumer
            lane, dropped = fenced["lane"], fenced["dropped"]
            commit = commit_of(
                row,
                position=fenced["position"],
                ahead=fenced["ahead"],
                count=1,
                digest=fenced["digest"],
                lanes=(self._lane(number, row.segment, lane, fenced["state"]),) if lane else (),
                lanes_dropped=(key_of(dropped),) if dropped and dropped != lane else (),
                parked=(self._letter(number, lane),) if fenced["state"] == LaneState.PARKED and lane else (),
                delivery=lambda: Delivery(number, 1, fenced["position"] + 1, self.world.now(), b"packed"),
                clear_unclean=fenced["clear_unclean"],
                release=fenced["release"],
            )
        if wanted["operation"] is not None:
            key, rev = wanted["operation"]
            lane = lanes.get(key_of(key)) or self._lane(1, 0, key, LaneState.PARKED)
            late = msgspec.structs.replace(lane, state=LaneState.LATE, rev=lane.rev + rev)
            operation = Operation(lane=late, position=3, resolution="retried", note=None, by="ann")
        parts = [key for key in wanted["parts"] if key != wanted["key"] and wanted["apply"] == "none"]
        count = len(wanted["events"])
        return Request(
            events=wanted["events"],
            answers=[
                Answered(key, wanted["fingerprint"], min(at, count), min(1, max(0, count - at)), wanted["result"])
                for at, key in enumerate(parts)
            ],
            expected=tuple(Expected(key_of(key), version) for key, version in wanted["expected"]),
            conditions=tuple(Condition(selection, after) for selection, after in wanted["conditions"]),
            idempotency_key=wanted["key"],
            fingerprint=wanted["fingerprint"],
            result=lambda: wanted["result"],
            apply={"none": (), "emits": (emits,), "raises": (emits, raises)}[wanted["apply"]],
            commit=commit,
            operation=operation,
        )

    @staticmethod
    def _lane(consumer: int, segment: int, key: str, state: str) -> Lane:
        return Lane(consumer=consumer, segment=segment, key=key_of(key), key_text=f"order={key}", after=2, state=state)

    @staticmethod
    def _letter(consumer: int, key: str) -> DeadLetter:
        return DeadLetter(
            id=0, consumer=consumer, position=3, key=key_of(key), key_text=f"order={key}", reason="r", traceback="t",
            attempts=1, parked_at=5,
        )  # fmt: skip

    async def _read(self, selection: Any, after: int, before: int | None, limit: int, backwards: bool) -> Page:
        return await self.store.read(selection, after=after, before=before, limit=limit, backwards=backwards)

    def _node(self, number: int, seconds: int) -> Node:
        now = self.world.now()
        return Node(
            id=number.to_bytes(16, "big"), host="elsewhere.invalid", pid=number, started_at=now,
            expires_at=now + seconds * SECOND,
        )  # fmt: skip

    async def _claim(self, consumer: int, number: int, most: int, held: set[int]) -> object:
        node = self._node(number, 10)
        await self.store.beat(node)
        return await self.store.claim(consumer + 1, node, now=self.world.now(), most=most, held=sorted(held))

    async def _beat(self, number: int, seconds: int) -> object:
        await self.store.beat(self._node(number, seconds))
        return await self.store.nodes()

    async def _clock(self, seconds: int) -> None:
        self.world.moved += seconds * SECOND

    async def _reopen(self) -> None:
        await self.store.close()
        await self.store.open(self.world)

    async def _rename(self, names: tuple[str, str]) -> None:
        await self.store.rename(names[0], [names[1]])

    async def _define(self, number: int, type_name: str) -> Consumer:
        return await self.store.define(
            Consumer(id=0, name=f"c{number}", start=0, key_tag=None, segments=2, handles={type_name: 0})
        )

    async def _status(self, number: int, status: str) -> object:
        await self.store.set_status(number + 1, status, "because")
        return await self.store.consumers()

    async def _everything(self) -> list[object]:
        store = self.store
        page = await store.read(limit=1_000)
        times = [row[5] for row in page.rows]
        return [
            page,
            store.head(),
            dict(await store.types()),
            dict(await store.former_names()),
            [await store.position_at(time + more) for time in times for more in (0, 1)],
            await store.positions_of(b"\0" * 16, b"\xff" * 16, limit=5),
            await store.consumers(),
            [await store.standing(number) for number in (1, 2)],
            await store.nodes(),
            await store.dead_letters(open_only=False),
            await store.dead_letters(consumer=1),
            await store.deliveries([2, 5]),
        ]


def _answer(answer: Written | BaseException) -> object:
    if isinstance(answer, Written):
        return answer
    if not isinstance(answer, EnsueError):
        raise answer
    if isinstance(answer, Conflict):
        return "Conflict", answer.expected, answer.actual
    if isinstance(answer, ApplyFailed):
        return "ApplyFailed", answer.unit
    return type(answer).__name__


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(program=st.lists(steps, max_size=12))
def test_sqlite_answers_every_program_as_memory_does(program: list[Step]) -> None:
    path = memory_database(f"against-memory-{next(_numbers)}")
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    keeper = apsw.Connection(path, flags=flags)
    try:
        expected = asyncio.run(Runner(MemoryStore()).run(program))
        assert asyncio.run(Runner(SqliteStore(path)).run(program)) == expected
    finally:
        keeper.close()
