"""Many patterns together, and patterns over columns, find in random streams what the oracle finds for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pytest

from ensue.patterns.columns.columnar import Columnar
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Output
from ensue.patterns.sharing import PatternSet
from tests.patterns.comparing import BEHIND, batch, expected, given
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.oracle import Timed
from tests.patterns.shapes import A, PatternShape, StepShape, build

ONLY = os.environ.get("ENSUE_PATTERNS_SEED")
EXAMPLES = int(os.environ.get("ENSUE_PATTERNS_EXAMPLES", "120"))
SEEDS = range(EXAMPLES) if ONLY is None else [int(ONLY)]
STREAMS = 3

Feed = Callable[[Sequence[Definition], Sequence[Timed], Sequence[int], int], list[list[Output]]]


def compare(seed: int, chance: Random, shapes: list[PatternShape], feed: Feed, *, only: str | None = None) -> int:
    """How many matches there were. Fails where a pattern gives something else than the oracle."""
    definitions = [build(shape, f"P{at}").__ensue_pattern__ for at, shape in enumerate(shapes)]
    matches = 0
    for _ in range(STREAMS):
        drawn = draw_stream(chance, chance.choice(shapes))
        stream = [
            Timed(one.time, at, one.event) for at, one in enumerate(drawn, 1) if only is None or type(one.event) is A
        ]
        stream = [one._replace(position=at) for at, one in enumerate(stream, 1)]
        if not stream:
            continue
        over = stream[-1].time + BEHIND
        cuts = sorted({0, len(stream), chance.randint(0, len(stream))})
        outputs = feed(definitions, stream, cuts, over)
        for shape, definition, found in zip(shapes, definitions, outputs, strict=True):
            wanted = expected(definition, stream, over)
            matches += sum(len(one.matches) for one in wanted.values())
            if given(found) != wanted:
                shown = "\n".join(f"  {timed.position} @{timed.time} {timed.event}" for timed in stream)
                pytest.fail(
                    f"ENSUE_PATTERNS_SEED={seed}, cut at {cuts}{shape!r}\n{shown}\nwanted {wanted}\nfound {given(found)}",
                    pytrace=False,
                )
    return matches


def test_patterns_that_share_their_questions_find_what_each_would_find() -> None:
    def together(
        definitions: Sequence[Definition], stream: Sequence[Timed], cuts: Sequence[int], over: int
    ) -> list[list[Output]]:
        patterns: Any = PatternSet(definitions, timeouts=True)
        outputs: list[list[Output]] = [[] for _ in definitions]
        parts = [*(patterns.take(batch(stream[start:end])) for start, end in pairwise(cuts)), patterns.advance(over)]
        for part in parts:
            for own, more in zip(outputs, part, strict=True):
                own += more
        return outputs

    matches = 0
    for seed in SEEDS:
        chance = Random(seed)
        matches += compare(seed, chance, [draw_shape(chance) for _ in range(4)], together)
    assert ONLY or matches > EXAMPLES


ASKED = {"A": "e.n > 1", "B": "e.s == 'x'", "C": "e.n == 2", "Sub": "e.n in (0, 3)"}


def of_one_type(step: StepShape) -> StepShape:
    """The same step about events of one type; where it asked nothing, it asks for what tells them apart."""
    where = step.where if step.parts else step.where or ASKED[step.event]
    return step._replace(event="A", where=where, parts=tuple(map(of_one_type, step.parts)))


def test_patterns_over_columns_find_what_they_find_in_events() -> None:
    left_out = 0

    def columns(
        definitions: Sequence[Definition], stream: Sequence[Timed], cuts: Sequence[int], over: int
    ) -> list[list[Output]]:
        nonlocal left_out
        columnar = Columnar(definitions, A, timeouts=True)
        outputs: list[list[Output]] = [[] for _ in definitions]
        for start, end in pairwise(cuts):
            events: list[Any] = [timed.event for timed in stream[start:end]]
            table = pa.table({name: [getattr(event, name) for event in events] for name in ("k", "n", "s")})
            times = np.array([timed.time for timed in stream[start:end]], np.int64)
            for own, more in zip(outputs, columnar.take(table, times=times), strict=True):
                own += more
        for own, more in zip(outputs, columnar.advance(over), strict=True):
            own += more
        left_out += columnar.rows - columnar.became_events
        return outputs

    matches = 0
    for seed in SEEDS:
        chance = Random(seed)
        drawn = [draw_shape(chance) for _ in range(chance.choice((1, 1, 2)))]
        shapes = [shape._replace(steps=tuple(map(of_one_type, shape.steps))) for shape in drawn]
        matches += compare(seed, chance, shapes, columns, only="A")
    assert ONLY or (matches > EXAMPLES // 2 and left_out > EXAMPLES // 4), (matches, left_out)
