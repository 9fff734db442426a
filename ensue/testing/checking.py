"""Whether what must be deterministic is: each decision and each step of a state is made twice, on equal inputs, and compared.

A decision may be made again after a conflict, a state is folded anew in every process: one that draws a number, looks at the
clock or keeps something between calls comes to different ends, seldom, and where nobody looks. Here it is found at once.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgspec

from ensue.app import App
from ensue.consumers.handler import Parameter, Wants
from ensue.domain.command import CommandDefinition, StateParameter
from ensue.domain.fold import Fold
from ensue.domain.query import QueryDefinition
from ensue.domain.view import ViewDefinition
from ensue.errors import Refusal

__all__ = ["NotDeterministic", "checking", "same"]

_ADVICE = "Take time, chance and ids from the command or from a Call, and keep nothing between two calls"


class NotDeterministic(AssertionError):
    """The same inputs led to two different ends."""


def checking(app: App, noticed: list[NotDeterministic]) -> App:
    """The application, which must be a copy for this purpose, with every command handler, state and row of a view checked as it is
    used. What is found is raised where it is found, and put into `noticed`: who handles events takes an error for a failure."""
    check = _Checks(noticed)
    app._commands = [check.command(one) for one in app._commands]
    app._queries = [check.query(one) for one in app._queries]
    app._views = [check.view(one) if isinstance(one, ViewDefinition) else one for one in app._views]
    return app


class _Checks:
    """Makes checked definitions of definitions."""

    def __init__(self, noticed: list[NotDeterministic]) -> None:
        self._noticed = noticed

    def command(self, definition: CommandDefinition) -> CommandDefinition:
        """The same, deciding twice. One that takes a `Transaction` or a `Call`, which write rows or give ids, decides once."""
        once = any(isinstance(one, Parameter) and one.wants is not Wants.DEPENDENCY for one in definition.parameters)
        decide = definition.function if once else self._twice(definition)
        return msgspec.structs.replace(definition, function=decide, parameters=self._states(definition.parameters))

    def query(self, definition: QueryDefinition) -> QueryDefinition:
        """The same on checked states."""
        return msgspec.structs.replace(definition, parameters=self._states(definition.parameters))

    def view(self, definition: ViewDefinition) -> ViewDefinition:
        """The same, each row of which follows twice."""
        return msgspec.structs.replace(definition, fold=self._fold(definition.fold, begins=False))

    def _states(self, parameters: Iterable[StateParameter | Parameter]) -> tuple[StateParameter | Parameter, ...]:
        return tuple(
            msgspec.structs.replace(one, fold=self._fold(one.fold)) if isinstance(one, StateParameter) else one
            for one in parameters
        )

    def _fold(self, fold: Fold[Any], *, begins: bool = True) -> Fold[Any]:
        """The same fold, each step of which is made twice. A row of a view `begins` with its key, not with nothing."""
        evolve, name = fold.evolve, fold.name

        @functools.wraps(evolve)
        def evolved(value: Any, event: Any) -> Any:
            before, said = _copied(value), _copied(event)
            untouched = _copied(fold.initial()) if begins else None
            after = evolve(value, event)
            if not same(said, event):
                self._notice(f"{name}.evolve changed the event it was given, from {said} to {event}")
            if begins and not same(untouched, fold.initial()):
                self._notice(
                    f"{name}.evolve of {event} changed what every {name} begins with, from {untouched} to {fold.initial()}: "
                    "a default that is shared and can be changed; make a new one for each state"
                )
            shown = _copied(before)
            again = evolve(before, said)
            if not same(after, again):
                self._notice(
                    f"{name}.evolve is not deterministic: {shown} and {event} led to {after}, and then to {again}. {_ADVICE}"
                )
            return after

        return msgspec.structs.replace(fold, evolve=evolved)

    def _twice(self, definition: CommandDefinition) -> Callable[..., Any]:
        decide = definition.function
        states = [number for number, one in enumerate(definition.parameters) if isinstance(one, StateParameter)]

        def spare(arguments: tuple[Any, ...]) -> list[Any]:
            """The same arguments with states of their own. What the application provides is one for all."""
            return [_copied(one) if number in states else one for number, one in enumerate(arguments)]

        def compared(command: Any, first: Any, second: Any) -> Any:
            if not same(_plain(first), _plain(second)):
                self._notice(
                    f"{definition.name} is not deterministic: on equal states, {command} led to {_plain(first)}, and then to "
                    f"{_plain(second)}. {_ADVICE}"
                )
            if isinstance(first, _Refused):
                raise first.refusal
            return first

        @functools.wraps(decide)
        def decided(command: Any, *arguments: Any) -> Any:
            again = spare(arguments)
            first = _listed(_called(decide, command, arguments))
            return compared(command, first, _listed(_called(decide, command, again)))

        @functools.wraps(decide)
        async def decided_async(command: Any, *arguments: Any) -> Any:
            again = spare(arguments)
            first = _listed(await _awaited(decide, command, arguments))
            return compared(command, first, _listed(await _awaited(decide, command, again)))

        return decided_async if definition.is_async else decided

    def _notice(self, what: str) -> NoReturn:
        error = NotDeterministic(what)
        self._noticed.append(error)
        raise error


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


def _plain(result: Any) -> Any:
    return result.refusal if isinstance(result, _Refused) else result


def _copied(value: Any) -> Any:
    return copy.deepcopy(value)
