"""What Ensue tells about itself while it runs: each kind of news declared once, as data.

A signal is a frozen value; who wants to hear gets a function called with each. Observers are called on the loop's thread
and must not block or raise. Positions and counts are integers, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

__all__ = [
    "AttemptFailed",
    "ChannelConnected",
    "ChannelLost",
    "ChannelRepaired",
    "CommandDecided",
    "CommandRefused",
    "ConsumerFailed",
    "ConsumerResumed",
    "ConsumerStandsBy",
    "ConsumerTripped",
    "EventParked",
    "HandlerStuck",
    "Observer",
    "SegmentsClaimed",
    "SegmentsLost",
    "SegmentsReleased",
    "Signal",
    "SnapshotsLost",
    "ViewBuilt",
    "ViewShown",
    "WriterTrouble",
]


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """Any news. `consumer` is the name of the consumer it is about, or of the command handler."""

    consumer: str


class AttemptFailed(Signal, frozen=True, kw_only=True):
    """A handler failed and will be tried again."""

    position: int
    key: str
    attempt: int
    error: str


class EventParked(Signal, frozen=True, kw_only=True):
    """An event is given up: it is a dead letter, and its key waits."""

    position: int
    key: str
    attempt: int
    error: str


class HandlerStuck(Signal, frozen=True, kw_only=True):
    """A handler ran past its time limit and cannot be stopped; its key waits until it returns."""

    position: int
    seconds: float


class ConsumerFailed(Signal, frozen=True, kw_only=True):
    """The consumer met an error of the store that it cannot go on from. The application stops."""

    error: str


class ConsumerTripped(Signal, frozen=True, kw_only=True):
    """The consumer stopped by itself: too many keys fail. It probes until one succeeds."""

    reason: str


class ConsumerResumed(Signal, frozen=True, kw_only=True):
    """A tripped or paused consumer runs again."""


class ConsumerStandsBy(Signal, frozen=True, kw_only=True):
    """This process cannot read an event that the consumer handles; it leaves it to a newer one."""

    reason: str


class SegmentsClaimed(Signal, frozen=True, kw_only=True):
    """This process owns these segments of the consumer now."""

    segments: tuple[int, ...]


class SegmentsLost(Signal, frozen=True, kw_only=True):
    """Another process took these segments, or their fate is unknown. What was in work was discarded."""

    segments: tuple[int, ...]
    reason: str


class SegmentsReleased(Signal, frozen=True, kw_only=True):
    """This process gave these segments up, with nothing half done."""

    segments: tuple[int, ...]


class WriterTrouble(Signal, frozen=True, kw_only=True):
    """A commit could not be stored and will be sent again."""

    error: str
    retry_in_seconds: float


class SnapshotsLost(Signal, frozen=True, kw_only=True):
    """Snapshots of states could not be read or written. Nothing is lost but time: events are read in their place."""

    attempted: str
    error: str


class ViewBuilt(Signal, frozen=True, kw_only=True):
    """A version of a view has read the log up to this position, and goes on from there by its consumer. `reason` is why that is not
    the end of the log, where it is not."""

    version: int
    position: int
    seconds: float
    reason: str | None


class ViewShown(Signal, frozen=True, kw_only=True):
    """Readers of a view see this version from now on."""

    version: int


class ChannelConnected(Signal, frozen=True, kw_only=True):
    """The broker of a channel is reached, at first or again."""

    channel: str


class ChannelLost(Signal, frozen=True, kw_only=True):
    """The broker of a channel cannot be reached, or does not do what it is asked. Nothing is lost: it is tried again."""

    channel: str
    error: str
    retry_in_seconds: float


class ChannelRepaired(Signal, frozen=True, kw_only=True):
    """A subscription was connected and got nothing although messages waited; it was opened anew."""

    channel: str
    waiting: int


class CommandDecided(Signal, frozen=True, kw_only=True):
    """A command was granted, and what it led to is stored; `replayed` where it was so before, under its idempotency key."""

    command: str
    replayed: bool
    attempts: int
    seconds: float


class CommandRefused(Signal, frozen=True, kw_only=True):
    """A command was refused, by the application's own rules."""

    command: str
    refusal: str
    attempts: int
    seconds: float


Observer: TypeAlias = Callable[[Signal], None]
