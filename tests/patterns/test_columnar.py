"""Patterns over columns find what they find event by event, and leave out only rows that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pytest

from ensue import Event, minutes
from ensue.errors import InvalidEvent, Misuse
from ensue.patterns import Pattern, absent, one, several
from ensue.patterns.columns.columnar import Columnar, find_in
from ensue.patterns.columns.vectors import Unvectorised, Vectors
from ensue.patterns.compiled.relevance import Test, relevance_of
from ensue.patterns.definition import Definition
from ensue.patterns.finding import find
from ensue.patterns.operator import Batch, Output
from ensue.patterns.searching.engine import Engine
from ensue.patterns.tracing import trace
from tests.patterns.comparing import given
from tests.patterns.generating import draw_shape
from tests.patterns.shapes import UNARY, A, PatternShape, StepShape, build

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PATTERNS = 250
STREAMS = 4


def of_one_type(chance: Random, step: StepShape) -> StepShape:
    where = step.where or chance.choice([*UNARY, None])
    parts = tuple(of_one_type(chance, part) for part in step.parts)
    return step._replace(event="A", where=None if step.parts else where, parts=parts)


def drawn(seed: int) -> tuple[Random, PatternShape, Definition]:
    chance = Random(seed)
    while True:
        shape = draw_shape(chance)
        shape = shape._replace(steps=tuple(of_one_type(chance, step) for step in shape.steps))
        try:
            return chance, shape, build(shape).__ensue_pattern__
        except Exception:  # by its new conditions it cannot match
            continue


def events_of(chance: Random) -> list[tuple[int, A]]:
    time = 0
    found: list[tuple[int, A]] = []
    for _ in range(chance.randint(1, 12)):
        time += chance.choice((0, 1, 1, 2))
        found.append((time, A(k=chance.choice("kkj"), n=chance.randrange(4), s=chance.choice("xxy"))))
    return found


def table(events: Sequence[tuple[int, A]]) -> Any:
    times = [EPOCH + timedelta(microseconds=time) for time, _ in events]
    return pa.table(
        {
            "k": [event.k for _, event in events],
            "n": [event.n for _, event in events],
            "s": [event.s for _, event in events],
            "at": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def test_columns_give_what_events_give_however_they_are_cut() -> None:
    left_out = 0
    for seed in range(PATTERNS):
        chance, shape, definition = drawn(seed)
        for _ in range(STREAMS):
            events = events_of(chance)
            engine, columnar = Engine(definition, timeouts=True), Columnar([definition], A, time="at", timeouts=True)
            wanted = engine.take(Batch([one for _, one in events], [at for at, _ in events], range(1, len(events) + 1)))
            cuts = sorted({0, len(events), *(chance.randrange(len(events) + 1) for _ in range(2))})
            found: list[Output] = []
            for start, end in pairwise(cuts):
                found += columnar.take(table(events[start:end]))[0]
            over = events[-1][0] + chance.choice((0, 1, 100))
            wanted += engine.advance(over)
            found += columnar.advance(over)[0]
            assert given(found) == given(wanted), (seed, shape, events)
            left_out += columnar.rows - columnar.became_events
    assert left_out > PATTERNS, "hardly a row was left out, so that little was tested"


# --------------------------------------------------------------------------------------------------------- questions


class Row(Event, key="row_name"):
    row_name: str
    whole: int
    real: float
    maybe: int | None
    text: str
    on: bool
    at: datetime


CONDITIONS: list[Callable[[Any], Any]] = [
    lambda r: r.whole > r.real,
    lambda r: r.whole == r.real,
    lambda r: r.whole + 1 > r.whole * 2,
    lambda r: r.whole * r.whole > 10,
    lambda r: r.whole / r.real > 1,
    lambda r: 1 / r.whole > 0.5,
    lambda r: r.real != r.real,
    lambda r: not r.real < 3,
    lambda r: r.maybe > 1,
    lambda r: r.maybe == 1,
    lambda r: r.maybe,
    lambda r: r.on and r.text < "b",
    lambda r: r.text in ("a", "ä", "🙂"),
    lambda r: not r.text >= "z" or r.on,
    lambda r: r.at > EPOCH + timedelta(hours=1),
    lambda r: abs(r.real - r.whole) < 2,
    lambda r: -r.real >= r.whole,
    lambda r: r.whole == True,  # noqa: E712
    lambda r: 0 < r.whole < 3,
    lambda r: r.real,
]
VALUES: dict[str, Sequence[Any]] = {
    "whole": (0, 1, -1, 3, 2**53 + 1, 2**62, -(2**63)),
    "real": (0.0, -0.0, 1.0, 2.5, 2.0**53, float("nan"), float("inf"), -1e308),
    "maybe": (None, 0, 1, 2),
    "text": ("", "a", "ab", "b", "z", "ä", "\U0001f642", "\uffff"),
    "on": (True, False),
    "at": (EPOCH, EPOCH + timedelta(hours=1), EPOCH + timedelta(hours=2)),
}
ARROW = {
    "row_name": pa.string(),
    "whole": pa.int64(),
    "real": pa.float64(),
    "maybe": pa.int64(),
    "text": pa.string(),
    "on": pa.bool_(),
    "at": pa.timestamp("us", "UTC"),
}


def test_a_row_for_which_a_condition_holds_or_raises_is_never_left_out() -> None:
    answered = 0
    for seed in range(60):
        chance = Random(seed)
        small = chance.random() < 0.6  # so that whole numbers can stand beside floats
        rows = [
            Row(row_name="n", **{field: chance.choice(some[:4] if small else some) for field, some in VALUES.items()})
            for _ in range(12)
        ]
        columns = {name: pa.array([getattr(row, name) for row in rows], type_) for name, type_ in ARROW.items()}
        vectors = Vectors(columns, {one: _type(one) for one in ARROW}, len(rows))
        for condition in CONDITIONS:
            expression = trace(condition, (Row,), what="a test")
            assert expression is not None
            try:
                mask = vectors.may_fulfil((expression,))
            except Unvectorised:
                continue
            answered += 1
            for row, kept in zip(rows, mask.tolist(), strict=True):
                assert kept or not _holds(condition, row), (row, expression)
    assert answered > 500


def _type(name: str) -> object:
    types: dict[str, object] = {"maybe": int | None, "whole": int, "real": float, "on": bool, "at": datetime}
    return types.get(name, str)


def _holds(condition: Callable[[Any], Any], row: Row) -> bool:
    try:
        return bool(condition(row))
    except Exception:  # which has to be noticed, so the row must not be left out
        return True


# ------------------------------------------------------------------------------------------------------------- tables


class Used(Event, key="card", time="at"):
    card: str
    kind: int
    at: datetime


class Twice(Pattern, within=minutes(10)):
    first = one(Used, lambda used: used.kind == 1)
    second = one(Used, lambda used: used.kind == 2)


class Followed(Pattern, within=minutes(10)):
    first = one(Used, lambda used: used.kind == 1)
    at_once = one(Used, lambda used: used.kind == 2, contiguity="strict")


class Unanswered(Pattern, within=minutes(10)):
    asked = one(Used, lambda used: used.kind == 1)
    answer = absent(Used, lambda used: used.kind == 2)


class Decided(Pattern, within=minutes(10)):
    runs = several(Used, lambda used: str(used.kind) == "1", times=2)


def used(*rows: tuple[str, int, int]) -> list[Used]:
    return [Used(card=card, kind=kind, at=EPOCH + timedelta(minutes=minute)) for card, kind, minute in rows]


def used_table(events: Sequence[Used]) -> Any:
    return pa.table(
        {
            "card": pa.array([one.card for one in events]).dictionary_encode(),
            "kind": [one.kind for one in events],
            "at": pa.array([one.at for one in events], pa.timestamp("ns", "Europe/Zurich")),
        }
    )


ROWS = used(("a", 1, 0), ("b", 1, 0), ("a", 2, 3), ("b", 7, 3), ("b", 2, 4), ("c", 1, 5), ("d", 9, 40))


@pytest.mark.parametrize("pattern", [Twice, Followed, Unanswered, Decided])
def test_a_table_is_answered_as_its_events_are(pattern: type[Pattern]) -> None:
    assert find_in(pattern, used_table(ROWS)) == find(pattern, ROWS)
    assert find_in(pattern, used_table(list(reversed(ROWS)))) != [] or not find(pattern, ROWS)


def test_rows_need_not_be_in_the_order_of_their_times() -> None:
    found = find_in(Twice, used_table(list(reversed(ROWS))))
    assert [(match.key, match.second.at) for match in found] == [("a", ROWS[2].at), ("b", ROWS[4].at)]


def test_only_rows_that_may_matter_become_events() -> None:
    columnar = Columnar([Twice.__ensue_pattern__, Unanswered.__ensue_pattern__], Used)
    columnar.take(used_table(ROWS))
    assert (columnar.rows, columnar.became_events, columnar.reasons) == (7, 5, {})


def test_what_cannot_be_asked_of_columns_is_asked_of_all_events_and_says_why() -> None:
    columnar = Columnar([Decided.__ensue_pattern__], Used)
    columnar.take(used_table(ROWS))
    assert columnar.became_events == 7
    assert columnar.reasons == {"Decided": "an opaque condition is called with each event"}


def test_a_table_without_times_and_one_that_is_too_early_are_refused() -> None:
    columnar = Columnar([Twice.__ensue_pattern__], Used)
    with pytest.raises(Misuse, match=r"which column says when a Used was\? time=…, of card, kind"):
        columnar.take(used_table(ROWS).drop(["at"]))
    with pytest.raises(Misuse, match="the column at, which says when a Used was, is timestamp"):
        columnar.take(used_table(ROWS).set_column(2, "at", pa.array([one.at.replace(tzinfo=None) for one in ROWS])))
    columnar.take(used_table(ROWS))
    with pytest.raises(Misuse, match="begins before the end of the one before it"):
        columnar.take(used_table(ROWS))


def test_a_row_that_is_no_such_event_is_named() -> None:
    rows = used_table(ROWS)
    broken = rows.set_column(0, "card", pa.array(["a", "b", None, "b", "b", "c", "d"]))
    with pytest.raises(InvalidEvent, match="row 3 is no Used: Expected `str`, got `null`"):
        find_in(Twice, broken)


def test_strict_steps_ask_for_the_event_behind_and_others_do_not() -> None:
    assert not relevance_of(Twice.__ensue_pattern__, Used).followers
    assert relevance_of(Followed.__ensue_pattern__, Used).followers
    tests: tuple[Test, ...] | None = relevance_of(Followed.__ensue_pattern__, Used).tests
    assert tests is not None
    assert len(tests) == 2
