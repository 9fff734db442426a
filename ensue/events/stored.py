"""An event as bytes: what goes into a log (`Draft`), what comes out (`Row`), and the metadata beside the payload.

This module knows neither the event's Python type nor the database. Tags are texts `name=value`; a log stores their
128-bit hashes, so that an index entry has one size whatever a customer's name is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import msgspec

__all__ = [
    "TENANT",
    "Draft",
    "Meta",
    "Origin",
    "Row",
    "Tombstone",
    "decode_meta",
    "encode_meta",
    "of_tenant",
    "tag_hash",
    "tenant_of",
    "tenant_tag",
    "tombstone_of",
    "with_tenant",
]

Row: TypeAlias = tuple[
    int, bytes, int, bytes | None, int | None, int, int | None, int | None, int | None, int | None, bytes, bytes
]
"""A stored event, a plain tuple because a log hands out a million a second:

`position, id, type, stream, version, recorded_at, cause, root, maker, nth, meta, data`

`type` is the log's number of a type (name and schema version, see `Log.types`). `stream` is the hash of the key tag
and `version` the dense number within it; both are None for an event without a key. `recorded_at` is in microseconds
and never falls along positions. `cause` and `root` are positions (None for an event that nothing in this log caused);
`maker` is the number of the consumer that emitted it and `nth` its ordinal among what that delivery emitted.
"""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event ready to be stored. Everything that can be wrong with it has been checked."""

    id: bytes
    type_name: str
    type_version: int
    stream: bytes | None
    tags: tuple[bytes, ...]
    meta: bytes
    data: bytes
    cause: int | None = None
    root: int | None = None
    maker: int | None = None
    nth: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) + len(self.meta)


class Origin(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """By which channel an event came, and what it was called there: a message is known again by its source and id."""

    channel: str
    source: str
    id: str


class Meta(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known about an event beside its fields. Ids are UUID bytes; `time` is the event's own, in microseconds."""

    time: int
    correlation: bytes
    causation: bytes | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    depth: int = 0
    traceparent: str | None = None
    tracestate: str | None = None
    headers: Mapping[str, str] | None = None
    origin: Origin | None = None


encode_meta = msgspec.msgpack.Encoder().encode
decode_meta = msgspec.msgpack.Decoder(Meta).decode


class Tombstone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What stands in place of a payload that is in a log no more: where it is, or that nobody has it."""

    archive: bytes | None = None
    """The id of the archive that has it; None where retention dropped it."""
    file: str = ""
    """What the archive's file was called."""

    def encoded(self) -> bytes:
        """As it stands in a row: behind a zero byte, with which no JSON begins."""
        return b"\0" + _encode_tombstone(self)


_encode_tombstone = msgspec.msgpack.Encoder().encode
_decode_tombstone = msgspec.msgpack.Decoder(Tombstone).decode


def tombstone_of(data: bytes) -> Tombstone | None:
    """The tombstone that stands in place of a payload, if one does."""
    return _decode_tombstone(data[1:]) if data[:1] == b"\0" else None


@lru_cache(maxsize=65536)
def tag_hash(text: str) -> bytes:
    """The 128-bit BLAKE2b hash of a tag text `name=value`. Also the identity of the stream of a key tag."""
    return blake2b(text.encode(), digest_size=16).digest()


# ------------------------------------------------------------------------------------------------- tenants that share a log

TENANT = "ensue-tenant"
"""The header that says whose an event is, where tenants share a log."""


def tenant_of(meta: Meta) -> str | None:
    """Whose an event is; None in a log without tenants."""
    return meta.headers.get(TENANT) if meta.headers is not None else None


def with_tenant(meta: Meta, tenant: str) -> Meta:
    """The same, of this tenant."""
    return msgspec.structs.replace(meta, headers={**(meta.headers or {}), TENANT: tenant})


def tenant_tag(tenant: str) -> bytes:
    """What all events of a tenant carry."""
    return tag_hash(f"{TENANT}={tenant}")


def of_tenant(hashed: bytes, tenant: str) -> bytes:
    """The hash of a key or tag as one tenant's: another one for each, and its own inverse."""
    own = tag_hash(f"{TENANT}={tenant}=")
    return (int.from_bytes(hashed, "big") ^ int.from_bytes(own, "big")).to_bytes(16, "big")
