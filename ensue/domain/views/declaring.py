"""What `@app.view` was given, as a definition: a class of rows, or a function and the schema of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.domain.view import View, ViewDefinition, analyse_view
from ensue.domain.views.sql_view import SqlViewDefinition, analyse_sql_view
from ensue.errors import DefinitionError
from ensue.urls import is_readable

__all__ = ["view_definition"]

_WHEN = ("after", "inline", "live")
_OPTIONS = frozenset(("when", "database"))


def view_definition(
    declared: Any, local_names: Mapping[str, Any], options: Mapping[str, Any]
) -> ViewDefinition | SqlViewDefinition:
    """Errors: `DefinitionError`, naming the view and what to write instead."""
    name = str(getattr(declared, "__name__", repr(declared)))
    rows = isinstance(declared, type) and issubclass(declared, View)
    when, database = options.get("when", "after"), options.get("database")
    if when not in _WHEN:
        raise DefinitionError(f'{name}: when={when!r}; a view is kept "after", "inline" or "live"')
    if database is not None:
        _check_database(name, when, database)
    unknown = sorted(set(options) - (_OPTIONS if rows else _OPTIONS | {"schema", "version"}))
    if rows and "schema" in unknown:
        raise DefinitionError(f"{name}: its fields say what its table is; schema= is for views that are functions")
    if unknown:
        raise DefinitionError(f"{name}: view() has no option {unknown[0]!r}")
    if rows:
        definition = analyse_view(declared, local_names, when=when, database=database)
        if when == "inline" and definition.fold.recorded:
            raise DefinitionError(
                f"{name}: an inline view is kept before its event has its place and time in the log; let evolve take the event "
                "itself, not Recorded"
            )
        return definition
    if isinstance(declared, type) or not callable(declared) or "schema" not in options:
        raise DefinitionError(
            f'{name}: a view is a class of rows, class {name}(View, key="…"), or a function with the schema of its tables: '
            '@app.view(schema="CREATE TABLE …")'
        )
    return analyse_sql_view(declared, local_names, **options)


def _check_database(name: str, when: str, database: object) -> None:
    if when != "after":
        raise DefinitionError(
            f"{name}: a view in another database is kept after the append; leave when={when!r} out, or database="
        )
    if not isinstance(database, str) or not is_readable(database) or "://" not in database:
        raise DefinitionError(f"{name}: database= is a URL: sqlite:///rows.db or postgresql://user@host/database")
