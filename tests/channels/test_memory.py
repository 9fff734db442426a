"""The broker in memory is held to the contract that others are given, in each of its forms, and to what is its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlencode

import pytest

from ensue.channels.base import Message, Subscription
from ensue.channels.memory import MemoryBroker
from ensue.channels.urls import place
from ensue.errors import Unavailable, WiringError
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    DelayContract,
    GroupsContract,
    IndividualContract,
    ReplayContract,
    bodies,
)
from ensue.testing.simulation import SimulatedWorld, Simulation, simulate
from ensue.world import LoopThread, RealWorld, World

_numbers = itertools.count()


class _Memory(BrokerContract, GroupsContract, IndividualContract, BroadcastContract, ReplayContract, DelayContract):
    @pytest.fixture(autouse=True)
    def _name(self) -> None:
        self.name = f"contract-{next(_numbers)}"

    def url(self, **parameters: str) -> str:
        return f"memory://{self.name}?{urlencode({'largest': '100000', **parameters})}"

    def broker(self, **parameters: str) -> MemoryBroker:
        return MemoryBroker(place(self.url(**parameters)))


class TestMemory(_Memory):
    pass


class TestPartitions(_Memory):
    def url(self, **parameters: str) -> str:
        return super().url(partitions="4", **parameters)


class TestAssigned(_Memory, AssignsContract):
    slow_seconds = 0.1

    def url(self, **parameters: str) -> str:
        return super().url(partitions="4", assign="yes", **parameters)


# ----------------------------------------------------------------------------------------------------------- its own


def message(body: bytes, delay_seconds: float = 0.0) -> Message:
    return Message(body=body, headers={"ce-id": body.decode()}, key="k", delay_seconds=delay_seconds)


def new_url(query: str = "") -> str:
    return f"memory://own-{next(_numbers)}?{query}"


@asynccontextmanager
async def opened(url: str, world: World | None = None) -> AsyncGenerator[MemoryBroker, None]:
    broker = MemoryBroker(place(url))
    await broker.open(world or RealWorld())
    try:
        await broker.declare("orders")
        yield broker
    finally:
        await broker.close()


async def take(member: Subscription, count: int) -> list[bytes]:
    taken: list[bytes] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            received = await member.receive(count - len(taken))
            await member.accept(received)
            taken += bodies(received)
    return taken


def test_brokers_of_one_name_meet_and_of_others_do_not() -> None:
    async def story() -> None:
        url = new_url()
        async with opened(url) as one, opened(new_url()) as other, opened(url) as same:
            await one.publish("orders", [message(b"1")])
            await other.publish("orders", [message(b"2")])
            assert await take(await same.subscribe("orders", group="g", prefetch=10), 1) == [b"1"]

    asyncio.run(story())


def test_what_one_loop_published_is_there_for_the_next() -> None:
    url = new_url()

    async def publishes() -> None:
        async with opened(url) as broker:
            await broker.publish("orders", [message(b"1")])

    async def receives() -> list[bytes]:
        async with opened(url) as broker:
            return await take(await broker.subscribe("orders", group="g", prefetch=10), 1)

    asyncio.run(publishes())
    assert asyncio.run(receives()) == [b"1"]


def test_loops_in_threads_of_their_own_meet_there() -> None:
    """As applications do that a synchronous test starts: each has a loop in a thread."""
    url = new_url()
    count = 2000

    async def publishes() -> None:
        async with opened(url) as broker:
            for number in range(count):
                await broker.publish("orders", [message(b"%d" % number)])

    async def receives() -> list[bytes]:
        async with opened(url) as broker:
            return await take(await broker.subscribe("orders", group="g", prefetch=10), count)

    here, there = LoopThread("here"), LoopThread("there")
    try:
        receiving = asyncio.run_coroutine_threadsafe(receives(), here._loop)
        there.call(publishes(), timeout_seconds=10)
        assert receiving.result(10) == [b"%d" % number for number in range(count)]
    finally:
        here.close()
        there.close()


def test_a_partition_goes_from_a_member_of_one_loop_to_one_of_another() -> None:
    url = new_url("partitions=2&assign=yes")
    revoked: list[frozenset[int]] = []

    async def stays(joined: asyncio.Event) -> None:
        gone = asyncio.Event()

        async def on_revoked(partitions: frozenset[int]) -> None:
            revoked.append(partitions)
            gone.set()

        async with opened(url) as broker:
            await broker.subscribe("orders", group="g", prefetch=10, revoked=on_revoked)
            joined.set()
            await asyncio.wait_for(gone.wait(), 10)

    async def joins() -> None:
        async with opened(url) as broker:
            await broker.subscribe("orders", group="g", prefetch=10)

    here, there = LoopThread("here"), LoopThread("there")
    try:
        joined = asyncio.Event()
        staying = asyncio.run_coroutine_threadsafe(stays(joined), here._loop)
        here.call(joined.wait(), timeout_seconds=10)
        there.call(joins(), timeout_seconds=10)
        staying.result(10)
    finally:
        here.close()
        there.close()
    assert [len(partitions) for partitions in revoked] == [1]


def test_an_address_with_other_partitions_than_the_url_says_is_told() -> None:
    async def story() -> None:
        url = new_url("partitions=4")
        async with opened(url):
            with pytest.raises(WiringError, match=r"orders has 4 partitions and not 2"):
                async with opened(url.replace("4", "2")):
                    pass
            async with opened(url.partition("?")[0]):
                pass

    asyncio.run(story())


def test_a_revocation_that_fails_ends_the_subscription_and_the_partitions_go_on() -> None:
    async def fails(partitions: frozenset[int]) -> None:
        raise ValueError("no")

    async def story() -> None:
        async with opened(new_url("partitions=2&assign=yes")) as broker:
            first = await broker.subscribe("orders", group="g", prefetch=10, revoked=fails)
            second = await broker.subscribe("orders", group="g", prefetch=10)
            with pytest.raises(Unavailable, match="could not be finished"):
                await asyncio.wait_for(first.receive(1), 10)
            await first.close()
            messages = [Message(body=b"%d" % number, headers={}, key=f"k{number}") for number in range(20)]
            await broker.publish("orders", messages)
            assert sorted(await take(second, 20)) == sorted(one.body for one in messages)

    asyncio.run(story())


# ------------------------------------------------------------------------------------------------------- in simulation


class Packer:
    """An application that writes down, outside of itself, what it received and then accepts it."""

    def __init__(self, world: SimulatedWorld, broker: MemoryBroker) -> None:
        self._world = world
        self._broker = broker
        self.packed: list[str] = packed(world)

    async def order(self, *names: bytes) -> int:
        return len(await self._broker.publish("orders", list(map(message, names))))

    async def order_later(self, name: bytes, seconds: float) -> None:
        await self._broker.publish("orders", [message(name, delay_seconds=seconds)])

    async def packs(self) -> None:
        member = await self._broker.subscribe("orders", group="packer", prefetch=5)
        while True:
            received = await member.receive(3)
            self._world.failpoint("received")
            self.packed.extend(f"{one.where} {one.body.decode()}" for one in received)
            self._world.failpoint("packed")
            await member.accept(received)


def packed(world: SimulatedWorld) -> list[str]:
    return world.outside("packed", list[str])


@asynccontextmanager
async def packer(world: SimulatedWorld, _database: str) -> AsyncGenerator[Packer, None]:
    async with opened("memory:", world) as broker:
        application = Packer(world, broker)
        packing = world.spawn(application.packs(), name="packs")
        yield application
        packing.cancel()
        await asyncio.gather(packing, return_exceptions=True)


@simulate(packer, runs=20)
async def test_in_simulation_what_a_dead_process_held_comes_again_and_each_run_begins_empty(
    sim: Simulation[Packer],
) -> None:
    for number in range(8):
        await sim.app.order(b"%d" % number)
    await sim.run_until_quiet()
    first_times = list(dict.fromkeys(packed(sim.world)))
    # An order may be there twice, because its process died before it was told that it was there.
    assert [int(line.split()[2]) for line in first_times] == list(range(len(first_times)))
    assert list(dict.fromkeys(line.split()[3] for line in first_times)) == [str(number) for number in range(8)]


@simulate(packer, runs=5)
async def test_in_simulation_a_delay_is_one_of_virtual_time(sim: Simulation[Packer]) -> None:
    sim.calm()
    await sim.app.order_later(b"later", 3600.0)
    await sim.app.order(b"now")
    await sim.advance(timedelta(minutes=59))
    assert [line.split()[3] for line in packed(sim.world)] == ["now"]
    await sim.advance(timedelta(minutes=2))
    assert [line.split()[3] for line in packed(sim.world)] == ["now", "later"]
