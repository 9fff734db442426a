"""The raw limit: the binding alone, on the same tables, indexes and settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import apsw
import msgspec

from bench.measure import Outcome, folder
from bench.orders import OrderPlaced, digest
from ensue.store.sqlite.reading import COLUMNS
from ensue.store.sqlite.schema import SCHEMA

__all__ = ["append_batches", "rows", "scan"]

Row = tuple[object, ...]
BATCH = 1_000
_decode = msgspec.json.Decoder(OrderPlaced).decode


def rows(path: Path) -> list[Row]:
    """The rows of a log that our side made, to be written again."""
    connection = apsw.Connection(str(path / "log.db"))
    try:
        return list(connection.execute(f"SELECT {COLUMNS} FROM ensue_event ORDER BY position"))
    finally:
        connection.close()


def append_batches(rows: Sequence[Row]) -> Outcome:
    """One transaction for each batch of rows, durable."""
    with folder() as path:
        connection = apsw.Connection(str(path / "raw.db"))
        for setting in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 8000", "cache_size = -65536"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(SCHEMA)
        began = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO ensue_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows[start : start + BATCH]
            )
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        found = _digest([data for (data,) in connection.execute("SELECT data FROM ensue_event")])
        connection.close()
        return Outcome(len(rows) / seconds, found)


def scan(path: Path) -> Outcome:
    """Every row of a log that our side made, as plain tuples; what they hold is checked in a second reading."""
    connection = apsw.Connection(str(path / "log.db"))
    statement = f"SELECT {COLUMNS} FROM ensue_event ORDER BY position"
    count = 0
    began = time.perf_counter()
    for row in connection.execute(statement):
        count += len(row[11]) > 0
    seconds = time.perf_counter() - began
    found = _digest([row[11] for row in connection.execute(statement)])
    connection.close()
    return Outcome(count / seconds, found)


def _digest(payloads: Sequence[bytes]) -> str:
    events = map(_decode, payloads)
    return digest((event.order_id, event.sku, event.quantity, event.total) for event in events)
