"""How far consumers have come, in SQL: each function is one short reading, or one part of a batch's transaction."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from typing import Any

import apsw
import msgspec

from ensue.store import refusals, rows
from ensue.store.base import Consumer, ConsumerCommit, DeadLetter, Delivery, Lane, LaneState, Node, Operation, Standing
from ensue.store.nodes import LONGEST_LEASE, to_take
from ensue.store.rows import ahead_bytes
from ensue.store.sqlite.reading import first

__all__ = [
    "beat",
    "claim",
    "claimable",
    "consumers",
    "dead_letters",
    "define",
    "deliveries",
    "erase",
    "fenced",
    "hold_parked",
    "nodes",
    "operate",
    "set_status",
    "standing",
    "store",
]

DELIVERIES_KEPT = 7 * 24 * 3600 * 1_000_000
PURGED_AT_ONCE = 10_000
SPAN = 1_000
"""How far apart positions may be whose delivery records are looked up together."""
_PUT_LANE = "INSERT OR REPLACE INTO ensue_lane VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_DIGEST = (1 << 64) - 1


def consumers(sql: apsw.Connection) -> tuple[Consumer, ...]:
    return tuple(map(rows.consumer, sql.execute("SELECT * FROM ensue_consumer ORDER BY id")))


def define(sql: apsw.Connection, consumer: Consumer) -> Consumer:
    known = {row.name: row for row in consumers(sql)}.get(consumer.name)
    if known is None:
        ((number,),) = sql.execute(
            "INSERT INTO ensue_consumer (name, start, key_tag, segments, handles, status) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING id",
            (
                consumer.name,
                consumer.start,
                consumer.key_tag,
                consumer.segments,
                msgspec.json.encode(dict(consumer.handles)),
                consumer.status,
            ),
        )
        sql.executemany(
            "INSERT INTO ensue_progress VALUES (?, ?, ?, ?, 0, NULL, 0, 0, 0, 0)",
            [(number, segment, consumer.start, ahead_bytes(())) for segment in range(consumer.segments)],
        )
        return msgspec.structs.replace(consumer, id=number)
    ((head,),) = sql.execute("SELECT position FROM ensue_log")
    handles = {**dict.fromkeys(consumer.handles, head), **known.handles}
    status = "active" if known.status == "retired" else known.status
    sql.execute(
        "UPDATE ensue_consumer SET handles = ?, status = ? WHERE id = ?",
        (msgspec.json.encode(handles), status, known.id),
    )
    return msgspec.structs.replace(known, handles=handles, status=status)


def set_status(sql: apsw.Connection, consumer: int, status: str, reason: str | None) -> None:
    sql.execute("UPDATE ensue_consumer SET status = ?, reason = ? WHERE id = ?", (status, reason, consumer))


def beat(sql: apsw.Connection, node: Node, now: int) -> None:
    sql.execute(
        f"INSERT OR REPLACE INTO ensue_node ({rows.NODE}) VALUES (?, ?, ?, ?, ?, ?)",
        rows.node_values(node),
    )
    sql.execute(
        "DELETE FROM ensue_node WHERE expires_at < ? AND id NOT IN "
        "(SELECT owner FROM ensue_progress WHERE owner IS NOT NULL)",
        (now - LONGEST_LEASE,),
    )
    sql.execute(
        "DELETE FROM ensue_delivery WHERE rowid IN (SELECT rowid FROM ensue_delivery WHERE at < ? LIMIT ?)",
        (now - DELIVERIES_KEPT, PURGED_AT_ONCE),
    )


def nodes(sql: apsw.Connection) -> tuple[Node, ...]:
    return tuple(map(rows.node, sql.execute("SELECT * FROM ensue_node ORDER BY id")))


def _to_take(sql: apsw.Connection, consumer: int, node: Node, now: int, most: int, held: Collection[int]) -> list[int]:
    owners: list[Any] = list(
        sql.execute("SELECT segment, owner FROM ensue_progress WHERE consumer = ? ORDER BY segment", (consumer,))
    )
    return to_take(owners, nodes(sql), node, now, most, held)


def claimable(sql: apsw.Connection, consumer: int, node: Node, now: int, most: int, held: Collection[int]) -> bool:
    return bool(_to_take(sql, consumer, node, now, most, held))


def claim(sql: apsw.Connection, consumer: int, node: Node, now: int, most: int, held: Collection[int]) -> Standing:
    segments = _to_take(sql, consumer, node, now, most, held)
    sql.executemany(
        "UPDATE ensue_progress SET owner = ?1, fence = fence + 1, unclean = unclean + (owner IS NOT NULL AND owner <> ?1) "
        "WHERE consumer = ?2 AND segment = ?3",
        [(node.id, consumer, segment) for segment in segments],
    )
    everything = standing(sql, consumer)
    return Standing(
        tuple(row for row in everything.progress if row.segment in segments),
        tuple(lane for lane in everything.lanes if lane.segment in segments),
    )


def fenced(sql: apsw.Connection, commit: ConsumerCommit) -> tuple[int, int]:
    fence = commit.fence
    row = first(
        sql,
        "SELECT fence, rev, count, digest FROM ensue_progress WHERE consumer = ? AND segment = ?",
        (fence.consumer, fence.segment),
    )
    if row is None or row[:2] != (fence.fence, fence.rev):
        raise refusals.fenced(fence, row and row[:2])
    return row[2], row[3]


def store(sql: apsw.Connection, commit: ConsumerCommit, before: Sequence[int]) -> None:
    fence = commit.fence
    sql.execute(
        "UPDATE ensue_progress SET position = ?, ahead = ?, rev = rev + 1, count = ?, digest = ?"
        + (", unclean = 0" if commit.clear_unclean or commit.release else "")
        + (", owner = NULL" if commit.release else "")
        + " WHERE consumer = ? AND segment = ?",
        (
            commit.position,
            ahead_bytes(commit.ahead),
            before[0] + commit.count,
            rows.signed((before[1] + commit.digest) & _DIGEST),
            fence.consumer,
            fence.segment,
        ),
    )
    for lane in commit.lanes:
        sql.execute(_PUT_LANE, rows.lane_values(lane))
    for key in commit.lanes_dropped:
        sql.execute("DELETE FROM ensue_lane WHERE consumer = ? AND key = ?", (fence.consumer, key))
    for letter in commit.parked:
        sql.execute(
            "INSERT INTO ensue_dead_letter (consumer, position, key, key_text, reason, traceback, attempts, parked_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                letter.consumer,
                letter.position,
                letter.key,
                letter.key_text,
                letter.reason,
                letter.traceback,
                letter.attempts,
                letter.parked_at,
            ),
        )
    if commit.delivery is not None:
        record = commit.delivery()
        sql.execute(
            "INSERT INTO ensue_delivery VALUES (?, ?, ?, ?, ?)",
            (record.consumer, record.first, record.last, record.at, record.packed),
        )


def hold_parked(sql: apsw.Connection, lane: Lane) -> None:
    found = first(
        sql,
        "SELECT 1 FROM ensue_lane WHERE consumer = ? AND key = ? AND state = ? AND rev = ?",
        (lane.consumer, lane.key, LaneState.PARKED, lane.rev),
    )
    if found is None:
        raise refusals.not_parked(lane)


def operate(sql: apsw.Connection, operation: Operation, now: int) -> None:
    lane = operation.lane
    sql.execute(_PUT_LANE, rows.lane_values(msgspec.structs.replace(lane, rev=lane.rev + 1)))
    sql.execute(
        "UPDATE ensue_dead_letter SET resolution = ?, note = ?, by = ?, resolved_at = ? "
        "WHERE consumer = ? AND key = ? AND position = ? AND resolved_at IS NULL",
        (
            operation.resolution,
            operation.note,
            operation.by,
            now,
            lane.consumer,
            lane.key,
            operation.position,
        ),
    )


def standing(sql: apsw.Connection, consumer: int) -> Standing:
    progress: list[Any] = []
    lanes: list[Any] = []
    with sql:
        progress = list(
            sql.execute(f"SELECT {rows.PROGRESS} FROM ensue_progress WHERE consumer = ? ORDER BY segment", (consumer,))
        )
        lanes = list(sql.execute(f"SELECT {rows.LANE} FROM ensue_lane WHERE consumer = ? ORDER BY key", (consumer,)))
    return rows.standing(progress, lanes)


def dead_letters(sql: apsw.Connection, consumer: int | None, open_only: bool) -> tuple[DeadLetter, ...]:
    found = sql.execute(
        "SELECT * FROM ensue_dead_letter WHERE (?1 IS NULL OR consumer = ?1) AND (NOT ?2 OR resolved_at IS NULL) "
        "ORDER BY id",
        (consumer, open_only),
    )
    return tuple(map(rows.dead_letter, found))


_ABOUT = (
    "SELECT position FROM ensue_event WHERE stream = :tag UNION SELECT position FROM ensue_event_tag WHERE tag = :tag"
)
_ERASE = (
    "UPDATE ensue_lane SET error = :said WHERE state = :parked AND error IS NOT NULL AND (consumer, key) IN "
    f"(SELECT consumer, key FROM ensue_dead_letter WHERE position IN ({_ABOUT}))",
    f"UPDATE ensue_dead_letter SET reason = :said, traceback = '' WHERE position IN ({_ABOUT})",
)


def erase(sql: apsw.Connection, tag: bytes, said: str) -> None:
    for statement in _ERASE:
        sql.execute(statement, {"tag": tag, "said": said, "parked": LaneState.PARKED})


def deliveries(sql: apsw.Connection, positions: Sequence[int]) -> tuple[Delivery, ...]:
    found: dict[int, Any] = {}
    wanted = sorted(positions)
    for low, high in _runs(wanted):
        for row in sql.execute(
            "SELECT rowid, consumer, first, last, at, packed FROM ensue_delivery WHERE last >= ? AND first <= ?",
            (low, high),
        ):
            if bisect_left(wanted, row[2]) < bisect_right(wanted, row[3]):
                found[row[0]] = rows.delivery(row[1:])
    return tuple(found[number] for number in sorted(found))


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending positions as few spans, each of which is looked up once."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and position - runs[-1][1] <= SPAN:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
