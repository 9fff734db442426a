"""What is wrong with a pattern is told when its class is made, naming the step, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from types import new_class
from typing import Any

import pytest

from ensue import ONE_ORDER, App, Event, hours, minutes, seconds
from ensue.errors import DefinitionError
from ensue.patterns import (
    Join,
    Pattern,
    Window,
    absent,
    all_of,
    count,
    either,
    group,
    left,
    one,
    optional,
    right,
    several,
    to_first,
    to_last,
)
from ensue.patterns.definition import Definition
from tests.patterns.comparing import expected
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.shapes import A, B, C, build


class Keyless(Event):
    n: int = 0


class Elsewhere(Event, key="order_id", tags=("k",)):
    order_id: str
    k: str


async def asynchronous(event: Any) -> bool:
    return True


def wrong(value: Any) -> Any:
    """What a type checker would refuse."""
    return value


def pattern(steps: dict[str, Any], **options: Any) -> type[Pattern]:
    return new_class("P", (Pattern,), options, lambda namespace: namespace.update(steps))


class Optional(Pattern, unbounded=True):
    first = optional(A)
    second = one(B)


class Edge(Pattern, within=minutes(1)):
    first = one(A)
    nothing = absent(B)


class Whole(Pattern, within=minutes(1)):
    first = one(A)

    def where(self) -> bool:
        return self.first.n > 1


WITHIN = {"within": minutes(5)}
A_B = {"a": one(A), "b": one(B)}
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no steps": (lambda: pattern({}, **WITHIN), r"^P: a pattern needs a step: order = one\(OrderPlaced\)"),
    "a name that matches have": (lambda: pattern({"key": one(A)}, **WITHIN), r"^P: a step cannot be called 'key'"),
    "an absence first": (
        lambda: pattern({"n": absent(A), "a": one(A)}, **WITHIN),
        r"^P\.n: a pattern cannot begin with",
    ),
    "nothing that must come": (
        lambda: pattern({"a": optional(A), "b": several(B, times=(0, 2))}, **WITHIN),
        r"^P: no step must take an event",
    ),
    "no bound": (lambda: pattern(A_B), r"^P: nothing bounds how long it waits, .*within=.* or say unbounded=True"),
    "a loop without a bound": (
        lambda: pattern({"a": one(A), "b": several(B, within=minutes(1)), "c": one(C, within=minutes(1))}),
        r"^P: nothing bounds how long it waits",
    ),
    "an absence that nothing ends": (
        lambda: pattern({"a": one(A), "n": absent(B)}, unbounded=True),
        r"^P\.n: an absence at the end needs a time",
    ),
    "an absence before an optional step that nothing ends": (
        lambda: pattern(
            {"a": one(A), "n": absent(B), "c": optional(C), "m": absent(C, within=minutes(1))}, unbounded=True
        ),
        r"^P\.n: an absence at the end needs a time",
    ),
    "a strict absence that waits for ever": (
        lambda: pattern({"a": one(A), "n": absent(B, contiguity="strict")}),
        r"^P: nothing bounds how long it waits",
    ),
    "no event": (lambda: pattern({"a": one(wrong("A"))}, **WITHIN), r"^P\.a: 'A' is not a type of event"),
    "a condition that is none": (lambda: pattern({"a": one(A, wrong(5))}, **WITHIN), r"^P\.a: 5 is no condition"),
    "a condition that waits": (
        lambda: pattern({"a": one(A, wrong(asynchronous))}, **WITHIN),
        r"^P\.a: .*plain function",
    ),
    "a field that is not there": (
        lambda: pattern({"a": one(A, wrong(lambda e: e.amount > 1))}, **WITHIN),
        r"^P\.a: A has no field 'amount'; its fields are: k, n, s",
    ),
    "times below none": (lambda: pattern({"a": several(A, times=(-1, 2))}, **WITHIN), r"^P\.a: times=\(-1, 2\); give"),
    "times turned round": (lambda: pattern({"a": several(A, times=(3, 2))}, **WITHIN), r"^P\.a: times=\(3, 2\); give"),
    "no times": (lambda: pattern({"a": several(A, times=0)}, **WITHIN), r"^P\.a: times=0; give a number from 1"),
    "a contiguity of its own making": (
        lambda: pattern({"a": one(A), "b": one(B, contiguity=wrong("loose"))}, **WITHIN),
        r"^P\.b: contiguity='loose'; it is one of 'strict', 'relaxed', 'any'",
    ),
    "a contiguity before the first": (
        lambda: pattern({"a": one(A, contiguity="strict")}, **WITHIN),
        r"^P\.a: contiguity='strict' is to the event before, and it is the first step",
    ),
    "a contiguity of a part": (
        lambda: pattern({"a": one(A), "e": either(one(B, contiguity="any"), one(C))}, **WITHIN),
        r"^P\.e: contiguity='any' of one of its parts; .*either\(…, contiguity='any'\)",
    ),
    "any absence": (
        lambda: pattern({"a": one(A), "n": absent(B, contiguity=wrong("any")), "c": one(C)}, **WITHIN),
        r"^P\.n: an absence is strict or relaxed",
    ),
    "until of one": (
        lambda: pattern({"a": several(A, times=1, until=lambda e: e.n > 1)}, **WITHIN),
        r"^P\.a: until= ends a step that takes several events",
    ),
    "within before the first": (
        lambda: pattern({"a": one(A, within=minutes(1)), "b": one(B)}, **WITHIN),
        r"^P\.a: within= is since the event before, and it is the first step",
    ),
    "a step longer than the whole": (
        lambda: pattern({"a": one(A), "b": one(B, within=hours(1))}, **WITHIN),
        r"^P\.b: within=1:00:00 is longer than the whole pattern's 0:05:00",
    ),
    "a duration that is none": (lambda: pattern(A_B, within=5), r"^P: within=5; it is a positive duration"),
    "a duration below none": (lambda: pattern(A_B, within=seconds(-1)), r"within=.*; it is a positive duration"),
    "a skip that is none": (
        lambda: pattern(A_B, skip="first", **WITHIN),
        r"^P: skip='first'; it is one of 'next', 'past_",
    ),
    "a skip to no step": (
        lambda: pattern(A_B, skip=to_first("c"), **WITHIN),
        r"^P: skip to 'c', which is no step that takes events; those are: a, b",
    ),
    "a skip to an absence": (
        lambda: pattern({"a": one(A), "n": absent(B)}, skip=to_last("n"), **WITHIN),
        r"^P: skip to 'n', which is no step that takes events; those are: a",
    ),
    "no runs": (lambda: pattern(A_B, runs=0, **WITHIN), r"^P: runs=0; how many beginnings of one key may wait, from 1"),
    "disorder of a log": (
        lambda: pattern(A_B, time="log", disorder=minutes(1), **WITHIN),
        r"^P: in the order of the log nothing is late",
    ),
    "a time of its own making": (
        lambda: pattern(A_B, time="wall", **WITHIN),
        r"^P: time='wall'; it is one of 'log', 'ev",
    ),
    "a watermark of its own making": (
        lambda: pattern(A_B, watermark="no", **WITHIN),
        r"^P: watermark='no'; it is one of",
    ),
    "semantics of its own making": (
        lambda: pattern(A_B, semantics="sql", **WITHIN),
        r"^P: semantics='sql'; it is one of",
    ),
    "no key": (
        lambda: pattern({"a": one(Keyless)}, **WITHIN),
        r"^P: Keyless has no key; say which tag its events have in common, key=…, or key=ONE_ORDER",
    ),
    "two keys": (
        lambda: pattern({"a": one(A), "e": one(Elsewhere)}, **WITHIN),
        r"^P: its events have different keys: 'k' \(A\), 'order_id' \(Elsewhere\)",
    ),
    "a key that one has not": (
        lambda: pattern({"a": one(A), "e": one(Elsewhere)}, key="order_id", **WITHIN),
        r"^P: key='order_id' must be one tag of every event; the tags of A are: k",
    ),
    "one part": (lambda: pattern({"e": wrong(either)(one(A))}, **WITHIN), r"^P\.e: choice is of at least two steps"),
    "a part that is no step": (
        lambda: pattern({"e": wrong(either)(one(A), B)}, **WITHIN),
        r"^P\.e: each of its parts takes",
    ),
    "a part that may be nothing": (
        lambda: pattern({"e": all_of(one(A), optional(B))}, **WITHIN),
        r"^P\.e: each of its parts takes an event",
    ),
    "a group of an event": (lambda: pattern({"g": group(wrong(A))}, **WITHIN), r"^P\.g: a group is of a pattern class"),
    "an absence at the edge of a group": (
        lambda: pattern({"g": group(Edge)}, **WITHIN),
        r"^P\.g: an absence at the edge",
    ),
    "a group that judges": (lambda: pattern({"g": group(Whole)}, **WITHIN), r"^P\.g: a group has no where\(self\)"),
    "a where that is none": (lambda: pattern({"a": one(A), "where": 5}, **WITHIN), r"^P\.where: a method that says"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_pattern_is_refused_when_it_is_defined(what: str) -> None:
    make, message = WRONG[what]
    with pytest.raises(DefinitionError, match=message):
        make()


def test_a_condition_may_not_read_a_later_step() -> None:
    first = one(A)
    reads_on: Any = lambda self, e: self.later.n > e.n  # noqa: E731
    first.where(reads_on)
    with pytest.raises(DefinitionError, match=r"^P\.first: it reads 'later', which comes later; .*: none"):
        pattern({"first": first, "later": one(B)}, **WITHIN)


def test_a_match_is_found_and_not_made() -> None:
    with pytest.raises(DefinitionError, match="Whole is a pattern: its matches are found, not made"):
        Whole()


class TestedThenUsed(Pattern, within=minutes(1)):  # pytest would warn that it cannot collect this, which is an error
    first = one(A)
    second = one(B)


class TestedEachMinute(Window, size=minutes(1)):
    many = count(A)


class TestedInTime(Join, within=minutes(1)):
    first = left(A)
    second = right(B)


def test_a_class_that_is_called_test_is_no_test() -> None:
    assert [one.__test__ for one in (TestedThenUsed, TestedEachMinute, TestedInTime)] == [False] * 3


def test_a_match_beside_an_event_is_refused_with_what_to_write_instead() -> None:
    def beside(event: A, match: TestedThenUsed) -> None: ...

    said = r"^beside: 'match' is a TestedThenUsed; patterns are handled as events are: .* def beside\(found: TestedThenUsed\)"
    with pytest.raises(DefinitionError, match=said):
        App("definitions").on(beside)


def test_a_pattern_over_keys_in_common_or_over_all_is_accepted() -> None:
    both = {"a": one(A), "e": one(Elsewhere)}
    assert pattern(both, key="k", **WITHIN).__ensue_pattern__.key_tag == "k"
    assert pattern({"a": one(Keyless)}, key=ONE_ORDER, **WITHIN).__ensue_pattern__.key_tag == ""


# -------------------------------------------------------------------------------------------------------- how long


HORIZONS: list[tuple[dict[str, Any], timedelta | None, int | None]] = [
    (A_B, minutes(5), 300),
    ({"a": one(A), "b": one(B, within=minutes(1)), "c": one(C, within=minutes(2))}, None, 180),
    ({"a": several(A, times=3, within=minutes(1)), "b": one(B, within=minutes(1))}, None, 240),
    ({"a": one(A), "n": absent(B), "c": one(C, within=minutes(2))}, None, 120),
    ({"a": one(A), "n": absent(B, within=minutes(1))}, None, 60),
    ({"a": one(A), "e": either(one(B, within=minutes(1)), one(C, within=minutes(2)))}, None, 120),
    ({"a": one(A), "e": all_of(one(B, within=minutes(1)), one(C, within=minutes(2)))}, None, 180),
    ({"a": one(A), "e": either(one(B, within=minutes(1)), one(C))}, None, None),
]


@pytest.mark.parametrize("at", range(len(HORIZONS)))
def test_the_horizon_is_how_long_a_beginning_waits_at_most(at: int) -> None:
    steps, within, wanted = HORIZONS[at]
    options: dict[str, Any] = {"unbounded": True} if within is None else {"within": within}
    horizon = pattern(steps, **options).__ensue_pattern__.horizon
    assert horizon == (None if wanted is None else wanted * 1_000_000)


def test_no_match_and_no_time_out_of_a_random_pattern_comes_behind_its_horizon() -> None:
    bounded = 0
    for seed in range(400):
        chance = Random(seed)
        shape = draw_shape(chance)._replace(within=None)
        try:
            definition: Definition = build(shape).__ensue_pattern__
        except DefinitionError:
            continue
        if definition.horizon is None:
            continue
        bounded += 1
        for _ in range(3):
            stream = draw_stream(chance, shape)
            for answer in expected(definition, stream, stream[-1].time + 10_000).values():
                for one_ in (*answer.matches, *answer.expired):
                    assert one_.ended - one_.started <= definition.horizon, (seed, shape)
    assert bounded > 20


# ------------------------------------------------------------------------------------------------- the fingerprint


def test_the_fingerprint_changes_with_what_a_pattern_means_and_with_nothing_else() -> None:
    def fingerprint(limit: int = 1, contiguity: Any = "relaxed", **options: Any) -> bytes:
        steps = {"a": one(A, lambda e: e.n > limit), "b": one(B, contiguity=contiguity)}
        return pattern(steps, **{**WITHIN, **options}).__ensue_pattern__.fingerprint

    same = fingerprint()
    assert fingerprint() == same
    others = [
        fingerprint(limit=2),
        fingerprint(contiguity="any"),
        fingerprint(within=minutes(6)),
        fingerprint(skip="none"),
        fingerprint(skip=to_first("a")),
    ]
    assert len({same, *others}) == 6
