"""What is declared and not built: it can be written down, is checked where it is written, and refuses to be used."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Self

import pytest

from ensue import App, Channel, Command, Event, Flow, Query, State, View, hours, minutes
from ensue.errors import DefinitionError, NotYetAvailable
from ensue.patterns import Pattern, Window, absent, count, either, one, optional, several, total


class Payment(Event, key="card"):
    card: str
    amount: Decimal


class Refund(Event, key="card"):
    card: str


class Pay(Command[Payment]):
    card: str


class Spent(Query[Decimal]):
    card: str


class Card(State, key="card"):
    spent: Decimal = Decimal(0)


class CardRow(View, key="card"):
    card: str
    spent: Decimal = Decimal(0)

    def evolve(self, event: Payment) -> Self:
        self.spent += event.amount
        return self


class Suspicious(Pattern, within=minutes(5)):
    first = one(Payment, lambda payment: payment.amount < 2)
    more = several(Payment, times=(2, None))
    refund = optional(Refund)
    end = either(one(Refund), one(Payment))
    nothing = absent(Refund)

    @more.where
    def larger(self, payment: Payment) -> bool:
        return payment.amount > self.first.amount


class PerHour(Window, size=hours(1)):
    payments = count(Payment)
    spent = total(Payment, lambda payment: payment.amount)


def pay(command: Pay, card: Card) -> Payment: ...  # type: ignore[empty-body]
def spent(query: Spent, card: Card) -> Decimal: ...  # type: ignore[empty-body]
async def flow(payment: Payment, flow: Flow) -> Refund: ...  # type: ignore[empty-body]
def tick() -> None: ...
def decide(state: int, command: Pay) -> Payment: ...  # type: ignore[empty-body]


USES: dict[str, Callable[[], object]] = {
    "workflow": lambda: App("shop").workflow(flow),
    "workflow with options": lambda: App("shop").workflow(name="old")(flow),
    "schedule": lambda: App("shop").schedule(every=hours(1))(tick),
    "cron": lambda: App("shop").schedule("0 9 * * MON", timezone="Europe/London")(tick),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_what_is_not_built_says_so(use: str) -> None:
    with pytest.raises(NotYetAvailable, match="this version cannot"):
        USES[use]()


def declaring(base: type, attributes: Mapping[str, object], **options: object) -> Callable[[], object]:
    """The class statement with these keywords and attributes, to be made."""
    return lambda: types.new_class("Wrong", (base,), options, lambda namespace: namespace.update(attributes))


STEP, AGGREGATE = {"payment": one(Payment)}, {"payments": count(Payment)}
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a pattern without steps": (declaring(Pattern, {}), "a pattern needs a step"),
    "a pattern of no time": (declaring(Pattern, STEP, within=timedelta()), "within=.* positive duration"),
    "a window without aggregates": (declaring(Window, {}, size=hours(1)), "a window needs an aggregate"),
    "a window without a span": (declaring(Window, AGGREGATE), "a window is of one kind"),
    "a window with two spans": (declaring(Window, AGGREGATE, size=hours(1), gap=hours(1)), "a window is of one kind"),
    "an overlap without a size": (declaring(Window, AGGREGATE, gap=hours(1), every=hours(1)), "every= is for size="),
    "a window that runs backwards": (declaring(Window, AGGREGATE, size=minutes(-1)), "size=.* positive duration"),
    "a channel without a name": (lambda: Channel("", Payment), "not a name for a channel"),
    "a channel that carries nothing": (lambda: Channel("payments"), "carries nothing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_declaration_is_refused_where_it_is_made(what: str) -> None:
    declare, message = WRONG[what]
    with pytest.raises(DefinitionError, match=message):
        declare()


def test_what_is_declared_stands_on_the_class() -> None:
    assert (Suspicious.first.of, Suspicious.more.times) == ((Payment,), (2, None))
    assert Suspicious.more.conditions == [(vars(Suspicious)["larger"], True)]
    assert (PerHour.payments.kind, PerHour.spent.event) == ("count", Payment)
    assert Channel("payments", Payment, Pay).carries == (Payment, Pay)


def test_states_and_views_are_folds_that_need_no_engine() -> None:
    row = CardRow(card="c").evolve(Payment(card="c", amount=Decimal(2))).evolve(Payment(card="c", amount=Decimal(3)))
    assert row == CardRow(card="c", spent=Decimal(5))
    assert Card() == Card(spent=Decimal(0))


def test_every_wait_of_a_flow_says_that_there_is_none() -> None:
    async def step() -> None: ...

    flow: Any = object.__new__(Flow)
    waits: list[Callable[[], Any]] = [
        lambda: flow.step(step),
        lambda: flow.undo(),
        lambda: flow.sleep(hours(1)),
        lambda: flow.sleep_until(None),
        lambda: flow.wait_for(Payment),
        lambda: flow.approval("pay?", to="ann"),
    ]
    for wait in waits:
        with pytest.raises(NotYetAvailable):
            asyncio.run(wait())
