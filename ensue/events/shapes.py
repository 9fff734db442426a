"""What a value looks like once it is encoded, as data: written down for a version of an event type, and compared with what the
code reads now.

A shape is a text for a plain value (`text`, `int`, `decimal`, `datetime`, …) or an object with one word: `list`, `tuple`, `map`,
`enum`, `either`, `object`, `again` (the object of that name, which holds itself), `limited` (a shape with bounds), `custom`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

from ensue.events.message import Event
from ensue.events.personal import personal_fields, plain_type

__all__ = ["Field", "Shape", "fields_of", "reasons"]

Shape: TypeAlias = Any


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of an object as it is stored. `required`: what lacks it cannot be read."""

    shape: Shape
    required: bool = True


_PLAIN: dict[type, str] = {
    inspect.AnyType: "any",
    inspect.NoneType: "null",
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "text",
    inspect.BytesType: "base64",
    inspect.ByteArrayType: "base64",
    inspect.MemoryViewType: "base64",
    inspect.DateTimeType: "datetime",
    inspect.TimeType: "time",
    inspect.DateType: "date",
    inspect.TimeDeltaType: "duration",
    inspect.UUIDType: "uuid",
    inspect.DecimalType: "decimal",
    inspect.RawType: "any",
}
_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")
_LISTS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
    inspect.CollectionType,
)  # fmt: skip
_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)

READS: Mapping[str, frozenset[str]] = {
    "text": frozenset(("base64", "datetime", "time", "date", "duration", "uuid", "decimal")),
    "float": frozenset(("int",)),
    "decimal": frozenset(("int", "float")),
}
"""What else a plain value is read from than from its own kind."""


def fields_of(kind: type[Any]) -> dict[str, Field]:
    """The fields of a type as they are stored, in their order. Errors: `TypeError`, `NameError`."""
    personal = {field.stored for field in personal_fields(kind)} if issubclass(kind, Event) else set[str]()
    found = _fields(inspect.type_info(plain_type(kind) if personal else kind), ())
    return {
        name: Field(shape={"personal": field.shape}, required=field.required) if name in personal else field
        for name, field in found.items()
    }


def _fields(info: Any, within: tuple[type, ...]) -> dict[str, Field]:
    within = (*within, info.cls)
    return {
        field.encode_name: Field(shape=_shape(field.type, within), required=field.required) for field in info.fields
    }


def _shape(info: Any, within: tuple[type, ...]) -> Shape:
    bounds = {name: getattr(info, name) for name in _BOUNDS if getattr(info, name, None) is not None}
    shape = _bare(info, within)
    return {"limited": shape, **bounds} if bounds else shape


def _bare(info: Any, within: tuple[type, ...]) -> Shape:
    if isinstance(info, inspect.Metadata):
        return _shape(info.type, within)
    if type(info) in _PLAIN:
        return _PLAIN[type(info)]
    if isinstance(info, _LISTS):
        return {"list": _shape(info.item_type, within)}
    if isinstance(info, inspect.TupleType | inspect.NamedTupleType):
        items = info.item_types if isinstance(info, inspect.TupleType) else [field.type for field in info.fields]
        return {"tuple": [_shape(item, within) for item in items]}
    if isinstance(info, inspect.DictType):
        return {"map": [_shape(info.key_type, within), _shape(info.value_type, within)]}
    if isinstance(info, inspect.EnumType):
        return {"enum": sorted((one.value for one in info.cls), key=repr)}
    if isinstance(info, inspect.LiteralType):
        return {"enum": sorted(info.values, key=repr)}
    if isinstance(info, inspect.UnionType):
        return {"either": [_shape(one, within) for one in info.types]}
    if isinstance(info, _OBJECTS):
        return _object(info, within)
    return {"custom": getattr(getattr(info, "cls", None), "__qualname__", type(info).__name__)}


def _object(info: Any, within: tuple[type, ...]) -> Shape:
    name = info.cls.__qualname__
    if info.cls in within:
        return {"again": name}
    shape: dict[str, Any] = {"object": name, "fields": {}}
    for field, described in _fields(info, within).items():
        shape["fields"][field] = {"shape": described.shape, "required": described.required}
    if isinstance(info, inspect.StructType):
        if info.tag_field is not None:
            shape["tag"] = [info.tag_field, info.tag]
        if info.array_like:
            shape["array"] = True
        if info.forbid_unknown_fields:
            shape["closed"] = True
    return shape


# ------------------------------------------------------------------------------------------------------------ comparing


def reasons(old: Mapping[str, Field], new: Mapping[str, Field], *, closed: bool = False) -> Iterator[tuple[str, str]]:
    """Why what was written with the old fields cannot be read with the new ones: the field as a path, and the reason."""
    for name, field in new.items():
        written = old.get(name)
        if written is None:
            if field.required:
                yield name, "is new and has no default, and what is recorded lacks it"
            continue
        if field.required and not written.required:
            yield name, "has no default any more, and what is recorded may lack it"
        yield from _differences(name, written.shape, field.shape)
    if closed:
        for name in old.keys() - new.keys():
            yield name, "is gone, and the type forbids fields that it does not know"


def _differences(path: str, old: Shape, new: Shape) -> Iterator[tuple[str, str]]:
    if old == new or new == "any":
        return
    if _word(new) == "personal":  # what was written before it became so is in plain
        yield from _differences(path, old["personal"] if _word(old) == "personal" else old, new["personal"])
        return
    if _word(new) == "limited":
        yield from _bounds(path, old, new)
        old = old["limited"] if _word(old) == "limited" else old
        yield from _differences(path, old, new["limited"])
        return
    if _word(old) == "limited":
        old = old["limited"]
    if _word(old) == "either" or _word(new) == "either":
        yield from _of_unions(path, old, new)
        return
    if _word(old) == "enum":
        yield from _of_enum(path, old["enum"], new)
        return
    if isinstance(old, str) or isinstance(new, str) or _word(old) != _word(new):
        if not (isinstance(old, str) and isinstance(new, str) and (old == new or old in READS.get(new, ()))):
            yield path, f"was {_told(old)} and is {_told(new)}"
        return
    yield from _of_parts(path, old, new)


def _of_parts(path: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    match _word(new):
        case "list":
            yield from _differences(f"{path}[]", old["list"], new["list"])
        case "map":
            yield from _differences(f"{path} (names)", old["map"][0], new["map"][0])
            yield from _differences(f"{path}{{}}", old["map"][1], new["map"][1])
        case "tuple":
            if len(old["tuple"]) != len(new["tuple"]):
                yield path, f"was a tuple of {len(old['tuple'])} and is one of {len(new['tuple'])}"
                return
            for number, (before, after) in enumerate(zip(old["tuple"], new["tuple"], strict=True)):
                yield from _differences(f"{path}[{number}]", before, after)
        case "object":
            if old.get("tag") != new.get("tag") or old.get("array") != new.get("array"):
                yield path, f"is told apart by {new.get('tag')}, and was by {old.get('tag')}"
                return
            found = reasons(_named(old), _named(new), closed=bool(new.get("closed")))
            yield from ((f"{path}.{inner}", reason) for inner, reason in found)
        case _:
            if old != new:
                yield path, f"was {_told(old)} and is {_told(new)}"


def _named(shape: Any) -> dict[str, Field]:
    return {name: Field(**field) for name, field in shape["fields"].items()}


def _of_unions(path: str, old: Shape, new: Shape) -> Iterator[tuple[str, str]]:
    """Each of what was possible must be one of what is."""
    before = old["either"] if _word(old) == "either" else [old]
    after = new["either"] if _word(new) == "either" else [new]
    for one in before:
        tries = [list(_differences(path, one, other)) for other in after]
        if all(tries):
            same = [found for other, found in zip(after, tries, strict=True) if _kin(one, other)]
            yield from same[0] if same else [(path, f"may be recorded as {_told(one)}, and is {_told(new)}")]


def _kin(one: Shape, other: Shape) -> bool:
    if _word(one) != _word(other) or not _word(one):
        return False
    return _word(one) != "object" or one.get("tag") == other.get("tag")


def _of_enum(path: str, values: list[Any], new: Shape) -> Iterator[tuple[str, str]]:
    if _word(new) == "enum":
        gone = [value for value in values if value not in new["enum"]]
        if gone:
            yield path, f"may be recorded as {', '.join(map(repr, gone))}, which it does not take any more"
        return
    for value in values:
        kind = "text" if isinstance(value, str) else "int" if isinstance(value, int) else "null"
        if new != kind and kind not in READS.get(new if isinstance(new, str) else "", ()):
            yield path, f"may be recorded as {value!r}, and is {_told(new)}"
            return


def _bounds(path: str, old: Shape, new: Any) -> Iterator[tuple[str, str]]:
    before = old if _word(old) == "limited" else {}
    for name in _BOUNDS:
        bound, former = new.get(name), before.get(name)
        if bound is None or bound == former:
            continue
        wider = former is not None and (
            (name in ("gt", "ge", "min_length") and bound < former)
            or (name in ("lt", "le", "max_length") and bound > former)
        )
        if not wider:
            yield (
                path,
                f"has the bound {name}={bound!r}, and what is recorded had {'none' if former is None else former}",
            )


def _word(shape: Shape) -> str:
    return "" if isinstance(shape, str) else next(iter(shape))


def _told(shape: Shape) -> str:
    match _word(shape):
        case "":
            return str(shape)
        case "either":
            return " or ".join(map(_told, shape["either"]))
        case "enum":
            return f"one of {', '.join(map(repr, shape['enum']))}"
        case "object":
            return str(shape["object"])
        case "list":
            return f"a list of {_told(shape['list'])}"
        case "limited":
            return _told(shape["limited"])
        case "personal":
            return f"personal, {_told(shape['personal'])}"
        case word:
            return f"a {word}"
