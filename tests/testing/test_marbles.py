"""Marble tests: what a line of marbles stands for, what is asserted, and what a failure says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum

import pytest

from ensue import Event, minutes
from ensue.errors import DefinitionError
from ensue.patterns import Pattern, absent, one, several
from ensue.testing import assert_matches
from ensue.testing.marbles import START, marbles


class Speed(Enum):
    SLOW = "slow"
    FAST = "fast"


class Order(Event, key="order_id"):
    order_id: str


class Payment(Event, key="order_id"):
    order_id: str
    amount: Decimal
    country: str = "UK"


class Picked(Event, key="order_id"):
    order_id: int
    speed: Speed
    at: datetime
    notes: list[str]


class Unpaid(Pattern, within=minutes(15)):
    order = one(Order)
    paid = absent(Payment)


class Probed(Pattern, within=minutes(10)):
    probe = one(Payment, lambda p: p.amount < 2)
    large = several(Payment, lambda p: p.amount > 200, times=2)


class Handled(Pattern, within=minutes(10)):
    paid = one(Payment)
    picked = one(Picked)


def test_a_marble_is_an_event_of_a_type_a_key_and_a_time() -> None:
    read = marbles(Unpaid, "o1@0 p1@5m o2@1m")
    assert read.events == (
        (START, Order(order_id="1")),
        (START + minutes(5), Payment(order_id="1", amount=Decimal(0))),
        (START + minutes(1), Order(order_id="2")),
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("2d", timedelta(days=2)),
        ("90s", timedelta(seconds=90)),
        ("4", timedelta(seconds=4)),
        ("1.5s", timedelta(seconds=1.5)),
        ("1m250ms", timedelta(minutes=1, milliseconds=250)),
        ("0", timedelta()),
    ],
)
def test_times_are_written_as_people_write_them(text: str, time: timedelta) -> None:
    ((found, _),) = marbles(Unpaid, f"o1@{text}").events
    assert found - START == time


def test_without_a_time_a_marble_comes_a_second_after_the_one_before() -> None:
    times = [time - START for time, _ in marbles(Unpaid, "o1 o2 p1@5m p2").events]
    assert times == [timedelta(seconds=number) for number in (0, 1, 300, 301)]


def test_values_fill_the_fields_in_their_order_or_by_name() -> None:
    given = [event for _, event in marbles(Unpaid, "p1(250, FR)@0 p1(country=DE)@1 p:anna(7)@2").events]
    assert given == [
        Payment(order_id="1", amount=Decimal(250), country="FR"),
        Payment(order_id="1", amount=Decimal(0), country="DE"),
        Payment(order_id="anna", amount=Decimal(7)),
    ]


def test_a_field_that_nobody_cares_about_has_a_plain_value() -> None:
    (_, (_, picked)) = marbles(Handled, "pay1@0 pic1@5m").events
    assert picked == Picked(order_id=1, speed=Speed.SLOW, at=START + minutes(5), notes=[])


def test_a_letter_may_be_a_type_or_a_function_of_the_key_and_the_values() -> None:
    def big(key: str, country: str = "FR") -> Payment:
        return Payment(order_id=key, amount=Decimal(999), country=country)

    given = [event for _, event in marbles(Unpaid, "b1@0 b2(DE)@1 x3@2", b=big, x=Payment).events]
    assert given == [big("1"), big("2", "DE"), Payment(order_id="3", amount=Decimal(0))]


def test_time_comes_no_further_than_the_end_that_is_written() -> None:
    assert marbles(Unpaid, "o1@0 |@20m").until == datetime(2026, 1, 1, 0, 20, tzinfo=UTC)
    assert assert_matches(Unpaid, "o1@0 o2@10m |@20m", ["o1"])[0].key == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there are no marbles"),
        ("o1@5x", "'o1@5x': '5x' is no time"),
        ("o1@999999999d", "'o1@999999999d': '999999999d' is more than 1000 years"),
        ("o1@", "'o1@' in 'o1@' is no marble"),
        ("o1@0 @5", "'@5' in 'o1@0 @5' is no marble"),
        ("q1@0", "'q1@0': 'q' begins no event type of it; Unpaid has: Order, Payment"),
        ("p1(7, UK, 3)@0", "3 values, but Payment has 2 fields for them: amount, country"),
        ("p1(seven)@0", "'p1(seven)@0': Payment: amount: Invalid decimal string"),
        ("p1(colour=red)@0", "Payment has no field 'colour'; its fields are: order_id, amount, country"),
    ],
)
def test_what_is_no_marble_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        marbles(Unpaid, text)
    assert said in str(raised.value)


def test_a_letter_that_may_be_two_types_asks_for_more_of_the_name() -> None:
    with pytest.raises(
        DefinitionError, match=r"'p' may be Payment or Picked; Handled has: Payment, Picked\. Say which: p="
    ):
        marbles(Handled, "p1@0")
    assert len(assert_matches(Handled, "pay1@0 pic1@1", ["pay1 pic1"])) == 1


def test_what_is_found_is_given_back() -> None:
    (match,) = assert_matches(Probed, "p1(1)@0 p1(300)@1m p1(400)@2m", ["p1@0 p1@1m p1@2m"])
    assert [payment.amount for payment in match.large] == [300, 400]


def test_a_marble_of_several_alike_is_known_by_its_time_or_its_values() -> None:
    assert_matches(Probed, "p1(1)@0 p1(300)@0 p1(400)@0", ["p1(1)@0 p1(300) p1(400)"])
    with pytest.raises(DefinitionError, match="'p1' may be any of 3 marbles, @0, @0, @0; say its time, or its values"):
        assert_matches(Probed, "p1(1)@0 p1(300)@0 p1(400)@0", ["p1"])


def test_a_match_of_marbles_that_are_not_there_is_an_error() -> None:
    with pytest.raises(DefinitionError, match="there is no marble 'o3' in the stream"):
        assert_matches(Unpaid, "o1@0", ["o3"])


def test_a_failure_shows_both_sides_and_why_what_is_missing_is_none() -> None:
    with pytest.raises(AssertionError) as raised:
        assert_matches(Unpaid, "o1@0 p1@5m o2@1m o3@2m", ["o1", "o2"])
    assert str(raised.value).splitlines() == [
        "Unpaid: other matches than expected",
        "    expected  found",
        "    o2        o2",
        "  ! o1        -",
        "  ! -         o3",
        "  o1: 1 of 1 steps (order = o1); ended by p1, which paid forbids",
    ]


def test_matches_come_in_the_order_in_which_they_are_complete() -> None:
    with pytest.raises(AssertionError, match="Unpaid: the same matches, in another order"):
        assert_matches(Unpaid, "o1@1m o2@0", ["o1", "o2"])
    assert_matches(Unpaid, "o1@1m o2@0", ["o2", "o1"])


def test_beginnings_that_found_no_end_are_asserted_where_they_are_given() -> None:
    assert_matches(Probed, "p1(1)@0 p1(300)@1m", [], timed_out=["p1@0 p1@1m"])
    with pytest.raises(AssertionError, match="Probed: other timed out than expected"):
        assert_matches(Probed, "p1(1)@0 p1(300)@1m", [], timed_out=[])
