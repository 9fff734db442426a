"""What a write returns, and how to wait for what it causes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from ensue.app.checks import checked_seconds
from ensue.events.message import Event
from ensue.events.recorded import Position

__all__ = ["WAIT", "Receipt", "Waiting"]

R_co = TypeVar("R_co", covariant=True)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)

WAIT = timedelta(seconds=30)


class Waiting(Protocol):
    """Who can wait for consumers: the open application."""

    async def wait(
        self, position: Position, consumers: Sequence[Callable[..., object] | str], timeout_seconds: float, /
    ) -> None: ...

    async def first(self, position: Position, types: Sequence[type[Event]], timeout_seconds: float, /) -> Event: ...


class Receipt(Generic[R_co]):
    """What a write returns, when it is durable."""

    __slots__ = ("_waiting", "position", "replayed", "result")

    def __init__(self, waiting: Waiting, position: Position, result: R_co, *, replayed: bool) -> None:
        self._waiting = waiting
        self.position = position
        """Where the events are: the token that reads and waits take."""
        self.result = result
        self.replayed = replayed
        """The idempotency key was known: nothing was stored, this is the first write's receipt."""

    def __repr__(self) -> str:
        return f"<Receipt {self.position}{' replayed' if self.replayed else ''}>"

    async def wait(self, *consumers: Callable[..., object] | str, timeout: timedelta = WAIT) -> Self:
        """Until these consumers (handlers, or their names) are done with what was written; without any, until all that
        it causes is done, directly or not, by every consumer of the log, in every process.

        A consumer that does not handle these events is done with them at once: for one that reacts to what they cause, wait
        without names.

        Errors: `HandlerFailed` at once when one of them failed for good, waits behind such a failure, is paused or
        tripped, or nobody runs it; `NotCaughtUp` after `timeout`; `InsideHandler` in a handler.
        """
        await self._waiting.wait(self.position, consumers, checked_seconds(timeout))
        return self

    @overload
    async def first(self, a: type[E1], /, *, timeout: timedelta = WAIT) -> E1: ...
    @overload
    async def first(self, a: type[E1], b: type[E2], /, *, timeout: timedelta = WAIT) -> E1 | E2: ...
    @overload
    async def first(self, a: type[E1], b: type[E2], c: type[E3], /, *, timeout: timedelta = WAIT) -> E1 | E2 | E3: ...
    async def first(self, *types: type[Event], timeout: timedelta = WAIT) -> Any:
        """The first event of these types that this write caused, directly or not: a request and its typed reply.

        Errors: as `wait`; `NotCaughtUp` also when all that the write caused is done and no such event came.
        """
        return await self._waiting.first(self.position, types, checked_seconds(timeout))
