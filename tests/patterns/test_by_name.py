"""What the random patterns of the differential tests do not draw, or do not compare, each by a test of its own: which step a beginning
waited for, one order for all keys, a judgement over groups, how parts in any order read, and the bound of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ensue import ONE_ORDER, Event, minutes, seconds
from ensue.patterns import Pattern, absent, all_of, either, find, group, one, optional, several
from ensue.patterns.compiled.compiler import Plain, compiled
from ensue.patterns.finding import batch_of, outputs, timed_out
from ensue.patterns.operator import Found
from ensue.patterns.searching.engine import Engine

START = datetime(2026, 1, 1, tzinfo=UTC)
WITHIN = minutes(10)


class Mark(Event, key="k"):
    k: str = "k"
    n: int = 0


class A(Mark):
    pass


class B(Mark):
    pass


class C(Mark):
    pass


class D(Mark):
    pass


def given(text: str, **more: Any) -> list[tuple[datetime, Event]]:
    """`A1@5 B` is an A with the number 1 after 5 seconds, and a B one second later."""
    events: list[tuple[datetime, Event]] = []
    time = START - seconds(1)
    for word in text.split():
        said, _, at = word.partition("@")
        time = START + timedelta(seconds=int(at)) if at else time + seconds(1)
        kind = {"A": A, "B": B, "C": C, "D": D}[said[0]]
        events.append((time, kind(n=int(said[1:] or 0), **more)))
    return events


class Round(Pattern, unbounded=True):
    a = one(A)
    b = one(B)


class Plainly(Pattern, within=WITHIN):
    a = one(A)
    some = optional(B)
    many = several(C, times=2)
    last = one(D)


class Grouped(Pattern, within=WITHIN):
    rounds = group(Round, times=2)
    last = one(D)


class Mixed(Pattern, within=WITHIN):
    both = all_of(one(A), one(B))
    way = either(several(C, times=2), one(D))


class Between(Pattern, within=WITHIN):
    a = one(A)
    none = absent(B)
    c = one(C)


@pytest.mark.parametrize(
    ("pattern", "text", "step"),
    [
        (Plainly, "A", "many"),  # what is optional is waited for by nobody
        (Plainly, "A B", "many"),
        (Plainly, "A C", "many"),
        (Plainly, "A C C", "last"),
        (Grouped, "A", "rounds.b"),
        (Grouped, "A B", "rounds"),
        (Grouped, "A B A B", "last"),
        (Mixed, "B", "both"),
        (Mixed, "B A", "way"),
        (Mixed, "A B C", "way.0"),
        (Between, "A", "c"),
    ],
)
def test_a_beginning_that_times_out_names_the_first_step_that_had_to_come(
    pattern: type[Pattern], text: str, step: str
) -> None:
    out = timed_out(pattern, given(text))[0]
    assert out.waiting_for == step
    assert out.deadline == START + WITHIN


class Anyone(Pattern, within=WITHIN, key=ONE_ORDER):
    a = one(A)
    b = one(B, contiguity="strict")


def test_in_one_order_events_of_all_keys_belong_together() -> None:
    own, other = given("A1@0", k="x"), given("B2@1", k="y")
    (match,) = find(Anyone, [*own, *other])
    assert (match.a.k, match.b.k, match.key) == ("x", "y", "")
    assert find(Anyone, [*own, *given("C@1", k="z"), *given("B@2", k="y")]) != []  # of types that it does not name
    assert find(Anyone, [*own, *given("A@1", k="z"), *given("C@2"), *given("A@3")]) == []


class Judged(Pattern, within=WITHIN):
    rounds = group(Round, times=(1, 3))
    last = one(D)

    def where(self) -> bool:
        return len(self.rounds) == 2 and self.rounds[0].a.n + self.rounds[-1].b.n == self.last.n


class JudgedWhole(Pattern, within=WITHIN):
    rounds = group(Round, times=2)

    def where(self) -> bool:
        return sum(each.b.n for each in self.rounds) > 5  # opaque


def test_a_judgement_sees_each_round_of_a_group() -> None:
    (match,) = find(Judged, given("A1 B2 A3 B4 D5"))
    assert [(each.a.n, each.b.n) for each in match.rounds] == [(1, 2), (3, 4)]
    assert find(Judged, given("A1 B2 A3 B4 D6")) == []
    assert find(JudgedWhole, given("A B2 A B3")) == []
    assert len(find(JudgedWhole, given("A B2 A B4"))) == 1


class Parts(Pattern, within=WITHIN):
    parts = all_of(one(A), several(B, times=2), one(C))
    end = one(D)

    def where(self) -> bool:
        return self.end.n >= 0


@pytest.mark.parametrize("text", ["A1 B2 B3 C4 D", "C4 B2 B3 A1 D", "B2 B3 A1 C4 D"])
def test_parts_in_any_order_read_in_the_order_in_which_they_are_written(text: str) -> None:
    (match,) = find(Parts, given(text))
    a, several_b, c = match.parts
    assert (a.n, [b.n for b in several_b], c.n) == (1, [2, 3], 4)


class Few(Pattern, within=WITHIN, runs=2):
    a = one(A)
    b = one(B)


class FewMore(Pattern, within=WITHIN, runs=2):
    a = one(A)
    b = one(B, contiguity="any")
    c = one(C)


def test_beyond_the_bound_of_runs_the_oldest_of_a_key_goes_and_other_keys_stay() -> None:
    events = [*given("A1 A2 A3"), *given("A4@3", k="x"), *given("B@4"), *given("B@5", k="x")]
    assert [match.a.n for match in find(Few, events)] == [2, 3, 4]
    engine = Engine(FewMore.__ensue_pattern__)
    outputs(engine, batch_of(FewMore.__ensue_pattern__, given("A1 B A2 B")), until=START)
    assert engine.given_up > 0


# ----------------------------------------------------------------------------------- the program of n times A, then B


class Thrice(Pattern, within=seconds(10)):
    a = several(A, times=3)
    b = one(B)


class ThriceApart(Pattern, within=seconds(10), skip="past_last"):
    a = several(A, times=3)
    b = one(B)


@pytest.mark.parametrize("pattern", [Thrice, ThriceApart])
@pytest.mark.parametrize("over", [0, 1, 2, 3])
def test_exactly_those_beginnings_that_are_over_are_passed_over(pattern: type[Pattern], over: int) -> None:
    definition = pattern.__ensue_pattern__
    batch = batch_of(
        definition, given(f"A1@0 A2@1 A3@2 A4@3 A5@4 B@{9 + over} B@{9 + over}")
    )  # the second ends none again
    program = compiled(definition)
    assert isinstance(program, Plain)
    found = [one for one in outputs(program, batch) if isinstance(one, Found)]
    assert found == [one for one in outputs(Engine(definition), batch) if isinstance(one, Found)]
    beginnings = list(range(over, 3))  # each has taken three
    assert [one.started for one in found] == [
        batch.times[at] for at in (beginnings[:1] if pattern is ThriceApart else beginnings)
    ]
