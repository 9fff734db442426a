"""The values of windows: computed from events by columns, kept as partial values that can be put together, or rolled along exactly.

Totals that roll are exact, of floats as well (a float is a whole number of 2**-1074), so that what has left a window leaves no trace
of rounding, and an operator that was restored gives what it would have given.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal
from typing import Any, TypeAlias

from ensue.events.message import Event
from ensue.patterns.aggregates import Aggregate

__all__ = ["ABSENT", "Column", "Columns", "Rolling", "Unfit", "Value", "values_of"]

Column: TypeAlias = tuple[Sequence[int] | None, Sequence[Any] | None]
"""Which of the events count (None: all of them), and their values (None: they are counted only)."""
Columns: TypeAlias = list[Column]

ABSENT = object()
"""What a value is that there is not: the largest of no events."""
_NUMBERS = frozenset((int, float, Decimal, bool))
_EXACT = Context(prec=2_000)
_BITS = 1074


class Unfit(Exception):
    """A value could not be computed, or is none that this kind of value can be of. `index` is the event's, `name` the value's."""

    def __init__(self, index: int, name: str, why: Exception) -> None:
        super().__init__(str(why))
        self.index, self.name, self.why = index, name, why


class Value:
    """One value of a window, by its kind: from events to a column, and from a column to partial values by key."""

    def __init__(self, name: str, aggregate: Aggregate[Any]) -> None:
        self.name, self.kind, self.event = name, aggregate.kind, aggregate.event
        self._where = aggregate.where
        self._value = aggregate.quick
        self._decimals: bool | None = None
        self.fold: _Fold = _FOLDS[self.kind]
        """Adds a column to partial values by key: `fold(by_key, keys, column, times, positions)`."""

    @property
    def covers(self) -> bool:
        """Whether every event of its type counts."""
        return self._where is None

    def column(self, events: Sequence[Event], kinds: Iterable[type]) -> Column:
        """Errors: whatever the user's functions raise; `TypeError` for values that this kind cannot be of."""
        chosen: list[int] | None = None
        if not all(issubclass(kind, self.event) for kind in kinds):
            chosen = [at for at, event in enumerate(events) if isinstance(event, self.event)]
        if self._where is not None:
            where = self._where
            chosen = [at for at in (range(len(events)) if chosen is None else chosen) if where(events[at])]
        if self._value is None:
            return chosen, None
        values = list(map(self._value, events if chosen is None else [events[at] for at in chosen]))
        self._check(values)
        return chosen, values

    def _check(self, values: list[Any]) -> None:
        if self.kind == "distinct":
            frozenset(values)  # raises where one cannot be hashed
            return
        if self.kind in ("first", "last"):
            return
        types = set(map(type, values))
        if not types <= _NUMBERS:
            found = next(iter(types - _NUMBERS))
            raise TypeError(f"{self.kind} is of numbers, and this is of the type {found.__name__}")
        if self.kind != "total":
            return
        if float in types and not all(map(math.isfinite, values)):
            raise ValueError("an infinite number, or none, cannot be added up")
        decimals = True if Decimal in types else False if float in types else None
        if decimals is None:
            return
        if self._decimals not in (None, decimals) or (decimals and float in types):
            raise TypeError("total is of floats or of decimals: there is no exact sum of both")
        self._decimals = decimals

    def restored(self, partial: Any) -> None:
        """A partial value that was kept: what comes must go with it."""
        if self.kind == "total" and isinstance(partial, float | Decimal):
            self._decimals = isinstance(partial, Decimal)

    def by_key(self) -> dict[str, Any]:
        """Partial values by key, without any yet, for `fold`."""
        return defaultdict[str, Any](int) if self.kind in ("count", "total") else {}

    def parts(self, column: Column, times: Sequence[int], positions: Sequence[int]) -> list[Any]:
        """The partial value of each event alone; None where it does not count."""
        chosen, values = column
        if values is None:
            made: Sequence[Any] = [1] * (len(times) if chosen is None else len(chosen))
        elif self.kind == "distinct":
            made = [{value} for value in values]
        elif self.kind in ("first", "last"):
            made = (
                list(zip(times, positions, values, strict=True))
                if chosen is None
                else [(times[at], positions[at], value) for at, value in zip(chosen, values, strict=True)]
            )
        else:
            made = values
        if chosen is None:
            return list(made)
        parts: list[Any] = [None] * len(times)
        for at, part in zip(chosen, made, strict=True):
            parts[at] = part
        return parts

    def empty(self) -> Any:
        """The value of no events."""
        return 0 if self.kind in ("count", "total") else frozenset[Any]() if self.kind == "distinct" else ABSENT

    def read(self, partial: Any) -> Any:
        """What a user reads."""
        if self.kind == "distinct":
            return frozenset(partial)
        return partial[2] if self.kind in ("first", "last") else partial

    def joined(self, one: Any, other: Any) -> Any:
        """The partial value of two sets of events."""
        match self.kind:
            case "count" | "total":
                return one + other
            case "smallest":
                return min(one, other)
            case "largest":
                return max(one, other)
            case "distinct":
                return one | other
            case "first":
                return min(one, other, key=_when)
            case _:
                return max(one, other, key=_when)


def _when(partial: tuple[int, int, Any]) -> tuple[int, int]:
    return partial[:2]


def values_of(values: Sequence[Value], events: Sequence[Event]) -> Columns:
    """A column for each value. Errors: `Unfit`, of the first event for which one cannot be computed."""
    try:
        kinds = set(map(type, events))
        return [value.column(events, kinds) for value in values]
    except Exception:  # the user's functions may raise anything; which event it is, is looked for one by one
        for index, event in enumerate(events):
            for value in values:
                try:
                    value.column((event,), (type(event),))
                except Exception as error:
                    raise Unfit(index, value.name, error) from error
        raise


# ------------------------------------------------------------------------------------- partial values by key, by columns


def _fold_count(by_key: dict[str, Any], keys: Sequence[str], column: Column, *_: Sequence[int]) -> None:
    for key in _keys(keys, column):
        by_key[key] += 1


def _fold_total(by_key: dict[str, Any], keys: Sequence[str], column: Column, *_: Sequence[int]) -> None:
    for key, value in _pairs(keys, column):
        by_key[key] += value


def _fold_smallest(by_key: dict[str, Any], keys: Sequence[str], column: Column, *_: Sequence[int]) -> None:
    get = by_key.get
    for key, value in _pairs(keys, column):
        known = get(key)
        if known is None or value < known:
            by_key[key] = value


def _fold_largest(by_key: dict[str, Any], keys: Sequence[str], column: Column, *_: Sequence[int]) -> None:
    get = by_key.get
    for key, value in _pairs(keys, column):
        known = get(key)
        if known is None or value > known:
            by_key[key] = value


def _fold_distinct(by_key: dict[str, Any], keys: Sequence[str], column: Column, *_: Sequence[int]) -> None:
    for key, value in _pairs(keys, column):
        known = by_key.get(key)
        if known is None:
            by_key[key] = {value}
        else:
            known.add(value)


def _fold_first(
    by_key: dict[str, Any], keys: Sequence[str], column: Column, times: Sequence[int], positions: Sequence[int]
) -> None:
    for key, came in _came(keys, column, times, positions):
        known = by_key.get(key)
        if known is None or came[:2] < known[:2]:
            by_key[key] = came


def _fold_last(
    by_key: dict[str, Any], keys: Sequence[str], column: Column, times: Sequence[int], positions: Sequence[int]
) -> None:
    for key, came in _came(keys, column, times, positions):
        known = by_key.get(key)
        if known is None or came[:2] > known[:2]:
            by_key[key] = came


_Fold: TypeAlias = Callable[[dict[str, Any], Sequence[str], Column, Sequence[int], Sequence[int]], None]
_FOLDS: dict[str, _Fold] = {
    "count": _fold_count,
    "total": _fold_total,
    "smallest": _fold_smallest,
    "largest": _fold_largest,
    "distinct": _fold_distinct,
    "first": _fold_first,
    "last": _fold_last,
}


def _keys(keys: Sequence[str], column: Column) -> Sequence[str]:
    return keys if column[0] is None else [keys[at] for at in column[0]]


def _pairs(keys: Sequence[str], column: Column) -> Iterable[tuple[str, Any]]:
    return zip(_keys(keys, column), column[1] or (), strict=True)


def _came(
    keys: Sequence[str], column: Column, times: Sequence[int], positions: Sequence[int]
) -> Iterable[tuple[str, tuple[int, int, Any]]]:
    chosen = range(len(keys)) if column[0] is None else column[0]
    for at, value in zip(chosen, column[1] or (), strict=True):
        yield keys[at], (times[at], positions[at], value)


# -------------------------------------------------------------------------------------------------------- what rolls along


class Rolling:
    """The values of what is within a span that moves on: parts are pushed at its end and leave at its beginning. A part is the partial
    values of one event, or of several together; None where a value has none of it."""

    __slots__ = ("_parts", "_rolls")

    def __init__(self, values: Sequence[Value]) -> None:
        self._rolls = [_ROLLS[value.kind](value.kind) for value in values]
        self._parts: deque[tuple[int, tuple[Any, ...]]] = deque()

    def push(self, label: int, part: tuple[Any, ...]) -> None:
        """Labels never fall."""
        self._parts.append((label, part))
        for roll, partial in zip(self._rolls, part, strict=True):
            if partial is not None:
                roll.push(partial)

    def evict(self, below: int) -> None:
        """What has a label below this leaves."""
        parts = self._parts
        while parts and parts[0][0] < below:
            self.evict_first()

    def evict_first(self) -> None:
        """The first leaves."""
        for roll, partial in zip(self._rolls, self._parts.popleft()[1], strict=True):
            if partial is not None:
                roll.leave(partial)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def parts(self) -> Sequence[tuple[int, tuple[Any, ...]]]:
        """What is within, in its order, with its labels."""
        return self._parts

    def read(self) -> list[Any]:
        """The values as a user reads them, or `ABSENT`."""
        return [roll.read() for roll in self._rolls]


class _Count:
    __slots__ = ("_number",)

    def __init__(self, _kind: str) -> None:
        self._number = 0

    def push(self, partial: Any) -> None:
        self._number += partial

    def leave(self, partial: Any) -> None:
        self._number -= partial

    def read(self) -> Any:
        return self._number


class _Total:
    """Exactly the sum: of whole numbers, of floats as whole numbers of 2**-1074, of decimals with all their digits."""

    __slots__ = ("_decimals", "_floats", "_number_of_decimals", "_number_of_floats", "_whole")

    def __init__(self, _kind: str) -> None:
        self._whole = self._floats = self._number_of_floats = self._number_of_decimals = 0
        self._decimals = Decimal(0)

    def push(self, partial: Any) -> None:
        if isinstance(partial, float):
            self._floats += _as_whole(partial)
            self._number_of_floats += 1
        elif isinstance(partial, Decimal):
            self._decimals = _EXACT.add(self._decimals, partial)
            self._number_of_decimals += 1
        else:
            self._whole += partial

    def leave(self, partial: Any) -> None:
        if isinstance(partial, float):
            self._floats -= _as_whole(partial)
            self._number_of_floats -= 1
        elif isinstance(partial, Decimal):
            self._number_of_decimals -= 1
            self._decimals = _EXACT.subtract(self._decimals, partial) if self._number_of_decimals else Decimal(0)
        else:
            self._whole -= partial

    def read(self) -> Any:
        if self._number_of_floats:
            exact = self._floats + (self._whole << _BITS)
            try:
                return exact / (1 << _BITS)
            except OverflowError:
                return math.copysign(math.inf, exact)
        return self._decimals + self._whole if self._number_of_decimals else self._whole


def _as_whole(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_BITS + 1 - denominator.bit_length())


class _Extreme:
    """The smallest or largest: those that can still become it, the present one first."""

    __slots__ = ("_candidates", "_smallest")

    def __init__(self, kind: str) -> None:
        self._smallest = kind == "smallest"
        self._candidates: deque[Any] = deque()

    def push(self, partial: Any) -> None:
        candidates = self._candidates
        while candidates and (partial < candidates[-1] if self._smallest else partial > candidates[-1]):
            candidates.pop()
        candidates.append(partial)

    def leave(self, partial: Any) -> None:
        if self._candidates[0] == partial:
            self._candidates.popleft()

    def read(self) -> Any:
        return self._candidates[0] if self._candidates else ABSENT


class _Distinct:
    __slots__ = ("_numbers",)

    def __init__(self, _kind: str) -> None:
        self._numbers: dict[Any, int] = {}

    def push(self, partial: Any) -> None:
        for value in partial:
            self._numbers[value] = self._numbers.get(value, 0) + 1

    def leave(self, partial: Any) -> None:
        for value in partial:
            if self._numbers[value] == 1:
                del self._numbers[value]
            else:
                self._numbers[value] -= 1

    def read(self) -> Any:
        return frozenset(self._numbers)


class _End:
    """The first or the last: parts are in order, but late events may be within one."""

    __slots__ = ("_first", "_partials")

    def __init__(self, kind: str) -> None:
        self._first = kind == "first"
        self._partials: deque[Any] = deque()

    def push(self, partial: Any) -> None:
        self._partials.append(partial)

    def leave(self, partial: Any) -> None:
        self._partials.popleft()

    def read(self) -> Any:
        return self._partials[0 if self._first else -1][2] if self._partials else ABSENT


_ROLLS: dict[str, type[Any]] = {
    "count": _Count,
    "total": _Total,
    "smallest": _Extreme,
    "largest": _Extreme,
    "distinct": _Distinct,
    "first": _End,
    "last": _End,
}
