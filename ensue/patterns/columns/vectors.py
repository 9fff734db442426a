"""What can be asked of columns instead of events: which rows may fulfil a condition. Needs numpy and pyarrow.

The answer is never too narrow. A row for which the condition holds is among the answer; so is one of which columns cannot say it
exactly as Python would: a missing value, a division by zero, a whole number that a float cannot hold. What cannot be asked of
columns at all (decimals, calls, values of other types) raises `Unvectorised`, which says why.
"""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any as AnyValue
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute as pc  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from ensue.patterns.compiled.relevance import Test
from ensue.patterns.expressions import All, Any, Candidate, Constant, Expression, Field, Not, Operation, describe

__all__ = ["Mask", "Unvectorised", "Vectors"]

Mask: TypeAlias = NDArray[np.bool_]
Arrow: TypeAlias = AnyValue
"""A `pyarrow.Array`; pyarrow says nothing of its types."""

_EXACT = 2**53
"""Up to here every whole number is a float."""
_SAFE = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARED: dict[str, Callable[[AnyValue, AnyValue], AnyValue]] = {
    "==": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}
_ARROW = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_KINDS: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "text", datetime: "time"}


class Unvectorised(Exception):
    """A condition cannot be asked of columns. The text says why, for people."""


class _Column(msgspec.Struct, frozen=True):
    """Values of one kind, row by row. `doubt` are the rows of which they say nothing."""

    kind: str
    values: AnyValue
    doubt: Mask | None = None


class Vectors:
    """The columns of one batch of rows, and what was asked of them so far: each expression is asked once."""

    def __init__(self, columns: Mapping[str, Arrow], types: Mapping[str, object], rows: int) -> None:
        self._columns, self._types, self.rows = columns, types, rows
        self._read: dict[str, _Column] = {}
        self._known: dict[Expression, _Column] = {}

    def may_fulfil(self, test: Test) -> Mask:
        """The rows that may fulfil all of these. Errors: `Unvectorised` if that can be said of none of the parts."""
        found: Mask | None = None
        why = "nothing is asked"
        for part in test:
            try:
                mask = self._may(part)
            except Unvectorised as error:
                why = str(error)
                continue
            found = mask if found is None else found & mask
        if found is None:
            raise Unvectorised(why)
        return found

    def _may(self, part: Expression | Callable[..., AnyValue]) -> Mask:
        if callable(part):
            raise Unvectorised("an opaque condition is called with each event")
        truth = self._truth(part)
        values: Mask = truth.values
        return values if truth.doubt is None else values | truth.doubt

    # ----------------------------------------------------------------------------------------- conditions

    def _truth(self, expression: Expression) -> _Column:
        known = self._known.get(expression)
        if known is None:
            known = self._known[expression] = self._asked(expression)
        return known

    def _asked(self, expression: Expression) -> _Column:
        match expression:
            case All(of):
                return _joined([self._truth(one) for one in of], np.logical_and)
            case Any(of):
                return _joined([self._truth(one) for one in of], np.logical_or)
            case Not(of):
                truth = self._truth(of)
                return _Column("bool", ~truth.values, truth.doubt)
            case Operation("==" | "!=" | "<" | "<=" | ">" | ">=" as operator, (left, right)):
                return self._compared(operator, left, right)
            case _:
                found = self._value(expression)
                if found.kind == "text":
                    raise Unvectorised(f"whether {describe(expression)} is empty")
                if found.kind == "time":
                    return _Column("bool", np.ones(self.rows, np.bool_), found.doubt)
                values = np.broadcast_to(np.asarray(found.values) != 0, (self.rows,))
                return _Column("bool", values, found.doubt)

    def _compared(self, operator: str, left: Expression, right: Expression) -> _Column:
        one, two = self._value(left), self._value(right)
        doubt = _doubts(one, two)
        if one.kind == "text" or two.kind == "text":
            if one.kind != two.kind:
                raise Unvectorised(f"{describe(left)} and {describe(right)} are of different kinds")
            compared = pc.call_function(_ARROW[operator], [one.values, two.values])
            if isinstance(compared, pa.Scalar):
                raise Unvectorised("two constants are compared")
            return _Column("bool", _filled(compared), doubt)
        if (one.kind == "time") is not (two.kind == "time"):
            raise Unvectorised(f"{describe(left)} and {describe(right)} are of different kinds")
        _check_exact(one, two)
        values = np.broadcast_to(_COMPARED[operator](one.values, two.values), (self.rows,))
        return _Column("bool", values, doubt)

    # --------------------------------------------------------------------------------------------- values

    def _value(self, expression: Expression) -> _Column:
        match expression:
            case Constant(value):
                return _constant(value)
            case Field(Candidate(), name):
                return self._field(name)
            case Operation("+" | "-" | "*" | "/" as operator, (left, right)):
                return _computed(operator, self._value(left), self._value(right))
            case Operation("neg", (of,)):
                return _computed("-", _Column("int", np.int64(0)), self._value(of))
            case Operation("abs", (of,)):
                found = self._value(of)
                _check_numbers(found)
                return _Column(found.kind, np.abs(found.values), found.doubt)
            case _:
                raise Unvectorised(f"{describe(expression)} is no value that columns have")

    def _field(self, name: str) -> _Column:
        known = self._read.get(name)
        if known is None:
            known = self._read[name] = _read(name, self._columns.get(name), self._types.get(name))
        return known


def _read(name: str, column: Arrow, declared: object) -> _Column:
    options = declared if isinstance(declared, type) else _optional(declared)
    kind = _KINDS.get(options) if isinstance(options, type) else None
    if kind is None:
        raise Unvectorised(f"the field {name} is of a type that columns do not compare as Python does")
    if column is None:
        raise Unvectorised(f"there is no column {name}")
    found, type_ = column, column.type
    doubt: Mask | None = None
    if found.null_count:
        doubt = found.is_null().to_numpy(zero_copy_only=False)
    if kind == "text" and (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        return _Column("text", found, doubt)
    if kind == "time" and pa.types.is_timestamp(type_) and type_.tz is not None:
        values = found.cast(pa.timestamp("us", type_.tz), safe=False).cast(pa.int64()).fill_null(0)
        return _Column("time", values.to_numpy(zero_copy_only=False), doubt)
    if kind == "bool" and pa.types.is_boolean(type_):
        return _Column("bool", found.fill_null(False).to_numpy(zero_copy_only=False), doubt)
    if kind in ("int", "float") and (pa.types.is_signed_integer(type_) or pa.types.is_float64(type_)):
        filled = found.fill_null(0) if found.null_count else found
        values = filled.to_numpy(zero_copy_only=False)
        if pa.types.is_signed_integer(type_):
            return _Column("int", values.astype(np.int64, copy=False), doubt)
        return _Column("float", values, doubt)
    raise Unvectorised(f"the column {name} is {type_}, and its field {getattr(options, '__name__', options)}")


def _optional(declared: object) -> object:
    """The type of a field that may also be None, which a column has as a missing value."""
    kinds = [one for one in getattr(declared, "__args__", ()) if one is not type(None)]
    return kinds[0] if len(kinds) == 1 else None


def _constant(value: object) -> _Column:
    if type(value) is bool:
        return _Column("bool", np.bool_(value))
    if type(value) is int and abs(value) < _SAFE:
        return _Column("int", np.int64(value))
    if type(value) is float:
        return _Column("float", np.float64(value))
    if type(value) is str:
        return _Column("text", pa.scalar(value))
    if type(value) is datetime and value.utcoffset() is not None:
        return _Column("time", np.int64((value - _EPOCH) // timedelta(microseconds=1)))
    raise Unvectorised(f"{value!r} is of a type that columns do not compare as Python does")


def _computed(operator: str, one: _Column, two: _Column) -> _Column:
    _check_numbers(one)
    _check_numbers(two)
    _check_exact(one, two)
    doubt = _doubts(one, two)
    left, right = one.values, two.values
    whole = one.kind != "float" and two.kind != "float"
    if operator == "/":
        if whole and max(_greatest(left), _greatest(right)) >= _EXACT:
            raise Unvectorised("whole numbers that a float cannot hold are divided")
        zero = np.asarray(right) == 0
        if np.any(zero):
            doubt = zero if doubt is None else doubt | zero
        with np.errstate(all="ignore"):
            return _Column("float", left / right, doubt)
    if whole:
        most = _greatest(left) * _greatest(right) if operator == "*" else _greatest(left) + _greatest(right)
        if most >= _SAFE:
            raise Unvectorised("whole numbers that are too great for a column are computed with")
        left, right = np.asarray(left).astype(np.int64), np.asarray(right).astype(np.int64)
    function = {"+": operators.add, "-": operators.sub, "*": operators.mul}[operator]
    with np.errstate(all="ignore"):
        return _Column("int" if whole else "float", function(left, right), doubt)


def _check_numbers(of: _Column) -> None:
    if of.kind not in ("int", "float", "bool"):
        raise Unvectorised("what is computed with are no numbers")


def _check_exact(one: _Column, two: _Column) -> None:
    """numpy makes floats of whole numbers beside floats, where Python compares them as they are."""
    if {one.kind, two.kind} != {"int", "float"}:
        return
    if _greatest((one if one.kind == "int" else two).values) >= _EXACT:
        raise Unvectorised("whole numbers that a float cannot hold stand beside floats")


def _greatest(values: AnyValue) -> int:
    array = np.asarray(values)
    return 0 if array.size == 0 or array.dtype.kind == "b" else max(abs(int(array.max())), abs(int(array.min())))


def _doubts(one: _Column, two: _Column) -> Mask | None:
    if one.doubt is None or two.doubt is None:
        return two.doubt if one.doubt is None else one.doubt
    return one.doubt | two.doubt


def _joined(columns: list[_Column], function: AnyValue) -> _Column:
    values, doubt = columns[0].values, columns[0].doubt
    for one in columns[1:]:
        values = function(values, one.values)
        doubt = _doubts(_Column("bool", values, doubt), one)
    return _Column("bool", values, doubt)


def _filled(compared: AnyValue) -> Mask:
    filled = compared.fill_null(False) if compared.null_count else compared
    found: Mask = filled.to_numpy(zero_copy_only=False)
    return found
