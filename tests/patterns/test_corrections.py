"""Late events correct what was found: what is left at the end is what would have been found had they come in time."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from ensue.patterns.definition import Definition
from ensue.patterns.finding import END
from ensue.patterns.operator import Found, Output, Revoked, Taken
from ensue.patterns.searching.corrections import Corrections
from ensue.patterns.searching.engine import Engine
from tests.patterns.comparing import batch
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.oracle import Timed
from tests.patterns.shapes import build

LATENESS = 6


def in_time(definition: Definition, stream: list[Timed]) -> set[bytes]:
    engine = Engine(definition)
    outputs = [*engine.take(batch(stream)), *engine.advance(END)]
    return {one.id for one in outputs if isinstance(one, Found)}


def late_ones(chance: Random, stream: list[Timed]) -> dict[int, list[Timed]]:
    """Some events of the stream, each with how far time has come when it arrives, if late by at most the lateness."""
    late: dict[int, list[Timed]] = {}
    for timed in chance.sample(stream, min(len(stream), chance.randint(1, 2))):
        late.setdefault(timed.time + chance.randint(1, LATENESS), []).append(timed)
    return late


def fed_late(
    make: Any, stream: list[Timed], late: dict[int, list[Timed]], *, kept: bool = False
) -> tuple[list[Output], Any]:
    operator, outputs = make(), list[Output]()
    states: dict[str, Any] = {}
    absent = {timed.position for some in late.values() for timed in some}
    for now in range(min(timed.time for timed in stream), max([*late, stream[-1].time]) + 1):
        if kept:
            for key in operator.changed():
                states[key] = operator.state(key)
            operator = make()
            for key, state in states.items():
                if state is not None:
                    operator.restore(key, state)
        outputs += operator.advance(now)
        for timed in late.get(now, ()):
            outputs += operator.correct(Taken(timed.time, timed.position, timed.event), timed.event.k)  # type: ignore[attr-defined]
        here = [timed for timed in stream if timed.time == now and timed.position not in absent]
        outputs += operator.take(batch(here)) if here else []
    return outputs + operator.advance(END), operator


def left(outputs: list[Output]) -> set[bytes]:
    """What was found and not revoked. Fails where a match is given twice, or one is revoked that was not given."""
    found: set[bytes] = set()
    for one in outputs:
        if isinstance(one, Found):
            assert one.id not in found
            found.add(one.id)
        elif isinstance(one, Revoked):
            assert one.id == one.found.id
            found.remove(one.id)
    return found


@pytest.mark.parametrize("kept", [False, True], ids=["in one operator", "restored before each moment"])
def test_what_is_left_is_what_would_have_been_found_in_time(kept: bool) -> None:
    revoked = 0
    for seed in range(40 if kept else 100):
        chance = Random(seed)
        shape = draw_shape(chance)
        definition = msgspec.structs.replace(build(shape).__ensue_pattern__, lateness=LATENESS)
        stream = list(draw_stream(chance, shape))
        if not stream:
            continue
        late = late_ones(chance, stream)
        outputs, _ = fed_late(lambda: Corrections(definition), stream, late, kept=kept)  # noqa: B023
        assert left(outputs) == in_time(definition, stream), seed
        revoked += sum(isinstance(one, Revoked) for one in outputs)
    assert revoked > (0 if kept else 2)


def test_nothing_is_remembered_once_no_late_event_can_come() -> None:
    for seed in range(20):
        chance = Random(seed)
        shape = draw_shape(chance)
        definition = msgspec.structs.replace(build(shape).__ensue_pattern__, lateness=LATENESS)
        stream = list(draw_stream(chance, shape))
        if stream:
            outputs, operator = fed_late(lambda: Corrections(definition), stream, {})  # noqa: B023
            assert not any(isinstance(one, Revoked) for one in outputs)
            if definition.horizon is not None:
                assert all(operator.state(key) is None for key in {timed.event.k for timed in stream})  # type: ignore[attr-defined]
