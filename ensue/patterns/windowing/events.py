"""The operators of windows that stand where events are: sessions, which end when nothing comes; the last so much or so many events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from ensue.patterns.operator import Closed, Output, Taken
from ensue.patterns.windowing.base import WindowOperator
from ensue.patterns.windowing.values import Columns, Rolling
from ensue.patterns.windows import WindowDefinition

__all__ = ["SessionOperator", "SlidingOperator"]


class _Session:
    __slots__ = ("fresh", "given", "last", "open", "parts", "revision", "start")

    def __init__(self, start: int, last: int, parts: list[Any]) -> None:
        self.start, self.last, self.parts = start, last, parts
        self.open = self.fresh = True
        self.given: tuple[bytes, ...] = ()
        """The answers that stand for it."""
        self.revision = 0


class SessionOperator(WindowOperator):
    """Sessions: a key has one that is open, and with `lateness` others that were closed a short time ago."""

    def __init__(self, definition: WindowDefinition) -> None:
        super().__init__(definition)
        self._gap, self._early, self._corrects = definition.size, definition.early, definition.corrects
        self._sessions: dict[str, list[_Session]] = {}
        self._times: list[tuple[int, int, str, int]] = []
        """When something may be to be given: time, 0 an end or 1 an early answer, key, start."""
        self._drops: list[tuple[int, str, int]] = []

    def fold(
        self, keys: Sequence[str], times: Sequence[int], positions: Sequence[int], columns: Columns
    ) -> list[Output]:
        out: list[Output] = []
        for key, time, parts in zip(keys, times, self._events(times, positions, columns), strict=True):
            self._over(time, out)
            sessions = self._sessions.get(key)
            session = sessions[-1] if sessions else None
            if session is not None and session.open:
                self._join(session, parts)
                session.last, session.fresh = time, True
            else:
                self._begin(key, _Session(time, time, list(parts)))
        return out

    def _events(self, times: Sequence[int], positions: Sequence[int], columns: Columns) -> Iterable[tuple[Any, ...]]:
        named = zip(self.values, columns, strict=True)
        return zip(*(value.parts(column, times, positions) for value, column in named), strict=True)

    def _join(self, session: _Session, parts: Sequence[Any]) -> None:
        known = session.parts
        for at, (value, part) in enumerate(zip(self.values, parts, strict=True)):
            if part is not None:
                known[at] = part if known[at] is None else value.joined(known[at], part)

    def _begin(self, key: str, session: _Session) -> None:
        sessions = self._sessions.setdefault(key, [])
        sessions.append(session)
        sessions.sort(key=_start)
        heappush(self._times, (session.last + self._gap, 0, key, session.start))
        self._plan_early(key, session)

    def _plan_early(self, key: str, session: _Session) -> None:
        if self._early is not None:
            after = session.last if self.told is None else max(self.told, session.last)
            number = (after - session.start) // self._early + 1
            heappush(self._times, (session.start + number * self._early, 1, key, session.start))

    def correct(self, taken: Taken, key: str) -> list[Output]:
        """See `Correcting`."""
        told, time = taken.time if self.told is None else self.told, taken.time
        sessions = self._sessions.get(key, [])
        near = [one for one in sessions if one.start - self._gap < time < one.last + self._gap]
        end = max([time, *(one.last for one in near)]) + self._gap
        if end + self._corrects <= told:
            return self.late(taken, key)
        columns = self.one(taken, key)
        whole = _Session(min([time, *(one.start for one in near)]), end - self._gap, [None] * len(self.values))
        for parts in (*(one.parts for one in near), *self._events((time,), (taken.position,), columns)):
            self._join(whole, parts)
        whole.given = tuple(id for one in near for id in one.given)
        whole.revision = sum(one.revision for one in near)
        self._sessions[key] = [one for one in sessions if one not in near]
        self._begin(key, whole)
        return [self._close(key, whole)] if end <= told else []

    def _close(self, key: str, session: _Session) -> Output:
        end = session.last + self._gap
        id = self.id(key, session.start, session.revision)
        closed = Closed(
            id=id,
            key=key,
            start=session.start,
            end=end,
            values=self.read(session.parts),
            replaces=session.given,
        )
        session.open, session.given = False, (id,)
        session.revision += 1
        heappush(self._drops, (end + self._corrects, key, session.start))
        self._touch((key,))
        return closed

    def advance(self, time: int) -> list[Output]:
        """See `Operator`."""
        out: list[Output] = []
        self._over(time, out)
        return out

    def _over(self, time: int, out: list[Output]) -> None:
        times, drops = self._times, self._drops
        while times and times[0][0] <= time:
            moment, early, key, start = heappop(times)
            self.told = moment if self.told is None else max(self.told, moment)
            session = next((one for one in self._sessions.get(key, ()) if one.start == start and one.open), None)
            if session is None:
                continue
            end = session.last + self._gap
            if early:
                self._look(key, session, moment, out)
            elif end > moment:
                heappush(times, (end, 0, key, start))
            else:
                out.append(self._close(key, session))
        self.told = time if self.told is None else max(self.told, time)
        while drops and drops[0][0] <= time:
            moment, key, start = heappop(drops)
            left = [
                one for one in self._sessions.get(key, ()) if one.open or one.last + self._gap + self._corrects > time
            ]
            self._touch((key,))
            if left:
                self._sessions[key] = left
            else:
                self._sessions.pop(key, None)

    def _look(self, key: str, session: _Session, moment: int, out: list[Output]) -> None:
        end = session.last + self._gap
        if moment >= end:  # it ends now
            return
        if session.fresh:
            session.fresh = False
            self._touch((key,))
            id, values = self.id(key, session.start, f"early {moment}"), self.read(session.parts)
            out.append(Closed(id=id, key=key, start=session.start, end=end, values=values, final=False))
        heappush(self._times, (moment + (self._early or 0), 1, key, session.start))

    def due(self) -> int | None:
        """See `Operator`. A session may have gone on by then."""
        return self._times[0][0] if self._times else None

    def state(self, key: str) -> Any:
        """See `Operator`."""
        sessions = self._sessions.get(key)
        if not sessions:
            return None
        return (
            self.told,
            [(one.start, one.last, list(one.parts), one.given, one.revision, one.open, one.fresh) for one in sessions],
        )

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        told, sessions = state
        if told is not None and (self.told is None or told > self.told):
            self.told = told
        for start, last, parts, given, revision, is_open, fresh in sessions:
            session = _Session(start, last, list(parts))
            session.given, session.revision = tuple(given), revision
            session.open, session.fresh = is_open, fresh
            for value, partial in zip(self.values, parts, strict=True):
                value.restored(partial)
            self._sessions.setdefault(key, []).append(session)
            if is_open:
                heappush(self._times, (last + self._gap, 0, key, start))
                self._plan_early(key, session)
            else:
                heappush(self._drops, (last + self._gap + self._corrects, key, start))


def _start(session: _Session) -> int:
    return session.start


class _Recent:
    """What of a key is within the span, and how many events there were."""

    __slots__ = ("last", "number", "rolling")

    def __init__(self, rolling: Rolling) -> None:
        self.rolling, self.number, self.last = rolling, 0, 0


class SlidingOperator(WindowOperator):
    """The last so much, or so many events: an answer is given at an event. Nothing waits for time, so that nothing is ever due."""

    def __init__(self, definition: WindowDefinition) -> None:
        super().__init__(definition)
        self._by_number = definition.kind == "last"
        self._keeps = definition.gap if self._by_number else definition.size
        """So long after its last event a key is kept."""
        self._recent: dict[str, _Recent] = {}
        self._ends: list[tuple[int, str]] = []

    def fold(
        self, keys: Sequence[str], times: Sequence[int], positions: Sequence[int], columns: Columns
    ) -> list[Output]:
        out: list[Output] = []
        named = zip(self.values, columns, strict=True)
        parts = zip(*(value.parts(column, times, positions) for value, column in named), strict=True)
        for key, time, position, part in zip(keys, times, positions, parts, strict=True):
            self.advance(time)
            recent = self._recent.get(key)
            if recent is None:
                recent = self._recent[key] = _Recent(Rolling(self.values))
                if self._keeps is not None:
                    heappush(self._ends, (time + self._keeps, key))
            recent.last = time
            recent.number += 1
            start = self._number(recent, time, part) if self._by_number else self._span(recent, time, part)
            if start is not None:
                id, values = self.id(key, start, position), self.rolled(recent.rolling)
                out.append(Closed(id=id, key=key, start=start, end=time, values=values))
        return out

    def _span(self, recent: _Recent, time: int, part: tuple[Any, ...]) -> int | None:
        start = time - self.definition.size
        recent.rolling.evict(start + 1)
        recent.rolling.push(time, part)
        return start

    def _number(self, recent: _Recent, time: int, part: tuple[Any, ...]) -> int | None:
        """The time of the first event, where this is one at which an answer is given."""
        size, rolling = self.definition.size, recent.rolling
        rolling.push(time, part)
        if len(rolling) > size:
            rolling.evict_first()
        over = recent.number - size
        return rolling.parts[0][0] if over >= 0 and over % self.definition.every == 0 else None

    def correct(self, taken: Taken, key: str) -> list[Output]:
        """See `Correcting`. Answers stand: it is too late."""
        return self.late(taken, key)

    def advance(self, time: int) -> list[Output]:
        """See `Operator`. Forgets keys that were silent."""
        ends = self._ends
        while ends and ends[0][0] <= time:
            _, key = heappop(ends)
            recent = self._recent[key]
            end = recent.last + (self._keeps or 0)
            if end > time:
                heappush(ends, (end, key))
            else:
                del self._recent[key]
                self._touch((key,))
        self.told = time if self.told is None else max(self.told, time)
        return []

    def due(self) -> int | None:
        """See `Operator`."""
        return None

    def state(self, key: str) -> Any:
        """See `Operator`."""
        recent = self._recent.get(key)
        return None if recent is None else (recent.number, recent.last, list(recent.rolling.parts))

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        number, last, parts = state
        recent = self._recent[key] = _Recent(Rolling(self.values))
        recent.number, recent.last = number, last
        for label, part in parts:
            recent.rolling.push(label, tuple(part))
            for value, partial in zip(self.values, part, strict=True):
                value.restored(partial)
        if self._keeps is not None:
            heappush(self._ends, (last + self._keeps, key))
