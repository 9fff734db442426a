"""Why a match is one, and why something is none.

    print(why(match))
    print(why_not(Unpaid, events, key="o1"))

`why_not` finds the nearest miss. It looks for the beginnings of the pattern with the general engine, each with shorter and shorter
patterns, until one is found; what the run then waited for is compared with the events that came. So whatever it says follows from
the engine's own answers and from the conditions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from ensue.errors import Misuse
from ensue.events.message import Event
from ensue.events.recorded import microseconds
from ensue.patterns.checks import Check, Scope, checks_of, fits, whole_checks
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take
from ensue.patterns.engine import Engine
from ensue.patterns.explaining import span_text, step_text
from ensue.patterns.finding import Given, batch_of
from ensue.patterns.keys import key_reader
from ensue.patterns.language import Pattern
from ensue.patterns.nearest import FOREVER, Reach, Stream, entries, fed, flat, order, reached, scope_of
from ensue.patterns.operator import Found, Taken

__all__ = ["Cause", "Reason", "Took", "Why", "WhyNot", "nearest_miss", "streams_of", "why", "why_not"]

NameOf: TypeAlias = Callable[[Event], str]


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a step took, and its conditions with what they read."""

    step: str
    event: Event
    position: int | None = None
    """In its log or list; None where it is not known."""
    checks: tuple[Check, ...] = ()


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why a match is one. `str` of it is for people."""

    pattern: str
    key: str
    started: datetime
    ended: datetime
    took: tuple[Took, ...]
    absent: tuple[str, ...]
    """What did not come."""
    whole: tuple[Check, ...]
    """The conditions on the whole."""

    def __str__(self) -> str:
        lines = [f"{self.pattern} of {self.key or 'all'}, from {self.started} to {self.ended}"]
        for one in self.took:
            lines.append(f"  {one.step} took {_named(one.event, one.position)}")
            lines += [f"    {check}" for check in one.checks]
        lines += [f"  {text}" for text in self.absent]
        lines += [f"  of the whole: {check}" for check in self.whole]
        return "\n".join(lines)


Cause: TypeAlias = Literal[
    "matched",
    "waiting",
    "too_late",
    "expired",
    "forbidden",
    "between",
    "until",
    "failed",
    "blocked",
    "where",
    "ruled_out",
    "not_begun",
    "not_looked_at",
    "no_events",
]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was in the way. What is set of the rest depends on the cause."""

    cause: Cause
    step: str = ""
    """The step that waited, or forbade."""
    event: Taken | None = None
    """The event that came too late, ended the run, failed."""
    by: int = 0
    """Microseconds: how much too late, or how long it will still wait."""
    checks: tuple[Check, ...] = ()
    """The conditions that failed."""

    def said(self, name: NameOf | None = None) -> str:
        """In words. `name` says how events are called."""
        return _SAID[self.cause](self, "" if self.event is None else _name(self.event, name))


class WhyNot(msgspec.Struct, frozen=True, kw_only=True):
    """The nearest miss. `str` of it is for people."""

    pattern: str
    key: str
    done: int
    """How many steps of the pattern had all they need."""
    steps: int
    took: tuple[tuple[str, Taken], ...]
    """What the run had taken, by step."""
    waiting_for: tuple[str, ...]
    """The steps of which one would have gone on."""
    reasons: tuple[Reason, ...]
    """The first is what ended it, or would have to be otherwise."""

    def said(self, name: NameOf | None = None) -> str:
        """In words. `name` says how events are called."""
        reasons = "; ".join(one.said(name) for one in self.reasons)
        if not self.took:
            return reasons
        taken = ", ".join(f"{step} = {_name(one, name)}" for step, one in self.took)
        waited = f"; it waited for {' or '.join(self.waiting_for)}" if self.waiting_for else ""
        return f"{self.done} of {self.steps} steps ({taken}){waited}; {reasons}"

    def __str__(self) -> str:
        return f"{self.pattern} of {self.key or 'all'}: {self.said()}"


def _name(taken: Taken, name: NameOf | None) -> str:
    return _named(taken.event, taken.position) if name is None else name(taken.event)


def _named(event: Event, position: int | None) -> str:
    return type(event).__name__ if position is None else f"{type(event).__name__} {position}"


_SAID: Mapping[Cause, Callable[[Reason, str], str]] = {
    "matched": lambda one, event: f"{event or 'it'} is part of a match",
    "waiting": lambda one, event: (
        f"it still waits for {one.step}" + ("" if one.by >= FOREVER else f", for {span_text(one.by)} more")
    ),
    "too_late": lambda one, event: f"{event} came {_late(one.by)} too late for {one.step}",
    "expired": lambda one, event: f"its time was over before {one.step} came",
    "forbidden": lambda one, event: f"ended by {event}, which {one.step} forbids",
    "between": lambda one, event: f"ended by {event}: {one.step} must come at once, with nothing between",
    "until": lambda one, event: f"{one.step} takes no more since {event}, for which its until= holds",
    "failed": lambda one, event: (
        f"{event} is not taken by {one.step}: {', '.join(_failed(check) for check in one.checks)}"
    ),
    "blocked": lambda one, event: (
        f"{event} would do for {one.step}, but a greedy step before it could still take an event"
    ),
    "where": lambda one, event: (
        f"it is complete, but of the whole: {', '.join(_failed(check) for check in one.checks)}"
    ),
    "ruled_out": lambda one, event: (
        f"it is complete, but an earlier match, up to {event or 'a later event'}, rules it out"
    ),
    "not_begun": lambda one, event: (
        f"nothing had begun that could take {event or 'anything'}: no {one.step} came before"
    ),
    "not_looked_at": lambda one, event: f"no step takes a {event}",
    "no_events": lambda one, event: "there are no events of this key that any step could take",
}


def _late(by: int) -> str:
    return span_text(by) if by else "just"


def _failed(check: Check) -> str:
    read = ", ".join(
        f"{text} {value}" if check.holds is None else f"{text} was {value}" for text, value in check.values.items()
    )
    word = "raises" if check.holds is None else "fails"
    return f"{check.text} {word}" + (f" ({read.strip()})" if read else "")


# ------------------------------------------------------------------------------------------------------------ a match


def why(match: Pattern, /) -> Why:
    """What each step of a match took, which conditions held and what they read. Conditions are asked once more, of the events alone."""
    definition = type(match).__ensue_pattern__
    taken = dict(vars(match))
    took = tuple(_took(match, definition.elements, taken, ""))
    whole: tuple[Check, ...] = ()
    if definition.where is not None:
        whole = whole_checks(definition.where, definition.name, Scope(match, taken))
    return Why(
        pattern=definition.name,
        key=match.key,
        started=match.started,
        ended=match.ended,
        took=took,
        absent=tuple(step_text(one) for one in definition.elements if one.absent),
        whole=whole,
    )


def _took(match: Any, elements: Sequence[Element], taken: Mapping[str, Any], prefix: str) -> Iterator[Took]:
    """What each step took, in order of the steps. A condition sees what was taken before: of its own step as well."""
    before: dict[str, Any] = {}
    for element in elements:
        if element.absent:
            continue
        name = element.name.rpartition(".")[2]
        value = taken[name]
        match element.node:
            case Group(inner, _):
                for one in value:
                    yield from _took(one, inner, vars(one), f"{element.name}.")
            case Take():
                values: Sequence[Event] = value if element.several else () if value is None else (value,)
                for number, event in enumerate(values):
                    seen = {**before, name: tuple(values[:number])} if element.several else before
                    view = object.__new__(type(match))
                    view.__dict__.update(seen)
                    yield Took(
                        step=element.name, event=event, checks=checks_of(element, event, Scope(view, seen, prefix))
                    )
            case Choice(parts):
                yield from _took_part(match, parts, value, {**before}, prefix)
            case AllOf(parts):
                for part, one in zip(parts, value, strict=True):
                    yield from _took_part(match, (part,), one, {**before}, prefix)
        before[name] = value


def _took_part(match: Any, parts: Sequence[Element], value: Any, before: dict[str, Any], prefix: str) -> Iterator[Took]:
    """What one of these parts took: the first that could have. Parts do not see each other."""
    events = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if isinstance(part.node, Take) and all(isinstance(one, Event) for one in events):
            view = object.__new__(type(match))
            view.__dict__.update(before)
            scope = Scope(view, before, prefix)
            if all(fits(part, one, scope) for one in events) or part is parts[-1]:
                for one in events:
                    yield Took(step=part.name, event=one, checks=checks_of(part, one, scope))
                return
        elif isinstance(part.node, Group) and all(isinstance(one, part.node.pattern) for one in events):
            for one in events:
                yield from _took(one, part.node.elements, vars(one), f"{part.name}.")
            return
        elif isinstance(part.node, Choice):
            yield from _took_part(match, part.node.elements, value, before, prefix)
            return


# ------------------------------------------------------------------------------------------------------- nearest miss


def why_not(
    pattern: type[Pattern],
    events: Iterable[Given],
    /,
    *,
    key: str | None = None,
    event: Event | None = None,
    until: datetime | None = None,
) -> WhyNot:
    """The nearest miss among these events: of a key, the beginning without a match that came farthest, the later of equal ones; of an
    event, what became of it. `events` and `until` are as for `find`. The key may be left out where an event is given, or where all
    events are of one. For a pattern with `semantics="flink"` it is said by our own meaning.

    Errors: `Misuse` where the event is not among them, or it is not clear which key is meant."""
    definition = pattern.__ensue_pattern__
    streams = streams_of(definition, events, until=until)
    if event is not None:
        for stream in streams.values():
            for one in stream.events:
                if one.event is event or (
                    one.event == event and all(other.event is not event for other in stream.events)
                ):
                    return nearest_miss(definition, stream, one)
        raise Misuse(f"{definition.name}: this {type(event).__name__} is not among the events that were given")
    if key is None and len(streams) != 1:
        shown = ", ".join(list(streams)[:10]) or "none"
        raise Misuse(f"{definition.name}: say which key is meant, key=; there are: {shown}")
    wanted = key if key is not None else next(iter(streams))
    return nearest_miss(definition, streams.get(wanted, Stream(wanted, ())))


def streams_of(definition: Definition, events: Iterable[Given], *, until: datetime | None = None) -> dict[str, Stream]:
    """The events by their keys, each in order. Errors: as `find`."""
    batch = batch_of(definition, events)
    key_of = key_reader(definition.key_tag)
    by_key: dict[str, list[Taken]] = {}
    for event, time, position in zip(batch.events, batch.times, batch.positions, strict=True):
        by_key.setdefault(key_of(event), []).append(Taken(time, position, event))
    end = None if until is None else microseconds(until)
    return {key: Stream(key, tuple(taken), end) for key, taken in by_key.items()}


def nearest_miss(definition: Definition, stream: Stream, target: Taken | None = None) -> WhyNot:
    """As `why_not`, of the events of one key in their order."""
    if target is not None and not isinstance(target.event, definition.events):
        return _miss(definition, stream, None, Reason(cause="not_looked_at", event=target))
    if not stream.events:
        return _miss(definition, stream, None, Reason(cause="no_events"))
    matches = [one for one in fed(Engine(definition), stream, over=True) if isinstance(one, Found)]
    for one in matches:
        if target is not None and target.position in {taken.position for taken in flat(one.steps)}:
            return _miss(definition, stream, None, Reason(cause="matched", event=target))
    begun = {min(flat(one.steps), key=order).position for one in matches}
    runs = [one for position, one in reached(definition, stream).items() if position not in begun]
    runs.sort(key=_nearness)
    if target is not None:
        return _of_event(definition, stream, matches, runs, target)
    if runs:
        run = runs[-1]
        return _miss(definition, stream, run, *_in_the_way(definition, stream, run, matches))
    if matches:
        return _miss(definition, stream, None, Reason(cause="matched"))
    return _not_begun(definition, stream)


def _nearness(run: Reach) -> tuple[int, int, int, tuple[int, int]]:
    return run.at, run.had, len(run.taken), order(run.taken[0])


def _miss(definition: Definition, stream: Stream, run: Reach | None, *reasons: Reason) -> WhyNot:
    taking = [one for one in definition.elements if not one.absent]
    done = 0 if run is None else sum(not one.absent for one in definition.elements[: run.at])
    return WhyNot(
        pattern=definition.name,
        key=stream.key,
        done=done,
        steps=len(taking),
        took=() if run is None else tuple(_by_step(run.steps)),
        waiting_for=() if run is None else tuple(dict.fromkeys(one.name for one in run.waiting)),
        reasons=reasons,
    )


def _by_step(steps: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Taken]]:
    for name, tooks in steps.items():
        if isinstance(tooks, tuple) and tooks and all(isinstance(one, Mapping) for one in tooks):
            for one in tooks:
                yield from _by_step(one, f"{prefix}{name}.")
        else:
            for taken in flat(tooks):
                yield prefix + name, taken


def _not_begun(definition: Definition, stream: Stream) -> WhyNot:
    """No event could begin: the one that failed the fewest conditions of the first step, the latest of those."""
    first = entries(definition.elements)
    near = [
        (len(failed), taken, leaf, failed)
        for leaf in first
        for taken in stream.events
        if isinstance(taken.event, _types(leaf))
        for failed in [_failing(leaf, taken, scope_of(definition, {}, leaf))]
        if failed
    ]
    if not near:
        return _miss(definition, stream, None, Reason(cause="not_begun", step=" or ".join(one.name for one in first)))
    _, taken, leaf, failed = min(near, key=lambda one: (one[0], -one[1].time, -one[1].position))
    return _miss(definition, stream, None, Reason(cause="failed", step=leaf.name, event=taken, checks=failed))


def _types(leaf: Element) -> tuple[type[Event], ...]:
    return leaf.node.events if isinstance(leaf.node, Take) else ()


def _failing(leaf: Element, taken: Taken, scope: Scope) -> tuple[Check, ...]:
    return tuple(one for one in checks_of(leaf, taken.event, scope) if not one.holds)


def _of_event(
    definition: Definition, stream: Stream, matches: Sequence[Found], runs: Sequence[Reach], target: Taken
) -> WhyNot:
    """What became of one event: the run that took it; else the one that it could have gone on with."""
    for run in reversed(runs):
        if any(one.position == target.position for one in run.taken):
            return _miss(definition, stream, run, *_in_the_way(definition, stream, run, matches))
    before = Stream(stream.key, tuple(one for one in stream.events if order(one) < order(target)), target.time)
    open_runs = sorted(reached(definition, before).values(), key=_nearness)
    best: tuple[tuple[bool, int], Reach, tuple[Reason, ...]] | None = None
    for run in reversed(open_runs):
        reasons = tuple(_for_event(definition, stream, run, target))
        mine = any(one.event is not None and one.event.position == target.position for one in reasons)
        if reasons and (best is None or (mine and not best[0][0])):
            best = ((mine, 0), run, reasons)
            if mine:
                break
    if best is not None and best[0][0]:
        return _miss(definition, stream, best[1], *best[2])
    first = [one for one in entries(definition.elements) if isinstance(target.event, _types(one))]
    for leaf in first:
        failed = _failing(leaf, target, scope_of(definition, {}, leaf))
        if failed:
            return _miss(definition, stream, None, Reason(cause="failed", step=leaf.name, event=target, checks=failed))
    if best is not None:
        return _miss(definition, stream, best[1], *best[2])
    begins = " or ".join(one.name for one in entries(definition.elements))
    return _miss(definition, stream, None, Reason(cause="not_begun", step=begins, event=target))


def _for_event(definition: Definition, stream: Stream, run: Reach, target: Taken) -> Iterator[Reason]:
    """Why a run, as it was before this event, did not take it."""
    ended = next(_ended(definition, stream, run, before=target), None)
    if ended is not None:
        yield ended
        return
    for leaf in run.waiting:
        if not isinstance(target.event, _types(leaf)):
            continue
        deadline = _deadline(definition, run, leaf)
        failed = _failing(leaf, target, scope_of(definition, run.steps, leaf))
        if failed:
            yield Reason(cause="failed", step=leaf.name, event=target, checks=failed)
        elif target.time >= deadline:
            yield Reason(cause="too_late", step=leaf.name, event=target, by=target.time - deadline)
        else:
            yield Reason(cause="blocked", step=leaf.name, event=target)


def _deadline(definition: Definition, run: Reach, leaf: Element) -> int:
    """Until when a run can take it."""
    whole = FOREVER if definition.within is None else run.taken[0].time + definition.within
    return whole if leaf.within is None else min(whole, run.taken[-1].time + leaf.within)


def _behind(stream: Stream, run: Reach) -> Iterator[Taken]:
    last = order(run.taken[-1])
    return (one for one in stream.events if order(one) > last)


def _ended(definition: Definition, stream: Stream, run: Reach, *, before: Taken | None = None) -> Iterator[Reason]:
    """The event that ended a run in time, if any."""
    if run.at == len(definition.elements):
        yield from _ended_complete(definition, stream, run, before)
        return
    element = definition.elements[run.at]
    how = element.inner if run.had else element.contiguity
    overall = max(_deadline(definition, run, leaf) for leaf in run.waiting)
    for number, one in enumerate(_behind(stream, run)):
        if one.time >= overall or (before is not None and order(one) >= order(before)):
            return
        absence = _forbids(definition, run, one, first=number == 0)
        if absence is not None:
            yield Reason(cause="forbidden", step=absence.name, event=one)
            return
        if run.had and element.until is not None and _until(definition, run, element, one):
            yield Reason(cause="until", step=element.name, event=one)
            return
        if how == "strict":
            yield Reason(cause="between", step=element.name, event=one)
            return


def _forbids(definition: Definition, run: Reach, taken: Taken, *, first: bool) -> Element | None:
    """The absence that this event, behind what a run took last, is against."""
    for absence in run.passed:
        lasts = FOREVER if absence.within is None else run.taken[-1].time + absence.within
        if absence.contiguity == "strict" and not first:
            continue
        if taken.time < lasts and fits(absence, taken.event, scope_of(definition, run.steps, absence)):
            return absence
    return None


def _until(definition: Definition, run: Reach, element: Element, taken: Taken) -> bool:
    assert element.until is not None
    if not isinstance(taken.event, _types(element)):
        return False
    probe = msgspec.structs.replace(element, node=Take(_types(element), (element.until,)))
    return fits(probe, taken.event, scope_of(definition, run.steps, element))


def _ended_complete(definition: Definition, stream: Stream, run: Reach, before: Taken | None) -> Iterator[Reason]:
    for number, one in enumerate(_behind(stream, run)):
        if before is not None and order(one) >= order(before):
            return
        if definition.within is not None and one.time >= run.taken[0].time + definition.within:
            return
        absence = _forbids(definition, run, one, first=number == 0)
        if absence is not None:
            yield Reason(cause="forbidden", step=absence.name, event=one)
            return


def _in_the_way(definition: Definition, stream: Stream, run: Reach, matches: Sequence[Found]) -> tuple[Reason, ...]:
    """Why a run went no further: what ended it, or that its time was over; and the events that nearly went on with it."""
    ended = tuple(_ended(definition, stream, run))
    if run.at == len(definition.elements):
        return ended or tuple(_complete(definition, stream, run, matches))
    near: list[Reason] = []
    late: Reason | None = None
    until = stream.until if stream.until is not None else FOREVER
    stop = order(ended[0].event) if ended and ended[0].event is not None else (FOREVER, 0)
    for one in _behind(stream, run):
        for leaf in run.waiting:
            if not isinstance(one.event, _types(leaf)):
                continue
            deadline = _deadline(definition, run, leaf)
            failed = _failing(leaf, one, scope_of(definition, run.steps, leaf))
            if not failed and one.time >= deadline:
                late = late or Reason(cause="too_late", step=leaf.name, event=one, by=one.time - deadline)
            elif failed and one.time < deadline and order(one) < stop:
                near.append(Reason(cause="failed", step=leaf.name, event=one, checks=failed))
            elif not failed and order(one) < stop and not ended:
                near.append(Reason(cause="blocked", step=leaf.name, event=one))
    overall = max(_deadline(definition, run, leaf) for leaf in run.waiting)
    waited = " or ".join(dict.fromkeys(leaf.name for leaf in run.waiting))
    if ended:
        first = ended[0]
    elif until < overall:
        first = Reason(cause="waiting", step=waited, by=FOREVER if overall >= FOREVER else overall - until)
    elif overall >= FOREVER:
        first = Reason(cause="waiting", step=waited, by=FOREVER)
    else:
        first = late or Reason(cause="expired", step=waited)
    near.sort(key=lambda one: (one.cause != "blocked", len(one.checks)))
    return first, *near[:3]


def _complete(definition: Definition, stream: Stream, run: Reach, matches: Sequence[Found]) -> Iterator[Reason]:
    """Why a run that has all its steps is no match, though nothing ended it."""
    scope = scope_of(definition, run.steps, definition.elements[0])
    if definition.where is not None:
        failed = tuple(one for one in whole_checks(definition.where, definition.name, scope) if not one.holds)
        if failed:
            yield Reason(cause="where", checks=failed)
            return
    first, until = order(run.taken[0]), FOREVER if stream.until is None else stream.until
    certain = [run.taken[0].time + definition.within] if definition.within is not None else []
    certain += [run.taken[-1].time + one.within for one in run.passed if one.within is not None]
    if certain and until < min(certain):
        waits = " and ".join(one.name for one in run.passed) or definition.elements[-1].name
        yield Reason(cause="waiting", step=f"the end of {waits}", by=min(certain) - until)
        return
    for match in matches:
        taken = sorted(flat(match.steps), key=order)
        if order(taken[0]) < first <= order(taken[-1]):
            yield Reason(cause="ruled_out", event=taken[-1])
            return
    yield Reason(cause="ruled_out")
