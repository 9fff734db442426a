"""Whole applications in simulation: on the real SQLite code, without a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from ensue.app import App
from ensue.consumers.waiting import Done, handled_numbers
from ensue.errors import HandlerFailed, NotCaughtUp
from ensue.events.message import Event
from ensue.events.recorded import Position, Recorded
from ensue.observe.signals import (
    AttemptFailed,
    ConsumerFailed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsLost,
    Signal,
)
from ensue.store.base import DeadLetter, LaneState, Store
from ensue.store.sqlite import SqliteStore
from ensue.testing.simulation import Simulation, Start, forgetful, memory_database
from ensue.testing.simulation import simulate as simulate_program
from ensue.testing.simulation.explore import Crashes, SimulatedTest
from ensue.testing.simulation.simulated import SimulatedWorld

__all__ = ["AppSimulation", "is_quiet", "simulate", "start"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")
P = ParamSpec("P")
StoreOf = Callable[[str], Store]


def start(
    app: App, *, replace: Iterable[Callable[..., object]] = (), store: StoreOf = SqliteStore, forget: bool = True
) -> Start[App]:
    """How a life of the application begins in simulation: on the shared in-memory database, with lost answers now and
    then. `store` makes the adapter from the database's URL."""
    replacements = tuple(replace)

    def begin(world: SimulatedWorld, name: str) -> App:
        adapter = store(memory_database(name))
        used = forgetful(adapter, world) if forget else adapter
        return app.in_world(world, used, replace=replacements, observe=partial(_tell, world))

    return begin


_TOLD = (AttemptFailed, ConsumerFailed, ConsumerStandsBy, ConsumerTripped, EventParked, HandlerStuck, SegmentsLost)


def _tell(world: SimulatedWorld, signal: Signal) -> None:
    """What an application says about itself when something is wrong belongs to the story, not to the log of the test."""
    if isinstance(signal, _TOLD):
        facts = ", ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(signal).items())
        world.surroundings.tell(world.process, "says", f"{type(signal).__name__}: {facts}"[:_SAID])


_SAID = 160


async def is_quiet(app: App) -> bool:
    """Every event is done by every consumer that handles it, and in the rows of every view, or waits behind a dead letter."""
    store = app.open_store()
    page = await store.read((), limit=100_000)
    for consumer in await store.consumers():
        if consumer.status == "retired":
            continue
        handles = await handled_numbers(store, consumer)
        standing = await store.standing(consumer.id)
        if any(lane.state != LaneState.PARKED for lane in standing.lanes):
            return False
        done = Done(consumer, standing, handles)
        if any(not done.done(row) and done.lane(row) is None for row in page.rows):
            return False
    return await _views_are_quiet(app)


async def _views_are_quiet(app: App) -> bool:
    """The rows of every view have all that is in the log, but for keys that wait behind a dead letter."""
    engine = app._open_engine()
    head = engine.store.head()
    end = Position.of(engine.store.log_id, max(head, 1), head)
    for view in engine.domain.registered.views:
        row: Any = view.row
        try:
            await engine.domain.views.caught_up(end, timeout_seconds=0.0, only=row)
        except NotCaughtUp:
            return False
        except HandlerFailed:
            continue
    return True


class AppSimulation(Simulation[App]):
    """An application in a world of virtual time, chance and faults. One seed decides all of it."""

    async def recorded(self) -> list[Recorded[Any]]:
        """Every event of the log, in order."""
        return await self.inside(_recorded)

    async def events(self, event: type[E], /) -> list[E]:
        """The events of a type, in order."""

        async def read(app: App) -> list[E]:
            return [recorded.event async for recorded in app.log.read(event)]

        return await self.inside(read)

    async def dead_letters(self) -> list[DeadLetter]:
        """The open ones, oldest first."""

        async def letters(app: App) -> list[DeadLetter]:
            return [letter async for letter in app.dead_letters.list()]

        return await self.inside(letters)

    async def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """A reading statement on the application's tables."""

        async def read(app: App) -> list[tuple[Any, ...]]:
            return app.sql(sql, *values)

        return await self.inside(read)

    async def inside(self, function: Callable[[App], Awaitable[T]], /) -> T:
        """Run a function inside the application's process: again in its next life, if it dies before answering."""
        return await self._first.call(function)


async def _recorded(app: App) -> list[Recorded[Any]]:
    found: list[Recorded[Any]] = []
    async for recorded in app.log.read(Event):
        found.append(recorded)
    return found


def simulate(
    app: App,
    /,
    *,
    replace: Iterable[Callable[..., object]] = (),
    crashes: Crashes = "everywhere",
    runs: int = 100,
    pairs: int = 200,
    seed: int = 0,
    store: StoreOf = SqliteStore,
) -> Callable[[Callable[Concatenate[AppSimulation, P], Awaitable[None]]], SimulatedTest[P]]:
    """Run the decorated test many times: without faults, with a crash at every step of the framework, with pairs of
    crashes (within the budget), and `runs` times by chance: delays, pauses, repeated calls, lost answers, clock jumps.

    A failure is made short and told as a story; the line it ends with repeats it.
    """
    return simulate_program(
        start(app, replace=replace, store=store),
        quiet=is_quiet,
        crashes=crashes,
        runs=runs,
        pairs=pairs,
        seed=seed,
        simulation=AppSimulation,
    )
