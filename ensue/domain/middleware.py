"""Middleware: what every command and every query passes on its way to its handler, and the answer on its way back.

    @shop.middleware
    async def audit(call: Call, proceed: Proceed, journal: Journal) -> Answer:
        answer = await proceed()
        journal.note(call.principal_id, call.message, answer.result)
        return answer

It may refuse (raise a `Refusal`, or anything else) before it proceeds or after; what comes out of `proceed()` is what comes out
to the caller. When `proceed()` has returned for a command, what it led to is durable, and raising takes nothing back.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from ensue.consumers.handler import Parameter, Wants, hints_of, parameter_of
from ensue.domain.call import Answer, Call, Proceed
from ensue.errors import DefinitionError
from ensue.events.message import Command, Query

__all__ = ["MiddlewareDefinition", "analyse_middleware", "through"]

_FORM = "async def {name}(call: Call, proceed: Proceed) -> Answer"


class MiddlewareDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A middleware as it was registered. `messages` are the types it is for; none stands for all."""

    name: str
    function: Callable[..., Any]
    messages: tuple[type[Any], ...]
    parameters: tuple[Parameter, ...]


def analyse_middleware(function: Callable[..., Any], local_names: Mapping[str, Any]) -> MiddlewareDefinition:
    """The definition of a middleware. Errors: `DefinitionError`."""
    name = str(getattr(function, "__name__", repr(function)))
    form = _FORM.format(name=name)
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"{name}: a middleware awaits what it goes on to: {form}")
    hints = hints_of(function, local_names)
    parameters = list(inspect.signature(function).parameters.values())
    called = hints.get(parameters[0].name) if parameters else None
    if len(parameters) < 2 or (typing.get_origin(called) or called) is not Call:
        raise DefinitionError(
            f"{name}: a middleware takes the call and what goes on with it, annotated so, before anything else: {form}"
        )
    if hints.get("return", Answer) is not Answer:
        raise DefinitionError(f"{name}: a middleware returns the answer that proceed() gives: {form}")
    rest = tuple(parameter_of(name, parameter, hints) for parameter in parameters[2:])
    wrong = next((one for one in rest if one.wants is not Wants.DEPENDENCY), None)
    if wrong is not None:
        raise DefinitionError(f"{name}: {wrong.name} is for handlers; a middleware has what its call tells: {form}")
    return MiddlewareDefinition(name=name, function=function, messages=_messages(name, called), parameters=rest)


def _messages(name: str, hint: Any) -> tuple[type[Any], ...]:
    """What stands in `Call[…]`."""
    found: list[type[Any]] = []
    for given in typing.get_args(hint):
        union = typing.get_origin(given) in (typing.Union, types.UnionType)
        for one in typing.get_args(given) if union else (given,):
            kind = typing.get_origin(one) or one
            if one is Any:
                return ()
            if not (isinstance(kind, type) and issubclass(kind, Command | Query)):
                raise DefinitionError(f"{name}: Call[{kind!r}]; a call is one of a command or a query")
            found.append(kind)
    return tuple(found)


async def through(
    middleware: Iterable[MiddlewareDefinition], provided: Callable[[Parameter], Any], call: Call[Any], last: Proceed
) -> Answer:
    """The answer of the first middleware, which goes on to the next, and so to `last`. Errors: theirs; `TypeError` for one that
    returns no answer."""
    proceed = last
    for one in reversed(tuple(middleware)):
        if not one.messages or isinstance(call.message, one.messages):
            proceed = partial(_passed, one, provided, call, proceed)
    return await proceed()


async def _passed(
    one: MiddlewareDefinition, provided: Callable[[Parameter], Any], call: Call[Any], proceed: Proceed
) -> Answer:
    answer = await one.function(call, proceed, *map(provided, one.parameters))
    if isinstance(answer, Answer):
        return answer
    raise TypeError(
        f"the middleware {one.name} returned a value of type {type(answer).__name__}; it returns what proceed() gave, or an "
        "Answer of its own"
    )
