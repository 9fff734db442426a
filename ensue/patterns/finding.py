"""Finds the matches of a pattern in events at hand, without a log or an application.

    find(TestedThenUsed, [(datetime(2026, 1, 1, 9, tzinfo=UTC), Payment(...)), ...])

All events are known, so that none is late: they are taken in the order of their times, and of equal times as they are given.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias, TypeVar, cast

from ensue.errors import Misuse
from ensue.events.message import Event, own_time
from ensue.events.recorded import Recorded, microseconds
from ensue.events.stored import Row
from ensue.patterns.definition import Definition
from ensue.patterns.joins import Join, JoinDefinition
from ensue.patterns.language import Pattern, TimedOut
from ensue.patterns.matches import match_of
from ensue.patterns.matches import timed_out as _told
from ensue.patterns.operator import Batch, Closed, Expired, Found, Operator, Output
from ensue.patterns.operators import operator_of
from ensue.patterns.windowing.engine import window_operator
from ensue.patterns.windows import Window, WindowDefinition

__all__ = ["Given", "END", "batch_of", "find", "outputs", "timed_out"]

P = TypeVar("P", bound=Pattern)
S = TypeVar("S", bound=Pattern | Window | Join)

Given: TypeAlias = "Recorded[Event] | tuple[datetime, Event] | Event"
"""An event with its time: as a log holds it, with the time beside it, or of a type that says which field it is."""

END = 1 << 62
"""Behind all times."""


def find(sought: type[S], events: Iterable[Given], /, *, until: datetime | None = None) -> list[S]:
    """The matches of a pattern, in the order in which they are complete; of a window or join its answers. `until` is how far time has
    come, for deadlines behind the last event; without it all of them are over.

    Errors: `ConditionFailed` for a condition that raises; `InvalidEvent` for an event without its key; `Misuse` for a time without zone.
    """
    if issubclass(sought, Window | Join):
        window = sought.__ensue_window__
        closed = outputs(window_operator(window), batch_of(window, events), until=until)
        return [cast(S, sought.__ensue_closed__(one)) for one in closed if isinstance(one, Closed)]
    definition = sought.__ensue_pattern__
    found = outputs(operator_of(definition), batch_of(definition, events), until=until)
    return [cast(S, match_of(definition, one)) for one in found if isinstance(one, Found)]


def timed_out(pattern: type[P], events: Iterable[Given], /, *, until: datetime | None = None) -> list[TimedOut[P]]:
    """The beginnings that found no end in time, as `TimedOut`; everything else as `find`."""
    definition = pattern.__ensue_pattern__
    given = outputs(operator_of(definition, timeouts=True), batch_of(definition, events), until=until)
    return [cast("TimedOut[P]", _told(definition, one)) for one in given if isinstance(one, Expired)]


def outputs(operator: Operator, batch: Batch, /, *, until: datetime | None = None) -> list[Output]:
    """All that an operator gives for these events, and then for time passing."""
    given = operator.take(batch)
    return given + operator.advance(END if until is None else _micros(until))


def batch_of(definition: Definition | WindowDefinition | JoinDefinition, events: Iterable[Given], /) -> Batch:
    """The events in the order in which an operator takes them. Positions are those of the log, or count from 1."""
    rows: list[tuple[int, int, Event, Row | None]] = []
    for at, one in enumerate(events, 1):
        if isinstance(one, Recorded):
            time = one.meta.time if definition.time == "event" else one.row[5]
            rows.append((time, one.row[0], one.event, one.row))
        elif isinstance(one, Event):
            own = own_time(one)
            if own is None:
                raise Misuse(
                    f"{definition.name}: when was event {at}, a {type(one).__name__}? Give it as (time, event), or name the field: "
                    "class Reading(Event, time='at')"
                )
            rows.append((own, at, one, None))
        else:
            rows.append((_micros(one[0]), at, one[1], None))
    rows.sort(key=_order)
    return Batch(
        events=[row[2] for row in rows],
        times=[row[0] for row in rows],
        positions=[row[1] for row in rows],
        rows=cast("list[Row]", [row[3] for row in rows]) if rows and rows[0][3] is not None else None,
    )


def _order(row: tuple[int, int, Event, Row | None]) -> tuple[int, int]:
    return row[0], row[1]


def _micros(time: datetime) -> int:
    if time.tzinfo is None:
        raise Misuse(f"{time!r} has no time zone, so that it is not known when that was: give an aware datetime")
    return microseconds(time)
