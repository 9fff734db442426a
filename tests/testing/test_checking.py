"""Deciders that are not deterministic are noticed, wherever a test runs, and told as what they are."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Self

import msgspec
import pytest

from ensue import App, Command, Decided, Decider, Event, Query, State
from ensue.testing import NotDeterministic, given
from ensue.testing.places import VARIABLE
from tests.testing.ledger import Account, Deposited, Overdrawn, Withdraw, Withdrawn, deposited, withdrawn


@pytest.fixture(params=["pure", "memory", "simulated"], autouse=True)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, request.param)


class Look(Command[None]):
    account_id: str


take = Withdraw(account_id="a", amount=Decimal(5))


def test_a_decision_by_chance_is_noticed() -> None:
    lottery = App("lottery")

    @lottery.command
    def draw(command: Withdraw, account: Account) -> Withdrawn:
        return Withdrawn(account_id="a", amount=Decimal(random.random()))

    with pytest.raises(
        NotDeterministic, match=r"draw is not deterministic: on equal states, Withdraw\(.*led to Withdr"
    ):
        given(lottery, deposited(9)).when(take)


def test_an_async_decision_that_counts_its_calls_is_noticed() -> None:
    counting, calls = App("counting"), itertools.count()

    @counting.command
    async def count(command: Withdraw) -> Withdrawn:
        return Withdrawn(account_id="a", amount=Decimal(next(calls)))

    with pytest.raises(NotDeterministic, match="count is not deterministic"):
        given(counting).when(take)


def test_a_decision_that_refuses_only_once_is_noticed() -> None:
    moody, calls = App("moody"), itertools.count()

    @moody.command
    def decide(command: Withdraw, account: Account) -> Withdrawn:
        if next(calls) % 2:
            raise Overdrawn(available=Decimal(0))
        return Withdrawn(account_id="a", amount=command.amount)

    with pytest.raises(NotDeterministic, match=r"led to Withdrawn.*, and then to Overdrawn"):
        given(moody).when(take)


def test_refusals_with_other_fields_are_noticed() -> None:
    moody, calls = App("moody"), itertools.count()

    @moody.command
    def decide(command: Withdraw, account: Account) -> Withdrawn:
        raise Overdrawn(available=Decimal(next(calls)))

    with pytest.raises(NotDeterministic, match=r"led to Overdrawn.*, and then to Overdrawn"):
        given(moody).when(take)


def test_a_state_that_follows_by_chance_is_noticed() -> None:
    class Dice(State, key="account_id"):
        shown: float = 0

        def evolve(self, event: Deposited) -> Self:
            self.shown = random.random()
            return self

    dicing = App("dicing")

    @dicing.command
    def decide(command: Look, dice: Dice) -> None: ...

    with pytest.raises(
        NotDeterministic, match=r"Dice.evolve is not deterministic: Dice\(shown=0\) and Deposited\(.*led t"
    ):
        given(dicing, deposited(1)).when(Look(account_id="a"))


def test_a_state_of_a_query_is_checked_as_well() -> None:
    class Sum(State, key="account_id"):
        calls: int = 0

        def evolve(self, event: Deposited) -> Self:
            self.calls += next(counter)
            return self

    class SumOf(Query[int]):
        account_id: str

    counter, counting = itertools.count(), App("counting")

    @counting.query
    def answer(query: SumOf, sum: Sum) -> int:
        return sum.calls

    with pytest.raises(NotDeterministic, match=r"Sum.evolve is not deterministic"):
        given(counting, deposited(1)).when_asked(SumOf(account_id="a"))


def test_a_first_state_that_is_shared_and_changed_is_noticed() -> None:
    @dataclass
    class Basket:
        items: list[str] = field(default_factory=list[str])

    first = Basket()

    def evolve(basket: Basket, event: Deposited) -> Basket:
        basket.items.append(event.account_id)
        return basket

    def decide(basket: Basket, command: Withdraw) -> list[Withdrawn]:
        return []

    shop = App("shop")
    shop.include(Decider(key="account_id", initial=lambda: first, evolve=evolve, decide=decide))
    with pytest.raises(
        NotDeterministic, match=r"changed what every Basket begins with, from .*items=\[\]\) to .*items="
    ):
        given(shop, deposited(1)).when(take)


class Packed(Event, key="account_id"):
    account_id: str
    items: list[str]


def test_an_event_that_is_changed_is_noticed() -> None:
    class Box(State, key="account_id"):
        items: list[str] = msgspec.field(default_factory=list[str])

        def evolve(self, event: Packed) -> Self:
            event.items.append("more")
            self.items = event.items
            return self

    packing = App("packing")

    @packing.command
    def decide(command: Look, box: Box) -> None: ...

    with pytest.raises(
        NotDeterministic, match=r"Box.evolve changed the event it was given, from .*\[\]\) to .*\['more'\]"
    ):
        given(packing, Packed(account_id="a", items=[])).when(Look(account_id="a"))


def test_what_only_changes_its_own_state_is_left_alone() -> None:
    class Mine(Command[int]):
        account_id: str

    fine = App("fine")

    @fine.command
    def decide(command: Withdraw, account: Account) -> list[Withdrawn]:
        account.evolve(Withdrawn(account_id="a", amount=Decimal(1)))
        return [Withdrawn(account_id="a", amount=account.balance)]

    @fine.command
    def mine(command: Mine, account: Account) -> Decided[int]:
        return Decided(withdrawn(1), result=7)

    given(fine, deposited(9)).when(take).then(withdrawn(8))
    assert given(fine).when(Mine(account_id="a")).then(withdrawn(1)).result == 7
