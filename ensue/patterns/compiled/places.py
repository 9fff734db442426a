"""Where a run of a pattern can wait, for patterns whose every beginning has one run: what the compiler writes out as a program.

A run waits at a *place* until one of the place's *ways* takes an event. Where two ways could take the same event, or an event that one
takes could be left out for the other, the meaning of a pattern asks for two runs, and the pattern has no places (`NoPlaces` says
why); but where one of them is complete no later than the other, its match rules that out.
"""

from __future__ import annotations

import msgspec

from ensue.patterns.analysis import takes_exclude
from ensue.patterns.definition import Definition, Element, Take
from ensue.patterns.expressions import reads

__all__ = ["After", "NoPlaces", "Place", "Places", "Way", "places_of"]

MOST = 32
"""A pattern with more places is not worth a program of its own."""


class NoPlaces(Exception):
    """The pattern is none whose every beginning has one run. The text says why, for people."""


class Way(msgspec.Struct, frozen=True):
    """An element that may take an event."""

    element: int
    again: bool = False
    """It has taken one already."""
    strict: bool = False
    """The event right behind the one that was taken before, or none."""
    absences: tuple[int, ...] = ()
    """Elements none of whose events may have come before it."""


class Place(msgspec.Struct, frozen=True):
    """Where a run waits."""

    element: int
    """In which element it is, or to which it comes next."""
    ways: tuple[Way, ...]
    """In the order in which they are preferred. None: it waits for its deadline."""
    waits_for: str = ""
    """The first step that must still come."""
    ends: bool = False
    """What it has taken is a match when no way is left, or at the deadline."""
    absences: tuple[int, ...] = ()
    """Without ways: it is a match at the deadline, if no event of these elements comes before."""


class After(msgspec.Struct, frozen=True):
    """To which place an element leads that has taken an event. None: the match is complete."""

    fewer: int | None
    """It has not taken its least number yet."""
    free: int | None
    """It may take more."""
    full: int | None
    """It has taken its greatest number."""


class Places(msgspec.Struct, frozen=True):
    """All places of a pattern, and what leads from one to another."""

    elements: tuple[Element, ...]
    all: tuple[Place, ...]
    after: dict[int, After]
    """By each element that takes events."""
    completing: frozenset[int]
    """Elements that complete the match whenever they take an event."""

    def closed(self, place: int, left: tuple[Way, ...]) -> int | None:
        """Where a run waits that has only these ways left; None: nowhere, it has ended."""
        of = self.all[place]
        return self.all.index(Place(of.element, left, of.waits_for, of.ends)) if left else None

    @property
    def strict(self) -> bool:
        """Whether an event that nothing takes can end a run."""
        return any(way.strict for place in self.all for way in place.ways)


def places_of(definition: Definition, *, timeouts: bool = False) -> Places:
    """Errors: `NoPlaces`."""
    _check(definition)
    building = _Building(definition.elements)
    after = {at: building.after(at) for at, element in enumerate(definition.elements) if not element.absent}
    completing = frozenset(
        at
        for at, to in after.items()
        if to.full is None and definition.elements[at].high == definition.elements[at].low == 1
    )
    if definition.where is not None and any(to.full is None and at not in completing for at, to in after.items()):
        raise NoPlaces("its where(self) is asked of a step at the end that takes several")
    done = 0
    while done < len(building.all):
        place = building.all[done]
        _check_place(definition, place, completing, timeouts=timeouts)
        for left in _remains(definition.elements, place):
            building.add(Place(place.element, left, place.waits_for, place.ends))
        done += 1
    return Places(definition.elements, tuple(building.all), after, completing)


class _Building:
    def __init__(self, elements: tuple[Element, ...]) -> None:
        self.elements = elements
        self.all: list[Place] = []

    def add(self, place: Place) -> int:
        if place not in self.all:
            self.all.append(place)
        if len(self.all) > MOST:
            raise NoPlaces("it has too many places at which a run can wait")
        return self.all.index(place)

    def after(self, at: int) -> After:
        element = self.elements[at]
        low, high = max(element.low, 1), element.high
        again = Way(at, again=True, strict=element.inner == "strict")
        fewer = self.add(Place(at, (again,), element.name)) if low > 1 else None
        ways, absences, ends = self._onward(at + 1)
        awaited = next((one.name for one in self.elements[at + 1 :] if one.low > 0 and not one.absent), "")
        free = full = None
        if high is None or high > low:
            if absences and ends:
                raise NoPlaces(f"{element.name} can take more while an absence at the end is waited for")
            free = self.add(Place(at, (again, *ways), awaited, ends))
        if high is not None and (ways or absences):
            if ways and absences and ends:
                raise NoPlaces("an absence at the end has optional steps beside it")
            full = self.add(Place(at + 1, ways, awaited, ends and bool(ways), () if ways else absences))
        return After(fewer, free, full)

    def _onward(self, at: int) -> tuple[tuple[Way, ...], tuple[int, ...], bool]:
        """The ways from here on, the absences passed over, and whether the end is among what is reached."""
        ways: list[Way] = []
        absences: tuple[int, ...] = ()
        for number in range(at, len(self.elements)):
            element = self.elements[number]
            if element.absent:
                absences += (number,)
                continue
            ways.append(Way(number, strict=element.contiguity == "strict", absences=absences))
            if element.low > 0:
                return tuple(ways), (), False
        return tuple(ways), absences, True


def _check(definition: Definition) -> None:
    if definition.semantics != "ensue":
        raise NoPlaces("it answers as Flink does")
    if definition.elements[0].low == 0:
        raise NoPlaces(f"{definition.elements[0].name}, with which it begins, is optional")
    for at, element in enumerate(definition.elements):
        name = element.name
        if not isinstance(element.node, Take):
            raise NoPlaces(f"{name} takes more than single events")
        if not element.absent and (
            (at and element.contiguity == "any") or (element.high != 1 and element.inner == "any")
        ):
            raise NoPlaces(f"{name} takes any of several events, each in a run of its own")
        if element.absent and element.contiguity == "strict":
            raise NoPlaces(f"{name} is an absence of the very next event")
        if not element.greedy and element.low != element.high:
            raise NoPlaces(f"{name} takes any number in its range, each in a run of its own")
        conditions = (*element.node.conditions, *([element.until] if element.until is not None else []))
        if any(condition.sees_match and condition.expression is None for condition in conditions):
            raise NoPlaces(f"a condition of {name} that sees the match so far is opaque")
    if definition.where is not None and definition.where.expression is None:
        raise NoPlaces("its where(self) is opaque")


def _check_place(definition: Definition, place: Place, completing: frozenset[int], *, timeouts: bool) -> None:
    if definition.where is not None and (place.ends or place.absences):
        raise NoPlaces("its where(self) is asked of what is complete at a deadline")
    alone = definition.where is None and definition.skip.to != "none"
    for number, way in enumerate(place.ways):
        ahead = alone and not timeouts and _goes_on_alone(definition.elements[way.element :])
        for earlier in place.ways[:number]:
            one, two = definition.elements[earlier.element], definition.elements[way.element]
            assert isinstance(one.node, Take)
            assert isinstance(two.node, Take)
            if alone and way.element in completing:
                continue
            if not takes_exclude(one.node, two.node):
                raise NoPlaces(f"{one.name} and {two.name} may take the same event, each in a run of its own")
            if not earlier.strict and not ahead:
                raise NoPlaces(
                    f"an event that {two.name} may take can also be left out, for one that {one.name} takes behind it"
                )


def _goes_on_alone(elements: tuple[Element, ...]) -> bool:
    """Whether a run that has come so far is complete no later than any run of its beginning that is behind it: where nothing can
    end it, and all that it waits for is an event like this."""
    for at, element in enumerate(elements):
        assert isinstance(element.node, Take)
        unseen = all(
            condition.expression is None or not reads(condition.expression) for condition in element.node.conditions
        )
        once = at == 0 and element.high == 1
        if element.absent or element.low != element.high or not element.low:
            return False
        if not once and (element.inner != "relaxed" or element.within is not None or not unseen):
            return False
        if at and element.contiguity != "relaxed":
            return False
    return True


def _remains(elements: tuple[Element, ...], place: Place) -> list[tuple[Way, ...]]:
    """What can be left of the ways by events that none of them takes: each closing can come alone."""
    closings: list[frozenset[Way]] = []
    strict = frozenset(way for way in place.ways if way.strict)
    closings.extend(
        frozenset(way for way in place.ways if absence in way.absences)
        for absence in {absence for way in place.ways for absence in way.absences}
    )
    closings.extend(frozenset((way,)) for way in place.ways if way.again and elements[way.element].until is not None)
    found: list[tuple[Way, ...]] = []
    for chosen in range(2 ** len(closings)):
        gone = strict.union(*(some for number, some in enumerate(closings) if chosen >> number & 1))
        left = tuple(way for way in place.ways if way not in gone)
        if left and left != place.ways and left not in found:
            found.append(left)
    return found
