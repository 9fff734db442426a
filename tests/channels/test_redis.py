"""The contract of a broker on Redis, and what only Redis has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest

from ensue.channels.base import Message, Received
from ensue.channels.redis import RedisBroker
from ensue.channels.urls import place
from ensue.errors import MessageRefused, WiringError
from ensue.testing.contracts.channels import (
    Bench,
    BroadcastContract,
    BrokerContract,
    ChannelContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
    bodies,
    channel_test,
    numbered,
)
from ensue.testing.contracts.channels.bench import received_by
from ensue.world import RealWorld
from tests.servers.redis import RedisAddress, RedisServer, ask


class _WithoutTimers(RealWorld):
    """Of a process that is there and does nothing any more."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return super().call_later(1e6, callback)


@pytest.fixture(scope="module")
def restarted(redis_installed: None) -> Iterator[RedisServer]:
    """A server that the tests of the contract stop, kill and start again."""
    with RedisServer(durable=False, settings={"proto-max-bulk-len": "8mb"}) as server:
        yield server


class TestRedis(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ReplayContract,
    DurableBrokerContract,
    ProcessesContract,
):
    @pytest.fixture(autouse=True)
    def _server(self, restarted: RedisServer) -> None:
        self.server = restarted
        self.url = restarted.url()

    def broker(self, **parameters: str) -> RedisBroker:
        return RedisBroker(place(f"{self.url}?{urlencode(parameters)}"))

    async def stop_server(self) -> None:
        self.server.stop()

    async def kill_server(self) -> None:
        self.server.kill()

    async def start_server(self) -> None:
        if not self.server.running():
            self.server.start()


class OnRedis(ChannelContract):
    """What only Redis has, on the server that all share."""

    @pytest.fixture(autouse=True)
    def _server(self, redis: RedisAddress) -> None:
        self.server = redis

    def broker(self, **parameters: str) -> RedisBroker:
        return RedisBroker(place(f"{self.server.url()}?{urlencode(parameters)}"))

    def ask(self, *commands: str) -> list[str]:
        return ask(self.server.port, *commands)


class TestMembers(OnRedis):
    """Who lives, and what becomes of what the others held."""

    @channel_test
    async def test_what_a_living_member_holds_stays_with_it_however_long_it_works(self, bench: Bench) -> None:
        lease = {"lease_seconds": "0.3"}
        first = await bench.member(broker=await bench.another(**lease), prefetch=5)
        await bench.publish(*numbered(1, 5))
        held = await bench.take(first, 5)
        second = await bench.member(broker=await bench.another(**lease))
        receiving = bench.start(received_by(second, 10))
        begun = bench.world.monotonic()
        # The second one looks for orphans each second.
        await bench.until(
            lambda: bench.world.monotonic() > begun + 1.3, "it has looked twice, and several leases have passed"
        )
        assert not receiving.done(), f"{receiving.result()} came although a living member holds it"
        await first.accept(held)
        await bench.publish(b"6")
        assert await receiving == [b"6"]

    @channel_test
    async def test_what_a_member_held_that_is_not_heard_of_any_more_comes_again(self, bench: Bench) -> None:
        """As of a machine that vanished: Redis still has the connection."""
        vanished = self.broker(lease_seconds="0.4")
        await vanished.open(_WithoutTimers())
        first = await bench.member(broker=vanished, prefetch=5)
        await bench.publish(*numbered(1, 5))
        await bench.take(first, 5)
        second = await bench.member(broker=await bench.another(lease_seconds="0.4"))
        assert bodies(await bench.take(second, 5)) == numbered(1, 5)
        await vanished.close()

    @channel_test
    async def test_what_several_members_held_comes_again_in_the_order_of_the_stream(self, bench: Bench) -> None:
        members = [await bench.member(prefetch=3) for _ in range(3)]
        await bench.publish(*numbered(1, 9))
        for _ in range(3):
            for member in members:
                await bench.take(member, 1)
        for member in members:
            await member.close()
        assert bodies(await bench.take(await bench.member(prefetch=2), 9, accept=True)) == numbered(1, 9)

    @channel_test
    async def test_more_orphans_than_the_prefetch_all_come_before_what_is_new(self, bench: Bench) -> None:
        first = await bench.member(prefetch=1000)
        await bench.publish(*numbered(1, 1000))
        await bench.take(first, 1000)
        await first.close()
        await bench.publish(*numbered(1001, 1010))
        second = await bench.member(prefetch=7)
        assert bodies(await bench.take(second, 1010, accept=True)) == numbered(1, 1010)

    @channel_test
    async def test_orphans_come_before_what_is_new_also_to_one_that_requeues(self, bench: Bench) -> None:
        first = await bench.member()
        await bench.publish(*numbered(1, 300))
        await bench.take(first, 300)
        await first.close()
        await bench.publish(*numbered(301, 310))
        second = await bench.member()
        received: list[Received] = []
        while len(received) < 310:
            await second.requeue(await second.receive(10))
            received += await bench.take(second, 10, accept=True)
        assert bodies(received) == numbered(1, 310)

    @channel_test
    async def test_each_time_that_a_message_is_orphaned_is_counted(self, bench: Bench) -> None:
        await bench.publish(b"1")
        for count in (1, 2, 3):
            member = await bench.member()
            (received,) = await bench.take(member, 1)
            assert received.deliveries == count
            await member.close()
        (received,) = await bench.take(await bench.member(), 1)
        assert received.deliveries == 4

    @channel_test
    async def test_each_time_that_a_message_is_requeued_is_counted_also_for_the_next_member(self, bench: Bench) -> None:
        await bench.publish(b"1")
        member = await bench.member()
        for count in (1, 2):
            taken = await bench.take(member, 1)
            assert taken[0].deliveries == count
            await member.requeue(taken)
        await member.close()
        (received,) = await bench.take(await bench.member(), 1)
        assert received.deliveries >= 4

    @channel_test
    async def test_what_another_program_in_the_group_holds_is_left_to_it(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 3))
        group = bench.group("billing")
        self.ask(f"XREADGROUP GROUP {group} theirs COUNT 2 STREAMS {self.address} >")
        assert bodies(await bench.take(await bench.member(), 1)) == [b"3"]
        assert self.ask(f"XPENDING {self.address} {group} - + 10 theirs")[0] == "*2"

    @channel_test
    async def test_members_that_are_gone_are_forgotten(self, bench: Bench) -> None:
        await bench.publish(b"1")
        for _ in range(3):
            member = await bench.member()
            await bench.take(member, 1)
            await member.close()
        member = await bench.member()
        await bench.take(member, 1, accept=True)
        await bench.until(lambda: self._members(bench) == 1, "those of before were found to hold nothing")
        await bench.nothing_waits(member)

    def _members(self, bench: Bench) -> int:
        return self.ask(f"XINFO CONSUMERS {self.address} {bench.group('billing')}").count("name")


class TestStreams(OnRedis):
    """How messages are stored, and for how long."""

    @channel_test
    async def test_other_tools_find_the_fields_that_the_documentation_names(self, bench: Bench) -> None:
        await bench.publish(Message(body=b"{}", headers={"ce_id": "7", "other": "x"}, key="k"))
        said = self.ask(f"XRANGE {self.address} - +")
        texts = said[said.index("data") :: 2]
        assert texts == ["data", "{}", "content-type", "application/json", "key", "k", "ce_id", "7", "other", "x"]

    @channel_test
    async def test_an_entry_of_another_program_comes_as_it_is(self, bench: Bench) -> None:
        member = await bench.member()
        self.ask(
            f'XADD {self.address} * ce_id 7 data body "no text" "\\xff" "\\xff" x', f"XADD {self.address} * any thing"
        )
        first, second = await bench.take(member, 2)
        assert (first.body, first.content_type, first.key, first.header("ce_id")) == (b"body", None, None, "7")
        assert first.headers == {"ce_id": "7"}
        assert (second.body, second.headers) == (b"", {"any": "thing"})

    @channel_test
    async def test_a_value_is_no_name(self, bench: Bench) -> None:
        member = await bench.member()
        await bench.publish(Message(body=b"ce_id", headers={"ce_type": "data", "ce_id": "ce_type"}, content_type="key"))
        (received,) = await bench.take(member, 1)
        assert (received.body, received.content_type, received.key) == (b"ce_id", "key", None)
        assert received.header("ce_id") == "ce_type"

    @channel_test
    async def test_a_header_named_like_a_field_or_that_is_no_text_is_refused_alone(self, bench: Bench) -> None:
        wrong = [Message(body=b"", headers={"key": "1"}), Message(body=b"", headers={"ce_note": "\ud800"})]
        told = await bench.told(bench.message(b"1"), *wrong, bench.message(b"2"))
        assert {index: type(error) for index, error in told.items()} == {1: MessageRefused, 2: MessageRefused}
        assert bodies(await bench.take(await bench.member(), 2)) == numbered(1, 2)

    @channel_test
    async def test_a_message_that_is_to_come_later_is_refused(self, bench: Bench) -> None:
        told = await bench.told(bench.message(b"1", delay_seconds=1.0))
        assert isinstance(told[0], MessageRefused)

    @channel_test
    async def test_a_stream_of_bounded_length_loses_what_is_oldest(self, bench: Bench) -> None:
        broker = await bench.another(max_length="100")
        for first in range(0, 1000, 100):
            await bench.publish(*numbered(first, first + 99), broker=broker)
        assert int(self.ask(f"XLEN {self.address}")[0][1:]) < 300
        received = await bench.take(await bench.member(), 100)
        assert received[0].body != b"0"

    @channel_test
    async def test_what_all_groups_have_accepted_is_removed_and_nothing_else(self, bench: Bench) -> None:
        trims = await bench.another(trim="accepted")
        slow = await bench.member("slow", prefetch=1)
        quick = await bench.member("quick", broker=trims)
        await bench.publish(*numbered(1, 500))
        first = await bench.take(slow, 1)
        await bench.take(quick, 500, accept=True)
        receiving = bench.start(received_by(quick, 1))
        begun = bench.world.monotonic()
        await bench.until(lambda: bench.world.monotonic() > begun + 1.2, "it has looked what it may remove")
        assert self._length() == 500, "one group has accepted nothing yet"
        await slow.accept(first)
        await bench.take(slow, 399, accept=True)
        await bench.until(lambda: self._length() < 300, "what both groups have accepted is removed")
        assert bodies(await bench.take(slow, 100, accept=True)) == numbered(401, 500)
        assert not receiving.done()

    def _length(self) -> int:
        return int(self.ask(f"XLEN {self.address}")[0][1:])


class TestTopology(OnRedis):
    @channel_test
    async def test_what_is_no_stream_is_told_with_what_it_is(self, bench: Bench) -> None:
        await bench.broker.remove(self.address)
        self.ask(f"SET {self.address} text")
        with pytest.raises(WiringError, match=r"to be a stream, and is a string"):
            await bench.broker.declare(self.address)
        with pytest.raises(WiringError, match=self.address):
            await bench.member()
        told = await bench.told(bench.message(b"1"))
        assert isinstance(told[0], WiringError)

    @channel_test
    async def test_a_stream_that_becomes_something_else_ends_what_receives_from_it(self, bench: Bench) -> None:
        for subscription in (await bench.member(), await bench.broadcast()):
            receiving = bench.start(received_by(subscription, 1))
            await bench.step(5)
            self.ask(f"SET {self.address} text")
            with pytest.raises(WiringError):
                await receiving
            self.ask(f"DEL {self.address}")
            await bench.broker.declare(self.address)

    @channel_test
    async def test_a_group_that_is_removed_ends_its_members_and_no_others(self, bench: Bench) -> None:
        billing, shipping = await bench.member("billing"), await bench.member("shipping")
        receiving = bench.start(received_by(billing, 1))
        await bench.step(5)
        self.ask(f"XGROUP DESTROY {self.address} {bench.group('billing')}")
        with pytest.raises(WiringError, match=bench.group("billing")):
            await receiving
        await bench.publish(b"1")
        assert bodies(await bench.take(shipping, 1)) == [b"1"]

    @channel_test
    async def test_a_group_is_not_made_where_nothing_may_be_created(self, bench: Bench) -> None:
        checks = await bench.another(create="no")
        with pytest.raises(WiringError, match=r"no such group"):
            await bench.member(broker=checks)
        self.ask(f"XGROUP CREATE {self.address} {bench.group('billing')} 0")
        await bench.publish(b"1")
        assert bodies(await bench.take(await bench.member(broker=checks), 1)) == [b"1"]

    @channel_test
    async def test_a_database_is_named_by_the_path(self, bench: Bench) -> None:
        other = RedisBroker(place(f"redis://127.0.0.1:{self.server.port}/3"))
        await other.open(bench.world)
        await other.declare(self.address)
        assert self.ask("SELECT 3", f"TYPE {self.address}") == ["+OK", "+stream"]
        await other.remove(self.address)
        await other.close()

    @pytest.mark.parametrize(
        "url", ["redis://one:1,two:2", "redis://one/name", "redis://one/?max_length=0", "redis://one/?trim=all"]
    )
    def test_a_url_that_means_nothing_is_told(self, url: str) -> None:
        with pytest.raises(WiringError):
            RedisBroker(place(url))
