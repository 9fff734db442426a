"""Patterns that are fed together find what each finds alone."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from random import Random

from ensue import Event, minutes
from ensue.errors import ConditionFailed
from ensue.patterns import Pattern, one
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Batch, Found, Output
from ensue.patterns.searching.engine import Engine
from ensue.patterns.sharing import PatternSet
from tests.patterns.comparing import given
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.oracle import Timed
from tests.patterns.shapes import build

SETS = 60
PATTERNS = 6


def batch(stream: list[Timed]) -> Batch:
    return Batch([one.event for one in stream], [one.time for one in stream], [one.position for one in stream])


def alone(definition: Definition, stream: list[Timed], over: int) -> list[Output]:
    engine = Engine(definition, timeouts=True)
    return [*engine.take(batch(stream)), *engine.advance(over)]


def test_a_set_of_patterns_gives_what_each_gives_alone() -> None:
    for seed in range(SETS):
        chance = Random(seed)
        shapes = [draw_shape(chance) for _ in range(PATTERNS)]
        definitions = [build(shape).__ensue_pattern__ for shape in shapes]
        for _ in range(3):
            stream = draw_stream(chance, chance.choice(shapes), most=12)
            if not stream:
                continue
            cut, over = chance.randrange(len(stream) + 1), stream[-1].time + chance.choice((0, 1, 1000))
            patterns = PatternSet(definitions, timeouts=True)
            parts = [patterns.take(batch(stream[:cut])), patterns.take(batch(stream[cut:])), patterns.advance(over)]
            for number, definition in enumerate(definitions):
                found = [output for part in parts for output in part[number]]
                assert not any(isinstance(output, ConditionFailed) for output in found)
                wanted = alone(definition, stream, over)
                assert given(found) == given(wanted), (seed, shapes[number], stream)  # type: ignore[arg-type]


class Paid(Event, key="account"):
    account: str
    kind: int
    amount: Decimal
    note: str | None = None


class Large(Pattern, within=minutes(1)):
    first = one(Paid, lambda paid: paid.amount > 100)
    second = one(Paid, lambda paid: paid.amount > 200)


class Small(Pattern, within=minutes(1)):
    first = one(Paid, lambda paid: paid.amount <= 1)
    second = one(Paid, lambda paid: paid.kind in (3, 4) and paid.amount > 5)


class Noted(Pattern, within=minutes(1)):
    first = one(Paid, lambda paid: paid.kind == 3)
    second = one(Paid, lambda paid: paid.note < "b")  # type: ignore[operator]


class Opaque(Pattern, within=minutes(1)):
    first = one(Paid, lambda paid: str(paid.amount).startswith("1"))


def payments(*rows: tuple[int, str, str | None]) -> Batch:
    events = [Paid(account="a", kind=kind, amount=Decimal(amount), note=note) for kind, amount, note in rows]
    return Batch(events, range(len(events)), range(len(events)))


def found(patterns: PatternSet, given: Sequence[Sequence[object]]) -> dict[str, list[list[int]]]:
    return {
        definition.name: [
            [taken.position for taken in output.steps.values()]  # type: ignore[union-attr]
            for output in outputs
            if isinstance(output, Found)
        ]
        for definition, outputs in zip(patterns.definitions, given, strict=True)
    }


def test_bounds_values_and_opaque_conditions_are_asked_together() -> None:
    patterns = PatternSet([one.__ensue_pattern__ for one in (Large, Small, Opaque)])
    got = patterns.take(payments((1, "150", None), (3, "1", None), (4, "6", None), (9, "100", None), (2, "201", None)))
    assert found(patterns, got) == {"Large": [[0, 4]], "Small": [[1, 2]], "Opaque": [[0], [1], [3]]}


def test_where_a_condition_of_one_raises_the_others_go_on_and_so_does_it() -> None:
    patterns = PatternSet([one.__ensue_pattern__ for one in (Noted, Large)])
    got = patterns.take(payments((3, "150", None), (1, "201", None), (1, "3", "a")))
    assert found(patterns, got) == {"Noted": [[0, 2]], "Large": [[0, 1]]}
    errors = [output for output in got[0] if isinstance(output, ConditionFailed)]
    assert [(error.step, error.position, error.key) for error in errors] == [("second", 1, "a")]
