"""The port for reading rows beside the log: functions that look, in one consistent snapshot, and write nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ensue.store.base import SqlTransaction

__all__ = ["ONLY_READS", "Looking"]

T = TypeVar("T")

ONLY_READS = "a query only reads, and this statement would write: send a command, or use app.transact"


class Looking(Protocol):
    """A store whose capabilities say `sql`."""

    async def look(self, function: Callable[[SqlTransaction], T], /) -> T:
        """Run a function whose statements all see the same committed rows: those of the moment of its first statement, or later
        ones than any commit that was acknowledged before. It never waits for the writer, nor the writer for it; a store on a
        server runs it on a thread, so many at once as it has connections for, and may run it a second time when the first
        connection turns out to be cut.

        Errors: the function's own; `Misuse` for a statement that would write or end the transaction; `Unavailable`.
        """
        ...
