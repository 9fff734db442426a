"""What a handler may ask about where and when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from ensue.events.recorded import instant
from ensue.events.stored import Meta, Row, decode_meta, tenant_of

if TYPE_CHECKING:
    from ensue.world import World

__all__ = ["Context"]


class Context:
    """Ask for it with a parameter annotated `Context`. Time, chance and ids asked of it are those of the world the
    application runs in, so that a handler behaves in simulation as it does outside."""

    __slots__ = ("_meta", "_row", "_world", "attempt", "idempotency_key", "key")

    def __init__(self, row: Row, world: World, *, key: str, attempt: int, idempotency_key: str) -> None:
        self._row = row
        self._world = world
        self._meta: Meta | None = None
        self.key = key
        """The key of this delivery, `name=value`."""
        self.attempt = attempt
        """1 for the first attempt."""
        self.idempotency_key = idempotency_key
        """The same on every attempt at this event by this consumer: give it to what you call outside."""

    @property
    def meta(self) -> Meta:
        if self._meta is None:
            self._meta = decode_meta(self._row[10])
        return self._meta

    @property
    def tenant(self) -> str | None:
        """Whose the event is, where tenants share a log; None in one without tenants."""
        return tenant_of(self.meta)

    @property
    def event_id(self) -> str:
        return str(UUID(bytes=self._row[1]))

    @property
    def position(self) -> int:
        """The event's position in the log."""
        return self._row[0]

    @property
    def time(self) -> datetime:
        """When the event happened."""
        return instant(self.meta.time)

    @property
    def correlation_id(self) -> str:
        return str(UUID(bytes=self.meta.correlation))

    @property
    def causation_id(self) -> str | None:
        return str(UUID(bytes=self.meta.causation)) if self.meta.causation else None

    @property
    def headers(self) -> Mapping[str, str]:
        return self.meta.headers or {}

    def now(self) -> datetime:
        """The present time."""
        return instant(self._world.now())

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._world.random()

    def new_id(self) -> str:
        """A new UUIDv7."""
        return str(UUID(bytes=self._world.new_id()))
