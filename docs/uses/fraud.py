"""Fraud detection: a small test payment and then three large ones abroad; and what a card spends in five minutes."""

import asyncio
from decimal import Decimal

from ensue import App, Event, days, minutes
from ensue.patterns import Pattern, TimedOut, Window, count, distinct, one, several, total


class Payment(Event, key="card"):
    card: str
    amount: Decimal
    country: str


class FraudSuspected(Event, key="card"):
    card: str
    reason: str
    amount: Decimal


class CardUsed(Event, key="card"):
    card: str


class TestedThenUsed(Pattern, within=minutes(10)):
    probe = one(Payment, lambda p: p.amount < 2)
    large = several(Payment, lambda p: p.amount > 200, times=3)

    @large.where
    def abroad(self, payment: Payment) -> bool:
        return payment.country != self.probe.country


class Activated(Pattern, within=days(30)):
    first = one(Payment)
    used = one(CardUsed)


class Spending(Window, size=minutes(5), every=minutes(1)):
    payments = count(Payment)
    spent = total(Payment, lambda p: p.amount)
    countries = distinct(Payment, lambda p: p.country)


fraud = App("fraud")


@fraud.on
def suspect(match: TestedThenUsed) -> FraudSuspected:
    amount = sum((payment.amount for payment in match.large), Decimal(0))
    return FraudSuspected(card=match.key, reason=f"tested in {match.probe.country}", amount=amount)


@fraud.on
def hurried(window: Spending) -> FraudSuspected | None:
    if window.payments > 20 and len(window.countries) > 2:
        return FraudSuspected(card=window.key, reason="many countries", amount=window.spent)
    return None


@fraud.on
def never_used(out: TimedOut[Activated]) -> FraudSuspected:
    return FraudSuspected(card=out.match.first.card, reason=f"no {out.waiting_for}", amount=out.match.first.amount)


async def main() -> None:
    async with fraud:
        for amount, country in (("1.50", "DE"), ("9", "DE"), ("300", "FR"), ("250", "FR"), ("450", "IT")):
            receipt = await fraud.publish(Payment(card="c1", amount=Decimal(amount), country=country))
        suspected = await receipt.first(FraudSuspected)
        print(suspected.card, suspected.reason, suspected.amount)


if __name__ == "__main__":
    asyncio.run(main())
