"""A view built anew from history, and the same rows written by the binding alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, cast

import apsw

from bench.measure import Outcome, folder
from bench.ours import in_file
from ensue import App, Event, View
from ensue.domain.views import registry
from ensue.domain.views.registry import Database

__all__ = ["ACCOUNTS", "fill", "rebuild", "upsert"]

ACCOUNTS = 100_000
BATCH = 1_000
_CREATE = (
    "CREATE TABLE turnover (account_id TEXT NOT NULL, owner TEXT NOT NULL, balance INTEGER NOT NULL, "
    "movements INTEGER NOT NULL, PRIMARY KEY (account_id)) STRICT, WITHOUT ROWID"
)
_UPSERT = (
    "INSERT INTO turnover VALUES (?, ?, ?, ?) ON CONFLICT (account_id) DO UPDATE SET owner = excluded.owner, "
    "balance = excluded.balance, movements = excluded.movements"
)


class Deposited(Event, key="account_id"):
    account_id: str
    owner: str
    amount: int


class Turnover(View, key="account_id"):
    account_id: str
    owner: str = ""
    balance: int = 0
    movements: int = 0

    def evolve(self, event: Deposited) -> Self:
        self.owner = event.owner
        self.balance += event.amount
        self.movements += 1
        return self


def _events(count: int) -> Iterator[Deposited]:
    for number in range(count):
        account = number * 7919 % ACCOUNTS
        yield Deposited(account_id=f"account-{account}", owner=f"owner-{account % 977}", amount=number % 1000)


def _application(path: Path) -> App:
    app = App("bench", url=in_file(path))
    app.view(Turnover)
    return app


def fill(path: Path, count: int) -> None:
    """The events, and the first version of the view."""

    async def run() -> None:
        async with App("bench", url=in_file(path)).connected() as app:
            some: list[Deposited] = []
            for event in _events(count):
                some.append(event)
                if len(some) == BATCH:
                    await app.publish(*some)
                    some.clear()
            await app.publish(*some)
        async with _application(path) as app:
            while not await _shown(app, 1):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(run())


async def _shown(app: App, number: int) -> bool:
    found = await registry.versions(cast(Database, app.open_store()))
    return any(one.current and one.number >= number for one in found)


def rebuild(path: Path, count: int) -> Outcome:
    """One more version, from the first event until readers see it: as `ensue views rebuild` and a process that starts then."""

    async def run() -> Outcome:
        async with _application(path).connected() as app:
            store = cast(Database, app.open_store())
            version = (await registry.versions(store))[-1]
            await registry.write(store, lambda sql: registry.rebuild(sql, version, used=version.number, now=0))
        began = time.perf_counter()
        async with _application(path) as app:
            while not await _shown(app, version.number + 1):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            seconds = time.perf_counter() - began
            return Outcome(count / seconds, _digest(app.sql("SELECT * FROM turnover ORDER BY account_id")))

    return asyncio.run(run())


def upsert(count: int) -> Outcome:
    """The row that each event leads to, in durable transactions of a thousand."""
    rows: dict[str, tuple[str, str, int, int]] = {}
    lines: list[tuple[str, str, int, int]] = []
    for event in _events(count):
        _, _, balance, movements = rows.get(event.account_id, ("", "", 0, 0))
        line = (event.account_id, event.owner, balance + event.amount, movements + 1)
        rows[event.account_id] = line
        lines.append(line)
    with folder() as path:
        connection = apsw.Connection(str(path / "rows.db"))
        connection.pragma("journal_mode", "wal")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute(_CREATE)
        began = time.perf_counter()
        for first in range(0, count, BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, lines[first : first + BATCH])
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        found = list(connection.execute("SELECT * FROM turnover ORDER BY account_id"))
        connection.close()
    return Outcome(count / seconds, _digest(found))


def _digest(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()
