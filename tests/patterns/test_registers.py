"""What a condition asks of the events taken before costs the same however many they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ensue import Event
from ensue.errors import ConditionFailed
from ensue.patterns import Pattern, count, distinct, largest, one, several, smallest, total
from ensue.patterns.operator import Batch, Found
from ensue.patterns.searching.engine import Engine

LONG = timedelta(seconds=10_000)


class Counting(int):
    """A number that knows how often numbers of its kind were looked at."""

    looks = 0

    def _look(self) -> None:
        type(self).looks += 1

    def __radd__(self, other: int) -> int:
        self._look()
        return int(self) + other

    def __lt__(self, other: int) -> bool:
        self._look()
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        self._look()
        return int(self) > int(other)

    def __hash__(self) -> int:
        self._look()
        return hash(int(self))


class Paid(Event, key="card"):
    card: str
    amount: int


class Closed(Event, key="card"):
    card: str


class Spent(Pattern, within=LONG):
    large = several(Paid)
    closed = one(Closed)

    @large.where
    def fits(self, paid: Paid) -> bool:
        return not self.large or (
            total(self.large, lambda p: p.amount) < 10**9
            and largest(self.large, lambda p: p.amount) >= 0
            and smallest(self.large, lambda p: p.amount) < 10**9
            and len(distinct(self.large, lambda p: p.amount)) < 10**9
        )

    @closed.where
    def enough(self, closed: Closed) -> bool:
        return count(self.large) > 2 and self.large[0].amount == 0 and self.large[-1].amount > 0


def fed(engine: Engine, events: list[Event]) -> list[Any]:
    many = len(events)
    return engine.take(Batch(events=events, times=list(range(many)), positions=list(range(1, many + 1))))


def looks_at(many: int) -> int:
    Counting.looks = 0
    events: list[Event] = [Paid(card="c", amount=Counting(number)) for number in range(many)]
    assert any(isinstance(one, Found) for one in fed(Engine(Spent.__ensue_pattern__), [*events, Closed(card="c")]))
    return Counting.looks


def test_aggregates_of_a_run_are_kept_and_not_computed_again() -> None:
    few, many = looks_at(20), looks_at(40)
    # each event begins a run of its own, and each run takes all behind it: pairs of events, not triples
    assert many < few * 5


def test_values_of_one_run_are_not_seen_by_another() -> None:
    class Colours(Pattern, within=LONG, skip="none"):
        shown = several(Paid, inner="any", greedy=False)
        closed = one(Closed)

        @closed.where
        def three(self, closed: Closed) -> bool:
            return len(distinct(self.shown, lambda p: p.amount)) == 2 and total(self.shown, lambda p: p.amount) == 3

    events: list[Event] = [Paid(card="c", amount=amount) for amount in (1, 1, 2, 2)]
    found = fed(Engine(Colours.__ensue_pattern__), [*events, Closed(card="c")])
    taken = [tuple(one.event.amount for one in match.steps["shown"]) for match in found]
    assert taken == [(1, 2)] * 4


def test_values_that_two_runs_add_to_the_same_beginning_are_apart() -> None:
    class Three(Pattern, within=LONG, skip="none"):
        shown = several(Paid, inner="any", greedy=False)
        closed = one(Closed)

        @closed.where
        def all_different(self, closed: Closed) -> bool:
            return len(distinct(self.shown, lambda p: p.amount)) == 3

    events: list[Event] = [Paid(card="c", amount=amount) for amount in (1, 2, 3, 2)]
    found = fed(Engine(Three.__ensue_pattern__), [*events, Closed(card="c")])
    taken = {tuple(one.event.amount for one in match.steps["shown"]) for match in found}
    assert taken == {(1, 2, 3), (1, 2, 3, 2), (1, 3, 2)}


def test_a_value_that_cannot_be_computed_fails_the_condition_that_reads_it() -> None:
    class Summed(Pattern, within=LONG):
        large = several(Paid)
        closed = one(Closed)

        @closed.where
        def enough(self, closed: Closed) -> bool:
            return smallest(self.large, lambda p: 10 / p.amount) > 1

    engine = Engine(Summed.__ensue_pattern__)
    with pytest.raises(
        ConditionFailed, match=r"Summed.closed: its condition raised ZeroDivisionError for the Closed at position 3"
    ):
        fed(engine, [Paid(card="c", amount=1), Paid(card="c", amount=0), Closed(card="c")])
