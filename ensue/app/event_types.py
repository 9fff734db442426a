"""The event types of an application: what it handles, decides, folds and emits, and what its packages declare beside that."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ensue.domain.command import StateParameter
from ensue.events.message import Event
from ensue.events.registry import Registry
from ensue.events.schema import own_types

if TYPE_CHECKING:
    from ensue.app.application import App

__all__ = ["registry_of", "types_of"]


def registry_of(app: App) -> Registry:
    """A registry of all event types that the application names. It holds no keys: sealed fields stay sealed."""
    registry = Registry(payload_bytes=app.settings.payload_bytes)
    for handler in app.handlers:
        registry.covering((*handler.events, *handler.emits))
    registered = app._registered()
    parameters = [parameter for command in registered.commands for parameter in command.parameters]
    parameters += [parameter for query in registered.queries for parameter in query.parameters]
    for command in registered.commands:
        registry.covering(command.emits)
    for parameter in parameters:
        if isinstance(parameter, StateParameter):
            registry.covering(tuple(event for event in parameter.fold.events if event is not Event))
    return registry


def types_of(
    app: App, registry: Registry, *, module: str | None = None, also: Collection[str] = ()
) -> list[type[Event]]:
    """All of them, by name: also those that the packages of the application's functions, of its events and of `module` declare."""
    registered = app._registered()
    modules = {one.function.__module__ for one in app.handlers}
    modules |= {one.function.__module__ for one in registered.commands}
    modules |= {one.function.__module__ for one in registered.queries}
    modules |= {event.__module__ for event in registry.covering((Event,))}
    if module is not None:
        modules.add(module)
    own = {name.rpartition(".")[0] or name for name in modules}
    return own_types(registry, own - {"ensue", "ensue.app", "ensue.events", "ensue.consumers"}, also)
