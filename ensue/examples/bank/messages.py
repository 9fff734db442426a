"""What happens in the bank, what can be wished, and how it is refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, TypeAlias

import msgspec

from ensue import Command, Event, Query, Refusal

__all__ = [
    "CASH",
    "INTEREST",
    "AccountClosed",
    "AccountOpened",
    "BalanceOf",
    "CloseAccount",
    "Deposited",
    "Id",
    "InterestPaid",
    "InterestPaidAlready",
    "LargeMovementReported",
    "NotEmpty",
    "NotOpen",
    "OpenAccount",
    "OpenedAlready",
    "Overdrawn",
    "PayIn",
    "PayInterest",
    "PayOut",
    "Transfer",
    "Withdrawn",
    "is_the_banks_own",
]

CASH = "bank-cash"
INTEREST = "bank-interest"
"""The bank's own accounts: where money comes in and goes out, and what interest is paid from. They have no limit, and no decision
looks at them."""

_CENT = Decimal("0.01")

Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


def is_the_banks_own(account_id: str) -> bool:
    return account_id in (CASH, INTEREST)


def _check(amount: Decimal) -> None:
    if not (amount.is_finite() and amount > 0 and amount == amount.quantize(_CENT)):
        raise ValueError(f"{amount} is no amount of money: more than nothing, in whole cents")


# ---------------------------------------------------------------------------------------------------------------- events


class AccountOpened(Event, key="account_id"):
    account_id: Id
    owner: str
    limit: Decimal
    """How far below zero it may go."""


class Withdrawn(Event, key="account_id", tags=("movement_id",)):
    """One leg of a movement; the other is a `Deposited` of the same amount, stored with it."""

    account_id: Id
    movement_id: Id
    amount: Decimal


class Deposited(Event, key="account_id", tags=("movement_id",)):
    """See `Withdrawn`."""

    account_id: Id
    movement_id: Id
    amount: Decimal


class InterestPaid(Event, key="account_id"):
    """Until this day, the day itself included, interest is paid. Its amount, if there was any, moved like all money."""

    account_id: Id
    until: date


class AccountClosed(Event, key="account_id"):
    account_id: Id


class LargeMovementReported(Event, key="account_id", tags=("movement_id",)):
    """Somebody ought to look at it."""

    account_id: Id
    movement_id: Id
    amount: Decimal


# -------------------------------------------------------------------------------------------------------------- commands


class OpenAccount(Command[AccountOpened]):
    account_id: Id
    owner: str
    limit: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        if not self.limit.is_finite() or self.limit < 0:
            raise ValueError(f"a limit of {self.limit}: how far below zero an account may go, from 0")


class PayIn(Command[list[Withdrawn | Deposited]]):
    account_id: Id
    movement_id: Id
    amount: Decimal

    def __post_init__(self) -> None:
        _check(self.amount)


class PayOut(Command[list[Withdrawn | Deposited]]):
    account_id: Id
    movement_id: Id
    amount: Decimal

    def __post_init__(self) -> None:
        _check(self.amount)


class Transfer(Command[list[Withdrawn | Deposited]]):
    movement_id: Id
    source: Id
    target: Id
    amount: Decimal

    def __post_init__(self) -> None:
        _check(self.amount)
        if self.source == self.target:
            raise ValueError(f"a transfer from {self.source} to itself moves nothing")


class PayInterest(Command[list[Withdrawn | Deposited | InterestPaid]]):
    """For each day until this one that none was paid for, at a yearly rate of the balance as it is now."""

    account_id: Id
    movement_id: Id
    until: date
    rate: Decimal


class CloseAccount(Command[AccountClosed]):
    account_id: Id


# -------------------------------------------------------------------------------------------------------------- refusals


class OpenedAlready(Refusal):
    account_id: Id


class NotOpen(Refusal):
    """There is no such account, or it is closed."""

    account_id: Id


class Overdrawn(Refusal):
    available: Decimal


class InterestPaidAlready(Refusal):
    until: date


class NotEmpty(Refusal):
    balance: Decimal


# --------------------------------------------------------------------------------------------------------------- queries


class BalanceOf(Query[Decimal]):
    account_id: Id
