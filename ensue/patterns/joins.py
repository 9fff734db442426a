"""Joins: events of two streams that belong together by key and time.

class PaidInTime(Join, within=minutes(10)):
    order = left(OrderPlaced)
    payment = right(Payment)

class Unpaid(Join, within=minutes(15)):
    order = left(OrderPlaced)
    payment = right(Payment, absent=True)

class Priced(Join, as_of=days(1)):
    order = left(OrderPlaced)
    price = right(PriceSet)

@app.on
def paid(pair: PaidInTime) -> Receipt: ...
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, overload
from uuid import UUID

import msgspec

from ensue.consumers.handler import Declared
from ensue.errors import DefinitionError
from ensue.events.fingerprint import fingerprint_of
from ensue.events.message import Event
from ensue.events.recorded import instant
from ensue.patterns.declaring import checked_duration, common_key
from ensue.patterns.definition import TimeOf
from ensue.patterns.operator import Closed, Taken
from ensue.patterns.windows import timing_of

__all__ = ["Join", "JoinDefinition", "Side", "left", "right"]

E = TypeVar("E", bound=Event)
V_co = TypeVar("V_co", covariant=True)
_TAKEN = ("id", "key", "start", "end", "where")


class Side(Generic[V_co]):
    """One of the two streams of a join. On an answer it reads as its event."""

    def __init__(self, event: type[Event], *, is_left: bool, optional: bool, absent: bool) -> None:
        self.event, self.is_left, self.optional, self.absent = event, is_left, optional, absent
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> V_co: ...
    def __get__(self, instance: Any, owner: Any, /) -> Any:
        return self if instance is None else instance.__dict__[self.name]


@overload
def left(event: type[E], /) -> Side[E]: ...
@overload
def left(event: type[E], /, *, optional: Literal[True]) -> Side[E | None]: ...
def left(event: type[E], /, *, optional: bool = False) -> Side[Any]:
    """The events that the bounds of time are seen from. `optional`: a right one that finds no left one is given as well."""
    return Side(event, is_left=True, optional=optional, absent=False)


@overload
def right(event: type[E], /) -> Side[E]: ...
@overload
def right(event: type[E], /, *, optional: Literal[True]) -> Side[E | None]: ...
@overload
def right(event: type[E], /, *, absent: Literal[True]) -> Side[None]: ...
def right(event: type[E], /, *, optional: bool = False, absent: bool = False) -> Side[Any]:
    """The events that are looked for. `optional`: a left one that finds none is given as well, when its time is over; `absent`:
    only those that find none are given."""
    return Side(event, is_left=False, optional=optional, absent=absent)


class JoinDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A join class as data. Durations are microseconds."""

    join: type
    name: str
    left: Side[Any]
    right: Side[Any]
    events: tuple[type[Event], ...]
    key_tag: str | None
    before: int
    """A right event is less than so long before the left one."""
    after: int
    """It is less than so long after it. 1: at the same time at the latest."""
    latest: bool = False
    """Of the right events only the last before the left one counts."""
    keeps: int | None = None
    """As of: so long a right event counts; None: until the next."""
    where: Callable[[Any], object] | None = None
    time: TimeOf = "log"
    disorder: int = 0
    idle: int = 0
    watermark: Literal["all", "source", "key"] = "all"
    lateness: int = 0
    fingerprint: bytes = b""

    @property
    def horizon(self) -> int | None:
        """From how far back its state is made; None where nothing bounds that."""
        return self.keeps if self.latest else self.before + self.after


class Join(Declared):
    """Events of two streams, `left` and `right`, of one key. An answer is handled like an event.

    `within=minutes(10)`: a right event comes less than so long after the left one, or at the same time. `before=minutes(5)`: it may also
    come, or alone may only come, less than so long before. Each pair is an answer, given at the later of its events.
    `as_of=days(1)`: each left event with the last right one that came before it (in the order of time and position), less than so
    long before; a left one without is given only where the right one is `optional`. With `unbounded=True` in place of `as_of` however
    long ago that was.

    A method `where(self) -> bool` decides whether a pair is one. An answer with one event alone (`optional`, `absent`) is given when the
    other can come no more. A late event is joined to nothing, and is `Late`. `key`, `time`, `disorder`, `idle`, `watermark` and `name` are
    as those of a `Pattern`. Errors: `DefinitionError` for what cannot be.
    """

    __test__ = False  # so that pytest collects none that is called Test…
    __ensue_declared__ = "joins"
    __ensue_window__: ClassVar[JoinDefinition]

    id: str
    """The same whenever this answer is found again: made of the join's name, the key, and the positions of the two events."""
    key: str
    start: datetime
    """The time of the earlier event."""
    end: datetime
    """The time of the later event; of one that is alone, when the other could come no more."""

    def __init_subclass__(
        cls,
        *,
        within: timedelta | None = None,
        before: timedelta | None = None,
        as_of: timedelta | None = None,
        unbounded: bool = False,
        key: str | None = None,
        time: TimeOf | None = None,
        disorder: timedelta | None = None,
        idle: timedelta | None = None,
        watermark: Literal["all", "source", "key"] = "all",
        name: str | None = None,
    ) -> None:
        super().__init_subclass__()
        said = cls.__name__
        sides = _sides(cls)
        latest = as_of is not None or unbounded
        if latest == (within is not None or before is not None) or (as_of is not None and unbounded):
            raise DefinitionError(
                f"{said}: say how far apart the two may be: within= and before= for every pair, or as_of= (or unbounded=True) for the last "
                "right event before each left one"
            )
        if latest and (sides[0].optional or sides[1].absent):
            raise DefinitionError(f"{said}: as_of= goes from each left event, of which the right one may be optional")
        where = vars(cls).get("where")
        if where is not None and not callable(where):
            raise DefinitionError(f"{said}.where: a method that says of a pair whether it is one")
        events = tuple(dict.fromkeys(side.event for side in sides))
        timing = timing_of(said, time=time, disorder=disorder, idle=idle, watermark=watermark)
        definition = JoinDefinition(
            join=cls,
            name=name or said,
            left=sides[0],
            right=sides[1],
            events=events,
            key_tag=common_key(said, events, key),
            before=checked_duration(said, "before", before) or 1,
            after=checked_duration(said, "within", within) or 1,
            latest=latest,
            keeps=checked_duration(said, "as_of", as_of),
            where=where,
            time=timing.time,
            disorder=timing.disorder,
            idle=timing.idle,
            watermark=timing.watermark,
        )
        cls.__ensue_window__ = msgspec.structs.replace(definition, fingerprint=_fingerprint(definition))

    @classmethod
    def __ensue_closed__(cls, closed: Closed) -> Self:
        """The answer as a handler is given it."""
        made = cls.__new__(cls)
        for name, value in closed.values.items():
            made.__dict__[name] = value.event if isinstance(value, Taken) else None
        made.id, made.key = str(UUID(bytes=closed.id)), closed.key
        made.start, made.end = instant(closed.start), instant(closed.end)
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


def _sides(cls: type) -> tuple[Side[Any], Side[Any]]:
    sides = [value for value in vars(cls).values() if isinstance(value, Side)]
    lefts = [side for side in sides if side.is_left]
    rights = [side for side in sides if not side.is_left]
    if len(lefts) != 1 or len(rights) != 1:
        raise DefinitionError(
            f"{cls.__name__}: a join has one left and one right side: order = left(OrderPlaced), payment = right(Payment); this has "
            f"{len(lefts)} and {len(rights)}"
        )
    for side in sides:
        event: Any = side.event
        if side.name in _TAKEN:
            raise DefinitionError(f"{cls.__name__}: a side cannot be called {side.name!r}: a join has that itself")
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise DefinitionError(f"{cls.__name__}.{side.name}: {event!r} is not a type of event")
    if rights[0].absent and lefts[0].optional:
        raise DefinitionError(
            f"{cls.__name__}: where the right one is absent nothing would be given that has no left one"
        )
    return lefts[0], rights[0]


def _fingerprint(definition: JoinDefinition) -> bytes:
    sides = [
        (side.name, side.event.__qualname__, side.optional, side.absent) for side in (definition.left, definition.right)
    ]
    plain = msgspec.structs.replace(definition, join=object, events=(), where=None)
    fields = [(name, getattr(plain, name)) for name in plain.__struct_fields__ if name not in ("left", "right", "join")]
    functions = [] if definition.where is None else [definition.where]
    said = f"{sides}{fields}".encode() + fingerprint_of((), functions, definition.events)
    return blake2b(said, digest_size=16).digest()
