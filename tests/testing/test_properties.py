"""Properties of deciders from their types: what is right passes, and each kind of bug is found and told by a short history."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from ensue import Answer, App, Call, Command, Criteria, Decider, Event, Of, Proceed, Refusal, State, Transaction, View
from ensue.errors import DefinitionError
from ensue.events.registry import Registry
from ensue.testing import NotPure
from ensue.testing.properties import Broken, check_decisions, messages, values_of
from tests.testing.ledger import Account, Deposited, Overdrawn, Withdraw, Withdrawn, bank


def test_a_bank_that_is_right_passes() -> None:
    check_decisions(bank, published=[Deposited], values={Decimal: st.decimals(0, 100, places=2)})


def never_in_debt(account: Account) -> None:
    assert account.balance >= 0, f"{account.balance} is owed"


def test_what_you_say_of_states_is_checked_after_each_step() -> None:
    with pytest.raises(Broken) as found:
        check_decisions(bank, never_in_debt)
    text = str(found.value)
    assert re.match(r"never_in_debt does not hold for Account\(balance=Decimal\('-.*'\)\): -.* is owed\n", text)
    assert "\n  1. " in text
    assert "\n  3. " not in text, f"not the shortest: {text}"


def test_an_invariant_may_answer_instead_of_asserting() -> None:
    def small(account: Account) -> bool:
        return account.balance < 100

    with pytest.raises(Broken, match="small does not hold for Account"):
        check_decisions(bank, small, published=[Deposited])


def test_an_invariant_says_what_it_is_about() -> None:
    with pytest.raises(DefinitionError, match="annotate its parameter with the state"):
        check_decisions(bank, lambda account: account.balance >= 0)


def broken_bank(decide: Callable[..., Any]) -> App:
    broken = App("broken")
    broken.command(decide)
    return broken


def told(app: App) -> list[str]:
    """The lines of what is found: what is wrong, and the steps that lead there."""
    with pytest.raises(Broken) as found:
        check_decisions(app, published=[Deposited])
    return str(found.value).splitlines()


def test_a_decision_that_raises_what_is_no_refusal_is_found() -> None:
    def decide(command: Withdraw, account: Account) -> Withdrawn:
        if account.balance > 0 and command.amount / account.balance > 10:
            raise KeyError("too greedy")
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    lines = told(broken_bank(decide))
    assert lines[0] == "deciding it raised KeyError('too greedy'), which is no Refusal"
    assert lines[-1].endswith("is sent")
    assert len(lines) == 3  # a deposit, and a command: the shortest there is


def test_a_decision_by_what_it_remembers_is_found() -> None:
    decided: list[Withdraw] = []

    def decide(command: Withdraw, account: Account) -> Withdrawn:
        decided.append(command)
        return Withdrawn(account_id=command.account_id, amount=Decimal(len(decided)))

    lines = told(broken_bank(decide))
    assert "decide is not deterministic" in lines[0]
    assert len(lines) == 2


def test_an_event_that_no_log_would_store_is_found() -> None:
    def decide(command: Withdraw, account: Account) -> Withdrawn:
        return Withdrawn(account_id=command.account_id, amount=Decimal("NaN") if account.balance else command.amount)

    assert "this cannot be stored: Withdrawn: amount=Decimal('NaN')" in told(broken_bank(decide))[0]


class Packed(Event, key="box_id"):
    box_id: str
    thing: str


class Unpacked(Event, key="box_id"):
    box_id: str
    thing: str


class Unpack(Command[Unpacked]):
    box_id: str
    thing: str


def test_a_state_that_cannot_follow_what_was_decided_is_found() -> None:
    class Box(State, key="box_id"):
        things: list[str] = msgspec.field(default_factory=list[str])

        def evolve(self, event: Packed | Unpacked) -> Self:
            if isinstance(event, Packed):
                self.things.append(event.thing)
            else:
                self.things.remove(event.thing)
            return self

    def unpack(command: Unpack, box: Box) -> Unpacked:
        return Unpacked(box_id=command.box_id, thing=command.thing)

    app = App("packing")
    app.command(unpack)
    lines = told(app)
    assert lines[0].startswith("evolve of Box raised ValueError(")
    assert len(lines) == 2


def test_a_state_whose_fields_are_not_what_they_say_is_found() -> None:
    class Wrong(State, key="box_id"):
        count: int = 0

        def evolve(self, event: Packed) -> Self:
            self.count = event.thing  # type: ignore[assignment]  # planted
            return self

    def unpack(command: Unpack, box: Wrong) -> Unpacked:
        return Unpacked(box_id=command.box_id, thing=command.thing)

    app = App("wrong")
    app.command(unpack)
    lines = told(app)
    assert "would come back from a snapshot as something else" in lines[0]
    assert len(lines) <= 4


def test_a_decider_of_three_functions_is_checked_as_well() -> None:
    @dataclass(frozen=True)
    class Sum:
        balance: Decimal = Decimal(0)

    def evolve(sum: Sum, event: Deposited | Withdrawn) -> Sum:
        change = event.amount if isinstance(event, Deposited) else -event.amount
        return replace(sum, balance=sum.balance + change)

    def decide(sum: Sum, command: Withdraw) -> list[Withdrawn]:
        if command.amount > sum.balance + 1:  # planted
            raise Overdrawn(available=sum.balance)
        return [Withdrawn(account_id=command.account_id, amount=command.amount)]

    def solvent(sum: Sum) -> bool:
        return sum.balance >= 0

    app = App("sums")
    app.include(Decider(key="account_id", initial=Sum, evolve=evolve, decide=decide))
    with pytest.raises(Broken, match=r"solvent does not hold for .*Sum\(balance=Decimal\('-"):
        check_decisions(app, solvent, values={Decimal: st.decimals(0, 100, places=2)})


class Joined(Event, key="course_id", tags=("student_id",)):
    course_id: str
    student_id: str


class Join(Command[Joined]):
    course_id: str
    student_id: str


class Full(Refusal): ...


class Places(State):
    of_course: int = 0
    of_student: int = 0

    def evolve(self, event: Joined) -> Self:
        self.of_course += 1
        return self


def test_a_boundary_by_criteria_meets_itself_often_enough() -> None:
    app = App("school")

    @app.command
    def join(
        command: Join,
        places: Annotated[
            Places, Of(lambda c: Criteria(Joined, course_id=c.course_id) | Criteria(Joined, student_id=c.student_id))
        ],
    ) -> Joined:
        return Joined(course_id=command.course_id, student_id=command.student_id)

    def never_three(places: Places) -> bool:
        return places.of_course < 3

    with pytest.raises(Broken) as found:
        check_decisions(app, never_three)
    assert len(str(found.value).splitlines()) == 4


class Write(Command[None]):
    account_id: str


def test_what_is_not_pure_is_left_out_and_all_of_it_refused() -> None:
    def write(command: Write, account: Account, tx: Transaction) -> None:
        raise AssertionError("this would need a database")

    app = broken_bank(write)
    with pytest.raises(NotPure, match="the command handlers are: write"):
        check_decisions(app)
    app.include(bank)
    check_decisions(app, examples=10)


class Shelf(View, key="box_id"):
    box_id: str
    things: int = 0

    def evolve(self, event: Packed | Unpacked) -> Self | None:
        if self.things == 2 and isinstance(event, Unpacked):
            raise ValueError("planted")
        self.things += 1 if isinstance(event, Packed) else -1
        return self if self.things else None


def test_a_row_that_cannot_follow_is_found() -> None:
    app = App("shelves")
    app.view(Shelf)
    lines = told(app)
    assert lines[0] == "evolve of Shelf raised ValueError('planted'), which would stop its row"
    assert len(lines) == 4  # packed twice, unpacked once: the shortest there is


def test_what_you_say_of_rows_is_checked() -> None:
    class Tally(View, key="box_id"):
        box_id: str
        things: int = 0

        def evolve(self, event: Packed | Unpacked) -> Self:
            self.things += 1 if isinstance(event, Packed) else -1
            return self

    def never_less_than_nothing(row: Tally) -> None:
        assert row.things >= 0

    app = App("tallies")
    app.view(Tally)
    with pytest.raises(Broken, match=r"never_less_than_nothing does not hold for .*Tally\(.*things=-1\)"):
        check_decisions(app, never_less_than_nothing)


def test_decisions_are_checked_behind_the_middleware_that_guards_them() -> None:
    guarded = App("guarded")
    guarded.include(bank)

    @guarded.middleware
    async def nobody(call: Call[Any], proceed: Proceed) -> Answer:
        raise AssertionError("this is no decision")

    check_decisions(guarded, examples=10)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(gt=2, multiple_of=5)]
    inner: tuple[Leaf, ...] = ()


class Everything(Event, key="thing_id"):
    thing_id: UUID
    number: int
    ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    amount: Decimal
    name: Annotated[str, msgspec.Meta(min_length=2, max_length=4)]
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]{3}$")]
    data: bytes
    at: datetime
    day: date
    lasts: timedelta
    colour: Colour
    size: Literal["small", "large"]
    leaf: Leaf
    maybe: int | None
    several: list[int]
    some: frozenset[str]
    pair: tuple[int, str]
    by_name: dict[str, Decimal]


@hypothesis.settings(max_examples=50, deadline=None, database=None)
@hypothesis.given(messages(Everything, ["thing_id"]))
def test_values_of_every_type_can_be_stored_and_keep_their_bounds(event: Everything) -> None:
    registry = Registry([Everything])
    draft = registry.draft(event, id=bytes(16), time=0)
    assert registry.decoder(draft.type_name, draft.type_version)(draft.data) == event
    assert event.thing_id.int <= 3
    assert 2 <= len(event.name) <= 4
    assert event.leaf.size % 5 == 0
    assert event.leaf.size > 2
    assert event.at.tzinfo is UTC


class Positive(Command[None]):
    amount: int

    def __post_init__(self) -> None:
        if self.amount <= 0:
            raise ValueError("must be positive")


@hypothesis.settings(max_examples=50, deadline=None, database=None)
@hypothesis.given(messages(Positive))
def test_what_a_class_refuses_itself_is_not_drawn(command: Positive) -> None:
    assert command.amount > 0


@hypothesis.settings(max_examples=20, deadline=None, database=None)
@hypothesis.given(values_of(dict[str, list[Decimal]], {Decimal: st.just(Decimal(7))}))
def test_strategies_of_yours_take_the_place_of_those_from_types(found: dict[str, list[Decimal]]) -> None:
    assert all(value == 7 for values in found.values() for value in values)


def test_a_type_that_cannot_be_drawn_says_so() -> None:
    with pytest.raises(TypeError, match="no values can be drawn for RawType"):
        values_of(msgspec.Raw)
