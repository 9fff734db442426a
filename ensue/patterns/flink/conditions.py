"""From the expression of a condition to SQL that says the same of the same values, or a refusal.

SQL's third truth value is kept out where Python would raise or answer: what may be None is compared with it alone until a condition
before has said that it is not None. What is left can be unknown only where it is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Protocol

import msgspec

from ensue.events.message import Event
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
from ensue.patterns.flink.columns import Column, Columns, Gathering, Kind, Refused, literal, refused, type_is

__all__ = ["Scope", "Sql", "Writer"]

_NUMBERS: tuple[Kind, ...] = ("int", "float", "decimal")


class Sql(msgspec.Struct, frozen=True):
    """A value in SQL. Without a kind it is None."""

    text: str
    kind: Kind | None
    nullable: bool = False


class Scope(Protocol):
    """What a condition can see where it is asked: the row at hand, and what was taken before."""

    @property
    def events(self) -> Sequence[type[Event]]:
        """What the candidate may be."""
        ...

    def candidate(self, column: Column) -> str:
        """A column of the row at hand."""
        ...

    def type_column(self, step: str | None, index: int | None) -> str:
        """The column with the type of the candidate, or of what a step took."""
        ...

    def taken(self, step: str) -> Sequence[type[Event]]:
        """What a step may have taken."""
        ...

    def bound(self, step: str, index: int | None, column: Column, *, sure: bool) -> str:
        """A column of what a step took; `sure`: it was asked before whether it took anything. Errors: `Refused`."""
        ...

    def present(self, step: str) -> str:
        """Whether a step has taken anything."""
        ...

    def aggregated(self, kind: str, step: str, value: Callable[[Scope], Sql] | None, *, sure: bool) -> Sql:
        """A value over all that a step took. Errors: `Refused`."""
        ...


class Writer:
    """Writes the conditions of one pattern. Errors of all methods: `Refused`."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def truth(self, expression: Expression, scope: Scope, facts: frozenset[Expression] = frozenset()) -> str:
        """SQL that is TRUE exactly where the expression is true; else FALSE, or unknown."""
        match expression:
            case Constant(value):
                return "TRUE" if value else "FALSE"
            case Not(of):
                return f"({self.truth(of, scope, facts)}) IS NOT TRUE"
            case All(of):
                said: list[str] = []
                reasons = Gathering()
                for one in of:
                    with reasons.each():
                        said.append(f"({self.truth(one, scope, facts)})")
                    facts |= _known(one)
                reasons.tell()
                return " AND ".join(said)
            case Any(of):
                said = []
                for one in of:
                    said.append(f"({self.truth(one, scope, facts)}) IS TRUE")
                    facts |= _known(_denied(one))
                return " OR ".join(said)
            case When(condition, yes, no):
                asked = self.truth(condition, scope, facts)
                return (
                    f"CASE WHEN {asked} THEN ({self.truth(yes, scope, facts | _known(condition))}) IS TRUE "
                    f"ELSE ({self.truth(no, scope, facts | _known(_denied(condition)))}) IS TRUE END"
                )
            case IsA(of, type_):
                step, index = (of.step, of.index) if isinstance(of, Bound) else (None, None)
                return type_is((type_,), scope.type_column(step, index))
            case Present(step):
                return scope.present(step)
            case Operation("==" | "!=" | "<" | "<=" | ">" | ">=" as operator, (left, right)):
                return self._compared(operator, left, right, scope, facts)
            case _:
                return self._truth_of_value(self._value(expression, scope, facts), expression)

    def value(self, expression: Expression, scope: Scope) -> Sql:
        """What the expression computes."""
        return self._value(expression, scope, frozenset())

    def _truth_of_value(self, value: Sql, expression: Expression) -> str:
        if value.kind is None:
            return "FALSE"
        if value.kind == "bool":
            return f"{value.text} IS TRUE"
        empty = "''" if value.kind == "str" else "0"
        if value.kind in (*_NUMBERS, "str"):
            return f"{value.text} <> {empty}"
        raise _no(expression, "it is no truth value", "a comparison")

    def _compared(
        self, operator: str, left: Expression, right: Expression, scope: Scope, facts: frozenset[Expression]
    ) -> str:
        for nothing, asked in ((left, right), (right, left)):
            if nothing == Constant(None):
                if operator not in ("==", "!="):
                    raise _no(Operation("<", (left, right)), "it orders None", "a comparison with a value")
                value = self._value(asked, scope, facts)
                return f"{value.text} IS {'NOT ' if operator == '!=' else ''}NULL"
        one, other = self._values(left, right, scope, facts)
        sql = {"==": "=", "!=": "<>"}.get(operator, operator)
        if one.nullable or other.nullable:
            if operator in ("==", "!="):
                return f"{one.text} IS {'NOT ' if operator == '==' else ''}DISTINCT FROM {other.text}"
            raise _no(
                Operation("<", (left, right)),
                "it may be None, where Python raises and SQL says nothing",
                "ask first: x != None and x < …",
            )
        if one.kind == "bool" and operator not in ("==", "!="):
            raise _no(left, "it orders truth values", "the values themselves")
        return f"{one.text} {sql} {other.text}"

    def _values(
        self,
        left: Expression,
        right: Expression,
        scope: Scope,
        facts: frozenset[Expression],
        right_facts: frozenset[Expression] | None = None,
    ) -> tuple[Sql, Sql]:
        """Two of kinds that SQL compares and computes with as Python does."""
        right_facts = facts if right_facts is None else right_facts
        if isinstance(left, Constant) and not isinstance(right, Constant):
            other = self._value(right, scope, right_facts)
            return self._constant(left, other, right), other
        one = self._value(left, scope, facts)
        if isinstance(right, Constant):
            return one, self._constant(right, one, left)
        other = self._value(right, scope, right_facts)
        if one.kind == other.kind or {one.kind, other.kind} in ({"int", "float"}, {"int", "decimal"}):
            return one, other
        raise _no(Operation("==", (left, right)), f"it compares {one.kind} with {other.kind}", "two values of one type")

    def _constant(self, constant: Constant, beside: Sql, where: Expression) -> Sql:
        value = constant.value.value if isinstance(constant.value, Enum) else constant.value
        kind = beside.kind
        if kind == "int" and isinstance(value, float):
            kind = "float"
        if kind == "decimal" and isinstance(value, float):
            raise _no(where, f"it compares a Decimal with the float {value!r}", f"Decimal('{value}')")
        assert kind is not None, "a value has a kind"
        return Sql(literal(value, kind, describe(where)), kind)

    def _value(self, expression: Expression, scope: Scope, facts: frozenset[Expression]) -> Sql:
        match expression:
            case Field(of, name):
                return self._field(of, name, expression, scope, facts)
            case Constant(value):
                plain = value.value if isinstance(value, Enum) else value
                for type_, kind in _OF_CONSTANTS:
                    if type(plain) is type_:
                        return Sql(literal(plain, kind, "a constant"), kind)
                raise _no(expression, "it is of a type that SQL has not", "a number or a text")
            case Aggregated(aggregate, step, of):
                written = None if of is None else partial(self.value, of)
                return scope.aggregated(aggregate, step, written, sure=Present(step) in facts)
            case Operation(operator, operands):
                return self._operation(operator, operands, expression, scope, facts)
            case When(condition, yes, no):
                asked = self.truth(condition, scope, facts)
                denied = facts | _known(_denied(condition))
                one, other = self._values(yes, no, scope, facts | _known(condition), denied)
                if one.kind != other.kind:
                    raise _no(expression, f"it is {one.kind} or {other.kind}", "two values of one type")
                nullable = one.nullable or other.nullable
                return Sql(f"CASE WHEN {asked} THEN {one.text} ELSE {other.text} END", one.kind, nullable)
            case Not() | All() | Any() | IsA() | Present():
                return Sql(f"(({self.truth(expression, scope, facts)}) IS TRUE)", "bool")
            case _:
                raise _no(expression, "it is an event, and no value", "compare its fields")

    def _field(
        self, of: Expression, name: str, expression: Expression, scope: Scope, facts: frozenset[Expression]
    ) -> Sql:
        match of:
            case Candidate():
                column = self._columns.of(scope.events, name)
                text = scope.candidate(column)
            case Bound(step, index):
                column = self._columns.of(scope.taken(step), name)
                text = scope.bound(step, index, column, sure=Present(step) in facts)
            case _:
                raise _no(expression, "it is a field within a field", "a field of the event itself")
        known = any(
            Operation("!=", pair) in facts for pair in ((expression, Constant(None)), (Constant(None), expression))
        )
        return Sql(text, column.kind, column.nullable and not known and expression not in facts)

    def _operation(
        self,
        operator: str,
        operands: Sequence[Expression],
        expression: Expression,
        scope: Scope,
        facts: frozenset[Expression],
    ) -> Sql:
        if operator in ("neg", "abs"):
            value = self._value(operands[0], scope, facts)
            self._number(value, operands[0])
            return Sql(f"(-{value.text})" if operator == "neg" else f"ABS({value.text})", value.kind)
        if operator in ("min", "max"):
            return self._extreme(operator, operands, scope, facts)
        if operator in ("==", "!=", "<", "<=", ">", ">="):
            return Sql(f"(({self._compared(operator, operands[0], operands[1], scope, facts)}) IS TRUE)", "bool")
        left, right = self._values(operands[0], operands[1], scope, facts)
        self._number(left, operands[0])
        self._number(right, operands[1])
        kinds = {left.kind, right.kind}
        kind: Kind = "float" if "float" in kinds else "decimal" if "decimal" in kinds else "int"
        if operator in ("+", "-"):
            return Sql(f"({left.text} {operator} {right.text})", kind)
        if operator == "*" and kind != "decimal":
            return Sql(f"({left.text} * {right.text})", kind)
        divisor = operands[1].value if isinstance(operands[1], Constant) else None
        if operator == "/" and kind != "decimal" and divisor:
            return Sql(f"(CAST({left.text} AS DOUBLE) / CAST({right.text} AS DOUBLE))", "float")
        if operator in ("//", "%") and kind == "int" and isinstance(divisor, int) and divisor > 0:
            rest = f"MOD(MOD({left.text}, {right.text}) + {right.text}, {right.text})"
            return Sql(rest if operator == "%" else f"(({left.text} - {rest}) / {right.text})", "int")
        if operator in ("/", "//", "%"):
            raise _no(
                expression, "SQL divides otherwise, or the divisor may be 0", "multiply, or divide by a number above 0"
            )
        raise _no(expression, f"SQL has another {operator!r} for these values", "compare with a sum or a difference")

    def _extreme(
        self, operator: str, operands: Sequence[Expression], scope: Scope, facts: frozenset[Expression]
    ) -> Sql:
        values: list[Sql] = []
        typed = next((one for one in operands if not isinstance(one, Constant)), operands[0])
        for one in operands:
            value, _ = self._values(one, typed, scope, facts)
            self._number(value, one)
            values.append(value)
        if len({value.kind for value in values}) > 1:
            raise _no(Operation("min", tuple(operands)), "its values are of several types", "values of one type")
        function = "LEAST" if operator == "min" else "GREATEST"
        return Sql(f"{function}({', '.join(value.text for value in values)})", values[0].kind)

    def _number(self, value: Sql, expression: Expression) -> None:
        if value.kind not in _NUMBERS:
            raise _no(expression, "it computes with what is no number", "numbers")
        if value.nullable:
            raise _no(
                expression, "it may be None, where Python raises and SQL says nothing", "ask first: x != None and …"
            )


def _known(expression: Expression) -> frozenset[Expression]:
    """What is known where this is true."""
    if isinstance(expression, All):
        return frozenset(one for part in expression.of for one in _known(part))
    return frozenset((expression,))


def _denied(expression: Expression) -> Expression:
    """What is known where this is not true."""
    match expression:
        case Not(of):
            return of
        case Operation("==", operands):
            return Operation("!=", operands)
        case _:
            return Not(expression)


_OF_CONSTANTS: tuple[tuple[type, Kind], ...] = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"))


def _no(expression: Expression, why: str, instead: str) -> Refused:
    return refused(f"{describe(expression)}: {why}", instead)
