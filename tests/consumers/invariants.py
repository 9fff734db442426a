"""What must hold in any log after any crash, checked from the rows alone: part (h) of the specification, written anew.

`ensue verify` checks much of it as well; this is the second opinion, and it knows what the shop's handlers emit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from ensue import App
from ensue.consumers.routing import Routing, segment_of
from ensue.consumers.waiting import Done
from ensue.events.stored import Row
from ensue.store.base import Consumer, LaneState, Standing, Store

__all__ = ["violations"]


async def violations(app: App, *, emit_one: Collection[str] = ()) -> list[str]:
    """Every contradiction in the application's log. Consumers in `emit_one` emit exactly one event for each they handle."""
    store = app.open_store()
    found: list[str] = []
    rows: list[Row] = []
    reached = 0
    while reached < store.head():
        page = await store.read(after=reached)
        rows.extend(page.rows)
        reached = page.reached
    found.extend(_log(rows))
    found.extend(_emissions(rows))
    types = await store.types()
    for consumer in await store.consumers():
        handles = {number: consumer.handles[name] for number, (name, _) in types.items() if name in consumer.handles}
        standing = await store.standing(consumer.id)
        done = Done(consumer, standing, handles)
        discarded = {
            letter.position
            for letter in await store.dead_letters(consumer=consumer.id, open_only=False)
            if letter.resolution == "discarded"
        }
        found.extend(_progress(consumer, standing, rows, done))
        found.extend(_order(consumer, rows))
        found.extend(await _parked(store, consumer, standing))
        if consumer.name in emit_one:
            found.extend(_effects(consumer, rows, done, discarded))
    return found


def _log(rows: Sequence[Row]) -> Iterator[str]:
    versions: dict[bytes, int] = defaultdict(int)
    ids: set[bytes] = set()
    recorded_at = 0
    for place, row in enumerate(rows, 1):
        position, id, _, stream, version, at, cause, root, *_ = row
        if position != place:
            yield f"position {place} is missing: there is {position} instead"
            return
        if id in ids:
            yield f"the id of position {position} is there twice"
        ids.add(id)
        if stream is not None:
            versions[stream] += 1
            if version != versions[stream]:
                yield f"position {position} is version {version} of its stream, not {versions[stream]}"
        if at < recorded_at:
            yield f"position {position} was recorded before the one before it"
        recorded_at = at
        if cause is not None and cause >= position:
            yield f"position {position} was caused by {cause}, which comes later"
        elif cause is not None and root != (rows[cause - 1][7] or cause):
            yield f"position {position} has root {root}, its cause {cause} has {rows[cause - 1][7]}"


def _emissions(rows: Sequence[Row]) -> Iterator[str]:
    """Each consumer emits once for each event: nth counts from 0, in contiguous positions."""
    groups: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row[8] is not None and row[6] is not None:
            groups[row[8], row[6]].append(row)
    for (maker, cause), emitted in groups.items():
        if [row[9] for row in emitted] != list(range(len(emitted))):
            yield f"consumer {maker} emitted {[row[9] for row in emitted]} for position {cause}, in that order"
        if emitted[-1][0] - emitted[0][0] != len(emitted) - 1:
            yield f"what consumer {maker} emitted for position {cause} does not stand together"


def _progress(consumer: Consumer, standing: Standing, rows: Sequence[Row], done: Done) -> Iterator[str]:
    routing = Routing(consumer.key_tag)
    counts: dict[int, int] = defaultdict(int)
    digests: dict[int, int] = defaultdict(int)
    for row in rows:
        if done.handles(row) and done.done(row):
            segment = segment_of(routing.key(row), consumer.segments)
            counts[segment] += 1
            digests[segment] = (digests[segment] + row[0] * row[0]) % (1 << 64)
    for progress in standing.progress:
        where = f"{consumer.name}, segment {progress.segment}"
        if progress.position > max(len(rows), consumer.start):
            yield f"{where}: its mark {progress.position} is beyond the head {len(rows)}"
        ahead = list(progress.ahead)
        if ahead != sorted(set(ahead)) or (ahead and not progress.position < ahead[0] <= ahead[-1] <= len(rows)):
            yield f"{where}: ahead of the mark {progress.position} it names {ahead}"
        if (progress.count, progress.digest) != (counts[progress.segment], digests[progress.segment]):
            yield (
                f"{where}: it says that it did {progress.count} events, its rows say {counts[progress.segment]}: one was "
                "skipped or done twice"
            )
    for lane in standing.lanes:
        if lane.segment != segment_of(lane.key, consumer.segments):
            yield f"{consumer.name}: the lane of {lane.key_text} is in segment {lane.segment}"


def _order(consumer: Consumer, rows: Sequence[Row]) -> Iterator[str]:
    """Effects of one key stand in the order of their causes."""
    routing = Routing(consumer.key_tag)
    last: dict[bytes, int] = defaultdict(int)
    for row in rows:
        if row[8] == consumer.id and row[6] is not None:
            key = routing.key(rows[row[6] - 1])
            if row[6] < last[key]:
                yield f"{consumer.name} did position {last[key]} before {row[6]} of the same key"
            last[key] = row[6]


def _effects(consumer: Consumer, rows: Sequence[Row], done: Done, discarded: Collection[int]) -> Iterator[str]:
    """Done if and only if the effect is there, or a person discarded the event."""
    effects = {row[6] for row in rows if row[8] == consumer.id}
    for row in rows:
        if done.handles(row) and row[0] not in discarded:
            says, truth = done.done(row), row[0] in effects
            if says != truth:
                yield f"{consumer.name} says done={says} for position {row[0]}, the truth is {truth}"


async def _parked(store: Store, consumer: Consumer, standing: Standing) -> list[str]:
    letters = await store.dead_letters(consumer=consumer.id)
    open_keys = {letter.key for letter in letters}
    parked = {lane.key: lane for lane in standing.lanes if lane.state == LaneState.PARKED}
    found = [f"{consumer.name}: {lane.key_text} is parked without a dead letter" for key, lane in parked.items() if key not in open_keys]  # fmt: skip
    for letter in letters:
        if letter.key not in parked:
            found.append(f"{consumer.name}: a dead letter is open for {letter.key_text}, which is not parked")
    return found
