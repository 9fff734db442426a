"""A SQLite log as one side of a copy. See `ensue.store.transfer`.

Half a copy is a file with all tables of a log, no head row, and one row in `ensue_transfer`, which no log has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Generator, Sequence

import apsw

from ensue.errors import CorruptLog, LogTooNew, Unavailable, WrongLog
from ensue.store.sqlite import SqliteStore, checkpoints
from ensue.store.sqlite.errors import translated
from ensue.store.sqlite.files import LogFiles
from ensue.store.sqlite.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, is_half_copied
from ensue.store.sqlite.tables import found as own_tables
from ensue.store.sqlite.tables import is_there, make, quoted
from ensue.store.sqlite.writer import CHECKPOINT_PAGES
from ensue.store.transfer import PAGE_ROWS, PARTS, Found, Origin, Part, Place, Values, page_of, plain
from ensue.world import World

__all__ = ["SqliteTransfer"]

BUSY_MILLISECONDS = 5_000
_MARK = """
CREATE TABLE ensue_transfer (
    one INTEGER PRIMARY KEY CHECK (one = 1), log_id TEXT NOT NULL, position INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, batch BLOB NOT NULL, receiver BLOB NOT NULL
) STRICT
"""


class SqliteTransfer:
    """See the module. A place that is read is opened as the store opens it for reading only."""

    def __init__(self, path: str) -> None:
        self.place = os.path.realpath(path)
        self._log: SqliteStore | None = None
        self._files: LogFiles | None = None
        self._target: apsw.Connection | None = None
        self._receiver = b""

    # ------------------------------------------------------------------------------------------------------ opening

    async def open(self, world: World, *, receiving: bool) -> Found:
        """See `Transfer.open`."""
        self._world = world
        if not receiving:
            self._log = SqliteStore(self.place, read_only=True)
            await self._log.open(world)
            return await self.found()
        try:
            self._files = LogFiles(self.place, guard=False)
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            self._target = apsw.Connection(self.place, flags=flags)
            self._target.set_busy_timeout(BUSY_MILLISECONDS)
            return await self.found()
        except (apsw.Error, OSError) as error:
            raise translated(error, f"open {self.place}") from error

    async def close(self) -> None:
        """See `Transfer.close`."""
        if self._log is not None:
            await self._log.close()
        files, self._files = self._files, None
        if files is None:
            return
        try:
            await self._take_turn(files)  # so that the last one to close a file leaves that one file
            if self._target is not None:
                self._target.close(True)
        finally:
            files.close()

    async def _take_turn(self, files: LogFiles) -> None:
        if not files.try_lock():
            thread = self._world.threads(1, name="ensue copy")
            await files.turn(thread, files.lock)
            thread.close()

    # ------------------------------------------------------------------------------------------------------ reading

    @contextlib.contextmanager
    def _reading(self, what: str) -> Generator[apsw.Connection, None, None]:
        if self._log is not None:
            with self._log._reading(what) as sql:
                yield sql
            return
        if self._files is None or self._target is None:
            raise Unavailable(f"{self.place} is not open")
        try:
            yield self._target
        except (apsw.Error, OSError) as error:
            raise translated(error, f"read {what} of {self.place}") from error

    async def found(self) -> Found:
        """See `Transfer.found`."""
        with self._reading("the head") as sql:
            return self._look(sql)

    def _look(self, sql: apsw.Connection) -> Found:
        ((there,),) = sql.execute("SELECT count(*) FROM sqlite_schema")
        if not there:
            return Found(Place.EMPTY)
        if sql.pragma("application_id") != APPLICATION_ID:
            raise CorruptLog(f"{self.place} is a SQLite database, but not an Ensue log; nothing was written to it")
        schema = sql.pragma("user_version")
        if schema > SCHEMA_VERSION:
            raise LogTooNew(
                f"{self.place} was made by a newer Ensue (schema {schema}, this one knows {SCHEMA_VERSION}). Nothing was "
                "written to it; install that version"
            )
        if is_half_copied(sql):
            marks = list(sql.execute("SELECT log_id, position, recorded_at, batch FROM ensue_transfer"))
            origin = Origin(*marks[0]) if schema == SCHEMA_VERSION else None
            return Found(Place.HALF, origin, tables=own_tables(sql)[0])
        heads = list(sql.execute("SELECT log_id, position, recorded_at, batch FROM ensue_log"))
        if not heads:
            raise CorruptLog(f"{self.place} has lost its head row; nothing was written to it")
        used = any(list(sql.execute(f"SELECT 1 FROM {_table(part)} LIMIT 1")) for part in PARTS)
        nodes, (own, left) = checkpoints.nodes(sql), own_tables(sql)
        return Found(Place.WHOLE if used else Place.EMPTY, Origin(*heads[0]), nodes, own, left)

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        """See `Transfer.extent`."""
        columns, key = _columns(part), _key(part)
        backwards = ", ".join(f"{name} DESC" for name in key)
        last_one = f"SELECT {', '.join(columns[: part.key])} FROM {_table(part)} ORDER BY {backwards} LIMIT 1"
        with self._reading(part.label) as sql:
            if not is_there(sql, _name(part)):
                return 0, None
            ((count,),) = sql.execute(f"SELECT count(*) FROM {_table(part)}")
            last = list(sql.execute(last_one))
        return count, last[0] if last else None

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        """See `Transfer.page`."""
        key = ", ".join(_key(part))
        beyond = f"WHERE ({key}) > ({', '.join('?' * part.key)})" if after is not None else ""
        columns = ", ".join(_columns(part))
        text = f"SELECT {columns} FROM {_table(part)} {beyond} ORDER BY {key} LIMIT {PAGE_ROWS}"
        with self._reading(part.label) as sql:
            if not is_there(sql, _name(part)):
                return []
            cursor = sql.execute(text, after or ())
            rows = page_of(part, cursor)
            cursor.close(True)
        return plain(part, rows)

    # ------------------------------------------------------------------------------------------------------ writing

    @contextlib.asynccontextmanager
    async def _writing(self, what: str) -> AsyncGenerator[apsw.Connection, None]:
        """One durable transaction."""
        files, sql = self._files, self._target
        if files is None or sql is None:
            raise Unavailable(f"{self.place} is not open")
        try:
            await self._take_turn(files)
            sql.execute("BEGIN IMMEDIATE")
            yield sql
            self._world.failpoint("transfer.commit")
            sql.execute("COMMIT")
        except (apsw.Error, OSError) as error:
            raise translated(error, f"{what} {self.place}") from error
        finally:
            if sql.in_transaction:
                sql.execute("ROLLBACK")
            files.unlock()

    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        """See `Transfer.begin`."""
        self._receiver = self._world.new_id()
        await self._prepare()
        async with self._writing("begin a copy in") as sql:
            state = self._look(sql).state
            if state is Place.WHOLE:
                raise WrongLog(f"could not begin a copy in {self.place}: it is a log; nothing was changed")
            if anew:
                self._make_anew(sql, origin)
                make(sql, tables, remove=state is Place.HALF)
            else:
                sql.execute("UPDATE ensue_transfer SET receiver = ?", (self._receiver,))
                make(sql, [part for part in tables if not is_there(sql, part.name)], remove=False)

    async def _prepare(self) -> None:
        """The settings of a log's file."""
        with self._reading("the settings") as sql:
            mode = sql.pragma("journal_mode", "wal")
            if mode != "wal":
                raise Unavailable(f"could not copy to {self.place}: its file system has no write-ahead log ({mode})")
            sql.execute("PRAGMA synchronous = FULL")
            sql.execute("PRAGMA cache_size = -65536")
            sql.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def _make_anew(self, sql: apsw.Connection, origin: Origin) -> None:
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'ensue_*'"
        for (name,) in list(sql.execute(names)):
            sql.execute(f"DROP TABLE {name}")
        sql.execute(SCHEMA)
        sql.execute(_MARK)
        sql.execute(
            "INSERT INTO ensue_transfer VALUES (1, ?, ?, ?, ?, ?)",
            (origin.log_id, origin.position, origin.recorded_at, origin.batch, self._receiver),
        )
        sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        sql.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _hold_mark(self, sql: apsw.Connection) -> None:
        marks = list(sql.execute("SELECT receiver FROM ensue_transfer")) if is_half_copied(sql) else []
        if marks != [(self._receiver,)]:
            raise Unavailable(
                f"could not go on with the copy in {self.place}: another `ensue copy` has gone on with it"
            )

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        """See `Transfer.receive`."""
        columns, places = ", ".join(_columns(part)), ", ".join("?" * len(part.columns))
        async with self._writing(f"copy {part.label} to") as sql:
            self._hold_mark(sql)
            sql.executemany(f"INSERT INTO {_table(part)} ({columns}) VALUES ({places})", rows)

    async def finish(self) -> None:
        """See `Transfer.finish`."""
        async with self._writing("finish the copy in") as sql:
            self._hold_mark(sql)
            sql.execute(
                "INSERT INTO ensue_log (one, log_id, position, recorded_at, batch) SELECT one, log_id, position, recorded_at, batch FROM ensue_transfer"
            )
            sql.execute("DROP TABLE ensue_transfer")


def _name(part: Part) -> str:
    return part.name if part.table is not None else f"ensue_{part.name}"


def _table(part: Part) -> str:
    return quoted(_name(part))


def _columns(part: Part) -> list[str]:
    if part.table is not None:
        return list(map(quoted, part.columns))
    # The order in which delivery records were made is that of their rows.
    return ["rowid" if (part.name, column) == ("delivery", "number") else column for column in part.columns]


def _key(part: Part) -> list[str]:
    """Columns of the application may be declared to be in another order."""
    key = _columns(part)[: part.key]
    return key if part.table is None else [f"{column} COLLATE BINARY" for column in key]
