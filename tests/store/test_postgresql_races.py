"""The races of a log in PostgreSQL, each brought about step by step: one client of the database is held at the exact point where
a store that is built in another way goes wrong, while others do what makes it do so.

Nothing here depends on luck or load. `test_postgresql_races_found.py` plants the bugs that these tests are there to find.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence

import msgspec
import pytest

from ensue.errors import Conflict, CorruptLog, DuplicateEventId
from ensue.events.stored import tag_hash
from ensue.store.base import Condition, Expected, Request, Term, Written
from ensue.store.postgresql import PostgresqlStore, writer
from ensue.testing.contracts.bench import key_of
from tests.store.logs import draft
from tests.store.postgresql_logs import Holds, Other, append, at_once, opened, opened_many, rows_of, told, until

PAID = Term(types=("Paid",))


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


async def answers(*futures: asyncio.Future[Written]) -> list[Written | BaseException]:
    return await asyncio.gather(*futures, return_exceptions=True)


def kinds(answered: Sequence[Written | BaseException]) -> list[str]:
    return sorted(type(one).__name__ for one in answered)


async def positions(store: PostgresqlStore) -> list[int]:
    return [row[0] for row in await rows_of(store)]


# ---------------------------------------------------------------------------------------------------- gaps and readers


def test_nobody_gets_a_position_behind_one_that_is_not_committed(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as reader, Other(url) as other:
            await other.locks_the_log()
            assert await other.writes() == 1
            later = store.write(Request(events=[draft()]))
            await other.waiting(1)
            assert (await reader.read()).rows == [] and reader.head() == 0
            await other.run("COMMIT")
            assert (await at_once(later)).first == 2
            assert await positions(reader) == [1, 2]

    told(story)


def test_a_position_that_is_rolled_back_is_given_again(url: str) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as reader, Other(url) as other:
            await other.locks_the_log()
            assert await other.writes() == 1
            later = store.write(Request(events=[draft()]))
            await other.waiting(1)
            await other.run("ROLLBACK")
            assert (await at_once(later)).first == 1
            assert await positions(reader) == [1]

    told(story)


def test_a_position_whose_writer_is_killed_is_given_again(url: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(url) as dies, opened(url) as store, Other(url) as other:
            hold = holds.before(dies, "COMMIT")
            lost = dies.write(Request(events=[draft(b"lost")]))
            await hold.reached.wait()
            later = store.write(Request(events=[draft(b"kept")]))
            await other.waiting(1)
            dies.abandon()
            assert (await at_once(later)).first == 1
            assert [row[11] for row in await rows_of(store)] == [b"kept"]
            hold.go.set()
            assert kinds(await answers(lost)) == ["OutcomeUnknown"]

    told(story)


@pytest.mark.parametrize("table", ["ensue_log", "ensue_event"])
def test_what_is_read_ends_at_the_head_that_was_read_before_it(url: str, table: str) -> None:
    """Half of a reading is held up by a lock while others write: were the head read behind the rows, what came between would
    be passed over for ever."""

    async def story() -> None:
        async with opened(url) as reader, opened(url) as store, Other(url) as other:
            await append(store, b"first")
            await rows_of(reader)  # so that its statements are prepared, and nothing but the rows is held up
            await other.run("BEGIN", f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.ensure_future(reader.read(limit=10))
            await other.waiting(1)
            await other.run("SELECT FROM ensue_log FOR UPDATE")
            assert (await other.writes(), await other.writes()) == (2, 3)
            await other.run("COMMIT")
            page = await at_once(reading)
            more = await reader.read(after=page.reached)
            assert [row[0] for row in (*page.rows, *more.rows)] == [1, 2, 3]

    told(story)


@pytest.mark.parametrize("table", ["ensue_log", "ensue_event"])
def test_a_decision_from_what_was_read_is_refused_for_what_came_while_it_was_read(url: str, table: str) -> None:
    """The version of a decision is taken before its events are read, never after."""

    async def story() -> None:
        async with opened(url) as store, Other(url) as other:
            await append(store, b"first", key="a")
            await store.read((Term(tags=(key_of("a"),)),))
            await other.run("BEGIN", f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.ensure_future(store.read((Term(tags=(key_of("a"),)),)))
            await other.waiting(1)
            await other.run("SELECT FROM ensue_log FOR UPDATE")
            await other.writes(key=key_of("a"))
            await other.run("COMMIT")
            page = await at_once(reading)
            condition = Condition((Term(tags=(key_of("a"),)),), page.reached)
            decided = store.write(Request(events=[draft()], conditions=(condition,)))
            # Either it was seen, and the decision knows of it, or the decision is refused.
            assert kinds(await answers(decided)) == (["Written"] if len(page.rows) == 2 else ["Conflict"])

    told(story)


def test_a_type_that_is_new_while_its_events_are_read_hides_none_of_them(url: str) -> None:
    async def story() -> None:
        async with opened(url) as reader, Other(url) as other:
            await rows_of(reader)
            await reader.read((PAID,))
            await other.run("BEGIN", "LOCK TABLE ensue_event IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.ensure_future(reader.read((PAID,)))
            await other.waiting(1)
            await other.run("SELECT FROM ensue_log FOR UPDATE")
            await other.writes("Paid")
            await other.run("COMMIT")
            page = await at_once(reading)
            more = await reader.read((PAID,), after=page.reached)
            assert [row[0] for row in (*page.rows, *more.rows)] == [1]

    told(story)


def test_where_many_write_nobody_reads_past_a_position_that_is_taken_and_not_committed(url: str, holds: Holds) -> None:
    """Not even where no younger transaction has ended: a snapshot does not name the older one then."""
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as late, opened(url) as reader:
            hold = holds.before(late, "COMMIT")
            written = late.write(Request(events=[draft()]))
            await hold.reached.wait()
            fence = reader._fence
            assert fence is not None
            settling = asyncio.ensure_future(fence.settle())
            await holds.asked(reader, "pg_snapshot_xip", 3)
            page = await reader.read()
            assert (page.rows, page.reached, settling.done()) == ([], 0, False)
            hold.go.set()
            assert (await at_once(written)).first == await at_once(settling) == 1
            assert await positions(reader) == [1]

    told(story)


def test_where_many_write_a_position_that_can_be_read_past_is_not_given_again_after_a_crash(
    url: str, holds: Holds
) -> None:
    """It was given to one that died, which leaves nothing on the disk by itself: before it is published, it is there."""
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as dies, opened(url) as reader, Other(url) as look:
            hold = holds.before(dies, "COMMIT")
            lost = dies.write(Request(events=[draft()]))
            await hold.reached.wait()
            ((given,),) = await look.run("SELECT pg_current_wal_insert_lsn()")
            dies.abandon()
            publishes = holds.before(reader, "ensue_publish")
            fence = reader._fence
            assert fence is not None
            settling = asyncio.ensure_future(fence.settle())
            await publishes.reached.wait()
            assert await look.run("SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn", values=[given]) == [(True,)]
            publishes.go.set()
            assert await at_once(settling) == 1
            hold.go.set()
            await answers(lost)

    told(story)


def test_where_many_write_what_commits_first_is_read_behind_what_has_the_lower_position(url: str, holds: Holds) -> None:
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as late, opened(url) as store, opened(url) as reader, Other(url) as look:
            await append(store, b"{}")  # the type is known, so that they do not wait for each other to name it
            waiting = asyncio.ensure_future(reader.changed(1))
            hold = holds.before(late, "COMMIT")
            first = late.write(Request(events=[draft(key="a")]))
            await hold.reached.wait()
            second = store.write(Request(events=[draft(key="b")]))

            async def is_stored() -> bool:
                return await look.run("SELECT position FROM ensue_event ORDER BY 1") == [(1,), (3,)]

            await until(is_stored, "the second was to commit")
            page = await reader.read(after=1)
            assert (page.rows, page.reached, waiting.done()) == ([], 1, False)
            hold.go.set()
            assert [(await at_once(one)).first for one in (first, second)] == [2, 3]
            assert await at_once(waiting) == 3
            assert await positions(reader) == [1, 2, 3]

    told(story)


def test_where_many_write_nobody_waits_for_a_position_whose_writer_has_died(url: str, holds: Holds) -> None:
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as dies, opened(url) as store, opened(url) as reader:
            hold = holds.before(dies, "COMMIT")
            lost = dies.write(Request(events=[draft(key="a")]))
            await hold.reached.wait()
            dies.abandon()
            assert (await at_once(append(store, b"{}", key="b"))).first == 2
            page = await reader.read()
            assert ([row[0] for row in page.rows], page.reached) == ([2], 2)
            hold.go.set()
            await answers(lost)

    told(story)


def test_a_long_reader_keeps_no_writer_waiting(either: str) -> None:
    async def story() -> None:
        async with opened(either) as store, Other(either) as other:
            await append(store, b"first")
            await other.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT count(*) FROM ensue_event")
            for number in range(2, 5):
                assert (await at_once(append(store, b"more"))).first == number
            assert await other.run("SELECT count(*) FROM ensue_event") == [(1,)]

    told(story)


def test_a_long_transaction_of_somebody_else_keeps_no_reader_waiting(url: str) -> None:
    """It has a number of its own and may still write anything: who reads up to the oldest number under way stands still."""

    async def story() -> None:
        async with opened(url) as store, opened(url) as reader, Other(url) as other:
            await other.run("CREATE TABLE theirs (n integer)", "BEGIN", "INSERT INTO theirs VALUES (1)")
            waiting = asyncio.ensure_future(reader.changed(0))
            assert (await at_once(append(store, b"{}"))).first == 1
            assert await at_once(waiting) == 1
            assert await positions(reader) == [1]

    told(story)


def test_where_many_write_a_long_transaction_of_somebody_else_keeps_no_writer_waiting(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored cannot be read before that transaction has ended, but is acknowledged: not the first one only."""
    monkeypatch.setattr(writer, "SETTLE_SECONDS", 0.05)
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as store, opened(url) as reader, Other(url) as other:
            waiting = asyncio.ensure_future(reader.changed(0))
            await other.run("CREATE TABLE theirs (n integer)", "BEGIN", "INSERT INTO theirs VALUES (1)")
            for number in range(1, 4):
                assert (await at_once(append(store, b"{}", b"{}"))).last == 2 * number
            assert not waiting.done() and (await reader.read()).rows == []
            await other.run("COMMIT")
            await at_once(waiting)
            await at_once(reader.changed(5))
            assert await positions(reader) == [1, 2, 3, 4, 5, 6]
            assert store._writer is not None and store._writer.queue._bytes == 0

    told(story)


# ------------------------------------------------------------------------------------------------ conditions and versions

RACES: dict[str, Callable[[int], Request]] = {
    "a type": lambda after: Request(
        events=[draft(type_name="Paid", key=some_key())], conditions=(Condition((PAID,), after),)
    ),
    "a key": lambda after: Request(
        events=[draft(type_name="Paid", key="a")], conditions=(Condition((Term(tags=(key_of("a"),)),), after),)
    ),
    "a tag": lambda after: Request(
        events=[draft(type_name="Paid", key=some_key(), tags=["x=1"])],
        conditions=(Condition((Term(tags=(tag_hash("x=1"),)),), after),),
    ),
    "a type and a tag": lambda after: Request(
        events=[draft(type_name="Paid", key=some_key(), tags=["x=1"])],
        conditions=(Condition((Term(("Paid",), (tag_hash("x=1"),)),), after),),
    ),
    "two tags of one event": lambda after: Request(
        events=[draft(type_name="Paid", key=some_key(), tags=["x=1", "y=2"])],
        conditions=(Condition((Term(tags=(tag_hash("y=2"), tag_hash("x=1"))),), after),),
    ),
    "any event at all": lambda after: Request(events=[draft(key=some_key())], conditions=(Condition((), after),)),
    "a root": lambda after: Request(
        events=[msgspec.structs.replace(draft(key=some_key()), cause=1, root=1)],
        conditions=(Condition((Term(root=1),), after),),
    ),
    "one of several": lambda after: Request(
        events=[draft(type_name="Paid", key=some_key(), tags=["x=1"])],
        conditions=(Condition((Term(tags=(tag_hash("z=9"),)), Term(tags=(tag_hash("x=1"),))), after),),
    ),
    "a version": lambda after: Request(events=[draft(key="a")], expected=(Expected(key_of("a"), 0),)),
}


def some_key() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize("race", RACES)
def test_of_eight_who_decide_at_the_same_moment_exactly_one_appends(either: str, race: str, holds: Holds) -> None:
    """All have begun before the first commits, none knows of the others, and the first has not told them."""

    async def story() -> None:
        async with opened(either) as first:
            await first.write(Request(events=[draft(type_name="Opened", key="y"), draft(type_name="Paid", key="z")]))
            assert await one_appends(first, RACES[race], 2, either, holds)

    told(story)


def test_of_eight_who_decide_on_a_type_that_nobody_has_used_exactly_one_appends(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as first:
            assert await one_appends(first, RACES["a type"], 0, either, holds)

    told(story)


async def one_appends(
    first: PostgresqlStore, race: Callable[[int], Request], after: int, url: str, holds: Holds
) -> bool:
    async with opened_many(url, 7) as stores, Other(url) as other:
        hold = holds.before(first, "COMMIT")
        asked = [first.write(race(after))]
        await hold.reached.wait()
        asked += [store.write(race(after)) for store in stores]
        await other.waiting(7)
        hold.go.set()
        answered = await at_once(answers(*asked))
        assert kinds(answered) == ["Conflict"] * 7 + ["Written"]
        return len(await rows_of(first)) == after + 1


def test_a_condition_knows_a_type_that_was_new_to_another_process_meanwhile(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            await append(store, b"{}", type_name="Opened")
            await store.types()
            hold = holds.before(other, "COMMIT")
            paid = other.write(Request(events=[draft(type_name="Paid", key="p")]))
            await hold.reached.wait()
            conditions = (Condition((PAID, Term(tags=(key_of("p"),))), 0),)
            late = store.write(Request(events=[draft(type_name="Opened")], conditions=conditions))
            await look.waiting(1)
            hold.go.set()
            assert kinds(await at_once(answers(paid, late))) == ["Conflict", "Written"]

    told(story)


def test_a_condition_knows_a_name_that_another_process_has_given_a_type_meanwhile(url: str) -> None:
    """The event is old, and its name is new: by the old name the condition holds, by the new one it does not."""

    async def story() -> None:
        async with opened(url) as store, Other(url) as other:
            await append(store, b"{}", type_name="Settled")
            await store.read((PAID,))
            await other.locks_the_log()
            late = store.write(Request(events=[draft()], conditions=(Condition((PAID,), 0),)))
            await other.waiting(1)
            await other.run("INSERT INTO ensue_former_name VALUES ('Settled', 'Paid')")
            await other.run("UPDATE ensue_log SET names = names + 1", "COMMIT")
            assert kinds(await at_once(answers(late))) == ["Conflict"]

    told(story)


def test_a_name_that_is_given_while_a_type_is_new_hides_no_event_of_that_type(url: str, holds: Holds) -> None:
    """Both raise the number by which others notice that they must learn names, and neither raises it to where the other did."""
    url += "&ensue_writers=many"

    async def story() -> None:
        async with opened(url) as store, opened(url) as other, opened(url) as reader:
            await append(store, b"{}")
            hold = holds.before(store, "COMMIT")
            new = store.write(Request(events=[draft(type_name="Paid", key="p")]))
            await hold.reached.wait()
            await at_once(other.rename("Settled", ["Cleared"]))
            assert await reader.former_names() == {"Cleared": "Settled"}
            hold.go.set()
            assert (await at_once(new)).first == 2
            assert [row[0] for row in (await reader.read((PAID,))).rows] == [2]

    told(story)


def test_a_version_that_another_process_has_raised_is_not_the_one_remembered(either: str) -> None:
    """Both have written the stream, and know its version by heart."""

    async def story() -> None:
        async with opened(either) as store, opened(either) as other:
            await append(store, b"1", key="a")
            await append(other, b"2", key="a")
            await append(store, b"3", key="a")
            await append(store, b"4", key="a")
            await append(other, b"5", key="a")
            with pytest.raises(Conflict) as refused:
                await store.write(Request(events=[draft(key="a")], expected=(Expected(key_of("a"), 4),)))
            assert refused.value.actual == 5
            await store.write(Request(events=[draft(key="a")], expected=(Expected(key_of("a"), 5),)))
            assert [row[4] for row in await rows_of(store)] == [1, 2, 3, 4, 5, 6]

    told(story)


def test_of_two_who_both_know_the_version_by_heart_one_raises_it(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            for one in (store, other, other, store, store):
                await append(one, b"{}", key="a")
            hold = holds.before(other, "COMMIT")
            asked = [other.write(Request(events=[draft(key="a")], expected=(Expected(key_of("a"), 5),)))]
            await hold.reached.wait()
            asked.append(store.write(Request(events=[draft(key="a")], expected=(Expected(key_of("a"), 5),))))
            await look.waiting(1)
            hold.go.set()
            assert kinds(await at_once(answers(*asked))) == ["Conflict", "Written"]
            assert [row[4] for row in await rows_of(store)] == [1, 2, 3, 4, 5, 6]

    told(story)


# ------------------------------------------------------------------------------------------------- keys, ids and silence


def test_of_two_processes_with_one_idempotency_key_one_writes_and_both_get_its_answer(
    either: str, holds: Holds
) -> None:
    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            hold = holds.before(other, "COMMIT")
            first = other.write(Request(events=[draft()], idempotency_key=b"k" * 16))
            await hold.reached.wait()
            second = store.write(Request(events=[draft()], idempotency_key=b"k" * 16))
            await look.waiting(1)
            hold.go.set()
            assert await at_once(first) == Written(1, 1)
            assert await at_once(second) == Written(1, 1, True)
            assert await positions(store) == [1]

    told(story)


def test_of_two_processes_with_one_event_id_one_writes_and_the_other_is_told(either: str, holds: Holds) -> None:
    one = draft(b"once")

    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            hold = holds.before(other, "COMMIT")
            first = other.write(Request(events=[one]))
            await hold.reached.wait()
            second = store.write(Request(events=[one]))
            await look.waiting(1)
            hold.go.set()
            assert (await at_once(first)).first == 1
            with pytest.raises(DuplicateEventId):
                await at_once(second)
            assert len(await rows_of(store)) == 1

    told(story)


def test_appends_that_state_no_condition_are_in_the_order_of_their_commits_too(url: str, holds: Holds) -> None:
    """The one that has the lock is late with its commit; the other one has asked long before, and still comes behind it."""

    async def story() -> None:
        async with opened(url) as store, opened(url) as other, Other(url) as look:
            hold = holds.before(other, "COMMIT")
            late = other.write(Request(events=[draft(key="a"), draft(key="b")]))
            await hold.reached.wait()
            early = store.write(Request(events=[draft(key="c")]))
            await look.waiting(1)
            assert not early.done()
            hold.go.set()
            assert ((await at_once(late)).first, (await at_once(early)).first) == (1, 3)
            # The numbers of transactions are given in the order of their first writes, which is that of the commits.
            numbers = await look.run("SELECT xmin::text::bigint FROM ensue_event ORDER BY position")
            assert numbers == sorted(numbers)

    told(story)


def test_twenty_appends_to_one_stream_are_all_there_when_all_are_acknowledged(either: str) -> None:
    async def story() -> None:
        async with opened_many(either, 4) as stores:
            asked = [store.write(Request(events=[draft(key="a")])) for _ in range(5) for store in stores]
            assert kinds(await answers(*asked)) == ["Written"] * 20
            acknowledged = sorted(future.result().first for future in asked)
            found = await rows_of(stores[0])
            assert [row[0] for row in found] == acknowledged
            assert [row[4] for row in found] == list(range(1, 21))

    told(story)


def test_what_somebody_stored_past_the_lock_is_never_taken_for_the_event_that_was_to_be_there(url: str) -> None:
    """A position that is taken already is an error, never a write that did nothing."""

    async def story() -> None:
        async with opened(url) as store, Other(url) as other:
            await append(store, b"first")
            await other.run(
                "INSERT INTO ensue_event SELECT 2, '\\x07', type, NULL, NULL, recorded_at, NULL, NULL, NULL, NULL, meta, data "
                "FROM ensue_event"
            )
            with pytest.raises(CorruptLog):
                await append(store, b"second")
            assert await positions(store) == [1]

    told(story)


def test_a_type_that_two_processes_have_for_the_first_time_gets_one_number(either: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(either) as store, opened(either) as other, Other(either) as look:
            hold = holds.before(other, "COMMIT")
            first = other.write(Request(events=[draft(type_name="Paid", key="a"), draft(type_name="Settled", key="b")]))
            await hold.reached.wait()
            second = store.write(Request(events=[draft(type_name="Opened", key="c"), draft(type_name="Paid", key="d")]))
            await look.waiting(1)
            hold.go.set()
            await at_once(answers(first, second))
            names = await store.types()
            assert sorted(names.values()) == [("Opened", 1), ("Paid", 1), ("Settled", 1)]
            assert await other.types() == names
            assert [names[row[2]][0] for row in await rows_of(store)] == ["Paid", "Settled", "Opened", "Paid"]
            assert [row[0] for row in (await other.read((PAID,))).rows] == [1, 4]

    told(story)


def test_a_type_that_a_failed_request_would_have_added_is_known_to_nobody(url: str, holds: Holds) -> None:
    async def story() -> None:
        async with opened(url) as store, opened(url) as other, Other(url) as look:
            known = draft(key="a")
            await store.write(Request(events=[known]))
            hold = holds.before(other, "COMMIT")
            refused = other.write(Request(events=[draft(type_name="Typo", key="b"), known]))
            await hold.reached.wait()
            kept = store.write(Request(events=[draft(type_name="Paid", key="d")]))
            await look.waiting(1)
            hold.go.set()
            assert kinds(await at_once(answers(refused, kept))) == ["DuplicateEventId", "Written"]
            for one in (store, other):
                assert sorted(name for name, _ in (await one.types()).values()) == ["Opened", "Paid"]

    told(story)
