"""Views that are kept in other ways than by a consumer of the log: inline, in another database, and in plain SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ensue.domain.view import View, ViewDefinition
from ensue.domain.views.inline import InlineKeeper
from ensue.domain.views.keeper import Keeper
from ensue.domain.views.keeping import CannotTake, Kept, LogPlace, RowsKept
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import Database
from ensue.domain.views.sql_kept import SqlKept
from ensue.domain.views.sql_view import SqlViewDefinition
from ensue.errors import DefinitionError, MissingCapability, ReadOnlyLog, UnreadableEvent, WiringError
from ensue.events.recorded import Position
from ensue.events.registry import Registry
from ensue.observe.signals import Observer
from ensue.store.target import Target
from ensue.world import World

__all__ = ["ElsewhereView", "FollowedView", "InlineView", "kept_of"]

AnyView: TypeAlias = ViewDefinition | SqlViewDefinition


def kept_of(definition: AnyView, types: Registry, dialect: str) -> Kept:
    """A view as its keeper knows it."""
    if isinstance(definition, SqlViewDefinition):
        return SqlKept(definition, types)
    return RowsKept(Reading(definition, types), dialect)


class FollowedView:
    """A view that a keeper brings up to date in the log's own database, where this process runs the application's consumers."""

    def __init__(self, definition: AnyView, keeper: Keeper) -> None:
        self.definition = definition
        self._keeper = keeper

    async def open(self) -> None:
        """Make ready, in a process that runs consumers or does not."""

    async def start(self, node: object, watch: Callable[[Sequence[asyncio.Task[None]]], None], /) -> None:
        """See `Keeping.start`. Returns at once: reads wait."""
        watch([self._keeper.begin()])

    async def stop(self) -> None:
        """See `Keeping.stop`."""
        await self._keeper.stop()

    async def row(self, key: Sequence[object], /, *, timeout_seconds: float) -> View | None:
        """See `Keeping.row`."""
        if isinstance(self.definition, SqlViewDefinition):
            raise DefinitionError(f"{self.definition.name} is a view in plain SQL: read its tables, as app.sql does")
        return await self._keeper.row(key, timeout_seconds=timeout_seconds)

    async def caught_up(self, position: Position, /, *, timeout_seconds: float) -> None:
        """See `Keeping.caught_up`."""
        await self._keeper.caught_up(position, timeout_seconds=timeout_seconds)


class InlineView(FollowedView):
    """A view that is kept in each commit, in every process: see `ensue.domain.views.inline`."""

    def __init__(self, definition: AnyView, types: Registry, store: Database, world: World, observe: Observer) -> None:
        kept = kept_of(definition, types, store.dialect)
        self.keeper = InlineKeeper(kept, LogPlace(store), store, world, observe)
        self._store = store
        super().__init__(definition, self.keeper)

    async def open(self) -> None:
        """Bring it up to date, and follow what others append without it. Errors: `MissingCapability`; `WiringError` where an event
        of the log is one that it cannot take."""
        if not self._store.capabilities.dense:
            raise MissingCapability(
                f"{self.definition.row.__name__}: an inline view needs one order of commits, and this log has many writers at a time "
                '(ensue_writers=many): keep it a moment after, with when="after"'
            )
        try:
            await self.keeper.catch_up()
        except (CannotTake, UnreadableEvent) as error:
            raise WiringError(
                f"the inline view {self.definition.row.__name__} {error}. Nothing can be appended without it, so the application does "
                "not open: correct its code"
            ) from error
        except ReadOnlyLog:
            return  # nobody appends here
        self.keeper.begin()

    async def start(self, node: object, watch: Callable[[Sequence[asyncio.Task[None]]], None], /) -> None:
        """See `Keeping.start`. It is kept already."""
        watch([self.keeper.begin()])


class ElsewhereView(FollowedView):
    """A view whose rows are in another database."""

    def __init__(
        self, definition: AnyView, types: Registry, target: Target, store: Any, world: World, observe: Observer
    ) -> None:
        kept = kept_of(definition, types, target.dialect)
        self._target = target
        self._opened = False
        self._world = world
        super().__init__(definition, Keeper(kept, target, store, world, observe, elsewhere=True))

    async def open(self) -> None:
        """Make ready. The database may be away."""
        await self._target.open(self._world)
        self._opened = True

    async def stop(self) -> None:
        """See `Keeping.stop`."""
        await super().stop()
        if self._opened:
            self._opened = False
            await self._target.close()
