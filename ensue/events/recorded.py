"""Events as a log holds them, for people who read them: `Recorded`, `Position`, and `Criteria` to select them.

`Recorded` is a view on a row: the event is decoded when it is made, everything else when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from ensue.errors import ArchivedEvent, WrongLog
from ensue.events.message import Event, tag_of
from ensue.events.stored import Meta, Row, decode_meta, tag_hash, tombstone_of

__all__ = [
    "Archived",
    "Criteria",
    "Position",
    "Recorded",
    "UnknownEvent",
    "archived_error",
    "instant",
    "microseconds",
]

E_co = TypeVar("E_co", covariant=True, bound=Event)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(time: int) -> datetime:
    """Microseconds since 1970 UTC as an aware datetime."""
    return _EPOCH + timedelta(microseconds=time)


def microseconds(time: datetime) -> int:
    """An aware datetime in microseconds since 1970 UTC. A naive one is taken as local time."""
    return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


@functools.total_ordering
class Position:
    """Where a write ended, in one log. `str(position)` and `Position(text)` carry it anywhere, also across HTTP.

    Positions of one log are ordered; comparing those of two raises `WrongLog`.
    """

    __slots__ = ("first", "last", "log_id")

    def __init__(self, text: str, /) -> None:
        """Errors: `ValueError` for a text that no position gave."""
        log_id, _, span = text.rpartition(".")
        first, _, last = span.partition("-")
        if not log_id or not first.isdecimal() or not last.isdecimal() or int(first) > int(last) + 1:
            raise ValueError(f"{text!r} is not a position; one looks like 0f3a….17-18")
        self.log_id = log_id
        self.first = int(first)
        self.last = int(last)

    @classmethod
    def of(cls, log_id: str, first: int, last: int) -> Position:
        """The position of a write whose events are `first` to `last`."""
        position = cls.__new__(cls)
        position.log_id, position.first, position.last = log_id, first, last
        return position

    def within(self, log_id: str) -> Position:
        """This position, if it is one of that log. Errors: `WrongLog`."""
        if self.log_id != log_id:
            raise WrongLog(f"the position {self} belongs to the log {self.log_id}, not to {log_id}: another database?")
        return self

    def __str__(self) -> str:
        return f"{self.log_id}.{self.first}-{self.last}"

    def __repr__(self) -> str:
        return f"Position({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: Position, /) -> bool:
        return (self.last, self.first) < (other.within(self.log_id).last, other.first)


class UnknownEvent(Event):
    """An event of a type that this application does not know. Its fields are as they were written."""

    type_name: str
    type_version: int
    fields: dict[str, Any]


class Archived(Event, name="ensue.Archived"):
    """An event whose payload is not in the log any more: it is in the archive that was called `file`, or, where `file` is empty,
    retention has dropped it. Whoever reads events of any type is given it in its place."""

    type_name: str
    type_version: int
    file: str


def archived_error(row: Row, name: str) -> ArchivedEvent | None:
    """What to raise where this row was to be decoded, if it could not be because a tombstone stands there."""
    tombstone = tombstone_of(row[11])
    if tombstone is None:
        return None
    if tombstone.archive is None:
        return ArchivedEvent(
            f"the payload of the {name} at position {row[0]} was dropped, as its type's retention says; nobody has it",
            file="",
        )
    return ArchivedEvent(
        f"the payload of the {name} at position {row[0]} is in the archive {tombstone.file}: give the application that file, "
        f'App(archives=["{tombstone.file}"])',
        file=tombstone.file,
    )


class Recorded(msgspec.Struct, Generic[E_co], frozen=True, gc=False):
    """An event as the log holds it. `data` are its bytes as written, with fields that the code does not know.

    Where a stored event is read as several, because its type has become others, each of them is one `Recorded` with its number
    in `part`; all else is what the stored event has.
    """

    event: E_co
    row: Row
    type_name: str
    type_version: int
    log_id: str
    part: int = 0
    """0 for an event that is read as one; else which it is of those that it is read as, from 1."""

    @property
    def id(self) -> str:
        return str(UUID(bytes=self.row[1]))

    @property
    def position(self) -> Position:
        return Position.of(self.log_id, self.row[0], self.row[0])

    @property
    def stream_version(self) -> int | None:
        """The dense number within the key's stream, from 1; None for an event without a key."""
        return self.row[4]

    @property
    def recorded_at(self) -> datetime:
        """When it was stored. Never falls along positions."""
        return instant(self.row[5])

    @property
    def cause(self) -> int | None:
        """The position of the event whose handler emitted this one."""
        return self.row[6]

    @property
    def root(self) -> int | None:
        """The position of the first cause; None for an event that nothing in this log caused."""
        return self.row[7]

    @property
    def data(self) -> bytes:
        return self.row[11]

    @property
    def meta(self) -> Meta:
        return decode_meta(self.row[10])

    @property
    def time(self) -> datetime:
        """When it happened, by the clock of whoever published it."""
        return instant(self.meta.time)

    @property
    def key(self) -> str | None:
        """The key as `name=value`."""
        return self.meta.key

    @property
    def tags(self) -> tuple[str, ...]:
        """The further tags as `name=value`."""
        return self.meta.tags

    @property
    def correlation_id(self) -> str:
        return str(UUID(bytes=self.meta.correlation))

    @property
    def causation_id(self) -> str | None:
        causation = self.meta.causation
        return str(UUID(bytes=causation)) if causation else None

    @property
    def headers(self) -> Mapping[str, str]:
        return self.meta.headers or {}


class Criteria:
    """Which events: any of these types that carry all of these tags. `a | b` is either. For reads and append conditions.

    `Criteria(OrderPlaced, customer_id="c1")`; without types, events of any type. A tag's value may be what the event's field
    is: a text, a whole number, a UUID, a date, an enum. Errors: `InvalidEvent` for a value that no tag can have.
    """

    __slots__ = ("terms",)

    def __init__(self, *types: type[Event], **tags: object) -> None:
        hashes = tuple(tag_hash(tag_of(name, value)) for name, value in tags.items())
        self.terms: tuple[tuple[tuple[type[Event], ...], tuple[bytes, ...]], ...] = ((types, hashes),)

    def __or__(self, other: Criteria, /) -> Criteria:
        either = Criteria()
        either.terms = self.terms + other.terms
        return either

    def __repr__(self) -> str:
        return f"<Criteria of {len(self.terms)} terms>"
