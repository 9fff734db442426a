"""A worker process: runs the consumers as `ensue run` does, and hangs on its supervisor by a socket.

A thread with a loop of its own listens there, so that it hears also when the application's loop is held. It passes on
questions for the application's health; and when the supervisor is gone, by whatever death, the worker drains and ends.

`python -m ensue.cli.worker ASSIGNMENT` is started by the supervisor only.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from ensue.app.health import Health, HealthPart
from ensue.cli.serving import Choice, Here, ask, run_here
from ensue.cli.supervision import DRAIN_SECONDS, GRACE_SECONDS
from ensue.cli.teller import Teller
from ensue.world import LoopThread, RealWorld

if TYPE_CHECKING:
    from ensue.app import App

__all__ = ["QUESTION", "Answer", "Assignment", "Message", "Ready", "main"]

QUESTION = b"health\n"
"""What a supervisor says. Anything else it never says."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor starts a worker with."""

    choice: Choice
    workers: int
    descriptor: int
    """Of the socket to the supervisor."""
    tells_consumers: bool
    coloured: bool


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The consumers run."""

    drain_seconds: float


class Answer(msgspec.Struct, frozen=True, tag="health"):
    """What the application says of its health. One question is open at a time."""

    health: Health


Message: TypeAlias = Ready | Answer
"""What a worker says: one JSON object a line."""


class _Link(Here):
    """The socket to the supervisor, and the thread that listens there."""

    tells_stop = False
    # Who stops all processes at once tells a worker twice, itself and by the supervisor. That one kills it at a second stop.
    second_signal_ends = False

    def __init__(self, assignment: Assignment) -> None:
        self.processes = assignment.workers
        self.tells_consumers = assignment.tells_consumers
        self._world = RealWorld()
        self._drain_seconds = DRAIN_SECONDS
        self._here: tuple[App, asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = LoopThread("ensue link")
        self._thread.call(self._open(assignment.descriptor))
        # Not before: threads that the application has left behind may hold the process up when it has stopped.
        atexit.register(self._thread.close)

    async def _open(self, descriptor: int) -> None:
        ours = socket.socket(fileno=descriptor)
        ours.set_inheritable(False)  # it is nothing to those that the application starts
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = self._world.spawn(self._listen(reader), name="link")

    def opening(self, app: App, stop: asyncio.Event) -> None:
        self._drain_seconds = app.settings.drain_seconds
        self._here = app, asyncio.get_running_loop(), stop

    def opened(self, app: App, tell: Teller) -> None:
        async def say() -> None:
            self._say(Ready(self._drain_seconds))

        self._thread.call(say())

    def _say(self, message: Message) -> None:
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        answering: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                if line == QUESTION:
                    answering = {task for task in answering if not task.done()}
                    answering.add(self._world.spawn(self._answer(), name="answer"))
        except OSError:
            pass  # as good as an end
        await self._orphaned()

    async def _answer(self) -> None:
        if self._here is None:
            self._say(Answer(Health(parts=(HealthPart(name="application", ok=False, said="is being loaded"),))))
            return
        app, loop, _ = self._here
        with contextlib.suppress(RuntimeError):  # that loop is closed: this process ends now
            self._say(Answer(await ask(app, loop)))

    async def _orphaned(self) -> None:
        """Drain, as at a signal; and if that takes too long, end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # nobody reads there any more, and a handler that prints must not fail by that
            os.dup2(nowhere, stream)
        if self._here is not None:
            _, loop, stop = self._here
            with contextlib.suppress(RuntimeError):  # that loop is closed: it has stopped already
                loop.call_soon_threadsafe(stop.set)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        await self._world.sleep(self._drain_seconds + GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do what the supervisor assigned, and exit with the code of `ensue run`."""
    from ensue.cli.output import pass_colours_on
    from ensue.cli.program import exit_code

    assignment = msgspec.json.decode(sys.argv[1], type=Assignment)
    if assignment.coloured:
        pass_colours_on()
    link = _Link(assignment)
    sys.exit(exit_code(lambda: run_here(assignment.choice, Teller(), link)))


if __name__ == "__main__":
    main()
