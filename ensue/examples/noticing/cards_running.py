"""One run of the cards: payments into a log, the application stopped and opened again in the middle, and what was suspected compared
with what was stolen."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import msgspec

from ensue.examples.noticing.cards import FraudSuspected, Payment, cards, payments
from ensue.world import World

__all__ = ["Report", "run"]

AT_ONCE = 500
PATIENCE = timedelta(seconds=120)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    cards: int
    payments: int
    stolen: int
    suspected: int
    missed: list[str]
    """Stolen cards that nobody suspected."""
    wrong: list[str]
    """Cards that were suspected and not stolen, or more than once."""
    seconds: float
    payments_per_second: float


async def run(url: str, world: World, *, count: int, seed: int) -> Report:
    """See the module. Errors: those of the log; `NotCaughtUp`."""
    stream, app = payments(count, seed=seed), cards(url)
    # Time goes on with the next payment: one that is a day later makes all before it certain.
    last = stream.payments[-1]
    end = Payment(card="nobody's", at=last.at + timedelta(days=1), amount=Decimal(5), country="UK")
    every = [*stream.payments, end]
    middle = len(every) // 2
    began = world.monotonic()
    for part in (every[:middle], every[middle:]):
        async with app:
            receipts = [await app.publish(*part[at : at + AT_ONCE]) for at in range(0, len(part), AT_ONCE)]
            await receipts[-1].wait(timeout=PATIENCE)
    seconds = world.monotonic() - began
    suspected: list[str] = []
    async with app.connected():
        async for recorded in app.log.read(FraudSuspected):
            suspected.append(recorded.event.card)
    once = set(suspected)
    return Report(
        cards=count,
        payments=len(stream.payments),
        stolen=len(stream.stolen),
        suspected=len(suspected),
        missed=sorted(stream.stolen - once),
        wrong=sorted(once - stream.stolen) + sorted({card for card in once if suspected.count(card) > 1}),
        seconds=round(seconds, 2),
        payments_per_second=round(len(every) / seconds),
    )
