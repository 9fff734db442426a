"""Who owns which segments of a consumer, and how many each process should.

The share of a process is `ceil(segments / processes)`, counting the living ones that can run the consumer. As many shares
as there are processes cover all segments, so while a segment is free somebody is below its share; and nobody who is at
or below it gives a segment up. From this it follows that the segments come to rest, see docs/decisions/0016.
"""

from __future__ import annotations

import msgspec

from ensue.store.base import Consumer, Node, Standing, Store
from ensue.store.nodes import living
from ensue.world import World

__all__ = ["Owner", "Ownership", "ownership", "owning", "share"]


def share(segments: int, processes: int) -> int:
    """How many segments a process may own beside so many that can run the consumer, itself among them."""
    return -(-segments // max(1, processes))


class Owner(msgspec.Struct, frozen=True):
    """A living process that owns segments of the consumer."""

    node: Node
    segments: tuple[int, ...]


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """How the segments of a consumer are spread at one moment."""

    owners: tuple[Owner, ...]
    """By the id of their node, which is the order in which they started."""
    unowned: tuple[int, ...]
    """Segments that no living process owns: free, or of one that died and whose lease has ended or is known to be void."""
    able: tuple[Node, ...]
    """The living processes that can run the consumer: with one of them, what is unowned is about to be taken."""
    share: int
    """How many segments each of these may own."""


async def ownership(store: Store, world: World, consumer: Consumer) -> Ownership:
    """How the segments of a consumer are spread now. Two short reads."""
    standing = await store.standing(consumer.id)
    return owning(consumer, standing, living(await store.nodes(), world.now()))


def owning(consumer: Consumer, standing: Standing, nodes: tuple[Node, ...]) -> Ownership:
    """The same from what was read: the living nodes, by id, after the standing."""
    held: dict[bytes, list[int]] = {node.id: [] for node in nodes}
    unowned: list[int] = []
    for row in standing.progress:
        held.get(row.owner or b"", unowned).append(row.segment)
    able = tuple(node for node in nodes if consumer.id in node.can)
    return Ownership(
        owners=tuple(Owner(node, tuple(held[node.id])) for node in nodes if held[node.id]),
        unowned=tuple(unowned),
        able=able,
        share=share(consumer.segments, len(able)),
    )
