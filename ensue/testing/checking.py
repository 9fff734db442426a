"""Whether what must be deterministic is: each decision and each step of a state is made twice, on equal inputs, and compared.

A decision may be made again after a conflict, a state is folded anew in every process: one that draws a number, looks at the
clock or keeps something between calls comes to different ends, seldom, and where nobody looks. Here it is found at once.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ensue.app import App
from ensue.consumers.handler import Parameter, Wants
from ensue.domain.command import CommandDefinition, StateParameter
from ensue.domain.fold import Fold
from ensue.domain.query import QueryDefinition
from ensue.errors import Refusal

__all__ = ["NotDeterministic", "checked_command", "checked_fold", "checked_query", "checking", "same"]

_MISUSES = "Take time, chance and ids from the command or from a Call, and keep nothing between two calls"


class NotDeterministic(AssertionError):
    """The same inputs led to two different ends."""


def checking(app: App) -> App:
    """The application, which must be a copy for this purpose, with every command handler and state checked as it is used."""
    app._commands = [checked_command(one) for one in app._commands]
    app._queries = [checked_query(one) for one in app._queries]
    return app


def checked_command(definition: CommandDefinition) -> CommandDefinition:
    """The same, deciding twice. One that takes a `Transaction` or a `Call`, which write rows or give ids, decides once."""
    once = any(isinstance(one, Parameter) and one.wants is not Wants.DEPENDENCY for one in definition.parameters)
    decide = definition.function if once else _twice(definition)
    return msgspec.structs.replace(definition, function=decide, parameters=_checked(definition.parameters))


def checked_query(definition: QueryDefinition) -> QueryDefinition:
    """The same on checked states."""
    return msgspec.structs.replace(definition, parameters=_checked(definition.parameters))


def checked_fold(fold: Fold[Any]) -> Fold[Any]:
    """The same fold, each step of which is made twice. Errors of a step: its own; `NotDeterministic`."""
    evolve, name = fold.evolve, fold.name

    @functools.wraps(evolve)
    def evolved(value: Any, event: Any) -> Any:
        before, said = _copied(value), _copied(event)
        untouched = _copied(fold.initial())
        after = evolve(value, event)
        if not same(said, event):
            raise NotDeterministic(f"{name}.evolve changed the event it was given, from {said} to {event}")
        if not same(untouched, fold.initial()):
            raise NotDeterministic(
                f"{name}.evolve of {event} changed what every {name} begins with, from {untouched} to {fold.initial()}: "
                "a default that is shared and can be changed; make a new one for each state"
            )
        shown = _copied(before)
        again = evolve(before, said)
        if not same(after, again):
            raise NotDeterministic(
                f"{name}.evolve is not deterministic: {shown} and {event} led to {after}, and then to {again}. {_MISUSES}"
            )
        return after

    return msgspec.structs.replace(fold, evolve=evolved)


def same(one: object, other: object) -> bool:
    """Whether two values are equal, as far as it can be told: objects that compare by identity are compared by what is in
    them, and taken for equal where nothing can be seen."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseException):
        return vars(one) == vars(other)
    if type(one).__eq__ is not object.__eq__:
        return bool(one == other) or repr(one) == repr(other)  # a NaN is equal to nothing, itself included
    left, right = getattr(one, "__dict__", None), getattr(other, "__dict__", None)
    return left is None or right is None or all(same(left[key], right.get(key)) for key in left)


def _checked(parameters: Iterable[StateParameter | Parameter]) -> tuple[StateParameter | Parameter, ...]:
    return tuple(
        msgspec.structs.replace(one, fold=checked_fold(one.fold)) if isinstance(one, StateParameter) else one
        for one in parameters
    )


def _twice(definition: CommandDefinition) -> Callable[..., Any]:
    name, decide = definition.name, definition.function
    states = [number for number, one in enumerate(definition.parameters) if isinstance(one, StateParameter)]

    def spare(arguments: tuple[Any, ...]) -> list[Any]:
        """The same arguments with states of their own. What the application provides is one for all."""
        return [_copied(one) if number in states else one for number, one in enumerate(arguments)]

    def compare(command: Any, first: Any, second: Any) -> None:
        if not same(_plain(first), _plain(second)):
            raise NotDeterministic(
                f"{name} is not deterministic: on equal states, {command} led to {_plain(first)}, and then to "
                f"{_plain(second)}. {_MISUSES}"
            )

    @functools.wraps(decide)
    def decided(command: Any, *arguments: Any) -> Any:
        again = spare(arguments)
        first = _listed(_called(decide, command, arguments))
        compare(command, first, _listed(_called(decide, command, again)))
        return _given(first)

    @functools.wraps(decide)
    async def decided_async(command: Any, *arguments: Any) -> Any:
        again = spare(arguments)
        first = _listed(await _awaited(decide, command, arguments))
        compare(command, first, _listed(await _awaited(decide, command, again)))
        return _given(first)

    return decided_async if definition.is_async else decided


class _Refused(msgspec.Struct, frozen=True):
    refusal: Refusal


def _called(decide: Callable[..., Any], command: Any, arguments: Iterable[Any]) -> Any:
    try:
        return decide(command, *arguments)
    except Refusal as refusal:
        return _Refused(refusal)


async def _awaited(decide: Callable[..., Any], command: Any, arguments: Iterable[Any]) -> Any:
    try:
        return await decide(command, *arguments)
    except Refusal as refusal:
        return _Refused(refusal)


def _listed(result: Any) -> Any:
    """A generator's events as a list: what is looked at is used up."""
    return list(result) if inspect.isgenerator(result) else result


def _given(result: Any) -> Any:
    if isinstance(result, _Refused):
        raise result.refusal
    return result


def _plain(result: Any) -> Any:
    return result.refusal if isinstance(result, _Refused) else result


def _copied(value: Any) -> Any:
    return copy.deepcopy(value)
