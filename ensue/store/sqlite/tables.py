"""Tables of the application in a log's file: what they are made of, and making them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from ensue.errors import WrongLog
from ensue.store.transfer import Column, Part, Table

__all__ = ["found", "is_there", "make", "quoted"]

_AFFINITIES = (
    ("INT", "integer"), ("CHAR", "text"), ("CLOB", "text"), ("TEXT", "text"), ("BLOB", "blob"), ("REAL", "real"),
    ("FLOA", "real"), ("DOUB", "real"),
)  # fmt: skip
"""SQLite's own rules, in their order, for what a column that is declared so prefers to hold."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def found(sql: apsw.Connection) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The application's tables, by name; and what cannot move, in words."""
    parts: list[Part] = []
    left: list[str] = []
    listed: list[Any] = list(sql.execute("PRAGMA main.table_list"))
    for _, name, kind, *_ in sorted(row for row in listed if row[0] == "main"):
        if name.startswith(("ensue_", "sqlite_")) or kind == "shadow":
            continue
        part = _part(sql, name) if kind == "table" else None
        if part is not None:
            parts.append(part)
        else:
            left.append(
                f"the table {name}, which has no primary key" if kind == "table" else f"the {_KINDS[kind]} {name}"
            )
    triggers = sql.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")
    left += [f"the trigger {name}" for (name,) in triggers]
    return tuple(parts), tuple(left)


_KINDS = {"view": "view", "virtual": "virtual table"}


def _part(sql: apsw.Connection, name: str) -> Part | None:
    # Generated columns are not among them.
    columns: list[Any] = list(sql.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (name,)))
    key = [column[0] for column in sorted(columns, key=lambda column: column[3]) if column[3]]
    if not key:
        return None
    columns.sort(key=lambda column: (not column[3], column[3]))
    described = tuple(Column(column[0], _kind(column[1]), bool(column[2])) for column in columns)
    made = sql.execute(
        "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('table', 'index') AND sql NOT NULL "
        "ORDER BY type DESC, name",
        (name,),
    )
    table = Table(described, _unique(sql, name), tuple(text for (text,) in made))
    return Part(name, f"rows of {name}", tuple(column.name for column in described), len(key), table)


def _kind(declared: str) -> str:
    return next((kind for text, kind in _AFFINITIES if text in declared.upper()), declared)


def _unique(sql: apsw.Connection, name: str) -> tuple[tuple[str, ...], ...]:
    indexes = "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND NOT partial AND origin <> 'pk' ORDER BY name"
    columns = [
        tuple(column for (column,) in sql.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index,)))
        for (index,) in list(sql.execute(indexes, (name,)))
    ]
    return tuple(names for names in columns if None not in names)  # None is an expression


def is_there(sql: apsw.Connection, name: str) -> bool:
    return bool(list(sql.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,))))


def make(sql: apsw.Connection, parts: Sequence[Part], *, remove: bool) -> None:
    """Make tables of the application that are not there. Those that are there are made anew with `remove`; else they must
    be empty. Errors: `WrongLog`."""
    for part in parts:
        if is_there(sql, part.name):
            if not remove:
                if list(sql.execute(f"SELECT 1 FROM {quoted(part.name)} LIMIT 1")):
                    raise WrongLog(
                        f"the table {part.name} has rows already, and was to be filled: empty it, or remove it"
                    )
                continue
            sql.execute(f"DROP TABLE {quoted(part.name)}")
        assert part.table is not None
        for statement in part.table.statements:
            sql.execute(statement)
