"""A small bank that tests of the test kit use: two ways to decide, a question, and what is wrong with deciders on purpose."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from ensue import App, Command, Event, Of, Query, Refusal, State

__all__ = [
    "Account",
    "BalanceOf",
    "Deposited",
    "Overdrawn",
    "Transfer",
    "Withdraw",
    "Withdrawn",
    "bank",
    "deposited",
    "withdraw",
    "withdrawn",
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


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: Decimal


class Transfer(Command[list[Deposited | Withdrawn]]):
    source: str
    target: str
    amount: Decimal


class BalanceOf(Query[Decimal]):
    account_id: str


bank = App("bank")


@bank.command
def withdraw(command: Withdraw, account: Account) -> Withdrawn:
    if command.amount > account.balance:
        raise Overdrawn(available=account.balance)
    return Withdrawn(account_id=command.account_id, amount=command.amount)


@bank.command
def transfer(
    command: Transfer, source: Annotated[Account, Of("source")], target: Annotated[Account, Of("target")]
) -> list[Deposited | Withdrawn]:
    taken = withdraw(Withdraw(account_id=command.source, amount=command.amount), source)
    return [taken, Deposited(account_id=command.target, amount=command.amount)]


@bank.query
def balance(query: BalanceOf, account: Account) -> Decimal:
    return account.balance


def deposited(amount: int, account: str = "a") -> Deposited:
    return Deposited(account_id=account, amount=Decimal(amount))


def withdrawn(amount: int, account: str = "a") -> Withdrawn:
    return Withdrawn(account_id=account, amount=Decimal(amount))
