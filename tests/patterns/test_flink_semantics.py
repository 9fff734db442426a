"""`semantics="flink"` finds what Flink CEP finds: the examples of its documentation and tests, as small streams."""

from __future__ import annotations

import types
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest

from ensue.errors import ConditionFailed, DefinitionError
from ensue.patterns import Pattern, absent, all_of, either, group, one, optional, several, to_first, to_last
from ensue.patterns.definition import Contiguity
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Expired, Found, Output
from ensue.patterns.operators import operator_of
from ensue.patterns.searching.flink_semantics import FlinkEngine
from tests.patterns.letters import Letter, fed, is_, shown


def within(seconds: int) -> timedelta:
    """Of streams whose times are small numbers."""
    return timedelta(microseconds=seconds)


LONG = within(1000)


def outputs(pattern: type[Pattern], stream: str, over: int = 10_000) -> list[Output]:
    operator = operator_of(pattern.__ensue_pattern__, timeouts=True)
    return [*operator.take(fed(stream)), *operator.advance(over)]


def found(pattern: type[Pattern], stream: str) -> list[str]:
    """The matches, in the order in which they are given."""
    definition = pattern.__ensue_pattern__
    return [shown(match_of(definition, one)) for one in outputs(pattern, stream) if isinstance(one, Found)]


def over(pattern: type[Pattern], stream: str) -> list[tuple[int, int]]:
    """Of each timeout, how many events were taken, and the deadline."""
    return [
        (sum(took is not None for took in one.steps.values()), one.deadline)
        for one in outputs(pattern, stream)
        if isinstance(one, Expired)
    ]


def test_a_loop_offers_each_of_its_prefixes() -> None:
    class Loop(Pattern, within=LONG, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = several(Letter, is_("b"), greedy=False)
        c = one(Letter, is_("c"))

    assert sorted(found(Loop, "a1 b1 b2 c1")) == ["a1 (b1 b2) c1", "a1 (b1) c1"]


@pytest.mark.parametrize(
    ("contiguity", "wanted"),
    [("strict", []), ("relaxed", ["a b1"]), ("any", ["a b1", "a b2"])],
)
def test_how_an_event_follows(contiguity: Contiguity, wanted: list[str]) -> None:
    class Pair(Pattern, within=LONG, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = one(Letter, is_("b"), contiguity=contiguity)

    assert found(Pair, "a c b1 b2") == wanted


@pytest.mark.parametrize(("inner", "many"), [("strict", 3), ("relaxed", 6), ("any", 7)])
def test_how_the_events_of_a_loop_follow(inner: Contiguity, many: int) -> None:
    class Loop(Pattern, within=LONG, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = several(Letter, is_("b"), contiguity="any", inner=inner, greedy=False)
        c = one(Letter, is_("c"))

    matches = found(Loop, "a b1 d1 b2 d2 b3 c")
    assert len(matches) == len(set(matches)) == many
    assert ("a (b1 b3) c" in matches) is (inner == "any")


def test_greedy_has_no_effect_at_the_end() -> None:
    class Trailing(Pattern, within=LONG, skip="none", semantics="flink"):
        c = one(Letter, is_("c"))
        a = several(Letter, is_("a"), times=(0, None))

    assert sorted(found(Trailing, "c a1 a2 x a3")) == ["c ()", "c (a1 a2 a3)", "c (a1 a2)", "c (a1)"]


def test_greedy_forbids_the_next_step_what_the_loop_could_take() -> None:
    class Greedy(Pattern, within=LONG, skip="none", semantics="flink"):
        a = several(Letter, lambda letter: letter.kind in "ab")
        b = one(Letter, is_("b"))

    class Reluctant(Pattern, within=LONG, skip="none", semantics="flink"):
        a = several(Letter, lambda letter: letter.kind in "ab", greedy=False)
        b = one(Letter, is_("b"))

    assert found(Greedy, "a1 a2 b1") == []
    assert "(a1 a2) b1" in found(Reluctant, "a1 a2 b1")


class Ordered(Pattern, within=within(10), skip="none", semantics="flink"):
    start = one(Letter, is_("s"))
    middle = one(Letter, is_("m"), contiguity="any")
    end = one(Letter, is_("e"), contiguity="any")


def test_within_is_exclusive_and_counts_from_the_first_event() -> None:
    assert found(Ordered, "s1@1 s2@2 m@3 x@4 e1@11 e2@13") == ["s2 m e1"]


def test_within_between_steps_counts_from_the_event_before() -> None:
    class Between(Pattern, unbounded=True, skip="none", semantics="flink"):
        start = one(Letter, is_("s"))
        middle = one(Letter, is_("m"), within=within(9))
        end = one(Letter, is_("e"), within=within(9))

    assert sorted(found(Between, "s1@1 s2@2 m@3 x@4 e1@11 e2@13")) == ["s1 m e1", "s2 m e1"]


def test_each_run_times_out_for_itself() -> None:
    assert sorted(over(Ordered, "s1@1 s2@2 m@3 x@4 e1@11 e2@13")) == [(1, 11), (1, 12), (2, 11), (2, 12)]


def test_an_absence_at_the_end_is_found_when_its_time_is_over() -> None:
    class Unanswered(Pattern, within=within(3), semantics="flink"):
        a = one(Letter, is_("a"))
        b = absent(Letter, is_("b"))

    stream = "a1@1 b@2 a4@4 c@5 b@10 a11@11 b@13"
    assert found(Unanswered, stream) == ["a4 -"]
    assert [one.ended for one in outputs(Unanswered, stream) if isinstance(one, Found)] == [7]


def test_an_absence_with_only_optional_steps_behind_it_is_not_waited_for() -> None:
    class Early(Pattern, within=within(3), semantics="flink"):
        a = one(Letter, is_("a"))
        b = absent(Letter, is_("b"))
        c = several(Letter, is_("c"), times=(0, 2))

    assert found(Early, "a@1 b@2") == ["a - ()"]


def test_an_absence_between_steps_stops_the_run() -> None:
    class Between(Pattern, within=LONG, semantics="flink"):
        a = one(Letter, is_("a"))
        n = absent(Letter, is_("n"))
        c = one(Letter, is_("c"))

    class Next(Pattern, within=LONG, semantics="flink"):
        a = one(Letter, is_("a"))
        n = absent(Letter, is_("n"), contiguity="strict")
        c = one(Letter, is_("c"))

    assert found(Between, "a1 n c a2 x c") == ["a2 - c"]
    assert found(Next, "a1 n c a2 x n c") == ["a2 - c"]


@pytest.mark.parametrize(
    ("skip", "wanted"),
    [
        ("none", ["(b1 b2 b3) c", "(b2 b3) c", "(b3) c"]),
        ("next", ["(b1 b2 b3) c", "(b2 b3) c", "(b3) c"]),
        (to_first("b"), ["(b1 b2 b3) c", "(b2 b3) c", "(b3) c"]),
        ("past_last", ["(b1 b2 b3) c"]),
        (to_last("b"), ["(b1 b2 b3) c", "(b3) c"]),
    ],
)
def test_what_a_match_rules_out(skip: Any, wanted: list[str]) -> None:
    class Skipping(Pattern, within=LONG, skip=skip, semantics="flink"):
        b = several(Letter, is_("b"), greedy=False)
        c = one(Letter, is_("c"), contiguity="strict")

    assert sorted(found(Skipping, "b1 b2 b3 c")) == wanted


@pytest.mark.parametrize(("skip", "many"), [("none", 3), ("next", 1)])
def test_a_match_rules_out_others_with_the_same_beginning(skip: Literal["none", "next"], many: int) -> None:
    class Prefixes(Pattern, within=LONG, skip=skip, semantics="flink"):
        a = one(Letter, is_("a"))
        b = several(Letter, is_("b"), greedy=False)

    assert found(Prefixes, "a b1 b2 b3") == ["a (b1)", "a (b1 b2)", "a (b1 b2 b3)"][:many]


def test_a_match_waits_while_an_earlier_beginning_is_alive() -> None:
    class Same(Pattern, within=within(100), skip=to_first("c"), semantics="flink"):
        a = one(Letter, is_("a"))
        c = one(Letter, is_("c"))
        b = one(Letter, is_("b"))

        @c.where
        def own(self, letter: Letter) -> bool:
            return letter.value == self.a.value

        @b.where
        def closes(self, letter: Letter) -> bool:
            return letter.value == self.a.value

    assert found(Same, "a1 c1 a2 c2 b2 b1") == ["a1 c1 b1", "a2 c2 b2"]
    # an orphan holds it back until its own time is over
    ended = [one.ended for one in outputs(Same, "a1@0 a2@1 c2@2 b2@3") if isinstance(one, Found)]
    assert ended == [100]


class Round(Pattern, unbounded=True):
    a = one(Letter, is_("a"))
    b = one(Letter, is_("b"))


def test_a_group_repeats() -> None:
    class Rounds(Pattern, within=LONG, skip="none", semantics="flink"):
        s = one(Letter, is_("s"))
        rounds = group(Round, times=2)
        e = one(Letter, is_("e"))

    class Any(Pattern, within=LONG, skip="none", semantics="flink"):
        s = one(Letter, is_("s"))
        rounds = group(Round, times=(1, None))
        e = one(Letter, is_("e"))

    stream = "s a1 x b1 a2 b2 e"
    assert found(Rounds, stream) == ["s ([a1 b1] [a2 b2]) e"]
    assert sorted(found(Any, stream)) == ["s ([a1 b1] [a2 b2]) e", "s ([a1 b1]) e"]


def test_until_ends_a_loop() -> None:
    class Until(Pattern, within=LONG, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = several(Letter, is_("b"), greedy=False, until=lambda letter: letter.value == 9)
        c = one(Letter, is_("c"))

    assert sorted(found(Until, "a b1 b9 b2 c")) == ["a (b1) c"]


def test_an_optional_step_is_taken_and_left_out() -> None:
    class Maybe(Pattern, within=LONG, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = optional(Letter, is_("b"))
        c = one(Letter, is_("c"))

    assert sorted(found(Maybe, "a b c")) == ["a - c", "a b c"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"a": either(one(Letter), one(Letter))}, r"Asked\.a: Flink CEP has no alternation"),
        ({"a": all_of(one(Letter), one(Letter))}, r"Asked\.a: Flink CEP has no steps in any order"),
        ({"a": one(Letter), "where": lambda self: True}, r"Asked\.where: .* needs semantics='ensue'"),
        (
            {"a": one(Letter), "o": optional(Letter), "n": absent(Letter), "c": one(Letter)},
            r"Asked\.n: Flink CEP has no absence behind an optional step",
        ),
        (
            {"a": several(Letter), "o": optional(Letter)},
            r"Asked\.o: Flink CEP has no optional step behind a greedy one",
        ),
        ({"a": several(Letter, within=LONG)}, r"Asked\.a: Flink CEP counts within= .* in another way"),
    ],
)
def test_what_flink_does_not_have_is_refused_where_it_is_defined(steps: dict[str, Any], said: str) -> None:
    options = {"within": LONG, "semantics": "flink"}
    with pytest.raises(DefinitionError, match=said):
        types.new_class("Asked", (Pattern,), options, lambda namespace: namespace.update(steps))


def test_the_oldest_beginning_is_given_up_beyond_the_bound_and_counted() -> None:
    class Few(Pattern, within=LONG, runs=2, skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = one(Letter, is_("b"))

    operator = FlinkEngine(Few.__ensue_pattern__)
    matches = [one for one in operator.take(fed("a1 a2 a3 b")) if isinstance(one, Found)]
    assert [shown(match_of(Few.__ensue_pattern__, one)) for one in matches] == ["a2 b", "a3 b"]
    assert operator.given_up == 1


def test_its_state_is_kept_and_a_failed_condition_changes_nothing() -> None:
    class Failing(Pattern, within=within(20), skip="none", semantics="flink"):
        a = one(Letter, is_("a"))
        b = several(Letter, lambda letter: 6 // letter.value > 0, greedy=False, times=2)

    def make() -> FlinkEngine:
        return FlinkEngine(Failing.__ensue_pattern__)

    first = make()
    first.take(fed("a1 b1"))
    with pytest.raises(ConditionFailed, match=r"Failing\.b"):
        first.take(fed("c@3", start=3))
    assert set(first.changed()) == {"k"}
    second = make()
    second.restore("k", first.state("k"))
    assert second.due() == first.due() == 20
    (one_,) = second.take(fed("b2@4", start=4))
    assert isinstance(one_, Found)
    assert one_.id == next(iter(first.take(fed("b2@4", start=4)))).id
    assert not second.advance(30)
    assert second.state("k") is None


def test_it_is_chosen_by_the_pattern() -> None:
    build: Callable[..., Any] = operator_of
    assert isinstance(build(Ordered.__ensue_pattern__), FlinkEngine)
