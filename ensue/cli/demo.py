"""`ensue demo`: the example shop with simulated customers, or on real order lines, seen from the terminal; and other demos."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from ensue.app.urls import shown
from ensue.cli.demo_crowds import bank, enrolment
from ensue.cli.demo_noticing import cards, loans, machine
from ensue.cli.failures import INTERRUPTED, Negative

if TYPE_CHECKING:  # the shop and the drawing are imported when they run, so that `ensue --help` is quick
    from rich.console import Console, RenderableType
    from rich.live import Live

    from ensue.examples.shop.meter import Figures
    from ensue.examples.shop.order_file import OrderFile
    from ensue.examples.shop.running import Report

__all__ = ["demo"]

PIPED_SECONDS = 10.0
"""How long customers order when nobody is there to press Ctrl-C."""
LINE_SECONDS = 1.0


@click.group()
def demo() -> None:
    """Small applications to watch.

    \b
    Example:
      $ ensue demo shop
    """


demo.add_command(bank)
demo.add_command(enrolment)
for command in (machine, loans, cards):
    demo.add_command(command)


@demo.command()
@click.option("--orders", metavar="FILE", type=click.Path(path_type=Path), help="Real order lines, CSV or gzipped CSV.")
@click.option("--seed", default=1, show_default=True, help="What the customers buy, and when the bank fails.")
@click.option("--seconds", type=click.FloatRange(min=0), help="How long customers order. Without it: until Ctrl-C.")
@click.option("--db", metavar="FILE", type=click.Path(path_type=Path), help="The database, made if it is not there.")
@click.option("--url", help="The same as a URL, also of a server: postgresql://shop@localhost/shop")
@click.option("--services", is_flag=True, help="Five processes with a log each, joined by --channel.")
@click.option("--channel", metavar="URL", help="What joins the services: kafka:, amqp:, nats:, redis:, mqtt:, sqlite:")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the services' logs are. [default: a new one]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def shop(
    orders: Path | None,
    seed: int,
    seconds: float | None,
    db: Path | None,
    url: str | None,
    services: bool,
    channel: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """A shop of five services: orders, inventory, payment, shipping, notification.

    Simulated customers order for --seconds, or until Ctrl-C; the bank fails now and then. With --orders, an invoice of the
    file is an order, one whose number begins with C is a cancellation, and every other line is rejected with a reason. The
    same file on the same database goes on where it stopped, and adds nothing twice.

    \b
    Example:
      $ ensue demo shop --seconds 30
      $ ensue demo shop --url postgresql://shop@localhost/shop
      $ ensue demo shop --orders orders.csv.gz --db shop.db --json
      $ ensue demo shop --services --channel nats://127.0.0.1:4222

    With --services each of the five is a process with a log of its own in --folder, and --channel says over which broker they
    hear of each other; one that dies is started again.

    The database is a new one in a temporary folder; with --orders, one in this folder that is named after the file.
    Exit codes: 0 done; 1 the file cannot be used; 2 wrong usage; 3 the database cannot be used; 130 stopped before the end.
    """
    if orders is not None and seconds is not None:
        raise click.UsageError("--seconds is for simulated customers; --orders runs to the end of the file")
    if db is not None and url is not None:
        raise click.UsageError("--db and --url both say where the database is; give one")
    if seconds is None and orders is None and not sys.stdout.isatty():
        seconds = PIPED_SECONDS
    if services:
        if db is not None or url is not None or channel is None:
            raise click.UsageError("--services needs --channel, and its logs are in --folder: leave --db and --url out")
        from ensue.cli.demo_services import run_services

        return run_services(channel, folder, orders, seed, seconds, as_json=as_json)
    if channel is not None or folder is not None:
        raise click.UsageError("--channel and --folder are for --services: write --services --channel URL")
    where = url or f"sqlite:///{quote(os.fsencode(db or _database_of(orders)))}"
    logging.getLogger("ensue").addHandler(logging.NullHandler())  # what fails now and then is shown as a number
    from ensue.examples.shop.order_file import BadFile

    screen = _Screen(as_json=as_json)
    try:
        report, complete = asyncio.run(_run(where, orders, seed, seconds, screen))
    except BadFile as error:
        raise Negative(str(error)) from error
    screen.finish(report, where, complete=complete)
    if not complete:
        raise click.exceptions.Exit(INTERRUPTED)


def _database_of(orders: Path | None) -> Path:
    if orders is None:
        return Path(tempfile.mkdtemp(prefix="ensue-shop-")) / "shop.db"
    # Two files of one name are two files: the sums of a database are those of what was run on it.
    digest = blake2b(os.fsencode(orders.resolve()), digest_size=3).hexdigest()
    name = "".join(letter if letter.isalnum() else "_" for letter in orders.name.partition(".")[0])
    return Path(f"{name or 'orders'}-{digest}.db")


async def _run(url: str, orders: Path | None, seed: int, seconds: float | None, screen: _Screen) -> tuple[Report, bool]:
    from ensue.app.serving import told_to_stop
    from ensue.examples.shop.application import shop
    from ensue.examples.shop.meter import Meter
    from ensue.examples.shop.order_file import OrderFile
    from ensue.examples.shop.running import Run
    from ensue.world import RealWorld

    world = RealWorld()
    meter = Meter(world)
    file: OrderFile | None = None
    if orders is not None:
        with screen.reading():
            file = OrderFile(orders)
    app = shop(url, seed=seed, observe=meter.observe, world=world)
    with told_to_stop() as stop:
        async with app:
            with screen.live(file, seed):
                run = Run(app, world, meter, stop=stop, show=screen.show)
                report = await (run.file(file) if file is not None else run.customers(seed, seconds=seconds))
    return report, run.complete


class _Screen:
    """Figures that are drawn anew on a terminal, a line now and then where there is none, nothing beside JSON."""

    def __init__(self, *, as_json: bool) -> None:
        from rich.console import Console

        self._as_json = as_json
        self._console: Console = Console(stderr=as_json, highlight=False)
        self._live: Live | None = None
        self._title = ""
        self._lines = 0
        self._next_line = 0.0

    def reading(self) -> AbstractContextManager[object]:
        """A sign of life, while this is open."""
        return self._console.status("Reading the file") if self._console.is_terminal else nullcontext()

    def live(self, file: OrderFile | None, seed: int) -> AbstractContextManager[object]:
        """The view, while this is open."""
        self._lines = file.lines if file is not None else 0
        self._title = f"The shop on {file.name}" if file is not None else f"The shop, with customers of seed {seed}"
        if not self._console.is_terminal:
            return nullcontext()
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        return self._live

    def show(self, figures: Figures, lines_done: int) -> None:
        """For `Run`."""
        if self._live is not None:
            self._live.update(self._drawn(figures, lines_done), refresh=True)
        elif not self._as_json and figures.seconds >= self._next_line:
            self._next_line = figures.seconds + LINE_SECONDS
            self._print(_line(figures, lines_done, self._lines))

    def finish(self, report: Report, url: str, *, complete: bool) -> None:
        """What came of it, and what to look at next."""
        if self._as_json:
            import msgspec

            click.echo(msgspec.json.encode(report))
            return
        for name, value in _rows(report):
            self._print(f"{name:<20} {value}")
        self._print("")
        if not complete:
            self._print("Stopped before the end of the file. The same command goes on where it stopped.")
        secret = shown(url) != url
        where = f"The log is at {shown(url)}."
        self._print(
            f"{where} With ENSUE_URL set to it, what happened in it:" if secret else f"{where} What happened in it:"
        )
        commands = [
            ("log", "every event"),
            ("trace 1", "what the first event caused, and who handled it"),
            ("consumers", "how far each service is"),
            ("verify", "the proof that the log is whole"),
        ]
        if report.lines_rejected:
            commands.insert(1, ("log --type LineRejected", "every line that is no part of an order, and why"))
        for command, meaning in commands:
            self._print(f"  ensue {command}{'' if secret else f' --url {url}'}    {meaning}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
        self._console.file.flush()

    def _drawn(self, figures: Figures, lines_done: int) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts = Table.grid(padding=(0, 2))
        names = ("orders", "told", "events", "events/s", "p50 ms", "p99 ms", "retries", "dead letters")
        for _ in names:
            facts.add_column(no_wrap=True, min_width=7)
        facts.add_row(*(Text(name, style="dim") for name in names))
        facts.add_row(
            f"{figures.orders:,}",
            f"{figures.notified:,}",
            f"{figures.events:,}",
            f"{figures.events_per_second:,.0f}",
            f"{figures.p50:,.1f}",
            f"{figures.p99:,.1f}",
            Text(f"{figures.retries:,}", style="yellow" if figures.retries else ""),
            Text(f"{figures.dead_letters:,}", style="bold red" if figures.dead_letters else "green"),
        )
        consumers = Table(box=box.SIMPLE_HEAD)
        consumers.add_column("consumer")
        consumers.add_column("events to do", justify="right")
        for name, lag in figures.lag.items():
            consumers.add_row(name, f"{lag:,}")
        parts: list[RenderableType] = [Text(f"{self._title}   {figures.seconds:.1f} s", style="bold"), facts, consumers]
        if self._lines:
            progress = Table.grid(padding=(0, 2))
            done = Text(f"{lines_done:,} of {self._lines:,} lines", style="dim")
            progress.add_row(ProgressBar(total=self._lines, completed=lines_done, width=40), done)
            parts.append(progress)
        return Group(*parts)


def _line(figures: Figures, lines_done: int, lines: int) -> str:
    done = f"  {lines_done}/{lines} lines" if lines else ""
    return (
        f"{figures.seconds:6.1f} s{done}  {figures.orders} orders  {figures.notified} told  {figures.events} events  "
        f"{figures.events_per_second:.0f}/s  p50 {figures.p50:.1f} ms  p99 {figures.p99:.1f} ms  "
        f"lag {sum(figures.lag.values())}  {figures.retries} retries  {figures.dead_letters} dead letters"
    )


def _rows(report: Report) -> list[tuple[str, str]]:
    return [
        ("lines", f"{report.lines:,}"),
        ("orders placed", f"{report.orders_placed:,}   {report.amount_placed}"),
        ("orders cancelled", f"{report.orders_cancelled:,}   {report.amount_cancelled}"),
        ("lines rejected", f"{report.lines_rejected:,}   {report.amount_rejected}"),
        ("payments", f"{report.payments:,}"),
        ("shipments", f"{report.shipments:,}"),
        ("stock balanced", "yes" if report.stock_balanced else "NO"),
        ("events in the log", f"{report.events_in_log:,}"),
        ("duplicates ignored", f"{report.duplicates_ignored:,}"),
        ("dead letters", f"{report.dead_letters:,}"),
        ("seconds", f"{report.seconds:.1f}   {report.events_per_second:,.0f} events/s"),
        ("latency", f"p50 {report.latency_ms.p50:.1f} ms   p99 {report.latency_ms.p99:.1f} ms"),
    ]
