"""What brokers promise beside groups: broadcast, replay and delay."""

from __future__ import annotations

from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered

__all__ = ["BroadcastContract", "DelayContract", "ReplayContract"]

DELAY_SECONDS = 0.7


class BroadcastContract(ChannelContract):
    """Publish and subscribe: each subscription without a group gets what is published from then on."""

    @channel_test
    async def test_every_subscription_gets_all(self, bench: Bench) -> None:
        here, elsewhere = await bench.broadcast(), await bench.broadcast(await bench.another())
        await bench.publish(*numbered(1, 50))
        assert bodies(await bench.take(here, 50, accept=True)) == numbered(1, 50)
        assert bodies(await bench.take(elsewhere, 50)) == numbered(1, 50)

    @channel_test
    async def test_two_subscriptions_of_one_connection_both_get_all(self, bench: Bench) -> None:
        first, second = await bench.broadcast(), await bench.broadcast()
        await bench.publish(*numbered(1, 5))
        assert bodies(await bench.take(first, 5)) == numbered(1, 5)
        assert bodies(await bench.take(second, 5)) == numbered(1, 5)

    @channel_test
    async def test_it_gets_nothing_from_before(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 5))
        subscription = await bench.broadcast()
        await bench.publish(*numbered(6, 10))
        assert bodies(await bench.take(subscription, 5)) == numbered(6, 10)

    @channel_test
    async def test_nothing_comes_again(self, bench: Bench) -> None:
        subscription = await bench.broadcast()
        await bench.publish(*numbered(1, 5))
        await bench.take(subscription, 5)
        await subscription.close()
        await bench.nothing_waits(await bench.broadcast())

    @channel_test
    async def test_one_that_is_slow_holds_nothing_back_from_another(self, bench: Bench) -> None:
        slow, quick = await bench.broadcast(), await bench.broadcast(await bench.another())
        await bench.publish(*numbered(1, 100))
        assert bodies(await bench.take(quick, 100, accept=True)) == numbered(1, 100)
        assert bodies(await bench.take(slow, 100, accept=True)) == numbered(1, 100)

    @channel_test
    async def test_one_that_holds_few_gets_all_as_it_accepts_them(self, bench: Bench) -> None:
        subscription = await bench.broadcast(prefetch=5)
        await bench.publish(*numbered(1, 100))
        assert bodies(await bench.take(subscription, 100, accept=True)) == numbered(1, 100)

    @channel_test
    async def test_a_group_and_a_broadcast_get_the_same(self, bench: Bench) -> None:
        if not bench.broker.capabilities.groups:
            return
        member, broadcast = await bench.member(), await bench.broadcast()
        await bench.publish(*numbered(1, 5))
        assert bodies(await bench.take(broadcast, 5)) == numbered(1, 5)
        assert bodies(await bench.take(member, 5)) == numbered(1, 5)


class ReplayContract(ChannelContract):
    """Stream: a group may begin with what is there already."""

    @channel_test
    async def test_a_new_group_begins_with_all_there_is(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 20))
        member = await bench.member(start="beginning")
        await bench.publish(*numbered(21, 25))
        assert bodies(await bench.take(member, 25)) == numbered(1, 25)

    @channel_test
    async def test_what_one_group_accepted_is_there_for_one_that_comes_later(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 20))
        await bench.take(await bench.member("billing"), 20, accept=True)
        await bench.reopen()
        assert bodies(await bench.take(await bench.member("shipping"), 20)) == numbered(1, 20)

    @channel_test
    async def test_a_group_that_comes_back_is_not_replayed_to(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 20))
        member = await bench.member(start="beginning")
        await bench.take(member, 20, accept=True)
        await member.close()
        await bench.nothing_waits(await bench.member(start="beginning"))

    @channel_test
    async def test_a_new_group_begins_at_a_time(self, bench: Bench) -> None:
        await bench.publish(*numbered(1, 5))
        before = bench.world.now()
        # Brokers keep times in milliseconds.
        await bench.until(lambda: bench.world.now() > before + 20_000, "20 ms have passed")
        between = bench.world.now()
        await bench.until(lambda: bench.world.now() > between + 20_000, "20 ms have passed")
        await bench.publish(*numbered(6, 10))
        assert bodies(await bench.take(await bench.member(start=between), 5)) == numbered(6, 10)


class DelayContract(ChannelContract):
    """`Message.delay_seconds` is kept by the broker."""

    @channel_test
    async def test_a_delayed_message_comes_when_its_time_has_passed_and_holds_up_no_other(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        published = bench.world.monotonic()
        await bench.publish(bench.message(b"later", delay_seconds=DELAY_SECONDS), b"at once")
        assert bodies(await bench.take(subscription, 1, accept=True)) == [b"at once"]
        assert bodies(await bench.take(subscription, 1, accept=True)) == [b"later"]
        assert bench.world.monotonic() - published >= DELAY_SECONDS - 0.01

    @channel_test
    async def test_delayed_messages_come_by_their_times(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(
            bench.message(b"2", delay_seconds=DELAY_SECONDS), bench.message(b"1", delay_seconds=DELAY_SECONDS / 3)
        )
        assert bodies(await bench.take(subscription, 2, accept=True)) == [b"1", b"2"]
