"""What a simulated test holds in its hand: the application, time, and the power switch.

The test itself runs outside of every process, like a customer or an operator: it survives when the application dies.
A call of the application that dies before it answers is made again in the next life, with the same idempotency key,
so what the test publishes is published once.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from ensue.errors import OutcomeUnknown
from ensue.testing.simulation.loop import Stuck
from ensue.testing.simulation.nodes import Life, Node
from ensue.testing.simulation.process import Process
from ensue.testing.simulation.simulated import SimulatedWorld, Surroundings

__all__ = ["NotQuiet", "Quiet", "Simulation", "Start", "Started"]

A = TypeVar("A")
T = TypeVar("T")

Start = Callable[[SimulatedWorld, str], AbstractAsyncContextManager[A]]
"""Starts the application in a world, on the in-memory database of this name; leaving the context stops it in order."""
Quiet = Callable[[A], Awaitable[bool]]
"""Whether nothing is left to do for an application but to wait for its next input."""


ANSWERS_WITHIN = timedelta(days=1)
"""Of virtual time, for a call of the application by the test."""
STOPS_WITHIN = timedelta(hours=1)
LOOKS_EVERY = 1.0
"""Seconds of virtual time between two looks at whether the application is quiet, at most."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CALL_SHOWN = 100


class NotQuiet(Stuck):
    """The application still has work, and time does not help."""


class Simulation(Generic[A]):
    """The application in a world of virtual time, chance and faults. One tape decides all of it."""

    def __init__(self, surroundings: Surroundings, database: str, start: Start[A], quiet: Quiet[A] | None) -> None:
        self.surroundings = surroundings
        self.database = database
        self.world = SimulatedWorld(surroundings)
        """The test's own world. Its clock is the machine's; it never dies."""
        self.failed: asyncio.Future[None] = surroundings.loop.create_future()
        """Fails when a process ends with an error that is not its death."""
        self._start = start
        self._quiet = quiet
        self._nodes: list[Node[Any]] = []
        self._supervisors: dict[Node[Any], asyncio.Task[Any]] = {}
        self._keys = 0
        self._first = self.start_another()
        self.app = self._first.app
        """The application of the first process. Its methods run inside it, and again when it dies (see the module)."""

    @property
    def seed(self) -> int:
        """The seed of this run."""
        return self.surroundings.tape.seed

    def start_another(self) -> Started[A]:
        """Start the application in one more process, on the same database."""
        name = f"app{len(self._nodes) + 1}" if self._nodes else "app"

        async def main(life: Life) -> None:
            async with self._start(life.world, self.database) as application:
                node.is_up(life, application)
                await life.stop

        node = self._add(name, main)
        return Started(self, node)

    async def process(self, main: Callable[[SimulatedWorld, str], Awaitable[T]], *, name: str) -> T:
        """Run a program beside the application, again after each death, until a life of it ends; return its result."""

        async def live(life: Life) -> T:
            return await main(life.world, self.database)

        node = self._add(name, live)
        node.serves = False
        return cast(T, await self._supervisors[node])

    async def run_until_quiet(self, *, within: timedelta = timedelta(minutes=10)) -> None:
        """Let time pass until no process has anything left to do. Dead ones are started again first.

        `NotQuiet` after so much virtual time; retries with a long backoff may need more than the default.
        """
        loop = self.surroundings.loop
        began = loop.time()
        deadline = began + within.total_seconds()
        look_at = began
        while True:
            await loop.idle()
            if loop.time() >= look_at or not loop.has_timers():
                if await self._is_quiet():
                    return
                # Looking costs more than most instants do; the longer it takes, the less it matters to be late.
                look_at = loop.time() + min((loop.time() - began) / 8, LOOKS_EVERY)
            if loop.time() > deadline:
                raise NotQuiet(
                    f"The application is not quiet within {within} of virtual time (run_until_quiet(within=...) waits"
                    f" longer); these wait:\n{loop.waiting()}"
                )
            if not await loop.next_instant():
                raise NotQuiet(f"Nothing is left to run, but the application is not quiet:\n{loop.waiting()}")

    async def advance(self, duration: timedelta, /) -> None:
        """Let this much time pass, and all that is due in it happen."""
        await self.world.sleep(duration.total_seconds())
        await self.surroundings.loop.idle()

    def calm(self) -> None:
        """Nothing goes wrong any more, and everything is in order: to look at what it comes to by itself."""
        self.surroundings.tape.calm = True

    async def crash(self) -> None:
        """Kill the first process where it stands, and wait until its next life is up."""
        await self._first.crash()

    async def stop(self) -> None:
        """Stop all processes in order, and wait for them."""
        for node in self._nodes:
            node.stop()
        _, pending = await asyncio.wait(self._supervisors.values(), timeout=STOPS_WITHIN.total_seconds())
        if pending:
            raise Stuck(f"Not stopped after {STOPS_WITHIN} of virtual time:\n{self.surroundings.loop.waiting()}")
        for supervisor in self._supervisors.values():
            supervisor.result()

    def bury(self) -> None:
        """The run is over: end everything that is left, silently."""
        for process in self._processes():
            if not process.dead:
                self.surroundings.loop.abandon(process)
                process.dead = True
        for process in self._processes():
            process.bury()

    # --------------------------------------------------------------------------------------------------------- inside

    def _add(self, name: str, main: Callable[[Life], Any]) -> Node[Any]:
        node: Node[Any] = Node(self.surroundings, name, main)
        supervisor = self.world.spawn(node.run(), name=f"supervisor of {name}")
        supervisor.add_done_callback(self._supervised, context=Context())
        self._nodes.append(node)
        self._supervisors[node] = supervisor
        return node

    def _supervised(self, supervisor: asyncio.Task[Any]) -> None:
        if not supervisor.cancelled() and (error := supervisor.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def ended(self, node: Node[Any]) -> None:
        """Wait until a node has ended."""
        await self._supervisors[node]

    def _processes(self) -> Iterator[Process]:
        for node in self._nodes:
            yield from node.processes

    async def _is_quiet(self) -> bool:
        for node in self._nodes:
            life = node.life
            if node.stopping:
                continue
            if life is None or life.process.dead or life.process.paused:
                return False
            if self._quiet is not None and not await node.call(self._quiet, name="is quiet"):
                return False
        return self._quiet is not None or not self.surroundings.loop.has_timers()

    async def ask(self, node: Node[Any], name: str, method: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call a method of the application from outside: until it answers, under one idempotency key."""
        keyed = "idempotency_key" in _parameters(method)
        if keyed and options.get("idempotency_key") is None:
            self._keys += 1
            options["idempotency_key"] = f"simulation-{self._keys}"
        shown = ", ".join(_ADDRESS.sub("", repr(arg)) for arg in args)
        self.surroundings.tell("test", "calls", f"{name}({shown[:_CALL_SHOWN]})")

        async def call(application: Any) -> Any:
            return await getattr(application, name)(*args, **options)

        while True:
            limit = asyncio.timeout(ANSWERS_WITHIN.total_seconds())
            try:
                async with limit:
                    answer = await node.call(call, name=f"call of {name}")
            except OutcomeUnknown:
                if not keyed:
                    raise
                continue
            except TimeoutError as error:
                if not limit.expired():
                    raise
                waiting = self.surroundings.loop.waiting()
                raise Stuck(f"{name} has not answered within {ANSWERS_WITHIN}; these wait:\n{waiting}") from error
            if keyed and self.world.fault(f"{name} is repeated by the caller"):
                continue
            return answer


class Started(Generic[A]):
    """One process of the application, as the test holds it."""

    def __init__(self, simulation: Simulation[A], node: Node[Any]) -> None:
        self._simulation = simulation
        self._node = node
        self.app = cast(A, _Outside(simulation, node))

    async def crash(self) -> None:
        """Kill it where it stands, and wait until its next life is up."""
        life = await self._node.running()
        self._simulation.surroundings.kill(life.process, "killed by the test")
        await self._node.running()

    def pause(self, duration: timedelta, /) -> None:
        """It does nothing for so long, and then goes on as if no time had passed: a zombie, if its lease ran out."""
        if self._node.life is not None:
            self._simulation.surroundings.pause(self._node.life.process, duration.total_seconds())

    async def stop(self) -> None:
        """Stop it in order. It is not started again."""
        self._node.stop()
        await self._simulation.ended(self._node)

    async def call(self, function: Callable[[A], Awaitable[T]], /) -> T:
        """Run a function of the test inside the process; again, in the next life, if it dies before answering."""
        return cast(T, await self._node.call(function, name="call of the test"))


class _Outside:
    """The application as seen from outside its process: each use finds the life that is up at that moment."""

    def __init__(self, simulation: Simulation[Any], node: Node[Any]) -> None:
        self._simulation = simulation
        self._node = node

    def __getattr__(self, name: str) -> Any:
        life = self._node.life
        application = life.application if life is not None else None
        if application is None:
            return _Later(self._simulation, self._node, name)
        method = getattr(application, name)
        if inspect.iscoroutinefunction(method):
            return _Later(self._simulation, self._node, name)
        if callable(method) and life is not None:
            return _inside(life.process, method)
        return method


class _Later:
    """An asynchronous method of an application that may be down just now."""

    def __init__(self, simulation: Simulation[Any], node: Node[Any], name: str) -> None:
        self._simulation = simulation
        self._node = node
        self._name = name

    async def __call__(self, *args: Any, **options: Any) -> Any:
        life = await self._node.running()
        method = getattr(life.application, self._name)
        if not inspect.iscoroutinefunction(method):
            raise TypeError(f"{self._name} is not asynchronous; call it when the application is up")
        return await self._simulation.ask(self._node, self._name, method, args, options)


def _inside(process: Process, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that does not suspend runs on the stack of the test; the process cannot die under it."""

    def call(*args: Any, **options: Any) -> Any:
        process.mortal = False
        try:
            return process.context.copy().run(method, *args, **options)
        finally:
            process.mortal = True

    return call


def _parameters(method: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(method).parameters)
    except (TypeError, ValueError):
        return frozenset()
