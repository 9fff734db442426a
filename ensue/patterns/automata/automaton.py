"""A pattern as an automaton: for each stage that a run can have reached, the ways on from there, in the order of preference.

A `Stage` is known by where in the pattern the last event was taken, with counts as far as they matter. Its moves are
what may take a next event: the leaf that takes it, how it must follow, and what must not lie between. `End` is what must still be
certain for a run to be complete there. Everything is worked out once, when a stage is first reached; nothing here knows events.

The rules are those of docs/decisions/0030-what-a-pattern-means.md. Contiguity is of the outermost element that is entered; of a
repetition, `inner`; of a further part of any order, its `inner`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ensue.patterns.definition import AllOf, Choice, Condition, Contiguity, Definition, Element, Group, Take

__all__ = ["Absence", "Automaton", "End", "Guard", "Leaf", "Move", "Reach", "Stage", "StageKey"]

StageKey: TypeAlias = "tuple[Any, ...]"
"""Of a sequence: the element's number, and its count with the stage within it."""


class Leaf:
    """A `Take` of the pattern: what can take or forbid an event."""

    __slots__ = (
        "conditions",
        "depth",
        "element",
        "events",
        "index",
        "name",
        "plain",
        "scope",
        "sees_match",
        "trail",
        "until",
        "within",
    )

    def __init__(
        self, index: int, element: Element, take: Take, trail: tuple[int, ...], scope: int, depth: int
    ) -> None:
        self.index = index
        self.element = element
        self.name = element.name
        self.events = take.events
        self.conditions: tuple[Condition, ...] = take.conditions
        self.until = element.until
        self.sees_match = any(condition.sees_match for condition in take.conditions)
        self.within = None if element.absent else element.within
        self.plain = not self.sees_match and self.within is None and self.until is None
        """Whether it can take an event is the same for all runs."""
        self.trail = trail
        """Numbers of elements and parts that lead to it."""
        self.scope = scope
        """The number of the innermost group that it is in; -1 for none."""
        self.depth = depth
        """Where in the trail the elements of that group begin."""


class Reach(NamedTuple):
    """A leaf as it can be reached from some stage: in a repetition of its group that begins with it (`fresh`), or as a further event
    of the element that took the last (`again`)."""

    number: int
    leaf: Leaf
    fresh: bool
    again: bool


class Absence(NamedTuple):
    """No event of this leaf; strict: the event right behind is none. It lasts `within` after the event taken before."""

    reach: Reach
    strict: bool
    within: int | None


class Guard(NamedTuple):
    """A greedy element that is left or passed over: no event that it could still have taken. `only_next`: the one right behind counts."""

    reach: Reach
    only_next: bool


class _Passed(NamedTuple):
    absences: tuple[Absence, ...] = ()
    guards: tuple[Guard, ...] = ()

    def then(self, other: _Passed) -> _Passed:
        return _Passed(self.absences + other.absences, self.guards + other.guards)


_NOTHING = _Passed()


class _Way(NamedTuple):
    """A move in the making: `key` is the stage within what is being looked at."""

    reach: Reach
    key: Any
    begins: tuple[int, ...] = ()
    passed: _Passed = _NOTHING
    contiguity: Contiguity = "relaxed"
    rivals: tuple[Reach, ...] = ()
    """What the element entered could begin with: none of it may lie between, if relaxed."""


class _Exit(NamedTuple):
    """What is being looked at can be left here."""

    passed: _Passed = _NOTHING


_Item: TypeAlias = "_Way | _Exit"


class Move:
    """A way on from a stage. `number` is its rank there."""

    __slots__ = (
        "absences",
        "begins",
        "bit",
        "closers",
        "closers_next",
        "forbidden_next",
        "number",
        "plain",
        "reach",
        "strict",
        "target",
        "within",
    )

    def __init__(self, number: int, way: _Way, target: StageKey) -> None:
        self.number, self.bit = number, 1 << number
        self.reach = way.reach
        self.target = target
        self.begins = way.begins
        """Groups of which it begins a repetition, outermost first."""
        self.strict = way.contiguity == "strict"
        self.within = way.reach.leaf.within
        rivals = way.rivals if way.contiguity == "relaxed" else ()
        guards = [guard.reach for guard in way.passed.guards if not guard.only_next]
        self.closers: tuple[Reach, ...] = tuple(dict.fromkeys((*rivals, *guards)))
        """An event that one of these can take, left out by the run, closes the way."""
        self.closers_next: tuple[Reach, ...] = tuple(g.reach for g in way.passed.guards if g.only_next)
        """The same for the event right behind the last one."""
        self.forbidden_next: tuple[Absence, ...] = tuple(a for a in way.passed.absences if a.strict)
        """The event right behind the last one must be none of these, also if it is the one that is taken."""
        self.absences: tuple[Absence, ...] = tuple(a for a in way.passed.absences if not a.strict)
        self.plain = self.within is None and not (self.closers_next or self.forbidden_next or self.absences)
        """What it takes and its closers are all there is to ask."""


class End:
    """A run can be complete here, as soon as these are certain; with none of them, at once."""

    __slots__ = ("absences", "guards")

    def __init__(self, passed: _Passed) -> None:
        self.absences = passed.absences
        self.guards = passed.guards


class Stage:
    """Where a run waits."""

    __slots__ = ("awaited", "end", "key", "looks_next", "moves", "reaches", "targets")

    def __init__(self, key: StageKey, moves: tuple[Move, ...], end: End | None, awaited: str) -> None:
        self.key, self.moves, self.end, self.awaited = key, moves, end, awaited
        """`awaited` is the name of the first element on from here that cannot be passed over."""
        self.targets: list[Stage | None] = [None] * len(moves)
        reaches: dict[int, Reach] = {}
        for reach in self._all():
            reaches[reach.number] = reach
        self.reaches = tuple(reaches.values())
        """All that an event is asked about here."""
        self.looks_next = any(move.strict or move.closers_next or move.forbidden_next for move in moves) or (
            end is not None and (any(a.strict for a in end.absences) or any(g.only_next for g in end.guards))
        )
        """The event right behind the last one matters, whatever it is."""

    def _all(self) -> Iterator[Reach]:
        for move in self.moves:
            yield move.reach
            yield from move.closers
            yield from move.closers_next
            for absence in (*move.forbidden_next, *move.absences):
                yield absence.reach
        if self.end is not None:
            for absence in self.end.absences:
                yield absence.reach
            for guard in self.end.guards:
                yield guard.reach


class Automaton:
    """The stages of a definition, worked out as they are reached."""

    def __init__(self, definition: Definition) -> None:
        self.elements = definition.elements
        self.leaves: list[Leaf] = []
        self._leaf_of: dict[int, Leaf] = {}
        self._group_of: dict[int, int] = {}
        self._reaches: dict[tuple[int, bool, bool], Reach] = {}
        self.stages: dict[StageKey, Stage] = {}
        """Those that have been reached, without the start."""
        self.groups: list[Group] = []
        self._number(self.elements, (), -1, 0)
        self.start = self._stage((), self._sequence(self.elements, 0, fresh=False), "")

    def stage_behind(self, stage: Stage, move: Move) -> Stage:
        """Where a run is that has taken an event by this move."""
        found = stage.targets[move.number]
        if found is None:
            key = move.target
            found = self.stages.get(key)
            if found is None:
                found = self._stage(key, self._onward(self.elements, key), self._awaited(self.elements, key) or "")
                self.stages[key] = found
            stage.targets[move.number] = found
        return found

    def move_of(self, leaf: Leaf, begins: tuple[int, ...]) -> Move:
        """A move that takes by this leaf and belongs to no stage: for runs that go by another automaton."""
        return Move(0, _Way(Reach(-1, leaf, leaf.scope in begins, False), (), begins), ())

    def scope_of(self, leaf: Leaf) -> tuple[type | None, tuple[Element, ...]]:
        """The class and the elements of the group around a leaf; None and those of the whole pattern where there is none."""
        if leaf.scope < 0:
            return None, self.elements
        group = self.groups[leaf.scope]
        return group.pattern, group.elements

    def _number(self, elements: Iterable[Element], trail: tuple[int, ...], scope: int, depth: int) -> None:
        for at, element in enumerate(elements):
            here = (*trail, at)
            node = element.node
            if isinstance(node, Take):
                leaf = Leaf(len(self.leaves), element, node, here, scope, depth)
                self.leaves.append(leaf)
                self._leaf_of[id(element)] = leaf
                continue
            if isinstance(node, Group):
                group = self._group_of[id(element)] = len(self.groups)
                self.groups.append(node)
                self._number(node.elements, here, group, len(here))
            else:
                self._number(node.elements, here, scope, depth)

    def _stage(self, key: StageKey, items: list[_Item], awaited: str) -> Stage:
        ways = [item for item in items if isinstance(item, _Way)]
        ends = [item for item in items if isinstance(item, _Exit)]
        moves = tuple(Move(number, way, way.key) for number, way in enumerate(ways))
        return Stage(key, moves, End(ends[0].passed) if ends else None, awaited)

    def _reach(self, element: Element, *, fresh: bool, again: bool = False) -> Reach:
        leaf = self._leaf_of[id(element)]
        fresh = fresh and leaf.scope >= 0
        known = self._reaches.get((leaf.index, fresh, again))
        if known is None:
            known = self._reaches[leaf.index, fresh, again] = Reach(len(self._reaches), leaf, fresh, again)
        return known

    # ------------------------------------------------------------------------------------------------ beginning an element

    def _beginnings(self, element: Element, *, fresh: bool) -> list[_Way]:
        """The ways into an element that has taken nothing. `fresh`: the group around it begins as well."""
        node = element.node
        if isinstance(node, Take):
            return [_Way(self._reach(element, fresh=fresh), (1, ()))]
        if isinstance(node, Group):
            group = self._group_of[id(element)]
            found = self._sequence(node.elements, 0, fresh=True)
            return [
                way._replace(key=(1, way.key), begins=(group, *way.begins)) for way in found if isinstance(way, _Way)
            ]
        done = (0,) if isinstance(node, AllOf) else ()
        return [
            way._replace(key=(1, (*done, at, way.key)))
            for at, part in enumerate(node.elements)
            for way in self._beginnings(part, fresh=fresh)
        ]

    def _sequence(self, elements: tuple[Element, ...], at: int, *, fresh: bool) -> list[_Item]:
        """The ways into the elements from `at` on, passing over those that may take nothing, and the exit behind them."""
        if at == len(elements):
            return [_Exit()]
        element = elements[at]
        if element.absent:
            reach = self._reach(element, fresh=fresh)
            absence = Absence(reach, element.contiguity == "strict", element.within)
            return _behind(_Passed(absences=(absence,)), self._sequence(elements, at + 1, fresh=fresh))
        begun = self._beginnings(element, fresh=fresh)
        rivals = tuple(dict.fromkeys(way.reach for way in begun))
        own: list[_Item] = [
            way._replace(key=(at, way.key), contiguity=element.contiguity, rivals=rivals) for way in begun
        ]
        if element.low > 0:
            return own
        passed = _NOTHING
        if element.greedy and isinstance(element.node, Take):
            passed = _Passed(guards=(Guard(self._reach(element, fresh=fresh), element.contiguity == "strict"),))
        rest = _behind(passed, self._sequence(elements, at + 1, fresh=fresh))
        return own + rest if element.greedy else rest + own

    # --------------------------------------------------------------------------------------------------- going on in one

    def _onward(self, elements: tuple[Element, ...], key: StageKey) -> list[_Item]:
        """The ways on from a stage in a sequence, and its exit."""
        at, within = key
        items: list[_Item] = []
        for item in self._in_element(elements[at], within):
            if isinstance(item, _Exit):
                items += _behind(item.passed, self._sequence(elements, at + 1, fresh=False))
            else:
                items.append(item._replace(key=(at, item.key)))
        return items

    def _in_element(self, element: Element, key: StageKey) -> list[_Item]:
        count, within = key
        items: list[_Item] = []
        for item in self._in_node(element, within):
            if isinstance(item, _Exit):
                items += self._repetition(element, count, item)
            else:
                items.append(item._replace(key=(count, item.key)))
        return items

    def _repetition(self, element: Element, count: int, leaving: _Exit) -> list[_Item]:
        """At the end of a repetition: another one, or leaving the element."""
        more = element.high is None or count < element.high
        again: list[_Item] = []
        if more:
            following = count + 1 if element.high is not None else min(count + 1, max(element.low, 1))
            if isinstance(element.node, Take):
                ways = [_Way(self._reach(element, fresh=False, again=True), (1, ()))]
            else:
                ways = self._beginnings(element, fresh=False)
            rivals = tuple(dict.fromkeys(way.reach for way in ways))
            again = [
                way._replace(
                    key=(following, way.key[1]),
                    contiguity=element.inner,
                    rivals=rivals,
                    passed=leaving.passed.then(way.passed),
                )
                for way in ways
            ]
        if count < element.low:
            return again
        if more and element.greedy and isinstance(element.node, Take):
            guard = Guard(self._reach(element, fresh=False, again=True), element.inner == "strict")
            return [*again, _Exit(leaving.passed.then(_Passed(guards=(guard,))))]
        return [*again, leaving] if element.greedy else [leaving, *again]

    def _in_node(self, element: Element, key: StageKey) -> list[_Item]:
        node = element.node
        if isinstance(node, Take):
            return [_Exit()]
        if isinstance(node, Group):
            return self._onward(node.elements, key)
        if isinstance(node, Choice):
            at, within = key
            return [
                item if isinstance(item, _Exit) else item._replace(key=(at, item.key))
                for item in self._in_element(node.elements[at], within)
            ]
        return self._in_all_of(element, node, key)

    def _in_all_of(self, element: Element, node: AllOf, key: StageKey) -> list[_Item]:
        done, at, within = key
        items: list[_Item] = []
        for item in self._in_element(node.elements[at], within):
            if isinstance(item, _Way):
                items.append(item._replace(key=(done, at, item.key)))
                continue
            now = done | 1 << at
            ways = [
                (other, way)
                for other, part in enumerate(node.elements)
                if not now >> other & 1
                for way in self._beginnings(part, fresh=False)
            ]
            if not ways:
                items.append(item)
            rivals = tuple(dict.fromkeys(way.reach for _, way in ways))
            for other, way in ways:
                passed = item.passed.then(way.passed)
                items.append(
                    way._replace(key=(now, other, way.key), contiguity=element.inner, rivals=rivals, passed=passed)
                )
        return items

    # ------------------------------------------------------------------------------------------------------- for people

    def _awaited(self, elements: tuple[Element, ...], key: StageKey) -> str | None:
        """The first element on from a stage that cannot be passed over; None: this sequence can end."""
        at, (count, within) = key
        element = elements[at]
        node = element.node
        inside: str | None = None
        if isinstance(node, Group):
            inside = self._awaited(node.elements, within)
        elif isinstance(node, Choice):
            inside = self._awaited((node.elements[within[0]],), (0, within[1]))
        elif isinstance(node, AllOf):
            done, part, rest = within
            inside = self._awaited((node.elements[part],), (0, rest))
            if inside is None and (done | 1 << part) != (1 << len(node.elements)) - 1:
                inside = element.name
        if inside is not None:
            return inside
        if count < element.low:
            return element.name
        return next((other.name for other in elements[at + 1 :] if other.low > 0 and not other.absent), None)


def _behind(passed: _Passed, items: list[_Item]) -> list[_Item]:
    """The same ways, with this passed over before them."""
    if passed == _NOTHING:
        return items
    return [item._replace(passed=passed.then(item.passed)) for item in items]
