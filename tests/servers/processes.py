"""Processes of the operating system and everything they started, waited for and killed by a deadline. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

__all__ = ["ServerError", "die_with_parent", "family", "has_ended", "kill_family", "until"]

PATIENCE_SECONDS = 60.0
GLANCE_SECONDS = 0.005
PR_SET_PDEATHSIG = 1


class ServerError(RuntimeError):
    """A server did not do what it was told. The text says what it was, and ends with what the server itself said."""


def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look again and again until `holds` is true; `ServerError` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise ServerError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(GLANCE_SECONDS)


def die_with_parent(number: signal.Signals) -> None:
    """From now on the kernel sends this signal to the calling process when its parent dies. A change of user undoes it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def family(pid: int) -> list[int]:
    """A process and all that came from it, as far as they are still there."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[1]
                children[int(parent)].append(int(entry.name))
    found = [pid]
    for one in found:
        found += children[one]  # the list grows while it is walked
    return found


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; whoever started it may still have to be told (a zombie has ended)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 0)[0])
    finally:
        os.close(handle)


def kill_family(pid: int, seconds: float = PATIENCE_SECONDS) -> None:
    """SIGKILL for a process and all that came from it. When this returns, none of them runs or holds anything any more."""
    handles: list[int] = []
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # so that it starts nothing more while its family is looked up
        for member in family(pid):
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(member))
                signal.pidfd_send_signal(handles[-1], signal.SIGKILL)
        deadline = time.monotonic() + seconds
        for handle in handles:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ServerError(f"process {pid} or one of its children survived SIGKILL for {seconds:.0f} s")
    finally:
        for handle in handles:
            os.close(handle)
