"""Which commands and queries are reached at which path.

The path is the name of the message in small letters: `PlaceOrder` at `/place-order`; one declared as `name="billing.Charge"` at
`/billing/charge`.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec

from ensue.domain.answers import answer_of
from ensue.domain.command import CommandDefinition
from ensue.domain.query import QueryDefinition
from ensue.domain.registered import Registered
from ensue.errors import DefinitionError, Refusal
from ensue.events.message import Command, Query
from ensue.http.messages import Form

__all__ = ["DESCRIPTION", "Route", "path_of", "routes_of"]

DESCRIPTION = "/openapi.json"
"""Where the description of all routes is."""
_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One command or query. `answer` is the type of what it answers; `Any` where the class does not say, or not so that it is
    found. `refusals` are those that the code of the handler names."""

    path: str
    message: type[Command[Any]] | type[Query[Any]]
    definition: CommandDefinition | QueryDefinition
    form: Form
    answer: Any
    refusals: tuple[type[Refusal], ...]


def routes_of(
    name: str, registered: Registered, only: Iterable[type[Command[Any]] | type[Query[Any]]], prefix: str
) -> list[Route]:
    """Errors: `DefinitionError` for two at one path, and for one of `only` that has no handler."""
    found: dict[type[Command[Any]] | type[Query[Any]], CommandDefinition | QueryDefinition] = {
        message: definition for definition in registered.commands for message in definition.commands
    }
    found |= {definition.query: definition for definition in registered.queries}
    chosen = tuple(only) or tuple(found)
    by_path: dict[str, Route] = {}
    for message in chosen:
        if message not in found:
            known = ", ".join(one.__name__ for one in found) or "none"
            raise DefinitionError(
                f"{name} has no handler for {message.__name__}, which is to be reached over HTTP. It has handlers for: {known}"
            )
        definition = found[message]
        path = prefix + path_of(message)
        if path in by_path or path == prefix + DESCRIPTION:
            other = by_path[path].message.__qualname__ if path in by_path else "the description of all routes"
            raise DefinitionError(
                f"{message.__module__}.{message.__qualname__} and {other} would both be at {path}: declare another name for "
                f'one of them, class {message.__name__}(…, name="other.{message.__name__}")'
            )
        by_path[path] = Route(
            path=path,
            message=message,
            definition=definition,
            form=Form(message),
            answer=_answer(message),
            refusals=tuple(_refusals(definition.function)),
        )
    return list(by_path.values())


def path_of(message: type[Command[Any]] | type[Query[Any]]) -> str:
    """Its declared name as a path."""
    declared: str = getattr(message, "__ensue_type__").name  # noqa: B009
    return "".join("/" + _in_small_letters(part) for part in declared.split("."))


def _in_small_letters(name: str) -> str:
    """`PlaceOrder` is place-order, and `HTTPCheck` http-check."""
    letters: list[str] = []
    for before, letter, after in zip(f"-{name}", name, f"{name[1:]}-", strict=False):
        begins = letter.isupper() and before not in "-_" and (not before.isupper() or after.islower())
        letters.append(f"-{letter}" if begins else letter)
    return "".join(letters).lower().replace("_", "-")


def _answer(message: type[Command[Any]] | type[Query[Any]]) -> Any:
    """What the class says that it answers, also where it says so by name; of a stream, each."""
    # Only in an annotation is a name within a type looked up.
    holder = types.SimpleNamespace(__annotations__={"answer": answer_of(message)})
    try:
        found = typing.get_type_hints(holder, vars(sys.modules[message.__module__]))["answer"]
    except NameError:  # a class within a function
        return Any
    return typing.get_args(found)[0] if typing.get_origin(found) in _STREAMS else found


def _refusals(function: Any) -> Iterator[type[Refusal]]:
    """The refusals that this function names, or one of its own module's functions that it names."""
    pending, seen = [function], set[types.CodeType]()
    told: set[type[Refusal]] = set()
    while pending:
        one = pending.pop()
        code = getattr(one, "__code__", None)
        if code is None or code in seen:
            continue
        seen.add(code)
        names = {name for part in _codes(code) for name in part.co_names}
        values = [one.__globals__[name] for name in sorted(names) if name in one.__globals__]
        values += [cell.cell_contents for cell in one.__closure__ or () if _filled(cell)]
        for value in values:
            if isinstance(value, type) and issubclass(value, Refusal) and value not in told:
                told.add(value)
                yield value
            elif isinstance(value, types.FunctionType) and not value.__module__.startswith("ensue."):
                pending.append(value)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
