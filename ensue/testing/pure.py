"""Decisions, states and answers as what they are: functions of events. No log, no loop, no time."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from ensue.consumers.handler import Parameter
from ensue.domain import View
from ensue.domain.command import CommandDefinition, StateParameter
from ensue.domain.fold import Boundary, Folding
from ensue.domain.outcome import Outcome, outcome_of
from ensue.domain.query import QueryDefinition
from ensue.domain.registered import Registered
from ensue.domain.view import ViewDefinition
from ensue.domain.views.reading import Reading
from ensue.errors import DefinitionError
from ensue.events.message import Command, Event, Query
from ensue.events.recorded import Recorded
from ensue.events.registry import Registry
from ensue.events.stored import Draft, Row
from ensue.testing.simulation.simulated import STARTS_AT

__all__ = ["History", "NotPure"]

LOG = "pure"


class NotPure(Exception):
    """What was asked for needs more than pure functions. The message says what, and where it runs instead."""


class _Entry(msgspec.Struct, frozen=True):
    event: Event
    draft: Draft
    recorded: Recorded[Any]


class History:
    """Events in order, and what follows from them. An event counts as what it is when it is read back from its bytes."""

    def __init__(self, registered: Registered, registry: Registry) -> None:
        self._registry = registry
        self._entries: list[_Entry] = []
        self._foldings: dict[int, Folding[Any]] = {}
        self._commands = {command: one for one in registered.commands for command in one.commands}
        self._queries = {one.query: one for one in registered.queries}
        self._views = {one.row: one for one in registered.views}

    @property
    def events(self) -> list[Event]:
        return [entry.event for entry in self._entries]

    def add(self, *events: Event) -> None:
        """These happened next. Errors: `InvalidEvent`."""
        for event in events:
            position = len(self._entries) + 1
            id = position.to_bytes(16, "big")
            draft = self._registry.draft(event, id=id, time=STARTS_AT)
            read = self._registry.decoder(draft.type_name, draft.type_version)(draft.data)
            row: Row = (position, id, 0, draft.stream, None, STARTS_AT, None, None, None, None, draft.meta, draft.data)
            self._entries.append(_Entry(read, draft, Recorded(read, row, draft.type_name, draft.type_version, LOG)))

    def decide(self, command: Command[Any]) -> Outcome:
        """What is decided now; nothing is added. Errors: the refusal, or what else is raised; `DefinitionError`, `NotPure`."""
        definition = self._commands.get(type(command))
        if definition is None:
            raise DefinitionError(f"nothing decides {type(command).__name__}")
        return outcome_of(definition, type(command), self._call(definition, command))

    def answer(self, query: Query[Any]) -> Any:
        """Errors: what the handler raises; `DefinitionError`, `NotPure`."""
        definition = self._queries.get(type(query))
        if definition is None:
            raise DefinitionError(f"nothing answers {type(query).__name__}")
        return self._call(definition, query)

    def row(self, view: type[View], key: tuple[object, ...]) -> View | None:
        """The row of a view. Errors: what its fold raises; `DefinitionError`, `NotPure`."""
        definition = self._views.get(view)
        if not isinstance(definition, ViewDefinition):
            raise DefinitionError(f"{view.__name__} is no view of this application: register it with @app.view")
        wanted = Reading(definition, self._registry).key_given(key)
        return self.rows(definition).get(wanted)

    def rows(self, definition: ViewDefinition) -> dict[tuple[Any, ...], View]:
        """All rows of a view, by key. Errors: what its fold raises."""
        reading, rows = Reading(definition, self._registry), dict[tuple[Any, ...], View]()
        for entry in self._entries:
            if isinstance(entry.event, reading.covered):
                for key in reading.keys(entry.recorded):
                    row = reading.follow(rows.pop(key, None), key, entry.recorded)
                    if row is not None:
                        rows[key] = row
        return rows

    def boundaries(self, message: Command[Any] | Query[Any]) -> list[Boundary[Any]]:
        """The states that this message is about, by what selects their events."""
        definition: CommandDefinition | QueryDefinition | None
        definition = (
            self._commands.get(type(message)) if isinstance(message, Command) else self._queries.get(type(message))
        )
        parameters = definition.parameters if definition is not None else ()
        return [self._boundary(one, message) for one in parameters if isinstance(one, StateParameter)]

    def follow(self, boundary: Boundary[Any], value: Any, after: int = 0) -> Any:
        """The state after those of its events that came after so many. Errors: what the fold raises."""
        fold = boundary.folding.fold
        for entry in self._entries[after:]:
            if boundary.reads(entry.draft):
                value = fold.evolve(value, entry.recorded if fold.recorded else entry.event)
        return value

    def _boundary(self, one: StateParameter, message: object) -> Boundary[Any]:
        folding = self._foldings.get(id(one.fold))
        if folding is None:
            folding = self._foldings[id(one.fold)] = Folding(one.fold, self._registry)
        return folding.boundary(message, one.fields, one.criteria)

    def _call(self, definition: CommandDefinition | QueryDefinition, message: Any) -> Any:
        for passed in definition.middleware:
            if not passed.messages or isinstance(message, passed.messages):
                raise NotPure(
                    f"{definition.name} is behind the middleware {passed.name}, which is no function of events. Run it in memory"
                )
        arguments: list[Any] = []
        for one in definition.parameters:
            if isinstance(one, StateParameter):
                arguments.append(self.follow(self._boundary(one, message), one.fold.initial()))
            else:
                arguments.append(_default(definition.name, one))
        result = definition.function(message, *arguments)
        return _finished(definition.name, result) if inspect.iscoroutine(result) else result


def _default(name: str, parameter: Parameter) -> Any:
    if parameter.default is inspect.Parameter.empty:
        raise NotPure(
            f"{name} takes {parameter.name}, which is no state: that is not a pure function of events. Run it in memory"
        )
    return parameter.default


def _finished(name: str, coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    coroutine.close()
    raise NotPure(f"{name} waits for something: that is not a pure function of events. Run it in memory")
