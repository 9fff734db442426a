"""Whether a process was forked: asked with each statement, and so without asking the operating system each time."""

from __future__ import annotations

import os

__all__ = ["forks"]

_count = [0]


def forks() -> int:
    """A number that is another in a process that was forked from this one."""
    return _count[0]


def _forked() -> None:
    _count[0] += 1


os.register_at_fork(after_in_child=_forked)
