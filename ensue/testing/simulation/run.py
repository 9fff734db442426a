"""One run of a simulated test, from a fresh machine and an empty database to the verdict."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import apsw

from ensue.testing.simulation.loop import SimulationLoop, ordered_as_completed
from ensue.testing.simulation.process import PROCESS, Crashed, end
from ensue.testing.simulation.simulated import Entry, Surroundings
from ensue.testing.simulation.simulation import Quiet, Simulation, Start
from ensue.testing.simulation.tape import Tape

__all__ = ["Outcome", "Scenario", "Setting", "memory_database", "run"]

A = TypeVar("A")

Scenario = Callable[[Simulation[A]], Awaitable[None]]
"""The test: drives the application from outside, and checks."""

_open_databases: set[int] = set()
_MEMORY_FLAGS = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


class Setting(Generic[A]):
    """What is run: a scenario over an application. The same for all runs of one exploration."""

    def __init__(
        self,
        scenario: Scenario[A],
        start: Start[A],
        *,
        quiet: Quiet[A] | None = None,
        simulation: type[Simulation[A]] = Simulation,
        permuted: bool = True,
    ) -> None:
        self.scenario = scenario
        self.start = start
        self.quiet = quiet
        self.simulation = simulation
        self.permuted = permuted


class Outcome:
    """What a run came to. `error` is None if every check held."""

    def __init__(self, tape: Tape, surroundings: Surroundings, error: Exception | None) -> None:
        self.tape = tape
        self.error = error
        self.trace: list[Entry] = surroundings.trace
        self.failpoints = surroundings.failpoints
        self.steps = surroundings.loop.steps
        self.seconds = surroundings.loop.time()
        """Of virtual time."""


def memory_database(name: str) -> str:
    """The URI under which SQLite opens the shared in-memory database of this name (with `SQLITE_OPEN_URI`)."""
    return f"file:/{name}?vfs=memdb"


def run(setting: Setting[A], tape: Tape, *, on_step: Callable[[Any, str], None] | None = None) -> Outcome:
    """Run the scenario once, with the choices of `tape`."""
    loop = SimulationLoop(tape, permuted=setting.permuted)
    loop.on_step = on_step
    surroundings = Surroundings(tape, loop)
    error: Exception | None = None
    with _collector_at_rest(), ordered_as_completed(), _database() as name, _connections_die_with_their_process():
        simulation = setting.simulation(surroundings, name, setting.start, setting.quiet)
        try:
            loop.run_until_complete(_drive(simulation, setting.scenario))
            if loop.errors:
                raise loop.errors[0]
        except Crashed as crashed:
            error = RuntimeError(f"The test used something that belongs to a dead process: {crashed}")
        except Exception as raised:
            error = raised
        finally:
            _close(simulation, loop)
    tape.finish()
    return Outcome(tape, surroundings, error)


async def _drive(simulation: Simulation[A], scenario: Scenario[A]) -> None:
    async def test() -> None:
        await scenario(simulation)
        simulation.surroundings.over = True
        await simulation.stop()

    work = simulation.world.spawn(test(), name="test")
    await asyncio.wait({work, simulation.failed}, return_when=asyncio.FIRST_COMPLETED)
    if simulation.failed.done():
        simulation.failed.result()
    work.result()


def _close(simulation: Simulation[Any], loop: SimulationLoop) -> None:
    """End what is left: of the processes silently, of the test by closing its coroutines. Their cleanup may start tasks,
    which finds a loop and is ended in turn: a coroutine that nobody began complains when it is collected."""
    asyncio.events._set_running_loop(loop)
    try:
        simulation.bury()
        ended: set[asyncio.Task[Any]] = set()
        while left := sorted(asyncio.all_tasks(loop) - ended, key=hash):
            for task in left:
                end(task.get_coro())
            ended.update(left)
    finally:
        asyncio.events._set_running_loop(None)
    if simulation.failed.done():
        simulation.failed.exception()  # seen
    loop.close()


@contextmanager
def _database() -> Generator[str, None, None]:
    """An in-memory database that lives as long as the run. Names are used again, so that runs are alike."""
    number = next(number for number in itertools.count(1) if number not in _open_databases)
    _open_databases.add(number)
    name = f"simulation-{number}"
    keeper = apsw.Connection(memory_database(name), flags=_MEMORY_FLAGS)
    keys = apsw.Connection(memory_database(f"{name}-keys"), flags=_MEMORY_FLAGS)
    try:
        yield name
    finally:
        keeper.close()
        keys.close()
        _open_databases.discard(number)


@contextmanager
def _connections_die_with_their_process() -> Generator[None, None, None]:
    def connected(connection: apsw.Connection) -> None:
        process = PROCESS.get()
        if process is not None:
            process.owns(partial(connection.close, True))

    apsw.connection_hooks.append(connected)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(connected)


@contextmanager
def _collector_at_rest() -> Generator[None, None, None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
