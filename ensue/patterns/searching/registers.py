"""Values over what a run has taken, kept while it takes: a condition on earlier events costs the same however many they are.

A register is the first, the last or an aggregate of the events of one step. A run's registers are a tuple that is never changed;
taking an event makes the next one. Conditions read them through a function made from the condition's expression. What cannot be
read so (an event in the middle, a group) is left to the condition's own function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ensue.patterns.expressions import (
    Aggregated,
    All,
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
)
from ensue.patterns.expressions import (
    Any as AnyOf,
)

__all__ = ["Evaluator", "Registers", "Values"]

Values: TypeAlias = "tuple[Any, ...]"
Evaluator: TypeAlias = Callable[[Values, Any], Any]
"""From the registers of a run and the event at hand to what an expression says of them."""

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "min": min,
    "max": max,
}


class _Nothing:
    """In place of the first or last event of a step that has taken none, or of the smallest value of none."""


_NOTHING = _Nothing()


class _Failure(NamedTuple):
    """The value could not be computed for an event that was taken: whoever reads the register is told, as if it had been computed then."""

    error: Exception


class _Distinct(NamedTuple):
    """The first `many` of the values seen, each with its number. The dictionary is shared with runs that go on from the same events."""

    seen: dict[Any, int]
    many: int


class _Register(NamedTuple):
    kind: str
    step: str
    value: Expression | None


class _Unreadable(Exception):
    """No register holds this."""


class Registers:
    """The registers that the conditions of one pattern need. `scopes` are the steps that take events themselves, each with the number
    of the group around it."""

    def __init__(self, scopes: Mapping[str, int]) -> None:
        self._scopes = scopes
        self._numbers: dict[_Register, int] = {}
        self._kinds: list[str] = []
        self._by_step: dict[str, list[tuple[int, Callable[[Any, Any], Any]]]] = {}
        self._by_scope: dict[int, list[int]] = {}

    @property
    def any(self) -> bool:
        """Whether there is a register at all."""
        return bool(self._kinds)

    def empty(self) -> Values:
        """Of a run that has taken nothing."""
        return tuple(map(_first_of, self._kinds))

    def behind(self, values: Values, step: str, begins: tuple[int, ...], event: Any) -> Values:
        """When this step has taken this event, where repetitions of these groups began with it."""
        updates = self._by_step.get(step)
        if updates is None and not begins:
            return values
        now = list(values)
        for group in begins:
            for number in self._by_scope.get(group, ()):
                now[number] = _first_of(self._kinds[number])
        for number, update in updates or ():
            if type(now[number]) is not _Failure:
                try:
                    now[number] = update(now[number], event)
                except Exception as error:  # told when the value is read
                    now[number] = _Failure(error)
        return tuple(now)

    def evaluator(self, expression: Expression | None) -> Evaluator | None:
        """What reads this expression from registers; None: nothing can. Ask for all before the first run begins."""
        if expression is None:
            return None
        try:
            return self._compiled(expression)
        except _Unreadable:
            return None

    def _number(self, kind: str, step: str, value: Expression | None = None) -> int:
        if step not in self._scopes:
            raise _Unreadable
        register = _Register(kind, step, value)
        number = self._numbers.get(register)
        if number is None:
            update = self._update(kind, value)
            number = self._numbers[register] = len(self._kinds)
            self._kinds.append(kind)
            self._by_step.setdefault(step, []).append((number, update))
            self._by_scope.setdefault(self._scopes[step], []).append(number)
        return number

    def _update(self, kind: str, value: Expression | None) -> Callable[[Any, Any], Any]:
        if kind == "first":
            return lambda now, event: event if now is _NOTHING else now
        if kind == "last":
            return lambda _, event: event
        if kind == "count":
            return lambda now, _: now + 1
        of = self._compiled(value) if value is not None else None
        assert of is not None
        if kind == "total":
            return lambda now, event: now + of((), event)
        if kind == "smallest":
            return lambda now, event: _better(now, of((), event), operator.lt)
        if kind == "largest":
            return lambda now, event: _better(now, of((), event), operator.gt)
        return lambda now, event: _added(now, of((), event))

    # -------------------------------------------------------------------------------------------------------- expressions

    def _compiled(self, expression: Expression) -> Evaluator:
        match expression:
            case Candidate():
                return lambda _, event: event
            case Constant(value):
                return lambda values, event: value
            case Bound() | Present() | Aggregated():
                return self._read(expression)
            case Field(of, name):
                get, inner = operator.attrgetter(name), self._compiled(of)
                return lambda values, event: get(inner(values, event))
            case Operation(word, operands):
                return _operation(_OPERATORS[word], [self._compiled(one) for one in operands])
            case Not(of):
                inner = self._compiled(of)
                return lambda values, event: not inner(values, event)
            case All(of):
                parts = [self._compiled(one) for one in of]
                return lambda values, event: all(part(values, event) for part in parts)
            case AnyOf(of):
                parts = [self._compiled(one) for one in of]
                return lambda values, event: any(part(values, event) for part in parts)
            case When(condition, yes, no):
                asked, first, second = self._compiled(condition), self._compiled(yes), self._compiled(no)
                return lambda values, event: (first if asked(values, event) else second)(values, event)
            case IsA(of, kind):
                inner = self._compiled(of)
                return lambda values, event: isinstance(inner(values, event), kind)

    def _read(self, expression: Bound | Present | Aggregated) -> Evaluator:
        if isinstance(expression, Bound):
            if expression.index not in (None, 0, -1):
                raise _Unreadable
            number = self._number("first" if expression.index == 0 else "last", expression.step)
            if expression.index is None:
                return lambda values, _: None if values[number] is _NOTHING else values[number]
            return lambda values, _: _there(values[number], IndexError("tuple index out of range"))
        if isinstance(expression, Present):
            number = self._number("count", expression.step)
            return lambda values, _: values[number] > 0
        number = self._number(expression.kind, expression.step, expression.value)
        if expression.kind == "distinct":
            return lambda values, _: _there(values[number], None).many
        return lambda values, _: _there(values[number], ValueError(f"{expression.kind} of no event"))


def _operation(function: Callable[..., Any], operands: list[Evaluator]) -> Evaluator:
    if len(operands) == 2:
        left, right = operands
        return lambda values, event: function(left(values, event), right(values, event))
    return lambda values, event: function(*(operand(values, event) for operand in operands))


def _first_of(kind: str) -> Any:
    if kind in ("count", "total"):
        return 0
    return _Distinct({}, 0) if kind == "distinct" else _NOTHING


def _there(value: Any, missing: Exception | None) -> Any:
    if type(value) is _Failure:
        raise value.error
    if value is _NOTHING and missing is not None:
        raise missing
    return value


def _better(now: Any, value: Any, better: Callable[[Any, Any], bool]) -> Any:
    return value if now is _NOTHING or better(value, now) else now


def _added(now: _Distinct, value: Any) -> _Distinct:
    """The dictionary is added to where nobody has done so since; else its first values are copied."""
    seen, many = now
    number = seen.get(value)
    if number is not None and number < many:
        return now
    if len(seen) > many:
        seen = {one: at for one, at in seen.items() if at < many}
    seen[value] = many
    return _Distinct(seen, many + 1)
