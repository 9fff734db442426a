"""What a fold's values depend on beside their events, as a few bytes: whether a value that was kept is still what the code says.

Covered are the shape of the values, the code of the fold's class or functions, functions and constants that this code names in
its own modules, however deep, and the events with their versions, shapes and upcasters. Not covered is what other libraries
compute, and what is reached by a name that is a text: after such a change, give the fold another name or version.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any

import msgspec

from ensue.events.message import Event
from ensue.events.upcasting import upcasters_of

__all__ = ["fingerprint_of"]

DEPTH = 1_000
"""So many functions and classes are looked at; whoever has more is told by the first of them."""
_CONSTANTS = (int, float, complex, str, bytes, Decimal, type(None))


def fingerprint_of(
    kinds: Iterable[Any], functions: Iterable[Callable[..., Any]], events: Iterable[type[Event]]
) -> bytes:
    """16 bytes that are other ones where values of these kinds, made by these functions from these events, may be others."""
    found = _Found()
    for kind in kinds:
        found.shape(kind)
        found.add(kind)
    for function in functions:
        found.add(function)
    known = sorted(events, key=lambda event: (event.__module__, event.__qualname__))
    for event in known:
        found.shape(event)
        found.say(getattr(event, "__ensue_type__", None))
    for step in upcasters_of(known):
        found.say(step.name, step.version, step.to)
        found.add(step.function)
    return found.digest()


class _Found:
    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)
        self._seen: set[int] = set()
        self._kept: list[object] = []

    def digest(self) -> bytes:
        return self._digest.digest()

    def say(self, *parts: object) -> None:
        for part in parts:
            self._digest.update(repr(part).encode())
            self._digest.update(b"\0")

    def shape(self, kind: Any) -> None:
        """The fields of a class, and of what they hold."""
        try:
            pending: list[Any] = [msgspec.inspect.type_info(kind)]
        except (TypeError, NameError):
            self.say(kind)
            return
        for number in range(2_000):
            if not pending:
                return
            info = pending.pop()
            if isinstance(info, msgspec.Struct):
                self.say(number, type(info).__name__)
                pending.extend(getattr(info, name) for name in info.__struct_fields__ if name != "cls")
            elif isinstance(info, tuple):
                self.say(number, len(info))
                pending.extend(info)
            else:
                self.say(number, _plainly(info))

    def add(self, found: Any) -> None:
        """The code of a function or class, and of what it names in its own modules."""
        found = inspect.unwrap(found) if inspect.isfunction(found) else found
        if id(found) in self._seen or len(self._seen) > DEPTH:
            return
        self._seen.add(id(found))
        self._kept.append(found)  # or its id could come again
        if isinstance(found, types.MethodType):
            self.add(found.__func__)
        elif inspect.isfunction(found):
            self._function(found)
        elif isinstance(found, type):
            self._class(found)
        elif isinstance(found, (*_CONSTANTS, Enum)):
            self.say(found)
        elif isinstance(found, dict | list | set):
            self.say(_plainly(found))
        elif isinstance(found, tuple | frozenset):
            self.say(type(found).__name__, len(found))
            for one in found if isinstance(found, tuple) else sorted(found, key=repr):
                self.add(one)

    def _class(self, found: type) -> None:
        self.say(found.__qualname__)
        for base in reversed(found.__mro__):
            if _is_ours(base):
                continue
            for name, member in sorted(vars(base).items()):
                inner = getattr(member, "__func__", member)
                if isinstance(member, property):
                    inner = member.fget
                if inspect.isfunction(inner) and inner.__module__ == base.__module__:
                    self.say(name)
                    self.add(inner)

    def _function(self, found: types.FunctionType) -> None:
        self.say(*map(_plainly, found.__defaults__ or ()), *map(_plainly, (found.__kwdefaults__ or {}).values()))
        names = self._code(found.__code__)
        cells = dict(zip(found.__code__.co_freevars, found.__closure__ or (), strict=True))
        for name in sorted(names):
            if name in cells:
                try:
                    named = cells[name].cell_contents
                except ValueError:  # not bound yet
                    continue
            elif name in found.__globals__:
                named = found.__globals__[name]
            else:
                continue
            if isinstance(named, types.ModuleType) or _is_ours(named) or _is_foreign(named, found):
                self.say(name)
                continue
            self.say(name)
            self.add(named)

    def _code(self, code: types.CodeType) -> set[str]:
        """Say it without names of files and numbers of lines; the names that it uses."""
        names = {*code.co_names, *code.co_freevars}
        self.say(code.co_code, code.co_names, code.co_varnames, code.co_exceptiontable)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names |= self._code(constant)
            else:
                self.say(_plainly(constant))
        return names


def _plainly(value: object) -> object:
    """The same in every process: the order of a set is another in each, and an object's address is."""
    if isinstance(value, frozenset | set):
        return sorted(map(repr, map(_plainly, value)))
    if isinstance(value, tuple | list):
        return [_plainly(one) for one in value]
    if isinstance(value, dict):
        return [(_plainly(key), _plainly(one)) for key, one in value.items()]
    if isinstance(value, Enum):
        return (type(value).__qualname__, value.name)
    if isinstance(value, _CONSTANTS):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _is_ours(found: object) -> bool:
    module = str(getattr(found, "__module__", None))
    return module.partition(".")[0] in ("ensue", "msgspec", "builtins") and not module.startswith("ensue.examples")


def _is_foreign(found: object, named_by: types.FunctionType) -> bool:
    """Whether a function or class is of another distribution than the code that names it: of another top package."""
    if isinstance(found, (*_CONSTANTS, Enum, tuple, frozenset, dict, list, set)):
        return False
    return _top(getattr(found, "__module__", None)) != _top(named_by.__module__)


def _top(module: object) -> str:
    return str(module).partition(".")[0]
