"""Searches for a run that fails: no fault, a crash at every failpoint, pairs of crashes, then seeds.

    no fault      one run in order; its failpoints are the crash points of the next
    everywhere    one run for each failpoint passed: the process dies there
    pairs         one more death, anywhere after the first, spread evenly over all pairs within a budget
    random        one run for each seed: order of steps, delays, pauses, crashes, clock jumps, faults of the stand-ins

The first failure is shrunk and raised as `SimulationFailure`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import msgspec

from ensue.testing.simulation.run import Outcome, Setting, run
from ensue.testing.simulation.shrink import shrink
from ensue.testing.simulation.simulation import Quiet, Simulation, Start
from ensue.testing.simulation.story import VARIABLE, SimulationFailure
from ensue.testing.simulation.tape import Choice, Tape

__all__ = ["Crashes", "Report", "SimulatedTest", "explore", "replay", "simulate"]

A = TypeVar("A")
P = ParamSpec("P")
S = TypeVar("S", bound=Simulation[Any])

Crashes: TypeAlias = Literal["everywhere", "pairs", "none"]

PAIRS_AT_MOST = 200


class Report(msgspec.Struct):
    """What an exploration that found nothing has covered."""

    runs: int = 0
    steps: int = 0
    crash_points: int = 0
    """Failpoints passed in the run without faults; a crash was tried at each unless `crashes="none"`."""
    pairs_tried: int = 0
    pairs: int = 0
    """How many pairs of crashes there are; `pairs_tried` of them were."""
    seeds: int = 0
    failpoints: Counter[str] = msgspec.field(default_factory=lambda: Counter[str]())
    """How often a process died at each failpoint, by its name."""


class _Exploration(Generic[A]):
    def __init__(self, setting: Setting[A], name: str, seed: int) -> None:
        self.report = Report()
        self._setting = setting
        self._name = name
        self._seed = seed

    def boring(self) -> Outcome:
        outcome = self._run(Tape.boring(self._seed), "the run without any fault")
        self.report.crash_points = len(outcome.failpoints)
        return outcome

    def everywhere(self, boring: Outcome) -> Iterator[tuple[Choice, Outcome]]:
        points = boring.failpoints
        for number, (nth, label) in enumerate(points, 1):
            crash = Choice(label, nth, 1)
            yield crash, self._crash([crash], f"a crash at each failpoint ({number} of {len(points)})")

    def pairs(self, singles: Sequence[tuple[Choice, Outcome]], budget: int) -> None:
        """Each pair is a crash and a failpoint that was passed after it in the run with that crash."""
        later = [(crash, _after(crash, outcome)) for crash, outcome in singles]
        total = sum(len(points) for _, points in later)
        self.report.pairs = total
        chosen = set(_spread(total, budget, self._seed))
        number = 0
        for crash, points in later:
            for nth, label in points:
                if number in chosen:
                    self.report.pairs_tried += 1
                    found = f"pairs of crashes ({self.report.pairs_tried} of {len(chosen)} tried, of {total})"
                    self._crash([crash, Choice(label, nth, 1)], found)
                number += 1

    def random(self, runs: int) -> None:
        for seed in range(self._seed + 1, self._seed + 1 + runs):
            self.report.seeds += 1
            self._run(Tape.record(seed), f"chance (seed {seed})")

    def _crash(self, crashes: list[Choice], found: str) -> Outcome:
        for crash in crashes:
            self.report.failpoints[crash.label.split("/", 2)[2]] += 1
        return self._run(Tape.replay(self._seed, crashes), found)

    def _run(self, tape: Tape, found: str) -> Outcome:
        outcome = run(self._setting, tape)
        self.report.runs += 1
        self.report.steps += outcome.steps
        if outcome.error is not None:
            _fail(self._setting, outcome, found, self._name)
        return outcome


def explore(
    setting: Setting[A],
    *,
    name: str,
    crashes: Crashes = "everywhere",
    runs: int = 100,
    pairs: int = PAIRS_AT_MOST,
    seed: int = 0,
) -> Report:
    """Run all strategies. Raises `SimulationFailure` at the first run that fails, made as simple as it gets.

    `runs` seeds follow `seed`. `pairs` bounds the runs with two crashes. `name` is what the failure calls the test.
    """
    exploration = _Exploration(setting, name, seed)
    boring = exploration.boring()
    if crashes != "none":
        singles = list(exploration.everywhere(boring))
        if crashes == "pairs":
            exploration.pairs(singles, pairs)
    exploration.random(runs)
    return exploration.report


def replay(setting: Setting[A], text: str, *, name: str) -> None:
    """Run what a failure printed, once. Raises `SimulationFailure` if it fails again; a seed is shrunk again."""
    outcome = run(setting, Tape.from_text(text))
    if outcome.error is not None:
        _fail(setting, outcome, "replay", name)


class SimulatedTest(Protocol[P]):
    """A test under `simulate`: called, it explores."""

    report: Report | None
    """What the last call covered; None before, and if it failed."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    replay: Callable[Concatenate[str, P], None]
    """Run once what a text says: a seed, or the tape that a failure printed."""


def simulate(
    start: Start[A],
    /,
    *,
    quiet: Quiet[A] | None = None,
    crashes: Crashes = "everywhere",
    runs: int = 100,
    pairs: int = PAIRS_AT_MOST,
    seed: int = 0,
    permuted: bool = True,
    simulation: type[S] | None = None,
) -> Callable[[Callable[Concatenate[S, P], Awaitable[None]]], SimulatedTest[P]]:
    """Run the decorated test many times: see `explore`. The test is an ordinary function for pytest, fixtures included.

    `start` starts the application; `quiet` says whether it has nothing left to do (None: when no timer is set either).
    `permuted=False` keeps ready steps in order. `simulation` is the class of the test's first argument. With the
    environment variable `ENSUE_SIMULATION` set, only what it says is run.
    """

    def decorate(test: Callable[Concatenate[S, P], Awaitable[None]], /) -> SimulatedTest[P]:
        name = test.__name__

        def setting(*args: P.args, **kwargs: P.kwargs) -> Setting[A]:
            async def scenario(sim: Simulation[A]) -> None:
                await test(cast(S, sim), *args, **kwargs)

            kind = cast(type[Simulation[A]], simulation or Simulation)
            return Setting(scenario, start, quiet=quiet, simulation=kind, permuted=permuted)

        @functools.wraps(test)
        def explored(*args: P.args, **kwargs: P.kwargs) -> None:
            text = os.environ.get(VARIABLE)
            if text:
                return replay_once(text, *args, **kwargs)
            decorated.report = None
            decorated.report = explore(
                setting(*args, **kwargs), name=name, crashes=crashes, runs=runs, pairs=pairs, seed=seed
            )

        def replay_once(text: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
            replay(setting(*args, **kwargs), text, name=name)

        # pytest follows `__wrapped__` to a function that is asynchronous and wants `sim`, which is no fixture.
        signature = inspect.signature(test)
        del explored.__wrapped__
        decorated = cast(Any, explored)
        decorated.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
        decorated.report = None
        decorated.replay = replay_once
        return cast(SimulatedTest[P], decorated)

    return decorate


def _fail(setting: Setting[A], outcome: Outcome, found: str, name: str) -> NoReturn:
    """Shrink, and raise the story."""
    before = len(outcome.tape.choices)
    seed = outcome.tape.seed
    simplest = shrink(outcome, lambda choices: run(setting, Tape.replay(seed, choices)))
    after = len(simplest.tape.choices)
    if after < before:
        found += f", shrunk from {before} choices to {after}"
    raise SimulationFailure(simplest, found=found, name=name) from simplest.error


def _after(crash: Choice, outcome: Outcome) -> list[tuple[int, str]]:
    """The failpoints that were passed after the crash."""
    return outcome.failpoints[outcome.failpoints.index((crash.nth, crash.label)) + 1 :]


def _spread(total: int, budget: int, seed: int) -> Iterator[int]:
    """`budget` of the numbers below `total`, evenly, at a random place within each stride."""
    if total <= budget:
        yield from range(total)
        return
    chance = Tape.boring(seed).stream("pairs")
    for number in range(budget):
        first = number * total // budget
        yield chance.randrange(first, (number + 1) * total // budget)
