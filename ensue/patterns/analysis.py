"""What is known of a pattern before any event comes: what cannot be, and what bounds it.

Everything said here is certain. Where a condition is opaque, or says more than is understood, nothing is said: `excludes` is
sound and not complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import product
from typing import Any as AnyValue
from typing import TypeAlias

from ensue.patterns.definition import Take
from ensue.patterns.expressions import All, Any, Constant, Expression, IsA, Not, Operation, When

__all__ = ["contradictory", "disjoint", "excludes", "takes_exclude"]

WAYS = 64
"""At most so many ways in which a condition can be true are looked at; of one with more nothing is said."""

Literal: TypeAlias = tuple[Expression, bool]
"""An expression, and whether it is true or false."""
Comparison: TypeAlias = tuple[Expression, str, Expression]

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_IMPLIED = {"<": ("<", "<=", "!="), "<=": ("<=",), ">": (">", ">=", "!="), ">=": (">=",), "==": ("==", "<=", ">=")}
_OPPOSED = {"<": (">", ">=", "=="), "<=": (">",), ">": ("<", "<=", "=="), ">=": ("<",), "==": ("<", ">", "!=")}


def excludes(one: Expression, other: Expression) -> bool:
    """Whether no event can make both true, asked at the same point of one run. False where it is not known."""
    return contradictory((one, other))


def contradictory(expressions: Sequence[Expression]) -> bool:
    """Whether these can never all be true of one event. False where it is not known."""
    ways: list[tuple[Literal, ...]] = [()]
    for expression in expressions:
        more = _ways(expression, True)
        if more is None or len(ways) * len(more) > WAYS:
            return False
        ways = [(*before, *way) for before in ways for way in more]
    return all(_impossible(way) for way in ways)


def takes_exclude(one: Take, other: Take) -> bool:
    """Whether no event can be taken by both at the same point of one run: by their types, or by conditions that are not opaque."""
    if all(disjoint(mine, its) for mine in one.events for its in other.events):
        return True
    said = [condition.expression for take in (one, other) for condition in take.conditions]
    return contradictory([expression for expression in said if expression is not None])


def disjoint(one: type, other: type) -> bool:
    """Whether nothing can be of both types: neither is a subclass of the other, and no class can be a subclass of both, since each
    has fields of its own."""
    if issubclass(one, other) or issubclass(other, one):
        return False
    return _own_fields(one, other) and _own_fields(other, one)


def _own_fields(one: type, other: type) -> bool:
    return any(vars(base).get("__slots__") for base in one.__mro__ if base not in other.__mro__)


def _ways(expression: Expression, truth: bool) -> list[tuple[Literal, ...]] | None:
    """The ways in which an expression can come out true (or false), each as what must hold together; None: too many."""
    match expression:
        case Constant(value):
            return [()] if bool(value) is truth else []
        case Not(of):
            return _ways(of, not truth)
        case All(of) | Any(of):
            parts = [_ways(one, truth) for one in of]
            together = isinstance(expression, All) is truth
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            if not together:
                ways = [way for part in known for way in part]
                return ways if len(ways) <= WAYS else None
            return _together(known)
        case When(condition, yes, no):
            return _ways(Any((All((condition, yes)), All((Not(condition), no)))), truth)
        case _:
            return [((expression, truth),)]


def _together(parts: Sequence[list[tuple[Literal, ...]]]) -> list[tuple[Literal, ...]] | None:
    many = 1
    for part in parts:
        many *= len(part)
    if many > WAYS:
        return None
    return [tuple(literal for way in chosen for literal in way) for chosen in product(*parts)]


def _impossible(literals: Sequence[Literal]) -> bool:
    return any(_never(literal) for literal in literals) or any(
        _clash(one, other) for at, one in enumerate(literals) for other in literals[:at]
    )


def _never(literal: Literal) -> bool:
    """Whether one comparison of two constants does not come out so."""
    expression, truth = literal
    compared = _comparison(expression)
    if compared is None:
        return False
    left, operator, right = compared
    if not (isinstance(left, Constant) and isinstance(right, Constant)):
        return False
    held = _holds(left.value, operator, right.value)
    return held is not None and held is not truth


def _clash(one: Literal, other: Literal) -> bool:
    (first, first_truth), (second, second_truth) = one, other
    if first == second:
        return first_truth is not second_truth
    if first_truth and second_truth:
        return _opposed(first, second)
    if first_truth:
        return _implies(first, second)
    return second_truth and _implies(second, first)


def _opposed(one: Expression, other: Expression) -> bool:
    """Whether both cannot be true."""
    if isinstance(one, IsA) and isinstance(other, IsA):
        return one.of == other.of and disjoint(one.type, other.type)
    first, second = _comparison(one), _comparison(other)
    if first is None or second is None:
        return _untrue(first, other) or _untrue(second, one)
    (left, operator, right), (left_other, operator_other, right_other) = first, second
    if (right, left) == (left_other, right_other):
        left_other, operator_other, right_other = left, _MIRRORED[operator_other], right
    if left != left_other:
        return False
    if right == right_other:
        return operator_other in _OPPOSED.get(operator, ()) or operator in _OPPOSED.get(operator_other, ())
    if not (isinstance(right, Constant) and isinstance(right_other, Constant)):
        return False
    mine, its = right.value, right_other.value
    if operator == "==":
        return _holds(mine, operator_other, its) is False
    if operator_other == "==":
        return _holds(its, operator, mine) is False
    if operator[0] == ">" and operator_other[0] == "<":
        mine, operator, its, operator_other = its, operator_other, mine, operator
    if operator[0] != "<" or operator_other[0] != ">":
        return False
    return _holds(mine, "<" if operator == "<=" and operator_other == ">=" else "<=", its) is True


def _untrue(compared: Comparison | None, value: Expression) -> bool:
    """Whether a value that is equal to this constant is false."""
    match compared:
        case (left, "==", Constant(constant)):
            return left == value and _plain(constant) and not constant
        case _:
            return False


def _implies(one: Expression, other: Expression) -> bool:
    """Whether the other is true wherever the one is."""
    if isinstance(one, IsA) and isinstance(other, IsA):
        return one.of == other.of and issubclass(one.type, other.type)
    first, second = _comparison(one), _comparison(other)
    if first is None:
        return False
    left, operator, right = first
    if second is None:
        return (
            operator == "=="
            and left == other
            and isinstance(right, Constant)
            and _plain(right.value)
            and bool(right.value)
        )
    left_other, operator_other, right_other = second
    if (right, left) == (left_other, right_other):
        left_other, operator_other, right_other = left, _MIRRORED[operator_other], right
    if left != left_other:
        return False
    if right == right_other:
        return operator_other in _IMPLIED.get(operator, ())
    if not (isinstance(right, Constant) and isinstance(right_other, Constant)):
        return False
    mine, its = right.value, right_other.value
    if operator == "==":
        return _holds(mine, operator_other, its) is True
    if operator == "!=":
        return False
    bound = "<" if operator[0] == "<" else ">"
    if operator_other not in (bound, bound + "=", "!="):
        return False
    strictly = operator == bound + "=" and operator_other != bound + "="
    return _holds(mine, bound if strictly else bound + "=", its) is True


def _comparison(expression: Expression) -> Comparison | None:
    """A comparison, with a constant on its right if there is one."""
    match expression:
        case Operation("==" | "!=" | "<" | "<=" | ">" | ">=" as operator, (left, right)):
            if isinstance(left, Constant) and not isinstance(right, Constant):
                return right, _MIRRORED[operator], left
            return left, operator, right
        case _:
            return None


def _plain(value: object) -> bool:
    """Values whose order is total and whose equality is that of values. Not a number is none of them."""
    plain = isinstance(value, bool | int | float | Decimal | str | bytes | date | datetime | timedelta | Enum | None)
    return plain and value == value


def _holds(left: AnyValue, operator: str, right: AnyValue) -> bool | None:
    """A comparison of two constants; None where they are not compared."""
    if not (_plain(left) and _plain(right)):
        return None
    try:
        match operator:
            case "==":
                return bool(left == right)
            case "!=":
                return bool(left != right)
            case "<":
                return bool(left < right)
            case "<=":
                return bool(left <= right)
            case ">":
                return bool(left > right)
            case _:
                return bool(left >= right)
    except TypeError:
        return None
