"""What is read of a function is what it computes, or nothing is read.

Random functions are compared with what was read of them on events with all small values: the truth, or the kind of error.
"""

from __future__ import annotations

import datetime as datetime_module
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from itertools import product
from random import Random
from types import CodeType, FunctionType
from typing import Any, ClassVar

import pytest

from ensue import Event, minutes
from ensue.errors import DefinitionError
from ensue.patterns import count, distinct, largest, smallest, total
from ensue.patterns import expressions as x
from ensue.patterns.expressions import Bound, Constant, Expression, describe, reads
from ensue.patterns.tracing import StepSeen, trace


class Paid(Event, key="card"):
    card: str = "c"
    n: int = 0
    m: int = 0
    ok: bool = False
    note: str | None = None
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Refunded(Paid):
    CARDS: ClassVar = ["a", "b"]
    MOST: ClassVar = 5

    by: int = 0


class Color(Enum):
    RED = 1
    BLUE = 2


class Painted(Event, key="card"):
    card: str
    color: Color = Color.RED


OPERATORS: Mapping[str, Callable[..., Any]] = {
    **{"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    **{"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv},
    **{"%": operator.mod, "**": operator.pow, "neg": operator.neg, "abs": abs, "min": min, "max": max},
}


def evaluate(expression: Expression, event: Any, match: Any = None) -> Any:
    """What an expression says, in the plainest way."""
    match expression:
        case x.Candidate():
            return event
        case Bound(step, index):
            taken = getattr(match, step)
            return taken if index is None else taken[index]
        case x.Field(of, name):
            return getattr(evaluate(of, event, match), name)
        case Constant(value):
            return value
        case x.Operation(word, operands):
            return OPERATORS[word](*[evaluate(one, event, match) for one in operands])
        case x.Not(of):
            return not evaluate(of, event, match)
        case x.All(of):
            return all(evaluate(one, event, match) for one in of)
        case x.Any(of):
            return any(evaluate(one, event, match) for one in of)
        case x.When(condition, yes, no):
            return evaluate(yes if evaluate(condition, event, match) else no, event, match)
        case x.IsA(of, kind):
            return isinstance(evaluate(of, event, match), kind)
        case x.Present(step):
            return bool(getattr(match, step))
        case x.Aggregated(kind, step, value):
            values = [None if value is None else evaluate(value, one, match) for one in getattr(match, step)]
            many: dict[str, Callable[[Any], Any]] = {
                "count": len,
                "total": sum,
                "smallest": min,
                "largest": max,
                "distinct": lambda each: len(set(each)),
            }
            return many[kind](values)


def outcome(compute: Callable[..., Any], *arguments: Any) -> object:
    try:
        return bool(compute(*arguments))
    except Exception as error:
        return type(error)


EVENTS = [
    Paid(n=n, m=m, ok=ok, note=note) for n, m, ok, note in product((-1, 0, 2), (0, 1), (True, False), (None, "a"))
]


# ---------------------------------------------------------------------------------------------- random functions


class Writing:
    """Writes random conditions about `p`."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def number(self, depth: int) -> str:
        if depth <= 0 or self.chance.random() < 0.4:
            return self.chance.choice(("p.n", "p.m", "0", "1", "2", "p.n", "p.ok"))
        one, other = self.number(depth - 1), self.number(depth - 1)
        return self.chance.choice(
            (
                f"({one} {self.chance.choice('+-*/%')} {other})",
                f"({one} // {other})",
                f"-{one}",
                f"abs({one})",
                f"min({one}, {other})",
                f"max({one}, {other}, 1)",
                f"({one} if {self.truth(depth - 1)} else {other})",
                f"({one} or {other})",
            )
        )

    def truth(self, depth: int) -> str:
        if depth <= 0:
            return self.chance.choice(("p.ok", "p.n > 0", "p.m", "p.note == 'a'", "1 < p.n"))
        one, other = self.truth(depth - 1), self.truth(depth - 1)
        left, right = self.number(depth - 1), self.number(depth - 1)
        return self.chance.choice(
            (
                f"({one} and {other})",
                f"({one} or {other})",
                f"not {one}",
                f"({one} if {other} else {self.truth(depth - 1)})",
                f"{left} {self.chance.choice(('<', '<=', '==', '!=', '>', '>='))} {right}",
                f"({left} < {right} <= {self.number(0)})",
                f"{left} in (0, {right}, 2)",
                f"{left} not in {{0, 1, 2}}",
                f"any(({one}, {other}))",
                f"all(({one}, {other}))",
                f"bool({one})",
                f"(value := {left}) > 0 and value < {right}",
                f"({left}, {right}) < ({right}, 1)",
                f"p.note < 'b' or {one}",
                f"(lambda: {one})()",
            )
        )


def made(source: str) -> Callable[[Any], Any]:
    code = next(one for one in compile(f"lambda p: {source}", "drawn", "eval").co_consts if isinstance(one, CodeType))
    return FunctionType(code, {})


def test_what_is_read_of_random_functions_is_what_they_compute() -> None:
    read = 0
    for seed in range(1500):
        source = Writing(Random(seed)).truth(3)
        function = made(source)
        expression = trace(function, (Paid,), what="drawn")
        if expression is None:
            continue
        read += 1
        for event in EVENTS:
            wanted = outcome(function, event)
            found = outcome(lambda event, said=expression: evaluate(said, event), event)
            assert found == wanted, f"seed {seed}: {source}\nread as {describe(expression)}\nof {event}"
    assert read > 700


# ------------------------------------------------------------------------------------------------- named functions


LIMITS = [1, 2]
LIMIT = 1


class Settings:
    limit = 1


SETTINGS = Settings()


def helper(p: Any) -> bool:
    return p.note is None


def says_nothing(p: Any) -> bool:
    try:
        return bool(str(p.n) > "1")
    except Exception:
        return False


def matches(p: Any) -> bool:
    match p:
        case Paid(n=2):
            return True
        case _:
            return False


calls: list[object] = []
seen = 0


def counts(p: Any) -> bool:
    global seen
    seen += 1
    return bool(p.n > seen)


async def later(p: Any) -> bool:
    return bool(p.n > 1)


def yields(p: Any) -> Any:
    yield p.n > 1


def divides_first(p: Any) -> bool:
    share = 1 / p.n
    return bool(p.ok and share > 0)


def throws_away(p: Any) -> bool:
    _ = 1 / p.n
    return bool(p.ok)


def endless(p: Any) -> bool:
    while p.n > 1:
        pass
    return True


len_of_nothing: Callable[[Any], bool] = lambda p: len(p.note or "") > 1  # noqa: E731

OPAQUE: dict[str, Callable[[Any], Any]] = {
    "is": lambda p: p.note is None,
    "is not": lambda p: p.note is not None and p.n > 1,
    "match": matches,
    "a call of a function": lambda p: helper(p),
    "a method of a value": lambda p: p.card.startswith("c"),
    "a list that may change": lambda p: p.n in LIMITS,
    "an object that may change": lambda p: p.n > SETTINGS.limit,
    "try": says_nothing,
    "a counter": counts,
    "a generator": yields,
    "a coroutine": later,
    "text": lambda p: f"{p.n}" == "1",
    "text by percent": lambda p: "%s" % p.n == "1",  # noqa: UP031
    "hash": lambda p: {p.n: 1} == {1: 1},
    "the type": lambda p: type(p) == Paid,  # noqa: E721
    "the class": lambda p: p.__class__ == Paid,
    "the name of the class": lambda p: p.__class__.__name__ == "Paid",
    "iteration": lambda p: any(one == "a" for one in p.note or ()),
    "length": len_of_nothing,
    "a default that may change": lambda p, limits=LIMITS: p.n in limits,  # type: ignore[misc]
    "a whole event": lambda p: p == Paid(n=1),
    "an attribute that may be missing": lambda p: getattr(p, "nothing", None) == 1,
    "isinstance of a value": lambda p: isinstance(p.note, str),
    "what is computed and not asked": divides_first,
    "what is computed and thrown away": throws_away,
    "id": lambda p: id(p) > 0,
    "hasattr": lambda p: hasattr(p, "n"),
    "without an end": endless,
    "the clock": lambda p: p.at > datetime.now(UTC),
    "the clock of a module": lambda p: p.at > datetime_module.datetime.now(UTC),
    "a list of a class": lambda p: p.card in Refunded.CARDS,
    "something else that is called as one of Python's own": lambda p: sorted([p.n, p.m]) == [1, 2],
}


@pytest.mark.parametrize("what", OPAQUE)
def test_what_cannot_be_followed_is_opaque(what: str) -> None:
    assert trace(OPAQUE[what], (Paid,), what="x") is None


READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a field of truth": (lambda p: p.ok, "it.ok"),
    "a number in a range": (lambda p: 0 < p.n <= 5, "it.n > 0 and it.n <= 5"),
    "one of several": (lambda p: p.card in ("a", "b"), "it.card == 'a' or it.card == 'b'"),
    "one of a set, in one order": (lambda p: p.card in {"b", "a"}, "it.card == 'a' or it.card == 'b'"),
    "not": (lambda p: not p.ok, "not it.ok"),
    "a choice": (lambda p: p.n > 1 if p.ok else p.m > 1, "(it.n > 1) if it.ok else (it.m > 1)"),
    "a global that cannot change": (lambda p: p.n > LIMIT, "it.n > 1"),
    "a member of an enum": (lambda p: p.n == Color.RED, "it.n == <Color.RED: 1>"),
    "a type": (lambda p: isinstance(p, Refunded), "it is a Refunded"),
    "a duration": (lambda p: p.n > minutes(1), "it.n > datetime.timedelta(seconds=60)"),
    "a number of a class": (lambda p: p.n < Refunded.MOST, "it.n < 5"),
    "a duration of a module": (lambda p: p.n > datetime_module.timedelta(1), "it.n > datetime.timedelta(days=1)"),
    "a decimal": (lambda p: p.n > Decimal(2), "it.n > Decimal('2')"),
}


@pytest.mark.parametrize("what", READ)
def test_what_can_be_followed_is_read(what: str) -> None:
    function, text = READ[what]
    expression = trace(function, (Paid,), what="x")
    assert expression is not None
    assert describe(expression) == text


def test_a_function_named_as_one_of_python_is_the_users_own() -> None:
    def min(one: Any, other: Any) -> Any:
        return 5

    assert trace(lambda p: min(p.n, 1) > p.m, (Paid,), what="x") is None


def test_a_field_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(
        DefinitionError, match=r"P\.probe: Paid has no field 'amont'; its fields are: card, n, m, ok, note, at"
    ):
        trace(lambda p: p.amont > 1, (Paid,), what="P.probe")
    with pytest.raises(DefinitionError, match="no field 'amont'"):
        trace(lambda p: p.ok and p.amont > 1, (Paid,), what="P.probe")


def test_a_field_of_a_subclass_may_be_read_behind_its_question() -> None:
    function: Callable[[Any], bool] = lambda p: isinstance(p, Refunded) and p.by > 1  # noqa: E731
    expression = trace(function, (Paid,), what="x")
    assert expression is None or all(
        bool(evaluate(expression, event)) is function(event) for event in (*EVENTS, Refunded(by=1), Refunded(by=2))
    )


def test_a_subclass_is_asked_for_when_the_event_is_there() -> None:
    expression = trace(lambda p: isinstance(p, Refunded | Painted), (Paid,), what="x")
    assert expression is not None
    assert [evaluate(expression, event) for event in (Paid(), Refunded())] == [False, True]
    assert trace(lambda p: isinstance(p, Painted), (Paid,), what="x") == Constant(False)
    assert trace(lambda p: isinstance(p, Paid), (Refunded,), what="x") == Constant(True)


# --------------------------------------------------------------------------------------- conditions on the match so far


class Match:
    first: Any
    rounds: Any
    key: str

    def __init__(self, first: Paid | None, many: tuple[Paid, ...]) -> None:
        self.first, self.many = first, many


STEPS = [StepSeen("first", (Paid,)), StepSeen("many", (Paid,), several=True), StepSeen("rounds", ())]


def read(function: Callable[[Match, Any], Any]) -> Expression | None:
    return trace(function, (Paid,), steps=STEPS, all_steps=("first", "many", "rounds", "later"), what="P.many")


def test_conditions_on_what_was_taken_are_read_with_what_they_read() -> None:
    expression = read(lambda self, p: p.n > self.first.n and total(self.many, lambda e: e.n) < 5)
    assert expression is not None
    assert describe(expression, "p") == "p.n > first.n and total(many, each.n) < 5"
    assert reads(expression) == {"first", "many"}


MATCHES: dict[str, Callable[[Match, Any], Any]] = {
    "the one before": lambda self, p: not self.many or p.n >= self.many[-1].n,
    "how many": lambda self, p: count(self.many) < 2 and len(self.many) >= p.m,
    "the sum": lambda self, p: total(self.many, lambda e: e.n if e.ok else 0) + p.n < 3,
    "the extremes": lambda self, p: smallest(self.many, lambda e: e.n) <= p.n <= largest(self.many, lambda e: e.n),
    "different ones": lambda self, p: len(distinct(self.many, lambda e: e.m)) == 1,
    "whether there is one": lambda self, p: self.first and p.n > self.first.n,
    "an index that is not there": lambda self, p: self.many[1].n > p.n,
}


@pytest.mark.parametrize("what", MATCHES)
def test_what_is_read_of_a_condition_on_the_match_is_what_it_computes(what: str) -> None:
    expression = read(MATCHES[what])
    assert expression is not None
    for first in (None, EVENTS[3], EVENTS[20]):
        for many in ((), tuple(EVENTS[:1]), tuple(EVENTS[5:9]), tuple(EVENTS[10:20:3])):
            for event in EVENTS[::3]:
                match = Match(first, many)
                wanted = outcome(MATCHES[what], match, event)
                assert outcome(lambda event, match=match: evaluate(expression, event, match), event) == wanted


UNCLEAR: dict[str, Callable[[Match, Any], Any]] = {
    "a value with the event at hand in it": lambda self, p: total(self.many, lambda e: e.n * p.n) > 1,
    "a value with another step in it": lambda self, p: total(self.many, lambda e: e.n * self.first.n) > 1,
    "a group": lambda self, p: self.rounds[0].wrong.n > p.n,
    "a part of a step": lambda self, p: len(self.many[1:]) > 1,
    "a loop over a step": lambda self, p: sum(e.n for e in self.many) > 1,
    "the truth of one of several": lambda self, p: bool(self.many[1]),
    "the key of the match": lambda self, p: self.key == p.card,
    "what it took as a value": lambda self, p: self.first == p,
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_what_cannot_be_followed_in_the_match_is_opaque(what: str) -> None:
    assert read(UNCLEAR[what]) is None


def test_a_step_that_comes_later_is_an_error() -> None:
    with pytest.raises(DefinitionError, match=r"P\.many: it reads 'later', which comes later"):
        read(lambda self, p: getattr(self, "later").n > 1)  # noqa: B009
