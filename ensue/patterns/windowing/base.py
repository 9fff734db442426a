"""What the operators of all windows have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from ensue.errors import ConditionFailed
from ensue.patterns.keys import keys_reader
from ensue.patterns.operator import Batch, Output, Taken, Untimely
from ensue.patterns.windowing.values import ABSENT, Columns, Rolling, Unfit, Value, values_of
from ensue.patterns.windows import WindowDefinition

__all__ = ["WindowOperator"]

_TOUCHED = 200_000
"""So many keys are listed before it is counted which they are."""


class WindowOperator:
    """What all of them have in common: events become columns of values, failures are named, changed keys are noted."""

    def __init__(self, definition: WindowDefinition) -> None:
        self.name, self.fingerprint, self.events = definition.name, definition.fingerprint, definition.events
        self.definition = definition
        self.values = [Value(name, aggregate) for name, aggregate in definition.values]
        self.told: int | None = None
        """Time has come so far: what ends by then was given."""
        self._keys_of = keys_reader(definition.key_tag)
        self._touched: list[Sequence[str]] = []
        self._listed = 0

    def take(self, batch: Batch) -> list[Output]:
        """See `Operator`."""
        batch = self._own(batch)
        if not batch.positions:
            return []
        keys = batch.keys if batch.keys is not None else self._keys_of(batch.events)
        self._touch(keys)
        try:
            columns = values_of(self.values, batch.events)
        except Unfit as unfit:
            at = unfit.index
            before = self.fold(
                keys[:at], batch.times[:at], batch.positions[:at], values_of(self.values, batch.events[:at])
            )
            raise self._failed(unfit, batch.positions[at], keys[at], before) from unfit.why
        return self.fold(keys, batch.times, batch.positions, columns)

    def _own(self, batch: Batch) -> Batch:
        """The events that are of one of its types."""
        if all(issubclass(kind, self.events) for kind in set(map(type, batch.events))):
            return batch
        own = [at for at, event in enumerate(batch.events) if isinstance(event, self.events)]
        keys, rows = batch.keys, batch.rows
        return Batch(
            [batch.events[at] for at in own],
            [batch.times[at] for at in own],
            [batch.positions[at] for at in own],
            None if keys is None else [keys[at] for at in own],
            None if rows is None else [rows[at] for at in own],
        )

    def _failed(self, unfit: Unfit, position: int, key: str, outputs: list[Output]) -> ConditionFailed:
        return ConditionFailed(
            f"window {self.name}: {unfit.name} could not be computed of the event at position {position}, key {key!r}: "
            f"{type(unfit.why).__name__}: {unfit.why}; the event was passed over",
            name=self.name,
            step=unfit.name,
            position=position,
            key=key,
            outputs=outputs,
        )

    def fold(
        self, keys: Sequence[str], times: Sequence[int], positions: Sequence[int], columns: Columns
    ) -> list[Output]:
        """Take events whose values are computed."""
        raise NotImplementedError

    def one(self, taken: Taken, key: str) -> Columns:
        """The values of a late event. Errors: `ConditionFailed`."""
        self._touch((key,))
        try:
            return values_of(self.values, (taken.event,))
        except Unfit as unfit:
            raise self._failed(unfit, taken.position, key, []) from unfit.why

    def late(self, taken: Taken, key: str) -> list[Output]:
        """The event came when nothing takes it any more."""
        told = taken.time if self.told is None else self.told
        digest = blake2b(f"{self.name}\0untimely\0{taken.position}\0{key}".encode(), digest_size=16).digest()
        return [Untimely(id=digest, taken=taken, by=told - taken.time)]

    def id(self, key: str, start: int, mark: object = 0) -> bytes:
        """Which answer this is: `mark` says which one of the same key and start."""
        return blake2b(f"{self.name}\0{start}\0{mark}\0{key}".encode(), digest_size=16).digest()

    def ids(self, start: int) -> Callable[[str], bytes]:
        """`id` of the first answer of each key for this start."""
        begun = blake2b(f"{self.name}\0{start}\0{0}\0".encode(), digest_size=16)

        def of_key(key: str) -> bytes:
            whole = begun.copy()
            whole.update(key.encode())
            return whole.digest()

        return of_key

    def read(self, partials: Iterable[Any]) -> dict[str, Any]:
        """The values as users read them, from a partial value or None for each."""
        read: dict[str, Any] = {}
        for value, partial in zip(self.values, partials, strict=True):
            found = value.empty() if partial is None else value.read(partial)
            if found is not ABSENT:
                read[value.name] = found
        return read

    def rolled(self, rolling: Rolling) -> dict[str, Any]:
        """The values as users read them."""
        found = zip(self.values, rolling.read(), strict=True)
        return {value.name: read for value, read in found if read is not ABSENT}

    def _touch(self, keys: Sequence[str]) -> None:
        self._touched.append(keys)
        self._listed += len(keys)
        if self._listed > _TOUCHED:
            self._touched = [list(self.changed())]
            self._listed = len(self._touched[0])

    def changed(self) -> Iterable[str]:
        """See `Operator`."""
        changed: set[str] = set()
        changed.update(*self._touched)
        self._touched, self._listed = [], 0
        return changed
