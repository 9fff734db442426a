"""The log in memory: for tests and trials, and the oracle that other adapters are compared with.

Plain lists and dictionaries, written without a look at the SQL. Nothing survives the process, functions inside the
transaction have no SQL, and only one process can use it: its capabilities say so.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ensue.errors import (
    ApplyFailed,
    Conflict,
    DuplicateEventId,
    EnsueError,
    Fenced,
    IdempotencyKeyReused,
    MissingCapability,
    Unavailable,
    WrongLog,
)
from ensue.events.stored import Draft, Row, tombstone_of
from ensue.store.base import (
    Capabilities,
    Consumer,
    ConsumerCommit,
    DeadLetter,
    Delivery,
    Lane,
    LaneState,
    Node,
    Operation,
    Page,
    Progress,
    Request,
    Selection,
    Standing,
    Term,
    Written,
)
from ensue.store.nodes import LONGEST_LEASE, is_living
from ensue.store.transfer import PARTS, Found, Origin, Part, Place, Values, half_copied, page_of, plain
from ensue.world import World

__all__ = ["MemoryStore", "MemoryTransfer"]

DELIVERIES_KEPT = 7 * 24 * 3600 * 1_000_000


def _closed() -> Unavailable:
    return Unavailable("the log in memory is not open")


class _NoSql:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.head = len(store._rows)
        self.batch: object = store._batch
        self.types = store._types

    def later(self, sql: str, values: Sequence[object] = (), /) -> None:
        self.execute(sql, values)

    def read(self, selection: Selection, *, after: int, limit: int) -> list[Row]:
        return [row for row in self._store._rows[after:] if self._store._matches(row, selection)][:limit]

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        raise MissingCapability("the log in memory has no SQL; use a sqlite: URL")


class MemoryStore:
    """See the module. It keeps its contents when it is closed, and may be opened again."""

    remote = False

    def __init__(self) -> None:
        self.capabilities = Capabilities(durable=False, sql=False, many_processes=False)
        self.log_id = ""
        self._rows: list[Row] = []
        self._ids: set[bytes] = set()
        self._row_tags: list[frozenset[bytes]] = []
        self._versions: dict[bytes, int] = {}
        self._types: dict[int, tuple[str, int]] = {}
        self._former: dict[str, str] = {}
        self._requests: dict[bytes, tuple[bytes, Written, int]] = {}
        self._consumers: dict[int, Consumer] = {}
        self._progress: dict[tuple[int, int], Progress] = {}
        self._lanes: dict[tuple[int, bytes], Lane] = {}
        self._letters: list[DeadLetter] = []
        self._deliveries: dict[int, Delivery] = {}
        self._nodes: dict[bytes, Node] = {}
        self._recorded_at = 0
        self._batch = 0
        self._half_of: Origin | None = None
        """What this is half a copy of."""
        self._receiver: object = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._queue: list[tuple[Request, asyncio.Future[Written]]] = []
        self._open = False

    async def open(self, world: World) -> None:
        """See `Log.open`."""
        if self._half_of is not None:
            raise half_copied("the log in memory")
        self._world = world
        self._open = True
        self.log_id = self.log_id or world.new_id().hex()

    async def close(self) -> None:
        """See `Log.close`."""
        if self._open:
            self._answer()
            self._open = False
            self._wake(_closed())

    def _opened(self) -> None:
        if not self._open:
            raise _closed()

    def _changing(self) -> None:
        self._opened()
        self._batch += 1

    # ------------------------------------------------------------------------------------------------------ writing

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Written] = loop.create_future()
        if not self._open:
            future.set_exception(_closed())
            return future
        self._world.failpoint("append.queued")
        if not self._queue:
            loop.call_soon(self._answer)
        self._queue.append((request, future))
        return future

    def _answer(self) -> None:
        """All that is queued, in the order of the calls."""
        queue, self._queue = self._queue, []
        self._batch += 1
        for request, future in queue:
            self._world.failpoint("append.commit")
            try:
                written = self._request(request)
            except EnsueError as error:
                if not future.done():
                    future.set_exception(error)
                continue
            self._world.failpoint("append.committed")
            if not future.done():
                future.set_result(written)
        self._wake(None)

    def _wake(self, error: EnsueError | None) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _request(self, request: Request) -> Written:
        key = request.idempotency_key
        if key is not None and key in self._requests:
            fingerprint, first, _ = self._requests[key]
            if fingerprint != request.fingerprint:
                raise IdempotencyKeyReused("the idempotency key was used for other events")
            return msgspec.structs.replace(first, replayed=True)
        for part in request.answers:
            if part.key in self._requests:
                known = self._requests[part.key][1]
                raise Conflict("the idempotency key of a part is known", expected=-1, actual=known.first)
        self._check(request)
        emitted, result = self._apply(request)
        events = [*emitted, *request.events]
        ids = [event.id for event in events]
        if len(set(ids)) < len(ids) or self._ids & set(ids):
            raise DuplicateEventId("an event with this id is in the log already; nothing was stored")
        if events:
            self._recorded_at = max(self._recorded_at, self._world.now())
        written = Written(len(self._rows) + 1, len(self._rows) + len(events), False, result)
        for event in events:
            self._append(event)
        if key is not None:
            self._requests[key] = (request.fingerprint, written, max(self._recorded_at, self._world.now()))
        for part in request.answers:
            begin = written.first + part.skip
            answer = Written(begin, begin + part.count - 1, False, part.result)
            self._requests[part.key] = (part.fingerprint, answer, max(self._recorded_at, self._world.now()))
        if request.commit is not None:
            self._commit(request.commit)
        if request.operation is not None:
            self._operate(request.operation)
        return written

    def _check(self, request: Request) -> None:
        if request.commit is not None:
            fence = request.commit.fence
            row = self._progress.get((fence.consumer, fence.segment))
            if row is None or (row.fence, row.rev) != (fence.fence, fence.rev):
                raise Fenced("another process owns the segment now")
        for expected in request.expected:
            actual = self._versions.get(expected.stream, 0)
            if actual != expected.version:
                raise Conflict("the stream is at another version", expected=expected.version, actual=actual)
        for condition in request.conditions:
            for event in self._rows[condition.after :]:
                if self._matches(event, condition.selection):
                    raise Conflict("what must not have happened has", expected=condition.after, actual=event[0])
        if request.operation is not None:
            self._parked(request.operation)

    def _apply(self, request: Request) -> tuple[list[Draft], bytes]:
        events: list[Draft] = []
        unit = 0
        try:
            for function in request.apply:
                events.extend(function(_NoSql(self)))
                unit += 1
            result = request.result() if request.result is not None else b""
        except ApplyFailed as error:
            raise ApplyFailed(str(error), unit=unit, event=error.event) from error
        except Exception as error:
            raise ApplyFailed(f"a function raised {type(error).__name__}: {error}", unit=unit) from error
        return events, result

    def _append(self, draft: Draft) -> None:
        version = None
        if draft.stream is not None:
            version = self._versions[draft.stream] = self._versions.get(draft.stream, 0) + 1
        pair = (draft.type_name, draft.type_version)
        number = next((number for number, known in self._types.items() if known == pair), 0)
        if not number:
            number = len(self._types) + 1
            self._types = {**self._types, number: pair}
        self._rows.append(
            (
                len(self._rows) + 1,
                draft.id,
                number,
                draft.stream,
                version,
                self._recorded_at,
                draft.cause,
                draft.root,
                draft.maker,
                draft.nth,
                draft.meta,
                draft.data,
            )
        )
        self._ids.add(draft.id)
        self._row_tags.append(frozenset(draft.tags))

    def _commit(self, commit: ConsumerCommit) -> None:
        place = (commit.fence.consumer, commit.fence.segment)
        row = self._progress[place]
        self._progress[place] = msgspec.structs.replace(
            row,
            position=commit.position,
            ahead=commit.ahead,
            rev=row.rev + 1,
            count=row.count + commit.count,
            digest=(row.digest + commit.digest) % (1 << 64),
            unclean=0 if commit.clear_unclean or commit.release else row.unclean,
            owner=None if commit.release else row.owner,
        )
        for lane in commit.lanes:
            self._lanes[lane.consumer, lane.key] = lane
        for key in commit.lanes_dropped:
            self._lanes.pop((commit.fence.consumer, key), None)
        for letter in commit.parked:
            self._letters.append(msgspec.structs.replace(letter, id=len(self._letters) + 1))
        if commit.delivery is not None:
            self._deliveries[next(reversed(self._deliveries), 0) + 1] = commit.delivery()

    def _parked(self, operation: Operation) -> Lane:
        lane = self._lanes.get((operation.lane.consumer, operation.lane.key))
        if lane is None or lane.state != LaneState.PARKED or lane.rev != operation.lane.rev:
            raise Conflict("the key is not parked as it was when it was read", expected=operation.lane.rev, actual=-1)
        return lane

    def _operate(self, operation: Operation) -> None:
        lane = operation.lane
        self._lanes[lane.consumer, lane.key] = msgspec.structs.replace(lane, rev=lane.rev + 1)
        self._letters = [
            msgspec.structs.replace(
                letter,
                resolution=operation.resolution,
                note=operation.note,
                by=operation.by,
                resolved_at=self._world.now(),
            )
            if (letter.consumer, letter.key, letter.position, letter.resolved_at)
            == (lane.consumer, lane.key, operation.position, None)
            else letter
            for letter in self._letters
        ]

    async def room(self) -> None:
        """See `Log.room`. Nothing is queued here."""

    # ------------------------------------------------------------------------------------------------------ reading

    def _matches(self, row: Row, selection: Selection) -> bool:
        return not selection or any(self._matches_term(row, term) for term in selection)

    def _matches_term(self, row: Row, term: Term) -> bool:
        name = self._types[row[2]][0]
        wanted = {self._former.get(other, other) for other in term.types}
        return (
            (not wanted or self._former.get(name, name) in wanted)
            and set(term.tags) <= self._row_tags[row[0] - 1] | {row[3]}
            and (term.root is None or row[7] == term.root)
        )

    async def read(
        self,
        selection: Selection = (),
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> Page:
        """See `Log.read`."""
        self._opened()
        end = len(self._rows) + 1 if before is None else min(before, len(self._rows) + 1)
        found: list[Row] = []
        numbers = range(after, max(after, end - 1))
        for number in reversed(numbers) if backwards else numbers:
            row = self._rows[number]
            if self._matches(row, selection):
                found.append(row)
                if len(found) >= limit:
                    return Page(found, row[0])
        return Page(found, after if backwards else max(after, end - 1))

    def head(self) -> int:
        """See `Log.head`."""
        return len(self._rows)

    async def changed(self, after: int) -> int:
        """See `Log.changed`."""
        while len(self._rows) <= after:
            self._opened()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return len(self._rows)

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.types`."""
        self._opened()
        return self._types

    def known_types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.known_types`."""
        return self._types

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """See `Log.rename`."""
        self._changing()
        self._former.update(dict.fromkeys(former, name))

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        """See `Log.bury`."""
        self._changing()
        for position in positions:
            row = self._rows[position - 1]
            if tombstone_of(row[11]) is None:
                self._rows[position - 1] = (*row[:11], tombstone)

    async def former_names(self) -> Mapping[str, str]:
        """See `Log.former_names`."""
        self._opened()
        return self._former

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        self._opened()
        return bisect_left(self._rows, time, key=lambda row: row[5])

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """See `Log.positions_of`."""
        self._opened()
        return [row[0] for row in sorted(self._rows, key=lambda row: row[1]) if lowest <= row[1] <= highest][:limit]

    # -------------------------------------------------------------------------------------------------- checkpoints

    async def define(self, consumer: Consumer) -> Consumer:
        """See `Checkpoints.define`."""
        self._changing()
        known = next((row for row in self._consumers.values() if row.name == consumer.name), None)
        if known is None:
            known = msgspec.structs.replace(consumer, id=len(self._consumers) + 1)
            for segment in range(known.segments):
                self._progress[known.id, segment] = Progress(
                    consumer=known.id,
                    segment=segment,
                    position=known.start,
                    ahead=(),
                    fence=0,
                    owner=None,
                    rev=0,
                    unclean=0,
                    count=0,
                    digest=0,
                )
        else:
            handles = {**dict.fromkeys(consumer.handles, len(self._rows)), **known.handles}
            status = "active" if known.status == "retired" else known.status
            known = msgspec.structs.replace(known, handles=handles, status=status)
        self._consumers[known.id] = known
        return known

    async def consumers(self) -> tuple[Consumer, ...]:
        """See `Checkpoints.consumers`."""
        self._opened()
        return tuple(self._consumers.values())

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """See `Checkpoints.set_status`."""
        self._changing()
        self._consumers[consumer] = msgspec.structs.replace(self._consumers[consumer], status=status, reason=reason)

    async def beat(self, node: Node) -> None:
        """See `Checkpoints.beat`."""
        self._changing()
        now = self._world.now()
        owners = {row.owner for row in self._progress.values()}
        self._nodes[node.id] = node
        self._nodes = {
            row.id: row for row in self._nodes.values() if row.expires_at >= now - LONGEST_LEASE or row.id in owners
        }
        self._deliveries = {
            number: record for number, record in self._deliveries.items() if record.at >= now - DELIVERIES_KEPT
        }

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """See `Checkpoints.claim`."""
        self._changing()
        living = {row.id for row in self._nodes.values() if is_living(row, now)} | {node.id}
        rows = (await self.standing(consumer)).progress
        own = [row for row in rows if row.owner == node.id and row.segment not in held]
        free = [row for row in rows if row.owner not in living]
        segments = {row.segment for row in own + free[: max(0, most - len(own))]}
        for row in own + free:
            if row.segment in segments:
                unclean = row.unclean + (row.owner is not None and row.owner != node.id)
                taken = msgspec.structs.replace(row, owner=node.id, fence=row.fence + 1, unclean=unclean)
                self._progress[consumer, row.segment] = taken
        after = await self.standing(consumer)
        return Standing(
            tuple(row for row in after.progress if row.segment in segments),
            tuple(lane for lane in after.lanes if lane.segment in segments),
        )

    async def standing(self, consumer: int) -> Standing:
        """See `Checkpoints.standing`."""
        self._opened()
        return Standing(
            tuple(row for (owner, _), row in self._progress.items() if owner == consumer),
            tuple(lane for (owner, _), lane in sorted(self._lanes.items()) if owner == consumer),
        )

    async def nodes(self) -> tuple[Node, ...]:
        """See `Checkpoints.nodes`."""
        self._opened()
        return tuple(self._nodes[number] for number in sorted(self._nodes))

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """See `Checkpoints.dead_letters`."""
        self._opened()
        return tuple(
            letter
            for letter in self._letters
            if (consumer is None or letter.consumer == consumer) and not (open_only and letter.resolved_at is not None)
        )

    async def erase(self, tag: bytes, said: str) -> None:
        """See `Checkpoints.erase`."""
        self._opened()
        keys: set[tuple[int, bytes]] = set()
        for index, letter in enumerate(self._letters):
            if letter.position > len(self._rows):
                continue
            if self._rows[letter.position - 1][3] == tag or tag in self._row_tags[letter.position - 1]:
                self._letters[index] = msgspec.structs.replace(letter, reason=said, traceback="")
                keys.add((letter.consumer, letter.key))
        for place in keys & self._lanes.keys():
            lane = self._lanes[place]
            if lane.state == LaneState.PARKED and lane.error is not None:
                self._lanes[place] = msgspec.structs.replace(lane, error=said)

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """See `Checkpoints.deliveries`."""
        self._opened()
        return tuple(
            record
            for record in self._deliveries.values()
            if any(record.first <= position <= record.last for position in positions)
        )


# --------------------------------------------------------------------------------------------------------- moving house


class MemoryTransfer:
    """A log in memory as one side of a copy: see `ensue.store.transfer`. The store need not be open."""

    def __init__(self, store: MemoryStore) -> None:
        self.place = f"the log in memory at {id(store):#x}"
        self._store = store
        self._receiver: object = None

    async def open(self, world: World, *, receiving: bool) -> Found:
        """See `Transfer.open`."""
        found = await self.found()
        if not receiving and found.state is Place.HALF:
            raise half_copied(self.place)
        return found

    async def close(self) -> None:
        """See `Transfer.close`."""

    async def found(self) -> Found:
        """See `Transfer.found`."""
        store = self._store
        if store._half_of is not None:
            return Found(Place.HALF, store._half_of)
        origin = Origin(store.log_id, len(store._rows), store._recorded_at, store._batch.to_bytes(8, "big"))
        used = any(_part_rows(store, part) for part in PARTS)
        return Found(Place.WHOLE if used else Place.EMPTY, origin, tuple(store._nodes.values()))

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        """See `Transfer.extent`."""
        rows = _part_rows(self._store, part)
        return len(rows), rows[-1][: part.key] if rows else None

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        """See `Transfer.page`."""
        rows = _part_rows(self._store, part)
        first = bisect_right(rows, after, key=lambda row: row[: part.key]) if after is not None else 0
        return page_of(part, islice(rows, first, None))

    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        """See `Transfer.begin`."""
        if tables:
            raise MissingCapability(f"the log in memory has no tables of the application: {tables[0].name}")
        if (await self.found()).state is Place.WHOLE:
            raise WrongLog(f"could not begin a copy in {self.place}: it is a log; nothing was changed")
        if anew:
            MemoryStore.__init__(self._store)
        self._store._half_of = origin
        self._receiver = self._store._receiver = object()

    def _hold_mark(self) -> None:
        if self._store._half_of is None or self._store._receiver is not self._receiver:
            raise Unavailable(f"could not go on with the copy in {self.place}: another copy has gone on with it")

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        """See `Transfer.receive`."""
        self._hold_mark()
        for row in rows:
            _put(self._store, part, row)

    async def finish(self) -> None:
        """See `Transfer.finish`."""
        self._hold_mark()
        store, origin = self._store, self._store._half_of
        assert origin is not None
        store.log_id, store._recorded_at = origin.log_id, origin.recorded_at
        store._batch = int.from_bytes(origin.batch[-8:], "big")
        store._half_of = None


_MODULUS = 1 << 64


def _part_rows(store: MemoryStore, part: Part) -> list[Values]:
    match part.name:
        case "event_type":
            rows: Iterable[Values] = ((number, *pair) for number, pair in store._types.items())
        case "former_name":
            rows = store._former.items()
        case "event":
            return list(store._rows)
        case "event_tag":
            rows = (
                (tag, row[0], row[2]) for row, tags in zip(store._rows, store._row_tags, strict=True) for tag in tags
            )
        case "request":
            rows = (
                (key, fingerprint, first.first, first.last, at, first.result)
                for key, (fingerprint, first, at) in store._requests.items()
            )
        case "delivery":
            rows = ((number, *msgspec.structs.astuple(record)) for number, record in store._deliveries.items())
        case "consumer":
            rows = (_values(part, row, handles=msgspec.json.encode(row.handles)) for row in store._consumers.values())
        case "progress":
            rows = (
                _values(part, row, ahead=msgspec.msgpack.encode(row.ahead), digest=_signed(row.digest))
                for row in store._progress.values()
            )
        case "lane":
            rows = (_values(part, row, discard=int(row.discard)) for row in store._lanes.values())
        case "dead_letter":
            rows = (_values(part, row) for row in store._letters)
        case _:
            raise AssertionError(part.name)
    return sorted(plain(part, list(rows)), key=lambda row: row[: part.key])


def _signed(number: int) -> int:
    return number - _MODULUS if number >= _MODULUS // 2 else number


def _values(part: Part, row: msgspec.Struct, **mapped: object) -> Values:
    return tuple(mapped[name] if name in mapped else getattr(row, name) for name in part.columns)


def _put(store: MemoryStore, part: Part, row: Values) -> None:
    named: dict[str, Any] = dict(zip(part.columns, row, strict=True))
    match part.name:
        case "event_type":
            store._types = {**store._types, row[0]: (row[1], row[2])}
        case "former_name":
            store._former[row[0]] = row[1]
        case "event":
            if row[0] != len(store._rows) + 1:
                raise MissingCapability(
                    f"the log in memory has no place for positions that were never filled, such as {len(store._rows) + 1}"
                )
            store._rows.append(row)
            store._ids.add(row[1])
            store._row_tags.append(frozenset())
            if row[3] is not None:
                store._versions[row[3]] = row[4]
        case "event_tag":
            store._row_tags[row[1] - 1] |= {row[0]}
        case "request":
            store._requests[row[0]] = row[1], Written(row[2], row[3], False, row[5]), row[4]
        case "delivery":
            store._deliveries[row[0]] = Delivery(*row[1:])
        case "consumer":
            named["handles"] = msgspec.json.decode(named["handles"])
            store._consumers[row[0]] = Consumer(**named)
        case "progress":
            named["ahead"] = tuple(msgspec.msgpack.decode(named["ahead"]))
            named["digest"] %= _MODULUS
            store._progress[row[0], row[1]] = Progress(**named)
        case "lane":
            named["discard"] = bool(named["discard"])
            store._lanes[row[0], row[1]] = Lane(**named)
        case "dead_letter":
            store._letters.append(DeadLetter(**named))
        case _:
            raise AssertionError(part.name)
