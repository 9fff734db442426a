"""Many producers and many processes: `make bench-scale`. What each line means is in bench/README.md.

Real `ensue run` processes on one database of a server of its own. The picture goes to bench/output/producers.png.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bench import ours, peer_eventsourcing
from bench import peer_eventsourcing_postgres as peer
from bench.measure import Outcome, Report, fdatasync_seconds
from bench.orders import EVENTS_AN_ORDER, OrderPlaced, PaymentProcessed, content, digest, order
from bench.worker import AT_ONCE, WAITING_SECONDS
from ensue import App, Event
from ensue.consumers.ownership import ownership
from ensue.consumers.routing import segment_of
from ensue.world import RealWorld
from tests.servers.postgresql import PostgresServer, empty_database

__all__ = ["main"]

PRODUCERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 3
PICTURE = Path(__file__).parent / "output" / "producers.png"
WORK = 6_000
STREAM_SECONDS, STREAM_PER_SECOND = 12.0, 400
DISTURBED_AFTER = 3.0
PATIENCE_SECONDS = 60.0
WORLD = RealWorld()

Side: TypeAlias = Callable[[int, int], Outcome]


def main() -> None:
    """All of it, about six minutes."""
    report = Report("Many producers, many processes")
    report.row("one fdatasync of this disk", "", f"{fdatasync_seconds() * 1e3:.3f} ms")
    with PostgresServer() as server:
        _producers(report, server.url())
        asyncio.run(_workers(report, server.url()))
        asyncio.run(_killed(report, server.url()))
        asyncio.run(_handed_over(report, server.url()))
    report.show()


# ------------------------------------------------------------------------------------------------------- producers


def _producers(report: Report, server: str) -> None:
    @contextmanager
    def place() -> Generator[str, None, None]:
        yield empty_database(server)

    sides: dict[str, Side] = {
        "ensue, SQLite": partial(ours.append_one_by_one, ours.new_file),
        "ensue, PostgreSQL": partial(ours.append_one_by_one, place),
        "eventsourcing, SQLite": peer_eventsourcing.append_one_by_one,
        "eventsourcing, PostgreSQL": partial(peer.append_one_by_one, server),
    }
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for producers in PRODUCERS:
        report.say(f"durable appends of one event, {producers} producers")
        for name, side in sides.items():
            most = 6_400 if name.startswith("ensue") else 1_280
            count = max(producers, min(most, 500 * producers) // producers * producers)
            figures[name].append(statistics.median(_checked(name, side, count, producers) for _ in range(ROUNDS)))
        report.rates(f"durable appends of one, {producers} producers", {name: figures[name][-1] for name in sides})
    _draw(figures)
    report.row("the picture of it", "", str(PICTURE.relative_to(Path.cwd())))


def _checked(name: str, side: Side, count: int, producers: int) -> float:
    outcome = side(count, producers)
    if outcome.contents != digest(map(content, range(count))):
        sys.exit(f"{name} did not store what {producers} producers gave it: {outcome.contents}")
    return outcome.per_second


def _draw(figures: Mapping[str, Sequence[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120)
    for (name, rates), style in zip(figures.items(), ("o-", "s-", "o--", "s--"), strict=True):
        colour = "tab:blue" if name.startswith("ensue") else "tab:gray"
        axes.plot(PRODUCERS, rates, style, color=colour, label=name)
        axes.annotate(
            f"{rates[-1]:,.0f}", (PRODUCERS[-1], rates[-1]), xytext=(6, -3), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(PRODUCERS, [str(number) for number in PRODUCERS])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("producers that append one event after another")
    axes.set_ylabel("durable appends a second")
    axes.set_title("Durable appends of one event, by the number of producers")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    pyplot.close(figure)


# --------------------------------------------------------------------------------------------------------- workers


class _Worker:
    """A real process that runs the application of `bench/worker.py`."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ensue.cli", "run", "bench.worker:app"],
            env={**os.environ, "ENSUE_URL": url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(PATIENCE_SECONDS)


async def _shared(app: App, workers: Sequence[_Worker]) -> None:
    """Until these processes, and no other, own all segments in equal shares."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    store = app.open_store()
    while time.monotonic() < deadline:
        for consumer in await store.consumers():
            found = await ownership(store, WORLD, consumer)
            owners = {owner.node.pid: len(owner.segments) for owner in found.owners}
            even = max(owners.values(), default=0) - min(owners.values(), default=0) <= 1
            if owners.keys() == {worker.process.pid for worker in workers} and even and not found.unowned:
                return
        await asyncio.sleep(0.05)
    sys.exit(f"{len(workers)} workers do not share the work within {PATIENCE_SECONDS:g} s")


@asynccontextmanager
async def _started(url: str, count: int) -> AsyncGenerator[tuple[App, list[_Worker]], None]:
    """So many workers on a new log, sharing the work, and an application beside them that publishes."""
    workers = [_Worker(url) for _ in range(count)]
    try:
        async with ours.application(url).connected() as app:
            await _shared(app, workers)
            yield app, workers
    finally:
        for worker in workers:
            worker.end()


async def _workers(report: Report, server: str) -> None:
    report.say(
        f"{WORK:,} events through handlers that wait {WAITING_SECONDS * 1e3:g} ms, {AT_ONCE} at a time in a process"
    )
    figures: dict[int, list[float]] = {1: [], 2: []}
    events = [order(number * EVENTS_AN_ORDER) for number in range(WORK)]  # each of a key of its own
    for _ in range(ROUNDS):
        for count, rates in figures.items():
            async with _started(empty_database(server), count) as (app, _workers):
                began = time.perf_counter()
                await ours.fill(app, events)
                await app.open_store().changed(2 * WORK - 1)
                rates.append(WORK / (time.perf_counter() - began))
                await _paid_once(app, WORK)
    one, two = (statistics.median(rates) for rates in figures.values())
    report.rates(f"handlers that wait {WAITING_SECONDS * 1e3:g} ms", {"one worker": one, "two workers": two})
    report.ratio("pg-workers", two, one)


async def _paid_once(app: App, count: int) -> None:
    paid = [recorded.cause async for recorded in app.log.read(PaymentProcessed)]
    if len(paid) != count or len(set(paid)) != count:
        sys.exit(f"{count} orders have {len(paid)} payments, of {len(set(paid))} orders")


# ------------------------------------------------------------------------------------------------- coming and going


async def _killed(report: Report, server: str) -> None:
    """How long the work of a killed process waits for another one, and what the others' work notices."""
    report.say("a worker of two is killed while events stream in")
    async with _started(empty_database(server), 2) as (app, workers):
        owned = await _segments(app, workers[1].process.pid)
        at = await _stream(app, lambda: workers[1].end(signal.SIGKILL))
        waits = await _waits(app)
    theirs = [wait for segment, published, wait in waits if segment in owned and published >= at - 1.0]
    report.row("take-over after SIGKILL", "longest wait of an event of the killed", f"{max(theirs):.2f} s")
    _others(report, "after SIGKILL", waits, at, lambda segment: segment not in owned)


async def _handed_over(report: Report, server: str) -> None:
    """What events notice when half of the segments go to a new process."""
    report.say("a second worker comes while events stream in")
    more: list[_Worker] = []
    url = empty_database(server)
    async with _started(url, 1) as (app, workers):
        try:
            at = await _stream(app, lambda: more.append(_Worker(url)))
            await _shared(app, [*workers, *more])
            kept = await _segments(app, workers[0].process.pid)
            waits = await _waits(app)
        finally:
            for worker in more:
                worker.end()
    moved = [wait for segment, published, wait in waits if segment not in kept and published >= at]
    report.row("hand-over to a new process", "longest wait of an event that moved", f"{max(moved) * 1e3:.0f} ms")
    _others(report, "hand-over", waits, at, lambda segment: segment in kept)


def _others(
    report: Report, what: str, waits: Sequence[tuple[int, float, float]], at: float, other: Callable[[int], bool]
) -> None:
    before = [wait for segment, published, wait in waits if other(segment) and published < at]
    after = [wait for segment, published, wait in waits if other(segment) and published >= at]
    for name, values in (("before", before), ("from then on", after)):
        p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        figure = f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, longest {max(values) * 1e3:.0f} ms"
        report.row(f"{what}: events of other segments", name, figure)


async def _segments(app: App, pid: int) -> set[int]:
    store = app.open_store()
    (consumer,) = await store.consumers()
    found = await ownership(store, WORLD, consumer)
    return {segment for owner in found.owners if owner.node.pid == pid for segment in owner.segments}


async def _stream(app: App, disturb: Callable[[], None]) -> float:
    """Publish evenly, disturb once in the middle, and wait until all is handled; when it was disturbed, in seconds of the
    wall clock."""
    number, disturbed_at = 0, 0.0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < STREAM_SECONDS:
        due = int(elapsed * STREAM_PER_SECOND)
        await app.log.append(*(order(one * EVENTS_AN_ORDER) for one in range(number, due + 1)))
        number = due + 1
        if elapsed > DISTURBED_AFTER and not disturbed_at:
            disturbed_at = time.time()
            disturb()
        await asyncio.sleep(0.005)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await app.open_store().changed(2 * number - 1)
    await _paid_once(app, number)
    return disturbed_at


async def _waits(app: App) -> list[tuple[int, float, float]]:
    """Of each order its segment, when it was recorded, and how long after that its payment was, in seconds."""
    orders: dict[int, tuple[int, float]] = {}
    found: list[tuple[int, float, float]] = []
    async for recorded in app.log.read(Event):
        at = recorded.row[5] / 1e6
        if isinstance(recorded.event, OrderPlaced):
            key = recorded.row[3]
            assert key is not None
            orders[recorded.row[0]] = (segment_of(key, 16), at)
        else:
            segment, published = orders[recorded.row[6] or 0]
            found.append((segment, published, at - published))
    return found


if __name__ == "__main__":
    main()
