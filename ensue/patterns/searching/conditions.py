"""What the general engine asks of an event: whether a leaf could take it, as a run stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ensue.errors import ConditionFailed
from ensue.events.message import Event
from ensue.events.recorded import instant
from ensue.patterns.automata.automaton import Absence, Automaton, Leaf, Move, Reach, Stage
from ensue.patterns.definition import Condition, Definition
from ensue.patterns.matches import match_of, partial_match
from ensue.patterns.operator import Found, Taken
from ensue.patterns.searching.registers import Evaluator, Registers
from ensue.patterns.searching.runs import Link, Run, seen_by

__all__ = ["Conditions", "Look"]


class Look:
    """One event, and what was asked about it."""

    __slots__ = ("accepted", "alone", "ended", "reacting", "taken", "views")

    def __init__(self, taken: Taken, accepted: frozenset[int]) -> None:
        self.taken = taken
        self.accepted = accepted
        """Leaves whose types it is of."""
        self.alone: dict[int, bool] = {}
        """By leaf: whether the conditions hold that look at nothing else."""
        self.ended: dict[int, bool] = {}
        """By leaf: whether its `until` holds."""
        self.views: dict[int, Any] = {}
        self.reacting: dict[Stage, bool] = {}
        """By stage: whether a run there can care."""


class Conditions:
    """The conditions of one pattern. What is asked of an event alone is asked once for each event."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.name
        self._automaton = Automaton(definition)
        self._accepted: dict[type[Event], frozenset[int]] = {}
        self._read_conditions()

    def _reacts(self, stage: Stage, key: str, look: Look) -> bool:
        """Whether the event can matter to a run that waits here, as far as conditions say that look at it alone."""
        known = look.reacting.get(stage)
        if known is None:
            known = look.reacting[stage] = self._may_matter(stage, key, look)
        return known

    def _may_matter(self, stage: Stage, key: str, look: Look) -> bool:
        for reach in stage.reaches:
            leaf = reach.leaf
            if leaf.index in look.accepted:
                if leaf.until is not None or not leaf.conditions:
                    return True
                alone = look.alone.get(leaf.index)
                if alone is None:
                    try:
                        alone = look.alone[leaf.index] = self._alone(key, look, leaf)
                    except ConditionFailed:
                        return True  # which is told if a run asks for it
                if alone:
                    return True
        return False

    def _forbids(self, key: str, run: Run, look: Look, absences: Sequence[Absence]) -> bool:
        passed = look.taken.time - run.link.taken.time
        return any(
            (one.within is None or passed < one.within) and self._can(key, run, run.link, look, one.reach)
            for one in absences
        )

    def _whole(self, where: Condition, match: Found, link: Link) -> bool:
        try:
            if self._where is not None:
                return bool(self._where(link.values, None))
            return bool(where.function(match_of(self.definition, match)))
        except Exception as error:
            raise self._failed("where", match.key, link.taken, error) from error

    def _accepts(self, kind: type[Event]) -> frozenset[int]:
        found = frozenset(leaf.index for leaf in self._automaton.leaves if issubclass(kind, leaf.events))
        self._accepted[kind] = found
        return found

    def _can(self, key: str, run: Run | None, link: Link | None, look: Look, reach: Reach) -> bool:
        """Whether this leaf could take the event, as the run stands."""
        leaf = reach.leaf
        if leaf.plain:
            alone = look.alone.get(leaf.index)
            if alone is None:
                alone = leaf.index in look.accepted and self._alone(key, look, leaf)
                look.alone[leaf.index] = alone
            return alone
        if leaf.index not in look.accepted:
            return False
        taken = look.taken
        if link is not None and leaf.within is not None and taken.time - link.taken.time >= leaf.within:
            return False
        if reach.again and leaf.until is not None:
            assert run is not None
            if run.ended or self._has_ended(key, look, leaf):
                return False
        if not leaf.conditions:
            return True
        alone = look.alone.get(leaf.index)
        if alone is None:
            alone = look.alone[leaf.index] = self._alone(key, look, leaf)
        if not alone or not leaf.sees_match:
            return alone
        known: bool | None = look.views.get(reach.number)
        if known is None:
            known = look.views[reach.number] = self._with_match(key, link, look, reach)
        return known

    def _alone(self, key: str, look: Look, leaf: Leaf) -> bool:
        for condition in leaf.conditions:
            if condition.sees_match:
                break
            if not self._holds(condition.function, key, look, leaf):
                return False
        return True

    def _read_conditions(self) -> None:
        """Which conditions can be read from registers. All are asked for before a run begins."""
        leaves = self._automaton.leaves
        # a part of a choice or of any order is no step that a condition can name
        self._registers = Registers({leaf.name: leaf.scope for leaf in leaves if len(leaf.trail) == leaf.depth + 1})
        self._evaluators: list[list[Evaluator | None]] = [
            [
                self._registers.evaluator(condition.expression) if condition.sees_match else None
                for condition in leaf.conditions
            ]
            for leaf in leaves
        ]
        where = self.definition.where
        self._where = None if where is None else self._registers.evaluator(where.expression)
        self._empty = self._registers.empty()

    def _link(self, before: Link | None, move: Move, taken: Taken) -> Link:
        if not self._registers.any:
            return Link(before, move, taken, self._empty)
        values = self._registers.empty() if before is None else before.values
        return Link(before, move, taken, self._registers.behind(values, move.reach.leaf.name, move.begins, taken.event))

    def _with_match(self, key: str, link: Link | None, look: Look, reach: Reach) -> bool:
        leaf = reach.leaf
        values = self._empty if link is None or reach.fresh else link.values
        view: Any = None
        seeing = False
        for condition, evaluator in zip(leaf.conditions, self._evaluators[leaf.index], strict=True):
            seeing = seeing or condition.sees_match
            if not seeing:
                continue
            if evaluator is not None:
                holds = self._holds(partial(evaluator, values), key, look, leaf)
            elif condition.sees_match:
                view = view or self._view(key, link, look, reach)
                holds = self._holds(condition.function, key, look, leaf, view)
            else:
                holds = self._holds(condition.function, key, look, leaf)
            if not holds:
                return False
        return True

    def _view(self, key: str, link: Link | None, look: Look, reach: Reach) -> Any:
        """The match so far, for a condition that must be called."""
        pattern, elements = self._automaton.scope_of(reach.leaf)
        steps = seen_by(self._automaton, link, reach.leaf, fresh=reach.fresh)
        first = look.taken if link is None else link.first
        return partial_match(pattern or self.definition.pattern, elements, steps, key=key, started=instant(first.time))

    def _has_ended(self, key: str, look: Look, leaf: Leaf) -> bool:
        if leaf.index not in look.accepted or leaf.until is None:
            return False
        known = look.ended.get(leaf.index)
        if known is None:
            known = look.ended[leaf.index] = self._holds(leaf.until.function, key, look, leaf)
        return known

    def _holds(self, function: Callable[..., object], key: str, look: Look, leaf: Leaf, *arguments: Any) -> bool:
        try:
            return bool(function(*arguments, look.taken.event))
        except Exception as error:
            raise self._failed(leaf.name, key, look.taken, error) from error

    def _failed(self, step: str, key: str, taken: Taken, error: Exception) -> ConditionFailed:
        return ConditionFailed(
            f"{self.name}.{step}: its condition raised {type(error).__name__} for the {type(taken.event).__name__} at position "
            f"{taken.position} of key {key!r}: {error}. The pattern goes on as if this event had not been there",
            name=self.name,
            step=step,
            position=taken.position,
            key=key,
        )
