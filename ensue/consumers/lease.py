"""How long this process may act as an owner: the node's heartbeat, measured by a clock that never goes back.

The lease on disk is for the others; the owner itself counts from before its last successful beat was sent, so that it
stops before anybody may take over. A process paused in between is caught by the fence of its next commit.
"""

from __future__ import annotations

from ensue.store.base import Checkpoints, Node
from ensue.world import World

__all__ = ["BEAT_SECONDS", "LEASE_SECONDS", "Lease"]

LEASE_SECONDS = 10.0
BEAT_SECONDS = 3.0
_START_SECONDS = 8.0


class Lease:
    """The row of this process, kept alive by `beat` every `BEAT_SECONDS`."""

    def __init__(self, store: Checkpoints, world: World, *, host: str, pid: int) -> None:
        self._store = store
        self._world = world
        self._beaten_at = float("-inf")
        now = world.now()
        self.node = Node(id=world.new_id(), host=host, pid=pid, started_at=now, expires_at=now)

    async def beat(self) -> None:
        """Renew. Errors of the store are raised; the lease then runs on until it ends."""
        sent_at = self._world.monotonic()
        expires_at = self._world.now() + int(LEASE_SECONDS * 1_000_000)
        node = self.node
        self.node = Node(id=node.id, host=node.host, pid=node.pid, started_at=node.started_at, expires_at=expires_at)
        await self._store.beat(self.node)
        self._beaten_at = sent_at

    async def end(self) -> None:
        """Let the row expire now: what this process still holds may be taken."""
        node = self.node
        ended = Node(id=node.id, host=node.host, pid=node.pid, started_at=node.started_at, expires_at=0)
        await self._store.beat(ended)

    @property
    def may_start(self) -> bool:
        """New work may begin."""
        return self._world.monotonic() - self._beaten_at < _START_SECONDS

    @property
    def seconds_left(self) -> float:
        """Until it ends, if no beat renews it."""
        return self._beaten_at + LEASE_SECONDS - self._world.monotonic()

    @property
    def held(self) -> bool:
        """What runs may still be committed. When this is False, everything in memory must be dropped."""
        return self._world.monotonic() - self._beaten_at < LEASE_SECONDS
