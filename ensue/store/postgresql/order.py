"""How the writers of a log come to one order: two ways, chosen when the log is made.

*Serial*, the default: who writes holds the lock of the head's row until the commit. Positions are dense and in commit order.
One transaction at a time commits, so each process puts all it has into one.

*Concurrent* (`ensue_writers=many` in the URL), for very many processes that write little each: a writer locks only what its
requests depend on (the streams and tags of its events shared or alone, those of its conditions alone) and takes its positions
from a sequence, just before it writes. Commits then end in another order than positions, so nothing may be read up to the last
position seen. What is read is *settled*: a position is, when every transaction that was under way after it was given has
ended; those that take positions have a transaction number before they take them, so the numbers under way in a snapshot taken
after a later number has ended are all that may still fill a lower one (the fence of `pg_snapshot_xip`). Whoever writes waits
for that, publishes the position and then answers: what is acknowledged can be read by everybody, in the same order, for ever. A
writer that dies leaves positions that are never filled; nobody waits for them. Any long transaction that writes, in any database
of the server, holds the settling up; acknowledgements do not wait longer than a second for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from ensue.store.base import Request
from ensue.store.postgresql.session import Call, Rows, Statement

if TYPE_CHECKING:
    from ensue.store.postgresql.batch import Batch
    from ensue.store.postgresql.session import Session
    from ensue.world import World

__all__ = ["Concurrent", "Fence", "Order", "Serial", "order_of"]

MOST_LOCKS = 256
"""A batch that would take more locks than this takes the one that stands for all: the server has a table for them of fixed
size."""
SOON_SECONDS = 0.0005
_LOCKED_HEAD = Statement("SELECT position, recorded_at, batch, names FROM ensue_log FOR UPDATE")()
_MOVE_HEAD = Statement(
    "UPDATE ensue_log SET position = $1::bigint, recorded_at = $2::bigint, batch = $3::bytea, names = $4::bigint"
)
_LOCK = Statement(
    "SELECT CASE WHEN alone THEN pg_advisory_xact_lock(key) ELSE pg_advisory_xact_lock_shared(key) END "
    "FROM (SELECT key, alone FROM unnest($1::bigint[], $2::boolean[]) AS u (key, alone) ORDER BY key OFFSET 0) AS sorted"
)
_NAMES = Statement("SELECT (SELECT last_value FROM ensue_settled), 0::bigint, ''::bytea, names FROM ensue_log")()
# Raised, not set: somebody may rename a type meanwhile, whom the lock does not stop.
_ADD_NAMES = Statement("UPDATE ensue_log SET names = names + 1")()
_TAKE = Statement("SELECT first, at FROM ensue_take($1::bigint, $2::bigint, $3::bigint)")
_LAST = Statement("SELECT last_value FROM ensue_position")()
_SETTLED = Statement("SELECT last_value FROM ensue_settled")()
# A snapshot names none that is newer than the last that has ended. Whoever takes a number of his own, ends, and looks then,
# sees all that were there before him. What he writes is durable at his end, and so is the last position given before it: a server
# that crashes does not give a position again that somebody may have read past.
_DURABLY = Statement(
    "SELECT set_config('synchronous_commit', "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
)()
_NUMBER = Statement(
    "SELECT CASE WHEN (SELECT last_value FROM ensue_position) > (SELECT last_value FROM ensue_settled) "
    "THEN pg_logical_emit_message(true, 'ensue', '')::text END"
)()
_UNDER_WAY = Statement("SELECT x::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS x")()
# A server that died and recovered has forgotten who was under way, and may give the same positions again. It has started
# anew then, or has at least made a checkpoint.
_LIFE_NOW = "pg_postmaster_start_time()::text || (SELECT checkpoint_lsn FROM pg_control_checkpoint())::text"
_LIFE = Statement(f"SELECT {_LIFE_NOW}")()
_QUICKLY = Statement("SELECT set_config('synchronous_commit', 'off', true)")()
"""A published position that a crash takes back is published again."""
_PUBLISH = Statement(f"SELECT ensue_publish($1::bigint, $2::bigint) WHERE {_LIFE_NOW} = $3::text")
_HEAD_AND_NAMES = Statement("SELECT position, names FROM ensue_log")()
_NAMES_ONLY = Statement("SELECT names FROM ensue_log")()


class Order(Protocol):
    """See the module."""

    remembers: bool
    """What a writer knows of streams stays true until somebody else moves the head."""

    def locks(self, requests: Iterable[Request], new_types: bool) -> list[Call]:
        """What to send after BEGIN; the last call has one row: head, its recorded time, its mark, the revision of names."""
        ...

    def alone(self) -> list[Call]:
        """The same for whoever must know that no other session still appends."""
        ...

    async def place(self, session: Session, batch: Batch) -> None:
        """Give the batch its positions, if they are not given yet."""
        ...

    def head(self, batch: Batch, mark: bytes) -> list[Call]:
        """What to write beside the batch's rows."""
        ...

    def look(self) -> list[Call]:
        """What tells the readable head and, read after it, the revision of names: see `seen`."""
        ...

    def seen(self, results: list[Rows]) -> tuple[int, int]:
        """Head and revision, of the results of `look`."""
        ...


class Serial:
    """One transaction at a time."""

    remembers = True

    def locks(self, requests: Iterable[Request], new_types: bool) -> list[Call]:
        return [_LOCKED_HEAD]

    def alone(self) -> list[Call]:
        return [_LOCKED_HEAD]

    async def place(self, session: Session, batch: Batch) -> None:
        pass

    def head(self, batch: Batch, mark: bytes) -> list[Call]:
        return [_MOVE_HEAD(batch.head, batch.recorded_at, mark, batch.names_after)]

    def look(self) -> list[Call]:
        return [_HEAD_AND_NAMES]

    def seen(self, results: list[Rows]) -> tuple[int, int]:
        ((head, names),) = results[0]
        return head, names


class Concurrent:
    """Any number at a time."""

    remembers = False

    def __init__(self, log_id: str) -> None:
        seed = blake2b(log_id.encode(), digest_size=16).digest()
        self._seed = int.from_bytes(seed[:8], "big", signed=True)
        # Of the other half: else they would be 1, 2 and 3 in every log, and locks that an application may well use itself.
        self.everything, self.naming, self.taking = (self._key(seed[8:], number) for number in (1, 2, 3))

    def _key(self, name: bytes, kind: int) -> int:
        return int.from_bytes(name[:8], "big", signed=True) ^ self._seed ^ kind

    def locks(self, requests: Iterable[Request], new_types: bool) -> list[Call]:
        alone: set[int] = set()
        shared: set[int] = set()
        for request in requests:
            if request.apply:
                alone.add(self.everything)  # what such a function appends is known too late to lock it in order
            if request.idempotency_key is not None:
                alone.add(self._key(request.idempotency_key, 4))
            alone.update(self._key(part.key, 4) for part in request.answers)
            alone.update(self._key(expected.stream, 0) for expected in request.expected)
            for condition in request.conditions:
                for term in condition.selection:
                    alone.add(self._key(term.tags[0], 0) if term.tags else self.everything)
                if not condition.selection:
                    alone.add(self.everything)
            for draft in request.events:
                if draft.stream is not None:
                    alone.add(self._key(draft.stream, 0))
                shared.update(self._key(tag, 0) for tag in draft.tags)
        if new_types:
            alone.add(self.naming)
        if len(alone) + len(shared) > MOST_LOCKS:
            alone = {self.everything, *(key for key in alone if key == self.naming)}
            shared = set()
        keys = {**dict.fromkeys(shared, False), self.everything: False, **dict.fromkeys(alone, True)}
        return [_LOCK(list(keys), list(keys.values())), _NAMES]

    def alone(self) -> list[Call]:
        return [_LOCK([self.everything], [True]), _NAMES]

    async def place(self, session: Session, batch: Batch) -> None:
        count = batch.head - batch.before
        if count:
            (((first, recorded_at),),) = await session.run(_TAKE(count, batch.now, self.taking))
            batch.shift(first - 1, recorded_at)

    def head(self, batch: Batch, mark: bytes) -> list[Call]:
        return [_ADD_NAMES] if batch.adds_names else []

    def look(self) -> list[Call]:
        return [_SETTLED, _NAMES_ONLY]

    def seen(self, results: list[Rows]) -> tuple[int, int]:
        return results[0][0][0], results[1][0][0]


class Fence:
    """Waits until positions are settled, and publishes them."""

    def __init__(self, order: Concurrent, world: World, ask: Callable[..., Awaitable[list[Rows]]]) -> None:
        self._order = order
        self._world = world
        self._ask = ask

    async def settle(self) -> int:
        """Settle all positions given so far; the last of them. Waits for the transactions under way."""
        while (position := await self._settle_in_one_life()) is None:
            pass
        return position

    async def _settle_in_one_life(self) -> int | None:
        """None where the server may have died meanwhile."""
        (((life,),), last, settled, *_) = await self._ask("read the order", _LIFE, _LAST, _SETTLED, _DURABLY, _NUMBER)
        position: int = last[0][0]
        if position <= settled[0][0]:
            return position
        (under_way,) = await self._ask("read the order", _UNDER_WAY)
        waiting = {number for (number,) in under_way}
        seconds = SOON_SECONDS
        while waiting:
            await self._world.sleep(seconds)
            seconds = min(seconds * 1.5, 0.05)
            (under_way,) = await self._ask("read the order", _UNDER_WAY)
            waiting &= {number for (number,) in under_way}
        _, published = await self._ask("publish positions", _QUICKLY, _PUBLISH(position, self._order.taking, life))
        return position if published else None


def order_of(writers: str, log_id: str) -> Order:
    """The way of a log whose head's row says so: `few` or `many`."""
    return Concurrent(log_id) if writers == "many" else Serial()
