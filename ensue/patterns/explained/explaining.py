"""A pattern in words: its steps, what bounds it, and how it runs.

    print(explain(TestedThenUsed))

What was found, and why something was not, is said by `ensue.patterns.explained.reasons`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePath
from types import CodeType
from typing import Any

import msgspec

from ensue.events.message import Event, declaration
from ensue.patterns.analysis import bounds
from ensue.patterns.compiled.compiler import NoPlaces, compiled
from ensue.patterns.compiled.relevance import relevance_of
from ensue.patterns.definition import (
    AllOf,
    Choice,
    Condition,
    Contiguity,
    Definition,
    Element,
    Group,
    Skip,
    Take,
    elements_of,
)
from ensue.patterns.expressions import All, Expression, describe
from ensue.patterns.language import Pattern

__all__ = ["Explained", "ExplainedStep", "condition_text", "conjuncts", "explain", "span_text", "step_text"]


class ExplainedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `conditions` are as they were read; an `opaque` one must be called for each event. `parts` are those of a group, of
    a choice or of any order."""

    name: str
    text: str
    conditions: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    parts: tuple[ExplainedStep, ...] = ()


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A pattern in words; `str` of it is for people."""

    name: str
    head: str
    steps: tuple[ExplainedStep, ...]
    facts: tuple[str, ...]
    """What follows of its options: skip, time, bounds."""
    runs: tuple[str, ...]
    """How it is looked for."""
    source: str | None = None
    """The source that it was compiled to; None: the general engine looks for it."""

    def __str__(self) -> str:
        lines = [self.head]
        for number, step in enumerate(self.steps, 1):
            lines += _lines(step, f"{number}. ", "")
        lines += [*self.facts, *self.runs]
        return "\n".join(lines)


def _lines(step: ExplainedStep, mark: str, indent: str) -> Iterator[str]:
    yield f"{indent}{mark}{step.text}"
    for part in step.parts:
        yield from _lines(part, "- ", indent + "   ")


def explain(pattern: type[Pattern], /) -> Explained:
    """What the pattern means and how it runs, in words."""
    definition = pattern.__ensue_pattern__
    how, source = _how(definition)
    return Explained(
        name=definition.name,
        head=_head(definition),
        steps=tuple(_step(one, first=number == 0) for number, one in enumerate(definition.elements)),
        facts=tuple(_facts(definition)),
        runs=how,
        source=source,
    )


def _head(definition: Definition) -> str:
    steps = sum(not one.absent for one in definition.elements)
    tags = (declaration(one).key for one in definition.events)
    key = definition.key_tag if definition.key_tag is not None else next((tag for _, tag in filter(None, tags)), "")
    bound = "" if definition.within is None else f", from first to last in less than {span_text(definition.within)}"
    return f"{definition.name}: {steps} {'step' if steps == 1 else 'steps'} in order, {f'by {key}' if key else 'all events together'}{bound}"


def _step(element: Element, *, first: bool) -> ExplainedStep:
    conditions: list[str] = []
    opaque: list[str] = []
    parts: tuple[ExplainedStep, ...] = ()
    if isinstance(element.node, Take):
        for one in element.node.conditions:
            (conditions if one.expression is not None else opaque).append(condition_text(one, element.name))
    else:
        parts = tuple(
            _step(one, first=number == 0 and isinstance(element.node, Group))
            for number, one in enumerate(element.node.elements)
        )
    return ExplainedStep(
        name=element.name,
        text=step_text(element, first=first),
        conditions=tuple(conditions),
        opaque=tuple(opaque),
        parts=parts,
    )


def step_text(element: Element, *, first: bool = False) -> str:
    """One step as a sentence."""
    words = [f"{element.name}: {_what(element)}"]
    if isinstance(element.node, Take) and element.node.conditions:
        words.append("with " + " and ".join(condition_text(one, element.name) for one in element.node.conditions))
    return "; ".join([" ".join(words), *(_absence(element) if element.absent else _following(element, first=first))])


def _absence(element: Element) -> Iterator[str]:
    if element.contiguity == "strict":
        yield "the very next event is none"
    if element.within is not None:
        yield f"for {span_text(element.within)}"


def _following(element: Element, *, first: bool) -> Iterator[str]:
    many = element.high != 1
    if many and element.inner == element.contiguity:
        yield f"each {_FOLLOWS[element.contiguity]}"
    elif not first:
        yield _FOLLOWS[element.contiguity]
    if many and element.inner != element.contiguity:
        yield f"among themselves {_FOLLOWS[element.inner]}"
    if element.low != element.high and many and isinstance(element.node, Take):
        yield "as many as there are" if element.greedy else "any number of those will do"
    if element.until is not None:
        yield f"until {condition_text(element.until, element.name)}"
    if element.within is not None:
        yield f"less than {span_text(element.within)} after the event before"


_FOLLOWS: dict[Contiguity, str] = {
    "strict": "at once, nothing between",
    "relaxed": "the next that fits",
    "any": "any that fits",
}


def _what(element: Element) -> str:
    match element.node:
        case Take(events, _):
            names = " or ".join(one.__name__ for one in events)
        case Group(_, pattern):
            names = pattern.__name__
        case Choice():
            names = "one of"
        case AllOf():
            names = "all of, in any order"
    if element.absent:
        return f"no {names}"
    if not isinstance(element.node, Take | Group):
        return names
    return f"{_times(element)} {'of ' if element.high != 1 else ''}{names}"


def _times(element: Element) -> str:
    match element.low, element.high:
        case (1, 1):
            return "one"
        case (0, 1):
            return "perhaps one"
        case (low, None):
            return f"{low} or more" if low else "any number"
        case (low, high):
            return str(low) if low == high else f"{low} to {high}"


def condition_text(condition: Condition, candidate: str) -> str:
    """A condition for people, the event at hand called by the name of its step. An opaque one is named."""
    if condition.expression is not None:
        return describe(condition.expression, candidate)
    code: Any = getattr(condition.function, "__code__", None)
    name = getattr(condition.function, "__name__", type(condition.function).__name__)
    if isinstance(code, CodeType):
        place = f"{PurePath(code.co_filename).name}, line {code.co_firstlineno}"
        return f"{'a lambda' if name == '<lambda>' else name} ({place}; opaque)"
    return f"{name} (opaque)"


def conjuncts(expression: Expression) -> tuple[Expression, ...]:
    """The parts of an expression that must all hold."""
    if isinstance(expression, All):
        return tuple(part for one in expression.of for part in conjuncts(one))
    return (expression,)


def span_text(microseconds: int) -> str:
    """For people and exact: `15 min`, `1 h 30 min`, `2 d`, `250 ms`."""
    if microseconds < 0:
        return f"-{span_text(-microseconds)}"
    parts: list[str] = []
    for size, unit in ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min")):
        number, microseconds = divmod(microseconds, size)
        if number:
            parts.append(f"{number} {unit}")
    if microseconds >= 1_000_000 or (microseconds and parts):
        parts.append(f"{microseconds / 1_000_000:.6f}".rstrip("0").rstrip(".") + " s")
    elif microseconds >= 1000:
        parts.append(f"{microseconds / 1000:g} ms")
    elif microseconds:
        parts.append(f"{microseconds} µs")
    return " ".join(parts) or "0 s"


# --------------------------------------------------------------------------------------------------- options and bounds


def _facts(definition: Definition) -> Iterator[str]:
    if definition.where is not None:
        yield f"Of the whole: {condition_text(definition.where, definition.name)}"
    yield f"After a match {_skipped(definition.skip)}"
    yield _time(definition)
    known = bounds(definition)
    waits = "for as long as it takes" if known.horizon is None else f"at most {span_text(known.horizon)}"
    size = "" if known.state_bytes is None else f", about {known.state_bytes / 1e6:.3g} MB beside their events"
    yield f"State: a beginning waits {waits}; of one key at most {known.runs:,} at the same time{size}"
    if known.forks:
        yield f"A beginning may go on in more than one way, at {' and '.join(known.forks)}"
    else:
        yield "Each beginning has one run"


def _skipped(skip: Skip) -> str:
    match skip.to:
        case "next":
            return "others with the same first event are none"
        case "past_last":
            return "others that begin up to its last event are none"
        case "first" | "last":
            return f"others that begin before the {skip.to} event of {skip.step} are none"
        case "none":
            return "nothing else is ruled out"


def _time(definition: Definition) -> str:
    match definition.time:
        case "log":
            return "Time: when the log stored an event; nothing is late"
        case "processing":
            return "Time: when an event is read; another time it may be another"
        case "event":
            disorder = f"; events may be {span_text(definition.disorder)} out of order" if definition.disorder else ""
            late = (
                f"; those later by up to {span_text(definition.lateness)} correct matches"
                if definition.lateness
                else ""
            )
            return f"Time: as an event says it{disorder}{late}"


def _how(definition: Definition) -> tuple[tuple[str, ...], str | None]:
    """How it is looked for, and the program that it was compiled to."""
    opaque = [
        condition_text(one, element.name)
        for element in elements_of(definition.elements)
        if isinstance(element.node, Take)
        for one in element.node.conditions
        if one.expression is None
    ]
    said = [f"Opaque, so that it is called for each event: {one}" for one in opaque]
    said += [_looked_at(definition, kind) for kind in definition.events]
    if definition.semantics == "flink":
        return (*said, "Runs: as Flink CEP has them, semantics='flink'"), None
    try:
        source = compiled(definition).source()
    except NoPlaces as reason:
        return (*said, f"Runs: by the general engine, since {reason}"), None
    return (*said, "Runs: compiled, one run for each beginning"), source


def _looked_at(definition: Definition, kind: type[Event]) -> str:
    """Which events of a type can be left out before anything is looked at: in columns, and where many patterns share them."""
    relevance = relevance_of(definition, kind)
    if relevance.tests is None:
        return f"Every {kind.__name__} is looked at"
    said = [" and ".join(_asked(part) for part in test) for test in relevance.tests]
    behind = ", and the next event behind such a one" if relevance.followers else ""
    return f"Of {kind.__name__} only those are looked at with {' or '.join(said)}{behind}"


def _asked(part: Expression | Callable[..., Any]) -> str:
    return condition_text(Condition(part, False, None), "it") if callable(part) else describe(part, "it")
