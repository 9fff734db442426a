"""Asking: a query, answered by its one handler from states, from rows and from what the application provides.

States are those of the log as it is now. Rows are those of one moment: a handler that takes a `Transaction` reads one consistent
snapshot, and writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

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

__all__ = ["Answering", "Queries"]


_STATE = object()


class Answering:
    """A query handler, ready to be called."""

    __slots__ = ("alone", "definition", "foldings", "inside", "takes_call", "wants")

    def __init__(self, definition: QueryDefinition, states: States) -> None:
        self.definition = definition
        self.inside = Inside(definition.name, "answers a query")
        self.wants = [_STATE if isinstance(one, StateParameter) else one.wants for one in definition.parameters]
        self.alone = self.wants == [Wants.TRANSACTION]
        self.takes_call = bool(definition.middleware) or Wants.CONTEXT in self.wants
        self.foldings: list[tuple[StateParameter, Folding[Any]]] = [
            (one, states.folding(one.fold)) for one in definition.parameters if isinstance(one, StateParameter)
        ]


class Queries:
    """The query handlers of one open application. `looking` is the store, where it has SQL."""

    def __init__(
        self, definitions: Sequence[QueryDefinition], states: States, scope: Scope, looking: Looking | None
    ) -> None:
        self._states = states
        self._scope = scope
        self._looking = looking
        self._by_type: dict[type[Query[Any]], Answering] = {}
        for definition in definitions:
            other = self._by_type.setdefault(definition.query, Answering(definition, states)).definition
            if other is not definition:
                raise DefinitionError(
                    f"{definition.query.__name__} has two handlers, {other.name} and {definition.name}: a query is answered by one"
                )

    def handler_of(self, query: Query[Any], *, streamed: bool = False) -> Answering:
        """Errors: `DefinitionError` for a query that nobody answers here; `Misuse` for one that is streamed and should not be, or
        the other way round."""
        found = self._by_type.get(type(query))
        if found is None:
            given: Any = query
            if not isinstance(given, Query):
                raise DefinitionError(
                    f"{type(given).__name__} is no query: ask() takes queries. Commands are for send(), rows of views for get()"
                )
            known = ", ".join(sorted(one.__name__ for one in self._by_type)) or "none"
            raise DefinitionError(
                f"nothing answers {type(query).__name__}: register a handler with @app.query, or include its service. Queries "
                f"answered here: {known}"
            )
        streams = found.definition.streams
        if streams != streamed:
            name, form = type(query).__name__, "async for row in app.stream(query)" if streams else "app.ask(query)"
            raise Misuse(f"{name} is answered {'by a stream' if streams else 'at once'}: {form}")
        return found

    def tags_of(self, handler: Answering, query: Query[Any]) -> frozenset[bytes] | None:
        """One tag of whatever events the states of a query are made of; None where they may be any."""
        found: set[bytes] = set()
        for one, folding in handler.foldings:
            for term in folding.boundary(query, one.fields, one.criteria).selection:
                if not term.tags:
                    return None
                found.add(term.tags[0])
        return frozenset(found)

    async def answer(self, handler: Answering, query: Query[Any], call: Call[Any] | None) -> Any:
        """See `App.ask`. `call` is for handlers that take it."""
        states = await self._load(handler, query) if handler.foldings else ()
        definition = handler.definition
        if definition.inside:
            assert self._looking is not None, "checked when the application was opened"
            return await self._looking.look(lambda sql: self._read(handler, query, call, states, sql))
        token = inside_handler.set(handler.inside)
        try:
            answer = definition.function(query, *self._arguments(handler, call, states, None))
            return await answer if definition.is_async else answer
        finally:
            inside_handler.reset(token)

    async def stream(self, handler: Answering, query: Query[Any], call: Call[Any]) -> AsyncIterator[Any]:
        """The handler's generator, not begun yet. See `App.stream`."""
        arguments = self._arguments(handler, call, await self._load(handler, query), None)
        stream: AsyncIterator[Any] = handler.definition.function(query, *arguments)
        return stream

    async def _load(self, handler: Answering, query: Query[Any]) -> Sequence[Any]:
        boundaries = [folding.boundary(query, one.fields, one.criteria) for one, folding in handler.foldings]
        return [loaded.value for loaded in await self._states.load(*boundaries, current=True)]

    def _arguments(
        self, handler: Answering, call: Call[Any] | None, states: Sequence[Any], transaction: Transaction | None
    ) -> list[Any]:
        given: list[Any] = []
        values = iter(states)
        for index, wants in enumerate(handler.wants):
            if wants is Wants.TRANSACTION:
                given.append(transaction)
            elif wants is _STATE:
                given.append(next(values))
            elif wants is Wants.CONTEXT:
                given.append(call)
            else:
                given.append(self._scope.value(cast(Parameter, handler.definition.parameters[index])))
        return given

    def _read(
        self, handler: Answering, query: Query[Any], call: Call[Any] | None, states: Sequence[Any], sql: SqlTransaction
    ) -> Any:
        """Call a handler that reads rows. Errors: its own; `Misuse` where it would write."""
        transaction = Transaction(sql)
        arguments = [transaction] if handler.alone else self._arguments(handler, call, states, transaction)
        token = inside_handler.set(handler.inside)
        try:
            answer = handler.definition.function(query, *arguments)
        finally:
            inside_handler.reset(token)
        if transaction.emitted:
            raise Misuse(f"{handler.definition.name}: {ONLY_READS}")
        return answer
