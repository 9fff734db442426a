"""What a view is, and what its class says: rows of a table, each folded from the events that carry its key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, dataclass_transform, get_type_hints

import msgspec

from ensue.consumers.handler import Declared
from ensue.domain.columns import Column, Kind, RowReader, column_of
from ensue.domain.fold import Fold, FoldMeta, FoldType, fold_of
from ensue.errors import DefinitionError

__all__ = ["SqlView", "View", "ViewDefinition", "When", "analyse_view", "checked_table"]

When: TypeAlias = Literal["after", "inline", "live"]

V = TypeVar("V", bound="View")

TABLE_CHARACTERS = 48
"""PostgreSQL's names have 63, and versions are told apart by a suffix."""
_TABLE = re.compile(r"[a-z_][a-z0-9_]*")
_RESERVED = ("ensue_", "sqlite_", "pg_")


@dataclass_transform(kw_only_default=True, frozen_default=False, field_specifiers=(msgspec.field,))
class View(msgspec.Struct, Declared, kw_only=True, metaclass=FoldMeta):
    """A row of a table kept from events. `evolve(self, event) -> Self | None` is the row that follows; None deletes it.

    Keywords of the class: `key`, the fields that identify a row: their values are those of the event's tags of that name (a row
    for each, where it carries several), else of its fields; `table`, by default the class's name in small letters; `index`, further
    columns to find rows by; `version`, a number to raise instead of having changes of the code noticed. Fields beside the key have
    defaults: a row begins with them. `evolve` may change the row it is called on and return it.
    """

    __ensue_declared__ = "views"

    @classmethod
    def __ensue_row__(cls, line: Sequence[Any]) -> Self:
        """A line of its table, with all columns in order, as a row. Errors: as `RowReader`."""
        reader: RowReader[Self] | None = vars(cls).get("__ensue_reader__")
        if reader is None:
            reader = _remember_reader(cls, _columns(cls, {}))
        return reader(line)


class SqlView(Protocol):
    """A view written as a function on rows: `def daily(event: OrderPlaced, tx: Transaction) -> None`."""

    def __call__(self, event: Any, tx: Any, /) -> None: ...


class ViewDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A view as it was registered. `name` is the name of its table, which is how it is known in the log."""

    name: str
    row: type[View]
    fold: Fold[Any]
    columns: tuple[Column, ...]
    key: tuple[tuple[str, str], ...]
    """Pairs of a field and the tag, or the event's field, that gives its value."""
    index: tuple[str, ...]
    version: int | None
    when: When
    database: str | None = None


def analyse_view(
    row: type[View], local_names: Mapping[str, Any], *, when: When = "after", database: str | None = None
) -> ViewDefinition:
    """The definition of a view. Errors: `DefinitionError`, naming the class and what to write instead."""
    declared: FoldType = vars(row).get("__ensue_fold__", FoldType())
    name = row.__name__
    if not declared.key:
        raise DefinitionError(f'{name}: say which field identifies a row: class {name}(View, key="account_id")')
    columns = _columns(row, local_names)
    _remember_reader(row, columns)
    by_name = {column.name: column for column in columns}
    required = {field.name for field in msgspec.structs.fields(row) if field.required}
    for field, _ in declared.key:
        if field not in by_name:
            raise DefinitionError(
                f"{name}: key={field!r} is not a field of it; its fields are: {', '.join(by_name) or 'none'}"
            )
        column = by_name[field]
        if column.optional or column.kind in (Kind.JSON, Kind.REAL, Kind.BYTES, Kind.BOOLEAN):
            raise DefinitionError(
                f"{name}: {field} is its key, which is a text, a whole number, a UUID, a date or an enum of these, and never None"
            )
    bare = sorted(required - {field for field, _ in declared.key})
    if bare:
        raise DefinitionError(
            f"{name}: give {bare[0]} a default: a row begins with its key and the defaults of all else, and evolve does the rest"
        )
    unknown = [field for field in declared.index if field not in by_name]
    if unknown:
        raise DefinitionError(
            f"{name}: index={unknown[0]!r} is not a field of it; its fields are: {', '.join(by_name)}"
        )
    return ViewDefinition(
        name=checked_table(name, declared.table or _in_small_letters(name)),
        row=row,
        fold=fold_of(row, local_names),
        columns=columns,
        key=declared.key,
        index=declared.index,
        version=declared.version,
        when=when,
        database=database,
    )


def checked_table(owner: str, table: str) -> str:
    """A name that means the same quoted and bare, in every database. Errors: `DefinitionError`."""
    if not _TABLE.fullmatch(table) or len(table) > TABLE_CHARACTERS or table.startswith(_RESERVED):
        raise DefinitionError(
            f"{owner}: table={table!r}; a table's name has small letters, digits and _, at most {TABLE_CHARACTERS} of them, "
            f"and does not begin with {', '.join(_RESERVED)}"
        )
    return table


def _in_small_letters(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _remember_reader(row: type[V], columns: tuple[Column, ...]) -> RowReader[V]:
    reader = RowReader(row, columns)
    type.__setattr__(row, "__ensue_reader__", reader)
    return reader


def _columns(row: type[View], local_names: Mapping[str, Any]) -> tuple[Column, ...]:
    try:
        hints = get_type_hints(row, localns=dict(local_names), include_extras=True)
        return tuple(column_of(field, hints[field]) for field in row.__struct_fields__)
    except (TypeError, NameError) as error:
        raise DefinitionError(f"{row.__name__}: a field has a type that cannot be a column: {error}") from error
