"""The library `eventsourcing` on SQLite, at its best durable setting.

Its SQLite module opens the file in WAL mode and leaves `synchronous` at the library's default, FULL: durable as ours. Events
are saved as such, without an aggregate around them, which spares it a copy; the writers' lock is given time enough that none
of the producers fails. It is read in sections of a thousand (ten is its default), straight from its recorder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.application import Application

from bench.measure import Outcome, folder
from bench.orders import EVENTS_AN_ORDER, Content, content, digest, share

__all__ = ["append_one_by_one", "fill", "read_typed"]

SECTION = 1_000


@dataclass(frozen=True)
class OrderPlaced:
    """The peer's form of the event: identity, version and time are fields."""

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    order_id: str
    sku: str
    quantity: int
    total: Decimal


def _application(path: Path) -> Application[UUID]:
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(path / "eventsourcing.db"),
            "SQLITE_LOCK_TIMEOUT": "60",
            "SQLITE_POOL_TIMEOUT": "60",
        }
    )


def _identities(count: int) -> list[UUID]:
    return [uuid5(NAMESPACE_OID, str(number)) for number in range(count // EVENTS_AN_ORDER + 1)]


def _event(number: int, identities: list[UUID]) -> OrderPlaced:
    order_id, sku, quantity, total = content(number)
    version = number % EVENTS_AN_ORDER + 1
    now = datetime.now(UTC)
    return OrderPlaced(identities[number // EVENTS_AN_ORDER], version, now, order_id, sku, quantity, total)


def append_one_by_one(count: int, producers: int) -> Outcome:
    """Each producer is a thread that saves one event after another."""
    with folder() as path:
        app = _application(path)
        identities = _identities(count)

        def produce(events: list[OrderPlaced]) -> None:
            for event in events:
                app.save(event)

        shares = [[_event(number, identities) for number in share(count, producers, one)] for one in range(producers)]
        threads = [threading.Thread(target=produce, args=(events,)) for events in shares]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        found = digest(map(_content, _read(app)))
        app.close()
        return Outcome(count / seconds, found)


def fill(path: Path, count: int) -> None:
    """A log to be read."""
    app = _application(path)
    identities = _identities(count)
    for start in range(0, count, SECTION):
        app.save(*(_event(number, identities) for number in range(start, start + SECTION)))
    app.close()


def read_typed(path: Path) -> Outcome:
    """The whole log into typed events, one after another; what they hold is checked in a second reading."""
    app = _application(path)
    count = 0
    began = time.perf_counter()
    for event in _read(app):
        count += event.quantity > 0
    seconds = time.perf_counter() - began
    found = digest(map(_content, _read(app)))
    app.close()
    return Outcome(count / seconds, found)


def _read(app: Application[UUID]) -> Iterator[Any]:
    start = 1
    while notifications := app.recorder.select_notifications(start, SECTION):
        yield from map(app.mapper.to_domain_event, notifications)
        start = notifications[-1].id + 1


def _content(event: OrderPlaced) -> Content:
    return event.order_id, event.sku, event.quantity, event.total
