"""What other engines got wrong, each with what is right here. (P11 is a setting that we do not have.)

Times are microseconds; the letter of an event is its `s`.
"""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from ensue import Event
from ensue.errors import DefinitionError
from ensue.patterns import Pattern, absent, group, one, optional, several
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Batch, Expired, Found, Operator, Output
from ensue.patterns.operators import operator_of
from ensue.patterns.searching.engine import Engine
from tests.patterns.comparing import at_once, given
from tests.patterns.shapes import A, B, C
from tests.patterns.test_cases import pattern, stream, taken


def span(microseconds: int) -> timedelta:
    return timedelta(microseconds=microseconds)


def found(steps: dict[str, Any], text: str, within: int | None = 100, skip: str = "next") -> list[str]:
    """The events of each match and when it was complete, by the operator that a user gets."""
    events, names = stream(text)
    definition = pattern(steps, within, skip).__ensue_pattern__
    outputs = at_once(lambda: operator_of(definition), events, events[-1].time + 1000)
    matches = given(outputs)["k"].matches if outputs else []
    return [f"{' '.join(taken(match.steps, names))} @{match.ended}" for match in matches]


def batch(*events: tuple[int, Event], start: int = 0) -> Batch:
    times = [time for time, _ in events]
    return Batch(events=[event for _, event in events], times=times, positions=list(range(start, start + len(events))))


def test_p1_an_orphan_beginning_holds_back_no_match() -> None:
    steps = {"a": ["one", "a"], "b": ["one", "b", {"sees": [["one", "e.n != self.R.n", "a"]]}]}
    assert found(steps, "a1:1 a2:2 b1:1", within=None, skip="past_last") == ["a2 b1 @2"]


def test_p1_a_match_is_given_though_an_earlier_beginning_times_out_later() -> None:
    steps = {"a": ["one", "a"], "b": ["one", "b", {"sees": [["one", "e.n != self.R.n", "a"]]}]}
    assert found(steps, "a1:1 a2:2 b1:1 b2:1", within=10) == ["a2 b1 @2"]


def test_p2_a_loop_gives_one_match_for_each_beginning_and_not_one_for_each_prefix() -> None:
    text = "a " + " ".join(f"b{at}" for at in range(20)) + " c"
    steps = {"a": ["one", "a"], "b": ["several", "b"], "c": ["one", "c"]}
    (match,) = found(steps, text, skip="none")
    assert len(match.split()) == 23


def test_p3_greedy_at_the_head_begins_anew_only_where_that_is_wanted() -> None:
    steps = {"b": ["several", "b"], "c": ["one", "c"]}
    assert found(steps, "b1 b2 c") == ["b1 b2 c @2", "b2 c @2"]
    assert found(steps, "b1 b2 c", skip="past_last") == ["b1 b2 c @2"]


def test_p3_greedy_with_an_optional_step_behind_it() -> None:
    steps = {"a": ["several", "a"], "b": ["optional", "b"], "c": ["one", "c"]}
    assert found(steps, "a1 a2 c1", skip="past_last") == ["a1 a2 c1 @2"]
    assert found(steps, "a1 a2 b c1", skip="past_last") == ["a1 a2 b c1 @3"]


def test_p3_greedy_until() -> None:
    steps = {"a": ["several", "ax", {"until": "x"}], "c": ["one", "c"]}
    assert found(steps, "a1 a2 x a3 c", skip="past_last") == ["a1 a2 c @4"]


def test_p4_within_of_a_step_in_the_middle_counts() -> None:
    steps = {"a": ["one", "a"], "b": ["one", "b", {"within": 2}], "c": ["one", "c"]}
    assert found(steps, "a1@0 b1@2 c1@3 a2@10 b2@11 c2@20") == ["a2 b2 c2 @20"]


def test_p4_each_within_counts_and_not_the_shortest_for_all() -> None:
    steps = {"a": ["one", "a"], "b": ["one", "b", {"within": 3}], "c": ["one", "c", {"within": 20}]}
    assert found(steps, "a@0 b@2 c@15", within=None) == ["a b c @15"]


class Between(Pattern):
    first = one(A)
    then = one(B, within=span(5))


class Unfollowed(Pattern):
    first = one(A)
    nothing = absent(B, within=span(5))


@pytest.mark.parametrize("timed", [Between, Unfollowed])
def test_p5_a_time_between_steps_wakes_by_itself(timed: type[Pattern]) -> None:
    operator = operator_of(timed.__ensue_pattern__, timeouts=True)
    assert operator.take(batch((0, A()))) == []
    assert operator.due() == 5
    (output,) = operator.advance(5)
    assert isinstance(output, Expired | Found)


def test_p6_an_absence_with_an_optional_tail_waits() -> None:
    steps = {"a": ["one", "a"], "n": ["absent", "b"], "c": ["several", "c", {"times": [0, 2]}]}
    assert found(steps, "a@1 b@2", within=3) == []
    assert found(steps, "a@1", within=3) == ["a @4"]


def test_p6_an_absence_at_the_edge_of_a_group_is_refused_and_not_ignored() -> None:
    class Edge(Pattern, within=span(9)):
        first = one(A)
        nothing = absent(B)

    with pytest.raises(DefinitionError, match=r"Whole\.rounds: an absence at the edge of a group"):
        type("Whole", (Pattern,), {"rounds": group(Edge)}, within=span(9))


def test_p6_an_absence_may_read_an_earlier_step() -> None:
    reads = ["absent", "any", {"sees": [["one", "e.n > self.R.n", "a"]]}]
    steps = {"a": ["one", "a"], "n": reads, "b": ["one", "b"]}
    assert found(steps, "a:1 x:1 b") == ["a b @2"]
    assert found(steps, "a:1 x:2 b") == []


def test_p7_what_waits_is_gone_at_its_deadline_without_another_event() -> None:
    operator = operator_of(Between.__ensue_pattern__)
    operator.take(batch((0, A())))
    (key,) = operator.changed()
    assert operator.state(key) is not None
    operator.advance(5)
    assert operator.state(key) is None
    assert operator.due() is None


def test_p8_keys_that_live_shortly_leave_nothing_behind() -> None:
    def grown(definition: Definition) -> int:
        operator = operator_of(definition)
        for at in range(200):
            operator.take(batch((at * 10, A(k=f"k{at}")), start=at))
            list(operator.changed())
        tracemalloc.start()
        for at in range(200, 1200):
            operator.take(batch((at * 10, A(k=f"k{at}")), start=at))
            list(operator.changed())
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return grown

    assert grown(Between.__ensue_pattern__) < 50_000
    assert grown(Unfollowed.__ensue_pattern__) < 50_000


class Many(Pattern, within=span(1_000_000)):
    first = one(A)
    more = several(B)
    last = one(C)


def test_p8_a_long_chain_is_released_without_recursion() -> None:
    for operator in (Engine(Many.__ensue_pattern__), operator_of(Many.__ensue_pattern__)):
        events: list[tuple[int, Event]] = [(0, A()), *((at, B()) for at in range(1, 30_000)), (30_000, C())]
        (output,) = operator.take(batch(*events))
        assert isinstance(output, Found)
        more = output.steps["more"]
        assert isinstance(more, tuple)
        assert len(more) == 29_999
        del output, more


def test_p8_events_that_are_equal_are_different_events() -> None:
    class Twice(Pattern, within=span(9)):
        both = several(A, times=2)

    operator = operator_of(Twice.__ensue_pattern__)
    (output,) = operator.take(batch((0, A()), (0, A())))
    assert isinstance(output, Found)
    both = output.steps["both"]
    assert isinstance(both, tuple)
    assert [one.position for one in both] == [0, 1]


def test_p9_nothing_waits_for_an_event_when_only_time_passes() -> None:
    operator = operator_of(Unfollowed.__ensue_pattern__)
    operator.take(batch((0, A(k="one")), (1, A(k="other"))))
    outputs = operator.advance(10)
    assert [(output.key, output.ended) for output in outputs if isinstance(output, Found)] == [
        ("one", 5),
        ("other", 6),
    ]


def test_p10_an_optional_step_may_be_the_first_of_a_group() -> None:
    steps = {"g": ["group", {"a": ["optional", "a"], "b": ["one", "b"]}, {"times": 2}], "c": ["one", "c"]}
    assert found(steps, "b1 a b2 c", skip="past_last") == ["b1 a b2 c @3"]
    assert found(steps, "a1 b1 b2 c", skip="past_last") == ["a1 b1 b2 c @3"]


def test_p10_time_may_pass_before_there_is_any_event() -> None:
    for operator in (Engine(Unfollowed.__ensue_pattern__), operator_of(Unfollowed.__ensue_pattern__)):
        assert operator.advance(1_000) == []
        assert operator.due() is None


def test_p12_a_pattern_over_several_types_takes_the_first_of_each() -> None:
    class Types(Pattern, within=span(9)):
        first = one(A)
        second = optional(B)
        third = one(C)

    operator = operator_of(Types.__ensue_pattern__)
    outputs = operator.take(batch((0, A()), (1, B()), (2, C()), (3, A()), (4, C())))
    assert len([output for output in outputs if isinstance(output, Found)]) == 2


def test_p12_within_counts_for_groups_as_well() -> None:
    steps = {"g": ["group", {"a": ["one", "a"], "b": ["one", "b"]}, {"times": 2}]}
    assert found(steps, "a1@0 b1@1 a2@2 b2@10", within=10) == []
    assert found(steps, "a1@0 b1@1 a2@2 b2@9", within=10) == ["a1 b1 a2 b2 @9"]


def test_p13_at_equal_times_the_position_decides_however_the_events_come() -> None:
    events = [(5, A()), (5, B()), (5, A()), (5, B())]

    def outputs(operator: Operator, *cuts: int) -> list[Output]:
        given: list[Output] = []
        for start, end in pairwise((0, *cuts, len(events))):
            given += operator.take(batch(*events[start:end], start=start))
        return given

    wanted = outputs(operator_of(Between.__ensue_pattern__))
    assert len(wanted) == 2
    for cuts in ((1,), (2,), (3,), (1, 2, 3)):
        assert outputs(operator_of(Between.__ensue_pattern__), *cuts) == wanted
        assert outputs(Engine(Between.__ensue_pattern__), *cuts) == wanted
