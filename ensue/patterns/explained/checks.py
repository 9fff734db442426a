"""Conditions asked once more, for people: which hold, and with which values. Values of personal fields are not shown."""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any as AnyValue

import msgspec

from ensue.events.message import Event
from ensue.events.personal import personal_fields
from ensue.patterns.definition import Condition, Element, Take
from ensue.patterns.explained.explaining import condition_text, conjuncts
from ensue.patterns.expressions import (
    Aggregated,
    All,
    Any,
    Bound,
    Candidate,
    Constant,
    Expression,
    Field,
    IsA,
    Not,
    Operation,
    Present,
    When,
    describe,
)

__all__ = ["Check", "Scope", "checks_of", "fits", "shown", "whole_checks"]

_TWO: Mapping[str, Callable[[AnyValue, AnyValue], AnyValue]] = {
    "==": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
    "+": operators.add,
    "-": operators.sub,
    "*": operators.mul,
    "/": operators.truediv,
    "//": operators.floordiv,
    "%": operators.mod,
    "**": operators.pow,
}
_MORE: Mapping[str, Callable[..., AnyValue]] = {"neg": operators.neg, "abs": abs, "min": min, "max": max}
SHOWN = 80
"""Characters of a value that are shown."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of one event. `holds` is None where it raised, and `values` then say what. `values` is what it read, by its text."""

    text: str
    holds: bool | None
    values: Mapping[str, str] = {}

    def __str__(self) -> str:
        word = {True: "holds", False: "fails", None: "raises"}[self.holds]
        said = ", ".join(
            f"{text} {value}" if self.holds is None else f"{text} = {value}" for text, value in self.values.items()
        )
        return f"{self.text} {word}" + (f" ({said})" if said else "")


class Scope(msgspec.Struct, frozen=True):
    """What a condition sees beside its event: the match so far, and the steps of its own level by name. `prefix` is the path of the
    group that it is in."""

    match: object
    steps: Mapping[str, AnyValue]
    prefix: str = ""

    def of(self, step: str) -> AnyValue:
        """What a step, named by its path, has taken."""
        return self.steps.get(step.removeprefix(self.prefix))


def fits(element: Element, event: Event, scope: Scope) -> bool:
    """Whether an element that takes one event takes this one; one whose condition raises is not."""
    node = element.node
    return (
        isinstance(node, Take)
        and isinstance(event, node.events)
        and all(_asked(one, event, scope) is True for one in node.conditions)
    )


def checks_of(element: Element, event: Event, scope: Scope) -> tuple[Check, ...]:
    """Its conditions, each part that must hold by itself."""
    node = element.node
    if not isinstance(node, Take):
        return ()
    return tuple(check for one in node.conditions for check in _checks(one, element.name, event, scope))


def whole_checks(condition: Condition, name: str, scope: Scope) -> tuple[Check, ...]:
    """The parts of a condition on the whole match."""
    return tuple(_checks(condition, name, None, scope))


def _checks(condition: Condition, name: str, event: Event | None, scope: Scope) -> Iterator[Check]:
    if condition.expression is None:
        holds = _asked(condition, event, scope)
        values = {} if isinstance(holds, bool) else {"": str(holds)}
        yield Check(
            text=condition_text(condition, name), holds=holds if isinstance(holds, bool) else None, values=values
        )
        return
    for part in conjuncts(condition.expression):
        try:
            holds = bool(_value(part, event, scope))
        except Exception as error:  # a condition of the application
            yield Check(text=describe(part, name), holds=None, values={"": _raised(error)})
        else:
            yield Check(text=describe(part, name), holds=holds, values=dict(_read(part, name, event, scope)))
            if holds:
                continue
        return  # Python asks no further


def _asked(condition: Condition, event: Event | None, scope: Scope) -> bool | str:
    """Whether it holds; a text says what it raised."""
    arguments: list[object] = [scope.match] if condition.sees_match else []
    if event is not None:
        arguments.append(event)
    try:
        return bool(condition.function(*arguments))
    except Exception as error:  # a condition of the application
        return _raised(error)


def _raised(error: Exception) -> str:
    """The kind alone: what an error says may hold values of personal fields."""
    return type(error).__name__


def _value(expression: Expression, event: object, scope: Scope) -> AnyValue:
    def value(one: Expression) -> AnyValue:
        return _value(one, event, scope)

    match expression:
        case Candidate():
            return event
        case Bound(step, index):
            found = scope.of(step)
            return found if index is None else found[index]
        case Field(of, name):
            return getattr(value(of), name)
        case Constant(constant):
            return constant
        case Operation(operator, of):
            return (_TWO if operator in _TWO else _MORE)[operator](*map(value, of))
        case Not(of):
            return not value(of)
        case All(of):
            return all(value(one) for one in of)
        case Any(of):
            return any(value(one) for one in of)
        case When(condition, yes, no):
            return value(yes) if value(condition) else value(no)
        case IsA(of, kind):
            return isinstance(value(of), kind)
        case Present(step):
            return scope.of(step) not in (None, ())
        case Aggregated(kind, step, of):
            return _aggregated(kind, scope.of(step) or (), lambda one: None if of is None else _value(of, one, scope))


def _aggregated(kind: str, events: Sequence[object], value: Callable[[object], AnyValue]) -> AnyValue:
    if kind == "count":
        return len(events)
    values = [value(one) for one in events]
    match kind:
        case "total":
            return sum(values)
        case "smallest":
            return min(values)
        case "largest":
            return max(values)
        case _:
            return len(set(values))


def _read(expression: Expression, name: str, event: object, scope: Scope) -> Iterator[tuple[str, str]]:
    """The fields and aggregates that an expression looks at, with their values; where Python would not come to them, they are
    left out if they cannot be read."""
    match expression:
        case Field() | Aggregated():
            try:
                found = _value(expression, event, scope)
            except Exception:  # it stands behind an `and` that says no
                return
            yield describe(expression, name), "…" if _is_personal(expression, event, scope) else shown(found)
        case Operation(_, of) | All(of) | Any(of):
            for one in of:
                yield from _read(one, name, event, scope)
        case Not(of) | IsA(of, _):
            yield from _read(of, name, event, scope)
        case When(condition, yes, no):
            for one in (condition, yes, no):
                yield from _read(one, name, event, scope)
        case _:
            return


def shown(value: object) -> str:
    """A value for people; a long one is cut."""
    text = str(value) if isinstance(value, int | float) or type(value).__name__ == "Decimal" else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _is_personal(expression: Expression, event: object, scope: Scope) -> bool:
    match expression:
        case Field(of, name):
            try:
                owner = _value(of, event, scope)
            except Exception:  # nothing is shown of what cannot be read
                return True
            if isinstance(owner, Event):
                return any(one.name == name for one in personal_fields(type(owner)))
            return _is_personal(of, event, scope)
        case Aggregated(_, step, of):
            events: Sequence[object] = scope.of(step) or ()
            return of is not None and any(_is_personal(part, one, scope) for one in events for part in _fields(of))
        case _:
            return False


def _fields(expression: Expression) -> Iterator[Expression]:
    match expression:
        case Field():
            yield expression
        case Operation(_, of) | All(of) | Any(of):
            for one in of:
                yield from _fields(one)
        case Not(of) | IsA(of, _):
            yield from _fields(of)
        case When(condition, yes, no):
            for one in (condition, yes, no):
                yield from _fields(one)
        case _:
            return
