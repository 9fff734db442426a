"""Tests as users write them: the answer of a command, the answer of a query, rows, refusals and properties have their types."""

from __future__ import annotations

from decimal import Decimal
from typing import assert_type

from bank import (
    Account,
    BalanceOf,
    Deposited,
    Movement,
    Opened,
    Overdrawn,
    Statement,
    Transfer,
    Withdraw,
    Withdrawn,
    bank,
)
from hypothesis import strategies as st

from ensue.testing import Given, Outcome, given
from ensue.testing.properties import check_decisions

RICH = (Opened(account_id="a"), Deposited(account_id="a", amount=Decimal(9)))


def test_the_answer_is_of_the_commands_own_type() -> None:
    outcome = given(bank, *RICH).when(Withdraw(account_id="a", amount=Decimal(5)))
    assert_type(outcome, Outcome[Withdrawn])
    assert_type(outcome.then(Withdrawn(account_id="a", amount=Decimal(5))).result, Withdrawn)
    assert outcome.result.amount == 5
    moved = given(bank, *RICH).when(Transfer(source="a", target="b", amount=Decimal(1)), principal="ann")
    assert_type(moved.result, list[Movement])


def test_a_refusal_and_rows() -> None:
    given(bank).when(Withdraw(account_id="a", amount=Decimal(5))).then_refused(Overdrawn, available=Decimal(0))
    given(bank, *RICH).then_row(Statement(account_id="a", balance=Decimal(9), movements=1)).then_no_row(Statement, "b")
    assert_type(given(bank, *RICH).when(RICH[1]), Outcome[None])
    assert_type(given(bank), Given)


def test_the_answer_of_a_query_has_its_type() -> None:
    balance = given(bank, *RICH).when_asked(BalanceOf(account_id="a"))
    assert_type(balance, Decimal)


def never_under_the_limit(account: Account) -> bool:
    return account.balance + account.limit >= 0


def test_properties() -> None:
    amounts = {Decimal: st.decimals(0, 100, places=2)}
    check_decisions(bank, never_under_the_limit, published=[Opened, Deposited], values=amounts)
