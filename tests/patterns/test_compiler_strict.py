"""Patterns whose steps each take the very next event have a program of their own: it finds what the general engine finds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from ensue import seconds
from ensue.errors import ConditionFailed
from ensue.patterns import Pattern, one, several, total
from ensue.patterns.compiled.compiler import Compiled, compiled
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Batch, Found, Operator
from ensue.patterns.searching.engine import Engine
from tests.patterns.letters import Letter

STREAMS = 150


def rising(skip: Any) -> Definition:
    class Rising(Pattern, within=seconds(6), skip=skip):
        low = one(Letter)
        more = several(Letter, times=(2, None), contiguity="strict", inner="strict")
        fall = one(Letter, contiguity="strict")

        @more.where
        def higher(self, letter: Letter) -> bool:
            return letter.value > (self.more[-1].value if self.more else self.low.value)

        @fall.where
        def lower(self, letter: Letter) -> bool:
            return letter.value <= self.more[-1].value and total(self.more, lambda each: each.value) > 4

    return Rising.__ensue_pattern__


def counted(skip: Any) -> Definition:
    class Counted(Pattern, within=seconds(6), skip=skip):
        some = several(Letter, lambda letter: letter.kind == "a", times=(2, 3), inner="strict")
        end = one(Letter, lambda letter: letter.kind == "b", contiguity="strict")

    return Counted.__ensue_pattern__


def chained(skip: Any) -> Definition:
    class Chained(Pattern, within=seconds(6), skip=skip):
        first = one(Letter, lambda letter: letter.kind != "c")
        second = one(Letter, lambda letter: letter.kind == "b", contiguity="strict")
        third = one(Letter, contiguity="strict")

        @third.where
        def larger(self, letter: Letter) -> bool:
            return letter.value > self.first.value

    return Chained.__ensue_pattern__


def summed(skip: Any) -> Definition:
    """The value of the last event is not asked: a run that it ends has no need of it."""

    class Summed(Pattern, within=seconds(6), skip=skip):
        low = one(Letter)
        more = several(Letter, lambda letter: letter.kind != "b", contiguity="strict", inner="strict")
        fall = one(Letter, contiguity="strict")

        @more.where
        def higher(self, letter: Letter) -> bool:
            return letter.kind >= (self.more[-1].kind if self.more else self.low.kind)

        @fall.where
        def lower(self, letter: Letter) -> bool:
            return letter.kind < self.more[-1].kind and total(self.more, lambda each: each.value * 2) > 2

    return Summed.__ensue_pattern__


def drawn(chance: Random) -> Batch:
    events: list[Letter] = []
    times: list[int] = []
    time = 0
    for _ in range(chance.randrange(2, 24)):
        time += chance.choice((0, 1, 1, 1, 3)) * 1_000_000
        kind = chance.choice("aabc")
        value: Any = None if kind == "b" and chance.random() < 0.2 else chance.randrange(6)
        events.append(Letter(k=chance.choice("xxy"), kind=kind, value=value))
        times.append(time)
    return Batch(events, times, list(range(1, len(events) + 1)))


def answers(operator: Operator, stream: Batch) -> list[Any]:
    """For each event what was found, or how it failed."""
    said: list[Any] = []
    for at in range(len(stream.events)):
        some = slice(at, at + 1)
        try:
            found = operator.take(Batch(stream.events[some], stream.times[some], stream.positions[some]))
        except ConditionFailed as error:
            said.append(str(error))
        else:
            said.append([(out.id, out.started, out.ended) for out in found if isinstance(out, Found)])
    return said


@pytest.mark.parametrize(
    ("make", "skip"),
    [
        (make, skip)
        for make in (rising, counted, chained, summed)
        for skip in ("next", "past_last", "none")
        if skip != "none" or make in (counted, chained)
    ],
)
def test_strict_patterns_find_and_fail_as_in_the_general_engine(make: Any, skip: Any) -> None:
    definition = make(skip)
    many = 0
    for seed in range(STREAMS):
        stream = drawn(Random(seed))
        wanted = answers(Engine(definition), stream)
        operator = compiled(definition)
        assert operator.form.strict
        assert answers(operator, stream) == wanted, (seed, stream)
        many += sum(bool(one) for one in wanted)
    assert many > 20


def test_a_strict_pattern_goes_on_from_its_kept_state() -> None:
    for make in (rising, counted, chained, summed):
        definition = make("next")
        for seed in range(STREAMS // 3):
            stream = drawn(Random(seed))
            operator = compiled(definition)
            said: list[Any] = []
            for at in range(len(stream.events)):
                some = slice(at, at + 1)
                said += answers(operator, Batch(stream.events[some], stream.times[some], stream.positions[some]))
                operator = _restored(operator, definition)
            assert said == answers(Engine(definition), stream), (seed, stream)


def _restored(operator: Compiled, definition: Definition) -> Compiled:
    fresh = compiled(definition)
    for key in "xy":
        state = operator.state(key)
        if state is not None:
            fresh.restore(key, state)
    return fresh
