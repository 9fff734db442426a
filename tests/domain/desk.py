"""A bank's desk: what tests of commands and queries share."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Self

import msgspec

from ensue import App, Command, Event, Of, Query, Refusal, State

__all__ = [
    "Account",
    "BalanceOf",
    "Deposit",
    "Deposited",
    "Overdrawn",
    "Transfer",
    "Withdraw",
    "Withdrawn",
    "desk",
]


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Withdrawn(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Overdrawn(Refusal):
    available: Decimal


class Account(State, key="account_id"):
    balance: Decimal = Decimal(0)

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        return self


class Deposit(Command[Deposited]):
    account_id: Annotated[str, msgspec.Meta(min_length=1)]
    amount: Decimal

    def __post_init__(self) -> None:
        if self.amount != self.amount.quantize(Decimal("0.01")):
            raise ValueError("money has two places")


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: Decimal


class Transfer(Command[list[Event]]):
    source: str
    target: str
    amount: Decimal


class BalanceOf(Query[Decimal]):
    account_id: str


def desk(url: str, name: str = "desk", **options: Any) -> App:
    """An application that decides and answers these."""
    app = App(name, url=url, **options)

    @app.command
    def deposit(command: Deposit) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    @app.command
    def withdraw(command: Withdraw, account: Account) -> Withdrawn:
        if command.amount > account.balance:
            raise Overdrawn(available=account.balance)
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    @app.command
    def transfer(
        command: Transfer, source: Annotated[Account, Of("source")], target: Annotated[Account, Of("target")]
    ) -> list[Event]:
        if command.amount > source.balance:
            raise Overdrawn(available=source.balance)
        return [
            Withdrawn(account_id=command.source, amount=command.amount),
            Deposited(account_id=command.target, amount=command.amount),
        ]

    @app.query
    def balance(query: BalanceOf, account: Account) -> Decimal:
        return account.balance

    return app
