"""What is known of a pattern before any event comes: what cannot be, and what bounds it.

Everything said here is certain. Where a condition is opaque, or says more than is understood, nothing is said: `excludes` is
sound and not complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import pairwise, product
from typing import Any as AnyValue
from typing import TypeAlias

import msgspec

from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take, elements_of
from ensue.patterns.expressions import All, Any, Constant, Expression, IsA, Not, Operation, When, describe

__all__ = ["Bounds", "bounds", "cannot_match", "contradictory", "disjoint", "excludes", "takes_exclude"]

WAYS = 64
"""At most so many ways in which a condition can be true are looked at; of one with more nothing is said."""

RUN_BYTES, TAKEN_BYTES = 700, 70
"""Of the general engine, measured: a run, and each event that it has taken beside the event itself. Compiled patterns need a third."""

Literal: TypeAlias = tuple[Expression, bool]
"""An expression, and whether it is true or false."""
Comparison: TypeAlias = tuple[Expression, str, Expression]

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_IMPLIED = {"<": ("<", "<=", "!="), "<=": ("<=",), ">": (">", ">=", "!="), ">=": (">=",), "==": ("==", "<=", ">=")}
_OPPOSED = {"<": (">", ">=", "=="), "<=": (">",), ">": ("<", "<=", "=="), ">=": ("<",), "==": ("<", ">", "!=")}


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a pattern needs at most. None: nothing bounds it but the number of events within the horizon."""

    horizon: int | None
    """How long a beginning waits, in microseconds."""
    taken: int | None
    """How many events one match takes."""
    forks: tuple[str, ...]
    """The steps at which one beginning may go on in more than one way. None of them: one run, and one match, for each beginning."""
    runs: int
    """How many beginnings of one key wait at the same time; beyond, the oldest is given up."""
    state_bytes: int | None
    """About how much is kept for one key when so many wait, in one run each, beside the events themselves."""


def bounds(definition: Definition) -> Bounds:
    """What is known of the state and the matches of a pattern. `forks` may name a step that never forks, and leaves none out."""
    taken = _most_taken(definition.elements)
    return Bounds(
        horizon=definition.horizon,
        taken=taken,
        forks=tuple(_forks(definition.elements)),
        runs=definition.runs,
        state_bytes=None if taken is None else definition.runs * (RUN_BYTES + taken * TAKEN_BYTES),
    )


def _most_taken(elements: Sequence[Element]) -> int | None:
    total = 0
    for element in elements:
        match element.node:
            case Take():
                once: int | None = 0 if element.absent else 1
            case Group(inside) | AllOf(inside):
                once = _most_taken(inside)
            case Choice(inside):
                many = [_most_taken((part,)) for part in inside]
                once = None if None in many else max(one for one in many if one is not None)
        if once is None or (element.high is None and not element.absent):
            return None
        total += once * (element.high or 0)
    return total


def _forks(elements: Sequence[Element]) -> list[str]:
    forking: list[str] = []
    for at, element in enumerate(elements):
        if element.absent:
            continue
        loops = element.high != 1
        if (
            (element.contiguity == "any" and at)
            or (loops and element.inner == "any")
            or not isinstance(element.node, Take)
            or (element.low != element.high and (not element.greedy or not _parts_from(element, elements[at + 1 :])))
        ):
            forking.append(element.name)
    return forking


def _parts_from(element: Element, behind: Sequence[Element]) -> bool:
    """Whether no event can be taken by this step and by one that may come next."""
    assert isinstance(element.node, Take)
    for other in behind:
        if other.absent:
            continue
        if not isinstance(other.node, Take) or not takes_exclude(element.node, other.node):
            return False
        if other.low > 0:
            return True
    return True


def cannot_match(definition: Definition) -> str | None:
    """Why no events at all can match, naming the step; None: nothing is known that speaks against it."""
    for element in elements_of(definition.elements):
        if isinstance(element.node, Take):
            said = [condition.expression for condition in element.node.conditions if condition.expression is not None]
            if contradictory(said):
                shown = " and ".join(f"({describe(expression)})" for expression in said)
                return f"{element.name}: no event can be taken, since this cannot be true: {shown}"
    where = definition.where
    if where is not None and where.expression is not None and contradictory((where.expression,)):
        return f"where: this cannot be true: {describe(where.expression)}"
    return _forbidden(definition.elements)


def _forbidden(elements: Sequence[Element]) -> str | None:
    for element, behind in pairwise(elements):
        match element, behind:
            case (
                Element(absent=True, contiguity="strict", within=None, node=Take() as never),
                Element(absent=False, contiguity="strict", node=Take() as always),
            ) if behind.low > 0 and _all_of(always, never):
                return f"{behind.name}: it must be the very next event, which {element.name} forbids"
            case _:
                pass
    for element in elements:
        if not isinstance(element.node, Take) and (found := _forbidden(_in_order(element))) is not None:
            return found
    return None


def _in_order(element: Element) -> Sequence[Element]:
    return element.node.elements if isinstance(element.node, Group) else ()


def _all_of(one: Take, other: Take) -> bool:
    """Whether each event that the one takes is one of the other."""
    return not other.conditions and all(issubclass(event, other.events) for event in one.events)


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
