"""From rows of a log to what an operator is fed with: events, times, keys. What cannot be read is told, and passed over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from ensue.errors import InvalidEvent, StorageFull, Unavailable, UnreadableEvent
from ensue.events.message import Event, declaration
from ensue.events.recorded import archived_error
from ensue.events.registry import Read, Registry
from ensue.events.stored import Meta, Row, decode_meta, tenant_of
from ensue.events.upcasting import Parts
from ensue.patterns.definition import TimeOf
from ensue.patterns.keys import key_reader
from ensue.patterns.ordering import Arrivals
from ensue.store.base import Page, Selection, Store

__all__ = ["ReadPage", "Reading", "TooNew", "Unread"]

PAGES = 4
"""So many pages are kept for others who read the same and are not as far."""


class TooNew(Exception):
    """An event was written by newer code: no failure of the event but of this process."""


class Unread(msgspec.Struct, frozen=True):
    """An event that was passed over, since it cannot be read or has no key."""

    row: Row
    error: Exception


class ReadPage(msgspec.Struct, frozen=True):
    """A page of the log, and what is to be fed of it."""

    page: Page
    arrivals: Arrivals
    unread: Sequence[Unread]


class Reading:
    """The events of one pattern or window, read with the types of an application."""

    def __init__(
        self,
        events: Sequence[type[Event]],
        registry: Registry,
        *,
        key_tag: str | None,
        time: TimeOf,
        sources: bool,
        tenants: bool,
    ) -> None:
        self.covered = frozenset(registry.covering(events))
        self.names = tuple(dict.fromkeys(registry.names(self.covered)))
        self._registry = registry
        self._key = key_reader(key_tag)
        self._needs_meta = time == "event" or sources or tenants
        self._time, self._sources, self._tenants = time, sources, tenants
        self._readers: dict[int, Read | None] = {}
        self._pages: OrderedDict[tuple[Selection, int], ReadPage] = OrderedDict()

    @classmethod
    def shared(
        cls,
        events: Sequence[type[Event]],
        registry: Registry,
        *,
        key_tag: str | None,
        time: TimeOf,
        sources: bool,
        tenants: bool,
    ) -> Reading:
        """The same for all who read the same with these types: several patterns then read and decode each page once."""
        wanted = (cls, tuple(events), key_tag, time, sources, tenants)
        found = registry.shared.get(wanted)
        if found is None:
            found = cls(events, registry, key_tag=key_tag, time=time, sources=sources, tenants=tenants)
            registry.shared[wanted] = found
        return cast(Reading, found)

    async def page(self, store: Store, selection: Selection, *, after: int, limit: int, now: int) -> ReadPage:
        """The next page, read. It may be one that was read before, and then be shorter than the log is by now. Errors: as `arrivals`."""
        asked = (selection, after)
        found = self._pages.get(asked)
        if found is not None:
            return found
        page = await store.read(selection, after=after, limit=limit)
        found = self._pages.get(asked)  # somebody else may have been quicker
        if found is not None and found.page.reached >= page.reached:
            return found
        arrivals, unread = self.arrivals(page.rows, store.known_types(), now=now)
        found = ReadPage(page, arrivals, unread)
        if page.rows and self._time != "processing":
            self._pages[asked] = found
            if len(self._pages) > PAGES:
                self._pages.popitem(last=False)
        return found

    def arrivals(
        self, rows: Sequence[Row], types: Mapping[int, tuple[str, int]], *, now: int | None
    ) -> tuple[Arrivals, list[Unread]]:
        """What of these rows is fed, and what could not be read. `now` is the clock, for patterns by the time of processing; None, when each was
        recorded.
        Errors: `TooNew`; `Unavailable` and `StorageFull` where keys of personal data cannot be had now."""
        events: list[Event] = []
        times: list[int] = []
        recorded: list[int] = []
        positions: list[int] = []
        keys: list[str] = []
        kept: list[Row] = []
        sources: list[str] = []
        unread: list[Unread] = []
        readers, key_of = self._readers, self._key
        clock = now if self._time == "processing" else None
        meta: Meta | None = None
        for row in rows:
            number = row[2]
            read = readers[number] if number in readers else self._reader(number, types)
            if read is None:
                continue
            try:
                event = read(row[11])
                several = self._parts(event, row) if isinstance(event, Parts) else (event,)
                for one in several:
                    key = key_of(one)
                    if self._needs_meta:
                        meta = decode_meta(row[10])
                        key = self._of_tenant(key, meta)
                    events.append(one)
                    keys.append(key)
            except (Unavailable, StorageFull):  # of the keys of personal data: no failure of the event
                raise
            except Exception as error:
                gone = archived_error(row, types[number][0])
                del events[len(positions) :], keys[len(positions) :]
                if gone is None or gone.file:
                    unread.append(Unread(row, gone or _said(error, types[number])))
                continue
            for _ in several:
                kept.append(row)
                positions.append(row[0])
                recorded.append(row[5] if clock is None else clock)
                times.append(meta.time if meta is not None else row[5])
                if self._sources:
                    sources.append(_source(meta))
        return Arrivals(events, times, recorded, positions, keys, kept, sources if self._sources else None), unread

    def event(self, row: Row, name: str, types: Mapping[int, tuple[str, int]]) -> Event:
        """The event of a row again; of one that is read as several, that of the type of this name. Errors: those of reading."""
        read = self._readers[row[2]] if row[2] in self._readers else self._reader(row[2], types)
        if read is None:
            raise UnreadableEvent(f"the pattern reads no {types[row[2]][0]} any more")
        found = read(row[11])
        if not isinstance(found, Parts):
            return found
        return next(one for one in self._parts(found, row) if declaration(type(one)).name == name)

    def _reader(self, number: int, types: Mapping[int, tuple[str, int]]) -> Read | None:
        name, version = types[number]
        found: Read | None = None
        if self._registry.current_name(name) in self.names or name in self.names:
            try:
                found = self._registry.reader(name, version)
            except UnreadableEvent as error:
                raise TooNew(str(error)) from error
        self._readers[number] = found
        return found

    def _parts(self, event: Parts, row: Row) -> Sequence[Event]:
        return [one for _, one in self._registry.selected(event, row) if type(one) in self.covered]

    def _of_tenant(self, key: str, meta: Meta) -> str:
        return f"{tenant_of(meta)}/{key}" if self._tenants else key


def _source(meta: Meta | None) -> str:
    return meta.origin.source if meta is not None and meta.origin is not None else ""


def _said(error: Exception, of: tuple[str, int]) -> Exception:
    if isinstance(error, InvalidEvent):
        return error
    return UnreadableEvent(f"{of[0]} version {of[1]} cannot be read: {type(error).__name__}: {error}")
