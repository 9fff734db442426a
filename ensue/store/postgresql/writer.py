"""The one writer of this process: group commit on PostgreSQL.

States: idle → *locking* (BEGIN, the rows that fences name, then the head, then all look-ups: one flight) → *judging* (each
request by itself, without I/O but for functions inside the transaction) → *committing* (all rows and COMMIT: one flight) →
answered → the next batch, at once if something waits. Everything queued when a batch begins is in it.

Nothing that writes is sent before the lock's answer is read. The head's row lock makes positions dense and in commit order:
whoever holds it sees all that is committed, and nobody else's positions are given until it commits or ends.

Failures. Before COMMIT is sent nothing is stored, for certain: the batch is tried again, by halves when it is a request's own
fault. A connection that is lost after that leaves the outcome unknown; it is settled under the lock, which waits until the
old session has ended: the mark in the head's row, the events' ids, the idempotency keys or the progress rows tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec
import psycopg

from ensue.errors import EnsueError, OutcomeUnknown, StorageFull, Unavailable, WiringError, WriterStopped
from ensue.events.stored import Draft
from ensue.store import refusals
from ensue.store.base import Request, Written
from ensue.store.postgresql.batch import Batch, Later
from ensue.store.postgresql.errors import is_of_a_row, is_outdated, is_transient, translated
from ensue.store.postgresql.locking import COMMIT, ROLLBACK, Locking
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.order import Fence, Order
from ensue.store.postgresql.session import Call, Session
from ensue.store.postgresql.transaction import PostgresqlTransaction
from ensue.store.queue import Pending, Queue
from ensue.world import World

__all__ = ["AGAIN_SECONDS", "PATIENCE_SECONDS", "SETTLE_SECONDS", "UNKNOWN", "Writer"]

PATIENCE_SECONDS = 15.0
"""So long a server that is gone, or a log that is locked, is asked again before those who wait are told."""
AGAIN_SECONDS = 0.1
SETTLE_SECONDS = 1.0
"""So long an answer waits until what it tells of can be read by everybody."""
_Pending: TypeAlias = Pending[Request]
Connect: TypeAlias = Callable[[], Awaitable[Session]]


class Writer:
    """See the module. All methods are called on the loop's thread.

    `announce` is called with the head after each commit that moved it.
    """

    def __init__(
        self,
        connect: Connect,
        world: World,
        names: Names,
        order: Order,
        fence: Fence | None,
        announce: Callable[[int], None],
    ) -> None:
        self.broken: EnsueError | None = None
        self.queue: Queue[Request] = Queue()
        self._connect = connect
        self._world = world
        self._order = order
        self._fence = fence
        self._committed: list[tuple[list[_Pending], int]] = []
        """Batches that are stored, each with its last position, which is not settled yet."""
        self._settling: asyncio.Task[None] | None = None
        self._unsettled = 0
        """The last position of ours that is stored and cannot be read by everybody yet; 0 if there is none."""
        self._announce = announce
        self._session: Session | None = None
        self._locking = Locking(order, world, names)
        self._trouble_since: float | None = None
        self._closing = False
        self._wanted = asyncio.Event()
        self._task = world.spawn(self._run(), name="ensue writer")

    def put(self, request: Request) -> asyncio.Future[Written]:
        """Queue; the future is answered when it is durable."""
        self._world.failpoint("append.queued")
        future = self.queue.put(request)
        if self.broken is not None:
            self.queue.refuse(WriterStopped(f"this process writes no more since an earlier failure: {self.broken}"))
        self._wanted.set()
        return future

    async def close(self) -> None:
        """Answer what is queued, then end. A server that is connected and says nothing is not waited for for ever."""
        self._closing = True
        self._wanted.set()
        await asyncio.wait([self._task], timeout=PATIENCE_SECONDS)
        if self._settling is not None:
            await asyncio.wait([self._settling], timeout=PATIENCE_SECONDS)
        self.abandon()
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """End at once: what is not committed is not stored."""
        self._task.cancel()
        if self._settling is not None:
            self._settling.cancel()
        for pending, _ in self._committed:
            self.queue.answer(pending)  # it is stored
        self._committed = []
        if self._session is not None:
            self._session.close()
            self._session = None

    # ------------------------------------------------------------------------------------------------------- batches

    async def _run(self) -> None:
        batch: list[_Pending] = []
        try:
            while True:
                if not self.queue:
                    if self._closing:
                        return
                    self._wanted.clear()
                    await self._wanted.wait()
                    continue
                batch = self.queue.take()
                await self._write(batch)
                batch = []
        except asyncio.CancelledError:
            self.queue.answer(batch, OutcomeUnknown("the log was closed while this was being written"))
            self.queue.refuse(Unavailable("the log was closed before this was written; nothing of it is stored"))
            raise
        except Exception as error:  # a defect of ours: nobody may wait for ever, and nothing may be guessed
            self.broken = OutcomeUnknown(f"the writer ended in {type(error).__name__}: {error}")
            self.broken.__cause__ = error
            self.queue.answer(batch, self.broken)
            self.queue.refuse(self.broken)

    async def _write(self, pending: list[_Pending]) -> None:
        """One batch, until each of its requests is answered or queued again."""
        try:
            session = self._session = await self._connected()
            batch = await self._locking.lock(session, [one.work for one in pending])
            self._world.failpoint("append.locked")
            left = self._judge(session, batch, pending)
            await self._order.place(session, batch)
            mark = self._world.new_id() if batch.locked else b""
            head = self._order.head(batch, mark) if batch.locked else []
            calls = [*left, *batch.writes(), *head, COMMIT]
            self._world.failpoint("append.rows written")
        except WiringError as error:  # another server than the one before: nothing was sent there
            self.queue.answer(pending, error)
            return
        except psycopg.Error as error:
            await self._not_stored(pending, error)
            return
        try:
            self._world.failpoint("append.commit")
            await session.run(*calls)
            self._world.failpoint("append.committed")
        except psycopg.Error as error:
            if session.lost is not None:
                await self._settle(pending, batch, mark)
            else:
                await self._not_stored(pending, error)
            return
        self._stored(pending, batch, mark)

    async def _connected(self) -> Session:
        if self._session is None or self._session.lost is not None:
            self._locking.forget()
            self._session = await self._connect()
        return self._session

    def _stored(self, pending: list[_Pending], batch: Batch, mark: bytes) -> None:
        self._trouble_since = None
        self.queue.stored()
        moved = batch.head > batch.before
        if self._fence is not None and batch.locked:
            before = batch.before if moved else self._locking.head
            for one in pending:
                if one.answer is not None and not one.answer.replayed:
                    first, last = one.answer.first + before, one.answer.last + before
                    one.answer = msgspec.structs.replace(one.answer, first=first, last=last)
        self._locking.stored(batch, mark)
        if self._fence is not None and moved:
            self._committed.append((pending, batch.head))
            self._unsettled = batch.head
            if self._settling is None or self._settling.done():
                self._settling = self._world.spawn(self._settle_all(self._fence), name="ensue settling")
            return
        if moved:
            self._announce(batch.head)
        self.queue.answer(pending)
        self._world.failpoint("append.answered")

    async def _settle_all(self, fence: Fence) -> None:
        """Answer what is stored once everybody can read it, or when that takes too long: it is durable as it is."""
        while up_to := self._unsettled:
            settling = self._world.spawn(fence.settle(), name="ensue fence")
            while not (await asyncio.wait([settling], timeout=SETTLE_SECONDS))[0]:
                self._answer_up_to(self._unsettled)
            try:
                position = await settling
            except EnsueError:  # the server is gone for long; whoever comes next, when it is back, settles this, too
                self._answer_up_to(self._unsettled)
                return
            self._announce(position)
            self._answer_up_to(max(position, up_to))
            if self._unsettled == up_to:
                self._unsettled = 0
            self._world.failpoint("append.answered")

    def _answer_up_to(self, position: int) -> None:
        ready = [pending for pending, last in self._committed if last <= position]
        self._committed = [one for one in self._committed if one[1] > position]
        for pending in ready:
            self.queue.answer(pending)

    async def _not_stored(self, pending: list[_Pending], error: psycopg.Error) -> None:
        """Nothing is stored. What may pass is tried again; the request at fault is found by halving."""
        self._locking.forget()
        session = self._session
        if session is not None and session.lost is None and not await self._rolled_back(session):
            session.close()
        if is_transient(error):
            await self._wait(pending, error)
            return
        self._trouble_since = None
        if len(pending) == 1 and pending[0].work.apply and is_of_a_row(error):
            self.queue.answer(pending, refusals.row_refused(error, pending[0].work))
        elif len(pending) == 1 or isinstance(translated(error, ""), StorageFull):
            self.queue.answer(pending, translated(error, "write to the log"))
        else:
            self.queue.halve(pending)

    @staticmethod
    async def _rolled_back(session: Session) -> bool:
        if session.idle:
            return True
        try:
            await session.run(ROLLBACK)
        except psycopg.Error:
            return False
        return True

    async def _wait(self, pending: list[_Pending], error: psycopg.Error) -> None:
        """Try again in a moment; those who have waited too long are told."""
        if self._patient():
            self.queue.put_back(pending)
            await self._world.sleep(AGAIN_SECONDS)
            return
        refused = translated(error, "write to the log")
        self.queue.answer(pending, refused)
        self.queue.refuse(refused)

    def _patient(self) -> bool:
        now = self._world.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        return now - self._trouble_since < PATIENCE_SECONDS and not self._closing

    # ------------------------------------------------------------------------------------------------------- judging

    def _judge(self, session: Session, batch: Batch, pending: list[_Pending]) -> list[Call]:
        """Answer each by itself; those that must wait for the next batch are queued again. Returns what is still to be sent
        before the batch's own rows."""
        unsent: list[Call] = []
        for number, one in enumerate(pending):
            request = one.work
            try:
                answer = batch.replayed(request)
                if answer is None:
                    batch.check(request)
                    emitted, result = self._apply(session, batch, request, unsent)
                    answer = batch.take(request, emitted, result)
                one.answer = answer
            except EnsueError as refused:
                one.error = refused
            except Later:
                self.queue.put_back(pending[number:])
                del pending[number:]
                break
        return unsent

    def _apply(self, session: Session, batch: Batch, request: Request, unsent: list[Call]) -> tuple[list[Draft], bytes]:
        """Run the functions. Returns the events to append, and the result."""
        if not request.apply and request.result is None:
            return [], b""
        transaction = PostgresqlTransaction(session, unsent, self._locking.names, head=batch.head, batch=batch)
        emitted: list[Draft] = []
        unit = 0
        try:
            for function in request.apply:
                emitted.extend(function(transaction))
                transaction.check()
                unit += 1
            result = request.result() if request.result is not None else b""
        except Exception as error:
            if session.lost is not None:
                raise session.lost from error  # no function's failure
            if is_outdated(error):
                raise  # nor is this
            if transaction.broken is not None:
                raise transaction.broken from error  # perhaps another's
            transaction.undo()
            raise refusals.function_failed(error, unit) from error
        transaction.keep()
        self._locking.versions(session, batch, emitted, unsent)
        return emitted, result

    # ------------------------------------------------------------------------------------------------------ settling

    async def _settle(self, pending: list[_Pending], batch: Batch, mark: bytes) -> None:
        """The connection was lost when COMMIT had been sent. Find out, under the locks of the batch itself, whether it is
        stored: they are not to be had before the old session has ended."""
        self._locking.forget()
        while True:
            try:
                session = await self._connected()
                stored = await self._locking.is_stored(session, batch, mark)
            except (psycopg.Error, WiringError) as error:
                if session_ended := self._session:
                    session_ended.close()
                if is_transient(error) and self._patient():
                    await self._world.sleep(AGAIN_SECONDS)
                    continue
                stored = None
            if stored:
                self._stored(pending, batch, mark)
                self._locking.forget()
            elif stored is None:
                self.queue.answer(pending, OutcomeUnknown(UNKNOWN))
            else:
                self.queue.put_back(pending)
            return


UNKNOWN = (
    "the connection was lost while this was being committed, and it cannot be told whether it is stored. Ask again with the "
    "same idempotency key, or look whether it is there"
)
