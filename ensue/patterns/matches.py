"""From what an operator found to what a handler is given: instances of the pattern's class."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from ensue.events.message import Event
from ensue.events.recorded import instant
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take
from ensue.patterns.language import Late, Pattern, TimedOut, Withdrawn
from ensue.patterns.operator import Expired, Found, Revoked, Taken, Tooks, Untimely

__all__ = ["late", "match_of", "partial_match", "timed_out", "withdrawn"]


def match_of(definition: Definition, found: Found) -> Pattern:
    """The match as an instance of the pattern's class."""
    planned = _PLANS.get(id(definition))
    if planned is None:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.clear()
        planned = _PLANS[id(definition)] = (definition, _plan(definition.elements))
    match: Pattern = _filled(definition.pattern, planned[1], found, found.steps)
    return match


def timed_out(definition: Definition, expired: Expired) -> TimedOut[Pattern]:
    """The beginning that found no end. Of its match `ended` is the deadline."""
    found = Found(of=expired.id, key=expired.key, started=expired.started, ended=expired.deadline, steps=expired.steps)
    return TimedOut(
        match=match_of(definition, found), waiting_for=expired.waiting_for, deadline=instant(expired.deadline)
    )


def withdrawn(definition: Definition, revoked: Revoked) -> Withdrawn[Pattern]:
    """The match that is none any more."""
    return Withdrawn(match=match_of(definition, revoked.found), because=revoked.because.event)


def late(name: str, untimely: Untimely) -> Late[Event]:
    """The event whose time was over."""
    return Late(event=untimely.taken.event, by=timedelta(microseconds=untimely.by), missed_by=name)


def partial_match(pattern: type, elements: tuple[Element, ...], steps: Mapping[str, Tooks], **known: Any) -> Any:
    """What was taken so far as an instance of the pattern's class: steps that are not in `steps` raise `AttributeError` when read."""
    match: Any = object.__new__(pattern)
    by_name = {element.name.rpartition(".")[2]: element for element in elements}
    fields = {name: _as_read(by_name[name], took, known) for name, took in steps.items()}
    match.__dict__.update(known)
    match.__dict__.update(fields)
    return match


class _Plan(NamedTuple):
    """What is known of every match beforehand."""

    blank: dict[str, Any]
    """All that it has, in order, as if nothing had been taken."""
    elements: dict[str, Element]
    sequences: frozenset[str]
    """The steps that take a sequence of events."""


_Whole: TypeAlias = "Found | Mapping[str, Any]"
"""The match that something is a part of; of one that is not complete, what is known of it."""
_PLANS: dict[int, tuple[Definition, _Plan]] = {}
"""By the identity of a definition, which is kept so that no other can have it."""
_MOST_PLANS = 1024


def _plan(elements: tuple[Element, ...]) -> _Plan:
    named = {one.name.rpartition(".")[2]: one for one in elements}
    sequences = frozenset(name for name, one in named.items() if one.several and isinstance(one.node, Take))
    return _Plan({"key": "", **dict.fromkeys(named)}, named, sequences)


def _filled(pattern: type, plan: _Plan, whole: _Whole, steps: Mapping[str, Tooks]) -> Any:
    match: Any = object.__new__(pattern)
    fields = match.__dict__ = plan.blank.copy()
    if isinstance(whole, Found):
        match.__ensue_found__ = whole
        fields["key"] = whole.key
    else:
        fields.update(whole)
    took: Any
    for name, took in steps.items():
        if took.__class__ is Taken:
            fields[name] = took.event
        elif name in plan.sequences:
            fields[name] = tuple([one.event for one in took])
        else:
            fields[name] = _as_read(plan.elements[name], took, whole)
    return match


def _as_read(element: Element, took: Tooks, whole: _Whole) -> Any:
    if isinstance(took, Taken):
        return took.event
    if took is None:
        return None
    assert isinstance(took, tuple)
    match element.node:
        case Group(elements, pattern):
            return tuple(_repetition(pattern, elements, one, whole) for one in took)
        case Choice(elements):
            return _as_read(next(part for part in elements if _could_be_of(part, took)), took, whole)
        case AllOf(elements):
            return tuple(_as_read(part, one, whole) for part, one in zip(elements, took, strict=True))
        case Take():
            return tuple(one.event for one in took)


def _could_be_of(element: Element, took: Tooks) -> bool:
    """Whether this element takes such as this: what was taken of a choice does not say by which part."""
    match element.node:
        case Take(events):
            taken = (took,) if not element.several else took
            return isinstance(taken, tuple) and all(
                isinstance(one, Taken) and isinstance(one.event, events) for one in taken
            )
        case Choice(elements):
            return any(_could_be_of(part, took) for part in elements)
        case AllOf(elements):
            return (
                isinstance(took, tuple)
                and len(took) == len(elements)
                and all(_could_be_of(part, one) for part, one in zip(elements, took, strict=True))
            )
        case Group(elements):
            taking = [one for one in elements if not one.absent]
            return isinstance(took, tuple) and all(
                isinstance(each, Mapping)
                and list(each) == [one.name.rpartition(".")[2] for one in taking]
                and all(
                    (one.low == 0 and not got) or _could_be_of(one, got)
                    for one, got in zip(taking, each.values(), strict=True)
                )
                for each in took
            )


def _repetition(pattern: type, elements: tuple[Element, ...], steps: Mapping[str, Tooks], whole: _Whole) -> Any:
    """One of a group: it has the times of its own events, and the id and key of the whole."""
    match = _filled(pattern, _plan(elements), whole, steps)
    times = list(_times(steps))
    if times:
        match.__dict__.update(started=instant(min(times)), ended=instant(max(times)))
    return match


def _times(took: Tooks) -> Any:
    if isinstance(took, Taken):
        yield took.time
    elif took is not None:
        for one in took if isinstance(took, tuple) else took.values():
            yield from _times(one)
