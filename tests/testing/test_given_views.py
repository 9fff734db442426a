"""Given, when, then of views: the same expectations wherever rows are kept, and whatever dies meanwhile."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any, Literal, Self

import pytest

from ensue import App, Event, Query, Transaction, View
from ensue.errors import MissingCapability
from ensue.testing import NotDeterministic, NotPure, given
from ensue.testing.places import VARIABLE
from tests.testing.ledger import Deposited, Withdraw, Withdrawn, bank, deposited, withdrawn

PLACES = ["pure", "memory", "simulated", "sqlite", "postgresql"]


class Closed(Event, key="account_id"):
    account_id: str


class Statement(View, key="account_id"):
    account_id: str
    balance: Decimal = Decimal(0)
    movements: int = 0

    def evolve(self, event: Deposited | Withdrawn | Closed) -> Self | None:
        if isinstance(event, Closed):
            return None
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        self.movements += 1
        return self


def kept(when: Literal["after", "inline", "live"]) -> App:
    app = App("kept")
    app.include(bank)
    if when == "after":
        app.view(Statement)
    else:
        app.view(when=when)(Statement)
    return app


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv(VARIABLE, request.getfixturevalue("postgresql_url") if name == "postgresql" else name)
    return name


def row(balance: int, movements: int, account: str = "a") -> Statement:
    return Statement(account_id=account, balance=Decimal(balance), movements=movements)


take = Withdraw(account_id="a", amount=Decimal(5))


@pytest.mark.parametrize("when", ["after", "inline", "live"])
def test_rows_follow_from_what_was_given_and_from_what_came_of_it(place: str, when: Any) -> None:
    app = kept(when)
    given(app, deposited(9), deposited(3, "b")).then_row(row(9, 1), row(3, 1, "b")).then_no_row(Statement, "c")
    given(app, deposited(9)).when(take).then(withdrawn(5)).then_row(row(4, 2))
    given(app, deposited(9)).when(deposited(1)).then_row(row(10, 2))
    given(app, deposited(9)).when(Closed(account_id="a")).then_nothing().then_no_row(Statement, "a")


@pytest.mark.parametrize("when", ["after", "inline", "live"])
def test_rows_follow_wherever_the_process_dies(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    monkeypatch.setenv(VARIABLE, "crashes")
    given(kept(when), deposited(9)).when(take).then_row(row(4, 2))


def test_a_wrong_row_says_what_is_there(place: str) -> None:
    with pytest.raises(AssertionError, match=r"the row is Statement\(.*'9'.*movements=1\), not Statement\(.*'9'.*=2\)"):
        given(kept("after"), deposited(9)).then_row(row(9, 2))
    with pytest.raises(AssertionError, match="the row is None, not Statement"):
        given(kept("after")).then_row(row(9, 1))
    with pytest.raises(AssertionError, match="there is a row: Statement"):
        given(kept("after"), deposited(9)).then_no_row(Statement, "a")


def test_a_row_that_follows_by_chance_is_noticed(place: str) -> None:
    calls = itertools.count()

    class Counted(View, key="account_id"):
        account_id: str
        seen: int = 0

        def evolve(self, event: Deposited) -> Self:
            self.seen = next(calls)
            return self

    app = App("counting")
    app.view(Counted)
    with pytest.raises(NotDeterministic, match=r"Counted.evolve is not deterministic"):
        given(app, deposited(1)).then_row(Counted(account_id="a"))


class SumOf(Query[Decimal]): ...


def test_rows_are_asked_for_once_they_have_what_was_given(place: str) -> None:
    app = kept("after")

    @app.query
    def sum_of(query: SumOf, tx: Transaction) -> Decimal:
        return sum((row.balance for row in tx.rows(Statement, "SELECT * FROM statement")), Decimal(0))

    if place in ("pure", "memory"):
        with pytest.raises((NotPure, MissingCapability)):
            given(app, deposited(9)).when_asked(SumOf())
        return
    assert given(app, deposited(9), deposited(3, "b"), withdrawn(1)).when_asked(SumOf()) == 11
