"""How far each beginning of a pattern came, and what closed each of its ways on.

The general engine is run over the events of one key, and every run that it makes is seen; of each beginning the one that came
farthest is kept. What closed its ways is then read from the engine's own automaton, event by event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ensue.errors import ConditionFailed
from ensue.events.recorded import instant
from ensue.patterns.automata.automaton import Absence, Automaton, Leaf, Move, Stage
from ensue.patterns.automata.automaton import Reach as Reached
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take
from ensue.patterns.explained.checks import Scope, fits
from ensue.patterns.matches import partial_match
from ensue.patterns.operator import Batch, Found, Operator, Output, Taken, Tooks
from ensue.patterns.searching.engine import Engine
from ensue.patterns.searching.runs import Beginning, Link, Run, seen_by

__all__ = [
    "FOREVER",
    "Closed",
    "Nearest",
    "Stream",
    "entries",
    "fed",
    "flat",
    "nearest",
    "order",
    "scope_at",
    "ways_of",
]

FOREVER = 1 << 62
"""A time, in microseconds, that never comes."""


class Stream(msgspec.Struct, frozen=True):
    """The events of one key in their order, and how far time has come (None: to its end)."""

    key: str
    events: tuple[Taken, ...]
    until: int | None = None


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


def fed(operator: Operator, stream: Stream) -> list[Output]:
    """What an operator finds in the stream, and what is certain at the end of it. What raises is passed over."""
    outputs: list[Output] = []
    events = stream.events
    while events:
        try:
            outputs += operator.take(_batch(events, stream.key))
            break
        except ConditionFailed as error:
            outputs += error.outputs
            done = error.done if error.done is not None else _place_of(events, error.position) + 1
            events = events[done:]
    while True:
        try:
            return outputs + operator.advance(FOREVER if stream.until is None else stream.until)
        except ConditionFailed as error:
            outputs += error.outputs


def _batch(events: Sequence[Taken], key: str) -> Batch:
    columns = ([one.event for one in events], [one.time for one in events], [one.position for one in events])
    return Batch(*columns, [key] * len(events))


def _place_of(events: Sequence[Taken], position: int) -> int:
    return next(number for number, one in enumerate(events) if one.position == position)


# -------------------------------------------------------------------------------------------------- the farthest run


class Nearest(NamedTuple):
    """The run of one beginning that came farthest: what it took, and where it then waited."""

    key: str
    automaton: Automaton
    link: Link
    stage: Stage
    progress: tuple[int, ...]

    @property
    def taken(self) -> tuple[Taken, ...]:
        """In their order."""
        return tuple(one.taken for one in self.link.all())

    @property
    def by_step(self) -> tuple[tuple[str, Taken], ...]:
        """What was taken, each with the path of the step that took it."""
        return tuple((one.move.reach.leaf.name, one.taken) for one in self.link.all())


class _Watching(Engine):
    """The general engine, watched."""

    def __init__(self, definition: Definition, through: Taken | None) -> None:
        super().__init__(definition)
        self.best: dict[int, Nearest] = {}
        self._through = through

    def _born(self, beginning: Beginning, stage: Stage, link: Link, runs: list[Run], found: list[Output]) -> bool:
        run = Nearest(beginning.key, self._automaton, link, stage, _progress(self._automaton.elements, stage.key))
        known = self.best.get(link.first.position)
        farther = known is None or (run.progress, link.count) > (known.progress, known.link.count)
        through = self._through
        if farther and (through is None or any(one.position == through.position for one in run.taken)):
            self.best[link.first.position] = run
        return super()._born(beginning, stage, link, runs, found)


def nearest(
    definition: Definition, stream: Stream, *, through: Taken | None = None
) -> tuple[list[Found], dict[int, Nearest]]:
    """The matches; and for each beginning, by its position, the run that came farthest: over the most steps, then with the most events,
    then the preferred one. With `through` of those runs only that took this event."""
    watching = _Watching(msgspec.structs.replace(definition, semantics="ensue", lateness=0), through)
    outputs = fed(watching, stream)
    return [one for one in outputs if isinstance(one, Found)], watching.best


def _progress(elements: tuple[Element, ...], key: Any) -> tuple[int, ...]:
    """How far a stage is, to be compared: the element, how many of it, and how far within it."""
    at, within = key
    return (at, *_progress_in(elements[at], within))


def _progress_in(element: Element, key: Any) -> tuple[int, ...]:
    count, within = key
    node = element.node
    if isinstance(node, Group):
        return (count, *_progress(node.elements, within))
    if isinstance(node, Choice):
        part, inside = within
        return (count, *_progress_in(node.elements[part], inside))
    if isinstance(node, AllOf):
        done, part, inside = within
        return (count, int(done).bit_count(), *_progress_in(node.elements[part], inside))
    return (count,)


def entries(definition: Definition) -> tuple[Element, ...]:
    """The steps of one event that the pattern can begin with."""
    return tuple(dict.fromkeys(move.reach.leaf.element for move in Automaton(definition).start.moves))


def scope_at(definition: Definition, run: Nearest, reach: Reached) -> Scope:
    """What a condition of this step sees, behind what the run took."""
    pattern, elements = run.automaton.scope_of(reach.leaf)
    seen = seen_by(run.automaton, run.link, reach.leaf, fresh=reach.fresh)
    started = instant(run.link.first.time)
    view = partial_match(pattern or definition.pattern, elements, seen, key=run.key, started=started)
    prefix = "" if pattern is None else reach.leaf.name[: -len(reach.leaf.name.rpartition(".")[2])]
    return Scope(view, vars(view), prefix)


# ------------------------------------------------------------------------------------------------------ its ways on

Closing: TypeAlias = Literal["time", "forbidden", "between", "until", "rival", "greedy", "open", "taken"]


class Closed(NamedTuple):
    """What became of one way on. `moment` is when: of two at one time the deadline comes first."""

    reach: Reached
    how: Closing
    moment: tuple[int, int]
    event: Taken | None = None
    by: Element | None = None
    """The absence that forbids the event, or the greedy step that could take it."""


class _Ways:
    """The events behind what a run took last, held against its ways on, as the engine does it."""

    def __init__(self, definition: Definition, run: Nearest, stream: Stream) -> None:
        self.definition, self.run, self.stream = definition, run, stream
        self.last = run.link.taken
        self._whole = FOREVER if definition.within is None else run.link.first.time + definition.within

    def deadline(self, within: int | None) -> int:
        return self._whole if within is None else min(self._whole, self.last.time + within)

    def can(self, reach: Reached, taken: Taken, *, ended: bool = False) -> bool:
        if taken.time >= self.deadline(reach.leaf.within) or (ended and reach.again):
            return False
        return fits(reach.leaf.element, taken.event, self.scope(reach))

    def scope(self, reach: Reached) -> Scope:
        return scope_at(self.definition, self.run, reach)

    def behind(self, before: Taken | None) -> Iterator[tuple[bool, bool, Taken]]:
        """Each event behind: whether it is the next one, whether `until` has held, and the event."""
        own = self.run.link.move.reach.leaf
        ended, first = self._ended_before(own), True
        events = self.stream.events
        for at in range(bisect_right(events, order(self.last), key=order), len(events)):
            one = events[at]
            if before is not None and order(one) >= order(before):
                return
            ended = ended or self._until(own, one)
            yield first, ended, one
            first = False

    def _ended_before(self, own: Leaf) -> bool:
        """Whether `until` had held since the first event of this visit of the element."""
        if own.until is None:
            return False
        visit = [self.last]
        link = self.run.link
        while link.move.reach.again and link.before is not None:
            link = link.before
            visit.append(link.taken)
        return any(
            order(visit[-1]) < order(one) <= order(self.last) and self._until(own, one) for one in self.stream.events
        )

    def _until(self, own: Leaf, taken: Taken) -> bool:
        if own.until is None or not isinstance(taken.event, own.events):
            return False
        probe = msgspec.structs.replace(own.element, node=Take(own.events, (own.until,)))
        return fits(probe, taken.event, Scope(None, {}))

    def closed(self, move: Move, before: Taken | None) -> Closed:
        """What closed a way, among the events before this one."""
        reach, deadline = move.reach, self.deadline(move.within)
        for first, ended, one in self.behind(before):
            moment = order(one)
            if one.time >= deadline:
                break
            found = self._at(move, one, first=first, ended=ended)
            if found is not None:
                return Closed(reach, found[0], moment, one, found[1])
        until = FOREVER if self.stream.until is None else self.stream.until
        if before is not None:
            until = min(until, before.time)
        return Closed(reach, "time" if deadline <= until else "open", (deadline, -1))

    def _at(self, move: Move, one: Taken, *, first: bool, ended: bool) -> tuple[Closing, Element | None] | None:
        reach = move.reach
        absent = self._absent((*move.absences, *(move.forbidden_next if first else ())), one)
        if absent is not None:
            return "forbidden", absent
        if ended and reach.again:
            return "until", reach.leaf.element
        if self.can(reach, one, ended=ended):
            return "taken", None
        if move.strict:
            return "between", None
        for closer in (*move.closers, *(move.closers_next if first else ())):
            if self.can(closer, one, ended=ended):
                return ("greedy" if closer.again else "rival"), closer.leaf.element
        return None

    def _absent(self, absences: Sequence[Absence], one: Taken) -> Element | None:
        for absence in absences:
            lasts = FOREVER if absence.within is None else self.last.time + absence.within
            if one.time < lasts and self.can(absence.reach, one):
                return absence.reach.leaf.element
        return None

    def end(self, before: Taken | None) -> Closed | None:
        """What became of being complete here; None: it could not have been, or was at once."""
        end = self.run.stage.end
        if end is None or not end.absences:
            return None
        spans = [self.deadline(absence.within) for absence in end.absences]
        deadline = max(spans)
        for first, _, one in self.behind(before):
            for span, absence in zip(spans, end.absences, strict=True):
                if one.time < span and (first or not absence.strict) and self.can(absence.reach, one):
                    return Closed(absence.reach, "forbidden", order(one), one, absence.reach.leaf.element)
            if first and all(absence.strict for absence in end.absences):
                return Closed(end.absences[0].reach, "time", order(one))
        until = FOREVER if self.stream.until is None else self.stream.until
        return Closed(end.absences[0].reach, "time" if deadline <= until else "open", (deadline, -1))


def ways_of(
    definition: Definition, run: Nearest, stream: Stream, *, before: Taken | None = None
) -> tuple[list[Closed], Closed | None]:
    """What became of each way on of a run, and of being complete where it was."""
    ways = _Ways(definition, run, stream)
    return [ways.closed(move, before) for move in run.stage.moves], ways.end(before)
