"""From what came over HTTP to a typed command or query. What cannot be one is a problem that names the field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import inspect

from ensue.errors import DefinitionError
from ensue.events.message import Message
from ensue.http.problems import Problem

__all__ = ["Form", "Given", "invalid"]

Given: TypeAlias = Literal["one", "many", "json"]
"""How a field is given in a query string: once, any number of times, or as JSON text."""

DECIMAL_EXPONENT = 6144
"""That of the widest decimal numbers in common use (IEEE 754 decimal128). `int()` of one with nine digits never ends."""
_WHERE = re.compile(r"(?s)(.*?) - at `(?:key in )?\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.+?)`")
_MANY = inspect.ListType | inspect.SetType | inspect.FrozenSetType | inspect.VarTupleType
_NOT_ONE = (
    _MANY | inspect.TupleType | inspect.DictType | inspect.StructType | inspect.DataclassType | inspect.TypedDictType
    | inspect.NamedTupleType | inspect.AnyType | inspect.RawType | inspect.UnionType
)  # fmt: skip


class Form:
    """How messages of one type are read. Errors: `DefinitionError` for a type that no JSON can stand for."""

    def __init__(self, message: type[Message]) -> None:
        self.message = message
        try:
            self._decode = msgspec.json.Decoder(message).decode
            self._decode_texts = msgspec.json.Decoder(message, strict=False).decode
            msgspec.json.schema(message)  # knows what the decoder finds out only when it meets it
            shape = inspect.type_info(message)
        except (TypeError, NameError) as error:
            raise DefinitionError(f"{message.__name__} cannot be read from JSON: {error}") from error
        assert isinstance(shape, inspect.StructType)
        self._shallow = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self.given: Mapping[str, Given] = {field.encode_name: _given(field.type) for field in shape.fields}

    def of_json(self, body: bytes) -> Any:
        """Errors: `Problem`."""
        try:
            message = self._decode(body)
            unknown = self._shallow(body).keys() - self.given.keys()
        except (ValueError, RecursionError) as error:
            raise invalid(error) from None
        self._known(unknown)
        return _finite(message)

    def of_parameters(self, pairs: Iterable[tuple[str, str]]) -> Any:
        """Errors: `Problem`."""
        fields: dict[str, Any] = {}
        unknown: set[str] = set()
        for name, text in pairs:
            given = self.given.get(name)
            if given is None:
                unknown.add(name)
            elif given == "many":
                fields.setdefault(name, []).append(text)
            elif name in fields:
                raise Problem.of("invalid", f"{name} is given twice; it is one value", field=name)
            else:
                fields[name] = text if given == "one" else _json(name, text)
        self._known(unknown)
        try:
            return _finite(self._decode_texts(msgspec.json.encode(fields)))
        except (ValueError, RecursionError) as error:
            raise invalid(error) from None

    def _known(self, unknown: Iterable[str]) -> None:
        name = min(unknown, default=None)
        if name is not None:
            known = ", ".join(self.given) or "none"
            shown = name if len(name) <= 100 else f"{name[:100]}…"
            raise Problem.of(
                "invalid", f"{self.message.__name__} has no field {shown!r}; its fields are: {known}", field=shown
            )


def invalid(error: Exception) -> Problem:
    """A message that could not be read."""
    if isinstance(error, RecursionError):
        return Problem.of("invalid", "It is nested too deeply")
    text = str(error)
    where = _WHERE.match(text)
    said, path = where.groups() if where else (text, "")
    missing = _MISSING.match(said)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
    return Problem.of("invalid", said, field=path) if path else Problem.of("invalid", said)


def _json(name: str, text: str) -> msgspec.Raw:
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (ValueError, RecursionError) as error:
        raise Problem.of("invalid", f"{name} is given as JSON: {error}", field=name) from None


def _given(type: inspect.Type) -> Given:
    if isinstance(type, inspect.Metadata):
        return _given(type.type)
    if isinstance(type, inspect.UnionType):
        members = [member for member in type.types if not isinstance(member, inspect.NoneType)]
        kinds: set[Given] = {_given(member) for member in members}
        return kinds.pop() if len(kinds) == 1 and (len(members) == 1 or "one" in kinds) else "json"
    if isinstance(type, _MANY):
        return "many" if _given(type.item_type) == "one" else "json"
    return "json" if isinstance(type, _NOT_ONE) else "one"


def _finite(message: Message) -> Message:
    """Errors: `Problem` for a number that no handler can be expected to compute with."""
    for field in message.__struct_fields__:
        if _beyond(getattr(message, field)):
            raise Problem.of("invalid", f"{field} holds a number that is not finite or is out of range", field=field)
    return message


def _beyond(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Decimal):
        return not value.is_finite() or abs(value.adjusted()) > DECIMAL_EXPONENT
    if isinstance(value, Mapping):
        return any(_beyond(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_beyond, value))
    if isinstance(value, msgspec.Struct):
        return any(_beyond(getattr(value, name)) for name in value.__struct_fields__)
    return any(map(_beyond, vars(value).values())) if hasattr(value, "__dataclass_fields__") else False
