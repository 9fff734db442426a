"""The log and its consumers' progress in a PostgreSQL database, 15 or later.

Durable: `synchronous_commit`, group commit (`writer.py`). Any number of processes, on any number of machines, may use one
log: the row lock of its head makes one dense order of what they write, `NOTIFY` wakes those who wait, and a poll stands
behind it. A process holds two connections: the writer's, and the desk's for all else; and, once it queries, a few for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import errors as sql_errors

from ensue.errors import EnsueError, ReadOnlyLog, Unavailable
from ensue.store import rows
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
from ensue.store.nodes import to_take
from ensue.store.postgresql import checkpoints
from ensue.store.postgresql.errors import is_transient, translated
from ensue.store.postgresql.looking import Lookers
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.order import Concurrent, Fence, Order, Serial, order_of
from ensue.store.postgresql.own import OwnTransaction, OwnTransactions
from ensue.store.postgresql.reading import select
from ensue.store.postgresql.schema import prepare
from ensue.store.postgresql.server import Server
from ensue.store.postgresql.session import Call, Rows, Session, Statement
from ensue.store.postgresql.transaction import numbered
from ensue.store.postgresql.writer import PATIENCE_SECONDS, Writer
from ensue.world import World

__all__ = ["PostgresqlStore"]

T = TypeVar("T")

POLL_SECONDS = 1.0
"""The poll behind the notifications, should one be lost with its connection."""
POOLED_POLL_SECONDS = 0.04
"""Through a pooler nobody can listen."""
AGAIN_SECONDS = 0.1
FAREWELL_SECONDS = 1.0
"""So long the last notification may take."""
NOTIFY_SECONDS = 0.005
"""At most so often are other processes woken."""
_SHUT_DOWN = (sql_errors.AdminShutdown, sql_errors.CrashShutdown)
_NOTIFY = Statement("SELECT pg_notify($1::text, '')")
_BURY = Statement(
    "UPDATE ensue_event SET data = $2::bytea WHERE position = ANY($1::bigint[]) "
    "AND substring(data FROM 1 FOR 1) <> '\\x00'::bytea"
)
_RECORDED_AT = Statement(
    "SELECT recorded_at FROM ensue_event WHERE position <= $1::bigint ORDER BY position DESC LIMIT 1"
)
_IDS = Statement(
    "SELECT position FROM ensue_event WHERE id >= $1::bytea AND id <= $2::bytea ORDER BY id LIMIT $3::bigint"
)


class PostgresqlStore:
    """See the module. `url` is `postgresql://user@host:port/database`, with any parameters of libpq.

    `read_only` is for tools that look: the log must exist, and nothing is written.
    """

    remote = True
    dialect = "postgresql"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.log_id = ""
        self._server = Server(url, read_only=read_only)
        self.capabilities = Capabilities(
            durable=True, sql=True, many_processes=True, own_transactions=True, dense=self._server.writers != "many"
        )
        self._read_only = read_only
        self._names = Names()
        self._order: Order = Serial()
        self._fence: Fence | None = None
        self._desk: Session | None = None
        self._connecting: asyncio.Lock = asyncio.Lock()
        self._writer: Writer | None = None
        self._own: OwnTransactions | None = None
        self._query: psycopg.Connection[Any] | None = None
        self._lookers: Lookers | None = None
        self._head = 0
        self._changed: set[asyncio.Future[None]] = set()
        self._listening = False
        self._notifying: asyncio.TimerHandle | None = None
        self._notified_at = float("-inf")
        self._poll: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None
        self._wakened_again = False
        self._closed = True

    # ------------------------------------------------------------------------------------------------------- opening

    async def open(self, world: World) -> None:
        """See `Log.open`. Errors besides: `WiringError` for a server older than 15."""
        self._world = world
        self._closed = False
        self._names = Names()
        try:
            desk = self._desk = await self._server.connect(notified=self._wakened)
            self.log_id, writers = await prepare(
                desk, read_only=self._read_only, database=self._server.shown, writers=self._server.writers
            )
            self._order = order_of(writers, self.log_id)
            self.capabilities = msgspec.structs.replace(self.capabilities, dense=self._order.remembers)
            await self._refresh()
        except psycopg.Error as error:
            self.abandon()
            raise translated(error, f"open the log {self._server.shown}") from error
        except BaseException:
            self.abandon()
            raise
        if not self._read_only:
            self._fence = Fence(self._order, world, self._ask) if isinstance(self._order, Concurrent) else None
            self._writer = Writer(self._server.connect, world, self._names, self._order, self._fence, self._committed)
            self._own = OwnTransactions(self._server.connect, world, self._order, self._fence, self._committed)

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer is not None:
                await self._writer.close()
            if self._notifying is not None and self._desk is not None and self._desk.lost is None:
                notified = self._desk.run(_NOTIFY(self._channel))
                notified.add_done_callback(_forgotten)  # if nobody is woken by us any more, others poll
                await asyncio.wait([notified], timeout=FAREWELL_SECONDS)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close at once, committing nothing: what is left when a process dies."""
        self._closed = True
        for timer in (self._notifying, self._poll):
            if timer is not None:
                timer.cancel()
        self._notifying = self._poll = None
        self._listening = False
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        if self._own is not None:
            self._own.close()
            self._own = None
        if self._desk is not None:
            self._desk.close()
            self._desk = None
        if self._query is not None:
            self._query.close()
            self._query = None
        if self._lookers is not None:
            self._lookers.close()
            self._lookers = None
        self._wake(self._not_open())

    def _not_open(self) -> Unavailable:
        return Unavailable(f"the log {self._server.shown} is not open")

    @property
    def _channel(self) -> str:
        return f"ensue_{self.log_id}"

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`."""
        if self._writer is not None and not self._closed:
            return self._writer.put(request)
        refused: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        refused.set_exception(self._refusal())
        return refused

    def _refusal(self) -> EnsueError:
        if self._read_only and not self._closed:
            return ReadOnlyLog(f"could not write to {self._server.shown}: it was opened for reading only")
        return self._not_open()

    async def begin(self) -> OwnTransaction:
        """See `OwnTransactions.begin`."""
        if self._own is None or self._closed:
            raise self._refusal()
        return await self._own.begin()

    async def room(self) -> None:
        """See `Log.room`."""
        if self._writer is not None:
            await self._writer.queue.room()

    def _committed(self, head: int) -> None:
        """Wake who waits here, and tell the others; not more often than they can make use of."""
        self._advanced(head)
        if self._notifying is None and not self._closed:
            wait = self._notified_at + NOTIFY_SECONDS - self._world.monotonic()
            self._notifying = self._world.call_later(max(0.0, wait), self._notify)

    def _notify(self) -> None:
        self._notifying = None
        self._notified_at = self._world.monotonic()
        if self._desk is not None and self._desk.lost is None:
            self._desk.run(_NOTIFY(self._channel)).add_done_callback(_forgotten)

    def _advanced(self, head: int) -> None:
        if head > self._head:
            self._head = head
            self._wake(None)

    def _wake(self, error: EnsueError | None) -> None:
        waiters, self._changed = self._changed, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None) if error is None else waiter.set_exception(error)

    # ------------------------------------------------------------------------------------------------------- reading

    async def _ask(self, what: str, *calls: Call) -> list[Rows]:
        """Run a flight that may be run twice. A server that is gone is asked again for a while."""
        began = self._world.monotonic()
        while True:
            try:
                return await (await self._connected()).run(*calls)
            except psycopg.Error as error:
                patient = self._world.monotonic() - began < PATIENCE_SECONDS
                if self._closed or not is_transient(error) or not patient:
                    raise translated(error, f"{what} of the log {self._server.shown}") from error
            await self._world.sleep(AGAIN_SECONDS)

    async def _connected(self) -> Session:
        async with self._connecting:
            if self._closed:
                raise self._not_open()
            if self._desk is None or self._desk.lost is not None:
                self._listening = False
                desk = await self._server.connect(notified=self._wakened)
                if self._closed:  # meanwhile: nobody would close this one
                    desk.close()
                    raise self._not_open()
                self._desk = desk
                if self._poll is not None:
                    self._listen()
            return self._desk

    async def read(
        self, selection: Selection = (), *, after: int = 0, before: int | None = None, limit: int = 1000,
        backwards: bool = False,
    ) -> Page:  # fmt: skip
        """See `Log.read`."""
        while True:
            # The head is read before the rows, so that all up to it are among them; some behind it may be, too.
            end = 1 << 62 if before is None else before
            revision = self._names.revision
            call = select(selection, self._names.expand, after=after, before=end, limit=limit, backwards=backwards)
            *looked, found = await self._ask("read events", *self._order.look(), call)
            head, names = self._order.seen(looked)
            self._advanced(head)
            if names == revision:
                break
            await self._learn_names()
        end = min(end, head + 1)
        full, kept = len(found) >= limit, [row for row in found if row[0] < end]
        if backwards:
            return Page(kept, (kept[-1][0] if kept else end) if full else after)
        if full and len(kept) == len(found):
            return Page(kept, kept[-1][0])
        return Page(kept, max(after, end - 1))

    async def _refresh(self) -> None:
        """Know the head, and the names where they have changed."""
        head, names = self._order.seen(await self._ask("read the head", *self._order.look()))
        if names != self._names.revision:
            await self._learn_names()
        self._advanced(head)

    async def _learn_names(self) -> None:
        self._names.load(await self._ask("read the types", *Names.queries()))

    def head(self) -> int:
        """See `Log.head`."""
        return self._head

    async def changed(self, after: int) -> int:
        """See `Log.changed`."""
        while self._head <= after:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter.add_done_callback(_forgotten)
            self._changed.add(waiter)
            try:
                self._start_watching()
                await self._refresh()
                if self._head > after:
                    break
                await waiter
            finally:
                self._changed.discard(waiter)
        return self._head

    def _start_watching(self) -> None:
        """From now on; a connection that is made anew listens before it looks."""
        self._listen()
        if self._poll is None:
            self._poll_after(POOLED_POLL_SECONDS if self._desk is not None and self._desk.pooled else POLL_SECONDS)

    def _listen(self) -> None:
        if self._desk is not None and not self._desk.pooled and not self._listening:
            self._listening = True
            self._desk.run(Statement(f'LISTEN "{self._channel}"')()).add_done_callback(_forgotten)

    def _poll_after(self, seconds: float) -> None:
        def poll() -> None:
            self._poll_after(seconds)
            self._wakened(unsettled=True)

        self._poll = self._world.call_later(seconds, poll)

    def _wakened(self, unsettled: bool = False) -> None:
        """Somebody may have written. One look at a time, and none that nobody waits for. A process that died may have left
        positions that nobody has settled."""
        if not self._changed or self._closed:
            return
        if self._look is not None and not self._look.done():
            self._wakened_again = True  # the head that it brings may have been read before this
            return
        self._look = self._world.spawn(self._look_again(unsettled), name="ensue look")

    async def _look_again(self, unsettled: bool) -> None:
        try:
            self._wakened_again = True
            while self._wakened_again and self._changed:
                self._wakened_again = False
                self._start_watching()
                if unsettled and self._fence is not None:
                    await self._fence.settle()
                await self._refresh()
        except EnsueError as error:
            self._wake(error)

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.types`."""
        await self._refresh()
        return self._names.by_number

    def known_types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.known_types`."""
        return self._names.by_number

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """See `Log.rename`."""
        if all(self._names.former.get(old) == name for old in former):
            return
        await self._ask("rename types", *checkpoints.rename(name, former))
        await self._refresh()

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        """See `Log.bury`."""
        await self._ask("bury events", _BURY(list(positions), tombstone))

    async def former_names(self) -> Mapping[str, str]:
        """See `Log.former_names`."""
        await self._refresh()
        return self._names.former

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        await self._refresh()
        low, high = 0, self._head
        while low < high:
            middle = (low + high + 1) // 2
            (found,) = await self._ask("read times", _RECORDED_AT(middle))
            if not found or found[0][0] < time:
                low = middle
            else:
                high = middle - 1
        return low

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """See `Log.positions_of`."""
        (found,) = await self._ask("read ids", _IDS(lowest, highest, limit))
        return [position for (position,) in found]

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a reading statement of the user's, on a connection of its own that may not write. Blocks. Errors of the
        database are raised as they are."""
        if self._closed:
            raise self._not_open()
        kept = self._query
        if kept is not None and not kept.closed:
            try:
                return self._asked(kept, sql, values)
            except psycopg.OperationalError:
                if not kept.closed:
                    raise
        # None yet, or it was cut since it was last used: what only reads may be asked twice.
        self._query = self._server.connect_to_query()
        return self._asked(self._query, sql, values)

    @staticmethod
    def _asked(connection: psycopg.Connection[Any], sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return connection.execute(numbered(sql).encode(), values).fetchall()
        except _SHUT_DOWN:
            connection.close()
            raise
        finally:
            if not connection.closed:
                connection.rollback()

    async def look(self, function: Callable[[SqlTransaction], T]) -> T:
        """See `Looking.look`. Errors of the database are raised as they are."""
        if self._closed:
            raise self._not_open()
        if self._lookers is None:
            self._lookers = Lookers(self._server.connect_to_query, self._world)
        return await self._lookers.look(function)

    async def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """A reading statement of Ensue's own, without blocking the loop. Errors: those of `Log.read`."""
        call = (await self._connected()).dumped(numbered(sql), values)
        (found,) = await self._ask("read rows", call)
        return found

    # --------------------------------------------------------------------------------------------------- checkpoints

    async def define(self, consumer: Consumer) -> Consumer:
        """See `Checkpoints.define`."""
        known = {row.name: row for row in await self.consumers()}.get(consumer.name)
        if known is not None and consumer.handles.keys() <= known.handles.keys() and known.status != "retired":
            return known
        *_, found = await self._ask("define a consumer", *checkpoints.define(consumer))
        return rows.consumer(found[0])

    async def consumers(self) -> tuple[Consumer, ...]:
        """See `Checkpoints.consumers`."""
        (found,) = await self._ask("read consumers", checkpoints.CONSUMERS())
        return tuple(map(rows.consumer, found))

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """See `Checkpoints.set_status`."""
        await self._ask("set the status of a consumer", *checkpoints.set_status(consumer, status, reason))

    async def beat(self, node: Node) -> None:
        """See `Checkpoints.beat`."""
        await self._ask("renew the lease", *checkpoints.beat(node, self._world.now()))

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """See `Checkpoints.claim`."""
        progress: Rows = []
        lanes: Rows = []
        while True:  # what another process takes meanwhile is not ours; there may be more
            owners, nodes = await self._ask("read progress", *checkpoints.owners(consumer))
            others = checkpoints.nodes(nodes, now)
            got = {row[1] for row in progress}
            wanted = to_take([row[:2] for row in owners], others, node, now, most - len(got), {*held, *got})
            if not wanted:
                break
            # Each is taken only if its fence is still the one that was seen.
            result = await self._claim(consumer, node, [(row[0], row[2]) for row in owners if row[0] in wanted])
            if result is None:
                break
            taken, found = result
            progress += taken
            lanes += [lane for lane in found if lane[2] in {row[1] for row in taken}]
        return rows.standing(sorted(progress), sorted(lanes))

    async def _claim(self, consumer: int, node: Node, wanted: Sequence[tuple[int, int]]) -> list[Rows] | None:
        """None where a process keeps one of them locked: its commit is under way, or it is stopped in the middle of it."""
        try:
            return (await (await self._connected()).run(*checkpoints.claim(consumer, node, wanted)))[1:]
        except sql_errors.LockNotAvailable:
            return None
        except psycopg.Error as error:
            raise translated(error, f"claim segments of the log {self._server.shown}") from error

    async def standing(self, consumer: int) -> Standing:
        """See `Checkpoints.standing`."""
        _, progress, lanes, _ = await self._ask("read progress", *checkpoints.standing(consumer))
        return rows.standing(progress, lanes)

    async def nodes(self) -> tuple[Node, ...]:
        """See `Checkpoints.nodes`."""
        (found,) = await self._ask("read nodes", checkpoints.NODES())
        return checkpoints.nodes(found, self._world.now())

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """See `Checkpoints.dead_letters`."""
        (found,) = await self._ask("read dead letters", *checkpoints.dead_letters(consumer, open_only))
        return tuple(map(rows.dead_letter, found))

    async def erase(self, tag: bytes, said: str) -> None:
        """See `Checkpoints.erase`. What rows were before is overwritten when the server vacuums its tables."""
        await self._ask("erase what failures said", *checkpoints.erase(tag, said))

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """See `Checkpoints.deliveries`."""
        calls = checkpoints.deliveries(positions)
        return checkpoints.covering(await self._ask("read deliveries", *calls), positions) if calls else ()


def _forgotten(future: asyncio.Future[Any]) -> None:
    """Whoever waits need not hear of its error: of a notification that is lost with its connection (who waits for it polls), or
    where looking has failed by itself."""
    if not future.cancelled():
        future.exception()
