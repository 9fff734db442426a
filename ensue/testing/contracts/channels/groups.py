"""What brokers with groups promise: members share, what was not accepted comes again, what was accepted never does."""

from __future__ import annotations

import asyncio

import pytest

from ensue.channels.base import Subscription
from ensue.errors import MissingCapability, Unavailable
from ensue.testing.contracts.channels.bench import (
    CLOSING_SECONDS,
    Bench,
    ChannelContract,
    bodies,
    channel_test,
    numbered,
    received_by,
)

__all__ = ["CumulativeContract", "GroupsContract", "IndividualContract"]


class GroupsContract(ChannelContract):
    """Queue: members of a group share the messages; each group gets all of them."""

    @channel_test
    async def test_what_was_accepted_never_comes_again(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(*numbered(1, 20))
        await bench.take(member, 20, accept=True)
        await member.close()
        member = await bench.member()
        await bench.nothing_waits(member)
        await bench.reopen()
        await bench.nothing_waits(await bench.member())

    @channel_test
    async def test_what_was_accepted_last_is_told_to_the_broker_by_closing_the_connection(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(*numbered(1, 20))
        await bench.take(member, 20, accept=True)
        await bench.reopen()
        await bench.nothing_waits(await bench.member())

    @channel_test
    async def test_what_was_not_accepted_comes_again_in_order_and_before_what_is_new(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await bench.publish(*numbered(11, 15))
        await member.accept(received[:4])
        await member.close()
        again = await bench.take(await bench.member(), 11)
        assert bodies(again) == numbered(5, 15)

    @channel_test
    async def test_what_was_not_accepted_comes_again_when_the_connection_is_closed(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await bench.publish(*numbered(11, 15))
        await member.accept(received[:4])
        await bench.reopen()
        again = await bench.take(await bench.member(), 11)
        assert bodies(again) == numbered(5, 15)

    @channel_test
    async def test_what_came_and_was_never_received_comes_again(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(*numbered(1, 10))
        assert bodies(await bench.take(member, 1, accept=True)) == [b"1"]
        await member.close()
        assert bodies(await bench.take(await bench.member(), 9)) == numbered(2, 10)

    @channel_test
    async def test_thousands_that_are_held_do_not_hold_up_the_close_and_come_again(self, bench: Bench) -> None:
        member = await bench.member(prefetch=5000)
        for first in range(1, 5000, 500):
            await bench.publish(*numbered(first, first + 499))
        received = await bench.take(member, 3000)
        await member.accept(received[:1000])
        bench.waits_for = "close does not return"
        async with asyncio.timeout(CLOSING_SECONDS):
            await bench.broker.close()
        await bench.reopen()
        assert bodies(await bench.take(await bench.member(prefetch=5000), 4000)) == numbered(1001, 5000)

    @channel_test
    async def test_a_member_that_comes_back_again_and_again_gets_all_in_order(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 32))
        received: list[bytes] = []
        for _ in range(5):
            member = await bench.member(prefetch=8)
            taken = await bench.take(member, 8)
            await member.accept(taken[:6])
            received += bodies(taken[:6])
            await member.close()
        assert received == numbered(1, 30)

    @channel_test
    async def test_deliveries_are_counted_where_the_broker_counts(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(b"1")
        (first,) = await bench.take(member, 1)
        await member.close()
        (second,) = await bench.take(await bench.member(), 1)
        assert (first.deliveries, second.deliveries) == (1, 2 if bench.broker.capabilities.counts else 1)

    @channel_test
    async def test_what_is_requeued_comes_again(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(b"1")
        for _ in range(3):
            received = await bench.take(member, 1)
            assert bodies(received) == [b"1"]
            await member.requeue(received)
        assert bodies(await bench.take(member, 1, accept=True)) == [b"1"]
        await bench.nothing_waits(member)

    @channel_test
    async def test_what_is_requeued_together_comes_again_in_order(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await member.accept(received[:3])
        await member.requeue(received[3:])
        assert bodies(await bench.take(member, 7, accept=True)) == numbered(4, 10)
        await bench.nothing_waits(member)

    @channel_test
    async def test_what_is_rejected_never_comes_again(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(*numbered(1, 3))
        received = await bench.take(member, 3)
        await member.reject(received[:1])
        await member.accept(received[1:2])
        await member.reject(received[2:])
        await member.close()
        await bench.reopen()
        await bench.nothing_waits(await bench.member())

    @channel_test
    async def test_answering_for_no_message_does_nothing(self, bench: Bench) -> None:
        member = await bench.member(prefetch=2)
        await bench.publish(*numbered(1, 3))
        await bench.take(member, 2)
        await member.accept([])
        await member.reject([])
        await member.requeue([])
        await member.close()
        assert bodies(await bench.take(await bench.member(), 3)) == numbered(1, 3)

    @channel_test
    async def test_every_group_gets_all(self, bench: Bench) -> None:
        billing, shipping = await bench.member("billing"), await bench.member("shipping")
        await bench.publish(*numbered(1, 20))
        assert bodies(await bench.take(billing, 20, accept=True)) == numbered(1, 20)
        assert bodies(await bench.take(shipping, 20)) == numbered(1, 20)
        await bench.nothing_waits(billing)

    @channel_test
    async def test_a_group_gets_what_was_published_while_it_had_no_member(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 20))
        await bench.reopen()
        await bench.publish(*numbered(21, 30))
        assert bodies(await bench.take(await bench.member(), 30)) == numbered(1, 30)

    @channel_test
    async def test_a_group_that_begins_now_does_not_see_what_was_before(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 5))
        member = await bench.member(start="now")
        await bench.publish(*numbered(6, 10))
        assert bodies(await bench.take(member, 5)) == numbered(6, 10)

    @channel_test
    async def test_where_a_group_starts_counts_only_when_it_is_new(self, bench: Bench) -> None:
        await (await bench.member(start="now")).close()
        await bench.publish(*numbered(1, 5))
        assert bodies(await bench.take(await bench.member(start="now"), 5)) == numbered(1, 5)

    @channel_test
    async def test_what_it_cannot_do_is_told_when_it_is_asked_for(self, bench: Bench) -> None:
        able = bench.broker.capabilities
        if not able.replay:
            with pytest.raises(MissingCapability):
                await bench.member(start=bench.world.now() - 1_000_000)
        if not able.broadcast:
            with pytest.raises(MissingCapability):
                await bench.broadcast()

    @channel_test
    async def test_no_more_are_held_than_the_prefetch_and_accepting_lets_more_come(self, bench: Bench) -> None:
        member = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 20))
        held = await bench.take(member, 5)
        receiving = bench.start(received_by(member, 10))
        # A few ways to the broker and back: what is on its way arrives in that time.
        for _ in range(10):
            await bench.publish(bench.message(b"another", key="another"))
            await bench.step(10)
        assert not receiving.done(), f"held five, and {receiving.result()} came"
        await member.accept(held[:2])
        more = await receiving
        assert 1 <= len(more) <= 2

    @channel_test
    async def test_members_share_without_doubles(self, bench: Bench) -> None:
        if not bench.broker.capabilities.shares:
            return
        members = [await bench.member(broker=broker) for broker in (bench.broker, await bench.another())]
        warm = await _all_have_received(bench, members)
        received: list[bytes] = []

        async def works(member: Subscription) -> None:
            while True:
                taken = await member.receive(7)
                await member.accept(taken)
                received.extend(body for body in bodies(taken) if not body.startswith(b"warm"))

        working = [bench.start(works(member)) for member in members]
        sent = numbered(1, 300)
        await bench.publish(*(bench.message(body, key=f"key-{int(body) % 20}") for body in sent))
        await bench.until(lambda: len(received) >= len(sent), f"all of {len(sent)} came, {warm} before them")
        await bench.step(20)
        assert sorted(received) == sorted(sent)
        assert not any(task.done() for task in working)

    @channel_test
    async def test_what_one_member_holds_leaves_the_rest_to_others(self, bench: Bench) -> None:
        if bench.broker.capabilities.assigns or not bench.broker.capabilities.shares:
            return  # where there are partitions those of a member are its own; see AssignsContract
        first = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 20))
        held = await bench.take(first, 5)
        second = await bench.member(broker=await bench.another())
        assert bodies(held) + bodies(await bench.take(second, 15)) == numbered(1, 20)

    @channel_test
    async def test_what_a_member_gave_back_goes_to_another(self, bench: Bench) -> None:
        first = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 5))
        await bench.take(first, 5)
        second = await bench.member(broker=await bench.another())
        receiving = bench.start(bench.take(second, 5))
        await bench.step(3)
        await first.close()
        assert bodies(await receiving) == numbered(1, 5)

    @channel_test
    async def test_where_members_do_not_share_the_newest_takes_the_place_of_the_one_before(self, bench: Bench) -> None:
        if bench.broker.capabilities.shares:
            return
        first = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 10))
        await first.accept((await bench.take(first, 5))[:2])
        ending = bench.start(_receive_for_ever(first))
        await bench.step(3)
        second = await bench.member(broker=await bench.another())
        bench.waits_for = "the first member goes on waiting although another one has its place"
        with pytest.raises(Unavailable):
            await ending
        assert bodies(await bench.take(second, 8)) == numbered(3, 10)

    @channel_test
    async def test_the_backlog_is_what_waits_for_a_member(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 10))
        member = await bench.member(prefetch=1)
        backlog = await member.backlog()
        if backlog is None:
            return
        # One may have come here already that was not received.
        while backlog not in (9, 10):
            bench.waits_for = f"the backlog is {backlog} and not 10"
            await bench.world.sleep(0.01)
            backlog = await member.backlog()
        await bench.take(member, 10, accept=True)
        while backlog != 0:
            bench.waits_for = f"the backlog is {backlog} although all was received"
            await bench.world.sleep(0.01)
            backlog = await member.backlog()


class IndividualContract(ChannelContract):
    """Each message is accepted for itself. For brokers with groups that are not `cumulative`."""

    @channel_test
    async def test_accepting_one_accepts_no_other(self, bench: Bench) -> None:
        member = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 5))
        received = await bench.take(member, 5)
        await member.accept([received[3], received[1]])
        await member.close()
        member = await bench.member()
        assert bodies(await bench.take(member, 3, accept=True)) == [b"1", b"3", b"5"]
        await bench.nothing_waits(member)

    @channel_test
    async def test_requeueing_one_requeues_no_other(self, bench: Bench) -> None:
        member = await bench.member(prefetch=5)
        await bench.publish(*numbered(1, 5))
        received = await bench.take(member, 5)
        await member.requeue(received[1:2])
        again = await bench.take(member, 1)
        assert bodies(again) == [b"2"]
        await member.accept([received[0], *received[2:], *again])
        await member.close()
        await bench.nothing_waits(await bench.member())

    @channel_test
    async def test_rejecting_one_rejects_no_other(self, bench: Bench) -> None:
        member = await bench.member(prefetch=3)
        await bench.publish(*numbered(1, 3))
        received = await bench.take(member, 3)
        await member.reject(received[1:2])
        await member.close()
        assert bodies(await bench.take(await bench.member(), 2)) == [b"1", b"3"]

    @channel_test
    async def test_a_message_that_is_accepted_makes_room_although_an_older_one_is_held(self, bench: Bench) -> None:
        member = await bench.member(prefetch=3)
        await bench.publish(*numbered(1, 5))
        received = await bench.take(member, 3)
        await member.accept(received[1:])
        assert bodies(await bench.take(member, 2)) == [b"4", b"5"]


class CumulativeContract(ChannelContract):
    """Accepting a message accepts all before it in its partition."""

    @channel_test
    async def test_accepting_one_accepts_all_before_it(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await member.accept([received[6]])
        await member.close()
        assert bodies(await bench.take(await bench.member(), 3)) == numbered(8, 10)

    @channel_test
    async def test_requeueing_one_requeues_all_after_it(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await member.requeue([received[6]])
        assert bodies(await bench.take(member, 4)) == numbered(7, 10)

    @channel_test
    async def test_what_was_accepted_before_stays_accepted_when_one_behind_is_requeued(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await member.accept([received[4]])
        await member.requeue([received[7]])
        await member.close()
        assert bodies(await bench.take(await bench.member(), 5)) == numbered(6, 10)


async def _all_have_received(bench: Bench, members: list[Subscription]) -> int:
    """Publish until every member has received, and so has its share of what there is; how many it took."""
    sent = 0
    waiting = [bench.start(_first(member)) for member in members]
    if not bench.broker.capabilities.assigns:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return 0
    while not all(task.done() for task in waiting):
        bench.waits_for = "waited until each of two members received something"
        await bench.publish(bench.message(b"warm", key=f"warm-{sent}"))
        sent += 1
        await bench.world.sleep(0.01)
    return sent


async def _first(member: Subscription) -> None:
    await member.accept(await member.receive(1))


async def _receive_for_ever(member: Subscription) -> None:
    while True:
        await member.receive(100)
