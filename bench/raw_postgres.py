"""The raw limit on PostgreSQL: the driver's COPY alone, in binary, into the same tables and indexes.

What is written is what our side wrote before, row for row: all of an event, in as many tables as it takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import msgspec
import psycopg
from psycopg import sql

from bench.measure import Outcome
from bench.orders import OrderPlaced, digest
from tests.servers.postgresql import empty_database

__all__ = ["Copied", "append_batches", "copied"]

Row: TypeAlias = tuple[object, ...]
BATCH = 1_000
_decode = msgspec.json.Decoder(OrderPlaced).decode


class Copied(NamedTuple):
    """What a table held, by the number of the batch that the position of a row belongs to."""

    table: str
    types: Sequence[int]
    batches: Mapping[int, Sequence[Row]]


def copied(url: str, *tables: str) -> list[Copied]:
    """The rows of a log that our side made, from those of its tables that have a position, to be written again."""
    with psycopg.connect(url) as connection:
        return [_copied(connection, table) for table in tables]


def _copied(connection: psycopg.Connection[Row], table: str) -> Copied:
    found = connection.execute(sql.SQL("SELECT * FROM {} ORDER BY position").format(sql.Identifier(table)), binary=True)
    columns = found.description or ()
    at = [column.name for column in columns].index("position")

    def batch(row: Row) -> int:
        position = row[at]
        assert isinstance(position, int)
        return (position - 1) // BATCH

    batches = {number: list(rows) for number, rows in groupby(found, batch)}
    return Copied(table, [column.type_code for column in columns], batches)


def append_batches(server: str, schema: str, copies: Sequence[Copied]) -> Outcome:
    """One durable transaction for each batch, into a new database of the server at this URL, whose tables and indexes are
    made by the statements of `schema`. The first of `copies` is that of the events."""
    with psycopg.connect(empty_database(server), autocommit=True) as connection:
        connection.execute(schema.encode())
        statements = [
            sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier(copy.table)) for copy in copies
        ]
        began = time.perf_counter()
        for number in copies[0].batches:
            with connection.transaction(), connection.cursor() as cursor:
                for statement, (_, types, batches) in zip(statements, copies, strict=True):
                    if rows := batches.get(number):
                        with cursor.copy(statement) as writing:
                            writing.set_types(types)
                            for row in rows:
                                writing.write_row(row)
        seconds = time.perf_counter() - began
        payloads = connection.execute("SELECT data FROM ensue_event", binary=True).fetchall()
        count = sum(map(len, copies[0].batches.values()))
        events = [_decode(data) for (data,) in payloads]
        return Outcome(
            count / seconds, digest((event.order_id, event.sku, event.quantity, event.total) for event in events)
        )
