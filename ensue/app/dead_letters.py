"""Events that were given up, for the people who decide what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from ensue.errors import Conflict, InvalidEvent
from ensue.events.message import Event
from ensue.store.base import DeadLetter

if TYPE_CHECKING:
    from ensue.app.engine import Engine

__all__ = ["DeadLetters"]


class DeadLetters:
    """Each parks its key for its consumer; later events of the key wait behind it, in order.

    Every change is a compare-and-set: `Conflict` when somebody else was faster. It is taken up at once by whichever
    process owns the key.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def list(self, *, consumer: str | None = None) -> AsyncIterator[DeadLetter]:
        """Those that are open, oldest first."""
        engine = self._engine()
        numbers = {row.name: row.id for row in await engine.store.consumers()}
        if consumer is not None and consumer not in numbers:
            raise ValueError(f"no consumer is called {consumer!r}; there are: {', '.join(numbers)}")
        for letter in await engine.store.dead_letters(consumer=numbers[consumer] if consumer else None):
            yield letter

    async def retry(self, id: int, /, *, event: Event | None = None, by: str = "") -> None:
        """Handle it again, with all its attempts; with `event`, this payload instead, for this consumer only.

        Errors: `Conflict`, `InvalidEvent` for an event of another type or version than the stored one; `ValueError` for an id that there is not.
        """
        await self._engine().release(await self._open(id), event=event, by=by)

    async def discard(self, id: int, /, *, note: str, by: str = "") -> None:
        """Pass over it for good. `note` says why, and stays. Errors: as `retry`, `InvalidEvent` without a note."""
        if not note.strip():
            raise InvalidEvent("a discarded event needs a note that says why")
        await self._engine().release(await self._open(id), discard=True, note=note, by=by)

    async def _open(self, id: int) -> DeadLetter:
        letters = await self._engine().store.dead_letters(open_only=False)
        letter: Any = next((letter for letter in letters if letter.id == id), None)
        if letter is None:
            raise ValueError(f"there is no dead letter {id}")
        if letter.resolution is not None:
            raise Conflict(f"the dead letter {id} was {letter.resolution} already", expected=0, actual=id)
        found: DeadLetter = letter
        return found
