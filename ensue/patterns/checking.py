"""From a class to its `Definition`: everything that is wrong with a pattern is found here, when it is defined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from hashlib import blake2b
from inspect import iscoroutinefunction
from typing import Any, cast

import msgspec

from ensue.errors import DefinitionError
from ensue.events.fingerprint import fingerprint_of
from ensue.events.message import Event
from ensue.patterns.analysis import cannot_match
from ensue.patterns.automata.flink_automaton import check_flink
from ensue.patterns.declaring import checked_duration, common_key
from ensue.patterns.definition import (
    AllOf,
    Choice,
    Condition,
    Contiguity,
    Definition,
    Element,
    Group,
    Node,
    Skip,
    Take,
    elements_of,
)
from ensue.patterns.tracing import StepSeen, trace

__all__ = ["define"]

CONTIGUITIES = ("strict", "relaxed", "any")


def define(cls: type, **options: Any) -> Definition:
    """The definition of a pattern class. Errors: `DefinitionError`."""
    durations = {
        word: checked_duration(cls.__name__, word, options[word]) for word in ("within", "disorder", "idle", "lateness")
    }
    steps = {name: value for name, value in vars(cls).items() if _is_step(value)}
    if not steps:
        raise DefinitionError(f"{cls.__name__}: a pattern needs a step: order = one(OrderPlaced)")
    for name in steps:
        if name in ("id", "key", "started", "ended", "where"):
            raise DefinitionError(f"{cls.__name__}: a step cannot be called {name!r}: a match has that itself")
    building = _Building(cls.__name__, tuple(steps))
    elements = tuple(building.element(step, name) for name, step in steps.items())
    if elements[0].absent:
        raise DefinitionError(
            f"{cls.__name__}.{elements[0].name}: a pattern cannot begin with an absence: nothing says since when. Begin with the event "
            "after which it is looked for"
        )
    time = options["time"] or ("event" if durations["disorder"] is not None else "log")
    definition = Definition(
        pattern=cls,
        name=options["name"] or cls.__name__,
        elements=elements,
        key_tag=common_key(cls.__name__, _events(Group(elements, cls)), options["key"]),
        within=durations["within"],
        skip=_skip(cls.__name__, elements, options["skip"]),
        where=building.whole(cls),
        time=_one_of(cls.__name__, "time", time, ("log", "event", "processing")),
        disorder=durations["disorder"] or 0,
        idle=durations["idle"] or 0,
        watermark=_one_of(cls.__name__, "watermark", options["watermark"], ("all", "source", "key")),
        lateness=durations["lateness"] or 0,
        runs=options["runs"],
        semantics=_one_of(cls.__name__, "semantics", options["semantics"], ("ensue", "flink")),
    )
    _check_whole(definition, unbounded=options["unbounded"], durations=durations)
    if (reason := cannot_match(definition)) is not None:
        raise DefinitionError(f"{cls.__name__}.{reason}")
    return msgspec.structs.replace(definition, fingerprint=_fingerprint(definition, building.functions))


def _is_step(value: object) -> bool:
    return hasattr(type(value), "where") and hasattr(value, "contiguity")


class _Building:
    """The steps of one class, in order: each sees those before it."""

    def __init__(self, where: str, names: tuple[str, ...], prefix: str = "") -> None:
        self.where, self.names, self.prefix = where, names, prefix
        self.seen: list[StepSeen] = []
        self.functions: list[Callable[..., Any]] = []

    def element(self, step: Any, name: str) -> Element:
        low, high = self._times(step, name)
        path = self.prefix + name
        node = self._node(step, name)
        self._check(step, name, node)
        element = Element(
            name=path,
            node=node,
            contiguity=cast(Contiguity, step.contiguity),
            low=low,
            high=high,
            several=step.several,
            inner=cast(Contiguity, step.inner),
            greedy=step.greedy,
            until=None if step.until is None else self._condition(step.until, step.of, name, sees_match=False),
            within=checked_duration(f"{self.where}.{name}", "within", step.within),
            absent=step.absent,
        )
        if not step.absent:
            self.seen.append(StepSeen(name, _one_event(node), several=step.several))
        return element

    def whole(self, cls: type) -> Condition | None:
        function = vars(cls).get("where")
        if function is None:
            return None
        if not callable(function):
            raise DefinitionError(f"{self.where}.where: a method that says of a complete match whether it is one")
        self.functions.append(function)
        found = trace(function, (), steps=self.seen, all_steps=self.names, what=f"{self.where}.where")
        return Condition(function, sees_match=True, expression=found)

    def _node(self, step: Any, name: str) -> Node:
        if step.kind == "take":
            for event in step.of:
                if not (isinstance(event, type) and issubclass(event, Event)):
                    raise DefinitionError(f"{self.where}.{name}: {event!r} is not a type of event")
            own = StepSeen(name, step.of, several=step.several)
            conditions = tuple(
                self._condition(function, step.of, name, sees_match=sees, own=own) for function, sees in step.conditions
            )
            return Take(step.of, conditions)
        if step.kind == "group":
            return self._group(step, name)
        if len(step.of) < 2:
            raise DefinitionError(f"{self.where}.{name}: {step.kind} is of at least two steps")
        if step.conditions:
            raise DefinitionError(f"{self.where}.{name}: a condition belongs to one of its steps, not to all of them")
        parts: list[Element] = []
        for at, part in enumerate(step.of):
            if not _is_step(part) or part.absent or self._times(part, name)[0] == 0:
                raise DefinitionError(
                    f"{self.where}.{name}: each of its parts takes an event: one(…), several(…) or group(…)"
                )
            if part.contiguity != "relaxed":
                raise DefinitionError(
                    f"{self.where}.{name}: contiguity={part.contiguity!r} of one of its parts; it is of all of them: "
                    f"{step.kind.replace('choice', 'either')}(…, contiguity={part.contiguity!r})"
                )
            seen, self.seen = self.seen, list(self.seen)  # they do not see each other
            parts.append(self.element(part, f"{name}.{at}"))
            self.seen = seen
        return Choice(tuple(parts)) if step.kind == "choice" else AllOf(tuple(parts))

    def _group(self, step: Any, name: str) -> Group:
        (pattern,) = step.of
        own: Any = getattr(pattern, "__ensue_pattern__", None)
        if own is None:
            raise DefinitionError(f"{self.where}.{name}: a group is of a pattern class: group(Round)")
        steps = {one: value for one, value in vars(pattern).items() if _is_step(value)}
        building = _Building(f"{self.where}.{name}", tuple(steps), f"{self.prefix}{name}.")
        elements = tuple(building.element(value, one) for one, value in steps.items())
        if elements[0].absent or elements[-1].absent:
            raise DefinitionError(
                f"{self.where}.{name}: an absence at the edge of a group has no event to end it; put it beside the group"
            )
        if all(element.low == 0 for element in elements):
            raise DefinitionError(
                f"{self.where}.{name}: every step of the group is optional, so that it may take nothing"
            )
        if "where" in vars(pattern):
            raise DefinitionError(
                f"{self.where}.{name}: a group has no where(self) of its own; put it on the whole pattern"
            )
        self.functions += building.functions
        return Group(elements, pattern)

    def _condition(
        self,
        function: Callable[..., Any],
        events: tuple[type, ...],
        name: str,
        *,
        sees_match: bool,
        own: StepSeen | None = None,
    ) -> Condition:
        if not callable(function) or iscoroutinefunction(function):
            raise DefinitionError(
                f"{self.where}.{name}: {function!r} is no condition; give a plain function: lambda p: p.amount < 2"
            )
        self.functions.append(function)
        steps = [*self.seen, *([own] if own is not None and own.several else [])] if sees_match else None
        shown = getattr(function, "__name__", repr(function))
        what = f"{self.where}.{name}" + ("" if shown == "<lambda>" else f", {shown}")
        found = trace(function, events, steps=steps, all_steps=self.names, what=what)
        if found is not None and self.prefix:
            found = _qualified(found, self.prefix)
        return Condition(function, sees_match, found)

    def _times(self, step: Any, name: str) -> tuple[int, int | None]:
        low, high = step.times if isinstance(step.times, tuple) else (step.times, step.times)
        whole = type(low) is int and (high is None or type(high) is int)
        if not whole or low < 0 or (high is not None and (high < low or high == 0)):
            raise DefinitionError(
                f"{self.where}.{name}: times={step.times!r}; give a number from 1, or at least and at most: times=(2, 5), "
                "times=(3, None)"
            )
        return low, high

    def _check(self, step: Any, name: str, node: Node) -> None:
        for word in ("contiguity", "inner"):
            _one_of(f"{self.where}.{name}", word, getattr(step, word), CONTIGUITIES)
        if step.until is not None and step.times == 1:
            raise DefinitionError(f"{self.where}.{name}: until= ends a step that takes several events")
        if step.contiguity != "relaxed" and name == self.names[0]:
            raise DefinitionError(
                f"{self.where}.{name}: contiguity={step.contiguity!r} is to the event before, and it is the first step"
            )
        if step.absent and step.contiguity == "any":
            raise DefinitionError(f"{self.where}.{name}: an absence is strict or relaxed")


def _qualified(expression: Any, prefix: str) -> Any:
    """The same, with the steps it reads by their paths."""
    if isinstance(expression, msgspec.Struct):
        changes = {
            field: _qualified(value, prefix) if field != "step" else prefix + cast(str, value)
            for field, value in ((field, getattr(expression, field)) for field in expression.__struct_fields__)
            if field not in ("value", "type") or isinstance(value, msgspec.Struct)
        }
        return msgspec.structs.replace(expression, **changes)
    if isinstance(expression, tuple):
        return tuple(_qualified(one, prefix) for one in expression)
    return expression


def _one_event(node: Node) -> tuple[type[Event], ...]:
    """The types of what a step takes, where that is events and not groups or parts of them."""
    if isinstance(node, Choice):
        plain = all(isinstance(part.node, Take) and not part.several for part in node.elements)
        return _events(node) if plain else ()
    return node.events if isinstance(node, Take) else ()


def _events(node: Node) -> tuple[type[Event], ...]:
    if isinstance(node, Take):
        return node.events
    return tuple(dict.fromkeys(event for element in node.elements for event in _events(element.node)))


def _one_of(where: str, word: str, given: Any, known: tuple[str, ...]) -> Any:
    if given not in known:
        raise DefinitionError(f"{where}: {word}={given!r}; it is one of {', '.join(map(repr, known))}")
    return given


def _skip(where: str, elements: tuple[Element, ...], given: Any) -> Skip:
    if isinstance(given, str):
        return Skip(_one_of(where, "skip", given, ("next", "past_last", "none")))
    if not isinstance(given, Skip):
        raise DefinitionError(
            f"{where}: skip={given!r}; it is 'next', 'past_last', 'none', to_first('step') or to_last('step')"
        )
    if given.step not in [element.name for element in elements if not element.absent]:
        raise DefinitionError(
            f"{where}: skip to {given.step!r}, which is no step that takes events; those are: "
            f"{', '.join(element.name for element in elements if not element.absent)}"
        )
    return given


def _check_whole(definition: Definition, *, unbounded: bool, durations: dict[str, int | None]) -> None:
    where = definition.name
    if definition.semantics == "flink":
        check_flink(definition)
    if type(definition.runs) is not int or definition.runs < 1:
        raise DefinitionError(f"{where}: runs={definition.runs!r}; how many beginnings of one key may wait, from 1")
    if definition.time == "log" and (durations["disorder"] or durations["lateness"] or durations["idle"]):
        raise DefinitionError(
            f"{where}: in the order of the log nothing is late: disorder=, idle= and lateness= are for time='event'"
        )
    if definition.elements[0].within is not None and definition.elements[0].high == 1:
        raise DefinitionError(
            f"{where}.{definition.elements[0].name}: within= is since the event before, and it is the first step"
        )
    _check_steps(definition)
    if definition.horizon is None and not unbounded:
        raise DefinitionError(
            f"{where}: nothing bounds how long it waits, so its state grows without end: give within=, to the pattern or to each of "
            "its steps; or say unbounded=True, as for a pattern that is only part of others, in group(…)"
        )


def _check_steps(definition: Definition) -> None:
    where, within = definition.name, definition.within
    if all(element.low == 0 or element.absent for element in definition.elements):
        raise DefinitionError(f"{where}: no step must take an event, so that it would match nothing at all")
    for element in elements_of(definition.elements):
        if within is not None and element.within is not None and element.within > within:
            raise DefinitionError(
                f"{where}.{element.name}: within={timedelta(microseconds=element.within)} is longer than the whole pattern's "
                f"{timedelta(microseconds=within)}, so it says nothing"
            )
    last = next((one for one in reversed(definition.elements) if one.low > 0 and not one.absent), None)
    for element in definition.elements[definition.elements.index(last) if last is not None else 0 :]:
        if element.absent and element.contiguity == "relaxed" and within is None and element.within is None:
            raise DefinitionError(
                f"{where}.{element.name}: an absence at the end needs a time after which it is certain: within=minutes(15)"
            )


def _fingerprint(definition: Definition, functions: list[Callable[..., Any]]) -> bytes:
    said = msgspec.structs.replace(definition, pattern=object, where=None)
    shown = repr(_shape(said)).encode()
    return blake2b(shown + fingerprint_of((), functions, definition.events), digest_size=16).digest()


def _shape(of: object) -> object:
    """What of a definition is data, without the functions."""
    if isinstance(of, Condition):
        return ("condition", of.sees_match, repr(of.expression))
    if isinstance(of, msgspec.Struct):
        return (type(of).__name__, *((field, _shape(getattr(of, field))) for field in of.__struct_fields__))
    if isinstance(of, tuple):
        return tuple(_shape(one) for one in of)
    return f"{of.__module__}.{of.__qualname__}" if isinstance(of, type) else repr(of)
