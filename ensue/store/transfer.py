"""Moving house: what a log consists of, how an adapter gives and takes it, and the copy from one store to another.

A log is `PARTS`: named tables with the columns listed here, in rows of plain values that are the same for every adapter, each
part ordered by its key. A new table of a log that has to move is a line in `PARTS`; adapters map names only. Rows about
running processes are no part: nobody runs a log that moves. Tables that the application keeps in the log's database move
with it, as parts that the source tells of.

States of a target: empty → half (a mark says of which log, as of which write) → whole. A half is no log yet: it has no head,
opening it is refused, and only `copy` goes on with it. The step to whole comes last, after both sides were compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

from ensue.errors import Misuse, Unavailable, WrongLog
from ensue.store.base import Node
from ensue.store.nodes import host_name, living
from ensue.world import World

__all__ = [
    "NUL_SHOWN",
    "PAGE_BYTES",
    "PAGE_ROWS",
    "PARTS",
    "Column",
    "Copied",
    "Difference",
    "Found",
    "Origin",
    "Part",
    "Place",
    "Table",
    "Tell",
    "Transfer",
    "Values",
    "copy",
    "half_copied",
    "page_of",
    "plain",
]

PAGE_ROWS = 5_000
PAGE_BYTES = 8 * 1024 * 1024
"""A page ends with the row that fills it, so that large payloads do not have to fit in memory by the thousand."""

NUL_SHOWN = "\u2400"
"""Stands for NUL in texts."""

Values: TypeAlias = tuple[Any, ...]
"""One row: bytes, int, str or None; float in tables of the application. Whatever a database has instead (booleans, unsigned
numbers, ids and times of its own) is mapped to these."""


class Column(msgspec.Struct, frozen=True):
    """`kind` is integer, real, text, blob, or what else it was declared as."""

    name: str
    kind: str
    required: bool


class Table(msgspec.Struct, frozen=True):
    """What a table of the application is made of, its key first."""

    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]
    statements: tuple[str, ...]
    """These make it in a database of the same kind; in others it gets its columns, its key, and what is unique."""


class Part(msgspec.Struct, frozen=True):
    """One table of a log. Its first `key` columns identify a row and order the part: numbers by value, bytes and texts byte
    by byte, the latter in UTF-8. Where a row may be large, it is by its last column."""

    name: str
    label: str
    columns: tuple[str, ...]
    key: int = 1
    table: Table | None = None
    """Of a table of the application; `name` is then all of its name."""


def _part(name: str, label: str, columns: str, key: int = 1) -> Part:
    return Part(name, label, tuple(columns.split()), key)


PARTS = (
    _part("event_type", "event types", "id name version"),
    _part("former_name", "former names", "former name"),
    _part("event", "events", "position id type stream version recorded_at cause root maker nth meta data"),
    _part("event_tag", "tags", "tag position type", 2),
    _part("request", "idempotency keys", "key fingerprint first last at result"),
    _part("consumer", "consumers", "id name start key_tag segments status reason handles"),
    _part("progress", "checkpoints", "consumer segment position fence owner rev unclean count digest ahead", 2),
    _part(
        "lane",
        "lanes",
        "consumer key segment key_text after state attempts due_at error edits discard rev edit",
        2,
    ),
    _part(
        "dead_letter",
        "dead letters",
        "id consumer position key key_text reason attempts parked_at resolution note by resolved_at traceback",
    ),
    _part("delivery", "delivery records", "number consumer first last at packed"),
)
"""In the order in which they are copied. What a value means where adapters could differ: `handles` is JSON with its names in
order, `ahead` msgpack, `digest` signed, `discard` 0 or 1, and `number` the order of the commits that made the records."""


_EVENTS = next(part for part in PARTS if part.name == "event")


class Origin(msgspec.Struct, frozen=True):
    """The head of a log: what it is called everywhere, and as of which write it was read."""

    log_id: str
    position: int
    recorded_at: int
    batch: bytes
    """Another one after every write."""


class Place(StrEnum):
    """What is found in a place."""

    EMPTY = "empty"
    """No log, or one that nothing was ever written to."""
    HALF = "half"
    WHOLE = "whole"


class Found(msgspec.Struct, frozen=True):
    """What is in a place: of a whole log its head, of half a copy that of its source (None: begin anew)."""

    state: Place
    origin: Origin | None = None
    nodes: tuple[Node, ...] = ()
    """As `Checkpoints.nodes` tells them."""
    tables: tuple[Part, ...] = ()
    """Those of the application that move with a log, by name."""
    left: tuple[str, ...] = ()
    """What else of the application is there and cannot move, in words."""


class Transfer(Protocol):
    """One place of a log, to be read or to be filled. Used by one task; everything is durable when it returns.

    Errors of all methods: `Unavailable`, `StorageFull`, `ReadOnlyLog`, `CorruptLog`, `LogTooNew`; nothing of the call is
    stored.
    """

    place: str
    """Where it is, for people, without a password; when both are open, two that are equal are the same place."""

    async def open(self, world: World, *, receiving: bool) -> Found:
        """Open what is there: to read it, which changes nothing and needs a whole log; or to receive. Look at it."""
        ...

    async def found(self) -> Found:
        """Look again."""
        ...

    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        """Mark the place as half a copy of this log, and whatever else was receiving here as ended: it is refused from now
        on. `tables` of the application are made where they are not there. With `anew` what is there of a log is removed, and
        tables that are there must be empty, made for this. One transaction.

        Errors: `WrongLog` unless it is empty or half a copy; `MissingCapability` for tables where there can be none.
        """
        ...

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        """Store rows of a part behind those that are there. One transaction. Errors: `Unavailable` when another copy has
        begun here."""
        ...

    async def finish(self) -> None:
        """Write the head and remove the mark: it is a log from now on. One transaction. Errors: as `receive`."""
        ...

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        """How many rows there are, and the key of the last one. A table that is not there has no rows."""
        ...

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        """The rows after a key (None: from the first), in order: up to `PAGE_ROWS`, or until `PAGE_BYTES` are full. None
        only behind the last one."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...


def page_of(part: Part, rows: Iterable[Values]) -> list[Values]:
    """The first of these rows, as `Transfer.page` gives them."""
    page: list[Values] = []
    room = PAGE_BYTES
    for row in rows:
        page.append(row)
        for value in row[-1:] if part.table is None else row:
            if isinstance(value, bytes | str):
                room -= len(value)
        if room < 0 or len(page) == PAGE_ROWS:
            break
    return page


_handles = msgspec.json.Decoder(dict[str, int]).decode
_TEXTS = frozenset(("consumer", "lane", "dead_letter"))


def plain(part: Part, rows: list[Values]) -> list[Values]:
    """Rows as an adapter has them, as they are everywhere: the names in `handles` are in order, because not every database
    keeps the order they had; and texts for people, such as what a handler raised, have a sign for NUL, which not every one
    keeps."""
    if part.table is not None or part.name not in _TEXTS:
        return rows
    if part.name == "consumer":
        rows = [(*row[:-1], msgspec.json.encode(_handles(row[-1]), order="deterministic")) for row in rows]
    return [tuple(map(_without_nul, row)) for row in rows]


def _without_nul(value: object) -> object:
    return value.replace("\0", NUL_SHOWN) if isinstance(value, str) else value


def half_copied(place: str) -> Unavailable:
    """The error that opening half a copy raises."""
    return Unavailable(
        f"{place} is half a copy of another log: `ensue copy FROM TO` was not finished. Run the same command again, it goes on "
        "where it stopped; nothing was written"
    )


# --------------------------------------------------------------------------------------------------------- comparing


class Difference(msgspec.Struct, frozen=True):
    """The first place where two logs differ: a row that one of them lacks (None), or a column of it."""

    part: str
    key: Values
    column: str | None
    source: Any
    target: Any

    def __str__(self) -> str:
        row = f"{self.part}, {', '.join(map(_text, self.key))}" if self.key else self.part
        if self.column is None:
            return f"{row}: {'missing in the target' if self.target is None else 'only in the target'}"
        return f"{row}: {self.column} is {_text(self.source)} in the source and {_text(self.target)} in the target"


def _text(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


Tell: TypeAlias = Callable[[str, str, int, int], None]
"""Told what is being done, to which part, how many rows of all are done, and how many there are."""


async def _compare(source: Transfer, target: Transfer, rows: Mapping[Part, int], steps: _Steps) -> Difference | None:
    """Both sides in pages, row by row; `rows` says how many the source has of each part."""
    for part, count in rows.items():
        difference = await _compare_part(source, target, part, count, steps)
        if difference is not None:
            return difference
    return None


async def _compare_part(source: Transfer, target: Transfer, part: Part, count: int, steps: _Steps) -> Difference | None:
    after: Values | None = None
    while True:
        ours, theirs = await source.page(part, after), await target.page(part, after)
        common = min(len(ours), len(theirs))
        if ours[:common] != theirs[:common]:
            pairs = zip(ours, theirs, strict=False)
            return _difference(part, *next(pair for pair in pairs if pair[0] != pair[1]))
        if common:
            after = ours[common - 1][: part.key]
            count -= common
            await steps.step(part, common)
        elif ours or theirs:
            return _difference(part, ours[0] if ours else None, theirs[0] if theirs else None)
        else:
            # A row that no page holds, such as one without a key.
            return Difference(part.label, (), None, count, None) if count else None


def _difference(part: Part, source: Values | None, target: Values | None) -> Difference:
    keys = [row[: part.key] for row in (source, target) if row is not None]
    if source is None or target is None or source[: part.key] != target[: part.key]:
        # The row with the lower key is the one that the other side lacks.
        lowest = min(keys, key=lambda key: [(value is not None, value) for value in key])
        ours = source is not None and source[: part.key] == lowest
        return Difference(part.label, lowest, None, source if ours else None, None if ours else target)
    column = next(number for number, value in enumerate(source) if value != target[number])
    return Difference(part.label, keys[0], part.columns[column], source[column], target[column])


# ----------------------------------------------------------------------------------------------------------- copying


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a copy. Both sides are equal if, and only if, there is no `difference`."""

    log_id: str
    position: int
    rows: dict[str, int]
    """Of each part, by its label: how many the source has."""
    unfilled: int
    """Positions that no event has: a log that very many processes write may have some."""
    received: int
    """Rows that were copied now: fewer where an earlier copy had stopped half way, none where it was whole already."""
    left: tuple[str, ...]
    """What the application has beside the source and could not move, in words."""
    whole: bool
    """The target was a whole log before: it was compared, and nothing was written."""
    difference: Difference | None


class _Steps:
    def __init__(self, work: str, done: int, total: int, tell: Tell, world: World) -> None:
        self._work, self._done, self._total, self._tell, self._world = work, done, total, tell, world

    async def step(self, part: Part, rows: int) -> None:
        """After each page. Whoever wants to stop the copy gets a turn."""
        self._done += rows
        self._tell(self._work, part.label, self._done, self._total)
        await self._world.sleep(0)


async def copy(source: Transfer, target: Transfer, world: World, *, tell: Tell = lambda *_: None) -> Copied:
    """Copy a log that nobody runs into an empty place, or go on with a copy that was stopped at any moment; then compare
    both sides row by row, and only then make the target a log. A target that is a whole copy already is compared only.

    The source is not changed. Positions, ids, versions, recorded times, numbers of types and consumers, checkpoints, and the
    log's identity are the same on both sides. Errors: `Misuse` for one place given twice; `WrongLog` when the target is
    another log; `Unavailable` when the source is run or written meanwhile; those of `Transfer`.
    """
    try:
        from_there = await source.open(world, receiving=False)
        origin = _at_rest(source, from_there, None, world.now())
        there = await target.open(world, receiving=True)
        if source.place == target.place:
            raise Misuse(f"could not copy {source.place} to itself: name another place for the copy")
        _fits(target, there, origin)
        rows = {part: (await source.extent(part))[0] for part in (*PARTS, *from_there.tables)}
        total = sum(rows.values())
        received = 0
        if there.state is not Place.WHOLE:
            anew = there.state is Place.EMPTY or there.origin != origin
            await target.begin(origin, anew=anew, tables=from_there.tables)
            received = await _receive(source, target, tuple(rows), total, tell, world)
        difference = await _compare(source, target, rows, _Steps("comparing", 0, total, tell, world))
        _at_rest(source, await source.found(), origin, world.now())
        if difference is None and there.state is Place.WHOLE and there.origin != origin:
            difference = _difference_of_heads(origin, there.origin)
        elif difference is None and there.state is not Place.WHOLE:
            await target.finish()
        return Copied(
            log_id=origin.log_id,
            position=origin.position,
            rows={part.label: count for part, count in rows.items()},
            unfilled=origin.position - rows[_EVENTS],
            received=received,
            left=from_there.left,
            whole=there.state is Place.WHOLE,
            difference=difference,
        )
    finally:
        await target.close()
        await source.close()


async def _receive(
    source: Transfer, target: Transfer, parts: Sequence[Part], total: int, tell: Tell, world: World
) -> int:
    extents = [await target.extent(part) for part in parts]
    steps = _Steps("copying", sum(count for count, _ in extents), total, tell, world)
    received = 0
    for part, (_, after) in zip(parts, extents, strict=True):
        while rows := await source.page(part, after):
            await target.receive(part, rows)
            after = rows[-1][: part.key]
            received += len(rows)
            await steps.step(part, len(rows))
    return received


def _at_rest(source: Transfer, found: Found, before: Origin | None, now: int) -> Origin:
    """The head of the source. Errors: `Unavailable` if somebody runs it, or has written to it since it was `before`."""
    if running := living(found.nodes, now):
        listed = ", ".join(f"{node.pid} on {host_name(node)}" for node in running)
        raise Unavailable(
            f"could not copy {source.place}: it is run by process {listed}. Stop what runs it (SIGTERM lets it finish what it "
            "is at), then copy again"
        )
    assert found.origin is not None
    if before is not None and found.origin != before:
        raise Unavailable(
            f"{source.place} was written while it was copied (from position {before.position} to {found.origin.position}), so "
            "the copy was not finished. Stop everything that writes to it, then run the same command again"
        )
    return found.origin


def _fits(target: Transfer, there: Found, origin: Origin) -> None:
    if there.state is Place.EMPTY or there.origin is None or there.origin.log_id == origin.log_id:
        return
    what = "half a copy of another log" if there.state is Place.HALF else "another log"
    raise WrongLog(
        f"could not copy to {target.place}: it holds {what} ({there.origin.log_id}, {there.origin.position} events), and not "
        f"{origin.log_id}. Nothing was changed; copy to an empty place"
    )


def _difference_of_heads(source: Origin, target: Origin | None) -> Difference | None:
    for column in ("position", "recorded_at"):
        pair = getattr(source, column), getattr(target, column)
        if pair[0] != pair[1]:
            return Difference("head", (), column, *pair)
    return None  # who wrote last is not a difference
