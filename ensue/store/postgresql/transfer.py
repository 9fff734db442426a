"""A PostgreSQL log as one side of a copy. See `ensue.store.transfer`.

Half a copy is a schema with all tables of a log, no head row, and one row in `ensue_transfer`, which no log has.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import psycopg
from psycopg import errors

from ensue.errors import CorruptLog, LogTooNew, Unavailable, WrongLog
from ensue.store.postgresql import checkpoints, schema
from ensue.store.postgresql.errors import translated
from ensue.store.postgresql.server import Server
from ensue.store.postgresql.session import Session, Statement
from ensue.store.postgresql.tables import expression, kinds, left, make, numbers_rows, quoted, renumber
from ensue.store.transfer import (
    PAGE_BYTES,
    PAGE_ROWS,
    PARTS,
    Found,
    Origin,
    Part,
    Place,
    Values,
    half_copied,
    page_of,
    plain,
)
from ensue.world import World

__all__ = ["PostgresqlTransfer"]

_PARAMETERS = {bytes: "bytea", int: "bigint", str: "text"}
_LARGE = frozenset(("event", "request", "lane", "dead_letter", "delivery"))
_MARK = Statement(
    "CREATE TABLE IF NOT EXISTS ensue_transfer (one integer PRIMARY KEY CHECK (one = 1), log_id text NOT NULL, "
    "position bigint NOT NULL, recorded_at bigint NOT NULL, batch bytea NOT NULL, writers text NOT NULL, "
    "receiver bytea NOT NULL)"
)
_TABLES = ", ".join(f"ensue_{part.name}" for part in PARTS)
_REMOVE = (
    Statement(f"TRUNCATE {_TABLES}, ensue_node, ensue_log"),
    Statement("DELETE FROM ensue_transfer"),
)
_PUT_MARK = Statement(
    "INSERT INTO ensue_transfer VALUES (1, $1::text, $2::bigint, $3::bigint, $4::bytea, $5::text, $6::bytea)"
)
_TAKE_OVER = Statement("UPDATE ensue_transfer SET receiver = $1::bytea")
_SCHEMA = Statement("SELECT current_schema()::text")
_IS_HALF = Statement("SELECT to_regclass('ensue_transfer') IS NOT NULL")
_HALF_OF = Statement("SELECT log_id, position, recorded_at, batch FROM ensue_transfer")
_RECEIVER = "SELECT receiver FROM ensue_transfer FOR UPDATE"
# Where many write, position and time are those that were given last: nobody writes any more. Some of what is no event is
# written beside the batches of the writers.
_HEAD = Statement(
    "SELECT log_id, CASE writers WHEN 'many' THEN (SELECT last_value FROM ensue_position) ELSE position END, "
    "CASE writers WHEN 'many' THEN (SELECT last_value FROM ensue_clock) ELSE recorded_at END, "
    "decode(md5(concat_ws('/', encode(batch, 'hex'), names, "
    "(SELECT string_agg(concat_ws('.', id, status, reason, handles), ',' ORDER BY id) FROM ensue_consumer), "
    "(SELECT string_agg(concat_ws('.', consumer, segment, fence, rev), ',' ORDER BY consumer, segment) FROM ensue_progress)"
    ")), 'hex') FROM ensue_log"
)
_USED = Statement("SELECT " + " OR ".join(f"EXISTS (SELECT FROM ensue_{part.name})" for part in PARTS))
_LOCK = Statement("LOCK TABLE ensue_log, ensue_event, ensue_consumer IN ACCESS EXCLUSIVE MODE")
_WRITERS = Statement("SELECT writers FROM ensue_log UNION ALL SELECT writers FROM ensue_transfer")
_WRITE_HEAD = Statement(
    "INSERT INTO ensue_log (one, log_id, position, recorded_at, batch, names, writers) "
    "SELECT one, log_id, position, recorded_at, batch, 1, writers FROM ensue_transfer"
)
_SET_SEQUENCES = Statement(
    "SELECT setval('ensue_position', position), setval('ensue_settled', position), setval('ensue_clock', recorded_at) "
    "FROM ensue_transfer"
)
_UNMARK = Statement("DROP TABLE ensue_transfer")
_ANALYZE = Statement(f"ANALYZE {_TABLES}")
_BEGIN, _COMMIT, _ROLLBACK = (Statement(word)() for word in ("BEGIN", "COMMIT", "ROLLBACK"))


class PostgresqlTransfer:
    """See the module. `url` as for the store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._server = Server(url)
        self.place = self._server.shown
        self._session: Session | None = None
        self._copier: psycopg.AsyncConnection[Any] | None = None
        self._receiver = b""
        self._tables: tuple[Part, ...] = ()

    # ------------------------------------------------------------------------------------------------------- opening

    async def open(self, world: World, *, receiving: bool) -> Found:
        """See `Transfer.open`. Errors besides: `WiringError` for a server older than 15."""
        self._world = world
        async with self._translating("open"):
            self._session = await Server(self._url, read_only=not receiving).connect()
            (((schema_name,),),) = await self._session.run(_SCHEMA())
        if schema_name != "public":
            self.place = f"{self._server.shown} (schema {schema_name})"
        found = await self.found()
        if not receiving and found.state is Place.HALF:
            raise half_copied(self.place)
        if not receiving and found.origin is None:
            raise Unavailable(
                f"could not open the log {self.place}: there is none. Are the database and the search path right?"
            )
        return found

    async def close(self) -> None:
        """See `Transfer.close`."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        copier, self._copier = self._copier, None
        if copier is not None:
            await copier.close()

    @contextlib.asynccontextmanager
    async def _translating(self, what: str) -> AsyncGenerator[None, None]:
        try:
            yield
        except psycopg.Error as error:
            raise translated(error, f"{what} {self.place}") from error

    def _opened(self) -> Session:
        if self._session is None:
            raise Unavailable(f"{self.place} is not open")
        return self._session

    # ------------------------------------------------------------------------------------------------------- reading

    async def found(self) -> Found:
        """See `Transfer.found`."""
        async with self._translating("look at"):
            return await self._found(self._opened())

    async def _found(self, session: Session) -> Found:
        version = await schema.version(session)
        if version > schema.SCHEMA_VERSION:
            raise LogTooNew(
                f"the log {self.place} was made by a newer Ensue (schema {version}, this one knows {schema.SCHEMA_VERSION}). "
                "Nothing was written to it; install that version"
            )
        if not version:
            return Found(Place.EMPTY)
        (((half,),),) = await session.run(_IS_HALF())
        if half:
            (marks,) = await session.run(_HALF_OF())
            return Found(Place.HALF, Origin(*marks[0]) if version == schema.SCHEMA_VERSION else None)
        heads, ((used,),), nodes = await session.run(_HEAD(), _USED(), checkpoints.NODES())
        if not heads:
            raise CorruptLog(f"the log {self.place} has lost its head row; nothing was written to it")
        living = checkpoints.nodes(nodes, self._world.now())
        return Found(Place.WHOLE if used else Place.EMPTY, Origin(*heads[0]), living, (), await left(session))

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        """See `Transfer.extent`."""
        async with self._translating(f"read {part.label} of"):
            columns = await self._columns(part)
            if not columns:
                return 0, None
            order = ", ".join(f"{name} DESC" for name in _key(part, columns))
            last_one = f"SELECT {', '.join(columns[: part.key])} FROM {_table(part)} ORDER BY {order} LIMIT 1"
            count = Statement(f"SELECT count(*) FROM {_table(part)}")
            ((number,),), last = await self._opened().run(count(), Statement(last_one)())
        return number, last[0] if last else None

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        """See `Transfer.page`."""
        async with self._translating(f"read {part.label} of"):
            columns = await self._columns(part)
            if not columns:
                return []
            text = _page(part, columns, await self._large(part), after or ())
            (rows,) = await self._opened().run(Statement(text)(*(after or ())))
        return plain(part, page_of(part, rows))

    async def _columns(self, part: Part) -> list[str]:
        """Each column as a plain value; nothing where there is no such table."""
        if part.table is None:
            return [_column(part, name) for name in part.columns]
        there = await kinds(self._opened(), _table(part))
        return [expression(name, there[name.lower()]) for name in part.columns] if there else []

    async def _large(self, part: Part) -> list[str]:
        """The columns that may hold much."""
        if part.table is None:
            return list(part.columns[-1:]) if part.name in _LARGE else []
        there = await kinds(self._opened(), _table(part))
        return [quoted(name) for name in part.columns if there[name.lower()] in ("text", "varchar", "bytea")]

    # ------------------------------------------------------------------------------------------------------- writing

    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        """See `Transfer.begin`."""
        self._receiver, self._tables = self._world.new_id(), tuple(tables)
        session = self._opened()
        async with self._translating("begin a copy in"):
            await schema.upgrade(session, writers=self._server.writers)
            async with _transaction(session):
                await session.run(_LOCK())  # whoever writes to a log that is empty is done with it, or finds none
                state = (await self._found(session)).state
                if state is Place.WHOLE:
                    raise WrongLog(f"could not begin a copy in {self.place}: it is a log; nothing was changed")
                if not anew:
                    await session.run(_TAKE_OVER(self._receiver))
                    missing = [part for part in tables if not await kinds(session, _table(part))]
                    await make(session, missing, empty=False)
                    return
                _, ((made_for,), *_) = await session.run(_MARK(), _WRITERS())
                writers = self._server.writers or made_for
                mark = _PUT_MARK(
                    origin.log_id, origin.position, origin.recorded_at, origin.batch, writers, self._receiver
                )
                await session.run(*(statement() for statement in _REMOVE), mark)
                await make(session, tables, empty=state is Place.HALF)

    def _hold(self, marks: Sequence[Values]) -> None:
        if list(marks) != [(self._receiver,)]:
            raise self._taken_over()

    def _taken_over(self) -> Unavailable:
        return Unavailable(f"could not go on with the copy in {self.place}: another `ensue copy` has gone on with it")

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        """See `Transfer.receive`."""
        names = [_name(part, column) for column in part.columns]
        # What is small is told in texts, which the server reads as whatever the column is.
        binary = part.table is None and not _is_consumer(part)
        text = f"COPY {_table(part)} ({', '.join(map(quoted, names))}) FROM STDIN (FORMAT {'binary' if binary else 'text'})"
        async with self._translating(f"copy {part.label} to"):
            there = await kinds(self._opened(), _table(part)) if binary else {}
            if self._copier is None:
                self._copier = await self._server.connect_to_copy()
            async with self._copier.transaction(), self._copier.cursor() as cursor:
                try:
                    self._hold(await (await cursor.execute(_RECEIVER)).fetchall())
                except errors.UndefinedTable as error:
                    raise self._taken_over() from error
                async with cursor.copy(text.encode()) as copy:
                    if binary:
                        copy.set_types([there[name] for name in names])
                    for row in rows:
                        await copy.write_row(row if binary else _texts(part, row))
                self._world.failpoint("transfer.commit")

    async def finish(self) -> None:
        """See `Transfer.finish`."""
        session = self._opened()
        async with self._translating("finish the copy in"), _transaction(session):
            try:
                (marks,) = await session.run(Statement(_RECEIVER)())
            except errors.UndefinedTable as error:
                raise self._taken_over() from error
            self._hold(marks)
            keys = [("ensue_dead_letter", "id"), ("ensue_delivery", "id")]
            keys += [(_table(part), part.columns[0].lower()) for part in self._tables if numbers_rows(part)]
            numbers = [renumber(table, column) for table, column in keys]
            await session.run(*numbers, _SET_SEQUENCES(), _ANALYZE(), _WRITE_HEAD(), _UNMARK())


@contextlib.asynccontextmanager
async def _transaction(session: Session) -> AsyncGenerator[None, None]:
    """One durable transaction; nothing of it if it fails."""
    await session.run(_BEGIN, *session.settings)
    try:
        yield
        await session.run(_COMMIT)
    finally:
        if not session.idle and session.lost is None:
            await session.run(_ROLLBACK)


def _table(part: Part) -> str:
    return quoted(part.name) if part.table is not None else f"ensue_{part.name}"


def _name(part: Part, column: str) -> str:
    """The order in which delivery records were made is that of their ids."""
    is_order = part.table is None and (part.name, column) == ("delivery", "number")
    return "id" if is_order else column


def _column(part: Part, column: str) -> str:
    return "convert_to(handles::text, 'UTF8')" if column == "handles" else _name(part, column)


def _key(part: Part, columns: Sequence[str]) -> list[str]:
    """The key in the order of bytes, whatever the language of the database is."""
    texts = {"former"} if part.table is None else {c.name for c in part.table.columns if c.kind == "text"}
    return [
        f'{column} COLLATE "C"' if name in texts else column
        for name, column in zip(part.columns[: part.key], columns, strict=False)
    ]


def _page(part: Part, columns: Sequence[str], large: Sequence[str], after: Values) -> str:
    """Ended with the row that fills a page: what is large stays on the server."""
    key = ", ".join(_key(part, columns))
    given = ", ".join(f"${n}::{_PARAMETERS[type(value)]}" for n, value in enumerate(after, 1))
    named = ", ".join(f"{column} AS c{n}" for n, column in enumerate(columns))
    sizes = [f"coalesce(octet_length({column}), 0)" for column in large]
    rows = (
        f"SELECT {named}, {' + '.join(sizes) or 0} AS size, row_number() OVER (ORDER BY {key}) AS number FROM {_table(part)} "
        f"{f'WHERE ({key}) > ({given})' if given else ''} ORDER BY {key} LIMIT {PAGE_ROWS}"
    )
    summed = f"SELECT *, sum(size) OVER (ORDER BY number) - size AS before FROM ({rows}) page"
    names = ", ".join(f"c{n}" for n in range(len(columns)))
    return f"SELECT {names} FROM ({summed}) page WHERE before <= {PAGE_BYTES} ORDER BY number"


def _texts(part: Part, row: Values) -> Values:
    return (*row[:-1], row[-1].decode()) if _is_consumer(part) else row


def _is_consumer(part: Part) -> bool:
    return part.table is None and part.name == "consumer"
