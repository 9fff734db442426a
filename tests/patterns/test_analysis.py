"""What is said of a pattern before any event comes is so."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import new_class
from typing import Any

import pytest

from ensue import Event, minutes
from ensue.errors import DefinitionError
from ensue.patterns import Pattern, absent, either, group, one, optional, several
from ensue.patterns.analysis import bounds, contradictory, disjoint, excludes, takes_exclude
from ensue.patterns.definition import Take
from ensue.patterns.tracing import trace
from tests.patterns.shapes import A, B, C, Sub
from tests.patterns.test_tracing import EVENTS, Paid, Writing, evaluate, made, outcome

Told = Callable[[Any], Any]


def read(function: Told) -> Any:
    expression = trace(function, (Paid,), what="x")
    assert expression is not None
    return expression


EXCLUDING: list[tuple[Told, Told, bool]] = [
    (lambda p: p.n < 2, lambda p: p.n > 200, True),
    (lambda p: p.n < 2, lambda p: p.n >= 2, True),
    (lambda p: p.n <= 2, lambda p: p.n >= 2, False),
    (lambda p: p.n < 2.5, lambda p: p.n == 3, True),
    (lambda p: p.n == 1, lambda p: p.n != 1, True),
    (lambda p: p.ok, lambda p: not p.ok, True),
    (lambda p: p.ok == False, lambda p: p.ok, True),  # noqa: E712
    (lambda p: p.card in ("a", "b"), lambda p: p.card == "c", True),
    (lambda p: p.card in ("a", "b"), lambda p: p.card in ("b", "c"), False),
    (lambda p: p.card not in ("a", "b"), lambda p: p.card == "b", True),
    (lambda p: 1 < p.n < 5, lambda p: p.n == 5 or p.n == 1, True),
    (lambda p: p.ok and p.n > 3, lambda p: p.n < 2 or not p.ok, True),
    (lambda p: p.n < p.m, lambda p: p.m < p.n, True),
    (lambda p: p.n <= p.m, lambda p: p.m <= p.n, False),
    (lambda p: p.n > 1 if p.ok else p.m > 1, lambda p: not p.ok and p.m < 1, True),
    (lambda p: not p.n < 1, lambda p: p.n < 0, True),
    (lambda p: not p.n < 1, lambda p: not p.n >= 1, False),  # neither is true of what is not a number
    (lambda p: p.n < 1, lambda p: p.card == "a", False),
]


@pytest.mark.parametrize("at", range(len(EXCLUDING)))
def test_conditions_are_known_to_exclude_each_other_or_not(at: int) -> None:
    one_, other, wanted = EXCLUDING[at]
    assert excludes(read(one_), read(other)) is wanted
    assert excludes(read(other), read(one_)) is wanted


def test_no_event_makes_both_of_two_conditions_true_that_exclude_each_other() -> None:
    excluding = alone = 0
    for seed in range(1200):
        writing = Writing(Random(seed))
        sources = writing.truth(2), writing.truth(1)
        functions = [made(source) for source in sources]
        expressions = [trace(function, (Paid,), what="drawn") for function in functions]
        said = [expression for expression in expressions if expression is not None]
        if len(said) < 2:
            continue
        both = excludes(*said)
        excluding += both
        alone += contradictory(said[:1])
        for event in EVENTS if both or contradictory(said[:1]) else ():
            true = [outcome(lambda event, of=of: evaluate(of, event), event) is True for of in said]
            assert not (both and all(true)), f"seed {seed}: {sources} of {event}"
            assert not (contradictory(said[:1]) and true[0]), f"seed {seed}: {sources[0]} of {event}"
    assert excluding > 40
    assert alone > 8


class Bare(Event):
    """Without fields: a class may be this and something else."""


def test_types_are_disjoint_where_no_class_can_be_both() -> None:
    assert disjoint(A, B)
    assert not disjoint(C, Sub)
    assert not disjoint(Sub, C)
    assert not disjoint(A, Bare)
    assert takes_exclude(Take((A,)), Take((B,)))
    assert not takes_exclude(Take((C,)), Take((Sub,)))


# ----------------------------------------------------------------------------------------------- what cannot match


def pattern(**steps: Any) -> Any:
    return new_class("P", (Pattern,), {"within": minutes(1)}, lambda namespace: namespace.update(steps))


def test_conditions_that_contradict_each_other_are_an_error_that_names_the_step() -> None:
    with pytest.raises(DefinitionError, match=r"P\.probe: no event can be taken, .*it\.n < 1 and it\.n > 2"):
        pattern(probe=one(A, lambda e: e.n < 1 and e.n > 2))


def test_conditions_of_a_step_are_held_against_each_other() -> None:
    more = several(A, lambda e: e.n < 1)
    more.where(lambda self, e: e.n > 3)
    with pytest.raises(DefinitionError, match=r"P\.more: no event can be taken"):
        pattern(first=one(A), more=more)


def test_a_whole_that_cannot_be_is_an_error() -> None:
    whole: Any = lambda self: self.first.n < self.second.n < self.first.n  # noqa: E731
    with pytest.raises(DefinitionError, match=r"P\.where: this cannot be true"):
        pattern(first=one(A), second=one(B), where=whole)


def test_the_very_next_event_cannot_be_what_must_not_be_next() -> None:
    then = one(B, lambda e: e.n > 1, contiguity="strict")
    with pytest.raises(DefinitionError, match=r"P\.then: it must be the very next event, which nothing forbids"):
        pattern(first=one(A), nothing=absent(B, contiguity="strict"), then=then)


def test_what_only_seems_to_contradict_itself_is_accepted() -> None:
    class Fine(Pattern, within=minutes(1)):
        first = one(A, lambda e: e.n < 1 or e.n > 2)
        nothing = absent(B, lambda e: e.n > 5, contiguity="strict")
        then = one(B, contiguity="strict")
        more = several(A, lambda e: e.n > 1 and e.s != "x", times=2)

    assert Fine.__ensue_pattern__.name == "Fine"


# -------------------------------------------------------------------------------------------------------- bounds


class Chain(Pattern, within=minutes(10)):
    first = one(A, lambda e: e.n < 1)
    more = several(A, lambda e: e.n > 1, times=(2, 4))
    perhaps = optional(B)
    last = one(C)


class Open(Pattern, within=minutes(10), runs=50):
    first = one(A)
    more = several(A, greedy=False)
    any_of = one(B, contiguity="any")


class Round(Pattern, within=minutes(1)):
    wrong = several(A, times=2)
    right = either(one(B), several(C, times=3))


class Rounds(Pattern, within=minutes(10)):
    rounds = group(Round, times=(1, 3))


def test_bounds_say_how_much_a_pattern_takes_and_keeps() -> None:
    chain = bounds(Chain.__ensue_pattern__)
    assert (chain.horizon, chain.taken, chain.forks, chain.runs) == (600_000_000, 7, (), 10_000)
    assert chain.state_bytes is not None
    assert chain.state_bytes > 1_000_000
    opened = bounds(Open.__ensue_pattern__)
    assert (opened.taken, opened.forks, opened.runs, opened.state_bytes) == (None, ("more", "any_of"), 50, None)
    assert bounds(Rounds.__ensue_pattern__).taken == 15
