"""Every operator finds in random streams what the oracle finds, for random patterns of every construct.

A failure prints the pattern and the stream, made as small as they can be, and the seed. `ENSUE_PATTERNS_SEED=17` repeats one;
`ENSUE_PATTERNS_EXAMPLES=100000` looks deeper.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from random import Random

import pytest

from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator
from ensue.patterns.operators import operator_of
from tests.patterns.comparing import (
    BEHIND,
    Feeding,
    at_once,
    cut_anywhere,
    expected,
    given,
    kept_and_restored,
    one_by_one,
)
from tests.patterns.generating import draw_shape, draw_stream, smaller
from tests.patterns.oracle import Timed
from tests.patterns.shapes import PatternShape, build

ONLY = os.environ.get("ENSUE_PATTERNS_SEED")
EXAMPLES = int(os.environ.get("ENSUE_PATTERNS_EXAMPLES", "300"))
"""Patterns; each is compared on several streams."""
STREAMS = 4


def seeds(start: int, many: int) -> Sequence[int]:
    return [int(ONLY)] if ONLY is not None else range(start, start + many)


def compare(
    make: Callable[[Definition], Operator],
    seed: int,
    feed: Feeding,
    shape: PatternShape,
    stream: Sequence[Timed],
    over: int,
) -> None:
    def differs(shape: PatternShape, stream: Sequence[Timed]) -> str:
        definition = build(shape).__ensue_pattern__
        if not stream:
            return ""
        wanted = expected(definition, stream, stream[-1].time + over)
        try:
            found = given(feed(lambda: make(definition), stream, stream[-1].time + over))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if found == wanted else f"the oracle finds\n  {wanted}\nand the operator\n  {found}"

    if differs(shape, stream):
        shape, stream = smaller(shape, stream, lambda shape, stream: bool(differs(shape, stream)))
        shown = "\n".join(f"  {timed.position} @{timed.time} {timed.event}" for timed in stream)
        pytest.fail(
            f"ENSUE_PATTERNS_SEED={seed}{shape!r}\n{shown}\n  @{stream[-1].time + over} over\n{differs(shape, stream)}",
            pytrace=False,
        )


def general(definition: Definition) -> Operator:
    return operator_of(definition, timeouts=True)


def test_the_engine_finds_what_the_oracle_finds() -> None:
    for seed in seeds(0, EXAMPLES):
        chance = Random(seed)
        shape = draw_shape(chance)
        for _ in range(STREAMS):
            stream = draw_stream(chance, shape)
            feed = chance.choice((at_once, one_by_one, cut_anywhere(chance), kept_and_restored(chance)))
            compare(general, seed, feed, shape, stream, chance.choice((BEHIND, BEHIND, 0, 1, 3)))
