"""Finds the matches of a pattern in JSON, an event in each line, without making events of the lines that do not matter.

    found = find_in_json(TestedThenUsed, Payment, Path("payments.jsonl").read_bytes().splitlines())

Of each line the fields are read that the pattern's conditions ask of an event by itself; of those for which a step could take it, or
an absence forbid it, all. That finds what it would find in the whole events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from ensue.errors import InvalidEvent, Misuse
from ensue.events.message import Event, own_time
from ensue.events.recorded import microseconds
from ensue.patterns.compiled.compiler import predicate, selector
from ensue.patterns.compiled.relevance import Test, relevance_of
from ensue.patterns.compiled.source import fields_of
from ensue.patterns.definition import Definition
from ensue.patterns.expressions import Candidate, walk
from ensue.patterns.finding import END
from ensue.patterns.language import Pattern
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Found
from ensue.patterns.operators import operator_of

__all__ = ["find_in_json"]

P = TypeVar("P", bound=Pattern)
E = TypeVar("E", bound=Event)
BATCH = 1000
"""So many lines are read at once."""


def find_in_json(
    pattern: type[P],
    event: type[E],
    lines: Sequence[bytes],
    /,
    *,
    time: Callable[[E], datetime] | None = None,
    until: datetime | None = None,
) -> list[P]:
    """The matches of a pattern in lines of JSON, each an event of this type; everything else as `find`. `time` says when an event was;
    without it the type itself says which field it is. A match's positions are its lines, counted from 1.

    Errors: `InvalidEvent`, which names the line, for one that is no JSON object, or in which a field that is read is missing or of
    another type. In a line that cannot matter to the pattern, no other fields are looked at, and neither its key nor its time. Else as
    `find`.
    """
    definition = pattern.__ensue_pattern__
    reader = _Reader(definition, event)
    rows: list[tuple[int, int, E]] = []
    for at in range(0, len(lines), BATCH):
        for number, one in reader.read(lines[at : at + BATCH], at + 1):
            rows.append((_micros(time(one)) if time is not None else _own(one), number, cast(E, one)))
    rows.sort(key=_order)
    batch = Batch([row[2] for row in rows], [row[0] for row in rows], [row[1] for row in rows])
    operator = operator_of(definition)
    given = operator.take(batch) + operator.advance(END if until is None else _micros(until))
    return [cast(P, match_of(definition, one)) for one in given if isinstance(one, Found)]


class _Reader:
    """Makes events of the lines that matter."""

    def __init__(self, definition: Definition, event: type[Event]) -> None:
        self._whole = msgspec.json.Decoder(event)
        self._event = event
        relevance = relevance_of(definition, event)
        tests = None if relevance.followers else relevance.tests
        fields = None if tests is None else _fields(tests, event)
        self._part: type | None = None
        if tests is not None and fields is not None:
            self._holds, self._select = predicate(*tests), selector(*tests)
            self._part = _part(event, fields)
            self._one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._part)

    def read(self, lines: Sequence[bytes], first: int) -> list[tuple[int, Any]]:
        """The events that matter, with their lines, of which the first has this number. Errors: `InvalidEvent`."""
        if self._part is None:
            return [(number, self._decoded(self._whole, line, number)) for number, line in enumerate(lines, first)]
        try:
            parts = self._one.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            parts = []
        if len(parts) != len(lines):  # some line is not one object: say which
            parts = [self._decoded(self._one, line, number) for number, line in enumerate(lines, first)]
        try:
            matter = self._select(parts)
        except Exception:  # what raises is said by the operator, of the whole event
            matter = [at for at, part in enumerate(parts) if _holds_or_raises(self._holds, part)]
        return [(first + at, self._decoded(self._whole, lines[at], first + at)) for at in matter]

    def _decoded(self, decoder: Any, line: bytes, number: int) -> Any:
        try:
            return decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEvent(f"line {number} is no {self._event.__name__}: {error}") from error


def _holds_or_raises(test: Callable[[Any], bool], part: object) -> bool:
    try:
        return test(part)
    except Exception:
        return True


def _fields(tests: Sequence[Test], event: type[Event]) -> list[str] | None:
    """The fields that these tests read; None where they may look at more of the event than fields."""
    fields: dict[str, None] = {}
    for test in tests:
        for part in test:
            if callable(part):
                return None
            read = list(fields_of(part))
            if len(read) != sum(isinstance(one, Candidate) for one in walk(part)):
                return None
            fields.update(dict.fromkeys(read))
    return list(fields) if fields.keys() <= set(event.__struct_fields__) else None


def _part(event: type[Event], names: Sequence[str]) -> type:
    """An event's fields of these names, read as the event's are."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(event):
        if field.name in names:
            said = {"default": field.default, "default_factory": field.default_factory}
            given: dict[str, Any] = {name: value for name, value in said.items() if value is not msgspec.NODEFAULT}
            fields.append((field.name, field.type, msgspec.field(name=field.encode_name, **given)))
    return msgspec.defstruct(f"PartOf{event.__name__}", fields, kw_only=True, frozen=True, gc=False)


def _own(event: Event) -> int:
    time = own_time(event)
    if time is None:
        raise Misuse(
            f"when was a {type(event).__name__}? Give time=, or name the field: class Reading(Event, time='at')"
        )
    return time


def _order(row: tuple[int, int, Any]) -> tuple[int, int]:
    return row[0], row[1]


def _micros(time: datetime) -> int:
    if time.tzinfo is None:
        raise Misuse(f"{time!r} has no time zone, so that it is not known when that was: give an aware datetime")
    return microseconds(time)
