"""Small events for tests of patterns: `a1@5` is an event of kind a and value 1 at second 5."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ensue import Event
from ensue.patterns.operator import Batch

__all__ = ["START", "Letter", "events", "fed", "is_", "second", "seconds_of", "shown"]

START = datetime(2026, 1, 1, tzinfo=UTC)


class Letter(Event, key="k"):
    k: str
    kind: str
    value: int = 0


def is_(kind: str) -> Callable[[Letter], bool]:
    return lambda letter: letter.kind == kind


def events(text: str, key: str = "k") -> list[tuple[datetime, Letter]]:
    """One a second, where no time is said."""
    found: list[tuple[datetime, Letter]] = []
    for number, word in enumerate(text.split()):
        name, _, at = word.partition("@")
        letter = Letter(k=key, kind=name[0], value=int(name[1:] or 0))
        found.append((START + timedelta(seconds=float(at or number)), letter))
    return found


def second(number: float) -> datetime:
    return START + timedelta(seconds=number)


def seconds_of(time: datetime) -> float:
    return (time - START).total_seconds()


def fed(text: str, *, key: str = "k", start: int = 1) -> Batch:
    """The same as a batch; times are the seconds themselves."""
    given = events(text, key)
    return Batch(
        events=[letter for _, letter in given],
        times=[int(seconds_of(time)) for time, _ in given],
        positions=list(range(start, start + len(given))),
    )


def shown(match: Any) -> str:
    """What each step took: `a1 (b1 b2) -`."""
    return " ".join(
        _shown(value) for name, value in vars(match).items() if name not in ("id", "key", "started", "ended")
    )


def _shown(took: Any) -> str:
    if took is None:
        return "-"
    if isinstance(took, Letter):
        return f"{took.kind}{took.value or ''}"
    if isinstance(took, tuple):
        return f"({' '.join(map(_shown, took))})"
    return f"[{shown(took)}]"
