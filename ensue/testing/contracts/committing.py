"""What a store promises to consumers while they work: progress, lanes, dead letters and what operators do to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
import pytest

from ensue.errors import ApplyFailed, Conflict, Fenced
from ensue.events.stored import Draft
from ensue.store.base import (
    Consumer,
    ConsumerCommit,
    DeadLetter,
    Delivery,
    Expected,
    Fence,
    Lane,
    LaneState,
    Operation,
    Progress,
    Request,
    SqlTransaction,
    Standing,
    Written,
)
from ensue.testing.contracts.bench import SECOND, Bench, Contract, commit_of, contract_test, key_of

__all__ = ["CommittingContract"]


def _lane(consumer: Consumer, name: str, *, after: int = 3, state: str = LaneState.LATE, attempts: int = 0) -> Lane:
    return Lane(
        consumer=consumer.id, segment=0, key=key_of(name), key_text=f"order={name}", after=after, state=state,
        attempts=attempts,
    )  # fmt: skip


def _letter(consumer: Consumer, name: str, position: int) -> DeadLetter:
    return DeadLetter(
        id=0, consumer=consumer.id, position=position, key=key_of(name), key_text=f"order={name}",
        reason="ValueError: no", traceback="Traceback …", attempts=3, parked_at=1_000,
    )  # fmt: skip


class CommittingContract(Contract):
    """See the module."""

    async def _owned(self, bench: Bench, name: str = "billing") -> tuple[Consumer, Progress]:
        consumer = await bench.consumer(name, segments=1)
        (row,) = await bench.owner(consumer)
        return consumer, row

    # --------------------------------------------------------------------------------------------------------- progress

    @contract_test
    async def test_a_commit_moves_progress_and_stores_its_events(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        commit = commit_of(row, position=5, ahead=(7, 9, 12), count=4, digest=1_234)
        assert await bench.append(bench.draft("Paid"), commit=commit) == Written(1, 1)
        after = await bench.progress(consumer)
        assert after == msgspec.structs.replace(
            row, position=5, ahead=(7, 9, 12), count=4, digest=1_234, rev=row.rev + 1
        )

    @contract_test
    async def test_counts_and_digests_add_up_modulo_two_to_the_64th(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        for digest in (2**64 - 5, 3, 9):
            await bench.append(commit=commit_of(await bench.progress(consumer), count=2, digest=digest))
        after = await bench.progress(consumer)
        assert (after.count, after.digest, after.rev) == (6, 7, row.rev + 3)

    @contract_test
    async def test_a_commit_from_an_old_revision_is_fenced_and_nothing_of_it_is_stored(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        await bench.append(commit=commit_of(row, position=1))
        stale = commit_of(row, position=2, lanes=(_lane(consumer, "a"),), parked=(_letter(consumer, "a", 4),))
        with pytest.raises(Fenced):
            await bench.append(bench.draft(), commit=stale)
        assert (await bench.progress(consumer)).position == 1
        assert (await bench.rows(), (await bench.log.standing(consumer.id)).lanes) == ([], ())
        assert await bench.log.dead_letters() == ()

    @contract_test
    async def test_a_commit_under_an_old_fence_is_refused(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        await bench.ends(1)
        await bench.owner(consumer, 2)
        with pytest.raises(Fenced):
            await bench.append(bench.draft(), commit=commit_of(row, position=1))
        assert await bench.rows() == []

    @contract_test
    async def test_a_commit_for_a_segment_that_is_not_there_is_refused(self, bench: Bench) -> None:
        _, row = await self._owned(bench)
        for fence in (Fence(row.consumer, 99, 0, 0), Fence(row.consumer + 1, 0, 0, 0)):
            with pytest.raises(Fenced):
                await bench.append(commit=ConsumerCommit(fence=fence, position=1, ahead=(), count=0, digest=0))

    @contract_test
    async def test_of_two_commits_from_one_revision_in_one_batch_the_first_is_stored(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        first, second = (
            Request(events=[bench.draft(name)], commit=commit_of(row, position=position))
            for name, position in (("Paid", 1), ("Opened", 2))
        )
        answers = await bench.answers(first, second)
        assert [type(answer) for answer in answers] == [Written, Fenced]
        assert (await bench.names(), (await bench.progress(consumer)).position) == (["Paid"], 1)

    @contract_test
    async def test_a_commit_whose_condition_fails_moves_nothing(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        with pytest.raises(Conflict):
            await bench.append(
                bench.draft(key="a"), expected=(Expected(key_of("a"), 1),), commit=commit_of(row, position=3)
            )
        assert await bench.progress(consumer) == row

    @contract_test
    async def test_a_commit_whose_function_fails_moves_nothing(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)

        def fails(_: SqlTransaction) -> Sequence[Draft]:
            raise KeyError("no such row")

        with pytest.raises(ApplyFailed):
            await bench.append(apply=(fails,), commit=commit_of(row, position=3, lanes=(_lane(consumer, "a"),)))
        assert await bench.log.standing(consumer.id) == Standing((row,), ())

    @contract_test
    async def test_the_fence_is_looked_at_before_versions(self, bench: Bench) -> None:
        _, row = await self._owned(bench)
        await bench.append(commit=commit_of(row))
        with pytest.raises(Fenced):
            await bench.append(commit=commit_of(row), expected=(Expected(key_of("a"), 7),))

    @contract_test
    async def test_a_repeated_commit_is_answered_by_its_key_not_by_its_fence(self, bench: Bench) -> None:
        _, row = await self._owned(bench)
        first = await bench.append(bench.draft(), commit=commit_of(row), idempotency_key=b"k" * 16)
        again = await bench.append(bench.draft(), commit=commit_of(row), idempotency_key=b"k" * 16)
        assert again == msgspec.structs.replace(first, replayed=True)

    @contract_test
    async def test_progress_clears_the_mark_of_an_unclean_takeover_when_it_says_so(self, bench: Bench) -> None:
        consumer, _ = await self._owned(bench)
        await bench.ends(1)
        (row,) = await bench.owner(consumer, 2)
        await bench.append(commit=commit_of(row))
        assert (await bench.progress(consumer)).unclean == 1
        await bench.append(commit=commit_of(await bench.progress(consumer), clear_unclean=True))
        assert (await bench.progress(consumer)).unclean == 0

    # ------------------------------------------------------------------------------------------------------------ lanes

    @contract_test
    async def test_lanes_are_written_replaced_and_dropped_with_progress(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        full = Lane(
            consumer=consumer.id, segment=0, key=key_of("a"), key_text="order=a", after=3, state=LaneState.RETRY,
            attempts=2, due_at=99, error="boom", edit=b'{"x":1}', edits=1, discard=True, rev=5,
        )  # fmt: skip
        await bench.append(commit=commit_of(row, lanes=(full, _lane(consumer, "b"))))
        assert set((await bench.log.standing(consumer.id)).lanes) == {full, _lane(consumer, "b")}
        moved = _lane(consumer, "a", after=8)
        row = await bench.progress(consumer)
        await bench.append(commit=commit_of(row, lanes=(moved,), lanes_dropped=(key_of("b"),)))
        assert (await bench.log.standing(consumer.id)).lanes == (moved,)

    @contract_test
    async def test_lanes_of_one_key_are_apart_for_each_consumer(self, bench: Bench) -> None:
        standings: list[tuple[Lane, ...]] = []
        for name in ("billing", "shipping"):
            consumer, row = await self._owned(bench, name)
            await bench.append(commit=commit_of(row, lanes=(_lane(consumer, "a"),)))
        for consumer in await bench.log.consumers():
            standings.append((await bench.log.standing(consumer.id)).lanes)
        assert [[lane.consumer for lane in lanes] for lanes in standings] == [
            [consumer.id] for consumer in await bench.log.consumers()
        ]

    # ----------------------------------------------------------------------------------------------------- dead letters

    @contract_test
    async def test_dead_letters_get_ids_and_are_listed_by_them(self, bench: Bench) -> None:
        first, row = await self._owned(bench, "billing")
        second, other = await self._owned(bench, "shipping")
        await bench.append(commit=commit_of(row, parked=(_letter(first, "a", 4), _letter(first, "b", 2))))
        await bench.append(commit=commit_of(other, parked=(_letter(second, "a", 4),)))
        letters = await bench.log.dead_letters()
        assert [letter.id for letter in letters] == sorted({letter.id for letter in letters})
        assert [msgspec.structs.replace(letter, id=0) for letter in letters] == [
            _letter(first, "a", 4), _letter(first, "b", 2), _letter(second, "a", 4),
        ]  # fmt: skip
        assert [letter.id for letter in await bench.log.dead_letters(consumer=second.id)] == [letters[2].id]

    @contract_test
    async def test_texts_of_failures_may_hold_any_character(self, bench: Bench) -> None:
        """Where a store cannot keep NUL in a text, it keeps a sign for it."""
        consumer, row = await self._owned(bench)
        letter = msgspec.structs.replace(
            _letter(consumer, "a", 4), key_text="order=\0", reason="\0 \x1b \ud7ff é 𝄞", traceback="\0"
        )
        lane = msgspec.structs.replace(_lane(consumer, "a"), key_text="order=\0", error="\0 no")
        await bench.append(commit=commit_of(row, parked=(letter,), lanes=(lane,)))
        (found,), (kept,) = await bench.log.dead_letters(), (await bench.log.standing(consumer.id)).lanes
        texts = (found.key_text, found.reason, found.traceback, kept.key_text, kept.error)
        wanted = (letter.key_text, letter.reason, letter.traceback, lane.key_text, lane.error)
        assert texts in (wanted, tuple(text and text.replace("\0", "␀") for text in wanted))

    @contract_test
    async def test_what_failures_said_about_events_of_a_tag_is_erased_and_nothing_else(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        about = key_of("c")
        written = await bench.append(
            bench.draft(key="a", tags=("order=c",)), bench.draft(key="b"), bench.draft(key="c")
        )
        letters = [_letter(consumer, name, position) for position, name in enumerate("abc", written.first)]
        lanes = tuple(
            msgspec.structs.replace(_lane(consumer, name, state=state), error="no")
            for name, state in (("a", LaneState.PARKED), ("b", LaneState.PARKED), ("c", LaneState.RETRY))
        )
        await bench.append(commit=commit_of(row, parked=tuple(letters), lanes=lanes))
        await bench.log.erase(about, "gone")
        told = (letters[1].reason, letters[1].traceback)
        found = await bench.log.dead_letters()
        assert [(one.reason, one.traceback) for one in found] == [("gone", ""), told, ("gone", "")]
        kept = {lane.key: lane.error for lane in (await bench.log.standing(consumer.id)).lanes}
        assert kept == {key_of("a"): "gone", key_of("b"): "no", key_of("c"): "no"}

    @contract_test
    async def test_an_operation_releases_a_parked_key_and_resolves_its_letter(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        letters = (_letter(consumer, "a", 4), _letter(consumer, "a", 9), _letter(consumer, "b", 4))
        await bench.append(commit=commit_of(row, parked=letters))
        parked = await bench.parked(consumer, "a", after=3)
        late = msgspec.structs.replace(
            parked, state=LaneState.LATE, attempts=0, error=None, edit=b"{}", edits=1, discard=False
        )
        operation = Operation(lane=late, position=4, resolution="edited", note="typo", by="ann")
        await bench.append(bench.draft("Told"), operation=operation)
        assert (await bench.log.standing(consumer.id)).lanes == (msgspec.structs.replace(late, rev=parked.rev + 1),)
        resolved, *others = await bench.log.dead_letters(open_only=False)
        assert (resolved.position, resolved.key_text) == (4, "order=a")
        assert (resolved.resolution, resolved.note, resolved.by) == ("edited", "typo", "ann")
        assert resolved.resolved_at is not None
        assert [other.resolution for other in others] == [None, None]
        assert await bench.log.dead_letters() == tuple(others)

    @contract_test
    async def test_an_operation_on_a_key_that_has_changed_is_a_conflict(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        await bench.append(commit=commit_of(row, parked=(_letter(consumer, "a", 4),)))
        parked = await bench.parked(consumer, "a", after=3)

        def release(lane: Lane) -> Request:
            late = msgspec.structs.replace(lane, state=LaneState.LATE)
            return Request(
                events=[bench.draft("Told")],
                operation=Operation(lane=late, position=4, resolution="retried", note=None, by="ann"),
            )

        other_rev, other_key = msgspec.structs.replace(parked, rev=parked.rev + 1), _lane(consumer, "b")
        answers = await bench.answers(release(other_rev), release(other_key), release(parked), release(parked))
        assert [type(answer) for answer in answers] == [Conflict, Conflict, Written, Conflict]
        assert await bench.names() == ["Told"]

    @contract_test
    async def test_an_operation_that_is_refused_for_another_reason_changes_nothing(self, bench: Bench) -> None:
        consumer, _ = await self._owned(bench)
        parked = await bench.parked(consumer, "a", after=3)
        late = msgspec.structs.replace(parked, state=LaneState.LATE)
        operation = Operation(lane=late, position=4, resolution="retried", note=None, by="ann")

        def fails(_: SqlTransaction) -> Sequence[Draft]:
            raise ValueError("no")

        with pytest.raises(ApplyFailed):
            await bench.append(operation=operation, apply=(fails,))
        with pytest.raises(Conflict):
            await bench.append(operation=operation, expected=(Expected(key_of("a"), 3),))
        assert (await bench.log.standing(consumer.id)).lanes == (parked,)

    # ------------------------------------------------------------------------------------------------------- deliveries

    @contract_test
    async def test_the_record_of_deliveries_is_made_when_the_functions_have_run(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        order: list[str] = []

        def runs(_: SqlTransaction) -> Sequence[Draft]:
            order.append("function")
            return ()

        def delivery() -> Delivery:
            order.append("delivery")
            return Delivery(consumer.id, 1, 3, bench.world.now(), b"packed")

        await bench.append(apply=(runs,), commit=commit_of(row, delivery=delivery))
        assert order == ["function", "delivery"]
        assert [record.packed for record in await bench.log.deliveries([2])] == [b"packed"]

    @contract_test
    async def test_deliveries_are_found_by_any_position_they_cover(self, bench: Bench) -> None:
        consumer, _ = await self._owned(bench)
        for first, last, data in ((1, 3, b"a"), (2, 9, b"b"), (20_000, 20_010, b"c")):
            record = Delivery(consumer.id, first, last, bench.world.now(), data)
            row = await bench.progress(consumer)
            await bench.append(commit=commit_of(row, delivery=partial(msgspec.structs.replace, record)))

        async def packed(*positions: int) -> list[bytes]:
            return [record.packed for record in await bench.log.deliveries(positions)]

        assert await packed(1) == [b"a"]
        assert await packed(3, 2) == [b"a", b"b"]
        assert await packed(4, 20_010) == [b"b", b"c"]
        assert await packed(10, 19_999, 20_011) == []
        assert await packed() == []

    @contract_test
    async def test_deliveries_are_kept_for_a_week(self, bench: Bench) -> None:
        consumer, row = await self._owned(bench)
        record = Delivery(consumer.id, 1, 1, bench.world.now(), b"packed")
        await bench.append(commit=commit_of(row, delivery=lambda: record))
        bench.world.moved += 6 * 24 * 3_600 * SECOND
        await bench.log.beat(bench.node())
        assert await bench.log.deliveries([1]) == (record,)
