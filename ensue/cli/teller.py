"""What a running application says to whoever started it: lines on stderr, each with its time. What goes well is silent, and one
trouble that all consumers have, such as a server or a broker that is gone, is told once in a while and not by each of them."""

from __future__ import annotations

import contextlib
import sys
from functools import partial, singledispatch

import click

from ensue.cli.output import clean, coloured, duration, local_time, many, paint
from ensue.observe.signals import (
    AttemptFailed,
    ChannelConnected,
    ChannelLost,
    ChannelRepaired,
    ConsumerResumed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsClaimed,
    SegmentsLost,
    Signal,
    ViewBuilt,
    ViewShown,
    WriterTrouble,
)
from ensue.world import RealWorld, World

__all__ = ["Teller"]

AGAIN_SECONDS = 60.0
"""A trouble that lasts is told again after this."""
TOLD_SECONDS = 1.0
"""A first version that is built so soon is nothing to tell of."""
GATHER_SECONDS = 0.2
"""So long the losses of all consumers are gathered into one line."""
NEWS_SECONDS = 5.0
"""While a broker is away, another reason is told after this: at first each attempt may find another one."""
HELD_SECONDS = 1.0
"""A connection that was lost is told to be back when it has held for so long."""


class Teller:
    """See the module."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or RealWorld()
        self.waiting: set[str] = set()
        """Consumers of which another process runs all there is."""
        self._troubles: dict[str, float] = {}
        """When each was told last."""
        self._lost: dict[str, dict[str, int]] = {}
        """Of losses that are not told yet: by reason, each consumer's segments."""
        self._away: dict[str, tuple[float, str]] = {}
        """Consumers whose broker is away: when that was told last, and why."""
        self._back: dict[str, float] = {}
        """Of those, whose broker is reached again: since when."""
        self._channels: dict[tuple[str, str], list[str]] = {}
        """What is not told yet of brokers: by style and words, the consumers."""

    def line(self, style: str, text: str) -> None:
        """Say this. Nobody may listen any more: that must not end what is told of."""
        self._tell_lost()
        with contextlib.suppress(OSError):
            click.echo(self.worded(style, text), err=True, color=coloured(sys.stderr))

    def worded(self, style: str, text: str) -> str:
        """The line as it is to be seen on stderr."""
        time = paint(local_time(self.world.now())[11:], "dim", sys.stderr)
        return f"{time} {paint(clean(text), style, sys.stderr)}"

    def signal(self, signal: Signal) -> None:
        """Say what this signal needs to have said: the observer of an application."""
        if isinstance(signal, SegmentsLost):
            self._gather(signal)
            return
        if isinstance(signal, ChannelLost | ChannelConnected):
            self._channel(signal)
            return
        if isinstance(signal, WriterTrouble) and not self._is_news(signal):
            return
        if isinstance(signal, SegmentsClaimed) and self._troubles:
            self._troubles.clear()
            self.line("green", "the log answers again")
        style, text = _said(signal)
        if isinstance(signal, SegmentsClaimed) and signal.consumer in self.waiting:
            self.waiting.discard(signal.consumer)
            style, text = "green", f"{signal.consumer} is run here now"
        if text:
            self.line(style, text)

    def _is_news(self, trouble: WriterTrouble) -> bool:
        """What was attempted is told apart by nobody."""
        cause = trouble.error.partition(": ")[2] or trouble.error
        now = self.world.monotonic()
        if now - self._troubles.get(cause, float("-inf")) < AGAIN_SECONDS:
            return False
        self._troubles[cause] = now
        return True

    def _channel(self, signal: ChannelLost | ChannelConnected) -> None:
        now, consumer = self.world.monotonic(), signal.consumer
        if isinstance(signal, ChannelConnected):
            if consumer in self._away:
                self._back[consumer] = now
                self.world.call_later(HELD_SECONDS, partial(self._held, consumer, now))
            return
        self._back.pop(consumer, None)
        told, error = self._away.get(consumer, (float("-inf"), ""))
        if now - told >= (AGAIN_SECONDS if error == signal.error else NEWS_SECONDS):
            self._away[consumer] = (now, signal.error)
            self._gather_channel(consumer, "yellow", f"{signal.error} (it is tried again, and nothing is lost)")

    def _held(self, consumer: str, since: float) -> None:
        if self._back.get(consumer) == since:
            del self._back[consumer], self._away[consumer]
            self._gather_channel(consumer, "green", "connected")

    def _gather_channel(self, consumer: str, style: str, text: str) -> None:
        if not self._channels:
            self.world.call_later(GATHER_SECONDS, self._tell_lost)
        self._channels.setdefault((style, text), []).append(consumer)

    def _gather(self, loss: SegmentsLost) -> None:
        if not self._lost:
            self.world.call_later(GATHER_SECONDS, self._tell_lost)
        segments = self._lost.setdefault(loss.reason, {})
        segments[loss.consumer] = segments.get(loss.consumer, 0) + len(loss.segments)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, {}
        channels, self._channels = self._channels, {}
        for (style, text), consumers in channels.items():
            self.line(style, f"{', '.join(consumers)}: {text}")
        for reason, segments in lost.items():
            self.line("yellow", f"{', '.join(segments)} lost {many(sum(segments.values()), 'segment')}: {reason}")


@singledispatch
def _said(signal: Signal) -> tuple[str, str]:
    """The style and the sentence of a signal; no sentence for what needs no attention."""
    return "", ""


@_said.register
def _(signal: AttemptFailed) -> tuple[str, str]:
    return "yellow", f"{_about(signal)} failed at attempt {signal.attempt} and is tried again: {signal.error}"


@_said.register
def _(signal: EventParked) -> tuple[str, str]:
    attempts = many(signal.attempt, "attempt")
    waits = "" if _without_key(signal) else "its key waits, "
    return "red", f"{_about(signal)} is given up after {attempts}: {signal.error}; {waits}see `ensue dead-letters`"


@_said.register
def _(signal: HandlerStuck) -> tuple[str, str]:
    limit = duration(signal.seconds)
    return "yellow", f"{signal.consumer} runs longer than {limit} on position {signal.position}; its key waits for it"


@_said.register
def _(signal: ConsumerTripped) -> tuple[str, str]:
    return "red bold", f"{signal.consumer} has stopped: {signal.reason}; it probes until one event succeeds"


@_said.register
def _(signal: ConsumerResumed) -> tuple[str, str]:
    return "green", f"{signal.consumer} goes on"


@_said.register
def _(signal: ConsumerStandsBy) -> tuple[str, str]:
    return "red", f"{signal.consumer} stands by: {signal.reason}"


@_said.register
def _(signal: ChannelRepaired) -> tuple[str, str]:
    waiting = many(signal.waiting, "message")
    return "yellow", f"{signal.consumer} got nothing while {waiting} waited, and has subscribed anew"


@_said.register
def _(signal: ViewBuilt) -> tuple[str, str]:
    if signal.reason is not None:
        return "yellow", f"{signal.consumer} {signal.reason}"
    if signal.version == 1 and signal.seconds < TOLD_SECONDS:
        return "", ""
    return "green", f"{signal.consumer} is built, in {duration(signal.seconds)}"


@_said.register
def _(signal: ViewShown) -> tuple[str, str]:
    return ("green", f"readers see {signal.consumer} now") if signal.version > 1 else ("", "")


@_said.register
def _(signal: WriterTrouble) -> tuple[str, str]:
    return "red", f"{signal.error}; it is tried until it succeeds"


def _about(signal: AttemptFailed | EventParked) -> str:
    key = "" if _without_key(signal) else f" ({signal.key})"
    return f"{signal.consumer}: the event at position {signal.position}{key}"


def _without_key(signal: AttemptFailed | EventParked) -> bool:
    """Then its lane is called by its position."""
    return signal.key == f"#{signal.position}"
