"""The views of one open application, put together: started, stopped, read, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar, cast

from ensue.consumers.handling import Scope
from ensue.consumers.node import VIEWS, Node
from ensue.consumers.waiting import Bell
from ensue.domain.view import View, ViewDefinition
from ensue.domain.views.inline import InlineKeeper, InlineStore, inner_of
from ensue.domain.views.keeper import Keeper
from ensue.domain.views.keeping import LogPlace
from ensue.domain.views.kept import KeptView
from ensue.domain.views.kinds import ElsewhereView, FollowedView, InlineView, kept_of
from ensue.domain.views.live import LiveView
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import Database
from ensue.domain.views.sql_view import SqlViewDefinition
from ensue.errors import DefinitionError, MissingCapability
from ensue.events.recorded import Position
from ensue.events.registry import Registry
from ensue.observe.signals import Observer
from ensue.store.base import Store
from ensue.store.target import Target
from ensue.world import World

__all__ = ["Keeping", "Views", "Watch"]

V = TypeVar("V", bound=View)
Watch = Callable[[Sequence[asyncio.Task[None]]], None]


class Keeping(Protocol):
    """One view, however it is kept."""

    @property
    def definition(self) -> ViewDefinition | SqlViewDefinition: ...

    async def open(self) -> None:
        """Make it ready in every process, also in one that runs no consumers; called before anything is appended here. Errors:
        `WiringError`, `MissingCapability`; those of the store."""
        ...

    async def start(self, node: Node, watch: Watch, /) -> None:
        """Keep it here, in a process that runs the application's consumers. `watch` is given tasks whose error is the
        application's. Errors: `WiringError`; those of the store."""
        ...

    async def stop(self) -> None:
        """Keep it no more here. Idempotent."""
        ...

    async def row(self, key: Sequence[object], /, *, timeout_seconds: float) -> View | None:
        """The row of a key. Errors: `NotCaughtUp` while there is nothing to read yet."""
        ...

    async def caught_up(self, position: Position, /, *, timeout_seconds: float) -> None:
        """Until all at or below the position is in its rows. Errors: `NotCaughtUp`, `HandlerFailed`, `WrongLog`."""
        ...


class Views:
    """See the module."""

    def __init__(
        self,
        definitions: Sequence[ViewDefinition | SqlViewDefinition],
        store: Store,
        registry: Registry,
        world: World,
        observe: Observer,
        bell: Bell,
        scope: Scope,
        target: Callable[[str], Target],
    ) -> None:
        """`target` opens a database beside the log's."""
        self._world = world
        self._store = store
        self._views: dict[Any, Keeping] = {}
        names: dict[str, ViewDefinition | SqlViewDefinition] = {}
        inner = inner_of(store)
        targets: dict[str, Target] = {}
        for definition in definitions:
            tables = definition.schema.tables if isinstance(definition, SqlViewDefinition) else (definition.name,)
            for table in tables:
                other = names.setdefault(table, definition)
                if other is not definition:
                    raise DefinitionError(
                        f"two views have the table {table!r}: {other.row.__qualname__} and {definition.row.__qualname__}; "
                        'give one of them table="…"'
                    )
            if isinstance(definition, ViewDefinition) and definition.when == "live":
                self._views[definition.row] = LiveView(Reading(definition, registry), inner, world, observe)
                continue
            if definition.database is not None:
                there = targets.setdefault(definition.database, target(definition.database))
                self._views[definition.row] = ElsewhereView(definition, registry, there, inner, world, observe)
                continue
            if not store.capabilities.sql:
                raise MissingCapability(
                    f"a view needs SQL, which this store ({type(inner).__name__}) has not: use a sqlite: or postgresql: URL, or keep "
                    'it in memory, @app.view(when="live")'
                )
            there_too = cast(Database, inner)
            if definition.when == "inline":
                self._views[definition.row] = InlineView(definition, registry, there_too, world, observe)
            elif isinstance(definition, SqlViewDefinition):
                keeper = Keeper(
                    kept_of(definition, registry, there_too.dialect), LogPlace(there_too), inner, world, observe
                )
                self._views[definition.row] = FollowedView(definition, keeper)
            else:
                self._views[definition.row] = KeptView(definition, there_too, registry, world, observe, bell, scope)

    def __bool__(self) -> bool:
        return bool(self._views)

    async def open(self) -> None:
        """Make all of them ready, and keep the inline ones from here on."""
        inline: list[InlineKeeper] = []
        for view in self._views.values():
            await view.open()
            if isinstance(view, InlineView):
                inline.append(view.keeper)
        if isinstance(self._store, InlineStore):
            self._store.keep(inline)

    async def start(self, node: Node, watch: Watch, *, chosen: Collection[str] | None = None) -> None:
        """Keep all of them here, or those that are chosen, as `view.NAME`."""
        for view in self._views.values():
            if chosen is None or f"{VIEWS}{view.definition.name}" in chosen:
                await view.start(node, watch)

    async def stop(self) -> None:
        """Keep them no more."""
        for view in self._views.values():
            await view.stop()

    async def get(self, view: type[V], key: Sequence[object], *, timeout_seconds: float) -> V | None:
        """See `App.get`."""
        found: Any = await self._of(view).row(key, timeout_seconds=timeout_seconds)
        row: V | None = found
        return row

    async def caught_up(self, position: Position, *, timeout_seconds: float, only: type[View] | None = None) -> None:
        """Until each view of the application, or only one, has all at or below the position. Errors: `NotCaughtUp` when that is
        not so in time; `HandlerFailed` when an event of the write is parked for a view, or nobody keeps it; `WrongLog`."""
        deadline = self._world.monotonic() + timeout_seconds
        for view in self._views.values() if only is None else (self._of(only),):
            await view.caught_up(position, timeout_seconds=max(0.0, deadline - self._world.monotonic()))

    def _of(self, view: type[View]) -> Keeping:
        found = self._views.get(view)
        if found is None:
            known = ", ".join(sorted(one.__name__ for one in self._views)) or "none"
            raise DefinitionError(
                f"{view.__name__} is no view of this application: register it with @app.view, or include its service. Views: {known}"
            )
        return found
