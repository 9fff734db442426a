"""Balances of accounts, as a view of each kind: what tests of views share. `folded` is what rows must be, by other means."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple, Self

import msgspec

from ensue import App, Event, Position, Transaction, View

__all__ = [
    "ACCOUNTS",
    "Balance",
    "Closed",
    "Deposited",
    "Ledger",
    "Noted",
    "Opened",
    "Transferred",
    "check_rows",
    "deposited",
    "deposits",
    "events_of",
    "folded",
    "ledger",
    "ledger_of",
    "random_events",
]

ACCOUNTS = [f"a{number}" for number in range(7)]


class Opened(Event, key="account_id"):
    account_id: str
    owner: str


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Transferred(Event, key="transfer_id", tags={"source": "account_id", "target": "account_id"}):
    transfer_id: str
    source: str
    target: str
    amount: Decimal


class Closed(Event, key="account_id"):
    account_id: str


class Noted(Event, key="account_id"):
    """No view reads it."""

    account_id: str


class Balance(View, key="account_id", table="balances", index=("owner",)):
    account_id: str
    owner: str | None = None
    balance: Decimal = Decimal(0)
    moves: list[str] = msgspec.field(default_factory=list)

    def evolve(self, event: Opened | Deposited | Transferred | Closed) -> Self | None:
        match event:
            case Opened():
                self.owner = event.owner
            case Deposited():
                self.moves.append(f"+{event.amount}")
                if event.amount < 0:
                    raise ValueError("a deposit below nothing")
                self.balance += event.amount
            case Transferred():
                if event.source == self.account_id:
                    self.balance -= event.amount
                    self.moves.append(f"-{event.amount}")
                if event.target == self.account_id:
                    self.balance += event.amount
                    self.moves.append(f"+{event.amount}")
            case Closed():
                return None
        return self


class Ledger(NamedTuple):
    """A view in plain SQL: how many deposits an account had, and of how many hundredths."""

    schema: str
    function: Callable[[Deposited | Closed, Transaction], None]


def deposits(event: Deposited | Closed, tx: Transaction) -> None:
    if isinstance(event, Closed):
        tx.execute("DELETE FROM deposits WHERE account = ?", event.account_id)
        return
    if event.amount < 0:
        raise ValueError("a deposit below nothing")
    tx.execute(
        "INSERT INTO deposits VALUES (?, 1, ?) ON CONFLICT (account) DO UPDATE SET "
        "number = deposits.number + 1, hundredths = deposits.hundredths + excluded.hundredths -- of deposits",
        event.account_id,
        int(event.amount * 100),
    )


ledger = Ledger("CREATE TABLE deposits (account TEXT PRIMARY KEY, number BIGINT, hundredths BIGINT)", deposits)


async def events_of(app: App) -> list[Event]:
    return [recorded.event async for recorded in app.log.read(Event)]


async def check_rows(app: App, *, sql: bool = True, after: Position | None = None) -> None:
    """The rows that `get` finds are what follows from the log as it is now; and those of the table that readers see."""
    rows = folded(await events_of(app))
    for account in ACCOUNTS:
        found = await app.get(Balance, account, after=after)
        assert (found and (found.owner, found.balance, found.moves)) == rows.get(account), account
    if sql:
        shown = app.sql("SELECT account_id, owner FROM balances ORDER BY account_id")
        assert shown == [(account, rows[account][0]) for account in sorted(rows)]


def deposited(events: Iterable[Event]) -> list[tuple[str, int, int]]:
    """What the ledger must hold."""
    found: dict[str, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, Deposited):
            number, hundredths = found.get(event.account_id, (0, 0))
            found[event.account_id] = number + 1, hundredths + int(event.amount * 100)
        elif isinstance(event, Closed):
            found.pop(event.account_id, None)
    return [(account, *found[account]) for account in sorted(found)]


async def ledger_of(app: App, *, caught_up: bool = True) -> None:
    """The ledger in the log's own database holds what follows from the log."""
    if caught_up:
        position = Position.of(app.open_store().log_id, 1, app.open_store().head())
        await app._open_engine().domain.views.caught_up(position, timeout_seconds=20)
    found = app.sql("SELECT account, number, hundredths FROM deposits ORDER BY account")
    assert found == deposited(await events_of(app))


def random_events(chance: random.Random, count: int, *, first: int = 0) -> list[Event]:
    """`first` numbers them, so that no two transfers are one."""
    found: list[Event] = []
    for number in range(first, first + count):
        account, other = chance.choice(ACCOUNTS), chance.choice(ACCOUNTS)
        amount = Decimal(chance.randrange(1, 10_000)) / 100
        found.append(
            chance.choice(
                [
                    Opened(account_id=account, owner=f"o{number % 3}"),
                    Deposited(account_id=account, amount=amount),
                    Deposited(account_id=account, amount=amount),
                    Transferred(transfer_id=f"t{number}", source=account, target=other, amount=amount),
                    Transferred(transfer_id=f"t{number}", source=account, target=other, amount=amount),
                    Noted(account_id=account),
                    *([Closed(account_id=account)] if chance.random() < 0.3 else []),
                ]
            )
        )
    return found


def folded(events: Iterable[Event]) -> dict[str, tuple[str | None, Decimal, Sequence[str]]]:
    """Account → owner, balance, moves: written without a look at views."""
    rows: dict[str, tuple[str | None, Decimal, list[str]]] = {}
    for event in events:
        if isinstance(event, Opened):
            _, balance, moves = rows.get(event.account_id, (None, Decimal(0), []))
            rows[event.account_id] = (event.owner, balance, moves)
        elif isinstance(event, Deposited):
            owner, balance, moves = rows.get(event.account_id, (None, Decimal(0), []))
            rows[event.account_id] = (owner, balance + event.amount, [*moves, f"+{event.amount}"])
        elif isinstance(event, Transferred):
            for account, sign, shown in ((event.source, -1, "-"), (event.target, 1, "+")):
                owner, balance, moves = rows.get(account, (None, Decimal(0), []))
                rows[account] = (owner, balance + sign * event.amount, [*moves, f"{shown}{event.amount}"])
        elif isinstance(event, Closed):
            rows.pop(event.account_id, None)
    return {**rows}
