"""States as they are loaded: from what this process remembers, from a snapshot, from the log; never trusted without a check.

What is remembered is a state's bytes and the position up to which its events are in it. Who decides on it appends under the
condition that nothing of it has come behind that position, so an old memory costs a second try and never a wrong event. The
fence is taken before the events: a state that was read up to a position holds all that was there at that position.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ensue.domain.fold import Folding
from ensue.events.message import Event
from ensue.events.stored import Draft
from ensue.store.base import Condition, Log

__all__ = ["Kept", "Loaded", "Memory", "Snapshots", "States"]

S = TypeVar("S")

PAGE = 1000
REMEMBERED = 20_000
"""So many states a process remembers, and no more of their bytes than `REMEMBERED_BYTES`."""
REMEMBERED_BYTES = 64 * 1024 * 1024


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A state's bytes, and the position up to which all its events are in it."""

    data: bytes
    position: int


class Snapshots(Protocol):
    """Where states are kept beside the log. What is lost there costs time, nothing else."""

    async def read(self, folding: Folding[Any], tags: tuple[bytes, ...]) -> Kept | None:
        """The newest one of a state, if there is any for the fold as it is now."""
        ...

    def offer(self, folding: Folding[Any], tags: tuple[bytes, ...], kept: Kept, followed: int) -> None:
        """A state that `followed` so many events were read for. Returns at once; keeping it, or not, is done elsewhere."""
        ...


class Loaded(Generic[S]):
    """One state as a decision gets it. The value is the decision's own: changing it changes nothing else."""

    __slots__ = ("current", "folding", "key", "kept", "position", "tags", "value")

    def __init__(self, folding: Folding[S], tags: tuple[bytes, ...], value: S, position: int, *, current: bool) -> None:
        self.folding = folding
        self.tags = tags
        self.value = value
        self.position = position
        self.current = current
        """It was read from the log for this decision, not remembered."""
        self.kept: Kept | None = None

    @property
    def condition(self) -> Condition:
        """That nothing has come which would change it."""
        return Condition((self.folding.term(self.tags),), self.position)


class Memory:
    """The states that a process remembers, the least used forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Kept] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[Any, ...]) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: tuple[Any, ...], kept: Kept) -> None:
        before = self._kept.get(key)
        if before is not None:
            if before.position > kept.position:
                return
            self._bytes -= len(before.data)
        self._kept[key] = kept
        self._kept.move_to_end(key)
        self._bytes += len(kept.data)
        while len(self._kept) > REMEMBERED or (self._bytes > REMEMBERED_BYTES and len(self._kept) > 1):
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= len(forgotten.data)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


class _Form(Generic[S]):
    """How a kind of state is written down. None where a state could come back as something else."""

    def __init__(self, folding: Folding[S]) -> None:
        kind = type(folding.fold.initial())
        self.encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self.decode = msgspec.msgpack.Decoder(kind).decode


class States:
    """Loads states. All of one log and one registry."""

    def __init__(self, log: Log, snapshots: Snapshots | None = None) -> None:
        self.memory = Memory()
        self._log = log
        self._snapshots = snapshots
        self._forms: dict[Folding[Any], _Form[Any] | None] = {}

    async def load(self, folding: Folding[S], tags: tuple[bytes, ...], *, current: bool) -> Loaded[S]:
        """A state: as it is remembered, or with `current` as the log has it now. Errors: those of the store; `UnreadableEvent`;
        what the fold raises."""
        form = self._form(folding)
        kept = self.memory.get((folding, tags)) if form is not None else None
        if kept is not None and form is not None and not current:
            loaded = Loaded(folding, tags, form.decode(kept.data), kept.position, current=False)
            loaded.kept = kept
            return loaded
        if kept is None and form is not None and self._snapshots is not None:
            kept = await self._snapshots.read(folding, tags)
        if kept is not None and form is not None:
            value, position = form.decode(kept.data), kept.position
        else:
            value, position = folding.fold.initial(), 0
        value, position, followed = await self._follow(folding, tags, value, position)
        loaded = Loaded(folding, tags, value, position, current=True)
        if form is not None:
            kept = Kept(form.encode(value), position) if kept is None or followed else Kept(kept.data, position)
            loaded.kept = kept
            self.memory.put((folding, tags), kept)
            if self._snapshots is not None and followed:
                self._snapshots.offer(folding, tags, kept, followed)
        return loaded

    async def at(self, folding: Folding[S], tags: tuple[bytes, ...], before: int) -> S:
        """A state as it was before a position, from its events alone."""
        value, _, _ = await self._follow(folding, tags, folding.fold.initial(), 0, before=before)
        return value

    def decided(self, loaded: Loaded[Any], events: Sequence[Event], drafts: Sequence[Draft], last: int) -> None:
        """Remember what a state became by what was decided on it, and stored under its condition."""
        form, kept, folding = self._form(loaded.folding), loaded.kept, loaded.folding
        if form is None or kept is None or folding.fold.recorded:
            return
        own = [event for event, draft in zip(events, drafts, strict=True) if folding.reads(draft, loaded.tags)]
        data = kept.data
        if own:
            value = form.decode(data)
            for event in own:
                value = folding.fold.evolve(value, event)
            data = form.encode(value)
        self.memory.put((folding, loaded.tags), Kept(data, last))

    async def _follow(
        self, folding: Folding[S], tags: tuple[bytes, ...], value: S, after: int, *, before: int | None = None
    ) -> tuple[S, int, int]:
        """The value with all events behind `after`, the position up to which it holds, and how many events that were."""
        log, selection, followed = self._log, (folding.term(tags),), 0
        while True:
            end = log.head() if before is None else before - 1
            page = await log.read(selection, after=after, before=before, limit=PAGE)
            value = folding.follow(value, page.rows, log.known_types(), log.log_id, selection)
            followed += len(page.rows)
            after = max(after, page.reached)
            if len(page.rows) < PAGE and after >= end:
                return value, after, followed

    def _form(self, folding: Folding[S]) -> _Form[S] | None:
        if folding not in self._forms:
            self._forms[folding] = _Form(folding) if _comes_back(folding) else None
        return self._forms[folding]


def _comes_back(folding: Folding[Any]) -> bool:
    """Whether a state of this kind is the same after it was written and read: every field says wholly what it holds."""
    kind = type(folding.fold.initial())
    try:
        pending: list[Any] = [msgspec.inspect.type_info(kind)]
    except (TypeError, NameError):
        return False
    seen = 0
    while pending:
        found = pending.pop()
        seen += 1
        if (
            isinstance(found, msgspec.inspect.AnyType | msgspec.inspect.CustomType | msgspec.inspect.RawType)
            or seen > 2000
        ):
            return False
        if isinstance(found, msgspec.Struct):
            pending.extend(getattr(found, name) for name in found.__struct_fields__ if name != "cls")
        elif isinstance(found, tuple):
            pending.extend(found)
    return True
