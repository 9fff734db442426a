"""The life of a subscription: it begins when it may, and ends whole before the next begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ensue.channels.base import Broker, Message, Received, Subscription
from ensue.channels.connection import Connection
from ensue.channels.memory import MemoryBroker
from ensue.channels.urls import place
from ensue.consumers.receiving import Receiving
from ensue.errors import Unavailable, WriterStopped
from ensue.testing.simulation import SimulatedWorld, SimulationLoop, Tape
from ensue.testing.simulation.simulated import Surroundings

END_SECONDS = 5.0


class Running:
    """Stands for the runner of a consumer."""

    def __init__(self) -> None:
        self.consumer = SimpleNamespace(name="inbox.orders")
        self.changed: Callable[[], None] = lambda: None
        self.receives = True
        self.fed: list[bool] = []

    def owns(self, segment: int) -> bool:
        return self.receives

    def feeding(self, segment: int, feeds: bool) -> None:
        self.fed.append(feeds)

    def may(self, receive: bool) -> None:
        self.receives = receive
        self.changed()


class Working:
    """Takes its time to end."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.error: BaseException | None = None
        self.story: list[str] = []
        self._world = world
        self._session: asyncio.Task[object] | None = None

    async def begin(self, broker: Broker, subscription: Subscription) -> None:
        self.error = None
        self._session = asyncio.current_task()
        self.story.append("begun")

    async def take(self, batch: Sequence[Received]) -> None:
        self.story.append("took")
        await asyncio.Event().wait()

    async def revoked(self, partitions: frozenset[int]) -> None: ...

    async def end(self) -> None:
        self.story.append("ending")
        await self._world.sleep(END_SECONDS)
        self.story.append("ended")

    def fail(self, error: BaseException) -> None:
        self.error = error
        assert self._session is not None
        self._session.cancel()


class Setting:
    def __init__(self, world: SimulatedWorld) -> None:
        def make() -> Broker:
            return MemoryBroker(place("memory://receiving"))

        self.world, self.runner, self.work = world, Running(), Working(world)
        quiet: Callable[[Any], None] = lambda signal: None  # noqa: E731
        connection = Connection(make, world, quiet, consumer="inbox.orders", channel="orders", address="orders")
        self.receiving = Receiving(
            self.work, self.runner, world, quiet, connection,  # type: ignore[arg-type]
            channel="orders", group="app", start="beginning", prefetch=10, assigns=False, wait_seconds=30.0,
        )  # fmt: skip
        self.connection = connection
        self.run = asyncio.ensure_future(self.receiving.run())

    async def stop(self) -> None:
        self.receiving.stop()
        await self.run
        await self.connection.close()

    async def publish(self) -> None:
        broker = await self.connection.broker()
        await broker.publish("orders", [Message(body=b"{}", headers={})])


def in_virtual_time(story: Callable[[Setting], Awaitable[None]]) -> None:
    loop = SimulationLoop(Tape.boring())
    world = SimulatedWorld(Surroundings(Tape.boring(), loop))

    async def told() -> None:
        await story(Setting(world))

    try:
        loop.run_until_complete(told())
    finally:
        loop.close()


def test_a_session_ends_whole_also_when_it_is_to_end_for_a_second_reason() -> None:
    async def story(setting: Setting) -> None:
        await setting.world.sleep(1.0)
        setting.work.fail(Unavailable("the connection broke"))
        await setting.world.sleep(1.0)
        setting.runner.may(False)
        await setting.world.sleep(1.0)
        setting.runner.may(True)
        await setting.world.sleep(10.0)
        assert setting.work.story == ["begun", "ending", "ended", "begun"]
        assert setting.runner.fed == [True, False, True]
        await setting.stop()

    in_virtual_time(story)


def test_it_stops_whole_when_whoever_runs_it_is_cancelled_and_cancelled_again() -> None:
    async def story(setting: Setting) -> None:
        await setting.world.sleep(1.0)
        for _ in range(3):
            setting.run.cancel()
            await setting.world.sleep(0.5)
        await asyncio.wait({setting.run}, timeout=60)
        await setting.world.sleep(END_SECONDS)
        assert setting.work.story == ["begun", "ending", "ended"]
        await setting.connection.close()

    in_virtual_time(story)


def test_an_error_of_the_store_is_raised_also_while_it_waits_for_room() -> None:
    async def story(setting: Setting) -> None:
        await setting.publish()
        await setting.world.sleep(1.0)
        assert setting.work.story == ["begun", "took"]
        setting.work.fail(WriterStopped("nothing is written any more"))
        with pytest.raises(WriterStopped):
            await setting.run
        await setting.connection.close()

    in_virtual_time(story)
