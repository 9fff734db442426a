"""The operators of joins: what waits for its other side, by key."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any

from ensue.errors import ConditionFailed
from ensue.patterns.joins import JoinDefinition
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Batch, Closed, Operator, Output, Taken

__all__ = ["join_operator"]


def join_operator(definition: JoinDefinition) -> Operator:
    """A new operator of this join."""
    return _AsOf(definition) if definition.latest else _Within(definition)


class _Waiting:
    """An event that may still find its other side."""

    __slots__ = ("found", "taken")

    def __init__(self, taken: Taken, *, found: bool) -> None:
        self.taken, self.found = taken, found


class _OfKey:
    __slots__ = ("lefts", "rights")

    def __init__(self) -> None:
        self.lefts: deque[_Waiting] = deque()
        self.rights: deque[_Waiting] = deque()


class _Joining:
    """What both kinds have in common."""

    def __init__(self, definition: JoinDefinition) -> None:
        self.name, self.fingerprint, self.events = definition.name, definition.fingerprint, definition.events
        self._of = definition
        self._key_of = key_reader(definition.key_tag)
        self._changed: set[str] = set()

    def take(self, batch: Batch) -> list[Output]:
        """See `Operator`."""
        out: list[Output] = []
        keys, rows = batch.keys, batch.rows
        for at, (event, time, position) in enumerate(zip(batch.events, batch.times, batch.positions, strict=True)):
            if not isinstance(event, self.events):
                continue
            key = self._key_of(event) if keys is None else keys[at]
            taken = Taken(time, position, event, None if rows is None else rows[at])
            self._over(time, out)
            self._changed.add(key)
            try:
                self._one(key, taken, out)
            except ConditionFailed as failure:
                raise ConditionFailed(
                    str(failure), name=self.name, step="where", position=position, key=key, outputs=out
                ) from failure.__cause__
        return out

    def advance(self, time: int) -> list[Output]:
        """See `Operator`."""
        out: list[Output] = []
        self._over(time, out)
        return out

    def _one(self, key: str, taken: Taken, out: list[Output]) -> None:
        raise NotImplementedError

    def _over(self, time: int, out: list[Output]) -> None:
        raise NotImplementedError

    def changed(self) -> Iterable[str]:
        """See `Operator`."""
        changed, self._changed = self._changed, set()
        return changed

    def _answer(self, key: str, left: Taken | None, right: Taken | None, end: int | None = None) -> Closed:
        times = [one.time for one in (left, right) if one is not None]
        return Closed(
            id=self._id(key, left, right),
            key=key,
            start=min(times),
            end=max(times) if end is None else end,
            values={self._of.left.name: left, self._of.right.name: right},
        )

    def _id(self, key: str, left: Taken | None, right: Taken | None) -> bytes:
        places = "\0".join("" if one is None else str(one.position) for one in (left, right))
        return blake2b(f"{self.name}\0{places}\0{key}".encode(), digest_size=16).digest()

    def _belong(self, key: str, left: Taken, right: Taken) -> bool:
        """Whether `where` holds of the pair. Errors: `ConditionFailed`."""
        where = self._of.where
        if where is None:
            return True
        join: Any = self._of.join
        try:
            return bool(where(join.__ensue_closed__(self._answer(key, left, right))))
        except Exception as error:
            raise ConditionFailed(
                f"join {self.name}: where raised for the events at positions {left.position} and {right.position}, key {key!r}: "
                f"{type(error).__name__}: {error}; the later one was passed over",
                name=self.name,
                step="where",
                position=max(left.position, right.position),
                key=key,
            ) from error


class _Within(_Joining):
    """All pairs whose times are within bounds of each other, and events that find none."""

    def __init__(self, definition: JoinDefinition) -> None:
        super().__init__(definition)
        self._keys: dict[str, _OfKey] = {}
        self._ends: list[tuple[int, str]] = []
        """When the first event of a key can find nothing any more: one entry at least for each key."""

    def _one(self, key: str, taken: Taken, out: list[Output]) -> None:
        of = self._keys.get(key, _OfKey())
        is_left = isinstance(taken.event, self._of.left.event)
        is_right = isinstance(taken.event, self._of.right.event)
        # The user's function may raise: all pairs are made before anything is changed.
        lefts = [one for one in of.lefts if self._belong(key, one.taken, taken)] if is_right else []
        rights = [one for one in of.rights if self._belong(key, taken, one.taken)] if is_left else []
        for one in (*lefts, *rights):
            one.found = True
        if not self._of.right.absent:
            out += [self._answer(key, one.taken, taken) for one in lefts]
            out += [self._answer(key, taken, one.taken) for one in rights]
        if is_left:
            of.lefts.append(_Waiting(taken, found=bool(rights)))
            heappush(self._ends, (taken.time + self._of.after, key))
        if is_right:
            of.rights.append(_Waiting(taken, found=bool(lefts)))
            heappush(self._ends, (taken.time + self._of.before, key))
        self._keys[key] = of

    def _over(self, time: int, out: list[Output]) -> None:
        ends, of = self._ends, self._of
        while ends and ends[0][0] <= time:
            end, key = heappop(ends)
            kept = self._keys.get(key)
            if kept is None:
                continue
            self._changed.add(key)
            alone = of.right.optional or of.right.absent
            for one in self._leave(kept.lefts, end - of.after):
                if alone and not one.found:
                    out.append(self._answer(key, one.taken, None, end))
            for one in self._leave(kept.rights, end - of.before):
                if of.left.optional and not one.found:
                    out.append(self._answer(key, None, one.taken, end))
            if not kept.lefts and not kept.rights:
                del self._keys[key]

    @staticmethod
    def _leave(waiting: deque[_Waiting], until: int) -> Iterable[_Waiting]:
        while waiting and waiting[0].taken.time <= until:
            yield waiting.popleft()

    def due(self) -> int | None:
        """See `Operator`."""
        alone = self._of.left.optional or self._of.right.optional or self._of.right.absent
        return self._ends[0][0] if alone and self._ends else None

    def state(self, key: str) -> Any:
        """See `Operator`."""
        of = self._keys.get(key)
        return None if of is None else tuple([(one.taken, one.found) for one in side] for side in (of.lefts, of.rights))

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        of = self._keys[key] = _OfKey()
        for side, kept, span in zip(state, (of.lefts, of.rights), (self._of.after, self._of.before), strict=True):
            for taken, found in side:
                kept.append(_Waiting(taken, found=found))
                heappush(self._ends, (taken.time + span, key))


class _AsOf(_Joining):
    """Each left event with the last right one before it."""

    def __init__(self, definition: JoinDefinition) -> None:
        super().__init__(definition)
        self._last: dict[str, Taken] = {}
        self._ends: list[tuple[int, str]] = []

    def _one(self, key: str, taken: Taken, out: list[Output]) -> None:
        if isinstance(taken.event, self._of.left.event):
            last = self._last.get(key)
            right = last if last is not None and self._belong(key, taken, last) else None
            if right is not None or self._of.right.optional:
                out.append(self._answer(key, taken, right))
        if isinstance(taken.event, self._of.right.event):
            self._keep(key, taken)

    def _keep(self, key: str, taken: Taken) -> None:
        self._last[key] = taken
        if self._of.keeps is not None:
            heappush(self._ends, (taken.time + self._of.keeps, key))

    def _over(self, time: int, out: list[Output]) -> None:
        ends = self._ends
        while ends and ends[0][0] <= time:
            end, key = heappop(ends)
            last = self._last.get(key)
            if last is not None and last.time + (self._of.keeps or 0) <= end:
                del self._last[key]
                self._changed.add(key)

    def due(self) -> int | None:
        """See `Operator`."""
        return None

    def state(self, key: str) -> Any:
        """See `Operator`."""
        return self._last.get(key)

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        self._keep(key, state)
