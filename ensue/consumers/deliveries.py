"""The packed record of what one commit delivered: which event, how long its handler took, how it ended.

One row a commit instead of one an event: at a thousand events a commit it costs a few nanoseconds each, so that "who
handled this, and how long did it take" can be answered without slowing what it describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

__all__ = ["Delivered", "Outcome", "pack", "unpack"]


class Outcome(IntEnum):
    """How a delivery ended."""

    HANDLED = 0
    FAILED = 1
    PARKED = 2
    DISCARDED = 3


class Delivered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One delivery. `microseconds` is the time in the handler; `attempt` counts from 1."""

    position: int
    microseconds: int
    outcome: int
    attempt: int = 1


pack = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[Delivered])


def unpack(packed: bytes) -> Sequence[Delivered]:
    """The deliveries of a record, in the order in which they were committed."""
    return _decoder.decode(packed)
