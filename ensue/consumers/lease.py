"""How long this process may act as an owner, and of how much: its heartbeat, and who else lives.

The heartbeat is measured by a clock that never goes back.

The lease on disk is for the others; the owner itself counts from before its last successful beat was sent, so that it
stops before anybody may take over. A process paused in between is caught by the fence of its next commit.

Who else lives is read after each beat, twice a second while there are others, and when a lease of theirs ends. When the wall
clock was set, all leases look as if they had ended, or would not for long: then everybody beats, and nobody takes anything
until all have. Whenever this process may have looked dead to the others while it was not, it *doubts* that it still owns what
it holds: one who has nothing to commit would never hear that it was fenced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from ensue.consumers.ownership import share
from ensue.store.base import Checkpoints, Node
from ensue.store.nodes import living
from ensue.world import World

__all__ = ["BEAT_SECONDS", "LEASE_SECONDS", "Lease", "Turn"]

LEASE_SECONDS = 10.0
BEAT_SECONDS = 3.0
_START_SECONDS = 8.0
_LOOK_SECONDS = 0.5
"""How late it is noticed that another process stops, or has died on this machine; elsewhere that shows when its lease ends."""
_SHORTLY = 0.01
_CLOCK_TOLERANCE = 1.0
_LOOKS_IN_DOUBT = 2
"""A claim that was on its way when this process beat again may be stored a moment later."""


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
    """The row of this process, kept alive by `beat` every `BEAT_SECONDS`, and its share beside the others that live."""

    def __init__(self, store: Checkpoints, world: World, *, host: str, pid: int) -> None:
        self._store = store
        self._world = world
        self.turn = Turn(world)
        self._beaten_at = float("-inf")
        self.doubts = 0
        """Grows when what is owned should be compared with the store."""
        self._in_doubt = 0
        self._able: Counter[int] = Counter()
        self._first_end: int | None = None
        self._misled_at = self._all_beaten_at = float("-inf")
        now = world.now()
        self._wall, self._wall_at = now, world.monotonic()
        self.node = Node(id=world.new_id(), host=host, pid=pid, started_at=now, expires_at=now)

    async def beat(self, can: tuple[int, ...]) -> None:
        """Renew, and say which consumers this process can run. Errors of the store are raised; the lease then runs on until
        it ends."""
        sent_at = self._world.monotonic()
        expires_at = self._world.now() + int(LEASE_SECONDS * 1_000_000)
        self.node = msgspec.structs.replace(self.node, expires_at=expires_at, can=can)
        await self._store.beat(self.node)
        if self._beaten_at > float("-inf") and not self.held:
            self._in_doubt = _LOOKS_IN_DOUBT
        self._beaten_at = sent_at

    async def end(self) -> None:
        """Let the row expire now: what this process still holds may be taken."""
        await self._store.beat(msgspec.structs.replace(self.node, expires_at=0, can=()))

    async def look(self) -> bool:
        """See who else lives and what they can run. True when there may be something to claim, to give up or to compare.
        Errors of the store are raised."""
        if not self.may_judge:
            return False
        nodes = living(await self._store.nodes(), self._world.now())
        others = [node for node in nodes if node.id != self.node.id]
        if len(others) == len(nodes):
            self._misled()
        in_doubt = self._in_doubt > 0
        if in_doubt and len(others) < len(nodes):
            self._in_doubt -= 1
            self.doubts += 1
        able = Counter(consumer for node in (self.node, *others) for consumer in node.can)
        changed, self._able = able != self._able or in_doubt, able
        self._first_end = min((node.expires_at for node in others), default=None)
        return changed

    @property
    def seconds_to_look(self) -> float:
        """Until the next look. A process that is alone looks when it beats."""
        if self._first_end is None:
            return _LOOK_SECONDS if self._in_doubt else BEAT_SECONDS
        ends_in = (self._first_end - self._world.now()) / 1_000_000
        return max(_SHORTLY, min(_LOOK_SECONDS, ends_in + _SHORTLY))

    @property
    def may_judge(self) -> bool:
        """Whether leases say who lives."""
        return self._notice_clock() >= self._all_beaten_at

    @property
    def misleads(self) -> bool:
        """Others may take this process for dead until it beats."""
        self._notice_clock()
        return self._misled_at > self._beaten_at

    def _notice_clock(self) -> float:
        """Whether the wall clock was set since this was last asked. Returns the time by the other clock."""
        now, monotonic = self._world.now(), self._world.monotonic()
        if abs((now - self._wall) / 1_000_000 - (monotonic - self._wall_at)) > _CLOCK_TOLERANCE:
            self._all_beaten_at = monotonic + BEAT_SECONDS + 1.0
            self._misled()
        self._wall, self._wall_at = now, monotonic
        return monotonic

    def _misled(self) -> None:
        self._misled_at, self._in_doubt = self._world.monotonic(), _LOOKS_IN_DOUBT

    def share(self, consumer: int, segments: int) -> int:
        """How many segments of a consumer this process may own, by the last look."""
        return share(segments, self._able[consumer])

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
