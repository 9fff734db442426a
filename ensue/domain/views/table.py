"""A view's table in SQLite and PostgreSQL: how it is made, and how rows are read and written by key.

Tables are ordinary: a primary key, columns that are NOT NULL unless the field may be None, STRICT in SQLite. Names of tables and
columns are checked where a view is declared, and quoted here; values are always bound. Rows are written by their key alone, so a
unique index that an owner adds refuses a row instead of replacing another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from ensue.domain.columns import Column, Kind, RowReader, encoder
from ensue.domain.view import View, ViewDefinition
from ensue.store.base import SqlTransaction

__all__ = ["KEYS_AT_ONCE", "Key", "Table", "quoted"]

Key: TypeAlias = tuple[Any, ...]
"""The values of a row's key, in the order of the declared key."""

POSTGRESQL = "postgresql"
ROWS_AT_ONCE = 64
"""SQLite binds some 30,000 values in one statement; statements of few shapes are prepared once."""
KEYS_AT_ONCE = 100

_TYPES: dict[Kind, tuple[str, str]] = {
    Kind.TEXT: ("TEXT", "TEXT"),
    Kind.INTEGER: ("INTEGER", "BIGINT"),
    Kind.BOOLEAN: ("INTEGER", "BOOLEAN"),
    Kind.REAL: ("REAL", "DOUBLE PRECISION"),
    Kind.BYTES: ("BLOB", "BYTEA"),
    Kind.DECIMAL: ("TEXT", "NUMERIC"),
    Kind.TIME: ("TEXT", "TIMESTAMPTZ"),
    Kind.LOCAL_TIME: ("TEXT", "TIMESTAMP"),
    Kind.DATE: ("TEXT", "DATE"),
    Kind.UUID: ("TEXT", "UUID"),
    Kind.JSON: ("TEXT", "JSONB"),
}
"""In SQLite and in PostgreSQL."""


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


class Table:
    """The table `name` of a view, in a database of a dialect: `sqlite` or `postgresql`."""

    def __init__(self, definition: ViewDefinition, name: str, dialect: str) -> None:
        self.name = name
        self._definition = definition
        self._server = dialect == POSTGRESQL
        columns = definition.columns
        fields = [field for field, _ in definition.key]
        by_name = {column.name: column for column in columns}
        self._keys = [by_name[field] for field in fields]
        self._key_encoders = [encoder(column) for column in self._keys]
        self._encoders = [(place, one) for place, column in enumerate(columns) if (one := encoder(column)) is not None]
        self._values_of = _getter([column.name for column in columns])
        self._key_of = _getter(fields)
        self._read: RowReader[View] = RowReader(definition.row, columns)
        table, names = quoted(name), ", ".join(quoted(column.name) for column in columns)
        others = [quoted(column.name) for column in columns if column.name not in fields]
        key = ", ".join(map(quoted, fields))
        sets = ", ".join(f"{one} = excluded.{one}" for one in others)
        upsert = f"ON CONFLICT ({key}) DO " + (f"UPDATE SET {sets}" if sets else "NOTHING")
        self._insert = f"INSERT INTO {table} ({names})", upsert
        shown = ", ".join(self._shown(column) for column in columns)
        self._select = f"SELECT {shown} FROM {table} WHERE "
        self._this = " AND ".join(f"{quoted(column.name)} = {self._place(column)}" for column in self._keys)
        self._delete = f"DELETE FROM {table} WHERE "
        self._line = f"({', '.join(self._place(column) for column in columns)})"

    # -------------------------------------------------------------------------------------------------------- making

    def creation(self) -> list[str]:
        """The statements that make it, empty."""
        definition = self._definition
        lines = [
            f"{quoted(column.name)} {_TYPES[column.kind][self._server]}{'' if column.optional else ' NOT NULL'}"
            for column in definition.columns
        ]
        key = ", ".join(quoted(field) for field, _ in definition.key)
        end = "" if self._server else " STRICT, WITHOUT ROWID"
        return [f"CREATE TABLE {quoted(self.name)} ({', '.join(lines)}, PRIMARY KEY ({key})){end}"]

    def indexes(self) -> list[str]:
        """The statements that make the indexes which the view declares. A row is written quicker before they are there."""
        name = self.name
        return [
            f"CREATE INDEX {quoted(f'{name}_by_{field}')} ON {quoted(name)} ({quoted(field)})"
            for field in self._definition.index
        ]

    # -------------------------------------------------------------------------------------------------- one row

    def selection(self, key: Key) -> tuple[str, list[Any]]:
        """The statement that finds a row, and its values; its lines are for `row`."""
        return self._select + self._this, self._encoded_key(key)

    def selection_of(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """The same for several rows, at most `KEYS_AT_ONCE`."""
        values = [value for key in keys for value in self._encoded_key(key)]
        if len(self._keys) == 1:
            return f"{self._select}{quoted(self._keys[0].name)} IN ({self._places(len(keys))})", values
        return self._select + " OR ".join([f"({self._this})"] * len(keys)), values

    def row(self, line: Sequence[Any]) -> View:
        """A line of the table as a row."""
        return self._read(line)

    def key_of(self, row: View) -> Key:
        """The key of a row."""
        key: Key = self._key_of(row)
        return key

    def load(self, sql: SqlTransaction, key: Key) -> View | None:
        """The row of a key, inside a transaction."""
        lines = sql.execute(*self.selection(key))
        return self._read(lines[0]) if lines else None

    # --------------------------------------------------------------------------------------------------------- writing

    def values(self, row: View) -> list[Any]:
        """What the database is given for a row. Errors: `TypeError` for a value that is not its field's."""
        values = list(self._values_of(row))
        for place, encode in self._encoders:
            value = values[place]
            if value is not None:
                values[place] = encode(value)
        return values

    def put(self, sql: SqlTransaction, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows, as `values` gives them, over those of the same keys. No key is in it twice."""
        insert, upsert = self._insert
        if self._server and len(rows) > 1:
            places = ", ".join(f"?::{_TYPES[column.kind][1]}[]" for column in self._definition.columns)
            sql.execute(
                f"{insert} SELECT * FROM unnest({places}) {upsert}",
                [list(column) for column in zip(*rows, strict=True)],
            )
            return
        for some in _parts(rows, ROWS_AT_ONCE):
            for lines, count in (
                ((some, len(some)),) if len(some) == ROWS_AT_ONCE else ((one, 1) for one in _ones(some))
            ):
                text = f"{insert} VALUES {', '.join([self._line] * count)} {upsert}"
                sql.execute(text, [value for line in lines for value in line])

    def remove(self, sql: SqlTransaction, keys: Sequence[Key]) -> None:
        """Delete the rows of these keys, where there are any."""
        for key in keys:
            sql.execute(self._delete + self._this, self._encoded_key(key))

    # ---------------------------------------------------------------------------------------------------------- pieces

    def _encoded_key(self, key: Key) -> list[Any]:
        return [
            value if encode is None else encode(value) for encode, value in zip(self._key_encoders, key, strict=True)
        ]

    def _place(self, column: Column) -> str:
        return f"?::{_TYPES[column.kind][1]}" if self._server else "?"

    def _places(self, count: int) -> str:
        return ", ".join([self._place(self._keys[0])] * count)

    def _shown(self, column: Column) -> str:
        """JSON comes as text, so that it is read as what was written."""
        name = quoted(column.name)
        return f"{name}::text" if self._server and column.kind is Kind.JSON else name


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        get = attrgetter(names[0])
        return lambda row: (get(row),)
    return attrgetter(*names)


def _parts(rows: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _ones(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return ([row] for row in rows)
