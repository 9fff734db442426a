"""Places where a program runs, dies and is started again.

A `Node` is one place on the simulated machine: it starts a life of its program, waits until the life ends by itself or
dies, lets some time pass and starts the next. Several nodes live beside each other on one loop and one database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

from ensue.testing.simulation.process import Crashed, Process
from ensue.testing.simulation.simulated import SimulatedWorld, Surroundings

__all__ = ["LIVES_AT_MOST", "RESTARTS_AFTER", "Life", "Main", "Node", "finish"]

T = TypeVar("T")

LIVES_AT_MOST = 20
"""More deaths than faults were planned mean that the program dies of itself, each time it is started."""
RESTARTS_AFTER = 1.0
"""Seconds between a death and the next life: shorter than a lease, as a supervisor's restart is."""

Main = Callable[["Life"], Coroutine[Any, Any, T]]
"""The program of a node: runs in the process of the life it is given."""


class Life:
    """One run of a node's program, from start to end or death."""

    def __init__(self, process: Process, surroundings: Surroundings) -> None:
        self.process = process
        self.world = SimulatedWorld(surroundings, process)
        self.application: Any = None
        """What the program has published for the test to call, once it is up."""
        self.stop: asyncio.Future[None] = surroundings.loop.create_future()
        """Done when the program is asked to end."""


class Node(Generic[T]):
    """Runs `main` life after life until one ends without dying; `run` returns what that one returned."""

    def __init__(self, surroundings: Surroundings, name: str, main: Main[T]) -> None:
        self.name = name
        self.processes: list[Process] = []
        self.life: Life | None = None
        """The life that is up, if one is."""
        self.stopping = False
        self.serves = True
        """Whether it publishes an application and ends when it is asked to; any other program is killed at the end."""
        self._surroundings = surroundings
        self._main = main
        self._waiters: list[asyncio.Future[None]] = []

    async def run(self) -> T | None:
        """None if the last life died while the node was being stopped."""
        for number in range(1, LIVES_AT_MOST + 1):
            process = Process(self.name, number)
            self.processes.append(process)
            ended, result = await self._live(Life(process, self._surroundings))
            if ended:
                return result
            if self.stopping:
                return None
            await SimulatedWorld(self._surroundings).sleep(RESTARTS_AFTER)
        raise RuntimeError(f"{self.name} died {LIVES_AT_MOST} times and would not live")

    async def _live(self, life: Life) -> tuple[bool, T | None]:
        surroundings, process = self._surroundings, life.process
        surroundings.tell(process, "starts", "")
        work = life.world.spawn(self._main(life), name=f"{self.name}.main")
        over: asyncio.Future[None] = surroundings.loop.create_future()
        work.add_done_callback(partial(_finish_after, over), context=Context())
        process.when_dead(partial(finish, over))
        try:
            await over
        finally:
            self.life = None
        if process.dead:
            return False, None
        try:
            return True, work.result()
        except Crashed:
            return False, None

    def is_up(self, life: Life, application: Any) -> None:
        """Called by the program when it can be used."""
        life.application = application
        self.life = life
        if self.stopping:
            finish(life.stop)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            finish(waiter)

    async def running(self) -> Life:
        """Wait until a life is up."""
        while (life := self.life) is None or life.process.dead:
            if self.stopping:
                raise RuntimeError(f"{self.name} has been stopped")
            waiter: asyncio.Future[None] = self._surroundings.loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return life

    def stop(self) -> None:
        """Ask the program to end; a death while it does so is its end as well."""
        self.stopping = True
        if not self.serves and self.processes:
            self._surroundings.kill(self.processes[-1], "because the test is over")
        if self.life is not None:
            finish(self.life.stop)

    async def call(self, function: Callable[[Any], Awaitable[Any]], *, name: str) -> Any:
        """Await `function(application)` inside the process; when it dies before answering, again in the next life.

        The caller stands outside, as a customer does: it survives, and asks again.
        """
        loop = self._surroundings.loop
        while True:
            life = await self.running()
            answered: asyncio.Future[None] = loop.create_future()

            async def ask(application: Any = life.application) -> Any:
                return await function(application)

            task = life.world.spawn(ask(), name=name)
            task.add_done_callback(partial(_finish_after, answered), context=Context())
            life.process.when_dead(partial(finish, answered))
            try:
                await answered
            except asyncio.CancelledError:
                task.cancel()
                raise
            if not life.process.dead:
                return task.result()


def finish(future: asyncio.Future[None]) -> None:
    """Resolve a future that nobody may have waited for any more."""
    if not future.done():
        future.set_result(None)


def _finish_after(future: asyncio.Future[None], _task: asyncio.Task[Any]) -> None:
    finish(future)
