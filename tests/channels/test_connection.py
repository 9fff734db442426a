"""One way back: a connection is opened again after a while that grows, and what an adapter does wrong holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ensue.channels.base import Broker
from ensue.channels.connection import CLOSE_SECONDS, Connection
from ensue.channels.urls import Place, place
from ensue.errors import AccessRefused, EnsueError, Unavailable
from ensue.observe.signals import ChannelConnected, ChannelLost, Signal
from ensue.testing.simulation import SimulatedWorld, SimulationLoop, Tape
from ensue.testing.simulation.simulated import Surroundings
from ensue.world import World
from tests.channels.doubles import Double


class Opening(Double):
    """Opens as a test says, and may never close."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.errors: list[Exception] = []
        self.closes = True

    async def open(self, world: World) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await super().open(world)

    async def close(self) -> None:
        await super().close()
        if not self.closes:
            await asyncio.Event().wait()


class Watched:
    """A connection in virtual time."""

    def __init__(self, world: SimulatedWorld, *errors: Exception, closes: bool = True) -> None:
        self.signals: list[Signal] = []
        self.made: list[float] = []
        left = list(errors)

        def make() -> Broker:
            self.made.append(world.monotonic())
            broker = Opening(place("memory://connection"))
            broker.errors, broker.closes = left, closes
            return broker

        self.connection = Connection(
            make, world, self.signals.append, consumer="test", channel="orders", address="orders"
        )


def in_virtual_time(story: Callable[[SimulatedWorld], Awaitable[None]]) -> float:
    """How many seconds it took, none of them real."""
    loop = SimulationLoop(Tape.boring())
    world = SimulatedWorld(Surroundings(Tape.boring(), loop))

    async def told() -> None:
        await story(world)

    try:
        loop.run_until_complete(told())
        return loop.time()
    finally:
        loop.close()


@pytest.mark.parametrize("error", [Unavailable("no"), KeyError("a bug of an adapter"), TimeoutError(), OSError("no")])
def test_attempts_to_connect_come_less_and_less_often_whatever_they_fail_by(error: Exception) -> None:
    async def story(world: SimulatedWorld) -> None:
        watched = Watched(world, *[error] * 30)
        await watched.connection.broker()
        assert len(watched.made) == 31
        pauses = [later - sooner for sooner, later in zip(watched.made, watched.made[1:], strict=False)]
        assert pauses[0] <= 0.1
        assert all(5.0 <= pause <= 10.0 for pause in pauses[8:])
        lost = [signal for signal in watched.signals if isinstance(signal, ChannelLost)]
        assert len(lost) == 30
        assert all(str(error) in signal.error for signal in lost)
        assert isinstance(watched.signals[-1], ChannelConnected)
        await watched.connection.close()

    in_virtual_time(story)


def test_a_broker_that_broke_twice_is_given_up_once() -> None:
    async def story(world: SimulatedWorld) -> None:
        watched = Watched(world)
        first = await watched.connection.broker()
        watched.connection.broke(first, Unavailable("the connection broke"))
        second = await watched.connection.broker()
        watched.connection.broke(first, Unavailable("the same, heard later"))
        assert await watched.connection.broker() is second
        await watched.connection.close()

    in_virtual_time(story)


def test_what_is_refused_is_raised_to_who_gives_a_limit_and_asked_again_once_a_minute() -> None:
    async def story(world: SimulatedWorld) -> None:
        watched = Watched(world, *[AccessRefused("not you")] * 3)
        with pytest.raises(AccessRefused):
            await watched.connection.broker(wait_seconds=30.0)
        await watched.connection.broker()
        pauses = [later - sooner for sooner, later in zip(watched.made, watched.made[1:], strict=False)]
        assert pauses[1:] == pytest.approx([60.0, 60.0])
        await watched.connection.close()

    in_virtual_time(story)


def test_an_adapter_that_never_closes_is_left_to_itself() -> None:
    async def story(world: SimulatedWorld) -> None:
        watched = Watched(world, closes=False)
        watched.connection.broke(await watched.connection.broker(), Unavailable("the connection broke"))
        await watched.connection.broker()
        await watched.connection.close()

    assert in_virtual_time(story) < 2 * CLOSE_SECONDS + 1.0


def test_who_waits_is_cancelled_without_a_trace_and_the_next_one_gets_a_connection() -> None:
    async def story(world: SimulatedWorld) -> None:
        error: EnsueError = Unavailable("no")
        watched = Watched(world, error, error)
        waiting = asyncio.ensure_future(watched.connection.broker())
        await world.sleep(0.05)
        waiting.cancel()
        assert isinstance(await watched.connection.broker(), Opening)
        await watched.connection.close()

    in_virtual_time(story)
