"""Who handled an event, how it went and how long it took: from the delivery records, and from progress where there are none.

Progress is read before the records, so that what is called pending was so at some moment, and is not simply unread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from ensue.cli.output import exact_time
from ensue.consumers.deliveries import Delivered, Outcome, unpack
from ensue.consumers.waiting import Done, handled_numbers
from ensue.events.stored import Row
from ensue.store.base import Consumer, DeadLetter, LaneState, Node, Standing, Store
from ensue.store.nodes import here, host_name, living
from ensue.world import World

__all__ = ["Handled", "HandledBy", "named", "owners", "read_handled"]

_FINAL = {Outcome.HANDLED.value: "handled", Outcome.DISCARDED.value: "discarded"}
_ATTEMPTS = (Outcome.HANDLED.value, Outcome.FAILED.value, Outcome.PARKED.value)


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer's work on one event, in the shape that `--json` prints.

    `outcome` is handled, discarded, retrying, parked, waiting (behind another event of its key) or pending. `seconds` is the
    time in the handler at its last attempt, `latency_seconds` from the event's recording to the commit of the outcome; both
    are null where nothing was recorded, or the record has been removed with age.
    """

    position: int
    consumer: str
    outcome: str
    attempts: int
    seconds: float | None = None
    latency_seconds: float | None = None
    finished_at: str | None = None
    due_at: str | None = None
    dead_letter: int | None = None
    reason: str | None = None


async def owners(store: Store, world: World, standing: Standing) -> list[Node]:
    """The living processes that own segments of a consumer."""
    held = {row.owner for row in standing.progress}
    return [node for node in living(await store.nodes(), world.now()) if node.id in held]


def named(node: Node) -> str:
    """A process, for people: its number, with the host where that is another one."""
    return str(node.pid) if node.host == here() else f"{node.pid}@{host_name(node)}"


async def read_handled(store: Store, world: World, rows: Sequence[Row]) -> dict[int, list[Handled]]:
    """For each of the rows, by position: what each consumer that handles it has done, in the order they were defined."""
    readings = [
        await HandledBy.read(store, world, consumer)
        for consumer in await store.consumers()
        if consumer.status != "retired"
    ]
    records: dict[tuple[int, int], list[tuple[Delivered, int]]] = defaultdict(list)
    positions = {row[0] for row in rows}
    for record in await store.deliveries(sorted(positions)):
        for one in unpack(record.packed):
            if one.position in positions:
                records[record.consumer, one.position].append((one, record.at))
    return {
        row[0]: [
            reading.of(row, records.get((reading.consumer.id, row[0]), []))
            for reading in readings
            if reading.handles(row)
        ]
        for row in rows
    }


class HandledBy:
    """One consumer's progress, as it was read at one moment."""

    def __init__(self, consumer: Consumer, done: Done, letters: dict[int, DeadLetter], nobody: bool) -> None:
        self.consumer = consumer
        self._done = done
        self._letters = letters
        self._nobody = nobody

    @classmethod
    async def read(cls, store: Store, world: World, consumer: Consumer) -> HandledBy:
        standing = await store.standing(consumer.id)
        letters = {letter.position: letter for letter in await store.dead_letters(consumer=consumer.id)}
        nobody = not await owners(store, world, standing)
        return cls(consumer, Done(consumer, standing, await handled_numbers(store, consumer)), letters, nobody)

    def handles(self, row: Row) -> bool:
        return self._done.handles(row)

    def of(self, row: Row, records: Sequence[tuple[Delivered, int]]) -> Handled:
        attempts = sum(one.outcome in _ATTEMPTS for one, _ in records)
        attempts = max([attempts, *(one.attempt for one, _ in records)])
        last, at = records[-1] if records else (None, None)
        final = next((_FINAL[one.outcome] for one, _ in records if one.outcome in _FINAL), None)
        known = Handled(
            position=row[0],
            consumer=self.consumer.name,
            outcome=final or ("handled" if self._done.done(row) else "pending"),
            attempts=attempts,
            seconds=last.microseconds / 1e6 if last is not None else None,
            latency_seconds=(at - row[5]) / 1e6 if final is not None and at is not None else None,
            finished_at=exact_time(at) if final is not None else None,
        )
        return known if known.outcome != "pending" else self._pending(row, known)

    def _pending(self, row: Row, known: Handled) -> Handled:
        replace = msgspec.structs.replace
        lane, letter = self._done.lane(row), self._letters.get(row[0])
        stopped = f"the consumer is {self.consumer.status}" if self.consumer.status != "active" else None
        stopped = stopped or ("no running process owns the consumer" if self._nobody else None)
        if letter is not None:
            return replace(
                known, outcome="parked", dead_letter=letter.id, reason=letter.reason, attempts=letter.attempts
            )
        if lane is None:
            return replace(known, reason=stopped)
        if lane.state == LaneState.PARKED:
            first = next((one for one in self._letters.values() if one.key == lane.key), None)
            return replace(
                known,
                outcome="waiting",
                dead_letter=first.id if first is not None else None,
                reason=f"behind the dead letter of its key {lane.key_text}",
            )
        if known.attempts == 0:
            return replace(known, outcome="waiting", reason=stopped or f"its key {lane.key_text} is {lane.state}")
        due = exact_time(lane.due_at) if lane.state == LaneState.RETRY else None
        return replace(known, outcome="retrying", reason=stopped or lane.error, due_at=due)
