"""One connection in libpq's pipeline mode: several statements a round trip, driven by the event loop without a thread.

A *flight* is what is sent together. Its statements are one transaction, unless they begin and end one themselves; the
first that fails is the flight's error, and the server skips the rest. Flights are answered in the order they were sent.

Measured against `asyncpg` (docs/decisions/0017): half the time for a lone append, because lock and look-ups share one
round trip and writes and COMMIT another, and rows come out a third faster.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

from ensue.store.postgresql.encoding import Encoder, encoder
from ensue.store.postgresql.errors import is_outdated

__all__ = ["Call", "Rows", "Session", "Statement"]

Rows: TypeAlias = list[tuple[Any, ...]]

PREPARED = 256
"""So many statements are kept prepared; those beyond are parsed each time."""
_TYPES = re.compile(r"\$(\d+)::(\w+(?:\[\])?)")


class Statement:
    """SQL with numbered parameters, each of which says its type where it stands: `$1::bigint[]`."""

    __slots__ = ("encoders", "text")

    def __init__(self, text: str) -> None:
        kinds = dict(_TYPES.findall(text))
        self.text = text.encode()
        self.encoders: list[Encoder] = [encoder(kinds[str(number)]) for number in range(1, len(kinds) + 1)]

    def __call__(self, *values: object) -> Call:
        """This statement with these values."""
        return Call(self.text, [encode(value) for encode, value in zip(self.encoders, values, strict=True)])


class Call(msgspec.Struct, frozen=True):
    """A statement and its values, in binary form unless `formats` says otherwise. `types` (oids) are deduced by the server
    where they are not given."""

    text: bytes
    values: Sequence[bytes | None] = ()
    types: tuple[int, ...] | None = None
    formats: Sequence[int] | None = None


_Key: TypeAlias = tuple[bytes, tuple[int, ...] | None]


class _Flight:
    __slots__ = ("error", "future", "results", "sent")

    def __init__(self, future: asyncio.Future[list[Rows]]) -> None:
        self.future = future
        self.sent: deque[_Key | None] = deque()
        """What is still to be answered: a statement's key where it is being prepared, None where its rows are wanted."""
        self.results: list[pq.abc.PGresult] = []
        self.error: psycopg.Error | None = None


class Session:
    """See the module. All methods are called on the loop's thread.

    `lost` is the error that ended the connection; nothing can be run any more. `notified` is called when another
    session has notified a channel that this one listens to.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], *, notified: Callable[[], None] | None = None) -> None:
        self.lost: psycopg.OperationalError | None = None
        self.pooled = True
        """A pooler stands between, or may: another client may get this session after each transaction."""
        self.settings: tuple[Call, ...] = ()
        """What a transaction that writes sends after BEGIN, because the session does not keep it."""
        self._connection = connection
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._flights: deque[_Flight] = deque()
        self._prepared: dict[_Key, bytes] = {}
        self._names = 0
        self._notified = notified
        self._transformer = Transformer(connection)
        self._writing = False
        self._socket = self._pg.socket
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def connect(cls, conninfo: str, *, notified: Callable[[], None] | None = None) -> Session:
        """Errors: those of psycopg; `TimeoutError` is among its `OperationalError`s."""
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        session = cls(connection, notified=notified)
        try:
            ((pid,),) = (await session.run(_BACKEND()))[0]
        except BaseException:
            session.close()
            raise
        # A pooler tells its clients numbers of its own: what is set on a session there, another client meets.
        session.pooled = pid != connection.pgconn.backend_pid
        return session

    @property
    def version(self) -> int:
        """The server's version: 150003 is 15.3."""
        return self._pg.server_version

    @property
    def failed(self) -> bool:
        """A statement has failed in the open transaction: it can only be rolled back."""
        return self._pg.transaction_status == pq.TransactionStatus.INERROR

    @property
    def idle(self) -> bool:
        """No transaction is open and nothing is awaited."""
        return not self._flights and self._pg.transaction_status == pq.TransactionStatus.IDLE

    def run(self, *calls: Call) -> asyncio.Future[list[Rows]]:
        """Send a flight; the rows of each of its statements. Cancelling the future cancels nothing.

        Errors: `psycopg.Error` of the statement that failed; `psycopg.OperationalError` when the connection was lost.
        """
        future: asyncio.Future[list[Rows]] = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(self.lost)
            return future
        flight = _Flight(future)
        self._flights.append(flight)
        try:
            for call in calls:
                self._send(flight, call)
            self._pg.pipeline_sync()
            self._flush()
        except psycopg.OperationalError as error:
            self._lose(error)
        return future

    def dumped(self, text: str, values: Sequence[object]) -> Call:
        """A call with any values that psycopg can adapt. Errors: `psycopg.ProgrammingError` for one that it cannot."""
        transformer = self._transformer
        data = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        values_sent = [None if value is None else bytes(value) for value in data]
        return Call(text.encode(), values_sent, tuple(transformer.types or ()), list(transformer.formats or ()))

    def run_now(self, *calls: Call) -> list[Rows]:
        """The same, blocking the loop until the answer: for functions inside a transaction."""
        future = self.run(*calls)
        while not future.done():
            events = select.POLLIN | (select.POLLOUT if self._writing else 0)
            poll = select.poll()
            poll.register(self._socket, events)
            poll.poll()
            if self._writing:
                self._flush()
            self._readable()
        return future.result()

    def close(self) -> None:
        """At once: what is open is rolled back by the server."""
        self._lose(psycopg.OperationalError("the connection was closed"))

    # ------------------------------------------------------------------------------------------------------- sending

    def _send(self, flight: _Flight, call: Call) -> None:
        text, values, types = call.text, call.values, call.types
        formats = call.formats or [1] * len(values)
        key = (text, types)
        name = b"" if self.pooled else self._prepared.get(key, b"")
        if not name and not self.pooled and len(self._prepared) < PREPARED:
            self._names += 1
            name = self._prepared[key] = b"ensue_%d" % self._names
            self._pg.send_prepare(name, text, types)
            flight.sent.append(key)
        if name:
            self._pg.send_query_prepared(name, values, formats, 1)
        else:
            self._pg.send_query_params(text, values, types, formats, 1)
        flight.sent.append(None)

    def _flush(self) -> None:
        pending = bool(self._pg.flush())
        if pending != self._writing:
            self._writing = pending
            if pending:
                self._loop.add_writer(self._socket, self._writable)
            else:
                self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        try:
            self._flush()
        except psycopg.OperationalError as error:
            self._lose(error)

    # ----------------------------------------------------------------------------------------------------- receiving

    def _readable(self) -> None:
        pg = self._pg
        try:
            pg.consume_input()
            while self._flights and not pg.is_busy():
                result = pg.get_result()
                if result is not None:
                    self._received(result)
                elif pg.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError("the server closed the connection")
            notified = False
            while pg.notifies() is not None:
                notified = True
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if pg.status == pq.ConnStatus.BAD:
            self._lose(psycopg.OperationalError("the server closed the connection"))
        elif notified and self._notified is not None:
            self._notified()

    def _received(self, result: pq.abc.PGresult) -> None:
        flight, status = self._flights[0], result.status
        if status == pq.ExecStatus.PIPELINE_SYNC:
            self._flights.popleft()
            self._land(flight)
            return
        # When all is answered, there may still be an error: of what the server does at the end of a flight, or its farewell.
        preparing = flight.sent.popleft() if flight.sent else None
        if status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
            if preparing is not None:
                self._prepared.pop(preparing, None)
            if flight.error is None:
                flight.error = error_from_result(result)
                if is_outdated(flight.error):
                    self._prepared.clear()
        elif preparing is None:
            flight.results.append(result)

    def _land(self, flight: _Flight) -> None:
        if flight.future.done():
            return
        if flight.error is not None:
            flight.future.set_exception(flight.error)
        else:
            flight.future.set_result([self._rows(result) for result in flight.results])

    def _rows(self, result: pq.abc.PGresult) -> Rows:
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _lose(self, error: psycopg.OperationalError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._pg.finish()
        flights, self._flights = self._flights, deque()
        for flight in flights:
            flight.error = flight.error or error
            self._land(flight)
        if self._notified is not None:
            self._notified()


_BACKEND = Statement("SELECT pg_backend_pid()")
