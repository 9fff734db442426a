"""What runs have taken: a chain from the last event to the first, shared by all runs that have a beginning in common.

From a chain comes what each step took, in the form in which `Found.steps` has it, and the same as far as a condition
may see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.patterns.automata.automaton import Automaton, Leaf, Move, Stage
from ensue.patterns.definition import AllOf, Choice, Element, Group, Take
from ensue.patterns.operator import Taken, Tooks
from ensue.patterns.searching.registers import Values

__all__ = ["Beginning", "Link", "Reader", "Run", "earlier_preferred", "seen_by", "steps_of"]


class Link:
    """An event that was taken, by which move, and what was taken before it."""

    __slots__ = ("before", "count", "first", "move", "steps", "taken", "values")

    def __init__(self, before: Link | None, move: Move, taken: Taken, values: Values) -> None:
        self.before = before
        self.move = move
        self.taken = taken
        self.values = values
        """The registers of the conditions."""
        self.count: int = 1 if before is None else before.count + 1
        self.first: Taken = taken if before is None else before.first
        self.steps: dict[str, Tooks] | None = None
        """What each step took up to here, where a `Reader` has kept it."""

    def all(self) -> list[Link]:
        """From the first to this one."""
        links: list[Link] = []
        link: Link | None = self
        while link is not None:
            links.append(link)
            link = link.before
        links.reverse()
        return links


class Run:
    """Events taken, and a stage to wait at. It is never changed, but replaced."""

    __slots__ = ("due", "end", "end_due", "ended", "fresh", "guards", "link", "open", "stage", "whole")

    def __init__(
        self,
        stage: Stage,
        link: Link,
        open_: int,
        *,
        fresh: bool = True,
        ended: bool = False,
        end: int | None = None,
        guards: int = 0,
        whole: bool = False,
    ) -> None:
        self.stage = stage
        self.link = link
        self.open = open_
        """The moves, by their bits, that are still possible."""
        self.fresh = fresh
        """No event came since the last that was taken."""
        self.ended = ended
        """Its element's `until` has held."""
        self.end = end
        """The absences that are not certain yet, by their bits; None: it cannot be complete here any more, or has been."""
        self.guards = guards
        """Of the end: greedy elements, by their bits, that could still take something."""
        self.whole = whole
        """It has been complete here."""
        self.end_due: int | None = None
        self.due: int | None = None

    def left(self, open_: int, fresh: bool, ended: bool, end: int | None, guards: int, whole: bool) -> Run:
        """The same, behind an event that it has left out."""
        return Run(self.stage, self.link, open_, fresh=fresh, ended=ended, end=end, guards=guards, whole=whole)


class Beginning:
    """The runs of one first event, the preferred first."""

    __slots__ = ("expired", "first", "given", "key", "live", "matched", "queued", "runs")

    def __init__(self, key: str, first: Taken) -> None:
        self.key = key
        self.first = first
        self.runs: list[Run] = []
        self.live = True
        self.matched = False
        self.queued: int | None = None
        """The earliest time at which it stands in the queue of deadlines."""
        self.expired: tuple[Link, int, str] | None = None
        """Of its runs that are over in time the one that had taken most: with its deadline, and what it waited for."""
        self.given: list[bytes] = []
        """Ids of matches already given, where one could be found in two ways."""

    @property
    def order(self) -> tuple[int, int]:
        return (self.first.time, self.first.position)


def earlier_preferred(one: Link, other: Link) -> bool:
    """Whether the first of two runs of one beginning is preferred, neither of which is a part of the other."""
    for mine, theirs in zip(one.all(), other.all(), strict=False):
        if mine.taken.position != theirs.taken.position:
            return (mine.taken.time, mine.taken.position) < (theirs.taken.time, theirs.taken.position)
        if mine.move.number != theirs.move.number:
            return mine.move.number < theirs.move.number
    return True


# ---------------------------------------------------------------------------------------------- from a chain to steps


def steps_of(automaton: Automaton, link: Link) -> dict[str, Tooks]:
    """What each step took. Steps that took nothing have None or (), those that are absences are not there."""
    return _read_sequence(automaton.elements, _gathered(automaton, link))


_FEW = 8
"""Events in a chain up to which what was read of it is kept: the matches of one run may be many."""


class Reader:
    """`steps_of` for the chains of one pattern. Quicker if its steps take events themselves, without groups and choices."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._flat = all(isinstance(element.node, Take) for element in automaton.elements)
        self._blank = _read_sequence(automaton.elements, {})
        self._leaves = [(_plain(leaf.element), leaf.element.several) for leaf in automaton.leaves]

    def read(self, link: Link) -> dict[str, Tooks]:
        """What each step took. The dictionary is the caller's own."""
        before = link.before
        if not self._flat or (before is not None and before.count > _FEW):
            return steps_of(self._automaton, link)
        if before is None:
            steps = self._blank.copy()
        else:
            known = before.steps
            if known is None:
                known = before.steps = self.read(before)
            steps = known.copy()
        name, several = self._leaves[link.move.reach.leaf.index]
        if several:
            had = steps[name]
            assert isinstance(had, tuple)
            steps[name] = (*had, link.taken)
        else:
            steps[name] = link.taken
        return steps


def seen_by(automaton: Automaton, link: Link | None, leaf: Leaf, *, fresh: bool) -> dict[str, Tooks]:
    """What a condition of this leaf sees: the steps before it within its scope, and of a step that takes several what it took."""
    slots: dict[int, Any] = _gathered(automaton, link) if link is not None else {}
    elements = automaton.elements
    for at in leaf.trail[: leaf.depth]:
        node = elements[at].node
        assert not isinstance(node, Take)
        slot = slots.get(at)
        slots = (slot[-1] if slot else {}) if isinstance(node, Group) else (slot or {})
        elements = node.elements
    if fresh:
        slots = {}
    own = leaf.trail[leaf.depth]
    seen: dict[str, Tooks] = {
        _plain(elements[at]): None if elements[at].absent else _read(elements[at], slots.get(at)) for at in range(own)
    }
    if isinstance(elements[own].node, Take) and elements[own].several:
        seen[_plain(elements[own])] = _read(elements[own], slots.get(own))
    return seen


def _gathered(automaton: Automaton, link: Link) -> dict[int, Any]:
    """By the numbers of elements: of a take its events, of a group its repetitions, of a choice or any order its parts by number."""
    top: dict[int, Any] = {}
    for one in link.all():
        leaf = one.move.reach.leaf
        elements: tuple[Element, ...] = automaton.elements
        slots: dict[int, Any] = top
        begins = one.move.begins
        for at in leaf.trail[:-1]:
            element = elements[at]
            node = element.node
            if isinstance(node, Group):
                repetitions: list[dict[int, Any]] = slots.setdefault(at, [])
                if begins and automaton.groups[begins[0]] is node:
                    begins = begins[1:]
                    repetitions.append({})
                slots = repetitions[-1]
            else:
                slots = slots.setdefault(at, {})
            assert not isinstance(node, Take)
            elements = node.elements
        slots.setdefault(leaf.trail[-1], []).append(one.taken)
    return top


def _read_sequence(elements: tuple[Element, ...], slots: Mapping[int, Any]) -> dict[str, Tooks]:
    return {_plain(element): _read(element, slots.get(at)) for at, element in enumerate(elements) if not element.absent}


def _read(element: Element, slot: Any) -> Tooks:
    node = element.node
    match node:
        case Take():
            if element.several:
                return tuple(slot) if slot is not None else ()
            return slot[0] if slot else None
        case Group(elements):
            return tuple(_read_sequence(elements, one) for one in slot or ())
        case Choice(elements):
            for at, part in enumerate(elements):
                if slot is not None and at in slot:
                    return _read(part, slot[at])
            return None
        case AllOf(elements):
            return tuple(_read(part, slot.get(at) if slot is not None else None) for at, part in enumerate(elements))


def _plain(element: Element) -> str:
    return element.name.rpartition(".")[2]
