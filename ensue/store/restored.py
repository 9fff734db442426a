"""A store whose tombstones are read from archives: whoever reads it sees the events as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ensue.errors import WrongLog
from ensue.events.stored import Row, tombstone_of
from ensue.store.archives import Archive
from ensue.store.base import Page, Selection, Store
from ensue.world import World

__all__ = ["with_archives"]


def with_archives(store: Store, archives: Callable[[], Sequence[Archive]]) -> Store:
    """The same store, with `read` giving the payloads that the archives have. They are opened with it; it refuses those of another
    log (`WrongLog`). What they lack stays a tombstone. Errors of opening: as `open_archive`."""
    # What lacks a capability is told by the name of the adapter.
    return cast(Store, type(type(store).__name__, (_Restored,), {})(store, archives))


class _Restored:
    def __init__(self, store: Store, archives: Callable[[], Sequence[Archive]]) -> None:
        self._store = store
        self._open_archives = archives
        self._archives: dict[bytes, Archive] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open(self, world: World) -> None:
        """See `Log.open`."""
        archives = self._open_archives()
        await self._store.open(world)
        wrong = next((one for one in archives if one.log_id != self._store.log_id), None)
        if wrong is not None:
            await self._store.close()
            raise WrongLog(
                f"{wrong.path} is an archive of the log {wrong.log_id}, and this log is {self._store.log_id}"
            )
        self._archives = {one.id: one for one in archives}

    async def read(
        self,
        selection: Selection = (),
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> Page:
        """See `Log.read`."""
        page = await self._store.read(selection, after=after, before=before, limit=limit, backwards=backwards)
        if any(row[11][:1] == b"\0" for row in page.rows):
            return Page([self._restored(row) for row in page.rows], page.reached)
        return page

    def _restored(self, row: Row) -> Row:
        tombstone = tombstone_of(row[11])
        if tombstone is None or tombstone.archive is None:
            return row
        # An event may be in several files, when two runs met; any of them has the same bytes.
        named = self._archives.get(tombstone.archive)
        for archive in (named,) if named is not None else self._archives.values():
            payload = archive.get(row[0])
            if payload is not None:
                return (*row[:11], payload)
        return row
