"""Given, when, then: what a user's own tests are made of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest

from ensue import App, Context, Event, Retry
from ensue.testing import given
from tests.consumers.clocks import Rang, Ticked, tick
from tests.consumers.shop import Gateway, OrderShipped, PaymentProcessed, order, shop


class Bank:
    """A gateway that is away for the first few calls."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.keys: list[str] = []

    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None:
        self.keys.append(idempotency_key)
        if len(self.keys) <= self.away:
            raise ConnectionError("the gateway is away")


def test_an_event_causes_all_that_follows_from_it_in_order() -> None:
    def gateway() -> Gateway:
        return Bank()

    given(shop, replace=[gateway]).when(order(1)).then(
        PaymentProcessed(order_id="o1", amount=Decimal(1)), OrderShipped(order_id="o1")
    )


def test_what_was_given_is_done_before_and_not_among_what_is_caused() -> None:
    counting = App("counting")

    @counting.on
    async def ring(event: Ticked) -> Rang:
        return Rang(clock_id=event.clock_id, number=event.number)

    given(counting, tick(1), tick(2)).when(tick(3)).then(Rang(clock_id="a", number=3))


def test_a_dependency_is_replaced_and_a_retry_takes_no_time() -> None:
    bank = Bank(away=3)

    def gateway() -> Iterator[Gateway]:
        yield bank

    given(shop, replace=[gateway]).when(order(1)).then(
        PaymentProcessed(order_id="o1", amount=Decimal(1)), OrderShipped(order_id="o1")
    )
    assert len(bank.keys) == 4
    assert len(set(bank.keys)) == 1


def test_what_is_given_up_is_a_dead_letter_with_its_error() -> None:
    bank = Bank(away=1000)

    def gateway() -> Gateway:
        return bank

    outcome = given(shop, replace=[gateway]).when(order(1)).then_dead_letter(ConnectionError).then()
    assert outcome.letters[0].attempts == 8


def test_a_retry_after_an_hour_takes_no_time_either() -> None:
    patient = App("patient")

    @patient.on(retry=Retry(attempts=2, first=timedelta(hours=1), longest=timedelta(hours=1)))
    async def ring(event: Ticked, ctx: Context) -> Rang | None:
        if ctx.attempt == 1:
            raise ConnectionError
        return Rang(clock_id=event.clock_id, number=ctx.now().year)

    given(patient).when(tick(1)).then(Rang(clock_id="a", number=2026))


class Ignored(Event, key="clock_id"):
    clock_id: str


def test_an_event_that_nobody_handles_causes_nothing() -> None:
    given(shop, replace=[lambda_bank]).when(Ignored(clock_id="a")).then_nothing()


def lambda_bank() -> Gateway:
    return Bank()


def test_a_wrong_expectation_says_what_came_instead() -> None:
    with pytest.raises(AssertionError, match=r"it caused \[PaymentProcessed.*OrderShipped.*\], not \[\]"):
        given(shop, replace=[lambda_bank]).when(order(1)).then()


def test_a_failure_is_not_nothing() -> None:
    broken = App("broken")

    @broken.on(retry=Retry.never)
    async def break_(event: Ticked) -> None:
        raise ValueError("broken")

    with pytest.raises(AssertionError, match="it failed: ValueError: broken"):
        given(broken).when(tick(1)).then_nothing()
    with pytest.raises(AssertionError, match=r"the dead letters are: .*ValueError: broken"):
        given(broken).when(tick(1)).then_dead_letter(KeyError)
