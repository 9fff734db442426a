"""The delivery machine keeps its promises in every state that small logs can reach; machines with a planted bug do not.

The planted bugs are the controls: an explorer that finds nothing proves something only if it finds these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ensue.consumers.machine import Failure, LaneRun, Lookup, Machine, Slot, SlotState
from ensue.events.stored import Row
from ensue.store.base import Request
from tests.consumers.explorer import CASES, Budget, Case, explore


@pytest.mark.parametrize("name", CASES)
def test_every_promise_holds_in_every_state(name: str) -> None:
    report = explore(CASES[name])
    assert not report.wrong, "\n".join([report.wrong, *report.story])
    assert report.quiet, "no state was reached in which everything is done"


# ----------------------------------------------------------------------------------------------- machines with a bug


class PassesWhatRuns(Machine):
    """The mark runs over an event that is still being handled."""

    def _progress(self) -> tuple[int, set[int], list[Slot]]:
        running = [slot for slot in self.slots.values() if slot.state is SlotState.RUNNING]
        for slot in running:
            slot.state = SlotState.GIVEN
        mark, ahead, accounted = super()._progress()
        for slot in running:
            slot.state = SlotState.RUNNING
        return mark, ahead, [slot for slot in accounted if slot not in running]


class KeepsNothingAhead(Machine):
    """Positions finished beyond the mark are not written."""

    def _progress(self) -> tuple[int, set[int], list[Slot]]:
        mark, _, accounted = super()._progress()
        return mark, set(), accounted


class ForgetsTheLane(Machine):
    """A lane is dropped, and with it the positions that it had done ahead of the mark."""

    known: dict[int, bytes]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.known = {}
        super().__init__(*arguments, **options)

    def route(self, position: int, key: bytes, row: Row) -> None:
        self.known = {**self.known, position: key}
        super().route(position, key, row)

    def _forget(self, key: bytes) -> LaneRun:
        self.ahead = {position for position in self.ahead if self.known.get(position, key) != key}
        return super()._forget(key)


class RestsNot(Machine):
    """After a take-over a lane does not wait until the segment has read past what was accounted for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rest_until = self.mark
        for run in self.lanes.values():
            run.seen = self.mark


class ReadsPastTheRouter(Machine):
    """A lane takes events that the segment has not read yet, as long as they are accounted for."""

    def wanted(self, now: int, most: int) -> list[Lookup]:
        self.rest_until = self.mark
        before = max((self.routed, *self.ahead)) + 1
        for run in self.active.values():
            run.seen = before - 1
        return [Lookup(one.key, one.key_text, one.after, before) for one in super().wanted(now, most)]


class DropsOnAnOldRead(Machine):
    """A lane is dropped though an event of its key was routed since it was found to be empty."""

    def route(self, position: int, key: bytes, row: Row) -> None:
        run = self.lanes.get(key)
        seen = run.seen if run is not None else 0
        super().route(position, key, row)
        if run is not None and run.cleared >= seen:
            run.seen = seen


class IgnoresKeyOrder(Machine):
    """An event starts though one before it of its key is not committed."""

    def route(self, position: int, key: bytes, row: Row) -> None:
        super().route(position, key, row)
        slot = self.slots.get(position)
        if slot is not None and slot not in self.waiting:
            self.waiting.append(slot)


class StartsWhileItsLaneIsSent(Machine):
    """A key in a commit that is not answered yet goes on."""

    def commit(self, now: int, *, flush: bool = False) -> Request | None:
        request = super().commit(now, flush=flush)
        if self.flight is not None:
            self.flight.busy = frozenset()
        return request


class ForgetsTheOthers(Machine):
    """When one function inside the commit fails, the rest of the commit is lost."""

    def refused(self, unit: int, failure: Failure, *, event: int | None = None) -> Slot:
        guilty = super().refused(unit, failure, event=event)
        self.finished = []
        return guilty


class ParksSilently(Machine):
    """A key is parked without a word to anybody."""

    def _park(self, slot: Slot, reason: str, traceback: str, now: int) -> None:
        pass


class HearsOldNews(Machine):
    """A row that was read before the key was parked releases it in memory."""

    def lane_changed(self, lane: Any) -> None:
        run = self.lanes.get(lane.key)
        if run is not None and lane.rev <= run.lane.rev:
            lane = type(lane)(
                **{**{name: getattr(lane, name) for name in lane.__struct_fields__}, "rev": run.lane.rev + 1}
            )
        super().lane_changed(lane)


class CountsNoAttempt(Machine):
    """Attempts made before a take-over are not counted."""

    def __init__(self, progress: Any, lanes: Any = (), **options: Any) -> None:
        super().__init__(progress, lanes, **options)
        self.letters = []

    def _pass(self, run: LaneRun, slot: Slot) -> None:
        super()._pass(run, slot)
        run.cleared = run.seen


class GivesUpWhileACallRuns(Machine):
    """A segment that drains does not wait for the calls of it that run."""

    def commit(self, now: int, *, flush: bool = False) -> Request | None:
        running, self.running = self.running, 0
        try:
            return super().commit(now, flush=flush)
        finally:
            self.running = running


class StartsWhileItDrains(Machine):
    """A segment that drains goes on to start what waits."""

    def start(self, most: int, now: int) -> list[Slot]:
        draining, self.draining = self.draining, False
        try:
            return super().start(most, now)
        finally:
            self.draining = draining


class StartsALaneWhileItDrains(Machine):
    """What was looked up before it drained is started all the same."""

    def found(self, lookup: Lookup, row: Row | None, now: int) -> Slot | None:
        draining, self.draining = self.draining, False
        try:
            return super().found(lookup, row, now)
        finally:
            self.draining = draining


class PassesWhatItDoesNotTakeIn(Machine):
    """While it drains it counts as read what it does not take in."""

    def reached(self, position: int) -> None:
        self.routed = max(self.routed, position)


class GoesOnThoughItIsGivenUp(Machine):
    """It takes back that it drains while the commit that gives it up is on its way."""

    def go_on(self) -> None:
        self.draining = False


class NeverGivesUp(Machine):
    """It drains for ever."""

    def commit(self, now: int, *, flush: bool = False) -> Request | None:
        draining, self.draining = self.draining, False
        try:
            return super().commit(now, flush=flush)
        finally:
            self.draining = draining


MACHINES: Sequence[tuple[type[Machine], Case, str]] = [
    (PassesWhatRuns, Case("ab", Budget()), "done=True for position"),
    (KeepsNothingAhead, Case("ab", Budget()), "done=False for position"),
    (ForgetsTheLane, Case("ab", Budget(failures=1)), "done=False for position 2"),
    (RestsNot, Case("ab", Budget(failures=1, thefts=1)), "done=True for position 2"),
    (ReadsPastTheRouter, Case("aab", Budget(crashes=1, failures=1), head=3), "done=False for position"),
    (DropsOnAnOldRead, Case("aa", Budget(failures=1)), "done=True for position 2"),
    (IgnoresKeyOrder, Case("aa", Budget()), "position 2 was started while 1 of its key is not durably done"),
    (StartsWhileItsLaneIsSent, Case("aa", Budget(failures=1)), "not durably done"),
    (ForgetsTheOthers, Case("ab", Budget(refusals=1), inside=True), "neither done nor behind a parked key"),
    (ParksSilently, Case("a", Budget(failures=2), head=1), "parked without a dead letter"),
    (HearsOldNews, Case("a", Budget(failures=2), head=1), "a dead letter is open for a"),
    (GivesUpWhileACallRuns, Case("a", Budget(drains=1), head=1), "given up while position 1 of it runs"),
    (StartsWhileItDrains, Case("a", Budget(drains=1), head=1), "given up while position 1 of it runs"),
    (StartsALaneWhileItDrains, Case("a", Budget(drains=1, failures=1), head=1), "given up while position 1 of it runs"),
    (PassesWhatItDoesNotTakeIn, Case("a", Budget(drains=2), head=1), "neither done nor behind a parked key"),
    (GoesOnThoughItIsGivenUp, Case("a", Budget(drains=2), head=1), "given up while position 1 of it runs"),
    (NeverGivesUp, Case("a", Budget(drains=1), head=1), "neither done nor behind a parked key"),
    (CountsNoAttempt, Case("aa", Budget(failures=1)), "done=True for position 2"),
]


@pytest.mark.parametrize(("machine", "case", "words"), MACHINES, ids=lambda value: getattr(value, "__name__", None))
def test_a_bug_planted_into_the_machine_is_found_and_named(machine: type[Machine], case: Case, words: str) -> None:
    report = explore(case._replace(machine=machine))
    assert words in report.wrong, report.wrong or "it was not found"
    assert len(report.story) <= 40


STORES: Sequence[tuple[str, Case, str]] = [
    ("no fence", Case("a", Budget(thefts=1), head=1), "an effect is there twice"),
    ("fence stays, revision ignored", Case("a", Budget(thefts=1), head=1), "an effect is there twice"),
    ("effects, then checkpoint", Case("a", Budget(crashes=1), head=1), "done=False for position 1, the truth is True"),
    ("checkpoint, then effects", Case("a", Budget(crashes=1), head=1), "done=True for position 1, the truth is False"),
    (
        "lanes in a transaction of their own",
        Case("a", Budget(crashes=1, failures=1), head=1),
        "done=True for position 1",
    ),
    ("told before it is stored", Case("aa", Budget(crashes=1)), "not durably done"),
    ("an operator may touch any lane", Case("a", Budget(failures=1, operations=1), head=1), "handled and discarded"),
]


@pytest.mark.parametrize(("store", "case", "words"), STORES, ids=[name for name, _, _ in STORES])
def test_a_bug_planted_into_the_store_is_found_and_named(store: str, case: Case, words: str) -> None:
    report = explore(case._replace(store=store))
    assert words in report.wrong, report.wrong or "it was not found"
    assert len(report.story) <= 40
