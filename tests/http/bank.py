"""A bank behind HTTP, as the tests of this folder serve it; and, run as a program, a process of its own that serves it."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request

from ensue import App, Command, Event, Query, Refusal, State
from ensue.http import Authenticate, asgi

__all__ = ["BalanceOf", "Deposit", "Deposited", "Flat", "Nested", "Withdraw", "Withdrawn", "bank", "by_token"]


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Withdrawn(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Deposit(Command[Deposited]):
    """Put money in."""

    account_id: str
    amount: Decimal


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: Decimal
    note: str | None = None


class Break(Command[None]):
    """Meets a bug."""

    secret: str = "s3cret"


class BalanceOf(Query[Decimal]):
    account_id: str


class Flat(Query["dict[str, str]"], name="echo.Flat"):
    """Every kind of field that a query string can hold."""

    number: int = 0
    ratio: float = 0.0
    yes: bool = False
    text: str | None = None
    numbers: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()


class Nested(Query["dict[str, str]"], name="echo.Nested"):
    limits: dict[str, Decimal]
    pairs: tuple[tuple[int, str], ...] = ()


class Overdrawn(Refusal):
    available: Decimal


class NotPositive(Refusal):
    amount: Decimal


class Account(State, key="account_id"):
    balance: Decimal = Decimal(0)

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        return self


def checked(amount: Decimal) -> Decimal:
    if amount <= 0:
        raise NotPositive(amount=amount)
    return amount


def bank(url: str) -> App:
    app = App("bank", url=url)

    @app.command
    def deposit(command: Deposit, account: Account) -> Deposited:
        return Deposited(account_id=command.account_id, amount=checked(command.amount))

    @app.command
    def withdraw(command: Withdraw, account: Account) -> Withdrawn:
        if account.balance < checked(command.amount):
            raise Overdrawn(available=account.balance)
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    @app.command
    def stumble(command: Break) -> None:
        raise RuntimeError(f"the password is {command.secret}")

    @app.query
    def balance_of(query: BalanceOf, account: Account) -> Decimal:
        return account.balance

    @app.query
    def flat(query: Flat) -> dict[str, str]:
        return {name: repr(getattr(query, name)) for name in query.__struct_fields__}

    @app.query
    def nested(query: Nested) -> dict[str, str]:
        return {name: repr(getattr(query, name)) for name in query.__struct_fields__}

    return app


async def by_token(request: Request) -> str | None:
    """Knows one token."""
    return "ada" if request.headers.get("authorization") == "Bearer of-ada" else None


def web(url: str, authenticate: Authenticate | None = None) -> Starlette:
    return asgi(bank(url), authenticate=authenticate)


if __name__ == "__main__":
    config = uvicorn.Config(web(os.environ["BANK_URL"]), host="127.0.0.1", port=0, lifespan="on", ws="none")
    asyncio.run(uvicorn.Server(config).serve())
