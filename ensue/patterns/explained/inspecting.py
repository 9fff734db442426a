"""What a detector has come to, for people: how far it is, what it keeps and costs, and what is going on for a key.

What is going on is told from the log alone: the events of the key are looked at once more, and then all time is let pass; what ends
only then is what waits now. So it needs no running process, and is the same whatever code keeps the state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ensue.consumers.node import PATTERNS
from ensue.events.recorded import instant
from ensue.events.registry import Registry
from ensue.patterns.definition import Definition
from ensue.patterns.detection import state
from ensue.patterns.detection.reading import Reading
from ensue.patterns.detection.sought import Sought
from ensue.patterns.detection.warming import warm_start
from ensue.patterns.explained.nearest import Stream, fed
from ensue.patterns.explained.streams import stream_of
from ensue.patterns.matches import match_of, timed_out
from ensue.patterns.operator import Expired, Found
from ensue.patterns.operators import operator_of
from ensue.store.base import Consumer, Store, Term

__all__ = ["GoingOn", "PatternFacts", "facts_of", "going_on", "keys_of"]


class PatternFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern or window of an application, as its log knows it. None: the log's store keeps no tables for it."""

    name: str
    consumer: str
    status: str
    position: int
    """All events up to here are looked at."""
    behind: int
    """So many positions the log is ahead of that, whether or not they hold events of the pattern."""
    watermark: datetime | None
    """So far its time has come."""
    keys: int | None
    """For so many keys something is going on, or waits for its turn."""
    bytes: int | None
    """So many bytes of state are stored for these."""
    events: int | None
    """So many events were looked at since the tables were made."""
    findings: int | None
    """So many matches, and what else is told of a pattern, were stored."""
    seconds: float | None
    """So long that took, in the process that did it, until each commit was sent."""


class GoingOn(msgspec.Struct, frozen=True, kw_only=True):
    """A beginning that waits. `match` has what was taken so far; its `ended` is the deadline."""

    key: str
    started: datetime
    deadline: datetime
    waiting_for: str | None
    """The step that has not come; None: it will be a match at its deadline if nothing prevents it."""
    match: Any


async def facts_of(store: Store, consumer: Consumer) -> PatternFacts:
    """Those of the pattern or window that this consumer is."""
    standing = await store.standing(consumer.id)
    position = standing.progress[0].position
    sql = state.sql_of(store)
    found: tuple[Any, ...] | None = None
    kept: tuple[Any, ...] = (None, None)
    if sql is not None and await state.are_there(sql):
        rows = await sql.select(
            f"SELECT watermark, events, findings, micros FROM {state.TABLE} WHERE name = ?", (consumer.name,)
        )
        found = rows[0] if rows else None
        (kept,) = await sql.select(
            f"SELECT COUNT(*), COALESCE(SUM(LENGTH(state)), 0) FROM {state.KEYS} WHERE name = ?", (consumer.name,)
        )
    watermark, events, findings, micros = found or (None, None, None, None)
    return PatternFacts(
        name=consumer.name.removeprefix(PATTERNS),
        consumer=consumer.name,
        status=consumer.status,
        position=position,
        behind=max(0, store.head() - position),
        watermark=None if watermark is None else instant(watermark),
        keys=None if kept[0] is None else int(kept[0]),
        bytes=None if kept[1] is None else int(kept[1]),
        events=events,
        findings=findings,
        seconds=None if micros is None else micros / 1_000_000,
    )


async def keys_of(store: Store, consumer: Consumer, *, limit: int) -> list[str]:
    """Keys for which something is going on, in order. None are known where the store keeps no tables."""
    sql = state.sql_of(store)
    if sql is None or not await state.are_there(sql):
        return []
    rows = await sql.select(f"SELECT key FROM {state.KEYS} WHERE name = ? ORDER BY key LIMIT ?", (consumer.name, limit))
    return [str(key) for (key,) in rows]


async def going_on(store: Store, registry: Registry, sought: Sought, consumer: Consumer, key: str) -> list[GoingOn]:
    """What waits for a key, the oldest first. Errors: those of the store; `UnreadableEvent`."""
    definition: Definition = sought.definition
    position = (await store.standing(consumer.id)).progress[0].position
    reading = Reading(
        definition.events,
        registry,
        key_tag=definition.key_tag,
        time=definition.time,
        sources=False,
        tenants=sought.tenants,
    )
    await store.types()
    after = await warm_start(store, definition, reading, (Term(types=reading.names),), position)
    time = await _watermark(store, consumer)
    stream = await stream_of(store, registry, sought, key, until=time, after=after, through=position)
    if time is None:
        stream = msgspec.structs.replace(stream, until=stream.events[-1].time if stream.events else 0)
    operator = operator_of(definition, timeouts=True)
    fed(operator, stream)
    return sorted(
        (_going(definition, one) for one in fed(operator, Stream(key, ())) if isinstance(one, Found | Expired)),
        key=lambda one: one.started,
    )


async def _watermark(store: Store, consumer: Consumer) -> int | None:
    sql = state.sql_of(store)
    if sql is None or not await state.are_there(sql):
        return None
    rows = await sql.select(f"SELECT watermark FROM {state.TABLE} WHERE name = ?", (consumer.name,))
    return rows[0][0] if rows else None


def _going(definition: Definition, output: Found | Expired) -> GoingOn:
    if isinstance(output, Found):
        ended, waiting, match = output.ended, None, match_of(definition, output)
    else:
        out = timed_out(definition, output)
        ended, waiting, match = output.deadline, output.waiting_for, out.match
    return GoingOn(
        key=output.key, started=instant(output.started), deadline=instant(ended), waiting_for=waiting, match=match
    )
