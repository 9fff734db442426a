"""Every operator finds in random streams what the oracle finds, for random patterns of every construct.

A failure prints the pattern and the stream, made as small as they can be, and the seed. `ENSUE_PATTERNS_SEED=17` repeats one;
`ENSUE_PATTERNS_EXAMPLES=100000` looks deeper.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from random import Random

import pytest

from ensue.errors import ConditionFailed, DefinitionError
from ensue.patterns.compiled.compiler import NoPlaces, compiled
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator, Output
from ensue.patterns.searching.engine import Engine
from tests.patterns.comparing import (
    BEHIND,
    Feeding,
    at_once,
    batch,
    cut_anywhere,
    expected,
    given,
    kept_and_restored,
    one_by_one,
)
from tests.patterns.generating import draw_shape, draw_stream, draw_usual, smaller
from tests.patterns.oracle import Answer, Timed
from tests.patterns.shapes import RAISES, PatternShape, build, features

ONLY = os.environ.get("ENSUE_PATTERNS_SEED")
EXAMPLES = int(os.environ.get("ENSUE_PATTERNS_EXAMPLES", "500"))
"""Patterns; each is compared on several streams."""
STREAMS = 4
SIMPLE = ("one", "one", "one", "several", "optional", "absent")
"""What patterns consist of that can be compiled."""


def seeds(start: int, many: int) -> Sequence[int]:
    return [int(ONLY)] if ONLY is not None else range(start, start + many)


@cache
def defined(shape: PatternShape) -> Definition:
    return build(shape).__ensue_pattern__


def difference(
    make: Callable[[Definition], Operator],
    feed: Feeding,
    shape: PatternShape,
    stream: Sequence[Timed],
    over: int,
    timeouts: bool = True,
) -> tuple[str, bool]:
    """What an operator finds otherwise than the oracle, in words; and whether that finds a match. `timeouts`: it gives what expired."""
    definition = defined(shape)
    if not stream:
        return "", False
    wanted = expected(definition, stream, stream[-1].time + over)
    matched = any(one.matches for one in wanted.values())
    if not timeouts:
        wanted = {key: Answer(one.matches, []) for key, one in wanted.items() if one.matches}
    try:
        found = given(feed(lambda: make(definition), stream, stream[-1].time + over))
    except NoPlaces:  # made smaller, it became another kind of pattern
        return "", matched
    except Exception as error:
        return f"{type(error).__name__}: {error}", matched
    return "" if found == wanted else f"the oracle finds\n  {wanted}\nand the operator\n  {found}", matched


def compare(
    make: Callable[[Definition], Operator],
    seed: int,
    feed: Feeding,
    shape: PatternShape,
    stream: Sequence[Timed],
    over: int,
    timeouts: bool = True,
) -> bool:
    """Whether the oracle finds a match. Fails where the operator does not find the same."""

    def differs(shape: PatternShape, stream: Sequence[Timed]) -> bool:
        return bool(difference(make, feed, shape, stream, over, timeouts)[0])

    said, matched = difference(make, feed, shape, stream, over, timeouts)
    if not said:
        return matched
    shape, stream = smaller(shape, stream, differs)
    shown = "\n".join(f"  {timed.position} @{timed.time} {timed.event}" for timed in stream)
    shown += f"\n  @{stream[-1].time + over} over"
    said, _ = difference(make, feed, shape, stream, over, timeouts)
    pytest.fail(f"ENSUE_PATTERNS_SEED={seed}{shape!r}\n{shown}\n{said}", pytrace=False)


def general(definition: Definition) -> Operator:
    return Engine(definition, timeouts=True)


CONSTRUCTS = [
    *(f"contiguity {how}" for how in ("strict", "relaxed", "any")),
    *(f"inner {how} of {kind}" for how in ("strict", "relaxed", "any") for kind in ("several", "group")),
    *(f"times {how} of {kind}" for kind in ("several", "group") for how in ("bounded", "unbounded")),
    *(f"times optional {how} of {kind}" for kind in ("several", "group") for how in ("bounded", "unbounded")),
    *("optional", "greedy", "not greedy", "greedy at the end", "not greedy at the end", "until"),
    *(f"absence {where}, {how}" for where in ("between", "at the end") for how in ("strict", "relaxed")),
    *("absent in group", "group in group", "either in group", "all_of in group", "optional in group"),
    *(f"{part} in {kind}" for kind in ("either", "all_of") for part in ("one", "several", "group")),
    *(f"condition on {what}" for what in ("one", "perhaps", "several", "[0]", "[-1]")),
    *(f"condition on {what}" for what in ("count", "total", "smallest", "largest", "distinct")),
    *("opaque condition", "where of the whole", "within", "within of a step", "unbounded"),
    *(f"skip {way}" for way in ("next", "past_last", "none", "first", "last")),
]
"""What the language has. Each must have taken part in matches of several random patterns."""


COMPILED = [
    *("all", "contiguity relaxed", "contiguity strict", "greedy", "optional", "until", "within", "unbounded"),
    *("absence at the end, relaxed", "absence between, relaxed", "within of a step", "opaque condition"),
    *("condition on one", "condition on several", "condition on count"),
    *(f"skip {way}" for way in ("next", "past_last", "none", "first", "last")),
]


def compared(
    make: Callable[[Definition], Operator], seed: int, shape: PatternShape, chance: Random, timeouts: bool = True
) -> bool:
    """Whether the oracle finds a match in any of some streams, given in various ways."""
    found = False
    for _ in range(STREAMS):
        stream = draw_stream(chance, shape)
        feed = chance.choice((at_once, one_by_one, cut_anywhere(chance), kept_and_restored(chance)))
        found |= compare(make, seed, feed, shape, stream, chance.choice((BEHIND, BEHIND, 0, 1, 3)), timeouts)
    return found


def test_the_engine_finds_what_the_oracle_finds() -> None:
    matched = Counter[str]()
    for seed in seeds(0, EXAMPLES):
        chance = Random(seed)
        shape = draw_shape(chance)
        found = compared(general, seed, shape, chance)
        matched.update(features(shape) if found else ())
    missing = [construct for construct in CONSTRUCTS if matched[construct] < max(1, EXAMPLES // 200)]
    assert ONLY or not missing, f"random patterns with these found next to nothing: {missing}"


def test_the_compiled_form_finds_what_the_oracle_finds() -> None:
    matched = Counter[str]()
    for seed in seeds(0, 960):
        chance = Random(seed)
        shape = draw_shape(chance, SIMPLE)
        timeouts = chance.random() < 0.6
        make = partial(compiled, timeouts=timeouts)
        try:
            make(defined(shape))
        except NoPlaces:
            continue
        found = compared(make, seed, shape, chance, timeouts)
        matched.update({"all": 1, **dict.fromkeys(features(shape), 1)} if found else ())
    rare = [what for what in COMPILED if not matched[what]]
    assert ONLY or not rare, f"random patterns with these are compiled and find next to nothing: {rare}"


@pytest.mark.parametrize("timeouts", [False, True])
def test_what_most_patterns_are_is_compiled_and_finds_what_the_oracle_finds(timeouts: bool) -> None:
    make, many = partial(compiled, timeouts=timeouts), 0
    for seed in seeds(0, EXAMPLES):
        chance = Random(seed)
        shape = draw_usual(chance)
        try:
            make(defined(shape))
        except (NoPlaces, DefinitionError):
            continue
        many += compared(make, seed, shape, chance, timeouts)
    assert ONLY or many > EXAMPLES // 8


def raising(shape: PatternShape, chance: Random) -> PatternShape:
    """The same, but that a condition of one of its steps raises for some events."""
    at = chance.randrange(len(shape.steps))
    step = shape.steps[at]._replace(where=RAISES)
    return shape._replace(steps=(*shape.steps[:at], step, *shape.steps[at + 1 :]))


def going_on(make: Callable[[], Operator], stream: Sequence[Timed], over: int) -> tuple[list[Output], set[int]]:
    """The outputs, and the positions of events whose condition raised, behind each of which it goes on."""
    operator, outputs, failed = make(), list[Output](), set[int]()
    rest = list(stream)
    while rest:
        try:
            outputs += operator.take(batch(rest))
            break
        except ConditionFailed as failure:
            outputs += failure.outputs
            failed.add(failure.position)
            rest = [timed for timed in rest if timed.position > failure.position]
    return outputs + operator.advance(over), failed


@pytest.mark.parametrize("form", ["engine", "compiled"])
def test_an_event_whose_condition_raises_is_as_if_it_had_not_been(form: str) -> None:
    raised = 0
    for seed in seeds(0, EXAMPLES // 2):
        chance = Random(seed)
        shape = raising(draw_shape(chance, SIMPLE), chance)
        try:
            definition = defined(shape)
            make = partial(general if form == "engine" else partial(compiled, timeouts=True), definition)
            make()
        except (NoPlaces, DefinitionError):
            continue
        for _ in range(STREAMS):
            stream = draw_stream(chance, shape)
            outputs, failed = going_on(make, stream, stream[-1].time + BEHIND)
            raised += len(failed)
            without = [timed for timed in stream if timed.position not in failed]
            try:
                wanted = expected(definition, without, stream[-1].time + BEHIND)
            except ZeroDivisionError:  # the oracle asks more than an operator has to
                continue
            shown = "\n".join(f"  {timed.position} @{timed.time} {timed.event}" for timed in stream)
            assert given(outputs) == wanted, f"ENSUE_PATTERNS_SEED={seed}{shape!r}\n{shown}\nfailed {failed}"
    assert ONLY or raised > EXAMPLES // 10
