"""The log and its consumers' progress in one SQLite file, or in a shared in-memory database for simulations.

Durable: write-ahead log, `synchronous=FULL`, group commit (`writer.py`). Several processes may use one file; they take turns
to write and are woken when another one wrote (`files.py`). Everything but COMMIT runs on the event loop's thread in short
statements: reads in pages of bounded size, batches of bounded size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, TypeVar

import apsw

from ensue.errors import CorruptLog, EnsueError, LogFileReplaced, LogTooNew, ReadOnlyLog, Unavailable
from ensue.store.base import (
    Capabilities,
    Consumer,
    DeadLetter,
    Delivery,
    Node,
    Page,
    Request,
    Selection,
    SqlTransaction,
    Standing,
    Written,
)
from ensue.store.forks import forks
from ensue.store.sqlite import checkpoints
from ensue.store.sqlite.erasing import empty_wal
from ensue.store.sqlite.errors import translated
from ensue.store.sqlite.files import LogFiles, Watch, standing, unchanging, writable
from ensue.store.sqlite.looking import look
from ensue.store.sqlite.names import Types
from ensue.store.sqlite.reading import rows as rows_of
from ensue.store.sqlite.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, STEPS, is_half_copied
from ensue.store.sqlite.writer import CHECKPOINT_PAGES, Writer
from ensue.store.transfer import half_copied
from ensue.world import World

__all__ = ["SqliteStore"]

T = TypeVar("T")

POLL_SECONDS = 1.0
"""The poll behind the watch, should a touch be lost with the process that was to make it."""
SHARED_MEMORY_POLL_SECONDS = 0.5
FALLBACK_POLL_SECONDS = 0.025
BUSY_MILLISECONDS = 5_000
_RECORDED_AT = "SELECT recorded_at FROM ensue_event WHERE position <= ? ORDER BY position DESC LIMIT 1"
_BURY = "UPDATE ensue_event SET data = ? WHERE position = ? AND substr(data, 1, 1) <> x'00'"
LOOKS = 10
"""How often to open a file for reading whose side files come and go with its writers."""


class SqliteStore:
    """See the module. `path` is a file, or `file:/name?vfs=memdb` for a database shared by name within this process.

    `read_only` is for tools that look: the file must exist, and nothing is written to it or taken from its writers.
    `guard=False` switches off what protects the file from a second SQLite library; only tests do that.
    """

    remote = False
    dialect = "sqlite"

    def __init__(self, path: str, *, read_only: bool = False, guard: bool = True) -> None:
        self._in_memory = path.startswith("file:") and "vfs=memdb" in path
        self.path = path if self._in_memory else os.path.realpath(path)
        self._read_only = read_only
        self.log_id = ""
        self.capabilities = Capabilities(durable=not self._in_memory, sql=True, many_processes=True)
        self._guard = guard
        self._files: LogFiles | None = None
        self._reader: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._connections: list[apsw.Connection] = []
        self._types = Types()
        self._seen = b""
        self._head = 0
        self._changed: set[asyncio.Future[None]] = set()
        self._standing: tuple[bool, int, int] | None = None
        """How the file stood when it was opened for reading only."""
        self._watch: Watch | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._closed = True
        self._forks = forks()

    # ------------------------------------------------------------------------------------------------------ opening

    async def open(self, world: World) -> None:
        """See `Log.open`."""
        self._world = world
        self._closed, self._forks = False, forks()
        try:
            await self._open(world)
        except (apsw.Error, OSError) as error:
            self.abandon()
            raise translated(error, f"open the log {self.path}") from error
        except BaseException:
            self.abandon()
            raise

    async def _open(self, world: World) -> None:
        read_only = not self._in_memory and self._looks_only()
        if not self._in_memory and not read_only:
            self._files = files = LogFiles(self.path, guard=self._guard)
            if not files.try_lock_to_open():
                # Not on the loop's thread: another store of this very loop may have the turn, and gives it back there.
                thread = world.threads(1, name="ensue open")
                await files.turn(thread, files.lock_to_open)
                thread.close()
        connection = self._connect_to_look() if read_only else self._connect()
        self._prepare(connection, read_only=read_only)
        if self._files is not None:
            self._files.unlock()
        self._reader = connection if read_only else self._connect()
        self._reader.execute("PRAGMA query_only = 1")
        self._types.load(self._reader)
        self._refresh()
        if self._files is not None:
            self._files.opened()
        if not read_only:
            self._writer = Writer(connection, world, self._files, self._types, self._advanced)

    def _looks_only(self) -> bool:
        """Whether the file is opened for reading only. Errors: `ReadOnlyLog` and `Unavailable` where there is none."""
        if os.path.exists(self.path):
            return self._read_only or not writable(self.path)
        if self._read_only:
            raise Unavailable(f"could not open the log {self.path}: there is no such file")
        if not writable(self.path):
            folder = os.path.dirname(self.path)
            known = "may not be written" if os.path.isdir(folder) else "does not exist"
            raise ReadOnlyLog(f"could not create the log {self.path}: its folder {folder} {known}")
        return False

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(self.path, flags=flags)
        self._connections.append(connection)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        return connection

    def _connect_to_look(self) -> apsw.Connection:
        """Open for reading only."""
        for left in reversed(range(LOOKS)):
            self._standing = standing(self.path)
            path = self.path if self._standing[0] else unchanging(self.path)
            connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            try:
                connection.pragma("schema_version")  # what is read first keeps the side files where they are
            except (apsw.ReadOnlyError, apsw.CantOpenError):
                connection.close()
                if not left:
                    raise
            else:
                self._connections.append(connection)
                return connection
        raise AssertionError

    def _prepare(self, connection: apsw.Connection, *, read_only: bool) -> None:
        application = connection.pragma("application_id")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if application != APPLICATION_ID and tables:
            raise CorruptLog(f"{self.path} is a SQLite database, but not an Ensue log; nothing was written to it")
        found = connection.pragma("user_version")
        if found > SCHEMA_VERSION and tables:
            raise LogTooNew(
                f"{self.path} was made by a newer Ensue (schema {found}, this one knows {SCHEMA_VERSION}). Nothing was "
                "written to it; install that version"
            )
        if is_half_copied(connection):
            raise half_copied(self.path)
        if not self._in_memory and not read_only:
            mode = connection.pragma("journal_mode", "wal")
            if mode != "wal":
                raise Unavailable(
                    f"could not open the log {self.path}: its file system has no write-ahead log ({mode})"
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_PAGES * 4096}")
        connection.execute("PRAGMA cache_size = -65536")
        if not tables:
            if read_only:
                raise ReadOnlyLog(f"{self.path} is empty, and this user may not write it")
            self._create(connection)
        elif found < SCHEMA_VERSION and not read_only:
            self._upgrade(connection)
        heads = list(connection.execute("SELECT log_id FROM ensue_log"))
        if not heads:
            raise CorruptLog(f"{self.path} has lost its head row; nothing was written to it")
        self.log_id = heads[0][0]

    def _create(self, connection: apsw.Connection) -> None:
        with connection:
            connection.execute(SCHEMA)
            connection.execute(
                "INSERT INTO ensue_log VALUES (1, ?, 0, 0, ?)", (self._world.new_id().hex(), self._world.new_id())
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _upgrade(self, connection: apsw.Connection) -> None:
        """A log of a former schema, in one transaction: a process that dies in it leaves what was there."""
        with connection:
            connection.execute("UPDATE ensue_log SET position = position")  # nobody else writes from here on
            for step in range(connection.pragma("user_version"), SCHEMA_VERSION):
                connection.execute(STEPS[step])
                self._world.failpoint("schema.step")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    async def close(self) -> None:
        """See `Log.close`. The last process to close a file leaves that one file."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer is not None and not self._forked:
                await self._writer.drain()
                # What is in a write-ahead file that is gone must not be copied over what took its place.
                if self._files is not None and not isinstance(self._writer.broken, LogFileReplaced):
                    with contextlib.suppress(TimeoutError):
                        await self._writer.turn()
                    self._files.closing()
        finally:
            self._shut()

    def abandon(self) -> None:
        """Close at once, committing nothing: what is left when a process dies."""
        self._closed = True
        self._shut()

    def _shut(self) -> None:
        if self._forked:
            return  # the descriptors and locks are the parent's
        self._stop_watching()
        self._wake(Unavailable(f"the log {self.path} is closed"))
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        connections, self._connections = self._connections, []
        for connection in reversed(connections):
            # One whose commit is under way closes when that ends.
            with contextlib.suppress(apsw.ThreadingViolationError):
                connection.close(True)
        files, self._files = self._files, None
        if files is not None:
            files.close()

    @property
    def _forked(self) -> bool:
        return self._forks != forks()

    # ------------------------------------------------------------------------------------------------------ writing

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`."""
        return self._put(request)

    def _put(self, work: Request | Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
        if self._writer is None or self._closed or self._forked:
            error: EnsueError = self._not_open()
            if not self._closed and not self._forked:
                error = ReadOnlyLog(f"could not write to {self.path}: this user may only read it")
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused
        return self._writer.put(work)

    async def room(self) -> None:
        """See `Log.room`."""
        if self._writer is not None:
            await self._writer.queue.room()

    def _advanced(self, head: int) -> None:
        if head > self._head:
            self._head = head
            self._wake(None)

    def _wake(self, error: EnsueError | None) -> None:
        waiters, self._changed = self._changed, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None) if error is None else waiter.set_exception(error)

    # ------------------------------------------------------------------------------------------------------ reading

    @property
    def _sql(self) -> apsw.Connection:
        if self._reader is None or self._closed or self._forked:
            raise self._not_open()
        if self._writer is not None and isinstance(self._writer.broken, LogFileReplaced):
            raise self._writer.broken  # what this connection shows may not be in the file
        if self._standing is not None and not self._standing[0] and self._standing != standing(self.path):
            # It was opened as a file that does not change, and somebody has written it after all.
            self._connections.remove(self._reader)
            self._reader.close()
            self._reader = self._connect_to_look()
        return self._reader

    def _not_open(self) -> Unavailable:
        if self._forked:
            return Unavailable(f"the log {self.path} was opened before a fork; open it in the process that uses it")
        return Unavailable(f"the log {self.path} is not open")

    @contextlib.contextmanager
    def _reading(self, what: str) -> Generator[apsw.Connection, None, None]:
        try:
            yield self._sql
        except (apsw.Error, OSError) as error:
            raise translated(error, f"read {what} of the log {self.path}") from error

    async def read(
        self, selection: Selection = (), *, after: int = 0, before: int | None = None, limit: int = 1000,
        backwards: bool = False,
    ) -> Page:  # fmt: skip
        """See `Log.read`."""
        try:  # as `_reading` has it, for the call that is made most
            sql = self._sql
            self._refresh(sql)
            end = self._head + 1 if before is None else min(before, self._head + 1)
            rows = rows_of(
                sql, selection, self._types.expand, after=after, before=end, limit=limit, backwards=backwards
            )
        except (apsw.Error, OSError) as error:
            raise translated(error, f"read events of the log {self.path}") from error
        if len(rows) >= limit:
            return Page(rows, rows[-1][0])
        return Page(rows, after if backwards else max(after, end - 1))

    def _refresh(self, sql: apsw.Connection | None = None) -> None:
        """Know the head; and the types, if a batch was stored that this process's writer does not know."""
        sql = sql or self._sql
        ((head, batch),) = sql.execute("SELECT position, batch FROM ensue_log")
        if batch != self._seen:
            if self._writer is None or batch != self._writer.committed:
                self._types.load(sql)
            self._seen = batch
        self._advanced(head)

    def head(self) -> int:
        """See `Log.head`."""
        return self._head

    async def changed(self, after: int) -> int:
        """See `Log.changed`."""
        while self._head <= after:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._start_watching()
            with self._reading("the head"):
                self._refresh()
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
            try:
                with self._reading("the head"):
                    self._refresh()
            except EnsueError as error:
                self._wake(error)

    def _stop_watching(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.types`."""
        with self._reading("types"):
            self._refresh()
        return self._types.by_number

    def known_types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.known_types`."""
        return self._types.by_number

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """See `Log.rename`."""
        if all(self._types.former.get(old) == name for old in former):
            return

        def job(sql: apsw.Connection) -> None:
            sql.executemany("INSERT OR REPLACE INTO ensue_former_name VALUES (?, ?)", [(old, name) for old in former])

        await self._put(job)
        self._types.former.update(dict.fromkeys(former, name))

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        """See `Log.bury`."""

        def job(sql: apsw.Connection) -> None:
            sql.executemany(_BURY, [(tombstone, position) for position in positions])

        await self._put(job)

    async def former_names(self) -> Mapping[str, str]:
        """See `Log.former_names`."""
        with self._reading("names"):
            self._refresh()
        return self._types.former

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        with self._reading("times"):
            self._refresh()
            sql = self._sql
            low, high = 0, self._head
            while low < high:
                middle = (low + high + 1) // 2
                found = list(sql.execute(_RECORDED_AT, (middle,)))
                if not found or found[0][0] < time:
                    low = middle
                else:
                    high = middle - 1
            return low

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """See `Log.positions_of`."""
        between = "SELECT position FROM ensue_event WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        with self._reading("ids") as sql:
            return [position for (position,) in sql.execute(between, (lowest, highest, limit))]

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a reading statement of the user's. Errors of the database are raised as they are."""
        return list(self._sql.execute(sql, values))

    async def look(self, function: Callable[[SqlTransaction], T]) -> T:
        """See `Looking.look`. Errors of the database are raised as they are."""
        return look(self._sql, function)

    async def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """A reading statement of Ensue's own, in one short transaction. Errors: those of `Log.read`."""
        with self._reading("rows"):
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
        with self._reading("consumers") as sql:
            return checkpoints.consumers(sql)

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """See `Checkpoints.set_status`."""
        await self._put(lambda sql: checkpoints.set_status(sql, consumer, status, reason))

    async def beat(self, node: Node) -> None:
        """See `Checkpoints.beat`."""
        await self._put(lambda sql: checkpoints.beat(sql, node, self._world.now()))

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """See `Checkpoints.claim`."""
        with self._reading("progress") as sql:
            if not checkpoints.claimable(sql, consumer, node, now, most, held):
                return Standing((), ())
        asked = self._world.now()

        def job(sql: apsw.Connection) -> Standing:
            # Leases are judged by the time at which this is stored: it may have waited, and the clock may have been set.
            return checkpoints.claim(sql, consumer, node, now + self._world.now() - asked, most, held)

        result: Standing = await self._put(job)
        return result

    async def standing(self, consumer: int) -> Standing:
        """See `Checkpoints.standing`."""
        with self._reading("standing") as sql:
            return checkpoints.standing(sql, consumer)

    async def nodes(self) -> tuple[Node, ...]:
        """See `Checkpoints.nodes`."""
        with self._reading("nodes") as sql:
            return checkpoints.nodes(sql)

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """See `Checkpoints.dead_letters`."""
        with self._reading("dead letters") as sql:
            return checkpoints.dead_letters(sql, consumer, open_only)

    async def erase(self, tag: bytes, said: str) -> None:
        """See `Checkpoints.erase`. The write-ahead file is emptied as well, unless somebody reads from it just then."""
        await self._put(lambda sql: checkpoints.erase(sql, tag, said))
        if not self._in_memory:
            await empty_wal(self.path, self._world)

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """See `Checkpoints.deliveries`."""
        with self._reading("deliveries") as sql:
            return checkpoints.deliveries(sql, positions)
