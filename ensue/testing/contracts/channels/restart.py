"""What happens when the broker's server stops, is killed and comes back."""

from __future__ import annotations

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeAlias

import pytest

from ensue.channels.base import Received, Subscription
from ensue.errors import OutcomeUnknown, Unavailable
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered, received_by

__all__ = ["DurableBrokerContract", "RestartContract"]

End: TypeAlias = Callable[[], Awaitable[None]]
"""How the server ends."""


class RestartContract(ChannelContract):
    """A connection breaks for ever, everything that waits on it is told, and another one works.

    After each test the server is running again, whatever happened.
    """

    @abstractmethod
    async def stop_server(self) -> None:
        """Stop it in good order, and return when it has ended. Connections to it break."""

    @abstractmethod
    async def kill_server(self) -> None:
        """End it at once, as a loss of power of its machine would, and return when it has ended."""

    @abstractmethod
    async def start_server(self) -> None:
        """Start it at the same place with what it kept, and return when it answers. Nothing if it is running."""

    @channel_test
    async def test_all_that_waits_is_told_when_the_server_stops_and_another_connection_works_when_it_is_back(
        self, bench: Bench
    ) -> None:
        await self._breaks_and_comes_back(bench, self.stop_server)

    @channel_test
    async def test_all_that_waits_is_told_when_the_server_is_killed_and_another_connection_works_when_it_is_back(
        self, bench: Bench
    ) -> None:
        await self._breaks_and_comes_back(bench, self.kill_server)

    async def _breaks_and_comes_back(self, bench: Bench, end: End) -> None:
        publisher = await bench.another()
        subscription = await bench.subscription()
        await bench.publish(b"before", broker=publisher)
        received = await bench.take(subscription, 1)
        receiving = bench.start(received_by(subscription, 1))
        await bench.step(3)
        async with self._without_server(bench, end):
            bench.waits_for = "receive goes on waiting although there is no server"
            with pytest.raises(Unavailable):
                await receiving
            bench.waits_for = "publish does not return although there is no server"
            told = await publisher.publish(bench.address, [*map(bench.message, numbered(1, 5))])
            assert sorted(told) == list(range(5)), "it was confirmed by nobody"
            assert {type(error) for error in told.values()} <= {Unavailable, OutcomeUnknown}
            bench.waits_for = "open does not return although there is no server"
            broker = self.broker(connect_seconds="2")
            with pytest.raises(Unavailable):
                await broker.open(bench.world)
            await broker.close()
        await self._stays_broken(bench, subscription, received)
        await bench.reopen()
        group = bench.group("new") if bench.broker.capabilities.groups else None
        subscription = await bench.broker.subscribe(bench.address, group=group, start="now", prefetch=10)
        await bench.publish(*numbered(6, 10))
        assert bodies(await bench.take(subscription, 5, accept=True)) == numbered(6, 10)

    async def _stays_broken(self, bench: Bench, subscription: Subscription, received: Sequence[Received]) -> None:
        """Although the server is back: what its owner has to know it is told by every call."""
        bench.waits_for = "a call on a broken connection does not return"
        with pytest.raises(Unavailable):
            await subscription.receive(1)
        with pytest.raises(Unavailable):
            await subscription.accept(received)
        with pytest.raises(Unavailable):
            await bench.broker.declare(bench.address)
        with pytest.raises(Unavailable):
            await bench.subscription()
        told = await bench.told(bench.message(b"1"))
        assert isinstance(told[0], Unavailable | OutcomeUnknown)
        await subscription.close()
        await bench.broker.close()

    @contextlib.asynccontextmanager
    async def _without_server(self, bench: Bench, end: End) -> AsyncGenerator[None]:
        """How long a server takes to end and to start is no concern of the adapter's: it does not count."""
        async with bench.not_counted():
            await end()
        try:
            yield
        finally:
            async with bench.not_counted():
                await self.start_server()


class DurableBrokerContract(RestartContract):
    """What was confirmed survives a restart."""

    @channel_test
    async def test_what_was_confirmed_accepted_and_held_is_as_it_was_after_a_restart(self, bench: Bench) -> None:
        await self._survives(bench, self.stop_server)

    @channel_test
    async def test_what_was_confirmed_accepted_and_held_is_as_it_was_after_the_server_was_killed(
        self, bench: Bench
    ) -> None:
        await self._survives(bench, self.kill_server)

    async def _survives(self, bench: Bench, end: End) -> None:
        """One group has no member when the server ends, and one has a member that holds messages."""
        absent, present = await bench.member("absent", prefetch=10), await bench.member("present", prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(absent, 10)
        await absent.accept(received[:4])
        await absent.close()
        await bench.take(present, 10)
        await bench.publish(*numbered(11, 20))
        async with self._without_server(bench, end):
            pass
        await bench.reopen()
        await bench.publish(*numbered(21, 25))
        assert bodies(await bench.take(await bench.member("present"), 25)) == numbered(1, 25)
        absent = await bench.member("absent")
        assert bodies(await bench.take(absent, 21, accept=True)) == numbered(5, 25)
        await bench.nothing_waits(absent)

    @channel_test
    async def test_a_server_that_is_killed_while_it_is_published_to_loses_nothing_confirmed(self, bench: Bench) -> None:
        await (await bench.member()).close()
        confirmed: list[bytes] = []
        told: list[Exception] = []

        async def publishes() -> None:
            for first in itertools.count(0, 10):
                batch = numbered(first, first + 9)
                errors = await bench.told(*map(bench.message, batch))
                confirmed.extend(body for index, body in enumerate(batch) if index not in errors)
                if errors:
                    told.extend(errors.values())
                    return

        publishing = bench.start(publishes())
        await bench.until(lambda: len(confirmed) >= 100, "a hundred messages were confirmed")
        async with self._without_server(bench, self.kill_server):
            bench.waits_for = "publish does not return although the server was killed"
            await publishing
        assert {type(error) for error in told} <= {Unavailable, OutcomeUnknown}
        await bench.reopen()
        await bench.publish(b"-1")
        member = await bench.member()
        received: list[bytes] = []
        while b"-1" not in received:
            received += bodies(await bench.take(member, 1, accept=True))
        first_times = list(dict.fromkeys(received[:-1]))
        assert set(confirmed) <= set(first_times), "what was confirmed is gone"
        assert first_times == sorted(first_times, key=int)
