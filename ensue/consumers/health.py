"""Whether a consumer fails because of single events, or as a whole: a bug or an outage.

Too many keys failing without one success, or too many parked: then it *trips*. While it is tripped nothing more is parked,
and one delivery at a time probes, after 1, 2, 4 … 60 seconds. The first success resumes it. What is true here is written to
the consumer's row, as news for people and for waits; nothing depends on that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ensue.errors import GiveUp, TryAgain
from ensue.observe.signals import ConsumerResumed, ConsumerTripped, Observer
from ensue.store.base import Checkpoints, Consumer
from ensue.world import World

__all__ = ["TRIP_FAILURES", "Health"]

TRIP_FAILURES = 20
TRIP_PARKED = 1000
PROBE_FIRST_SECONDS, PROBE_LONGEST_SECONDS = 1.0, 60.0
STATUS_RETRY_SECONDS = 1.0


class Health:
    """`tripped` is the reason, or None. `changed` is called when it trips or resumes."""

    def __init__(
        self,
        store: Checkpoints,
        world: World,
        consumer: Consumer,
        observe: Observer,
        changed: Callable[[], None],
        *,
        failures: int | None = TRIP_FAILURES,
    ) -> None:
        """With `failures` None it trips by what is parked alone."""
        self.tripped = consumer.reason or "no reason is known" if consumer.status == "tripped" else None
        self.quiet = False
        """Write no status any more: the consumer is paused, or stops."""
        self._store = store
        self._world = world
        self._consumer = consumer
        self._observe = observe
        self._changed = changed
        self._failures = failures
        self._failing: set[bytes] = set()
        self._probe_at = 0.0
        self._probe_wait = PROBE_FIRST_SECONDS
        self._status: asyncio.Task[None] | None = None

    def failed(self, key: bytes, error: str, parked: int) -> None:
        """A delivery of this key failed; `parked` keys of the consumer are parked."""
        self._failing.add(key)
        if self.tripped is not None:
            return
        if self._failures is not None and len(self._failing) >= self._failures:
            self._trip(f"{len(self._failing)} keys in a row failed without a success; the last: {error}")
        elif parked > TRIP_PARKED:
            self._trip(f"more than {TRIP_PARKED} keys are parked; the last: {error}")

    def succeeded(self, parked: Callable[[], int]) -> None:
        """A delivery succeeded."""
        if self._failing:
            self._failing.clear()
        if self.tripped is not None and parked() <= TRIP_PARKED:
            self.tripped = None
            self._tell()
            self._observe(ConsumerResumed(consumer=self._consumer.name))

    # ------------------------------------------------------------------------------------------------------ probing

    @property
    def probe_due(self) -> bool:
        return self._world.monotonic() >= self._probe_at

    @property
    def seconds_to_probe(self) -> float:
        return self._probe_at - self._world.monotonic()

    def probed(self) -> None:
        """A delivery was started; while tripped it is the probe, and the next one comes later."""
        if self.tripped is not None:
            self._probe_wait = min(self._probe_wait * 2, PROBE_LONGEST_SECONDS)
            self._probe_at = self._world.monotonic() + self._probe_wait

    def _trip(self, reason: str) -> None:
        self.tripped = reason
        self._probe_wait = PROBE_FIRST_SECONDS
        self._probe_at = self._world.monotonic() + self._probe_wait
        self._tell()
        self._observe(ConsumerTripped(consumer=self._consumer.name, reason=reason))

    # ------------------------------------------------------------------------------------------------------- status

    def _tell(self) -> None:
        self._changed()
        if self._status is None or self._status.done():
            self._status = self._world.spawn(self._write_status(), name=f"{self._consumer.name}: status")

    async def _write_status(self) -> None:
        """Until the row says what is true. A store that cannot be written is told of by those who need it."""
        written: str | None = ""
        while written != self.tripped and not self.quiet:
            reason = self.tripped
            try:
                await self._store.set_status(self._consumer.id, "tripped" if reason else "active", reason)
            except TryAgain:
                await self._world.sleep(STATUS_RETRY_SECONDS)
            except GiveUp:
                return
            else:
                written = reason
