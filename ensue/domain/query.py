"""What a query handler's signature says: which query it answers, which states it looks at, what else it is given."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ensue.consumers.handler import Parameter, Wants, hints_of
from ensue.domain.answers import answer_of, check_query_answer
from ensue.domain.command import StateParameter, parameters_of
from ensue.domain.middleware import MiddlewareDefinition
from ensue.errors import DefinitionError
from ensue.events.message import Query

__all__ = ["QueryDefinition", "analyse_query"]

_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)


class QueryDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A query handler as it was registered."""

    name: str
    function: Callable[..., Any]
    query: type[Query[Any]]
    parameters: tuple[StateParameter | Parameter, ...]
    is_async: bool
    inside: bool
    """It takes a `Transaction`, and reads rows."""
    streams: bool
    """It is an async generator, and answers with many values one after another."""
    middleware: tuple[MiddlewareDefinition, ...] = ()
    """What a call passes on its way, the outermost first."""


def analyse_query(function: Callable[..., Any], local_names: Mapping[str, Any]) -> QueryDefinition:
    """The definition of a query handler. Errors: `DefinitionError`."""
    name = str(getattr(function, "__name__", repr(function)))
    hints = hints_of(function, local_names)
    parameters = list(inspect.signature(function).parameters.values())
    query = hints.get(parameters[0].name) if parameters else None
    if not (isinstance(query, type) and issubclass(query, Query)):
        raise DefinitionError(
            f"{name}: a query handler takes the query it answers: def {name}(query: BalanceOf) -> Decimal"
        )
    rest = parameters_of(name, parameters[1:], hints, (query,), local_names)
    is_async, streams = inspect.iscoroutinefunction(function), inspect.isasyncgenfunction(function)
    inside = any(isinstance(one, Parameter) and one.wants is Wants.TRANSACTION for one in rest)
    if inside and (is_async or streams):
        raise DefinitionError(
            f"{name}: `async def` cannot take a Transaction: its statements would hold the event loop. Write `def`, which "
            "reads rows beside the loop, or ask such a query from the async one"
        )
    if inspect.isgeneratorfunction(function):
        raise DefinitionError(
            f"{name}: a generator cannot answer; return a list, or write `async def` with `yield` for a stream"
        )
    if streams != _is_stream(query, streams):
        answered = "Query[AsyncIterator[Row]]" if streams else "an async generator, `async def` with `yield`"
        raise DefinitionError(f"{name}: what is streamed is {answered}; {query.__name__} and its handler do not agree")
    if "return" in hints:
        check_query_answer(name, query, hints["return"])
    return QueryDefinition(
        name=name,
        function=function,
        query=query,
        parameters=rest,
        is_async=is_async,
        inside=inside,
        streams=streams,
    )


def _is_stream(query: type[Query[Any]], otherwise: bool) -> bool:
    """Whether `Query[…]` says that it is answered by a stream; `otherwise` where that cannot be told."""
    answer = answer_of(query)
    if isinstance(answer, str | typing.ForwardRef):
        text = answer if isinstance(answer, str) else answer.__forward_arg__
        return text.partition("[")[0].rpartition(".")[2] in [kind.__name__ for kind in _STREAMS]
    return otherwise if answer is Any else (typing.get_origin(answer) or answer) in _STREAMS
