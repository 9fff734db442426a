"""`semantics="flink"`: finds what Flink CEP 2 finds, in the order in which it gives it.

A run is a state and what was taken. Each event goes through the states that a run can reach without taking anything; every edge whose
condition holds makes a run. Completed matches wait while a run that began earlier is alive (but for `skip="none"`), and matches and
timeouts rule others out as Flink's strategies do. Flink keeps runs in a heap and looks at them in the order of its array; so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, NamedTuple

from ensue.errors import ConditionFailed
from ensue.events.recorded import instant
from ensue.patterns.automata.automaton import Automaton, Leaf
from ensue.patterns.automata.flink_automaton import Asked, Edge, FlinkAutomaton, State
from ensue.patterns.definition import Definition
from ensue.patterns.keys import key_reader
from ensue.patterns.matches import partial_match
from ensue.patterns.operator import Batch, Expired, Found, Output, Taken, identity
from ensue.patterns.searching.runs import Link, seen_by, steps_of

__all__ = ["FlinkEngine"]

FORMAT = b"flink 1"
_LAST = (1 << 62, 1 << 62)


class _Run(NamedTuple):
    """A state and what was taken. Only the run that begins anew with each event has taken nothing."""

    state: State
    link: Link | None
    repetitions: tuple[tuple[int, int], ...] = ()
    """Where the last event was taken."""

    @property
    def order(self) -> tuple[int, int]:
        return _LAST if self.link is None else (self.link.first.time, self.link.first.position)


class _Heap:
    """A heap whose array has the order that Java's `PriorityQueue` gives it."""

    def __init__(self, runs: Iterable[_Run] = ()) -> None:
        self.runs: list[_Run] = []
        for run in runs:
            self.add(run)

    def __iter__(self) -> Iterator[_Run]:
        return iter(self.runs)

    def first(self) -> _Run | None:
        return self.runs[0] if self.runs else None

    def add(self, run: _Run) -> None:
        runs, at = self.runs, len(self.runs)
        runs.append(run)
        while at > 0:
            parent = (at - 1) // 2
            if run.order >= runs[parent].order:
                break
            runs[at] = runs[parent]
            at = parent
        runs[at] = run

    def pop(self) -> _Run:
        found = self.runs[0]
        last = self.runs.pop()
        if self.runs:
            self._sink(0, last)
        return found

    def drop(self, ruled_out: Callable[[_Run], bool]) -> None:
        left = [run for run in self.runs if not ruled_out(run)]
        if len(left) < len(self.runs):
            self.runs = left
            for at in reversed(range(len(left) // 2)):
                self._sink(at, left[at])

    def _sink(self, at: int, run: _Run) -> None:
        runs, many = self.runs, len(self.runs)
        while at < many // 2:
            child = 2 * at + 1
            if child + 1 < many and runs[child].order > runs[child + 1].order:
                child += 1
            if run.order <= runs[child].order:
                break
            runs[at] = runs[child]
            at = child
        runs[at] = run


class _Key:
    """What waits of one key."""

    __slots__ = ("completed", "partial")

    def __init__(self, start: State) -> None:
        self.partial = _Heap([_Run(start, None)])
        self.completed = _Heap()

    @property
    def idle(self) -> bool:
        return not self.completed.runs and all(run.link is None for run in self.partial)


class FlinkEngine:
    """An `Operator`. A match ends when Flink gives it: with its last event, or when a run before it is over; an absence, at its deadline."""

    def __init__(self, definition: Definition, *, timeouts: bool = False) -> None:
        self.definition = definition
        self.name = definition.name
        self.fingerprint = blake2b(definition.fingerprint + FORMAT, digest_size=16).digest()
        self.events = definition.events
        self.given_up = 0
        """Beginnings that were given up because more than `runs` runs of their key waited."""
        self._timeouts = timeouts
        self._automaton = Automaton(definition)
        self._flink = FlinkAutomaton(definition, self._automaton)
        self._key_of = key_reader(definition.key_tag)
        self._keys: dict[str, _Key] = {}
        self._timers: list[tuple[int, str]] = []
        self._changed: set[str] = set()

    # ------------------------------------------------------------------------------------------------------------ the port

    def take(self, batch: Batch) -> list[Output]:
        """See `Operator`."""
        outputs: list[Output] = []
        for at, event in enumerate(batch.events):
            time = batch.times[at]
            self._until(time, outputs)
            if not isinstance(event, self.events):
                continue
            taken = Taken(time, batch.positions[at], event, batch.rows[at] if batch.rows is not None else None)
            try:
                key = batch.keys[at] if batch.keys is not None else self._key_of(event)
                self._event(key, taken, outputs)
            except ConditionFailed as failed:
                failed.outputs = outputs
                raise
        return outputs

    def advance(self, time: int) -> list[Output]:
        """See `Operator`."""
        outputs: list[Output] = []
        self._until(time, outputs)
        return outputs

    def due(self) -> int | None:
        """See `Operator`."""
        while self._timers and self._timers[0][1] not in self._keys:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def changed(self) -> Iterable[str]:
        """See `Operator`."""
        changed, self._changed = self._changed, set()
        return changed

    def state(self, key: str) -> Any:
        """See `Operator`."""
        kept = self._keys.get(key)
        if kept is None:
            return None
        links: dict[int, int] = {}
        chain: list[tuple[int, int, tuple[int, ...], Taken]] = []

        def numbered(run: _Run) -> tuple[int, int, tuple[tuple[int, int], ...]]:
            for one in run.link.all() if run.link is not None else ():
                if id(one) not in links:
                    links[id(one)] = len(chain)
                    before = -1 if one.before is None else links[id(one.before)]
                    chain.append((before, one.move.reach.leaf.index, one.move.begins, one.taken))
            return run.state.number, -1 if run.link is None else links[id(run.link)], run.repetitions

        partial = [numbered(run) for run in kept.partial]
        return {"partial": partial, "completed": [numbered(run) for run in kept.completed], "chain": chain}

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`."""
        links: list[Link] = []
        for before, leaf, begins, taken in state["chain"]:
            move = self._automaton.move_of(self._automaton.leaves[leaf], tuple(begins))
            links.append(Link(None if before < 0 else links[before], move, taken, ()))
        kept = _Key(self._flink.start)

        def runs(of: Any) -> list[_Run]:
            return [
                _Run(self._flink.states[number], None if link < 0 else links[link], tuple(map(tuple, repetitions)))
                for number, link, repetitions in of
            ]

        kept.partial.runs, kept.completed.runs = runs(state["partial"]), runs(state["completed"])
        self._keys[key] = kept
        for run in kept.partial:
            self._timer(key, run)

    # ----------------------------------------------------------------------------------------------------------------- time

    def _timer(self, key: str, run: _Run) -> None:
        if run.link is not None and self.definition.within is not None:
            heappush(self._timers, (run.link.first.time + self.definition.within, key))

    def _until(self, time: int, outputs: list[Output]) -> None:
        while self._timers and self._timers[0][0] <= time:
            due, key = heappop(self._timers)
            kept = self._keys.get(key)
            if kept is not None:
                self._advance(key, kept, due, outputs)
                self._settle(key, kept)

    def _settle(self, key: str, kept: _Key) -> None:
        if kept.idle:
            self._keys.pop(key, None)
        else:
            self._keys[key] = kept

    def _advance(self, key: str, kept: _Key, now: int, outputs: list[Output]) -> None:
        """What is over for this key at this time."""
        left, matches = _Heap(), _Heap()
        whole = self.definition.within
        over = False
        expired: list[Output] = []
        for run in kept.partial:
            link = run.link
            step = run.state.within
            by_step = link is not None and step is not None and now - link.taken.time >= step
            by_whole = link is not None and whole is not None and now - link.first.time >= whole
            if link is None or not (by_step or by_whole):
                left.add(run)
                continue
            over = True
            if run.state.kind == "pending":
                matches.add(run)
            elif self._timeouts:
                deadline = link.taken.time + (step or 0) if by_step else link.first.time + (whole or 0)
                expired.append(self._expired(key, run, link, deadline))
        if over:
            self._changed.add(key)
            kept.partial = left
            self._release(key, kept, list(matches), now, outputs)
            outputs += expired

    def _expired(self, key: str, run: _Run, link: Link, deadline: int) -> Expired:
        steps = steps_of(self._automaton, link)
        return Expired(
            id=identity(self.name, key, steps),
            key=key,
            started=link.first.time,
            deadline=deadline,
            waiting_for=run.state.element.name if run.state.element is not None else "",
            steps=steps,
        )

    # --------------------------------------------------------------------------------------------------------------- events

    def _event(self, key: str, taken: Taken, outputs: list[Output]) -> None:
        kept = self._keys.get(key) or _Key(self._flink.start)
        found: list[Output] = []
        self._advance(key, kept, taken.time, found)
        try:
            left, complete = _Heap(), _Heap()
            for run in kept.partial:
                self._step(key, run, taken, left, complete)
        except ConditionFailed:
            outputs += found  # time has come all the same
            self._settle(key, kept)
            raise
        if left.runs != kept.partial.runs or complete.runs:
            self._changed.add(key)
        self._bound(left)
        kept.partial = left
        for run in left:
            if run.link is not None and run.link.first is taken:
                self._timer(key, run)
        self._release(key, kept, list(complete), taken.time, found)
        outputs += found
        self._settle(key, kept)

    def _bound(self, runs: _Heap) -> None:
        """At most so many runs of one key, beside that which begins anew: the oldest beginning is given up."""
        while len(runs.runs) > self.definition.runs + 1:
            oldest = runs.runs[0].order
            runs.drop(lambda run, oldest=oldest: run.order == oldest)  # type: ignore[misc]
            self.given_up += 1

    def _step(self, key: str, run: _Run, taken: Taken, left: _Heap, complete: _Heap) -> None:
        looking = _Looking(self, key, run, taken)
        made: list[_Run] = []
        stopped = False
        for edge, source, again in looking.edges():
            if edge.action == "ignore":
                if run.link is not None:
                    # a repetition that could have begun with this event begins with the next
                    begun = set(looking.begins(source, again))
                    kept = tuple(one for one in run.repetitions if one[0] not in begun)
                    made.append(_Run(edge.target, run.link, kept))
                continue
            if edge.target.kind == "stop":
                stopped = True
                continue
            leaf = source.leaf
            assert leaf is not None
            link = Link(run.link, self._automaton.move_of(leaf, looking.begins(source, again)), taken, ())
            made.append(_Run(edge.target, link, source.repetitions))
            final = looking.final_behind(edge.target)
            if final is not None:
                made.append(_Run(final, link, source.repetitions))
        if run.link is None:
            made.append(run)
        for one in made:
            if one.state.kind == "final":
                complete.add(one)
            elif not stopped:
                left.add(one)

    def _release(self, key: str, kept: _Key, complete: list[_Run], now: int, outputs: list[Output]) -> None:
        """Completed matches that no earlier run holds back, and what they rule out."""
        for run in complete:
            kept.completed.add(run)
        while (earliest := kept.completed.first()) is not None:
            waiting = kept.partial.first()
            if waiting is not None and earliest.order > waiting.order and self.definition.skip.to != "none":
                return
            kept.completed.pop()
            ruled_out = self._ruled_out(earliest)
            kept.partial.drop(ruled_out)
            kept.completed.drop(ruled_out)
            outputs.append(self._found(key, earliest, now))

    def _ruled_out(self, match: _Run) -> Callable[[_Run], bool]:
        link, skip = match.link, self.definition.skip
        assert link is not None
        if skip.to == "none":
            return lambda run: False
        if skip.to == "next" or skip.to == "past_last":
            event = link.first if skip.to == "next" else link.taken
            bound = (event.time, event.position + 1)
        else:
            took = [
                one.taken
                for one in link.all()
                if self._automaton.elements[one.move.reach.leaf.trail[0]].name == skip.step
            ]
            if not took:
                return lambda run: False
            event = took[0] if skip.to == "first" else took[-1]
            bound = (event.time, event.position)
        return lambda run: run.link is not None and run.order < bound

    def _found(self, key: str, run: _Run, now: int) -> Found:
        link = run.link
        assert link is not None
        steps = steps_of(self._automaton, link)
        return Found(of=self.name, key=key, started=link.first.time, ended=now, steps=steps)

    def view(self, key: str, link: Link | None, leaf: Leaf, taken: Taken, *, fresh: bool) -> Any:
        """The match so far, as a condition of this leaf sees it."""
        pattern, elements = self._automaton.scope_of(leaf)
        steps = seen_by(self._automaton, link, leaf, fresh=fresh)
        first = taken if link is None else link.first
        return partial_match(pattern or self.definition.pattern, elements, steps, key=key, started=instant(first.time))


class _Looking:
    """One event, as one run looks at it."""

    def __init__(self, engine: FlinkEngine, key: str, run: _Run, taken: Taken) -> None:
        self.engine, self.key, self.run, self.taken = engine, key, run, taken
        self._known: dict[tuple[int, bool, bool], bool] = {}

    def edges(self) -> list[tuple[Edge, State, tuple[int, ...]]]:
        """The edges that take the event or leave it out, each with its state and the groups that begin again on the way there."""
        found: list[tuple[Edge, State, tuple[int, ...]]] = []
        waiting: list[tuple[State, tuple[int, ...]]] = [(self.run.state, ())]
        while waiting:
            state, again = waiting.pop()
            for edge in state.edges:
                if self._holds(edge.asked, state, again):
                    if edge.action == "proceed":
                        waiting.append((edge.target, (*again, edge.again) if edge.again >= 0 else again))
                    else:
                        found.append((edge, state, again))
        return found

    def final_behind(self, state: State) -> State | None:
        """The end, if it can be reached from here without an event."""
        waiting = [state]
        while waiting:
            one = waiting.pop()
            for edge in one.edges:
                if edge.action == "proceed" and self._holds(edge.asked, one, ()):
                    if edge.target.kind == "final":
                        return edge.target
                    waiting.append(edge.target)
        return None

    def begins(self, state: State, again: tuple[int, ...]) -> tuple[int, ...]:
        """The groups of which a repetition begins, if this state takes the event."""
        for at, (group, copy) in enumerate(state.repetitions):
            if group in again or self.run.link is None or (group, copy) not in self.run.repetitions:
                return tuple(one for one, _ in state.repetitions[at:])
        return ()

    def _holds(self, asked: Asked, state: State, again: tuple[int, ...]) -> bool:
        return all(self._answer(leaf, ends, state, again) is wanted for leaf, ends, wanted in asked.parts) and not any(
            self._holds(one, state, again) for one in asked.refused
        )

    def _answer(self, leaf: Leaf, ends: bool, state: State, again: tuple[int, ...]) -> bool:
        fresh = leaf.scope >= 0 and leaf.scope in self.begins(state, again)
        known = self._known.get((leaf.index, ends, fresh))
        if known is None:
            known = self._known[leaf.index, ends, fresh] = self._ask(leaf, ends, fresh)
        return known

    def _ask(self, leaf: Leaf, ends: bool, fresh: bool) -> bool:
        event = self.taken.event
        if not isinstance(event, leaf.events):
            return False
        try:
            if ends:
                return leaf.until is not None and bool(leaf.until.function(event))
            view: Any = None
            for condition in leaf.conditions:
                if not condition.sees_match:
                    holds = condition.function(event)
                else:
                    view = view or self.engine.view(self.key, self.run.link, leaf, self.taken, fresh=fresh)
                    holds = condition.function(view, event)
                if not holds:
                    return False
        except Exception as error:
            raise ConditionFailed(
                f"{self.engine.name}.{leaf.name}: its condition raised {type(error).__name__} for the {type(event).__name__} at "
                f"position {self.taken.position} of key {self.key!r}: {error}. The pattern goes on as if this event had not been there",
                name=self.engine.name,
                step=leaf.name,
                position=self.taken.position,
                key=self.key,
            ) from error
        return True
