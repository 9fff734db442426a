"""The log against its peers and the raw limit: `make bench-store`. What each line means is in bench/README.md."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bench import ours, peer_eventsourcing, peer_umadb, raw
from bench.measure import Outcome, Report, alternate, fdatasync_seconds, folder
from bench.orders import digest, order
from ensue import App

__all__ = ["main"]

ROUNDS = 5
MANY, SINGLE = 12_800, 1_000
BULK = 50_000
READ = 100_000
MILLION = 1_000_000
LATER = 12_800
READ_MEMORY = "--read-memory"


def main() -> None:
    """All of it, about two minutes."""
    report = Report("The log, and what it is measured against")
    report.row("one fdatasync of this disk", "", f"{fdatasync_seconds() * 1e3:.3f} ms")
    report.row("import ensue", "", f"{_import_milliseconds():.0f} ms")
    report.section()
    _appends(report)
    _bulk(report)
    _reads(report)
    _million(report)
    report.show()


def _appends(report: Report) -> None:
    report.say(f"{MANY:,} durable appends of one event, 64 producers")
    many = alternate(
        "append-64",
        ROUNDS,
        {
            "ensue": partial(ours.append_one_by_one, ours.new_file, MANY, 64),
            "eventsourcing": partial(peer_eventsourcing.append_one_by_one, MANY, 64),
            "UmaDB": partial(peer_umadb.append_one_by_one, MANY, 64),
        },
    )
    report.rates("durable appends of one, 64 producers", many)
    report.ratio("append-64", many["ensue"], many["eventsourcing"])
    report.ratio("append-64-umadb", many["ensue"], many["UmaDB"])
    report.say(f"{SINGLE:,} durable appends of one event, one producer")
    single = alternate(
        "append-1",
        ROUNDS,
        {
            "ensue": partial(ours.append_one_by_one, ours.new_file, SINGLE, 1),
            "eventsourcing": partial(peer_eventsourcing.append_one_by_one, SINGLE, 1),
            "UmaDB": partial(peer_umadb.append_one_by_one, SINGLE, 1),
        },
    )
    report.rates("durable appends of one, one producer", single)
    report.ratio("append-1-umadb", single["ensue"], single["UmaDB"])


def _bulk(report: Report) -> None:
    report.say(f"{BULK:,} events in batches of {ours.BATCH:,}")
    events = [order(number) for number in range(BULK)]
    with folder() as path:
        asyncio.run(_filled(path, BULK))
        rows = raw.rows(path)
    bulk = alternate(
        "append-bulk",
        ROUNDS,
        {
            "ensue": partial(ours.append_batches, ours.new_file, events, fill=ours.fill_two_at_a_time),
            "ensue, one after another": partial(ours.append_batches, ours.new_file, events),
            "apsw": partial(raw.append_batches, rows),
        },
    )
    report.rates(f"batches of {ours.BATCH:,}", bulk)
    report.ratio("append-bulk", bulk["ensue"], bulk["apsw"])


def _reads(report: Report) -> None:
    report.say(f"reading {READ:,} events")
    with folder() as path:
        asyncio.run(_filled(path, READ))
        peer_eventsourcing.fill(path, READ)
        reads = alternate(
            "read",
            ROUNDS,
            {
                "ensue": partial(ours.read_typed, ours.in_file(path)),
                "eventsourcing": partial(peer_eventsourcing.read_typed, path),
                "apsw, rows only": partial(raw.scan, path),
            },
        )
    report.rates("the whole log into typed events", reads)
    report.ratio("read-typed", reads["ensue"], reads["eventsourcing"])
    report.ratio("read-raw", reads["ensue"], reads["apsw, rows only"])


async def _filled(path: Path, count: int) -> int:
    """Fill a log; the size of its write-ahead file at the end, before it is closed and gone."""
    async with ours.application(ours.in_file(path)).connected() as app:
        for start in range(0, count, ours.BATCH):
            await app.log.append(*map(order, range(start, start + ours.BATCH)))
        return _size(path / "log.db-wal")


def _million(report: Report) -> None:
    report.say(f"a log of {MILLION:,} events")
    with folder() as path:
        began = time.perf_counter()
        waiting = asyncio.run(_filled(path, MILLION))
        report.row(f"{MILLION:,} events", "filling the log", f"{time.perf_counter() - began:.0f} s")
        size = _size(path / "log.db")
        report.row(f"{MILLION:,} events", "file; write-ahead file", f"{size / 1e6:.0f} MB; {waiting / 1e6:.0f} MB")
        report.row(f"{MILLION:,} events", "memory added by reading all", f"{_memory_of_reading(path) / 1e6:.0f} MB")
        asyncio.run(_append_later(report, path))


def _size(path: Path) -> int:
    return path.stat().st_size


async def _append_later(report: Report, path: Path) -> None:
    """The same appends, in turn, into the full log and into a new one."""
    full: list[float] = []
    empty: list[float] = []
    async with ours.application(ours.in_file(path)).connected() as large:
        for number in range(ROUNDS + 1):
            first = MILLION + number * LATER
            with folder() as other:
                async with ours.application(ours.in_file(other)).connected() as small:
                    one = await _append_checked(small, first)
                    two = await _append_checked(large, first)
            if one.contents != two.contents:
                sys.exit("append-1m: the logs do not hold the same events, so nothing can be compared")
            if number:
                empty.append(one.per_second)
                full.append(two.per_second)
    medians = {f"with {MILLION:,} events": statistics.median(full), "empty": statistics.median(empty)}
    report.rates("durable appends of one, 64 producers", medians)
    report.ratio("append-1m", statistics.median(full), statistics.median(empty))


async def _append_checked(app: App, first: int) -> Outcome:
    before = (await app.log.head()).last
    seconds = await ours.publish_all(app, LATER, 64, first)
    return Outcome(LATER / seconds, digest(await ours.contents(app, after=before)))


def _import_milliseconds() -> float:
    program = "import time; began = time.perf_counter(); import ensue; print(time.perf_counter() - began)"
    times = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(9)]
    return statistics.median(times) * 1e3


def _memory_of_reading(path: Path) -> int:
    """Bytes by which the largest size of a process grew while it read the whole log; in a process of its own."""
    return int(subprocess.check_output([sys.executable, "-m", "bench.store", READ_MEMORY, str(path)]))


async def _read_memory(path: Path) -> None:
    async with ours.application(ours.in_file(path)).connected() as app:
        before = _memory("VmRSS")
        count = 0
        async for _ in app.log.read():
            count += 1
        assert count == MILLION, count
        print(_memory("VmHWM") - before)


def _memory(what: str) -> int:
    """Bytes of this process now (`VmRSS`) or at its largest (`VmHWM`), as Linux tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


if __name__ == "__main__":
    if sys.argv[1:2] == [READ_MEMORY]:
        asyncio.run(_read_memory(Path(sys.argv[2])))
    else:
        main()
