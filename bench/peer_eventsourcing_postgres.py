"""The library `eventsourcing` on PostgreSQL, at its best setting that keeps its promise.

Events are saved as such, without an aggregate around them, which spares it a copy. It locks its table for each save, so that
its positions are in the order of commits, as ours are; it pipelines the statements of a save. Its other way, a function in the
server (`POSTGRES_ENABLE_DB_FUNCTIONS`), takes no such lock, so that a reader can pass over an event that is committed late:
a weaker promise, which can be measured for comparison (`locked=False`). It is read in sections of a thousand (ten is its
default), straight from its recorder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.application import Application

from bench.measure import Outcome
from bench.orders import EVENTS_AN_ORDER, Content, content, digest, share
from tests.servers.postgresql import empty_database

__all__ = ["append_one_by_one", "fill", "read_typed"]

SECTION = 1_000
CONNECTIONS = 8  # saves wait for each other at the lock: 2 are slower, and so are 16 or one for each of 64 producers


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


def _application(url: str, connections: int, locked: bool = True) -> Application[UUID]:
    at = urlsplit(url)
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": unquote(at.path.removeprefix("/")),
            "POSTGRES_HOST": at.hostname or "",
            "POSTGRES_PORT": str(at.port),
            "POSTGRES_USER": unquote(at.username or ""),
            "POSTGRES_PASSWORD": unquote(at.password or "none is asked for"),
            "POSTGRES_POOL_SIZE": str(connections),
            "POSTGRES_MAX_OVERFLOW": "0",
            "POSTGRES_CONNECT_TIMEOUT": "60",  # so long may a producer wait for a connection
            "POSTGRES_ENABLE_DB_FUNCTIONS": "n" if locked else "y",
        }
    )


def _identities(count: int) -> list[UUID]:
    return [uuid5(NAMESPACE_OID, str(number)) for number in range(count // EVENTS_AN_ORDER + 1)]


def _event(number: int, identities: list[UUID]) -> OrderPlaced:
    order_id, sku, quantity, total = content(number)
    version = number % EVENTS_AN_ORDER + 1
    now = datetime.now(UTC)
    return OrderPlaced(identities[number // EVENTS_AN_ORDER], version, now, order_id, sku, quantity, total)


def append_one_by_one(
    server: str, count: int, producers: int, connections: int = CONNECTIONS, locked: bool = True
) -> Outcome:
    """Into a new database of the server at this URL. Each producer is a thread that saves one event after another."""
    app = _application(empty_database(server), min(connections, producers), locked)
    try:
        identities = _identities(count)

        def produce(events: list[OrderPlaced]) -> None:
            for event in events:
                app.save(event)

        shares = [[_event(number, identities) for number in share(count, producers, one)] for one in range(producers)]
        threads = [threading.Thread(target=produce, args=(events,)) for events in shares]
        _connect(app)
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        return Outcome(count / seconds, digest(map(_content, _read(app))))
    finally:
        app.close()


def fill(url: str, count: int) -> None:
    """A log to be read, in the database at this URL."""
    app = _application(url, 1)
    try:
        identities = _identities(count)
        for start in range(0, count, SECTION):
            app.save(*(_event(number, identities) for number in range(start, start + SECTION)))
    finally:
        app.close()


def read_typed(url: str) -> Outcome:
    """The whole log into typed events, one after another; what they hold is checked in a second reading."""
    app = _application(url, 1)
    try:
        _connect(app)
        count = 0
        began = time.perf_counter()
        for event in _read(app):
            count += event.quantity > 0
        seconds = time.perf_counter() - began
        return Outcome(count / seconds, digest(map(_content, _read(app))))
    finally:
        app.close()


def _connect(app: Application[UUID]) -> None:
    """All its connections: it makes them in the background, from its first use on."""
    recorder: Any = app.recorder
    recorder.select_notifications(1, 1)
    recorder.datastore.pool.wait(60)


def _read(app: Application[UUID]) -> Iterator[Any]:
    start = 1
    while notifications := app.recorder.select_notifications(start, SECTION):
        yield from map(app.mapper.to_domain_event, notifications)
        start = notifications[-1].id + 1


def _content(event: OrderPlaced) -> Content:
    return event.order_id, event.sku, event.quantity, event.total
