"""Joins: which pairs they find is what one finds by trying all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, assert_type

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue import Event, days, minutes, seconds
from ensue.errors import ConditionFailed, DefinitionError
from ensue.patterns import Join, left, right
from ensue.patterns.finding import find
from ensue.patterns.operator import Batch, Closed, Operator, Taken, Untimely
from ensue.patterns.ordering import Arrivals, ordered
from ensue.patterns.windowing.engine import window_operator

SECOND = 1_000_000
END = 1 << 60


class Placed(Event, key="order"):
    order: str
    amount: int = 0


class Paid(Event, key="order"):
    order: str
    amount: int = 0


class Within(Join, within=seconds(10)):
    order = left(Placed)
    payment = right(Paid)


class Around(Join, within=seconds(3), before=seconds(5)):
    order = left(Placed, optional=True)
    payment = right(Paid, optional=True)


class Before(Join, before=seconds(5)):
    order = left(Placed)
    payment = right(Paid, optional=True)


class Unpaid(Join, within=seconds(10)):
    order = left(Placed)
    payment = right(Paid, absent=True)


class Equal(Join, within=seconds(10)):
    order = left(Placed)
    payment = right(Paid, optional=True)

    def where(self) -> bool:
        assert self.payment is not None
        return self.order.amount == self.payment.amount


class Again(Join, within=seconds(10)):
    order = left(Placed)
    other = right(Placed)


class AsOf(Join, as_of=seconds(10)):
    order = left(Placed)
    payment = right(Paid, optional=True)


class AsOfEver(Join, unbounded=True):
    order = left(Placed)
    payment = right(Paid)


EACH: tuple[type[Join], ...] = (Within, Around, Before, Unpaid, Equal, Again, AsOf, AsOfEver)
Timed = tuple[int, int, Event]


def amount(event: Event) -> int:
    assert isinstance(event, Placed | Paid)
    return event.amount


def key_of(event: Event) -> str:
    assert isinstance(event, Placed | Paid)
    return event.order


def batch(events: Sequence[Timed]) -> Batch:
    times, positions, some = [one[0] for one in events], [one[1] for one in events], [one[2] for one in events]
    return Batch(some, times, positions, [key_of(one) for one in some])


def operator(join: type[Join]) -> Operator:
    return window_operator(join.__ensue_window__)


Answer = tuple[int | None, int | None, int, int]
"""The positions of both, start and end."""


def answers(outputs: Iterable[object]) -> list[Answer]:
    found: list[Answer] = []
    for one in outputs:
        assert isinstance(one, Closed)
        places = [None if side is None else side.position for side in one.values.values()]
        found.append((places[0], places[1], one.start, one.end))
    return found


def whole(join: type[Join], events: Sequence[Timed]) -> list[object]:
    one = operator(join)
    return [*one.take(batch(events)), *one.advance(END)]


@st.composite
def streams(draw: st.DrawFn) -> list[Timed]:
    time, found = 0, list[Timed]()
    for position in range(1, draw(st.integers(0, 16)) + 1):
        time += draw(st.sampled_from((0, 0, 1, SECOND, 3 * SECOND, 5 * SECOND, 10 * SECOND)))
        kind = draw(st.sampled_from((Placed, Paid)))
        found.append((time, position, kind(order=draw(st.sampled_from("ab")), amount=draw(st.integers(0, 1)))))
    return found


BOUNDS: dict[type[Join], tuple[int, int]] = {Around: (3, 5), Before: (0, 5)}
"""Seconds after and before; of the others ten after."""
WAITS: dict[type[Join], int] = {Around: 3 * SECOND, Before: 1, AsOf: 0}


def by_trying(join: type[Join], events: list[Timed]) -> list[Answer]:
    """From what the class says alone: all pairs, then who is alone."""
    of = join.__ensue_window__
    lefts = [one for one in events if isinstance(one[2], of.left.event)]
    rights = [one for one in events if isinstance(one[2], of.right.event)]

    def near(one: Timed, other: Timed) -> bool:
        if one[1] == other[1] or key_of(one[2]) != key_of(other[2]):
            return False
        if join in (AsOf, AsOfEver):
            last = [right_ for right_ in rights if key_of(right_[2]) == key_of(one[2]) and right_[:2] < one[:2]]
            recent = join is AsOfEver or one[0] - other[0] < 10 * SECOND
            return bool(last) and other == last[-1] and recent
        apart = other[0] - one[0]
        after, before = BOUNDS.get(join, (10, 0))
        if join is Equal and amount(one[2]) != amount(other[2]):
            return False
        return 0 <= apart < after * SECOND or 0 <= -apart < before * SECOND or apart == 0

    pairs = [(one, other) for one in lefts for other in rights if near(one, other)]
    found: list[Answer] = []
    if join is not Unpaid:
        found += [(one[1], other[1], min(one[0], other[0]), max(one[0], other[0])) for one, other in pairs]
    alone = [one for one in lefts if all(one is not pair[0] for pair in pairs)]
    if join in (Around, Before, Unpaid, Equal, AsOf):
        wait = WAITS.get(join, 10 * SECOND)
        found += [(one[1], None, one[0], one[0] + wait) for one in alone]
    if join is Around:
        free = [one for one in rights if all(one is not pair[1] for pair in pairs)]
        found += [(None, one[1], one[0], one[0] + 5 * SECOND) for one in free]
    return found


@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("join", EACH)
@given(events=streams())
def test_each_kind_finds_what_one_finds_by_trying_all(join: type[Join], events: list[Timed]) -> None:
    found = whole(join, events)
    assert sorted(answers(found), key=repr) == sorted(by_trying(join, events), key=repr)
    ends = [one[3] for one in answers(found)]
    assert ends == sorted(ends), "they come in the order of their ends"
    ids = [one.id for one in found if isinstance(one, Closed)]
    assert len(set(ids)) == len(ids)


@settings(deadline=None)
@given(st.sampled_from(EACH), streams(), st.data())
def test_parts_and_restarts_change_nothing(join: type[Join], events: list[Timed], data: st.DataObject) -> None:
    one, found, kept, rest = operator(join), list[object](), dict[str, Any](), list(events)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += one.take(batch(rest[:size]))
        if size < len(rest):
            found += one.advance(data.draw(st.integers(rest[size - 1][0], rest[size][0])))
        rest = rest[size:]
        kept.update((key, one.state(key)) for key in one.changed())
        if data.draw(st.booleans()):
            one = operator(join)
            for key, state in kept.items():
                if state is not None:
                    one.restore(key, state)
    found += one.advance(END)
    assert found == whole(join, events)
    kept.update((key, one.state(key)) for key in one.changed())
    assert join is AsOfEver or not any(kept.values()), "nothing is kept of what is over"


@settings(deadline=None)
@given(st.sampled_from(EACH), streams())
def test_nothing_is_due_before_it_is_given(join: type[Join], events: list[Timed]) -> None:
    one = operator(join)
    one.take(batch(events))
    due = one.due()
    for _ in range(100):
        if due is None:
            break
        assert one.advance(due - 1) == []
        one.advance(due)
        due = one.due()
    assert due is None
    assert one.advance(END) == []


def test_the_last_before_counts_for_its_own_time_and_not_for_that_of_one_before_it() -> None:
    events: list[Timed] = [
        (0, 1, Paid(order="a")),
        (5 * SECOND, 2, Paid(order="a")),
        (14 * SECOND, 3, Placed(order="a")),
        (15 * SECOND, 4, Placed(order="a")),
    ]
    assert answers(whole(AsOf, events)) == [
        (3, 2, 5 * SECOND, 14 * SECOND),
        (4, None, 15 * SECOND, 15 * SECOND),
    ]


def test_by_event_time_what_comes_out_of_order_is_joined_and_what_is_late_is_told() -> None:
    one = ordered(lambda: operator(Within), time="event", disorder=5 * SECOND)
    events: list[Event] = [Paid(order="a"), Placed(order="a"), Paid(order="a")]
    times, recorded = [4 * SECOND, 2 * SECOND, SECOND], [4 * SECOND, 4 * SECOND, 20 * SECOND]
    found = one.take(Arrivals(events, times, recorded, [1, 2, 3], ["a", "a", "a"]))
    assert answers(found[:1]) == [(2, 1, 2 * SECOND, 4 * SECOND)]
    assert [(late.taken.position, late.by) for late in found[1:] if isinstance(late, Untimely)] == [(3, 14 * SECOND)]


def test_what_is_read_is_typed() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    (pair,) = find(Within, [(begin, Placed(order="a", amount=7)), (begin + seconds(3), Paid(order="a"))])
    assert_type(pair.order, Placed)
    assert (pair.order.amount, pair.start, pair.end, pair.key) == (7, begin, begin + seconds(3), "a")
    (unpaid,) = find(Unpaid, [(begin, Placed(order="a"))])
    assert_type(unpaid.payment, None)
    assert (unpaid.payment, unpaid.end) == (None, begin + seconds(10))
    (priced,) = find(AsOf, [(begin, Placed(order="a"))])
    assert_type(priced.payment, Paid | None)
    assert priced.payment is None


def test_a_condition_that_raises_is_named_and_the_later_event_passed_over() -> None:
    class Ratio(Join, within=minutes(1)):
        order = left(Placed)
        payment = right(Paid)

        def where(self) -> bool:
            return self.order.amount / self.payment.amount > 1

    one = operator(Ratio)
    events: list[Timed] = [
        (0, 1, Placed(order="a", amount=6)),
        (1, 2, Paid(order="a", amount=2)),
        (2, 3, Paid(order="a", amount=0)),
    ]
    with pytest.raises(
        ConditionFailed, match="join Ratio: where raised for the events at positions 1 and 3"
    ) as failure:
        one.take(batch(events))
    assert failure.value.position == 3
    assert answers(failure.value.outputs) == [(1, 2, 0, 1)]
    assert answers(one.take(batch([(3, 4, Paid(order="a", amount=3))]))) == [(1, 4, 0, 3)]


def test_an_answer_holds_the_events_as_they_were_taken() -> None:
    (closed,) = whole(Within, [(0, 1, Placed(order="a")), (1, 2, Paid(order="a"))])
    assert isinstance(closed, Closed)
    assert closed.values == {"order": Taken(0, 1, Placed(order="a")), "payment": Taken(1, 2, Paid(order="a"))}


def one_sided() -> None:
    class Wrong(Join, within=minutes(1)):  # pyright: ignore[reportUnusedClass]
        order = left(Placed)


def no_bound() -> None:
    class Wrong(Join):  # pyright: ignore[reportUnusedClass]
        order = left(Placed)
        payment = right(Paid)


def two_bounds() -> None:
    class Wrong(Join, within=minutes(1), as_of=days(1)):  # pyright: ignore[reportUnusedClass]
        order = left(Placed)
        payment = right(Paid)


def nobody() -> None:
    class Wrong(Join, within=minutes(1)):  # pyright: ignore[reportUnusedClass]
        order = left(Placed, optional=True)
        payment = right(Paid, absent=True)


def absent_as_of() -> None:
    class Wrong(Join, as_of=minutes(1)):  # pyright: ignore[reportUnusedClass]
        order = left(Placed)
        payment = right(Paid, absent=True)


def taken_name() -> None:
    class Wrong(Join, within=minutes(1)):  # pyright: ignore[reportUnusedClass]
        order = left(Placed)
        start = right(Paid)  # type: ignore[assignment] # pyright: ignore


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (one_sided, "one left and one right side"),
        (no_bound, "say how far apart"),
        (two_bounds, "say how far apart"),
        (nobody, "nothing would be given"),
        (absent_as_of, "goes from each left event"),
        (taken_name, "a side cannot be called 'start'"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_declared(wrong: Callable[[], None], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        wrong()
