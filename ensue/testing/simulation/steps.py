"""What the loop runs: a callback that is ready or due, and the process it belongs to."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextvars import Context
from typing import Any

from ensue.testing.simulation.process import PROCESS

__all__ = ["Step", "Timer", "name_of"]


class Step(asyncio.Handle):
    """A ready callback and the process it belongs to."""

    __slots__ = ("process",)

    def __init__(
        self, callback: Callable[..., object], args: Any, loop: asyncio.AbstractEventLoop, context: Context | None
    ) -> None:
        if context is None:
            context = contextvars.copy_context()
        self.process = context.get(PROCESS)
        super().__init__(callback, args, loop, context)

    def run(self) -> None:
        self._run()


class Timer(asyncio.TimerHandle):
    """The same, due at an instant. Timers of one instant are due in the order in which they were set."""

    __slots__ = ("number", "process")

    def __init__(
        self,
        when: float,
        number: int,
        callback: Callable[..., object],
        args: Any,
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        if context is None:
            context = contextvars.copy_context()
        self.process = context.get(PROCESS)
        self.number = number
        super().__init__(when, callback, args, loop, context)

    def __lt__(self, other: Any) -> bool:
        return bool((self.when(), self.number) < (other.when(), other.number))

    def run(self) -> None:
        self._run()


def name_of(step: Step | Timer) -> str:
    """The name of the task that is run or woken, else of the function."""
    callback: Any = getattr(step, "_callback", None)
    if callback is None:
        return "cancelled"
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return str(owner.get_name())
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))
