"""Taking the locks of a batch, and looking up under them what its requests depend on.

The order of locks is always the same, so that an owner and a zombie of one segment cannot wait for each other: the rows that
fences name, in their order, then that of the log's order (`order.py`). What is looked up afterwards sees all that was committed
before the locks were had. What is remembered of streams and names holds while the head's row bears our own last mark.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.events.stored import Draft
from ensue.store.base import Condition, Request
from ensue.store.postgresql.batch import Batch
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.order import Order
from ensue.store.postgresql.reading import select
from ensue.store.postgresql.session import Call, Rows, Session, Statement
from ensue.world import World

__all__ = ["BEGIN", "COMMIT", "ROLLBACK", "Locking"]

STREAMS_CACHED = 100_000
# Whatever the server's default is: each statement has to see what was committed before it.
BEGIN = Statement("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")()
COMMIT = Statement("COMMIT")()
ROLLBACK = Statement("ROLLBACK")()
_TOUCH = Statement("UPDATE ensue_log SET log_id = log_id")()
_FENCES = Statement(
    "SELECT p.consumer, p.segment, p.fence, p.rev, p.count, p.digest FROM ensue_progress p "
    "JOIN unnest($1::integer[], $2::integer[]) AS u (consumer, segment) "
    "ON p.consumer = u.consumer AND p.segment = u.segment ORDER BY p.consumer, p.segment FOR UPDATE OF p"
)
_KEYS = Statement("SELECT key, fingerprint, first, last, result FROM ensue_request WHERE key = ANY ($1::bytea[])")
_STREAMS = Statement(
    "SELECT s, (SELECT version FROM ensue_event WHERE stream = s ORDER BY position DESC LIMIT 1) "
    "FROM unnest($1::bytea[]) AS u (s)"
)
_PARKED = Statement(
    "SELECT l.consumer, l.key, l.rev FROM ensue_lane l JOIN unnest($1::integer[], $2::bytea[]) AS u (consumer, key) "
    "ON l.consumer = u.consumer AND l.key = u.key WHERE l.state = 'parked'"
)
_IDS = Statement("SELECT id FROM ensue_event WHERE id = ANY ($1::bytea[])")


class Locking:
    """See the module. For one session at a time."""

    def __init__(self, order: Order, world: World, names: Names) -> None:
        self.head = 0
        """As of the last batch that was stored."""
        self._order = order
        self._world = world
        self.names = names
        self._streams: dict[bytes, int] = {}
        self._mark = b""
        self._contested = False
        """Another session wrote last: what is remembered of streams is not relied upon."""

    def forget(self) -> None:
        """The batch is not stored, or nobody knows: rely on nothing."""
        self._streams.clear()
        self.names.roll_back()
        self._mark = b""

    def stored(self, batch: Batch, mark: bytes) -> None:
        """The batch is stored, and the head's row bears its mark."""
        self.names.commit()
        if mark:
            self._mark = mark
            self.head = max(self.head, batch.head)

    async def lock(self, session: Session, requests: Sequence[Request], *, begun: bool = False) -> Batch:
        """Begin (unless it has `begun`), lock, look up: one flight where nobody else has written since. Errors: `psycopg.Error`."""
        wanted = _Wanted(requests)
        begin = [] if begun else [BEGIN, *session.settings]
        fencing = [_FENCES(*wanted.segments) if wanted.segments[0] else None]
        if not wanted.lock:
            looks = self._order.look()
            results = await _run(session, *begin, *fencing, *looks)
            fences, head = results[len(begin)], self._order.seen(results[-len(looks) :])[0]
            batch = Batch(head=max(self.head, head), recorded_at=0, now=self._world.now(), names=self.names, streams={})
            batch.know_progress(fences)
            return batch
        remembers = self._order.remembers
        if self._contested or not remembers or len(self._streams) > STREAMS_CACHED:
            self._streams = {}
        locks = self._order.locks(requests, not wanted.types <= self.names.known)
        conditions = list(wanted.conditions)
        unknown = [stream for stream in wanted.streams if stream not in self._streams]
        look_ups = [
            _KEYS(wanted.keys) if wanted.keys else None,
            _STREAMS(unknown) if unknown else None,
            _PARKED(*wanted.lanes) if wanted.lanes[0] else None,
            _IDS(wanted.ids) if wanted.ids and not remembers else None,
            *self._breaking(conditions),
        ]
        results = await _run(session, *begin, *fencing, *locks, *look_ups)
        fences = results[len(begin)]
        ((head, recorded_at, mark, names),) = results[len(begin) + len(locks)]
        keys, streams, parked, ids, *found = results[-len(look_ups) :]
        self._contested = mark != self._mark
        if self._contested:
            self._streams = {}
        await self._know_streams(session, wanted.streams, streams)
        if names != self.names.revision:
            self.names.load(await session.run(*Names.queries()))
            found = await session.run(*self._breaking(conditions))
        batch = Batch(
            head=head if remembers else 0,
            recorded_at=recorded_at,
            now=self._world.now(),
            names=self.names,
            streams=self._streams,
            floating=not remembers,
        )
        batch.locked, batch.mark_before = True, mark
        self.head = max(self.head, head)
        batch.know_progress(fences)
        batch.keys = {key: tuple(row) for key, *row in keys}
        batch.parked = {(consumer, key): rev for consumer, key, rev in parked}
        batch.ids = {id for (id,) in ids}
        batch.matches = {condition: rows[0][0] for condition, rows in zip(conditions, found, strict=True) if rows}
        return batch

    def versions(self, session: Session, batch: Batch, drafts: Sequence[Draft], unsent: list[Call]) -> None:
        """Look up the streams of events that came to the batch later. Blocks the loop; sends what is `unsent` before."""
        missing = {draft.stream for draft in drafts if draft.stream is not None} - batch.streams.keys()
        if missing:
            streams = session.run_now(*unsent, _STREAMS(list(missing)))[-1]
            unsent.clear()
            batch.streams.update({stream: version or 0 for stream, version in streams})

    async def _know_streams(self, session: Session, wanted: Sequence[bytes], found: Rows) -> None:
        """Remember what was found, and look up what was believed known, but is so no longer."""
        self._streams.update({stream: version or 0 for stream, version in found})
        missing = [stream for stream in wanted if stream not in self._streams]
        if missing:
            (found,) = await session.run(_STREAMS(missing))
            self._streams.update({stream: version or 0 for stream, version in found})

    def _breaking(self, conditions: Sequence[Condition]) -> list[Call]:
        """For each condition, what finds a committed event that breaks it."""
        return [
            select(
                condition.selection, self.names.expand, after=condition.after, before=1 << 62, limit=1, backwards=False
            )
            for condition in conditions
        ]

    async def is_stored(self, session: Session, batch: Batch, mark: bytes) -> bool | None:
        """Whether a batch whose connection was lost at its commit is stored, found out under its own locks: they are not to be had
        before the old session has ended. None where nothing tells: no events, no key, and others have written since."""
        segments = sorted(batch.progress)
        calls = [BEGIN, *session.settings, _FENCES([c for c, _ in segments], [s for _, s in segments])]
        begun = len(calls)
        if batch.locked:
            calls += self._order.alone()
        results = await session.run(*calls)
        fences = results[begun - 1]
        id, key = batch.first_id, batch.first_key
        ids, keys = await session.run(_IDS([id] if id else []), _KEYS([key] if key else []))
        stored: bool | None
        if batch.locked and self._order.remembers and results[-1][0][2] in (mark, batch.mark_before):
            stored = results[-1][0][2] == mark
        elif id or key:
            stored = bool(ids or keys)
        else:
            stored = batch.is_stored({(row[0], row[1]): (row[2], row[3]) for row in fences})
        # A primary that was restarted shows what its replicas may lack still: they have it when they have what is behind it.
        await session.run(*((_TOUCH, COMMIT) if stored else (ROLLBACK,)))
        return stored


async def _run(session: Session, *calls: Call | None) -> list[Rows]:
    """One flight of those that are given; the others have no rows."""
    answers = iter(await session.run(*(call for call in calls if call is not None)))
    return [next(answers) if call is not None else [] for call in calls]


class _Wanted:
    """What a batch must know of the log."""

    def __init__(self, requests: Sequence[Request]) -> None:
        commits = sorted({(c.fence.consumer, c.fence.segment) for c in (r.commit for r in requests) if c is not None})
        self.segments = [consumer for consumer, _ in commits], [segment for _, segment in commits]
        self.keys = [request.idempotency_key for request in requests if request.idempotency_key is not None]
        self.keys += [part.key for request in requests for part in request.answers]
        self.conditions = dict.fromkeys(condition for request in requests for condition in request.conditions)
        lanes = [request.operation.lane for request in requests if request.operation is not None]
        self.lanes = [lane.consumer for lane in lanes], [lane.key for lane in lanes]
        streams = {expected.stream for request in requests for expected in request.expected}
        streams |= {draft.stream for request in requests for draft in request.events if draft.stream is not None}
        self.streams = list(streams)
        self.ids = [draft.id for request in requests for draft in request.events]
        self.types = {(draft.type_name, draft.type_version) for request in requests for draft in request.events}
        self.lock = bool(
            self.keys
            or self.conditions
            or lanes
            or streams
            or any(request.events or request.apply or request.commit is None for request in requests)
        )
