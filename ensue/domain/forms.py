"""States as bytes and back: how they are remembered, so that no decision ever sees what another one has changed.

Only what comes back as it was is written down. Whether it does is looked at each time, types included: a state that holds a
`defaultdict` where it declares a dictionary, or a subclass of what it declares, is read from its events every time instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

__all__ = ["Form", "form_of"]

_PLAIN = frozenset((int, float, bool, str, bytes, type(None)))


class Form:
    """How the states of a fold are written down. `kinds` are the classes that they may have."""

    def __init__(self, kinds: Sequence[type]) -> None:
        self._kinds = tuple(kinds)
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self._decoders: tuple[Callable[[Any], Any], ...] = tuple(msgspec.msgpack.Decoder(kind).decode for kind in kinds)

    def encode(self, value: Any) -> bytes | None:
        """The bytes of a state; None for one that would come back as something else."""
        kind = type(value)
        if kind not in self._kinds:
            return None
        number = self._kinds.index(kind)
        try:
            data = self._encode(value)
            back = self._decoders[number](data)
            same = bool(back == value) and _alike(back, value)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        return bytes((number,)) + data if same else None

    def decode(self, data: bytes) -> Any:
        """A state that nobody else holds. Errors: `ValueError` for bytes that are none of these kinds."""
        if not data or data[0] >= len(self._decoders):
            raise ValueError("these are not the bytes of such a state")
        return self._decoders[data[0]](memoryview(data)[1:])


def form_of(kinds: Sequence[Any]) -> Form | None:
    """The form of these classes, where every field of theirs says wholly what it holds; else None."""
    if not kinds or len(kinds) > 100 or not all(isinstance(kind, type) and _whole(kind) for kind in kinds):
        return None
    return Form(kinds)


def _whole(kind: type) -> bool:
    try:
        pending: list[Any] = [msgspec.inspect.type_info(kind)]
        msgspec.msgpack.Decoder(kind)
    except (TypeError, NameError):
        return False
    seen = 0
    while pending:
        found = pending.pop()
        seen += 1
        vague = isinstance(found, msgspec.inspect.AnyType | msgspec.inspect.CustomType | msgspec.inspect.RawType)
        if vague or seen > 2000:
            return False
        if isinstance(found, msgspec.Struct):
            pending.extend(getattr(found, name) for name in found.__struct_fields__ if name != "cls")
        elif isinstance(found, tuple):
            pending.extend(found)
    return True


def _alike(one: Any, other: Any) -> bool:
    """Whether two equal values have the same types all through."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _PLAIN:
        return True
    if kind is list or kind is tuple:
        return (_all_plain(one) and list(map(type, one)) == list(map(type, other))) or all(map(_alike, one, other))
    if kind is dict:
        # Equal dictionaries may differ in their order, and in the types of keys that are equal.
        return list(map(type, one)) == list(map(type, other)) and all(map(_alike, one.values(), other.values()))
    if kind is set or kind is frozenset:
        return sorted(map(str, map(type, one))) == sorted(map(str, map(type, other)))
    if isinstance(one, msgspec.Struct):
        mine, others = msgspec.structs.astuple(one), msgspec.structs.astuple(other)
        return [*map(type, mine)] == [*map(type, others)] and (_all_plain(mine) or all(map(_alike, mine, others)))
    if dataclasses.is_dataclass(kind):
        return all(_alike(getattr(one, at.name), getattr(other, at.name)) for at in dataclasses.fields(kind))
    return True


def _all_plain(values: Sequence[Any]) -> bool:
    return _PLAIN.issuperset(map(type, values))
