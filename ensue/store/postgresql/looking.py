"""Reading the user's rows in one snapshot, on threads and connections of their own, so that the loop never waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, TypeVar

import psycopg

from ensue.errors import Misuse, Unavailable
from ensue.store.base import SqlTransaction
from ensue.store.looking import ONLY_READS
from ensue.store.postgresql.errors import translated
from ensue.store.postgresql.transaction import checked, numbered
from ensue.world import World

__all__ = ["Lookers"]

T = TypeVar("T")

CONNECTIONS = 4
"""So many look at once; who comes then waits for one of them."""


class _Reading:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """See `SqlTransaction`."""
        checked(sql)
        if isinstance(values, Mapping):
            raise Misuse("named parameters are not for every database: write ? for each value, and give them in order")
        try:
            cursor = self._connection.execute(numbered(sql).encode(), values)
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise Misuse(ONLY_READS) from error


class Lookers:
    """Runs functions that look. Connections are made when they are needed, and kept."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], world: World) -> None:
        self._connect = connect
        self._threads = world.threads(CONNECTIONS, name="ensue look")
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._free: list[psycopg.Connection[Any]] = []
        self._closed = False

    async def look(self, function: Callable[[SqlTransaction], T]) -> T:
        """See `Looking.look`."""
        await self._turns.acquire()
        if self._closed:
            self._turns.release()
            raise Unavailable("the log is not open")
        kept = self._free.pop() if self._free else None
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        used: list[psycopg.Connection[Any]] = []

        def call() -> T:
            try:
                if kept is not None:
                    try:
                        return _looked(kept, function)
                    except psycopg.OperationalError:
                        if not kept.closed:
                            raise
                    # It was cut since it was last used, and what only reads may be asked twice.
                fresh = self._connect()
                used.append(fresh)
                fresh.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                fresh.prepare_threshold = None  # a pooler may give each transaction another session
                return _looked(fresh, function)
            except psycopg.OperationalError as error:
                raise translated(error, "read rows") from error
            finally:
                if self._closed:  # there may be no loop any more that would hear of it
                    for connection in (kept, *used):
                        if connection is not None:
                            connection.close()

        def done(result: T | None, error: BaseException | None) -> None:
            self._turns.release()
            for connection in (kept, *used):
                if connection is not None and not connection.closed:
                    self._free.append(connection)
            if self._closed:
                self._close_free()
            if ended.done():  # nobody waits any more
                return
            if error is None:
                ended.set_result(result)  # type: ignore[arg-type]
            else:
                ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        context = copy_context()
        self._threads.run(lambda: context.run(call), done)
        return await ended

    def close(self) -> None:
        """Start no more; connections in use are closed when they are done."""
        self._closed = True
        self._threads.close()
        self._close_free()

    def _close_free(self) -> None:
        free, self._free = self._free, []
        for connection in free:
            connection.close()


def _looked(connection: psycopg.Connection[Any], function: Callable[[SqlTransaction], T]) -> T:
    try:
        return function(_Reading(connection))
    finally:
        if not connection.closed:
            try:
                connection.rollback()
            except psycopg.OperationalError:
                connection.close()
