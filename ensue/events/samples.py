"""Golden samples: for each version of each event type what it looked like when it was stored, and what it must be read as.

A sample is recorded once, while its version is the present one, and kept for ever after. Whoever changes the code sees by it what
the change makes of old events, before there is a log with a million of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from ensue.errors import DefinitionError
from ensue.events.message import Event, declaration
from ensue.events.personal import personal_fields, plain_type
from ensue.events.recorded import UnknownEvent
from ensue.events.registry import Registry
from ensue.events.upcasting import Parts

__all__ = ["ReadAs", "Sample", "Samples", "differences", "made", "reads_as", "recorded_again"]

_DEEPEST = 8


class ReadAs(msgspec.Struct, frozen=True):
    """An event as the code reads it."""

    type: str
    version: int
    fields: msgspec.Raw


class Sample(msgspec.Struct, frozen=True):
    """One version of one type: a payload as it was stored, and the event, or events, that it must be read as."""

    type: str
    version: int
    payload: msgspec.Raw
    reads_as: tuple[ReadAs, ...]


class Samples(msgspec.Struct, frozen=True):
    """By type and version."""

    samples: tuple[Sample, ...]
    ensue_samples: int = 1


_encode = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode


def reads_as(registry: Registry, name: str, version: int, payload: bytes) -> tuple[ReadAs, ...]:
    """What the code makes of a payload. Errors: those of reading it; `DefinitionError` for a type that is not known."""
    read = registry.reader(name, version)(payload)
    if isinstance(read, UnknownEvent):
        raise DefinitionError(f"no type of the code is called {name!r}, nor was, nor did it become others")
    events = read.events if isinstance(read, Parts) else (read,)
    return tuple(
        ReadAs(declaration(type(event)).name, declaration(type(event)).version, msgspec.Raw(_encode(event)))
        for event in events
    )


def recorded_again(registry: Registry, events: Sequence[type[Event]], known: Samples) -> Samples:
    """The known samples with what they are read as now, and new ones for present versions that have none.

    Errors: `DefinitionError` for a sample that cannot be read any more, or a type of which none can be made.
    """
    found = {(one.type, one.version): one for one in known.samples}
    for event in events:
        declared = declaration(event)
        place = (declared.name, declared.version)
        if place not in found:
            found[place] = Sample(*place, msgspec.Raw(_encode(made(event))), ())
    samples: list[Sample] = []
    for place in sorted(found):
        sample = found[place]
        try:
            read = reads_as(registry, *place, bytes(sample.payload))
        except Exception as error:  # an upcaster is the user's code
            raise DefinitionError(f"the sample of {place[0]} version {place[1]} cannot be read: {error}") from error
        samples.append(msgspec.structs.replace(sample, reads_as=read))
    return Samples(tuple(samples))


def differences(registry: Registry, events: Iterable[type[Event]], known: Samples) -> Iterator[str]:
    """Each sample that is not read as it was recorded, and each present version without one, in a sentence."""
    for sample in known.samples:
        where = f"{sample.type} version {sample.version}"
        try:
            read = reads_as(registry, sample.type, sample.version, bytes(sample.payload))
        except Exception as error:  # an upcaster is the user's code
            yield f"{where} cannot be read any more: {error}"
            continue
        recorded = [(one.type, one.version, _value(one.fields)) for one in sample.reads_as]
        now = [(one.type, one.version, _value(one.fields)) for one in read]
        if recorded != now:
            yield f"{where} is read as {_told(now)}, and was recorded to be read as {_told(recorded)}"
    there = {(one.type, one.version) for one in known.samples}
    for event in events:
        declared = declaration(event)
        if (declared.name, declared.version) not in there:
            yield f"{declared.name} version {declared.version} has no sample: record one with `ensue schema samples`"


def _value(fields: msgspec.Raw) -> Any:
    return msgspec.json.decode(fields)


def _told(read: list[tuple[str, int, Any]]) -> str:
    return (
        " and ".join(f"{name} version {version} {_encode(fields).decode()}" for name, version, fields in read)
        or "nothing"
    )


# --------------------------------------------------------------------------------------------------------------- making


def made(event: type[Event]) -> dict[str, Any]:
    """Fields of an event of this type, as they are encoded: always the same, and every field has a value that tells.

    Errors: `DefinitionError` for a field of which none can be made.
    """
    plain = plain_type(event) if personal_fields(event) else event
    info = inspect.type_info(plain)
    assert isinstance(info, inspect.StructType)
    name = declaration(event).name
    try:
        fields = _object(info, 0)
        msgspec.json.decode(_encode(fields), type=plain)
    except (ValueError, TypeError) as error:
        raise DefinitionError(
            f"no sample of {name} can be made by itself: {error}. Write one by hand into the file: its type, version and payload"
        ) from error
    return fields


def _object(info: Any, depth: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(info, inspect.StructType) and info.tag_field is not None:
        fields[info.tag_field] = info.tag
    for field in info.fields:
        if depth < _DEEPEST or field.required:
            fields[field.encode_name] = _made(field.type, field.encode_name, depth + 1)
    return fields


_SAMPLES: dict[type, Any] = {
    inspect.AnyType: "anything",
    inspect.NoneType: None,
    inspect.BoolType: True,
    inspect.BytesType: "Ynl0ZXM=",
    inspect.ByteArrayType: "Ynl0ZXM=",
    inspect.MemoryViewType: "Ynl0ZXM=",
    inspect.TimeType: "12:34:56",
    inspect.DateType: "2024-02-29",
    inspect.TimeDeltaType: "P1DT1H",
    inspect.UUIDType: "0189f2c4-0000-7000-8000-000000000001",
    inspect.DecimalType: "12.50",
    inspect.RawType: {"raw": True},
}


def _made(info: Any, name: str, depth: int) -> Any:
    if depth > 4 * _DEEPEST:
        raise ValueError(f"{name} holds itself without end")
    if type(info) in _SAMPLES:
        return _SAMPLES[type(info)]
    match info:
        case inspect.Metadata():
            return _made(info.type, name, depth)
        case inspect.StrType():
            return _text(info, name)
        case inspect.IntType() | inspect.FloatType():
            return _number(info)
        case inspect.DateTimeType():
            return "2024-02-29T12:34:56" if info.tz is False else "2024-02-29T12:34:56Z"
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.LiteralType():
            return info.values[0]
        case inspect.UnionType():
            some = [one for one in info.types if not isinstance(one, inspect.NoneType)]
            return None if depth >= _DEEPEST and len(some) < len(info.types) else _made(some[0], name, depth)
        case inspect.TupleType():
            return [_made(item, name, depth + 1) for item in info.item_types]
        case inspect.NamedTupleType():
            return [_made(field.type, name, depth + 1) for field in info.fields]
        case inspect.DictType():
            few = 0 if depth >= _DEEPEST else max(1, info.min_length or 0)
            return {_key(info.key_type, name, number): _made(info.value_type, name, depth + 1) for number in range(few)}
        case inspect.StructType() if info.array_like:
            return [_made(field.type, field.encode_name, depth + 1) for field in info.fields]
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            return _object(info, depth)
        case _ if hasattr(info, "item_type"):
            few = info.min_length or 0 if depth >= _DEEPEST else max(1, info.min_length or 0)
            return [_made(info.item_type, name, depth + 1) for _ in range(few)]
        case _:
            raise ValueError(f"{name} is of a type of its own ({type(info).__name__})")


def _text(info: Any, name: str) -> str:
    text = f"a {name.replace('_', ' ')}".ljust(info.min_length or 0, ".")
    return text[: info.max_length] if info.max_length is not None else text


def _number(info: Any) -> int | float:
    step: Any = info.multiple_of or 1
    low: Any = info.ge if info.ge is not None else info.gt + step if info.gt is not None else None
    high: Any = info.le if info.le is not None else info.lt - step if info.lt is not None else None
    number: Any = 7 if (low is None or low <= 7) and (high is None or high >= 7) else high if low is None else low
    if info.multiple_of:
        number = -(-number // step) * step
    if isinstance(info, inspect.IntType):
        return int(number)
    return float(number) + (0.5 if low is None and high is None else 0)


def _key(info: Any, name: str, number: int) -> str:
    found = _made(info, name, _DEEPEST)
    return f"{found}{number or ''}" if isinstance(found, str) else str(found)
