"""Turns: the decisions of one process on one state come one after another, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence

__all__ = ["Turns"]


class Turns:
    """Locks by key, held as long as a key is in use and no longer. Those who take several take them in one order."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        """How many keys are taken."""
        return len(self._lines)

    async def take(self, keys: Sequence[Hashable]) -> None:
        """All of these keys, which come in the order that everybody keeps. Who is cancelled holds none of them."""
        for number, key in enumerate(keys):
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = deque()
                continue
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._give(key)  # it came at the same moment
                self.give(keys[:number])
                raise

    def give(self, keys: Sequence[Hashable]) -> None:
        """Each to whoever has waited longest."""
        for key in keys:
            self._give(key)

    def _give(self, key: Hashable) -> None:
        line = self._lines[key]
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._lines[key]
