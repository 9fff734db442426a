"""The compiled form finds what the oracle and the general engine find; what it says of itself; what it does when a condition raises."""

from __future__ import annotations

from random import Random

from ensue.errors import DefinitionError
from ensue.patterns.compiled.compiler import NoPlaces, Plain, compiled
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator
from ensue.patterns.searching.engine import Engine
from tests.patterns.comparing import BEHIND, at_once, cut_anywhere, given, kept_and_restored, one_by_one
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.shapes import SEES, UNARY, PatternShape, StepShape, build
from tests.patterns.test_differential import EXAMPLES, compare, seeds

STREAMS = 4


def can_be_compiled(definition: Definition, *, timeouts: bool) -> bool:
    try:
        compiled(definition, timeouts=timeouts)
    except NoPlaces:
        return False
    return True


def with_timeouts(definition: Definition) -> Operator:
    return compiled(definition, timeouts=True)


def drawn(seed: int) -> tuple[Random, PatternShape, Definition]:
    chance = Random(seed)
    shape = draw_shape(chance)
    return chance, shape, build(shape).__ensue_pattern__


def test_what_is_compiled_finds_what_the_oracle_finds() -> None:
    many = 0
    for seed in seeds(0, EXAMPLES * 2 // 5):
        chance, shape, definition = drawn(seed)
        if not can_be_compiled(definition, timeouts=True):
            continue
        many += 1
        for _ in range(STREAMS):
            stream = draw_stream(chance, shape)
            feed = chance.choice((at_once, one_by_one, cut_anywhere(chance), kept_and_restored(chance)))
            compare(with_timeouts, seed, feed, shape, stream, chance.choice((BEHIND, BEHIND, 0, 1, 3)))
    assert many > EXAMPLES // 25, "hardly any of the drawn patterns is compiled"


def test_without_timeouts_it_gives_what_the_engine_gives() -> None:
    for seed in seeds(50_000, EXAMPLES * 2 // 5):
        chance, shape, definition = drawn(seed)
        if not can_be_compiled(definition, timeouts=False):
            continue
        for _ in range(STREAMS):
            stream = draw_stream(chance, shape)
            if stream:
                feed, over = cut_anywhere(chance), stream[-1].time + chance.choice((BEHIND, 0, 2))
                wanted = given(feed(lambda: Engine(definition), stream, over))  # noqa: B023
                assert given(feed(lambda: compiled(definition), stream, over)) == wanted, (seed, shape)  # noqa: B023


# ------------------------------------------------------------------------------------------- patterns of two steps


def of_two_steps(chance: Random) -> PatternShape:
    """A shape that has a program of its own, mostly."""
    where = [None, None, *UNARY]
    times = chance.choice((1, 1, 2, 3))
    first = StepShape(
        "several" if times > 1 else "one", event=chance.choice("AB"), where=chance.choice(where), times=times
    )
    second = StepShape(
        chance.choice(("one", "absent")),
        event=chance.choice("AB"),
        where=chance.choice(where),
        within=chance.choice((None, None, 2, 4)),
        sees=(("one", chance.choice([*SEES["one"]]), "s0"),) if times == 1 and chance.random() < 0.4 else (),
    )
    return PatternShape((first, second), chance.choice((3, 6, 9)), chance.choice(("next", "past_last", "none")))


def test_patterns_of_two_steps_find_what_the_oracle_finds() -> None:
    plain = 0
    for seed in seeds(0, EXAMPLES // 3):
        chance = Random(seed)
        shape = of_two_steps(chance)
        try:
            definition = build(shape).__ensue_pattern__
            timeouts = shape.steps[1].kind == "absent"
            plain += isinstance(compiled(definition, timeouts=timeouts), Plain)
        except (DefinitionError, NoPlaces):
            continue
        for _ in range(STREAMS):
            stream = draw_stream(chance, shape)
            feed = chance.choice((at_once, one_by_one, cut_anywhere(chance), kept_and_restored(chance)))
            over = chance.choice((BEHIND, 0, 1, 3))
            if timeouts:
                compare(with_timeouts, seed, feed, shape, stream, over)
            elif stream:
                wanted = given(feed(lambda: Engine(definition), stream, stream[-1].time + over))  # noqa: B023
                found = given(feed(lambda: compiled(definition), stream, stream[-1].time + over))  # noqa: B023
                assert found == wanted, (seed, shape, stream)
    assert plain > EXAMPLES // 8
