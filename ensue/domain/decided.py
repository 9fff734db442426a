"""What a command handler returns whose answer is not its events."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from ensue.events.message import Event

__all__ = ["Decided"]

R = TypeVar("R")


class Decided(msgspec.Struct, Generic[R], frozen=True):
    """What a command handler returns whose answer is not its events: these are appended, `result` is what `send` answers.

    `return Decided(Withdrawn(...), result=left)`. The result is data: with an idempotency key it is stored for repetitions.
    """

    events: Event | tuple[Event, ...] | list[Event]
    result: R
