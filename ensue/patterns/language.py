"""The language: a pattern is a class, its steps are attributes, its conditions plain typed functions.

    class TestedThenUsed(Pattern, within=minutes(10)):
        probe = one(Payment, lambda p: p.amount < 2)
        large = several(Payment, lambda p: p.amount > 200, times=3)

        @large.where
        def abroad(self, payment: Payment) -> bool:
            return payment.country != self.probe.country

What it means is said in docs/patterns.md, and exactly in docs/decisions/0030-what-a-pattern-means.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload
from uuid import UUID

import msgspec

from ensue.consumers.handler import Declared
from ensue.errors import DefinitionError
from ensue.events.message import Event
from ensue.events.recorded import instant
from ensue.patterns.checking import define
from ensue.patterns.definition import Contiguity, Definition, Skip, TimeOf
from ensue.patterns.operator import Found

__all__ = [
    "Late",
    "Pattern",
    "Step",
    "TimedOut",
    "Times",
    "Withdrawn",
    "absent",
    "all_of",
    "either",
    "group",
    "one",
    "optional",
    "several",
    "to_first",
    "to_last",
]

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", covariant=True, bound=Event)
P = TypeVar("P", bound="Pattern")
P_co = TypeVar("P_co", covariant=True, bound="Pattern")
Me = TypeVar("Me")
Bound_co = TypeVar("Bound_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E1 = TypeVar("E1", bound=Event)  # with Any instead, mypy would infer Any for what the parts take
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
E4 = TypeVar("E4", bound=Event)

Times: TypeAlias = int | tuple[int, int | None]
"""How many: exactly so many, or at least and at most (None: any number)."""


class Step(Generic[E, Bound_co]):
    """One step of a pattern. On a match it reads as what was taken: `match.probe` is an event, `match.large` are several."""

    def __init__(
        self,
        kind: Literal["take", "group", "choice", "all_of"],
        of: tuple[Any, ...],
        conditions: tuple[Callable[..., bool], ...] = (),
        *,
        times: Times = 1,
        several: bool = False,
        contiguity: Contiguity = "relaxed",
        inner: Contiguity = "relaxed",
        greedy: bool = True,
        until: Callable[..., bool] | None = None,
        within: timedelta | None = None,
        absent: bool = False,
    ) -> None:
        self.kind = kind
        self.of = of
        """Event types, the pattern of a group, or steps."""
        self.conditions: list[tuple[Callable[..., bool], bool]] = [(one, False) for one in conditions]
        """Functions, and whether they see the match so far."""
        self.times, self.several = times, several
        self.contiguity: Contiguity = contiguity
        self.inner: Contiguity = inner
        self.greedy, self.until, self.within, self.absent = greedy, until, within, absent
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Bound_co: ...
    def __get__(self, instance: Any, owner: Any, /) -> Any:
        if instance is None:
            return self
        try:
            return instance.__dict__[self.name]
        except KeyError:
            raise AttributeError(f"{owner.__name__}.{self.name} has taken nothing at this point") from None

    def where(self, condition: Callable[[Me, E], bool], /) -> Callable[[Me, E], bool]:
        """A further condition that also sees the match so far: `@large.where def abroad(self, p: Payment) -> bool`. It may read
        the steps before this one, and of this one what was taken before."""
        self.conditions.append((condition, True))
        return condition


class Pattern(Declared):
    """Steps in order, as attributes of a class; all events of one key. A match of it is handled like an event.

    A method `where(self) -> bool` decides whether a complete match is one.
    """

    __test__ = False  # so that pytest collects none that is called Test…
    __ensue_declared__ = "patterns"
    __ensue_pattern__: Definition

    __slots__ = ("__dict__", "__ensue_found__", "__weakref__")
    __ensue_found__: Found
    """What it was made of, for what is computed when it is first read."""

    key: str

    @cached_property
    def id(self) -> str:
        """The same whenever this match is found again: it is made of the pattern's name, the key, and the events taken."""
        return str(UUID(bytes=self.__ensue_found__.id))

    @cached_property
    def started(self) -> datetime:
        """The time of its first event."""
        return instant(self.__ensue_found__.started)

    @cached_property
    def ended(self) -> datetime:
        """The time at which it was complete: of its last event, or the deadline of an absence."""
        return instant(self.__ensue_found__.ended)

    def __init_subclass__(
        cls,
        *,
        within: timedelta | None = None,
        unbounded: bool = False,
        key: str | None = None,
        skip: Literal["next", "past_last", "none"] | Skip = "next",
        time: TimeOf | None = None,
        disorder: timedelta | None = None,
        idle: timedelta | None = None,
        watermark: Literal["all", "source", "key"] = "all",
        lateness: timedelta | None = None,
        runs: int = 10_000,
        semantics: Literal["ensue", "flink"] = "ensue",
        name: str | None = None,
    ) -> None:
        """`within`: the last event comes less than so long after the first. Without it each step needs its own, or `unbounded=True`.

        `key` is a tag that all its events carry, by which they belong together instead of by their own key; `ONE_ORDER` takes all as
        one. `skip` says which other matches a match rules out: those with the same first event (`next`), those that begin up
        to its last event (`past_last`), those that begin before an event of it (`to_first("step")`, `to_last("step")`), `none`.

        `time` is when an event happened: when the log stored it (`log`, the default: nothing is ever late), as it says itself
        (`event`, also when `disorder` is given), or when it is read (`processing`, not the same again in a replay). `disorder` is how
        far events may be out of the order of their times. `idle` is how long nothing comes until the clock takes over (default:
        at once). `watermark` is kept for all together, for each source, or for each key. `lateness` is how long a late event corrects
        matches instead of being an output of its own.

        `runs` bounds how many beginnings of one key wait at the same time. `semantics="flink"` answers as Flink CEP does.

        Errors: `DefinitionError`, naming the step, for what cannot match, has unbounded state, or names what is not there.
        """
        super().__init_subclass__()
        cls.__ensue_pattern__ = define(
            cls,
            name=name,
            within=within,
            unbounded=unbounded,
            key=key,
            skip=skip,
            time=time,
            disorder=disorder,
            idle=idle,
            watermark=watermark,
            lateness=lateness,
            runs=runs,
            semantics=semantics,
        )

    def __init__(self) -> None:
        raise DefinitionError(f"{type(self).__name__} is a pattern: its matches are found, not made")

    def __repr__(self) -> str:
        steps = (f"{name}={value!r}" for name, value in _steps(self).items())
        return f"{type(self).__name__}({self.key}, {', '.join(steps)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Pattern):
            return False
        return (self.id, self.key, self.started, self.ended) == (
            other.id,
            other.key,
            other.started,
            other.ended,
        ) and _steps(self) == _steps(other)

    def __hash__(self) -> int:
        return hash((type(self), self.id))


def _steps(match: Pattern) -> dict[str, object]:
    """What it took, without what is computed of it."""
    return {name: value for name, value in vars(match).items() if name not in ("id", "key", "started", "ended")}


def one(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    contiguity: Contiguity = "relaxed",
    within: timedelta | None = None,
) -> Step[E, E]:
    """One such event. `contiguity` is to the event taken before: "strict", no other event of the key between, of all types that the
    pattern names; "relaxed", no other that could be taken here; "any". `within`: less than so long after that event."""
    return Step("take", (event,), _given(where), contiguity=contiguity, within=within)


def several(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    times: Times = (1, None),
    contiguity: Contiguity = "relaxed",
    inner: Contiguity = "relaxed",
    greedy: bool = True,
    until: Callable[[E], bool] | None = None,
    within: timedelta | None = None,
) -> Step[E, Sequence[E]]:
    """So many such events. `inner` is the contiguity between them. Greedy takes all that it can before the next step takes one, and at the
    end of a pattern all until it cannot go on; not greedy, any number in the range will do. At the event for which `until` holds,
    it takes no more. `within` is for each of them, since the event before it."""
    return Step(
        "take",
        (event,),
        _given(where),
        times=times,
        several=True,
        contiguity=contiguity,
        inner=inner,
        greedy=greedy,
        until=until,
        within=within,
    )


def optional(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    contiguity: Contiguity = "relaxed",
    greedy: bool = True,
    within: timedelta | None = None,
) -> Step[E, E | None]:
    """One such event, or none. Greedy: it is taken where it can be."""
    return Step("take", (event,), _given(where), times=(0, 1), contiguity=contiguity, greedy=greedy, within=within)


def absent(
    event: type[E],
    where: Callable[[E], bool] | None = None,
    /,
    *,
    contiguity: Literal["strict", "relaxed"] = "relaxed",
    within: timedelta | None = None,
) -> Step[E, None]:
    """No such event: between the event taken before and the next one taken. Where none is taken any more: until `within` after the one
    before, or the pattern's time is over, which is when it matches. Between two steps it lasts no longer than `within` either. Strict:
    the very next event is none such."""
    return Step("take", (event,), _given(where), contiguity=contiguity, within=within, absent=True)


@overload
def either(first: Step[E1, A], second: Step[E2, B], /, *, contiguity: Contiguity = ...) -> Step[Event, A | B]: ...
@overload
def either(
    first: Step[E1, A], second: Step[E2, B], third: Step[E3, C], /, *, contiguity: Contiguity = ...
) -> Step[Event, A | B | C]: ...
@overload
def either(
    first: Step[E1, A],
    second: Step[E2, B],
    third: Step[E3, C],
    fourth: Step[E4, D],
    /,
    *,
    contiguity: Contiguity = ...,
) -> Step[Event, A | B | C | D]: ...
def either(*steps: Step[Any, Any], contiguity: Contiguity = "relaxed") -> Step[Any, Any]:
    """One of these steps: reads as what that one took."""
    return Step("choice", steps, contiguity=contiguity)


@overload
def all_of(
    first: Step[E1, A], second: Step[E2, B], /, *, contiguity: Contiguity = ..., inner: Contiguity = ...
) -> Step[Event, tuple[A, B]]: ...
@overload
def all_of(
    first: Step[E1, A],
    second: Step[E2, B],
    third: Step[E3, C],
    /,
    *,
    contiguity: Contiguity = ...,
    inner: Contiguity = ...,
) -> Step[Event, tuple[A, B, C]]: ...
@overload
def all_of(
    first: Step[E1, A],
    second: Step[E2, B],
    third: Step[E3, C],
    fourth: Step[E4, D],
    /,
    *,
    contiguity: Contiguity = ...,
    inner: Contiguity = ...,
) -> Step[Event, tuple[A, B, C, D]]: ...
def all_of(*steps: Step[Any, Any], contiguity: Contiguity = "relaxed", inner: Contiguity = "relaxed") -> Step[Any, Any]:
    """Each of these steps, in any order, one after the other: one that has begun is finished before the next begins. Reads as what they
    took, in the order in which they are written. `contiguity` is to the event before the first, `inner` between the steps."""
    return Step("all_of", steps, contiguity=contiguity, inner=inner)


def group(
    pattern: type[P],
    /,
    *,
    times: Times = 1,
    contiguity: Contiguity = "relaxed",
    inner: Contiguity = "relaxed",
) -> Step[Any, Sequence[P]]:
    """The steps of another pattern, so many times. Of that pattern only the steps count: no `within`, no `skip`."""
    return Step("group", (pattern,), times=times, several=True, contiguity=contiguity, inner=inner, greedy=False)


def to_first(step: str, /) -> Skip:
    """After a match, others begin at the first event of this step or later."""
    return Skip("first", step)


def to_last(step: str, /) -> Skip:
    """After a match, others begin at the last event of this step or later."""
    return Skip("last", step)


def _given(where: Callable[..., bool] | None) -> tuple[Callable[..., bool], ...]:
    return () if where is None else (where,)


# -------------------------------------------------------------------------------------------- what else a pattern says


class TimedOut(Declared, msgspec.Struct, Generic[P_co], frozen=True, kw_only=True):
    """A pattern that began and did not end in time: `@app.on def stuck(out: TimedOut[Fulfilled])`. One for each beginning of which no
    match came, and that nothing ended before its deadline: of its runs the one that had taken most."""

    __ensue_declared__ = "patterns"

    match: P_co
    """What was taken; steps that took nothing read as None, or as an empty sequence."""
    waiting_for: str
    """The name of the step that did not come."""
    deadline: datetime


class Late(Declared, msgspec.Struct, Generic[E_co], frozen=True, kw_only=True):
    """An event that came when its time was over, or from a clock that is ahead: `@app.on def late(reading: Late[Reading])`. The
    pattern or window of this name goes on without it."""

    __ensue_declared__ = "patterns"

    event: E_co
    by: timedelta
    """How much too late; below zero: how far ahead."""
    missed_by: str
    """The name of the pattern or window."""


class Withdrawn(Declared, msgspec.Struct, Generic[P_co], frozen=True, kw_only=True):
    """A match that was given and is none, since an event came late: `@app.on def undo(gone: Withdrawn[Unpaid])`. Only of patterns with
    `lateness`."""

    __ensue_declared__ = "patterns"

    match: P_co
    because: Event
