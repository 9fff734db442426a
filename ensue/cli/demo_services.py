"""`ensue demo shop --services`: the shop taken apart, seen from the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensue.channels.urls import place
from ensue.cli.failures import INTERRUPTED, Negative, WrongUsage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from ensue.examples.shop.apart import Apart, State
    from ensue.examples.shop.running_apart import ReportApart
    from ensue.world import World

__all__ = ["run_services"]

LINE_SECONDS = 1.0


def run_services(
    channel: str, folder: Path | None, orders: Path | None, seed: int, seconds: float | None, *, as_json: bool
) -> None:
    """Run the five services as processes until the customers, or the file, are done; then tell what came of it. Errors: those
    of the command line."""
    from ensue.examples.shop.apart import ServiceFailed
    from ensue.examples.shop.order_file import BadFile

    _check(channel)
    where = _folder(folder)
    screen = _Screen(as_json=as_json)
    try:
        report, complete = asyncio.run(_run(channel, where, orders, seed, seconds, screen))
    except (BadFile, ServiceFailed) as error:
        raise Negative(str(error)) from error
    if report is None:
        click.echo("ensue: stopped before the services ran", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    screen.finish(report, where, complete=complete)
    if not complete:
        raise click.exceptions.Exit(INTERRUPTED)


def _check(channel: str) -> None:
    """What can be known of a URL without its broker is said before anything is started. Errors: `WiringError`, `WrongUsage`."""
    from ensue.app.brokers import open_broker

    where = place(channel)
    open_broker(where)
    if where.scheme == "memory":
        raise WrongUsage(
            "--channel memory: joins nothing: each service is a process of its own; sqlite:///FILE needs no server"
        )


def _folder(given: Path | None) -> Path:
    """Errors: `WrongUsage` for one that cannot be made or written to."""
    folder = given or Path(tempfile.mkdtemp(prefix="ensue-shop-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise WrongUsage(
            f"--folder {folder} cannot be used: {error.strerror or error}; give one that can be written to"
        ) from error


def _with_prefix(channel: str, folder: Path) -> str:
    """Shops of several folders are several shops, also on one broker."""
    if "prefix" in place(channel).parameters:
        return channel
    prefix = f"shop-{blake2b(str(folder.resolve()).encode(), digest_size=3).hexdigest()}-"
    return f"{channel}{'&' if '?' in channel else '?'}prefix={prefix}"


async def _run(
    channel: str, folder: Path, orders: Path | None, seed: int, seconds: float | None, screen: _Screen
) -> tuple[ReportApart | None, bool]:
    """No report when it was told to stop before the services ran."""
    from ensue.app.serving import told_to_stop
    from ensue.examples.shop.apart import Apart
    from ensue.examples.shop.order_file import OrderFile
    from ensue.examples.shop.running_apart import RunApart
    from ensue.world import RealWorld

    world = RealWorld()
    file = OrderFile(orders) if orders is not None else None
    with told_to_stop() as stop:
        async with contextlib.AsyncExitStack() as stack:
            with screen.starting(place(channel).shown):
                apart = await _unless(
                    stop, stack.enter_async_context(Apart(folder, _with_prefix(channel, folder), world)), world
                )
            if apart is None:
                return None, False
            with screen.live(apart.pids(), file.lines if file is not None else 0):
                run = RunApart(apart, world, stop=stop, show=screen.show)
                report = await (run.file(file) if file is not None else run.customers(seed, seconds=seconds))
    return report, run.complete


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Apart], world: World) -> Apart | None:
    """What comes of the work; None, and the work is undone, where it is told to stop before."""
    starting, told = world.spawn(work, name="start"), world.spawn(stop.wait(), name="told to stop")
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if starting.done():
        return starting.result()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    return None


class _Screen:
    """A table that is drawn anew on a terminal, a line now and then where there is none, nothing beside JSON."""

    def __init__(self, *, as_json: bool) -> None:
        from rich.console import Console

        self._as_json = as_json
        self._console: Console = Console(stderr=as_json, highlight=False)
        self._live: Live | None = None
        self._pids: Mapping[str, int] = {}
        self._lines = 0
        self._next_line = 0.0

    def starting(self, where: str) -> AbstractContextManager[object]:
        """A sign of life, while this is open: a broker that is not there is waited for."""
        text = f"Starting five services on {where}"
        if self._console.is_terminal:
            return self._console.status(text)
        if not self._as_json:
            self._print(text)
        return nullcontext()

    def live(self, pids: Mapping[str, int], lines: int) -> AbstractContextManager[object]:
        """The view, while this is open."""
        self._pids, self._lines = pids, lines
        if not self._console.is_terminal:
            if not self._as_json:
                self._print("running: " + ", ".join(f"{name} (pid {pid})" for name, pid in pids.items()))
            return nullcontext()
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        return self._live

    def show(self, states: Mapping[str, State], seconds: float, lines_done: int) -> None:
        """For `RunApart`."""
        if self._live is not None:
            self._live.update(self._table(states, seconds, lines_done), refresh=True)
        elif not self._as_json and seconds >= self._next_line:
            self._next_line = seconds + LINE_SECONDS
            placed = f"  {lines_done}/{self._lines} lines" if self._lines else ""
            told = "  ".join(f"{name} {state.events}" for name, state in states.items())
            self._print(f"{seconds:6.1f} s{placed}  {told}  to do {sum(state.to_do for state in states.values())}")

    def _table(self, states: Mapping[str, State], seconds: float, lines_done: int) -> Table:
        from rich import box
        from rich.table import Table

        placed = f"   {lines_done:,} of {self._lines:,} lines" if self._lines else ""
        table = Table(
            box=box.SIMPLE_HEAD, title=f"The shop taken apart   {seconds:.1f} s{placed}", title_justify="left"
        )
        table.add_column("service")
        for name in ("events", "received", "to do", "starts", "dead letters"):
            table.add_column(name, justify="right")
        for name, state in states.items():
            figures = (state.events, state.received, state.to_do, state.starts, state.dead_letters)
            table.add_row(name, *(f"{figure:,}" for figure in figures))
        return table

    def finish(self, report: ReportApart, folder: Path, *, complete: bool) -> None:
        """What came of it, and what to look at next."""
        if self._as_json:
            import msgspec

            click.echo(msgspec.json.encode(report))
            return
        rows = [
            ("lines", f"{report.lines:,}"),
            ("orders placed", f"{report.orders_placed:,}   {report.amount_placed}"),
            ("orders cancelled", f"{report.orders_cancelled:,}   {report.amount_cancelled}"),
            ("lines rejected", f"{report.lines_rejected:,}   {report.amount_rejected}"),
            ("payments", f"{report.payments:,}"),
            ("shipments", f"{report.shipments:,}"),
            ("stock balanced", "yes" if report.stock_balanced else "NO"),
            ("events in the logs", f"{report.events_in_logs:,}, {report.events_received:,} of them received"),
            ("dead letters", f"{report.dead_letters:,}"),
            ("restarts", f"{report.restarts:,}"),
            ("seconds", f"{report.seconds:.1f}   {report.events_per_second:,.0f} events/s"),
            ("latency", f"p50 {report.latency_ms.p50:.1f} ms   p99 {report.latency_ms.p99:.1f} ms"),
        ]
        for name, value in rows:
            self._print(f"{name:<20} {value}")
        self._print("")
        if not complete:
            self._print("Stopped before the end. The same command, with --folder, goes on where it stopped.")
        self._print(f"The logs are in {folder}, one for each service, with what each of them wrote (*.log):")
        for name in ("orders", "payment"):
            self._print(f"  ensue consumers --url sqlite:////{str((folder / f'{name}.db').resolve()).lstrip('/')}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
        self._console.file.flush()
