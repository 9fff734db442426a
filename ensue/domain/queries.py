"""Asking: a query, answered by its one handler from states, from rows and from what the application provides.

States are those of the log as it is now. Rows are those of one moment: a handler that takes a `Transaction` reads one consistent
snapshot, and writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ensue.consumers.handler import Parameter, Wants
from ensue.consumers.handling import Inside, Scope, inside_handler
from ensue.consumers.transaction import Transaction
from ensue.domain.call import Call
from ensue.domain.command import StateParameter
from ensue.domain.fold import Folding
from ensue.domain.query import QueryDefinition
from ensue.domain.states import States
from ensue.errors import DefinitionError, Misuse
from ensue.events.message import Query
from ensue.store.base import SqlTransaction
from ensue.store.looking import ONLY_READS, Looking

__all__ = ["Queries"]


class Queries:
    """The query handlers of one open application. `looking` is the store, where it has SQL."""

    def __init__(
        self, definitions: Sequence[QueryDefinition], states: States, scope: Scope, looking: Looking | None
    ) -> None:
        self._states = states
        self._scope = scope
        self._looking = looking
        self._by_type: dict[type[Query[Any]], QueryDefinition] = {}
        self._foldings: dict[QueryDefinition, tuple[Folding[Any] | None, ...]] = {}
        for definition in definitions:
            other = self._by_type.setdefault(definition.query, definition)
            if other is not definition:
                raise DefinitionError(
                    f"{definition.query.__name__} has two handlers, {other.name} and {definition.name}: a query is answered by one"
                )
            self._foldings[definition] = tuple(
                states.folding(one.fold) if isinstance(one, StateParameter) else None for one in definition.parameters
            )

    def handler_of(self, query: Query[Any], *, streamed: bool = False) -> QueryDefinition:
        """Errors: `DefinitionError` for a query that nobody answers here; `Misuse` for one that is streamed and should not be, or
        the other way round."""
        found = self._by_type.get(type(query))
        if found is None:
            known = ", ".join(sorted(one.__name__ for one in self._by_type)) or "none"
            raise DefinitionError(
                f"nothing answers {type(query).__name__}: register a handler with @app.query, or include its service. Queries "
                f"answered here: {known}"
            )
        if found.streams != streamed:
            name, form = (
                type(query).__name__,
                "async for row in app.stream(query)" if found.streams else "app.ask(query)",
            )
            raise Misuse(f"{name} is answered {'by a stream' if found.streams else 'at once'}: {form}")
        return found

    async def answer(self, definition: QueryDefinition, call: Call[Query[Any]]) -> Any:
        """See `App.ask`."""
        values = await self._values(definition, call)
        if definition.inside:
            assert self._looking is not None, "checked when the application was opened"
            return await self._looking.look(lambda sql: _read(definition, call, values, sql))
        token = inside_handler.set(Inside(definition.name, "answers a query"))
        try:
            answer = definition.function(call.message, *values)
            return await answer if definition.is_async else answer
        finally:
            inside_handler.reset(token)

    async def stream(self, definition: QueryDefinition, call: Call[Query[Any]]) -> AsyncIterator[Any]:
        """The handler's generator, not begun yet. See `App.stream`."""
        stream: AsyncIterator[Any] = definition.function(call.message, *await self._values(definition, call))
        return stream

    async def _values(self, definition: QueryDefinition, call: Call[Query[Any]]) -> list[Any]:
        """What the handler is given beside the query. None stands for the transaction."""
        values: list[Any] = []
        for one, folding in zip(definition.parameters, self._foldings[definition], strict=True):
            if isinstance(one, StateParameter):
                assert folding is not None
                boundary = folding.boundary(call.message, one.fields, one.criteria)
                (loaded,) = await self._states.load(boundary, current=True)
                values.append(loaded.value)
            elif one.wants is Wants.CONTEXT:
                values.append(call)
            elif one.wants is Wants.TRANSACTION:
                values.append(None)
            else:
                values.append(self._scope.value(one))
        return values


def _read(definition: QueryDefinition, call: Call[Query[Any]], values: Sequence[Any], sql: SqlTransaction) -> Any:
    """Call a handler that reads rows. Errors: its own; `Misuse` where it would write."""
    transaction = Transaction(sql)
    arguments = [
        transaction if isinstance(one, Parameter) and one.wants is Wants.TRANSACTION else value
        for one, value in zip(definition.parameters, values, strict=True)
    ]
    token = inside_handler.set(Inside(definition.name, "answers a query"))
    try:
        answer = definition.function(call.message, *arguments)
    finally:
        inside_handler.reset(token)
    if transaction.emitted:
        raise Misuse(f"{definition.name}: {ONLY_READS}")
    return answer
