"""The state of an account, and what is decided on it. What a decision looked at must not have changed when it is stored."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Self

from ensue import Of, Service, State
from ensue.examples.bank.messages import (
    CASH,
    INTEREST,
    AccountClosed,
    AccountOpened,
    BalanceOf,
    CloseAccount,
    Deposited,
    InterestPaid,
    InterestPaidAlready,
    NotEmpty,
    NotOpen,
    OpenAccount,
    OpenedAlready,
    Overdrawn,
    PayIn,
    PayInterest,
    PayOut,
    Transfer,
    Withdrawn,
)

__all__ = [
    "Account",
    "accounts",
    "balance",
    "close_account",
    "movement",
    "open_account",
    "pay_in",
    "pay_interest",
    "pay_out",
    "transfer",
]

accounts = Service("accounts")

_CENT = Decimal("0.01")
_DAYS = 365


class Account(State, key="account_id"):
    """What an account is, by all that happened to it."""

    is_open: bool = False
    balance: Decimal = Decimal(0)
    limit: Decimal = Decimal(0)
    opened_before: bool = False
    interest_until: date | None = None

    @property
    def available(self) -> Decimal:
        return self.balance + self.limit

    def evolve(self, event: AccountOpened | Withdrawn | Deposited | InterestPaid | AccountClosed) -> Self:
        match event:
            case AccountOpened():
                self.is_open = self.opened_before = True
                self.limit = event.limit
            case Withdrawn():
                self.balance -= event.amount
            case Deposited():
                self.balance += event.amount
            case InterestPaid():
                self.interest_until = event.until
            case AccountClosed():
                self.is_open = False
        return self


def movement(movement_id: str, source: str, target: str, amount: Decimal) -> list[Withdrawn | Deposited]:
    """Money that goes from one account to another."""
    return [
        Withdrawn(account_id=source, movement_id=movement_id, amount=amount),
        Deposited(account_id=target, movement_id=movement_id, amount=amount),
    ]


def _check_open(account_id: str, account: Account) -> None:
    if not account.is_open:
        raise NotOpen(account_id=account_id)


@accounts.command
def open_account(command: OpenAccount, account: Account) -> AccountOpened:
    if account.opened_before:
        raise OpenedAlready(account_id=command.account_id)
    return AccountOpened(account_id=command.account_id, owner=command.owner, limit=command.limit)


@accounts.command
def pay_in(command: PayIn, account: Account) -> list[Withdrawn | Deposited]:
    _check_open(command.account_id, account)
    return movement(command.movement_id, CASH, command.account_id, command.amount)


@accounts.command
def pay_out(command: PayOut, account: Account) -> list[Withdrawn | Deposited]:
    _check_open(command.account_id, account)
    if command.amount > account.available:
        raise Overdrawn(available=account.available)
    return movement(command.movement_id, command.account_id, CASH, command.amount)


@accounts.command
def transfer(
    command: Transfer, source: Annotated[Account, Of("source")], target: Annotated[Account, Of("target")]
) -> list[Withdrawn | Deposited]:
    _check_open(command.source, source)
    _check_open(command.target, target)
    if command.amount > source.available:
        raise Overdrawn(available=source.available)
    return movement(command.movement_id, command.source, command.target, command.amount)


@accounts.command
def pay_interest(command: PayInterest, account: Account) -> list[Withdrawn | Deposited | InterestPaid]:
    _check_open(command.account_id, account)
    since = account.interest_until
    if since is not None and since >= command.until:
        raise InterestPaidAlready(until=since)
    days = (command.until - since).days if since is not None else 1
    amount = (account.balance * command.rate * days / _DAYS).quantize(_CENT, ROUND_HALF_EVEN)
    legs = movement(command.movement_id, INTEREST, command.account_id, amount) if amount > 0 else []
    return [*legs, InterestPaid(account_id=command.account_id, until=command.until)]


@accounts.command
def close_account(command: CloseAccount, account: Account) -> AccountClosed:
    _check_open(command.account_id, account)
    if account.balance:
        raise NotEmpty(balance=account.balance)
    return AccountClosed(account_id=command.account_id)


@accounts.query
def balance(query: BalanceOf, account: Account) -> Decimal:
    if not account.opened_before:
        raise NotOpen(account_id=query.account_id)
    return account.balance
