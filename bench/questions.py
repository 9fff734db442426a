"""Rows of a view: asked for through the query bus, and by the same statement of the binding alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Self

import apsw

from bench.measure import Outcome
from bench.ours import in_file
from ensue import App, Event, Query, Transaction, View

__all__ = ["ask", "fill", "select"]

ACCOUNTS = 1_000
SELECT = "SELECT * FROM standings WHERE account_id = ?"


class Deposited(Event, key="account_id"):
    account_id: str
    amount: int


class Standing(View, key="account_id", table="standings"):
    account_id: str
    owner: str = ""
    balance: int = 0
    movements: int = 0

    def evolve(self, event: Deposited) -> Self:
        self.owner, self.balance, self.movements = "o1", self.balance + event.amount, self.movements + 1
        return self


class StandingOf(Query["Standing | None"]):
    account_id: str


def application(url: str) -> App:
    """Accounts that are kept as rows, and asked for one by one."""
    app = App("bench", url=url)
    app.view(Standing)

    @app.query
    def standing(query: StandingOf, tx: Transaction) -> Standing | None:
        return tx.row(Standing, "SELECT * FROM standings WHERE account_id = ?", query.account_id)

    return app


def fill(path: Path) -> None:
    """The rows, kept from events."""

    async def run() -> None:
        app = application(in_file(path))
        async with app:
            events = [Deposited(account_id=f"a{number}", amount=number) for number in range(ACCOUNTS)]
            receipt = await app.publish(*events)
            assert await app.get(Standing, "a1", after=receipt.position) is not None

    asyncio.run(run())


def ask(path: Path, count: int) -> Outcome:
    """One question after another; each answer is a row of its type."""

    async def run() -> Outcome:
        app = application(in_file(path))
        async with app.connected():
            found: list[Standing | None] = []
            began = time.perf_counter()
            for number in range(count):
                found.append(await app.ask(StandingOf(account_id=f"a{number % ACCOUNTS}")))
            seconds = time.perf_counter() - began
        rows = [(row.account_id, row.owner, row.balance, row.movements) for row in found if row is not None]
        return Outcome(count / seconds, _digest(rows))

    return asyncio.run(run())


def select(path: Path, count: int) -> Outcome:
    """The same statements on a connection of the binding; each answer is a tuple."""
    connection = apsw.Connection(str(path / "log.db"))
    try:
        found: list[tuple[object, ...]] = []
        began = time.perf_counter()
        for number in range(count):
            found.extend(connection.execute(SELECT, (f"a{number % ACCOUNTS}",)))
        seconds = time.perf_counter() - began
    finally:
        connection.close()
    return Outcome(count / seconds, _digest(found))


def _digest(rows: Iterable[tuple[object, ...]]) -> str:
    lines = [" ".join(map(str, row)) for row in rows]
    return f"{len(lines)} rows {blake2b(chr(10).join(lines).encode(), digest_size=8).hexdigest()}"
