"""A simulated process: who runs a step, and whether it still lives.

Every callback, timer and task carries the process it belongs to in its context (`PROCESS`). When a process dies,
nothing of it is ever run again: its tasks stay suspended where they are, so no `finally` and no `except` of theirs
runs, as with `kill -9`. Its SQLite connections are closed at once, which rolls back what they had not committed. Only
the stack that hit the failpoint unwinds, because Python cannot freeze it: with a dead world and closed databases.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

__all__ = ["PROCESS", "Crashed", "Process", "end"]

PROCESS: ContextVar[Process | None] = ContextVar("ensue.simulation.process", default=None)


class Crashed(BaseException):
    """The process is dead. Raised by every call of its world, and not an `Exception`: nothing is to handle it."""


class Process:
    """One life of a program on the simulated machine. `name` is its place, `life` counts from 1."""

    def __init__(self, name: str, life: int) -> None:
        self.name = name
        self.life = life
        self.dead = False
        self.paused = False
        self.mortal = True
        """False while the test itself is on its stack."""
        self.withheld: deque[Any] = deque()
        """Steps that became ready while it was paused."""
        self.abandoned: list[asyncio.Task[Any]] = []
        """Tasks that were pending when it died, kept so that nothing collects and thereby finalises them."""
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self._resources: list[Callable[[], object]] = []
        self._mourners: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"{self.name}#{self.life}"

    def owns(self, release: Callable[[], object]) -> None:
        """The operating system does this when the process dies: close a connection, drop a lock."""
        self._resources.append(release)

    def when_dead(self, tell: Callable[[], object]) -> None:
        """Called once, when the process dies."""
        self._mourners.append(tell)

    def die(self) -> None:
        """Die on the spot. Idempotent."""
        if self.dead:
            return
        self.dead = True
        self.release()
        mourners, self._mourners = self._mourners, []
        for tell in mourners:
            tell()

    def release(self) -> None:
        """Close what the process owns. What cannot be closed from inside its own call is left for the next time."""
        resources, self._resources = self._resources, []
        for release in reversed(resources):
            try:
                release()
            except Exception:
                self._resources.append(release)

    def bury(self) -> None:
        """The run is over: end the suspended coroutines. Whatever their `finally` blocks do or raise reaches nobody."""
        self.dead = True
        abandoned, self.abandoned = self.abandoned, []
        for task in abandoned:
            self.context.copy().run(end, task.get_coro())
        self.release()
        self.withheld.clear()


CLEANUPS_AT_MOST = 100
"""Awaits in the `finally` and `except` blocks of one coroutine that is ended."""


def end(coroutine: Any) -> None:
    """Close a suspended coroutine, the innermost it waits for first, also when its cleanup wants to wait: one that is
    dropped half closed complains when it is collected, at no fixed time."""
    for _ in range(CLEANUPS_AT_MOST):
        innermost: Any = coroutine
        awaited: Any = innermost
        while getattr(awaited, "cr_frame", None) is not None:
            innermost = awaited
            awaited = getattr(innermost, "cr_await", None)
        with contextlib.suppress(BaseException):
            innermost.close()
        if getattr(coroutine, "cr_frame", None) is None:
            return
