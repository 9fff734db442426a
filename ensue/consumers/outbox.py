"""The outbox: a consumer of the log whose effect is a confirmed message.

It has no table. An event is in the log with the effects it belongs to, or not at all; the outbox reads it there, sends it, and
is done with it when the broker has confirmed. States of one delivery: running (being sent; of each key one at a time, so that
first arrivals are in the key's order), finished (confirmed), committed. A crash before the last sends it again under the same
source and id, by which receivers know it. While the broker cannot be reached a delivery runs: nothing is counted, nothing is
parked, the log holds what waits. What the broker will never take is parked, and with it its key.

What is to be sent later (`App.publish_later`) is an event of a type of its own, which is its own key and waits for nobody: a
delivery that is not due yet becomes a lane that retries when it is, so it survives restarts and moves between processes as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from ensue.channels import Channel
from ensue.channels.base import Message
from ensue.channels.connection import BROKEN
from ensue.channels.outgoing import Outgoing
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.handling import Handling, NotDue, Scope
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry
from ensue.consumers.wire import Wire, uuid_text
from ensue.errors import InvalidEvent, MessageRefused, Unavailable
from ensue.events.recorded import archived_error
from ensue.events.registry import Registry
from ensue.events.stored import Draft, Meta, decode_meta, encode_meta
from ensue.world import World

__all__ = ["OutboxHandling", "later"]

LONGEST = timedelta(days=3650)


class _Later(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent at `due`, microseconds since 1970."""

    due: int
    type: str
    version: int
    id: str
    meta: bytes
    data: msgspec.Raw


_decode_later = msgspec.json.Decoder(_Later).decode
_encode_later = msgspec.json.Encoder().encode


def later(draft: Draft, channel: Channel, *, due: int, id: bytes, now: int) -> Draft:
    """What a log keeps of an event that is to be sent on the channel when it is due."""
    kept = _Later(
        due=due,
        type=draft.type_name,
        version=draft.type_version,
        id=uuid_text(draft.id),
        meta=draft.meta,
        data=msgspec.Raw(draft.data),
    )
    return Draft(
        id=id,
        type_name=_later_type(channel),
        type_version=1,
        stream=None,
        tags=(),
        meta=encode_meta(Meta(now, decode_meta(draft.meta).correlation)),
        data=_encode_later(kept),
    )


def _later_type(channel: Channel) -> str:
    return f"ensue.Later.{channel.name}"


class OutboxHandling(Handling):
    """Sends rows of the log as they are, undecoded. `connect` must be called before anything is handled."""

    failures_trip = False
    """What fails here is refused for what it is. A broker that is away fails nothing."""

    def __init__(
        self, definition: HandlerDefinition, registry: Registry, world: World, scope: Scope, channel: Channel
    ) -> None:
        super().__init__(definition, registry, world, scope, retry=Retry.forever)
        self.channel = channel
        self.type_names = (*self.type_names, _later_type(channel))
        self.longest_delay_seconds = LONGEST.total_seconds()
        self._wire: Wire | None = None
        self._outgoing: Outgoing | None = None

    def connect(self, wire: Wire, outgoing: Outgoing) -> None:
        self._wire, self._outgoing = wire, outgoing

    def policy(self, error: BaseException) -> Retry:
        """What is refused now is refused again."""
        if isinstance(error, NotDue):
            wait = timedelta(microseconds=max(0, error.due - self._world.now()))
            return Retry(attempts=2**31, first=wait, factor=1.0, longest=LONGEST, jitter=False)
        return Retry.never if isinstance(error, (MessageRefused, InvalidEvent)) else Retry.forever

    async def acall(self, slot: Slot) -> Sequence[Draft]:
        assert self._wire is not None, "connected before it runs"
        assert self._outgoing is not None, "connected before it runs"
        message = self._message(slot, self._wire)
        if message is None:
            return ()
        while True:
            if self._outgoing.closed:
                raise Unavailable("the application stops, and sends no more")
            try:
                await self._outgoing.send(message)
            except BROKEN:
                continue  # the connection waits before it is tried again, and says so
            return ()

    def _message(self, slot: Slot, wire: Wire) -> Message | None:
        """What to send; None for what came by this very channel. Errors: `NotDue`."""
        row = slot.row if slot.data is None else (*slot.row[:11], slot.data)
        name, version = self._types[row[2]]
        gone = archived_error(row, name)
        if gone is not None:
            if not gone.file:
                return None
            raise InvalidEvent(str(gone))
        if name == _later_type(self.channel):
            kept = _decode_later(row[11])
            if kept.due > self._world.now():
                raise NotDue(kept.due)
            meta = decode_meta(kept.meta)
            return wire.of(meta, kept.type, kept.version, bytes(kept.data), source=wire.source, id=kept.id)
        origin = decode_meta(row[10]).origin
        if origin is not None and origin.channel == self.channel.name:
            return None
        return wire.of_row(row, name, version)
