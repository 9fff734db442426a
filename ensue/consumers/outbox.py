"""The outbox: a consumer of the log whose effect is a confirmed message.

It has no table. An event is in the log with the effects it belongs to, or not at all; the outbox reads it there, sends it, and
is done with it when the broker has confirmed. States of one delivery: running (being sent; of each key one at a time, so that
first arrivals are in the key's order), finished (confirmed), committed. A crash before the last sends it again under the same
source and id, by which receivers know it. While the broker cannot be reached a delivery runs: nothing is counted, nothing is
parked, the log holds what waits. What the broker will never take is parked, and with it its key.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.channels import Channel
from ensue.channels.connection import BROKEN
from ensue.channels.outgoing import Outgoing
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.handling import Handling, Scope
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry
from ensue.consumers.wire import Wire
from ensue.errors import MessageRefused
from ensue.events.registry import Registry
from ensue.events.stored import Draft, decode_meta
from ensue.world import World

__all__ = ["OutboxHandling"]


class OutboxHandling(Handling):
    """Sends rows of the log as they are, undecoded. `connect` must be called before anything is handled."""

    def __init__(
        self, definition: HandlerDefinition, registry: Registry, world: World, scope: Scope, channel: Channel
    ) -> None:
        super().__init__(definition, registry, world, scope, retry=Retry.forever)
        self.channel = channel
        self._wire: Wire | None = None
        self._outgoing: Outgoing | None = None

    def connect(self, wire: Wire, outgoing: Outgoing) -> None:
        self._wire, self._outgoing = wire, outgoing

    def policy(self, error: BaseException) -> Retry:
        """What is refused now is refused again."""
        return Retry.never if isinstance(error, MessageRefused) else Retry.forever

    async def acall(self, slot: Slot) -> Sequence[Draft]:
        assert self._wire is not None, "connected before it runs"
        assert self._outgoing is not None, "connected before it runs"
        row = slot.row
        origin = decode_meta(row[10]).origin
        if origin is not None and origin.channel == self.channel.name:
            return ()  # it came by this very channel
        if slot.data is not None:
            row = (*row[:11], slot.data)
        message = self._wire.of_row(row, *self._types[row[2]])
        while True:
            try:
                await self._outgoing.send(message)
            except BROKEN:
                continue  # the connection waits before it is tried again, and says so
            return ()
