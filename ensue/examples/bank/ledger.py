"""A second count of the whole log, with plain arithmetic on plain dictionaries: it shares nothing with what decides and what is shown.

It notices money that comes from nowhere or goes nowhere, an account under its limit, a closed one that moves, a movement that is made
twice, and keeps each balance by time, so that anybody's "balance on 1 March" can be compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from ensue import App, Recorded
from ensue.examples.bank.auditing import LARGE
from ensue.examples.bank.messages import (
    AccountClosed,
    AccountOpened,
    Deposited,
    LargeMovementReported,
    Withdrawn,
    is_the_banks_own,
)

__all__ = ["Ledger"]

ZERO = Decimal(0)


class Ledger:
    """What was counted so far. `problems` are told in words, and are none."""

    def __init__(self) -> None:
        self.balances: dict[str, Decimal] = {}
        self.movements: dict[str, int] = {}
        """How often each movement was made: once."""
        self.of_account: dict[str, int] = {}
        """How many legs each account has."""
        self.large: list[str] = []
        """The movements that are to be reported, and those that are."""
        self.reported: list[str] = []
        self.problems: list[str] = []
        self.position = 0
        self._limits: dict[str, Decimal] = {}
        self._closed: set[str] = set()
        self._leg: Withdrawn | None = None
        self._history: dict[str, tuple[list[datetime], list[Decimal]]] = {}

    async def read(self, app: App) -> None:
        """Count what is new. Errors: those of the store."""
        async for recorded in app.log.read(after=self.position):
            self.add(recorded)

    @property
    def total(self) -> Decimal:
        """All balances together, the bank's own included. Zero, but between the two legs of a movement."""
        return sum(self.balances.values(), ZERO)

    def balance_before(self, account: str, time: datetime) -> Decimal:
        """What an account had by all that was recorded before a time."""
        times, balances = self._history.get(account, ([], []))
        found = bisect_left(times, time)
        return balances[found - 1] if found else ZERO

    def times(self) -> list[datetime]:
        """When something moved, in order."""
        return sorted({time for times, _ in self._history.values() for time in times})

    def add(self, recorded: Recorded[Any]) -> None:
        """Count one event."""
        event, self.position = recorded.event, recorded.position.last
        if self._leg is not None:
            self._check_second_leg(event)
        if isinstance(event, AccountOpened):
            if event.account_id in self._limits:
                self._tell(f"{event.account_id} was opened twice")
            self._limits[event.account_id] = event.limit
            self.balances.setdefault(event.account_id, ZERO)
        elif isinstance(event, Withdrawn):
            self._move(recorded, -event.amount)
            self._leg = event
            if event.amount >= LARGE and not is_the_banks_own(event.account_id):
                self.large.append(event.movement_id)
            self.movements[event.movement_id] = self.movements.get(event.movement_id, 0) + 1
            if self.movements[event.movement_id] > 1:
                self._tell(f"the movement {event.movement_id} was made again")
        elif isinstance(event, Deposited):
            self._move(recorded, event.amount)
            if self.total != 0:
                self._tell(f"all balances together are {self.total}")
        elif isinstance(event, AccountClosed):
            if self.balances[event.account_id]:
                self._tell(f"{event.account_id} was closed with {self.balances[event.account_id]}")
            self._closed.add(event.account_id)
        elif isinstance(event, LargeMovementReported):
            self.reported.append(event.movement_id)

    def _check_second_leg(self, event: object) -> None:
        first, self._leg = self._leg, None
        assert first is not None
        if not (
            isinstance(event, Deposited) and (event.movement_id, event.amount) == (first.movement_id, first.amount)
        ):
            self._tell(f"the movement {first.movement_id} has lost its second leg")

    def _move(self, recorded: Recorded[Any], change: Decimal) -> None:
        account: str = recorded.event.account_id
        balance = self.balances.get(account, ZERO) + change
        self.balances[account] = balance
        self.of_account[account] = self.of_account.get(account, 0) + 1
        times, balances = self._history.setdefault(account, ([], []))
        if times and times[-1] == recorded.recorded_at:
            balances[-1] = balance
        else:
            times.append(recorded.recorded_at)
            balances.append(balance)
        if is_the_banks_own(account):
            return
        if account not in self._limits or account in self._closed:
            self._tell(f"{account} moved, and is not open")
        elif balance < -self._limits[account]:
            self._tell(f"{account} is at {balance}, and may not go below {-self._limits[account]}")

    def _tell(self, what: str) -> None:
        self.problems.append(f"at position {self.position}: {what}")

    def answered(self, granted: Mapping[str, bool]) -> list[str]:
        """Compare with answers that were heard: each movement, and whether it was granted."""
        return [
            f"{movement} was {'granted' if yes else 'refused'}, and the log has it {self.movements.get(movement, 0)} times"
            for movement, yes in granted.items()
            if self.movements.get(movement, 0) != int(yes)
        ]
