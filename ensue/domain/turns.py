"""Turns: the decisions of one process on one state come one after another, in the order in which they were asked for.

Whoever has a turn may take those along who wait for it, and decide for them, too (`together.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

__all__ = ["Turns"]

J = TypeVar("J")


class _Waiter(Generic[J]):
    """Somebody in a line: it holds the keys before the one it waits for. Its future says whether it was taken along."""

    __slots__ = ("job", "keys", "number", "turn")

    def __init__(self, keys: Sequence[Hashable], number: int, job: J | None) -> None:
        self.keys = keys
        self.number = number
        self.job = job
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Turns(Generic[J]):
    """Locks by key, held as long as a key is in use and no longer. Those who take several take them in one order."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[_Waiter[J]]] = {}

    def __len__(self) -> int:
        """How many keys are taken."""
        return len(self._lines)

    def taken(self, keys: Sequence[Hashable]) -> bool:
        """Whether somebody has one of these keys."""
        return any(key in self._lines for key in keys)

    async def take(self, keys: Sequence[Hashable], job: J | None = None) -> bool:
        """Wait for all of these keys, which come in the order that everybody keeps. True where somebody has taken the `job` along
        instead: then the keys are theirs. Who is cancelled holds none of them."""
        for number, key in enumerate(keys):
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = deque()
                continue
            waiter = _Waiter(keys, number, job)
            line.append(waiter)
            try:
                taken_along = await waiter.turn
            except BaseException:
                turn = waiter.turn
                if not turn.done() or turn.cancelled() or not turn.result():
                    if turn.done() and not turn.cancelled():
                        self._give(key)  # it came at the same moment
                    self.give(keys[:number])
                raise
            if taken_along:
                return True
        return False

    def take_along(self, keys: Sequence[Hashable], most: int) -> tuple[list[J], list[Hashable]]:
        """The jobs of those who wait for one of these keys, which the caller has, and for nothing that anybody else has; and the keys
        that the caller has from now on as well. Nobody is passed over: a line is left at the first who cannot come along."""
        held, jobs, more = set(keys), list[J](), list[Hashable]()
        for key in keys:
            line = self._lines[key]
            while line and len(jobs) < most:
                waiter = line[0]
                if waiter.turn.done():
                    line.popleft()
                    continue
                rest = waiter.keys[waiter.number + 1 :]
                if waiter.job is None or any(one in self._lines and one not in held for one in rest):
                    break
                line.popleft()
                more.extend(waiter.keys[: waiter.number])
                for one in rest:
                    if one not in self._lines:
                        self._lines[one] = deque()
                        more.append(one)
                held.update(waiter.keys)
                waiter.turn.set_result(True)
                jobs.append(waiter.job)
        return jobs, more

    def waited_for(self, keys: Sequence[Hashable]) -> bool:
        """Whether anybody waits for one of these keys, which the caller has."""
        return any(self._lines[key] for key in keys)

    def give(self, keys: Sequence[Hashable]) -> None:
        """Each to whoever has waited longest."""
        for key in keys:
            self._give(key)

    def _give(self, key: Hashable) -> None:
        line = self._lines[key]
        while line:
            waiter = line.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(False)
                return
        del self._lines[key]
