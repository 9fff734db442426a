"""A pattern as the automaton that Flink CEP makes of it, for `semantics="flink"`.

States have edges that take an event, leave it out, or go on to another state for the same event; each has a condition. What Flink does
differently from the meaning of our patterns lies in which edges there are: a loop offers to be left at each of its events, greedy is a
further condition on the edges behind it, and an absence is a stop. See docs/decisions/0030-what-a-pattern-means.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from ensue.errors import DefinitionError
from ensue.patterns.automata.automaton import Automaton, Leaf
from ensue.patterns.definition import AllOf, Choice, Contiguity, Definition, Element, Group, Take, elements_of

__all__ = ["Asked", "Edge", "FlinkAutomaton", "State", "check_flink"]


class Asked(NamedTuple):
    """A condition: all of these are so. Each is a leaf, whether its `until` is meant, and the answer wanted; or another condition that
    must not be so."""

    parts: tuple[tuple[Leaf, bool, bool], ...] = ()
    refused: tuple[Asked, ...] = ()

    def also(self, other: Asked) -> Asked:
        return Asked(self.parts + other.parts, self.refused + other.refused)

    def negated(self) -> Asked:
        return Asked(refused=(self,))


ALWAYS = Asked()
Kind: TypeAlias = Literal["normal", "final", "stop", "pending"]
Action: TypeAlias = Literal["take", "ignore", "proceed"]


class Edge:
    """A way from a state. `again`: the group's next repetition begins on it."""

    __slots__ = ("action", "again", "asked", "target")

    def __init__(self, action: Action, target: State, asked: Asked, *, again: int = -1) -> None:
        self.action: Action = action
        self.target = target
        self.asked = asked
        self.again = again


class State:
    """Where a run of Flink waits."""

    __slots__ = ("edges", "element", "kind", "leaf", "number", "repetitions", "within")

    def __init__(
        self,
        number: int,
        kind: Kind,
        element: Element | None,
        leaf: Leaf | None,
        repetitions: tuple[tuple[int, int], ...],
    ) -> None:
        self.kind: Kind = kind
        self.number, self.element, self.leaf = number, element, leaf
        self.repetitions = repetitions
        """The groups around it, outermost first, each with the number of its copy."""
        self.edges: list[Edge] = []
        self.within: int | None = None
        """So long it waits here since the event before. Flink counts it only where a step is first waited for."""


class _Around(NamedTuple):
    """Where an element stands: among which others, and within which group."""

    elements: tuple[Element, ...]
    at: int
    group: Element | None
    repetitions: tuple[tuple[int, int], ...]
    first_of_loop: bool
    """Of the group: it is its first repetition that is made."""
    begins: bool
    """The whole pattern begins here."""
    behind: Element | None = None
    """What comes behind the group."""

    @property
    def element(self) -> Element:
        return self.elements[self.at]

    @property
    def following(self) -> Element | None:
        return self.elements[self.at + 1] if self.at + 1 < len(self.elements) else self.behind


def check_flink(definition: Definition) -> None:
    """Errors: `DefinitionError` for a pattern that Flink CEP does not have, or with what only `semantics="ensue"` gives."""
    for where, reason in _missing_in_flink(definition):
        raise DefinitionError(f"{definition.name}{where}: Flink CEP {reason}; it needs semantics='ensue'")


def _missing_in_flink(definition: Definition) -> Iterator[tuple[str, str]]:
    for element in elements_of(definition.elements):
        where = f".{element.name}"
        if isinstance(element.node, Choice):
            yield where, "has no alternation of steps"
        if isinstance(element.node, AllOf):
            yield where, "has no steps in any order"
        if element.within is not None and element.high != 1:
            yield where, "counts within= between the events of one step in another way"
        if element.absent and element.within is not None and element is not definition.elements[-1]:
            yield where, "has no absence that lasts for a time between two steps"
    if definition.lateness:
        yield "", "does not correct matches (lateness=)"
    if definition.where is not None:
        yield ".where", "has no condition on a whole match"
    sequences = [definition.elements]
    sequences += [one.node.elements for one in elements_of(definition.elements) if isinstance(one.node, Group)]
    for before, element in (pair for one in sequences for pair in pairwise(one)):
        if element.absent and before.low == 0 and not before.absent:
            yield f".{element.name}", "has no absence behind an optional step"
        if element.low == 0 and not element.absent and _loops_greedily(before):
            yield f".{element.name}", "has no optional step behind a greedy one"
    last = definition.elements[-1]
    if last.absent and last.contiguity == "relaxed" and definition.within is None and last.within is None:
        yield f".{last.name}", "has no absence at the end without within="


def _loops_greedily(element: Element) -> bool:
    return element.greedy and isinstance(element.node, Take) and not element.absent and element.high != 1


class FlinkAutomaton:
    """The states. Errors: `DefinitionError` for a pattern that Flink CEP does not have."""

    def __init__(self, definition: Definition, automaton: Automaton) -> None:
        check_flink(definition)
        self.states: list[State] = []
        self._leaves = {id(leaf.element): leaf for leaf in automaton.leaves}
        self._groups = {id(group): number for number, group in enumerate(automaton.groups)}
        self._copies = 0
        self._originals: dict[int, State] = {}
        final = self._state("final", None)
        elements = definition.elements
        sink = final
        last = elements[-1]
        if last.absent and last.contiguity == "relaxed":
            sink = self._pending(last)
            elements = elements[:-1]
        whole = _Around(definition.elements, 0, None, (), first_of_loop=True, begins=True)
        self.start = self._sequence(len(elements), sink, whole)

    def _state(
        self,
        kind: Kind,
        element: Element | None,
        repetitions: tuple[tuple[int, int], ...] = (),
    ) -> State:
        leaf = self._leaves.get(id(element))
        state = State(len(self.states), kind, element, leaf, repetitions)
        self.states.append(state)
        return state

    def _leaf(self, element: Element) -> Leaf:
        return self._leaves[id(element)]

    def _takes(self, element: Element) -> Asked:
        """Of a group nothing is asked itself."""
        return Asked(((self._leaf(element), False, True),)) if isinstance(element.node, Take) else ALWAYS

    def _ends(self, element: Element, *, so: bool) -> Asked:
        return ALWAYS if element.until is None else Asked(((self._leaf(element), True, so),))

    def _pending(self, element: Element) -> State:
        pending = self._state("pending", element)
        pending.within = element.within
        asked = self._takes(element)
        pending.edges.append(Edge("proceed", self._stop(element), asked))
        pending.edges.append(Edge("ignore", pending, asked.negated()))
        return pending

    def _stop(self, element: Element) -> State:
        stop = self._state("stop", element)
        stop.edges.append(Edge("take", stop, self._takes(element)))
        return stop

    # ---------------------------------------------------------------------------------------------------- one after another

    def _sequence(self, many: int, sink: State, first: _Around) -> State:
        """The states of the first so many elements, made from the last to the first."""
        for at in reversed(range(many)):
            around = first._replace(at=at)
            element = around.element
            if not element.absent:
                sink = self._element(around, sink)
            elif element.contiguity == "strict":
                sink = self._not_next(around, sink)
        return sink

    def _not_next(self, around: _Around, sink: State) -> State:
        element = around.element
        asked = self._takes(element)
        state = self._state("normal", element, around.repetitions)
        action: Action = "ignore" if sink.kind == "final" else "proceed"
        state.edges.append(Edge(action, sink, asked.negated()))
        state.edges.append(Edge("proceed", self._stop(element), asked))
        return state

    def _element(self, around: _Around, sink: State) -> State:
        element = around.element
        if element.high is None:
            looping = self._looping(around, self._without_stops(around, sink))
            last = self._times(around, looping, sink, max(element.low, 1), max(element.low, 1))
        elif element.high == 1 and element.low <= 1:
            last = self._single(
                around, sink, sink, self._takes(element), self._ignores(around), optional=element.low == 0
            )
        else:
            last = self._times(around, sink, sink, max(element.low, 1), element.high)
        self._add_stops(around, last)
        return last

    def _times(self, around: _Around, sink: State, proceed: State, low: int, high: int) -> State:
        element = around.element
        last = sink
        inner = self._extended(self._inner_ignores(around), element)
        takes = self._takes(element).also(self._ends(element, so=False))
        if element.greedy and isinstance(element.node, Take) and low != high:
            if element.until is not None:
                self._originals[sink.number] = self._copy(sink)
            _guard(sink, takes)
        for _ in range(low, high):
            last = self._single(around, last, proceed, takes, inner, optional=True, first=False)
            self._add_stop_behind(around, last)
        for _ in range(low - 1):
            last = self._single(around, last, last, takes, inner, optional=False, first=False)
            self._add_stop_behind(around, last)
        ignores = self._ignores(around)
        return self._single(around, last, proceed, takes, ignores, optional=element.low == 0)

    def _single(
        self,
        around: _Around,
        sink: State,
        proceed: State,
        takes: Asked,
        ignores: Asked | None,
        *,
        optional: bool,
        first: bool = True,
    ) -> State:
        element = around.element
        if isinstance(element.node, Group):
            return self._group(around, element.node, sink, proceed, optional=optional, first=first)
        state = self._state("normal", element, around.repetitions)
        state.within = element.within
        behind = self._without_stops(around, sink)
        state.edges.append(Edge("take", behind, takes))
        if optional:
            self._add_proceed(element, state, proceed)
        if ignores is not None:
            waiting = state
            if optional or (self._heads(around) and self._may_be_missing(around)):
                waiting = self._state("normal", element, around.repetitions)
                waiting.edges.append(Edge("take", behind, takes))
                waiting.edges.append(Edge("ignore", waiting, ignores))
                self._add_stops(around, waiting)
            state.edges.append(Edge("ignore", waiting, ignores))
        return state

    def _add_proceed(self, element: Element, state: State, proceed: State) -> None:
        if element.greedy and element.until is not None and element.several:
            original = self._originals.get(proceed.number, proceed)
            state.edges.append(Edge("proceed", original, self._ends(element, so=True)))
            state.edges.append(Edge("proceed", proceed, self._ends(element, so=False)))
        else:
            state.edges.append(Edge("proceed", proceed, ALWAYS))

    def _looping(self, around: _Around, sink: State) -> State:
        element = around.element
        if isinstance(element.node, Group):
            return self._looping_group(around, element.node, sink)
        takes = self._takes(element).also(self._ends(element, so=False))
        ignores = self._extended(self._inner_ignores(around), element)
        state = self._state("normal", element, around.repetitions)
        if element.greedy:
            if element.until is not None:
                copy = self._copy(sink)
                state.edges.append(Edge("proceed", copy, self._ends(element, so=True)))
                self._originals[sink.number] = copy
            state.edges.append(Edge("proceed", sink, self._ends(element, so=False)))
            _guard(sink, self._takes(element))
        else:
            state.edges.append(Edge("proceed", sink, ALWAYS))
        state.edges.append(Edge("take", state, takes))
        self._add_stop_behind(around, state)
        if ignores is not None:
            waiting = self._state("normal", element, around.repetitions)
            waiting.edges.append(Edge("take", state, takes))
            waiting.edges.append(Edge("ignore", waiting, ignores))
            state.edges.append(Edge("ignore", waiting, ignores))
            self._add_stop_behind(around, waiting)
        return state

    # --------------------------------------------------------------------------------------------------------------- groups

    def _group(
        self, around: _Around, node: Group, sink: State, proceed: State, *, optional: bool, first: bool
    ) -> State:
        last = self._repetition(around, node, sink, first=first)
        if optional:
            last.edges.append(Edge("proceed", proceed, ALWAYS))
        return last

    def _looping_group(self, around: _Around, node: Group, sink: State) -> State:
        between = self._state("normal", around.element, around.repetitions)
        first = self._repetition(around, node, between, first=False)
        first.edges.append(Edge("proceed", sink, ALWAYS))
        between.edges.append(Edge("proceed", first, ALWAYS, again=self._groups[id(node)]))
        return first

    def _repetition(self, around: _Around, node: Group, sink: State, *, first: bool) -> State:
        self._copies += 1
        repetitions = (*around.repetitions, (self._groups[id(node)], self._copies))
        begins = around.begins and around.at == 0 and first
        inside = _Around(node.elements, 0, around.element, repetitions, first, begins, around.following)
        return self._sequence(len(node.elements), sink, inside)

    @staticmethod
    def _may_be_missing(around: _Around) -> bool:
        return around.first_of_loop and around.group is not None and around.group.low == 0

    @staticmethod
    def _heads(around: _Around) -> bool:
        return around.group is not None and around.at == 0

    # --------------------------------------------------------------------------------------------------- leaving events out

    def _ignores(self, around: _Around) -> Asked | None:
        """When an event may be left out before the element's first; None: never."""
        element = around.element
        contiguity: Contiguity = element.contiguity
        if around.begins and around.at == 0:
            return None
        if around.group is not None and around.at == 0:
            contiguity = around.group.contiguity if around.first_of_loop else around.group.inner
        return self._by_contiguity(contiguity, element)

    def _inner_ignores(self, around: _Around) -> Asked | None:
        element = around.element
        heading = around.group if self._heads(around) else None
        if heading is not None:
            once = heading.high == 1 and heading.low <= 1
            return self._by_contiguity("relaxed" if once else heading.inner, element)
        return self._by_contiguity(element.inner, element)

    def _by_contiguity(self, contiguity: Contiguity, element: Element) -> Asked | None:
        if contiguity == "strict":
            return None
        return ALWAYS if contiguity == "any" else self._takes(element).negated()

    def _extended(self, ignores: Asked | None, element: Element) -> Asked | None:
        return None if ignores is None else ignores.also(self._ends(element, so=False))

    # ------------------------------------------------------------------------------------------------------------ absences

    def _forbidden(self, around: _Around) -> list[Element]:
        """Absences before an element, as far as only optional elements lie between."""
        found: list[Element] = []
        for element in reversed(around.elements[: around.at]):
            if element.absent and element.contiguity == "relaxed":
                found.append(element)
            elif element.low > 0 or element.absent:
                break
        return found

    def _add_stops(self, around: _Around, state: State) -> None:
        for element in self._forbidden(around):
            state.edges.append(Edge("proceed", self._stop(element), self._takes(element)))

    def _add_stop_behind(self, around: _Around, state: State) -> None:
        following = around.following
        if following is not None and following.absent and following.contiguity == "relaxed":
            state.edges.append(Edge("proceed", self._stop(following), self._takes(following)))

    def _without_stops(self, around: _Around, sink: State) -> State:
        """The sink, where what was forbidden before is forbidden no more."""
        forbidden = {id(element) for element in self._forbidden(around)}
        if not forbidden or sink.kind != "normal":
            return sink
        copy = self._state(sink.kind, sink.element, sink.repetitions)
        for edge in sink.edges:
            target = edge.target
            if edge.action == "proceed":
                if target.kind == "stop" and id(target.element) in forbidden:
                    continue
                target = copy if target is sink else self._without_stops(around, target)
            elif target is sink:
                target = copy
            copy.edges.append(Edge(edge.action, target, edge.asked, again=edge.again))
        return copy

    def _copy(self, state: State) -> State:
        copy = self._state(state.kind, state.element, state.repetitions)
        copy.edges = [
            Edge(edge.action, copy if edge.target is state else edge.target, edge.asked, again=edge.again)
            for edge in state.edges
        ]
        return copy


def _guard(state: State, greedy: Asked) -> None:
    """A greedy element before this: what it could take goes no other way."""
    for edge in state.edges:
        edge.asked = edge.asked.also(greedy.negated())
