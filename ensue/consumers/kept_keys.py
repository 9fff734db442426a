"""The keys of a direct subscription that the log holds messages of: their later messages wait behind these, in the log, too.

A key is held from the moment one of its messages was kept until the log is done with the last of them: its progress is past it and
no lane of the key is left. That is looked up from time to time; meanwhile a key is held rather too long than too short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ensue.consumers.routing import position_of, segment_of
from ensue.errors import StorageFull, TryAgain
from ensue.observe.signals import Observer, WriterTrouble
from ensue.store.base import Consumer, Store, Term
from ensue.world import World

__all__ = ["KeptKeys"]

RETURN_SECONDS = 1.0
"""How often to look whether the log is done with them."""
STORAGE_RETRY_SECONDS = 1.0
PAGE = 1000


class KeptKeys:
    """See the module."""

    def __init__(
        self, consumer: Consumer, store: Store, world: World, observe: Observer, type_names: Sequence[str]
    ) -> None:
        self._consumer = consumer
        self._store = store
        self._world = world
        self._observe = observe
        self._selection = (Term(types=tuple(type_names)),)
        self.positions: dict[bytes, int] = {}
        """With each key that is held a position at or after that of its last message in the log. It stays the same object."""
        self._returning: asyncio.Task[None] | None = None

    def add(self, key: bytes) -> None:
        """A message of the key was kept just now."""
        self.positions[key] = self._store.head()
        self._look_later()

    async def find(self) -> None:
        """Learn which keys the log still holds messages of, also those that other processes kept. Asks a store that cannot be
        reached again. Errors: those of a store that nothing can be read from any more."""
        while True:
            try:
                await self._find()
                break
            except (TryAgain, StorageFull) as error:
                self._trouble(error)
                await self._world.sleep(STORAGE_RETRY_SECONDS)
        self._look_later()

    async def close(self) -> None:
        """Look no more. What is known stays known."""
        returning, self._returning = self._returning, None
        if returning is not None:
            returning.cancel()
            await asyncio.wait({returning})

    async def _find(self) -> None:
        standing = await self._store.standing(self._consumer.id)
        head = self._store.head()
        for lane in standing.lanes:
            if position_of(lane.key_text) is None:  # else it is its own key, and nobody waits for it
                self.positions.setdefault(lane.key, head)
        after = min((row.position for row in standing.progress), default=0)
        while True:
            page = await self._store.read(self._selection, after=after, limit=PAGE)
            for row in page.rows:
                if row[3] is not None:
                    self.positions[row[3]] = max(row[0], self.positions.get(row[3], 0))
            after = page.reached
            if after >= self._store.head():
                break

    def _look_later(self) -> None:
        if self.positions and (self._returning is None or self._returning.done()):
            self._returning = self._world.spawn(self._return(), name=f"{self._consumer.name}: kept keys")

    async def _return(self) -> None:
        while self.positions:
            await self._world.sleep(RETURN_SECONDS)
            seen = dict(self.positions)
            try:
                standing = await self._store.standing(self._consumer.id)
            except (TryAgain, StorageFull) as error:
                self._trouble(error)
                continue
            behind = {lane.key for lane in standing.lanes}
            marks = {row.segment: row.position for row in standing.progress}
            for key, position in seen.items():
                done = key not in behind and marks[segment_of(key, self._consumer.segments)] >= position
                if done and self.positions.get(key) == position:
                    del self.positions[key]

    def _trouble(self, error: Exception) -> None:
        self._observe(
            WriterTrouble(consumer=self._consumer.name, error=str(error), retry_in_seconds=STORAGE_RETRY_SECONDS)
        )
