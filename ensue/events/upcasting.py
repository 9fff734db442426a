"""What leads from a version that was written to what the code knows now: upcasters, and splits of types that are gone.

    @upcast(OrderPlaced, version=1)
    def add_currency(old: Fields) -> Fields:
        return {**old, "currency": "GBP"}

    @upcast("MoneyMoved", version=1)
    def split(old: Fields) -> Iterator[Debited | Credited]:
        yield Debited(account_id=old["source"], amount=Decimal(old["amount"]))
        yield Credited(account_id=old["target"], amount=Decimal(old["amount"]))

A chain only ever goes on: the steps of a former name first, each to a higher version, then those of the present type, each to
the next. So it ends, whatever is declared. A split ends it: its events are of types of today, and no upcaster follows.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.message import Event, declaration

__all__ = ["Fields", "Parts", "Step", "Upcaster", "chain", "led_on", "splits", "upcast", "upcasters_of"]

Fields: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = Callable[[Fields], Fields] | Callable[[Fields], Iterable[Event]]
U = TypeVar("U", bound=Upcaster)


class Parts(msgspec.Struct, frozen=True):
    """What an event of a type that is gone has become, in the order in which its upcaster gave them."""

    events: tuple[Event, ...]


class Step:
    """One upcaster: from a version of a name to the version `to`, or to `parts`."""

    def __init__(
        self, name: str, version: int, to: int | None, function: Upcaster, local_names: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.version = version
        self.to = to or version + 1
        self.leaves = to is not None
        """It leads to a version of the present type, and not to one of its own name."""
        self.function = function
        self._local_names = local_names
        self._parts: tuple[type[Event], ...] | None = None
        self._looked = False

    def __str__(self) -> str:
        return f"the upcaster {getattr(self.function, '__qualname__', self.function)!s} of {self.name} version {self.version}"

    @property
    def parts(self) -> tuple[type[Event], ...] | None:
        """The types of which its events are; None where it leads to fields. Errors: `DefinitionError`."""
        if not self._looked:
            self._parts = self._declared_parts()
            self._looked = True
        return self._parts

    def _declared_parts(self) -> tuple[type[Event], ...] | None:
        hint = getattr(self.function, "__annotations__", {}).get("return")
        if isinstance(hint, str):
            names = {**getattr(self.function, "__globals__", {}), **self._local_names}
            try:
                hint = typing.get_type_hints(types.SimpleNamespace(__annotations__={"return": hint}), names)["return"]
            except NameError as error:
                raise DefinitionError(f"{self}: its return annotation {hint!r} cannot be resolved: {error}") from error
        origin = typing.get_origin(hint)
        if hint is None or not (isinstance(origin, type) and issubclass(origin, Iterable)) or origin is dict:
            return None
        inner = tuple(one for one in typing.get_args(hint) if one is not Ellipsis)
        found: list[Any] = []
        for one in inner:
            union = typing.get_origin(one) in (typing.Union, types.UnionType)
            found.extend(typing.get_args(one) if union else (one,))
        if not any(isinstance(one, type) and issubclass(one, Event) for one in found):
            return None
        if any(one is Event or not (isinstance(one, type) and issubclass(one, Event)) for one in found):
            raise DefinitionError(
                f"{self} returns {hint}: say which types the events are of, so that whoever reads one of them finds it: "
                "-> Iterator[Debited | Credited]"
            )
        return tuple(found)


_steps: dict[tuple[type[Event] | str, int], Step] = {}
_named: dict[str, dict[int, Step]] = {}
"""Those that were declared for a name, by name and version."""


def upcast(event: type[Event] | str, /, *, version: int, to: int | None = None) -> Callable[[U], U]:
    """The decorated function turns the fields of `version` into those of the next one.

    For an event type; or for a name that no type has any more: a former name of a type (`was=`), or that of a type which has
    become others. For a former name, `to` says which version of the present type the fields are of, where that is not the
    next: several types that become one each have versions of their own. A function for the name of a type that has become
    others returns events instead, and says of which types: `-> Iterator[Debited | Credited]`.

    It is a pure function: the same fields give the same result, in every process, for ever.
    Errors: `DefinitionError` for a second one of the same version.
    """
    name = event if isinstance(event, str) else declaration(event).name
    if type(version) is not int or version < 1 or (to is not None and (type(to) is not int or to < 1)):
        raise DefinitionError(f"{name}: @upcast(version={version!r}, to={to!r}); versions are whole numbers from 1")
    if to is not None and not isinstance(event, str):
        raise DefinitionError(
            f"{name}: @upcast({event.__name__}, to={to}); a version of a type leads to the next. to= is for former names, "
            "whose versions are others'"
        )
    local_names = sys._getframe(1).f_locals

    def register(function: U) -> U:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(f"{name} version {version}: an upcaster is a plain function; it waits for nothing")
        step = Step(name, version, to, function, local_names)
        if _steps.setdefault((event, version), step).function is not function:
            raise DefinitionError(f"{name} version {version} has two upcasters; one version leads to one next version")
        if isinstance(event, str):
            _named.setdefault(event, {}).setdefault(version, step)
        return function

    return register


def splits() -> Iterator[tuple[str, tuple[type[Event], ...]]]:
    """The names of types that have become others, and which. Errors: `DefinitionError`."""
    for name, steps in _named.items():
        found = [part for step in steps.values() for part in step.parts or ()]
        if found:
            yield name, tuple(dict.fromkeys(found))


def upcasters_of(events: Iterable[type[Event]]) -> list[Step]:
    """All steps that lead to one of these types, under any of its names or as parts, in one order. Errors: `DefinitionError`."""
    found: list[Step] = []
    wanted = tuple(dict.fromkeys(events))
    for event in sorted(wanted, key=lambda event: (declaration(event).name, event.__module__)):
        declared = declaration(event)
        names: list[type[Event] | str] = [event, declared.name, *declared.was]
        for known in names:
            numbers = sorted(number for name, number in _steps if name == known)
            found.extend(_steps[known, number] for number in numbers)
    for name in sorted(_named):
        parts = tuple(part for step in _named[name].values() for part in step.parts or ())
        if parts and any(issubclass(event, parts) for event in wanted):
            found.extend(step for _, step in sorted(_named[name].items()))
    return found


def chain(name: str, version: int, event: type[Event] | None) -> list[Step]:
    """The steps from a stored version of a name to the present type `event`, or for a name that no type has to its parts; none
    for a name about which nothing is declared. Errors: `UnreadableEvent` for a version from which nothing leads there."""
    return _chain_of_gone(name, version) if event is None else _chain_to(event, name, version)


def _chain_to(event: type[Event], name: str, version: int) -> list[Step]:
    declared = declaration(event)
    steps: list[Step] = []
    own = _named.get(name, {}) if name != declared.name else {}
    while version in own:
        step = own[version]
        if step.parts is not None:
            raise DefinitionError(
                f"{step} returns events, and {name} is a former name of {declared.name}: a type becomes one other or "
                f"several. Take {name!r} out of was=, or return fields"
            )
        steps.append(step)
        version = step.to
        if step.leaves:
            break
    if version > declared.version:
        if name == declared.name:
            raise UnreadableEvent(
                f"{name} was written in version {version}, this code knows versions up to {declared.version}: newer code is "
                "running beside it. Deploy that code here, too."
            )
        written = steps[-1].version if steps else version
        raise UnreadableEvent(
            f"{name} version {written} is in the log, and {declared.name}, which it is called now, has versions up to "
            f'{declared.version}: say which its fields lead to, @upcast("{name}", version={written}, to={declared.version})'
        )
    for number in range(version, declared.version):
        step_on = _steps.get((event, number)) or _steps.get((declared.name, number))
        if step_on is None:
            raise UnreadableEvent(
                f"{name} version {number} is in the log, and nothing leads from it to version {number + 1}: "
                f"declare @upcast({declared.name}, version={number})"
            )
        if step_on.parts is not None:
            raise DefinitionError(
                f"{step_on} returns events, and {declared.name} is a type of this code: only one that is gone becomes others. "
                f'Give the class another name="…", and declare @upcast("{declared.name}", version={number}) for the former'
            )
        steps.append(step_on)
    return steps


def _chain_of_gone(name: str, version: int) -> list[Step]:
    own = _named.get(name, {})
    steps: list[Step] = []
    at = version
    while at in own:
        steps.append(own[at])
        if own[at].parts is not None:
            return steps
        if own[at].to <= at:
            raise UnreadableEvent(
                f"{own[at]} leads back to version {own[at].to}, and {name} is no type of this code any more"
            )
        at = own[at].to
    if any(step.parts is not None for step in own.values()):
        raise UnreadableEvent(
            f"{name} version {version} is in the log, and nothing leads from version {at} to the events that {name} has "
            f'become: declare @upcast("{name}", version={at})'
        )
    return []


def led_on(steps: list[Step], fields: Fields) -> Fields | tuple[Event, ...]:
    """Fields through steps, to the last one's fields or events. Errors: `UnreadableEvent`, naming the step."""
    found: Any = fields
    for step in steps:
        parts = step.parts
        try:
            found = step.function(found)
            if parts is not None:
                found = tuple(found)
        except Exception as error:
            raise UnreadableEvent(f"{step} raised {type(error).__name__}: {error}") from error
        if parts is not None:
            wrong = next((one for one in found if not isinstance(one, parts)), None)
            if wrong is not None:
                known = " or ".join(one.__name__ for one in parts)
                raise UnreadableEvent(
                    f"{step} gave a value of type {type(wrong).__name__}, and says that it gives {known}"
                )
        elif not isinstance(found, dict):
            hint = " To become events, it says which: -> Iterator[Debited | Credited]" if _are_events(found) else ""
            raise UnreadableEvent(
                f"{step} returned a value of type {type(found).__name__}, not the next version's fields.{hint}"
            )
    return typing.cast("Fields | tuple[Event, ...]", found)


def _are_events(found: object) -> bool:
    return isinstance(found, Event) or (isinstance(found, Iterable) and not isinstance(found, str | bytes))
