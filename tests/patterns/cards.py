"""An application that looks for patterns in payments, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ensue import App, Event, seconds
from ensue.app.service import ONE_ORDER
from ensue.events.recorded import Recorded
from ensue.patterns import Pattern, TimedOut, absent, one, several
from ensue.patterns.finding import find, timed_out


class Payment(Event, key="card"):
    card: str
    amount: int


class Suspected(Event, key="card"):
    card: str
    amount: int


class WentSilent(Event, key="card"):
    card: str


class Stuck(Event, key="card"):
    card: str
    waiting_for: str


class Probed(Pattern, within=seconds(40)):
    probe = one(Payment, lambda p: p.amount < 2)
    large = several(Payment, lambda p: p.amount > 200, times=2)


class Silent(Pattern, within=seconds(30)):
    last = one(Payment)
    none = absent(Payment)


cards = App("cards")


@cards.on(pure=True, key=ONE_ORDER)
def suspect(match: Probed) -> Suspected:
    return Suspected(card=match.key, amount=sum(payment.amount for payment in match.large))


@cards.on(pure=True, key=ONE_ORDER)
def silent(match: Silent) -> WentSilent:
    return WentSilent(card=match.last.card)


@cards.on(pure=True, key=ONE_ORDER)  # one segment: few places to die at that are not the detector's
def stuck(out: TimedOut[Probed]) -> Stuck:
    return Stuck(card=out.match.key, waiting_for=out.waiting_for)


quiet = App("quiet")
quiet.on(pure=True, key=ONE_ORDER)(silent)


def expected(recorded: Sequence[Recorded[Any]], pattern: type[Pattern], *, until: datetime) -> set[str]:
    """The ids of the matches in these events, by another way than the detector's."""
    events = [one for one in recorded if isinstance(one.event, Payment)]
    return {match.id for match in find(pattern, events, until=until)}


def expected_timeouts(recorded: Sequence[Recorded[Any]], pattern: type[Pattern], *, until: datetime) -> set[str]:
    """And of what timed out."""
    events = [one for one in recorded if isinstance(one.event, Payment)]
    return {out.match.id for out in timed_out(pattern, events, until=until)}


def found(recorded: Sequence[Recorded[Any]], name: str) -> list[str]:
    """The ids of what is stored under this name."""
    return [one.event.found for one in recorded if one.type_name == name]
