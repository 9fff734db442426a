"""The views of one open application, put together: started, stopped, read, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar, cast

from ensue.consumers.handling import Scope
from ensue.consumers.node import VIEWS, Node
from ensue.consumers.waiting import Bell
from ensue.domain.view import View, ViewDefinition
from ensue.domain.views.kept import KeptView
from ensue.domain.views.registry import Database
from ensue.errors import DefinitionError, MissingCapability
from ensue.events.recorded import Position
from ensue.events.registry import Registry
from ensue.observe.signals import Observer
from ensue.store.base import Store
from ensue.world import World

__all__ = ["Keeping", "Views", "Watch"]

V = TypeVar("V", bound=View)
Watch = Callable[[Sequence[asyncio.Task[None]]], None]


class Keeping(Protocol):
    """One view, however it is kept."""

    definition: ViewDefinition

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
        definitions: Sequence[ViewDefinition],
        store: Store,
        registry: Registry,
        world: World,
        observe: Observer,
        bell: Bell,
        scope: Scope,
    ) -> None:
        self._world = world
        self._views: dict[type[View], Keeping] = {}
        names: dict[str, ViewDefinition] = {}
        if definitions and not store.capabilities.sql:
            raise MissingCapability(
                f"a view needs SQL, which this store ({type(store).__name__}) has not: use a sqlite: or postgresql: URL"
            )
        for definition in definitions:
            other = names.setdefault(definition.name, definition)
            if other is not definition:
                raise DefinitionError(
                    f"two views have the table {definition.name!r}: {other.row.__qualname__} and {definition.row.__qualname__}; "
                    'give one of them table="…"'
                )
            self._views[definition.row] = KeptView(
                definition, cast(Database, store), registry, world, observe, bell, scope
            )

    def __bool__(self) -> bool:
        return bool(self._views)

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
