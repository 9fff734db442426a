"""Rows of the consumers' tables as values, and back: the same in every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ensue.store.base import Consumer, DeadLetter, Delivery, Lane, Node, Progress, Standing

__all__ = [
    "LANE",
    "NODE",
    "PROGRESS",
    "ahead_bytes",
    "consumer",
    "dead_letter",
    "delivery",
    "lane_values",
    "node",
    "node_values",
    "signed",
    "standing",
]

PROGRESS = "consumer, segment, position, ahead, fence, owner, rev, unclean, count, digest"
LANE = "consumer, key, segment, key_text, after, state, attempts, due_at, error, edit, edits, discard, rev"

NODE = "id, host, pid, started_at, expires_at, can"

ahead_bytes = msgspec.msgpack.Encoder().encode
_ahead = msgspec.msgpack.Decoder(tuple[int, ...]).decode
_can = msgspec.json.Decoder(tuple[int, ...]).decode
_handles = msgspec.json.Decoder(dict[str, int]).decode


def signed(number: int) -> int:
    """A number modulo 2**64 as a signed integer, which is what databases have."""
    return number - (1 << 64) if number >= 1 << 63 else number


def consumer(row: Sequence[Any]) -> Consumer:
    return Consumer(
        id=row[0], name=row[1], start=row[2], key_tag=row[3], segments=row[4], handles=_handles(row[5]), status=row[6],
        reason=row[7],
    )  # fmt: skip


def standing(progress: Sequence[Sequence[Any]], lanes: Sequence[Sequence[Any]]) -> Standing:
    return Standing(tuple(map(_progress, progress)), tuple(map(_lane, lanes)))


def _progress(row: Sequence[Any]) -> Progress:
    return Progress(
        consumer=row[0], segment=row[1], position=row[2], ahead=_ahead(row[3]), fence=row[4], owner=row[5], rev=row[6],
        unclean=row[7], count=row[8], digest=row[9] % (1 << 64),
    )  # fmt: skip


def _lane(row: Sequence[Any]) -> Lane:
    return Lane(
        consumer=row[0], key=row[1], segment=row[2], key_text=row[3], after=row[4], state=row[5], attempts=row[6],
        due_at=row[7], error=row[8], edit=row[9], edits=row[10], discard=bool(row[11]), rev=row[12],
    )  # fmt: skip


def lane_values(lane: Lane) -> tuple[object, ...]:
    return (
        lane.consumer, lane.key, lane.segment, lane.key_text, lane.after, lane.state, lane.attempts, lane.due_at,
        lane.error, lane.edit, lane.edits, int(lane.discard), lane.rev,
    )  # fmt: skip


def dead_letter(row: Sequence[Any]) -> DeadLetter:
    return DeadLetter(
        id=row[0], consumer=row[1], position=row[2], key=row[3], key_text=row[4], reason=row[5], traceback=row[6],
        attempts=row[7], parked_at=row[8], resolution=row[9], note=row[10], by=row[11], resolved_at=row[12],
    )  # fmt: skip


def delivery(row: Sequence[Any]) -> Delivery:
    return Delivery(row[0], row[1], row[2], row[3], row[4])


def node(row: Sequence[Any]) -> Node:
    """A log of schema 1 that is only looked at has no `can`."""
    can = _can(row[5]) if len(row) > 5 else ()
    return Node(id=row[0], host=row[1], pid=row[2], started_at=row[3], expires_at=row[4], can=can)


def node_values(node: Node) -> tuple[object, ...]:
    can = msgspec.json.encode(node.can).decode()
    return (node.id, node.host, node.pid, node.started_at, node.expires_at, can)
