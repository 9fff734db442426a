"""An event loop in which time is virtual and the order of steps is a choice on the tape.

The real asyncio runs on it: tasks, task groups, queues, timeouts. There is no selector and no thread, so nothing from
outside can wake it; when nothing is ready, time jumps to the next timer. Calls given to an executor run inline.

asyncio keeps tasks and futures in sets, whose order follows memory addresses. Here they hash to the number under which
they were first hashed, so `TaskGroup` and `wait` treat them in the same order every time; `as_completed` is given its
awaitables in order while the loop runs. Garbage is collected between runs only, since a finaliser is a step too.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from asyncio import base_events
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from ensue.testing.simulation.process import PROCESS, Crashed, Process
from ensue.testing.simulation.steps import Step, Timer, name_of
from ensue.testing.simulation.tape import Tape

__all__ = ["Deadlock", "Livelock", "SimulatedTask", "SimulationLoop", "Stuck", "ordered_as_completed"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_PER_INSTANT = 200_000
"""More steps than this without time passing is a livelock: the largest honest burst seen is a few thousand."""
STEPS_AT_MOST = 10_000_000
"""In one run, which takes a minute then: it does not come to an end."""
_SUSPICIOUS_STEPS = 1_000
"""So many steps before the bound, the loop begins to count who runs."""


class Stuck(Exception):
    """The simulated application makes no progress. Not an error of the simulation."""


class Deadlock(Stuck):
    """Nothing is ready, no timer is set, and tasks still wait."""


class Livelock(Stuck):
    """Steps follow each other for ever while no time passes."""


class _Future(asyncio.Future[T]):
    """A future that hashes to a number of its loop, given when it is first hashed."""

    _number: int | None = None

    def __hash__(self) -> int:
        if self._number is None:
            loop = self.get_loop()
            assert isinstance(loop, SimulationLoop)
            self._number = next(loop.numbers)
        return self._number

    __eq__ = object.__eq__


class SimulatedTask(asyncio.Task[T]):
    """A task that hashes to its number and knows the process it belongs to."""

    _number: int | None = None
    _log_destroy_pending = False  # a task of a dead process is abandoned on purpose

    def __init__(self, coroutine: Generator[Any, None, T], *, loop: SimulationLoop, **options: Any) -> None:
        context: Context | None = options.get("context")
        self.process = PROCESS.get() if context is None else context.get(PROCESS)
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        if self._number is None:
            loop = self.get_loop()
            assert isinstance(loop, SimulationLoop)
            self._number = next(loop.numbers)
        return self._number

    __eq__ = object.__eq__


class SimulationLoop(base_events.BaseEventLoop):
    """`permuted` lets the tape choose among ready steps; otherwise they run first in, first out.

    `on_disorder(step, ahead_of)` hears of each step that was run out of order, `on_step(process, name)` of every step.
    """

    def __init__(self, tape: Tape, *, permuted: bool = False) -> None:
        super().__init__()
        self.set_debug(False)
        self.tape = tape
        self.permuted = permuted
        self.numbers: Iterator[int] = itertools.count(1)
        self.steps = 0
        self.on_disorder: Callable[[str, int], None] | None = None
        self.on_step: Callable[[Process | None, str], None] | None = None
        self.errors: list[BaseException] = []
        """What callbacks of living processes raised: nobody else hears of it."""
        self._now = 0.0
        self._queue: deque[Step | Timer] = deque()
        self._timers: list[Timer] = []
        self._steps_at_instant = 0
        self._culprits: Counter[str] = Counter()
        self._idle: list[asyncio.Future[None]] = []
        self._instant: list[asyncio.Future[bool]] = []
        self.set_exception_handler(_hear_error)

    # ---------------------------------------------------------------------------------------------- what asyncio asks

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        step = Step(callback, args, self, context)
        self._queue.append(step)
        return step

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_running() and asyncio.get_running_loop() is not self:
            raise RuntimeError("a real thread called into a simulation; start threads with world.threads() instead")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        timer = Timer(when, next(self.numbers), callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(self, coro: Any, *, name: object = None, **options: Any) -> asyncio.Task[Any]:
        self._check_open()
        if name is None:  # asyncio would number its tasks on through all runs
            name = getattr(coro, "__qualname__", type(coro).__qualname__)
        return SimulatedTask(coro, loop=self, name=str(name), **options)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Crashed:
                raise
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(call)
        return future

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        raise OSError("there is no network in a simulation; replace what opens a connection")

    async def getnameinfo(self, *args: Any, **options: Any) -> Any:
        raise OSError("there is no network in a simulation; replace what opens a connection")

    # ------------------------------------------------------------------------------------------------- what runs offer

    def idle(self) -> asyncio.Future[None]:
        """Done when nothing is ready any more, before time passes."""
        future: asyncio.Future[None] = self.create_future()
        self._idle.append(future)
        return future

    def next_instant(self) -> asyncio.Future[bool]:
        """Done when time has passed to the next timer: true, or false if there is none."""
        future: asyncio.Future[bool] = self.create_future()
        self._instant.append(future)
        return future

    def has_timers(self) -> bool:
        """Whether a living process waits for time to pass."""
        return any(
            timer.process is not None and not timer.process.dead and not timer.cancelled() for timer in self._timers
        )

    def abandon(self, process: Process) -> None:
        """Keep the pending tasks of a process that has just died; their steps are never run again."""
        current = asyncio.current_task(self) if self.is_running() else None
        process.abandoned += sorted(
            (task for task in asyncio.all_tasks(self) if _process_of(task) is process and task is not current), key=hash
        )

    def resume(self, process: Process) -> None:
        """Run what became ready while the process was paused."""
        process.paused = False
        self._queue.extend(process.withheld)
        process.withheld.clear()

    def waiting(self) -> str:
        """Each pending task and the line at which it waits, one a line."""
        return "\n".join(
            f"  {_owner(task)}{task.get_name()} waits at {_site(task)}"
            for task in sorted(asyncio.all_tasks(self), key=hash)
            if (process := _process_of(task)) is None or not process.dead
        )

    # ------------------------------------------------------------------------------------------------------ the engine

    def _run_once(self) -> None:
        """One step. BaseEventLoop calls this until the loop is stopped."""
        queue = self._queue
        while True:
            while not queue:
                self._pass_time()
            step = self._choose() if self.permuted and len(queue) > 1 else queue.popleft()
            if step.cancelled():
                continue
            process = step.process
            if process is not None:
                if process.dead:
                    continue
                if process.paused:
                    process.withheld.append(step)
                    continue
            self.steps += 1
            self._steps_at_instant += 1
            if self._steps_at_instant > STEPS_PER_INSTANT - _SUSPICIOUS_STEPS:
                self._suspect(step)
            if self.on_step is not None:
                self.on_step(process, name_of(step))
            step.run()
            return

    def _choose(self) -> Step | Timer:
        queue = self._queue
        index = self.tape.draw("schedule", len(queue))
        if not index:
            return queue.popleft()
        step = queue[index]
        del queue[index]
        if self.on_disorder is not None and not step.cancelled():
            self.on_disorder(f"{step.process or 'test'}: {name_of(step)}", index)
        return step

    def _pass_time(self) -> None:
        """Nothing is ready: tell who waits for that, else let time jump to the next timer."""
        if self._wake(self._idle, None):
            return
        timers = self._timers
        while timers and _is_void(timers[0]):
            heapq.heappop(timers)
        if not timers:
            if self._wake(self._instant, False):
                return
            raise Deadlock(f"Nothing is ready and no timer is set, but these tasks wait:\n{self.waiting()}")
        if self.steps > STEPS_AT_MOST:
            raise Stuck(f"The run has not ended after {STEPS_AT_MOST} steps:\n{self.waiting()}")
        self._now = max(self._now, timers[0].when())
        self._steps_at_instant = 0
        self._culprits.clear()
        while timers and timers[0].when() <= self._now:
            timer = heapq.heappop(timers)
            if not _is_void(timer):
                self._queue.append(timer)
        self._wake(self._instant, True)

    def _wake(self, waiters: list[asyncio.Future[T]], answer: T) -> bool:
        woken = [waiter for waiter in waiters if not waiter.done()]
        waiters.clear()
        for waiter in woken:
            waiter.set_result(answer)
        return bool(woken)

    def _suspect(self, step: Step | Timer) -> None:
        self._culprits[f"{step.process or 'test'}: {name_of(step)}"] += 1
        if self._steps_at_instant > STEPS_PER_INSTANT:
            often = "\n".join(f"  {count} x {name}" for name, count in self._culprits.most_common(3))
            raise Livelock(
                f"{STEPS_PER_INSTANT} steps were run and no time passed. Of the last {_SUSPICIOUS_STEPS}:\n{often}"
            )

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def _process_events(self, event_list: Iterable[object]) -> None:
        """There is no selector."""

    def _write_to_self(self) -> None:
        """There is nothing to wake."""

    def close(self) -> None:
        super().close()
        self._queue.clear()
        self._timers.clear()


@contextmanager
def ordered_as_completed() -> Generator[None, None, None]:
    """`asyncio.as_completed` puts what it is given into a set, coroutines included: start them in order before."""
    original = asyncio.as_completed

    def as_completed(fs: Iterable[Any], **options: Any) -> Any:
        return original([asyncio.ensure_future(each) for each in dict.fromkeys(fs)], **options)

    setattr(asyncio, "as_completed", as_completed)  # noqa: B010
    try:
        yield
    finally:
        setattr(asyncio, "as_completed", original)  # noqa: B010


def _hear_error(loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    """A callback raised. (What a task raised and nobody asked for is reported by the collector, at no fixed time.)"""
    assert isinstance(loop, SimulationLoop)
    error: BaseException | None = details.get("exception")
    handle: object = details.get("handle")
    if error is None or isinstance(error, Crashed) or not isinstance(handle, Step | Timer):
        return
    if handle.process is None or not handle.process.dead:
        loop.errors.append(error)


def _is_void(timer: Timer) -> bool:
    return timer.cancelled() or (timer.process is not None and timer.process.dead)


def _process_of(task: asyncio.Task[Any]) -> Process | None:
    return task.process if isinstance(task, SimulatedTask) else None


def _owner(task: asyncio.Task[Any]) -> str:
    process = _process_of(task)
    return "" if process is None else f"{process}{' (paused)' if process.paused else ''}: "


def _site(task: asyncio.Task[Any]) -> str:
    """The innermost line of a suspended task."""
    innermost: Any = None
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        frame = frame or getattr(awaited, "ag_frame", None)
        innermost = frame or innermost
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    if innermost is None:
        return "its start"
    code = innermost.f_code
    return f"{code.co_filename}:{innermost.f_lineno} in {code.co_qualname}"
