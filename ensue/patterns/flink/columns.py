"""What a table of Flink has for the fields of events: which column, of which type, and what is not the same there.

A field becomes a column only where each of its values is the same value in SQL, compared in the same way. What has no such column
is refused, with the field's name.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypeAlias

import msgspec

from ensue.events.message import Event, declaration
from ensue.events.personal import personal_fields

__all__ = [
    "META",
    "Column",
    "Columns",
    "Gathering",
    "Kind",
    "Refused",
    "literal",
    "names_of",
    "quoted",
    "refused",
    "type_is",
    "with_subclasses",
]

Kind: TypeAlias = Literal["int", "float", "decimal", "bool", "str"]

META = ("ensue_type", "ensue_id", "ensue_time", "ensue_micros", "ensue_order")
"""What a source has beside the fields: the event type's name, the event's id, its time as Flink's and in microseconds, and a number
that orders events of one time."""

DECIMAL_DIGITS, DECIMAL_PLACES = 28, 9
_SQL_TYPES: dict[Kind, str] = {
    "int": "BIGINT",
    "float": "DOUBLE",
    "decimal": f"DECIMAL({DECIMAL_DIGITS}, {DECIMAL_PLACES})",
    "bool": "BOOLEAN",
    "str": "STRING",
}


class Refused(Exception):
    """Something cannot be compiled. `reasons` say why, each with what could be written instead."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def refused(why: str, instead: str) -> Refused:
    """For one reason."""
    return Refused(f"{why}. Instead: {instead}")


class Gathering:
    """Reasons of several things, each of which is looked at whatever is in the way of the others."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}

    @contextmanager
    def each(self) -> Generator[None]:
        """Look at one of them: its reasons are kept."""
        try:
            yield
        except Refused as found:
            self.add(found)

    def add(self, found: Refused) -> None:
        """Keep its reasons, each once."""
        self._reasons.update(dict.fromkeys(found.reasons))

    def tell(self) -> None:
        """Errors: `Refused` with all reasons, if there are any."""
        if self._reasons:
            raise Refused(*self._reasons)


class Column(msgspec.Struct, frozen=True):
    """A column for the fields of this name, of all event types that have one."""

    name: str
    kind: Kind
    nullable: bool = False
    default: str | None = None
    """SQL for what a message means that leaves the field out."""

    @property
    def sql_type(self) -> str:
        """Its type in SQL."""
        return _SQL_TYPES[self.kind]


class Columns:
    """The columns that a pattern reads, found while it is compiled."""

    def __init__(self) -> None:
        self.found: dict[str, Column] = {}
        self._owners: dict[str, str] = {}

    def of(self, events: Sequence[type[Event]], field: str) -> Column:
        """The column of a field that all these event types have. Errors: `Refused`."""
        columns = [self._of(event, field) for event in events]
        merged = columns[0]
        for event, column in zip(events, columns, strict=True):
            merged = self._merged(event, merged, column)
        before = self.found.get(merged.name)
        if before is not None:
            merged = self._merged(events[0], before, merged)
        self.found[merged.name] = merged
        self._owners.setdefault(merged.name, events[0].__name__)
        return merged

    def _of(self, event: type[Event], field: str) -> Column:
        where = f"{event.__name__}.{field}"
        if any(one.name == field for one in personal_fields(event)):
            raise refused(f"{where} is personal, and would be plain in Flink's state", "leave it out of the conditions")
        info = next(one for one in msgspec.structs.fields(event) if one.name == field)
        kind, nullable = _kind(msgspec.inspect.type_info(info.type), where)
        if info.encode_name.startswith("ensue_"):
            raise refused(f"{where} has a name that the compiled form uses itself", "rename it")
        default: str | None = None
        if info.default is not msgspec.NODEFAULT and info.default is not None:
            if nullable:
                raise refused(
                    f"{where} may be None and has the default {info.default!r}: SQL cannot tell a field that is left out from None",
                    "give it the default None",
                )
            default = literal(info.default, kind, where)
        elif info.default_factory is not msgspec.NODEFAULT:
            raise refused(f"{where} has a default that is computed", "give it a plain default, or none")
        return Column(info.encode_name, kind, nullable, default)

    def _merged(self, event: type[Event], one: Column, other: Column) -> Column:
        if one.name != other.name or one.kind != other.kind:
            raise refused(
                f"the field {other.name!r} is {other.kind} in {event.__name__} and {one.kind} in "
                f"{self._owners.get(one.name, 'another event')}, and one table has one column for it",
                "give the two fields different names",
            )
        if one.default != other.default:
            raise refused(
                f"the field {one.name!r} has another default in {event.__name__}", "give them the same default"
            )
        return Column(one.name, one.kind, one.nullable or other.nullable, one.default)


def names_of(events: Sequence[type[Event]]) -> tuple[str, ...]:
    """The names under which events of these types, and of their subclasses, are known to others."""
    return tuple(dict.fromkeys(declaration(event).name for event in with_subclasses(events)))


def with_subclasses(events: Sequence[type[Event]]) -> tuple[type[Event], ...]:
    """These types, and all that are one of them."""
    found = list(events)
    for event in found:
        found += event.__subclasses__()  # the list grows while it is walked
    return tuple(dict.fromkeys(found))


def type_is(events: Sequence[type[Event]], column: str) -> str:
    """SQL for: it is one of these types."""
    said = " OR ".join(
        f"{column} = {quoted(name)}" for name in names_of(events)
    )  # Flink fails on IN within MATCH_RECOGNIZE
    return f"({said})" if " OR " in said else said


def quoted(text: str) -> str:
    """A text of SQL."""
    return "'" + text.replace("'", "''") + "'"


def literal(value: Any, kind: Kind, where: str) -> str:
    """A value of SQL, which is that value exactly. Errors: `Refused`."""
    value = value.value if isinstance(value, Enum) else value
    if kind == "bool" and isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, bool):
        pass
    elif kind == "str" and isinstance(value, str):
        return quoted(value)
    elif kind == "int" and isinstance(value, int) and -(2**63) < value < 2**63:
        return f"CAST({value} AS BIGINT)"
    elif kind == "float" and isinstance(value, int | float) and abs(value) < 2**1000 and float(value) == value:
        return f"CAST({quoted(repr(float(value)))} AS DOUBLE)"
    elif kind == "decimal" and isinstance(value, int | Decimal):
        exact = Decimal(value)
        if (
            exact.is_finite()
            and exact == round(exact, DECIMAL_PLACES)
            and abs(exact) < 10 ** (DECIMAL_DIGITS - DECIMAL_PLACES)
        ):
            return f"CAST({quoted(f'{exact:f}')} AS {_SQL_TYPES['decimal']})"
    raise refused(
        f"{where}: the value {value!r} is none that a column of type {_SQL_TYPES[kind]} can have", "another value"
    )


_KINDS: dict[type[msgspec.inspect.Type], Kind] = {
    msgspec.inspect.IntType: "int",
    msgspec.inspect.FloatType: "float",
    msgspec.inspect.DecimalType: "decimal",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.StrType: "str",
    msgspec.inspect.UUIDType: "str",
}


def _kind(hint: msgspec.inspect.Type, where: str) -> tuple[Kind, bool]:
    if isinstance(hint, msgspec.inspect.Metadata):
        return _kind(hint.type, where)
    if isinstance(hint, msgspec.inspect.UnionType):
        parts = [part for part in hint.types if not isinstance(part, msgspec.inspect.NoneType)]
        if len(parts) == 1:
            return _kind(parts[0], where)[0], len(hint.types) > 1
    if isinstance(hint, msgspec.inspect.EnumType):
        return _of_values([one.value for one in hint.cls], where), False
    if isinstance(hint, msgspec.inspect.LiteralType):
        return _of_values(list(hint.values), where), False
    kind = _KINDS.get(type(hint))
    if kind is None:
        raise refused(
            f"{where} is of a type that has no column: {type(hint).__name__.removesuffix('Type').lower()}",
            "compare a text, a number or a truth value",
        )
    return kind, False


def _of_values(values: list[Any], where: str) -> Kind:
    if all(isinstance(value, str) for value in values):
        return "str"
    if all(type(value) is int for value in values):
        return "int"
    raise refused(f"{where} has values of several types", "texts only, or whole numbers only")
