"""A SQLite file as the broker of a channel is held to the contract of all brokers, and to what is its own.

It has no server that could stop. What comes nearest is its file: it goes away, as with a disk that is gone, and comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ensue.app.log_brokers import SqliteBroker
from ensue.channels.base import Message
from ensue.channels.urls import place
from ensue.consumers import lease, log_subscription
from ensue.consumers.verify import verify
from ensue.errors import AccessRefused, MessageRefused, Unavailable, WiringError
from ensue.events.stored import decode_meta
from ensue.store.base import Node, Page
from ensue.store.sqlite import SqliteStore
from ensue.testing.contracts.channels import (
    AssignsContract,
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
from ensue.world import RealWorld
from tests.channels.log_members import MembersContract

WORLD = RealWorld()


class _File(ChannelContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "channel ?.db"
        self.url = f"sqlite:///{str(self.file).replace('?', '%3F').replace(' ', '%20')}"
        self.made: list[SqliteBroker] = []

    @pytest.fixture(autouse=True)
    def _short_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who dies here dies in a process that goes on, so it is known only when its lease ends."""
        for module in (lease, log_subscription):
            monkeypatch.setattr(module, "BEAT_SECONDS", 0.3)
        monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)

    def broker(self, **parameters: str) -> SqliteBroker:
        broker = SqliteBroker(place(f"{self.url}?{urlencode(parameters)}"))
        self.made.append(broker)
        return broker

    @asynccontextmanager
    async def store(self) -> AsyncGenerator[SqliteStore]:
        store = SqliteStore(str(self.file))
        await store.open(WORLD)
        try:
            yield store
        finally:
            await store.close()


class TestSqlite(
    _File, BrokerContract, GroupsContract, IndividualContract, BroadcastContract, ReplayContract, AssignsContract,
    DurableBrokerContract, ProcessesContract, MembersContract,
):  # fmt: skip
    slow_seconds = 0.2

    async def stop_server(self) -> None:
        """The file is gone from its place, and something else is there."""
        if not self.file.is_dir():
            away = self._away()
            away.mkdir()
            for file in self.file.parent.glob("channel*"):
                file.rename(away / file.name)
            self.file.mkdir()

    async def kill_server(self) -> None:
        """And whoever had it open has died."""
        for broker in self.made:
            if isinstance(broker._store, SqliteStore):
                broker._store.abandon()
        await self.stop_server()

    async def start_server(self) -> None:
        if self.file.is_dir():
            self.file.rmdir()
            for file in self._away().iterdir():
                file.rename(self.file.parent / file.name)
            self._away().rmdir()

    def _away(self) -> Path:
        return self.file.parent / "away"


class TestFile(_File):
    @channel_test
    async def test_messages_are_events_that_people_can_read(self, bench: Bench) -> None:
        await bench.publish(
            Message(body=b'{"order": "o1"}', headers={"ce_type": "Placed"}, key="o1"), Message(body=b"\xff", headers={})
        )
        async with self.store() as store:
            rows = (await store.read()).rows
            names = [store.known_types()[row[2]][0] for row in rows]
        assert names == [f"ensue.ChannelDeclared.{bench.address}", *[f"ensue.Channel.{bench.address}"] * 2]
        assert [decode_meta(row[10]).key for row in rows[1:]] == [f"channel.{bench.address}=o1", None]
        assert [row[11] for row in rows[1:]] == [
            b'{"headers":{"ce_type":"Placed"},"content_type":"application/json","key":"o1","text":"{\\"order\\": \\"o1\\"}"}',
            b'{"headers":{},"content_type":"application/json","data":"/w=="}',
        ]

    @channel_test
    async def test_the_log_is_whole_after_much_was_accepted_by_members_that_came_and_went(self, bench: Bench) -> None:
        await bench.publish(*(bench.message(body, key=f"key-{int(body) % 7}") for body in numbered(1, 60)))
        first = await bench.member()
        taken = await bench.take(first, 20)
        await first.accept(taken[5:])
        await first.reject(taken[2:4])
        await first.close()
        second = await bench.member()
        await bench.take(second, 30, accept=True)
        await second.close()
        await bench.broker.remove(bench.address, groups=[bench.group("billing")])
        await bench.broker.declare(bench.address)
        await bench.publish(*numbered(61, 70))
        assert bodies(await bench.take(await bench.member(), 10, accept=True)) == numbered(61, 70)
        await bench.reopen()
        async with self.store() as store:
            assert (await verify(store, WORLD)).findings == ()

    @channel_test
    async def test_who_does_not_know_that_the_address_was_removed_and_declared_again_publishes_there(
        self, bench: Bench
    ) -> None:
        await bench.publish(b"before")
        other = await bench.another()
        await other.remove(bench.address)
        await other.declare(bench.address)
        await bench.publish(b"after")
        assert bodies(await bench.take(await bench.member(), 1)) == [b"after"]

    @channel_test
    async def test_of_an_address_that_was_removed_a_group_gets_nothing_more_though_nobody_named_it(
        self, bench: Bench
    ) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 3))
        await bench.broker.remove(bench.address)
        await bench.broker.declare(bench.address)
        await bench.publish(*numbered(4, 6))
        assert bodies(await bench.take(await bench.member(), 3)) == numbered(4, 6)

    @channel_test
    async def test_a_group_that_was_removed_is_new(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.broker.remove(bench.address, groups=[bench.group("billing")])
        await bench.broker.declare(bench.address)
        await bench.publish(*numbered(1, 3))
        member = await bench.member(start="now")
        await bench.publish(*numbered(4, 6))
        assert bodies(await bench.take(member, 3)) == numbered(4, 6)

    @channel_test
    async def test_where_few_partitions_have_messages_little_is_read_again(self, bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(log_subscription, "FLUSH_POSITIONS", 10)
            member = await bench.member()
            await bench.publish(*numbered(1, 50))
            await bench.take(member, 50, accept=True)
            async with self.store() as store:
                (consumer,) = await store.consumers()
                lowest = 0
                while lowest < 40:
                    bench.waits_for = f"the lowest mark is {lowest}"
                    await bench.world.sleep(0.005)
                    lowest = min(row.position for row in (await store.standing(consumer.id)).progress)

    @channel_test
    async def test_a_batch_is_stored_as_one(self, bench: Bench) -> None:
        await asyncio.gather(*(bench.publish(*numbered(first, first + 9)) for first in range(0, 100, 10)))
        member = await bench.member()
        received = bodies(await bench.take(member, 100))
        assert {tuple(received[first : first + 10]) for first in range(0, 100, 10)} == {
            tuple(numbered(first, first + 9)) for first in range(0, 100, 10)
        }

    @channel_test
    async def test_what_one_that_was_taken_for_dead_accepts_is_refused_and_comes_again(self, bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(log_subscription, "BEAT_SECONDS", 60.0)  # else it sees that by itself
            patched.setattr(lease, "LEASE_SECONDS", 20.0)
            member = await bench.member()
            await bench.publish(*numbered(1, 3))
            held = await bench.take(member, 3)
            await self._takes_all(bench)
            await member.accept(held)
            with pytest.raises(Unavailable, match="owns partition"):
                await member.receive(1)
            with pytest.raises(Unavailable, match="owns partition"):
                await member.accept(held)
            await member.close()
            assert bodies(await bench.take(await bench.member(), 3, accept=True)) == numbered(1, 3)

    async def _takes_all(self, bench: Bench) -> None:
        """As one by whose clock the lease of every member has ended; it dies at once."""
        async with self.store() as store:
            (consumer,) = await store.consumers()
            now = WORLD.now()
            other = Node(id=WORLD.new_id(), host="elsewhere", pid=1, started_at=now, expires_at=now)
            late = now + 30_000_000
            taken = await store.claim(consumer.id, other, now=late, most=consumer.segments)
            assert len(taken.progress) == consumer.segments

    @channel_test
    async def test_a_member_that_only_waits_hears_that_it_was_taken_for_dead(self, bench: Bench) -> None:
        member = await bench.member()
        receiving = bench.start(bench.take(member, 1))
        await bench.step(3)
        await self._takes_all(bench)
        with pytest.raises(Unavailable, match="owns partition"):
            await receiving

    @channel_test
    async def test_a_group_that_is_paused_receives_when_it_is_resumed(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 3))
        async with self.store() as store:
            (consumer,) = await store.consumers()
            await store.set_status(consumer.id, "paused", None)
            member = await bench.member()
            receiving = bench.start(bench.take(member, 3))
            assert await member.backlog() == 0
            await store.set_status(consumer.id, "active", None)
        assert bodies(await receiving) == numbered(1, 3)

    @channel_test
    async def test_what_was_accepted_behind_one_that_was_not_is_bounded(self, bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(log_subscription, "MOST_AHEAD", 10)
            member = await bench.member(prefetch=5)
            await bench.publish(*numbered(1, 30))
            (first,) = await bench.take(member, 1)
            passed = await bench.take(member, 10, accept=True)
            receiving = bench.start(bench.take(member, 19, accept=True))
            await bench.publish(bench.message(b"another", key="another"))
            await bench.step(20)
            assert not receiving.done()
            await member.accept([first])
            assert bodies([first, *passed, *await receiving]) == numbered(1, 30)

    @channel_test
    async def test_the_bound_holds_nothing_up_when_all_is_accepted_in_order(self, bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(log_subscription, "MOST_AHEAD", 10)
            member = await bench.member()
            await bench.publish(*numbered(1, 50))
            held = await bench.take(member, 40)
            await member.accept(held[:30])
            assert bodies(await bench.take(member, 10)) == numbered(41, 50)

    @channel_test
    async def test_what_went_to_another_member_leaves_room_for_more(self, bench: Bench) -> None:
        first = await bench.member(prefetch=24)
        batch = [bench.message(b"1", key=f"key-{number}") for number in range(24)]
        await bench.publish(*batch)
        held = await bench.take(first, 24)
        second = await bench.member(broker=await bench.another())
        went = {(await bench.take(second, 1, accept=True))[0].partition}
        await bench.publish(*batch)
        (more,) = await bench.take(first, 1)
        assert more.partition in {one.partition for one in held} - went

    @channel_test
    async def test_partitions_that_come_while_a_member_reads_lose_nothing(self, bench: Bench) -> None:
        first = await bench.member()
        await bench.publish(*(bench.message(b"%d" % number, key=f"key-{number}") for number in range(24)))
        held = await bench.take(first, 24)
        second = await bench.member(broker=await bench.another())
        assert isinstance(second, log_subscription.LogMember)
        await bench.until(lambda: len(second._parts) == 8, "it has its share")
        taken = await bench.take(second, sum(one.partition in second._parts for one in held))
        read, may_end = second._store.read, asyncio.Event()

        async def read_slowly(*given: Any, **named: Any) -> Page:
            page = await read(*given, **named)
            await may_end.wait()
            return page

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(second._store, "read", read_slowly)
            receiving = bench.start(bench.take(second, 24 - len(taken)))
            await bench.step(3)
            await first.close()
            await bench.until(lambda: len(second._parts) == 16, "it has all")
            may_end.set()
            assert sorted(bodies([*taken, *await receiving]), key=int) == numbered(0, 23)

    @channel_test
    async def test_a_message_that_is_to_come_later_is_refused_alone(self, bench: Bench) -> None:
        member = await bench.member()
        told = await bench.told(bench.message(b"1"), bench.message(b"2", delay_seconds=1.0), bench.message(b"3"))
        assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
        assert bodies(await bench.take(member, 2)) == [b"1", b"3"]

    def test_another_form_of_url_is_told(self) -> None:
        with pytest.raises(WiringError, match=r"form sqlite:///file\.db"):
            SqliteBroker(place("sqlite://host/file.db"))

    def test_a_file_that_is_no_log_is_told(self) -> None:
        self.file.write_bytes(b"something else, and long enough to be a database" * 100)
        with pytest.raises(WiringError, match="not an Ensue log"):
            asyncio.run(self.broker().open(WORLD))

    def test_a_folder_that_is_not_there_is_told(self) -> None:
        broker = SqliteBroker(place(f"sqlite:///{self.file.parent}/missing/channel.db"))
        with pytest.raises(AccessRefused, match="does not exist"):
            asyncio.run(broker.open(WORLD))
