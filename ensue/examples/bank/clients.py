"""What customers of the bank do, for the demo: it follows from a seed, so that it can be checked afterwards."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from ensue import App, Command
from ensue.examples.bank.application import bank
from ensue.examples.bank.messages import CloseAccount, OpenAccount, PayIn, PayInterest, PayOut, Transfer
from ensue.examples.chance import Chance

__all__ = ["ACCOUNTS", "Customers", "clients", "opening"]

ACCOUNTS = 50
FIRST_DAY = date(2026, 1, 1)
RATE = Decimal("0.02")


def opening() -> list[tuple[str, Command[Any]]]:
    """What makes the accounts and gives them something, with keys: each account may go below zero by another limit."""
    found: list[tuple[str, Command[Any]]] = []
    for number in range(ACCOUNTS):
        account, limit = _account(number), Decimal(100 * (number % 4))
        found.append((f"open-{account}", OpenAccount(account_id=account, owner=f"customer {number % 17}", limit=limit)))
        found.append(
            (f"fill-{account}", PayIn(account_id=account, movement_id=f"fill-{account}", amount=Decimal(1000)))
        )
    return found


def _account(number: int) -> str:
    return f"account-{number}"


class Customers:
    """See `Clients`. Most of what they do moves money between accounts, a third of it between only a few."""

    def application(self, url: str) -> App:
        return bank(url)

    def act(self, seed: int, client: int, number: int) -> Command[Any]:
        chance = Chance(seed)

        def pick(what: str, of: int) -> int:
            return int(chance.of(f"{client}/{number}/{what}") * of)

        movement = f"{seed}-{client}-{number}"
        few = ACCOUNTS if pick("few", 3) else 5
        source = pick("source", few)
        target = (source + 1 + pick("target", few - 1)) % few
        amount = Decimal(1 + pick("amount", 60_000)) / 100
        kind = pick("kind", 100)
        if kind < 84:
            return Transfer(movement_id=movement, source=_account(source), target=_account(target), amount=amount)
        if kind < 90:
            return PayIn(account_id=_account(source), movement_id=movement, amount=amount)
        if kind < 96:
            return PayOut(account_id=_account(source), movement_id=movement, amount=amount)
        if kind < 99:
            day = FIRST_DAY + timedelta(days=pick("day", 90))
            return PayInterest(account_id=_account(source), movement_id=movement, until=day, rate=RATE)
        return CloseAccount(account_id=_account(source))


clients = Customers()
