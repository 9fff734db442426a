"""The same events for Flink and for the oracle, and what each finds in them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ensue.events.message import Event, declaration
from ensue.patterns import Pattern
from ensue.patterns import operator as engine
from ensue.patterns.finding import outputs
from ensue.patterns.flink.columns import Column
from ensue.patterns.flink.gateway import Session
from ensue.patterns.flink.sql import FlinkQuery, to_flink
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Batch, Taken
from ensue.patterns.operators import operator_of
from tests.patterns.flink.cases import START, A, B, D, stream
from tests.patterns.oracle import Timed, answer

__all__ = [
    "Found",
    "Streamed",
    "ask_flink",
    "found_by_the_engine",
    "found_by_the_oracle",
    "random_events",
    "write_events",
]

Streamed: TypeAlias = list[tuple[int, int, Event]]
"""Time, position, event; in order."""
Found: TypeAlias = tuple[str, int, int, tuple[str, ...]]
"""Key, start, end, and for each step the positions with commas between them."""


def write_events(file: Path, events: Streamed) -> None:
    """As lines of JSON, as Flink is to read them: in the order of their milliseconds, and in any order within one."""
    chance = random.Random(len(events))
    encoder = msgspec.json.Encoder(decimal_format="string")
    with file.open("w") as out:
        for time, position, event in sorted(events, key=lambda one: (one[0] // 1000, chance.random())):
            row: dict[str, Any] = json.loads(encoder.encode(event))
            row |= {
                "ensue_type": declaration(type(event)).name,
                "ensue_id": str(position),
                "ensue_micros": time,
                "ensue_order": position,
            }
            out.write(json.dumps(row) + "\n")


def table_of(name: str, columns: Sequence[Column], file: Path) -> str:
    fields = "".join(f"`{column.name}` {column.sql_type}, " for column in columns)
    return (
        f"CREATE TABLE {name} (ensue_type STRING, ensue_id STRING, ensue_micros BIGINT, ensue_order BIGINT, {fields}"
        "ensue_time AS TO_TIMESTAMP_LTZ(ensue_micros / 1000, 3), WATERMARK FOR ensue_time AS ensue_time - INTERVAL '0.001' SECOND) "
        f"WITH ('connector' = 'filesystem', 'path' = '{file}', 'format' = 'json')"
    )


async def ask_flink(session: Session, patterns: Sequence[type[Pattern]], file: Path) -> dict[str, list[Found]]:
    """What one job finds, for each pattern by its name."""
    queries = [to_flink(pattern) for pattern in patterns]
    columns = {column.name: column for query in queries for column in query.columns}
    await session.execute("DROP TABLE IF EXISTS events")
    await session.execute(table_of("events", list(columns.values()), file))
    found: dict[str, list[Found]] = {query.name: [] for query in queries}
    for row in await session.execute(" UNION ALL ".join(_flat(query) for query in queries)):
        found[row[0]].append((row[1], row[2], row[3], tuple(row[4].split("|"))))
    return {name: sorted(matches) for name, matches in found.items()}


def _flat(query: FlinkQuery) -> str:
    steps = ", ".join(f"COALESCE(`{name}`, '')" for name in query.steps)
    return (
        f"SELECT '{query.name}' AS name, `key`, started, ended, CONCAT_WS('|', {steps}) AS steps "
        f"FROM ({query.select('events')})"
    )


def found_by_the_oracle(pattern: type[Pattern], events: Streamed) -> list[Found]:
    """By trying all possibilities."""
    definition = pattern.__ensue_pattern__
    query = to_flink(pattern)
    key_of = key_reader(definition.key_tag)
    by_key: dict[str, list[Timed]] = {}
    for time, position, event in events:
        if isinstance(event, definition.events):
            by_key.setdefault(key_of(event), []).append(Timed(time, position, event))
    found: list[Found] = []
    for key, timed in by_key.items():
        for match in answer(definition, sorted(timed, key=lambda one: one[:2])).matches:
            found.append((key, match.started, match.ended, _steps(match.steps, query)))
    return sorted(found)


def found_by_the_engine(pattern: type[Pattern], events: Streamed) -> list[Found]:
    """As an application finds it."""
    definition, query = pattern.__ensue_pattern__, to_flink(pattern)
    own = [one for one in events if isinstance(one[2], definition.events)]
    batch = Batch([event for _, _, event in own], [time for time, _, _ in own], [position for _, position, _ in own])
    return sorted(
        (one.key, one.started, one.ended, _steps(_plain(one.steps), query))
        for one in outputs(operator_of(definition), batch)
        if isinstance(one, engine.Found)
    )


def _plain(took: Any) -> Any:
    if isinstance(took, Taken):
        return took.position
    if isinstance(took, Mapping):
        return {name: _plain(one) for name, one in took.items()}
    return tuple(map(_plain, took)) if isinstance(took, tuple) else took


def _steps(steps: Mapping[str, Any], query: FlinkQuery) -> tuple[str, ...]:
    said: dict[str, str] = {}
    for name, took in steps.items():
        if f"{name}.0" in query.steps:
            said |= {f"{name}.{at}": _positions(part) for at, part in enumerate(took)}
        else:
            said[name] = _positions(took)
    return tuple(said[name] for name in query.steps)


def _positions(took: Any) -> str:
    return ",".join(map(str, took)) if isinstance(took, tuple) else "" if took is None else str(took)


def random_events(count: int, seed: int) -> Streamed:
    """So many keys, each with a random stream; and one with a beginning whose time is over before Flink would notice."""
    chance = random.Random(seed)
    events = [one for number in range(count) for one in stream(chance, f"k{number}", chance.randrange(4, 16))]
    events += [(START + after, kind(who="over")) for after, kind in ((0, A), (999, A), (1999, B), (2000, D))]
    events.sort(key=lambda one: one[0])
    return [(time, position, event) for position, (time, event) in enumerate(events)]
