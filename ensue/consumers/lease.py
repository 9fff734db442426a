"""How long this process may act as an owner: the node's heartbeat, measured by a clock that never goes back.

The lease on disk is for the others; the owner itself counts from before its last successful beat was sent, so that it
stops before anybody may take over. A process paused in between is caught by the fence of its next commit.
"""

from __future__ import annotations

from collections.abc import Callable

from ensue.store.base import Checkpoints, Node
from ensue.world import World

__all__ = ["BEAT_SECONDS", "LEASE_SECONDS", "Lease", "Turn"]

LEASE_SECONDS = 10.0
BEAT_SECONDS = 3.0
_START_SECONDS = 8.0


class Turn:
    """What one segment in this process does at a time: try an event that was in work when a process died. If every segment
    tried its own, each further death would charge all of them, and many deaths from outside would park events that have
    done nothing. It goes to the event that was in work at the fewest deaths, drawn among equals.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._holder: object | None = None
        self._waiting: dict[object, tuple[int, Callable[[], None]]] = {}

    def take(self, who: object, deaths: int, wake: Callable[[], None]) -> bool:
        """Whether it is theirs now. If not they are woken when they should ask again."""
        if self._holder is who:
            return True
        if self._holder is None and not self._waiting:
            self._world.call_later(0.0, self._draw)
        self._waiting[who] = deaths, wake
        return False

    def give_back(self, who: object) -> None:
        """Theirs no more, if it was; and they wait for it no more."""
        self._waiting.pop(who, None)
        if self._holder is who:
            self._holder = None
            self._draw()

    def _draw(self) -> None:
        if self._holder is None and self._waiting:
            fewest = min(deaths for deaths, _ in self._waiting.values())
            equals = [who for who, (deaths, _) in self._waiting.items() if deaths == fewest]
            self._holder = equals[int(self._world.random() * len(equals))]
            _, wake = self._waiting.pop(self._holder)
            wake()


class Lease:
    """The row of this process, kept alive by `beat` every `BEAT_SECONDS`."""

    def __init__(self, store: Checkpoints, world: World, *, host: str, pid: int) -> None:
        self._store = store
        self._world = world
        self.turn = Turn(world)
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
