"""Which events a consumer gets, from where on, and what its name and its key mean from one deployment to the next."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ensue import ONE_ORDER, App, Event, Position
from ensue.consumers.handler import Start
from ensue.errors import WiringError
from ensue.store.memory import MemoryStore
from ensue.testing import AppSimulation, simulate
from ensue.testing.applications import is_quiet
from ensue.world import RealWorld
from tests.consumers.clocks import Rang, Ticked, rung, tick, ticks


class Struck(Ticked):
    """A special tick."""


class Wound(Event, key="clock_id"):
    clock_id: str


heard: list[str] = []
selecting = App("selecting")


@selecting.on
async def hear_ticks(event: Ticked) -> None:
    heard.append(f"tick {type(event).__name__}")


@selecting.on
async def hear_either(event: Struck | Wound) -> None:
    heard.append(f"either {type(event).__name__}")


@simulate(selecting, crashes="none", runs=0)
async def test_a_handler_gets_the_types_it_names_and_their_subclasses(sim: AppSimulation) -> None:
    heard.clear()
    await sim.app.publish(tick(1), Struck(clock_id="b", number=2), Wound(clock_id="c"), Rang(clock_id="d", number=3))
    await sim.run_until_quiet()
    assert sorted(heard) == ["either Struck", "either Wound", "tick Struck", "tick Ticked"]


# -------------------------------------------------------------------------------------------- from one deployment on


def ringing(start: Start | None = None, *, name: str = "ring", key: str | None = None) -> App:
    app = App("ringing")

    @app.on(name=name, start=start, key=key)
    async def ring(event: Ticked) -> Rang:
        return Rang(clock_id=event.clock_id, number=event.number)

    return app


class Deployments:
    """One log, and one version of the application after another on it."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    async def ring(self, app: App, *numbers: int) -> list[int]:
        """Run this version, let it handle what it should, and return all that rang so far."""
        async with app.in_world(RealWorld(), self.store) as running:
            for number in numbers:
                await running.publish(tick(number))
            async with asyncio.timeout(10):
                while app.handlers and not await is_quiet(running):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            return await _rung(running)


def test_a_new_consumer_begins_at_the_beginning_now_or_a_time() -> None:
    async def begun(start: Start | None) -> list[int]:
        deployments = Deployments()
        await deployments.ring(App("ringing"), 1)
        between = datetime.now(UTC)
        await deployments.ring(App("ringing"), 2)
        return await deployments.ring(ringing(start or between), 3)

    assert asyncio.run(begun("beginning")) == [1, 2, 3]
    assert asyncio.run(begun("now")) == [3]
    assert asyncio.run(begun(None)) == [2, 3]


def test_a_new_consumer_begins_at_a_position_of_its_log() -> None:
    async def begun() -> list[int]:
        deployments = Deployments()
        await deployments.ring(App("ringing"), 1, 2)
        return await deployments.ring(ringing(Position.of(deployments.store.log_id, 1, 1)), 3)

    assert asyncio.run(begun()) == [2, 3]


def test_where_a_consumer_begins_is_decided_once() -> None:
    async def begun() -> list[int]:
        deployments = Deployments()
        await deployments.ring(ringing("now"), 1)
        await deployments.ring(App("ringing"), 2)
        return await deployments.ring(ringing("now"), 3)

    assert asyncio.run(begun()) == [1, 2, 3]


def test_a_new_consumer_on_an_old_log_must_say_where_it_begins() -> None:
    async def deploy() -> None:
        deployments = Deployments()
        await deployments.ring(App("ringing"), 1)
        await deployments.ring(ringing())

    with pytest.raises(WiringError, match=r"'ring' is new, and the log already holds events it handles.*start="):
        asyncio.run(deploy())


def test_a_renamed_handler_is_refused_with_the_name_that_keeps_its_progress() -> None:
    async def deploy() -> None:
        deployments = Deployments()
        await deployments.ring(ringing(name="ring"), 1)
        await deployments.ring(ringing(name="ring_loudly"))

    with pytest.raises(WiringError, match=r"keep its progress with name='ring'"):
        asyncio.run(deploy())


def test_another_key_under_the_same_name_is_refused() -> None:
    async def deploy(key: str) -> None:
        deployments = Deployments()
        await deployments.ring(ringing(), 1)
        await deployments.ring(ringing(key=key))

    with pytest.raises(WiringError, match="by their own key in this log, and by 'room_id' in the code"):
        asyncio.run(deploy("room_id"))
    with pytest.raises(WiringError, match="and by one order for all in the code"):
        asyncio.run(deploy(ONE_ORDER))


# --------------------------------------------------------------------------------------------------- rolling deploys


def both(start: Start | None = None) -> App:
    """The newer version of `ringing`: its handler knows one more type."""
    app = App("ringing")

    @app.on(name="ring", start=start)
    async def ring(event: Ticked | Wound) -> Rang:
        return Rang(clock_id=event.clock_id, number=event.number if isinstance(event, Ticked) else 0)

    return app


def test_code_that_lacks_a_type_its_consumer_handles_stands_by_and_leaves_it_to_newer_code() -> None:
    async def deploy() -> list[int]:
        deployments = Deployments()
        await deployments.ring(both(), 1)
        async with ringing().in_world(RealWorld(), deployments.store) as old:
            await old.publish(Wound(clock_id="a"))
            await asyncio.sleep(0)
            assert await _rung(old) == [1]
            standing = await deployments.store.standing(1)
            assert all(row.owner is None for row in standing.progress)
        return await deployments.ring(both(), 2)

    assert asyncio.run(deploy()) == [1, 0, 2]


def test_a_type_that_a_handler_learns_is_handled_from_then_on() -> None:
    async def deploy() -> list[int]:
        deployments = Deployments()
        async with ringing().in_world(RealWorld(), deployments.store) as old:
            await old.publish(Wound(clock_id="a"))
        return await deployments.ring(both(), 2)

    assert asyncio.run(deploy()) == [2]


@simulate(ringing(), crashes="none", runs=20)
async def test_two_processes_on_one_log_take_turns_and_never_double(sim: AppSimulation) -> None:
    other = sim.start_another()
    for number in range(1, 4):
        await sim.app.publish(tick(number, f"clock-{number}"))
        await other.app.publish(tick(number + 3, f"clock-{number + 3}"))
    await sim.run_until_quiet()
    assert sorted(await rung(sim)) == [1, 2, 3, 4, 5, 6]


@simulate(ringing(), crashes="none", runs=0)
async def test_a_released_consumer_is_taken_over_at_once(sim: AppSimulation) -> None:
    other = sim.start_another()
    await sim.run_until_quiet()
    await sim._first.stop()
    began = sim.world.monotonic()
    await other.app.publish(tick(1))
    await sim.run_until_quiet()
    rang = await other.call(_rung)
    assert rang == [1]
    assert sim.world.monotonic() - began < 2


@simulate(ringing(), crashes="none", runs=0)
async def test_a_dead_owner_s_consumer_is_taken_over_when_its_lease_ends(sim: AppSimulation) -> None:
    owner = sim.start_another()
    await sim.run_until_quiet()
    owner.pause(timedelta(minutes=10))
    began = sim.world.monotonic()
    receipt = await sim.app.publish(*ticks(8, "abcdefgh"))
    await receipt.wait()
    assert 5 < sim.world.monotonic() - began < 15, "some of the clocks belong to the process that is paused"
    assert await rung(sim) == [1] * 8


async def _rung(app: App) -> list[int]:
    return [recorded.event.number async for recorded in app.log.read(Rang)]
