"""Many patterns over the same events: what they ask of an event alone is asked once, and only patterns that may need it see it.

Questions of one form are answered together: of all that ask whether a field equals something, one look into a dictionary says which;
of all that compare it with a bound, one search among the bounds. Each pattern has an operator of its own, which decides; so what it
finds is what it finds alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from enum import Enum
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

from ensue.errors import ConditionFailed
from ensue.events.message import Event
from ensue.patterns.compiled.compiler import Compiled, predicate
from ensue.patterns.compiled.relevance import Test, relevance_of
from ensue.patterns.definition import Definition
from ensue.patterns.expressions import Any as AnyOf
from ensue.patterns.expressions import Candidate, Constant, Expression, Field, Operation
from ensue.patterns.operator import Batch, Operator, Output
from ensue.patterns.operators import operator_of

__all__ = ["Given", "PatternSet"]

Given: TypeAlias = "Output | ConditionFailed"
"""What a pattern gives; in place of what an event for which it failed would have given, the error."""
Numbers: TypeAlias = tuple[int, ...]
"""Patterns, by their place in the set."""
Asker: TypeAlias = Callable[[Sequence[Event]], Sequence[Numbers | None]]
"""For each of some events the patterns that may need it."""
_MIRRORED = {"==": "==", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class PatternSet:
    """Operators of several patterns, fed together. Events come as to one operator: in their order, across all calls."""

    def __init__(self, definitions: Sequence[Definition], *, timeouts: bool = False) -> None:
        self.definitions = tuple(definitions)
        self.operators: list[Operator] = [operator_of(one, timeouts=timeouts) for one in self.definitions]
        self._kinds: dict[type[Event], _Index] = {}

    def take(self, batch: Batch) -> list[list[Given]]:
        """What each pattern gives for these events, in the order of the patterns."""
        hits: list[list[int]] = [[] for _ in self.definitions]
        events = batch.events
        kinds = set(map(type, events))
        for kind in kinds:
            if kind not in self._kinds:
                self._kinds[kind] = _Index(self.definitions, kind)
        if len(kinds) == 1:
            self._kinds[kinds.pop()].sort(events, range(len(events)), hits)
        else:
            numbers: dict[type[Event], list[int]] = {kind: [] for kind in kinds}
            for at, event in enumerate(events):
                numbers[type(event)].append(at)
            for kind, some in numbers.items():
                self._kinds[kind].sort([events[at] for at in some], some, hits)
            for some in hits:
                some.sort()
        given: list[list[Given]] = [
            _through(operator, batch, some) if some else [] for operator, some in zip(self.operators, hits, strict=True)
        ]
        if len(events):
            for number, more in enumerate(self.advance(batch.times[-1])):
                given[number] += more
        return given

    def advance(self, time: int) -> list[list[Given]]:
        """What each pattern gives for time passing."""
        found: list[list[Given]] = []
        for operator in self.operators:
            given: list[Given] = []
            while True:
                try:
                    given += operator.advance(time)
                    break
                except ConditionFailed as error:  # what comes behind it is still to be done
                    given += [*error.outputs, error]
            found.append(given)
        return found

    def due(self) -> int | None:
        """The earliest time at which `advance` may give something; None: nothing waits."""
        return min((due for one in self.operators if (due := one.due()) is not None), default=None)


class _Index:
    """Which patterns may need an event of one class."""

    def __init__(self, definitions: Sequence[Definition], kind: type[Event]) -> None:
        self.always: list[int] = []
        self._equal: dict[str, dict[Any, list[int]]] = {}
        self._bounds: dict[tuple[str, str, bool], list[tuple[Any, int]]] = {}
        self._others: dict[Test, list[int]] = {}
        for number, definition in enumerate(definitions):
            relevance = relevance_of(definition, kind)
            if relevance.tests is None or (relevance.tests and relevance.followers):
                if issubclass(kind, definition.events):
                    self.always.append(number)
                continue
            for test in relevance.tests:
                self._add(test, number)
        self._askers = [*self._equals(), *self._bounded(), *self._asked()]

    def sort(self, events: Sequence[Event], numbers: Sequence[int], hits: list[list[int]]) -> None:
        """Add to the hits of each pattern the numbers of those of these events that it may need, in their order."""
        for number in self.always:
            hits[number] += numbers
        once = len(self._askers) == 1
        for ask in self._askers:
            for at, found in zip(numbers, ask(events), strict=True):
                if found:
                    for number in found:
                        hits[number].append(at)
        if not once:
            for number, some in enumerate(hits):
                hits[number] = sorted(set(some))

    # ------------------------------------------------------------------------------------------------- questions

    def _add(self, test: Test, number: int) -> None:
        for part in test:
            if not callable(part) and (found := _equalities(part)) is not None:
                field, values = found
                for value in values:
                    _once(self._equal.setdefault(field, {}).setdefault(value, []), number)
                return
        for part in test:
            if not callable(part) and (bound := _bound(part)) is not None:
                field, operator, value = bound
                self._bounds.setdefault((field, operator, isinstance(value, str)), []).append((value, number))
                return
        _once(self._others.setdefault(test, []), number)

    def _equals(self) -> Iterable[Asker]:
        for field, table in self._equal.items():
            known = {value: tuple(numbers) for value, numbers in table.items()}
            yield _look_up(attrgetter(field), known)

    def _bounded(self) -> Iterable[Asker]:
        for (field, operator, _), bounds in self._bounds.items():
            bounds.sort()
            values = [value for value, _ in bounds]
            yield _search(attrgetter(field), operator, values, tuple(number for _, number in bounds))

    def _asked(self) -> Iterable[Asker]:
        for test, numbers in self._others.items():
            yield _ask(predicate(test), tuple(numbers))


def _look_up(field: Callable[[Event], Any], known: dict[Any, Numbers]) -> Asker:
    everybody = tuple(sorted({number for numbers in known.values() for number in numbers}))
    get = known.get

    def ask(event: Event) -> Numbers | None:
        try:
            return get(field(event))
        except (TypeError, AttributeError):  # a value that has no hash, or no such field: each pattern sees for itself
            return everybody

    def all_at_once(events: Sequence[Event]) -> Sequence[Numbers | None]:
        try:
            return list(map(get, map(field, events)))
        except (TypeError, AttributeError):
            return list(map(ask, events))

    return all_at_once


def _search(field: Callable[[Event], Any], operator: str, values: list[Any], numbers: Numbers) -> Asker:
    bisect: Callable[[list[Any], Any], int] = bisect_left if operator in (">", "<=") else bisect_right
    above = operator[0] == ">"

    def ask(event: Event) -> Numbers:
        try:
            at = bisect(values, field(event))
        except (TypeError, AttributeError):  # each pattern that compares it says so itself
            return numbers
        return numbers[:at] if above else numbers[at:]

    return lambda events: list(map(ask, events))


def _ask(holds: Callable[[Event], bool], numbers: Numbers) -> Asker:
    def ask(event: Event) -> Numbers | None:
        try:
            return numbers if holds(event) else None
        except Exception:  # each pattern that asks says so itself
            return numbers

    return lambda events: list(map(ask, events))


def _equalities(part: Expression) -> tuple[str, list[Any]] | None:
    """A field, and the values of which it must equal one."""
    match part:
        case Operation("==", (Field(Candidate(), field), Constant(value))) if _is_plain(value):
            return field, [value]
        case Operation("==", (Constant(value), Field(Candidate(), field))) if _is_plain(value):
            return field, [value]
        case AnyOf(of):
            found = [_equalities(one) for one in of]
            fields = {one[0] for one in found if one is not None}
            if None in found or len(fields) != 1:
                return None
            return fields.pop(), [value for one in found if one is not None for value in one[1]]
        case _:
            return None


def _bound(part: Expression) -> tuple[str, str, Any] | None:
    """A field, how it compares, and with what."""
    match part:
        case Operation("<" | "<=" | ">" | ">=" as operator, (Field(Candidate(), field), Constant(value))):
            found = (field, str(operator), value)
        case Operation("<" | "<=" | ">" | ">=" as operator, (Constant(value), Field(Candidate(), field))):
            found = (field, _MIRRORED[operator], value)
        case _:
            return None
    orders = type(found[2]) in (int, float, Decimal, str) and found[2] == found[2]
    return found if orders else None


def _is_plain(value: object) -> bool:
    """Whether what equals it has its hash."""
    return isinstance(value, int | float | str | bytes | Decimal | Enum | None) and value == value


def _once(numbers: list[int], number: int) -> None:
    if number not in numbers:
        numbers.append(number)


# ------------------------------------------------------------------------------------------------------------ feeding


def _part(batch: Batch, some: list[int]) -> Batch:
    if len(some) == len(batch.events):
        return batch
    if len(some) < 2:
        return Batch(
            [batch.events[at] for at in some],
            [batch.times[at] for at in some],
            [batch.positions[at] for at in some],
            None if batch.keys is None else [batch.keys[at] for at in some],
            None if batch.rows is None else [batch.rows[at] for at in some],
        )
    pick = itemgetter(*some)
    return Batch(
        pick(batch.events),
        pick(batch.times),
        pick(batch.positions),
        None if batch.keys is None else pick(batch.keys),
        None if batch.rows is None else pick(batch.rows),
    )


def _through(operator: Operator, batch: Batch, some: list[int]) -> list[Given]:
    """All that an operator gives for these events of a batch; it goes on behind an event for which it failed."""
    given: list[Given] = []
    while some:
        try:
            given += (
                operator.take_some(batch, some) if isinstance(operator, Compiled) else operator.take(_part(batch, some))
            )
            break
        except ConditionFailed as error:
            given += [*error.outputs, error]
            failed = next(at for at, number in enumerate(some) if batch.positions[number] == error.position)
            some = some[error.done if error.done is not None else failed + 1 :]
    return given
