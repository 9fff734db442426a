"""Deciding and asking against the peer and the raw limit: `make bench-domain`. What each line means is in bench/README.md.

`python -m bench.domain decide dcb` measures only what begins with these words.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from bench import bank, ours, questions, rows
from bench import peer_eventsourcing_domain as peer
from bench.measure import Report, alternate, fdatasync_seconds, folder
from tests.servers.postgresql import PostgresServer, empty_database

__all__ = ["main"]

ROUNDS = 5
MANY, SINGLE, ENROLMENTS = 3_200, 640, 1_920
HOT = 256
CLIENTS = 64
LONG, LOADS = 10_000, 5
QUESTIONS = 20_000
EVENTS, REBUILDS = 1_000_000, 3


def main(only: list[str]) -> None:
    """All of it, about four minutes."""
    report = Report("Deciding and asking, and what they are measured against")
    report.row("one fdatasync of this disk", "", f"{fdatasync_seconds() * 1e3:.3f} ms")
    report.section()
    for name, measure in ROWS.items():
        if not only or any(name.startswith(one) for one in only):
            measure(report)
    report.show()


def _decide(report: Report) -> None:
    report.say(f"{MANY:,} decisions on accounts of {bank.ACCOUNT_EVENTS} events, {CLIENTS} clients, SQLite")
    for name, remembered in (("decide", False), ("decide-remembered", True)):
        figures = alternate(
            name,
            ROUNDS,
            {
                "ensue": partial(bank.decide, ours.new_file, MANY, CLIENTS, remembered=remembered),
                "eventsourcing": partial(peer.decide, MANY, CLIENTS, remembered=remembered),
            },
        )
        how = "remembered" if remembered else "loaded"
        report.rates(f"decisions, {CLIENTS} clients, accounts {how}", figures, "decisions/s")
        report.ratio(name, figures["ensue"], figures["eventsourcing"])


def _decide_hot(report: Report) -> None:
    report.say(f"{HOT:,} decisions on one account, {CLIENTS} clients, SQLite")
    figures = alternate(
        "decide-hot",
        ROUNDS,
        {
            "ensue": partial(bank.decide_hot, ours.new_file, HOT, CLIENTS),
            "eventsourcing": partial(peer.decide_hot, HOT, CLIENTS),
        },
    )
    report.rates(f"decisions on one account, {CLIENTS} clients", figures, "decisions/s")
    report.ratio("decide-hot", figures["ensue"], figures["eventsourcing"])


def _decide_one(report: Report) -> None:
    report.say(f"{SINGLE:,} decisions on accounts of {bank.ACCOUNT_EVENTS} events, one client, SQLite")
    figures = alternate(
        "decide-1",
        ROUNDS,
        {
            "ensue": partial(bank.decide, ours.new_file, SINGLE, 1),
            "eventsourcing": partial(peer.decide, SINGLE, 1),
        },
    )
    report.rates("decisions, one client, accounts loaded", figures, "decisions/s")
    report.ratio("decide-1", figures["ensue"], figures["eventsourcing"])


def _decide_on_postgresql(report: Report) -> None:
    with PostgresServer() as server:
        report.say(f"{MANY:,} decisions, {CLIENTS} clients, PostgreSQL {server.version}")
        figures = alternate(
            "decide-pg",
            ROUNDS,
            {
                "ensue": partial(bank.decide, partial(_place, server.url()), MANY, CLIENTS),
                "eventsourcing": partial(peer.decide_on_postgresql, server.url(), MANY, CLIENTS),
            },
        )
    report.rates(f"decisions on PostgreSQL, {CLIENTS} clients, accounts loaded", figures, "decisions/s")
    report.ratio("decide-pg", figures["ensue"], figures["eventsourcing"])


def _dcb(report: Report) -> None:
    with PostgresServer() as server:
        report.say(
            f"{ENROLMENTS:,} enrolments in courses of {bank.COURSE_PLACES} places, {CLIENTS} clients, PostgreSQL"
        )
        figures = alternate(
            "dcb",
            ROUNDS,
            {
                "ensue": partial(bank.enrol, partial(_place, server.url()), ENROLMENTS, CLIENTS),
                "eventsourcing": partial(peer.enrol, server.url(), ENROLMENTS, CLIENTS),
            },
        )
    report.rates(f"enrolments on PostgreSQL, {CLIENTS} clients", figures, "enrolments/s")
    report.ratio("dcb", figures["ensue"], figures["eventsourcing"])


def _load(report: Report) -> None:
    report.say(f"loading an account of {LONG:,} events")
    with ours.new_file() as url:
        kept, read = asyncio.run(bank.load(url, LONG, LOADS))
    report.row(f"loading an account of {LONG:,} events", "with its snapshot", f"{kept * 1e3:.2f} ms")
    report.row(f"loading an account of {LONG:,} events", "from its events", f"{read * 1e3:.2f} ms")
    report.section()
    report.ratio("load-10k", 1 / kept, 1 / read)


def _query(report: Report) -> None:
    report.say(f"{QUESTIONS:,} rows of a view, one after another, SQLite")
    with folder() as path:
        questions.fill(path)
        figures = alternate(
            "query",
            ROUNDS,
            {"ensue": partial(questions.ask, path, QUESTIONS), "apsw": partial(questions.select, path, QUESTIONS)},
        )
    report.rates("rows of a view, by its query and by the same SELECT", figures, "rows/s")
    report.ratio("query", figures["ensue"], figures["apsw"])


def _view(report: Report) -> None:
    report.say(f"rebuilding a view of {rows.ACCOUNTS:,} rows from {EVENTS:,} events, SQLite")
    with folder() as path:
        rows.fill(path, EVENTS)
        figures = alternate(
            "view", REBUILDS, {"ensue": partial(rows.rebuild, path, EVENTS), "apsw": partial(rows.upsert, EVENTS)}
        )
    report.rates("events into rows, by a view built anew and by upserts of the same rows", figures)
    report.ratio("view", figures["ensue"], figures["apsw"])


@contextmanager
def _place(server: str) -> Generator[str, None, None]:
    yield empty_database(server)


ROWS: dict[str, Callable[[Report], None]] = {
    "decide": _decide,
    "decide-1": _decide_one,
    "decide-hot": _decide_hot,
    "decide-pg": _decide_on_postgresql,
    "dcb": _dcb,
    "load-10k": _load,
    "query": _query,
    "view": _view,
}
"""What is measured, by the name of its ratio."""


if __name__ == "__main__":
    main(sys.argv[1:])
