"""The one writer of a SQLite log: group commit.

States: idle → a batch is begun (turn taken, checked, inserted: all on the loop's thread) → COMMIT → answered → when the
write-ahead file is long, a checkpoint on the commit thread; then the next batch, at once if something waits. Everything
queued when a batch begins is in it.

Why SQL runs on the loop's thread and only COMMIT leaves it: the binding gives up the interpreter's lock around every
step of a statement. With a busy thread beside it, each step waits up to five milliseconds to get it back; a thousand
inserts then take five seconds instead of ten milliseconds. COMMIT is one step and the only slow one: the disk. On a disk
that takes a fraction of a millisecond, the two changes of thread would cost as much as the COMMIT of few events: then it
stays here, too. In memory, where SQLite refuses readers beside an open transaction, a batch is one step of the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import apsw
import msgspec

from ensue.errors import (
    EnsueError,
    LogFileReplaced,
    OutcomeUnknown,
    Unavailable,
    WriterStopped,
)
from ensue.events.stored import Draft
from ensue.store import refusals
from ensue.store.base import Condition, ConsumerCommit, Request, Written
from ensue.store.queue import Pending, Queue
from ensue.store.sqlite import checkpoints
from ensue.store.sqlite.errors import extended, translated
from ensue.store.sqlite.files import LogFiles
from ensue.store.sqlite.names import Types
from ensue.store.sqlite.reading import first, select
from ensue.store.sqlite.transaction import SqliteTransaction
from ensue.world import Threads, World

__all__ = ["CHECKPOINT_PAGES", "QUICK_SECONDS", "Job", "SqliteTransaction", "Types", "Writer"]

FEW_EVENTS, FEW_BYTES = 100, 256 * 1024
QUICK_SECONDS = 0.001
"""The commit of few events stays on the loop's thread while the one before took less than this."""
BEGIN_SECONDS = 0.00005
"""How long the loop waits for a commit on the thread, so that it begins now and not when the loop has nothing to do."""
CHECKPOINT_PAGES = 8_000
"""So many pages (32 MB) in the write-ahead file are copied into the log's file, on the commit thread."""
STREAMS_CACHED = 100_000
BUSY_SECONDS = 5.0
"""How long to wait for a program that holds the file locked without taking turns."""
TURN_SECONDS = 10.0
"""How long those who write wait for a process that keeps the turn: as long as a lease, after which others act for it."""
_INSERT_EVENT = "INSERT INTO ensue_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_TAG = "INSERT INTO ensue_event_tag VALUES (?, ?, ?)"
_LAST_OF_STREAM = "SELECT version FROM ensue_event WHERE stream = ? ORDER BY position DESC LIMIT 1"
_LAST_OF_STREAMS = f"SELECT value, ({_LAST_OF_STREAM.replace('?', 'unhex(value)')}) FROM json_each(?)"
_INSERT_REQUEST = "INSERT INTO ensue_request VALUES (?, ?, ?, ?, ?, ?)"
_DISK_ERRORS = (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.NoMemError)
_NO_REQUESTS_FAULT = (*_DISK_ERRORS, apsw.BusyError, apsw.CantOpenError, Unavailable)

Job = Callable[[apsw.Connection], Any]
"""Anything else that is written in a batch's transaction, such as taking a segment."""


_Pending: TypeAlias = Pending[Request | Job]


class Writer:
    """See the module. All methods are called on the loop's thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        world: World,
        files: LogFiles | None,
        types: Types,
        announce: Callable[[int], None],
    ) -> None:
        self.broken: BaseException | None = None
        self.head = 0
        self.committed = b""
        """The last batch of this writer that is durable."""
        self._sql = connection
        self._world = world
        self._files = files
        self._types = types
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        if files is not None:
            connection.set_busy_timeout(0)  # it would block the loop
            connection.set_wal_hook(self._wal_has)  # in place of SQLite's own checkpoint, which is part of a COMMIT
        self.queue: Queue[Request | Job] = Queue()
        self._thread: Threads = world.threads(1, name="ensue commit")
        self._in_flight: list[_Pending] = []
        self._gives_up_at = 0.0
        self._scheduled = False
        self._turning = False
        self._checkpointing = False
        self._wal_pages = self._bytes_in_flight = 0
        self._last_commit_seconds = 0.0
        self._wait: asyncio.TimerHandle | None = None
        """While another process has the turn: when to tell those who ask."""
        self._abandoned = False
        self._streams: dict[bytes, int] = {}
        self._touched: dict[bytes, int] = {}
        """The last position, or a later one, of each tag that an event behind `_touched_since` carries."""
        self._touched_since = 0
        self._batch = b""
        self._recorded_at = self._recorded_before = self._head_before = 0
        self._pid = os.getpid()
        self._idle: asyncio.Future[None] | None = None
        self._events: list[tuple[object, ...]] = []
        self._tags: list[tuple[object, ...]] = []
        self._keys: dict[bytes, tuple[object, ...]] = {}

    # ------------------------------------------------------------------------------------------------------ queueing

    def put(self, work: Request | Job) -> asyncio.Future[Any]:
        """Queue; the future is answered when it is durable."""
        refused = self._broken_again(self.broken) if self.broken is not None else None
        if refused is None and self._pid != os.getpid():
            refused = Unavailable("this log was opened before a fork; open it in the process that uses it")
        if refused is not None:
            future = self._loop.create_future()
            future.set_exception(refused)
            return future
        if isinstance(work, Request):
            self._world.failpoint("append.queued")
        future = self.queue.put(work)
        if not self._in_flight and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        return future

    async def turn(self) -> None:
        """Wait for the turn to write, and keep it. Only when nothing is queued and nothing will be. Errors: `TimeoutError`
        when another process keeps it."""
        assert self._files is not None
        if not self._files.try_lock():
            await asyncio.wait_for(self._files.turn(self._thread, self._files.lock), TURN_SECONDS)

    def abandon(self) -> None:
        """Answer what is left without writing it."""
        self._abandoned = True
        if self._wait is not None:
            self._wait.cancel()
        in_flight, self._in_flight = self._in_flight, []
        for pending in in_flight:
            pending.error = OutcomeUnknown("the log was closed while this was being written")
        self.queue.answer(in_flight)
        self.queue.refuse(Unavailable("the log was closed before this was written; nothing of it is stored"))
        self.stop()

    async def drain(self) -> None:
        """Until nothing is queued or in flight."""
        while self.queue or self._in_flight or self._checkpointing:
            self._idle = self._loop.create_future()
            await self._idle

    def stop(self) -> None:
        self._thread.close()

    @staticmethod
    def _broken_again(error: BaseException) -> EnsueError:
        kind = LogFileReplaced if isinstance(error, LogFileReplaced) else WriterStopped
        return kind(f"this process writes no more since an earlier failure, restart it: {error}")

    # ------------------------------------------------------------------------------------------------------ batches

    def _turn(self) -> None:
        """Begin a batch with all that is queued, up to the bounds."""
        self._scheduled = False
        if self._turning:
            return  # a batch ended within `run`: the loop below begins the next
        self._turning = True
        try:
            while self.queue and not self._in_flight and not self._checkpointing and self._wait is None:
                if self._files is None:
                    self._in_flight = self._take()
                    self._thread.run(self._write_and_commit, self._written_and_committed)
                elif self._files.try_lock():
                    self._in_flight = self._take()
                    self._begin()
                else:
                    self._wait = self._world.call_later(TURN_SECONDS, self._waited)
                    self._thread.run(self._files.lock, self._locked)
        finally:
            self._turning = False

    def _take(self) -> list[_Pending]:
        batch = self.queue.take()
        self._bytes_in_flight = sum(pending.size for pending in batch)
        return batch

    def _waited(self) -> None:
        """Another process keeps the turn: a commit takes milliseconds, so it is stopped or stuck. We go on waiting for it,
        those who asked need not."""
        self._wait = self._world.call_later(TURN_SECONDS, self._waited)
        self.queue.refuse(
            Unavailable(
                f"another process has had the turn to write to this log for over {TURN_SECONDS:g} s; nothing was stored. See "
                "whether it is stopped, and end it: what it has not committed is undone"
            )
        )
        self._next()

    def _locked(self, _: object, error: BaseException | None) -> None:
        if self._abandoned or self._files is None:
            return
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        if error is not None:
            self.queue.refuse(Unavailable(f"could not take the turn to write: {error}"))
        elif self.queue:
            self._in_flight = self._take()
            self._begin()
            return
        else:
            self._files.unlock()
        self._next()

    def _begin(self) -> None:
        if self._abandoned:
            return
        error = self._insert()
        if isinstance(error, apsw.BusyError) and self._wait_for_stranger():
            return
        if error is not None:
            self._begin_failed(self._in_flight, error)
        elif self.head - self._head_before > FEW_EVENTS or self._bytes_in_flight > FEW_BYTES:
            self._thread.run(self._commit, self._committed, patience_seconds=BEGIN_SECONDS)
        elif self._last_commit_seconds < QUICK_SECONDS:
            self._committed(None, self._try_few())
        else:
            self._thread.run(self._try_few, lambda failed, error: self._committed(None, failed or error))

    def _wait_for_stranger(self) -> bool:
        """A program that knows nothing of our turns holds the file locked. Ask again in a moment, with the loop free."""
        now = self._world.monotonic()
        self._gives_up_at = self._gives_up_at or now + BUSY_SECONDS
        if now < self._gives_up_at:
            self._world.call_later(0.005, self._begin)
            return True
        self._gives_up_at = 0.0
        return False

    def _insert(self) -> Exception | None:
        """Begin the transaction and write the batch; the error, rolled back, if that cannot be done."""
        self._world.failpoint("append.locked")
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            self._gives_up_at = 0.0
            self._load_head()
            self._know_streams()
            for pending in self._in_flight:
                self._one(pending)
            self._flush()
            self._store_head()
            self._world.failpoint("append.rows written")
        except Exception as error:
            self._roll_back()
            return error
        return None

    def _write_and_commit(self) -> Exception | None:
        """In memory, where no file lock is taken, SQLite refuses readers while a transaction is open: it begins and ends
        in one step. Readers of a file see the same, the state before it, until it is committed."""
        error = self._insert()
        if error is None:
            self._commit()
        return error

    def _written_and_committed(self, refused: Exception | None, error: BaseException | None) -> None:
        if refused is None:
            self._committed(None, error)
        elif not self._abandoned:
            self._begin_failed(self._in_flight, refused)

    def _begin_failed(self, batch: list[_Pending], error: Exception) -> None:
        """Nothing is stored. The request at fault is found by halving; what is no request's fault fails all of them."""
        self._in_flight = []
        self._gives_up_at = 0.0
        if self._files is not None:
            self._files.unlock()
        if len(batch) == 1 or isinstance(error, _NO_REQUESTS_FAULT):
            for pending in batch:
                pending.error = error if isinstance(error, EnsueError) else translated(error, "write to the log")
            self.queue.answer(batch)
        else:
            self.queue.halve(batch)
        self._next()

    def _commit(self) -> None:
        self._world.failpoint("append.commit")
        self._sql.execute("COMMIT")
        self._world.failpoint("append.committed")

    def _try_few(self) -> Exception | None:
        """Commit few events, and know how long that takes now."""
        started = self._world.monotonic()
        try:
            self._commit()
        except Exception as error:
            return error
        self._last_commit_seconds = self._world.monotonic() - started
        return None

    def _committed(self, _: object, error: BaseException | None) -> None:
        if self._abandoned:
            return
        batch, self._in_flight = self._in_flight, []
        if error is None and self._files is not None:
            try:
                self._files.check()
            except LogFileReplaced as replaced:
                error = self.broken = replaced
        if error is not None:
            self._commit_failed(batch, error)
        else:
            self.queue.stored()
            self._types.commit()
            self.committed = self._batch
            self._announce(self.head)
            self.queue.answer(batch)
            self._world.failpoint("append.answered")
        if self._files is not None:
            self._files.unlock()
            self._files.tell_others()
        if self._wal_pages >= CHECKPOINT_PAGES and self.broken is None:
            self._checkpointing = True
            self._thread.run(self._checkpoint, self._checkpointed)
        else:
            self._next()

    def _wal_has(self, _: apsw.Connection, __: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copy what the write-ahead file holds, so that it begins anew. What keeps it from that, such as a full disk, is met
        again by a commit, and told there."""
        self._wal_pages = 0
        with contextlib.suppress(apsw.Error):
            self._sql.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpointed(self, _: object, __: BaseException | None) -> None:
        self._checkpointing = False
        if not self._abandoned:
            self._next()

    def _commit_failed(self, batch: list[_Pending], error: BaseException) -> None:
        if isinstance(error, apsw.Error):
            self._roll_back()
            if isinstance(error, apsw.IOError) and extended(error) != apsw.SQLITE_IOERR_WRITE:
                # After a failed fsync nothing that is read back proves that it is on disk. A write that failed has not
                # written the mark that makes a transaction of what is before it.
                self.broken = OutcomeUnknown(f"the disk failed while a commit was written: {error}")
                error = self.broken
            else:
                error = translated(error, "commit to the log")
        elif not isinstance(error, EnsueError):
            self.broken = OutcomeUnknown(f"a commit ended in {type(error).__name__}: {error}")
            error = self.broken
        for pending in batch:
            pending.error = error
        self.queue.answer(batch)

    def _next(self) -> None:
        if self.broken is not None:
            self.queue.refuse(self._broken_again(self.broken))
        if self.queue:
            self._turn()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _roll_back(self) -> None:
        self._events.clear()
        self._tags.clear()
        self._keys.clear()
        self._streams.clear()
        self._batch = b""
        self._types.roll_back()
        if self._sql.in_transaction:
            try:
                self._sql.execute("ROLLBACK")
            except apsw.Error as error:
                self.broken = Unavailable(f"a transaction could not be rolled back: {error}")

    # --------------------------------------------------------------------------------------------------------- head

    def _load_head(self) -> None:
        ((position, recorded_at, batch),) = self._sql.execute("SELECT position, recorded_at, batch FROM ensue_log")
        if batch != self._batch or len(self._streams) > STREAMS_CACHED:
            # Somebody else wrote, or enough is remembered. Never in the middle of a batch: rows that wait to be inserted
            # are known to this cache only.
            self._streams.clear()
            self._types.load(self._sql)
        if batch != self._batch or len(self._touched) > STREAMS_CACHED:
            self._touched.clear()
            self._touched_since = position
        self.head = self._head_before = position
        self._recorded_before = recorded_at
        self._recorded_at = max(recorded_at, self._world.now())

    def _store_head(self) -> None:
        self._batch = self._world.new_id()
        # A beat under a clock that is wrong for a moment says nothing about the times of events to come.
        recorded_at = self._recorded_at if self.head > self._head_before else self._recorded_before
        self._sql.execute(
            "UPDATE ensue_log SET position = ?, recorded_at = ?, batch = ?", (self.head, recorded_at, self._batch)
        )

    def _flush(self) -> None:
        if self._events:
            self._sql.executemany(_INSERT_EVENT, self._events)
            self._events.clear()
        if self._tags:
            self._sql.executemany(_INSERT_TAG, self._tags)
            self._tags.clear()
        if self._keys:
            self._sql.executemany(_INSERT_REQUEST, self._keys.values())
            self._keys.clear()

    # ----------------------------------------------------------------------------------------------------- requests

    def _one(self, pending: _Pending) -> None:
        """Check and write one request. One that is refused has written nothing."""
        work = pending.work
        if not isinstance(work, Request):
            self._flush()
            self._job(pending, work)
            return
        try:
            pending.answer = self._replay(work) or self._request(work)
        except EnsueError as refused:
            pending.error = refused

    def _job(self, pending: _Pending, job: Job) -> None:
        self._sql.execute("SAVEPOINT ensue_job")
        try:
            pending.answer = job(self._sql)
        except EnsueError as refused:
            self._sql.execute("ROLLBACK TO ensue_job")
            pending.error = refused
        self._sql.execute("RELEASE ensue_job")

    def _known(self, key: bytes) -> Any:
        row = self._keys.get(key)
        return row if row is not None else first(self._sql, "SELECT * FROM ensue_request WHERE key = ?", (key,))

    def _replay(self, request: Request) -> Written | None:
        key = request.idempotency_key
        if key is None:
            return None
        row = self._known(key)
        if row is None:
            return None
        if row[1] != request.fingerprint:
            raise refusals.key_reused(row[2], row[3])
        return Written(row[2], row[3], True, row[4])

    def _request(self, request: Request) -> Written:
        for part in request.answers:
            known = self._known(part.key)
            if known is not None:
                raise refusals.part_known(known[2], known[3])
        commit = request.commit
        progress = self._fenced(commit) if commit is not None else ()
        for expected in request.expected:
            actual = self._version(expected.stream)
            if actual != expected.version:
                raise refusals.another_version(expected, actual)
        for condition in request.conditions:
            self._hold(condition)
        if request.operation is not None:
            checkpoints.hold_parked(self._sql, request.operation.lane)
        emitted, result = self._apply(request) if request.apply or request.result is not None else ((), b"")
        first = self.head + 1
        self._append(emitted)
        self._append(request.events)
        if request.idempotency_key is not None:
            key = request.idempotency_key
            row = (key, request.fingerprint, first, self.head, result, self._recorded_at)
            self._keys[key] = row
        for part in request.answers:
            begin = first + part.skip
            last = begin + part.count - 1
            self._keys[part.key] = (part.key, part.fingerprint, begin, last, part.result, self._recorded_at)
        if commit is not None:
            checkpoints.store(self._sql, commit, progress)
        if request.operation is not None:
            checkpoints.operate(self._sql, request.operation, self._world.now())
        return Written(first, self.head, False, result)

    def _fenced(self, commit: ConsumerCommit) -> tuple[int, int]:
        return checkpoints.fenced(self._sql, commit)

    def _hold(self, condition: Condition) -> None:
        if condition.after >= self._touched_since and self._untouched(condition):
            return
        self._flush()
        text, values = select(
            condition.selection,
            self._types.expand,
            after=condition.after,
            before=self.head + 1,
            limit=1,
            backwards=False,
        )
        found = first(self._sql, text, values)
        if found is not None:
            raise refusals.happened(condition, found[0])

    def _untouched(self, condition: Condition) -> bool:
        """Whether no event behind its position can match, because of the tags of each term one was not seen since."""
        touched, after = self._touched, condition.after
        return bool(condition.selection) and all(
            any(touched.get(tag, 0) <= after for tag in term.tags) for term in condition.selection
        )

    def _apply(self, request: Request) -> tuple[list[Draft], bytes]:
        """Run the functions. Returns the events to append, and the result."""
        transaction = SqliteTransaction(
            self._sql, self._types, head=self.head, committed=self._head_before, batch=self._in_flight
        )
        emitted: list[Draft] = []
        unit = 0
        self._sql.execute("SAVEPOINT ensue_request")
        try:
            for function in request.apply:
                emitted.extend(function(transaction))
                unit += 1
            result = request.result() if request.result is not None else b""
        except _DISK_ERRORS:
            raise  # no function's failure
        except Exception as error:
            self._sql.execute("ROLLBACK TO ensue_request")
            self._sql.execute("RELEASE ensue_request")
            raise refusals.function_failed(error, unit) from error
        self._sql.execute("RELEASE ensue_request")
        return emitted, result

    def _version(self, stream: bytes) -> int:
        version = self._streams.get(stream)
        if version is None:
            found = first(self._sql, _LAST_OF_STREAM, (stream,))
            version = found[0] if found else 0
            self._streams[stream] = version
        return version

    def _know_streams(self) -> None:
        """Look up the streams of this batch that are not known in one statement: five times as fast as one for each."""
        known = self._streams
        unknown = {
            draft.stream
            for pending in self._in_flight
            if isinstance(pending.work, Request)
            for draft in pending.work.events
            if draft.stream not in known and draft.stream is not None
        }
        if unknown:
            texts = msgspec.json.encode([stream.hex() for stream in unknown]).decode()
            for text, version in self._sql.execute(_LAST_OF_STREAMS, (texts,)):
                known[bytes.fromhex(text)] = version or 0

    def _append(self, drafts: Sequence[Draft]) -> None:
        streams, numbers, recorded_at = self._streams, self._types.numbers, self._recorded_at
        touched = self._touched
        position = self.head
        for draft in drafts:
            position += 1
            stream = draft.stream
            version = None
            if stream is not None:
                version = streams.get(stream)
                if version is None:
                    version = self._version(stream)
                version += 1
                streams[stream] = version
                touched[stream] = position
            number = numbers.get((draft.type_name, draft.type_version)) or self._new_type(draft)
            self._events.append(
                (
                    position,
                    draft.id,
                    number,
                    stream,
                    version,
                    recorded_at,
                    draft.cause,
                    draft.root,
                    draft.maker,
                    draft.nth,
                    draft.meta,
                    draft.data,
                )
            )
            for tag in draft.tags:
                self._tags.append((tag, position, number))
                touched[tag] = position
        self.head = position

    def _new_type(self, draft: Draft) -> int:
        pair = (draft.type_name, draft.type_version)
        number: int
        ((number,),) = self._sql.execute(
            "INSERT INTO ensue_event_type (name, version) VALUES (?, ?) RETURNING id", pair
        )
        self._types.numbers[pair] = number
        return number
