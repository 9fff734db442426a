"""Processes as a store's rows know them: which are alive, and whether one of this machine is gone before its lease ends.

A process looks for others by their number (pid), which says something only where it was given: within one namespace of
numbers, until the machine starts again. Two containers may bear one host name and count from 1 both, so the name of a
place is the host's name, for people, and a mark of that namespace and start, for comparing.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ensue.store.base import Node

__all__ = ["LONGEST_LEASE", "here", "host_name", "is_gone", "is_living", "living", "to_take"]

LONGEST_LEASE = 60_000_000
"""A lease that ends later than this, in microseconds from now, was made before the clock went back."""
_MARK = "#"


@functools.cache
def here() -> str:
    """The place of this process, for `Node.host`: the host's name, and where the system tells it, the mark."""
    namespace, started = _linked("/proc/self/ns/pid"), _told("/proc/sys/kernel/random/boot_id")
    if not (namespace or started):
        return os.uname().nodename
    mark = hashlib.blake2b(f"{namespace} {started}".encode(), digest_size=4).hexdigest()
    return f"{os.uname().nodename}{_MARK}{mark}"


def _linked(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _told(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def host_name(node: Node) -> str:
    """The host's name alone, for people."""
    return node.host.partition(_MARK)[0]


def is_gone(node: Node) -> bool:
    """Whether it ran in this place and is known to have ended: nobody has to wait for its lease. One that its parent has not
    asked for yet has ended, too, though its number is still taken."""
    if node.host != here() or node.pid == os.getpid():
        return False
    try:
        os.kill(node.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    state = _told(f"/proc/{node.pid}/stat").rpartition(")")[2].split()
    return state[:1] in (["Z"], ["X"])


def is_living(node: Node, now: int) -> bool:
    """Whether its lease runs and it is not known to be gone. `now` is of the clock by which the row was read."""
    return now < node.expires_at < now + LONGEST_LEASE and not is_gone(node)


def living(nodes: Iterable[Node], now: int) -> tuple[Node, ...]:
    """Those that live, as `is_living`."""
    return tuple(node for node in nodes if is_living(node, now))


def to_take(
    owners: Iterable[tuple[int, bytes | None]],
    nodes: Sequence[Node],
    node: Node,
    now: int,
    most: int,
    held: Collection[int],
) -> list[int]:
    """The segments that `node` may claim, see `Checkpoints.claim`: `owners` says whose each segment is, in their order."""
    known = {other.id for other in living(nodes, now)} | {node.id}
    found = list(owners)
    own = [segment for segment, owner in found if owner == node.id and segment not in held]
    free = [segment for segment, owner in found if owner not in known]
    return own + free[: max(0, most - len(own))]
