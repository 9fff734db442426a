"""What an open application decides and answers: its commands, queries, states and views, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ensue.app.dependencies import Dependencies
from ensue.domain.commands import Commands
from ensue.domain.queries import Queries
from ensue.domain.registered import Registered
from ensue.domain.states import States
from ensue.events.message import Event
from ensue.events.registry import Registry
from ensue.events.stored import Draft
from ensue.store.base import Store

__all__ = ["Domain"]


class Domain:
    """See the module. Usable as long as the store is open."""

    def __init__(
        self,
        registered: Registered,
        store: Store,
        registry: Registry,
        dependencies: Dependencies,
        drafts: Callable[[Iterable[Event]], list[Draft]],
        query: Callable[[str, Sequence[object]], list[tuple[Any, ...]]],
    ) -> None:
        self.states = States(store)
        self.commands = Commands(registered.commands, store, registry, self.states, dependencies, drafts)
        self.queries = Queries(registered.queries, registry, self.states, dependencies, lambda: _Reading(query))


class _Reading:
    """What a query handler's `Transaction` reads by: statements of its own, which may not write."""

    def __init__(self, query: Callable[[str, Sequence[object]], list[tuple[Any, ...]]]) -> None:
        self._query = query

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        assert not isinstance(values, Mapping)
        return self._query(sql, values)
