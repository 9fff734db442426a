"""A pattern as data, checked: what the engine, the compiler, SQL and people read. Made from a class by `ensue.patterns.language`.

A pattern is a sequence of elements. An element takes what its node says, `low` to `high` times; a node is one event (`Take`), a
sequence of elements (`Group`), one of several elements (`Choice`) or each of several in any order (`AllOf`). What each means is
in docs/decisions/0030-what-a-pattern-means.md. Durations and times are microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import msgspec

from ensue.events.message import Event
from ensue.patterns.expressions import Expression

__all__ = [
    "AllOf",
    "Choice",
    "Condition",
    "Contiguity",
    "Definition",
    "Element",
    "Group",
    "Node",
    "Skip",
    "Take",
    "TimeOf",
    "elements_of",
    "takes",
]

Contiguity: TypeAlias = Literal["strict", "relaxed", "any"]
"""How an event may follow the one before it: at once; as the first that can be taken; as any that can be taken."""
TimeOf: TypeAlias = Literal["log", "event", "processing"]


class Skip(msgspec.Struct, frozen=True):
    """Which matches a match rules out, of those that are complete later: see the decision record."""

    to: Literal["next", "past_last", "none", "first", "last"] = "next"
    step: str | None = None
    """With `first` and `last`: the step whose first or last event is meant."""


class Condition(msgspec.Struct, frozen=True):
    """What must hold for an event to be taken. `function` takes the event, or with `sees_match` the match so far and the event."""

    function: Callable[..., object]
    sees_match: bool
    expression: Expression | None
    """What the function computes; None: it is opaque, and must be called."""


class Take(msgspec.Struct, frozen=True):
    """One event of these types (or subclasses) for which all conditions hold, in their order."""

    events: tuple[type[Event], ...]
    conditions: tuple[Condition, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """Elements in order. `pattern` is the class whose instances are what was taken."""

    elements: tuple[Element, ...]
    pattern: type


class Choice(msgspec.Struct, frozen=True):
    """One of these elements."""

    elements: tuple[Element, ...]


class AllOf(msgspec.Struct, frozen=True):
    """Each of these elements once, in any order."""

    elements: tuple[Element, ...]


Node: TypeAlias = Take | Group | Choice | AllOf


class Element(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `name` is its path: `large`, `rounds.wrong`, and for parts of a choice or of any order `end.0`."""

    name: str
    node: Node
    contiguity: Contiguity = "relaxed"
    """To the event that was taken before."""
    low: int = 1
    high: int | None = 1
    several: bool = False
    """What was taken reads as a sequence, also where it is one event."""
    inner: Contiguity = "relaxed"
    """Between its own repetitions."""
    greedy: bool = True
    """Take as many as can be taken. Else any number in its range will do."""
    until: Condition | None = None
    within: int | None = None
    """Each of its events comes less than so long after the event that was taken before it. Of an absence: how long it lasts."""
    absent: bool = False
    """No such event: before the next that is taken, or before the deadline where none is taken any more."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A whole pattern."""

    pattern: type
    name: str
    elements: tuple[Element, ...]
    key_tag: str | None = None
    """The tag that is the key; None: each event's own; "": one key for all events."""
    within: int | None = None
    """The last event comes less than so long after the first."""
    skip: Skip = Skip()
    where: Condition | None = None
    """What must hold of the whole match; `sees_match`, without an event."""
    time: TimeOf = "log"
    disorder: int = 0
    idle: int = 0
    watermark: Literal["all", "source", "key"] = "all"
    lateness: int = 0
    """So long a late event corrects matches that were given."""
    runs: int = 10_000
    """At most so many runs of one key live; beyond, the oldest is given up."""
    semantics: Literal["ensue", "flink"] = "ensue"
    fingerprint: bytes = b""
    """The same while the pattern means the same. State of another fingerprint is built anew."""

    @property
    def events(self) -> tuple[type[Event], ...]:
        """Every event type that any step names."""
        return tuple(dict.fromkeys(event for one in elements_of(self.elements) for event in takes(one)))

    @property
    def horizon(self) -> int | None:
        """How long a run lives at most; None where nothing bounds it."""
        if self.within is not None:
            return self.within
        return _sequence_span(self.elements, first=True)


def _sequence_span(elements: tuple[Element, ...], *, first: bool) -> int | None:
    """How long a sequence takes at most; `first`: its first event has none before it."""
    needed = max((at for at, one in enumerate(elements) if one.low > 0 and not one.absent), default=-1)
    spans = [_span(element, first=first and at == 0) for at, element in enumerate(elements)]
    if any(one.absent and one.within is None for one in elements[needed + 1 :]):
        return None  # no event ends this absence
    return None if None in spans else sum(span for span in spans if span is not None)


def _span(element: Element, *, first: bool) -> int | None:
    if element.absent:
        return element.within or 0
    first = first and (element.high == 1 or isinstance(element.node, Take))
    match element.node:
        case Take():
            if first and element.high == 1:
                return 0
            once = element.within
        case Group(elements):
            once = _sequence_span(elements, first=first)
        case Choice(elements) | AllOf(elements):
            several = isinstance(element.node, AllOf)
            spans = [_span(part, first=first and not several) for part in elements]
            known = [span for span in spans if span is not None]
            once = None if len(known) < len(spans) else sum(known) if several else max(known)
    return None if once is None or element.high is None else once * element.high


def elements_of(elements: tuple[Element, ...]) -> Iterator[Element]:
    """All elements, also those within others, in order."""
    for element in elements:
        yield element
        if not isinstance(element.node, Take):
            yield from elements_of(element.node.elements)


def takes(element: Element) -> tuple[type[Event], ...]:
    """The event types that an element itself takes, or forbids; with those of its `until`, which are the same."""
    return element.node.events if isinstance(element.node, Take) else ()
