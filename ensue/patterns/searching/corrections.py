"""An operator that a late event can still correct: `lateness=` of a pattern.

Two engines are given the same events, one of them only when they are so old that no late event can come before them. From where
that one stands, a key's younger events are gone through again when a late one comes among them, with it and without it. What is found
only without it is revoked, what is found only with it is given. Identities are made of what was taken, so that nothing else changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ensue.errors import ConditionFailed
from ensue.events.stored import Row
from ensue.patterns.definition import Definition
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Batch, Expired, Found, Output, Revoked, Taken
from ensue.patterns.searching.engine import Engine

__all__ = ["Corrections"]


class _Young(NamedTuple):
    """An event before which a late one can still come. Ordered by time and position."""

    time: int
    position: int
    key: str
    taken: Taken


class Corrections:
    """A `Correcting` operator. A beginning that was given as `Expired` is not taken back where it turns out to have had an end: the
    match is given, and says itself that it is one."""

    def __init__(self, definition: Definition, *, timeouts: bool = False) -> None:
        self.definition = definition
        self.name = definition.name
        self.events = definition.events
        self._timeouts = timeouts
        self._key_of = key_reader(definition.key_tag)
        self._now = Engine(definition, timeouts=timeouts)
        """Has taken all events, and says what is found."""
        self.fingerprint = self._now.fingerprint
        self._final = Engine(definition, timeouts=timeouts)
        """Has taken those before which no event can come any more; what it finds was said before."""
        self._young: list[_Young] = []
        self._of_key: dict[str, list[Taken]] = {}
        """The same by key, in the same order."""
        self._time: int | None = None
        """How far time has come."""
        self._touched: set[str] = set()

    def take(self, batch: Batch) -> list[Output]:
        """See `Operator`."""
        keys = batch.keys
        if keys is None:
            keys = [self._key_of(event) if isinstance(event, self.events) else "" for event in batch.events]
            batch = msgspec.structs.replace(batch, keys=keys)
        try:
            outputs = self._now.take(batch)
        except ConditionFailed as failed:
            taken = failed.done if failed.done is not None else list(batch.positions).index(failed.position)
            self._remember(batch, keys, taken)
            raise
        self._remember(batch, keys, len(batch.events))
        return outputs

    def advance(self, time: int) -> list[Output]:
        """See `Operator`."""
        self._pass(time)
        return self._now.advance(time)

    def correct(self, taken: Taken, key: str) -> list[Output]:
        """See `Correcting`. What is revoked comes before what is found instead, each in the order of the matches."""
        if not isinstance(taken.event, self.events):
            return []
        late = _Young(taken.time, taken.position, key, taken)
        before = self._of_key.get(key, [])
        behind = list(before)
        insort(behind, taken, key=_order)
        had, _ = self._again(key, before)
        have, engine = self._again(key, behind, raising=taken.position)
        insort(self._young, late)
        self._of_key[key] = behind
        self._now.restore(key, engine.state(key))
        self._touched.add(key)
        old = {one.id: one for one in had if isinstance(one, Found)}
        new = {one.id for one in have if isinstance(one, Found)}
        told = {one.id for one in had}
        outputs: list[Output] = [
            Revoked(id=one.id, found=one, because=taken) for one in old.values() if one.id not in new
        ]
        return outputs + [one for one in have if isinstance(one, Found | Expired) and one.id not in told]

    def due(self) -> int | None:
        """See `Operator`."""
        return self._now.due()

    def changed(self) -> Iterable[str]:
        """See `Operator`."""
        touched, self._touched = self._touched, set()
        return touched.union(self._now.changed(), self._final.changed())

    def state(self, key: str) -> Any:
        """See `Operator`."""
        young = list(self._of_key.get(key, ()))
        now, final = self._now.state(key), self._final.state(key)
        if not young and now is None and final is None:
            return None
        return {"young": young, "now": now, "final": final}

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        self._now.restore(key, state["now"])
        self._final.restore(key, state["final"])
        if state["young"]:
            self._of_key[key] = list(state["young"])
        for taken in state["young"]:
            insort(self._young, _Young(taken.time, taken.position, key, taken))

    def _remember(self, batch: Batch, keys: Sequence[str], many: int) -> None:
        """These have been taken, in their order, which may all be behind what is young already."""
        for at in range(many):
            event, time, position = batch.events[at], batch.times[at], batch.positions[at]
            if isinstance(event, self.events):
                row = batch.rows[at] if batch.rows is not None else None
                one = _Young(time, position, keys[at], Taken(time, position, event, row))
                insort(self._young, one)  # mostly at its end
                insort(self._of_key.setdefault(keys[at], []), one.taken, key=_order)
                self._touched.add(keys[at])
        if many:
            self._time = max(self._time or 0, batch.times[many - 1])

    def _pass(self, time: int) -> None:
        """Time has come so far: what is older than the lateness is final."""
        self._time = time if self._time is None else max(self._time, time)
        final = time - self.definition.lateness
        many = bisect_left(self._young, (final,))
        if many:
            old, self._young = self._young[:many], self._young[many:]
            for one in old:
                self._touched.add(one.key)
                of_key = self._of_key[one.key]
                of_key.pop(0)
                if not of_key:
                    del self._of_key[one.key]
            _fed(self._final, [one.taken for one in old], [one.key for one in old])
        _passed(self._final, final)

    def _again(self, key: str, young: list[Taken], *, raising: int | None = None) -> tuple[list[Output], Engine]:
        """All that is found of a key from where things are final. Errors: `ConditionFailed` for the event at position `raising`."""
        engine = Engine(self.definition, timeouts=self._timeouts)
        engine.restore(key, self._final.state(key))
        outputs = _fed(engine, young, [key] * len(young), raising=raising)
        if self._time is not None:
            outputs += _passed(engine, self._time)
        return outputs, engine


def _order(taken: Taken) -> tuple[int, int]:
    return taken.time, taken.position


def _fed(engine: Engine, events: list[Taken], keys: list[str], *, raising: int | None = None) -> list[Output]:
    """What an engine gives for these events. A condition that fails has been told of when they were first taken."""
    outputs: list[Output] = []
    start = 0
    while start < len(events):
        part = events[start:]
        rows: list[Row] | None = [one.row for one in part if one.row is not None]
        batch = Batch(
            events=[one.event for one in part],
            times=[one.time for one in part],
            positions=[one.position for one in part],
            keys=keys[start:],
            rows=rows if rows and len(rows) == len(part) else None,
        )
        try:
            return outputs + engine.take(batch)
        except ConditionFailed as failed:
            if failed.done is None and failed.position == raising:
                failed.outputs = []
                raise
            outputs += failed.outputs
            start += failed.done if failed.done is not None else 1 + list(batch.positions).index(failed.position)
    return outputs


def _passed(engine: Engine, time: int) -> list[Output]:
    outputs: list[Output] = []
    while True:
        try:
            return outputs + engine.advance(time)
        except ConditionFailed as failed:
            outputs += failed.outputs
