"""A pattern in words, why a match is one, and why something is none: each cause with its text."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

from ensue import App, Event, Personal, minutes, seconds
from ensue.errors import Misuse
from ensue.patterns import (
    Pattern,
    absent,
    all_of,
    count,
    either,
    group,
    one,
    optional,
    several,
    to_last,
    total,
)
from ensue.patterns.explained.explaining import explain, span_text
from ensue.patterns.explained.reasons import WhyNot, why, why_not
from ensue.testing import assert_matches
from ensue.testing.marbles import marbles


class Payment(Event, key="card"):
    card: str
    amount: Decimal
    country: str = "UK"


class Cancelled(Event, key="card"):
    card: str


class Signup(Event, key="person_id", subject="person_id"):
    person_id: str
    email: Personal[str] = "a@b.c"
    age: int = 0


class Probed(Pattern, within=minutes(10)):
    probe = one(Payment, lambda p: p.amount < 2)
    large = several(Payment, lambda p: p.amount > 200, times=3)

    @large.where
    def abroad(self, payment: Payment) -> bool:
        return payment.country != self.probe.country


class Kept(Pattern, within=minutes(10)):
    first = one(Payment)
    no = absent(Cancelled)
    second = one(Payment, lambda p: p.amount > 5, within=minutes(5))


class Unrefunded(Pattern, within=minutes(10)):
    paid = one(Payment)
    no = absent(Cancelled)


class AtOnce(Pattern, within=minutes(10)):
    first = one(Payment, lambda p: p.amount == 1)
    second = one(Payment, lambda p: p.amount == 2, contiguity="strict")


class Rising(Pattern, within=minutes(10), skip="past_last"):
    run = several(Payment, times=(3, 3), until=lambda p: p.amount == 0)

    def where(self) -> bool:
        return total(self.run, lambda p: p.amount) > 100


class Ruled(Pattern, within=minutes(10), skip="past_last"):
    a = one(Payment)
    b = one(Payment)
    c = one(Payment)


def text(pattern: type[Pattern], stream: str, marble: str | None = None) -> str:
    """What is said of a marble, or of the only key, with events called as they were written."""
    read = marbles(pattern, stream)
    event = None
    if marble is not None:
        event = next(event for _, event in read.events if read.text_of(event) == marble)
    said = why_not(pattern, read.events, event=event, until=read.until)
    return said.said(read.text_of)


# ------------------------------------------------------------------------------------------------------ nearest miss


def test_an_event_that_came_too_late_is_told_by_how_much() -> None:
    assert text(Probed, "p1(1)@0 p1(300,FR)@1m p1(400,FR)@2m p1(500,FR)@10m12s") == (
        "1 of 2 steps (probe = p1@0, large = p1@1m, large = p1@2m); it waited for large; p1@10m12s came 12 s too late for large"
    )


def test_of_an_event_that_came_too_late_the_same_is_said() -> None:
    said = text(Probed, "p1(1)@0 p1(300,FR)@1m p1(400,FR)@2m p1(500,FR)@10m12s", "p1@10m12s")
    assert said.endswith("it waited for large; p1@10m12s came 12 s too late for large")


def test_an_event_at_the_very_deadline_came_just_too_late() -> None:
    said = text(Probed, "p1(1)@0 p1(300,FR)@1m p1(400,FR)@2m p1(500,FR)@10m")
    assert said.endswith("p1@10m came just too late for large")


def test_an_event_that_fails_a_condition_is_told_with_its_values() -> None:
    said = text(Probed, "p1(1)@0 p1(150,FR)@1m p1(300)@2m", "p1@1m")
    assert said.endswith("p1@1m is not taken by large: large.amount > 200 fails (large.amount was 150)")
    said = text(Probed, "p1(1)@0 p1(150,FR)@1m p1(300)@2m", "p1@2m")
    assert said.endswith("large.country != probe.country fails (large.country was 'UK', probe.country was 'UK')")


def test_of_one_condition_only_the_first_part_that_fails_is_told() -> None:
    class French(Pattern, within=minutes(10)):
        paid = one(Payment, lambda p: p.amount > 1 and p.country == "FR" and p.amount > 200)

    assert text(French, "p1(5, UK)@0") == (
        "p1 is not taken by paid: paid.country == 'FR' fails (paid.country was 'UK')"
    )


def test_what_is_forbidden_ended_the_run() -> None:
    assert text(Kept, "p1(1)@0 c1@1m p1(7)@2m").startswith("1 of 2 steps (first = p1@2m)")
    assert (
        text(Kept, "p1(1)@0 c1@1m") == "1 of 2 steps (first = p1); it waited for second; ended by c1, which no forbids"
    )
    assert text(Unrefunded, "p1(1)@0 c1@1m") == "1 of 1 steps (paid = p1); ended by c1, which no forbids"


def test_a_strict_absence_is_about_the_very_next_event_only() -> None:
    class NotNext(Pattern, within=minutes(10)):
        first = one(Payment, lambda p: p.amount == 1)
        no = absent(Cancelled, contiguity="strict")
        second = one(Payment, lambda p: p.amount == 2)

    assert text(NotNext, "p1(1)@0 p1(7)@1 c1@2", "c1").endswith("c1 is none of these")
    assert "its time was over before second came" in text(NotNext, "p1(1)@0 p1(7)@1 c1@2")
    assert text(NotNext, "p1(1)@0 c1@1 p1(2)@2").endswith("ended by c1, which no forbids")


def test_an_event_that_ended_a_run_is_said_to_have() -> None:
    assert text(Kept, "p1(1)@0 c1@1m", "c1").endswith("ended by c1, which no forbids")


def test_an_event_between_two_that_must_follow_at_once_ended_the_run() -> None:
    assert text(AtOnce, "p1(1)@0 p1(5)@1m p1(2)@2m") == (
        "1 of 2 steps (first = p1@0); it waited for second; ended by p1@1m: second must come at once, with nothing between; "
        "p1@1m is not taken by second: second.amount == 2 fails (second.amount was 5)"
    )


def test_a_loop_whose_until_holds_takes_no_more() -> None:
    assert text(Rising, "p1(50)@0 p1(60)@1m p1(0)@2m").startswith(
        "0 of 1 steps (run = p1@0, run = p1@1m); it waited for run; run takes no more since p1@2m"
    )


def test_time_that_is_over_and_time_that_is_not() -> None:
    assert text(Kept, "p1(1)@0").endswith("its time was over before second came")
    assert text(Kept, "p1(1)@0 |@2m").endswith("it still waits for second, for 3 min more")
    assert (
        text(Unrefunded, "p1(1)@0 |@2m") == "1 of 1 steps (paid = p1); it still waits for the end of no, for 8 min more"
    )


def test_a_condition_on_the_whole_is_told_with_its_values() -> None:
    assert text(Rising, "p1(10)@0 p1(20)@1m p1(30)@2m") == (
        "1 of 1 steps (run = p1@0, run = p1@1m, run = p1@2m); it is complete, but of the whole: "
        "total(run, each.amount) > 100 fails (total(run, each.amount) was 60)"
    )


def test_a_match_that_rules_a_beginning_out_is_named() -> None:
    assert text(Ruled, "p1@0 p1@1m p1@2m", "p1@1m") == "p1@1m is part of a match"
    assert (
        text(Ruled, "p1@0 p1@1m p1@2m")
        == "1 of 3 steps (a = p1@1m); it waited for b; ruled out by the match that ends with p1@2m"
    )


def test_of_a_run_that_took_many_events_the_first_and_the_last_are_named() -> None:
    class Many(Pattern, within=minutes(10)):
        many = several(Payment)
        end = one(Cancelled)

    said = text(Many, " ".join(f"p1@{number}" for number in range(12)), "p1@0")
    assert "(many = p1@0, many = p1@1, many = p1@2, many = p1@3, … 4 more …, many = p1@8, many = p1@9," in said


def test_what_ended_a_beginning_before_a_match_ruled_it_out_is_told() -> None:
    class Either(Pattern, within=minutes(10), skip="past_last"):
        first = one(Payment, lambda p: p.amount != 2)
        no = absent(Cancelled)
        second = one(Payment, lambda p: p.amount == 2)

        @no.where
        def of_three(self, cancelled: Cancelled) -> bool:
            return self.first.amount == 3

    said = text(Either, "p1(1)@0 p1(3)@1 c1@2 p1(2)@3", "p1@1")
    assert said == "1 of 2 steps (first = p1@1); it waited for second; ended by c1, which no forbids"
    said = text(Either, "p1(1)@0 p1(3)@1 p1(2)@3", "p1@1")
    assert said.endswith("ruled out by the match that ends with p1@3")


def test_events_behind_the_deadline_are_no_near_misses() -> None:
    assert text(Probed, "p1(1)@0 p1(150, FR)@20m") == (
        "1 of 2 steps (probe = p1@0); it waited for large; its time was over before large came"
    )


def test_an_event_that_no_run_waited_for_is_said_to_be_none_of_these() -> None:
    class Later(Pattern, within=minutes(10)):
        first = one(Payment)
        signed = one(Payment, lambda p: p.amount == 9)
        gone = one(Cancelled)

    assert text(Later, "p1(1)@0 c1@1m", "c1") == "1 of 3 steps (first = p1); it waited for signed; c1 is none of these"


def test_where_nothing_began_the_event_that_was_nearest_is_told() -> None:
    assert (
        text(Probed, "p1(50)@0 p1(5)@1m") == "p1@1m is not taken by probe: probe.amount < 2 fails (probe.amount was 5)"
    )
    assert text(Kept, "c1@0") == "nothing had begun: no first came"
    assert text(Kept, "c1@0", "c1") == "nothing had begun: no first came before c1"


def test_an_event_of_a_type_that_no_step_takes_and_a_key_without_events_are_said() -> None:
    read = marbles(Probed, "p1(1)@0 x1@1m", x=Cancelled)
    assert why_not(Probed, read.events, event=read.events[1][1]).said() == "no step takes a Cancelled 2"
    assert why_not(Probed, read.events, key="9").said() == "there are no events of this key that any step could take"


def test_a_key_whose_every_beginning_matched_says_so() -> None:
    assert text(Unrefunded, "p1(1)@0") == "every beginning is part of a match"


def test_of_several_beginnings_the_one_that_came_farthest_is_told() -> None:
    said = why_not(Probed, marbles(Probed, "p1(1)@0 p1(300,FR)@1m p1(1)@2m p1(1)@3m").events)
    assert (said.done, said.steps, [step for step, _ in said.took]) == (1, 2, ["probe", "large"])


def test_groups_choices_and_any_order_are_followed_inside() -> None:
    class Wrong(Pattern, unbounded=True):
        bad = one(Payment, lambda p: p.amount == 0)
        worse = one(Payment, lambda p: p.amount > self_limit())

    class Rounds(Pattern, within=minutes(10)):
        rounds = group(Wrong, times=2)
        end = either(one(Cancelled), one(Payment, lambda p: p.amount == 77))

    assert text(Rounds, "p1(0)@0 p1(6)@1 p1(0)@2") == (
        "0 of 2 steps (rounds.bad = p1@0, rounds.worse = p1@1, rounds.bad = p1@2); it waited for rounds.worse; its time was over "
        "before rounds.worse came"
    )
    assert "it waited for end.0 or end.1" in text(Rounds, "p1(0)@0 p1(6)@1 p1(0)@2 p1(6)@3")

    class Both(Pattern, within=minutes(10)):
        both = all_of(one(Payment), one(Cancelled))

    assert (
        text(Both, "c1@0") == "0 of 1 steps (both.1 = c1); it waited for both.0; its time was over before both.0 came"
    )


def self_limit() -> int:
    return 5


def test_a_condition_that_raises_is_said_to_without_what_it_said() -> None:
    class Divided(Pattern, within=minutes(10)):
        first = one(Payment, lambda p: 1 / p.amount > 0)

    said = why_not(Divided, marbles(Divided, "p1(0)@0").events).said()
    assert said == "Payment 1 is not taken by first: (1 / first.amount) > 0 raises (DivisionByZero)"


def test_an_event_for_which_a_condition_raises_keeps_no_other_from_being_looked_at() -> None:
    class Divided(Pattern, within=minutes(10)):
        first = one(Payment, lambda p: 1 / p.amount > 0)
        second = one(Cancelled)

    said = text(Divided, "p1(0)@0 p1(5)@1m")
    assert said == "1 of 2 steps (first = p1@1m); it waited for second; its time was over before second came"


def test_events_of_a_log_are_asked_as_they_are_read() -> None:
    async def ask() -> WhyNot:
        async with App("cards", url="memory:") as app:
            for amount in (1, 300, 150):
                await app.publish(Payment(card="c1", amount=Decimal(amount), country="FR"))
            recorded = [one async for one in app.log.read(Payment)]
            return why_not(Probed, recorded, event=recorded[2].event)

    said = asyncio.run(ask())
    assert said.reasons[0].event is not None
    assert (said.done, said.reasons[0].cause, said.reasons[0].event.position) == (1, "failed", 3)


def test_which_event_or_key_is_meant_must_be_clear() -> None:
    read = marbles(Probed, "p1(1)@0 p2(1)@1m")
    with pytest.raises(Misuse, match="say which key is meant, key=; there are: 1, 2"):
        why_not(Probed, read.events)
    with pytest.raises(Misuse, match="this Payment is not among the events"):
        why_not(Probed, read.events, event=Payment(card="3", amount=Decimal(1)))
    assert why_not(Probed, read.events, key="2").key == "2"


def test_values_of_personal_fields_are_never_shown() -> None:
    class Adult(Pattern, within=minutes(10)):
        signup = one(Signup, lambda s: s.email == "x@y.z" and s.age > 17)

    class Mailed(Pattern, within=minutes(10)):
        signup = several(Signup, lambda s: s.age > 17, times=2)

        @signup.where
        def other(self, signup: Signup) -> bool:
            return signup.email != "secret" and signup.age > count(self.signup)

    said = why_not(Adult, marbles(Adult, "s1(a@secret.uk, 20)@0").events).said()
    assert "signup.email was …" in said
    assert "secret" not in said
    (match,) = assert_matches(Mailed, "s1(a@secret.uk, 20)@0 s1(b@secret.uk, 30)@1m", ["s1@0 s1@1m"])
    assert "secret.uk" not in str(why(match))
    assert "signup.email = …" in str(why(match))


# ------------------------------------------------------------------------------------------------------------- why


def test_why_shows_what_each_step_took_and_what_its_conditions_read() -> None:
    stream = "p1(1)@0 p1(300,FR)@1m p1(400,DE)@2m p1(500,FR)@3m"
    (match,) = assert_matches(Probed, stream, ["p1@0 p1@1m p1@2m p1@3m"])
    said = why(match)
    assert [one.step for one in said.took] == ["probe", "large", "large", "large"]
    assert [str(check) for check in said.took[2].checks] == [
        "large.amount > 200 holds (large.amount = 400)",
        "large.country != probe.country holds (large.country = 'DE', probe.country = 'UK')",
    ]
    assert str(said).splitlines()[0] == "Probed of 1, from 2026-01-01 00:00:00+00:00 to 2026-01-01 00:03:00+00:00"


def test_why_says_what_was_absent_and_what_held_of_the_whole() -> None:
    (match,) = assert_matches(Unrefunded, "p1(7)@0", ["p1"])
    assert why(match).absent == ("no: no Cancelled",)
    (match,) = assert_matches(Rising, "p1(50)@0 p1(60)@1m p1(70)@2m", ["p1@0 p1@1m p1@2m"])  # type: ignore[assignment]
    assert [str(one) for one in why(match).whole] == [
        "total(run, each.amount) > 100 holds (total(run, each.amount) = 180)"
    ]


def test_a_condition_on_its_own_step_is_shown_as_it_was_when_the_event_was_taken() -> None:
    class Growing(Pattern, within=minutes(10)):
        up = several(Payment, times=3)

        @up.where
        def higher(self, payment: Payment) -> bool:
            return not self.up or payment.amount > self.up[-1].amount

    (match,) = assert_matches(Growing, "p1(1)@0 p1(2)@1 p1(3)@2", ["p1@0 p1@1 p1@2"])
    assert "up[-1].amount = 2" in str(why(match).took[2].checks[0])
    assert all(check.holds for took in why(match).took for check in took.checks)


def test_why_follows_groups_choices_and_any_order() -> None:
    class Wrong(Pattern, unbounded=True):
        bad = one(Payment, lambda p: p.amount == 0)
        worse = one(Payment)

        @worse.where
        def more(self, payment: Payment) -> bool:
            return payment.amount > self.bad.amount

    class Everything(Pattern, within=minutes(10)):
        rounds = group(Wrong, times=2)
        end = either(one(Cancelled), one(Payment, lambda p: p.amount == 77))
        both = all_of(one(Payment, lambda p: p.amount == 8), one(Cancelled))
        last = optional(Payment, lambda p: p.amount == 9)

    (match,) = assert_matches(
        Everything,
        "p1(0)@0 p1(6)@1 p1(0)@2 p1(5)@3 p1(77)@4 c1@5 p1(8)@6",
        ["p1@0 p1@1 p1@2 p1@3 p1@4 c1 p1@6"],
    )
    said = why(match)
    assert [one.step for one in said.took] == [
        *("rounds.bad", "rounds.worse", "rounds.bad", "rounds.worse"),
        *("end.1", "both.0", "both.1"),
    ]
    assert "rounds.worse.amount > rounds.bad.amount holds (rounds.worse.amount = 5, rounds.bad.amount = 0)" in str(said)
    assert all(check.holds for took in said.took for check in took.checks)


# ---------------------------------------------------------------------------------------------------------- in words


def test_a_pattern_is_explained_step_by_step() -> None:
    assert str(explain(Probed)).splitlines()[:4] == [
        "Probed: 2 steps in order, by card, from first to last in less than 10 min",
        "1. probe: one Payment with probe.amount < 2",
        "2. large: 3 of Payment with large.amount > 200 and large.country != probe.country; each the next that fits",
        "After a match others with the same first event are none",
    ]


def test_how_it_runs_is_said_with_its_program() -> None:
    said = explain(Probed)
    assert said.runs == (
        "Of Payment only those are looked at with it.amount < 2 or it.amount > 200",
        "Runs: compiled, one run for each beginning",
    )
    assert said.source is not None
    assert "def take(" in said.source


def test_opaque_conditions_are_marked_with_their_place() -> None:
    class Opaque(Pattern, within=minutes(10)):
        first = one(Payment, lambda p: p.country.startswith("U"))

    (step,) = explain(Opaque).steps
    assert step.conditions == ()
    assert step.opaque[0].startswith("a lambda (test_explaining.py, line ")
    assert "opaque" in str(explain(Opaque))


def test_every_option_is_in_the_words() -> None:
    class Full(Pattern, within=minutes(10), skip=to_last("many"), disorder=seconds(5), lateness=minutes(1)):
        first = one(Payment)
        no = absent(Cancelled, contiguity="strict")
        many = several(
            Payment, times=(2, None), contiguity="any", inner="strict", greedy=False, until=lambda p: p.amount == 0
        )
        maybe = optional(Cancelled, within=minutes(1))

        def where(self) -> bool:
            return total(self.many, lambda p: p.amount) > 10

    said = str(explain(Full))
    for text_ in (
        "no: no Cancelled; the very next event is none",
        "many: 2 or more of Payment; any that fits; among themselves at once, nothing between; any number of those will do; until many.amount == 0",
        "maybe: perhaps one Cancelled; the next that fits; less than 1 min after the event before",
        "Of the whole: total(many, each.amount) > 10",
        "After a match others that begin before the last event of many are none",
        "Time: as an event says it; events may be 5 s out of order; those later by up to 1 min correct matches",
        "State: a beginning waits at most 10 min; of one key at most 10,000 at the same time",
        "A beginning may go on in more than one way, at many",
        "Runs: by the general engine, since no is an absence of the very next event",
    ):
        assert text_ in said, said


def test_an_explanation_is_data_as_well() -> None:
    assert msgspec.json.decode(msgspec.json.encode(explain(Probed)))["steps"][1]["conditions"] == [
        "large.amount > 200",
        "large.country != probe.country",
    ]


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(minutes=15), "15 min"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4.5), "1 d 2 h 3 min 4.5 s"),
        (timedelta(milliseconds=250), "250 ms"),
        (timedelta(microseconds=3), "3 µs"),
        (timedelta(seconds=1.25), "1.25 s"),
        (timedelta(), "0 s"),
        (timedelta(hours=1, microseconds=1), "1 h 0.000001 s"),
    ],
)
def test_spans_are_told_exactly(span: timedelta, said: str) -> None:
    assert span_text(span // timedelta(microseconds=1)) == said


def test_the_time_of_a_match_is_aware() -> None:
    (match,) = assert_matches(Unrefunded, "p1(7)@0", ["p1"])
    assert isinstance(why(match).ended, datetime)
