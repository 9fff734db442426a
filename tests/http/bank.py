"""A bank behind HTTP, as the tests of this folder serve it; and, run as a program, a process of its own that serves it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Literal, Self
from uuid import UUID

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request

from ensue import App, Call, Command, Event, Query, Refusal, State
from ensue.http import Authenticate, asgi

__all__ = ["BalanceOf", "Deposit", "Deposited", "Withdraw", "Withdrawn", "bank", "by_token", "web"]


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


class CappedBalanceOf(Query[Decimal]):
    """Refused when it is more than 100."""

    account_id: str


class Counted(Query["AsyncIterator[Entry]"]):
    """So many entries, one after another. `broken`: at this one there is a bug; `refused`: a no."""

    count: int
    broken: int | None = None
    refused: int | None = None


class WhoAsks(Query[str]): ...


class Entry(msgspec.Struct):
    number: int
    text: str = "ä\n"


class Flat(Query["dict[str, str]"], name="echo.Flat"):
    """Every kind of field that a query string can hold."""

    number: int = 0
    ratio: float = 0.0
    yes: bool = False
    text: str | None = None
    numbers: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Kinds(Query["dict[str, str]"], name="echo.Kinds"):
    """Every kind of value that text stands for."""

    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    span: timedelta | None = None
    id: UUID | None = None
    colour: Colour | None = None
    number: Decimal | None = None
    raw: bytes | None = None
    by_day: dict[date, list[timedelta]] | None = None
    either: Entry | list[Entry] | None = None


class Nested(Query["dict[str, str]"], name="echo.Nested"):
    limits: dict[str, Decimal]
    pairs: tuple[tuple[int, str], ...] = ()


class Overdrawn(Refusal):
    available: Decimal


class Banned(Refusal):
    until: str


class TooMuch(Refusal): ...


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


def bank(url: str, tenants: Literal["tag"] | None = None) -> App:
    app = App("bank", url=url, tenants=tenants)

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
    def capped_balance_of(query: CappedBalanceOf, account: Account) -> Decimal:
        if account.balance > 100:
            raise TooMuch
        return account.balance

    @app.query
    async def counted(query: Counted) -> AsyncIterator[Entry]:
        async with asyncio.timeout(60):  # belongs to one task
            for number in range(query.count):
                if number == query.broken:
                    raise RuntimeError("the password is s3cret")
                if number == query.refused:
                    raise TooMuch
                yield Entry(number)

    @app.query
    def who_asks(query: WhoAsks, call: Call[WhoAsks]) -> str:
        return str(call.principal_id)

    @app.query
    def flat(query: Flat) -> dict[str, str]:
        return {name: repr(getattr(query, name)) for name in query.__struct_fields__}

    @app.query
    def kinds(query: Kinds) -> dict[str, str]:
        return {name: repr(getattr(query, name)) for name in query.__struct_fields__}

    @app.query
    def nested(query: Nested) -> dict[str, str]:
        return {name: repr(getattr(query, name)) for name in query.__struct_fields__}

    return app


async def by_token(request: Request) -> str | None:
    """Knows two tokens."""
    known = {"Bearer of-ada": "ada", "Bearer of-bob": "bob"}
    if request.headers.get("authorization") == "Bearer of-eve":
        raise Banned(until="tomorrow")
    return known.get(request.headers.get("authorization", ""))


def web(url: str, authenticate: Authenticate | None = None) -> Starlette:
    return asgi(bank(url), authenticate=authenticate)


if __name__ == "__main__":
    config = uvicorn.Config(web(os.environ["BANK_URL"]), host="127.0.0.1", port=0, lifespan="on", ws="none")
    asyncio.run(uvicorn.Server(config).serve())
