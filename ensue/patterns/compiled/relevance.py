"""Which events a pattern can do without: those that no step could take, no absence forbids, and that no strict step sees.

This is asked of an event alone, so that it can be asked of columns, or once for many patterns. It is never too narrow: what is
irrelevant changes nothing, whatever has been taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from ensue.events.message import Event
from ensue.patterns.definition import Condition, Definition, Element, Take, elements_of
from ensue.patterns.expressions import All, Constant, Expression, reads

__all__ = ["Relevance", "Test", "parts_of", "relevance_of", "seen_alone", "test_of"]

Test: TypeAlias = tuple["Expression | Callable[..., Any]", ...]
"""What must all hold of an event. Expressions read nothing but the event; functions are opaque conditions on it."""


class Relevance(msgspec.Struct, frozen=True):
    """Of which events of one class a pattern has to know."""

    tests: tuple[Test, ...] | None
    """Those for which one of these holds. None: all."""
    followers: bool = False
    """And of each key the event right behind one of those: a strict step sees that it came."""


def parts_of(condition: Condition) -> tuple[Expression | Callable[..., Any], ...]:
    """What must all hold, in its order; an opaque condition is its function."""
    expression = condition.expression
    if expression is None:
        return (condition.function,)
    return expression.of if isinstance(expression, All) else (expression,)


def seen_alone(part: Expression | Callable[..., Any], condition: Condition) -> bool:
    """Whether a part of this condition looks at nothing but the event."""
    return not condition.sees_match if callable(part) else not reads(part)


def test_of(take: Take) -> Test:
    """What the event alone must fulfil to be taken."""
    parts = [
        part
        for condition in take.conditions
        for part in parts_of(condition)
        if seen_alone(part, condition) and not (isinstance(part, Constant) and part.value)
    ]
    return tuple(dict.fromkeys(parts))


def relevance_of(definition: Definition, kind: type[Event]) -> Relevance:
    """Of which events of a class it has to know."""
    elements = list(elements_of(definition.elements))
    tests: dict[Test, None] = {}
    for element in elements:
        if isinstance(element.node, Take) and issubclass(kind, element.node.events):
            tests[test_of(element.node)] = None
            if element.until is not None:
                tests[parts_of(element.until)] = None
    if () in tests or definition.semantics == "flink":  # Flink goes by the time of any event
        return Relevance(None)
    return Relevance(tuple(tests), any(_is_strict(element, definition) for element in elements))


def _is_strict(element: Element, definition: Definition) -> bool:
    repeats = element.high != 1 or not isinstance(element.node, Take)
    return (element.contiguity == "strict" and element is not definition.elements[0]) or (
        repeats and element.inner == "strict"
    )
