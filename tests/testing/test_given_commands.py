"""Given, when, then of commands and queries, at every place where they can run."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from ensue import Answer, App, Call, Command, Event, Personal, Proceed, Query, Refusal
from ensue.errors import DefinitionError, Misuse, WiringError
from ensue.testing import NotPure, given
from ensue.testing.places import VARIABLE
from tests.testing.ledger import (
    BalanceOf,
    Deposited,
    Overdrawn,
    Transfer,
    Withdraw,
    Withdrawn,
    bank,
    deposited,
    withdrawn,
)

PLACES = ["pure", "memory", "simulated", "crashes", "sqlite", "postgresql"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv(VARIABLE, request.getfixturevalue("postgresql_url") if name == "postgresql" else name)
    return name


def take(amount: int) -> Withdraw:
    return Withdraw(account_id="a", amount=Decimal(amount))


def test_a_command_that_is_granted_leads_to_its_events_and_its_answer(place: str) -> None:
    outcome = given(bank, deposited(9)).when(take(5)).then(withdrawn(5))
    assert outcome.result == withdrawn(5)


def test_a_command_that_is_refused_tells_its_fields_and_stores_nothing(place: str) -> None:
    outcome = given(bank, deposited(3)).when(take(5)).then_refused(Overdrawn, available=Decimal(3))
    with pytest.raises(Overdrawn):
        print(outcome.result)


def test_a_decision_over_two_states_looks_at_both(place: str) -> None:
    moved = Transfer(source="a", target="b", amount=Decimal(4))
    given(bank, deposited(9), withdrawn(5)).when(moved).then(withdrawn(4), deposited(4, "b"))
    given(bank, deposited(9), withdrawn(6)).when(moved).then_refused(Overdrawn, available=Decimal(3))


def test_a_query_is_answered_from_what_was_given(place: str) -> None:
    assert given(bank, deposited(9), withdrawn(2)).when_asked(BalanceOf(account_id="a")) == 7


@pytest.mark.parametrize(
    ("amount", "expectation", "said"),
    [
        (9, lambda outcome: outcome.then(withdrawn(9)), r"it was refused: Overdrawn\(available=Decimal\('3'\)\)"),
        (9, lambda outcome: outcome.then_nothing(), "it was refused"),
        (9, lambda outcome: outcome.then_refused(Overdrawn, available=Decimal(4)), r"not by Overdrawn\(available=Dec"),
        (9, lambda outcome: outcome.then_refused(Overdrawn, unknown=1), "it was refused by"),
        (1, lambda outcome: outcome.then_refused(Overdrawn), "it was not refused: it led to .*Withdrawn"),
        (1, lambda outcome: outcome.then(withdrawn(2)), "it caused .*1.*, not .*2"),
        (1, lambda outcome: outcome.then_nothing(), "it caused"),
    ],
)
def test_a_wrong_expectation_says_what_came_instead(place: str, amount: int, expectation: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        expectation(given(bank, deposited(3)).when(take(amount)))


def test_a_bug_is_raised_as_it_is_and_is_no_refusal(place: str) -> None:
    broken = App("broken")

    @broken.command
    def break_(command: Withdraw) -> Withdrawn:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        given(broken).when(take(1))


class Noted(Event, key="account_id"):
    account_id: str


def noting() -> App:
    noting = App("noting")
    noting.include(bank)

    @noting.on
    async def note(event: Withdrawn) -> Noted:
        return Noted(account_id=event.account_id)

    return noting


def test_what_the_events_of_a_command_cause_comes_after_them(place: str) -> None:
    if place == "pure":
        with pytest.raises(NotPure, match="note handles Withdrawn"):
            given(noting(), deposited(9)).when(take(5))
        return
    given(noting(), deposited(9)).when(take(5)).then(withdrawn(5), Noted(account_id="a"))


def test_a_place_where_it_cannot_run_is_passed_over_if_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pure memory")
    given(noting(), deposited(9)).when(take(5)).then(withdrawn(5), Noted(account_id="a"))


def test_a_place_that_is_none_is_named_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mysql://me:secret@localhost/bank")
    with pytest.raises(WiringError, match="no place for a test; those are: pure, memory") as raised:
        given(bank).when(take(1))
    assert "secret" not in str(raised.value)


def test_a_test_that_is_async_is_told_to_be_plain() -> None:
    async def test() -> None:
        given(bank).when(take(1))

    with pytest.raises(Misuse, match="in a plain `def test_"):
        asyncio.run(test())


def test_a_decision_that_differs_where_the_process_dies_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that remembers: what it answers after a restart, or a repetition, is something else."""
    calls: list[int] = []

    forgetful = App("forgetful")

    @forgetful.on
    async def twice(event: Deposited) -> list[Noted]:
        calls.append(1)
        return [Noted(account_id="a")] * (1 if len(calls) % 7 else 2)

    monkeypatch.setenv(VARIABLE, "crashes")
    with pytest.raises(AssertionError, match=r"(?s)it caused .*, where the process dies at '.*', the .* time it comes"):
        given(forgetful).when(deposited(1)).then(Noted(account_id="a"))


def test_the_answer_of_a_decider_that_returns_its_only_event_in_a_list_is_that_event(place: str) -> None:
    listing = App("listing")

    @listing.command
    def decide(command: Withdraw) -> list[Withdrawn]:
        return [Withdrawn(account_id=command.account_id, amount=command.amount)]

    assert given(listing).when(take(5)).then(withdrawn(5)).result == withdrawn(5)


def test_a_command_that_nobody_decides_is_told(place: str) -> None:
    with pytest.raises(DefinitionError, match="nothing decides Withdraw"):
        given(App("empty")).when(take(5))
    with pytest.raises(DefinitionError, match="nothing answers BalanceOf"):
        given(App("empty")).when_asked(BalanceOf(account_id="a"))


class NotAllowed(Refusal): ...


class MineOnly(Query[str]): ...


def test_middleware_sees_who_sends_and_may_refuse(place: str) -> None:
    guarded = App("guarded")
    guarded.include(bank)

    @guarded.middleware
    async def only_ann(call: Call[Withdraw | MineOnly], proceed: Proceed) -> Answer:
        if call.principal_id != "ann":
            raise NotAllowed
        return await proceed()

    @guarded.query
    def mine(query: MineOnly, call: Call[MineOnly]) -> str:
        return f"for {call.principal_id}"

    if place == "pure":
        with pytest.raises(NotPure, match="behind the middleware only_ann"):
            given(guarded, deposited(9)).when(take(5))
        return
    given(guarded, deposited(9)).when(take(5)).then_refused(NotAllowed)
    given(guarded, deposited(9)).when(take(5), principal="ann").then(withdrawn(5))
    assert given(guarded).when_asked(MineOnly(), principal="ann") == "for ann"
    with pytest.raises(NotAllowed):
        given(guarded).when_asked(MineOnly(), principal="eve")


def test_personal_data_needs_no_keys_in_a_test(place: str) -> None:
    class Joined(Event, key="customer_id", subject="customer_id"):
        customer_id: str
        email: Personal[str]

    welcoming = App("welcoming")

    class Welcome(Command[Joined]):
        customer_id: str
        email: str

    @welcoming.command
    def welcome(command: Welcome) -> Joined:
        return Joined(customer_id=command.customer_id, email=command.email)

    joined = Joined(customer_id="c", email="a@b.c")
    given(welcoming, joined).when(Welcome(customer_id="d", email="d@e.f")).then(Joined(customer_id="d", email="d@e.f"))
