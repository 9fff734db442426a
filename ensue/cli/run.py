"""`ensue run`: an application's handlers in this process, or in workers, until it is told to stop; then they are drained."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ensue.cli.failures import WrongUsage
from ensue.cli.serving import Choice, Here, ask, run_here
from ensue.cli.teller import Teller

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.cli.probes import Address, Probes

__all__ = ["run"]

MOST_WORKERS = 64


@click.command()
@click.argument("application", metavar="[MODULE:APP]", required=False)
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), metavar="N", help="In so many processes, restarted.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this consumer, or those like billing*; again for more."
)
@click.option("--except", "without", multiple=True, metavar="NAME", help="Not this consumer, or these; again for more.")
@click.option("--tenant", metavar="NAME", help="Whose handlers, where each tenant has a log.")
@click.option(
    "--health", metavar="HOST:PORT", envvar="ENSUE_HEALTH", help="Answer GET /healthz and /readyz there; ENSUE_HEALTH."
)
def run(
    application: str | None,
    workers: int | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    tenant: str | None,
    health: str | None,
) -> None:
    """Run an application's handlers until Ctrl-C or SIGTERM; then let those that work finish, and stop.

    Without MODULE:APP it is `app` under [tool.ensue] in pyproject.toml. Processes of the same application share the work, and
    take over from each other when one stops, by itself or not. A second Ctrl-C stops at once: what was not finished is handled
    again. With --workers a supervisor starts so many processes, and starts those again that end.

    \b
    Example:
      $ ensue run app:app
      $ ensue run app:app --workers 4 --only 'billing*' --health 127.0.0.1:8080
    """
    from ensue.cli.loading import declared_app
    from ensue.cli.probes import Address

    named = application or declared_app(Path.cwd())
    if named is None:
        raise WrongUsage('say which application: `ensue run module:app`, or app = "module:app" under [tool.ensue]')
    address = Address.read(health, os.environ) if health else None
    choice = Choice(named, only, without, tenant)
    if workers is None:
        run_here(choice, Teller(), _Alone(address))
    else:
        from ensue.cli.supervisor import supervise

        supervise(choice, workers, address, Teller())


class _Alone(Here):
    """Serves the probes on a thread with a loop of its own, so that they answer also when the application's loop does not."""

    def __init__(self, address: Address | None) -> None:
        from ensue.world import LoopThread

        self._address = address
        self._thread = LoopThread("ensue health") if address is not None else None
        self._probes: Probes | None = None
        self._url = ""

    def opening(self, app: App, stop: asyncio.Event) -> None:
        from ensue.cli.probes import Inquiry, Probes
        from ensue.world import RealWorld

        if self._thread is not None and self._address is not None:
            world, loop = RealWorld(), asyncio.get_running_loop()
            inquiry = Inquiry(world, lambda: ask(app, loop))
            self._probes = Probes(world, self._address, inquiry.health)
            self._url = self._thread.call(self._probes.open())

    def opened(self, app: App, tell: Teller) -> None:
        if self._url:
            tell.line("dim", f"health is told at {self._url}/healthz and {self._url}/readyz")

    def closed(self) -> None:
        if self._thread is not None:
            if self._probes is not None:
                self._thread.call(self._probes.close())
            self._thread.close()
