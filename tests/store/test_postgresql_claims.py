"""The races of consumers on PostgreSQL: who owns a segment, whose commit counts, and who is woken by what. Step by step, as in
`test_postgresql_races.py`."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import psycopg
import pytest
from psycopg.errors import DeadlockDetected
from psycopg.sql import SQL, Identifier

import ensue.store.postgresql as adapter
from ensue.errors import Fenced
from ensue.store.base import Consumer, ConsumerCommit, Lane, LaneState, Node, Operation, Progress, Request, Written
from ensue.store.postgresql import PostgresqlStore
from ensue.store.postgresql.session import Session
from ensue.testing.contracts.bench import SECOND, MovableWorld, commit_of, key_of
from tests.store.logs import WORLD, draft
from tests.store.postgresql_logs import Holds, Other, append, at_once, opened, rows_of, told, until

LISTEN = SQL("LISTEN {}")


@pytest.fixture
def url(postgresql_url: str) -> str:
    """A log whose sessions can be told from those of other tests."""
    return f"{postgresql_url}&application_name=test_{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["few", "many"])
def either(url: str, request: pytest.FixtureRequest) -> str:
    """The same, for each way in which writers come to one order."""
    return f"{url}&ensue_writers={request.param}"


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> Holds:
    return Holds(monkeypatch)


def node(number: int, seconds: float = 10) -> Node:
    now = WORLD.now()
    return Node(
        id=number.to_bytes(16, "big"), host="elsewhere.invalid", pid=number, started_at=now,
        expires_at=now + round(seconds * SECOND),
    )  # fmt: skip


async def owned(store: PostgresqlStore, segments: int = 3, number: int = 1) -> tuple[Progress, ...]:
    """A consumer, all of whose segments this node has."""
    wanted = Consumer(id=0, name="billing", start=0, key_tag=None, segments=segments, handles={"Opened": 0})
    consumer = await store.define(wanted)
    await store.beat(node(number))
    return await claimed(store, number, consumer.id)


async def claimed(store: PostgresqlStore, number: int, consumer: int = 1) -> tuple[Progress, ...]:
    await store.beat(node(number))
    return (await store.claim(consumer, node(number), now=WORLD.now(), most=16)).progress


def commit(row: Progress, position: int = 1, *, release: bool = False) -> ConsumerCommit:
    return commit_of(row, position=position, count=1, digest=1, release=release)


async def stand(store: PostgresqlStore, segment: int = 0) -> tuple[int, bytes | None, int, int]:
    """Position, owner, fence, revision."""
    row = (await store.standing(1)).progress[segment]
    return row.position, row.owner, row.fence, row.rev


# ------------------------------------------------------------------------------------------------------ whose commit it is


@pytest.mark.parametrize("emits", [True, False])
def test_a_commit_that_waits_for_a_takeover_is_refused_by_it(either: str, emits: bool) -> None:
    """The zombie has sent its commit when the other one has taken the row and not committed yet."""

    async def story() -> None:
        async with opened(either) as zombie, Other(either) as other:
            row = (await owned(zombie, segments=1))[0]
            await other.run("BEGIN", "UPDATE ensue_progress SET owner = '\\x02', fence = fence + 1")
            late = zombie.write(Request(events=[draft()] if emits else [], commit=commit(row)))
            await other.waiting(1)
            await other.run("COMMIT")
            with pytest.raises(Fenced):
                await at_once(late)
            assert await stand(zombie) == (0, b"\2", row.fence + 1, row.rev)
            assert await rows_of(zombie) == []

    told(story)


def test_a_commit_computed_before_a_takeover_is_refused_after_the_new_owner_has_committed(either: str) -> None:
    async def story() -> None:
        async with opened(either) as zombie, opened(either) as store:
            row = (await owned(zombie, segments=1))[0]
            await zombie.beat(node(1, -1))
            (taken,) = await claimed(store, 2)
            await store.write(Request(events=[draft()], commit=commit(taken)))
            with pytest.raises(Fenced):
                await zombie.write(Request(events=[draft()], commit=commit(row)))
            assert await stand(store) == (1, node(2).id, taken.fence, taken.rev + 1)
            assert len(await rows_of(store)) == 1

    told(story)


def test_a_claim_does_not_take_a_segment_whose_commit_is_under_way_and_sees_it_afterwards(
    either: str, holds: Holds
) -> None:
    async def story() -> None:
        async with opened(either) as owner, opened(either) as store:
            row = (await owned(owner, segments=1))[0]
            hold = holds.before(owner, "COMMIT")
            committed = owner.write(Request(events=[draft()], commit=commit(row)))
            await hold.reached.wait()
            await owner.beat(node(1, -1))
            assert await at_once(claimed(store, 2)) == ()
            hold.go.set()
            assert (await at_once(committed)).first == 1
            (taken,) = await claimed(store, 2)
            assert (taken.position, taken.fence, taken.rev, taken.unclean) == (1, row.fence + 1, row.rev + 1, 1)

    told(story)


def test_a_claim_that_meets_a_release_under_way_takes_the_segment_as_it_was_left(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as owner, opened(either) as store:
            row = (await owned(owner, segments=1))[0]
            hold = holds.before(owner, "COMMIT")
            released = owner.write(Request(commit=commit(row, release=True)))
            await hold.reached.wait()
            assert await at_once(claimed(store, 2)) == ()
            hold.go.set()
            await at_once(released)
            (taken,) = await claimed(store, 2)
            assert (taken.position, taken.owner, taken.unclean) == (1, node(2).id, 0)

    told(story)


def test_a_release_by_an_owner_that_was_replaced_leaves_the_new_one_in_place(either: str) -> None:
    async def story() -> None:
        async with opened(either) as zombie, Other(either) as other:
            row = (await owned(zombie, segments=1))[0]
            await other.run("BEGIN", "UPDATE ensue_progress SET owner = '\\x02', fence = fence + 1")
            late = zombie.write(Request(commit=commit(row, release=True)))
            await other.waiting(1)
            await other.run("COMMIT")
            with pytest.raises(Fenced):
                await at_once(late)
            assert (await stand(zombie))[:2] == (0, b"\2")

    told(story)


def test_of_two_who_claim_the_same_free_segments_each_gets_its_own(url: str, holds: Holds) -> None:
    """Both have seen all of them free."""

    async def story() -> None:
        async with opened(url) as store, opened(url) as other:
            row = (await owned(store, segments=1))[0]
            await store.write(Request(commit=commit(row, release=True)))
            hold = holds.behind(store, "SELECT segment, owner, fence")
            first = asyncio.ensure_future(claimed(store, 1))
            await hold.reached.wait()
            (taken,) = await claimed(other, 2)
            hold.go.set()
            assert await at_once(first) == ()
            assert await stand(store) == (1, node(2).id, taken.fence, row.rev + 1)

    told(story)


def test_of_two_operators_on_one_parked_key_one_is_told_that_he_came_too_late(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            row = (await owned(store, segments=1))[0]
            lane = Lane(
                consumer=1, segment=0, key=key_of("a"), key_text="order=a", after=0, state=LaneState.PARKED, attempts=3
            )
            await store.write(Request(commit=commit_of(row, lanes=(lane,))))
            late = Lane(consumer=1, segment=0, key=key_of("a"), key_text="order=a", after=0, state=LaneState.LATE)
            operation = Operation(lane=late, position=1, resolution="retried", note=None, by="ann")
            hold = holds.before(other, "COMMIT")
            asked = [other.write(Request(events=[draft(key="x")], operation=operation))]
            await hold.reached.wait()
            asked.append(store.write(Request(events=[draft(key="x")], operation=operation)))
            await look.waiting(1)
            hold.go.set()
            answered = await at_once(asyncio.gather(*asked, return_exceptions=True))
            assert [type(one).__name__ for one in answered] == ["Written", "Conflict"]
            assert [lane.rev for lane in (await store.standing(1)).lanes] == [1]

    told(story)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_process_whose_clock_is_wrong_takes_nothing_from_one_that_lives(url: str, hours: int) -> None:
    wrong = MovableWorld()
    wrong.moved = hours * 3_600 * SECOND

    async def story() -> None:
        async with opened(url) as store, opened(url, world=wrong) as other:
            rows = await owned(store)
            now = wrong.now()
            late = msgspec.structs.replace(node(2), started_at=now, expires_at=now + 10 * SECOND)
            await other.beat(late)
            assert (await other.claim(1, late, now=now, most=16)).progress == ()
            assert (await store.standing(1)).progress == rows

    told(story)


# ------------------------------------------------------------------------------------------------------------ lock order


def test_two_writers_with_crossing_segments_wait_for_each_other_in_one_order(either: str, holds: Holds) -> None:
    """Each holds its first segment when it asks for the next: in different orders, they would wait for ever."""

    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            rows = await owned(store)
            # They may both commit all three: what is fenced is of no interest here.
            await look.run("BEGIN", "SELECT FROM ensue_progress WHERE segment = 1 FOR UPDATE")
            upwards = [store.write(Request(events=[draft()], commit=commit(row))) for row in rows]
            await look.waiting(1)
            downwards = [other.write(Request(events=[draft()], commit=commit(row))) for row in reversed(rows)]
            await look.waiting(2)
            await look.run("COMMIT")
            answered = await at_once(asyncio.gather(*upwards, *downwards, return_exceptions=True))
            assert [type(one) for one in answered] == [Written] * 3 + [Fenced] * 3
        assert not [error for error in holds.errors if isinstance(error, DeadlockDetected)]

    told(story)


def test_who_waits_for_a_segment_does_not_keep_the_log_locked(either: str) -> None:
    """A zombie or a slow claim holds the row of a segment: its owner waits, and nobody else."""

    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            row = (await owned(store, segments=1))[0]
            await look.run("BEGIN", "SELECT FROM ensue_progress FOR UPDATE")
            waits = store.write(Request(events=[draft(key="a")], commit=commit(row)))
            await look.waiting(1)
            assert (await at_once(append(other, b"{}", key="a"))).first == 1
            await look.run("COMMIT")
            assert (await at_once(waits)).first == 2

    told(story)


def test_a_commit_without_events_waits_for_no_writer(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, Other(url) as other:
            row = (await owned(store, segments=1))[0]
            await other.locks_the_log()
            await at_once(store.write(Request(commit=commit(row))))
            assert (await stand(store))[0] == 1

    told(story)


def test_a_consumer_defined_by_two_processes_at_once_handles_new_types_from_one_head_on(
    either: str, holds: Holds
) -> None:
    """Whoever adds a type to a consumer locks the head: an event committed meanwhile is before it or behind it for all."""

    async def story() -> None:
        async with opened(either) as store, opened(either) as other:
            first = Consumer(id=0, name="c", start=0, key_tag=None, segments=2, handles={"Opened": 0})
            made = await asyncio.gather(store.define(first), other.define(first))
            assert [one.id for one in made] == [1, 1]
            await append(store, b"{}")
            more = Consumer(id=0, name="c", start=0, key_tag=None, segments=2, handles={"Opened": 0, "Paid": 0})
            found = await asyncio.gather(store.define(more), other.define(more))
            assert [one.handles for one in found] == [{"Opened": 0, "Paid": 1}] * 2
            assert len((await store.standing(1)).progress) == 2

    told(story)


# --------------------------------------------------------------------------------------------------------------- wake-up


class Notifications:
    """Says when the next one has arrived, whatever the store makes of it."""

    def __init__(self, session: Session) -> None:
        self.one = asyncio.Event()
        heard = session._notified
        assert heard is not None

        def hear() -> None:
            heard()
            self.one.set()

        session._notified = hear


async def listening(store: PostgresqlStore, other: Other) -> None:
    """Until the store listens, and has looked once since: it is still, and waits to be woken."""

    async def does() -> bool:
        desk = store._desk
        if desk is None or not desk.idle:
            return False
        ((query,),) = await other.run(
            "SELECT query FROM pg_stat_activity WHERE pid = %s", values=[desk._pg.backend_pid]
        ) or [("",)]
        return store._listening and "ensue_" in query and (store._look is None or store._look.done())

    await until(does, "the store was to listen")


async def until_another(store: PostgresqlStore, lost: Session) -> None:
    async def has() -> bool:
        return store._desk is not lost and store._desk is not None

    await until(has, "the store was to connect again")


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """No poll comes to the aid of a notification that was missed."""
    monkeypatch.setattr(adapter, "POLL_SECONDS", 3600.0)


def test_a_notification_wakes_those_who_wait_in_another_process(rarely: None, either: str) -> None:
    async def story() -> None:
        async with opened(either) as reader, opened(either) as store:
            for position in range(1, 6):
                waiting = asyncio.ensure_future(reader.changed(position - 1))
                await append(store, b"{}")
                assert await at_once(waiting) == position

    told(story)


def test_a_notification_that_arrives_while_the_head_is_read_is_not_taken_for_that_reading(
    rarely: None, either: str, holds: Holds
) -> None:
    """The head was read before the commit, and is told after the notification of it."""

    async def story() -> None:
        async with opened(either) as reader, opened(either) as store, Other(either) as other:
            waiting = asyncio.ensure_future(reader.changed(0))
            await listening(reader, other)
            hold = holds.behind(reader, "FROM ensue_log")
            await other.run("SELECT pg_notify(%s, '')", values=[f"ensue_{reader.log_id}"])
            await hold.reached.wait()
            heard = reader._desk
            assert heard is not None
            count = Notifications(heard)
            await append(store, b"{}")
            await at_once(count.one.wait())
            hold.go.set()
            assert await at_once(waiting) == 1

    told(story)


def test_a_commit_between_the_first_look_and_the_wait_wakes_who_waits(rarely: None, either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as reader, opened(either) as store:
            hold = holds.behind(reader, "FROM ensue_log")
            waiting = asyncio.ensure_future(reader.changed(0))
            await hold.reached.wait()
            await append(store, b"{}")
            hold.go.set()
            assert await at_once(waiting) == 1

    told(story)


def test_who_waits_hears_by_polling_of_a_commit_whose_notification_never_came(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has died between the two."""
    monkeypatch.setattr(adapter, "POLL_SECONDS", 0.05)

    async def story() -> None:
        async with opened(url) as reader, Other(url) as other:
            waiting = asyncio.ensure_future(reader.changed(0))
            await listening(reader, other)
            await other.locks_the_log()
            await other.writes()
            await other.run("COMMIT")
            assert await at_once(waiting) == 1

    told(story)


def test_who_waits_listens_again_when_the_connection_was_lost(rarely: None, url: str) -> None:
    async def story() -> None:
        async with opened(url) as reader, opened(url) as store, Other(url) as other:
            waiting = asyncio.ensure_future(reader.changed(0))
            await listening(reader, other)
            lost = reader._desk
            assert lost is not None
            await other.run("SELECT pg_terminate_backend(%s)", values=[lost._pg.backend_pid])
            await until_another(reader, lost)
            await listening(reader, other)
            await append(store, b"{}")
            assert await at_once(waiting) == 1

    told(story)


def test_a_writer_tells_of_many_commits_with_few_notifications(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a lock of the whole database."""
    monkeypatch.setattr(adapter, "NOTIFY_SECONDS", 0.2)

    async def story() -> None:
        async with opened(url) as store:
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
            async with connection:
                await connection.execute(LISTEN.format(Identifier(f"ensue_{store.log_id}")))
                began = WORLD.monotonic()
                for _ in range(50):
                    await append(store, b"{}")
                took = WORLD.monotonic() - began
                heard = [note async for note in connection.notifies(timeout=0.05)]
                assert 1 <= len(heard) <= 2 + took / 0.2

    told(story)
