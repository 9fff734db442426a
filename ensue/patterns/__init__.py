"""What is noticed: patterns over several events of one key, and windows of time. Declared here, not built in this version.

    class TestedThenUsed(Pattern, within=minutes(10)):
        probe = one(Payment, lambda p: p.amount < 2)
        large = several(Payment, lambda p: p.amount > 200, times=3)

    @fraud.on
    def suspect(match: TestedThenUsed) -> FraudSuspected: ...

A match and a closed window are handled like an event, with the same order, retries and dead letters. Conditions and values
are plain typed functions; they must compute the same from the same. Declaring a pattern or a window costs nothing;
registering a handler of one raises `NotYetAvailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from ensue.consumers.handler import Declared
from ensue.errors import DefinitionError, NotYetAvailable
from ensue.events.message import Event

__all__ = [
    "Aggregate",
    "Late",
    "Pattern",
    "Step",
    "TimedOut",
    "Window",
    "absent",
    "count",
    "distinct",
    "either",
    "largest",
    "one",
    "optional",
    "several",
    "smallest",
    "total",
]

E = TypeVar("E", bound=Event)
E2 = TypeVar("E2", bound=Event)
E_co = TypeVar("E_co", covariant=True, bound=Event)
P_co = TypeVar("P_co", covariant=True, bound="Pattern")
N = TypeVar("N", int, float, Decimal)
X = TypeVar("X")
V = TypeVar("V")
Me = TypeVar("Me")
Bound_co = TypeVar("Bound_co", covariant=True)

Times: TypeAlias = int | tuple[int, int | None]
"""How many: exactly so many, or at least and at most (None: any number)."""

# ----------------------------------------------------------------------------------------------------------- patterns


class Step(Generic[E, Bound_co]):
    """One step of a pattern. On a match it reads as what was bound: `match.probe` is an event, `match.large` are several."""

    def __init__(
        self,
        events: tuple[type[Event], ...],
        where: Callable[..., bool] | None = None,
        *,
        times: Times = 1,
        strict: bool = False,
        within: timedelta | None = None,
    ) -> None:
        self.events = events
        self.conditions: list[Callable[..., bool]] = [where] if where is not None else []
        self.times = times
        self.strict = strict
        self.within = within

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Bound_co: ...
    def __get__(self, instance: object, owner: type[object], /) -> Any:
        if instance is not None:
            raise _later()
        return self

    def where(self, condition: Callable[[Me, E], bool], /) -> Callable[[Me, E], bool]:
        """A further condition that also sees the match so far: `@large.where def abroad(self, p: Payment) -> bool`."""
        self.conditions.append(condition)
        return condition


class Pattern(Declared):
    """Steps in order, as attributes of a class; all of one key. Between two steps other events may come, unless `strict`.

    `within` is the time from the first step to the last. `skip` says where to look on after a match: at the next event,
    or past the match's last. Errors: `DefinitionError` for a class without steps.
    """

    __ensue_declared__ = "patterns"

    id: str
    """The same whenever this match is found again."""
    key: str
    started: datetime
    ended: datetime

    def __init_subclass__(
        cls,
        *,
        within: timedelta | None = None,
        skip: Literal["next", "past_last"] = "next",
        disorder: timedelta | None = None,
    ) -> None:
        """`disorder` is how late events may come and still be taken in the order of their times."""
        super().__init_subclass__()
        if not any(isinstance(value, Step) for value in vars(cls).values()):
            raise DefinitionError(f"{cls.__name__}: a pattern needs a step: order = one(OrderPlaced)")
        _check_durations(cls.__name__, within=within, disorder=disorder)

    def __init__(self) -> None:
        raise _later()


def one(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    strict: bool = False,
    within: timedelta | None = None,
) -> Step[E, E]:
    """One such event. `strict`: no other event of the key before it. `within`: the time since the step before it."""
    return Step((event,), where, strict=strict, within=within)


def several(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    times: Times = (1, None),
    strict: bool = False,
    within: timedelta | None = None,
) -> Step[E, Sequence[E]]:
    """So many such events."""
    return Step((event,), where, times=times, strict=strict, within=within)


def optional(event: type[E], where: Callable[[E], bool] | None = None, /) -> Step[E, E | None]:
    """One such event, or none."""
    return Step((event,), where, times=(0, 1))


def absent(event: type[E], where: Callable[[E], bool] | None = None, /) -> Step[E, None]:
    """No such event. As the last step: none until the pattern's time is over, which is when it matches."""
    return Step((event,), where, times=0)


def either(first: Step[E, E], second: Step[E2, E2], /) -> Step[E | E2, E | E2]:
    """What comes first of two."""
    return Step(first.events + second.events, within=first.within)


class TimedOut(Declared, Generic[P_co]):
    """A pattern that began and did not end in time: `@app.on def stuck(out: TimedOut[Fulfilled])`."""

    __ensue_declared__ = "patterns"

    match: P_co
    waiting_for: str
    """The name of the step that did not come."""
    deadline: datetime


# ------------------------------------------------------------------------------------------------------------ windows


class Aggregate(Generic[V]):
    """A value of a window: `spent = total(Payment, lambda p: p.amount)` reads as a Decimal on the window."""

    def __init__(self, name: str, event: type[Event], value: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.event = event
        self.value = value

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> V: ...
    def __get__(self, instance: object, owner: type[object], /) -> Any:
        if instance is not None:
            raise _later()
        return self


class Window(Declared):
    """The events of one key in a span of time, as aggregates. A closed window is handled like an event.

    `size` alone: spans one after another. `size` and `every`: a span begins at every so much. `gap`: a span ends when
    nothing came for so long. `lateness`: how long a closed window still takes events; it is then handled once more.
    Errors: `DefinitionError` unless exactly one of `size` and `gap` is given, and for a class without aggregates.
    """

    __ensue_declared__ = "windows"

    key: str
    start: datetime
    end: datetime

    def __init_subclass__(
        cls,
        *,
        size: timedelta | None = None,
        every: timedelta | None = None,
        gap: timedelta | None = None,
        lateness: timedelta | None = None,
    ) -> None:
        super().__init_subclass__()
        if (size is None) == (gap is None) or (every is not None and size is None):
            raise DefinitionError(f"{cls.__name__}: a window has a size=, with every= if spans overlap, or a gap=")
        if not any(isinstance(value, Aggregate) for value in vars(cls).values()):
            raise DefinitionError(f"{cls.__name__}: a window needs an aggregate: orders = count(OrderPlaced)")
        _check_durations(cls.__name__, size=size, every=every, gap=gap, lateness=lateness)

    def __init__(self) -> None:
        raise _later()


def count(event: type[Event], /) -> Aggregate[int]:
    """How many."""
    return Aggregate("count", event)


def total(event: type[E], value: Callable[[E], N], /) -> Aggregate[N]:
    """The sum of a number of each."""
    return Aggregate("total", event, value)


def smallest(event: type[E], value: Callable[[E], N], /) -> Aggregate[N]:
    """The smallest of a number of each."""
    return Aggregate("smallest", event, value)


def largest(event: type[E], value: Callable[[E], N], /) -> Aggregate[N]:
    """The largest of a number of each."""
    return Aggregate("largest", event, value)


def distinct(event: type[E], value: Callable[[E], X], /) -> Aggregate[frozenset[X]]:
    """The different values."""
    return Aggregate("distinct", event, value)


class Late(Declared, Generic[E_co]):
    """An event that came when its window was closed for good: `@app.on def late(reading: Late[Reading])`."""

    __ensue_declared__ = "windows"

    event: E_co
    by: timedelta


def _check_durations(name: str, **durations: timedelta | None) -> None:
    for word, duration in durations.items():
        if duration is not None and duration <= timedelta():
            raise DefinitionError(f"{name}: {word}={duration}; it is a positive duration, such as minutes(10)")


def _later() -> NotYetAvailable:
    return NotYetAvailable("patterns and windows are declared, but this version cannot run them yet")
