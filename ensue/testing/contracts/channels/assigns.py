"""What brokers promise that assign partitions: several members of a group keep the order of each key."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from ensue.channels.base import Broker, Received, Subscription
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered

__all__ = ["AssignsContract"]

KEYS = 24


class AssignsContract(ChannelContract):
    """The adapter's `broker()` makes addresses of at least 4 partitions."""

    slow_seconds = 3.0
    """How long a member does not call `receive`. A test's server, or its URL, should have a shorter patience than this with
    members of which it does not hear, if that can be set."""

    @channel_test
    async def test_all_messages_of_a_key_are_in_one_partition_and_keys_are_spread(self, bench: Bench) -> None:
        member = await bench.member()
        keys = [f"key-{number % KEYS}" for number in range(3 * KEYS)]
        await bench.publish(*(bench.message(key.encode(), key=key) for key in keys))
        partitions: dict[bytes, set[int]] = defaultdict(set)
        for received in await bench.take(member, 3 * KEYS):
            partitions[received.body].add(received.partition)
        assert all(len(of_key) == 1 for of_key in partitions.values())
        assert len(set[int]().union(*partitions.values())) > 1

    @channel_test
    async def test_members_have_partitions_of_their_own(self, bench: Bench) -> None:
        shop = _Workers(bench)
        first, second = await shop.join(), await shop.join(await bench.another())
        await shop.publish_until(lambda: bool(first.partitions and second.partitions), "both members have partitions")
        await shop.all_handled()
        first.partitions.clear()
        second.partitions.clear()
        await shop.publish_until(lambda: bool(first.partitions and second.partitions), "both members have partitions")
        await shop.all_handled()
        assert first.partitions.isdisjoint(second.partitions)

    @channel_test
    async def test_partitions_go_to_a_member_that_joins_after_what_was_received_of_them_is_finished(
        self, bench: Bench
    ) -> None:
        shop = _Workers(bench)
        first = await shop.join()
        await shop.publish_until(lambda: len(first.partitions) > 1, "the first member has partitions")
        await shop.all_handled()
        first.may_handle.clear()
        await shop.publish(1)
        await bench.until(lambda: first.holds == KEYS, "the first member holds a message of each key")
        second = await shop.join(await bench.another())
        await bench.until(lambda: bool(first.asked), "the first member was asked to finish what goes to the second")
        first.may_handle.set()
        await shop.publish_until(lambda: bool(second.partitions), "the second member has partitions")
        await shop.all_handled()
        assert not shop.doubles()
        assert not shop.out_of_order()

    @channel_test
    async def test_the_partitions_of_a_member_that_leaves_go_to_those_that_stay(self, bench: Bench) -> None:
        shop = _Workers(bench)
        first, second = await shop.join(), await shop.join(await bench.another())
        await shop.publish_until(lambda: bool(first.partitions and second.partitions), "both members have partitions")
        await second.leave()
        await shop.publish(3)
        await shop.all_handled()
        assert not shop.out_of_order()

    @channel_test
    async def test_members_come_and_go_and_nothing_is_lost_and_each_key_keeps_its_order(self, bench: Bench) -> None:
        shop = _Workers(bench)
        await shop.join()
        publishing = bench.start(shop.publish(60))
        for _ in range(3):
            passing = await shop.join(await bench.another())
            await bench.until(lambda passing=passing: bool(passing.partitions) or publishing.done(), "it has its share")  # type: ignore[misc]
            await passing.leave()
        await publishing
        await shop.all_handled()
        assert not shop.out_of_order()

    @channel_test
    async def test_a_partition_that_is_revoked_is_not_received_any_more(self, bench: Bench) -> None:
        """Else what was received after the handler of `revoked` had finished would be handled twice at once."""
        shop = _Workers(bench)
        first = await shop.join()
        await shop.publish_until(lambda: len(first.partitions) > 1, "the first member has partitions")
        second = await shop.join(await bench.another())
        await shop.publish_until(lambda: bool(second.partitions), "the second member has partitions")
        first.partitions.clear()
        await shop.publish(3)
        await shop.all_handled()
        assert first.asked, "partitions went without a word to the one that had them"
        assert first.partitions.isdisjoint(first.asked[-1])

    @channel_test
    async def test_a_member_that_is_slow_keeps_its_place(self, bench: Bench) -> None:
        revoked: list[frozenset[int]] = []

        async def on_revoked(partitions: frozenset[int]) -> None:
            revoked.append(partitions)

        member = await bench.member(prefetch=5, revoked=on_revoked)
        await bench.publish(*numbered(1, 10))
        held = await bench.take(member, 5)
        await bench.world.sleep(self.slow_seconds)
        assert not revoked
        await member.accept(held)
        assert bodies(await bench.take(member, 5, accept=True)) == numbered(6, 10)
        await member.close()
        await bench.nothing_waits(await bench.member())


class _Worker:
    """A member that handles one message after another, and receives more while it does."""

    def __init__(self, shop: _Workers, bench: Bench) -> None:
        self.partitions: set[int] = set()
        """Of what it handled."""
        self.asked: list[frozenset[int]] = []
        """What it was to finish, each time."""
        self.may_handle = asyncio.Event()
        self.may_handle.set()
        self._shop = shop
        self._bench = bench
        self._held: list[Received] = []
        self._changed = asyncio.Condition()

    @property
    def holds(self) -> int:
        """How many messages it has received and not handled."""
        return len(self._held)

    async def join(self, broker: Broker) -> None:
        self._member: Subscription = await self._bench.member(broker=broker, prefetch=50, revoked=self._finish)
        self._tasks = [self._bench.start(self._receive()), self._bench.start(self._handle())]

    async def leave(self) -> None:
        """Stop at once: what it holds comes again to another."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._member.close()

    async def _receive(self) -> None:
        while True:
            received = await self._member.receive(20)
            async with self._changed:
                self._held += received
                self._changed.notify_all()

    async def _handle(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._held))
                received = self._held[0]
            await self.may_handle.wait()
            await self._bench.step(3)
            # No cancelling between these: what is handled twice is to be the broker's doing.
            self.partitions.add(received.partition)
            self._shop.handled.append(received.body)
            await self._member.accept([received])
            async with self._changed:
                self._held.remove(received)
                self._changed.notify_all()

    async def _finish(self, partitions: frozenset[int]) -> None:
        self.asked.append(partitions)
        async with self._changed:
            await self._changed.wait_for(lambda: not any(held.partition in partitions for held in self._held))


class _Workers:
    """Members of one group, and everything that they handled."""

    def __init__(self, bench: Bench) -> None:
        self.handled: list[bytes] = []
        """`key number`, in the order in which it happened, over all members."""
        self._bench = bench
        self._rounds = 0
        self._workers: list[_Worker] = []

    async def join(self, broker: Broker | None = None) -> _Worker:
        worker = _Worker(self, self._bench)
        await worker.join(broker or self._bench.broker)
        self._workers.append(worker)
        return worker

    async def publish(self, rounds: int) -> None:
        """One message of each key, so often."""
        for _ in range(rounds):
            self._rounds += 1
            names = [f"key-{number}" for number in range(KEYS)]
            batch = [self._bench.message(f"{name} {self._rounds}".encode(), key=name) for name in names]
            await self._bench.publish(*batch)

    async def publish_until(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            await self.publish(1)
            self._bench.waits_for = f"waited until {what}"
            await self._bench.world.sleep(0.01)

    async def all_handled(self) -> None:
        count = KEYS * self._rounds
        await self._bench.until(lambda: len(set(self.handled)) == count, f"all of {count} were handled")

    def doubles(self) -> list[bytes]:
        seen: set[bytes] = set()
        return [body for body in self.handled if body in seen or seen.add(body)]  # type: ignore[func-returns-value]

    def out_of_order(self) -> list[bytes]:
        """What was handled for the first time behind a later one of its key."""
        last: dict[bytes, int] = {}
        wrong: list[bytes] = []
        for body in dict.fromkeys(self.handled):
            key, _, number = body.partition(b" ")
            if int(number) <= last.get(key, 0):
                wrong.append(body)
            last[key] = int(number)
        return wrong
