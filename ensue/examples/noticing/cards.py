"""Payments by card in which some were stolen: a generated stream of which is known what is to be found.

A thief tries a card with a payment under 2, and then pays three times more than 200 within ten minutes of that, in another country. Among
honest payments there are such that miss it by little: two large ones, three at home, the third a moment too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from ensue import App, Event, Service, minutes
from ensue.examples.chance import Chance
from ensue.patterns import Pattern, one, several

__all__ = ["FraudSuspected", "Payment", "Stream", "TestedThenUsed", "cards", "fraud", "payments", "suspect"]

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
COUNTRIES = ("UK", "FR", "DE", "NL", "PL")


class Payment(Event, key="card", time="at"):
    card: str
    at: datetime
    amount: Decimal
    country: str


class FraudSuspected(Event, key="card"):
    card: str
    amount: Decimal
    countries: tuple[str, str]


class TestedThenUsed(Pattern, within=minutes(10), disorder=minutes(1)):
    probe = one(Payment, lambda payment: payment.amount < 2)
    large = several(Payment, lambda payment: payment.amount > 200, times=3)

    @large.where
    def abroad(self, payment: Payment) -> bool:
        return payment.country != self.probe.country


fraud = Service("fraud")


@fraud.on
def suspect(match: TestedThenUsed) -> FraudSuspected:
    amount = sum((payment.amount for payment in match.large), Decimal(0))
    return FraudSuspected(card=match.key, amount=amount, countries=(match.probe.country, match.large[-1].country))


def cards(url: str | None = None) -> App:
    """The application, on the log at this URL."""
    app = App("cards", url=url)
    app.include(fraud)
    return app


class Stream(msgspec.Struct, frozen=True):
    """Payments by time, and which cards were stolen."""

    payments: list[Payment]
    stolen: frozenset[str]


def payments(count: int, *, seed: int = 1) -> Stream:
    """Some twenty payments of each of so many cards over a week. One card in fifty is stolen, and as many only look like it."""
    chance = Chance(seed)
    every: list[Payment] = []
    stolen: set[str] = set()
    for number in range(count):
        card = f"card-{number:06d}"
        home = COUNTRIES[int(chance.of(f"{card} home") * len(COUNTRIES))]
        every.extend(_honest(card, home, chance))
        fate = chance.of(f"{card} fate")
        if fate < 0.04:
            begin = BEGIN + timedelta(days=8, seconds=chance.of(f"{card} when") * 86400)
            every.extend(_theft(card, home, begin, stolen, number % 4))
    every.sort(key=lambda payment: (payment.at, payment.card))
    return Stream(every, frozenset(stolen))


def _honest(card: str, home: str, chance: Chance) -> Iterator[Payment]:
    for nth in range(20):
        what = chance.of(f"{card} {nth}")
        at = BEGIN + timedelta(seconds=chance.of(f"{card} {nth} at") * 7 * 86400)
        yield Payment(card=card, at=at, amount=Decimal(2 + int(what * 19_000)) / 100 + 2, country=home)


def _theft(card: str, home: str, begin: datetime, stolen: set[str], kind: int) -> Iterator[Payment]:
    """Kinds 0 and 1 are thefts, the second by the skin of its teeth; 2 stays at home; of 3 the last payment is a moment too late."""
    abroad = home if kind == 2 else COUNTRIES[(COUNTRIES.index(home) + 1) % len(COUNTRIES)]
    last = timedelta(minutes=10) - timedelta(microseconds=1) if kind == 1 else timedelta(minutes=10 if kind == 3 else 9)
    yield Payment(card=card, at=begin, amount=Decimal("1.50"), country=home)
    for offset in (timedelta(minutes=2), timedelta(minutes=5), last):
        yield Payment(card=card, at=begin + offset, amount=Decimal(250), country=abroad)
    if kind < 2:
        stolen.add(card)
