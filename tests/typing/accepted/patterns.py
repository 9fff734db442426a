"""The whole language of patterns, on log-ins and orders: every step reads as what it took."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from ensue import App, Event, days, hours, minutes
from ensue.patterns import (
    Late,
    Pattern,
    TimedOut,
    Withdrawn,
    absent,
    all_of,
    count,
    distinct,
    either,
    group,
    largest,
    one,
    optional,
    several,
    to_last,
    total,
)
from ensue.patterns.finding import find

login = App("login")


class Login(Event, key="user"):
    user: str
    ok: bool
    ip: str


class Locked(Event, key="user"):
    user: str
    until: datetime


class Paid(Event, key="user"):
    user: str
    amount: Decimal


class Alert(Event, key="user"):
    user: str
    text: str


class BruteForce(Pattern, within=minutes(5), skip="past_last"):
    fails = several(Login, lambda e: not e.ok, times=(5, None))
    entry = one(Login, lambda e: e.ok)

    @fails.where
    def elsewhere(self, e: Login) -> bool:
        return not self.fails or self.fails[-1].ip != e.ip

    def where(self) -> bool:
        return len(distinct(self.fails, lambda e: e.ip)) > 1


class Silent(Pattern, within=minutes(15)):
    last = one(Login)
    nothing = absent(Login)


class Settled(Pattern, within=hours(4), skip=to_last("payments")):
    entry = one(Login, lambda e: e.ok)
    lock = optional(Locked, contiguity="strict", greedy=False)
    payments = several(Paid, times=(1, 3), inner="any", until=lambda e: e.amount > 100, within=minutes(30))
    nothing = absent(Locked, within=minutes(5))
    end = either(one(Paid), several(Login, times=2), one(Locked), contiguity="any")

    @payments.where
    def more(self, e: Paid) -> bool:
        largest_so_far = largest(self.payments, lambda p: p.amount) if self.payments else Decimal(0)
        return total(self.payments, lambda p: p.amount) < 1000 and e.amount > largest_so_far


class Both(Pattern, within=days(1), time="event", disorder=minutes(1), lateness=hours(1)):
    both = all_of(one(Paid), several(Login, times=2), one(Locked), inner="strict")


class Round(Pattern, within=minutes(1)):
    wrong = one(Login, lambda e: not e.ok)
    right = one(Login, lambda e: e.ok)


class Shared(Pattern, within=hours(1)):
    rounds = group(Round, times=(3, None), inner="any")


@login.on
def brute_force(match: BruteForce) -> Alert:
    addresses = len(distinct(match.fails, lambda e: e.ip))
    text = f"{count(match.fails)} failures from {addresses} addresses until {match.entry.ip}"
    return Alert(user=match.key, text=f"{match.id}: {text} in {match.ended - match.started}")


@login.on
def settled(match: Settled) -> Alert:
    lock: Locked | None = match.lock
    payments: Sequence[Paid] = match.payments
    end: Paid | Sequence[Login] | Locked = match.end
    amount: Decimal = sum((payment.amount for payment in payments), Decimal(0))
    return Alert(user=match.entry.user, text=f"{lock.until if lock else 'free'} {amount} {type(end).__name__}")


@login.on
def both(match: Both) -> Alert:
    paid, logins, locked = match.both
    return Alert(user=paid.user, text=f"{paid.amount} {logins[0].ip} {locked.until}")


@login.on
def shared(match: Shared) -> Alert:
    return Alert(user=match.key, text=" ".join(each.wrong.ip for each in match.rounds))


@login.on
def stuck(out: TimedOut[Settled]) -> Alert:
    deadline: datetime = out.deadline
    return Alert(user=out.match.entry.user, text=f"no {out.waiting_for} until {deadline}")


@login.on
def gone(match: Withdrawn[Both]) -> Alert:
    return Alert(user=match.match.both[0].user, text=f"{type(match.because).__name__} came late")


@login.on
def late(payment: Late[Paid]) -> Alert:
    by: timedelta = payment.by
    return Alert(user=payment.event.user, text=f"{payment.missed_by} went on {by} ago")


def look(events: Sequence[tuple[datetime, Event]]) -> list[Decimal]:
    found: list[Settled] = find(Settled, events)
    nothing: None = find(Silent, events)[0].nothing
    return [match.payments[0].amount for match in found if nothing is None]
