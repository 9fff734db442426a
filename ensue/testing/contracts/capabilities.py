"""What a store promises beyond the common part, by the capabilities it declares."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from ensue.errors import ApplyFailed, Conflict, Fenced, IdempotencyKeyReused
from ensue.events.stored import Draft
from ensue.store.base import Condition, Delivery, Expected, Request, SqlTransaction, Store, Term, Written
from ensue.testing.contracts.bench import SECOND, Bench, Contract, commit_of, contract_test, key_of

__all__ = ["DurableContract", "SharedContract", "SqlContract"]


class DurableContract(Contract):
    """Closed and opened again, the log is as it was."""

    @contract_test
    async def test_everything_that_was_written_is_there_when_the_log_is_opened_again(self, bench: Bench) -> None:
        await bench.append(bench.draft("Settled", "a", ["customer=c1"]), bench.draft("Opened", "b"))
        await bench.log.rename("Paid", ["Settled"])
        before = (bench.log.log_id, bench.log.head(), await bench.rows(), await bench.log.types())
        await bench.reopened()
        assert await bench.log.former_names() == {"Settled": "Paid"}
        assert (bench.log.log_id, bench.log.head(), await bench.rows(), await bench.log.types()) == before
        assert await bench.found(Term(types=("Paid",))) == [1]

    @contract_test
    async def test_positions_and_versions_go_on_when_the_log_is_opened_again(self, bench: Bench) -> None:
        await bench.append(bench.draft(key="a"), bench.draft(key="a"))
        await bench.reopened()
        with pytest.raises(Conflict):
            await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 0),))
        assert await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 2),)) == Written(3, 3)
        assert [row[4] for row in await bench.rows()] == [1, 2, 3]

    @contract_test
    async def test_idempotency_keys_are_known_when_the_log_is_opened_again(self, bench: Bench) -> None:
        first = await bench.append(
            bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16, result=lambda: b"seat 7"
        )
        await bench.reopened()
        again = await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16)
        assert again == Written(first.first, first.last, True, b"seat 7")
        with pytest.raises(IdempotencyKeyReused):
            await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"g" * 16)

    @contract_test
    async def test_recorded_times_do_not_fall_when_the_log_is_opened_with_an_earlier_clock(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        bench.world.moved = -3_600 * SECOND
        await bench.reopened()
        await bench.append(bench.draft())
        first, second = (row[5] for row in await bench.rows())
        assert second >= first

    @contract_test
    async def test_consumers_stand_where_they_stood_when_the_log_is_opened_again(self, bench: Bench) -> None:
        consumer = await bench.consumer()
        (row, *_) = await bench.owner(consumer)
        record = Delivery(consumer.id, 1, 5, bench.world.now(), b"packed")
        moved = commit_of(row, position=5, ahead=(7,), count=5, digest=55, delivery=lambda: record)
        await bench.append(commit=moved)
        await bench.parked(consumer, "a", after=3)
        await bench.log.set_status(consumer.id, "paused", "lunch")

        async def all_of_it(log: Store) -> list[object]:
            return [
                await log.consumers(),
                await log.standing(consumer.id),
                # A lease that is measured by a server's clock is told in this process's time each time anew.
                [msgspec.structs.replace(node, expires_at=0) for node in await log.nodes()],
                await log.deliveries([2]),
            ]

        before = await all_of_it(bench.log)
        assert await all_of_it(await bench.reopened()) == before


class SharedContract(Contract):
    """Two adapters have the log open at the same time, as two processes would."""

    @contract_test
    async def test_writers_beside_each_other_share_one_dense_order(self, bench: Bench) -> None:
        other = await bench.another()

        async def writes(log: Store) -> list[Written]:
            return [await log.write(Request(events=[bench.draft(key="a"), bench.draft(key="a")])) for _ in range(40)]

        answers = [one for many in await asyncio.gather(writes(bench.log), writes(other)) for one in many]
        assert sorted(answer.first for answer in answers) == list(range(1, 161, 2))
        rows = await bench.rows()
        assert [row[0] for row in rows] == [row[4] for row in rows] == list(range(1, 161))
        assert (await other.read(limit=1_000)).rows == rows

    @contract_test
    async def test_both_know_the_log_by_one_identity(self, bench: Bench) -> None:
        assert (await bench.another()).log_id == bench.log.log_id

    @contract_test
    async def test_conditions_see_what_the_other_wrote(self, bench: Bench) -> None:
        other = await bench.another()
        await bench.append(bench.draft("Paid", "a"))
        await other.write(Request(events=[bench.draft("Paid", "a")], expected=(Expected(key_of("a"), 1),)))
        with pytest.raises(Conflict):
            await bench.append(bench.draft("Paid", "a"), expected=(Expected(key_of("a"), 1),))
        with pytest.raises(Conflict):
            await bench.append(conditions=(Condition((Term(types=("Paid",)),), 1),))
        await bench.append(bench.draft("Paid", "a"), expected=(Expected(key_of("a"), 2),))

    @contract_test
    async def test_idempotency_keys_are_known_to_both(self, bench: Bench) -> None:
        other = await bench.another()
        await bench.append(bench.draft(), idempotency_key=b"k" * 16)
        assert await other.write(Request(events=[bench.draft()], idempotency_key=b"k" * 16)) == Written(1, 1, True)

    @contract_test
    async def test_types_have_the_same_numbers_for_both(self, bench: Bench) -> None:
        other = await bench.another()
        await bench.append(bench.draft("Paid"))
        await other.write(Request(events=[bench.draft("Opened"), bench.draft("Paid")]))
        await bench.append(bench.draft("Opened"))
        assert await other.types() == await bench.log.types()
        assert sorted((await bench.log.types()).values()) == [("Opened", 1), ("Paid", 1)]
        assert await bench.found(Term(types=("Opened",))) == [2, 4]

    @contract_test
    async def test_a_new_name_is_known_to_both(self, bench: Bench) -> None:
        other = await bench.another()
        await other.write(Request(events=[bench.draft("Settled")]))
        assert await bench.found(Term(types=("Paid",))) == []
        await other.rename("Paid", ["Settled"])
        assert await bench.log.former_names() == {"Settled": "Paid"}
        assert await bench.found(Term(types=("Paid",))) == [1]

    @contract_test
    async def test_what_one_writes_wakes_who_waits_at_the_other(self, bench: Bench) -> None:
        other = await bench.another()
        for position in range(1, 6):
            waiter = bench.start(other.changed(position - 1))
            await bench.step()
            await bench.append(bench.draft())
            assert await waiter == position

    @contract_test
    async def test_a_reader_at_one_sees_each_event_of_the_other_once(self, bench: Bench) -> None:
        other = await bench.another()

        async def follow() -> list[int]:
            seen: list[int] = []
            while len(seen) < 60:
                page = await other.read(after=len(seen), limit=7)
                seen += [row[0] for row in page.rows]
                if len(seen) < 60 and page.reached >= other.head():
                    await other.changed(page.reached)
            return seen

        reader = bench.start(follow())
        for _ in range(60):
            await bench.append(bench.draft())
        assert await reader == list(range(1, 61))

    @contract_test
    async def test_a_segment_has_one_owner_whoever_claims_at_the_same_time(self, bench: Bench) -> None:
        other = await bench.another()
        consumer = await bench.consumer(segments=8)
        for number in (1, 2):
            await bench.log.beat(bench.node(number))
        claims = await asyncio.gather(
            bench.log.claim(consumer.id, bench.node(1), now=bench.world.now(), most=5),
            other.claim(consumer.id, bench.node(2), now=bench.world.now(), most=5),
        )
        taken = [row.segment for claim in claims for row in claim.progress]
        assert sorted(taken) == list(range(8))

    @contract_test
    async def test_a_consumer_is_defined_once_whoever_defines_it_at_the_same_time(self, bench: Bench) -> None:
        consumer = await bench.consumer()
        other = await bench.another()
        again = await asyncio.gather(*(store.define(consumer) for store in (bench.log, other)))
        assert [one.id for one in again] == [consumer.id] * 2

    @contract_test
    async def test_a_takeover_at_the_other_fences_the_old_owner(self, bench: Bench) -> None:
        other = await bench.another()
        consumer = await bench.consumer(segments=1)
        (row,) = await bench.owner(consumer, 1)
        await bench.ends(1)
        (taken,) = (await other.claim(consumer.id, bench.node(2), now=bench.world.now(), most=1)).progress
        with pytest.raises(Fenced):
            await bench.append(bench.draft(), commit=commit_of(row, position=1))
        await other.write(Request(commit=commit_of(taken, position=1)))
        assert (await bench.progress(consumer)).position == 1


class SqlContract(Contract):
    """Functions inside the transaction read and write rows of the application's own tables."""

    async def _table(self, bench: Bench) -> None:
        def create(sql: SqlTransaction) -> Sequence[Draft]:
            sql.execute("CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)")
            return ()

        await bench.append(apply=(create,))

    async def _balances(self, bench: Bench) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []

        def read(sql: SqlTransaction) -> Sequence[Draft]:
            found.extend(sql.execute("SELECT name, balance FROM account ORDER BY name"))
            return ()

        await bench.append(apply=(read,))
        return found

    @contract_test
    async def test_rows_and_events_are_stored_together(self, bench: Bench) -> None:
        await self._table(bench)

        def deposit(sql: SqlTransaction) -> Sequence[Draft]:
            sql.execute("INSERT INTO account VALUES (?, ?)", ("ann", 10))
            ((balance,),) = sql.execute("SELECT balance FROM account WHERE name = 'ann'")
            return [bench.draft("Paid", data=str(balance).encode())]

        await bench.append(apply=(deposit,))
        assert await self._balances(bench) == [("ann", 10)]
        assert [row[11] for row in await bench.rows()] == [b"10"]

    @contract_test
    async def test_a_function_sees_rows_of_earlier_requests_of_its_batch(self, bench: Bench) -> None:
        await self._table(bench)

        def deposit(sql: SqlTransaction) -> Sequence[Draft]:
            sql.execute(
                "INSERT INTO account VALUES ('ann', 1) ON CONFLICT (name) DO UPDATE SET balance = account.balance + 1"
            )
            return ()

        await bench.answers(*(Request(apply=(deposit,)) for _ in range(20)))
        assert await self._balances(bench) == [("ann", 20)]

    @contract_test
    async def test_a_function_that_raises_undoes_the_rows_of_its_request_and_no_others(self, bench: Bench) -> None:
        await self._table(bench)

        def opens(name: str) -> Request:
            def insert(sql: SqlTransaction) -> Sequence[Draft]:
                sql.execute("INSERT INTO account VALUES (?, 0)", (name,))
                return [bench.draft()]

            def check(sql: SqlTransaction) -> Sequence[Draft]:
                if name == "bob":
                    raise ValueError("no such person")
                return ()

            return Request(apply=(insert, check))

        answers = await bench.answers(opens("ann"), opens("bob"), opens("eve"), opens("eve"))
        assert [type(answer) for answer in answers] == [Written, ApplyFailed, Written, ApplyFailed]
        assert await self._balances(bench) == [("ann", 0), ("eve", 0)]
        assert len(await bench.rows()) == 2

    @contract_test
    async def test_rows_are_undone_when_an_event_of_the_request_cannot_be_stored(self, bench: Bench) -> None:
        await self._table(bench)
        known = bench.draft()
        await bench.append(known)

        def insert(sql: SqlTransaction) -> Sequence[Draft]:
            sql.execute("INSERT INTO account VALUES ('ann', 0)")
            return [known]

        answers = await bench.answers(Request(apply=(insert,)), Request(events=[bench.draft()]))
        assert [isinstance(answer, Written) for answer in answers] == [False, True]
        assert await self._balances(bench) == []

    @contract_test
    async def test_a_function_cannot_end_the_transaction_it_runs_in(self, bench: Bench) -> None:
        await self._table(bench)
        for statement in ("COMMIT", "-- done\n rollback;", "/* */ BEGIN", "savepoint mine"):

            def ends(sql: SqlTransaction, statement: str = statement) -> Sequence[Draft]:
                sql.execute("INSERT INTO account VALUES ('ann', 0)")
                sql.execute(statement)
                return ()

            with pytest.raises(ApplyFailed):
                await bench.append(apply=(ends,))
        assert await self._balances(bench) == []
