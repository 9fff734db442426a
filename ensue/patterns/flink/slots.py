"""A pattern as a row of slots, each of which takes one event or loops over several: the shape that MATCH_RECOGNIZE can say.

What follows a slot is either its own repetition or the next slots up to the first that must take something. From each slot on, only
one way through the events may lead to the first complete candidate; where several could, the pattern is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from ensue.patterns.analysis import takes_exclude
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take, elements_of
from ensue.patterns.expressions import Expression, reads
from ensue.patterns.flink.columns import Gathering, Refused, refused

__all__ = ["COPIES", "Part", "Slot", "after", "excluded", "expression_of", "slots_of"]

COPIES = 12
"""So many variables one step may become; more of them make Flink's plan slow to compile."""


class Part(msgspec.Struct, frozen=True):
    """What a slot may take, and as which step."""

    name: str
    take: Take

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Its conditions. Errors: `Refused` for one that is opaque."""
        return tuple(expression_of(one, self.name) for one in self.take.conditions)

    @property
    def unary(self) -> bool:
        """Whether it can be decided on the event alone."""
        return not any(reads(one) for one in self.expressions)


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One variable. `step` is the name of the element at the top that it belongs to, `at` its number in it."""

    number: int
    step: str
    at: int
    parts: tuple[Part, ...]
    kind: Literal["one", "merged", "strict"] = "one"
    """One event; several with what is between them; several without anything between them."""
    low: int = 1
    optional: bool = False
    strict: bool = False
    within: int | None = None
    absences: tuple[Element, ...] = ()
    """Of these none comes between the event before and this one."""
    element: Element
    siblings: int = 0
    """Of any order: how many slots before this one belong to it."""
    repeats: bool = False
    """It is a repetition: only after the one before it."""

    @property
    def variable(self) -> str:
        """What it is called in SQL."""
        return f"E{self.number}"

    @property
    def gap(self) -> str:
        """What is between it and the next is called."""
        return f"G{self.number}"


def expression_of(condition: object, where: str) -> Expression:
    """What a condition computes. Errors: `Refused`."""
    expression: Expression | None = getattr(condition, "expression", None)
    if expression is None:
        raise refused(
            f"{where}: its condition is opaque, a function that could not be read",
            "write it with comparisons, and, or, not and arithmetic of fields and constants alone",
        )
    return expression


def slots_of(definition: Definition) -> tuple[tuple[Slot, ...], tuple[Element, ...]]:
    """The slots, and the absences behind the last one. Errors: `Refused`, for all that is wrong with the steps one by one; if nothing is,
    for all that is wrong with them together."""
    building = _Building()
    reasons = Gathering()
    for element in definition.elements:
        with reasons.each():
            building.absence(element) if element.absent else building.element(element)
        if not element.absent:
            building.absences = []
    for element in elements_of(definition.elements):
        for condition in element.node.conditions if isinstance(element.node, Take) else ():
            with reasons.each():
                expression_of(condition, element.name)
        if element.until is not None:
            with reasons.each():
                expression_of(element.until, f"{element.name}, until")
    if definition.where is not None:
        with reasons.each():
            expression_of(definition.where, "where(self)")
    reasons.tell()
    slots, ending = tuple(building.slots), tuple(building.absences)
    for found in (*_at_the_end(slots, ending), *_on_the_ways(slots, definition)):
        reasons.add(found)
    reasons.tell()
    return slots, ending


def excluded(one: Slot, other: Slot) -> bool:
    """Whether it is certain that no event can be taken by both."""
    return all(takes_exclude(mine.take, its.take) for mine in one.parts for its in other.parts)


def after(slots: Sequence[Slot], slot: Slot) -> tuple[Slot, ...]:
    """The slots that may take the next event behind this one."""
    found: list[Slot] = []
    for one in slots[slot.number + 1 :]:
        if one.repeats and one.step == slot.step and one.number > slot.number + 1:
            continue  # only behind the repetition before it
        if one.repeats and one.step != slot.step and found and found[-1].step == one.step:
            continue
        found.append(one)
        if not one.optional:
            break
    return tuple(found)


class _Building:
    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.absences: list[Element] = []

    def absence(self, element: Element) -> None:
        if not isinstance(element.node, Take):
            raise refused(f"{element.name}: an absence of more than an event", "absent(…) of one event type")
        if self.slots and self._varies(self.slots[-1]):
            raise refused(
                f"{element.name}: an absence behind {self.slots[-1].step}, which takes a varying number",
                "an exact number, times=3",
            )
        self.absences.append(element)

    def _varies(self, slot: Slot) -> bool:
        return slot.kind != "one" or slot.optional

    def element(self, element: Element) -> None:
        inside = element.inner if element.high != 1 or isinstance(element.node, AllOf) else "relaxed"
        for word in (element.contiguity, inside):
            if word == "any":
                raise refused(
                    f'{element.name}: contiguity "any" finds several matches for one beginning, MATCH_RECOGNIZE one',
                    'contiguity "relaxed"',
                )
        match element.node:
            case Take():
                self._repeated(element, (Part(element.name, element.node),))
            case Choice(parts):
                self._repeated(element, tuple(_part(one) for one in parts))
            case AllOf(parts):
                self._any_order(element, tuple(_part(one) for one in parts))
            case Group():
                raise refused(
                    f"{element.name}: MATCH_RECOGNIZE has no groups", "write its steps out, one after the other"
                )

    def _add(self, element: Element, parts: tuple[Part, ...], at: int, **more: object) -> None:
        first = at == 0
        given: dict[str, object] = {
            "strict": (element.contiguity if first else element.inner) == "strict" and (bool(self.slots) or not first),
            "within": element.within,
            "absences": tuple(self.absences) if first else (),
            **more,
        }
        self.slots.append(
            Slot(number=len(self.slots), step=element.name, at=at, parts=parts, element=element, **given)  # type: ignore[arg-type]
        )

    def _repeated(self, element: Element, parts: tuple[Part, ...]) -> None:
        low, high = element.low, element.high
        varies = low != high
        if varies and element.low == 0 and self.absences:
            raise refused(f"{element.name}: an absence before a step that may take nothing", "an exact number, times=1")
        if varies and not element.greedy:
            raise refused(f"{element.name}: a step that is not greedy", "greedy=True, or an exact number")
        if high is not None and high <= COPIES:
            if element.until is not None and varies:
                raise refused(f"{element.name}: until= on a step with a range", "no upper bound, or an exact number")
            for at in range(high):
                self._add(element, parts, at, optional=at >= low, repeats=at > 0)
            return
        if high is not None and element.inner != "strict":
            raise refused(
                f"{element.name}: up to {high} events, where {COPIES} variables are the most",
                "a smaller number, or no upper bound",
            )
        if low == 0:
            raise refused(f"{element.name}: any number, also none", "times=(1, None)")
        if element.inner == "strict":
            if high is not None:
                raise refused(f"{element.name}: up to {high} events", f"at most {COPIES}, or no upper bound")
            self._add(element, parts, 0, kind="strict", low=low)
            return
        if not all(part.unary for part in parts):
            raise refused(
                f"{element.name}: how many it takes has no upper bound, others may come between them, and its condition looks at "
                "earlier events",
                f'an upper bound of at most {COPIES}, or inner="strict"',
            )
        if element.within is not None:
            raise refused(
                f"{element.name}: within= for each of any number of events",
                "an upper bound, or within= of the whole pattern",
            )
        self._add(element, parts, 0, kind="merged", low=low)

    def _any_order(self, element: Element, parts: tuple[Part, ...]) -> None:
        if element.low != 1 or element.high != 1:
            raise refused(f"{element.name}: steps in any order, several times", "once")
        for at, one in enumerate(parts):
            for other in parts[at + 1 :]:
                if not takes_exclude(one.take, other.take):
                    raise refused(
                        f"{element.name}: an event may be taken as {one.name} or as {other.name}, and which of them leads to a match "
                        "is not known then",
                        "conditions that exclude each other, such as different event types",
                    )
        for at in range(len(parts)):
            self._add(element, parts, at, siblings=at)


def _part(element: Element) -> Part:
    plain = element.low == 1 and element.high == 1 and element.within is None and element.until is None
    if not isinstance(element.node, Take) or not plain:
        raise refused(f"{element.name}: a part that is more than one event", "one(…) for each part")
    return Part(element.name, element.node)


def _at_the_end(slots: Sequence[Slot], ending: Sequence[Element]) -> Iterator[Refused]:
    last = slots[-1]
    if slots[0].optional:
        yield refused(
            f"{slots[0].step}: a pattern that begins with a step that may take nothing", "begin with the step behind it"
        )
    if last.kind != "one" or last.optional:
        yield refused(
            f"{last.step}: at the end it takes all until its time is over, which MATCH_RECOGNIZE cannot wait for",
            "an exact number, times=3, or a step behind it",
        )
    if not ending:
        return
    if any(slot.kind != "one" or slot.optional for slot in slots):
        yield refused(
            f"{ending[0].name}: an absence at the end, behind steps that take a varying number",
            "exact numbers, times=3",
        )
    if len({one.within for one in ending}) > 1:
        yield refused(f"{ending[-1].name}: absences at the end that last differently long", "the same within= for them")
    for one in ending:
        if one.contiguity == "strict":
            yield refused(f"{one.name}: a strict absence at the end", "a relaxed one, with within=")


def _on_the_ways(slots: Sequence[Slot], definition: Definition) -> Iterator[Refused]:
    """What is in the way of this: that of all ways through the events, taking what can be taken leads to the first complete candidate."""
    last = slots[-1]
    for slot in slots:
        ways = [*after(slots, slot), *((slot,) if slot.kind != "one" else ())]
        for at, one in enumerate(ways):
            for other in ways[at + 1 :]:
                if last in (one, other) or one.step == other.step:
                    continue  # whoever completes comes first
                if not excluded(one, other):
                    yield refused(
                        f"{one.step}, {other.step}: an event may be taken by either, and which of them leads to a match is not known then",
                        "conditions that exclude each other, such as different event types",
                    )
    order = list(dict.fromkeys(slot.step for slot in slots))
    varying = {slot.step: slot.number for slot in slots if slot.kind != "one" or slot.optional}
    if varying and definition.where is not None:
        yield refused(
            "where(self), beside steps that take a varying number", "the condition on the last step: @last.where"
        )
    if varying and definition.skip.to == "none":
        yield refused('skip="none", beside steps that take a varying number', 'skip="next"')
    for step, end in varying.items():
        since = set(order[order.index(step) :])
        for slot in slots[end + 2 :]:
            seen = {name for part in slot.parts for one in part.expressions for name in reads(one)}
            if slot.strict or slot.within is not None or slot.absences or seen & since:
                yield refused(
                    f"{slot.step}: behind {step}, which takes a varying number, a later step is strict, has within=, an absence before "
                    "it, or looks at what was taken since; which number leads to a match is not known then",
                    f"an exact number for {step}",
                )
