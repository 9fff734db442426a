"""What an application provides to its handlers, and what it does around them: factories and lifecycle hooks.

A factory's return annotation says what it provides; a hook is a generator that provides nothing. Both may take provided
values, by annotation. A generator's rest runs when the application stops, last made first; hooks begin after all values
are made and in the order of registration, so they end before the first value is closed.
"""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from ensue.consumers.handler import HandlerDefinition, Parameter, Wants, hints_of
from ensue.domain.command import CommandDefinition
from ensue.domain.query import QueryDefinition
from ensue.errors import DefinitionError, WiringError

__all__ = ["Asker", "Dependencies", "Factory", "factory_of", "hook_of"]

_ITERATORS = (
    collections.abc.Iterator, collections.abc.Generator, collections.abc.AsyncIterator, collections.abc.AsyncGenerator,
)  # fmt: skip
_ASYNC_ITERATORS = _ITERATORS[2:]
Asker: TypeAlias = HandlerDefinition | CommandDefinition | QueryDefinition
_END: Any = object()


class Factory(msgspec.Struct, frozen=True):
    """A registered factory or hook. `provides` is None for a hook; `ends` says how a generator is run: "sync" or "async"."""

    name: str
    provides: Any
    function: Callable[..., Any]
    needs: tuple[Parameter, ...]
    ends: str | None = None


def factory_of(function: Callable[..., Any], local_names: Mapping[str, Any]) -> Factory:
    """Read a factory's annotations. Errors: `DefinitionError`."""
    name = _name(function)
    if not callable(function):
        raise DefinitionError(f"@provide is for a function that makes a value, or a class; {function!r} is neither")
    if isinstance(function, type):
        return Factory(name, function, function, _needs(name, function, _hints_of_class(function, local_names)))
    hints = hints_of(function, local_names)
    provides = hints.pop("return", None)
    ends = _ends(function, provides)
    if ends is not None:
        given = typing.get_args(provides)
        provides = given[0] if given else None
    if provides is None or provides is type(None) or provides is Any:
        raise DefinitionError(
            f"{name}: annotate what it returns, so that it is known what it provides: def {name}() -> Gateway, or "
            "Iterator[Gateway] for a generator"
        )
    return Factory(name, provides, function, _needs(name, function, hints), ends)


def hook_of(function: Callable[..., Any], local_names: Mapping[str, Any]) -> Factory:
    """Read a lifecycle hook's annotations. Errors: `DefinitionError`."""
    name = _name(function)
    ends = _ends(function, None)
    if ends is None:
        raise DefinitionError(
            f"{name}: @lifecycle is for a generator with one yield, `def` or `async def`: what is before it runs before the "
            "consumers, what is after it when they have stopped"
        )
    return Factory(name, None, function, _needs(name, function, hints_of(function, local_names)), ends)


def _ends(function: Callable[..., Any], provides: Any) -> str | None:
    """By what the function is, or says it returns; never by the value made, which may well be iterable itself."""
    origin = typing.get_origin(provides) or provides
    if inspect.isasyncgenfunction(function) or origin in _ASYNC_ITERATORS:
        return "async"
    return "sync" if inspect.isgeneratorfunction(function) or origin in _ITERATORS else None


def _hints_of_class(made: type, local_names: Mapping[str, Any]) -> dict[str, Any]:
    # A struct has no Python function to ask; its fields are its parameters.
    init = getattr(made, "__init__", None)
    return hints_of(init if inspect.isfunction(init) else made, local_names)


def _needs(name: str, function: Callable[..., Any], hints: Mapping[str, Any]) -> tuple[Parameter, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a class written in C tells no signature; it is called with nothing
        return ()
    needs: list[Parameter] = []
    missing: list[str] = []
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        hint = hints.get(parameter.name)
        if hint is None and parameter.default is inspect.Parameter.empty:
            missing.append(parameter.name)
        needs.append(Parameter(parameter.name, Wants.DEPENDENCY, hint, parameter.default))
    if missing:
        raise DefinitionError(f"{name}: annotate {', '.join(missing)}, so that it is known what to give it")
    return tuple(needs)


class Dependencies:
    """The factories and hooks of an application, and the values while it is open."""

    def __init__(self, factories: Iterable[Factory], hooks: Iterable[Factory] = ()) -> None:
        self._factories: dict[Any, Factory] = {}
        self._doubled: list[str] = []
        self._hooks = tuple(hooks)
        for factory in factories:
            other = self._factories.setdefault(factory.provides, factory)
            if other is not factory:
                self._doubled.append(
                    f"{_name(factory.provides)} is provided twice, by {other.name} and by {factory.name}; an application "
                    "has one factory for each type"
                )
        self._values: dict[Any, Any] = {}

    def check(self, handlers: Iterable[Asker], *, all_factories: bool = True) -> list[str]:
        """What is doubled, missing or needs itself, as sentences: all of it at once. Without `all_factories` only where these
        handlers need any."""
        askers = [asker for handler in handlers for asker in _askers(handler)]
        if not all_factories and not any(
            one.wants is Wants.DEPENDENCY for _, parameters in askers for one in parameters
        ):
            return []
        problems = list(self._doubled)
        askers += [(f"the factory {factory.name}", factory.needs) for factory in self._factories.values()]
        askers += [(f"the lifecycle hook {hook.name}", hook.needs) for hook in self._hooks]
        askers = list(dict.fromkeys(askers))  # several share a middleware
        for asker, parameters in askers:
            problems += [
                f"{asker} needs {parameter.name}: {_name(parameter.wanted)}, which nobody provides; write a function that "
                f"returns it and decorate it with @provide"
                for parameter in parameters
                if parameter.wants is Wants.DEPENDENCY
                and self._key(parameter) is None
                and parameter.default is inspect.Parameter.empty
            ]
        return problems + self._circles()

    def _circles(self) -> list[str]:
        problems: list[str] = []
        done: set[Any] = set()

        def visit(provides: Any, path: list[Any]) -> None:
            if provides in path:
                circle = [*path[path.index(provides) :], provides]
                problems.append(f"factories need each other in a circle: {' → '.join(map(_name, circle))}")
            elif provides not in done:
                for key in map(self._key, self._factories[provides].needs):
                    if key is not None:
                        visit(key, [*path, provides])
                done.add(provides)

        for provides in self._factories:
            visit(provides, [])
        return problems

    async def open(
        self, stack: contextlib.AsyncExitStack, asking: Iterable[Asker] | None = None, *, hooks: bool = True
    ) -> None:
        """Make every value, or what these handlers and the hooks ask for, those that others need first; then begin the hooks.
        `stack` ends them. After `check` only. Without `hooks` none begins.

        Errors of factories and hooks are raised as they are, with a note that names the function.
        """
        self._values.clear()
        stack.callback(self._values.clear)
        begun = self._hooks if hooks else ()
        needed = None if asking is None else self._asked(asking, begun)
        for provides in self._factories:
            if needed is None or provides in needed:
                await self._make(provides, stack)
        for hook in begun:
            await self._run(hook, stack)

    def _asked(self, asking: Iterable[Asker], hooks: Iterable[Factory]) -> set[Any]:
        askers = [asker for handler in asking for asker in _askers(handler)]
        parameters = [parameter for _, wanted in askers for parameter in wanted]
        parameters += [parameter for hook in hooks for parameter in hook.needs]
        return {self._key(parameter) for parameter in parameters if parameter.wants is Wants.DEPENDENCY}

    def value(self, parameter: Parameter) -> Any:
        """What a handler's parameter is given."""
        return self._values.get(self._key(parameter), parameter.default)

    def _key(self, parameter: Parameter) -> Any:
        """The type of the factory for it, if there is one: `Gateway | None = None` takes a Gateway where one is provided."""
        if parameter.wanted in self._factories:
            return parameter.wanted
        if typing.get_origin(parameter.wanted) in (typing.Union, types.UnionType):
            found = [member for member in typing.get_args(parameter.wanted) if member in self._factories]
            return found[0] if found else None
        return None

    async def _make(self, provides: Any, stack: contextlib.AsyncExitStack) -> None:
        if provides in self._values:
            return
        factory = self._factories[provides]
        for key in map(self._key, factory.needs):
            if key is not None:
                await self._make(key, stack)
        self._values[provides] = await self._run(factory, stack)

    async def _run(self, factory: Factory, stack: contextlib.AsyncExitStack) -> Any:
        given = {parameter.name: self.value(parameter) for parameter in factory.needs}
        try:
            made = factory.function(**given)
            if factory.ends == "async":
                value = await anext(made, _END)
                stack.push_async_callback(_end_async, factory.name, made)
            elif factory.ends == "sync":
                value = next(made, _END)
                stack.callback(_end, factory.name, made)
            else:
                value = await made if inspect.iscoroutine(made) else made
        except Exception as error:
            error.add_note(f"raised by {factory.name}, while the application was opened")
            raise
        if value is _END:
            raise WiringError(f"{factory.name} yielded nothing while the application was opened; it yields once")
        return value


def _askers(handler: Asker) -> list[tuple[str, tuple[Parameter, ...]]]:
    """Who needs what: the handler, and the middleware before it."""
    named = tuple(one for one in handler.parameters if isinstance(one, Parameter))
    found = [(handler.name, named)]
    if not isinstance(handler, HandlerDefinition):
        found += [(f"the middleware {one.name}", one.parameters) for one in handler.middleware]
    return found


# Not context managers: those would be thrown the error of whoever ended before them, and what stands behind their `yield`
# would not run.
async def _end_async(name: str, made: AsyncIterator[Any]) -> None:
    if await anext(made, _END) is not _END:
        raise WiringError(f"{name} yielded a second time while the application was closed; it yields once")


def _end(name: str, made: Iterator[Any]) -> None:
    if next(made, _END) is not _END:
        raise WiringError(f"{name} yielded a second time while the application was closed; it yields once")


def _name(wanted: Any) -> str:
    return wanted.__qualname__ if isinstance(wanted, type) else getattr(wanted, "__name__", str(wanted))
