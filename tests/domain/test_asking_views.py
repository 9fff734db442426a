"""Queries on rows of views, of each kind: after a write, and watched, also where another process keeps them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from decimal import Decimal
from typing import Literal, Self

import pytest

from ensue import App, Query, Transaction, View
from tests.domain.desk import Deposit, Deposited, Withdraw, Withdrawn, desk


class Standing(View, key="account_id", table="standings"):
    account_id: str
    balance: Decimal = Decimal(0)
    moves: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        self.moves += 1
        return self


class StandingOf(Query["Standing | None"]):
    """Read by SQL."""

    account_id: str


class RowOf(Query["Standing | None"]):
    """Read by the view's key."""

    account_id: str


def viewing(url: str, when: Literal["after", "inline", "live"] = "after") -> App:
    if when == "inline":  # needs one order of commits
        url = url.replace("ensue_writers=many", "ensue_writers=few")
    app = desk(url)
    app.view(when=when)(Standing)

    @app.query
    async def row(query: RowOf, bank: App) -> Standing | None:
        return await bank.get(Standing, query.account_id)

    if when != "live":  # such rows are in no database

        @app.query
        def standing(query: StandingOf, tx: Transaction) -> Standing | None:
            return tx.row(Standing, "SELECT * FROM standings WHERE account_id = ?", query.account_id)

    return app


WAYS = [("after", StandingOf), ("after", RowOf), ("inline", StandingOf), ("inline", RowOf), ("live", RowOf)]


@pytest.mark.parametrize(("when", "question"), WAYS)
def test_rows_of_a_view_are_there_after_the_write_whose_position_is_given(
    when: Literal["after", "inline", "live"], question: type[StandingOf | RowOf], shared_url: str
) -> None:
    async def run() -> None:
        app = viewing(shared_url, when)
        async with app:
            for number in range(1, 6):
                receipt = await app.send(Deposit(account_id="a1", amount=Decimal(2)))
                row = await app.ask(question(account_id="a1"), after=receipt.position)
                assert row == Standing(account_id="a1", balance=Decimal(2 * number), moves=number)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(("when", "question"), WAYS)
def test_rows_of_a_view_are_watched(
    when: Literal["after", "inline", "live"], question: type[StandingOf | RowOf], shared_url: str
) -> None:
    async def run() -> None:
        app = viewing(shared_url, when)
        async with app:
            first = await app.send(Deposit(account_id="a1", amount=Decimal(2)))
            async with aclosing(app.watch(question(account_id="a1"), after=first.position)) as rows:
                assert (await anext(rows)) == Standing(account_id="a1", balance=Decimal(2), moves=1)
                for number in range(2, 5):
                    await app.send(Withdraw(account_id="a1", amount=Decimal(0)))
                    assert (await anext(rows)) == Standing(account_id="a1", balance=Decimal(2), moves=number)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("question", [StandingOf, RowOf])
def test_rows_of_a_view_are_watched_where_another_application_keeps_them(
    question: type[StandingOf | RowOf], shared_url: str
) -> None:
    async def run() -> None:
        keeping, asking = viewing(shared_url), viewing(shared_url)
        async with keeping, asking.connected():
            first = await asking.send(Deposit(account_id="a1", amount=Decimal(2)))
            async with aclosing(asking.watch(question(account_id="a1"), after=first.position)) as rows:
                assert (await anext(rows)) == Standing(account_id="a1", balance=Decimal(2), moves=1)
                for number in range(2, 5):
                    await keeping.send(Withdraw(account_id="a1", amount=Decimal(0)))
                    assert (await anext(rows)) == Standing(account_id="a1", balance=Decimal(2), moves=number)

    asyncio.run(asyncio.wait_for(run(), 60))


class Broken(View, key="account_id", table="broken"):
    account_id: str

    def evolve(self, event: Deposited) -> Self:
        if event.amount == 13:
            raise ValueError("unlucky")
        return self


@pytest.mark.parametrize("when", ["after", "live"])
def test_a_view_that_fails_ends_no_watch_of_others(when: Literal["after", "live"], shared_url: str) -> None:
    async def run() -> None:
        app = viewing(shared_url)
        app.view(when=when)(Broken)
        async with app:
            async with aclosing(app.watch(StandingOf(account_id="a1"))) as rows:
                assert await anext(rows) is None
                for number, amount in enumerate([1, 13, 1], 1):
                    await app.send(Deposit(account_id="a1", amount=Decimal(amount)))
                    row = await anext(rows)
                    assert row is not None
                    assert row.moves == number

    asyncio.run(asyncio.wait_for(run(), 60))
