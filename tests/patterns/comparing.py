"""An operator's outputs beside the oracle's, in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from ensue.patterns.definition import Definition
from ensue.patterns.operator import Batch, Expired, Found, Operator, Output, Taken
from tests.patterns.oracle import Answer, Match, Timed, answer

__all__ = [
    "BEHIND",
    "Feeding",
    "at_once",
    "batch",
    "cut_anywhere",
    "expected",
    "given",
    "kept_and_restored",
    "one_by_one",
]

BEHIND = 1000
"""Microseconds behind the last event, at which every deadline of a drawn pattern is over."""
Feeding = Callable[[Callable[[], Operator], Sequence[Timed], int], list[Output]]
"""Gives the events to an operator (made by the first argument) and then lets this time be over."""


def expected(definition: Definition, stream: Sequence[Timed], over: int) -> dict[str, Answer]:
    """What the oracle finds, by key."""
    keys = dict.fromkeys(timed.event.k for timed in stream)  # type: ignore[attr-defined]
    found = {
        key: answer(definition, [timed for timed in stream if timed.event.k == key], over=over)  # type: ignore[attr-defined]
        for key in keys
    }
    return {
        key: Answer(one.matches, sorted(map(_bare, one.expired), key=repr))
        for key, one in found.items()
        if one.matches or one.expired
    }


def given(outputs: Sequence[Output]) -> dict[str, Answer]:
    """What an operator gave, in the oracle's form. Fails where two matches have one identity."""
    answers: dict[str, Answer] = {}
    for output in outputs:
        assert isinstance(output, Found | Expired), output
        one = answers.setdefault(output.key.rpartition("=")[2], Answer([], []))
        if isinstance(output, Found):
            one.matches.append(Match(_steps(output.steps), output.started, output.ended))
        else:
            one.expired.append(Match(_steps(output.steps), output.started, output.deadline))
    found = [output.id for output in outputs if isinstance(output, Found)]
    assert len(found) == len(set(found)), "two matches with one id"
    return {key: Answer(one.matches, sorted(map(_bare, one.expired), key=repr)) for key, one in answers.items()}


def _steps(taken: Any) -> Any:
    if isinstance(taken, Taken):
        return taken.position
    if isinstance(taken, Mapping):
        return {name.rpartition(".")[2]: _steps(value) for name, value in taken.items()}
    return tuple(map(_steps, taken)) if isinstance(taken, tuple) else taken


def _bare(expired: Match) -> Match:
    """Of what was not finished, nothing is said in one way only."""
    return expired._replace(steps=_nothing(expired.steps))


def _nothing(taken: Any) -> Any:
    if isinstance(taken, dict):
        return {name: _nothing(value) for name, value in taken.items()}
    if isinstance(taken, tuple):
        inside = tuple(map(_nothing, taken))
        return inside if any(value is not None for value in inside) else None
    return taken


def batch(stream: Sequence[Timed]) -> Batch:
    """These events as one batch."""
    times, positions, events = (list(column) for column in zip(*stream, strict=True))
    return Batch(events=events, times=times, positions=positions)


def at_once(make: Callable[[], Operator], stream: Sequence[Timed], over: int) -> list[Output]:
    operator = make()
    return [*operator.take(batch(stream)), *operator.advance(over)]


def one_by_one(make: Callable[[], Operator], stream: Sequence[Timed], over: int) -> list[Output]:
    """Each event for itself, and each time told as soon as it is over."""
    operator, outputs = make(), list[Output]()
    for timed in stream:
        outputs += operator.advance(timed.time)
        outputs += operator.take(batch([timed]))
    return outputs + operator.advance(over)


def cut_anywhere(chance: Random) -> Feeding:
    def feed(make: Callable[[], Operator], stream: Sequence[Timed], over: int) -> list[Output]:
        operator, outputs = make(), list[Output]()
        for part in _cut(chance, stream):
            outputs += operator.take(batch(part))
        return outputs + operator.advance(over)

    return feed


def kept_and_restored(chance: Random) -> Feeding:
    """What changed is kept after each part, and another operator goes on from there."""

    def feed(make: Callable[[], Operator], stream: Sequence[Timed], over: int) -> list[Output]:
        kept: dict[str, Any] = {}
        outputs: list[Output] = []
        for part in [*_cut(chance, stream), []]:
            operator = make()
            for key, state in kept.items():
                operator.restore(key, state)
            outputs += operator.take(batch(part)) if part else operator.advance(over)
            for key in list(operator.changed()):
                state = operator.state(key)
                kept.pop(key, None) if state is None else kept.update({key: state})
        return outputs

    return feed


def _cut(chance: Random, stream: Sequence[Timed]) -> list[Sequence[Timed]]:
    at = sorted({0, len(stream), *(chance.randint(0, len(stream)) for _ in range(2))})
    return [stream[start:end] for start, end in pairwise(at)]
