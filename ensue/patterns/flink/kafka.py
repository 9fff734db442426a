"""A compiled pattern between two topics of Kafka: events come as CloudEvents in binary form, as the channels of Ensue write them,
and matches go as such.

A match has an id that is made of the pattern's name, its key, and the ids of the events it took: found again, after a failure of
the cluster, it is the same, and an inbox takes it once. An application receives matches as events of a type with the fields `key`,
`started`, `ended` (both in microseconds since 1970) and one for each step, a text: the ids of what it took, or None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ensue.errors import DefinitionError
from ensue.patterns.flink.columns import quoted
from ensue.patterns.flink.gateway import Session
from ensue.patterns.flink.sql import FlinkQuery, interval, to_flink
from ensue.patterns.language import Pattern
from ensue.world import World

__all__ = ["Topic", "script", "submit"]

CHECKPOINT_SECONDS = 10
_SETTINGS = {"execution.runtime-mode": "streaming", "execution.checkpointing.interval": f"{CHECKPOINT_SECONDS} s"}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic of a Kafka cluster, as Flink sees it. `servers` are `host:port`, separated by commas. `properties` are those of Kafka's
    Java clients, such as `security.protocol`; Flink keeps them with the job."""

    servers: str
    name: str
    properties: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        if not _TOPIC.fullmatch(self.name):
            raise DefinitionError(f"{self.name!r} is no name of a topic of Kafka")
        if not self.servers or any(":" not in server for server in self.servers.split(",")):
            raise DefinitionError(
                f"{self.servers!r} does not say where Kafka is; write host:port, with commas between several"
            )


def script(query: FlinkQuery, source: Topic, target: Topic, *, name: str | None = None) -> tuple[str, ...]:
    """The statements that make tables of the topics, and last the one that starts the job. `name` is the type of the events that
    matches become (default: the pattern's name)."""
    name = name or query.name
    return (_source(query, source), _target(query, target), _insert(query, name))


async def submit(
    pattern: type[Pattern],
    *,
    gateway: str,
    source: Topic,
    target: Topic,
    world: World,
    name: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> str:
    """Start a job on the Flink cluster behind this SQL gateway that reads events from a topic and writes the pattern's matches to
    another; return the job's id. It runs until somebody ends it. `settings` are further ones of Flink.

    Errors: `NotPortable` before anything is done; those of `Session`.
    """
    query = to_flink(pattern)
    async with Session(
        gateway, world, {**_SETTINGS, "pipeline.name": name or query.name, **(settings or {})}
    ) as session:
        *tables, insert = script(query, source, target, name=name)
        for statement in tables:
            await session.execute(statement)
        return await session.submit(insert)


def _source(query: FlinkQuery, topic: Topic) -> str:
    time = _header("ce_time")
    micros = _micros(time)
    fields = "".join(f"  `{column.name}` {column.sql_type},\n" for column in query.columns)
    options = {
        "scan.startup.mode": "earliest-offset",
        "properties.group.id": f"ensue-flink-{query.name}",
        "json.ignore-parse-errors": "false",
    }
    if query.idle:
        options["scan.watermark.idle-timeout"] = f"{-(-query.idle // 1000)} ms"
    return (
        f"CREATE TEMPORARY TABLE ensue_events (\n{fields}"
        "  ensue_headers MAP<STRING, BYTES> METADATA FROM 'headers' VIRTUAL,\n"
        "  ensue_order BIGINT METADATA FROM 'offset' VIRTUAL,\n"
        f"  ensue_type AS {_header('ce_type')},\n"
        f"  ensue_id AS {_header('ce_id')},\n"
        f"  ensue_micros AS {micros},\n"
        f"  ensue_time AS TO_TIMESTAMP_LTZ({micros} / 1000, 3),\n"
        f"  WATERMARK FOR ensue_time AS ensue_time - {interval(query.disorder)}\n"
        f") WITH ({_options(topic, options)})"
    )


def _target(query: FlinkQuery, topic: Topic) -> str:
    steps = "".join(f", `{name}` STRING" for name in query.steps)
    options = {"key.format": "raw", "key.fields": "key", "sink.delivery-guarantee": "at-least-once"}
    return (
        f"CREATE TEMPORARY TABLE ensue_matches (`key` STRING, started BIGINT, ended BIGINT{steps}, "
        f"ensue_headers MAP<STRING, BYTES> METADATA FROM 'headers') WITH ({_options(topic, options)})"
    )


def _insert(query: FlinkQuery, name: str) -> str:
    steps = ", ".join(f"`{step}`" for step in query.steps)
    parts = ["`key`", *(f"COALESCE(`{step}`, '')" for step in query.steps)]
    identity = ", ".join(f"'|', CAST(CHAR_LENGTH({part}) AS STRING), ':', {part}" for part in parts)
    headers = {
        "content-type": quoted("application/json"),
        "ce_specversion": quoted("1.0"),
        "ce_id": f"MD5(CONCAT({quoted(query.name)}, {identity}))",
        "ce_source": quoted(f"urn:ensue:flink:{query.name}"),
        "ce_type": quoted(name),
        "ce_time": _written("ended"),
        "ce_partitionkey": "`key`",
    }
    said = ", ".join(f"{quoted(header)}, CAST({value} AS BYTES)" for header, value in headers.items())
    return (
        f"INSERT INTO ensue_matches SELECT `key`, started, ended, {steps}, MAP[{said}] "
        f"FROM ({query.select('ensue_events')})"
    )


def _options(topic: Topic, options: Mapping[str, str]) -> str:
    everything = {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.servers": topic.servers,
        **{f"properties.{name}": value for name, value in topic.properties.items()},
        "format": "json",
        **options,
    }
    return ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in everything.items())


def _header(name: str) -> str:
    return f"CAST(ensue_headers[{quoted(name)}] AS STRING)"


def _micros(text: str) -> str:
    """Microseconds since 1970 of `2026-11-30T00:53:20.123456Z`. SQL's own reading stops at milliseconds; a time in another form
    ends the job."""
    days = f"TIMESTAMPDIFF(DAY, TIMESTAMP '1970-01-01 00:00:00', CAST(CONCAT(SUBSTRING({text}, 1, 10), ' 00:00:00') AS TIMESTAMP(0)))"
    hours, minutes, seconds, micros = (
        f"CAST(SUBSTRING({text}, {start}, {length}) AS BIGINT)"
        for start, length in ((12, 2), (15, 2), (18, 2), (21, 6))
    )
    return f"((CAST({days} AS BIGINT) * 86400 + {hours} * 3600 + {minutes} * 60 + {seconds}) * 1000000 + {micros})"


def _written(micros: str) -> str:
    """That form of a number of microseconds."""
    day = f"TIMESTAMPADD(DAY, CAST({micros} / 86400000000 AS INT), TIMESTAMP '1970-01-01 00:00:00')"
    second = f"MOD({micros} / 1000000, 86400)"
    parts = [
        f"DATE_FORMAT({day}, 'yyyy-MM-dd')",
        quoted("T"),
        _two(f"{second} / 3600"),
        quoted(":"),
        _two(f"MOD({second} / 60, 60)"),
        quoted(":"),
        _two(f"MOD({second}, 60)"),
        quoted("."),
        f"LPAD(CAST(MOD({micros}, 1000000) AS STRING), 6, '0')",
        quoted("Z"),
    ]
    return f"CONCAT({', '.join(parts)})"


def _two(number: str) -> str:
    return f"LPAD(CAST({number} AS STRING), 2, '0')"
