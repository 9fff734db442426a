"""Archiving closed streams, and dropping events by retention: from a payload to a tombstone, without a moment of doubt.

| step | on disk | what the next run does |
| --- | --- | --- |
| choose | nothing | all |
| write | part of a file under another name | all, into another file |
| keep | the file, whole, found so, under its name; payloads in the log | goes on with the file |
| bury, page by page | the file; tombstones and payloads in the log | goes on with the file |
| done | the file; tombstones in the log | finds nothing to do |

A payload is buried only after its file is on disk and the very bytes in the log were compared with those in the file; and only if
every consumer that handles the event has done so. Whoever comes later is given the file (`Store` with archives, see
`ensue.store.restored`). Events of a stream that has gone on behind its end stay where they are.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from ensue.consumers.closing import OWN
from ensue.consumers.waiting import Done, handled_numbers
from ensue.errors import CorruptLog, Misuse, Unavailable, WrongLog
from ensue.events.recorded import instant
from ensue.events.stored import Row, Tombstone, tombstone_of
from ensue.store.archive_file import Head
from ensue.store.archives import Archive, open_archive, writer_for
from ensue.store.base import Store, Term
from ensue.world import World

__all__ = ["Archived", "Dropped", "archive_closed", "bury_archived", "drop_old"]

PAGE = 200
BURIED_AT_ONCE = 500
Tell = Callable[[str, int, int], None]
"""What is being done, how much of it, and of how much."""


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has done. `waiting` are closed streams of which a consumer has yet to handle an event."""

    file: str
    events: int
    streams: int
    waiting: int
    resumed: bool
    """The file was there: it was gone on with."""


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """What retention does with a type: events that are older, and of them those that a consumer has yet to handle, which stay."""

    type: str
    before: str
    events: int
    waiting: int


async def archive_closed(
    store: Store,
    world: World,
    path: Path,
    *,
    closing: Sequence[str],
    before: int | None = None,
    keys: Collection[bytes] = (),
    tell: Tell | None = None,
) -> Archived:
    """Move the payloads of closed streams into a file. `closing` are the types that close a stream; `before` (microseconds) is when
    it must have been closed; `keys` are the only ones meant, if any.

    Where the file is there, it is gone on with. Errors: `Misuse` where nothing closes; `WrongLog` for a file of another log;
    `CorruptLog` for one that is not whole, or says other than the log; `Unavailable` when it cannot be written; those of the store.
    """
    if _is_there(path):
        archive = open_archive(path)
        await bury_archived(store, world, archive, tell=tell)
        return Archived(file=str(path), events=archive.events, streams=0, waiting=0, resumed=True)
    if not closing:
        raise Misuse(
            "no event type closes its stream: say so on the last event of one, class AccountClosed(Event, …, closes=True)"
        )
    positions, streams, waiting = await _closed(store, closing, before, frozenset(keys), tell)
    if positions:
        await _write(store, world, path, positions, tell)
        await bury_archived(store, world, open_archive(path), tell=tell)
    return Archived(file=str(path), events=len(positions), streams=streams, waiting=waiting, resumed=False)


# -------------------------------------------------------------------------------------------------------------- choosing


async def _closed(
    store: Store, closing: Sequence[str], before: int | None, keys: Collection[bytes], tell: Tell | None
) -> tuple[array[int], int, int]:
    """The positions of all events to archive, ascending; how many streams they are, and how many wait."""
    consumers = await _consumers(store)
    found = array("q")
    streams = waiting = after = 0
    head = await _head(store)
    while after < head:
        page = await store.read((Term(types=tuple(closing)),), after=after, before=head + 1, limit=PAGE)
        for row in page.rows:
            stream = row[3]
            if stream is None or (keys and stream not in keys) or (before is not None and row[5] >= before):
                continue
            rows = await _stream(store, stream)
            if rows[-1][0] != row[0]:
                continue  # it has gone on, or is closed again further on
            if any(not consumer.done(one) for one in rows for consumer in consumers):
                waiting += 1
                continue
            kept = [one[0] for one in rows if tombstone_of(one[11]) is None]
            found.extend(kept)
            streams += bool(kept)
        after = page.reached
        if tell is not None:
            tell("looking for closed streams", after, head)
    return array("q", sorted(found)), streams, waiting


async def _stream(store: Store, stream: bytes) -> list[Row]:
    """All events of a stream but those that Ensue itself has put there. Others may carry its key as a further tag."""
    rows: list[Row] = []
    after = 0
    while True:
        head = store.head()
        page = await store.read((Term(tags=(stream,)),), after=after, limit=PAGE)
        types = store.known_types()
        rows += [row for row in page.rows if row[3] == stream and not types[row[2]][0].startswith(OWN)]
        after = page.reached
        if after >= head:
            return rows


async def _consumers(store: Store) -> list[Done]:
    return [
        Done(consumer, await store.standing(consumer.id), await handled_numbers(store, consumer))
        for consumer in await store.consumers()
        if consumer.status != "retired"
    ]


async def _head(store: Store) -> int:
    page = await store.read(limit=1, backwards=True)
    return page.rows[0][0] if page.rows else 0


# --------------------------------------------------------------------------------------------------------------- writing


async def _write(store: Store, world: World, path: Path, positions: array[int], tell: Tell | None) -> None:
    """Write the file, see that it is whole, and give it its name, which nothing else may have."""
    id = world.new_id()
    part = path.with_name(f"{path.name}.{id.hex()[-8:]}.part")
    head = Head(id=id.hex(), log_id=store.log_id, made_at=instant(world.now()).isoformat())
    try:
        writer = writer_for(part, head, path.suffix)
        try:
            done = written = 0
            while done < len(positions):
                rows = await _rows(store, positions[done : done + PAGE])
                types = store.known_types()
                for row in rows:
                    if tombstone_of(row[11]) is None:  # another run may have been faster
                        writer.add(row, types)
                        written += 1
                done += len(rows)
                if tell is not None:
                    tell("writing", done, len(positions))
                world.failpoint("archive.page")
            writer.finish()
        finally:
            writer.close()
        world.failpoint("archive.written")
        whole = open_archive(part)
        if whole.events != written:
            raise CorruptLog(
                f"{part} was to have {written} events and has {whole.events}; nothing of the log was changed"
            )
        os.link(part, path)  # unlike a rename it never takes the place of another file
        os.unlink(part)
        _sync(path.parent)
    except FileExistsError as error:
        raise Unavailable(
            f"{path} came to be while it was written: by another run? Nothing of the log was changed"
        ) from error
    except OSError as error:
        raise Unavailable(f"could not write {path}: {error}. Nothing of the log was changed") from error
    world.failpoint("archive.kept")


def _is_there(path: Path) -> bool:
    return path.exists()


def _sync(place: Path) -> None:
    """Make a file, or the names in a folder, durable. Errors: `Unavailable`."""
    try:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"could not make {place} durable: {error}. Nothing more of the log was changed") from error


async def _rows(store: Store, positions: Sequence[int]) -> list[Row]:
    """The rows at these positions, which are ascending."""
    wanted, rows = set(positions), list[Row]()
    after = positions[0] - 1
    while after < positions[-1]:
        page = await store.read((), after=after, before=positions[-1] + 1, limit=PAGE)
        rows += [row for row in page.rows if row[0] in wanted]
        missing = next((position for position in positions if position > page.reached), positions[-1] + 1)
        if page.reached == after:
            break  # the log ends here
        after = missing - 1
    return rows


# --------------------------------------------------------------------------------------------------------------- burying


async def bury_archived(store: Store, world: World, archive: Archive, *, tell: Tell | None = None) -> int:
    """Put tombstones in the place of what the archive has, each after its bytes were compared; how many were put.

    Idempotent. Errors: `WrongLog`, `CorruptLog` where the log says other than the file; those of the store.
    """
    if archive.log_id != store.log_id:
        raise WrongLog(
            f"{archive.path} is an archive of the log {archive.log_id}, not of {store.log_id}; nothing was changed"
        )
    # Also what a run that died has written: only what is on disk for certain is buried.
    for place in (archive.path, archive.path.parent):
        _sync(place)
    tombstone = Tombstone(archive.id, archive.path.name).encoded()
    done = buried = 0
    for block in archive.blocks():
        positions = list(block)
        for first in range(0, len(positions), BURIED_AT_ONCE):
            here = positions[first : first + BURIED_AT_ONCE]
            rows = await _rows(store, here)
            if len(rows) != len(here):
                raise CorruptLog(f"{archive.path} has events behind the end of the log: is the log an older copy?")
            left = [row for row in rows if tombstone_of(row[11]) is None]
            wrong = next((row for row in left if row[11] != block[row[0]]), None)
            if wrong is not None:
                raise CorruptLog(
                    f"the event at position {wrong[0]} is not in the log as it is in {archive.path}; it was not buried"
                )
            if left:
                await store.bury([row[0] for row in left], tombstone)
                world.failpoint("archive.buried")
            buried += len(left)
            done += len(here)
            if tell is not None:
                tell("burying", done, archive.events)
    return buried


# -------------------------------------------------------------------------------------------------------------- dropping


async def drop_old(
    store: Store, world: World, ages: Mapping[str, int], *, dry_run: bool, tell: Tell | None = None
) -> list[Dropped]:
    """Drop the payloads of events that are older than their type's age (microseconds), by type: tombstones without a file.

    An event that a consumer has yet to handle stays. With `dry_run` nothing is changed. Errors: those of the store.
    """
    consumers, tombstone = await _consumers(store), Tombstone().encoded()
    found: list[Dropped] = []
    for name, age in sorted(ages.items()):
        limit = world.now() - age
        last = await store.position_at(limit)
        after = events = waiting = 0
        while after < last:
            page = await store.read((Term(types=(name,)),), after=after, before=last + 1, limit=PAGE)
            rows = [row for row in page.rows if tombstone_of(row[11]) is None]
            old = [row[0] for row in rows if all(consumer.done(row) for consumer in consumers)]
            events, waiting = events + len(old), waiting + len(rows) - len(old)
            if old and not dry_run:
                await store.bury(old, tombstone)
                world.failpoint("archive.dropped")
            after = page.reached
            if tell is not None:
                tell(f"dropping {name}", after, last)
        found.append(Dropped(type=name, before=instant(limit).isoformat(), events=events, waiting=waiting))
    return found
