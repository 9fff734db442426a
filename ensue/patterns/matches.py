"""From what an operator found to what a handler is given: instances of the pattern's class. And the identity of a match."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, TypeAlias

import msgspec

from ensue.events.message import Event
from ensue.events.recorded import instant
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take
from ensue.patterns.language import Late, Pattern, TimedOut, Withdrawn
from ensue.patterns.operator import Expired, Found, Revoked, Taken, Tooks, Untimely

__all__ = ["identity", "late", "match_of", "partial_match", "timed_out", "withdrawn"]

_encode = msgspec.msgpack.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def identity(name: str, key: str, steps: Mapping[str, Tooks]) -> bytes:
    """16 bytes that say which match this is: the same for the same pattern, key, and positions that each step took."""
    return blake2b(_encode((name, key, _positions(steps))), digest_size=16).digest()


def _positions(took: Tooks) -> Any:
    if isinstance(took, Taken):
        return took.position
    if took is None:
        return None
    return [_positions(one) for one in (took if isinstance(took, tuple) else took.values())]


def match_of(definition: Definition, found: Found) -> Pattern:
    """The match as an instance of the pattern's class."""
    match: Pattern = _instance(definition, found.id, found.key, found.steps, found.started, found.ended)
    return match


def timed_out(definition: Definition, expired: Expired) -> TimedOut[Pattern]:
    """The beginning that found no end. Of its match `ended` is the deadline."""
    match = _instance(definition, expired.id, expired.key, expired.steps, expired.started, expired.deadline)
    return TimedOut(match=match, waiting_for=expired.waiting_for, deadline=instant(expired.deadline))


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


def _instance(
    definition: Definition, id_: bytes, key: str, steps: Mapping[str, Tooks], started: int, ended: int
) -> Any:
    text = id_.hex()
    known: dict[str, Any] = {
        "id": f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}",
        "key": key,
        "started": _EPOCH + timedelta(microseconds=started),
        "ended": _EPOCH + timedelta(microseconds=ended),
    }
    planned = _PLANS.get(id(definition))
    if planned is None:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.clear()
        planned = _PLANS[id(definition)] = (definition, _plan(definition.elements))
    return _filled(definition.pattern, planned[1], steps, known)


_Plan: TypeAlias = "tuple[tuple[str, Element, bool, bool], ...]"
"""Of each step its name, itself, whether it is an absence, and whether it takes a sequence of events."""
_PLANS: dict[int, tuple[Definition, _Plan]] = {}
"""By the identity of a definition, which is kept so that no other can have it."""
_MOST_PLANS = 1024


def _plan(elements: tuple[Element, ...]) -> _Plan:
    return tuple(
        (one.name.rpartition(".")[2], one, one.absent, one.several and isinstance(one.node, Take)) for one in elements
    )


def _filled(pattern: type, plan: _Plan, steps: Mapping[str, Tooks], known: dict[str, Any]) -> Any:
    match: Any = object.__new__(pattern)
    fields = match.__dict__ = dict(known)
    for name, element, absent, sequence in plan:
        if absent:
            fields[name] = None
            continue
        took: Any = steps[name]
        if took.__class__ is Taken:
            fields[name] = took.event
        elif sequence:
            fields[name] = tuple([one.event for one in took])
        else:
            fields[name] = _as_read(element, took, known)
    return match


def _as_read(element: Element, took: Tooks, known: Mapping[str, Any]) -> Any:
    if isinstance(took, Taken):
        return took.event
    if took is None:
        return None
    assert isinstance(took, tuple)
    match element.node:
        case Group(elements, pattern):
            return tuple(_repetition(pattern, elements, one, known) for one in took)
        case Choice(elements):
            return _as_read(next(part for part in elements if _could_be_of(part, took)), took, known)
        case AllOf(elements):
            return tuple(_as_read(part, one, known) for part, one in zip(elements, took, strict=True))
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


def _repetition(
    pattern: type, elements: tuple[Element, ...], steps: Mapping[str, Tooks], known: Mapping[str, Any]
) -> Any:
    """One of a group: it has the times of its own events, and the id and key of the whole."""
    times = list(_times(steps))
    own: dict[str, Any] = (
        {**known, "started": instant(min(times)), "ended": instant(max(times))} if times else {**known}
    )
    return _filled(pattern, _plan(elements), steps, own)


def _times(took: Tooks) -> Any:
    if isinstance(took, Taken):
        yield took.time
    elif took is not None:
        for one in took if isinstance(took, tuple) else took.values():
            yield from _times(one)
