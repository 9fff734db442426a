"""Views in plain SQL: a function that changes rows of tables of its own, for each event in the order of the log.

    @shop.view(schema="CREATE TABLE daily (day TEXT PRIMARY KEY, orders INTEGER NOT NULL)")
    def daily(event: OrderPlaced, tx: Transaction) -> None:
        tx.execute("INSERT INTO daily VALUES (?, 1) ON CONFLICT (day) DO UPDATE SET orders = daily.orders + 1", event.day)

Each version has tables of its own, `daily__v1`, and the names in the function's statements lead to them (`sql_text.py`). The function
may read what it likes, but changes its own tables alone: it is called again for all events whenever a version is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ensue.consumers.handler import Wants, hints_of, parameter_of, reacted_to
from ensue.domain.view import When, checked_table
from ensue.domain.views.sql_text import Schema, parse_schema
from ensue.errors import DefinitionError
from ensue.events.message import Event

__all__ = ["SqlViewDefinition", "analyse_sql_view"]


class SqlViewDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A view in plain SQL as it was registered. `name` is that of its first table."""

    name: str
    function: Callable[..., None]
    events: tuple[type[Event], ...]
    recorded: bool
    schema: Schema
    version: int | None
    when: When
    database: str | None = None

    @property
    def row(self) -> Any:
        """What stands for it where a view is named: its function."""
        return self.function


def analyse_sql_view(
    function: Callable[..., Any],
    local_names: Mapping[str, Any],
    *,
    schema: str,
    when: When = "after",
    version: int | None = None,
    database: str | None = None,
) -> SqlViewDefinition:
    """The definition of a view in plain SQL. Errors: `DefinitionError`, naming the function and what to write instead."""
    name = str(getattr(function, "__name__", repr(function)))
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(
            f"{name}: a view in plain SQL is a plain `def`: it runs inside a transaction, which waits for nothing"
        )
    hints = hints_of(function, local_names)
    parameters = list(inspect.signature(function).parameters.values())
    wants = [parameter_of(name, one, hints).wants for one in parameters[1:]]
    if wants != [Wants.TRANSACTION]:
        raise DefinitionError(
            f"{name}: a view in plain SQL takes its event and a Transaction, no more, so that it can be called again for all events "
            f"at any time: def {name}(event: OrderPlaced, tx: Transaction) -> None"
        )
    if when == "live":
        raise DefinitionError(f'{name}: a view in plain SQL has tables; when="live" is for rows of a class')
    events, recorded = reacted_to(name, parameters[0].name, hints.get(parameters[0].name))
    if recorded and when == "inline":
        raise DefinitionError(
            f"{name}: an inline view is kept before its event has its place and time in the log; take the event itself, not Recorded"
        )
    if Event in events:
        raise DefinitionError(f"{name}: say which events it reads")
    parsed = parse_schema(name, schema)
    for table in parsed.tables:
        checked_table(name, table)
    return SqlViewDefinition(
        name=parsed.tables[0],
        function=function,
        events=events,
        recorded=recorded,
        schema=parsed,
        version=version,
        when=when,
        database=database,
    )
