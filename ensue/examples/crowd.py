"""Many clients in several processes, some of which are killed: what the demos of the bank and of the school put their rules to.

What a client does as its n-th act follows from the seed, the client and n alone, and so does its idempotency key. A process that is
started again goes on behind the last act of each client whose answer was heard: the one whose answer got lost is sent once more.
Each act whose number is a multiple of `REPEATED` is sent twice in any case, and must be answered alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import msgspec

from ensue import App, Command, Refusal
from ensue.errors import TryAgain
from ensue.world import RealWorld, World

__all__ = ["DIFFERS", "GRANTED", "Answer", "Clients", "Crowd", "Looking", "Settings", "client_key", "on_a_log"]

REPEATED = 7
REST_SECONDS = 0.01
"""Before an act is sent again that met too many others, or a database that was away."""
LOOK_SECONDS = 0.25
GRANTED, DIFFERS = "granted", "differs"


class Clients(Protocol):
    """A module of clients: which application, and what they do."""

    def application(self, url: str) -> App: ...
    def act(self, seed: int, client: int, number: int) -> Command[Any] | None:
        """None: this client has nothing left to do."""
        ...


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how many, how often."""

    url: str
    seconds: float
    clients: int = 64
    processes: int = 2
    kills: int = 5
    seed: int = 1


class Looking(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown while they work. `counted` is what whoever counts the log says of it, `problems` how many there are."""

    seconds: float
    answered: int
    refused: int
    kills: int
    counted: str
    problems: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """One act, and how it was answered: `granted`, or the name of the refusal."""

    client: int
    number: int
    outcome: str


class _Assignment(msgspec.Struct, frozen=True):
    """What a process is told: each of its clients, and the number of its first act."""

    module: str
    url: str
    seed: int
    first: dict[int, int]


def client_key(seed: int, client: int, number: int) -> str:
    """The idempotency key of an act."""
    return f"{seed}/{client}/{number}"


def on_a_log(settings: Settings, head: int) -> Settings:
    """The settings for a log that has so many events: what is done on one that was used before is something else, under other keys."""
    return msgspec.structs.replace(settings, seed=settings.seed + head)


class _Process:
    """One process of clients, while it runs."""

    def __init__(self, clients: list[int], process: asyncio.subprocess.Process) -> None:
        self.clients = clients
        self.process = process
        self.stopping = False


class Crowd:
    """The clients, as the one who looks on holds them: `async with` starts them; they stop, each behind an act, when it ends.

    `answers` has what was heard, by client and number of the act. Errors: `RuntimeError` for a process that ends by itself.
    """

    def __init__(self, module: str, settings: Settings, world: World) -> None:
        self.answers: dict[tuple[int, int], str] = {}
        self.outcomes: Counter[str] = Counter()
        self.kills = 0
        self._module, self._settings, self._world = module, settings, world
        clients = range(settings.clients)
        self._groups = [list(clients[first :: settings.processes]) for first in range(settings.processes)]
        self._next = dict.fromkeys(clients, 1)
        self._running: list[_Process] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> Crowd:
        for number, clients in enumerate(self._groups):
            self._tasks.append(self._world.spawn(self._keep(clients), name=f"clients {number}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        for one in self._running:
            self._tell_to_stop(one)
        try:
            await asyncio.gather(*self._tasks)
        finally:
            for one in self._running:
                with contextlib.suppress(ProcessLookupError):
                    one.process.kill()

    @property
    def running(self) -> bool:
        """Whether any client has something left to do."""
        return not all(task.done() for task in self._tasks)

    @property
    def refused(self) -> dict[str, int]:
        """How often each refusal was heard."""
        return {name: count for name, count in sorted(self.outcomes.items()) if name != GRANTED}

    @property
    def differing(self) -> list[tuple[int, int]]:
        """The acts, by client and number, that were answered in two ways when they were sent twice."""
        return [act for act, outcome in self.answers.items() if outcome == DIFFERS]

    async def look_on(
        self, stop: asyncio.Event, show: Callable[[Looking], None], count: Callable[[], Awaitable[tuple[str, int]]]
    ) -> None:
        """Let them work for as long as was said, until `stop`, or until they have nothing left to do. `count` counts the log
        meanwhile, and says what it has found and how many problems. Processes are killed by chance, as often as was said."""
        world, settings = self._world, self._settings
        began = world.monotonic()
        kills = sorted(settings.seconds * (0.1 + 0.8 * world.random()) for _ in range(settings.kills))
        while (passed := world.monotonic() - began) < settings.seconds and self.running and not stop.is_set():
            while kills and kills[0] <= passed:
                kills.pop(0)
                self.kill()
            try:
                counted, problems = await count()
            except TryAgain:  # the database is away: what is in it is counted when it is back
                await world.sleep(LOOK_SECONDS)
                continue
            show(
                Looking(
                    seconds=passed,
                    answered=len(self.answers),
                    refused=sum(self.refused.values()),
                    kills=self.kills,
                    counted=counted,
                    problems=problems,
                )
            )
            await world.sleep(max(0.0, min(LOOK_SECONDS, settings.seconds - passed)))

    def kill(self) -> None:
        """Kill one process, by chance. It is started again."""
        alive = [one for one in self._running if not one.stopping]
        if alive:
            chosen = alive[int(self._world.random() * len(alive))]
            with contextlib.suppress(ProcessLookupError):
                chosen.process.send_signal(signal.SIGKILL)
                self.kills += 1

    async def _keep(self, clients: list[int]) -> None:
        """These clients, in process after process: also when all are to stop, until each has heard its last answer."""
        while await self._live(clients):
            pass

    async def _live(self, clients: list[int]) -> bool:
        """One process; whether another one is to follow."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the one who looks on
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assignment = _Assignment(
            self._module, self._settings.url, self._settings.seed, {one: self._next[one] for one in clients}
        )
        one = _Process(clients, process)
        self._running.append(one)
        try:
            process.stdin.write(msgspec.json.encode(assignment) + b"\n")
            if self._stopping:
                self._tell_to_stop(one)
            async for line in process.stdout:
                if line.endswith(b"\n"):  # the last one of a process that was killed may be cut
                    self._hear(msgspec.json.decode(line, type=Answer))
            code = await process.wait()
        finally:
            self._running.remove(one)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"a process of clients ended by itself, with code {code}")
        return code != 0

    def _hear(self, answer: Answer) -> None:
        self.answers[answer.client, answer.number] = answer.outcome
        self.outcomes[answer.outcome] += 1
        self._next[answer.client] = answer.number + 1

    @staticmethod
    def _tell_to_stop(one: _Process) -> None:
        one.stopping = True
        if one.process.stdin is not None:
            one.process.stdin.close()


# ------------------------------------------------------------------------------------------------------- in a process


class _Acting:
    def __init__(self, assignment: _Assignment, clients: Clients, app: App, world: World) -> None:
        self._assignment = assignment
        self._clients = clients
        self._app = app
        self._world = world
        self._stopping = False

    async def run(self) -> None:
        work = [
            self._world.spawn(self._client(client, first), name=f"client {client}")
            for client, first in self._assignment.first.items()
        ]
        stopped = self._world.spawn(self._until_told(), name="told to stop")
        await asyncio.gather(*work)
        stopped.cancel()

    async def _until_told(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), told.set)
        await told.wait()
        loop.remove_reader(sys.stdin.fileno())
        self._stopping = True

    async def _client(self, client: int, number: int) -> None:
        while True:
            command = self._clients.act(self._assignment.seed, client, number)
            if command is None:
                return
            key = client_key(self._assignment.seed, client, number)
            outcome = await self._send(command, key)
            if number % REPEATED == 0 and await self._send(command, key) != outcome:
                outcome = DIFFERS
            os.write(1, msgspec.json.encode(Answer(client, number, outcome)) + b"\n")
            number += 1
            if self._stopping:  # not before: the first act may be one whose answer nobody heard
                return

    async def _send(self, command: Command[Any], key: str) -> str:
        while True:
            try:
                await self._app.send(command, idempotency_key=key)
                return GRANTED
            except Refusal as refusal:
                return type(refusal).__name__
            except TryAgain:
                await self._world.sleep(REST_SECONDS)


async def _act(assignment: _Assignment) -> None:
    world = RealWorld()
    module: Mapping[str, Any] = vars(import_module(assignment.module))
    clients = cast(Clients, module["clients"])
    async with clients.application(assignment.url) as app:
        await _Acting(assignment, clients, app, world).run()


def _main() -> None:
    import logging

    logging.getLogger("ensue").addHandler(logging.NullHandler())
    asyncio.run(_act(msgspec.json.decode(sys.stdin.buffer.readline(), type=_Assignment)))


if __name__ == "__main__":
    _main()
