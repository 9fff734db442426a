"""What a pattern would have found in history: in a file of rows, or in a log.

    found = backtest(Silent, "readings.csv", Columns(time="timestamp", key="sensor"))

A file in the order of its times is read as a stream, another one is sorted first: in a file nothing is late. Of Parquet, whole columns
are looked at where each row is an event for certain. Time ends with the last
event, so an absence whose deadline lies behind it is not certain and is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import msgspec

from ensue.errors import ConditionFailed, DefinitionError, InvalidEvent, Misuse
from ensue.events.recorded import instant, microseconds
from ensue.events.registry import Registry
from ensue.patterns.definition import Definition
from ensue.patterns.detection.reading import Reading
from ensue.patterns.history.tables import Columns, Progress, Table, Unread, columns_used, lines_of, open_table
from ensue.patterns.keys import key_reader
from ensue.patterns.language import Pattern
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Expired, Found, Revoked, Taken, Tooks, Untimely
from ensue.patterns.operators import operator_of
from ensue.patterns.ordering import Failed, Outcome, ordered
from ensue.store.base import Store, Term
from ensue.world import RealWorld, World

__all__ = ["Backtest", "Difference", "backtest", "backtest_log", "compare"]

P = TypeVar("P", bound=Pattern)
Identity: TypeAlias = tuple[str, object]
"""A key, and the positions that were taken, step by step."""
BATCH = 10_000
PAGE = 1000
KEPT = 1000
"""So many unread rows are told one by one."""


class Backtest(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """What was found, and in how much."""

    pattern: str
    matches: list[P]
    """The first of them, as many as were asked for, in the order in which they are complete."""
    found: int
    """How many there are in all."""
    timed_out: int
    """How many beginnings found no end in time."""
    rows: int
    """Of a file, all; of a log, those of the pattern's types."""
    events: int
    """Rows that are events of the pattern."""
    late: int
    """Events whose time was over; only in a log."""
    unread: list[Unread]
    """The first rows that could not be read, or for which a condition raised: by line, or by position."""
    unread_rows: int
    """How many there are in all."""
    was_sorted: bool
    """The rows were not in the order of their times, and were sorted."""
    begins: datetime | None
    ends: datetime | None
    """The times of the first and the last event."""
    seconds: float
    """How long it took, reading included."""
    identities: list[Identity]
    """Of each of `matches` what says which it is, whatever its pattern is called: the same as that of another version's match when both
    took the same events."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What two patterns found in the same rows."""

    both: int
    only_one: list[Pattern]
    only_other: list[Pattern]


class _Telling(Generic[P]):
    """Counts and keeps what comes out."""

    def __init__(self, pattern: type[P], limit: int | None) -> None:
        self._definition: Definition = pattern.__ensue_pattern__
        self._limit = limit
        self._matches: list[P] = []
        self._identities: list[Identity] = []
        self._unread: list[Unread] = []
        self._found = self._timed_out = self._late = self._unread_rows = 0
        self.events = 0
        self.was_sorted = False
        self._first: int | None = None
        self.last: int | None = None
        """The newest time so far."""
        self.rows = 0

    def unread(self, line: int, error: object) -> None:
        """A row that could not be read."""
        self._unread_rows += 1
        if len(self._unread) < KEPT:
            self._unread.append(Unread(line, str(error)))

    def count(self, times: Sequence[int]) -> None:
        """Events with these times are looked at."""
        if times:
            self.events += len(times)
            first, last = min(times), max(times)
            self._first = first if self._first is None else min(self._first, first)
            self.last = last if self.last is None else max(self.last, last)

    def keep(self, outcomes: Iterable[Outcome]) -> None:
        """What came out."""
        for outcome in outcomes:
            match outcome:
                case Found():
                    self._found += 1
                    if self._limit is None or len(self._matches) < self._limit:
                        self._identities.append((outcome.key, _positions(outcome.steps)))
                        self._matches.append(cast(P, match_of(self._definition, outcome)))
                case Revoked():
                    self._take_back(outcome.found)
                case Expired():
                    self._timed_out += 1
                case Untimely():
                    self._late += 1
                case Failed():
                    self.unread(outcome.error.position, outcome.error)
                case _:
                    pass

    def _take_back(self, found: Found) -> None:
        self._found -= 1
        identity = (found.key, _positions(found.steps))
        if identity in self._identities:
            at = self._identities.index(identity)
            del self._identities[at], self._matches[at]

    def end(self, seconds: float) -> Backtest[P]:
        """All that was told."""
        return Backtest(
            pattern=self._definition.name,
            matches=self._matches,
            found=self._found,
            timed_out=self._timed_out,
            rows=self.rows,
            events=self.events,
            late=self._late,
            unread=sorted(self._unread, key=lambda one: one.line),
            unread_rows=self._unread_rows,
            was_sorted=self.was_sorted,
            begins=None if self._first is None else instant(self._first),
            ends=None if self.last is None else instant(self.last),
            seconds=seconds,
            identities=self._identities,
        )


def _positions(tooks: Tooks) -> object:
    """As the identity of a match has them, without the names of steps: those of another version may be called otherwise."""
    if isinstance(tooks, Taken):
        return tooks.position
    if tooks is None:
        return None
    return tuple(_positions(one) for one in (tooks if isinstance(tooks, tuple) else tooks.values()))


# ------------------------------------------------------------------------------------------------------------ a file


def backtest(
    pattern: type[P],
    source: str | Path,
    columns: Columns | None = None,
    /,
    *,
    limit: int | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
) -> Backtest[P]:
    """What the pattern would have found in a file. `columns` says what its columns are; `limit`, how many matches are kept; `until`, how
    far time has come behind the last event.

    Errors: `DefinitionError` for a file of no known kind and for columns that are not there; `OSError`. Rows that cannot be read are
    no error: they are counted and told.
    """
    table, world = open_table(source), RealWorld()
    begun = world.monotonic()
    said = columns or Columns()
    told = _in_columns(pattern, table, said, limit, until) if table.file.suffix == ".parquet" else None
    if told is None:
        feeding = _Feeding(pattern, limit)
        if not feeding.stream(table, said, progress):
            feeding = _Feeding(pattern, limit)
            feeding.sort(table, said, progress)
            feeding.told.was_sorted = True
        feeding.over(until)
        told = feeding.told
    return told.end(world.monotonic() - begun)


def _in_columns(
    pattern: type[P], table: Table, columns: Columns, limit: int | None, until: datetime | None
) -> _Telling[P] | None:
    """Look at whole columns, where each row is an event for certain; None where that is not so, or a condition raises: then rows are
    looked at one by one, and give the same."""
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    from ensue.patterns.columns.columnar import Columnar
    from ensue.patterns.history.arrow_files import read_whole

    definition: Definition = pattern.__ensue_pattern__
    known: tuple[str, ...] = tuple(parquet.read_schema(table.file).names)
    used = columns_used(table, columns, definition.events, definition.key_tag, known)
    whole = None if used is None else read_whole(table.file, used.event, dict(used.where), used.time, used.key)
    if used is None or whole is None or not len(whole.times):
        return None
    told = _Telling(pattern, limit)
    columnar = Columnar([definition], used.event, timeouts=True)
    try:
        told.keep(columnar.take(whole.table, whole.times)[0])
        last = int(whole.times.max()) if until is None else microseconds(until)
        told.keep(columnar.advance(last)[0])
    except (ConditionFailed, InvalidEvent):
        return None
    told.rows = len(whole.times)
    told.count([int(whole.times.min()), int(whole.times.max())])
    told.events = told.rows
    told.was_sorted = bool((whole.times[1:] < whole.times[:-1]).any())
    return told


class _Feeding(Generic[P]):
    """Feeds an operator with the rows of a table, in the order of (time, line)."""

    def __init__(self, pattern: type[P], limit: int | None) -> None:
        self._definition: Definition = pattern.__ensue_pattern__
        self._operator = operator_of(self._definition, timeouts=True)
        self._key = key_reader(self._definition.key_tag)
        self.told = _Telling(pattern, limit)

    def stream(self, table: Table, columns: Columns, progress: Progress | None) -> bool:
        """Feed row after row. False at the first whose time is before that of the one before."""
        pending: list[Taken] = []
        newest = -(1 << 62)
        for taken in self._events(table, columns, progress):
            if taken.time < newest:
                return False
            newest = taken.time
            pending.append(taken)
            if len(pending) == BATCH:
                self._feed(pending)
                pending = []
        self._feed(pending)
        return True

    def sort(self, table: Table, columns: Columns, progress: Progress | None) -> None:
        """Read all of it and feed it in order."""
        taken = sorted(self._events(table, columns, progress), key=lambda one: (one.time, one.position))
        for at in range(0, len(taken), BATCH):
            self._feed(taken[at : at + BATCH])

    def over(self, until: datetime | None) -> None:
        """Time has come to `until`, or to the last event."""
        last = self.told.last if until is None else microseconds(until)
        while last is not None:
            try:
                self.told.keep(self._operator.advance(last))
                return
            except ConditionFailed as error:
                self.told.keep(error.outputs)
                self.told.unread(error.position, error)

    def _events(self, table: Table, columns: Columns, progress: Progress | None) -> Iterable[Taken]:
        definition = self._definition
        for line in lines_of(table, columns, definition.events, definition.key_tag, progress):
            self.told.rows += 1
            if isinstance(line, Unread):
                self.told.unread(line.line, line.reason)
            elif line.event is not None:
                yield Taken(line.time, line.line, line.event)

    def _feed(self, taken: Sequence[Taken]) -> None:
        keys: list[str] = []
        events: list[Taken] = []
        for one in taken:
            try:
                keys.append(self._key(one.event))
                events.append(one)
            except InvalidEvent as error:
                self.told.unread(one.position, error)
        self.told.count([one.time for one in events])
        while events:
            try:
                self.told.keep(self._operator.take(_batch(events, keys)))
                return
            except ConditionFailed as error:
                self.told.keep(error.outputs)
                self.told.unread(error.position, error)
                done = error.done
                if done is None:
                    done = 1 + next(number for number, one in enumerate(events) if one.position == error.position)
                events, keys = events[done:], keys[done:]


def _batch(events: Sequence[Taken], keys: Sequence[str]) -> Batch:
    return Batch([one.event for one in events], [one.time for one in events], [one.position for one in events], keys)


# ------------------------------------------------------------------------------------------------------------- a log


async def backtest_log(
    pattern: type[P],
    store: Store,
    registry: Registry,
    world: World,
    /,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Backtest[P]:
    """What the pattern would have found in an open log, by its own time, as it would have been told live: with what was late. `registry`
    knows its event types, and opens personal fields where it has keys. Time ends with the last event of the log.

    Errors: those of `Log.read`; `DefinitionError` for a pattern by the time of processing, which history has not."""
    definition: Definition = pattern.__ensue_pattern__
    if definition.time == "processing":
        raise DefinitionError(f"{definition.name}: its time is when an event is read, which is not the same in history")
    reading = Reading(
        definition.events,
        registry,
        key_tag=definition.key_tag,
        time=definition.time,
        sources=definition.watermark == "source",
        tenants=False,
    )
    driver = ordered(
        lambda: operator_of(definition, timeouts=True),
        time=definition.time,
        disorder=definition.disorder,
        idle=definition.idle,
        watermark=definition.watermark,
        lateness=definition.lateness,
    )
    told = _Telling(pattern, limit)
    begun, after, recorded = world.monotonic(), 0, 0
    head = store.head()
    while after < head:
        page = await store.read((Term(types=reading.names),), after=after, before=head + 1, limit=PAGE)
        arrivals, unread = reading.arrivals(page.rows, await store.types(), now=None)
        told.rows += len(page.rows)
        for one in unread:
            told.unread(one.row[0], one.error)
        if arrivals.positions:
            told.count(arrivals.times)
            told.keep(driver.take(arrivals))
            recorded = arrivals.recorded[-1]
        after = max(page.reached, after + 1)
        if progress is not None:
            progress(min(after, head), head)
    told.keep(driver.tick(recorded))
    return told.end(world.monotonic() - begun)


def compare(one: Backtest[Any], other: Backtest[Any]) -> Difference:
    """What only one of them found, in the same rows. Errors: `Misuse` where not all matches of both were kept."""
    if len(one.matches) < one.found or len(other.matches) < other.found:
        raise Misuse("two backtests are compared by all their matches: run both without limit=")
    return Difference(
        both=len(set(one.identities) & set(other.identities)),
        only_one=_only(one, set(other.identities)),
        only_other=_only(other, set(one.identities)),
    )


def _only(of: Backtest[Any], known: set[Identity]) -> list[Pattern]:
    return [match for match, identity in zip(of.matches, of.identities, strict=True) if identity not in known]
