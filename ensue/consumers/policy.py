"""When a failed delivery is tried again, as data: one policy, or one for each type of exception."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar, TypeAlias, cast

import msgspec

from ensue.errors import DefinitionError

__all__ = ["Retries", "Retry", "delay_seconds", "policy_for"]


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """`Retry(attempts=5)`: at once, then after 1, 2, 4 and 8 seconds, each with jitter; then the dead letters.

    Attempts are counted in the log, so a restart neither forgets nor repeats one. The delay before attempt n + 1 is
    `first * factor ** (n - 1)`, at most `longest`; with `jitter` it is between half of that and all of it.
    """

    attempts: int = 5
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    longest: timedelta = timedelta(minutes=5)
    jitter: bool = True

    never: ClassVar[Retry]
    """One attempt, then the dead letters."""
    forever: ClassVar[Retry]
    """Never given up; the key waits until it works."""

    def __post_init__(self) -> None:
        durations = cast("tuple[object, ...]", (self.first, self.longest))
        if not all(isinstance(duration, timedelta) for duration in durations):
            raise DefinitionError(
                f"Retry(first={self.first!r}, longest={self.longest!r}): both are durations, timedelta(seconds=1) or seconds(1)"
            )
        if self.attempts < 1 or self.factor < 1 or self.first < timedelta() or self.longest < timedelta():
            raise DefinitionError(
                f"{self!r}: attempts and factor are at least 1, first and longest are not negative durations"
            )


Retry.never = Retry(attempts=1)
Retry.forever = Retry(attempts=2**31)

Retries: TypeAlias = Retry | Mapping[type[Exception], Retry]
"""One policy for every exception, or one by type: the nearest class of the exception's own ancestry decides."""


def policy_for(retries: Retries | None, error: BaseException, default: Retry) -> Retry:
    """The policy for this exception; `default` when none is declared for it."""
    if retries is None:
        return default
    if isinstance(retries, Retry):
        return retries
    for kind in type(error).__mro__:
        if kind in retries:
            return retries[kind]
    return default


def delay_seconds(retry: Retry, attempts: int, chance: float) -> float:
    """How long to wait after `attempts` failed ones; `chance` in [0, 1) spreads the jitter."""
    longest = retry.longest.total_seconds()
    growth = min(retry.factor ** min(attempts - 1, 64), 1e12)
    delay = min(retry.first.total_seconds() * growth, longest)
    return delay * (0.5 + chance / 2) if retry.jitter else delay
