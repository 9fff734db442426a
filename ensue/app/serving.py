"""How a process holds an application open: until a signal comes, or from a program without an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from datetime import timedelta
from inspect import iscoroutine
from types import FrameType
from typing import Any, TypeVar

from ensue.app.checks import checked_seconds
from ensue.app.engine import Engine
from ensue.errors import Misuse, Unavailable
from ensue.world import LoopThread

__all__ = ["Caller", "told_to_stop"]

R = TypeVar("R")


@contextmanager
def told_to_stop(*, second_ends: bool = True) -> Generator[asyncio.Event, None, None]:
    """An event that is set by the first SIGINT or SIGTERM. The second one ends the process at once, whatever it does: for
    the log that is a crash like any other, and nothing half done is in it. Without `second_ends` it is as the first: for
    who is told by several at once. Errors: `Misuse` outside the main thread."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def told(number: int, frame: FrameType | None) -> None:
        for each in numbers if second_ends else ():
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    try:
        former = {number: signal.signal(number, told) for number in numbers}
    except ValueError as error:
        raise Misuse(
            "serve() and run() wait for signals, which only the main thread gets; in another thread hold the application "
            "open with `async with app:`"
        ) from error
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Caller:
    """What `App.blocking` gives: runs coroutines on the loop of an application that is held open in a thread."""

    def __init__(self, thread: LoopThread, name: str, engine: Callable[[], Engine | None]) -> None:
        self._thread = thread
        self._name = name
        self._engine = engine

    def __call__(self, work: Coroutine[Any, Any, R], /, *, timeout: timedelta | None = None) -> R:
        """See `Portal`."""
        given: object = work
        if not iscoroutine(given):
            raise TypeError(
                f"call() takes what an async method gives before it is awaited, call(app.publish(event)), not a "
                f"{type(given).__name__}"
            )
        engine = self._engine()
        if engine is None or self._thread.is_current():
            work.close()
            raise self._refusal(engine)
        seconds = checked_seconds(timeout) if timeout is not None else None
        return self._thread.call(_held(engine, work), timeout_seconds=seconds)

    def _refusal(self, engine: Engine | None) -> Exception:
        if engine is None:
            return Unavailable(f"the application {self._name} is not open any more: call inside its `with` block")
        return Misuse("call() would wait for the loop on the loop's own thread, for ever; use `await` in async code")


async def _held(engine: Engine, work: Coroutine[Any, Any, R]) -> R:
    try:
        with engine.lifeline.held():
            return await work
    finally:
        work.close()
