"""The seam between what notices (patterns, windows, joins) and what feeds it: a log, a list of events, a file.

An `Operator` is pure: it knows no clock, no database and no other operator. It is given events in one total order, by time and then
position, and is told how far time has come; the same input gives the same output, in the same order. All times are
microseconds since 1970. An operator keeps its state by key, and can tell which keys changed, so that whoever feeds it can keep
that state beside its own progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

import msgspec

from ensue.events.message import Event
from ensue.events.stored import Row

__all__ = [
    "Batch",
    "Closed",
    "Correcting",
    "Expired",
    "Found",
    "Operator",
    "Output",
    "Revoked",
    "Taken",
    "Tooks",
    "Untimely",
    "identity",
]

_encode = msgspec.msgpack.Encoder().encode


class Taken(msgspec.Struct, frozen=True, gc=False):
    """An event that a run has taken. `row` is how the log holds it; None where there is no log."""

    time: int
    position: int
    event: Event
    row: Row | None = None


class Batch(msgspec.Struct, frozen=True):
    """Events in their order: times never fall, positions rise among equal times. All sequences are of one length."""

    events: Sequence[Event]
    times: Sequence[int]
    positions: Sequence[int]
    keys: Sequence[str] | None = None
    """The text of each event's key; None: the operator takes it from the event's own fields."""
    rows: Sequence[Row] | None = None


Tooks: TypeAlias = "Taken | tuple[Any, ...] | Mapping[str, Any] | None"
"""What a step took: of `one` a `Taken` or None, of `several` a tuple of them, of a group a tuple of mappings of its steps, of a choice
what its part took, of `all_of` a tuple in the order of its parts."""


def identity(name: str, key: str, steps: Mapping[str, Tooks]) -> bytes:
    """16 bytes that say which match this is: the same for the same pattern, key, and positions that each step took."""
    return blake2b(_encode((name, key, _positions(steps))), digest_size=16).digest()


def _positions(took: Tooks) -> Any:
    if isinstance(took, Taken):
        return took.position
    if took is None:
        return None
    return [_positions(one) for one in (took if isinstance(took, tuple) else took.values())]


class Found(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A match."""

    of: str | bytes
    """The name of its pattern; of a match that was stored its id, as it was made when it was found."""
    key: str
    started: int
    ended: int
    steps: Mapping[str, Tooks]
    """By the name of each top-level step that is not an absence, in their order."""

    @property
    def id(self) -> bytes:
        """See `identity`. Made when it is asked for."""
        return self.of if isinstance(self.of, bytes) else identity(self.of, self.key, self.steps)


class Expired(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A beginning that found no end in time."""

    id: bytes
    key: str
    started: int
    deadline: int
    waiting_for: str
    steps: Mapping[str, Tooks]


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """A match that was given and is none, because of an event that came late."""

    id: bytes
    found: Found
    because: Taken


class Untimely(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was not taken, for its time: `by` microseconds too late, or, below zero, ahead of the clock."""

    id: bytes
    taken: Taken
    by: int


class Closed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A window, or a joined pair: its values by name. Of an early answer `final` is False: the window is still open."""

    id: bytes
    key: str
    start: int
    end: int
    values: Mapping[str, Any]
    final: bool = True
    replaces: tuple[bytes, ...] = ()
    """Answers that were given before and are not true any more, since an event came late: this one stands for them."""


Output: TypeAlias = Found | Expired | Revoked | Untimely | Closed


class Operator(Protocol):
    """See the module. Not shared between threads."""

    name: str
    fingerprint: bytes
    """State that was kept under another one is of no use."""
    events: tuple[type[Event], ...]

    def take(self, batch: Batch) -> list[Output]:
        """Take these events; deadlines that are over before each of them come first. Errors: `ConditionFailed`, which names the event; the
        operator is then as if it had been given those before it, and goes on with those behind it."""
        ...

    def advance(self, time: int) -> list[Output]:
        """No event before this time will come any more: give what is certain now."""
        ...

    def due(self) -> int | None:
        """The earliest time at which `advance` may give something; None: nothing waits."""
        ...

    def changed(self) -> Iterable[str]:
        """The keys whose state is another one than when this was last called."""
        ...

    def state(self, key: str) -> Any:
        """What is to be kept of a key, of plain values and `Taken`; None: nothing."""
        ...

    def restore(self, key: str, state: Any) -> None:
        """Have the state of a key again, as `state` gave it."""
        ...


class Correcting(Operator, Protocol):
    """An operator that can still take an event that came late, for which it was made with a `lateness`."""

    def correct(self, taken: Taken, key: str) -> list[Output]:
        """Take this event, which is earlier than what `advance` was last given by at most the lateness: give what was given wrongly
        anew or take it back. Errors: as `take`."""
        ...
