"""Finds the matches of patterns in columns (Arrow, Parquet): rows that no pattern needs are left out before they become events.

    find_in(Silent, table, event=Reading, time="at")

What is asked of an event alone is asked of whole columns, each question once for all patterns; only rows that may matter become
events, and go through the same operators as everywhere. So the matches are the same. Needs numpy and pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from ensue.errors import InvalidEvent, Misuse
from ensue.events.message import Event, declaration
from ensue.events.recorded import microseconds
from ensue.patterns.columns.vectors import Mask, Unvectorised, Vectors
from ensue.patterns.compiled.compiler import constructor
from ensue.patterns.compiled.relevance import relevance_of
from ensue.patterns.definition import Definition
from ensue.patterns.language import Pattern
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Found, Operator, Output
from ensue.patterns.operators import operator_of

__all__ = ["Columnar", "find_in"]

P = TypeVar("P", bound=Pattern)
Table: TypeAlias = Any
"""A `pyarrow.Table` or `pyarrow.RecordBatch`; pyarrow says nothing of its types."""
Arrow: TypeAlias = Any
"""A `pyarrow.Array`."""

ROWS = 1 << 16
"""So many rows are looked at together."""
END = 1 << 62


def find_in(
    pattern: type[P],
    table: Table,
    /,
    *,
    event: type[Event] | None = None,
    time: str | None = None,
    until: datetime | None = None,
) -> list[P]:
    """The matches in a table whose rows are events of one type, as `find` gives them for these events.

    `event` is that type, where the pattern names several; `time` is the column with their times, timestamps with a time zone, where the
    type does not say which field it is. Rows need not be in the order of their times. Positions count rows from 1.

    Errors: those of `find`; `InvalidEvent` for rows that are no such event, naming the row.
    """
    definition = pattern.__ensue_pattern__
    if event is None:
        if len(definition.events) != 1:
            raise Misuse(f"{definition.name} is about events of several types; say which one the rows are: event=…")
        (event,) = definition.events
    columnar = Columnar([definition], event, time=time)
    outputs = columnar.take(table)[0]
    outputs += columnar.advance(END if until is None else microseconds(until))[0]
    return [cast(P, match_of(definition, one)) for one in outputs if isinstance(one, Found)]


class Columnar:
    """Operators of several patterns that are fed with tables of one type of event, one table after the other in the order of time."""

    def __init__(
        self,
        definitions: Sequence[Definition],
        event: type[Event],
        *,
        time: str | None = None,
        timeouts: bool = False,
    ) -> None:
        self.definitions = tuple(definitions)
        self.event = event
        self.operators: list[Operator] = [operator_of(one, timeouts=timeouts) for one in definitions]
        self.rows = 0
        """How many rows were looked at."""
        self.became_events = 0
        """How many of them became events, for any of the patterns."""
        self.reasons: dict[str, str] = {}
        """By pattern: why all rows become events."""
        self._time = time or declaration(event).time
        self._types = {one.name: one.type for one in msgspec.structs.fields(event)}
        self._relevance = [relevance_of(one, event) for one in definitions]
        self._behind: list[set[object]] = [set() for _ in definitions]
        """By pattern, the keys whose last row was relevant, so that the next one is too."""
        self._last: int | None = None
        self._make: Callable[..., Event] | None = None
        self._made_of: list[str] = []

    def take(self, table: Table, /, times: NDArray[np.int64] | None = None) -> list[list[Output]]:
        """What each pattern gives for these rows, and for all deadlines up to the last of them. `times`: the times of the rows, in microseconds,
        instead of a column."""
        if times is None:
            times = self._times(table)
        if len(times) > 1 and bool(np.any(times[1:] < times[:-1])):
            order = np.argsort(times, kind="stable")
            table, times = table.take(pa.array(order)), times[order]
            positions = order + self.rows + 1
        else:
            positions = np.arange(self.rows + 1, self.rows + 1 + len(times))
        if len(times) and self._last is not None and int(times[0]) < self._last:
            raise Misuse(
                "a table begins before the end of the one before it; sort the rows of all tables by their times"
            )
        outputs: list[list[Output]] = [[] for _ in self.definitions]
        for start in range(0, len(times), ROWS):
            part = slice(start, start + ROWS)
            some = table.slice(start, ROWS)
            self._part(_columns(some), times[part], positions[part], outputs)
        self.rows += len(times)
        if len(times):
            self._last = int(times[-1])
            for number, more in enumerate(self.advance(self._last)):
                outputs[number] += more
        return outputs

    def advance(self, time: int, /) -> list[list[Output]]:
        """What each pattern gives for time passing."""
        return [operator.advance(time) for operator in self.operators]

    def _times(self, table: Table) -> NDArray[np.int64]:
        name = self._time
        if name is None or name not in table.schema.names:
            raise Misuse(
                f"which column says when a {self.event.__name__} was? time=…, of {', '.join(table.schema.names)}"
            )
        column = table.column(name)
        if not pa.types.is_timestamp(column.type) or column.type.tz is None or column.null_count:
            found = "has rows without" if column.null_count else f"is {column.type}; it must be timestamps with"
            raise Misuse(f"the column {name}, which says when a {self.event.__name__} was, {found} a time zone or time")
        micros = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        found_times: NDArray[np.int64] = _plain(micros).to_numpy(zero_copy_only=False)
        return found_times

    def _part(
        self,
        columns: Mapping[str, Arrow],
        times: NDArray[np.int64],
        positions: NDArray[np.int64],
        outputs: list[list[Output]],
    ) -> None:
        vectors = Vectors(columns, self._types, len(times))
        masks = [self._mask(number, vectors, columns) for number in range(len(self.definitions))]
        every = any(mask is None for mask in masks)
        wanted = (
            np.arange(len(times))
            if every
            else np.flatnonzero(np.logical_or.reduce([mask for mask in masks if mask is not None]))
        )
        if not len(wanted):
            return
        self.became_events += len(wanted)
        events = np.empty(len(times), object)
        events[wanted] = self._events(columns, None if every else wanted, positions)
        for number, (operator, mask) in enumerate(zip(self.operators, masks, strict=True)):
            chosen = wanted if mask is None else np.flatnonzero(mask)
            if len(chosen):
                batch = Batch(events[chosen].tolist(), times[chosen].tolist(), positions[chosen].tolist())
                outputs[number] += operator.take(batch)

    def _mask(self, number: int, vectors: Vectors, columns: Mapping[str, Arrow]) -> Mask | None:
        """The rows that the pattern may need; None: all."""
        relevance = self._relevance[number]
        name = self.definitions[number].name
        if relevance.tests is None:
            self.reasons[name] = "one of its steps takes events whatever their fields are"
            return None
        found = np.zeros(vectors.rows, np.bool_)
        try:
            for test in relevance.tests:
                found = found | vectors.may_fulfil(test)
        except Unvectorised as error:
            self.reasons[name] = str(error)
            return None
        self.reasons.pop(name, None)
        return self._with_followers(number, found, columns) if relevance.followers else found

    def _with_followers(self, number: int, found: Mask, columns: Mapping[str, Arrow]) -> Mask:
        """With the row of the same key right behind each: a strict step sees that it came."""
        names, codes = _keys(self.definitions[number], self.event, columns, len(found))
        order = np.argsort(codes, kind="stable")
        sorted_codes, sorted_found = codes[order], found[order]
        same = sorted_codes[1:] == sorted_codes[:-1]
        follows = np.zeros(len(found), np.bool_)
        follows[order[1:]] = sorted_found[:-1] & same
        first = np.flatnonzero(np.concatenate(([True], ~same)))
        last = np.concatenate((first[1:] - 1, [len(found) - 1]))
        behind = self._behind[number]
        for begins, ends in zip(first.tolist(), last.tolist(), strict=True):
            key = names[int(sorted_codes[begins])]
            if key in behind:
                follows[order[begins]] = True
            (behind.add if sorted_found[ends] else behind.discard)(key)
        return found | follows

    def _events(
        self, columns: Mapping[str, Arrow], chosen: NDArray[np.intp] | None, positions: NDArray[np.int64]
    ) -> list[Event]:
        names = [name for name in self._types if name in columns]
        some = [columns[name] if chosen is None else columns[name].take(pa.array(chosen)) for name in names]
        values = [_listed(one) for one in some]
        if all(_is_just(self._types[name], one) for name, one in zip(names, some, strict=True)):
            if self._make is None or self._made_of != names:
                self._make, self._made_of = constructor(self.event, names), names
            try:
                return list(map(self._make, *values))
            except TypeError as error:  # a field without a column
                raise InvalidEvent(f"the rows are no {self.event.__name__}: {error}") from error
        rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        try:
            return msgspec.convert(rows, list[self.event])  # type: ignore[name-defined]
        except msgspec.ValidationError:
            for at, row in enumerate(rows):
                try:
                    msgspec.convert(row, self.event)
                except msgspec.ValidationError as error:
                    number = positions[at if chosen is None else int(chosen[at])]
                    raise InvalidEvent(f"row {number} is no {self.event.__name__}: {error}") from error
            raise


def _listed(column: Arrow) -> list[Any]:
    plain = not column.null_count and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    found: list[Any] = column.to_numpy(zero_copy_only=False).tolist() if plain else column.to_pylist()
    return found


def _is_just(declared: object, column: Arrow) -> bool:
    """Whether the column's values are of the field's type as they are."""
    fits = _JUST.get(declared) if isinstance(declared, type) else None
    return fits is not None and not column.null_count and bool(fits(column.type))


_JUST: dict[type, Any] = {
    str: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    int: pa.types.is_integer,
    float: pa.types.is_floating,
    bool: pa.types.is_boolean,
}


def _columns(table: Table) -> dict[str, Arrow]:
    return {name: _plain(table.column(name)) for name in table.schema.names}


def _plain(column: Any) -> Arrow:
    """One piece, and not as a dictionary."""
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(found, pa.ChunkedArray):  # of no chunks at all
        found = pa.array([], found.type)
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def _keys(
    definition: Definition, event: type[Event], columns: Mapping[str, Arrow], rows: int
) -> tuple[list[object], NDArray[np.int32]]:
    """The keys, and of each row the number of its key among them."""
    if definition.key_tag == "":
        return [""], np.zeros(rows, np.int32)
    declared = declaration(event)
    pairs = ((declared.key,) if declared.key else ()) + declared.tags
    field = next(field for field, tag in pairs if definition.key_tag in (None, tag))
    encoded = columns[field].dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
