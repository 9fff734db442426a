"""What is waited for: a workflow is a handler that may take months. Declared here, not built in this version.

    @office.workflow
    async def expense(event: ExpenseSubmitted, flow: Flow, books: Books) -> ExpensePaid | ExpenseRejected:

A workflow is a plain `async def` that begins at an event and ends by returning what it led to. What it waits for with its
`Flow` is written to the log, so that it goes on after a crash, in another process, where it was. Registering one raises
`NotYetAvailable`, and so does every method of `Flow`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple, overload

import msgspec

from ensue.consumers.handler import Declared
from ensue.consumers.policy import Retries
from ensue.errors import NotYetAvailable
from ensue.events.context import Context
from ensue.events.message import Event

__all__ = ["Approval", "Flow"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A person's answer. `choice` is one of the choices offered; `approved` is whether it was the first of them."""

    approved: bool
    choice: str
    by: str
    comment: str
    at: datetime


class Flow(Context, Declared):
    """A context one can wait with. Declared, not built: every method raises `NotYetAvailable`.

    Between two calls a workflow must compute the same from the same: time, chance and ids come from its context, and
    everything else from a `step`.
    """

    __slots__ = ()
    __ensue_declared__ = "workflows"

    async def step(
        self,
        do: Callable[[*Ts], Awaitable[R]],
        /,
        *arguments: *Ts,
        undo: Callable[[*Ts], Awaitable[object]] | None = None,
        name: str | None = None,
        retry: Retries | None = None,
        timeout: timedelta | None = None,
    ) -> R:
        """Await `do(*arguments)` once and keep its result; from then on this line returns that result.

        `undo` takes the step's own arguments, not its result, so that it also works for a step whose outcome is unknown.
        It is called, last step first, when an exception leaves the workflow, or by `flow.undo()`.
        """
        raise _later()

    async def undo(self) -> None:
        """Undo the finished and the doubtful steps now, last first."""
        raise _later()

    async def sleep(self, duration: timedelta, /) -> None:
        """Go on after this time, however often the process ends meanwhile."""
        raise _later()

    async def sleep_until(self, time: datetime, /) -> None:
        """Go on at this time."""
        raise _later()

    @overload
    async def wait_for(self, a: type[E1], /, *, timeout: timedelta | None = None) -> E1: ...
    @overload
    async def wait_for(self, a: type[E1], b: type[E2], /, *, timeout: timedelta | None = None) -> E1 | E2: ...
    @overload
    async def wait_for(
        self, a: type[E1], b: type[E2], c: type[E3], /, *, timeout: timedelta | None = None
    ) -> E1 | E2 | E3: ...
    async def wait_for(self, *types: type[Event], timeout: timedelta | None = None) -> Any:
        """The next event of these types with the key this workflow began with. Errors: `TimeoutError` after `timeout`."""
        raise _later()

    async def approval(
        self,
        title: str,
        /,
        *,
        to: str,
        choices: tuple[str, ...] = ("approve", "reject"),
        remind: timedelta | None = None,
        escalate_to: str | None = None,
        timeout: timedelta | None = None,
    ) -> Approval:
        """Ask a person and wait for the answer. Errors: `TimeoutError` after `timeout`."""
        raise _later()


def _later() -> NotYetAvailable:
    return NotYetAvailable("workflows are declared, but this version cannot run them yet")
