"""`ensue run`: an application's handlers in this process, until it is told to stop; then they are drained."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import singledispatch
from typing import TYPE_CHECKING

import click

from ensue.app.urls import shown
from ensue.cli.failures import WrongUsage
from ensue.cli.handled import owners
from ensue.cli.output import clean, duration, local_time, many, paint
from ensue.errors import EnsueError
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

if TYPE_CHECKING:
    from ensue.app import App

__all__ = ["run"]


@click.command()
@click.argument("application", metavar="[MODULE:APP]", required=False)
def run(application: str | None) -> None:
    """Run an application's handlers until Ctrl-C or SIGTERM; then let those that work finish, and stop.

    Without MODULE:APP it is `app` under [tool.ensue] in pyproject.toml. A second process of the same application takes over
    when the first one stops, by itself or not. A second Ctrl-C stops at once: what was not finished is handled again.

    \b
    Example:
      $ ensue run app:app
    """
    from pathlib import Path

    from ensue.cli.loading import declared_app, load_app, show_traceback

    named = application or declared_app(Path.cwd())
    if named is None:
        raise WrongUsage('say which application: `ensue run module:app`, or app = "module:app" under [tool.ensue]')
    app = load_app(named)
    if not app.handlers:
        raise WrongUsage(f"{named} has no handlers to run; register some with @{named.partition(':')[2]}.on")
    tell = _Teller()
    logger = logging.getLogger("ensue")
    if not logger.hasHandlers():  # else the application has its own logging, and says it all there
        logger.addHandler(logging.NullHandler())
        app._observers.append(tell.signal)
    try:
        asyncio.run(_serve(app, tell))
    except EnsueError:
        raise
    except Exception as error:  # a factory or a lifecycle hook of the application
        show_traceback(error)
        raise WrongUsage(f"{named} raised {type(error).__name__}, see above") from None


async def _serve(app: App, tell: _Teller) -> None:
    from ensue.app.serving import told_to_stop

    with told_to_stop() as stop:
        async with app:
            await _ready(app, tell)
            await stop.wait()
            limit = duration(app.settings.drain_seconds)
            tell.line("dim", f"stopping; handlers have {limit} to finish, another Ctrl-C ends them at once")
    tell.line("green", "stopped, nothing is half done")


async def _ready(app: App, tell: _Teller) -> None:
    """Say what runs here, and what waits because another process runs it."""
    handlers = app.handlers
    tell.line(
        "green", f"{app.name} runs {many(len(handlers), 'consumer')} on {shown(app.settings.url)}, pid {os.getpid()}"
    )
    store, waits = app.open_store(), dict[str, str]()
    for consumer in await store.consumers():
        owning = await owners(store, tell.world, await store.standing(consumer.id))
        others = [str(node.pid) for node in owning if node.pid != os.getpid()]
        if others:
            waits[consumer.name] = f"; waits, because process {', '.join(others)} runs it"
            tell.waiting.add(consumer.name)
        if consumer.status in ("paused", "tripped"):
            waits[consumer.name] = f"; is {consumer.status}: {consumer.reason or 'by an operator'}"
    width = max(len(handler.name) for handler in handlers)
    for handler in handlers:
        events = ", ".join(event.__name__ for event in handler.events)
        waiting = waits.get(handler.name, "")
        tell.line("yellow" if waiting else "dim", f"  {handler.name:<{width}}  ← {events}{waiting}")


class _Teller:
    """Lines on stderr, each with its time. What goes well is silent."""

    def __init__(self) -> None:
        self.world = RealWorld()
        self.waiting: set[str] = set()
        """Consumers that another process runs."""

    def line(self, style: str, text: str) -> None:
        time = paint(local_time(self.world.now())[11:], "dim", sys.stderr)
        click.echo(f"{time} {paint(clean(text), style, sys.stderr)}", err=True)

    def signal(self, signal: Signal) -> None:
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
