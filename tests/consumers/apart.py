"""Two applications beside each other in one simulation, each with a log of its own, joined by a broker in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec

import apsw

from ensue import App, Channel, Event, Recorded
from ensue.channels.memory import _Server
from ensue.store.base import Store
from ensue.store.sqlite import SqliteStore
from ensue.testing import AppSimulation
from ensue.testing.applications import is_quiet, start
from ensue.testing.simulation import SimulatedWorld, memory_database
from ensue.testing.simulation import simulate as simulate_program
from ensue.testing.simulation.explore import Crashes, SimulatedTest
from ensue.testing.simulation.simulated import Surroundings
from ensue.testing.simulation.simulation import Quiet, Start

__all__ = ["BROKER", "Apart", "Paid", "Placed", "back_of", "front_of", "nothing_left", "simulate_apart", "starts"]

P = ParamSpec("P")
StoreOf = Callable[[str], Store]
BROKER = "memory://apart"
PLACE = ((("apart", 0),), "")
"""What a broker in memory calls that URL."""


class Placed(Event, key="order"):
    order: str
    number: int


class Paid(Event, key="order"):
    order: str
    number: int


ORDERS = Channel("orders", Placed, Paid, url=BROKER)


def front_of(orders: Channel = ORDERS) -> App:
    """Places orders and hears what was paid."""
    return App("front", inbox=[orders], outbox=[orders])


def back_of(orders: Channel = ORDERS) -> App:
    """Pays what was placed."""
    app = App("back", inbox=[orders], outbox=[orders])

    @app.on
    async def pay(placed: Placed) -> Paid:
        return Paid(order=placed.order, number=placed.number)

    return app


class Apart(AppSimulation):
    """The process `app` is the first application, `app2` is the second, which has a database of its own."""

    def __init__(self, surroundings: Surroundings, database: str, start: Start[App], quiet: Quiet[App] | None) -> None:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        # It lasts as long as somebody has it open: longer than any process.
        self._keeper = apsw.Connection(memory_database(_second(database)), flags=flags)
        super().__init__(surroundings, database, start, quiet)
        self.back = self.start_another()

    def bury(self) -> None:
        super().bury()
        self._keeper.close()

    async def recorded_there(self) -> list[Recorded[Any]]:
        """Every event of the second application's log, in order."""

        async def read(app: App) -> list[Recorded[Any]]:
            return [recorded async for recorded in app.log.read(Event)]

        return await self.back.call(read)

    async def all_quiet(self) -> None:
        """Nothing is left to do in either, and nothing is on its way: looked at twice, because the one may have sent something
        to the other while that was looked at."""
        for _ in range(2):
            await self.run_until_quiet(within=timedelta(hours=2))

    async def logs_agree(self, expected: Sequence[tuple[str, int]]) -> None:
        """Each order and its payment is in both logs once, of each order in the sequence of its numbers; nothing is parked."""
        here, there = await self.recorded(), await self.recorded_there()
        for name, log in (("front", here), ("back", there)):
            ids = [recorded.id for recorded in log]
            assert len(ids) == len(set(ids)), f"{name} has an event twice"
            for kind in (Placed, Paid):
                of_order: dict[str, list[int]] = defaultdict(list)
                for recorded in log:
                    if type(recorded.event) is kind:
                        of_order[recorded.event.order].append(recorded.event.number)
                wanted: dict[str, list[int]] = defaultdict(list)
                for order, number in expected:
                    wanted[order].append(number)
                assert of_order == wanted, f"{kind.__name__} in {name}: {dict(of_order)}, not {dict(wanted)}"
        assert {recorded.id for recorded in here} == {recorded.id for recorded in there}
        letters = await self.dead_letters()
        assert not letters, f"parked: {letters[0].reason}"


def _second(database: str) -> str:
    return f"{database}-back"


def starts(front: App, back: App, *, store: StoreOf = SqliteStore) -> Start[App]:
    """How a life of either begins."""
    first, second = start(front, store=store), start(back, store=store)

    def begin(world: SimulatedWorld, database: str) -> AbstractAsyncContextManager[App]:
        assert world.process is not None
        return first(world, database) if world.process.name == "app" else second(world, _second(database))

    return begin


def nothing_left(*groups: str) -> Quiet[App]:
    """The application is quiet; these groups have come to the broker, nothing waits there, and nothing is held by a member."""

    async def quiet(app: App) -> bool:
        world: Any = app._given_world
        server: _Server = world.outside(("memory:", PLACE), _Server)
        known = {name: group for topic in server.topics.values() for name, group in topic._groups.items()}
        if not known.keys() >= set(groups):
            return False
        if any(group.waiting or any(member._held for member in group.members) for group in known.values()):
            return False
        return await is_quiet(app)

    return quiet


def simulate_apart(
    front: App,
    back: App,
    /,
    *,
    crashes: Crashes = "everywhere",
    runs: int = 0,
    pairs: int = 0,
    seed: int = 0,
    store: StoreOf = SqliteStore,
    groups: Sequence[str] = ("front", "back"),
) -> Callable[[Callable[Concatenate[Apart, P], Awaitable[None]]], SimulatedTest[P]]:
    """As `ensue.testing.simulate`, for two applications."""
    return simulate_program(
        starts(front, back, store=store),
        quiet=nothing_left(*groups),
        crashes=crashes,
        runs=runs,
        pairs=pairs,
        seed=seed,
        simulation=Apart,
    )
