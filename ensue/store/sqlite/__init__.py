"""The log and its consumers' progress in one SQLite file, or in a shared in-memory database for simulations.

Durable: write-ahead log, `synchronous=FULL`, group commit (`writer.py`). Several processes may use one file; they take turns
to write and are woken when another one wrote (`files.py`). Everything but COMMIT runs on the event loop's thread in short
statements: reads in pages of bounded size, batches of bounded size.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import apsw

from ensue.errors import CorruptLog, EnsueError, LogTooNew, ReadOnlyLog, Unavailable
from ensue.store.base import (
    Capabilities,
    Consumer,
    DeadLetter,
    Delivery,
    Node,
    Page,
    Request,
    Selection,
    Standing,
    Written,
)
from ensue.store.sqlite import checkpoints
from ensue.store.sqlite.errors import translated
from ensue.store.sqlite.files import LogFiles, Watch, readable, writable
from ensue.store.sqlite.reading import select
from ensue.store.sqlite.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from ensue.store.sqlite.writer import Types, Writer
from ensue.world import World

__all__ = ["SqliteStore"]

POLL_SECONDS = 1.0
"""The poll behind the watch, should a touch be lost with the process that was to make it."""
SHARED_MEMORY_POLL_SECONDS = 0.025
FALLBACK_POLL_SECONDS = 0.025
BUSY_MILLISECONDS = 5_000
QUEUE_BYTES, QUEUE_REQUESTS = 32 * 1024 * 1024, 20_000


class SqliteStore:
    """See the module. `path` is a file, or `file:/name?vfs=memdb` for a database shared by name within this process.

    `read_only` is for tools that look: the file must exist, and nothing is written to it or taken from its writers.
    `guard=False` switches off what protects the file from a second SQLite library; only tests do that.
    """

    def __init__(self, path: str, *, read_only: bool = False, guard: bool = True) -> None:
        self.path = path
        self._read_only = read_only
        self.log_id = ""
        self._in_memory = path.startswith("file:") and "vfs=memdb" in path
        self.capabilities = Capabilities(durable=not self._in_memory, sql=True, many_processes=True)
        self._guard = guard
        self._files: LogFiles | None = None
        self._reader: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._connections: list[apsw.Connection] = []
        self._types = Types()
        self._head = 0
        self._changed: set[asyncio.Future[None]] = set()
        self._watch: Watch | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------------------ opening

    async def open(self, world: World) -> None:
        """See `Log.open`."""
        self._world = world
        try:
            self._open(world)
        except apsw.Error as error:
            self.abandon()
            raise translated(error, f"open the log {self.path}") from error
        except BaseException:
            self.abandon()
            raise

    def _open(self, world: World) -> None:
        exists = self._in_memory or os.path.exists(self.path)
        read_only = self._read_only or (exists and not self._in_memory and not writable(self.path))
        if self._read_only and not exists:
            raise Unavailable(f"could not open the log {self.path}: there is no such file")
        if not exists and not writable(self.path):
            folder = os.path.dirname(os.path.abspath(self.path))
            known = "may not be written" if os.path.isdir(folder) else "does not exist"
            raise ReadOnlyLog(f"could not create the log {self.path}: its folder {folder} {known}")
        if not exists:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644))
        if not self._in_memory and not read_only:
            self._files = LogFiles(self.path, guard=self._guard)
            self._files.lock()
        try:
            writer = self._connect(read_only=read_only)
            self._prepare(writer, read_only=read_only)
        finally:
            if self._files is not None:
                self._files.unlock()
        self._reader = self._connect(read_only=read_only)
        self._reader.execute("PRAGMA query_only = 1")
        self._types.load(self._reader)
        self._refresh_head()
        if self._files is not None:
            self._files.opened()
        if not read_only:
            self._writer = Writer(writer, world, self._files, self._types, self._advanced)

    def _connect(self, *, read_only: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        path = readable(self.path) if read_only else self.path
        connection = apsw.Connection(path, flags=flags | apsw.SQLITE_OPEN_URI)
        self._connections.append(connection)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        return connection

    def _prepare(self, connection: apsw.Connection, *, read_only: bool) -> None:
        application = connection.pragma("application_id")
        tables = next(iter(connection.execute("SELECT count(*) FROM sqlite_schema")))[0]
        if application != APPLICATION_ID and tables:
            raise CorruptLog(f"{self.path} is a SQLite database, but not an Ensue log; nothing was written to it")
        if not self._in_memory and not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 8000")
        connection.execute("PRAGMA cache_size = -65536")
        if not tables:
            if read_only:
                raise ReadOnlyLog(f"{self.path} is empty, and this user may not write it")
            self._create(connection)
        found = connection.pragma("user_version")
        if found > SCHEMA_VERSION:
            raise LogTooNew(
                f"{self.path} was made by a newer Ensue (schema {found}, this one knows {SCHEMA_VERSION}). Nothing was "
                "written to it; install that version"
            )
        row = next(iter(connection.execute("SELECT log_id FROM ensue_log")), None)
        if row is None:
            raise CorruptLog(f"{self.path} has lost its head row; nothing was written to it")
        self.log_id = row[0]

    def _create(self, connection: apsw.Connection) -> None:
        with connection:
            connection.execute(SCHEMA)
            connection.execute(
                "INSERT INTO ensue_log VALUES (1, ?, 0, 0, ?)", (self._world.new_id().hex(), self._world.new_id())
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            await self._writer.drain()
            self._writer.stop()
        self.abandon()

    def abandon(self) -> None:
        """Close at once, committing nothing: what is left when a process dies."""
        self._closed = True
        self._stop_watching()
        for waiter in self._changed:
            waiter.cancel()
        for connection in self._connections:
            connection.close(True)
        self._connections.clear()
        if self._files is not None:
            self._files.close()
            self._files = None

    # ------------------------------------------------------------------------------------------------------ writing

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`."""
        return self._put(request)

    def _put(self, work: Request | Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
        if self._writer is None or self._closed:
            error: EnsueError = Unavailable(f"the log {self.path} is closed")
            if not self._closed:
                error = ReadOnlyLog(f"could not write to {self.path}: this user may only read it")
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        return self._writer.put(work)

    async def room(self) -> None:
        """See `Log.room`."""
        writer = self._writer
        while writer is not None and (writer.bytes_queued > QUEUE_BYTES or writer.queued > QUEUE_REQUESTS):
            await self._world.sleep(0.001)

    def _advanced(self, head: int) -> None:
        if head > self._head:
            self._head = head
            waiters, self._changed = self._changed, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # ------------------------------------------------------------------------------------------------------ reading

    @property
    def _sql(self) -> apsw.Connection:
        if self._reader is None or self._closed:
            raise Unavailable(f"the log {self.path} is not open")
        return self._reader

    async def read(
        self, selection: Selection = (), *, after: int = 0, before: int | None = None, limit: int = 1000,
        backwards: bool = False,
    ) -> Page:  # fmt: skip
        """See `Log.read`."""
        try:
            self._refresh_head()
            self._refresh_types()
            end = self._head + 1 if before is None else min(before, self._head + 1)
            text, values = select(
                selection, self._types.expand, after=after, before=end, limit=limit, backwards=backwards
            )
            rows: list[Any] = list(self._sql.execute(text, values))
        except apsw.Error as error:
            raise translated(error, f"read the log {self.path}") from error
        if len(rows) >= limit:
            return Page(rows, rows[-1][0])
        return Page(rows, after if backwards else max(after, end - 1))

    def _refresh_head(self) -> None:
        ((head,),) = self._sql.execute("SELECT position FROM ensue_log")
        self._advanced(head)

    def _refresh_types(self) -> None:
        ((count,),) = self._sql.execute("SELECT count(*) FROM ensue_event_type")
        if count > len(self._types.by_number):
            self._types.load(self._sql)

    def head(self) -> int:
        """See `Log.head`."""
        return self._head

    async def changed(self, after: int) -> int:
        """See `Log.changed`."""
        while self._head <= after:
            if self._closed:
                raise Unavailable(f"the log {self.path} is closed")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._start_watching()
            self._refresh_head()
            if self._head > after:
                break
            self._changed.add(waiter)
            try:
                await waiter
            finally:
                self._changed.discard(waiter)
        return self._head

    def _start_watching(self) -> None:
        if self._poll is not None:
            return
        wait = SHARED_MEMORY_POLL_SECONDS
        if not self._in_memory:
            wait = POLL_SECONDS
            try:
                loop = asyncio.get_running_loop()
                self._watch = Watch(self.path, loop.add_reader, loop.remove_reader)
                self._watch.start(self._look)
            except (OSError, NotImplementedError):
                self._watch, wait = None, FALLBACK_POLL_SECONDS

        def poll() -> None:
            self._poll = self._world.call_later(wait, poll)
            self._look()

        self._poll = self._world.call_later(wait, poll)

    def _look(self) -> None:
        if self._changed and not self._closed:
            self._refresh_head()

    def _stop_watching(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.types`."""
        return self._types.by_number

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """See `Log.rename`."""
        if all(self._types.former.get(old) == name for old in former):
            return

        def job(sql: apsw.Connection) -> None:
            sql.executemany("INSERT OR REPLACE INTO ensue_former_name VALUES (?, ?)", [(old, name) for old in former])

        await self._put(job)
        self._types.load(self._sql)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        low, high = 0, self._head
        while low < high:
            middle = (low + high + 1) // 2
            found = self._sql.execute("SELECT recorded_at FROM ensue_event WHERE position = ?", (middle,))
            row = next(iter(found), None)
            if row is not None and row[0] < time:
                low = middle
            else:
                high = middle - 1
        return low

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """See `Log.positions_of`."""
        found = self._sql.execute(
            "SELECT position FROM ensue_event WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", (lowest, highest, limit)
        )
        return [position for (position,) in found]

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a reading statement of the user's. Errors of the database are raised as they are."""
        return list(self._sql.execute(sql, values))

    # -------------------------------------------------------------------------------------------------- checkpoints

    async def define(self, consumer: Consumer) -> Consumer:
        """See `Checkpoints.define`."""
        known = {row.name: row for row in await self.consumers()}.get(consumer.name)
        if known is not None and consumer.handles.keys() <= known.handles.keys() and known.status != "retired":
            return known
        result: Consumer = await self._put(lambda sql: checkpoints.define(sql, consumer))
        return result

    async def consumers(self) -> tuple[Consumer, ...]:
        """See `Checkpoints.consumers`."""
        return checkpoints.consumers(self._sql)

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """See `Checkpoints.set_status`."""
        await self._put(lambda sql: checkpoints.set_status(sql, consumer, status, reason))

    async def beat(self, node: Node) -> None:
        """See `Checkpoints.beat`."""
        await self._put(lambda sql: checkpoints.beat(sql, node, self._world.now()))

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """See `Checkpoints.claim`."""
        if not checkpoints.claimable(self._sql, consumer, node, now, held):
            return Standing((), ())
        result: Standing = await self._put(lambda sql: checkpoints.claim(sql, consumer, node, now, most, held))
        return result

    async def standing(self, consumer: int) -> Standing:
        """See `Checkpoints.standing`."""
        return checkpoints.standing(self._sql, consumer)

    async def nodes(self) -> tuple[Node, ...]:
        """See `Checkpoints.nodes`."""
        return checkpoints.nodes(self._sql)

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """See `Checkpoints.dead_letters`."""
        return checkpoints.dead_letters(self._sql, consumer, open_only)

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """See `Checkpoints.deliveries`."""
        return checkpoints.deliveries(self._sql, positions)
