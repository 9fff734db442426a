"""What a supervisor of worker processes does, and when: pure. `supervisor.py` does it.

| a worker is | input | becomes | and |
| --- | --- | --- | --- |
| planned | its time comes | running | it is started |
| running | it says that it is ready | ready | the first time of all: the others are started |
| running | ends with wrong usage, or without a log, before any was ready | gone | the end, with its code: no restart mends that |
| running, ready | ends otherwise | planned | again after a delay: twice as long each time, drawn from its upper half |
| ready | has been for `LIVED_SECONDS` | ready | its delays begin anew |
| running, ready | a stop is asked for | stopping | it is told to drain |
| planned | a stop is asked for | gone | |
| stopping | a second stop, not together with the first; or it takes longer than it may | stopping | it is killed |
| stopping | ends | gone | the last one: the end |

The first worker starts alone. So what is wrong with an application, its settings or its log is told once and not by each of
them; and a log is created, and consumers are made known to it, by one process.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from ensue.cli.failures import LOG, NEGATIVE, OK, USAGE
from ensue.cli.output import duration

__all__ = ["DRAIN_SECONDS", "GRACE_SECONDS", "Action", "End", "Kill", "Say", "Start", "Stop", "Supervision"]

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
LIVED_SECONDS = 30.0
"""Whoever has been ready for so long did not die of how it was started."""
DRAIN_SECONDS = 30.0
"""Until a worker has said what it is set to."""
GRACE_SECONDS = 40.0
"""Beyond its drain: a commit may take 30 s to be answered, and hooks of the application end as well."""
TOGETHER_SECONDS = 0.2
"""A stop that follows so closely is the same one: `timeout` sends its signal to the process and then to its group."""


class Start(msgspec.Struct, frozen=True):
    """Start this worker. Its `ready` or `ended` follows."""

    worker: int


class Stop(msgspec.Struct, frozen=True):
    """Tell this worker to drain. Its `ended` follows."""

    worker: int


class Kill(msgspec.Struct, frozen=True):
    """End this worker at once. Its `ended` follows."""

    worker: int


class Say(msgspec.Struct, frozen=True):
    """A line for whoever watches."""

    style: str
    text: str


class End(msgspec.Struct, frozen=True):
    """No worker runs any more; exit with this code."""

    code: int


Action: TypeAlias = Start | Stop | Kill | Say | End


class _Worker:
    def __init__(self, number: int) -> None:
        self.number = number
        self.state = "gone"
        self.at = 0.0
        """When it is to start (planned), was started (running), became ready, or is killed (stopping)."""
        self.failures = 0


class Supervision:
    """Workers are numbered from 1. Every input has the time, in seconds of a clock that never goes back."""

    def __init__(self, workers: int) -> None:
        self._workers = {number: _Worker(number) for number in range(1, workers + 1)}
        self._opened = False
        self._stopped_at: float | None = None
        self._killing = False
        self._code = OK
        self._drain_seconds = DRAIN_SECONDS

    # ------------------------------------------------------------------------------------------------------- asking

    def next_due(self) -> float | None:
        """When `passed` has something to do, if nothing else happens."""
        due = [one.at for one in self._workers.values() if one.state in ("planned", "stopping")]
        due += [one.at + LIVED_SECONDS for one in self._workers.values() if one.state == "ready" and one.failures]
        return min(due, default=None)

    def runs(self, worker: int) -> bool:
        """Whether it was started and has not ended."""
        return self._workers[worker].state in ("running", "ready", "stopping")

    def absence(self, worker: int, now: float) -> str:
        """Why a worker that does not run does not, for people."""
        one = self._workers[worker]
        if one.state == "planned":
            return f"is started again in {duration(max(0.0, one.at - now))}"
        return "is stopped" if self.is_stopping else "waits until the first one is ready"

    @property
    def numbers(self) -> Sequence[int]:
        """Of all workers, those that do not run included."""
        return tuple(self._workers)

    @property
    def is_open(self) -> bool:
        """A worker has been ready once."""
        return self._opened

    @property
    def is_stopping(self) -> bool:
        """A stop was asked for."""
        return self._stopped_at is not None

    @property
    def is_killing(self) -> bool:
        """A second stop was asked for."""
        return self._killing

    # ------------------------------------------------------------------------------------------------------- inputs

    def begin(self, now: float) -> list[Action]:
        """The first input."""
        return self._start(self._workers[1], now)

    def ready(self, worker: int, now: float, *, drain_seconds: float) -> list[Action]:
        """The worker runs its consumers; they may take so long to drain."""
        one = self._workers[worker]
        self._drain_seconds = drain_seconds
        if one.state != "running":
            return []
        one.state, one.at = "ready", now
        if self._opened:
            return []
        self._opened = True
        return [action for other in self._workers.values() if other is not one for action in self._start(other, now)]

    def ended(self, worker: int, code: int, now: float, chance: float) -> list[Action]:
        """The worker's process has ended: with an exit code, or by the signal of number `-code`; `chance` is in [0, 1)."""
        one = self._workers[worker]
        if self.is_stopping:
            one.state = "gone"
            self._judge(code)
            return self._end_if_all_are_gone()
        if not self._opened and code in (USAGE, LOG):
            one.state = "gone"
            return [End(code)]
        one.failures += 1
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(one.failures - 1, 16)) * (1 + chance) / 2
        one.state, one.at = "planned", now + delay
        times = "" if one.failures == 1 else f", for the {_ordinal(one.failures)} time in a row"
        return [Say("red", f"worker {worker} {_how(code)}{times}; it is started again in {duration(delay)}")]

    def passed(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        for one in self._workers.values():
            if one.state == "planned" and one.at <= now:
                actions += self._start(one, now)
            elif one.state == "ready" and one.failures and one.at + LIVED_SECONDS <= now:
                one.failures = 0
                actions.append(Say("green", f"worker {one.number} has run for {duration(LIVED_SECONDS)} again"))
            elif one.state == "stopping" and one.at <= now:
                one.at = now + GRACE_SECONDS
                actions += [Say("red", f"worker {one.number} does not stop; it is killed"), Kill(one.number)]
        return actions

    def stop(self, now: float) -> list[Action]:
        """A stop is asked for; a second one ends all at once."""
        running = [one for one in self._workers.values() if self.runs(one.number)]
        if self._stopped_at is not None:
            self._killing = self._killing or now - self._stopped_at > TOGETHER_SECONDS
            return [Kill(one.number) for one in running] if self._killing else []
        self._stopped_at = now
        for one in self._workers.values():
            one.state = "stopping" if one in running else "gone"
            one.at = now + self._drain_seconds + GRACE_SECONDS
        limit = duration(self._drain_seconds)
        said = Say("dim", f"stopping; handlers have {limit} to finish, another Ctrl-C ends them at once")
        return [said, *(Stop(one.number) for one in running), *self._end_if_all_are_gone()]

    # ------------------------------------------------------------------------------------------------------ deciding

    def _start(self, one: _Worker, now: float) -> list[Action]:
        one.state, one.at = "running", now
        return [Start(one.number)]

    def _judge(self, code: int) -> None:
        """What a worker's end says about the stop. One that was told to stop while it began ends by that signal."""
        if self._code == OK and code not in (OK, -signal.SIGTERM):
            self._code = code if code > 0 else NEGATIVE

    def _end_if_all_are_gone(self) -> list[Action]:
        if any(one.state != "gone" for one in self._workers.values()):
            return []
        clean = Say("green", "stopped, nothing is half done")
        return [clean, End(self._code)] if self._code == OK else [End(self._code)]


def _how(code: int) -> str:
    if code >= 0:
        return "has ended" if code == OK else f"has ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _ordinal(number: int) -> str:
    last = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"
