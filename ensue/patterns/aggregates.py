"""Values over several events: of a window, of what a step has taken, or of any events at hand.

spent = total(Payment, lambda p: p.amount)          # of a window: declared
total(self.large, lambda p: p.amount) > 1000        # in a condition: kept while events are taken, not added up again
total(match.large, lambda p: p.amount)              # of a match, or of any sequence: computed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from ensue.events.message import Event
from ensue.patterns.tracing import SequenceStandIn, aggregated

__all__ = ["Aggregate", "AggregateKind", "count", "distinct", "first", "largest", "last", "smallest", "total"]

E = TypeVar("E", bound=Event)
N = TypeVar("N", int, float, Decimal)
X = TypeVar("X")
V = TypeVar("V")
AggregateKind: TypeAlias = Literal["count", "total", "smallest", "largest", "distinct", "first", "last"]


class Aggregate(Generic[V]):
    """A value of a window: `spent = total(Payment, lambda p: p.amount)` reads as a Decimal on the window. `where=` says which
    of the events count. Reading one that there is not, such as the largest of no events, raises `AttributeError`."""

    def __init__(
        self,
        kind: AggregateKind,
        event: type[Event],
        value: Callable[..., Any] | None = None,
        where: Callable[..., bool] | None = None,
    ) -> None:
        self.kind: AggregateKind = kind
        self.event = event
        self.value = value
        self.where = where
        """Which of the events count; None: all."""
        self.quick = value
        """The same as `value`; of a field, read without a call of Python's."""
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[object], /) -> V: ...
    def __get__(self, instance: Any, owner: Any, /) -> Any:
        if instance is None:
            return self
        try:
            return instance.__dict__[self.name]
        except KeyError:
            raise AttributeError(
                f"{owner.__name__}.{self.name}: there is no {self.kind} of no {self.event.__name__}"
            ) from None


@overload
def count(events: type[E], /, *, where: Callable[[E], bool] | None = None) -> Aggregate[int]: ...
@overload
def count(events: Sequence[Event], /) -> int: ...
def count(events: Any, /, *, where: Any = None) -> Any:
    """How many. Of a window: of those for which `where` holds."""
    if isinstance(events, type):
        return Aggregate[int]("count", events, None, where)
    return aggregated("count", events, None) if isinstance(events, SequenceStandIn) else len(events)


@overload
def total(events: type[E], value: Callable[[E], N], /, *, where: Callable[[E], bool] | None = None) -> Aggregate[N]: ...
@overload
def total(events: Sequence[E], value: Callable[[E], N], /) -> N: ...
def total(events: Any, value: Any, /, *, where: Any = None) -> Any:
    """The sum of a number of each; 0 of none."""
    if isinstance(events, type):
        return Aggregate[Any]("total", events, value, where)
    return aggregated("total", events, value) if isinstance(events, SequenceStandIn) else sum(map(value, events))


@overload
def smallest(
    events: type[E], value: Callable[[E], N], /, *, where: Callable[[E], bool] | None = None
) -> Aggregate[N]: ...
@overload
def smallest(events: Sequence[E], value: Callable[[E], N], /) -> N: ...
def smallest(events: Any, value: Any, /, *, where: Any = None) -> Any:
    """The smallest of a number of each. Errors: `ValueError` of none."""
    if isinstance(events, type):
        return Aggregate[Any]("smallest", events, value, where)
    return aggregated("smallest", events, value) if isinstance(events, SequenceStandIn) else min(map(value, events))


@overload
def largest(
    events: type[E], value: Callable[[E], N], /, *, where: Callable[[E], bool] | None = None
) -> Aggregate[N]: ...
@overload
def largest(events: Sequence[E], value: Callable[[E], N], /) -> N: ...
def largest(events: Any, value: Any, /, *, where: Any = None) -> Any:
    """The largest of a number of each. Errors: `ValueError` of none."""
    if isinstance(events, type):
        return Aggregate[Any]("largest", events, value, where)
    return aggregated("largest", events, value) if isinstance(events, SequenceStandIn) else max(map(value, events))


@overload
def distinct(
    events: type[E], value: Callable[[E], X], /, *, where: Callable[[E], bool] | None = None
) -> Aggregate[frozenset[X]]: ...
@overload
def distinct(events: Sequence[E], value: Callable[[E], X], /) -> frozenset[X]: ...
def distinct(events: Any, value: Any, /, *, where: Any = None) -> Any:
    """The different values. In a condition only how many they are can be asked: `len(distinct(self.large, lambda p: p.country))`."""
    if isinstance(events, type):
        return Aggregate[Any]("distinct", events, value, where)
    return (
        aggregated("distinct", events, value) if isinstance(events, SequenceStandIn) else frozenset(map(value, events))
    )


def first(event: type[E], value: Callable[[E], X], /, *, where: Callable[[E], bool] | None = None) -> Aggregate[X]:
    """A value of the first event of a window. Of a step: `self.large[0]`."""
    return Aggregate("first", event, value, where)


def last(event: type[E], value: Callable[[E], X], /, *, where: Callable[[E], bool] | None = None) -> Aggregate[X]:
    """A value of the last event of a window. Of a step: `self.large[-1]`."""
    return Aggregate("last", event, value, where)
