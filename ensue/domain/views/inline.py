"""Views that are kept in each commit itself: rows change in the transaction that appends the events, whoever appends them.

All writes of a process pass `InlineStore`, which stands before its store: to each request that appends something it adds what
changes the rows. An event that a view cannot take is refused with all of its request.

A process that does not know a view, or has another version of its code, appends without it. That is found by the version's position,
which each request compares with the head of the log: what was missed is taken before its own events, in the same transaction; where
that is much, the version is left behind and its keeper (`keeper.py`) brings it up. Reads look whether there is anything behind the
position, and bring it up before they answer. An event of another process that the view cannot take stands in the log already: the
version stops before it, in sight of everybody, and appending goes on without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, cast

import msgspec

from ensue.domain.view import View
from ensue.domain.views import registry
from ensue.domain.views.keeper import Keeper
from ensue.domain.views.keeping import CannotTake, Kept, Line, Place, RowsKept, Types
from ensue.domain.views.registry import FOLLOWING, Version
from ensue.domain.views.table import Key
from ensue.errors import ApplyFailed, NotCaughtUp, UnreadableEvent
from ensue.events.recorded import Position
from ensue.events.stored import Draft, Row
from ensue.observe.signals import EventParked, Observer
from ensue.store.base import (
    Emission,
    OwnTransaction,
    OwnTransactions,
    Page,
    Request,
    SqlTransaction,
    Store,
    WriterTransaction,
    Written,
)
from ensue.world import World

__all__ = ["InlineKeeper", "InlineStore", "inner_of"]

WAITING = 500
"""The rows of so many events that wait are read together."""
MISSED = 1000
"""So many missed events are taken within another request; more are left to the keeper, which makes transactions of its own."""
_MOVE_ON = "UPDATE ensue_view SET position = ?, rev = rev + 1 WHERE name = ? AND number = ?"
_MOVE = (
    "UPDATE ensue_view SET position = ?, rev = rev + 1 WHERE name = ? AND number = ? AND position = ? AND state = 'following' "
    "AND paused = 0 RETURNING number"
)


class _Batch:
    """What is known within one transaction of the writer: nobody else changes the version or its rows before its end. What a
    request did counts from the next one on, if it was not undone: then its events have their positions."""

    def __init__(self, of: object, number: int, part_of: object) -> None:
        self.of = of
        self.number = number
        self.lines: dict[Key, Line | None] = {}
        self.looked_ahead = False
        """The rows of what waits have been read."""
        self._part_of = part_of
        self._before: dict[Key, Line | None] = {}
        self._reached = 0

    def settle(self, head: int, part_of: object) -> None:
        """A request comes, at this head."""
        if part_of is not self._part_of:
            if head < self._reached:
                self.lines.update(self._before)
            self._before = {}
            self._part_of = part_of

    def take(self, changed: dict[Key, Line | None], last: int) -> None:
        """The request has changed these lines, and ends at `last` so far."""
        for key in changed:
            self._before.setdefault(key, self.lines[key])
        self.lines.update(changed)
        self._reached = last


class InlineKeeper(Keeper):
    """One inline view in one process."""

    def __init__(self, kept: Kept, place: Place, log: Store, world: World, observe: Observer) -> None:
        super().__init__(kept, place, log, world, observe)
        self.names = frozenset(kept.names)
        self.waiting: Callable[[], tuple[Sequence[Row], Types]] = lambda: ((), {})
        """What this process has given to the writer, and is not answered."""
        self._batch: _Batch | None = None
        self._quick: tuple[int, int] | None = None
        """The only version, and the position that this process has moved it to last: to be relied upon only where it still is."""

    def keep(
        self, sql: WriterTransaction, first: int, rows: Sequence[Row], types: Any, last: int, part_of: object
    ) -> None:
        """Take the events of a request, of which `first` is the first position and `last` the last; `part_of` is the same for all
        parts of one request. Errors: `CannotTake`; `ApplyFailed` for one that was missed."""
        batch = self._batch
        if batch is not None and batch.of is sql.batch:
            batch.settle(sql.head, part_of)
            sql.later(_MOVE_ON, (last, self.name, batch.number))
        elif self._move(sql, first - 1, last):
            assert self._quick is not None
            batch = self._batch = _Batch(sql.batch, self._quick[0], part_of)
        else:
            self._batch = None
            self._keep_each(sql, first, rows, types, last)
            return
        kept, log_id = self.kept, self._log.log_id
        if isinstance(kept, RowsKept):
            lines, more = batch.lines, self._keys_that_wait
            batch.take(kept.take_in_batch(sql, batch.number, rows, types, log_id, lines=lines, more=more), last)
        else:
            kept.take(sql, batch.number, rows, types, log_id)
            batch.take({}, last)
        self._quick = (batch.number, last)

    def _keys_that_wait(self) -> Iterable[Key]:
        """The keys of what this process is about to append: their rows are read at once, once in a batch."""
        kept, batch = self.kept, self._batch
        assert isinstance(kept, RowsKept)
        if batch is None or batch.looked_ahead:
            return
        batch.looked_ahead = True
        rows, types = self.waiting()
        mine = [row for row in rows if types[row[2]][0] in self.names]
        for row in mine:
            with contextlib.suppress(Exception):  # whose it is will be told
                for _, key, _ in kept.touched((row,), types, self._log.log_id):
                    yield key

    def _take(self, sql: SqlTransaction, version: Version, page: Page, *, at_head: bool) -> Version | None:
        self._batch = None  # it changes rows that this batch may know
        return super()._take(sql, version, page, at_head=at_head)

    def _move(self, sql: WriterTransaction, before: int, last: int) -> bool:
        """Move the one version on, where it is as this process has left it and nothing was missed: one statement."""
        quick, self._quick = self._quick, None
        if quick is None or quick[0] in self._stopped:
            return False
        number, position = quick
        if position > before or (position < before and sql.read(self.kept.selection, after=position, limit=1)):
            return False
        if not sql.execute(_MOVE, (last, self.name, number, position)):
            return False
        self._quick = (number, last)
        return True

    def _keep_each(self, sql: WriterTransaction, first: int, rows: Sequence[Row], types: Any, last: int) -> None:
        """The same with a look at all that this code keeps."""
        registry.lock(sql, self.name)
        followed = self.followed(registry.of_name(sql, self.name))
        for version in followed:
            if version.state != FOLLOWING or version.paused or version.number in self._stopped:
                continue
            if version.position < first - 1 and not self._take_missed(sql, version):
                continue
            self.kept.take(sql, version.number, rows, types, self._log.log_id)
            registry.change(sql, version, position=last)
            if len(followed) == 1:
                self._quick = (version.number, last)

    def _take_missed(self, sql: WriterTransaction, version: Version) -> bool:
        """Take what another process has appended without this view. False where that is too much."""
        self._batch = None
        missed = sql.read(self.kept.selection, after=version.position, limit=MISSED + 1)
        if len(missed) > MISSED:
            return False
        try:
            if missed:
                self.kept.take(sql, version.number, missed, sql.types, self._log.log_id)
        except (CannotTake, UnreadableEvent) as error:
            position = missed[error.nth][0] if isinstance(error, CannotTake) else missed[0][0]
            # What it did so far cannot be undone without the request. It will not be tried again by this process.
            self._stand_still(version, error)
            self._observe(EventParked(consumer=self._consumer, position=position, key="", attempt=1, error=str(error)))
            raise ApplyFailed(
                f"the inline view {self.kept.shown} cannot take what another process has appended at position {position}, and "
                f"stands still from now on: {error}. Nothing of this write was stored; write it again",
                unit=0,
                event=0,
            ) from error
        return True

    # -------------------------------------------------------------------------------------------------------- reading

    async def row(self, key: Sequence[object], /, *, timeout_seconds: float) -> View | None:
        """See `Keeping.row`. It has all that the log has."""
        await self._bring_up()
        return await super().row(key, timeout_seconds=timeout_seconds)

    async def caught_up(self, position: Position, /, *, timeout_seconds: float) -> None:
        """See `Keeping.caught_up`."""
        position.within(self._log.log_id)
        await self._written(position, timeout_seconds)
        await self._bring_up()

    async def _bring_up(self) -> None:
        """Take what others have appended without this view. Errors: `NotCaughtUp` where it stands still or is paused."""
        mine = self._mine()
        after = 0 if mine is None else self._reached.get(mine.number, (0, mine.position))[1]
        page = await self._log.read(self.kept.selection, after=after, limit=1)
        if mine is not None and not page.rows and mine.ready and mine.number not in self._stopped:
            self._reached[mine.number] = (mine.position, max(after, page.reached))
            return
        try:
            await self.catch_up()
        except (CannotTake, UnreadableEvent) as error:
            raise NotCaughtUp(f"the view {self.kept.shown} {error}") from error
        mine = self._mine()
        if mine is not None and mine.paused:
            raise NotCaughtUp(f"the view {self.kept.shown} is paused: ensue views resume {self.name}")


class InlineStore:
    """A store whose requests carry what changes the rows of inline views. All else is passed on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keepers: tuple[InlineKeeper, ...] = ()
        self._drafts = _Drafts()
        self._waiting: dict[int, Request] = {}
        self._number = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def inner(self) -> Store:
        """Without the views."""
        return self._store

    def keep(self, keepers: Sequence[InlineKeeper]) -> None:
        """Keep these from now on."""
        self._keepers = tuple(keepers)
        for keeper in keepers:
            keeper.waiting = self._rows_that_wait

    def _rows_that_wait(self) -> tuple[Sequence[Row], Types]:
        drafts = islice((draft for request in self._waiting.values() for draft in request.events), WAITING)
        return [self._drafts.row(draft, 0) for draft in drafts], self._drafts.types

    def write(self, request: Request) -> Any:
        """See `Log.write`. Errors besides: `ApplyFailed` for an event that a view cannot take."""
        with_views = self._with(request)
        answer = self._store.write(with_views)
        if with_views is not request and request.events:
            number = self._number = self._number + 1
            self._waiting[number] = request
            answer.add_done_callback(lambda _: self._waiting.pop(number))
        return answer

    async def begin(self) -> OwnTransaction:
        """See `OwnTransactions.begin`."""
        return _Own(await cast(OwnTransactions, self._store).begin(), self._with)

    def _with(self, request: Request) -> Request:
        if not self._keepers or not (request.apply or any(self._concerns(one) for one in request.events)):
            return request
        taking = _Taking(self._drafts, self._keepers, functions=bool(request.apply))
        apply = [taking.around(function, first=not nth) for nth, function in enumerate(request.apply)]
        return msgspec.structs.replace(request, apply=[*apply, taking.of(request.events)])

    def _concerns(self, draft: Draft) -> bool:
        return any(draft.type_name in keeper.names for keeper in self._keepers)


class _Drafts:
    """Drafts as the rows that they become, as far as that is known. Their types have numbers of their own, below 0."""

    def __init__(self) -> None:
        self.types: dict[int, tuple[str, int]] = {}
        self._numbers: dict[tuple[str, int], int] = {}

    def row(self, draft: Draft, position: int) -> Row:
        pair = (draft.type_name, draft.type_version)
        number = self._numbers.get(pair)
        if number is None:
            number = self._numbers[pair] = -1 - len(self._numbers)
            self.types[number] = pair
        return (
            position, draft.id, number, draft.stream, None, 0, draft.cause, draft.root, draft.maker, draft.nth, draft.meta,
            draft.data,
        )  # fmt: skip


def inner_of(store: Store) -> Store:
    """The store itself, where inline views stand before it."""
    return store.inner if isinstance(store, InlineStore) else store


class _Taking:
    """What is added to one request. Its functions run in order, and what they append comes before the request's own events."""

    def __init__(self, drafts: _Drafts, keepers: Sequence[InlineKeeper], *, functions: bool) -> None:
        self._drafts = drafts
        self._keepers = keepers
        self._functions = functions
        self._taken = 0

    def around(self, function: Emission, *, first: bool) -> Emission:
        """The same function; what it appends is taken with it."""

        def run(sql: WriterTransaction) -> Sequence[Draft]:
            if first:  # the writer may run all of them again
                self._taken = 0
            drafts = list(function(sql))
            self._take(sql, drafts, own=False)
            return drafts

        return run

    def of(self, drafts: Sequence[Draft]) -> Emission:
        """What takes the request's own events."""

        def run(sql: WriterTransaction) -> Sequence[Draft]:
            if not self._functions:
                self._taken = 0
            self._take(sql, drafts, own=True)
            return ()

        return run

    def _take(self, sql: WriterTransaction, drafts: Sequence[Draft], *, own: bool) -> None:
        first = sql.head + 1 + self._taken
        self._taken += len(drafts)
        for keeper in self._keepers:
            places = [nth for nth, draft in enumerate(drafts) if draft.type_name in keeper.names]
            if not places:
                continue
            rows = [self._drafts.row(drafts[nth], first + nth) for nth in places]
            try:
                keeper.keep(sql, first, rows, self._drafts.types, first + len(drafts) - 1, self)
            except CannotTake as error:
                raise ApplyFailed(
                    f"{error}. It is kept in the commit itself, so nothing was stored",
                    unit=0,
                    event=places[error.nth] if own else None,
                ) from error.__cause__
            except ApplyFailed as error:
                raise ApplyFailed(str(error), unit=0, event=0 if own else None) from error


class _Own:
    """A transaction of the caller's own, whose commit carries the views."""

    def __init__(self, own: OwnTransaction, with_views: Callable[[Request], Request]) -> None:
        self._own = own
        self._with_views = with_views

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return await self._own.execute(sql, values)

    async def commit(self, request: Request) -> Written:
        return await self._own.commit(self._with_views(request))

    async def roll_back(self) -> None:
        await self._own.roll_back()
