"""Makes a failing run simple: fewer faults, then fewer steps out of order, while the same check fails.

A tape is the list of its choices that are not boring, so simpler means shorter. First whole families are dropped,
faults before schedule, then ever smaller parts of what is left (delta debugging). The effort is bounded in runs and in
steps rather than in seconds, so that shrinking the same failure gives the same story everywhere.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from ensue.testing.simulation.run import Outcome
from ensue.testing.simulation.tape import Choice

__all__ = ["same_failure", "shrink"]

RUNS_AT_MOST = 400
STEPS_AT_MOST = 2_000_000
"""About twenty seconds."""

Try = Callable[[Sequence[Choice]], Outcome]
"""Plays choices back."""

_LAST_FAMILIES = ("delay", "schedule")
"""What is dropped after everything else: they hardly lengthen a story, faults do."""


class _Effort:
    """How much shrinking may still cost."""

    def __init__(self) -> None:
        self.runs = RUNS_AT_MOST
        self.steps = STEPS_AT_MOST

    @property
    def spent(self) -> bool:
        return self.runs <= 0 or self.steps <= 0


class _Shrinker:
    def __init__(self, failed: Outcome, attempt: Try) -> None:
        self.best = failed
        self._attempt = attempt
        self._effort = _Effort()
        assert failed.error is not None
        self._error = failed.error

    def fails(self, choices: Sequence[Choice]) -> bool:
        """Whether these choices fail in the same way; if so, they are the best so far."""
        if self._effort.spent:
            return False
        outcome = self._attempt(choices)
        self._effort.runs -= 1
        self._effort.steps -= outcome.steps
        if outcome.error is None or not same_failure(outcome.error, self._error):
            return False
        if len(outcome.tape.choices) > len(self.best.tape.choices) or outcome.tape.random:
            return False
        self.best = outcome
        return True

    def drop_families(self) -> None:
        families = sorted({choice.family for choice in self.best.tape.choices}, key=_order)
        for family in families:
            self.fails([choice for choice in self.best.tape.choices if choice.family != family])

    def drop_parts(self, family: str) -> None:
        """Delta debugging over the choices of one family: drop halves, quarters, ... single ones."""
        size = max(1, sum(choice.family == family for choice in self.best.tape.choices) // 2)
        while not self._effort.spent:
            dropped = self._drop_chunks(family, size)
            if size == 1 and not dropped:
                return
            if not dropped or size > 1:
                size = max(1, size // 2)

    def _drop_chunks(self, family: str, size: int) -> bool:
        dropped, start = False, 0
        while True:
            choices = self.best.tape.choices
            mine = [choice for choice in choices if choice.family == family]
            chunk = set(mine[start : start + size])
            if not chunk or self._effort.spent:
                return dropped
            if self.fails([choice for choice in choices if choice not in chunk]):
                dropped = True
            else:
                start += size

    def lower(self) -> None:
        """Faults that come in degrees: the least that still fails."""
        for choice in [choice for choice in self.best.tape.choices if choice.value > 1]:
            least = [each._replace(value=1) if each == choice else each for each in self.best.tape.choices]
            self.fails(least)


def shrink(failed: Outcome, attempt: Try) -> Outcome:
    """The simplest run found that fails like `failed`; `failed` itself if there is none."""
    shrinker = _Shrinker(failed, attempt)
    if not shrinker.fails(list(failed.tape.choices)):
        return failed  # it needs what the tape does not hold
    if shrinker.fails([]):
        return shrinker.best
    shrinker.drop_families()
    for family in sorted({choice.family for choice in shrinker.best.tape.choices}, key=_order):
        shrinker.drop_parts(family)
    shrinker.lower()
    return shrinker.best


def same_failure(one: BaseException, other: BaseException) -> bool:
    """The same kind of error, raised at the same line."""
    return type(one) is type(other) and _place(one) == _place(other)


def _place(error: BaseException) -> tuple[str, int] | None:
    innermost = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        innermost = (frame.f_code.co_filename, line)
    return innermost


def _order(family: str) -> tuple[bool, str]:
    return family in _LAST_FAMILIES, family
