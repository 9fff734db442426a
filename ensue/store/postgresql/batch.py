"""One batch: what is known of the log when it is locked, the checks of each request, and what is to be written.

No I/O: the writer looks up what `Batch` says it must know, gives it the answers, lets it take the requests one by one in
their order, and sends the calls of `writes`. A request that is refused leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ensue.errors import DuplicateEventId
from ensue.events.stored import Draft
from ensue.store import refusals, rows
from ensue.store.base import (
    Condition,
    ConsumerCommit,
    DeadLetter,
    Delivery,
    Lane,
    LaneState,
    Operation,
    Request,
    Term,
    Written,
)
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.session import Call, Statement

__all__ = ["Batch", "Later"]

_DIGEST = (1 << 64) - 1
_EVENTS = Statement(
    "INSERT INTO ensue_event SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::integer[], $4::bytea[], $5::bigint[], "
    "$6::bigint[], $7::bigint[], $8::bigint[], $9::integer[], $10::integer[], $11::bytea[], $12::bytea[])"
)
_TAGS = Statement("INSERT INTO ensue_event_tag SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::integer[])")
_TYPES = Statement("INSERT INTO ensue_event_type SELECT * FROM unnest($1::integer[], $2::text[], $3::integer[])")
_REQUESTS = Statement(
    "INSERT INTO ensue_request SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[], "
    "$6::bigint[])"
)
_PROGRESS = Statement(
    "UPDATE ensue_progress p SET position = u.position, ahead = u.ahead, rev = u.rev, count = u.count, digest = u.digest, "
    "unclean = CASE WHEN u.clean THEN 0 ELSE p.unclean END, owner = CASE WHEN u.release THEN NULL ELSE p.owner END "
    "FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], "
    "$8::boolean[], $9::boolean[]) AS u (consumer, segment, position, ahead, rev, count, digest, clean, release) "
    "WHERE p.consumer = u.consumer AND p.segment = u.segment"
)
_LANES = Statement(
    "INSERT INTO ensue_lane SELECT * FROM unnest($1::integer[], $2::bytea[], $3::integer[], $4::text[], $5::bigint[], "
    "$6::text[], $7::integer[], $8::bigint[], $9::text[], $10::bytea[], $11::integer[], $12::integer[], $13::bigint[]) "
    "ON CONFLICT (consumer, key) DO UPDATE SET segment = excluded.segment, key_text = excluded.key_text, "
    "after = excluded.after, state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at, "
    "error = excluded.error, edit = excluded.edit, edits = excluded.edits, discard = excluded.discard, rev = excluded.rev"
)
_NO_LANES = Statement(
    "DELETE FROM ensue_lane l USING unnest($1::integer[], $2::bytea[]) AS u (consumer, key) "
    "WHERE l.consumer = u.consumer AND l.key = u.key"
)
_DEAD_LETTERS = Statement(
    "INSERT INTO ensue_dead_letter (consumer, position, key, key_text, reason, traceback, attempts, parked_at) "
    "SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::integer[], "
    "$8::bigint[])"
)
_RESOLVED = Statement(
    "UPDATE ensue_dead_letter SET resolution = $4::text, note = $5::text, by = $6::text, resolved_at = $7::bigint "
    "WHERE consumer = $1::integer AND key = $2::bytea AND position = $3::bigint AND resolved_at IS NULL"
)
_DELIVERIES = Statement(
    "INSERT INTO ensue_delivery (consumer, first, last, at, packed) "
    "SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[])"
)


class Later(Exception):
    """A request can only be answered when what this batch stores has its positions: it belongs in the next one."""


class Batch:
    """See the module. The attributes that begin it are what was found under the lock.

    A `floating` batch has no positions yet: it counts from 1 until `shift` tells where it comes to lie.
    """

    def __init__(
        self,
        *,
        head: int,
        recorded_at: int,
        now: int,
        names: Names,
        streams: dict[bytes, int],
        floating: bool = False,
    ) -> None:
        self.head = self.before = head
        self.now = now
        self._floating = floating
        self.streams = streams
        """Stream → version, of every stream that the requests name."""
        self.keys: dict[bytes, tuple[Any, ...]] = {}
        """Idempotency key → fingerprint, first, last, result."""
        self.progress: dict[tuple[int, int], list[int]] = {}
        """Consumer and segment → fence, rev, count, digest."""
        self.parked: dict[tuple[int, bytes], int] = {}
        """Consumer and key of a parked lane → rev."""
        self.matches: dict[Condition, int] = {}
        """A condition → the position of a committed event that breaks it."""
        self.ids: set[bytes] = set()
        """Ids of the requests' events that are in the log already; only looked up where a rollback leaves positions unused."""
        self.locked = False
        """The head is locked: events may be appended."""
        self.mark_before = b""
        """What the head's row bore when it was locked."""
        self._names = names
        self._recorded_before = recorded_at
        self._recorded_at = max(recorded_at, now)
        self._events: list[tuple[Any, ...]] = []
        self._drafts: list[Draft] = []
        self._tags: list[tuple[bytes, int, int]] = []
        self._requests: list[tuple[Any, ...]] = []
        self._found: dict[tuple[int, int], tuple[int, int]] = {}
        self._moved: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._lanes: dict[tuple[int, bytes], Lane | None] = {}
        self._letters: list[DeadLetter] = []
        self._operations: list[Operation] = []
        self._deliveries: list[Delivery] = []

    def know_progress(self, found: Sequence[Sequence[int]]) -> None:
        """Rows of consumer, segment, fence, rev, count, digest."""
        self._found = {(row[0], row[1]): (row[2], row[3]) for row in found}
        self.progress = {(consumer, segment): row for consumer, segment, *row in found}

    # ----------------------------------------------------------------------------------------------------- checking

    def replayed(self, request: Request) -> Written | None:
        """The first answer to this idempotency key, if it is known. Errors: `IdempotencyKeyReused`, `Later`."""
        row = self.keys.get(request.idempotency_key) if request.idempotency_key is not None else None
        if row is None:
            return None
        fingerprint, first, last, result = row
        if self._floating and any(request.idempotency_key == other[0] for other in self._requests):
            raise Later
        if fingerprint != request.fingerprint:
            raise refusals.key_reused(first, last)
        return Written(first, last, True, result)

    def check(self, request: Request) -> None:
        """Errors: `Fenced`, `Conflict`, `DuplicateEventId`, and the request may not be stored; `Later`."""
        for part in request.answers:
            known = self.keys.get(part.key)
            if known is not None:
                raise refusals.part_known(known[1], known[2])
        if request.commit is not None:
            self._fenced(request.commit)
        for expected in request.expected:
            actual = self.streams.get(expected.stream, 0)
            if actual != expected.version:
                raise refusals.another_version(expected, actual)
        for condition in request.conditions:
            position = self.matches.get(condition) or self._match(condition)
            if position:
                raise refusals.happened(condition, position)
        if self._floating:
            ids = [draft.id for draft in request.events]
            if len(set(ids)) < len(ids) or not self.ids.isdisjoint(ids):
                raise DuplicateEventId("an event with this id is in the log already; nothing was stored")
        if request.operation is not None:
            lane = request.operation.lane
            if self.parked.get((lane.consumer, lane.key)) != lane.rev:
                raise refusals.not_parked(lane)

    def _fenced(self, commit: ConsumerCommit) -> None:
        fence = commit.fence
        found = self.progress.get((fence.consumer, fence.segment))
        if found is None or (found[0], found[1]) != (fence.fence, fence.rev):
            raise refusals.fenced(fence, found and found[:2])

    def _match(self, condition: Condition) -> int:
        """The position of an event of this very batch that breaks the condition, or 0. Errors: `Later`."""
        for position, draft in enumerate(self._drafts, self.before + 1):
            if position <= condition.after and not self._floating:
                continue
            if not condition.selection or any(self._is_of(draft, term) for term in condition.selection):
                if self._floating:
                    raise Later
                return position
        return 0

    def _is_of(self, draft: Draft, term: Term) -> bool:
        return (
            (not term.types or self._names.counts_as(draft.type_name, term.types))
            and all(tag == draft.stream or tag in draft.tags for tag in term.tags)
            and (term.root is None or draft.root == term.root)
        )

    # ------------------------------------------------------------------------------------------------------- taking

    def take(self, request: Request, emitted: Sequence[Draft], result: bytes) -> Written:
        """Give the events their positions and note all that is to be written. `emitted` come first."""
        first = self.head + 1
        for draft in (*emitted, *request.events):
            self._append(draft)
        if request.idempotency_key is not None:
            self.keys[request.idempotency_key] = (request.fingerprint, first, self.head, result)
            self._requests.append(
                (request.idempotency_key, request.fingerprint, first, self.head, result, self._recorded_at)
            )
        for part in request.answers:
            begin = first + part.skip
            last = begin + part.count - 1
            self.keys[part.key] = (part.fingerprint, begin, last, part.result)
            self._requests.append((part.key, part.fingerprint, begin, last, part.result, self._recorded_at))
        if request.commit is not None:
            self._commit(request.commit)
        if request.operation is not None:
            operation = request.operation
            lane = msgspec.structs.replace(operation.lane, rev=operation.lane.rev + 1)
            self._lane(lane.consumer, lane.key, lane)
            self._operations.append(operation)
        return Written(first, self.head, False, result)

    def _append(self, draft: Draft) -> None:
        self.head += 1
        version = None
        if draft.stream is not None:
            version = self.streams[draft.stream] = self.streams.get(draft.stream, 0) + 1
        number = self._names.number(draft.type_name, draft.type_version)
        self._drafts.append(draft)
        if self._floating:
            self.ids.add(draft.id)
        self._events.append(
            (
                self.head, draft.id, number, draft.stream, version, self._recorded_at, draft.cause, draft.root,
                draft.maker, draft.nth, draft.meta, draft.data,
            )
        )  # fmt: skip
        for tag in dict.fromkeys(draft.tags):
            self._tags.append((tag, self.head, number))

    def _commit(self, commit: ConsumerCommit) -> None:
        fence = commit.fence
        place = (fence.consumer, fence.segment)
        row = self.progress[place]
        row[1] += 1
        row[2] += commit.count
        row[3] = rows.signed((row[3] + commit.digest) & _DIGEST)
        clean, release = commit.clear_unclean or commit.release, commit.release
        if place in self._moved:
            clean, release = clean or self._moved[place][7], release or self._moved[place][8]
        self._moved[place] = (*place, commit.position, rows.ahead_bytes(commit.ahead), *row[1:], clean, release)
        for lane in commit.lanes:
            self._lane(lane.consumer, lane.key, lane)
        for key in commit.lanes_dropped:
            self._lane(fence.consumer, key, None)
        self._letters.extend(commit.parked)
        if commit.delivery is not None:
            self._deliveries.append(commit.delivery())

    def _lane(self, consumer: int, key: bytes, lane: Lane | None) -> None:
        self._lanes[consumer, key] = lane
        if lane is not None and lane.state == LaneState.PARKED:
            self.parked[consumer, key] = lane.rev
        else:
            self.parked.pop((consumer, key), None)

    # ------------------------------------------------------------------------------------------------------ writing

    @property
    def first_id(self) -> bytes | None:
        """The id of its first event: stored with all of it, or not at all."""
        return self._events[0][1] if self._events else None

    @property
    def first_key(self) -> bytes | None:
        """The first idempotency key that it stores."""
        return self._requests[0][0] if self._requests else None

    def is_stored(self, found: Mapping[tuple[int, int], tuple[int, int]]) -> bool | None:
        """Whether it is, by what the progress rows are at later: (fence, rev). None where they do not tell."""
        for place in self._moved:
            fence, rev = self._found[place]
            if found.get(place) == (fence, self.progress[place][1]):
                return True
            if found.get(place) == (fence, rev):
                return False
        return None

    def shift(self, before: int, recorded_at: int) -> None:
        """The batch comes to lie behind this position."""
        self.before, self.head = before, self.head + before
        self._recorded_at = recorded_at
        self._events = [(row[0] + before, *row[1:5], recorded_at, *row[6:]) for row in self._events]
        self._tags = [(tag, position + before, number) for tag, position, number in self._tags]
        self._requests = [
            (key, fingerprint, first + before, last + before, result, recorded_at)
            for key, fingerprint, first, last, result, _ in self._requests
        ]

    @property
    def recorded_at(self) -> int:
        """What the head is to bear. A beat under a clock that is wrong for a moment says nothing about the times of events
        to come."""
        return self._recorded_at if self._events else self._recorded_before

    @property
    def adds_names(self) -> bool:
        return bool(self._names.added)

    @property
    def names_after(self) -> int:
        """The revision of the names once this is stored."""
        return self._names.revision_after

    def writes(self) -> list[Call]:
        """All of it but the head, in calls of one flight."""
        calls: list[Call] = []
        added = self._names.added
        if added:
            calls.append(_TYPES(*_columns(added)))
        if self._events:
            calls.append(_EVENTS(*_columns(self._events)))
        if self._tags:
            calls.append(_TAGS(*_columns(self._tags)))
        if self._requests:
            calls.append(_REQUESTS(*_columns(self._requests)))
        if self._moved:
            calls.append(_PROGRESS(*_columns(list(self._moved.values()))))
        put = [rows.lane_values(lane) for lane in self._lanes.values() if lane is not None]
        if put:
            calls.append(_LANES(*_columns(put)))
        dropped = [place for place, lane in self._lanes.items() if lane is None]
        if dropped:
            calls.append(_NO_LANES(*_columns(dropped)))
        if self._letters:
            calls.append(_DEAD_LETTERS(*_columns([_letter(letter) for letter in self._letters])))
        for operation in self._operations:
            lane = operation.lane
            calls.append(
                _RESOLVED(
                    lane.consumer,
                    lane.key,
                    operation.position,
                    operation.resolution,
                    operation.note,
                    operation.by,
                    self.now,
                )
            )
        if self._deliveries:
            calls.append(_DELIVERIES(*_columns([msgspec.structs.astuple(record) for record in self._deliveries])))
        return calls


def _columns(table: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*table, strict=True)]


def _letter(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.consumer, letter.position, letter.key, letter.key_text, letter.reason, letter.traceback, letter.attempts,
        letter.parked_at,
    )  # fmt: skip
