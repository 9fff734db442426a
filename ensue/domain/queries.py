"""Asking: a query, answered by its one handler from states, from rows and from what the application provides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ensue.consumers.handler import Wants
from ensue.consumers.handling import Scope
from ensue.consumers.transaction import Transaction
from ensue.domain.command import StateParameter
from ensue.domain.fold import Folding
from ensue.domain.query import QueryDefinition
from ensue.domain.states import States
from ensue.errors import DefinitionError
from ensue.events.message import Query
from ensue.events.registry import Registry
from ensue.store.base import SqlTransaction

__all__ = ["Queries"]


class Queries:
    """The query handlers of one open application."""

    def __init__(
        self,
        definitions: Sequence[QueryDefinition],
        registry: Registry,
        states: States,
        scope: Scope,
        reading: Callable[[], SqlTransaction],
    ) -> None:
        self._states = states
        self._scope = scope
        self._reading = reading
        self._by_type: dict[type[Query[Any]], QueryDefinition] = {}
        self._foldings: dict[QueryDefinition, tuple[Folding[Any] | None, ...]] = {}
        for definition in definitions:
            other = self._by_type.setdefault(definition.query, definition)
            if other is not definition:
                raise DefinitionError(
                    f"{definition.query.__name__} has two handlers, {other.name} and {definition.name}: a query is answered by one"
                )
            self._foldings[definition] = tuple(
                Folding(one.fold, registry) if isinstance(one, StateParameter) else None
                for one in definition.parameters
            )

    def handler_of(self, query: Query[Any]) -> QueryDefinition:
        """Errors: `DefinitionError` for a query that nobody answers here."""
        found = self._by_type.get(type(query))
        if found is None:
            known = ", ".join(sorted(one.__name__ for one in self._by_type)) or "none"
            raise DefinitionError(
                f"nothing answers {type(query).__name__}: register a handler with @app.query, or include its service. Queries "
                f"answered here: {known}"
            )
        return found

    async def ask(self, query: Query[Any]) -> Any:
        """See `App.ask`."""
        definition = self.handler_of(query)
        arguments: list[Any] = []
        for one, folding in zip(definition.parameters, self._foldings[definition], strict=True):
            if isinstance(one, StateParameter):
                assert folding is not None
                arguments.append(
                    (await self._states.load(folding, folding.tags(query, one.fields), current=True)).value
                )
            elif one.wants is Wants.TRANSACTION:
                arguments.append(Transaction(self._reading()))
            else:
                arguments.append(self._scope.value(one))
        answer = definition.function(query, *arguments)
        return await answer if definition.is_async else answer
