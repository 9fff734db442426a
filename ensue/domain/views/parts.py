"""Building by several processes at once, each a part of the rows, up to a position that was the end of the log when it began.

Parts divide keys by a hash that is the same everywhere, so each row is built by one process, from its events in order. When all
parts have come to the goal they are one again, and one builder goes on from there to the end, as it would have from any position.
What cannot be folded or written ends it: everything is thrown away, and one process builds up to that event.

Each part is a row of `ensue_view_part`, changed as `ensue_view` is: by compare-and-set, in the transaction that writes its rows.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from ensue.domain.views import indexes, registry
from ensue.domain.views.building import Builder, Touched
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import BUILDING, Database, Stale, Version
from ensue.domain.views.table import Key, Table, quoted
from ensue.store.base import SqlTransaction
from ensue.world import World

__all__ = [
    "Part",
    "PartBuilder",
    "divide",
    "forgetting",
    "give_up",
    "merge",
    "parts_of",
    "with_progress",
    "worth_dividing",
]

FROM_POSITIONS = 100_000
"""A shorter log is built sooner than processes agree."""
PARTS = 8

_FIELDS = ("name", "number", "part", "parts", "goal", "position", "owner", "rev")
_COLUMNS = ", ".join(map(quoted, _FIELDS))
_TABLE = (
    "CREATE TABLE IF NOT EXISTS ensue_view_part (name TEXT NOT NULL, number BIGINT NOT NULL, part BIGINT NOT NULL, "
    "parts BIGINT NOT NULL, goal BIGINT NOT NULL, position BIGINT NOT NULL, owner TEXT, rev BIGINT NOT NULL, "
    "PRIMARY KEY (name, number, part))"
)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a version that is built in parts."""

    name: str
    number: int
    part: int
    parts: int
    goal: int
    position: int
    owner: str | None
    rev: int

    @property
    def done(self) -> bool:
        return self.position >= self.goal


def worth_dividing(store: Database, processes: int) -> int:
    """Into how many parts a building is divided; 1 is not at all. A server writes for several processes at once, a file for one
    after another."""
    if not store.remote or processes < 2 or store.head() < FROM_POSITIONS:
        return 1
    return min(processes, PARTS)


async def parts_of(store: Database, version: Version) -> list[Part]:
    """The parts of a version; none where it is built as one. Errors: those of the store."""
    if not await registry.is_there(store, "ensue_view_part"):
        return []
    text = f"SELECT {_COLUMNS} FROM ensue_view_part WHERE name = ? AND number = ? ORDER BY part"
    rows = await store.select(text, (version.name, version.number))
    return [Part(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


async def divide(store: Database, world: World, version: Version, table: Table, count: int) -> None:
    """Begin a version in parts. Errors: `Stale`; those of the store."""
    goal = store.head()

    def begin(sql: SqlTransaction) -> None:
        registry.change(sql, version, began_at=world.now(), reason=None)
        sql.execute(f"DROP TABLE IF EXISTS {quoted(table.name)}")
        for statement in table.creation():
            sql.execute(statement)
        sql.execute(_TABLE)
        for part in range(count):
            places = ", ".join("?" * len(_FIELDS))
            sql.execute(
                f"INSERT INTO ensue_view_part ({_COLUMNS}) VALUES ({places})",
                (version.name, version.number, part, count, goal, 0, None, 0),
            )

    await registry.write(store, begin)
    world.failpoint("view.divided")
    await indexes.make(store, table, version, unique=False)


async def merge(store: Database, world: World, version: Version, goal: int) -> None:
    """All parts have come to the goal: go on as one. Errors: `Stale`; those of the store."""
    await registry.write(
        store,
        lambda sql: registry.change(sql, version, position=goal, owner=None),
        forgetting(version),
    )
    world.failpoint("view.merged")


async def give_up(store: Database, world: World, version: Version, why: str) -> None:
    """Begin anew, as one. Errors: `Stale`; those of the store."""
    reason = f"is built by one process, from the beginning: {why}"
    await registry.write(
        store,
        lambda sql: registry.change(sql, version, position=0, owner=None, began_at=None, reason=reason),
        forgetting(version),
    )
    world.failpoint("view.given up")


def forgetting(version: Version) -> registry.Work:
    """Its parts are no more, in a database that has a table of them."""

    def forget(sql: SqlTransaction) -> None:
        sql.execute("DELETE FROM ensue_view_part WHERE name = ? AND number = ?", (version.name, version.number))

    return forget


class PartBuilder(Builder):
    """Builds one part up to its goal, once."""

    def __init__(
        self, reading: Reading, store: Database, world: World, version: Version, part: Part, *, owner: str
    ) -> None:
        super().__init__(reading, store, world, version, owner=owner)
        self.failure: str | None = None
        """Why the part cannot be built to its end."""
        self._part = part
        self._position = part.position
        self._before = part.goal + 1

    async def _begin(self) -> None:
        part = self._part
        self._whole = part.position == 0
        await registry.write(self._store, lambda sql: self._change(sql, part, part.position, self._owner))
        self._world.failpoint("view.part begun")

    async def _finish_after(self, failure: str) -> None:
        self.failure = failure

    def _ours(self, touched: list[Touched]) -> list[Touched]:
        number, parts = self._part.part, self._part.parts
        return [one for one in touched if _hash(one[1]) % parts == number]

    def _move(self, sql: SqlTransaction, version: Version, position: int) -> None:
        self._change(sql, self._part_before, position, self._owner if position < self._part_before.goal else None)

    async def _flush(self, position: int, *, last: bool) -> str | None:
        self._part_before = self._part  # a transaction may be tried twice
        return await super()._flush(position, last=last)

    def _change(self, sql: SqlTransaction, part: Part, position: int, owner: str | None) -> None:
        """Errors: `Stale` where another process goes on with the part, or the version is paused, begun anew or gone."""
        found = sql.execute(
            "UPDATE ensue_view_part SET position = ?, owner = ?, rev = rev + 1 WHERE name = ? AND number = ? AND part = ? AND "
            "rev = ? RETURNING rev",
            (position, owner, part.name, part.number, part.part, part.rev),
        )
        goes_on = sql.execute(
            "SELECT 1 FROM ensue_view WHERE name = ? AND number = ? AND state = ? AND paused = 0",
            (part.name, part.number, BUILDING),
        )
        if not found or not goes_on:
            raise Stale(f"part {part.part} of version {part.number} of {part.name} was changed by somebody else")
        self._part = msgspec.structs.replace(part, position=position, owner=owner, rev=part.rev + 1)


def _hash(key: Key) -> int:
    return crc32("\0".join(map(_text, key)).encode())


def _text(value: Any) -> str:
    return value if type(value) is str else str(msgspec.to_builtins(value))


async def with_progress(store: Database, version: Version) -> Version:
    """The version, for people: while it is built in parts, its position is that which stands for all of them."""
    divided = await parts_of(store, version)
    if not divided:
        return version
    return msgspec.structs.replace(version, position=sum(part.position for part in divided) // len(divided))
