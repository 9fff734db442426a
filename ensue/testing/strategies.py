"""Hypothesis strategies from types: values of anything that an event, a command or a state may hold.

Bounds that a type declares (`Annotated[int, msgspec.Meta(ge=1)]`) are kept. Where it declares none, numbers are of a size that
sums of them can be stored, decimals have two places, and times lie between 1970 and 2100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, cast
from uuid import UUID

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect

__all__ = ["Overrides", "identifiers", "messages", "values_of"]

T = TypeVar("T")

Overrides = Mapping[Any, SearchStrategy[Any]]
"""What to draw for a class instead of what is drawn for it otherwise."""

LARGEST = 10**9
LONGEST = 20
IDENTIFIERS = 3
"""So few different keys, so that what is drawn is often about the same one."""
_FIRST, _LAST = datetime(1970, 1, 1), datetime(2100, 1, 1)
_YEARS = timedelta(days=3650)


def values_of(kind: type[T], overrides: Overrides | None = None) -> SearchStrategy[T]:
    """Values of a type. Errors: `TypeError` for a type that cannot be stored."""
    return cast(SearchStrategy[T], _Drawn(overrides or {}).of(kind))


def messages(kind: type[T], keys: Sequence[str] = (), overrides: Overrides | None = None) -> SearchStrategy[T]:
    """Events or commands of a type. Its fields `keys`, which say what it is about, have one of a few values. What the class
    itself refuses with a `ValueError` is not drawn."""
    drawn = _Drawn(overrides or {})
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields: dict[str, SearchStrategy[Any]] = {}
    for field in info.fields:
        known = identifiers(field.type) if field.name in keys else None
        fields[field.name] = known if known is not None else drawn.strategy(field.type)
    return cast(SearchStrategy[T], _made(kind, fields))


def identifiers(info: inspect.Type) -> SearchStrategy[Any] | None:
    """A few values of a type that keys have; None for any other."""
    numbers = range(1, IDENTIFIERS + 1)
    if isinstance(info, inspect.Metadata):
        return identifiers(info.type)
    if isinstance(info, inspect.StrType) and (info.min_length or 1) == 1 and info.max_length != 0 and not info.pattern:
        return st.sampled_from([chr(ord("a") + number - 1) for number in numbers])
    if isinstance(info, inspect.IntType) and info == inspect.IntType():
        return st.sampled_from(list(numbers))
    if isinstance(info, inspect.UUIDType):
        return st.sampled_from([UUID(int=number) for number in numbers])
    if isinstance(info, inspect.DateType):
        return st.sampled_from([date(2026, 1, number) for number in numbers])
    return None


def _made(kind: Callable[..., Any], fields: Mapping[str, SearchStrategy[Any]]) -> SearchStrategy[Any]:
    @st.composite
    def make(draw: st.DrawFn) -> Any:
        given = {name: draw(strategy) for name, strategy in fields.items()}
        try:
            return kind(**given)
        except ValueError:
            reject()

    return make()


class _Drawn:
    """Strategies of one set of overrides. A type that holds itself is drawn by one that is made later."""

    def __init__(self, overrides: Overrides) -> None:
        self._overrides = overrides
        self._known: dict[Any, SearchStrategy[Any]] = {}

    def of(self, kind: Any) -> SearchStrategy[Any]:
        return self.strategy(inspect.type_info(kind))

    def strategy(self, info: inspect.Type) -> SearchStrategy[Any]:
        if isinstance(info, inspect.Metadata):
            return self.strategy(info.type)
        if isinstance(info, inspect.UnionType):
            return st.one_of([self.strategy(member) for member in info.types])
        kind = _CLASSES.get(type(info))
        if kind is not None and kind in self._overrides:
            return self._overrides[kind]
        plain = _PLAIN.get(type(info))
        if plain is not None:
            return plain(info)
        if isinstance(info, inspect.CollectionType):
            return self._collection(info)
        if isinstance(info, inspect.TupleType):
            return st.tuples(*map(self.strategy, info.item_types))
        if isinstance(info, inspect.DictType):
            sizes = _sizes(info)
            return st.dictionaries(self.strategy(info.key_type), self.strategy(info.value_type), **sizes)
        if hasattr(info, "fields"):
            return self._structure(info)
        if isinstance(info, inspect.CustomType):
            return self._overrides.get(info.cls) or st.from_type(info.cls)
        raise TypeError(f"no values can be drawn for {info}: give some, values={{TheType: a strategy}}")

    def _collection(self, info: inspect.CollectionType) -> SearchStrategy[Any]:
        items, sizes = self.strategy(info.item_type), _sizes(info)
        if isinstance(info, inspect.SetType):
            return st.sets(items, **sizes)
        if isinstance(info, inspect.FrozenSetType):
            return st.frozensets(items, **sizes)
        lists = st.lists(items, **sizes)
        return lists.map(tuple) if isinstance(info, inspect.VarTupleType) else lists

    def _structure(self, info: Any) -> SearchStrategy[Any]:
        kind = info.cls
        if kind in self._overrides:
            return self._overrides[kind]
        if kind not in self._known:
            self._known[kind] = st.deferred(lambda: made)
            names = {field.name: self.strategy(field.type) for field in info.fields}
            made = _made(kind, names)
        return self._known[kind]


def _sizes(info: Any) -> dict[str, Any]:
    least = info.min_length or 0
    return {"min_size": least, "max_size": info.max_length if info.max_length is not None else least + 5}


def _integers(info: Any) -> SearchStrategy[Any]:
    lowest = info.ge if info.ge is not None else info.gt + 1 if info.gt is not None else None
    highest = info.le if info.le is not None else info.lt - 1 if info.lt is not None else None
    if lowest is None:
        lowest = min(-LARGEST, highest if highest is not None else 0)
    if highest is None:
        highest = max(LARGEST, lowest)
    step = info.multiple_of or 1
    return st.integers(-(-int(lowest) // step), int(highest) // step).map(lambda number: number * step)


def _floats(info: Any) -> SearchStrategy[Any]:
    lowest = info.ge if info.ge is not None else info.gt
    highest = info.le if info.le is not None else info.lt
    return st.floats(
        lowest if lowest is not None else min(-1e9, highest or 0),
        highest if highest is not None else max(1e9, lowest or 0),
        exclude_min=info.gt is not None,
        exclude_max=info.lt is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _texts(info: Any) -> SearchStrategy[Any]:
    least = info.min_length or 0
    most = info.max_length if info.max_length is not None else least + LONGEST
    if info.pattern:
        found = st.from_regex(info.pattern)
        return found.filter(lambda text: least <= len(text) and (info.max_length is None or len(text) <= most))
    return st.text(st.characters(codec="utf-8"), min_size=least, max_size=most)


def _datetimes(info: Any) -> SearchStrategy[Any]:
    naive = st.datetimes(_FIRST, _LAST)
    return naive if info.tz is False else st.datetimes(_FIRST, _LAST, timezones=st.just(UTC))


_PLAIN: dict[type[inspect.Type], Callable[[Any], SearchStrategy[Any]]] = {
    inspect.AnyType: lambda info: st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text(max_size=3)),
    inspect.NoneType: lambda info: st.none(),
    inspect.BoolType: lambda info: st.booleans(),
    inspect.IntType: _integers,
    inspect.FloatType: _floats,
    inspect.StrType: _texts,
    inspect.BytesType: lambda info: st.binary(**_sizes(info)),
    inspect.DateTimeType: _datetimes,
    inspect.TimeType: lambda info: st.times(timezones=st.just(UTC)) if info.tz else st.times(),
    inspect.DateType: lambda info: st.dates(_FIRST.date(), _LAST.date()),
    inspect.TimeDeltaType: lambda info: st.timedeltas(-_YEARS, _YEARS),
    inspect.UUIDType: lambda info: st.uuids(),
    inspect.DecimalType: lambda info: st.decimals(-LARGEST, LARGEST, places=2),
    inspect.EnumType: lambda info: st.sampled_from(list(info.cls)),
    inspect.LiteralType: lambda info: st.sampled_from(info.values),
}

_CLASSES: dict[type[inspect.Type], type] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.DateTimeType: datetime,
    inspect.DateType: date,
    inspect.TimeDeltaType: timedelta,
    inspect.UUIDType: UUID,
    inspect.DecimalType: Decimal,
}
