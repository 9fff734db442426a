"""Snapshots: states kept beside the log, so that long histories need not be read again. Never authoritative.

A row for each state: its bytes, the position up to which its events are in them, and the fingerprint of the code that made
them. Whoever reads one reads the events behind it as well; one of other code, or of another log, is as none. A row is only replaced by a newer one,
or by one of other code. They are written by a task of their own, some at a time, as part of the log's own batches; what does not
come to that is lost, and costs time.

The table is `ensue_snapshot`, made when the first one is written. Deleting its rows, or the table, is always right.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from ensue.domain.fold import Boundary, Folding
from ensue.domain.states import Kept
from ensue.errors import EnsueError
from ensue.events.fingerprint import fingerprint_of
from ensue.events.stored import Draft
from ensue.observe.signals import Signal, SnapshotsLost
from ensue.store.base import Request, SqlTransaction, Store
from ensue.world import World

__all__ = ["TABLE", "SqlSnapshots", "snapshots_of"]

TABLE = "ensue_snapshot"
EVERY = 100
"""A state is kept when so many of its events would have to be read again."""
BYTES_AN_EVENT = 512
"""And when these are more than the state's own bytes, at so many an event: a large state is written less often."""
WAITING, AT_ONCE = 1_000, 50
LOOK_SECONDS = 10.0
"""So often is looked whether others keep snapshots, while there are none."""
_CREATE = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    boundary {{bytes}} PRIMARY KEY, state TEXT NOT NULL, fingerprint {{bytes}} NOT NULL, position BIGINT NOT NULL,
    data {{bytes}} NOT NULL
)"""
_PUT = f"""INSERT INTO {TABLE} (boundary, state, fingerprint, position, data) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (boundary) DO UPDATE SET
    state = excluded.state, fingerprint = excluded.fingerprint, position = excluded.position, data = excluded.data
WHERE {TABLE}.fingerprint <> excluded.fingerprint OR {TABLE}.position < excluded.position"""
_GET = f"SELECT position, data FROM {TABLE} WHERE boundary = ? AND fingerprint = ?"
_EXISTS = {
    "sqlite": f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{TABLE}'",
    "postgresql": f"SELECT 1 WHERE to_regclass('{TABLE}') IS NOT NULL",
}
_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}


class _SqlStore(Store, Protocol):
    dialect: str

    async def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...


def snapshots_of(store: Any, world: World, observe: Callable[[Signal], None]) -> SqlSnapshots | None:
    """Those of a store that has SQL; None where it has none."""
    return SqlSnapshots(store, world, observe) if store.capabilities.sql and hasattr(store, "select") else None


class SqlSnapshots:
    """See the module. Usable while the store is open."""

    def __init__(self, store: _SqlStore, world: World, observe: Callable[[Signal], None]) -> None:
        self._store = store
        self._world = world
        self._observe = observe
        self._fingerprints: dict[Folding[Any], bytes] = {}
        self._waiting: dict[Boundary[Any], Kept] = {}
        self._task: asyncio.Task[None] | None = None
        self._exists = False
        self._looked_at: float | None = None
        self._closed = False

    async def read(self, boundary: Boundary[Any]) -> Kept | None:
        """See `Snapshots.read`."""
        waiting = self._waiting.get(boundary)
        if waiting is not None:
            return waiting
        try:
            if not await self._are_there():
                return None
            rows = await self._store.select(_GET, (_name_of(boundary), self._fingerprint(boundary.folding)))
        except EnsueError as error:
            # The table may be gone as well; the events are read next, and say what is wrong with the store itself.
            self._exists = False
            self._lost("read", error)
            return None
        if not rows or rows[0][0] > self._store.head():
            return None
        return Kept(bytes(rows[0][1]), rows[0][0])

    def offer(self, boundary: Boundary[Any], kept: Kept) -> bool:
        """See `Snapshots.offer`."""
        if kept.followed < EVERY or kept.followed * BYTES_AN_EVENT < len(kept.data) or self._closed:
            return False
        if len(self._waiting) >= WAITING and boundary not in self._waiting:
            return False
        self._waiting[boundary] = kept
        if self._task is None or self._task.done():
            self._task = self._world.spawn(self._write_all(), name="ensue snapshots")
        return True

    async def close(self) -> None:
        """Write no more: what is not written is lost."""
        self._closed = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def settle(self) -> None:
        """Until nothing is left to be written."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _are_there(self) -> bool:
        if self._exists:
            return True
        now = self._world.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._exists = bool(await self._store.select(_EXISTS[self._store.dialect]))
        return self._exists

    async def _write_all(self) -> None:
        while self._waiting:
            some = [(boundary, self._waiting[boundary]) for boundary in list(self._waiting)[:AT_ONCE]]
            rows = [
                (_name_of(at), at.folding.fold.name, self._fingerprint(at.folding), kept.position, kept.data)
                for at, kept in some
            ]
            try:
                await self._store.room()
                await self._store.write(Request(apply=(_putting(rows, self._store.dialect),)))
                self._exists = True
            except EnsueError as error:
                self._lost("write", error)
            for boundary, kept in some:
                if self._waiting.get(boundary) is kept:
                    del self._waiting[boundary]

    def _lost(self, what: str, error: EnsueError) -> None:
        self._observe(SnapshotsLost(consumer=TABLE, attempted=what, error=f"{type(error).__name__}: {error}"))

    def _fingerprint(self, folding: Folding[Any]) -> bytes:
        if folding not in self._fingerprints:
            fold = folding.fold
            code = fingerprint_of(fold.kinds, (fold.evolve, fold.initial), folding.covered)
            # And of the log: what another one has left in its place is of no use.
            self._fingerprints[folding] = blake2b(code + self._store.log_id.encode(), digest_size=16).digest()
        return self._fingerprints[folding]


def _putting(rows: Sequence[tuple[object, ...]], dialect: str) -> Callable[[SqlTransaction], Sequence[Draft]]:
    def put(sql: SqlTransaction) -> Sequence[Draft]:
        sql.execute(_CREATE.format(bytes=_BYTES[dialect]))
        for row in rows:
            sql.execute(_PUT, row)
        return ()

    return put


def _name_of(boundary: Boundary[Any]) -> bytes:
    """What a state is called in the table: the same in every process, whatever order its types are declared in."""
    digest = blake2b(boundary.folding.fold.name.encode(), digest_size=16)
    terms = sorted((tuple(sorted(term.types)), tuple(sorted(term.tags))) for term in boundary.selection)
    for types, tags in terms:
        digest.update(repr((types, [tag.hex() for tag in tags])).encode())
    return digest.digest()
