"""The two ports of a store: `Log`, where events are, and `Checkpoints`, how far their consumers have come.

One adapter implements both, because an event's effects and the progress of the consumer that made them are one
transaction. An adapter contains no retry, no delivery order, no dead-letter policy: it checks, writes and reads.

**Requests.** Everything that changes a store is a `Request` to its one writer. The writer takes what is queued, never
waits for more, and stores all of it in one transaction (group commit). Each request is checked and answered by itself:

1. its idempotency key: known with the same fingerprint → the first answer again; with another → `IdempotencyKeyReused`; and
   those of its parts: one that is known → `Conflict`;
2. its fence: the progress row has the stated `(fence, rev)`, else `Fenced`;
3. its stream versions and conditions, against what is committed and what this batch has written so far, and the parked
   lane of its operation, else `Conflict`;
4. its functions (`apply`), in order, then its `result`, under one savepoint, else `ApplyFailed` and nothing of the request
   is stored;
5. its events get the next positions, contiguous, in the order given; then its rows.

All checks come before any write of the request. Requests are taken in the order in which `write` was called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from ensue.events.stored import Draft, Row

if TYPE_CHECKING:
    from asyncio import Future

    from ensue.world import World

__all__ = [
    "Answered",
    "Capabilities",
    "Checkpoints",
    "Condition",
    "Consumer",
    "ConsumerCommit",
    "DeadLetter",
    "Delivery",
    "Emission",
    "Expected",
    "Fence",
    "Lane",
    "LaneState",
    "Log",
    "Node",
    "Operation",
    "OwnTransaction",
    "OwnTransactions",
    "Page",
    "Progress",
    "Request",
    "Selection",
    "SqlTransaction",
    "Standing",
    "Store",
    "Term",
    "WriterTransaction",
    "Written",
]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend can do. An application that needs more than its backend has does not start."""

    durable: bool
    """What was acknowledged survives the death of the process."""
    sql: bool
    """Handlers may take a `Transaction` and write tables of their own in the log's database."""
    many_processes: bool
    """Several processes may use the same log at the same time."""
    own_transactions: bool = False
    """A caller may keep a transaction of its own open, across awaits, and put events into its commit (`OwnTransactions`)."""
    dense: bool = True
    """Every position up to the head has an event. Without it, those of a commit that failed have none, ever."""


# ------------------------------------------------------------------------------------------------- selecting events


class Term(msgspec.Struct, frozen=True):
    """Any of these types (none given: any type) that carry all of these tags (hashes; a key is a tag as well).

    With `root`, only what the event at that position caused, directly or not; the event itself is not among it.
    """

    types: tuple[str, ...] = ()
    tags: tuple[bytes, ...] = ()
    root: int | None = None


Selection: TypeAlias = tuple[Term, ...]
"""Events that match any term. The empty selection is every event. Type names include the former names of a type."""


class Condition(msgspec.Struct, frozen=True):
    """Holds if no event after position `after` matches. The dynamic consistency boundary of a decision."""

    selection: Selection
    after: int


class Expected(msgspec.Struct, frozen=True):
    """Holds if the stream is at this version; 0 is a stream without events."""

    stream: bytes
    version: int


class Page(msgspec.Struct, frozen=True):
    """Rows of one short read, ascending (descending when read backwards).

    Every matching event between where the read began and `reached`, inclusive, is among `rows`. A read that returned all
    there is has reached the end of its window: forwards the last position before `before`, which without it is the head
    at the time of the read; backwards `after`.
    """

    rows: list[Row]
    reached: int


# ---------------------------------------------------------------------------------------------------------- writing


class SqlTransaction(Protocol):
    """The open transaction, given to functions that run inside it. Parameters are always bound, never formatted."""

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """Run one statement and return all its rows. Errors of the database are raised as they are."""
        ...


class WriterTransaction(SqlTransaction, Protocol):
    """The writer's own, as the functions of a request are given it."""

    @property
    def head(self) -> int:
        """The last position before those that the request's events get. Only where positions are dense."""
        ...

    @property
    def batch(self) -> object:
        """The same for all requests that are stored in one transaction, and for no others."""
        ...

    @property
    def types(self) -> Mapping[int, tuple[str, int]]:
        """Number → (name, schema version) of every type that `read` may return."""
        ...

    def later(self, sql: str, values: Sequence[object] = (), /) -> None:
        """Run a statement whose rows nobody needs, in its order, but perhaps only with what is sent next. Its error is then one of
        the whole batch, which is tried again by halves until it is the request's own."""
        ...

    def read(self, selection: Selection, *, after: int, limit: int) -> list[Row]:
        """At most `limit` matching events behind a position, ascending, of those that were committed before this batch."""
        ...


Emission: TypeAlias = Callable[[WriterTransaction], Sequence[Draft]]
"""A function that runs inside the transaction, may read and write rows, and returns the events to append."""


class OwnTransaction(Protocol):
    """A transaction of the caller's own. It holds no lock of the log until `commit`."""

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement; its rows. Errors of the database are raised as they are."""
        ...

    async def commit(self, request: Request) -> Written:
        """Store the request's events, and what its functions return, in the same commit as the caller's rows. All or nothing;
        where its idempotency key is known, nothing, and the first answer again. Errors: those of `Log.write`."""
        ...

    async def roll_back(self) -> None:
        """Undo all of it, unless it has ended."""
        ...


class OwnTransactions(Protocol):
    """A store whose capabilities say `own_transactions`."""

    async def begin(self) -> OwnTransaction:
        """Errors: `Unavailable`."""
        ...


class Fence(msgspec.Struct, frozen=True):
    """The progress row a commit was computed from. Refused when anybody has changed it since."""

    consumer: int
    segment: int
    fence: int
    rev: int


class LaneState:
    """How a key stands that does not go at its segment's pace."""

    LATE = "late"
    RETRY = "retry"
    PARKED = "parked"


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one consumer that fell behind: everything of the key after position `after` is still to be handled.

    `state` is one of `LaneState`; `attempts` counts those already made at the next event; `due_at` (microseconds) is
    when a retry may start. `edit` replaces the payload of the next event for this consumer; `edits` counts edits, and is
    part of the outside idempotency key. `discard` asks the owner to pass over the next event. Rows in state parked are
    written by operators only, all others by the owner of the segment only, under its fence.
    """

    consumer: int
    segment: int
    key: bytes
    key_text: str
    after: int
    state: str
    attempts: int = 0
    due_at: int | None = None
    error: str | None = None
    edit: bytes | None = None
    edits: int = 0
    discard: bool = False
    rev: int = 0


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The history of one event that was given up, for people. The delivery machine never reads it.

    `id` is 0 in a request and given by the store. `resolution` is None while it is open, else retried, edited or
    discarded, with the note and the person.
    """

    id: int
    consumer: int
    position: int
    key: bytes
    key_text: str
    reason: str
    traceback: str
    attempts: int
    parked_at: int
    resolution: str | None = None
    note: str | None = None
    by: str | None = None
    resolved_at: int | None = None


class Delivery(msgspec.Struct, frozen=True):
    """One commit's deliveries: `packed` holds, for each, its position, duration in microseconds and outcome."""

    consumer: int
    first: int
    last: int
    at: int
    packed: bytes


class ConsumerCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What one commit of a segment changes beside the events it emits. All of it, or nothing."""

    fence: Fence
    position: int
    ahead: tuple[int, ...]
    count: int
    """Deliveries handled or discarded by this commit, added to the row's count."""
    digest: int
    """The sum of their squared positions, added modulo 2**64."""
    lanes: tuple[Lane, ...] = ()
    lanes_dropped: tuple[bytes, ...] = ()
    parked: tuple[DeadLetter, ...] = ()
    delivery: Callable[[], Delivery] | None = None
    """Called when the functions of the request have run, so that it can tell how long they took."""
    clear_unclean: bool = False
    release: bool = False
    """Give the segment up: nobody owns it after this commit."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's change of a parked lane, by compare-and-set on `(state, rev)`; else `Conflict`.

    `lane` is the row as it shall be (state late); its `rev` is the one that was read. The open dead letters of the key
    at the position after `lane.after` are resolved with `resolution`, `note` and `by`.
    """

    lane: Lane
    position: int
    resolution: str
    note: str | None
    by: str


class Answered(msgspec.Struct, frozen=True):
    """An idempotency key of a part of a request's events: `count` of them behind the first `skip`, and what is kept beside it."""

    key: bytes
    fingerprint: bytes
    skip: int
    count: int
    result: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of writing. See the module for the order of checks."""

    events: Sequence[Draft] = ()
    expected: tuple[Expected, ...] = ()
    conditions: tuple[Condition, ...] = ()
    idempotency_key: bytes | None = None
    fingerprint: bytes = b""
    result: Callable[[], bytes] | None = None
    """Called when the functions of the request have run; kept beside the idempotency key for its repetitions."""
    answers: Sequence[Answered] = ()
    """Keys of parts of `events`, each other ones: the parts are known by them as if they had been requests of their own. Where one
    of them is known already, `Conflict` with `expected` -1, before conditions are looked at. Without `apply`."""
    apply: Sequence[Emission] = ()
    """Run in order before `events` get their positions; what they return is appended before `events`."""
    commit: ConsumerCommit | None = None
    operation: Operation | None = None

    @property
    def size(self) -> int:
        size = 0
        for event in self.events:
            size += len(event.data) + len(event.meta)
        return size


class Written(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request. `first` to `last` are its positions; `last` is `first - 1` if it had no events.

    `replayed` says that the idempotency key was known: these are the positions and the result of the first time.
    """

    first: int
    last: int
    replayed: bool = False
    result: bytes = b""


# -------------------------------------------------------------------------------------------------------- consuming


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer as the log knows it. `handles` maps type names to the position since which they are handled.

    `status` is active, paused, tripped or retired. `key_tag` is None for the event's own key, "" for one global order,
    else the name of the tag that is the consumer's key.
    """

    id: int
    name: str
    start: int
    key_tag: str | None
    segments: int
    handles: Mapping[str, int]
    status: str = "active"
    reason: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one segment of a consumer has come: all of it at or below `position`, and those `ahead` of it."""

    consumer: int
    segment: int
    position: int
    ahead: tuple[int, ...]
    fence: int
    owner: bytes | None
    rev: int
    unclean: int
    count: int
    digest: int


class Standing(msgspec.Struct, frozen=True):
    """All progress and lane rows of one consumer, read in one transaction."""

    progress: tuple[Progress, ...]
    lanes: tuple[Lane, ...]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A running process. `expires_at` in microseconds, by the clock of whoever holds this value: after it, anybody may take
    what the process owns. `host` is the place where `pid` was given, see `ensue.store.nodes`."""

    id: bytes
    host: str
    pid: int
    started_at: int
    expires_at: int
    can: tuple[int, ...] = ()
    """The consumers that it can run, by id, ascending: those that are in its code and neither paused nor standing by."""


class Log(Protocol):
    """Where events are: positions from 1, dense unless the capabilities say otherwise, in an order that never changes: what is
    at or below the head stays as it is."""

    capabilities: Capabilities
    remote: bool
    """Reads go to a server, which works on the next page while one is used."""
    log_id: str
    """The identity of this log, given at its creation; part of every position token."""

    async def open(self, world: World) -> None:
        """Open or create. What was closed may be opened again. Errors: `CorruptLog`, `LogTooNew`, `ReadOnlyLog`, `Unavailable`, `StorageFull`."""
        ...

    async def close(self) -> None:
        """Answer what was queued, then close. Idempotent. Later calls raise `Unavailable`."""
        ...

    def write(self, request: Request) -> Future[Written]:
        """Queue a request; the answer comes when it is durable. Not a coroutine: the order of calls is the order of
        requests. Cancelling the future does not cancel the write.

        Errors: `Conflict`, `Fenced`, `IdempotencyKeyReused`, `DuplicateEventId`, `ApplyFailed`, `StorageFull`,
        `ReadOnlyLog`, `Unavailable` (all: nothing stored), `OutcomeUnknown`, `LogFileReplaced`, `WriterStopped`, `CorruptLog`.
        """
        ...

    async def room(self) -> None:
        """Back-pressure: return when the writer's queue is below its bound in bytes and requests."""
        ...

    async def read(
        self,
        selection: Selection = (),
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> Page:
        """At most `limit` (from 1) matching rows with `after` < position < `before`, in one short transaction.

        Forwards from `after`, or backwards from `before` (None: the head). A page may hold fewer rows than `limit`
        though more match: go on from `reached`, until `reached` is the head (backwards: `after`).
        """
        ...

    def head(self) -> int:
        """The last committed position known in this process; 0 for an empty log. Never blocks, may lag other processes."""
        ...

    async def changed(self, after: int) -> int:
        """Wait until the head is beyond `after`; return it. Woken at once by commits of this process, within 50 ms by
        those of another. While it waits it uses no processor time."""
        ...

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """Number → (name, schema version) of every type in the log. Grows; numbers never change."""
        ...

    def known_types(self) -> Mapping[int, tuple[str, int]]:
        """The same without asking: at least the types of every row that `read` has returned. Never blocks, may lag."""
        ...

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """Events stored under a `former` name count as events of type `name` in every selection. Idempotent."""
        ...

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        """Put a tombstone in place of the payload of these events: see `ensue.events.stored.Tombstone`. Those that have one keep
        it; all else of an event stays as it is. One transaction, durable when it returns; idempotent. Payloads that were buried
        are gone from this log for good: whoever calls this has them elsewhere, or may lose them.
        """
        ...

    async def former_names(self) -> Mapping[str, str]:
        """Former name → present name, of every type that was renamed."""
        ...

    async def position_at(self, time: int) -> int:
        """The last position recorded before `time` (microseconds), 0 if none: a binary search."""
        ...

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """Positions of at most `limit` events whose id lies between the two, inclusive, by id."""
        ...


class Checkpoints(Protocol):
    """How far consumers have come. What changes with effects goes through `Log.write`, in the same transaction."""

    async def define(self, consumer: Consumer) -> Consumer:
        """Create the consumer if its name is new (`id` 0; progress rows begin at `start`), or add the types of
        `handles` that the stored one lacks, handled since the head. Returns the stored one. One transaction."""
        ...

    async def consumers(self) -> tuple[Consumer, ...]:
        """All of them, by id."""
        ...

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """Pause, trip, activate or retire."""
        ...

    async def beat(self, node: Node) -> None:
        """Write the node's row: it lives until `expires_at`. Losing a beat in a crash is harmless.

        A store may measure leases by a clock of its own, a server's. It then keeps the time that is left from now on, and
        `nodes` tells it in the time of the process that reads.
        """
        ...

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """Take all segments that are this node's own but not among `held` (it dropped their memory), and then, while these
        are fewer than `most`, those that are free, released, or owned by a node that is expired or known to be dead.

        Raises the fence of each; `unclean` + 1 where another owner had not released. Returns the rows taken and their
        lanes. One transaction. A node's lease more than one minute in the future counts as expired: the clock went back.
        `now` is the process's time, for stores that have no clock of their own.
        """
        ...

    async def standing(self, consumer: int) -> Standing:
        """Everything of one consumer, for waits, `verify` and people."""
        ...

    async def nodes(self) -> tuple[Node, ...]:
        """Node rows by id, the expired included; but those that expired over a minute ago and own nothing may be gone."""
        ...

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """By id."""
        ...

    async def erase(self, tag: bytes, said: str) -> None:
        """Put `said` in the place of what failures said about events that carry this tag: reasons and tracebacks of dead letters,
        errors of parked lanes. Then overwrite, as far as the database can, what it holds of rows that were deleted or changed."""
        ...

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """The delivery records that cover any of these positions, in the order of their commits. They are kept for a week."""
        ...


class Store(Log, Checkpoints, Protocol):
    """What an adapter is."""
