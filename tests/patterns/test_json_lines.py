"""JSON lines: what is found is what `find` finds in the whole events, and what cannot be read is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ensue import Event, minutes
from ensue.errors import ConditionFailed, InvalidEvent, Misuse
from ensue.patterns import Pattern, absent, find, find_in_json, one

START = datetime(2026, 1, 1, 9, tzinfo=UTC)


class Used(Event, key="card", time="at"):
    card: str
    at: datetime
    kind: int = 7
    note: str = ""


class Untimed(Event, key="card"):
    card: str
    kind: int


class Two(Pattern, within=minutes(30)):
    a = one(Used, lambda used: used.kind == 1)
    b = one(Used, lambda used: used.kind == 2)


class Missing(Pattern, within=minutes(2)):
    a = one(Used, lambda used: used.kind == 7)
    b = absent(Used, lambda used: used.kind == 2)


class Next(Pattern, within=minutes(30)):
    a = one(Used, lambda used: used.kind == 1)
    b = one(Used, lambda used: used.kind == 2, contiguity="strict")


class Opaque(Pattern, within=minutes(30)):
    a = one(Used, lambda used: {1: True}.get(used.kind, False))
    b = one(Used, lambda used: used.note.startswith("x") and used.kind == 2)


class Dividing(Pattern, within=minutes(30)):
    a = one(Used, lambda used: 6 // used.kind == 6)
    b = one(Used, lambda used: used.kind == 2)


class Timed(Pattern, within=minutes(30)):
    a = one(Untimed, lambda used: used.kind == 1)
    b = one(Untimed, lambda used: used.kind == 2)


KINDS = [1, 3, 7, 2, 1, 1, 9, 2, 3, 2, 7, 1, 2]
EVENTS = [
    Used(card=f"k{number % 2}", at=START + timedelta(minutes=(number * 7) % 11), kind=kind, note="x" * (number % 3))
    for number, kind in enumerate(KINDS)
]
LINES = [msgspec.json.encode(event) for event in EVENTS]


@pytest.mark.parametrize("pattern", [Two, Missing, Next, Opaque], ids=lambda one: one.__name__)
def test_it_finds_what_find_finds(pattern: type[Pattern]) -> None:
    found = find(pattern, EVENTS)
    assert found
    assert find_in_json(pattern, Used, LINES) == found


def test_a_field_that_is_not_there_has_its_default() -> None:
    (match,) = find_in_json(Missing, Used, [b'{"card":"k","at":"2026-01-01T09:00:00Z"}'])
    assert match.a.kind == 7


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"7",
        b'{"kind":"1"}',
        b'{"kind":3}{"kind":3}',
        b'{"kind":3},{"kind":3}',
        b'{"kind":1,"card":"k"}',
        b"\xff",
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: bytes) -> None:
    with pytest.raises(InvalidEvent, match="line 3 is no Used"):
        find_in_json(Two, Used, [*LINES[:2], line, *LINES[2:]])


def test_other_fields_of_a_line_that_does_not_matter_are_not_looked_at() -> None:
    assert find_in_json(Two, Used, [*LINES, b'{"kind":3}']) == find(Two, EVENTS)


def test_a_condition_that_raises_says_of_which_line() -> None:
    zero = msgspec.json.encode(Used(card="k", at=START, kind=0))
    with pytest.raises(ConditionFailed) as failed:
        find_in_json(Dividing, Used, [LINES[0], zero])
    assert failed.value.position == 2


def test_when_it_was_is_said_by_the_caller_where_the_type_does_not() -> None:
    lines = [b'{"card":"k","kind":1}', b'{"card":"k","kind":2}']
    assert len(find_in_json(Timed, Untimed, lines, time=lambda used: START)) == 1
    with pytest.raises(Misuse, match="when was a Untimed"):
        find_in_json(Timed, Untimed, lines)
