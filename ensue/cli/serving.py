"""Runs an application's consumers in this process until it is told to stop, and says what runs."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

import click
import msgspec

from ensue.app.brokers import place_of
from ensue.app.checks import chosen_consumers
from ensue.app.health import Health
from ensue.app.tenants import PLACE
from ensue.app.urls import shown
from ensue.cli.failures import WrongUsage
from ensue.cli.handled import named, owners
from ensue.cli.output import duration, many
from ensue.cli.teller import Teller
from ensue.consumers.handler import Role
from ensue.errors import EnsueError, MissingCapability

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.consumers.handler import HandlerDefinition
    from ensue.world import World

__all__ = ["Choice", "Here", "ask", "run_here"]

OPENING_SECONDS = 1.0
"""An application that is told to stop while it opens may go on opening for so long: most are open by then, and stop in order."""


class Choice(msgspec.Struct, frozen=True):
    """Which application, and which of its consumers."""

    application: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    tenant: str | None = None


class Here:
    """What a process that runs an application's consumers does beside it: nothing, alone; a worker says more."""

    processes = 1
    """How many there are of these at least."""
    tells_consumers = True
    """It says of each consumer that it runs it. Of many processes, one does."""
    tells_stop = True
    """It says when it stops, and has stopped."""
    second_signal_ends = True
    """A second signal ends it at once."""

    def opening(self, app: App, stop: asyncio.Event) -> None:
        """The loop turns, the application is about to be opened; `stop` stops it."""

    def opened(self, app: App, tell: Teller) -> None:
        """Its consumers run."""

    def closed(self) -> None:
        """It has stopped, or could not start."""


async def ask(app: App, loop: asyncio.AbstractEventLoop) -> Health:
    """The health of an application that runs on the loop of another thread. Errors: `RuntimeError` when that is closed."""
    work = app.health()
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        raise
    return await asyncio.wrap_future(future)


def run_here(choice: Choice, tell: Teller, here: Here) -> None:
    """Run the consumers in this process until it is told to stop. Errors: `WrongUsage`; those of opening an application, of a
    broken store while it runs."""
    from ensue.cli.loading import load_app, show_traceback

    named = choice.application
    try:
        app = load_app(named)
        if PLACE in app.settings.url or choice.tenant is not None:
            if choice.tenant is None:
                raise WrongUsage(f"{named} has a log for each tenant: say whose handlers are to run, --tenant NAME")
            app = app.of_tenant(choice.tenant)
        if not app.handlers:
            raise WrongUsage(f"{named} has no handlers to run; register some with @{named.partition(':')[2]}.on")
        logger = logging.getLogger("ensue")
        if not logger.hasHandlers():  # else the application has its own logging, and says it all there
            logger.addHandler(logging.NullHandler())
            app._observers.append(tell.signal)
        asyncio.run(_serve(app, choice, tell, here))
    except (EnsueError, click.ClickException):
        raise
    except Exception as error:  # a factory or a lifecycle hook of the application
        show_traceback(error)
        raise WrongUsage(f"{named} raised {type(error).__name__}, see above") from None
    finally:
        here.closed()


async def _serve(app: App, choice: Choice, tell: Teller, here: Here) -> None:
    from ensue.app.serving import told_to_stop

    with told_to_stop(second_ends=here.second_signal_ends) as stop:
        here.opening(app, stop)
        try:
            async with AsyncExitStack() as opened:
                if not await _opened(app.running(only=choice.only, without=choice.without), opened, stop, tell.world):
                    if here.tells_stop:
                        tell.line("green", "stopped before it ran")
                    return
                if here.processes > 1 and not app.open_store().capabilities.many_processes:
                    raise MissingCapability(
                        f"{here.processes} workers cannot share {shown(app.settings.url)}: each would have a log of its own "
                        f"there. Use a sqlite: URL, or run one process, without --workers"
                    )
                await _say_what_runs(app, choice, tell, here.tells_consumers)
                here.opened(app, tell)
                await stop.wait()
                if here.tells_stop:
                    limit = duration(app.settings.drain_seconds)
                    tell.line("dim", f"stopping; handlers have {limit} to finish, another Ctrl-C ends them at once")
        except asyncio.CancelledError:
            # The limit on opening may strike just when it is open: the cancellation then comes later, and means the stop.
            if not stop.is_set():
                raise
    if here.tells_stop:
        tell.line("green", "stopped, nothing is half done")


async def _opened(
    running: AbstractAsyncContextManager[App], opened: AsyncExitStack, stop: asyncio.Event, world: World
) -> bool:
    """Open it, which a broker or a log that is away can hold up for long. False when it was told to stop before it ran."""

    opening = asyncio.timeout(None)

    async def give_up() -> None:
        await stop.wait()
        await world.sleep(OPENING_SECONDS)
        opening.reschedule(0)

    try:
        async with opening:
            told = world.spawn(give_up(), name="told to stop")
            try:
                await opened.enter_async_context(running)
            finally:
                told.cancel()
    except TimeoutError:
        if not opening.expired():
            raise
        return False
    return True


async def _say_what_runs(app: App, choice: Choice, tell: Teller, everything: bool) -> None:
    """Say what runs here; with `everything` each consumer, and what other processes run of it."""
    names = [handler.name for handler in app.handlers]
    chosen = chosen_consumers(app.name, names, choice.only, choice.without)
    of = (
        f"{len(chosen)} of {many(len(names), 'consumer')}" if len(chosen) < len(names) else many(len(names), "consumer")
    )
    tell.line("green", f"{app.name} runs {of} on {shown(app.settings.url)}, pid {os.getpid()}")
    store, shares = app.open_store(), dict[str, str]()
    for consumer in await store.consumers():
        owning = await owners(store, tell.world, await store.standing(consumer.id))
        others = [name for name in map(named, owning) if name != str(os.getpid())]
        if others and consumer.name in chosen:
            processes = f"process{'es' if len(others) > 1 else ''} {', '.join(others)}"
            alone = consumer.segments == 1
            shares[consumer.name] = f"; waits, because {processes} runs it" if alone else f"; shared with {processes}"
            if everything and len(owning) == len(others):
                tell.waiting.add(consumer.name)
        if consumer.status in ("paused", "tripped"):
            shares[consumer.name] = f"; is {consumer.status}: {consumer.reason or 'by an operator'}"
    width = max(map(len, chosen))
    for handler in app.handlers if everything else ():
        if handler.name in chosen:
            share = shares.get(handler.name, "")
            tell.line("yellow" if share else "dim", f"  {handler.name:<{width}}  {_flow(handler)}{share}")


def _flow(handler: HandlerDefinition) -> str:
    """What comes to a consumer, or goes from it, and where that is."""
    events = ", ".join(event.__name__ for event in handler.events)
    if handler.channel is None:
        return f"← {events}"
    place = place_of(handler.channel, os.environ)
    where = f"{place.address(handler.channel.name)} at {place.shown}"
    if handler.role is Role.DIRECT:
        return f"← {events} from {where}"
    return f"→ {where}" if handler.role is Role.OUTBOX else f"← {where}"
