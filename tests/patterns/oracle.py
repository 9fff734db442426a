"""What a pattern finds in a short stream, by trying all that could be taken: docs/decisions/0030 and nothing else.

It is written to be compared with that page, not to be fast. Terms:

- a *place* is where in a pattern an event was taken: for each level of nesting which element, and which repetition of it;
- a *history* is what was taken so far: pairs of an event's index and its place;
- a *move* is a way to go on from a place: to another place, or to the end.

A history is extended by each later event through each move that the page allows; each history that can end is a candidate. The
candidates are put in order, and go through the skip strategy. Events are those of one key, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

from ensue.events.message import Event
from ensue.patterns.definition import AllOf, Choice, Condition, Contiguity, Definition, Element, Group, Take

__all__ = ["Answer", "Match", "Moment", "Timed", "answer"]

FOREVER = 1 << 62
LEFT_OUT = 1 << 30


class Timed(NamedTuple):
    """An event of the stream."""

    time: int
    position: int
    event: Event


class Moment(NamedTuple):
    """When something is certain. At one time deadlines come before events, and events come in their order."""

    time: int
    is_event: bool
    order: int


class Match(NamedTuple):
    """What was found, or expired: the positions that each step took, and when it was complete, or its deadline."""

    steps: Any
    started: int
    ended: int


class Answer(NamedTuple):
    matches: list[Match]
    expired: list[Match]


class Level(NamedTuple):
    at: int
    """Which element of its sequence, or which part."""
    nth: int = 0
    """Which repetition of it, from 0."""
    done: tuple[int, ...] = ()
    """Of any order: the parts that were finished before."""


Place = tuple[Level, ...]
History = tuple[tuple[int, Place], ...]


class Open(NamedTuple):
    """A greedy element that is left or passed over, though it could take at this place."""

    place: Place
    contiguity: Contiguity


class Move(NamedTuple):
    place: Place | None
    """None: the end."""
    contiguity: Contiguity = "any"
    rivals: tuple[Place, ...] = ()
    """What the element that is entered or repeated could take with instead, this place included."""
    opens: tuple[Open, ...] = ()
    absences: tuple[Place, ...] = ()


class Candidate(NamedTuple):
    moment: Moment
    history: History
    ranks: tuple[int, ...]
    """For each event from the first on: by which of the moves it was taken; those left out come last."""


def answer(definition: Definition, events: Sequence[Timed], *, over: int | None = None) -> Answer:
    """What is found among these events of one key, when no event before `over` will come any more (None: no event at all)."""
    named = [timed for timed in events if isinstance(timed.event, definition.events)]
    return _Oracle(definition, named, FOREVER - 1 if over is None else over).answer


class _Oracle:
    def __init__(self, definition: Definition, events: Sequence[Timed], over: int) -> None:
        assert list(events) == sorted(events, key=lambda timed: timed[:2])
        self.definition, self.events, self.over = definition, events, over
        self._moves: dict[Place, list[Move]] = {}

    @cached_property
    def answer(self) -> Answer:
        matches = self._matches()
        found = [self._match(one.history, one.moment.time) for one in matches]
        return Answer(found, [self._match(history, deadline) for history, deadline in self._expired(matches)])

    # ---------------------------------------------------------------------------------------- the shape of a pattern

    def element(self, place: Place) -> Element:
        elements = self.definition.elements
        for level in place[:-1]:
            node = elements[level.at].node
            assert not isinstance(node, Take)
            elements = node.elements
        return elements[place[-1].at]

    def moves(self, place: Place) -> list[Move]:
        """All ways to go on from here, the preferred first. Whether they are allowed is seen when an event is there."""
        if place not in self._moves:
            behind = self._forward((), self.definition.elements, place[0].at + 1, [Move(None)])
            self._moves[place] = self._within(place, 0, behind)
        return self._moves[place]

    @property
    def beginnings(self) -> list[Move]:
        return self._forward((), self.definition.elements, 0, [])

    def _within(self, place: Place, depth: int, behind: list[Move]) -> list[Move]:
        """The moves out of the visit of the element at this depth; `behind` are those when it is left."""
        element, level = self.element(place[: depth + 1]), place[depth]
        again: list[Move] = []
        if element.high is None or level.nth + 1 < element.high:
            next_one = level._replace(nth=level.nth + 1)
            again = self._into((*place[:depth], next_one), element, element.inner)
        leave: list[Move] = []
        if level.nth + 1 >= element.low:
            opens = tuple(Open(_place(one), element.inner) for one in again) if element.greedy else ()
            leave = [move._replace(opens=opens + move.opens) for move in behind]
        finished = again + leave if element.greedy else leave + again
        match element.node:
            case Take():
                return finished
            case Choice():
                return self._within(place, depth + 1, finished)
            case Group(elements):
                inside = place[depth + 1].at
                return self._within(place, depth + 1, self._forward(place[: depth + 1], elements, inside + 1, finished))
            case AllOf(elements):
                part = place[depth + 1]
                done = (*part.done, part.at)
                rest = [at for at in range(len(elements)) if at not in done]
                if rest:
                    parts = [self._ways((*place[: depth + 1], Level(at, 0, done)), element.inner) for at in rest]
                    finished = _rivals([way for part in parts for way in part], element.inner)
                return self._within(place, depth + 1, finished)

    def _into(self, place: Place, element: Element, contiguity: Contiguity) -> list[Move]:
        """The moves by which an element is entered or repeated."""
        return _rivals(self._ways(place, contiguity), contiguity)

    def _ways(self, place: Place, contiguity: Contiguity) -> list[Move]:
        """The places of the first event of this visit; what is passed over inside is entered as the whole is."""
        match self.element(place).node:
            case Take():
                return [Move(place)]
            case Choice(elements) | AllOf(elements):
                return [way for at in range(len(elements)) for way in self._ways((*place, Level(at)), contiguity)]
            case Group(elements):
                return self._forward(place, elements, 0, [], contiguity)

    def _forward(
        self,
        prefix: Place,
        elements: Sequence[Element],
        start: int,
        behind: list[Move],
        contiguity: Contiguity | None = None,
    ) -> list[Move]:
        """From here on in a sequence: into the next element, and where it need not take, into what follows it; `behind` are the moves
        when all is passed over. A greedy element is entered rather than passed over."""
        if start == len(elements):
            return behind
        element, place = elements[start], (*prefix, Level(start))
        if element.absent:
            following = self._forward(prefix, elements, start + 1, behind, contiguity)
            return [move._replace(absences=(place, *move.absences)) for move in following]
        how = contiguity or element.contiguity
        ways = self._into(place, element, how) if contiguity is None else self._ways(place, how)
        if element.low > 0:
            return ways
        following = self._forward(prefix, elements, start + 1, behind, contiguity)
        if not element.greedy:
            return following + ways
        opens = tuple(Open(_place(way), how) for way in ways)
        return ways + [move._replace(opens=opens + move.opens) for move in following]

    # ---------------------------------------------------------------------------------------- what an event may be

    def fits(self, place: Place, history: History, at: int) -> bool:
        """Whether this event is one of this step, by its type and all conditions."""
        node = self.element(place).node
        assert isinstance(node, Take)
        event = self.events[at].event
        return isinstance(event, node.events) and all(
            self._holds(condition, place, history, event) for condition in node.conditions
        )

    def _holds(self, condition: Condition, place: Place, history: History, event: Event) -> bool:
        if not condition.sees_match:
            return bool(condition.function(event))
        groups = [depth for depth in range(1, len(place)) if isinstance(self.element(place[:depth]).node, Group)]
        return bool(condition.function(self._view(history, place[: groups[-1]] if groups else ()), event))

    def could_take(self, place: Place, history: History, at: int) -> bool:
        return (
            self.fits(place, history, at)
            and self.events[at].time < self.bound(place, history)
            and not (self.ended(place, history, at))
        )

    def bound(self, place: Place, history: History) -> int:
        """The time from which on nothing can be taken here any more: `within` of the element, and of the pattern."""
        first, last = self.events[history[0][0]].time, self.events[history[-1][0]].time
        own, whole = self.element(place).within, self.definition.within
        return min(FOREVER if own is None else last + own, FOREVER if whole is None else first + whole)

    def ended(self, place: Place, history: History, at: int) -> bool:
        """Whether `until` held of this event, or of one before it and behind the first of this visit."""
        element = self.element(place)
        visit = [index for index, taken in history if _visit(taken) == _visit(place)]
        if element.until is None or not visit:
            return False
        assert isinstance(element.node, Take)
        between = [timed.event for timed in self.events[visit[0] + 1 : at + 1]]
        return any(isinstance(event, element.node.events) and element.until.function(event) for event in between)

    def allowed(self, move: Move, history: History, at: int) -> bool:
        """Whether this event can be the next one taken, by this move."""
        assert move.place is not None
        if not self.could_take(move.place, history, at):
            return False
        last = history[-1][0]
        return not any(self.closes(move, history, between) for between in range(last + 1, at)) and not any(
            self._strictly_forbidden(absence, history, last + 1) for absence in move.absences
        )

    def closes(self, move: Move, history: History, at: int) -> bool:
        """Whether this event, when it is not taken by this move, is none over which the move can be made."""
        return (
            move.contiguity == "strict"
            or (move.contiguity == "relaxed" and any(self.could_take(rival, history, at) for rival in move.rivals))
            or any(self.forbidden(absence, history, at) for absence in move.absences)
            or any(self.still(one, history, at) for one in move.opens)
            or (move.place is not None and self.ended(move.place, history, at))
        )

    def forbidden(self, absence: Place, history: History, at: int) -> bool:
        """Whether this event, behind the last taken one, is what must be absent."""
        if self.element(absence).contiguity == "strict":
            return self._strictly_forbidden(absence, history, at) and at == history[-1][0] + 1
        return self.events[at].time < self.bound(absence, history) and self.fits(absence, history, at)

    def _strictly_forbidden(self, absence: Place, history: History, at: int) -> bool:
        return (
            self.element(absence).contiguity == "strict"
            and self.events[at].time < self.bound(absence, history)
            and self.fits(absence, history, at)
        )

    def still(self, one: Open, history: History, at: int) -> bool:
        """Whether a greedy element that is not used could have taken this event."""
        behind = one.contiguity != "strict" or at == history[-1][0] + 1
        return behind and self.could_take(one.place, history, at)

    # ---------------------------------------------------------------------------------------- what is possible

    @cached_property
    def runs(self) -> list[tuple[History, tuple[int, ...]]]:
        """All histories, with the ranks of what was done at each event from the first on."""
        found: list[tuple[History, tuple[int, ...]]] = []
        for at in range(len(self.events)):
            for rank, move in enumerate(self.beginnings):
                if move.place is not None and self.fits(move.place, (), at):
                    found += self._longer(((at, move.place),), (rank,))
        return found

    def _longer(self, history: History, ranks: tuple[int, ...]) -> Iterator[tuple[History, tuple[int, ...]]]:
        yield history, ranks
        last, place = history[-1]
        for at in range(last + 1, len(self.events)):
            left_out = ranks + (LEFT_OUT,) * (at - last - 1)
            for rank, move in enumerate(self.moves(place)):
                if move.place is not None and self.allowed(move, history, at):
                    yield from self._longer((*history, (at, move.place)), (*left_out, rank))

    def complete(self, history: History) -> tuple[Moment, bool] | None:
        """When a history is certain to end here, and True; or when it is certain not to, and False. None: it cannot end here."""
        ends = [move for move in self.moves(history[-1][1]) if move.place is None]
        if not ends:
            return None
        (end,) = ends
        moments = [self._certain(absence, history) for absence in end.absences]
        if not moments:
            moments = [self._closed(one, history) for one in end.opens]
        last = history[-1][0]
        moment, _ = max(moments, default=(self.moment(last), True))
        for at in range(last + 1, len(self.events)):
            if self.moment(at) > moment:
                break
            if any(self.forbidden(one, history, at) for one in end.absences) or any(
                self.still(one, history, at) for one in end.opens
            ):
                return self.moment(at), False
        return moment, True

    def _certain(self, absence: Place, history: History) -> tuple[Moment, bool]:
        """When nothing that must be absent can come any more."""
        deadline = Moment(self.bound(absence, history), False, 0)
        following = history[-1][0] + 1
        if self.element(absence).contiguity == "strict" and following < len(self.events):
            return min(deadline, self.moment(following)), True
        return deadline, True

    def _closed(self, one: Open, history: History) -> tuple[Moment, bool]:
        """When a greedy element at the end cannot take any more."""
        deadline = Moment(self.bound(one.place, history), False, 0)
        for at in range(history[-1][0] + 1, len(self.events)):
            if self.moment(at) > deadline:
                break
            if one.contiguity == "strict" or self.ended(one.place, history, at):
                return self.moment(at), True
        return deadline, True

    def moment(self, at: int) -> Moment:
        return Moment(self.events[at].time, True, at)

    # ---------------------------------------------------------------------------------------- what is a match

    def _candidates(self) -> list[Candidate]:
        candidates: list[Candidate] = []
        for history, ranks in self.runs:
            completed = self.complete(history)
            if completed is None or not completed[1] or completed[0].time > self.over:
                continue
            where = self.definition.where
            if where is None or where.function(self._view(history, ())):
                padded = ranks + (LEFT_OUT,) * (len(self.events) - history[0][0] - len(ranks))
                candidates.append(Candidate(completed[0], history, padded))
        return sorted(candidates, key=lambda one: (one.moment, one.history[0][0], one.ranks))

    def _matches(self) -> list[Candidate]:
        matches: list[Candidate] = []
        given: list[Any] = []
        for candidate in self._candidates():
            steps = self._match(candidate.history, 0).steps  # two ways to take the same are one match
            if steps not in given and not any(self.rules_out(match, candidate.history[0][0]) for match in matches):
                matches.append(candidate)
                given.append(steps)
        return matches

    def rules_out(self, match: Candidate, beginning: int) -> bool:
        """Whether a match rules out a later one that begins with this event."""
        skip, own = self.definition.skip, match.history[0][0]
        if skip.to == "none":
            return False
        if skip.to == "past_last":
            return beginning <= match.history[-1][0]
        if skip.to in ("first", "last"):
            taken = [at for at, place in match.history if self.element(place[:1]).name == skip.step]
            if taken and beginning < (taken[0] if skip.to == "first" else taken[-1]):
                return True
        return beginning == own

    def _expired(self, matches: list[Candidate]) -> list[tuple[History, int]]:
        """For each beginning that found no end in time, the run that took most, and its deadline."""
        expired: list[tuple[History, int]] = []
        for beginning in range(len(self.events)):
            runs = [run for run in self.runs if run[0][0][0] == beginning]
            if not runs:
                continue
            over = max(self.over_at(history) for history, _ in runs)
            if over.time > self.over or any(
                match.moment <= over and (match.history[0][0] == beginning or self.rules_out(match, beginning))
                for match in matches
            ):
                continue
            waiting = [run for run in runs if self._timed_out(run[0])]
            if waiting:
                history, _ = min(waiting, key=lambda run: (-len(run[0]), self._padded(run)))
                expired.append((history, self.over_at(history).time))
        return expired

    def _padded(self, run: tuple[History, tuple[int, ...]]) -> tuple[int, ...]:
        history, ranks = run
        return ranks + (LEFT_OUT,) * (len(self.events) - history[0][0] - len(ranks))

    def over_at(self, history: History) -> Moment:
        """When the last way to go on is closed."""
        ends = self.complete(history)
        moments = [self._way_closed(move, history) for move in self.moves(history[-1][1]) if move.place is not None]
        moments += [ends[0]] if ends else []
        return max(moments) if moments else self.moment(history[-1][0])

    def _timed_out(self, history: History) -> bool:
        """Whether a deadline ended this run, which needed more."""
        ends = self.complete(history)
        return (ends is None or not ends[1]) and not self.over_at(history).is_event

    def _way_closed(self, move: Move, history: History) -> Moment:
        assert move.place is not None
        deadline = Moment(self.bound(move.place, history), False, 0)
        for at in range(history[-1][0] + 1, len(self.events)):
            if self.moment(at) > deadline:
                break
            if self.closes(move, history, at):
                return self.moment(at)
        return deadline

    # ---------------------------------------------------------------------------------------- what was taken

    def _match(self, history: History, ended: int) -> Match:
        steps = self._values(history, (), lambda at: self.events[at].position)
        return Match(steps, self.events[history[0][0]].time, ended)

    def _view(self, history: History, prefix: Place) -> SimpleNamespace:
        """What `self` is in a condition: the match so far, or that repetition of a group."""
        return _attributes(self._values(history, prefix, lambda at: self.events[at].event))

    def _values(self, history: History, prefix: Place, of: Any) -> dict[str, Any]:
        depth = len(prefix)
        taken = [(at, place[depth:]) for at, place in history if place[:depth] == prefix]
        node = self.element(prefix).node if prefix else None
        elements = self.definition.elements if node is None else node.elements  # type: ignore[union-attr]
        return _of_sequence(elements, taken, of)


def _of_sequence(elements: Sequence[Element], taken: Sequence[tuple[int, Place]], of: Any) -> dict[str, Any]:
    return {
        element.name.rpartition(".")[2]: _of_element(element, [one for one in taken if one[1][0].at == at], of)
        for at, element in enumerate(elements)
        if not element.absent
    }


def _of_element(element: Element, taken: Sequence[tuple[int, Place]], of: Any) -> Any:
    repetitions: list[Any] = []
    for nth in sorted({place[0].nth for _, place in taken}):
        inside = [(at, place[1:]) for at, place in taken if place[0].nth == nth]
        match element.node:
            case Take():
                repetitions.append(of(inside[0][0]))
            case Group(elements):
                repetitions.append(_of_sequence(elements, inside, of))
            case Choice(elements):
                repetitions.append(_of_element(elements[inside[0][1][0].at], inside, of))
            case AllOf(elements):
                parts = [[one for one in inside if one[1][0].at == at] for at in range(len(elements))]
                repetitions.append(tuple(_of_element(part, own, of) for part, own in zip(elements, parts, strict=True)))
    if element.several:
        return tuple(repetitions)
    return repetitions[0] if repetitions else None


def _attributes(values: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**{name: _readable(value) for name, value in values.items()})


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return _attributes(value)
    return tuple(map(_readable, value)) if isinstance(value, tuple) else value


def _rivals(ways: list[Move], contiguity: Contiguity) -> list[Move]:
    rivals = tuple(_place(way) for way in ways)
    return [way._replace(contiguity=contiguity, rivals=rivals) for way in ways]


def _place(move: Move) -> Place:
    assert move.place is not None
    return move.place


def _visit(place: Place) -> tuple[Place, int, tuple[int, ...]]:
    """Which visit of an element: the place without which repetition it is."""
    return place[:-1], place[-1].at, place[-1].done
