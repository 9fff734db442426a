"""Time: from events as they arrive to events in their own order, and how far time has come. Pure: it is told the clock.

In the order of the log an event's time is when it was recorded, and everything passes straight through. By event time what
arrives waits until the *watermark* reaches its time, and goes on in order of (time, position). The watermark is made of numbers
that are in the log itself, so that a replay gives what the live run gave, whenever that looked at its clock:

    present       = time of the newest event, but at most its arrival + what has passed since its arrival
    watermark(x)  = max(time of the newest event of x, present - idle) - disorder, and it never falls

where x is all events; each source, of which the slowest counts unless it is behind the present by more than `idle`; or each key
for itself. An event with a time before its watermark is late. One that is ahead of its own arrival by more than `disorder` and a
minute comes from a wrong clock: it is left out and moves nothing. docs/decisions/0032-time-and-windows.md says why.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Literal, Protocol, TypeAlias, cast

import msgspec

from ensue.errors import ConditionFailed, DefinitionError
from ensue.events.message import Event
from ensue.events.stored import Row
from ensue.patterns.definition import TimeOf
from ensue.patterns.operator import Batch, Correcting, Operator, Output, Taken, Untimely

__all__ = ["AHEAD", "Arrivals", "Failed", "Ordered", "Outcome", "Watermarks", "ordered"]

AHEAD = 60_000_000
"""So far beyond `disorder` an event's clock may be ahead of its recording, in microseconds."""
Watermarks: TypeAlias = Literal["all", "source", "key"]


class Arrivals(msgspec.Struct, frozen=True):
    """Events as they were recorded: positions rise and `recorded` never falls. All sequences are of one length."""

    events: Sequence[Event]
    times: Sequence[int]
    """The events' own times. In the order of the log they do not count."""
    recorded: Sequence[int]
    positions: Sequence[int]
    keys: Sequence[str]
    rows: Sequence[Row] | None = None
    sources: Sequence[str] | None = None
    """Where each came from; counts for a watermark of each source only."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """An event that could not be looked at, or a match that could not be decided when its time was over. Everything else went on."""

    taken: Taken | None
    """The event; None where it was a deadline. `error` has its position and key."""
    error: ConditionFailed


Outcome: TypeAlias = Output | Failed


class Ordered(Protocol):
    """An operator with its time. The outcomes are the same however arrivals are cut into batches, and whenever `tick` is called
    between them. Each event is given to the operator once, or is `Untimely` once."""

    def take(self, arrivals: Arrivals) -> list[Outcome]:
        """Take these events. Those that failed are among the outcomes."""
        ...

    def tick(self, wall: int) -> list[Outcome]:
        """The clock is so far, and no event will come any more that was recorded before that."""
        ...

    def due(self) -> int | None:
        """The earliest clock time at which `tick` may give something; None: nothing waits."""
        ...

    def watermark(self) -> int | None:
        """How far time has come (of the keys: at least); None before the first event."""
        ...

    def changed(self) -> Iterable[str]:
        """The keys whose state is another one than when this was last called."""
        ...

    def state(self, key: str) -> Any:
        """What is to be kept of a key: the operator's state and what waits. None: nothing."""
        ...

    def restore(self, key: str, state: Any) -> None:
        """Have the state of a key again, as `state` gave it. After `resume`, before all else."""
        ...

    def progress(self) -> Any:
        """What is to be kept beside the keys: how far time has come."""
        ...

    def resume(self, progress: Any) -> None:
        """Have it again, as `progress` gave it. First of all."""
        ...


def ordered(
    make: Callable[[], Operator],
    *,
    time: TimeOf = "log",
    disorder: int = 0,
    idle: int = 0,
    watermark: Watermarks = "all",
    lateness: int = 0,
) -> Ordered:
    """An operator that is fed in this order; durations in microseconds. `make` makes the operator; with a watermark for each key, one
    for each key that lives. With `lateness` it is `Correcting`: events that are late by at most so much go to its `correct`.

    With `time="processing"` give the clock as what was recorded: a replay is then another run. Errors: `DefinitionError`.
    """
    if watermark != "all" and idle <= 0:
        raise DefinitionError(
            f"watermark={watermark!r} needs idle=, how far a {watermark} may be behind the others, or be silent, before it is not waited "
            "for: idle=minutes(10)"
        )
    if time != "event":
        return _Passing(make())
    if watermark == "key":
        return _ByKey(make, disorder, idle, lateness)
    return _ByTime(make(), disorder, idle, lateness, by_source=watermark == "source")


def _fed(operator: Operator, batch: Batch) -> list[Any]:
    """What the operator gives for the batch, with `Failed` in the place of what it could not look at."""
    try:
        return operator.take(batch)
    except ConditionFailed as error:
        failure: ConditionFailed | None = error
    out: list[Any] = []
    rest = batch
    while failure is not None:
        out += failure.outputs
        if failure.done is None:
            at = list(rest.positions).index(failure.position)
            row = None if rest.rows is None else rest.rows[at]
            taken = Taken(rest.times[at], rest.positions[at], rest.events[at], row)
            out.append(Failed(taken=taken, error=failure))
            rest = _behind(rest, at + 1)
        else:
            out.append(Failed(taken=None, error=failure))
            rest = _behind(rest, failure.done)
        failure = None
        try:
            out += operator.take(rest) if rest.positions else []
        except ConditionFailed as another:
            failure = another
    return out


def _behind(batch: Batch, at: int) -> Batch:
    keys, rows = batch.keys, batch.rows
    return Batch(
        batch.events[at:],
        batch.times[at:],
        batch.positions[at:],
        None if keys is None else keys[at:],
        None if rows is None else rows[at:],
    )


def _advanced(operator: Operator, time: int) -> list[Any]:
    """What the operator gives for this time, with `Failed` for what could not be decided."""
    out: list[Any] = []
    while True:
        try:
            return out + operator.advance(time)
        except ConditionFailed as error:
            out += [*error.outputs, Failed(taken=None, error=error)]


class _Passing:
    """The order of the log: time is when an event was recorded."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._wall: int | None = None

    def take(self, arrivals: Arrivals) -> list[Outcome]:
        if not arrivals.positions:
            return []
        self._wall = arrivals.recorded[-1]
        batch = Batch(arrivals.events, arrivals.recorded, arrivals.positions, arrivals.keys, arrivals.rows)
        return _fed(self._operator, batch)

    def tick(self, wall: int) -> list[Outcome]:
        self._wall = wall
        return _advanced(self._operator, wall)

    def due(self) -> int | None:
        return self._operator.due()

    def watermark(self) -> int | None:
        return self._wall

    def changed(self) -> Iterable[str]:
        return self._operator.changed()

    def state(self, key: str) -> Any:
        return self._operator.state(key)

    def restore(self, key: str, state: Any) -> None:
        self._operator.restore(key, state)

    def progress(self) -> Any:
        return self._wall

    def resume(self, progress: Any) -> None:
        self._wall = progress


class _Present:
    """What time it is where the events come from, going by the newest of them."""

    __slots__ = ("arrived", "newest")

    def __init__(self) -> None:
        self.newest: int | None = None
        self.arrived = 0

    def see(self, time: int, recorded: int) -> None:
        time = min(time, recorded)
        if self.newest is None or time > self.newest:
            self.newest, self.arrived = time, recorded

    def at(self, wall: int) -> int | None:
        return None if self.newest is None else self.newest + max(0, wall - self.arrived)

    def wall(self, time: int) -> int | None:
        """When the present will be this time."""
        return None if self.newest is None else self.arrived + time - self.newest


_Waiting: TypeAlias = "tuple[int, int, str, Event, Row | None]"
"""Time and position, by which it is sorted; key, event, row."""


def _batch(waiting: Sequence[_Waiting]) -> Batch:
    times, positions, keys, events, rows = zip(*waiting, strict=True)
    return Batch(events, times, positions, keys, None if rows[0] is None else rows)


def _untimely(time: int, position: int, key: str, event: Event, row: Row | None, name: str, by: int) -> Untimely:
    digest = blake2b(f"{name}\0untimely\0{position}\0{key}".encode(), digest_size=16).digest()
    return Untimely(id=digest, taken=Taken(time, position, event, row), by=by)


class _ByTime:
    """One watermark: of all events, or the slowest source's."""

    def __init__(self, operator: Operator, disorder: int, idle: int, lateness: int, *, by_source: bool) -> None:
        self._operator = operator
        self._disorder, self._idle, self._lateness = disorder, idle, lateness
        self._sources: dict[str, int] | None = {} if by_source else None
        """The newest time of each source that is waited for."""
        self._present = _Present()
        self._mark: int | None = None
        self._told: int | None = None
        self._wall = 0
        self._waiting: list[_Waiting] = []
        """In order; and what came since it was put in order."""
        self._came: list[_Waiting] = []
        self._by_key: dict[str, list[Taken]] | None = None
        """What waits, by key, while nothing new has come."""
        self._changed: set[str] = set()

    def take(self, arrivals: Arrivals) -> list[Outcome]:
        out: list[Outcome] = []
        self._by_key = None
        self._changed.update(arrivals.keys)
        wait, present, sources = self._came.append, self._present, arrivals.sources
        rows, limit, by_source = arrivals.rows, self._disorder + AHEAD, self._sources is not None
        columns = (arrivals.times, arrivals.recorded, arrivals.positions, arrivals.keys, arrivals.events)
        for at, (time, recorded, position, key, event) in enumerate(zip(*columns, strict=True)):
            mark = self._move(recorded)
            one = (time, position, key, event, None if rows is None else rows[at])
            if time > recorded + limit:
                out += self._release()
                out.append(_untimely(*one, self._operator.name, recorded - time))
                continue
            if mark is None or time >= mark:
                wait(one)
            else:
                out += self._late(one, mark)
            if present.newest is None or time > present.newest:
                present.see(time, recorded)
            if by_source:
                self._see_source("" if sources is None else sources[at], min(time, recorded))
        self._move(self._wall)
        return out + self._release()

    def tick(self, wall: int) -> list[Outcome]:
        self._by_key = None
        self._move(wall)
        return self._release()

    def _see_source(self, source: str, time: int) -> None:
        sources = cast("dict[str, int]", self._sources)
        sources[source] = max(time, sources.get(source, time))

    def _move(self, wall: int) -> int | None:
        """The watermark at this time of the clock."""
        if wall > self._wall:
            self._wall = wall
        else:
            wall = self._wall
        newest = self._present.newest
        if newest is None:
            return None
        reached = newest + wall - self._present.arrived - self._idle
        if self._sources is not None:
            reached = self._slowest(reached)
        elif newest > reached:
            reached = newest
        reached -= self._disorder
        if self._mark is None or reached > self._mark:
            self._mark = reached
        return self._mark

    def _slowest(self, reached: int) -> int:
        """The newest time of the slowest source that is waited for. One that is behind is not: should it come again, it begins anew."""
        sources = cast("dict[str, int]", self._sources)
        slowest = min(sources.values(), default=reached)
        while slowest <= reached and sources:
            for source in [source for source, newest in sources.items() if newest <= reached]:
                del sources[source]
            slowest = min(sources.values(), default=reached)
        return slowest

    def _release(self) -> list[Any]:
        mark = self._mark
        if mark is None:
            return []
        out: list[Any] = []
        waiting = self._in_order()
        if waiting and waiting[0][0] <= mark:
            cut = bisect_left(waiting, (mark + 1,))
            out = _fed(self._operator, _batch(waiting[:cut]))
            self._changed.update(one[2] for one in waiting[:cut])
            del waiting[:cut]
        if self._told != mark:
            out += _advanced(self._operator, mark)
            self._told = mark
        return out

    def _in_order(self) -> list[_Waiting]:
        """All that waits. What came is put in its place, without a look at what is before all of it."""
        came, waiting = self._came, self._waiting
        if came:
            came.sort()  # positions differ, so that nothing behind them is compared
            at = bisect_left(waiting, came[0])
            waiting[at:] = sorted(waiting[at:] + came)
            came.clear()
        return waiting

    def _late(self, late: _Waiting, mark: int) -> list[Any]:
        time, position, key, event, row = late
        out = self._release()
        if time < mark - self._lateness:
            return [*out, _untimely(*late, self._operator.name, mark - time)]
        taken = Taken(time, position, event, row)
        return out + _corrected(cast(Correcting, self._operator), taken, key)

    def due(self) -> int | None:
        """See `Ordered`. The slowest source may stop to be waited for before time itself has come so far."""
        waiting = self._in_order()
        times = [waiting[0][0]] if waiting else []
        due = self._operator.due()
        if due is not None:
            times.append(due)
        if not times:
            return None
        wanted = min(times) + self._disorder
        if self._sources is not None:
            slow = [newest for newest in self._sources.values() if newest < wanted]
            if len(slow) < len(self._sources):
                wanted = max(slow, default=wanted)
        return self._present.wall(wanted + self._idle)

    def watermark(self) -> int | None:
        return self._mark

    def changed(self) -> Iterable[str]:
        self._changed.update(self._operator.changed())
        changed, self._changed = self._changed, set()
        return changed

    def state(self, key: str) -> Any:
        if self._by_key is None:
            self._by_key = {}
            for time, position, of, event, row in self._in_order():
                self._by_key.setdefault(of, []).append(Taken(time, position, event, row))
        inner, waits = self._operator.state(key), self._by_key.get(key)
        return None if inner is None and waits is None else (inner, waits or [])

    def restore(self, key: str, state: Any) -> None:
        inner, waits = state
        if inner is not None:
            self._operator.restore(key, inner)
        self._came += [(one.time, one.position, key, one.event, one.row) for one in waits]

    def progress(self) -> Any:
        present = self._present
        return (self._wall, present.newest, present.arrived, self._mark, self._sources)

    def resume(self, progress: Any) -> None:
        self._wall, self._present.newest, self._present.arrived, self._mark, sources = progress
        self._sources = None if sources is None else dict(sources)
        if self._mark is not None:
            self._operator.advance(self._mark)
            self._told = self._mark


def _corrected(operator: Operator, taken: Taken, key: str) -> list[Any]:
    try:
        return cast("list[Any]", cast(Correcting, operator).correct(taken, key))
    except ConditionFailed as error:
        return [*error.outputs, Failed(taken=taken, error=error)]


class _OfKey:
    """One key with a time of its own."""

    __slots__ = ("newest", "operator", "target", "told", "waiting")

    def __init__(self, operator: Operator, newest: int) -> None:
        self.operator, self.newest = operator, newest
        self.waiting: list[_Waiting] = []
        self.told: int | None = None
        self.target: int | None = None
        """The time at which it is to be looked at next."""


class _ByKey:
    """A watermark for each key. The *floor*, present - idle - disorder, is the watermark of every key that is behind it: one of which
    nothing waits is forgotten without loss. Keys are looked at in the order of what they wait for."""

    def __init__(self, make: Callable[[], Operator], disorder: int, idle: int, lateness: int) -> None:
        self._make = make
        self._name = make().name
        self._disorder, self._idle, self._lateness = disorder, idle, lateness
        self._present = _Present()
        self._floor: int | None = None
        self._wall = 0
        self._keys: dict[str, _OfKey] = {}
        self._targets: list[tuple[int, str]] = []
        self._changed: set[str] = set()

    def take(self, arrivals: Arrivals) -> list[Outcome]:
        out: list[Outcome] = []
        rows = arrivals.rows
        numbered = zip(
            arrivals.times, arrivals.recorded, arrivals.positions, arrivals.keys, arrivals.events, strict=True
        )
        for at, (time, recorded, position, key, event) in enumerate(numbered):
            out += self._move(recorded)
            row = None if rows is None else rows[at]
            if time > recorded + self._disorder + AHEAD:
                out.append(_untimely(time, position, key, event, row, self._name, recorded - time))
                continue
            out += self._one((time, position, key, event, row), min(time, recorded))
            self._present.see(time, recorded)
        return out + self._move(self._wall)

    def tick(self, wall: int) -> list[Outcome]:
        return self._move(wall)

    def _one(self, came: _Waiting, newest: int) -> list[Any]:
        time, position, key, event, row = came
        of = self._keys.get(key)
        mark = self._floor if of is None else self._mark(of)
        if mark is not None and time < mark - self._lateness:
            return [_untimely(*came, self._name, mark - time)]
        if of is None:
            of = self._keys[key] = _OfKey(self._make(), newest)
        self._changed.add(key)
        out: list[Any] = []
        if mark is not None and time < mark:
            out = self._look(of, mark) + _advanced(of.operator, mark)  # it must know how far time has come
            of.told = mark
            out += _corrected(of.operator, Taken(time, position, event, row), key)
        else:
            of.waiting.append(came)
        of.newest = max(of.newest, newest)
        out += self._look(of, self._mark(of))
        self._aim(key, of)
        return out

    def _mark(self, of: _OfKey) -> int:
        own = of.newest - self._disorder
        return own if self._floor is None else max(own, self._floor)

    def _look(self, of: _OfKey, mark: int) -> list[Any]:
        """What is certain of a key up to this time."""
        out: list[Any] = []
        if of.waiting:
            of.waiting.sort()
            cut = bisect_left(of.waiting, (mark + 1,))
            if cut:
                out = _fed(of.operator, _batch(of.waiting[:cut]))
                del of.waiting[:cut]
        due = of.operator.due()
        if due is not None and due <= mark:
            out += _advanced(of.operator, mark)
            of.told = mark
        return out

    def _aim(self, key: str, of: _OfKey) -> None:
        due = of.operator.due()
        wanted = [] if due is None else [due]
        if of.waiting:
            wanted.append(of.waiting[0][0])
        target = min(wanted) if wanted else of.newest - self._disorder
        if not wanted and of.target is not None and of.target >= target:
            target = of.target  # looked at already, and something is still kept of it
        if target != of.target:
            of.target = target
            heappush(self._targets, (target, key))

    def _move(self, wall: int) -> list[Any]:
        self._wall = wall = max(wall, self._wall)
        present = self._present.at(wall)
        if present is None:
            return []
        floor = present - self._idle - self._disorder
        if self._floor is None or floor > self._floor:
            self._floor = floor
        out: list[Any] = []
        targets = self._targets
        while targets and targets[0][0] <= self._floor:
            target, key = heappop(targets)
            of = self._keys.get(key)
            if of is None or of.target != target:
                continue
            self._changed.add(key)
            out += self._look(of, max(target, of.newest - self._disorder))
            if not of.waiting and of.operator.due() is None and of.newest - self._disorder <= self._floor:
                if of.operator.state(key) is None:
                    del self._keys[key]
                continue
            self._aim(key, of)
        return out

    def due(self) -> int | None:
        """See `Ordered`. Also when a key can be forgotten."""
        return self._present.wall(self._targets[0][0] + self._idle + self._disorder) if self._targets else None

    def watermark(self) -> int | None:
        return self._floor

    def changed(self) -> Iterable[str]:
        changed, self._changed = self._changed, set()
        return changed

    def state(self, key: str) -> Any:
        of = self._keys.get(key)
        if of is None:
            return None
        waits = [Taken(time, position, event, row) for time, position, _, event, row in of.waiting]
        return (of.operator.state(key), waits, of.newest, of.told, of.target)

    def restore(self, key: str, state: Any) -> None:
        inner, waits, newest, told, target = state
        of = self._keys[key] = _OfKey(self._make(), newest)
        if told is not None:
            of.operator.advance(told)
            of.told = told
        if inner is not None:
            of.operator.restore(key, inner)
        of.waiting = [(one.time, one.position, key, one.event, one.row) for one in waits]
        of.target = target
        if target is not None:
            heappush(self._targets, (target, key))

    def progress(self) -> Any:
        return (self._wall, self._present.newest, self._present.arrived, self._floor)

    def resume(self, progress: Any) -> None:
        self._wall, self._present.newest, self._present.arrived, self._floor = progress
