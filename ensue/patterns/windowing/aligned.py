"""The operator of windows whose spans stand in time, one after another or overlapping.

Events are kept as partial values by key in *panes*: spans that lie in each window whole or not at all. A window that does not
overlap is one pane; one that does is rolled along over its panes, so that its cost does not grow with their number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush
from math import gcd
from typing import Any
from zoneinfo import ZoneInfo

from ensue.events.recorded import instant, microseconds
from ensue.patterns.operator import Closed, Output, Taken
from ensue.patterns.windowing.base import WindowOperator
from ensue.patterns.windowing.values import Column, Columns, Rolling, Value
from ensue.patterns.windows import WindowDefinition

__all__ = ["AlignedOperator"]


class _Grid:
    """Where panes and windows begin and end."""

    def __init__(self, definition: WindowDefinition) -> None:
        self._size, self._every = definition.size, definition.every
        self._pane, self._offset = gcd(definition.size, definition.every), definition.offset
        self._zone = None if definition.timezone is None else ZoneInfo(definition.timezone)

    def pane(self, time: int) -> tuple[int, int]:
        """The start and end of the pane in which this time is."""
        if self._zone is not None:
            return self._days(time)
        start = time - (time - self._offset) % self._pane
        return start, start + self._pane

    def _days(self, time: int) -> tuple[int, int]:
        number = self._size // (24 * 3600 * 1_000_000)
        local = instant(time).astimezone(self._zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        first = local - timedelta(days=(local - datetime(1970, 1, 1)).days % number)
        start, end = (microseconds(one.replace(tzinfo=self._zone)) for one in (first, first + timedelta(days=number)))
        return start, end

    def end(self, window: int) -> int:
        """The end of the window that begins so."""
        return self._days(window)[1] if self._zone is not None else window + self._size

    def windows(self, pane: int, end: int) -> list[tuple[int, int]]:
        """The start and end of each window in which this pane is, in order."""
        if self._size == self._every:
            return [(pane, end)]
        last = pane - (pane - self._offset) % self._every
        first = last - (self._size - (end - last)) // self._every * self._every
        return [(start, start + self._size) for start in range(first, last + 1, self._every)]


class _Pane:
    """Partial values of one span: for each value a dictionary by key; and all keys that have an event here."""

    __slots__ = ("by_key", "end", "keys", "start")

    def __init__(self, start: int, end: int, values: Sequence[Value], covering: int | None) -> None:
        self.start, self.end = start, end
        self.by_key: list[dict[str, Any]] = [value.by_key() for value in values]
        self.keys: dict[str, Any] = {} if covering is None else self.by_key[covering]

    def parts(self, key: str) -> tuple[Any, ...]:
        return tuple(one.get(key) for one in self.by_key)


class AlignedOperator(WindowOperator):
    """See the module."""

    def __init__(self, definition: WindowDefinition) -> None:
        super().__init__(definition)
        self._grid = _Grid(definition)
        self._early, self._corrects = definition.early, definition.corrects
        self._overlaps = definition.size != definition.every
        every = [
            at
            for at, one in enumerate(self.values)
            if one.covers and all(issubclass(event, one.event) for event in definition.events)
        ]
        self._covering = every[0] if every else None
        self._simple = (
            len(self.values) == 1
            and self._covering is not None
            and self.values[0].kind in ("count", "total", "smallest", "largest")
        )
        """A partial value is what is read, and every key has one."""
        self._panes: dict[int, _Pane] = {}
        self._open: set[int] = set()
        """The starts of windows with an event that were not given yet."""
        self._times: list[tuple[int, int, int, int]] = []
        """When something is to be given: time, 0 the end of a window or 1 an early answer, start, end."""
        self._drops: list[tuple[int, int, int]] = []
        """When something is not needed any more: time, 0 a pane or 1 what was given of a window, start."""
        self._given: dict[int, dict[str, int]] = {}
        """How often a closed window that takes corrections was given, by start and key."""
        self._fresh: dict[int, set[str]] = {}
        """Keys with something new since the last early answer."""
        self._rolls: dict[str, Rolling] = {}
        self._rolled_to: int | None = None

    # ------------------------------------------------------------------------------------------------------- taking

    def fold(
        self, keys: Sequence[str], times: Sequence[int], positions: Sequence[int], columns: Columns
    ) -> list[Output]:
        out: list[Output] = []
        low, number = 0, len(times)
        while low < number:
            time = times[low]
            self._over(time, out)
            pane = self._pane(time)
            high = bisect_left(times, min(pane.end, self._times[0][0]), low)
            self._add(pane, keys, times, positions, columns, low, high)
            low = high
        return out

    def _add(
        self,
        pane: _Pane,
        keys: Sequence[str],
        times: Sequence[int],
        positions: Sequence[int],
        columns: Columns,
        low: int,
        high: int,
    ) -> None:
        if high - low < len(times):
            columns = [_part(column, low, high) for column in columns]
            keys, times, positions = keys[low:high], times[low:high], positions[low:high]
        for value, by_key, column in zip(self.values, pane.by_key, columns, strict=True):
            value.fold(by_key, keys, column, times, positions)
        if self._covering is None:
            pane.keys.update(dict.fromkeys(keys))
        if self._early is not None and pane.start in self._open:
            self._fresh.setdefault(pane.start, set()).update(keys)

    def _pane(self, time: int) -> _Pane:
        start, end = self._grid.pane(time)
        pane = self._panes.get(start)
        if pane is None:
            pane = self._panes[start] = _Pane(start, end, self.values, self._covering)
            windows = self._grid.windows(start, end)
            heappush(self._drops, (windows[-1][1] + self._corrects, 0, start))
            for begins, ends in windows:
                if begins not in self._open and (self.told is None or ends > self.told):
                    self._begin(begins, ends, time)
        return pane

    def _begin(self, start: int, end: int, time: int) -> None:
        self._open.add(start)
        heappush(self._times, (end, 0, start, end))
        if self._early is not None:
            after = time if self.told is None else max(time, self.told)
            self._soon(start, start + ((after - start) // self._early + 1) * self._early, end)

    def _soon(self, start: int, time: int, end: int) -> None:
        if time < end:
            heappush(self._times, (time, 1, start, end))

    def correct(self, taken: Taken, key: str) -> list[Output]:
        """See `Correcting`."""
        told = taken.time if self.told is None else self.told
        windows = self._grid.windows(*self._grid.pane(taken.time))
        if windows[-1][1] + self._corrects <= told:
            return self.late(taken, key)
        columns = self.one(taken, key)
        pane = self._pane(taken.time)
        self._add(pane, (key,), (taken.time,), (taken.position,), columns, 0, 1)
        if self._rolled_to is not None and pane.start < self._rolled_to:
            self._rolls.pop(key, None)
            self._roll(key, (one for one in self._in_order() if one.start < self._rolled_to))
        return [self._again(start, end, key) for start, end in windows if end <= told < end + self._corrects]

    def _again(self, start: int, end: int, key: str) -> Output:
        """A closed window once more."""
        given = self._give(start, key, end)
        replaces = (self.id(key, start, given - 1),) if given else ()
        if self._overlaps:
            whole = Rolling(self.values)
            for pane in self._in_order():
                if start <= pane.start < end and key in pane.keys:
                    whole.push(pane.start, pane.parts(key))
            values = self.rolled(whole)
        else:
            values = self.read(self._panes[start].parts(key))
        return Closed(id=self.id(key, start, given), key=key, start=start, end=end, values=values, replaces=replaces)

    def _give(self, start: int, key: str, end: int) -> int:
        """How often this was given before."""
        if not self._corrects:
            return 0
        known = self._given.get(start)
        if known is None:
            known = self._given[start] = {}
            heappush(self._drops, (end + self._corrects, 1, start))
        number = known.get(key, -1) + 1
        known[key] = number
        return number

    # ------------------------------------------------------------------------------------------------------- giving

    def advance(self, time: int) -> list[Output]:
        """See `Operator`."""
        out: list[Output] = []
        self._over(time, out)
        return out

    def _over(self, time: int, out: list[Output]) -> None:
        times = self._times
        while times and times[0][0] <= time:
            moment, early, start, end = heappop(times)
            self.told = moment if self.told is None else max(self.told, moment)
            if early:
                self._look(start, moment, end, out)
            else:
                self._open.discard(start)
                self._fresh.pop(start, None)
                self._close(start, end, out)
        self.told = time if self.told is None else max(self.told, time)
        drops = self._drops
        while drops and drops[0][0] <= time:
            _, given, start = heappop(drops)
            if given:
                self._touch(list(self._given.pop(start)))
            else:
                self._touch(list(self._panes.pop(start).keys))

    def _close(self, start: int, end: int, out: list[Output]) -> None:
        if self._overlaps:
            self._close_rolling(start, end, out)
            return
        pane = self._panes[start]
        keys = sorted(pane.keys)
        self._touch(keys)
        of_key = self.ids(start)
        if self._simple and not self._corrects:
            name, read = self.values[0].name, pane.keys
            out += [Closed(id=of_key(key), key=key, start=start, end=end, values={name: read[key]}) for key in keys]
            return
        for key in keys:
            mark = self._give(start, key, end)
            values = self.read(one.get(key) for one in pane.by_key)
            id = self.id(key, start, mark) if mark else of_key(key)
            out.append(Closed(id=id, key=key, start=start, end=end, values=values))

    def _close_rolling(self, start: int, end: int, out: list[Output]) -> None:
        low = self._rolled_to
        for pane in self._in_order():
            if pane.start < end and (low is None or pane.start >= low):
                for key in pane.keys:
                    self._roll(key, (pane,))
        self._rolled_to = end
        given: list[str] = []
        for key in sorted(self._rolls):
            rolling = self._rolls[key]
            rolling.evict(start)
            if not len(rolling):
                del self._rolls[key]
                continue
            given.append(key)
            mark = self._give(start, key, end)
            values = self.rolled(rolling)
            out.append(Closed(id=self.id(key, start, mark), key=key, start=start, end=end, values=values))
        self._touch(given)

    def _roll(self, key: str, panes: Iterable[_Pane]) -> None:
        rolling = self._rolls.get(key)
        if rolling is None:
            rolling = self._rolls[key] = Rolling(self.values)
        for pane in panes:
            if key in pane.keys:
                rolling.push(pane.start, pane.parts(key))

    def _in_order(self) -> list[_Pane]:
        return [self._panes[start] for start in sorted(self._panes)]

    def _look(self, start: int, moment: int, end: int, out: list[Output]) -> None:
        """An early answer for each key with something new."""
        pane = self._panes[start]
        keys = sorted(self._fresh.pop(start, ()))
        self._touch(keys)
        for key in keys:
            id = self.id(key, start, f"early {moment}")
            values = self.read(pane.parts(key))
            out.append(Closed(id=id, key=key, start=start, end=end, values=values, final=False))
        self._soon(start, moment + (self._early or 0), end)

    def due(self) -> int | None:
        """See `Operator`."""
        return self._times[0][0] if self._times else None

    # -------------------------------------------------------------------------------------------------------- state

    def state(self, key: str) -> Any:
        """See `Operator`."""
        panes = [
            (start, [(at, _kept(one[key])) for at, one in enumerate(pane.by_key) if key in one])
            for start, pane in sorted(self._panes.items())
            if key in pane.keys
        ]
        given = [(start, known[key]) for start, known in sorted(self._given.items()) if key in known]
        if not panes and not given:
            return None
        return (self.told, panes, given, sorted(start for start, fresh in self._fresh.items() if key in fresh))

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        told, panes, given, fresh = state
        self.told = told if self.told is None or (told is not None and told > self.told) else self.told
        before, self.told = self.told, told
        for start, parts in panes:
            pane = self._pane(start)
            pane.keys.setdefault(key, None)
            for at, partial in parts:
                pane.by_key[at][key] = partial
                self.values[at].restored(partial)
        self.told = before
        for start, number in given:
            self._give(start, key, self._grid.end(start))
            self._given[start][key] = number
        for start in fresh:
            self._fresh.setdefault(start, set()).add(key)


def _kept(partial: Any) -> Any:
    """What does not change when the partial value does."""
    return partial.copy() if isinstance(partial, set) else partial


def _part(column: Column, low: int, high: int) -> Column:
    chosen, values = column
    if chosen is None:
        return None, None if values is None else values[low:high]
    begin, end = bisect_left(chosen, low), bisect_left(chosen, high)
    return [at - low for at in chosen[begin:end]], None if values is None else values[begin:end]
