"""What a store promises to those who write: order, atomicity, conditions, idempotency, time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ensue.errors import ApplyFailed, Conflict, DuplicateEventId, IdempotencyKeyReused, Unavailable
from ensue.events.stored import Draft, tag_hash
from ensue.store.base import Answered, Condition, Expected, Request, SqlTransaction, Term, Written
from ensue.testing.contracts.bench import SECOND, Bench, Contract, contract_test, key_of

__all__ = ["AppendingContract"]


class AppendingContract(Contract):
    """See the module."""

    # --------------------------------------------------------------------------------------------- order and atomicity

    @contract_test
    async def test_positions_are_dense_from_one_in_the_order_of_the_calls(self, bench: Bench) -> None:
        sizes = [1 + number % 3 for number in range(200)]
        requests = [Request(events=[bench.draft() for _ in range(size)]) for size in sizes]
        answers = await bench.answers(*requests)
        expected: list[Written] = []
        for size in sizes:
            first = expected[-1].last + 1 if expected else 1
            expected.append(Written(first, first + size - 1))
        assert answers == expected
        assert [row[0] for row in await bench.rows()] == list(range(1, sum(sizes) + 1))

    @contract_test
    async def test_events_of_a_request_are_contiguous_and_in_the_order_given(self, bench: Bench) -> None:
        requests = [Request(events=[bench.draft() for _ in range(5)]) for _ in range(40)]
        await bench.answers(*requests)
        assert [row[1] for row in await bench.rows()] == [event.id for request in requests for event in request.events]

    @contract_test
    async def test_requests_of_concurrent_callers_are_each_stored_whole(self, bench: Bench) -> None:
        async def caller(name: str) -> list[Written]:
            return [await bench.append(*(bench.draft(key=name) for _ in range(3))) for _ in range(10)]

        answers = await asyncio.gather(*(caller(str(number)) for number in range(8)))
        rows = await bench.rows()
        for number, written in enumerate(answers):
            for one in written:
                assert one.last - one.first == 2
                assert {row[3] for row in rows[one.first - 1 : one.last]} == {key_of(str(number))}

    @contract_test
    async def test_what_was_written_comes_back_byte_for_byte(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        draft = bench.draft("Paid", "o1", ["customer=c1"], version=3, data=b'{"amount":"1.50"}', cause=1, root=1)
        await bench.append(draft)
        row = (await bench.rows())[1]
        assert (await bench.log.types())[row[2]] == ("Paid", 3)
        assert (row[0], row[1], row[3], row[4]) == (2, draft.id, draft.stream, 1)
        assert (row[6], row[7], row[8], row[9]) == (1, 1, None, None)
        assert (row[10], row[11]) == (draft.meta, draft.data)

    @contract_test
    async def test_a_request_without_events_is_answered_behind_the_head(self, bench: Bench) -> None:
        await bench.append(bench.draft(), bench.draft())
        assert await bench.append() == Written(3, 2)
        assert await bench.append(bench.draft()) == Written(3, 3)

    @contract_test
    async def test_a_request_of_many_thousand_events_is_stored_whole(self, bench: Bench) -> None:
        events = [bench.draft(key=str(number % 7)) for number in range(5_000)]
        (written,) = await bench.answers(Request(events=events))
        assert written == Written(1, 5_000)
        assert [row[1] for row in await bench.rows()] == [event.id for event in events]

    @contract_test
    async def test_a_write_goes_on_when_its_caller_is_cancelled(self, bench: Bench) -> None:
        cancelled = bench.log.write(Request(events=[bench.draft()]))
        cancelled.cancel()
        assert await bench.append(bench.draft()) == Written(2, 2)

    @contract_test
    async def test_closing_answers_what_was_queued(self, bench: Bench) -> None:
        futures = [bench.log.write(Request(events=[bench.draft()])) for _ in range(50)]
        await bench.log.close()
        assert [future.result().first for future in futures] == list(range(1, 51))

    @contract_test
    async def test_a_closed_log_takes_nothing_and_may_be_closed_again(self, bench: Bench) -> None:
        await bench.log.close()
        await bench.log.close()
        with pytest.raises(Unavailable):
            await bench.append(bench.draft())
        with pytest.raises(Unavailable):
            await bench.log.read()
        with pytest.raises(Unavailable):
            await bench.log.changed(0)
        with pytest.raises(Unavailable):
            await bench.log.consumers()

    @contract_test
    async def test_a_closed_log_may_be_opened_again(self, bench: Bench) -> None:
        await bench.append(bench.draft(key="a"))
        identity = bench.log.log_id
        await bench.log.close()
        await bench.open()
        assert bench.log.log_id == identity

    @contract_test
    async def test_room_comes_back_when_a_long_queue_has_been_written(self, bench: Bench) -> None:
        events = [bench.draft() for _ in range(10)]
        futures = [bench.log.write(Request()) for _ in range(25_000)]
        await bench.log.room()
        await bench.log.room()
        await asyncio.wait(futures[-1:])
        await bench.append(*events)

    # -------------------------------------------------------------------------------------------------------- versions

    @contract_test
    async def test_versions_are_dense_within_each_stream(self, bench: Bench) -> None:
        for name in ("a", "b", "a", None, "a", "b"):
            await bench.append(bench.draft(key=name))
        assert [row[4] for row in await bench.rows()] == [1, 1, 2, None, 3, 2]

    @contract_test
    async def test_an_expected_version_is_the_number_of_events_of_the_stream(self, bench: Bench) -> None:
        await bench.append(bench.draft(key="a"), bench.draft(key="a"), expected=(Expected(key_of("a"), 0),))
        await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 2), Expected(key_of("b"), 0)))
        assert [row[4] for row in await bench.rows()] == [1, 2, 3]

    @contract_test
    async def test_another_version_is_a_conflict_that_names_both(self, bench: Bench) -> None:
        await bench.append(bench.draft(key="a"))
        with pytest.raises(Conflict) as conflict:
            await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 5),))
        assert (conflict.value.expected, conflict.value.actual) == (5, 1)
        assert len(await bench.rows()) == 1

    @contract_test
    async def test_one_wrong_version_of_several_streams_stores_nothing_to_any(self, bench: Bench) -> None:
        both = (Expected(key_of("a"), 0), Expected(key_of("b"), 1))
        with pytest.raises(Conflict):
            await bench.append(bench.draft(key="a"), bench.draft(key="b"), expected=both)
        assert await bench.rows() == []
        await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 0),))

    @contract_test
    async def test_versions_are_checked_against_earlier_requests_of_the_same_batch(self, bench: Bench) -> None:
        def at(version: int) -> Request:
            return Request(events=[bench.draft(key="a")], expected=(Expected(key_of("a"), version),))

        answers = await bench.answers(at(0), at(0), at(1), at(1), at(2))
        assert [type(answer) for answer in answers] == [Written, Conflict, Written, Conflict, Written]
        assert [row[4] for row in await bench.rows()] == [1, 2, 3]

    @contract_test
    async def test_a_refused_request_leaves_its_neighbours_alone(self, bench: Bench) -> None:
        requests = [
            Request(events=[bench.draft(key=f"k{number}")], expected=(Expected(key_of(f"k{number}"), number % 2),))
            for number in range(100)
        ]
        answers = await bench.answers(*requests)
        assert [isinstance(answer, Written) for answer in answers] == [number % 2 == 0 for number in range(100)]
        assert [row[0] for row in await bench.rows()] == list(range(1, 51))

    # ------------------------------------------------------------------------------------------------------ conditions

    async def _holds(self, bench: Bench, condition: Condition) -> int | None:
        """None if it holds, else the position that contradicts it."""
        (answer,) = await bench.answers(Request(conditions=(condition,)))
        if isinstance(answer, Written):
            return None
        assert isinstance(answer, Conflict)
        assert answer.expected == condition.after
        return answer.actual

    @contract_test
    async def test_a_condition_fails_on_the_first_event_after_its_position_that_matches(self, bench: Bench) -> None:
        for _ in range(3):
            await bench.append(bench.draft("Paid", tags=["customer=c1"]))
        selection = (Term(types=("Paid",), tags=(tag_hash("customer=c1"),)),)
        assert [await self._holds(bench, Condition(selection, after)) for after in range(5)] == [1, 2, 3, None, None]

    @contract_test
    async def test_a_term_needs_one_of_its_types_and_all_of_its_tags(self, bench: Bench) -> None:
        await bench.append(bench.draft("Paid", "o1", ["customer=c1", "shop=s1"]))
        order, customer, shop, other = key_of("o1"), *map(tag_hash, ("customer=c1", "shop=s1", "shop=s2"))
        matching = [
            Term(types=("Paid",)),
            Term(types=("Opened", "Paid")),
            Term(tags=(order,)),
            Term(tags=(customer,)),
            Term(tags=(customer, shop)),
            Term(tags=(customer, order)),
            Term(tags=(order, customer, shop)),
            Term(types=("Paid",), tags=(shop, order)),
        ]
        different = [
            Term(types=("Opened",)),
            Term(tags=(other,)),
            Term(tags=(customer, other)),
            Term(tags=(order, other)),
            Term(types=("Opened",), tags=(customer,)),
        ]
        assert [await self._holds(bench, Condition((term,), 0)) for term in matching] == [1] * len(matching)
        assert [await self._holds(bench, Condition((term,), 0)) for term in different] == [None] * len(different)
        assert await self._holds(bench, Condition((*different, matching[0]), 0)) == 1
        assert await self._holds(bench, Condition((), 0)) == 1

    @contract_test
    async def test_a_condition_sees_earlier_requests_of_the_same_batch_and_no_later_ones(self, bench: Bench) -> None:
        def seat(number: int) -> Request:
            nobody = Condition((Term(types=("Taken",), tags=(tag_hash(f"seat={number}"),)),), 0)
            return Request(events=[bench.draft("Taken", tags=[f"seat={number}"])], conditions=(nobody,))

        answers = await bench.answers(seat(1), seat(2), seat(1), seat(3), seat(2), seat(1))
        assert [type(answer) for answer in answers] == [Written, Written, Conflict, Written, Conflict, Conflict]
        assert len(await bench.rows()) == 3

    @contract_test
    async def test_all_conditions_of_a_request_must_hold(self, bench: Bench) -> None:
        await bench.append(bench.draft("Paid"))
        holds, fails = Condition((Term(types=("Opened",)),), 0), Condition((Term(types=("Paid",)),), 0)
        with pytest.raises(Conflict):
            await bench.append(bench.draft(), conditions=(holds, fails))
        await bench.append(bench.draft(), conditions=(holds, Condition((Term(types=("Paid",)),), 1)))
        assert await bench.names() == ["Paid", "Opened"]

    @contract_test
    async def test_a_condition_on_a_type_sees_events_of_its_former_names(self, bench: Bench) -> None:
        await bench.append(bench.draft("Settled"))
        await bench.log.rename("Paid", ["Settled"])
        assert await self._holds(bench, Condition((Term(types=("Paid",)),), 0)) == 1
        await bench.append(bench.draft("Paid"))
        assert await self._holds(bench, Condition((Term(types=("Settled",)),), 1)) == 2

    # ----------------------------------------------------------------------------------------------------- idempotency

    @contract_test
    async def test_a_known_key_returns_the_first_answer_and_stores_nothing(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        first = await bench.append(
            bench.draft(), bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16, result=lambda: b"seat 7"
        )
        again = await bench.append(
            bench.draft(), bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16, result=lambda: b"seat 8"
        )
        assert first == Written(2, 3, False, b"seat 7")
        assert again == Written(2, 3, True, b"seat 7")
        assert len(await bench.rows()) == 3

    @contract_test
    async def test_a_known_key_with_another_fingerprint_is_refused(self, bench: Bench) -> None:
        await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16)
        with pytest.raises(IdempotencyKeyReused):
            await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"g" * 16)
        assert len(await bench.rows()) == 1

    @contract_test
    async def test_a_repetition_is_known_before_its_conditions_are_looked_at(self, bench: Bench) -> None:
        nothing_paid = Condition((Term(types=("Paid",)),), 0)

        def request() -> Request:
            return Request(
                events=[bench.draft("Paid", "a")],
                expected=(Expected(key_of("a"), 0),),
                conditions=(nothing_paid,),
                idempotency_key=b"k" * 16,
            )

        assert await bench.answers(request()) == [Written(1, 1)]
        assert await bench.answers(request()) == [Written(1, 1, True)]

    @contract_test
    async def test_a_key_is_known_to_later_requests_of_the_same_batch(self, bench: Bench) -> None:
        def request(key: bytes) -> Request:
            return Request(events=[bench.draft()], idempotency_key=key * 16)

        answers = await bench.answers(request(b"a"), request(b"b"), request(b"a"), request(b"b"))
        assert answers == [Written(1, 1), Written(2, 2), Written(1, 1, True), Written(2, 2, True)]

    @contract_test
    async def test_only_successes_are_remembered(self, bench: Bench) -> None:
        await bench.append(bench.draft(key="a"))
        with pytest.raises(Conflict):
            await bench.append(bench.draft(key="a"), expected=(Expected(key_of("a"), 0),), idempotency_key=b"k" * 16)
        written = await bench.append(
            bench.draft(key="a"), expected=(Expected(key_of("a"), 1),), idempotency_key=b"k" * 16
        )
        assert written == Written(2, 2)

    @contract_test
    async def test_a_key_is_remembered_for_a_request_without_events(self, bench: Bench) -> None:
        await bench.append(idempotency_key=b"k" * 16, result=lambda: b"nothing to do")
        await bench.append(bench.draft())
        assert await bench.append(bench.draft(), idempotency_key=b"k" * 16) == Written(1, 0, True, b"nothing to do")

    @contract_test
    async def test_parts_of_a_request_are_known_by_keys_of_their_own(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        parts = (
            Answered(b"a" * 16, b"f" * 16, 0, 1, b"one"),
            Answered(b"b" * 16, b"f" * 16, 1, 0, b"none"),
            Answered(b"c" * 16, b"f" * 16, 1, 2, b"two"),
        )
        assert await bench.append(bench.draft(), bench.draft(), bench.draft(), answers=parts) == Written(2, 4)
        again = [Request(idempotency_key=part.key, fingerprint=b"f" * 16, events=[bench.draft()]) for part in parts]
        assert await bench.answers(*again) == [
            Written(2, 2, True, b"one"),
            Written(3, 2, True, b"none"),
            Written(3, 4, True, b"two"),
        ]
        with pytest.raises(IdempotencyKeyReused):
            await bench.append(bench.draft(), idempotency_key=b"a" * 16, fingerprint=b"g" * 16)

    @contract_test
    async def test_where_a_part_is_known_nothing_of_the_request_is_stored(self, bench: Bench) -> None:
        def request(*keys: bytes) -> Request:
            parts = [Answered(key * 16, b"f" * 16, number, 1, b"") for number, key in enumerate(keys)]
            return Request(events=[bench.draft() for _ in keys], answers=parts)

        answers = await bench.answers(request(b"a", b"b"), request(b"c", b"b"), request(b"c", b"d"))
        assert answers[0] == Written(1, 2)
        assert isinstance(answers[1], Conflict)
        assert answers[1].expected == -1
        assert answers[2] == Written(3, 4)
        with pytest.raises(Conflict):
            await bench.append(bench.draft(), answers=[Answered(b"d" * 16, b"f" * 16, 0, 1, b"")])
        assert len(await bench.rows()) == 4

    # ------------------------------------------------------------------------------------------------------- event ids

    @contract_test
    async def test_an_id_that_is_in_the_log_refuses_that_request_only(self, bench: Bench) -> None:
        known = bench.draft(key="a")
        await bench.append(known)
        answers = await bench.answers(
            Request(events=[bench.draft(key="a")]),
            Request(events=[bench.draft(key="a"), bench.draft(key="a", id=known.id)]),
            Request(events=[bench.draft(key="a")]),
        )
        assert [type(answer) for answer in answers] == [Written, DuplicateEventId, Written]
        assert [row[4] for row in await bench.rows()] == [1, 2, 3]

    @contract_test
    async def test_an_id_given_twice_in_one_batch_is_stored_once(self, bench: Bench) -> None:
        twice = bench.draft()
        requests = [Request(events=[twice if number in (20, 60) else bench.draft()]) for number in range(100)]
        answers = await bench.answers(*requests)
        assert [number for number, answer in enumerate(answers) if isinstance(answer, DuplicateEventId)] == [60]
        assert [row[0] for row in await bench.rows()] == list(range(1, 100))

    @contract_test
    async def test_an_id_given_twice_in_one_request_refuses_it(self, bench: Bench) -> None:
        twice = bench.draft()
        with pytest.raises(DuplicateEventId):
            await bench.append(twice, bench.draft(), twice)
        assert await bench.rows() == []

    @contract_test
    async def test_the_key_of_a_request_refused_for_its_id_is_not_remembered(self, bench: Bench) -> None:
        known = bench.draft()
        await bench.append(known)
        with pytest.raises(DuplicateEventId):
            await bench.append(known, idempotency_key=b"k" * 16)
        assert await bench.append(bench.draft(), idempotency_key=b"k" * 16) == Written(2, 2)

    # ------------------------------------------------------------------------------------------------------------ time

    @contract_test
    async def test_recorded_times_never_fall_when_the_clock_goes_back(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        bench.world.moved = -3_600 * SECOND
        await bench.append(bench.draft())
        bench.world.moved = 5 * SECOND
        await bench.append(bench.draft())
        first, second, third = (row[5] for row in await bench.rows())
        assert first == second < third

    # ----------------------------------------------------------------------------------- functions in the transaction

    @contract_test
    async def test_events_of_functions_come_first_in_the_order_of_the_functions(self, bench: Bench) -> None:
        def emits(*names: str) -> Sequence[Draft]:
            return [bench.draft(name) for name in names]

        await bench.append(
            bench.draft("Last"), apply=(lambda _: emits("A", "B"), lambda _: emits(), lambda _: emits("C"))
        )
        assert await bench.names() == ["A", "B", "C", "Last"]

    @contract_test
    async def test_a_function_that_raises_undoes_its_request_and_no_other(self, bench: Bench) -> None:
        wrong = ValueError("no such account")

        def fails(_: SqlTransaction) -> Sequence[Draft]:
            raise wrong

        answers = await bench.answers(
            Request(events=[bench.draft(key="a")]),
            Request(
                events=[bench.draft(key="a")],
                apply=(lambda _: [bench.draft(key="a")], fails),
                idempotency_key=b"k" * 16,
            ),
            Request(events=[bench.draft(key="a")]),
        )
        failed = answers[1]
        assert isinstance(failed, ApplyFailed)
        assert (failed.unit, failed.__cause__) == (1, wrong)
        assert [row[4] for row in await bench.rows()] == [1, 2]
        assert await bench.append(bench.draft(), idempotency_key=b"k" * 16) == Written(3, 3)

    @contract_test
    async def test_functions_of_a_refused_or_repeated_request_are_not_called(self, bench: Bench) -> None:
        calls: list[str] = []

        def called(_: SqlTransaction) -> Sequence[Draft]:
            calls.append("called")
            return ()

        with pytest.raises(Conflict):
            await bench.append(expected=(Expected(key_of("a"), 9),), apply=(called,))
        await bench.append(apply=(called,), idempotency_key=b"k" * 16)
        await bench.append(apply=(called,), idempotency_key=b"k" * 16)
        assert calls == ["called"]

    @contract_test
    async def test_the_result_is_asked_for_when_the_functions_have_run(self, bench: Bench) -> None:
        order: list[str] = []

        def runs(_: SqlTransaction) -> Sequence[Draft]:
            order.append("function")
            return ()

        def result() -> bytes:
            order.append("result")
            return b"done"

        assert (await bench.append(apply=(runs,), result=result)).result == b"done"
        assert order == ["function", "result"]
