"""What a detector keeps beside its progress: how far time has come, and a row for each key that something waits for.

The tables are `ensue_pattern` and `ensue_pattern_key`, made when the first state is written. They are written in a transaction that
moves the progress, though not in each: what events alone have made of the state since is made again by taking them once more, and what
that finds was told. Of other code, or gone, all of the state is built anew from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol, cast
from uuid import UUID

import msgspec

from ensue.events.message import Event
from ensue.events.stored import Draft, Row
from ensue.patterns.operator import Taken
from ensue.store.base import Emission, Store, WriterTransaction

__all__ = ["KEYS", "TABLE", "Kept", "SqlStore", "are_there", "create", "pack", "put", "read", "sql_of", "unpack"]

TABLE, KEYS = "ensue_pattern", "ensue_pattern_key"
_CREATE = (
    f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    name TEXT PRIMARY KEY, fingerprint {{bytes}} NOT NULL, position BIGINT NOT NULL, progress {{bytes}} NOT NULL,
    watermark BIGINT, events BIGINT NOT NULL, findings BIGINT NOT NULL, micros BIGINT NOT NULL
)""",
    f"""CREATE TABLE IF NOT EXISTS {KEYS} (
    name TEXT NOT NULL, key TEXT NOT NULL, state {{bytes}} NOT NULL, PRIMARY KEY (name, key)
)""",
)
_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}
_EXISTS = {
    "sqlite": f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{KEYS}'",
    "postgresql": f"SELECT 1 WHERE to_regclass('{KEYS}') IS NOT NULL",
}
_PUT = f"""INSERT INTO {TABLE} (name, fingerprint, position, progress, watermark, events, findings, micros)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
    fingerprint = excluded.fingerprint, position = excluded.position, progress = excluded.progress,
    watermark = excluded.watermark, events = {TABLE}.events + excluded.events,
    findings = {TABLE}.findings + excluded.findings, micros = {TABLE}.micros + excluded.micros"""
_PUT_KEY = f"""INSERT INTO {KEYS} (name, key, state) VALUES (?, ?, ?)
ON CONFLICT (name, key) DO UPDATE SET state = excluded.state"""
_DROP_KEY = f"DELETE FROM {KEYS} WHERE name = ? AND key = ?"
_DROP_ALL = f"DELETE FROM {KEYS} WHERE name = ?"


class SqlStore(Store, Protocol):
    """A store that has SQL."""

    dialect: str

    async def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """A reading statement."""
        ...


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The row of one detector, as it was written with the progress. The last three grow, by what is added each time."""

    name: str
    fingerprint: bytes
    position: int
    progress: bytes
    """How far its time has come, packed."""
    watermark: int | None
    events: int = 0
    findings: int = 0
    micros: int = 0


def sql_of(store: Any) -> SqlStore | None:
    """The store, where it has SQL."""
    return cast(SqlStore, store) if store.capabilities.sql and hasattr(store, "select") else None


async def are_there(store: SqlStore) -> bool:
    """Whether the tables are there."""
    return bool(await store.select(_EXISTS[store.dialect]))


def create(dialect: str) -> Emission:
    """Make the tables where they are not there."""

    def make(sql: WriterTransaction) -> Sequence[Draft]:
        for statement in _CREATE:
            sql.execute(statement.format(bytes=_BYTES[dialect]))
        return ()

    return make


def put(kept: Kept, keys: Iterable[tuple[str, bytes | None]], *, anew: bool) -> Emission:
    """Write this, and the states of these keys; `anew`: of no others. None is no state."""

    def write(sql: WriterTransaction) -> Sequence[Draft]:
        name = kept.name
        if anew:
            sql.later(_DROP_ALL, (name,))
        for key, state in keys:
            if state is not None:
                sql.later(_PUT_KEY, (name, key, state))
            elif not anew:
                sql.later(_DROP_KEY, (name, key))
        watermark, added = kept.watermark, (kept.events, kept.findings, kept.micros)
        sql.later(_PUT, (name, kept.fingerprint, kept.position, kept.progress, watermark, *added))
        return ()

    return write


async def read(store: SqlStore, name: str) -> tuple[Kept, list[tuple[str, bytes]]] | None:
    """What is kept of a detector: its progress and the states of its keys are packed. Errors: those of the store."""
    if not await are_there(store):
        return None
    columns = "fingerprint, position, progress, watermark, events, findings, micros"
    rows = await store.select(f"SELECT {columns} FROM {TABLE} WHERE name = ?", (name,))
    if not rows:
        return None
    fingerprint, position, progress, watermark, events, findings, micros = rows[0]
    found = await store.select(f"SELECT key, state FROM {KEYS} WHERE name = ? ORDER BY key", (name,))
    kept = Kept(
        name=name,
        fingerprint=bytes(fingerprint),
        position=position,
        progress=bytes(progress),
        watermark=watermark,
        events=events,
        findings=findings,
        micros=micros,
    )
    return kept, [(key, bytes(packed)) for key, packed in found]


# --------------------------------------------------------------------------------------------------- values as bytes

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_TAKEN, _TUPLE, _SET, _FROZEN, _PAIRS, _WHOLE = 1, 2, 3, 4, 5, 6
_MICROSECOND = timedelta(microseconds=1)
_TEXTS: dict[int, tuple[type, Callable[[str], object]]] = {
    10: (Decimal, Decimal),
    11: (datetime, datetime.fromisoformat),
    12: (date, date.fromisoformat),
    13: (time, time.fromisoformat),
    14: (UUID, UUID),
    15: (timedelta, lambda said: int(said) * _MICROSECOND),
    _WHOLE: (int, int),
}
_CODES = {kind: code for code, (kind, _) in _TEXTS.items()}
_GROUPS: dict[int, type] = {_TUPLE: tuple, _SET: set, _FROZEN: frozenset}
_GROUP_CODES = {kind: code for code, kind in _GROUPS.items()}


def pack(value: Any) -> bytes:
    """Plain values and `Taken`, as bytes from which the same comes back. Errors: `TypeError` for any other value."""
    return _encode(_packed(value))


def _packed(value: Any) -> Any:
    kind: type = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else msgspec.msgpack.Ext(_WHOLE, b"%d" % value)
    if kind is Taken:
        row = value.row
        if row is None:
            raise TypeError("an event that no log holds cannot be kept")
        return msgspec.msgpack.Ext(_TAKEN, _encode((value.time, row, type(value.event).__ensue_type__.name)))
    if kind is list:
        return [_packed(one) for one in value]
    if kind in _GROUP_CODES:
        return msgspec.msgpack.Ext(_GROUP_CODES[kind], _encode([_packed(one) for one in value]))
    if kind is dict:
        if all(type(name) is str for name in value):
            return {name: _packed(one) for name, one in value.items()}
        return msgspec.msgpack.Ext(_PAIRS, _encode([[_packed(name), _packed(one)] for name, one in value.items()]))
    if kind in _CODES:
        said = str(value // _MICROSECOND) if kind is timedelta else str(value)
        return msgspec.msgpack.Ext(_CODES[kind], said.encode())
    raise TypeError(f"a value of the type {kind.__name__} cannot be kept in the state of a pattern")


def unpack(data: bytes, event: Callable[[Row, str], Event]) -> Any:
    """The value again."""
    return _unpacked(_decode(data), event)


def _unpacked(value: Any, event: Callable[[Row, str], Event]) -> Any:
    if isinstance(value, list):
        several: list[Any] = value
        return [_unpacked(one, event) for one in several]
    if isinstance(value, dict):
        named: dict[str, Any] = value
        return {name: _unpacked(one, event) for name, one in named.items()}
    if not isinstance(value, msgspec.msgpack.Ext):
        return value
    code, data = value.code, bytes(value.data)
    if code in _TEXTS:
        return _TEXTS[code][1](data.decode())
    inner: Any = _decode(data)
    if code == _TAKEN:
        row: Any = tuple(inner[1])
        return Taken(inner[0], row[0], event(row, inner[2]), row)
    found: list[Any] = [_unpacked(one, event) for one in inner]
    return dict(found) if code == _PAIRS else _GROUPS[code](found)
