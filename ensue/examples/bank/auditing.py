"""The auditor hears of every movement, and reports the large ones."""

from __future__ import annotations

from decimal import Decimal

from ensue import Service
from ensue.examples.bank.messages import LargeMovementReported, Withdrawn, is_the_banks_own

__all__ = ["LARGE", "auditing", "report"]

LARGE = Decimal(400)

auditing = Service("auditing")


@auditing.on(pure=True)
def report(event: Withdrawn) -> LargeMovementReported | None:
    if event.amount < LARGE or is_the_banks_own(event.account_id):
        return None
    return LargeMovementReported(account_id=event.account_id, movement_id=event.movement_id, amount=event.amount)
