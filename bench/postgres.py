"""The log on PostgreSQL against its peer and the raw limit: `make bench-postgres`. What each line means is in bench/README.md.

One real server of its own on loopback, with PostgreSQL's default durability.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from bench import ours, raw_postgres
from bench import peer_eventsourcing_postgres as peer
from bench.measure import Outcome, Report, alternate, fdatasync_seconds
from bench.orders import digest, order
from bench.pipeline import handle, pure
from ensue import App
from ensue.store.postgresql.schema import STEPS
from tests.servers.postgresql import PostgresServer, empty_database

__all__ = ["main"]

ROUNDS = 5
SINGLE, MANY = 1_000, 6_400
BULK = 30_000
READ = 100_000
MILLION = 1_000_000
LATER = 12_800
EVENTS = 20_000


def main() -> None:
    """All of it, about four minutes."""
    report = Report("The log on PostgreSQL, and what it is measured against")
    report.row("one fdatasync of this disk", "", f"{fdatasync_seconds() * 1e3:.3f} ms")
    with PostgresServer() as server:
        report.row("the server", "", f"PostgreSQL {server.version}, its default durability")
        report.section()
        measured = _Measured(report, server.url())
        measured.appends()
        measured.bulk()
        measured.reads()
        measured.pipeline()
        measured.million()
    report.show()


class _Measured:
    def __init__(self, report: Report, server: str) -> None:
        self._report = report
        self._server = server

    @contextmanager
    def _place(self) -> Generator[str, None, None]:
        yield empty_database(self._server)

    def appends(self) -> None:
        for name, producers, count in (("pg-append-1", 1, SINGLE), ("pg-append-64", 64, MANY)):
            self._report.say(f"{count:,} durable appends of one event, {producers} producers")
            sides = {
                "ensue": partial(ours.append_one_by_one, self._place, count, producers),
                "eventsourcing": partial(peer.append_one_by_one, self._server, count, producers),
            }
            figures = alternate(name, ROUNDS, sides)
            self._report.rates(f"durable appends of one, {producers} producers", figures)
            self._report.ratio(name, figures["ensue"], figures["eventsourcing"])

    def bulk(self) -> None:
        self._report.say(f"{BULK:,} events in batches of {ours.BATCH:,}")
        events = [order(number) for number in range(BULK)]
        with self._place() as url:
            asyncio.run(_filled(url, BULK))
            copies = raw_postgres.copied(url, "ensue_event", "ensue_event_tag")
        schema = "".join(step.sql for step in STEPS)
        sides = {
            "ensue": partial(ours.append_batches, self._place, events, fill=ours.fill_two_at_a_time),
            "ensue, one after another": partial(ours.append_batches, self._place, events),
            "COPY": partial(raw_postgres.append_batches, self._server, schema, copies),
        }
        figures = alternate("pg-append-bulk", ROUNDS, sides)
        self._report.rates(f"batches of {ours.BATCH:,}", figures)
        self._report.ratio("pg-append-bulk", figures["ensue"], figures["COPY"])

    def reads(self) -> None:
        self._report.say(f"reading {READ:,} events")
        with self._place() as url, self._place() as theirs:
            asyncio.run(_filled(url, READ))
            peer.fill(theirs, READ)
            sides = {
                "ensue": partial(ours.read_typed, url),
                "eventsourcing": partial(peer.read_typed, theirs),
            }
            figures = alternate("pg-read-typed", ROUNDS, sides)
        self._report.rates("the whole log into typed events", figures)
        self._report.ratio("pg-read-typed", figures["ensue"], figures["eventsourcing"])

    def pipeline(self) -> None:
        self._report.say(f"{EVENTS:,} events in, one out each, by a pure handler")
        events = [order(number) for number in range(EVENTS)]
        sides = {
            "bulk append of as many": partial(ours.append_batches, self._place, events),
            "pure": partial(handle, self._place, events, pure),
        }
        figures = alternate("pg-pipeline", ROUNDS, sides)
        self._report.rates("events in, one event out each, exactly once", figures)
        self._report.ratio("pg-pipeline", figures["pure"], figures["bulk append of as many"])

    def million(self) -> None:
        self._report.say(f"a log of {MILLION:,} events")
        with self._place() as url:
            began = time.perf_counter()
            asyncio.run(_filled(url, MILLION))
            self._report.row(f"{MILLION:,} events", "filling the log", f"{time.perf_counter() - began:.0f} s")
            full, empty = asyncio.run(self._append_later(url))
        self._report.rates("durable appends of one, 64 producers", {f"with {MILLION:,} events": full, "empty": empty})
        self._report.ratio("pg-1m", full, empty)

    async def _append_later(self, url: str) -> tuple[float, float]:
        """The same appends, in turn, into the full log and into a new one; the median of each."""
        full: list[float] = []
        empty: list[float] = []
        async with ours.application(url).connected() as large:
            for number in range(ROUNDS + 1):
                first = MILLION + number * LATER
                with self._place() as other:
                    async with ours.application(other).connected() as small:
                        one = await _append_checked(small, first)
                        two = await _append_checked(large, first)
                if one.contents != two.contents:
                    sys.exit("pg-1m: the logs do not hold the same events, so nothing can be compared")
                if number:
                    empty.append(one.per_second)
                    full.append(two.per_second)
        return statistics.median(full), statistics.median(empty)


async def _filled(url: str, count: int) -> None:
    async with ours.application(url).connected() as app:
        for start in range(0, count, ours.BATCH):
            await app.log.append(*map(order, range(start, start + ours.BATCH)))


async def _append_checked(app: App, first: int) -> Outcome:
    before = (await app.log.head()).last
    seconds = await ours.publish_all(app, LATER, 64, first)
    return Outcome(LATER / seconds, digest(await ours.contents(app, after=before)))


if __name__ == "__main__":
    main()
