"""How far the building of a version is, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ensue.consumers.node import VIEWS
from ensue.domain.views.registry import Version
from ensue.store.base import Consumer

__all__ = ["numbered", "percent", "seconds_left", "used"]


def percent(version: Version, head: int) -> float:
    """How much of the log a version that is built has read."""
    return 100.0 * version.position / head if head else 100.0


def seconds_left(version: Version, head: int, now: int) -> float | None:
    """How long the building will take at the rate so far; None where nothing is known."""
    if version.began_at is None or version.position <= 0 or now <= version.began_at:
        return None
    return max(0.0, (head - version.position) * (now - version.began_at) / 1e6 / version.position)


def numbered(consumers: Iterable[Consumer], name: str) -> list[tuple[int, Consumer]]:
    """The consumers of a view's versions, by the numbers of these."""
    prefix = f"{VIEWS}{name}.v"
    found = [(one.name.removeprefix(prefix), one) for one in consumers if one.name.startswith(prefix)]
    return [(int(number), one) for number, one in found if number.isdecimal()]


def used(consumers: Iterable[Consumer], name: str) -> int:
    """The highest number of a version that ever had a consumer."""
    return max((number for number, _ in numbered(consumers, name)), default=0)
