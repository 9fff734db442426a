"""What a running application says to whoever started it: lines on stderr, each with its time. What goes well is silent."""

from __future__ import annotations

import contextlib
import sys
from functools import singledispatch

import click

from ensue.cli.output import clean, coloured, duration, local_time, many, paint
from ensue.observe.signals import (
    AttemptFailed,
    ConsumerResumed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsClaimed,
    SegmentsLost,
    Signal,
    WriterTrouble,
)
from ensue.world import RealWorld

__all__ = ["Teller"]


class Teller:
    """See the module."""

    def __init__(self) -> None:
        self.world = RealWorld()
        self.waiting: set[str] = set()
        """Consumers of which another process runs all there is."""

    def line(self, style: str, text: str) -> None:
        """Say this. Nobody may listen any more: that must not end what is told of."""
        with contextlib.suppress(OSError):
            click.echo(self.worded(style, text), err=True, color=coloured(sys.stderr))

    def worded(self, style: str, text: str) -> str:
        """The line as it is to be seen on stderr."""
        time = paint(local_time(self.world.now())[11:], "dim", sys.stderr)
        return f"{time} {paint(clean(text), style, sys.stderr)}"

    def signal(self, signal: Signal) -> None:
        """Say what this signal needs to have said: the observer of an application."""
        style, text = _said(signal)
        if isinstance(signal, SegmentsClaimed) and signal.consumer in self.waiting:
            self.waiting.discard(signal.consumer)
            style, text = "green", f"{signal.consumer} is run here now"
        if text:
            self.line(style, text)


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
    return "red", (
        f"{_about(signal)} is given up after {attempts}: {signal.error}; its key waits, see `ensue dead-letters`"
    )


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
def _(signal: SegmentsLost) -> tuple[str, str]:
    return "yellow", f"{signal.consumer} lost {many(len(signal.segments), 'segment')}: {signal.reason}"


@_said.register
def _(signal: WriterTrouble) -> tuple[str, str]:
    again = duration(signal.retry_in_seconds)
    return "red", f"{signal.consumer or 'the log'}: {signal.error}; tried again in {again}"


def _about(signal: AttemptFailed | EventParked) -> str:
    return f"{signal.consumer}: the event at position {signal.position} ({signal.key})"
