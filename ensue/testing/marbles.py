"""Marble tests: a stream of events on one line, and what a pattern finds in it.

    assert_matches(Unpaid, "o1@0 p1@5m o2@1m", ["o2"])

A marble is `p1(250, FR)@1h30m`: what it is, of which key, further values, and when. Only the first part must be there.

- `p` is an event type of the pattern, by as much of the beginning of its name as tells it from the others; or a name that is given
  to `assert_matches`: an event type, or a function of the key and the values.
- `1` is its key: digits, or any word behind a colon: `p:anna@5`. Without it all are of one key.
- `(250, FR)` are its other fields in their order, or by name: `(country=FR)`. What is left out has its default, or a plain value: 0, "".
- `@1h30m` is its time since the beginning: d, h, m, s, ms; a plain number is of seconds. Without it a second after the marble before.
- `|@20m` at the end: time has come so far and no further. Without it all deadlines pass.

Times need not rise; among equal ones the order of writing counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from ensue.errors import DefinitionError, InvalidEvent
from ensue.events.message import Event
from ensue.events.message import declaration as declaration_of
from ensue.patterns import Pattern
from ensue.patterns.explained.nearest import flat, order
from ensue.patterns.explained.reasons import why_not
from ensue.patterns.finding import batch_of, outputs
from ensue.patterns.history.rows import EventMaker
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Expired, Found
from ensue.patterns.operators import operator_of

__all__ = ["START", "Letter", "Marble", "Marbles", "assert_matches", "marbles"]

P = TypeVar("P", bound=Pattern)
Letter: TypeAlias = type[Event] | Callable[..., Event]

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The time of `@0`."""
YEARS = 1000
_MARBLE = re.compile(
    r"(?P<name>[A-Za-z_]+)(?:(?P<digits>[0-9]+)|:(?P<word>[^\s@()]+))?(?P<values>\([^()]*\))?(?:@(?P<time>[^\s@()]+))?(?=\s|$)"
)
_END = re.compile(r"\|@(?P<time>[^\s@()]+)\s*$")
_TIME = re.compile(
    r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+(?:\.\d{1,6})?)(?:s|$))?(?:(?P<ms>\d+)ms)?"
)


class Marble(msgspec.Struct, frozen=True):
    """One event as it was written. `time` is since `START`; None where it was not said, which only what is expected may do."""

    name: str
    key: str
    values: str
    time: timedelta | None
    text: str


class Marbles(msgspec.Struct, frozen=True):
    """A stream: its marbles in the order of writing, their events, and how far time has come (None: to its end)."""

    marbles: tuple[Marble, ...]
    events: tuple[tuple[datetime, Event], ...]
    until: datetime | None = None

    def text_of(self, event: Event) -> str:
        """How this very event was written, with its time where that is needed to know it."""
        at = next(number for number, (_, one) in enumerate(self.events) if one is event)
        found = self.marbles[at]
        alike = [one for one in self.marbles if (one.name, one.key) == (found.name, found.key)]
        plain = found.text.partition("(")[0].partition("@")[0]
        if len(alike) == 1:
            return plain
        time = f"@{_written(found.time or timedelta())}"
        return (
            f"{plain}{time}" if [one.time for one in alike].count(found.time) == 1 else f"{plain}{found.values}{time}"
        )


def marbles(pattern: type[Pattern], text: str, /, **letters: Letter) -> Marbles:
    """The events that a line of marbles stands for. Errors: `DefinitionError`, naming the marble."""
    until: datetime | None = None
    end = _END.search(text)
    if end is not None:
        until = START + _time(end["time"], end[0].strip())
        text = text[: end.start()]
    read: list[Marble] = []
    time = timedelta(seconds=-1)
    for one in _read(text):
        time = one.time if one.time is not None else time + timedelta(seconds=1)
        read.append(msgspec.structs.replace(one, time=time))
    if not read:
        raise DefinitionError("there are no marbles; they look like this: 'o1@0 p1@5m o2@1m'")
    makers = _Makers(pattern, letters)
    return Marbles(tuple(read), tuple((START + (one.time or timedelta()), makers.event(one)) for one in read), until)


def _read(text: str) -> list[Marble]:
    found: list[Marble] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        marble = _MARBLE.match(text, at)
        if marble is None:
            wrong = text[at:].split(maxsplit=1)[0]
            raise DefinitionError(
                f"{wrong!r} in {text.strip()!r} is no marble; one looks like o1, o1@5m or p1(250, FR)@1h30m"
            )
        written = marble[0]
        time = None if marble["time"] is None else _time(marble["time"], written)
        key = marble["digits"] or marble["word"] or ""
        values = marble["values"] or ""
        found.append(Marble(marble["name"], key, "".join(values.split()), time, written))
        at = marble.end()
    return found


def _time(text: str, marble: str) -> timedelta:
    said = _TIME.fullmatch(text)
    if said is None or not text:
        raise DefinitionError(
            f"{marble!r}: {text!r} is no time; one looks like 5m, 1h30m, 2d, 90s, 250ms or 4 (seconds)"
        )
    number = {unit: float(value or 0) for unit, value in said.groupdict().items()}
    if number["d"] > YEARS * 365 or number["h"] + number["m"] + number["s"] + number["ms"] > YEARS * 365 * 86_400:
        raise DefinitionError(f"{marble!r}: {text!r} is more than {YEARS} years")
    return timedelta(
        days=number["d"], hours=number["h"], minutes=number["m"], seconds=number["s"], milliseconds=number["ms"]
    )


def _written(time: timedelta) -> str:
    """The shortest text for a time."""
    seconds, below = divmod(time // timedelta(microseconds=1), 1_000_000)
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m")]
    text = "".join(f"{number}{unit}" for number, unit in parts if number)
    last = f"{seconds % 60 + below / 1_000_000:g}"
    return text if text and last == "0" else f"{text}{last}s" if text else last


class _Makers:
    """Makes the event of a marble."""

    def __init__(self, pattern: type[Pattern], letters: Mapping[str, Letter]) -> None:
        self._pattern = pattern
        self._types = pattern.__ensue_pattern__.events
        self._letters = letters
        self._made: dict[type[Event], EventMaker] = {}

    def event(self, marble: Marble) -> Event:
        letter = self._letters.get(marble.name) or self._named(marble)
        key = marble.key or "1"
        values = [one.strip() for one in marble.values.strip("()").split(",")] if marble.values.strip("()") else []
        try:
            if isinstance(letter, type):
                return self._typed(letter, key, values, START + (marble.time or timedelta()))
            named = dict(_pair(one) for one in values if "=" in one)
            return letter(key, *(one for one in values if "=" not in one), **named)
        except (InvalidEvent, DefinitionError, TypeError, ValueError) as error:
            raise DefinitionError(f"{marble.text!r}: {error}") from error

    def _named(self, marble: Marble) -> type[Event]:
        wanted = marble.name.lower()
        exact = [one for one in self._types if one.__name__.lower() == wanted]
        found = exact or [one for one in self._types if one.__name__.lower().startswith(wanted)]
        if len(found) == 1:
            return found[0]
        what = "may be " + " or ".join(one.__name__ for one in found) if found else "begins no event type of it"
        known = ", ".join((*self._letters, *(one.__name__ for one in self._types)))
        raise DefinitionError(
            f"{marble.text!r}: {marble.name!r} {what}; {self._pattern.__name__} has: {known}. Say which: {marble.name}=EventType"
        )

    def _typed(self, event: type[Event], key: str, values: Sequence[str], time: datetime) -> Event:
        maker = self._made.get(event) or self._made.setdefault(event, EventMaker(event))
        given: dict[str, Any] = {}
        key_field = _key_field(event, self._pattern.__ensue_pattern__.key_tag)
        if key_field is not None:
            given[key_field] = key
        given |= dict(_pair(one) for one in values if "=" in one)
        others = [name for name in maker.fields if name not in given]
        in_order = [one for one in values if "=" not in one]
        if len(in_order) > len(others):
            raise DefinitionError(
                f"{len(in_order)} values, but {event.__name__} has {len(others)} fields for them: {', '.join(others) or 'none'}"
            )
        given |= dict(zip(others, in_order, strict=False))
        for name in maker.required:
            if name not in given:
                given[name] = maker.plain(name, time)
        return maker.make(given)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def _key_field(event: type[Event], tag: str | None) -> str | None:
    declared = declaration_of(event)
    pairs = ((declared.key,) if declared.key else ()) + declared.tags
    if tag:
        return next((field for field, one in pairs if one == tag), None)
    return declared.key[0] if declared.key else None


# ---------------------------------------------------------------------------------------------------------- asserting


def assert_matches(
    pattern: type[P],
    stream: str,
    matches: Sequence[str],
    /,
    *,
    timed_out: Sequence[str] | None = None,
    **letters: Letter,
) -> list[P]:
    """The pattern finds exactly these matches in this stream, in the order in which they are complete; each is said by the marbles
    that it takes, such as "o1 p1", with `@time` or values where there are several alike. `timed_out`, where it is given, are the
    beginnings that found no end, said by what they had taken.

    Gives the matches. Errors: `AssertionError`, with a table of both and why what is missing is none; `DefinitionError` for what
    is no marble.
    """
    read = marbles(pattern, stream, **letters)
    found, expired, instances = _found(pattern, read)
    expected = [_taken(read, text) for text in matches]
    _compare(pattern, read, "matches", expected, found)
    if timed_out is not None:
        _compare(pattern, read, "timed out", [_taken(read, text) for text in timed_out], expired)
    return instances


Takes: TypeAlias = tuple[int, ...]
"""The numbers of the marbles that a match takes, in their order."""


def _found(pattern: type[P], read: Marbles) -> tuple[list[Takes], list[Takes], list[P]]:
    numbers = {id(event): number for number, (_, event) in enumerate(read.events)}
    found: list[Takes] = []
    expired: list[Takes] = []
    instances: list[P] = []
    definition = pattern.__ensue_pattern__
    operator = operator_of(definition, timeouts=True)
    for output in outputs(operator, batch_of(definition, read.events), until=read.until):
        if isinstance(output, Found | Expired):
            ordered = sorted(flat(output.steps), key=order)
            takes = tuple(numbers[id(one.event)] for one in ordered)
            (found if isinstance(output, Found) else expired).append(takes)
            if isinstance(output, Found):
                instances.append(cast(P, match_of(definition, output)))
    return found, expired, instances


def _taken(read: Marbles, text: str) -> Takes:
    """The marbles that a text of what is expected means."""
    return tuple(_meant(read, one, text) for one in _read(text))


def _meant(read: Marbles, said: Marble, text: str) -> int:
    def same(one: Marble) -> bool:
        return (
            (one.name, one.key) == (said.name, said.key)
            and said.time in (None, one.time)
            and said.values in ("", one.values)
        )

    found = [number for number, one in enumerate(read.marbles) if same(one)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise DefinitionError(f"{text!r}: there is no marble {said.text!r} in the stream")
    times = ", ".join(f"@{_written(read.marbles[number].time or timedelta())}" for number in found)
    raise DefinitionError(
        f"{text!r}: {said.text!r} may be any of {len(found)} marbles, {times}; say its time, or its values as well"
    )


def _compare(
    pattern: type[Pattern], read: Marbles, what: str, expected: Sequence[Takes], found: Sequence[Takes]
) -> None:
    if list(expected) == list(found):
        return
    missing = Counter(expected) - Counter(found)
    if not missing and len(expected) == len(found):
        head = f"{pattern.__name__}: the same {what}, in another order"
        pairs: list[tuple[Takes | None, Takes | None]] = [*zip(expected, found, strict=True)]
    else:
        head = f"{pattern.__name__}: other {what} than expected"
        common = list((Counter(expected) & Counter(found)).elements())
        pairs = [
            *((one, one) for one in common),
            *((one, None) for one in missing.elements()),
            *((None, one) for one in (Counter(found) - Counter(expected)).elements()),
        ]
    raise AssertionError("\n".join([head, *_table(read, pairs), *_reasons(pattern, read, missing)]))


def _table(read: Marbles, pairs: Sequence[tuple[Takes | None, Takes | None]]) -> list[str]:
    def shown(takes: Takes | None) -> str:
        return "-" if takes is None else " ".join(read.text_of(read.events[number][1]) for number in takes) or "nothing"

    rows = [("expected", "found")] + [(shown(one), shown(other)) for one, other in pairs]
    width = max(len(one) for one, _ in rows)
    return [
        f"  {'  ' if one == other or number == 0 else '! '}{one:<{width}}  {other}"
        for number, (one, other) in enumerate(rows)
    ]


def _reasons(pattern: type[Pattern], read: Marbles, missing: Counter[Takes]) -> list[str]:
    lines: list[str] = []
    for takes in missing:
        first = read.events[takes[0]][1]
        miss = why_not(pattern, read.events, event=first, until=read.until)
        lines.append(f"  {read.text_of(first)}: {miss.said(read.text_of)}")
    return lines
