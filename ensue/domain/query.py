"""What a query handler's signature says: which query it answers, which states it looks at, what else it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ensue.consumers.handler import Parameter, hints_of
from ensue.domain.command import StateParameter, parameters_of
from ensue.errors import DefinitionError
from ensue.events.message import Query

__all__ = ["QueryDefinition", "analyse_query"]


class QueryDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A query handler as it was registered."""

    name: str
    function: Callable[..., Any]
    query: type[Query[Any]]
    parameters: tuple[StateParameter | Parameter, ...]
    is_async: bool


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
    return QueryDefinition(
        name=name,
        function=function,
        query=query,
        parameters=parameters_of(name, parameters[1:], hints, (query,), local_names),
        is_async=inspect.iscoroutinefunction(function),
    )
