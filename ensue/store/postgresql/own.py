"""A transaction of the caller's own: rows of any tables, and events of the log, in one commit.

The caller's statements run first, for as long as they take, and hold no lock of the log. At the end the locks are taken, the
events get their positions, and all of it is committed. The connection is one of a few that are kept for this.

Unlike a batch of the writer's it is never run a second time: the caller's statements are not ours to repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import psycopg

from ensue.errors import EnsueError, OutcomeUnknown, Unavailable, WiringError
from ensue.events.stored import Draft
from ensue.store import refusals
from ensue.store.base import Request, Written
from ensue.store.postgresql.batch import Batch
from ensue.store.postgresql.errors import is_transient, translated
from ensue.store.postgresql.locking import BEGIN, COMMIT, ROLLBACK, Locking
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.order import Fence, Order
from ensue.store.postgresql.session import Call, Session, Statement
from ensue.store.postgresql.transaction import PostgresqlTransaction, checked, numbered
from ensue.store.postgresql.writer import AGAIN_SECONDS, PATIENCE_SECONDS, SETTLE_SECONDS, UNKNOWN
from ensue.world import World

__all__ = ["OwnTransaction", "OwnTransactions"]

KEPT = 4
"""So many connections are kept open for the next ones."""
_LIMITS = "SELECT set_config('idle_in_transaction_session_timeout', '{}', true), set_config('lock_timeout', '{}', true)"
_PATIENT = Statement(_LIMITS.format("0", "0"))()
_LOCKING = Statement(_LIMITS.format("5s", "2s"))()


class OwnTransactions:
    """Begins them, on connections that it keeps."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Session]],
        world: World,
        order: Order,
        fence: Fence | None,
        announce: Callable[[int], None],
    ) -> None:
        self.order = order
        self.world = world
        self._connect = connect
        self._fence = fence
        self._announce = announce
        self._free: list[Session] = []
        self._closed = False

    async def begin(self) -> OwnTransaction:
        """Errors: `Unavailable`."""
        try:
            session = await self.session()
            try:
                await session.run(BEGIN, *session.settings, _PATIENT)
            except BaseException:
                session.close()
                raise
        except psycopg.Error as error:
            raise translated(error, "begin a transaction") from error
        return OwnTransaction(self, session)

    async def session(self) -> Session:
        """One that nobody uses. Errors: `psycopg.Error`."""
        while self._free:
            session = self._free.pop()
            if session.lost is None:
                return session
        return await self._connect()

    def give_back(self, session: Session) -> None:
        if session.idle and session.lost is None and len(self._free) < KEPT and not self._closed:
            self._free.append(session)
        else:
            session.close()

    def close(self) -> None:
        """Those that are open go on, and their connections end with them."""
        self._closed = True
        free, self._free = self._free, []
        for session in free:
            session.close()

    async def stored(self, head: int) -> None:
        """Tell of it; where many write, when everybody can read it."""
        if self._fence is None:
            self._announce(head)
            return
        settling = self.world.spawn(self._fence.settle(), name="ensue fence")
        settling.add_done_callback(self._settled)
        await asyncio.wait([settling], timeout=SETTLE_SECONDS)

    def _settled(self, settling: asyncio.Task[int]) -> None:
        if not settling.cancelled() and settling.exception() is None:
            self._announce(settling.result())


class OwnTransaction:
    """See the module. Ended by `commit` or `roll_back`, whichever comes first."""

    def __init__(self, owner: OwnTransactions, session: Session) -> None:
        self._owner = owner
        self._session = session
        self._ended = False

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement; its rows. Errors: those of psycopg, after which nothing but `roll_back` succeeds; `Misuse` for one
        that would end the transaction; `Unavailable` when it has ended."""
        checked(sql)
        if self._ended:
            raise Unavailable("the transaction has ended; begin another")
        return list((await self._session.run(self._session.dumped(numbered(sql), values)))[-1])

    async def roll_back(self) -> None:
        """Undo all of it. Idempotent."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._session.lost is None:
                await self._session.run(ROLLBACK)
        except psycopg.Error:
            pass  # the connection is gone, and with it the transaction
        finally:
            self._owner.give_back(self._session)

    async def commit(self, request: Request) -> Written:
        """Store the request's events behind the caller's rows, all or nothing. Where its idempotency key is known, the rows are
        undone and the first answer is given again.

        Errors: those of `Log.write`; those of psycopg where the caller's own rows cannot be committed.
        """
        locking = Locking(self._owner.order, self._owner.world, Names())
        session = self._session
        try:
            await session.run(_LOCKING)
            batch = await locking.lock(session, [request], begun=True)
            answer = batch.replayed(request)
            if answer is not None:
                await self.roll_back()
                return answer
            batch.check(request)
            answer = batch.take(request, self._apply(locking, batch, request), b"")
            await self._owner.order.place(session, batch)
        except (psycopg.Error, EnsueError) as error:
            await self.roll_back()
            raise _told(error) from error
        mark = self._owner.world.new_id() if batch.locked else b""
        head = self._owner.order.head(batch, mark) if batch.locked else []
        try:
            await session.run(*batch.writes(), *head, COMMIT)
        except psycopg.Error as error:
            if session.lost is None or not await self._is_stored(locking, batch, mark):
                await self.roll_back()
                raise _told(error) from error
        if not self._owner.order.remembers:
            before = batch.before if batch.head > batch.before else locking.head
            answer = msgspec.structs.replace(answer, first=answer.first + before, last=answer.last + before)
        self._ended = True
        self._owner.give_back(session)
        if batch.head > batch.before:
            await self._owner.stored(batch.head)
        return answer

    def _apply(self, locking: Locking, batch: Batch, request: Request) -> list[Draft]:
        """Run the functions, under the locks, and return the events to append. Errors: `ApplyFailed`; those of the connection."""
        session, emitted, unsent = self._session, list[Draft](), list[Call]()
        transaction = PostgresqlTransaction(session, unsent, locking.names, head=batch.head, batch=batch)
        for unit, function in enumerate(request.apply):
            try:
                emitted.extend(function(transaction))
                transaction.check()
            except Exception as error:
                if session.lost is not None:
                    raise session.lost from error
                raise refusals.function_failed(error, unit) from error
        if request.apply:
            transaction.keep()
            locking.versions(session, batch, emitted, unsent)
            if unsent:
                session.run_now(*unsent)
        return emitted

    async def _is_stored(self, locking: Locking, batch: Batch, mark: bytes) -> bool:
        """The connection was lost at the commit. Errors: `OutcomeUnknown`."""
        began = self._owner.world.monotonic()
        while self._owner.world.monotonic() - began < PATIENCE_SECONDS:
            session = None
            try:
                session = await self._owner.session()
                stored = await locking.is_stored(session, batch, mark)
            except (psycopg.Error, WiringError) as error:
                if session is not None:
                    session.close()
                if not is_transient(error):
                    break
                await self._owner.world.sleep(AGAIN_SECONDS)
                continue
            self._owner.give_back(session)
            if stored is None:
                break
            return stored
        raise OutcomeUnknown(UNKNOWN)


def _told(error: psycopg.Error | EnsueError) -> Exception:
    """An error of the log in our words; one of the caller's own rows as it is."""
    if isinstance(error, EnsueError):
        return error
    ours = translated(error, "commit the transaction")
    own_rows = isinstance(error, psycopg.IntegrityError) and not (error.diag.table_name or "").startswith("ensue_")
    return error if own_rows else ours
