"""What happens when the broker's server stops, is killed and comes back."""

from __future__ import annotations

import itertools
from abc import abstractmethod

import pytest

from ensue.errors import OutcomeUnknown, Unavailable
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered, received_by

__all__ = ["DurableBrokerContract", "RestartContract"]


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
    async def test_a_receive_that_waits_is_told_when_the_server_ends(self, bench: Bench) -> None:
        for end in (self.stop_server, self.kill_server):
            subscription = await bench.subscription()
            receiving = bench.start(received_by(subscription, 1))
            await bench.step(3)
            try:
                await end()
                bench.waits_for = "receive goes on waiting although there is no server"
                with pytest.raises(Unavailable):
                    await receiving
                await subscription.close()
                await bench.broker.close()
            finally:
                await self.start_server()
            await bench.reopen()

    @channel_test
    async def test_a_broken_connection_stays_broken_and_can_be_closed(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        try:
            await self.kill_server()
            with pytest.raises(Unavailable):
                await subscription.receive(1)
        finally:
            await self.start_server()
        with pytest.raises(Unavailable):
            await bench.broker.declare(bench.address)
        with pytest.raises(Unavailable):
            await bench.subscription()
        told = await bench.told(bench.message(b"1"))
        assert isinstance(told[0], Unavailable | OutcomeUnknown)
        await subscription.close()
        await bench.broker.close()

    @channel_test
    async def test_a_server_that_is_not_there_is_told_by_open(self, bench: Bench) -> None:
        try:
            await self.stop_server()
            broker = self.broker(connect_seconds="2")
            with pytest.raises(Unavailable):
                await broker.open(bench.world)
            await broker.close()
        finally:
            await self.start_server()

    @channel_test
    async def test_what_is_published_to_no_server_is_told_and_not_confirmed(self, bench: Bench) -> None:
        await bench.publish(b"before")
        try:
            await self.stop_server()
            bench.waits_for = "publish does not return although there is no server"
            told = await bench.told(*map(bench.message, numbered(1, 5)))
        finally:
            await self.start_server()
        assert {
            index: isinstance(told.get(index), Unavailable | OutcomeUnknown) for index in range(5)
        } == dict.fromkeys(range(5), True)

    @channel_test
    async def test_another_connection_works_when_the_server_is_back(self, bench: Bench) -> None:
        await bench.publish(b"before")
        for end in (self.stop_server, self.kill_server):
            try:
                await end()
            finally:
                await self.start_server()
            await bench.reopen()
            subscription = await bench.broker.subscribe(
                bench.address,
                group=bench.group(end.__name__) if bench.broker.capabilities.groups else None,
                start="now",
                prefetch=10,
            )
            await bench.publish(*numbered(1, 5))
            assert bodies(await bench.take(subscription, 5, accept=True)) == numbered(1, 5)


class DurableBrokerContract(RestartContract):
    """What was confirmed survives a restart."""

    @channel_test
    async def test_what_was_confirmed_comes_in_order_after_a_restart(self, bench: Bench) -> None:
        await self._over_restart(bench, "stop")

    @channel_test
    async def test_what_was_confirmed_comes_in_order_after_the_server_was_killed(self, bench: Bench) -> None:
        await self._over_restart(bench, "kill")

    async def _over_restart(self, bench: Bench, how: str) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 10))
        received = await bench.take(member, 10)
        await bench.publish(*numbered(11, 20))
        await member.accept(received[:4])
        await member.close()
        try:
            await (self.stop_server() if how == "stop" else self.kill_server())
        finally:
            await self.start_server()
        await bench.reopen()
        await bench.publish(*numbered(21, 25))
        member = await bench.member()
        assert bodies(await bench.take(member, 21, accept=True)) == numbered(5, 25)
        await bench.nothing_waits(member)

    @channel_test
    async def test_what_was_held_when_the_server_was_killed_comes_again_in_order(self, bench: Bench) -> None:
        member = await bench.member(prefetch=10)
        await bench.publish(*numbered(1, 20))
        await bench.take(member, 10)
        try:
            await self.kill_server()
        finally:
            await self.start_server()
        await bench.reopen()
        assert bodies(await bench.take(await bench.member(), 20)) == numbered(1, 20)

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
        try:
            await self.kill_server()
            bench.waits_for = "publish does not return although the server was killed"
            await publishing
        finally:
            await self.start_server()
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

    @channel_test
    async def test_groups_and_where_they_stand_survive_while_they_have_no_member(self, bench: Bench) -> None:
        for name in ("billing", "shipping"):
            member = await bench.member(name, start="now")
            await bench.publish(name.encode())
            await bench.take(member, 1, accept=True)
            await member.close()
        try:
            await self.kill_server()
        finally:
            await self.start_server()
        await bench.reopen()
        await bench.publish(b"last")
        assert bodies(await bench.take(await bench.member("billing"), 2)) == [b"shipping", b"last"]
        assert bodies(await bench.take(await bench.member("shipping"), 1)) == [b"last"]
