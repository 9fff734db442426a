"""Faults of a store that its real code cannot be made to show: the answer of a commit that gets lost."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar, cast

from ensue.errors import OutcomeUnknown
from ensue.store.base import Log, Request, Written
from ensue.testing.simulation.simulated import SimulatedWorld

__all__ = ["forgetful"]

L = TypeVar("L", bound=Log)


def forgetful(store: L, world: SimulatedWorld) -> L:
    """The same store, except that now and then a write is stored and its caller is told `OutcomeUnknown`.

    Everything else is passed on. Faults come from the tape, under `the answer of a commit is lost`.
    """
    return cast(L, _Forgetful(store, world))


class _Forgetful:
    def __init__(self, store: Log, world: SimulatedWorld) -> None:
        self._store = store
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, request: Request) -> Awaitable[Written]:
        # The request is queued by this very call, so that requests keep the order of their calls.
        answer = self._store.write(request)
        if not self._world.fault("the answer of a commit is lost"):
            return answer
        return self._world.spawn(_lose(answer), name="lost answer")


async def _lose(answer: Awaitable[Written]) -> Written:
    written = await answer
    raise OutcomeUnknown(
        f"the request was sent, and its answer was lost (positions {written.first} to {written.last} in truth)."
        " Ask again with the same idempotency key."
    )
