"""How far each beginning of a pattern came: found by looking for shorter patterns with the engine itself.

A pattern `a b c` that finds nothing is looked for as `a`, as `a b`: the longest that is found is the run that came farthest. Of a
step that takes several, and of the parts of a group or of any order, each number is tried as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Any

import msgspec

from ensue.errors import ConditionFailed
from ensue.patterns.checks import Scope
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Skip, Take
from ensue.patterns.engine import Engine
from ensue.patterns.operator import Batch, Found, Operator, Output, Taken, Tooks

__all__ = ["FOREVER", "Reach", "Stream", "entries", "fed", "flat", "order", "reached", "scope_of", "view_of"]

FOREVER = 1 << 62
"""A time, in microseconds, that never comes."""

REPETITIONS = 100
"""Of a step that takes any number, so many are told apart."""


class Stream(msgspec.Struct, frozen=True):
    """The events of one key in their order, of the types that a pattern looks at, and how far time has come (None: to its end)."""

    key: str
    events: tuple[Taken, ...]
    until: int | None = None


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The run of one beginning that came farthest."""

    steps: Mapping[str, Tooks]
    taken: tuple[Taken, ...]
    """In order."""
    at: int
    """The element that it waited for; how many there are if it had all."""
    had: int
    """How many of that element it had taken."""
    waiting: tuple[Element, ...] = ()
    """What could have come next, each of one event."""
    passed: tuple[Element, ...] = ()
    """Absences between what was taken last and what could have come."""


def order(taken: Taken) -> tuple[int, int]:
    """What events are ordered by."""
    return taken.time, taken.position


def flat(tooks: Tooks | Mapping[str, Tooks]) -> Iterator[Taken]:
    """Every event in what was taken."""
    if isinstance(tooks, Taken):
        yield tooks
    elif isinstance(tooks, Mapping):
        for one in tooks.values():
            yield from flat(one)
    elif tooks is not None:
        for one in tooks:
            yield from flat(one)


def entries(elements: Sequence[Element]) -> tuple[Element, ...]:
    """The elements of one event that a sequence can begin with."""
    return _next(elements)[0]


def fed(operator: Operator, stream: Stream, *, over: bool = False) -> list[Output]:
    """What an operator finds in the stream, with `over` also what is certain at the end of it; events for which a condition raises are
    passed over."""
    outputs: list[Output] = []
    events = stream.events
    while events:
        try:
            outputs += operator.take(
                Batch(
                    [one.event for one in events],
                    [one.time for one in events],
                    [one.position for one in events],
                    [stream.key] * len(events),
                )
            )
            break
        except ConditionFailed as error:
            outputs += error.outputs
            at = next(number for number, one in enumerate(events) if one.position == error.position)
            events = events[at + 1 :]
    return outputs + operator.advance(FOREVER if stream.until is None else stream.until) if over else outputs


def reached(definition: Definition, stream: Stream) -> dict[int, Reach]:
    """For each beginning, by its position, the run that came farthest."""
    best: dict[int, Reach] = {}
    before: tuple[Element, ...] = ()
    for at, element in enumerate(definition.elements):
        if not element.absent:
            went = _element(definition, stream, before, at, best)
            if not went and element.low > 0:
                break
        before = (*before, element)
    return best


def _element(
    definition: Definition, stream: Stream, before: tuple[Element, ...], at: int, best: dict[int, Reach]
) -> bool:
    """Look how much of one element is found behind those before it. Whether any run had enough of it."""
    element = definition.elements[at]
    enough = False
    most = REPETITIONS if element.high is None else min(element.high, REPETITIONS)
    for number in range(1, most + 1):
        found = _probe(definition, stream, (*before, _exactly(element, number)))
        if not found:
            if number == 1:
                _parts(definition, stream, before, at, best)
            break
        for one in found:
            taken = tuple(sorted(flat(one.steps), key=order))
            best[taken[0].position] = _reach(definition, one.steps, taken, at, number)
        enough = enough or number >= element.low
    return enough


def _exactly(element: Element, number: int) -> Element:
    return msgspec.structs.replace(element, low=number, high=number, greedy=False)


def _probe(definition: Definition, stream: Stream, elements: tuple[Element, ...]) -> list[Found]:
    """One match of these elements for each beginning."""
    shape = blake2b(definition.fingerprint + repr(elements).encode(), digest_size=16).digest()
    looked_for = msgspec.structs.replace(
        definition,
        elements=elements,
        where=None,
        skip=Skip("next"),
        semantics="ensue",
        lateness=0,
        runs=max(definition.runs, len(stream.events) + 1),
        fingerprint=shape,
    )
    return [one for one in fed(Engine(looked_for), stream) if isinstance(one, Found)]


def _parts(
    definition: Definition, stream: Stream, before: tuple[Element, ...], at: int, best: dict[int, Reach]
) -> None:
    """Where an element of several steps was not found whole: as much of it as is found."""
    element = definition.elements[at]
    smaller: list[tuple[Element, ...]] = []
    if isinstance(element.node, Group):
        inner = element.node.elements
        smaller = [inner[:number] for number in range(1, len(inner)) if not inner[number - 1].absent]
    elif isinstance(element.node, AllOf):
        parts = element.node.elements
        smaller = [some for number in range(1, len(parts)) for some in combinations(parts, number)]
    for some in smaller:
        node = msgspec.structs.replace(element.node, elements=some)
        for one in _probe(definition, stream, (*before, _exactly(msgspec.structs.replace(element, node=node), 1))):
            taken = tuple(sorted(flat(one.steps), key=order))
            waiting = _rest(element, some)
            best[taken[0].position] = Reach(
                steps=one.steps, taken=taken, at=at, had=0, waiting=waiting[0], passed=waiting[1]
            )


def _rest(element: Element, some: Sequence[Element]) -> tuple[tuple[Element, ...], tuple[Element, ...]]:
    """What can come behind some parts of a group or of any order; and the absences before it."""
    assert not isinstance(element.node, Take)
    if isinstance(element.node, AllOf):
        left = [one for one in element.node.elements if one not in some]
        return tuple(leaf for one in left for leaf in _first(one)), ()
    return _next(element.node.elements[len(some) :])


def _reach(definition: Definition, steps: Mapping[str, Tooks], taken: tuple[Taken, ...], at: int, number: int) -> Reach:
    element = definition.elements[at]
    if number < element.low:
        return Reach(steps=steps, taken=taken, at=at, had=number, waiting=tuple(_first(element)))
    waiting, passed = _next(definition.elements[at + 1 :])
    required = (
        place
        for place in range(at + 1, len(definition.elements))
        if definition.elements[place].low > 0 and not definition.elements[place].absent
    )
    return Reach(
        steps=steps,
        taken=taken,
        at=next(required, len(definition.elements)),
        had=0,
        waiting=waiting,
        passed=passed,
    )


def _next(elements: Sequence[Element]) -> tuple[tuple[Element, ...], tuple[Element, ...]]:
    """What can come next of these, and the absences on the way to it."""
    waiting: list[Element] = []
    passed: list[Element] = []
    for element in elements:
        if element.absent:
            passed.append(element)
            continue
        waiting += _first(element)
        if element.low > 0:
            break
    return tuple(waiting), tuple(passed)


def _first(element: Element) -> Iterator[Element]:
    """The elements of one event that an element can begin with."""
    match element.node:
        case Take():
            yield element
        case Choice(elements) | AllOf(elements):
            for one in elements:
                yield from _first(one)
        case Group(elements):
            yield from _next(elements)[0]


# -------------------------------------------------------------------------------------------------- what conditions see


def view_of(pattern: type, elements: Sequence[Element], steps: Mapping[str, Any]) -> Any:
    """A match as far as it has come, as a condition sees it: `self`."""
    view = object.__new__(pattern)
    for element in elements:
        if element.absent:
            continue
        name = element.name.rpartition(".")[2]
        if name in steps:
            view.__dict__[name] = _seen(element, steps[name])
        elif element.low == 0 or element.several:
            view.__dict__[name] = () if element.several else None
    return view


def _seen(element: Element, tooks: Tooks) -> Any:
    if isinstance(tooks, Taken):
        return tooks.event
    if isinstance(tooks, Mapping):
        group = _group(element, tooks)
        return view_of(group.pattern, group.elements, tooks)
    return None if tooks is None else tuple(_seen(element, one) for one in tooks)


def _group(element: Element, steps: Mapping[str, Tooks]) -> Group:
    """The group that took these steps: the element's own, or the one of its parts that has them."""
    if isinstance(element.node, Group):
        return element.node
    assert isinstance(element.node, Choice)
    groups = [one.node for one in element.node.elements if isinstance(one.node, Group)]
    return next(one for one in groups if set(steps) <= {part.name.rpartition(".")[2] for part in one.elements})


def scope_of(definition: Definition, steps: Mapping[str, Tooks], element: Element) -> Scope:
    """What a condition of an element sees when these steps were taken before: of an element in a group, what its round has taken."""
    top, _, below = element.name.partition(".")
    outer = next(one for one in definition.elements if one.name == top)
    if not below or not isinstance(outer.node, Group):
        view: Any = view_of(definition.pattern, definition.elements, steps)
        return Scope(view, vars(view))
    rounds = steps.get(top) or ()
    node, elements, prefix = outer.node, outer.node.elements, f"{top}."
    partial: Mapping[str, Any] = rounds[-1] if isinstance(rounds, tuple) and rounds else {}
    names = {one.name.rpartition(".")[2] for one in elements if not one.absent and one.low > 0}
    if names <= set(partial):  # that round is over
        partial = {}
    view = view_of(node.pattern, elements, partial)
    return Scope(view, vars(view), prefix)
