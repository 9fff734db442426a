"""Which functions can be read by calling them with stand-ins. All others are opaque: they are called as they are, for each event.

A stand-in notes what is done with it. It cannot note `is`, an exception that is caught, or what other code makes of it, and it
cannot know that a list will be changed: there the note would say something else than the function does. So a function is
followed only where all that it does and names is known to be harmless.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ensue.events.message import Event

__all__ = ["can_be_followed"]

_STEPS = (
    *("IS_OP", "STORE_GLOBAL", "STORE_NAME", "STORE_ATTR", "STORE_SUBSCR", "STORE_DEREF", "STORE_SLICE", "IMPORT_NAME"),
    *("MATCH_", "DELETE_", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE"),
    *("POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"),
    *("POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE"),
)
"""Steps of the interpreter that a stand-in cannot note, or that change something."""
_NAMES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_PLAIN = (bool, int, float, str, bytes, type(None), Decimal, date, datetime, time, timedelta, timezone, UUID)
_FUNCTIONS = frozenset(
    ("len", "isinstance", "min", "max", "bool", "abs", "any", "all", "getattr", "int", "float", "str")
)
"""Of Python's own: those that a stand-in can answer, or refuses."""
_AGGREGATES = ("count", "total", "smallest", "largest", "distinct")
_DURATIONS = ("seconds", "minutes", "hours", "days")
_OWN = frozenset(
    (
        *(f"ensue.patterns.aggregates.{name}" for name in _AGGREGATES),
        *(f"ensue.events.message.{name}" for name in _DURATIONS),
    )
)
_BETWEEN = ("PUSH_NULL", "CACHE", "EXTENDED_ARG", "NOP")
_MODULES = frozenset(("datetime", "decimal", "ensue", "ensue.patterns"))


def can_be_followed(function: Callable[..., object]) -> bool:
    """Whether what stand-ins note of this function is what it does."""
    if not isinstance(function, types.FunctionType):
        return False
    code = function.__code__
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_VARARGS):
        return False
    try:
        cells = {
            name: cell.cell_contents for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
        }
    except ValueError:  # not set yet
        return False
    given = (*cells.values(), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not all(map(_harmless, given)):
        return False
    known = {**vars(builtins), **function.__globals__, **cells}
    return all(_harmless_code(one, known) for one in _codes(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _harmless_code(code: types.CodeType, known: Mapping[str, Any]) -> bool:
    if code.co_exceptiontable:  # what a stand-in refuses could be caught
        return False
    at_hand: object = None
    for step in dis.get_instructions(code):
        if step.opname.startswith(_STEPS):
            return False
        name = step.argval
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") and name in known:
            at_hand = known[name]
            if not _harmless(at_hand):
                return False
        elif step.opname.startswith(_NAMES):
            if name.startswith("__"):
                return False
            if at_hand is not None:  # of a class or a module: `datetime.now` is none that stays
                at_hand = getattr(at_hand, name, None)
                if not _harmless(at_hand):
                    return False
        elif step.opname not in _BETWEEN:
            at_hand = None
    return True


def _harmless(value: object) -> bool:
    """Whether a value can never be another one, and calls no code that a stand-in could meet."""
    if isinstance(value, tuple | frozenset):
        return type(value) in (tuple, frozenset) and all(map(_harmless, value))
    if isinstance(value, type):
        return value in _PLAIN or issubclass(value, Event) or (issubclass(value, Enum) and _plain_enum(value))
    if isinstance(value, Enum):
        return _plain_enum(type(value))
    if isinstance(value, types.ModuleType):
        return value.__name__ in _MODULES
    if isinstance(value, types.BuiltinFunctionType):
        return value.__module__ == "builtins" and value.__name__ in _FUNCTIONS
    if isinstance(value, types.FunctionType):
        return f"{value.__module__}.{value.__qualname__}" in _OWN
    return type(value) in _PLAIN


def _plain_enum(kind: type[Enum]) -> bool:
    """Whether an enum has no methods of its own."""
    return not any(
        isinstance(value, types.FunctionType | property | classmethod | staticmethod)
        for base in kind.__mro__
        if issubclass(base, Enum) and base.__module__ != "enum"
        for name, value in vars(base).items()
        if not name.startswith("_")
    )
