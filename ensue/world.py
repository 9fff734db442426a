"""The only door to time, chance, identity, tasks and threads.

Everything else in Ensue takes a `World` and asks it; a lint rule keeps `time`, `random`, `uuid`, `secrets`, `threading`
and the task and sleep functions of `asyncio` out of every other module. In production the world is `RealWorld`; in a
simulation it is one where time is virtual, every choice comes from a recorded list, and threads are steps of the loop.

Durations are seconds (`float`), instants are microseconds since 1970 UTC (`int`) unless a name says otherwise.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["LoopThread", "RealWorld", "Threads", "World", "new_lock"]

T = TypeVar("T")

END_SECONDS = 5.0
"""How long tasks may take to end when a loop in a thread is closed."""
_VERSION_7 = 7 << 76
_VARIANT = 2 << 62
_RANDOM_A_AND_B = (0xFFF << 64) | 0x1FFF_FFFF_FFFF_FFFF


class World(Protocol):
    """What the framework may ask of its surroundings."""

    def now(self) -> int:
        """Wall-clock time in microseconds since 1970 UTC. It may jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back, for durations and time limits."""
        ...

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def new_id(self) -> bytes:
        """A UUIDv7 of 16 bytes. Within a process ids ascend, also when the wall clock goes back."""
        ...

    def secret(self, count: int) -> bytes:
        """So many bytes that nobody can guess, from any thread."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for at least `seconds`."""
        ...

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task. The caller keeps the reference and awaits or cancels it."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back on the loop after `seconds`."""
        ...

    def threads(self, count: int, *, name: str) -> Threads:
        """A pool of `count` threads for blocking calls."""
        ...

    def failpoint(self, name: str) -> None:
        """A named place where a process may die. Nothing happens in production."""
        ...


class Threads(Protocol):
    """Threads that run blocking calls and hand their results to the loop."""

    def run(
        self,
        call: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
        *,
        patience_seconds: float = 0.0,
    ) -> None:
        """Run `call` on a thread, then `done(result, error)` on the loop's thread. Calls start in the order given.

        With `patience_seconds` the loop waits that long for the call to end, and `done` may be called before this returns:
        for calls that are mostly shorter than the way to the loop and back, and must not wait for a busy loop to begin.
        """
        ...

    def close(self) -> None:
        """Let running calls end, start no more. Does not wait: a call that blocks for ever must not hold the exit."""
        ...


class RealWorld:
    """The world as it is: the operating system's clocks, entropy, and the running event loop."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))
        self._millisecond = 0
        self._last_id = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def random(self) -> float:
        return self._random.random()

    def new_id(self) -> bytes:
        # RFC 9562, section 6.2, method 2: within a millisecond the random part counts up (its top bit is left free for that),
        # so that ids of one process ascend. After a step back of the clock it goes on counting from the last id.
        millisecond = time.time_ns() // 1_000_000
        with self._lock:
            if millisecond > self._millisecond:
                self._millisecond = millisecond
                chance = int.from_bytes(os.urandom(10), "big") & _RANDOM_A_AND_B
                self._last_id = (millisecond << 80) | _VERSION_7 | _VARIANT | chance
            else:
                self._last_id += 1
            return self._last_id.to_bytes(16, "big")

    def secret(self, count: int) -> bytes:
        return os.urandom(count)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(work, name=name)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)

    def threads(self, count: int, *, name: str) -> Threads:
        return _RealThreads(count, name, asyncio.get_running_loop())

    def failpoint(self, name: str) -> None:
        pass


_Ended: TypeAlias = tuple[Callable[[Any, Any], None], Any, BaseException | None]


class _RealThreads:
    """Daemon threads on one queue. Results are gathered and the loop is woken once for all that wait.

    `concurrent.futures` would cost a lock, a condition and a wake-up of the loop for each call, and its threads hold
    the interpreter's exit until a stuck call returns.
    """

    def __init__(self, count: int, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._count = count
        self._loop = loop
        self._started = 0
        self._waiting = 0
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, Any], None]] | None] = (
            queue.SimpleQueue()
        )
        self._results: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        self._woken = False

    def run(
        self,
        call: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
        *,
        patience_seconds: float = 0.0,
    ) -> None:
        self._waiting += 1
        if self._waiting > self._started and self._started < self._count:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        # Whoever waits need not be woken. While it waits, the other thread has the interpreter's lock, and begins.
        self._woken = self._woken or patience_seconds > 0
        self._calls.put((call, done))
        if patience_seconds > 0:
            try:
                self._deliver(self._results.get(timeout=patience_seconds))
            except queue.Empty:
                self._deliver()

    def close(self) -> None:
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                result, error = call(), None
            except BaseException as raised:  # handed to the loop, whatever it is: a lost call would hang its caller
                result, error = None, raised
            self._results.put((done, result, error))
            if not self._woken:
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return

    def _deliver(self, ended: _Ended | None = None) -> None:
        # Cleared before the queue is read: a result put from here on wakes the loop again.
        self._woken = False
        while ended is not None or not self._results.empty():
            done, result, error = ended or self._results.get()
            ended = None
            self._waiting -= 1
            done(result, error)


def new_lock() -> AbstractContextManager[object]:
    """For what loops of several threads share. To be held for moments, and never over an `await`."""
    return threading.Lock()


class LoopThread:
    """An event loop that runs in a thread of its own, for plain synchronous programs."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def is_current(self) -> bool:
        """Whether the caller runs on the loop's thread, where `call` would wait for itself."""
        return threading.current_thread() is self._thread

    def call(self, work: Coroutine[Any, Any, T], *, timeout_seconds: float | None = None) -> T:
        """Run the coroutine on the loop and block until it is done; when the caller stops waiting, it is cancelled.

        Errors: its own, `TimeoutError`, what interrupts the caller.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_seconds)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs on the loop, stop it and wait for its thread. Bounded: a task that cannot be cancelled is
        left behind."""
        try:
            self.call(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_SECONDS)
        await self._loop.shutdown_asyncgens()
