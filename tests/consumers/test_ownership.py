"""How the segments of a consumer are spread, as people and health checks are told it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ensue.consumers.ownership import Ownership, ownership, share
from ensue.store.base import Consumer, Node
from ensue.store.memory import MemoryStore
from ensue.world import RealWorld


def told(*nodes: tuple[int, float, bool, int], segments: int = 4) -> Ownership:
    """What is told of nodes that claim one after another: number, seconds it lives, can it run the consumer, how many."""

    async def story() -> Ownership:
        world, store = RealWorld(), MemoryStore()
        await store.open(world)
        wanted = Consumer(id=0, name="billing", start=0, key_tag=None, segments=segments, handles={"Opened": 0})
        consumer = await store.define(wanted)
        for number, lives, can, most in nodes:
            now = world.now()
            node = Node(
                id=number.to_bytes(16, "big"), host="elsewhere.invalid", pid=number, started_at=now,
                expires_at=now + 10_000_000, can=(consumer.id,) if can else (),
            )  # fmt: skip
            await store.beat(node)
            await store.claim(consumer.id, node, now=now, most=most)
            await store.beat(msgspec.structs.replace(node, expires_at=now + round(lives * 1_000_000)))
        found = await ownership(store, world, consumer)
        await store.close()
        return found

    return asyncio.run(story())


def _owners(found: Ownership) -> list[tuple[int, tuple[int, ...]]]:
    return [(owner.node.pid, owner.segments) for owner in found.owners]


def test_owners_are_told_with_their_segments_in_the_order_in_which_they_started() -> None:
    found = told((2, 10, True, 3), (1, 10, True, 1))
    assert _owners(found) == [(1, (3,)), (2, (0, 1, 2))]
    assert (found.unowned, found.share, [node.pid for node in found.able]) == ((), 2, [1, 2])


def test_what_a_process_owned_whose_lease_has_ended_is_owned_by_nobody() -> None:
    found = told((1, -1, True, 3), (2, 10, True, 0))
    assert _owners(found) == []
    assert (found.unowned, found.share, [node.pid for node in found.able]) == ((0, 1, 2, 3), 4, [2])


def test_an_owner_that_cannot_run_the_consumer_any_more_is_still_told_as_owner_and_has_no_share() -> None:
    found = told((1, 10, False, 4), (2, 10, True, 0), (3, 10, True, 0))
    assert _owners(found) == [(1, (0, 1, 2, 3))]
    assert (found.share, [node.pid for node in found.able]) == (2, [2, 3])


def test_nobody_owns_anything_of_a_consumer_that_nobody_runs() -> None:
    found = told()
    assert (found.owners, found.unowned, found.able) == ((), (0, 1, 2, 3), ())


@pytest.mark.parametrize("segments", range(1, 17))
def test_shares_cover_all_segments_and_no_process_less_would(segments: int) -> None:
    for processes in range(1, 40):
        each = share(segments, processes)
        assert each * processes >= segments > (each - 1) * processes
