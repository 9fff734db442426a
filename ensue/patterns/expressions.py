"""What a condition says, as data: one tree becomes Python source, columns of numpy, SQL, and words for people.

A tree is made from the user's own function by `ensue.patterns.tracing`. Nodes are frozen and compare by value, so that equal
predicates of many patterns are found to be one. Operands are evaluated in Python's order, and `All` and `Any` stop early as `and`
and `or` do: an expression computes what the function computes, and raises where it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any as AnyValue
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "Aggregated",
    "All",
    "Any",
    "Bound",
    "Candidate",
    "Constant",
    "Expression",
    "Field",
    "IsA",
    "Not",
    "Operation",
    "Operator",
    "Present",
    "When",
    "describe",
    "reads",
    "walk",
]

Operator: TypeAlias = Literal[
    "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%", "**", "neg", "abs", "min", "max"
]
Kind: TypeAlias = Literal["count", "total", "smallest", "largest", "distinct"]


class Candidate(msgspec.Struct, frozen=True):
    """The event at hand: that which may be taken; within the value of an aggregate, each of its events."""


class Bound(msgspec.Struct, frozen=True):
    """An event that an earlier step has taken. Of a step that takes several: the one at `index`, from 0, or from the end below 0."""

    step: str
    index: int | None = None


class Field(msgspec.Struct, frozen=True):
    """A field of an event, or of a struct in one."""

    of: Expression
    name: str


class Constant(msgspec.Struct, frozen=True):
    """A value that was there when the pattern was defined. Always hashable."""

    value: AnyValue

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and type(self.value) is type(other.value) and self.value == other.value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


class Operation(msgspec.Struct, frozen=True):
    """An operator over one operand (`neg`, `abs`), two, or more (`min`, `max`)."""

    operator: Operator
    operands: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True):
    """Python's `not`."""

    of: Expression


class All(msgspec.Struct, frozen=True):
    """Python's `and`, of truth values."""

    of: tuple[Expression, ...]


class Any(msgspec.Struct, frozen=True):
    """Python's `or`, of truth values."""

    of: tuple[Expression, ...]


class When(msgspec.Struct, frozen=True):
    """Python's `yes if condition else no`."""

    condition: Expression
    yes: Expression
    no: Expression


class IsA(msgspec.Struct, frozen=True):
    """Whether an event is of this type."""

    of: Expression
    type: type


class Present(msgspec.Struct, frozen=True):
    """Whether a step has taken an event so far."""

    step: str


class Aggregated(msgspec.Struct, frozen=True):
    """A value over all events that a step has taken so far; `value` is an expression over each as the `Candidate`.

    `count` has no value. `distinct` is the number of different values. `smallest` and `largest` of no event raise `ValueError`.
    """

    kind: Kind
    step: str
    value: Expression | None = None


Expression: TypeAlias = (
    Candidate | Bound | Field | Constant | Operation | Not | All | Any | When | IsA | Present | Aggregated
)


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and everything in it, outermost first."""
    yield expression
    for inner in _inner(expression):
        yield from walk(inner)


def reads(expression: Expression) -> frozenset[str]:
    """The steps whose events an expression looks at. None of them: a predicate on the candidate alone."""
    return frozenset(one.step for one in walk(expression) if isinstance(one, Bound | Present | Aggregated))


def _inner(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Field(of, _) | Not(of) | IsA(of, _):
            return (of,)
        case Operation(_, of) | All(of) | Any(of):
            return of
        case When(condition, yes, no):
            return (condition, yes, no)
        case Aggregated(_, _, value):
            return () if value is None else (value,)
        case _:
            return ()


def describe(expression: Expression, candidate: str = "it") -> str:
    """For people: `it.amount > 200 and it.country != probe.country`."""

    def inner(one: Expression) -> str:
        said = describe(one, candidate)
        return f"({said})" if isinstance(one, Operation | All | Any | When | Not) else said

    match expression:
        case Candidate():
            return candidate
        case Bound(step, index):
            return step if index is None else f"{step}[{index}]"
        case Field(of, name):
            return f"{describe(of, candidate)}.{name}"
        case Constant(value):
            return repr(value)
        case Operation("neg", (of,)):
            return f"-{inner(of)}"
        case Operation("abs" | "min" | "max" as function, of):
            return f"{function}({', '.join(describe(one, candidate) for one in of)})"
        case Operation(operator, (left, right)):
            return f"{inner(left)} {operator} {inner(right)}"
        case Not(of):
            return f"not {inner(of)}"
        case All(of):
            return " and ".join(
                f"({describe(one, candidate)})" if isinstance(one, Any | When) else describe(one, candidate)
                for one in of
            )
        case Any(of):
            return " or ".join(
                f"({describe(one, candidate)})" if isinstance(one, All | When) else describe(one, candidate)
                for one in of
            )
        case When(condition, yes, no):
            return f"{inner(yes)} if {inner(condition)} else {inner(no)}"
        case IsA(of, kind):
            return f"{describe(of, candidate)} is a {kind.__name__}"
        case Present(step):
            return f"{step} is there"
        case Aggregated(kind, step, value):
            return f"{kind}({step})" if value is None else f"{kind}({step}, {describe(value, 'each')})"
        case _:  # pragma: no cover
            raise TypeError(f"{expression!r} is no expression")
