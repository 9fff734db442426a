"""What a command handler's signature says: which commands it decides, which states it looks at, what else it is given."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ensue.consumers.handler import Parameter, Wants, emitted, hints_of, parameter_of
from ensue.domain.answers import check_answer
from ensue.domain.call import Call
from ensue.domain.decider import fold_of_decider
from ensue.domain.fold import Fold, fold_of
from ensue.domain.middleware import MiddlewareDefinition
from ensue.domain.state import Decider, State, state_in
from ensue.errors import DefinitionError
from ensue.events.message import Command, Event
from ensue.events.recorded import Criteria

__all__ = [
    "CommandDefinition",
    "StateParameter",
    "analyse_command",
    "commands_of_decider",
    "commands_of_state",
    "parameters_of",
]

ATTEMPTS = 10


class StateParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter that is given a state. `fields` are those of the message that name it, where they are not its key's own;
    `criteria`, made of the message, say instead which events it is made of."""

    name: str
    fold: Fold[Any]
    fields: tuple[str, ...] | None = None
    criteria: Callable[[Any], Criteria] | None = None


class CommandDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A command handler as it was registered."""

    name: str
    function: Callable[..., Any]
    commands: tuple[type[Command[Any]], ...]
    parameters: tuple[StateParameter | Parameter, ...]
    emits: tuple[type[Event], ...]
    attempts: int
    is_async: bool
    inside: bool
    """It takes a `Transaction`, and decides in the commit."""
    middleware: tuple[MiddlewareDefinition, ...] = ()
    """What a call passes on its way, the outermost first."""


def analyse_command(
    function: Callable[..., Any], local_names: Mapping[str, Any], *, attempts: int = ATTEMPTS, name: str | None = None
) -> CommandDefinition:
    """The definition of a command handler. Errors: `DefinitionError`, naming the function and what to write instead."""
    name = name or str(getattr(function, "__name__", repr(function)))
    hints = hints_of(function, local_names)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise DefinitionError(f"{name}: a command handler takes the command it decides: def {name}(command: Withdraw)")
    first = parameters[0]
    commands = _commands(name, first.name, hints.get(first.name))
    rest = parameters_of(name, parameters[1:], hints, commands, local_names)
    if type(attempts) is not int or attempts < 1:
        raise DefinitionError(f"{name}: attempts={attempts!r}; a whole number from 1")
    is_async = inspect.iscoroutinefunction(function)
    inside = any(isinstance(one, Parameter) and one.wants is Wants.TRANSACTION for one in rest)
    if inside and is_async:
        raise DefinitionError(
            f"{name}: `async def` cannot take a Transaction: the log's only writer would wait for your network. Write `def`"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{name}: a generator cannot decide: nobody could tell when it refuses; return a list of events"
        )
    _check_answers(name, commands, hints)
    return CommandDefinition(
        name=name,
        function=function,
        commands=commands,
        parameters=rest,
        emits=emitted(hints.get("return")),
        attempts=attempts,
        is_async=is_async,
        inside=inside,
    )


def commands_of_state(kind: type[State], local_names: Mapping[str, Any]) -> list[CommandDefinition]:
    """The methods of a state class that take a command: each decides on the state it is called on. Errors: `DefinitionError`."""
    fold = fold_of(kind, local_names)
    found: list[CommandDefinition] = []
    methods = {name: method for base in reversed(kind.__mro__) for name, method in vars(base).items()}
    for name, method in methods.items():
        if name.startswith("_") or name == "evolve" or not inspect.isfunction(method):
            continue
        parameters = list(inspect.signature(method).parameters.values())
        if len(parameters) < 2:
            continue
        shown = f"{kind.__name__}.{name}"
        hints = hints_of(method, local_names)
        if not _are_commands(hints.get(parameters[1].name)):
            continue
        commands = _commands(shown, parameters[1].name, hints.get(parameters[1].name))
        _check_answers(shown, commands, hints)
        rest = parameters_of(shown, parameters[2:], hints, commands, local_names)
        if any(isinstance(one, Parameter) and one.wants is Wants.TRANSACTION for one in rest):
            raise DefinitionError(
                f"{shown}: a method of a state decides from that state; take a Transaction in a function"
            )
        found.append(
            CommandDefinition(
                name=shown,
                function=_called_on(method),
                commands=commands,
                parameters=(_checked(shown, StateParameter(name="self", fold=fold), commands), *rest),
                emits=emitted(hints.get("return")),
                attempts=ATTEMPTS,
                is_async=inspect.iscoroutinefunction(method),
                inside=False,
            )
        )
    if not found:
        raise DefinitionError(
            f"{kind.__name__}: none of its methods takes a command: def withdraw(self, command: Withdraw) -> Withdrawn"
        )
    return found


def commands_of_decider(decider: Decider[Any, Any, Any], local_names: Mapping[str, Any]) -> CommandDefinition:
    """What a decider is as a command handler. Errors: `DefinitionError`."""
    name = str(getattr(decider.decide, "__qualname__", repr(decider.decide)))
    parameters = list(inspect.signature(decider.decide).parameters.values())
    if len(parameters) != 2 or inspect.iscoroutinefunction(decider.decide):
        raise DefinitionError(f"{name}: decide is a plain function of a state and a command")
    hints = hints_of(decider.decide, local_names)
    commands = _commands(name, parameters[1].name, hints.get(parameters[1].name))
    _check_answers(name, commands, hints)
    fold = fold_of_decider(decider, local_names)
    return CommandDefinition(
        name=name,
        function=_called_on(decider.decide),
        commands=commands,
        parameters=(_checked(name, StateParameter(name=parameters[0].name, fold=fold), commands),),
        emits=emitted(hints.get("return")),
        attempts=ATTEMPTS,
        is_async=False,
        inside=False,
    )


def _called_on(decide: Callable[..., Any]) -> Callable[..., Any]:
    """The same with the command first."""

    def decided(command: Any, state: Any, *rest: Any) -> Any:
        return decide(state, command, *rest)

    return decided


def parameters_of(
    name: str,
    parameters: Iterable[inspect.Parameter],
    hints: Mapping[str, Any],
    messages: tuple[type[Any], ...],
    local_names: Mapping[str, Any],
) -> tuple[StateParameter | Parameter, ...]:
    """What the parameters beside the message ask for. Errors: `DefinitionError`."""
    found: list[StateParameter | Parameter] = []
    for parameter in parameters:
        hint = hints.get(parameter.name)
        asked = state_in(hint)
        if asked is None:
            of_call = (typing.get_origin(hint) or hint) is Call
            one = Parameter(parameter.name, Wants.CONTEXT) if of_call else parameter_of(name, parameter, hints)
            if one.wants is Wants.CONTEXT and not of_call:
                raise DefinitionError(
                    f"{name}: a Context tells of the event that is handled; handlers of commands and queries take a Call"
                )
            found.append(one)
            continue
        state, by = asked
        loaded = StateParameter(
            name=parameter.name,
            fold=fold_of(state, local_names),
            fields=by.fields if by is not None else None,
            criteria=by.criteria if by is not None else None,
        )
        found.append(_checked(name, loaded, messages))
    return tuple(found)


def _checked(name: str, parameter: StateParameter, messages: tuple[type[Any], ...]) -> StateParameter:
    """Errors: `DefinitionError` where a message has not the fields that name the state."""
    fold, fields = parameter.fold, parameter.fields
    if parameter.criteria is not None or (fold.criteria is not None and fields is None):
        return parameter
    if fields is not None and len(fields) != len(fold.key):
        raise DefinitionError(
            f"{name}: {parameter.name!r} names {len(fields)} fields, and {fold.name} is found by {len(fold.key)}"
        )
    for message in messages:
        for field in fields or [field for field, _ in fold.key]:
            if field not in message.__struct_fields__:
                raise DefinitionError(
                    f"{name}: {message.__name__} has no field {field!r}, which says which {fold.name} is meant; its fields are: "
                    f'{", ".join(message.__struct_fields__) or "none"}. Name another with Annotated[{fold.name}, Of("field")]'
                )
    return parameter


def _check_answers(name: str, commands: Iterable[type[Command[Any]]], hints: Mapping[str, Any]) -> None:
    if "return" in hints:
        for command in commands:
            check_answer(name, command, hints["return"])


def _are_commands(hint: Any) -> bool:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return all(isinstance(one, type) and issubclass(one, Command) for one in parts)


def _commands(name: str, parameter: str, hint: Any) -> tuple[type[Command[Any]], ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    found = typing.get_args(hint) if union else (hint,)
    if not _are_commands(hint):
        shown = getattr(hint, "__name__", repr(hint)) if hint is not None else "nothing"
        raise DefinitionError(
            f"{name}: {parameter!r} is annotated with {shown}; a command handler's message is a Command"
        )
    return tuple(found)
