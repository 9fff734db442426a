"""Values as PostgreSQL's binary protocol wants them: for the few types that the log's tables have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, TypeAlias

from ensue.store.transfer import NUL_SHOWN

__all__ = ["Encoder", "array", "bigint", "boolean", "bytea", "encoder", "integer", "text"]

Encoder: TypeAlias = Callable[[Any], bytes | None]

_INT4, _INT8 = Struct("!i").pack, Struct("!q").pack
_SIZED4, _SIZED8 = Struct("!ii").pack, Struct("!iq").pack
_HEADER = Struct("!iiiii").pack
_NULL = b"\xff\xff\xff\xff"
_OIDS = {"boolean": 16, "bytea": 17, "bigint": 20, "integer": 23, "text": 25}


def bigint(value: int | None) -> bytes | None:
    return None if value is None else _INT8(value)


def integer(value: int | None) -> bytes | None:
    return None if value is None else _INT4(value)


def bytea(value: bytes | None) -> bytes | None:
    return value


def text(value: str | None) -> bytes | None:
    """PostgreSQL keeps no NUL in a text. What handlers raise may hold one, and must be kept all the same."""
    return None if value is None else value.replace("\0", NUL_SHOWN).encode()


def boolean(value: bool | None) -> bytes | None:
    return None if value is None else b"\1" if value else b"\0"


def array(kind: str) -> Encoder:
    """The encoder of one-dimensional arrays of this type; their items may be None."""
    oid, item = _OIDS[kind], _KINDS[kind]

    def encode(values: Sequence[Any]) -> bytes:
        parts = [_HEADER(1, 1, oid, len(values), 1)]
        if kind == "bigint":
            parts += [_NULL if value is None else _SIZED8(8, value) for value in values]
        elif kind == "integer":
            parts += [_NULL if value is None else _SIZED4(4, value) for value in values]
        else:
            for value in values:
                encoded = item(value)
                if encoded is None:
                    parts.append(_NULL)
                else:
                    parts += (_INT4(len(encoded)), encoded)
        return b"".join(parts)

    return encode


_KINDS: dict[str, Encoder] = {
    "bigint": bigint,
    "integer": integer,
    "bytea": bytea,
    "text": text,
    "boolean": boolean,
}


def encoder(kind: str) -> Encoder:
    """The encoder of `bigint`, `bytea[]` and so on."""
    return array(kind.removesuffix("[]")) if kind.endswith("[]") else _KINDS[kind]
