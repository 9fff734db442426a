"""Windows: what they compute is what one computes by hand from all events, in whatever order and parts they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue import Event, days, hours, seconds
from ensue.errors import ConditionFailed, DefinitionError
from ensue.events.recorded import microseconds
from ensue.patterns import Window, count, distinct, first, largest, last, smallest, total
from ensue.patterns.finding import find
from ensue.patterns.operator import Batch, Closed, Operator, Untimely
from ensue.patterns.ordering import Arrivals, Ordered, ordered
from ensue.patterns.windowing.engine import window_operator

SECOND = 1_000_000
END = 1 << 60


class Reading(Event, key="sensor"):
    sensor: str
    celsius: float


class Opened(Event, key="sensor"):
    sensor: str
    by: str


class Values(Window, size=seconds(10)):
    """Not handled: the values that all windows here have, and what they are by hand."""

    number = count(Reading)
    hot = count(Reading, where=lambda one: one.celsius > 20)
    sum = total(Reading, lambda one: one.celsius)
    low = smallest(Reading, lambda one: one.celsius)
    high = largest(Reading, lambda one: one.celsius + 0)
    different = distinct(Reading, lambda one: one.celsius)
    begin = first(Reading, lambda one: one.celsius)
    end_ = last(Reading, lambda one: one.celsius)
    people = distinct(Opened, lambda one: one.by)


Timed = tuple[int, int, Event]
"""Time, position, event."""


def by_hand(events: Sequence[Timed]) -> dict[str, object]:
    readings = [one for _, _, one in sorted(events, key=lambda one: one[:2]) if isinstance(one, Reading)]
    some = [one.celsius for one in readings]
    found: dict[str, object] = {
        "number": len(some),
        "hot": sum(1 for one in some if one > 20),
        "sum": sum(some),
        "different": frozenset(some),
        "people": frozenset(one.by for _, _, one in events if isinstance(one, Opened)),
    }
    return found | ({"low": min(some), "high": max(some), "begin": some[0], "end_": some[-1]} if some else {})


def spread(keyword: str, **keywords: Any) -> type[Window]:
    """A window of these values and that kind."""
    body = {name: vars(Values)[name] for name, _ in Values.__ensue_window__.values}
    metaclass: Any = type(Window)
    made: type[Window] = metaclass("Spread" + keyword, (Window,), body, **keywords)
    return made


TUMBLING = spread("Tumbling", size=seconds(10))
SHIFTED = spread("Shifted", size=seconds(10), offset=seconds(3))
HOPPING = spread("Hopping", size=seconds(10), every=seconds(4))
SESSION = spread("Session", gap=seconds(5))
SLIDING = spread("Sliding", sliding=seconds(7))
LAST = spread("Last", last=3, every=2, gap=seconds(12))
EACH = (TUMBLING, SHIFTED, HOPPING, SESSION, SLIDING, LAST)

Answer = tuple[str, int, int, dict[str, object]]


def aligned(size: int, every: int, offset: int = 0) -> Callable[[str, list[Timed]], list[Answer]]:
    def windows(key: str, events: list[Timed]) -> list[Answer]:
        found: list[Answer] = []
        for start in range(-20 * SECOND + offset, 200 * SECOND, every):
            within = [one for one in events if start <= one[0] < start + size]
            if within:
                found.append((key, start, start + size, by_hand(within)))
        return found

    return windows


def sessions(key: str, events: list[Timed]) -> list[Answer]:
    found: list[list[Timed]] = []
    for one in events:
        if found and one[0] - found[-1][-1][0] < 5 * SECOND:
            found[-1].append(one)
        else:
            found.append([one])
    return [(key, one[0][0], one[-1][0] + 5 * SECOND, by_hand(one)) for one in found]


def sliding(key: str, events: list[Timed]) -> list[Answer]:
    found: list[Answer] = []
    for at, one in enumerate(events):
        start = one[0] - 7 * SECOND
        found.append((key, start, one[0], by_hand([other for other in events[: at + 1] if other[0] > start])))
    return found


def lasts(key: str, events: list[Timed]) -> list[Answer]:
    found: list[Answer] = []
    run: list[Timed] = []
    for one in events:
        run = [one] if run and one[0] - run[-1][0] >= 12 * SECOND else [*run, one]
        if len(run) >= 3 and (len(run) - 3) % 2 == 0:
            found.append((key, run[-3][0], one[0], by_hand(run[-3:])))
    return found


BY_HAND: dict[type[Window], Callable[[str, list[Timed]], list[Answer]]] = {
    TUMBLING: aligned(10 * SECOND, 10 * SECOND),
    SHIFTED: aligned(10 * SECOND, 10 * SECOND, 3 * SECOND),
    HOPPING: aligned(10 * SECOND, 4 * SECOND),
    SESSION: sessions,
    SLIDING: sliding,
    LAST: lasts,
}


@st.composite
def in_order(draw: st.DrawFn) -> list[Timed]:
    time, found = 0, list[Timed]()
    for position in range(1, draw(st.integers(0, 20)) + 1):
        time += draw(st.sampled_from((0, 0, 1, SECOND, 2 * SECOND, 5 * SECOND, 7 * SECOND, 10 * SECOND, 13 * SECOND)))
        sensor = draw(st.sampled_from("ab"))
        if draw(st.integers(0, 4)):
            event: Event = Reading(sensor=sensor, celsius=float(draw(st.integers(0, 40))))
        else:
            event = Opened(sensor=sensor, by=draw(st.sampled_from("xyz")))
        found.append((time, position, event))
    return found


def key_of(event: Event) -> str:
    assert isinstance(event, Reading | Opened)
    return event.sensor


def batch(events: Sequence[Timed]) -> Batch:
    return Batch(
        [one[2] for one in events],
        [one[0] for one in events],
        [one[1] for one in events],
        [key_of(one[2]) for one in events],
    )


def operator(window: type[Window]) -> Operator:
    return window_operator(window.__ensue_window__)


def closed(outputs: Iterable[object]) -> list[Closed]:
    assert all(isinstance(one, Closed) for one in outputs)
    return [one for one in outputs if isinstance(one, Closed)]


def answers(outputs: Iterable[object]) -> list[Answer]:
    return [(one.key, one.start, one.end, dict(one.values)) for one in closed(outputs)]


def whole(window: type[Window], events: Sequence[Timed]) -> list[object]:
    one = operator(window)
    return [*one.take(batch(events)), *one.advance(END)]


@settings(deadline=None)
@given(st.sampled_from(EACH), in_order())
def test_each_kind_is_what_one_computes_by_hand(window: type[Window], events: list[Timed]) -> None:
    expected = [
        answer for key in "ab" for answer in BY_HAND[window](key, [one for one in events if key_of(one[2]) == key])
    ]
    found = whole(window, events)
    assert sorted(answers(found), key=repr) == sorted(expected, key=repr)
    ends = [one.end for one in closed(found)]
    assert ends == sorted(ends), "they come in the order of their ends"
    ids = [one.id for one in closed(found)]
    assert len(set(ids)) == len(ids)


@settings(deadline=None)
@given(st.sampled_from(EACH), in_order(), st.data())
def test_parts_and_restarts_change_nothing(window: type[Window], events: list[Timed], data: st.DataObject) -> None:
    one, found, kept, rest = operator(window), list[object](), dict[str, Any](), list(events)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += one.take(batch(rest[:size]))
        if size < len(rest):
            found += one.advance(data.draw(st.integers(rest[size - 1][0], rest[size][0])))
        rest = rest[size:]
        kept.update((key, one.state(key)) for key in one.changed())
        if data.draw(st.booleans()):
            one = operator(window)
            for key, state in kept.items():
                if state is not None:
                    one.restore(key, state)
    found += one.advance(END)
    assert found == whole(window, events)
    kept.update((key, one.state(key)) for key in one.changed())
    assert not any(kept.values()), "nothing is kept of what is over"


@settings(deadline=None)
@given(st.sampled_from(EACH), in_order())
def test_what_is_kept_does_not_change_with_what_comes_later(window: type[Window], events: list[Timed]) -> None:
    one = operator(window)
    one.take(batch(events[:10]))
    kept = [one.state(key) for key in "ab"]
    shown = repr(kept)
    one.take(batch(events[10:]))
    assert repr(kept) == shown


@settings(deadline=None)
@given(st.sampled_from(EACH), in_order())
def test_nothing_is_due_before_it_is_given(window: type[Window], events: list[Timed]) -> None:
    one = operator(window)
    one.take(batch(events))
    due = one.due()
    for _ in range(200):
        if due is None:
            break
        assert one.advance(due - 1) == []
        one.advance(due)
        due = one.due()
    assert due is None
    assert one.advance(END) == []


# ------------------------------------------------------------------------------------------------------------ late events

DISORDER = 2 * SECOND
KEYWORDS: dict[str, Any] = {"disorder": seconds(2), "lateness": seconds(6)}
LATE_TUMBLING = spread("LateTumbling", size=seconds(10), **KEYWORDS)
LATE_HOPPING = spread("LateHopping", size=seconds(10), every=seconds(4), **KEYWORDS)
LATE_SESSION = spread("LateSession", gap=seconds(5), disorder=seconds(2), lateness=seconds(20))
LATE = (LATE_TUMBLING, LATE_HOPPING, LATE_SESSION)


def feed(window: type[Window]) -> Ordered:
    of = window.__ensue_window__
    return ordered(lambda: window_operator(of), time=of.time, disorder=of.disorder, idle=of.idle, lateness=of.lateness)


def arrivals(events: Sequence[tuple[int, Timed]]) -> Arrivals:
    found = batch([one for _, one in events])
    assert found.keys is not None
    return Arrivals(found.events, found.times, [recorded for recorded, _ in events], found.positions, found.keys)


@st.composite
def out_of_order(draw: st.DrawFn) -> list[tuple[int, Timed]]:
    """When each was recorded, and the event: some of them late."""
    behind = st.sampled_from((0, 0, 1, SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 15 * SECOND, 30 * SECOND))
    return [(time, (max(0, time - draw(behind)), position, event)) for time, position, event in draw(in_order())]


@settings(deadline=None)
@given(st.sampled_from(LATE), out_of_order(), st.data())
def test_in_the_end_the_answers_that_stand_are_those_of_all_events_that_were_not_too_late(
    window: type[Window], events: list[tuple[int, Timed]], data: st.DataObject
) -> None:
    one, found, kept, rest = feed(window), list[object](), dict[str, Any](), list(events)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += one.take(arrivals(rest[:size]))
        rest = rest[size:]
        kept.update((key, one.state(key)) for key in one.changed())
        if data.draw(st.booleans()):
            progress, one = one.progress(), feed(window)
            one.resume(progress)
            for key, state in kept.items():
                if state is not None:
                    one.restore(key, state)
    found += one.tick(END)
    untimely = {one.taken.position for one in found if isinstance(one, Untimely)}
    stands: dict[bytes, Closed] = {}
    given_: set[bytes] = set()
    for answer in found:
        if isinstance(answer, Closed):
            assert answer.id not in given_, "each answer has an id of its own"
            given_.add(answer.id)
            for id in answer.replaces:
                del stands[id]  # an answer is replaced once
            stands[answer.id] = answer
    assert_by_hand(window, events, sorted(answers(stands.values()), key=repr), untimely)


def assert_by_hand(
    window: type[Window], events: list[tuple[int, Timed]], found: list[Answer], untimely: set[int]
) -> None:
    marks, expected, missed = late_at(events), list[Answer](), set[int]()
    for key in "ab":
        own = [timed for _, timed in events if key_of(timed[2]) == key]
        by_key = sessions_with_late if window is LATE_SESSION else spans_with_late
        some, too_late = by_key(window, key, own, marks)
        expected += some
        missed |= too_late
    assert found == sorted(expected, key=repr)
    assert untimely == missed


def spans_with_late(
    window: type[Window], key: str, events: list[Timed], marks: dict[int, int]
) -> tuple[list[Answer], set[int]]:
    """Each window has the events that it still took when they came."""
    found: list[Answer] = []
    missed = {one[1] for one in events}
    for start in range(-20 * SECOND, 200 * SECOND, window.__ensue_window__.every):
        end = start + 10 * SECOND
        taken = [
            one
            for one in events
            if start <= one[0] < end and end + window.__ensue_window__.corrects > marks.get(one[1], 0)
        ]
        missed -= {one[1] for one in taken}
        if taken:
            found.append((key, start, end, by_hand(taken)))
    return found, missed


def sessions_with_late(
    window: type[Window], key: str, events: list[Timed], marks: dict[int, int]
) -> tuple[list[Answer], set[int]]:
    """A session that takes corrections no more stands, also where a late event would have joined it to another."""
    found: list[Answer] = []
    missed: set[int] = set()
    lateness = window.__ensue_window__.corrects
    pool: list[Timed] = []
    for timed in events:
        mark = marks.get(timed[1])
        if mark is not None:
            for answer in sessions(key, pool):
                if answer[2] + lateness <= mark:
                    found.append(answer)
                    pool = [one for one in pool if not answer[1] <= one[0] < answer[2]]
            joined = sessions(key, sorted([*pool, timed], key=_order))
            if next(end for _, start, end, _ in joined if start <= timed[0] < end) + lateness <= mark:
                missed.add(timed[1])
                continue
        pool = sorted([*pool, timed], key=_order)
    return found + sessions(key, pool), missed


def _order(timed: Timed) -> tuple[int, int]:
    return timed[:2]


def late_at(events: list[tuple[int, Timed]]) -> dict[int, int]:
    """The watermark, by its formula, at which each event came that was before it."""
    found: dict[int, int] = {}
    mark = None
    newest, arrived = -1, 0
    for recorded, (time, position, _) in events:
        if newest >= 0:
            now = newest + recorded - arrived - DISORDER
            mark = now if mark is None else max(mark, now)
        if mark is not None and time < mark:
            found[position] = mark
        if time > newest:
            newest, arrived = time, recorded
    return found


def test_an_event_that_is_late_is_taken_while_its_window_is_open() -> None:
    one = ordered(lambda: operator(TUMBLING), time="event", lateness=TUMBLING.__ensue_window__.size)
    late = (SECOND, 2, Reading(sensor="a", celsius=2.0))
    found = one.take(arrivals([(9 * SECOND, (9 * SECOND, 1, Reading(sensor="a", celsius=1.0))), (9 * SECOND, late)]))
    found += one.tick(10 * SECOND)
    assert [one.values["sum"] for one in closed(found)] == [3.0]


def test_a_late_event_between_two_sessions_makes_one_of_them_that_stands_for_both() -> None:
    one = feed(LATE_SESSION)
    begun = [(at * SECOND, timed) for at, timed in zip((0, 8, 20), readings(0, 8, 20), strict=True)]
    first = closed(one.take(arrivals(begun)))
    assert [answer.start // SECOND for answer in first] == [0, 8]
    late = (4 * SECOND, 4, Reading(sensor="a", celsius=1.0))
    (both,) = closed(one.take(arrivals([(20 * SECOND, late)])))
    assert (both.start, both.end, both.values["number"]) == (0, 13 * SECOND, 3)
    assert both.replaces == tuple(answer.id for answer in first)


def test_what_comes_too_late_is_told_with_how_much() -> None:
    one = feed(LATE_TUMBLING)
    one.take(arrivals([(30 * SECOND, (30 * SECOND, 1, Reading(sensor="a", celsius=1.0)))]))
    found = one.take(arrivals([(30 * SECOND, (SECOND, 2, Reading(sensor="a", celsius=1.0)))]))
    assert [(one.by, one.taken.position) for one in found if isinstance(one, Untimely)] == [(27 * SECOND, 2)]


# ---------------------------------------------------------------------------------------------------------- early answers


class Soon(Window, size=seconds(10), early=seconds(3)):
    number = count(Reading)


class Tens(Window, size=seconds(10)):
    number = count(Reading)


class SoonSession(Window, gap=seconds(4), early=seconds(3)):
    number = count(Reading)


def readings(*at: float, key: str = "a") -> list[Timed]:
    return [(int(one * SECOND), position, Reading(sensor=key, celsius=1.0)) for position, one in enumerate(at, 1)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Soon, [(1, False), (2, False), (3, False), (3, True), (1, False), (1, True)]),
        (SoonSession, [(1, False), (2, False), (3, False), (3, True), (1, False), (1, True)]),
    ],
)
def test_early_answers_come_where_there_is_something_new_and_are_not_final(
    window: type[Window], expected: list[tuple[int, bool]]
) -> None:
    found = closed(whole(window, readings(0, 3, 6, 20)))
    assert [(one.values["number"], one.final) for one in found] == expected


class SoonAndLate(Window, size=seconds(10), early=seconds(3), lateness=seconds(20)):
    number = count(Reading)


def test_a_correction_of_a_closed_window_is_no_early_answer() -> None:
    one = feed(SoonAndLate)
    found = one.take(arrivals([(11 * SECOND, readings(1)[0]), (12 * SECOND, (12 * SECOND, 2, readings(1)[0][2]))]))
    found += one.take(arrivals([(12 * SECOND, (2 * SECOND, 3, readings(1)[0][2]))])) + one.tick(END)
    said = [
        (answer.start // SECOND, answer.values["number"], answer.final, len(answer.replaces))
        for answer in closed(found)
    ]
    assert said == [(0, 1, False, 0), (0, 1, True, 0), (0, 2, True, 1), (10, 1, False, 0), (10, 1, True, 0)]


# ----------------------------------------------------------------------------------------------------- days and time zones


class Daily(Window, size=days(1), timezone="Europe/Berlin"):
    number = count(Reading)


def test_a_day_of_a_timezone_has_23_or_25_hours_when_clocks_change() -> None:
    hour = 3_600 * SECOND
    begin = microseconds(datetime(2026, 10, 24, 22, tzinfo=UTC))  # midnight in Berlin
    events = [(begin + at * hour, at + 1, Reading(sensor="a", celsius=1.0)) for at in range(48)]
    found = closed(whole(Daily, events))
    assert [one.values["number"] for one in found] == [25, 23]
    begin = microseconds(datetime(2026, 3, 28, 23, tzinfo=UTC))
    events = [(begin + at * hour, at + 1, Reading(sensor="a", celsius=1.0)) for at in range(30)]
    assert [one.values["number"] for one in closed(whole(Daily, events))] == [23, 7]


# --------------------------------------------------------------------------------------------------------------- bad input


class Amount(Event, key="account"):
    account: str
    amount: Any


class Sums(Window, size=seconds(10)):
    sum = total(Amount, lambda one: one.amount)
    ratio = largest(Amount, lambda one: 1 / one.amount)


def amounts(*some: object) -> Batch:
    events = [Amount(account="a", amount=one) for one in some]
    return Batch(events, list(range(len(some))), list(range(1, len(some) + 1)), ["a"] * len(some))


@pytest.mark.parametrize("bad", [0, "x", None, float("nan"), float("inf"), 2.5])
def test_a_value_that_fails_is_named_and_its_event_passed_over(bad: object) -> None:
    one = operator(Sums)
    with pytest.raises(ConditionFailed, match=r"window Sums: (sum|ratio) could not be computed") as failure:
        one.take(amounts(Decimal(2), bad, Decimal(5)))
    assert (failure.value.position, failure.value.key) == (2, "a")
    one.take(Batch([Amount(account="a", amount=Decimal(5))], [2], [3], ["a"]))
    assert [one.values["sum"] for one in closed(one.advance(END))] == [7]


def test_what_was_given_before_a_failure_is_not_lost_with_it() -> None:
    one = operator(Sums)
    events = [Amount(account="a", amount=one) for one in (1, 2, 0)]
    with pytest.raises(ConditionFailed) as failure:
        one.take(Batch(events, [0, 20 * SECOND, 21 * SECOND], [1, 2, 3], ["a", "a", "a"]))
    assert [one.values["sum"] for one in closed(failure.value.outputs)] == [1]


def test_totals_that_roll_leave_no_trace_of_rounding() -> None:
    one = operator(SLIDING)
    some = [0.1, 1e16, 0.2, -1e16, 1e-300, 0.3]
    events = [(at * 4 * SECOND, at + 1, Reading(sensor="a", celsius=value)) for at, value in enumerate(some)]
    found = [one.values["sum"] for one in closed(one.take(batch(events)))]
    assert found == [0.1, 1e16 + 0.1, 1e16 + 0.2, -1e16 + 0.2, -1e16, 0.3]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({}, "a window is of one kind"),
    "two kinds": ({"size": seconds(1), "gap": seconds(1)}, "size= and gap="),
    "gaps between": ({"size": seconds(1), "every": seconds(2)}, "what comes between would be in no window"),
    "every of a session": ({"gap": seconds(1), "every": seconds(1)}, "every= is for size= and last="),
    "no duration": ({"size": seconds(0)}, "a positive duration"),
    "for ever": ({"last": 5}, "state grows with its keys"),
    "more than last": ({"last": 5, "every": 6, "gap": hours(1)}, "up to last"),
    "early of what stands": ({"sliding": seconds(1), "early": seconds(1)}, "given at an event and stands"),
    "early of overlapping": ({"size": seconds(9), "every": seconds(3), "early": seconds(1)}, "do not overlap"),
    "early behind the end": ({"size": seconds(1), "early": seconds(1)}, "not before the end"),
    "late in the log's order": ({"size": seconds(1), "time": "log", "lateness": seconds(1)}, "nothing is late"),
    "a key of none": ({"size": seconds(1), "key": "customer"}, "the tags of Reading are: sensor"),
    "half a day there": ({"size": hours(12), "timezone": "Europe/Berlin"}, "whole days"),
    "nowhere": ({"size": days(1), "timezone": "Europe/Atlantis"}, "none that is known"),
    "each without idle": ({"size": seconds(1), "time": "event", "watermark": "key"}, "needs idle="),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_where_it_is_declared(case: str) -> None:
    keywords, message = WRONG[case]
    with pytest.raises(DefinitionError, match=message):
        spread("Wrong", **keywords)


def test_a_field_that_is_not_there_is_named_where_it_is_declared() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong\.sum.*fahrenheit"):

        class Wrong(Window, size=seconds(1)):  # pyright: ignore[reportUnusedClass]
            sum = total(Reading, lambda one: one.fahrenheit)  # type: ignore[attr-defined] # pyright: ignore


def test_what_is_read_is_typed_and_what_there_is_not_cannot_be_read() -> None:
    found = TUMBLING.__ensue_closed__(closed(whole(TUMBLING, [(0, 1, Opened(sensor="a", by="x"))]))[0])
    shown: Any = found
    assert (shown.key, shown.number, shown.people, shown.final) == ("a", 0, frozenset("x"), True)
    assert (shown.end - shown.start, shown.replaces) == (timedelta(seconds=10), ())
    with pytest.raises(AttributeError, match="there is no largest of no Reading"):
        _ = shown.high


def test_another_definition_is_another_fingerprint() -> None:
    prints = {one.__ensue_window__.fingerprint for one in (*EACH, LATE_TUMBLING)}
    assert len(prints) == len(EACH) + 1
    assert spread("Tumbling", size=seconds(10)).__ensue_window__.fingerprint == TUMBLING.__ensue_window__.fingerprint


def test_windows_are_found_in_events_at_hand() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    events = [(begin + seconds(at), Reading(sensor="a", celsius=float(at))) for at in (0, 5, 12)]
    found = find(Tens, events)
    assert [(one.number, one.start, one.end) for one in found] == [
        (2, begin, begin + seconds(10)),
        (1, begin + seconds(10), begin + seconds(20)),
    ]
