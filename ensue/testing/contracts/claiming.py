"""What a store promises to consumers before they work: definitions, nodes, and who owns which segment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ensue.store.base import Consumer, Lane, LaneState, Node
from ensue.store.nodes import living
from ensue.testing.contracts.bench import SECOND, Bench, Contract, commit_of, contract_test, key_of

__all__ = ["ClaimingContract"]


class ClaimingContract(Contract):
    """See the module."""

    # ------------------------------------------------------------------------------------------------------ definitions

    @contract_test
    async def test_a_new_consumer_begins_where_it_says_in_all_its_segments(self, bench: Bench) -> None:
        await bench.append(*(bench.draft() for _ in range(9)))
        defined = await bench.consumer("billing", segments=3, start=7)
        assert (defined.name, defined.start, defined.segments, defined.handles) == ("billing", 7, 3, {"Opened": 7})
        assert (defined.status, defined.reason) == ("active", None)
        standing = await bench.log.standing(defined.id)
        assert standing.lanes == ()
        assert [
            (row.consumer, row.segment, row.position, row.ahead, row.owner, row.unclean, row.count, row.digest)
            for row in standing.progress
        ] == [(defined.id, segment, 7, (), None, 0, 0, 0) for segment in range(3)]

    @contract_test
    async def test_consumers_are_listed_as_defined_in_order_of_their_ids(self, bench: Bench) -> None:
        defined = [await bench.consumer(name) for name in ("c", "a", "b")]
        assert len({consumer.id for consumer in defined}) == 3
        assert list(await bench.log.consumers()) == sorted(defined, key=lambda consumer: consumer.id)

    @contract_test
    async def test_defining_again_keeps_what_is_stored(self, bench: Bench) -> None:
        first = await bench.consumer(start=0, segments=4)
        await bench.append(bench.draft())
        again = Consumer(id=0, name="billing", start=1, key_tag="shop", segments=16, handles={"Opened": 1})
        assert await bench.log.define(again) == first
        assert await bench.log.consumers() == (first,)

    @contract_test
    async def test_types_that_are_added_are_handled_since_the_head(self, bench: Bench) -> None:
        first = await bench.consumer()
        await bench.append(*(bench.draft() for _ in range(5)))
        wanted = Consumer(id=0, name="billing", start=0, key_tag=None, segments=4, handles={"Opened": 0, "Paid": 0})
        defined = await bench.log.define(wanted)
        assert (defined.id, defined.handles) == (first.id, {"Opened": 0, "Paid": 5})
        assert await bench.log.consumers() == (defined,)

    @contract_test
    async def test_types_that_are_no_longer_named_stay_handled(self, bench: Bench) -> None:
        await bench.consumer()
        wanted = Consumer(id=0, name="billing", start=0, key_tag=None, segments=4, handles={"Paid": 0})
        assert (await bench.log.define(wanted)).handles == {"Opened": 0, "Paid": 0}

    @contract_test
    async def test_the_key_of_a_consumer_is_none_empty_or_a_tag(self, bench: Bench) -> None:
        for key_tag in (None, "", "shop"):
            wanted = Consumer(id=0, name=f"by {key_tag!r}", start=0, key_tag=key_tag, segments=1, handles={"Opened": 0})
            assert (await bench.log.define(wanted)).key_tag == key_tag
        assert [consumer.key_tag for consumer in await bench.log.consumers()] == [None, "", "shop"]

    @contract_test
    async def test_a_status_and_its_reason_are_kept(self, bench: Bench) -> None:
        billing, shipping = await bench.consumer("billing"), await bench.consumer("shipping")
        await bench.log.set_status(billing.id, "paused", "the bank is closed")
        listed = {row.id: (row.status, row.reason) for row in await bench.log.consumers()}
        assert listed == {billing.id: ("paused", "the bank is closed"), shipping.id: ("active", None)}
        await bench.log.set_status(billing.id, "active", None)
        assert (await bench.log.consumers())[0] == billing

    @contract_test
    async def test_defining_a_retired_consumer_makes_it_active_and_a_paused_one_stays_so(self, bench: Bench) -> None:
        for status, after in (("retired", "active"), ("paused", "paused"), ("tripped", "tripped")):
            consumer = await bench.consumer(status)
            await bench.log.set_status(consumer.id, status, None)
            assert (await bench.consumer(status)).status == after

    # ------------------------------------------------------------------------------------------------------------ nodes

    @contract_test
    async def test_a_beat_writes_the_row_of_its_node(self, bench: Bench) -> None:
        first, second = bench.node(1, can=(1, 2)), bench.node(2, lives=20)
        await bench.log.beat(second)
        await bench.log.beat(first)
        _same(await bench.log.nodes(), (first, second))
        later = bench.node(1, lives=50, can=(2,))
        await bench.log.beat(later)
        _same(await bench.log.nodes(), (later, second))

    @contract_test
    async def test_a_node_that_has_just_expired_is_still_listed(self, bench: Bench) -> None:
        await bench.ends(1)
        await bench.log.beat(bench.node(2))
        _same(await bench.log.nodes(), (bench.node(1, lives=-1), bench.node(2)))

    @contract_test
    async def test_an_expired_node_is_listed_as_long_as_it_owns_anything(self, bench: Bench) -> None:
        consumer = await bench.consumer()
        await bench.owner(consumer, 1)
        await bench.ends(1, ago=3_600)
        await bench.log.beat(bench.node(2))
        assert [node.id for node in await bench.log.nodes()] == [bench.node(1).id, bench.node(2).id]

    @contract_test
    async def test_a_lease_that_ended_when_time_began_has_ended(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        await bench.owner(consumer, 1)
        await bench.log.beat(msgspec.structs.replace(bench.node(1), expires_at=0))
        assert not living(await bench.log.nodes(), bench.world.now())
        assert [row.owner for row in await bench.owner(consumer, 2)] == [bench.node(2).id]

    # --------------------------------------------------------------------------------------------------------- claiming

    @contract_test
    async def test_free_segments_are_taken_at_most_as_many_as_asked_for(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=4)
        first = await bench.owner(consumer, 1, most=3)
        second = await bench.owner(consumer, 2)
        assert (len(first), len(second)) == (3, 1)
        assert {row.segment for row in (*first, *second)} == {0, 1, 2, 3}
        rows = (await bench.log.standing(consumer.id)).progress
        assert {row.segment: row for row in rows} == {row.segment: row for row in (*first, *second)}

    @contract_test
    async def test_claiming_raises_the_fence_and_names_the_owner(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        before = await bench.progress(consumer)
        (row,) = await bench.owner(consumer)
        assert (row.fence, row.owner, row.rev, row.unclean) == (before.fence + 1, bench.node(1).id, before.rev, 0)

    @contract_test
    async def test_segments_of_a_living_node_are_not_taken(self, bench: Bench) -> None:
        consumer = await bench.consumer()
        await bench.owner(consumer, 1)
        assert await bench.owner(consumer, 2) == ()

    @contract_test
    async def test_segments_of_an_expired_node_are_taken_and_counted_as_unclean(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=2)
        before = await bench.owner(consumer, 1)
        await bench.ends(1)
        after = await bench.owner(consumer, 2)
        assert [(row.unclean, row.owner) for row in after] == [(1, bench.node(2).id)] * 2
        assert [row.fence for row in after] == [row.fence + 1 for row in before]

    @contract_test
    async def test_segments_of_a_node_that_left_no_row_are_taken(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        await bench.log.claim(consumer.id, bench.node(1), now=bench.world.now(), most=1)
        (row,) = await bench.owner(consumer, 2)
        assert (row.owner, row.unclean) == (bench.node(2).id, 1)

    @contract_test
    async def test_every_takeover_without_a_commit_between_counts(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        for number in range(1, 4):
            (row,) = await bench.owner(consumer, number)
            assert row.unclean == number - 1
            await bench.ends(number)

    @contract_test
    async def test_a_lease_of_more_than_a_minute_was_made_before_the_clock_went_back(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        await bench.owner(consumer, 1)
        await bench.log.beat(bench.node(1, lives=3_600))
        assert [row.owner for row in await bench.owner(consumer, 2)] == [bench.node(2).id]

    @contract_test
    async def test_a_clock_that_is_set_back_keeps_nobody_out_and_all_agree_who_lives(self, bench: Bench) -> None:
        """By the clocks of processes the lease reaches far into the future, and counts as expired; by a server's clock it
        goes on. Either way the list of nodes says the same as the claim."""
        consumer = await bench.consumer(segments=1)
        await bench.owner(consumer, 1)
        bench.world.moved = -3_600 * SECOND
        lives = [node.id for node in living(await bench.log.nodes(), bench.world.now())]
        taken = await bench.owner(consumer, 2)
        assert [row.owner for row in taken] == ([] if lives else [bench.node(2).id])
        await bench.ends(1)
        await bench.owner(consumer, 2)
        assert (await bench.progress(consumer)).owner == bench.node(2).id

    @contract_test
    async def test_a_node_takes_back_what_it_owns_and_does_not_hold(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=3)
        before = await bench.owner(consumer, 1)
        node = bench.node(1)
        taken = await bench.log.claim(consumer.id, node, now=bench.world.now(), most=3, held=(0, 2))
        assert [(row.segment, row.fence, row.unclean) for row in taken.progress] == [(1, before[1].fence + 1, 0)]

    @contract_test
    async def test_what_is_its_own_is_taken_back_before_what_is_free_and_however_few_it_asks_for(
        self, bench: Bench
    ) -> None:
        consumer = await bench.consumer(segments=6)
        await bench.owner(consumer, 2, most=2)
        await bench.owner(consumer, 1, most=3)
        await bench.ends(2)

        async def taken(most: int, *held: int) -> list[int]:
            standing = await bench.log.claim(consumer.id, bench.node(1), now=bench.world.now(), most=most, held=held)
            return [row.segment for row in standing.progress]

        assert await taken(0, 4) == [2, 3]
        assert await taken(1, 3) == [2, 4]
        assert await taken(2, 2, 3) == [0, 4]

    @contract_test
    async def test_a_released_segment_is_free_and_clean(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=1)
        (row,) = await bench.owner(consumer, 1)
        await bench.append(commit=commit_of(row, release=True))
        assert (await bench.progress(consumer)).owner is None
        (taken,) = await bench.owner(consumer, 2)
        assert (taken.unclean, taken.fence) == (0, row.fence + 1)

    @contract_test
    async def test_a_claim_returns_the_lanes_of_the_segments_it_took(self, bench: Bench) -> None:
        consumer = await bench.consumer(segments=2)
        rows = await bench.owner(consumer, 1)
        lanes = [
            Lane(
                consumer=consumer.id, segment=segment, key=key_of(f"k{segment}"), key_text=f"order=k{segment}", after=0,
                state=LaneState.LATE,
            )
            for segment in (0, 1)
        ]  # fmt: skip
        for row, lane in zip(rows, lanes, strict=True):
            await bench.append(commit=commit_of(row, lanes=(lane,), release=lane.segment == 1))
        await bench.log.beat(bench.node(2))
        standing = await bench.log.claim(consumer.id, bench.node(2), now=bench.world.now(), most=5)
        assert [row.segment for row in standing.progress] == [1]
        assert standing.lanes == (lanes[1],)

    @contract_test
    async def test_segments_of_other_consumers_are_left_alone(self, bench: Bench) -> None:
        billing, shipping = await bench.consumer("billing"), await bench.consumer("shipping")
        await bench.owner(billing, 1)
        assert all(row.owner is None for row in (await bench.log.standing(shipping.id)).progress)
        assert len(await bench.owner(shipping, 2)) == 4


def _same(nodes: Sequence[Node], wanted: Sequence[Node]) -> None:
    """Times pass on the way, also where a store measures leases by a clock of its own."""

    def facts(node: Node) -> tuple[object, ...]:
        return (node.id, node.host, node.pid, node.can)

    assert list(map(facts, nodes)) == list(map(facts, wanted))
    for node, other in zip(nodes, wanted, strict=True):
        assert abs(node.expires_at - other.expires_at) < SECOND
        assert abs(node.started_at - other.started_at) < SECOND
