"""From cells of a table, or texts that a person wrote, to typed events. Used by backtests and by marbles."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec

from ensue.errors import DefinitionError, InvalidEvent
from ensue.events.message import Event
from ensue.events.personal import personal_fields, plain_type
from ensue.events.recorded import instant, microseconds

__all__ = ["EventMaker", "Unit", "time_of"]

E = TypeVar("E", bound=Event)
Unit: TypeAlias = Literal["s", "ms", "us", "ns"]
_UNITS: Mapping[str, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
_MISSING = object()


class EventMaker:
    """Makes events of one type from values by the names of its fields. Texts become what the fields are: numbers, times, enums."""

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self._plain: type[Any] = plain_type(event) if personal_fields(event) else event
        infos = msgspec.structs.fields(self._plain)
        self._stored = {info.name: info.encode_name for info in infos}
        kinds = cast(msgspec.inspect.StructType, msgspec.inspect.type_info(self._plain))
        self._kinds: dict[str, msgspec.inspect.Type] = {field.name: field.type for field in kinds.fields}
        self._required = {info.name for info in infos if info.required}

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, in their order."""
        return tuple(self._stored)

    @property
    def required(self) -> tuple[str, ...]:
        """Those without a default."""
        return tuple(name for name in self._stored if name in self._required)

    def make(self, values: Mapping[str, Any]) -> Event:
        """An event with these values; others have their defaults. An empty text is one only where the field is a text: else as if it
        was not there, or None. Errors: `InvalidEvent` for a field that is not there, is missing, or cannot have this value."""
        given: dict[str, Any] = {}
        for name, value in values.items():
            if name not in self._stored:
                raise InvalidEvent(
                    f"{self.event.__name__} has no field {name!r}; its fields are: {', '.join(self._stored) or 'none'}"
                )
            if value == "" and not _takes(self._kinds[name], msgspec.inspect.StrType):
                if name not in self._required:
                    continue
                value = None if _takes(self._kinds[name], msgspec.inspect.NoneType) else value
            given[self._stored[name]] = value
        try:
            made = msgspec.convert(given, self._plain, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidEvent(f"{self.event.__name__}: {_said(error)}") from None
        if self._plain is self.event:
            return cast(Event, made)
        return self.event(**{name: getattr(made, name) for name in self._stored})

    def plain(self, name: str, time: datetime) -> object:
        """A value that a field can have, where nobody cares which: 0, an empty text, `time`. Errors: `DefinitionError`."""
        found = _plain_value(self._kinds[name], time)
        if found is _MISSING:
            raise DefinitionError(f"{self.event.__name__}.{name}: there is no plain value of its type; give one")
        return found


def _said(error: msgspec.ValidationError) -> str:
    """`Expected float, got str - at $.celsius` is said of the field."""
    said, _, path = str(error).replace("`", "").partition(" - at ")
    return f"{path.removeprefix('$.')}: {said}" if path else said


def _takes(kind: msgspec.inspect.Type, wanted: type[msgspec.inspect.Type]) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(_takes(one, wanted) for one in kind.types)
    return isinstance(kind, wanted | msgspec.inspect.AnyType)


def _plain_value(kind: msgspec.inspect.Type, time: datetime) -> object:
    match kind:
        case msgspec.inspect.UnionType(types):
            if any(isinstance(one, msgspec.inspect.NoneType) for one in types):
                return None
            return _plain_value(types[0], time)
        case msgspec.inspect.NoneType() | msgspec.inspect.AnyType():
            return None
        case msgspec.inspect.BoolType():
            return False
        case msgspec.inspect.StrType():
            return ""
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return 0
        case msgspec.inspect.DecimalType():
            return "0"
        case msgspec.inspect.DateTimeType():
            return time
        case msgspec.inspect.DateType():
            return time.date()
        case msgspec.inspect.TimeDeltaType():
            return timedelta()
        case msgspec.inspect.EnumType(cls):
            return next(iter(cls)).value
        case msgspec.inspect.LiteralType(values):
            return values[0]
        case msgspec.inspect.ListType() | msgspec.inspect.SetType() | msgspec.inspect.FrozenSetType():
            return []
        case msgspec.inspect.VarTupleType():
            return []
        case msgspec.inspect.DictType():
            return {}
        case _:
            return _MISSING


def time_of(cell: object, *, timezone: Any = None, unit: Unit | None = None) -> int:
    """What a cell says as microseconds since 1970 UTC. A text is ISO 8601; without an offset it is local time in `timezone` (of two times
    when clocks go back: the earlier). A number counts `unit`s since 1970.

    Errors: `InvalidEvent` for what is no time, a local one without a timezone, one that its timezone passes over, a number without
    a unit."""
    if isinstance(cell, str):
        text = cell.strip()
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            number = _number(text)
            if number is None:
                raise InvalidEvent(f"{text!r} is no time; one looks like 2026-03-01T08:00:00Z") from None
            return _counted(number, unit)
        if unit is not None and text.isdigit():  # 20260301 may be both
            return _counted(int(text), unit)
        return _placed(found, timezone)
    if isinstance(cell, datetime):
        return _placed(cell, timezone)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return _counted(cell, unit)
    raise InvalidEvent("there is no time" if cell is None else f"{cell!r} is no time")


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return None


def _counted(number: int | float, unit: Unit | None) -> int:
    if unit is None:
        raise InvalidEvent(f"{number} is a number: say of which unit since 1970 it is: s, ms, us or ns")
    try:
        found = number // 1000 if unit == "ns" and isinstance(number, int) else round(number * _UNITS.get(unit, 0.001))
        instant(found)
    except (ValueError, OverflowError):
        raise InvalidEvent(f"{number} {unit} since 1970 is no time that a calendar has") from None
    return found


def _placed(found: datetime, timezone: Any) -> int:
    if found.tzinfo is not None:
        return microseconds(found)
    if timezone is None:
        raise InvalidEvent(f"{found} is a local time: say of which timezone")
    local = found.replace(tzinfo=timezone)
    back = local.astimezone(UTC).astimezone(timezone).replace(tzinfo=None)
    if back != found:
        raise InvalidEvent(f"{found} does not exist in {timezone}: clocks go forward over it")
    return microseconds(local)
