"""What an application provides to its handlers: values made by factories, found by type.

A factory's return annotation says what it provides. A generator's rest runs when the application stops, last made first.
Factories may take other provided values, by annotation.
"""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec

from ensue.consumers.handler import HandlerDefinition, Parameter, Wants, hints_of
from ensue.errors import DefinitionError, WiringError

__all__ = ["Dependencies", "Factory", "factory_of"]

_ITERATORS = (
    collections.abc.Iterator, collections.abc.Generator, collections.abc.AsyncIterator, collections.abc.AsyncGenerator,
)  # fmt: skip


class Factory(msgspec.Struct, frozen=True):
    """A registered factory and what it provides."""

    provides: Any
    function: Callable[..., Any]
    needs: tuple[tuple[str, Any], ...]


def factory_of(function: Callable[..., Any], local_names: dict[str, Any]) -> Factory:
    """Read a factory's annotations. Errors: `DefinitionError`."""
    name = getattr(function, "__name__", repr(function))
    if isinstance(function, type):
        return Factory(function, function, ())
    hints = hints_of(function, local_names)
    provides = hints.pop("return", None)
    if typing.get_origin(provides) in _ITERATORS:
        provides = typing.get_args(provides)[0]
    if provides is None or provides is type(None):
        raise DefinitionError(f"{name}: annotate what it returns, so that it is known what it provides")
    needs = tuple((parameter, hints.get(parameter)) for parameter in inspect.signature(function).parameters)
    missing = [parameter for parameter, hint in needs if hint is None]
    if missing:
        raise DefinitionError(f"{name}: annotate {', '.join(missing)}, so that it is known what to give it")
    return Factory(provides, function, needs)


class Dependencies:
    """The factories of an application, and their values while it is open."""

    def __init__(self, factories: Iterable[Factory]) -> None:
        self._factories: dict[Any, Factory] = {}
        for factory in factories:
            if factory.provides in self._factories:
                name = _name(factory.provides)
                raise WiringError(f"{name} is provided twice; an application has one factory for each type")
            self._factories[factory.provides] = factory
        self._values: dict[Any, Any] = {}
        self._stack = contextlib.AsyncExitStack()

    def check(self, handlers: Iterable[HandlerDefinition]) -> list[str]:
        """What handlers and factories need and nobody provides, as sentences."""
        problems = [
            f"{handler.name} needs {parameter.name}: {_name(parameter.wanted)}, which nobody provides"
            for handler in handlers
            for parameter in handler.parameters
            if parameter.wants is Wants.DEPENDENCY
            and parameter.wanted not in self._factories
            and parameter.default is inspect.Parameter.empty
        ]
        for factory in self._factories.values():
            problems += [
                f"the factory of {_name(factory.provides)} needs {name}: {_name(wanted)}, which nobody provides"
                for name, wanted in factory.needs
                if wanted not in self._factories
            ]
        return problems

    async def open(self) -> None:
        """Make every value, those that others need first. Errors of factories are raised as they are."""
        for provides in self._factories:
            await self._make(provides, ())

    async def close(self) -> None:
        """Run the rest of generators, last made first."""
        self._values.clear()
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()

    def value(self, parameter: Parameter) -> Any:
        """What a handler's parameter is given."""
        return self._values.get(parameter.wanted, parameter.default)

    async def _make(self, provides: Any, path: tuple[Any, ...]) -> Any:
        if provides in self._values:
            return self._values[provides]
        if provides in path:
            raise WiringError(f"factories need each other in a circle: {' → '.join(map(_name, (*path, provides)))}")
        factory = self._factories[provides]
        given = {name: await self._make(wanted, (*path, provides)) for name, wanted in factory.needs}
        made = factory.function(**given)
        if isinstance(made, AsyncIterator):
            made = await self._stack.enter_async_context(contextlib.asynccontextmanager(_again(made))())
        elif isinstance(made, Iterator) and inspect.isgenerator(made):
            made = self._stack.enter_context(contextlib.contextmanager(_again(made))())
        elif isinstance(made, Awaitable):
            made = await made
        self._values[provides] = made
        return made


def _again(made: Any) -> Callable[[], Any]:
    return lambda: made


def _name(wanted: Any) -> str:
    return getattr(wanted, "__name__", str(wanted))
