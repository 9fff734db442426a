"""What a customer sees of an account: a view, and questions that are answered from its rows."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from ensue import Query, Service, Transaction, View
from ensue.examples.bank.messages import AccountClosed, AccountOpened, Deposited, Withdrawn

__all__ = ["OverdrawnAccounts", "Statement", "overdrawn_accounts", "statements"]

statements = Service("statements")


@statements.view
class Statement(View, key="account_id", table="statement", index=("owner",)):
    """One row for each account, the bank's own included."""

    account_id: str
    owner: str = ""
    limit: Decimal = Decimal(0)
    balance: Decimal = Decimal(0)
    movements: int = 0
    paid_in: Decimal = Decimal(0)
    paid_out: Decimal = Decimal(0)
    is_closed: bool = False

    def evolve(self, event: AccountOpened | Withdrawn | Deposited | AccountClosed) -> Self:
        match event:
            case AccountOpened():
                self.owner, self.limit = event.owner, event.limit
            case Withdrawn():
                self.balance -= event.amount
                self.paid_out += event.amount
                self.movements += 1
            case Deposited():
                self.balance += event.amount
                self.paid_in += event.amount
                self.movements += 1
            case AccountClosed():
                self.is_closed = True
        return self


class OverdrawnAccounts(Query[list[Statement]]):
    """Those below zero, by owner."""


@statements.query
def overdrawn_accounts(query: OverdrawnAccounts, tx: Transaction) -> list[Statement]:
    rows = tx.rows(Statement, "SELECT * FROM statement WHERE owner <> '' ORDER BY owner, account_id")
    return [row for row in rows if row.balance < 0]
