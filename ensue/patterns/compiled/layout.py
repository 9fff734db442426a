"""How the program of a pattern keeps a run: as a list, and where in it what is.

A run is `[time and position of its first event, (the time of its last), (its deadline, its place), what each step has taken, the
aggregates that conditions read]`; what stands in brackets is there only where something asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from ensue.patterns.compiled.places import NoPlaces, Place, Places
from ensue.patterns.compiled.source import Names, Steps, Writer
from ensue.patterns.definition import Definition, Element, Take
from ensue.patterns.expressions import Aggregated, reads, walk

__all__ = ["Beginning", "Completing", "Layout", "Running", "least", "sorted_places"]

Deadlines: TypeAlias = Literal["none", "fifo", "heap"]
"""Nothing happens at a deadline; deadlines come in the order of beginnings; in any order."""


def least(value: Any) -> Any:
    """The smallest or largest of what a step has taken. Errors: `ValueError` where it has taken nothing."""
    if value == ():
        raise ValueError("the smallest or largest of no events")
    return value


class Layout:
    """Where in a run's list what is kept."""

    def __init__(self, definition: Definition, places: Places, *, timeouts: bool) -> None:
        self.definition, self.places, self.timeouts = definition, places, timeouts
        self.elements = definition.elements
        self.whole = definition.within
        self.deadlines: Deadlines = self._deadlines()
        if self.deadlines != "none" and any(len({*self.withins(one)}) > 1 for one in places.all if one.ways):
            raise NoPlaces("what it waits for ends at several deadlines, which decide what becomes of it")
        self.blank: list[Any] = [0, 0]
        """What stands in a list before anything was taken."""
        self.last = self._add(0) if any(one.within is not None for one in self.elements) else None
        self.due = self._add(None) if self.deadlines == "heap" else None
        self.place = self._add(-1) if self.deadlines != "none" else None
        self.slots = {
            at: self._add(() if one.several else None) for at, one in enumerate(self.elements) if not one.absent
        }
        self.by_name = {self.elements[at].name: at for at in self.slots}
        self.registers: dict[Aggregated, int] = {
            one: self._add(0 if one.kind == "total" else ()) for one in self._aggregates() if one.kind != "count"
        }

    def _add(self, value: Any) -> int:
        self.blank.append(value)
        return len(self.blank) - 1

    def _aggregates(self) -> Iterable[Aggregated]:
        conditions = [
            one
            for element in self.elements
            if isinstance(element.node, Take)
            for one in (*element.node.conditions, *([element.until] if element.until is not None else []))
        ]
        if self.definition.where is not None:
            conditions.append(self.definition.where)
        found = [
            part
            for one in conditions
            if one.expression is not None
            for part in walk(one.expression)
            if isinstance(part, Aggregated)
        ]
        return dict.fromkeys(found)

    def _deadlines(self) -> Deadlines:
        places = self.places.all
        if not self.timeouts and not any(place.ends or place.absences for place in places):
            return "none"
        if all(element.within is None for element in self.elements):
            return "fifo"
        at_once = [place for place in places if place.element == 1 and not any(way.again for way in place.ways)]
        return "fifo" if len(places) == len(at_once) == 1 else "heap"

    def withins(self, place: Place) -> list[int | None]:
        """For each way on (or absence) how long it is open after the event that was taken last."""
        numbers = [way.element for way in place.ways] or list(place.absences)
        return [self.elements[number].within for number in numbers]

    def longest(self, place: Place) -> int | None:
        """How long the place is open after the event that was taken last; None: as long as the pattern."""
        withins = self.withins(place)
        return None if None in withins else max(one for one in withins if one is not None)

    def due_of(self, place: Place, time: int, first: int) -> int | None:
        """A run's deadline there, when it took its first and its last event at these times."""
        longest = self.longest(place)
        dues = [] if self.whole is None else [first + self.whole]
        return min([*dues, time + longest] if longest is not None else dues, default=None)

    def deadline(self, place: Place, time: str, first: str, names: Names) -> str | None:
        """The source of a run's deadline there, when it took its last event at `time`."""
        longest = self.longest(place)
        parts = [f"{first} + {names.of(self.whole)}"] if self.whole is not None else []
        if longest is not None:
            parts.append(f"{time} + {names.of(longest)}")
        return f"min({', '.join(parts)})" if len(parts) > 1 else (parts[0] if parts else None)


class Running(Steps):
    """Reads a run that is called `name`. `own` elements have the event `event` beside what the run has."""

    def __init__(
        self, layout: Layout, names: Names, name: str = "r", *, known: Mapping[str, bool] | None = None
    ) -> None:
        self.layout, self.names, self.name = layout, names, name
        self.known = known or {}
        """Of which steps it is known whether they have taken something."""

    def _slot(self, step: str) -> tuple[int, bool]:
        at = self.layout.by_name[step]
        return self.layout.slots[at], self.layout.elements[at].several

    def event(self, step: str, index: int | None) -> str:
        slot, several = self._slot(step)
        if several is (index is None):
            raise LookupError(step)
        return f"{self.name}[{slot}].event" if index is None else f"{self.name}[{slot}][{index}].event"

    def present(self, step: str) -> str:
        if step in self.known:
            return str(self.known[step])
        slot, several = self._slot(step)
        return f"({self.name}[{slot}] is not None)" if not several else f"(len({self.name}[{slot}]) > 0)"

    def aggregated(self, of: Aggregated) -> str:
        slot, _ = self._slot(of.step)
        if of.kind == "count":
            return f"len({self.name}[{slot}])"
        register = f"{self.name}[{self.layout.registers[of]}]"
        if of.kind == "distinct":
            return f"len({register})"
        return register if of.kind == "total" else f"{self.names.of(least, 'f')}({register})"


class Completing(Running):
    """Reads a run as it is when its last element, which takes one event, has taken the event at hand."""

    def __init__(self, layout: Layout, names: Names, element: Element, name: str = "r") -> None:
        super().__init__(layout, names, name)
        self.element = element

    def event(self, step: str, index: int | None) -> str:
        if step != self.element.name:
            return super().event(step, index)
        return "e" if index is None else f"(e,)[{index}]"

    def present(self, step: str) -> str:
        return "True" if step == self.element.name else super().present(step)

    def aggregated(self, of: Aggregated) -> str:
        if of.step != self.element.name:
            return super().aggregated(of)
        if of.kind in ("count", "distinct") or of.value is None:
            return self.names.of(1)
        return f"{Writer(self.names, 'e', Steps()).write(of.value)}"


class Beginning(Running):
    """Reads what a beginning sees: nothing has been taken yet."""

    def event(self, step: str, index: int | None) -> str:
        return f"()[{index}]" if index is not None else super().event(step, index)

    def present(self, step: str) -> str:
        return "False"

    def aggregated(self, of: Aggregated) -> str:
        return f"{self.names.of(least, 'f')}(())" if of.kind in ("smallest", "largest") else self.names.of(0)


def sorted_places(layout: Layout) -> frozenset[int]:
    """The places whose runs are always in the order of their beginnings: they come from one place only, all at a time."""
    places = layout.places
    feeders: dict[int, list[int | None]] = {}
    for number, place in enumerate(places.all):
        for way in place.ways:
            for target in (
                places.after[way.element].fewer,
                places.after[way.element].free,
                places.after[way.element].full,
            ):
                if target is not None:
                    feeders.setdefault(target, []).append(number)
    first = places.after[0]
    element = layout.elements[0]
    begins = first.fewer if element.low > 1 else first.full if element.high == 1 else first.free
    found: set[int] = set()
    if begins is not None and begins not in feeders:
        found.add(begins)
    for number in range(len(places.all)):
        source = feeders.get(number, [])
        if len(source) == 1 and source[0] in found and number != begins:
            fed = places.all[source[0]]
            plain = len(fed.ways) == 1 and not fed.ways[0].again and not fed.ends
            element = layout.elements[fed.ways[0].element]
            assert isinstance(element.node, Take)
            if (
                plain
                and element.within is None
                and all(one.expression is None or not reads(one.expression) for one in element.node.conditions)
            ):
                found.add(number)
    return frozenset(found)
