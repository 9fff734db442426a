"""Where a test of given, when and then runs: as pure functions, in memory, in simulation, on a real database.

pure        only deciders, states and answers: no log
memory      the log in memory, in virtual time
simulated   the real SQLite code on a database in memory, in virtual time. The default
crashes     the same again and again: the process dies at each step that it takes, one after another
sqlite      a file of its own, in real time
a URL       a schema of its own in that database: postgresql://…, in real time
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from ensue.app import App
from ensue.app.urls import open_store, shown
from ensue.domain import View
from ensue.domain.call import Principal
from ensue.domain.view import ViewDefinition
from ensue.errors import MissingCapability, Misuse, Refusal, WiringError
from ensue.events.message import Command, Event, Query
from ensue.events.recorded import Recorded
from ensue.events.registry import Registry
from ensue.store.base import DeadLetter, Store
from ensue.store.memory import MemoryStore
from ensue.testing.applications import AppSimulation, is_quiet, start
from ensue.testing.checking import NotDeterministic, checking
from ensue.testing.pure import History, NotPure
from ensue.testing.simulation import Choice, Setting, Simulation, Start, Tape, run
from ensue.testing.simulation.run import Outcome as RunOutcome
from ensue.testing.simulation.simulated import SimulatedWorld, ordinal
from ensue.testing.simulation.story import story_of
from ensue.world import RealWorld

__all__ = ["VARIABLE", "Happened", "Trial", "happenings"]

T = TypeVar("T")

VARIABLE = "ENSUE_TEST"
"""The environment variable that says where tests of given, when and then run: one place, or several with spaces between."""
DEFAULT = "simulated"
QUIET_WITHIN = timedelta(days=1)
"""Of virtual time, for all that an event or command causes, retries included."""
REAL_SECONDS = 30.0
"""The same on a real database, in real time."""
LOOK_SECONDS = 0.01


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One test: what has happened, and what is tried then."""

    app: App
    given: tuple[Event, ...]
    replace: tuple[Callable[..., object], ...]
    when: Event | Command[Any] | None = None
    query: Query[Any] | None = None
    principal: str | Principal | None = None
    rows: tuple[tuple[type[View], tuple[object, ...]], ...] = ()
    """Views and keys: what rows they have afterwards."""
    noticed: list[NotDeterministic] = []
    """What was found that is not deterministic, wherever that was."""


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial in one run. `where` says which, for a message."""

    where: str
    caused: list[Event]
    letters: list[DeadLetter]
    result: Any
    refusal: Refusal | None
    answer: Any
    rows: list[View | None]


def happenings(trial: Trial) -> list[Happened]:
    """Run a trial at each place that `ENSUE_TEST` names, where the application can run there; at one of them it must. Errors:
    what is raised in it that is no refusal; `WiringError` for no such place; `NotPure` and `MissingCapability`; `Misuse` in a loop."""
    if asyncio._get_running_loop() is not None:
        raise Misuse("given() runs a loop of its own: call it in a plain `def test_…`, not in an `async def`")
    found: list[Happened] = []
    unfit: Exception | None = None
    noticed: list[NotDeterministic] = []
    trial = msgspec.structs.replace(trial, noticed=noticed)
    for name in os.environ.get(VARIABLE, "").split() or [DEFAULT]:
        try:
            found += _place(name)(trial)
        except (NotPure, MissingCapability) as error:
            unfit = unfit or error
        finally:
            if noticed:
                raise noticed[0] from None
    if not found and unfit is not None:
        raise unfit
    return found


def _place(name: str) -> Callable[[Trial], list[Happened]]:
    simulated: dict[str, Callable[[Trial], list[Happened]]] = {
        "pure": _pure,
        "memory": _in_memory,
        "simulated": _simulated,
        "crashes": _with_crashes,
        "sqlite": _on_file,
    }
    if name in simulated:
        return simulated[name]
    if name.partition(":")[0] in ("postgresql", "postgres"):
        return lambda trial: _on_server(name, trial)
    raise WiringError(
        f"{VARIABLE} says {shown(name)}, which is no place for a test; those are: {', '.join(simulated)}, and postgresql://…"
    )


# --------------------------------------------------------------------------------------------------------------- pure


def _pure(trial: Trial) -> list[Happened]:
    registered = checking(_copy(trial.app), trial.noticed)._registered()
    history = History(registered, Registry())
    history.add(*trial.given)
    message, refusal, result, answer = trial.when, None, None, None
    caused: list[Event] = []
    try:
        if isinstance(message, Command):
            decision = history.decide(message)
            caused, result = list(decision.events), decision.result
        elif trial.query is not None:
            answer = history.answer(trial.query)
    except Refusal as raised:
        refusal = raised
    if isinstance(message, Event):
        history.add(message)
    _check_unhandled(trial, [*history.events, *caused])
    history.add(*caused)
    return [
        Happened(
            where="pure",
            caused=caused,
            letters=[],
            result=result,
            refusal=refusal,
            answer=answer,
            rows=[history.row(view, key) for view, key in trial.rows],
        )
    ]


def _check_unhandled(trial: Trial, events: list[Event]) -> None:
    """Errors: `NotPure` where a handler would do something about one of them."""
    for handler in trial.app.handlers:
        for event in events:
            if isinstance(event, handler.events):
                raise NotPure(
                    f"{handler.name} handles {type(event).__name__}: what it does is not a pure function. Run it in memory"
                )


def _copy(app: App) -> App:
    return _own_views(app.in_world(RealWorld(), MemoryStore()), live=True)


def _own_views(app: App, *, live: bool) -> App:
    """With its views where the test is: none in another database, and in memory where there is no database at all."""
    app._views = [
        msgspec.structs.replace(one, database=None, when="live" if live else one.when)
        if isinstance(one, ViewDefinition)
        else msgspec.structs.replace(one, database=None)
        for one in app._views
    ]
    return app


# ---------------------------------------------------------------------------------------------------------- with a log


class _Stage(Protocol):
    """An open application, as a trial holds it."""

    async def publish(self, *events: Event) -> None: ...
    async def send(self, command: Command[Any], principal: str | Principal | None) -> Any: ...
    async def call(self, function: Callable[[App], Awaitable[T]]) -> T: ...
    async def quiet(self) -> None: ...


async def _play(trial: Trial, stage: _Stage, where: str, *, begins: Callable[[], object] = lambda: None) -> Happened:
    """`begins` is called when what was given is done."""
    if trial.given:
        await stage.publish(*trial.given)
        await stage.quiet()
        if trial.when is not None:
            begins()
    known = len(await stage.call(_recorded))
    letters = {letter.id for letter in await stage.call(_letters)}
    result, refusal, answer = None, None, None
    try:
        if isinstance(trial.when, Command):
            result = await stage.send(trial.when, trial.principal)
        elif trial.when is not None:
            await stage.publish(trial.when)
            known += 1
        elif trial.query is not None:
            query = trial.query
            answer = await stage.call(lambda app: app.ask(query, principal=trial.principal))
    except Refusal as raised:
        refusal = raised
    await stage.quiet()
    caused = [recorded.event for recorded in (await stage.call(_recorded))[known:]]
    found = [letter for letter in await stage.call(_letters) if letter.id not in letters]
    return Happened(
        where=where,
        caused=caused,
        letters=found,
        result=result,
        refusal=refusal,
        answer=answer,
        rows=[await stage.call(partial(_row, view, key)) for view, key in trial.rows],
    )


async def _recorded(app: App) -> list[Recorded[Event]]:
    return [recorded async for recorded in app.log.read()]


async def _row(view: type[View], key: tuple[object, ...], app: App) -> View | None:
    return await app.get(view, *key)


async def _letters(app: App) -> list[DeadLetter]:
    return [letter async for letter in app.dead_letters.list()]


# ---------------------------------------------------------------------------------------------------------- simulation


class _Simulated:
    def __init__(self, sim: AppSimulation) -> None:
        self._sim = sim

    async def publish(self, *events: Event) -> None:
        await self._sim.app.publish(*events)

    async def send(self, command: Command[Any], principal: str | Principal | None) -> Any:
        return (await self._sim.app.send(command, principal=principal)).result

    async def call(self, function: Callable[[App], Awaitable[T]]) -> T:
        return await self._sim.inside(function)

    async def quiet(self) -> None:
        await self._sim.run_until_quiet(within=QUIET_WITHIN)


class _Simulation(Generic[T]):
    """A trial that can be run again and again, on tapes."""

    def __init__(self, trial: Trial, begin: Start[App]) -> None:
        self._trial = trial
        self._found: list[Happened] = []
        self._where = ""
        self.given = 0
        """How many failpoints were passed before what is tried."""
        self._setting = Setting(self._scenario, begin, quiet=is_quiet, simulation=AppSimulation)

    def run(self, tape: Tape, where: str) -> tuple[Happened, RunOutcome]:
        """Errors: what is raised in it."""
        self._where, self.given = where, 0
        outcome = run(self._setting, tape)
        if outcome.error is not None:
            raise outcome.error
        return self._found.pop(), outcome

    async def _scenario(self, sim: Simulation[App]) -> None:
        assert isinstance(sim, AppSimulation)

        def begins() -> None:
            self.given = len(sim.surroundings.failpoints)

        self._found.append(await _play(self._trial, _Simulated(sim), self._where, begins=begins))


_seeds = itertools.count()


def _starting(trial: Trial, store: Callable[[SimulatedWorld, str], Store] | None = None) -> Start[App]:
    begin = start(trial.app, replace=trial.replace, forget=False)

    def begin_checked(world: SimulatedWorld, name: str) -> App:
        app = begin(world, name)
        assert isinstance(app, App)
        if store is not None:
            app._given_store = store(world, name)
        return checking(_own_views(app, live=store is not None), trial.noticed)

    return begin_checked


def _simulated(trial: Trial) -> list[Happened]:
    happened, _ = _Simulation[Any](trial, _starting(trial)).run(Tape.boring(next(_seeds)), "in simulation")
    return [happened]


def _in_memory(trial: Trial) -> list[Happened]:
    begin = _starting(trial, lambda world, name: world.outside(name, MemoryStore))
    happened, _ = _Simulation[Any](trial, begin).run(Tape.boring(next(_seeds)), "in memory")
    return [happened]


def _with_crashes(trial: Trial) -> list[Happened]:
    simulation = _Simulation[Any](trial, _starting(trial))
    seed = next(_seeds)
    happened, boring = simulation.run(Tape.boring(seed), "in simulation")
    found = [happened]
    for nth, label in boring.failpoints[simulation.given :]:
        step = label.split("/", 2)[2]
        where = f"where the process dies at {step!r}, the {ordinal(nth + 1)} time it comes there"
        try:
            happened, outcome = simulation.run(Tape.replay(seed, [Choice(label, nth, 1)]), where)
        except Exception as error:
            error.add_note(where)
            raise
        story = "\n".join(f"  {line}" for line in story_of(outcome))
        found.append(msgspec.structs.replace(happened, where=f"{where}:\n{story}\n"))
    return found


# -------------------------------------------------------------------------------------------------- in the real world


class _Real:
    def __init__(self, app: App, world: RealWorld) -> None:
        self._app = app
        self._world = world

    async def publish(self, *events: Event) -> None:
        await self._app.publish(*events)

    async def send(self, command: Command[Any], principal: str | Principal | None) -> Any:
        return (await self._app.send(command, principal=principal)).result

    async def call(self, function: Callable[[App], Awaitable[T]]) -> T:
        return await function(self._app)

    async def quiet(self) -> None:
        deadline = self._world.monotonic() + REAL_SECONDS
        while not await is_quiet(self._app):
            if self._world.monotonic() > deadline:
                raise AssertionError(
                    f"what was given, or what came of it, is not done within {REAL_SECONDS:.0f} s of real time; a test with "
                    f"retries that take longer runs in virtual time: {VARIABLE}={DEFAULT}"
                )
            await self._world.sleep(LOOK_SECONDS)


def _on_file(trial: Trial) -> list[Happened]:
    with tempfile.TemporaryDirectory(prefix="ensue-test-") as folder:
        return [_in_real(trial, f"sqlite:///{quote(folder)}/test.db", "on SQLite")]


def _on_server(url: str, trial: Trial) -> list[Happened]:
    with _own_schema(url) as own:
        return [_in_real(trial, own, f"on {shown(url)}")]


def _in_real(trial: Trial, url: str, where: str) -> Happened:
    async def play() -> Happened:
        world = RealWorld()
        app = _own_views(trial.app.in_world(world, open_store(url), replace=trial.replace), live=False)
        checking(app, trial.noticed)
        async with app:
            return await _play(trial, _Real(app, world), where)

    return asyncio.run(play())


@contextlib.contextmanager
def _own_schema(url: str) -> Generator[str, None, None]:
    """A new schema in the database of this URL, and the URL that leads there. It is dropped at the end."""
    try:
        import psycopg
        from psycopg import sql
    except ModuleNotFoundError:
        raise WiringError(
            f"{VARIABLE}={shown(url)} needs a driver that is not installed: pip install 'ensue[postgresql]'"
        ) from None
    name = f"ensue_test_{RealWorld().new_id().hex()}"
    parts = urlsplit(url)
    settings = dict(parse_qsl(parts.query))
    settings["options"] = f"{settings.get('options', '')} -csearch_path={name}".strip()
    with _connected(psycopg, url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(parts._replace(query=urlencode(settings, quote_via=quote)))
        finally:
            connection.execute(sql.SQL("SET client_min_messages = warning"))
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@contextlib.contextmanager
def _connected(psycopg: Any, url: str) -> Generator[Any, None, None]:
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        yield connection
