"""How far consumers have come, in SQL. Every function gives the calls of one flight: one transaction, one round trip.

Leases are measured by the server's clock: what a process says of its own clock is taken as a distance from its now.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from ensue.store import rows
from ensue.store.base import Consumer, Delivery, LaneState, Node
from ensue.store.nodes import LONGEST_LEASE
from ensue.store.postgresql.session import Call, Rows, Statement

__all__ = [
    "CONSUMERS",
    "NODES",
    "beat",
    "claim",
    "covering",
    "dead_letters",
    "define",
    "deliveries",
    "erase",
    "nodes",
    "owners",
    "rename",
    "set_status",
    "standing",
]

DELIVERIES_KEPT = 7 * 24 * 3600 * 1_000_000
PURGED_AT_ONCE = 10_000
SPAN = 1_000
"""How far apart positions may be whose delivery records are looked up together."""
_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_CONSUMER = "id, name, start, key_tag, segments, convert_to(handles::text, 'UTF8') AS handles, status, reason FROM ensue_consumer"
_DEAD_LETTER = (
    "id, consumer, position, key, key_text, reason, traceback, attempts, parked_at, resolution, note, by, resolved_at"
)

CONSUMERS = Statement(f"SELECT {_CONSUMER} ORDER BY id")
NODES = Statement(f"SELECT {rows.NODE}, {_CLOCK} FROM ensue_node ORDER BY id")

_HEAD = Statement("SELECT position FROM ensue_log FOR UPDATE")
_DEFINE = Statement(
    "INSERT INTO ensue_consumer SELECT coalesce(max(id), 0) + 1, $1::text, $2::bigint, $3::text, $4::integer, "
    "$5::text::jsonb, $6::text FROM ensue_consumer "
    "ON CONFLICT (name) DO UPDATE SET "
    "handles = (SELECT coalesce(jsonb_object_agg(k, ensue_head()), '{}') "
    "FROM jsonb_object_keys(excluded.handles) k) || ensue_consumer.handles, "
    "status = CASE ensue_consumer.status WHEN 'retired' THEN 'active' ELSE ensue_consumer.status END"
)
_DEFINE_PROGRESS = Statement(
    "INSERT INTO ensue_progress SELECT c.id, s, c.start, $2::bytea, 0, NULL, 0, 0, 0, 0 "
    "FROM ensue_consumer c, generate_series(0, c.segments - 1) s WHERE c.name = $1::text ON CONFLICT DO NOTHING"
)
_DEFINED = Statement(f"SELECT {_CONSUMER} WHERE name = $1::text")
_SET_STATUS = Statement("UPDATE ensue_consumer SET status = $2::text, reason = $3::text WHERE id = $1::integer")
_RENAME = Statement(
    "INSERT INTO ensue_former_name SELECT former, $2::text FROM unnest($1::text[]) AS u (former) "
    "ON CONFLICT (former) DO UPDATE SET name = excluded.name"
)
_RENAMED = Statement("UPDATE ensue_log SET names = names + 1")
_BEAT = Statement(
    f"INSERT INTO ensue_node ({rows.NODE}) "
    f"VALUES ($1::bytea, $2::text, $3::integer, $4::bigint, {_CLOCK} + $5::bigint, $6::text) ON CONFLICT (id) "
    "DO UPDATE SET host = excluded.host, pid = excluded.pid, started_at = excluded.started_at, "
    "expires_at = excluded.expires_at, can = excluded.can"
)
_PURGE_NODES = Statement(
    f"DELETE FROM ensue_node WHERE expires_at < {_CLOCK} - $1::bigint "
    "AND id NOT IN (SELECT owner FROM ensue_progress WHERE owner IS NOT NULL)"
)
_PURGE_DELIVERIES = Statement(
    "DELETE FROM ensue_delivery WHERE id IN (SELECT id FROM ensue_delivery WHERE at < $1::bigint LIMIT $2::bigint)"
)
_OWNERS = Statement("SELECT segment, owner, fence FROM ensue_progress WHERE consumer = $1::integer ORDER BY segment")
_IMPATIENT = Statement("SELECT set_config('lock_timeout', '200ms', true)")
_CLAIM = Statement(
    "WITH wanted AS (SELECT p.segment FROM ensue_progress p "
    "JOIN unnest($3::integer[], $4::bigint[]) AS u (segment, fence) ON p.segment = u.segment AND p.fence = u.fence "
    "WHERE p.consumer = $1::integer ORDER BY p.segment FOR UPDATE OF p) "
    "UPDATE ensue_progress p SET owner = $2::bytea, fence = fence + 1, "
    "unclean = unclean + (p.owner IS NOT NULL AND p.owner <> $2::bytea)::integer "
    f"FROM wanted WHERE p.consumer = $1::integer AND p.segment = wanted.segment RETURNING p.{rows.PROGRESS.replace(', ', ', p.')}"
)
_LANES_OF = Statement(
    f"SELECT {rows.LANE} FROM ensue_lane WHERE consumer = $1::integer AND segment = ANY ($2::integer[]) ORDER BY key"
)
_SNAPSHOT = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_END = Statement("COMMIT")
_PROGRESS = Statement(f"SELECT {rows.PROGRESS} FROM ensue_progress WHERE consumer = $1::integer ORDER BY segment")
_LANES = Statement(f"SELECT {rows.LANE} FROM ensue_lane WHERE consumer = $1::integer ORDER BY key")
_DEAD_LETTERS = Statement(
    f"SELECT {_DEAD_LETTER} FROM ensue_dead_letter WHERE ($1::integer IS NULL OR consumer = $1::integer) "
    "AND (NOT $2::boolean OR resolved_at IS NULL) ORDER BY id"
)
_ABOUT = "SELECT position FROM ensue_event WHERE stream = $1::bytea UNION SELECT position FROM ensue_event_tag WHERE tag = $1::bytea"
_ERASE_LANES = Statement(
    "UPDATE ensue_lane SET error = $2::text WHERE state = $3::text AND error IS NOT NULL AND (consumer, key) IN "
    f"(SELECT consumer, key FROM ensue_dead_letter WHERE position IN ({_ABOUT}))"
)
_ERASE_LETTERS = Statement(
    f"UPDATE ensue_dead_letter SET reason = $2::text, traceback = '' WHERE position IN ({_ABOUT})"
)
_DELIVERIES = Statement(
    "SELECT id, consumer, first, last, at, packed FROM ensue_delivery WHERE last >= $1::bigint AND first <= $2::bigint"
)


def define(consumer: Consumer) -> list[Call]:
    """The last call's row is the consumer. The head is locked, so that those who define beside us wait, and so that the
    types which are new begin behind all that is committed."""
    handles = msgspec.json.encode(dict(consumer.handles)).decode()
    return [
        _HEAD(),
        _DEFINE(consumer.name, consumer.start, consumer.key_tag, consumer.segments, handles, consumer.status),
        _DEFINE_PROGRESS(consumer.name, rows.ahead_bytes(())),
        _DEFINED(consumer.name),
    ]


def set_status(consumer: int, status: str, reason: str | None) -> list[Call]:
    return [_SET_STATUS(consumer, status, reason)]


def rename(name: str, former: Sequence[str]) -> list[Call]:
    return [_HEAD(), _RENAME(list(former), name), _RENAMED()]


def beat(node: Node, now: int) -> list[Call]:
    id, host, pid, started_at, expires_at, can = rows.node_values(node)
    assert isinstance(expires_at, int)
    return [
        _BEAT(id, host, pid, started_at, expires_at - now, can),
        _PURGE_NODES(LONGEST_LEASE),
        _PURGE_DELIVERIES(now - DELIVERIES_KEPT, PURGED_AT_ONCE),
    ]


def nodes(found: Rows, now: int) -> tuple[Node, ...]:
    """The rows of `NODES`, their leases in the time of this process."""
    return tuple(msgspec.structs.replace(rows.node(row), expires_at=row[4] - row[6] + now) for row in found)


def owners(consumer: int) -> list[Call]:
    return [_OWNERS(consumer), NODES()]


def claim(consumer: int, node: Node, taken: Sequence[tuple[int, int]]) -> list[Call]:
    """Results 1 and 2 are the rows that were taken, and the lanes of all that were to be. Whoever waits for a row that is
    locked waits in the order of segments, as the writer does, and not for long."""
    segments, fences = [segment for segment, _ in taken], [fence for _, fence in taken]
    return [_IMPATIENT(), _CLAIM(consumer, node.id, segments, fences), _LANES_OF(consumer, segments)]


def standing(consumer: int) -> list[Call]:
    """Results 1 and 2 are progress and lanes as they were at one moment."""
    return [_SNAPSHOT(), _PROGRESS(consumer), _LANES(consumer), _END()]


def dead_letters(consumer: int | None, open_only: bool) -> list[Call]:
    return [_DEAD_LETTERS(consumer, open_only)]


def erase(tag: bytes, said: str) -> list[Call]:
    return [_ERASE_LANES(tag, said, LaneState.PARKED), _ERASE_LETTERS(tag, said)]


def deliveries(positions: Sequence[int]) -> list[Call]:
    """One look-up for each run of positions that lie close together."""
    runs: list[tuple[int, int]] = []
    for position in sorted(positions):
        if runs and position - runs[-1][1] <= SPAN:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return [_DELIVERIES(low, high) for low, high in runs]


def covering(results: Sequence[Rows], positions: Sequence[int]) -> tuple[Delivery, ...]:
    """Of the rows found those that cover one of the positions, each once, in the order of their commits."""
    wanted = sorted(positions)
    found = {
        row[0]: rows.delivery(row[1:])
        for result in results
        for row in result
        if bisect_left(wanted, row[2]) < bisect_right(wanted, row[3])
    }
    return tuple(found[number] for number in sorted(found))
