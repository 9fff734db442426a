"""The world of a simulated process: virtual time, chance and ids from the seed, threads as steps, and death.

`Surroundings` is what all processes of one run share: the loop, the tape, the clock on the wall, the trace of what
happened, and whatever the run keeps outside of them. A `SimulatedWorld` is one life's view of it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

from ensue.testing.simulation.loop import SimulationLoop
from ensue.testing.simulation.process import PROCESS, Crashed, Process
from ensue.testing.simulation.tape import Tape

__all__ = ["STARTS_AT", "Entry", "SimulatedThreads", "SimulatedWorld", "Surroundings", "ordinal"]

T = TypeVar("T")

STARTS_AT = 1_767_225_600_000_000
"""Every run begins at 2026-01-01T00:00:00Z."""
CRASHES_AT_MOST = 6
"""In a random run: after this many deaths chance kills no more, so that the run comes to an end."""

_DELAYS = (0.0, 0.001, 0.05, 1.0, 15.0)
"""How late a timer or a thread may be, in seconds: within a poll, beyond one, beyond a lease."""
_PAUSES = (0.0, 5.0, 12.0, 60.0)
_JUMPS = (0, -3_600_000_000, -1_500_000, 90_000_000)
_VERSION_7 = 7 << 76
_VARIANT = 2 << 62


class Entry(NamedTuple):
    """Something that happened. `who` is a process or the test; `kind` is one word; `at` is seconds of virtual time."""

    at: float
    who: str
    kind: str
    what: str


class Surroundings:
    """What one run has that no process of it owns."""

    def __init__(self, tape: Tape, loop: SimulationLoop) -> None:
        self.tape = tape
        self.loop = loop
        self.trace: list[Entry] = []
        self.failpoints: list[tuple[int, str]] = []
        """Each failpoint passed by a process: its index under its name, and the label of its draw."""
        self.over = False
        """The test has checked what it checks: whoever dies from here on, while all are stopped, is missed by nobody."""
        self.wall_offset = 0
        """How far the wall clock is off, in microseconds."""
        self.crashes = 0
        self._passed: Counter[str] = Counter()
        self._outside: dict[Hashable, Any] = {}
        loop.on_disorder = self._hear_disorder

    def tell(self, who: object, kind: str, what: str) -> None:
        self.trace.append(Entry(self.loop.time(), str(who), kind, what))

    def outside(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when it was first asked for in this run: the same for all processes and lives."""
        if key not in self._outside:
            self._outside[key] = make()
        return cast(T, self._outside[key])

    def passed(self, process: Process, name: str) -> None:
        """A process passes a failpoint. Raises `Crashed` if it is to die here."""
        label = f"crash/{process.name}/{name}"
        if not self.over:
            self.failpoints.append((self._passed[label], label))
        self._passed[label] += 1
        self.tell(process, "passes", name)
        if not process.mortal:
            return
        draw = self.tape.draw
        pause = draw("pause", len(_PAUSES))
        if pause:
            self.pause(process, _PAUSES[pause])
        jump = draw("clock", len(_JUMPS))
        if jump:
            self.jump_clock(_JUMPS[jump])
        if (self.crashes < CRASHES_AT_MOST or not self.tape.random) and draw(label, 2):
            self.kill(process, f"at `{name}`, the {ordinal(self._passed[label])} time it comes there")
            raise Crashed(f"{process} died at {name}")

    def kill(self, process: Process, how: str) -> None:
        if process.dead:
            return
        self.crashes += 1
        self.tell(process, "dies", how)
        self.loop.abandon(process)
        process.die()

    def pause(self, process: Process, seconds: float) -> None:
        """Withhold the steps of a process for a time, as a stopped virtual machine or a long collection would."""
        if process.dead or process.paused:
            return
        process.paused = True
        self.tell(process, "pauses", f"for {seconds:g} s")

        def resume() -> None:
            self.tell(process, "resumes", "")
            self.loop.resume(process)

        self.loop.call_later(seconds, resume, context=Context())

    def jump_clock(self, microseconds: int) -> None:
        """The wall clock is set forward or back. Durations and timers do not notice."""
        self.wall_offset += microseconds
        self.tell("clock", "jumps", f"by {microseconds / 1_000_000:+g} s")

    def _hear_disorder(self, step: str, ahead_of: int) -> None:
        who, _, name = step.partition(": ")
        self.tell(who, "runs", f"{name}, ahead of {ahead_of} that were ready before")


class SimulatedWorld:
    """A `World`. Without a process it is the test's own: it never dies and passes no failpoints.

    Beyond the protocol it offers what stand-ins for the outside need: `fault`, `choose`, `note`, `outside`.
    """

    def __init__(self, surroundings: Surroundings, process: Process | None = None) -> None:
        self.surroundings = surroundings
        self.process = process
        self._loop = surroundings.loop
        self._draw = surroundings.tape.draw
        self._random = surroundings.tape.stream(f"chance of {process or 'test'}")
        self._ids = surroundings.tape.stream(f"ids of {process or 'test'}")
        self._millisecond = 0
        self._last_id = 0

    # ------------------------------------------------------------------------------------------------------- a World

    def now(self) -> int:
        self.check_alive()
        return STARTS_AT + self.surroundings.wall_offset + round(self._loop.time() * 1_000_000)

    def monotonic(self) -> float:
        self.check_alive()
        return self._loop.time()

    def random(self) -> float:
        self.check_alive()
        return self._random.random()

    def new_id(self) -> bytes:
        millisecond = self.now() // 1000
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            low = self._ids.getrandbits(61)
            high = self._ids.getrandbits(12)
            self._last_id = (millisecond << 80) | _VERSION_7 | (high << 64) | _VARIANT | low
        else:
            self._last_id += 1
        return self._last_id.to_bytes(16, "big")

    def secret(self, count: int) -> bytes:
        self.check_alive()
        return self._ids.randbytes(count)

    async def sleep(self, seconds: float) -> None:
        self.check_alive()
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds + self._lateness(), _finish, future, context=self._context())
        try:
            await future
        finally:
            timer.cancel()

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        if self.process is not None and self.process.dead:
            work.close()  # or Python would warn that it was never awaited
            self.check_alive()
        return self._loop.create_task(work, name=name, context=self._context())

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.check_alive()
        return self._loop.call_later(seconds + self._lateness(), callback, context=self._context())

    def threads(self, count: int, *, name: str) -> SimulatedThreads:
        self.check_alive()
        return SimulatedThreads(self, count, name)

    def failpoint(self, name: str) -> None:
        process = self.process
        if process is None:
            return
        self.check_alive()
        self.surroundings.passed(process, name)

    # ----------------------------------------------------------------------------------------- for stand-ins and tests

    def fault(self, name: str) -> bool:
        """Whether the fault of this name strikes now. Never, where nothing is to go wrong."""
        return bool(self.choose(name, 2))

    def choose(self, name: str, bound: int) -> int:
        """A number from 0 to `bound - 1`. 0 must be the boring one."""
        self.check_alive()
        choice = self._draw(f"fault/{name}", bound)
        if choice:
            self.note(f"fault: {name}" + (f" ({choice} of {bound - 1})" if bound > 2 else ""))
        return choice

    def note(self, what: str) -> None:
        """Put a line into the story of the run."""
        self.surroundings.tell(self.process or "test", "note", what)

    def outside(self, key: Hashable, make: Callable[[], T]) -> T:
        """Something outside all processes, such as a payment provider: made once a run, it survives their deaths."""
        return self.surroundings.outside(key, make)

    def jump_clock(self, by: timedelta) -> None:
        """Set the wall clock of the machine forward, or back."""
        self.surroundings.jump_clock(round(by.total_seconds() * 1_000_000))

    # --------------------------------------------------------------------------------------------------------- inside

    def check_alive(self) -> None:
        """Raise `Crashed` in a dead process."""
        if self.process is not None and self.process.dead:
            raise Crashed(f"{self.process} is dead")

    def _context(self) -> Context:
        """The caller's context, as this process: also when the test calls into it directly."""
        context = contextvars.copy_context()
        if context.get(PROCESS) is not self.process:
            context.run(PROCESS.set, self.process)
        return context

    def _lateness(self) -> float:
        if self.process is None:
            return 0.0
        seconds = _DELAYS[self._draw("delay", len(_DELAYS))]
        if seconds:
            self.surroundings.tell(self.process, "is late", f"by {seconds:g} s")
        return seconds

    def run_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Run a step of this process, in time or late."""
        delay = self._lateness()
        if delay:
            self._loop.call_later(delay, callback, *args, context=self._context())
        else:
            self._loop.call_soon(callback, *args, context=self._context())


class SimulatedThreads:
    """A pool whose calls are steps of the loop: at most `count` are under way, started in the order given.

    A call runs whole, in one step; which of those under way comes first is the loop's choice, how late is the tape's.
    Results are delivered in the order in which calls ended.
    """

    def __init__(self, world: SimulatedWorld, count: int, name: str) -> None:
        self._world = world
        self._free = count
        self._name = name
        self._closed = False
        self._calls: deque[tuple[Callable[[], Any], Callable[[Any, Any], None]]] = deque()
        self._results: deque[tuple[Callable[[Any, Any], None], Any, BaseException | None]] = deque()

    def run(
        self,
        call: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
        *,
        patience_seconds: float = 0.0,
    ) -> None:
        self._world.check_alive()
        if self._closed:
            return
        self._calls.append((call, done))
        self._start()

    def close(self) -> None:
        self._closed = True
        # As with real threads, calls queued before the end mark still run.

    def _start(self) -> None:
        while self._free and self._calls:
            self._free -= 1
            self._world.run_soon(self._work, *self._calls.popleft())

    def _work(self, call: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
        process = self._world.process
        result, error = None, None
        try:
            result = call()
        except Crashed:
            if process is None or process.dead:
                return
            raise
        except BaseException as raised:
            error = raised
        if process is not None and process.dead:
            return  # the call swallowed its own death
        self._free += 1
        self._results.append((done, result, error))
        self._world.run_soon(self._deliver)
        self._start()

    def _deliver(self) -> None:
        done, result, error = self._results.popleft()
        done(result, error)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
