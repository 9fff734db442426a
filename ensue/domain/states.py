"""States as they are loaded: from what this process remembers, from a snapshot, from the log; never trusted without a check.

What is remembered is a state's bytes and the position up to which its events are in it. Who decides on it appends under the
condition that nothing of it has come behind that position, so an old memory costs a second try and never a wrong event. The
fence is taken before the events: a state that was read up to a position holds all that was there at that position. States
that are read together are read up to one position, so that no decision sees what never was at the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ensue.domain.decider import fold_of_decider
from ensue.domain.fold import Boundary, Fold, Folding, fold_of
from ensue.domain.forms import Form, form_of
from ensue.domain.state import Decider, State
from ensue.errors import DefinitionError, InvalidEvent, NotCaughtUp
from ensue.events.message import Event
from ensue.events.personal import personal_fields
from ensue.events.recorded import Position, microseconds
from ensue.events.registry import Registry
from ensue.events.stored import Draft
from ensue.store.base import Condition, Log

__all__ = ["Kept", "Loaded", "Memory", "Snapshots", "States"]

S = TypeVar("S")

PAGE = 1000
REMEMBERED = 20_000
"""So many states a process remembers, and no more of their bytes than `REMEMBERED_BYTES`."""
REMEMBERED_BYTES = 64 * 1024 * 1024


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A state's bytes, and the position up to which all its events are in them."""

    data: bytes
    position: int
    followed: int = 0
    """How many events are in it since it was last read from a snapshot, or offered to be one."""
    behind: bool = False
    """It is known that events have come that are not in it."""


class Snapshots(Protocol):
    """Where states are kept beside the log. What is lost there costs time, nothing else."""

    async def read(self, boundary: Boundary[Any]) -> Kept | None:
        """The newest one of a state, if there is any for the fold as it is now. Raises nothing of the store's."""
        ...

    def offer(self, boundary: Boundary[Any], kept: Kept) -> bool:
        """Whether this state will be kept. Returns at once; it is done elsewhere, or lost."""
        ...


class Loaded(Generic[S]):
    """One state as a decision gets it. The value is the decision's own: changing it changes nothing else."""

    __slots__ = ("boundary", "current", "epoch", "kept", "position", "value")

    def __init__(self, boundary: Boundary[S], value: S, position: int, kept: Kept | None, *, current: bool) -> None:
        self.boundary = boundary
        self.value = value
        self.position = position
        self.kept = kept
        self.epoch = 0
        """How often the states had been forgotten when it was begun to be loaded."""
        self.current = current
        """It was read from the log for this decision, not remembered."""

    @property
    def condition(self) -> Condition:
        """That nothing has come which would change it."""
        return Condition(self.boundary.selection, self.position)


class Memory:
    """The states that a process remembers, the least used forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Boundary[Any], Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """The bytes of all of them."""
        return self._bytes

    def get(self, key: Boundary[Any]) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: Boundary[Any], kept: Kept) -> None:
        """Remember it, unless a newer one is remembered."""
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

    def forget(self, key: Boundary[Any]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.data)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


class States:
    """Loads states. All of one log and one registry."""

    def __init__(self, log: Log, registry: Registry, snapshots: Snapshots | None = None) -> None:
        self.memory = Memory()
        self._log = log
        self._registry = registry
        self._snapshots = snapshots
        self._foldings: dict[Fold[Any], Folding[Any]] = {}
        self._forms: dict[Folding[Any], Form | None] = {}
        self._named: set[Folding[Any]] = set()
        self._personal: dict[Folding[Any], bool] = {}
        self._epoch = 0

    def folding(self, fold: Fold[S]) -> Folding[S]:
        """The fold, ready for use: the same for all who look at this kind of state, so that they share what is remembered.
        Errors: `DefinitionError`."""
        if fold not in self._foldings:
            self._foldings[fold] = Folding(fold, self._registry)
        return self._foldings[fold]

    def folding_of(self, kind: type[Any] | Decider[Any, Any, Any]) -> Folding[Any]:
        """That of a state class or a decider, registered or not. Errors: `DefinitionError`."""
        if isinstance(kind, Decider):
            return self.folding(fold_of_decider(kind, {}))
        known = next((one for fold, one in self._foldings.items() if fold.initial is kind), None)
        given: Any = kind
        if known is None and not (isinstance(given, type) and issubclass(given, State)):
            raise DefinitionError(
                f"{getattr(given, '__name__', repr(given))} is no state: give a State class, or a Decider. A row of a view is "
                "read with app.get"
            )
        return known or self.folding(fold_of(kind, {}))

    async def load(self, *boundaries: Boundary[Any], current: bool) -> list[Loaded[Any]]:
        """These states: as they are remembered, or with `current` all of them as the log has them at one position from now on.

        Errors: those of the store; `UnreadableEvent`.
        """
        while True:
            # Before anything is awaited: what is remembered now is in the log that is read next.
            found = [self.memory.get(boundary) for boundary in boundaries]
            if not current and all(kept is not None and not kept.behind for kept in found):
                return [self._remembered(*one) for one in zip(boundaries, found, strict=True)]
            for boundary, kept in zip(boundaries, found, strict=True):
                await self._learn_names(boundary.folding)
                if kept is None and self._snapshots_of(boundary.folding) and self._form(boundary.folding) is not None:
                    await self._restore(boundary)
            loaded: list[Loaded[Any]] = []
            before = None
            for boundary in boundaries:
                loaded.append(await self._read(boundary, before))
                before = before or loaded[0].position + 1
            if all(one.position == loaded[0].position for one in loaded):
                return loaded
            current = True  # one of them was remembered newer than the first one was read

    async def as_of(
        self, boundary: Boundary[S], at: Position | datetime | int | None = None, version: int | None = None
    ) -> S:
        """A state as it is now, as it was when a write was stored, at a time or position, or as its first events made it.

        Errors: as `load`; `NotCaughtUp` for a position that the log has not come to, `WrongLog`, `ValueError` for a version that
        the state has not come to, `TypeError`.
        """
        if at is not None and version is not None:
            raise TypeError(
                "a state is asked for either at= a place in the log or by version=, the number of its events"
            )
        if version is not None:
            return await self._first(boundary, version)
        if at is None:
            (loaded,) = await self.load(boundary, current=True)
            value: S = loaded.value
            return value
        return await self._before(boundary, await self._place(at) + 1)

    async def _place(self, at: object) -> int:
        """The last position that counts."""
        if isinstance(at, datetime):
            return await self._log.position_at(microseconds(at))
        if isinstance(at, Position):
            at = at.within(self._log.log_id).last
        if type(at) is not int or at < 0:
            raise TypeError(f"at={at!r}; give a Position, a time (datetime), or the number of a position")
        if at > self._log.head() and at > (await self._log.read((), after=at - 1, limit=1)).reached:
            raise NotCaughtUp(f"a state was asked for at position {at}, and the log has come to {self._log.head()}")
        return at

    async def _before(self, boundary: Boundary[S], before: int) -> S:
        await self._learn_names(boundary.folding)
        form, kept = self._form(boundary.folding), self.memory.get(boundary)
        value: S = boundary.folding.fold.initial()
        after = 0
        if form is not None and kept is not None and kept.position < before:
            value, after = form.decode(kept.data), kept.position
        value, _, _ = await self._follow(boundary, value, after, before=before)
        return value

    async def _first(self, boundary: Boundary[S], count: int) -> S:
        if type(count) is not int or count < 0:
            raise ValueError(f"version={count!r}; how many of its events count, from 0")
        await self._learn_names(boundary.folding)
        value, _, followed = await self._follow(boundary, boundary.folding.fold.initial(), 0, most=count)
        if followed < count:
            name = boundary.folding.fold.name
            raise ValueError(f"this {name} has {followed} events; it has not been at version {count} yet")
        return value

    def copy(self, boundary: Boundary[S], kept: Kept) -> S:
        """A state that nobody else holds."""
        form = self._form(boundary.folding)
        assert form is not None
        value: S = form.decode(kept.data)
        return value

    def next(
        self, loaded: Loaded[Any], events: Sequence[Event], drafts: Sequence[Draft], kept: Kept | None = None
    ) -> Kept | None:
        """What is to be remembered of a state once these events are stored under its condition; nothing where it cannot be known
        now. `kept` is what it will be before them, where that is not what was loaded. Errors: `InvalidEvent` for an event that it
        cannot follow: that must not be stored."""
        boundary, kept = loaded.boundary, kept or loaded.kept
        form = self._form(boundary.folding)
        if form is None or kept is None:
            return None
        own = [event for event, draft in zip(events, drafts, strict=True) if boundary.reads(draft)]
        if not own:
            return kept
        fold = boundary.folding.fold
        if fold.recorded:
            return Kept(kept.data, kept.position, kept.followed, True)
        value = form.decode(kept.data)
        for event in own:
            try:
                value = fold.evolve(value, event)
            except Exception as error:
                raise InvalidEvent(
                    f"{fold.name} cannot follow {event!r}, which was decided on it: evolve raised {type(error).__name__}: "
                    f"{error}. Nothing was stored"
                ) from error
        data = form.encode(value)
        return Kept(data, 0, kept.followed + len(own)) if data is not None else None

    def stored(self, loaded: Sequence[Loaded[Any]], nexts: Sequence[Kept | None], last: int) -> None:
        """Remember what these states became by what was decided on them, whose last event is at this position."""
        for one, kept in zip(loaded, nexts, strict=True):
            if one.epoch != self._epoch:
                continue
            if kept is None:
                self.memory.forget(one.boundary)
            elif kept.behind:
                self.memory.put(one.boundary, kept)
            else:
                self._remember(one.boundary, Kept(kept.data, max(last, one.position), kept.followed))

    def forget(self) -> None:
        """Remember none of them any more, nor what is being loaded: somebody was forgotten, of whom they may hold something."""
        self._epoch += 1
        self.memory.clear()

    def _snapshots_of(self, folding: Folding[Any]) -> Snapshots | None:
        """None for states that personal data may be in: it would be in their rows in plain, in every backup."""
        if not folding.names:
            return None if self._registry.personal else self._snapshots
        if folding not in self._personal:
            self._personal[folding] = any(personal_fields(event) for event in folding.covered)
        return None if self._personal[folding] else self._snapshots

    async def _learn_names(self, folding: Folding[Any]) -> None:
        """What was stored under a former name is found under the present one, from the first time on."""
        if folding not in self._named:
            for name, former in folding.former_names.items():
                await self._log.rename(name, former)
            self._named.add(folding)

    def _remembered(self, boundary: Boundary[Any], kept: Kept | None) -> Loaded[Any]:
        form = self._form(boundary.folding)
        assert form is not None
        assert kept is not None
        loaded = Loaded(boundary, form.decode(kept.data), kept.position, kept, current=False)
        loaded.epoch = self._epoch
        return loaded

    def _remember(self, boundary: Boundary[Any], kept: Kept) -> None:
        snapshots = self._snapshots_of(boundary.folding)
        if snapshots is not None and kept.followed and snapshots.offer(boundary, kept):
            kept = Kept(kept.data, kept.position)
        self.memory.put(boundary, kept)

    async def _restore(self, boundary: Boundary[Any]) -> None:
        assert self._snapshots is not None
        kept, form = await self._snapshots.read(boundary), self._form(boundary.folding)
        if kept is not None and form is not None:
            try:
                form.decode(kept.data)
            except (msgspec.MsgspecError, ValueError):
                return  # damaged, or of another code: its events say the same
            self.memory.put(boundary, Kept(kept.data, kept.position, behind=True))

    async def _read(self, boundary: Boundary[S], before: int | None) -> Loaded[S]:
        """As the log has it before a position, or now."""
        epoch = self._epoch
        form, kept = self._form(boundary.folding), self.memory.get(boundary)
        if form is not None and kept is not None:
            value, position, known = form.decode(kept.data), kept.position, kept.followed
        else:
            value, position, known, kept = boundary.folding.fold.initial(), 0, 0, None
        value, position, followed = await self._follow(boundary, value, position, before=before)
        if form is not None:
            data = kept.data if kept is not None and not followed else form.encode(value)
            kept = Kept(data, position, known + followed) if data is not None else None
            if kept is not None and epoch == self._epoch:
                self._remember(boundary, kept)
        loaded = Loaded(boundary, value, position, kept, current=True)
        loaded.epoch = epoch
        return loaded

    async def _follow(
        self, boundary: Boundary[S], value: S, after: int, *, before: int | None = None, most: int | None = None
    ) -> tuple[S, int, int]:
        """The value with all events behind `after`, or the first `most` of them; the position up to which it holds, and how many
        events that were."""
        log, folding, followed = self._log, boundary.folding, 0
        while True:
            head = log.head()
            end = head if before is None else min(head, before - 1)
            limit = PAGE if most is None else min(PAGE, most - followed)
            if not limit:
                return value, after, followed
            page = await log.read(boundary.selection, after=after, before=before, limit=limit)
            value = folding.follow(value, page.rows, log.known_types(), log.log_id, boundary.selection)
            followed += len(page.rows)
            after = max(after, page.reached)
            if len(page.rows) < limit and after >= end:
                return value, after, followed

    def _form(self, folding: Folding[S]) -> Form | None:
        if folding not in self._forms:
            self._forms[folding] = form_of(folding.fold.kinds)
        return self._forms[folding]
