"""What a field is as a column: which values stand for which, in each database.

Columns are ordinary: texts, numbers, bytes. What a database has no type for is text that reads and sorts as people expect where it
can (times in UTC, dates), and JSON for what has parts. Light, so that declaring a view imports nothing that runs one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from ensue.events.personal import FORGOTTEN, Forgotten, personal_value

__all__ = ["Column", "Kind", "RowReader", "column_of", "decoder", "encoder"]

R = TypeVar("R")
Convert: TypeAlias = Callable[[Any], Any]


class Kind(Enum):
    """What a column holds. `ensue.domain.views.table` says how each database stores it."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    REAL = "real"
    BYTES = "bytes"
    DECIMAL = "decimal"
    TIME = "time"
    """An instant: a datetime with its zone."""
    LOCAL_TIME = "local time"
    """A datetime without one: `Annotated[datetime, Meta(tz=False)]`."""
    DATE = "date"
    UUID = "uuid"
    JSON = "json"


class Column(msgspec.Struct, frozen=True):
    """A field as a column. `hint` is its annotation, without None."""

    name: str
    kind: Kind
    optional: bool
    hint: Any
    plain: bool
    """The value is stored as it is, not by what `msgspec` makes of it (enums, durations, times of day)."""
    forgets: str = ""
    """How a personal field says that it is forgotten: by `null`; or in `json`, where None is a value of it. Others do not."""


_inspect = msgspec.inspect
_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (_inspect.StrType, Kind.TEXT),
    (_inspect.BoolType, Kind.BOOLEAN),
    (_inspect.IntType, Kind.INTEGER),
    (_inspect.FloatType, Kind.REAL),
    (_inspect.BytesType, Kind.BYTES),
    (_inspect.DecimalType, Kind.DECIMAL),
    (_inspect.DateType, Kind.DATE),
    (_inspect.UUIDType, Kind.UUID),
)


def column_of(name: str, hint: Any) -> Column:
    """What a field of this annotation is as a column. Errors: those of `msgspec` for a type that it does not know."""
    personal = personal_value(hint)
    if personal is not Forgotten:
        column = column_of(name, personal)
        if column.optional:
            return Column(name, Kind.JSON, True, hint, False, "json")
        return msgspec.structs.replace(column, optional=True, forgets="null")
    info = _inspect.type_info(hint)
    optional = False
    if isinstance(info, _inspect.UnionType) and info.includes_none:
        optional, rest = True, [one for one in info.types if not isinstance(one, _inspect.NoneType)]
        info = rest[0] if len(rest) == 1 else info
    if isinstance(info, _inspect.AnyType):
        optional = True
    for kind, found in _KINDS:
        if isinstance(info, kind):
            return Column(name, found, optional, hint, True)
    if isinstance(info, _inspect.DateTimeType):
        return Column(name, Kind.LOCAL_TIME if info.tz is False else Kind.TIME, optional, hint, True)
    if isinstance(info, _inspect.TimeType | _inspect.TimeDeltaType):
        return Column(name, Kind.TEXT, optional, hint, False)
    values: tuple[Any, ...] = ()
    if isinstance(info, _inspect.EnumType):
        values = tuple(member.value for member in info.cls)
    elif isinstance(info, _inspect.LiteralType):
        values = tuple(info.values)
    if values and all(type(value) is str for value in values):
        return Column(name, Kind.TEXT, optional, hint, False)
    if values and all(type(value) is int for value in values):
        return Column(name, Kind.INTEGER, optional, hint, False)
    return Column(name, Kind.JSON, optional, hint, False)


# ------------------------------------------------------------------------------------------------- values of a column

_encode_json = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode


def _decimal(value: Any) -> str:
    if not isinstance(value, Decimal):
        raise TypeError(f"a Decimal was expected, not {value!r}")
    return str(value)


def _instant(value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(
            f"a datetime with a zone was expected, not {value!r}: say datetime.now(UTC), or declare the field as "
            "Annotated[datetime, Meta(tz=False)]"
        )
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _local(value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise TypeError(f"a datetime without a zone was expected, not {value!r}")
    return value.isoformat(timespec="microseconds")


def _date(value: Any) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError(f"a date was expected, not {value!r}")
    return value.isoformat()


def _uuid(value: Any) -> str:
    if not isinstance(value, UUID):
        raise TypeError(f"a UUID was expected, not {value!r}")
    return str(value)


def _json(value: Any) -> str:
    return _encode_json(value).decode()


_ENCODERS: dict[Kind, Convert] = {
    Kind.DECIMAL: _decimal,
    Kind.TIME: _instant,
    Kind.LOCAL_TIME: _local,
    Kind.DATE: _date,
    Kind.UUID: _uuid,
    Kind.JSON: _json,
}


def encoder(column: Column) -> Convert | None:
    """From a field's value, which is not None, to what the database is given; None where that is the value itself."""
    if column.forgets == "null":
        encode = encoder(msgspec.structs.replace(column, forgets="")) or _same
        return lambda value: None if isinstance(value, Forgotten) else encode(value)
    if column.plain or column.kind is Kind.JSON:
        return _ENCODERS.get(column.kind)
    return msgspec.to_builtins


def _same(value: Any) -> Any:
    return value


def decoder(column: Column) -> Convert | None:
    """From what a database gave, which is not None, to a field's value; None where that is the value itself. It takes what
    PostgreSQL's driver makes of its own types, and the texts that stand for them in SQLite."""
    if column.kind is Kind.JSON:
        return _from_json(column.hint)
    if not column.plain:
        return lambda value: msgspec.convert(value, column.hint)
    return _DECODERS.get(column.kind)


def _from_json(hint: Any) -> Convert:
    decode = msgspec.json.Decoder(hint).decode

    def read(value: Any) -> Any:
        if not isinstance(value, str | bytes):
            return msgspec.convert(value, hint, strict=False)  # the driver has taken it apart
        try:
            return decode(value)
        except msgspec.DecodeError:
            return msgspec.convert(value, hint)

    return read


_DECODERS: dict[Kind, Convert] = {
    Kind.BOOLEAN: bool,
    Kind.REAL: float,
    Kind.DECIMAL: lambda value: value if isinstance(value, Decimal) else Decimal(value),
    Kind.TIME: lambda value: (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC),
    Kind.LOCAL_TIME: lambda value: value if isinstance(value, datetime) else datetime.fromisoformat(value),
    Kind.DATE: lambda value: value if isinstance(value, date) else date.fromisoformat(value),
    Kind.UUID: lambda value: value if isinstance(value, UUID) else UUID(value),
}


class RowReader(Generic[R]):
    """From the columns of a row, in the order of its fields, to the row."""

    __slots__ = ("_decoded", "_forgetting", "_names", "_row")

    def __init__(self, row: type[R], columns: Sequence[Column]) -> None:
        self._row = row
        self._names = tuple(column.name for column in columns)
        self._forgetting = tuple(column.name for column in columns if column.forgets == "null")
        decoders = [(column.name, decoder(column)) for column in columns]
        self._decoded = [(name, decode) for name, decode in decoders if decode is not None]

    def __call__(self, line: Sequence[Any]) -> R:
        """Errors: `ValueError` for another number of columns; `msgspec.ValidationError`, `ValueError` for a value that is not its
        field's."""
        values = dict(zip(self._names, line, strict=True))
        for name, decode in self._decoded:
            value = values[name]
            if value is not None:
                values[name] = decode(value)
        for name in self._forgetting:
            if values[name] is None:
                values[name] = FORGOTTEN
        return self._row(**values)
