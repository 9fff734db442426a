"""The contract can fail: a store with a planted bug is found by the test that says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import pytest

from ensue.errors import EnsueError
from ensue.events.stored import Draft, Row
from ensue.store.base import (
    ConsumerCommit,
    Expected,
    Node,
    Operation,
    Page,
    Request,
    Selection,
    Standing,
    Store,
    Written,
)
from ensue.store.memory import MemoryStore
from ensue.testing.contracts import StoreContract


class NoIdempotency(MemoryStore):
    def _request(self, request: Request) -> Written:
        return super()._request(msgspec.structs.replace(request, idempotency_key=None))


class KeyAfterConditions(MemoryStore):
    def _request(self, request: Request) -> Written:
        self._check(request)
        return super()._request(request)


class RemembersRefusals(MemoryStore):
    def _check(self, request: Request) -> None:
        if request.idempotency_key is not None:
            self._requests[request.idempotency_key] = (request.fingerprint, Written(1, 0), 0)
        super()._check(request)


class VersionsAsTheyWereBeforeTheBatch(MemoryStore):
    def _answer(self) -> None:
        before = dict(self._versions)
        now, self._check_versions = self._versions, before
        super()._answer()
        assert now is self._versions

    def _check(self, request: Request) -> None:
        now, self._versions = self._versions, self._check_versions
        try:
            super()._check(request)
        finally:
            self._versions = now


class OnlyTheFirstCondition(MemoryStore):
    def _check(self, request: Request) -> None:
        super()._check(msgspec.structs.replace(request, conditions=request.conditions[:1]))


class OneOfTheTags(MemoryStore):
    def _matches(self, row: Row, selection: Selection) -> bool:
        return not selection or any(
            self._matches_term(row, msgspec.structs.replace(term, tags=term.tags[:1])) for term in selection
        )


class TimeGoesBack(MemoryStore):
    def _append(self, draft: Draft) -> None:
        self._recorded_at = self._world.now()
        super()._append(draft)


class AnyId(MemoryStore):
    def _append(self, draft: Draft) -> None:
        super()._append(draft)
        self._ids.clear()


class AnswersInAnyOrder(MemoryStore):
    def _answer(self) -> None:
        self._queue.reverse()
        super()._answer()


class StaysBehind(MemoryStore):
    async def read(self, selection: Selection = (), **window: Any) -> Page:
        page = await super().read(selection, **window)
        return Page(page.rows, page.rows[-1][0]) if page.rows else page


class RunsAhead(MemoryStore):
    async def read(self, selection: Selection = (), **window: Any) -> Page:
        page = await super().read(selection, **window)
        return page if window.get("backwards") else Page(page.rows, max(page.reached, len(self._rows)))


class SleepsOn(MemoryStore):
    async def changed(self, after: int) -> int:
        return await super().changed(max(after, len(self._rows)))


class ForgetsFormerNames(MemoryStore):
    async def rename(self, name: str, former: Collection[str]) -> None:
        self._opened()


class BuriesAgain(MemoryStore):
    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        for position in positions:
            self._rows[position - 1] = (*self._rows[position - 1][:11], tombstone)


class BuriesTags(MemoryStore):
    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        await super().bury(positions, tombstone)
        for position in positions:
            self._row_tags[position - 1] = frozenset()


class NoFence(MemoryStore):
    def _check(self, request: Request) -> None:
        super()._check(msgspec.structs.replace(request, commit=None))


class FenceStays(MemoryStore):
    async def claim(self, consumer: int, node: Node, **rest: Any) -> Standing:
        before = {place: row.fence for place, row in self._progress.items()}
        await super().claim(consumer, node, **rest)
        for place, row in self._progress.items():
            self._progress[place] = msgspec.structs.replace(row, fence=before[place])
        return await self.standing(consumer)


class ProgressApartFromEvents(MemoryStore):
    def _request(self, request: Request) -> Written:
        if request.commit is not None:
            self._commit(request.commit)
            request = msgspec.structs.replace(request, commit=None)
        return super()._request(request)


class LanesStay(MemoryStore):
    def _commit(self, commit: ConsumerCommit) -> None:
        super()._commit(msgspec.structs.replace(commit, lanes_dropped=()))


class AnyLaneIsReleased(MemoryStore):
    def _parked(self, operation: Operation) -> Any:
        return None


class HalfOfARequest(MemoryStore):
    def _check(self, request: Request) -> None:
        for expected in request.expected[:-1]:
            super()._check(Request(expected=(Expected(expected.stream, expected.version),)))
            self._versions[expected.stream] = expected.version + 1
        super()._check(msgspec.structs.replace(request, expected=request.expected[-1:]))


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (NoIdempotency, StoreContract.test_a_known_key_returns_the_first_answer_and_stores_nothing),
        (KeyAfterConditions, StoreContract.test_a_repetition_is_known_before_its_conditions_are_looked_at),
        (RemembersRefusals, StoreContract.test_only_successes_are_remembered),
        (
            VersionsAsTheyWereBeforeTheBatch,
            StoreContract.test_versions_are_checked_against_earlier_requests_of_the_same_batch,
        ),
        (OnlyTheFirstCondition, StoreContract.test_all_conditions_of_a_request_must_hold),
        (OneOfTheTags, StoreContract.test_a_term_needs_one_of_its_types_and_all_of_its_tags),
        (TimeGoesBack, StoreContract.test_recorded_times_never_fall_when_the_clock_goes_back),
        (AnyId, StoreContract.test_an_id_that_is_in_the_log_refuses_that_request_only),
        (AnswersInAnyOrder, StoreContract.test_positions_are_dense_from_one_in_the_order_of_the_calls),
        (StaysBehind, StoreContract.test_a_page_that_holds_all_there_is_has_reached_the_head),
        (RunsAhead, StoreContract.test_pages_follow_each_other_without_gap_or_repeat),
        (SleepsOn, StoreContract.test_changed_returns_at_once_where_there_is_more),
        (ForgetsFormerNames, StoreContract.test_former_names_count_as_the_new_one_in_every_selection),
        (BuriesAgain, StoreContract.test_a_tombstone_stays_as_it_is),
        (BuriesTags, StoreContract.test_a_tombstone_takes_the_place_of_a_payload_and_of_nothing_else),
        (NoFence, StoreContract.test_a_commit_from_an_old_revision_is_fenced_and_nothing_of_it_is_stored),
        (FenceStays, StoreContract.test_a_commit_under_an_old_fence_is_refused),
        (ProgressApartFromEvents, StoreContract.test_a_commit_whose_condition_fails_moves_nothing),
        (LanesStay, StoreContract.test_lanes_are_written_replaced_and_dropped_with_progress),
        (AnyLaneIsReleased, StoreContract.test_an_operation_on_a_key_that_has_changed_is_a_conflict),
        (HalfOfARequest, StoreContract.test_one_wrong_version_of_several_streams_stores_nothing_to_any),
    ],
)
def test_a_planted_bug_is_found(
    bug: type[MemoryStore], test: Callable[[StoreContract], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.testing.contracts.bench.LIMIT_SECONDS", 0.3)

    class Held(StoreContract):
        def __init__(self, made: MemoryStore) -> None:
            self.made = made

        def store(self) -> Store:
            return self.made

    test(Held(MemoryStore()))
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError, EnsueError)):
        test(Held(bug()))


def test_an_adapter_that_leaves_out_the_contract_of_a_capability_fails() -> None:
    class Shared(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.capabilities = msgspec.structs.replace(self.capabilities, many_processes=True)

    class Held(StoreContract):
        def store(self) -> Store:
            return Shared()

    with pytest.raises(AssertionError, match="the same for SharedContract"):
        Held().test_it_is_held_to_all_that_it_declares()
