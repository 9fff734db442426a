"""Tests that cannot be right."""

from __future__ import annotations

from decimal import Decimal

from bank import BalanceOf, Deposited, Overdrawn, Statement, Withdraw, Withdrawn, bank

from ensue.testing import given
from ensue.testing.properties import check_decisions

take = Withdraw(account_id="a", amount=Decimal(5))

given(bank, take)  # wrong: a command has not happened
given(bank).when(BalanceOf(account_id="a"))  # wrong: a query is asked
given(bank).when_asked(take)  # wrong: a command is sent
given(bank).when(take).then(take)  # wrong: events come of it, no commands
given(bank).when(take).then_refused(Withdrawn)  # wrong: an event is no refusal
given(bank).when(take).then_row(Deposited(account_id="a", amount=Decimal(1)))  # wrong: an event is no row
given(bank).then_no_row(Overdrawn, "a")  # wrong: a refusal is no view
given(bank).when(Deposited(account_id="a", amount=Decimal(1)), principal="ann")  # wrong: nobody sends an event
text: str = given(bank).when_asked(BalanceOf(account_id="a"))  # wrong: the answer is a Decimal
number: int = given(bank).when(take).result  # wrong: the answer is a Withdrawn
given(bank).then_row(Statement(account_id="a", balance="much"))  # wrong: a balance is a Decimal
check_decisions(bank, published=[Withdraw])  # wrong: commands are decided, events are published
