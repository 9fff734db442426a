"""What a command or query says that it answers, and whether its handler can answer that."""

from __future__ import annotations

import collections.abc
import functools
import types
import typing
from typing import Any

from ensue.domain.decided import Decided
from ensue.errors import DefinitionError
from ensue.events.message import Command, Event, Query

__all__ = ["answer_of", "check_answer", "check_query_answer", "one_event_of"]


@functools.cache
def answer_of(command: type[Any]) -> Any:
    """The `R` of a `Command[R]` or `Query[R]`; `Any` where none is given."""
    for base in command.__mro__:
        for generic in vars(base).get("__orig_bases__", ()):
            origin, arguments = typing.get_origin(generic), typing.get_args(generic)
            if isinstance(origin, type) and issubclass(origin, Command | Query) and len(arguments) == 1:
                return Any if isinstance(arguments[0], typing.TypeVar) else arguments[0]
    return Any


@functools.cache
def one_event_of(command: type[Command[Any]]) -> tuple[type[Event], ...]:
    """The event types, one of which the command answers; empty where it answers something else, several, or perhaps none."""
    members = _members(answer_of(command))
    events = tuple(one for one in members if isinstance(one, type) and issubclass(one, Event))
    return events if len(events) == len(members) else ()


def check_answer(name: str, command: type[Command[Any]], returned: Any) -> None:
    """Whether what a handler says it returns can be what the command answers; what cannot be told passes.

    Errors: `DefinitionError`, naming both.
    """
    wanted = answer_of(command)
    one = bool(one_event_of(command))
    wrong = [member for member in _members(returned) if not _answers(member, wanted, one=one)]
    if wrong:
        raise DefinitionError(
            f"{name} returns {_shown(returned)}, and {command.__name__} says that it answers {_shown(wanted)}: let them agree, "
            f"as in class {command.__name__}(Command[{_shown(returned)}]), or return Decided(events, result=…)"
        )


def check_query_answer(name: str, query: type[Query[Any]], returned: Any) -> None:
    """The same for a query. Errors: `DefinitionError`."""
    wanted = answer_of(query)
    if not all(_fits(member, wanted) for member in _members(returned)):
        raise DefinitionError(
            f"{name} returns {_shown(returned)}, and {query.__name__} says that it is answered by {_shown(wanted)}: let them agree, "
            f"as in class {query.__name__}(Query[{_shown(returned)}])"
        )


def _answers(returned: Any, wanted: Any, *, one: bool) -> bool:
    origin = typing.get_origin(returned)
    if returned is Decided or origin is Decided:
        return all(_fits(member, wanted) for inner in typing.get_args(returned) for member in _members(inner))
    if one and origin in _SEVERAL:
        # Whoever returns the only event in a list answers with that event.
        return all(_fits(member, wanted) for inner in typing.get_args(returned)[:1] for member in _members(inner))
    return _fits(returned, wanted)


_SEVERAL = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


def _fits(given: Any, wanted: Any) -> bool:
    """Whether a value of one type is one of another, as far as can be told."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_fits(given, member) for member in typing.get_args(wanted))
    if given in (Any, ...) or wanted in (Any, object, ...) or isinstance(given, typing.TypeVar):
        return True
    outer, wanted_outer = typing.get_origin(given) or given, typing.get_origin(wanted) or wanted
    if not (isinstance(outer, type) and isinstance(wanted_outer, type)):
        return True
    if not issubclass(outer, wanted_outer):
        # Numbers go up, as type checkers have it; an iterable may be a list when it runs.
        return (outer, wanted_outer) in ((int, float), (bool, float)) or (
            issubclass(wanted_outer, outer) and outer in _SEVERAL
        )
    inner, wanted_inner = typing.get_args(given), typing.get_args(wanted)
    if len(inner) != len(wanted_inner):
        return True
    return all(_fits(part, other) for mine, other in zip(inner, wanted_inner, strict=True) for part in _members(mine))


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; else the type itself."""
    if hint is None:
        return (type(None),)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _shown(hint: Any) -> str:
    if hint in (None, type(None)):
        return "None"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    members = _members(hint)
    if len(members) > 1:
        return " | ".join(map(_shown, members))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return str(hint)
    return f"{getattr(origin, '__name__', origin)}[{', '.join(map(_shown, arguments))}]"
