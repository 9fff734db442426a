"""One command that is sent, or one query that is asked: who asks, with what key, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec

from ensue.events.message import Command, Query
from ensue.events.recorded import Position, instant

if TYPE_CHECKING:
    from ensue.consumers.handling import Inside
    from ensue.world import World

__all__ = ["PRINCIPAL", "Answer", "Call", "Principal", "Proceed"]

M_co = TypeVar("M_co", bound="Command[Any] | Query[Any]", covariant=True)

PRINCIPAL = "principal"
"""The header under which the events of a command say who sent it."""


class Principal(Protocol):
    """Who asks, as an object of your own: `id` is what the events of a command record."""

    @property
    def id(self) -> str: ...


class Call(Generic[M_co]):
    """Ask for it with a parameter annotated `Call`, in handlers of commands and queries; middleware always gets it. Time, chance
    and ids asked of it are those of the world the application runs in.

    `Call[Transfer | Withdraw]` as the annotation of a middleware says that it is for these alone.
    """

    __slots__ = (
        "_asked",
        "_world",
        "attempt",
        "handler",
        "headers",
        "idempotency_key",
        "inside",
        "message",
        "principal",
        "traceparent",
    )

    def __init__(
        self,
        message: M_co,
        world: World,
        *,
        handler: str,
        principal: object = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        traceparent: str | None = None,
        inside: Inside | None = None,
    ) -> None:
        self._world = world
        self._asked = world.now()
        self.message = message
        """The command or the query."""
        self.handler = handler
        """The name of the function that decides or answers it."""
        self.principal = principal
        """Who asks: what was given to `send`, `ask`, `stream` or `watch`, as it was given; None where nobody said."""
        self.idempotency_key = idempotency_key
        self.headers: Mapping[str, str] = headers or {}
        self.traceparent = traceparent
        self.attempt = 1
        """How often the command was decided, this time included: more than once where it met others."""
        self.inside = inside
        """The handling of an event that sends this command, if one does."""

    @property
    def principal_id(self) -> str | None:
        """Who asks, as events record it."""
        principal: Any = self.principal
        return principal if principal is None or isinstance(principal, str) else principal.id

    @property
    def time(self) -> datetime:
        """When it was asked: the same at every attempt."""
        return instant(self._asked)

    def now(self) -> datetime:
        """The present time."""
        return instant(self._world.now())

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._world.random()

    def new_id(self) -> str:
        """A new UUIDv7."""
        return str(UUID(bytes=self._world.new_id()))

    def __repr__(self) -> str:
        return f"<Call of {type(self.message).__name__} by {self.principal_id or 'nobody named'}>"


class Answer(msgspec.Struct, frozen=True):
    """What came of a call: what the handler answered, and for a command where its events are."""

    result: Any
    position: Position | None = None
    replayed: bool = False
    """The idempotency key was known: this is the first answer, nothing was stored."""


class Proceed(Protocol):
    """Goes on to the next middleware, and from the last one to the handler. For a command it returns when that is durable."""

    def __call__(self) -> Awaitable[Answer]: ...
