"""Why a match is one, and why something is none.

    print(why(match))
    print(why_not(Unpaid, events, key="o1"))

`why_not` finds the nearest miss: of all runs that the engine made over these events, the one that came farthest. What closed its ways
on is read from the engine's automaton, and the conditions are asked once more to say which failed, with which values.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from ensue.errors import Misuse
from ensue.events.message import Event
from ensue.events.recorded import microseconds
from ensue.patterns.definition import AllOf, Choice, Definition, Element, Group, Take
from ensue.patterns.explained.checks import Check, Scope, checks_of, fits, whole_checks
from ensue.patterns.explained.explaining import span_text, step_text
from ensue.patterns.explained.nearest import (
    FOREVER,
    Closed,
    Nearest,
    Stream,
    entries,
    flat,
    nearest,
    order,
    scope_at,
    ways_of,
)
from ensue.patterns.finding import Given, batch_of
from ensue.patterns.keys import key_reader
from ensue.patterns.language import Pattern
from ensue.patterns.matches import partial_match
from ensue.patterns.operator import Found, Taken
from ensue.patterns.searching.runs import steps_of

__all__ = ["Cause", "Reason", "Took", "Why", "WhyNot", "nearest_miss", "streams_of", "why", "why_not"]

NameOf: TypeAlias = Callable[[Event], str]
NEAR = 3
"""So many events that nearly went on with a run are told."""
TOLD = 8
"""Of a run that took more events than this, those in the middle are only counted."""
LOOKED = 100
"""So many runs are held against an event: those that came farthest, of beginnings that were not long over."""


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
    "not_wanted",
    "where",
    "ruled_out",
    "given_up",
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
        taken = [f"{step} = {_name(one, name)}" for step, one in self.took]
        if len(taken) > TOLD:
            taken[TOLD // 2 : -TOLD // 2] = [f"… {len(taken) - TOLD} more …"]
        waited = f"; it waited for {' or '.join(self.waiting_for)}" if self.waiting_for else ""
        return f"{self.done} of {self.steps} steps ({', '.join(taken)}){waited}; {reasons}"

    def __str__(self) -> str:
        return f"{self.pattern} of {self.key or 'all'}: {self.said()}"


def _name(taken: Taken, name: NameOf | None) -> str:
    return _named(taken.event, taken.position) if name is None else name(taken.event)


def _named(event: Event, position: int | None) -> str:
    return type(event).__name__ if position is None else f"{type(event).__name__} {position}"


_SAID: Mapping[Cause, Callable[[Reason, str], str]] = {
    "matched": lambda one, event: f"{event or 'every beginning'} is part of a match",
    "waiting": lambda one, event: (
        f"it still waits for {one.step}" + ("" if one.by >= FOREVER else f", for {span_text(one.by)} more")
    ),
    "too_late": lambda one, event: f"{event} came {span_text(one.by) if one.by else 'just'} too late for {one.step}",
    "expired": lambda one, event: f"its time was over before {one.step} came",
    "forbidden": lambda one, event: f"ended by {event}, which {one.step} forbids",
    "between": lambda one, event: f"ended by {event}: {one.step} must come at once, with nothing between",
    "until": lambda one, event: f"{one.step} takes no more since {event}, for which its until= holds",
    "failed": lambda one, event: (
        f"{event} is not taken by {one.step}: {', '.join(_failed(check) for check in one.checks)}"
    ),
    "blocked": lambda one, event: f"{event} was left out, though {one.step} could have taken it",
    "not_wanted": lambda one, event: f"{event} is none of these",
    "where": lambda one, event: (
        f"it is complete, but of the whole: {', '.join(_failed(check) for check in one.checks)}"
    ),
    "ruled_out": lambda one, event: f"ruled out by the match that ends with {event}",
    "given_up": lambda one, event: "given up: more than runs= of this key were waiting",
    "not_begun": lambda one, event: f"nothing had begun: no {one.step} came" + (f" before {event}" if event else ""),
    "not_looked_at": lambda one, event: f"no step takes a {event}",
    "no_events": lambda one, event: "there are no events of this key that any step could take",
}


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
    if not any(isinstance(one.event, definition.events) for one in stream.events):
        return _miss(definition, stream, None, Reason(cause="no_events"))
    if target is not None:
        stream = _around(definition, stream, target)
    matches, runs = nearest(definition, stream)
    for one in matches:
        if target is not None and target.position in {taken.position for taken in flat(one.steps)}:
            return _miss(definition, stream, None, Reason(cause="matched", event=target))
    begun = {min(flat(one.steps), key=order).position for one in matches}
    missed = sorted((run for position, run in runs.items() if position not in begun), key=_nearness)
    if target is not None:
        return _of_event(definition, stream, matches, begun, target)
    if missed:
        return _miss(definition, stream, missed[-1], *_in_the_way(definition, stream, missed[-1], matches))
    if matches:
        return _miss(definition, stream, None, Reason(cause="matched"))
    return _not_begun(definition, stream)


def _around(definition: Definition, stream: Stream, target: Taken) -> Stream:
    """The part of a stream that decides what becomes of an event: where each match rules out its own beginning only, what is farther
    away than runs wait has no part in it."""
    horizon = definition.horizon
    if horizon is None or definition.skip.to not in ("next", "none"):
        return stream
    low, high = target.time - 3 * horizon, target.time + 2 * horizon
    return msgspec.structs.replace(stream, events=tuple(one for one in stream.events if low <= one.time <= high))


def _nearness(run: Nearest) -> tuple[tuple[int, ...], int, tuple[int, int]]:
    return run.progress, run.link.count, order(run.link.first)


def _miss(definition: Definition, stream: Stream, run: Nearest | None, *reasons: Reason) -> WhyNot:
    taking = [one.name for one in definition.elements if not one.absent]
    done = 0
    if run is not None:
        awaited = run.stage.awaited.partition(".")[0]
        done = taking.index(awaited) if awaited in taking else len(taking)
    waiting = [] if run is None else [move.reach.leaf.name for move in run.stage.moves]
    return WhyNot(
        pattern=definition.name,
        key=stream.key,
        done=done,
        steps=len(taking),
        took=() if run is None else run.by_step,
        waiting_for=() if done == len(taking) else tuple(dict.fromkeys(waiting)),
        reasons=reasons,
    )


def _not_begun(definition: Definition, stream: Stream) -> WhyNot:
    """No event could begin: the one that failed the fewest conditions of the first step, the latest of those."""
    first = entries(definition)
    near = [
        (len(failed), taken, leaf, failed)
        for leaf in first
        for taken in stream.events
        if isinstance(taken.event, _types(leaf))
        for failed in [_failing(leaf, taken, Scope(None, {}))]
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
    definition: Definition, stream: Stream, matches: Sequence[Found], begun: Collection[int], target: Taken
) -> WhyNot:
    """What became of one event: the run that took it; what it ended; else the one that could have gone on with it."""
    _, took = nearest(definition, stream, through=target)
    missed = sorted((run for position, run in took.items() if position not in begun), key=_nearness)
    if missed:
        return _miss(definition, stream, missed[-1], *_in_the_way(definition, stream, missed[-1], matches))
    before = msgspec.structs.replace(
        stream, events=tuple(one for one in stream.events if order(one) < order(target)), until=target.time
    )
    _, runs = nearest(definition, before)
    horizon = definition.horizon
    recent = [run for run in runs.values() if horizon is None or target.time - run.link.first.time < 2 * horizon]
    near = [
        ((_WORTH[reason.cause], -len(reason.checks), *_nearness(run)), run, reason)
        for run in sorted(recent, key=_nearness)[-LOOKED:]
        for reason in _for_event(definition, stream, run, matches, target)
    ]
    alone = _alone(definition, stream, matches, target)
    if near:
        rank, run, reason = max(near, key=lambda one: one[0])
        if rank[0] or alone.cause == "not_begun":
            return _miss(definition, stream, run, reason)
    return _miss(definition, stream, None, alone)


_WORTH = dict.fromkeys(get_args(Cause), 1) | {"failed": 2, "too_late": 2, "not_wanted": 0}
"""What says most of an event first: that it was nearly taken, then what it ended, then that it came too late for all of it."""


def _alone(definition: Definition, stream: Stream, matches: Sequence[Found], target: Taken) -> Reason:
    """Why an event is no beginning."""
    for leaf in entries(definition):
        if isinstance(target.event, _types(leaf)):
            failed = _failing(leaf, target, Scope(None, {}))
            if failed:
                return Reason(cause="failed", step=leaf.name, event=target, checks=failed)
            match = _ruling(definition, order(target), matches)
            return Reason(cause="given_up") if match is None else Reason(cause="ruled_out", event=_last(match))
    begins = " or ".join(one.name for one in entries(definition))
    return Reason(cause="not_begun", step=begins, event=target)


def _for_event(
    definition: Definition, stream: Stream, run: Nearest, matches: Sequence[Found], target: Taken
) -> Iterator[Reason]:
    """Why a run, as it was before this event, did not take it: for each way on that might have."""
    upto = msgspec.structs.replace(
        stream, events=tuple(one for one in stream.events if order(one) <= order(target)), until=target.time
    )
    after, end = ways_of(definition, run, upto)
    for way in after if end is None else (*after, end):
        if way.event is not None and way.event.position == target.position and way.how != "taken":
            yield _reason(way)
    ways, _ = ways_of(definition, run, stream, before=target)
    for way in ways:
        leaf = way.reach.leaf.element
        if not isinstance(target.event, _types(leaf)):
            yield Reason(cause="not_wanted", step=leaf.name, event=target)
            continue
        failed = _failing(leaf, target, scope_at(definition, run, way.reach))
        if way.how not in ("open", "time", "taken"):
            yield _reason(way)
        elif failed:
            yield Reason(cause="failed", step=leaf.name, event=target, checks=failed)
        elif way.how == "time":
            yield Reason(cause="too_late", step=leaf.name, event=target, by=target.time - way.moment[0])
        else:
            yield _over(definition, run, matches)


_CAUSES: Mapping[str, Cause] = {
    "forbidden": "forbidden",
    "between": "between",
    "until": "until",
    "rival": "blocked",
    "greedy": "blocked",
    "time": "expired",
}


def _reason(way: Closed) -> Reason:
    """What closed a way, in its own words."""
    by = way.by or way.reach.leaf.element
    step = by.name if way.how in ("forbidden", "rival", "greedy") else way.reach.leaf.name
    return Reason(cause=_CAUSES[way.how], step=step, event=way.event)


def _over(definition: Definition, run: Nearest, matches: Sequence[Found]) -> Reason:
    """A beginning that was over though its run could have gone on."""
    match = _ruling(definition, order(run.link.first), matches)
    return Reason(cause="given_up") if match is None else Reason(cause="ruled_out", event=_last(match))


def _last(match: Found) -> Taken:
    return max(flat(match.steps), key=order)


def _ruling(definition: Definition, first: tuple[int, int], matches: Sequence[Found]) -> Found | None:
    """The match that ruled this beginning out, or that has it."""
    skip = definition.skip
    for match in matches:
        if skip.to == "none":
            return None
        taken = sorted(map(order, flat(match.steps)))
        bound = taken[-1]
        if skip.to in ("first", "last"):
            of_step = sorted(map(order, flat(match.steps.get(skip.step or ""))))
            if of_step and first < of_step[0 if skip.to == "first" else -1]:
                return match
        if first == taken[0] or (skip.to == "past_last" and first <= bound):
            return match
    return None


def _in_the_way(definition: Definition, stream: Stream, run: Nearest, matches: Sequence[Found]) -> tuple[Reason, ...]:
    """Why a run went no further: what closed its last way on; and the events that nearly went on with it."""
    ways, end = ways_of(definition, run, stream)
    ruling = _ruling(definition, order(run.link.first), matches)
    closings = ways if end is None else [*ways, end]
    last = max(closings, key=lambda one: (one.how != "taken", one.moment), default=None)
    if ruling is not None and (last is None or ruling.ended <= last.moment[0]):
        return (Reason(cause="ruled_out", event=_last(ruling)),)
    if not run.stage.awaited:
        return (_complete(definition, stream, run, ways, end),)
    assert last is not None
    if last.how == "taken":  # it had gone on, but was over already
        return (_over(definition, run, matches),)
    near, late = _nearly(definition, stream, run, ways)
    closed = [_reason(one) for one in ways if one.how not in ("time", "open", "taken")]
    open_ways = [one for one in ways if one.how == "open"]
    if open_ways:
        left = max(one.moment[0] for one in open_ways) - (FOREVER if stream.until is None else stream.until)
        first = Reason(cause="waiting", step=_steps(open_ways), by=left if left < FOREVER >> 1 else FOREVER)
    elif last.how == "time":
        first = late or Reason(cause="expired", step=_steps([one for one in ways if one.how == "time"]))
    else:
        first = _reason(last)
    others = [one for number, one in enumerate(closed) if one != first and one not in closed[:number]]
    return first, *others, *near


def _steps(ways: Sequence[Closed]) -> str:
    return " or ".join(dict.fromkeys(one.reach.leaf.name for one in ways))


def _nearly(
    definition: Definition, stream: Stream, run: Nearest, ways: Sequence[Closed]
) -> tuple[tuple[Reason, ...], Reason | None]:
    """The events that failed the fewest conditions while a way was open; and the first that only came too late."""
    near: list[Reason] = []
    late: Reason | None = None
    events = stream.events
    for way in ways:
        leaf = way.reach.leaf.element
        scope, found = scope_at(definition, run, way.reach), False
        for at in range(bisect_right(events, order(run.link.taken), key=order), len(events)):
            one = events[at]
            inside = order(one) < way.moment or (way.how == "between" and order(one) == way.moment)
            if not inside and (way.how != "time" or found):
                break
            if not isinstance(one.event, _types(leaf)):
                continue
            failed = _failing(leaf, one, scope)
            if failed and inside:
                near.append(Reason(cause="failed", step=leaf.name, event=one, checks=failed))
            elif not failed and not inside:
                by, found = one.time - way.moment[0], True
                if late is None or by < late.by:
                    late = Reason(cause="too_late", step=leaf.name, event=one, by=by)
        if way.reach.again:
            near += _passed_over(definition, stream, run, way)
    near.sort(key=lambda one: len(one.checks))
    return tuple(near[:NEAR]), late


def _passed_over(definition: Definition, stream: Stream, run: Nearest, way: Closed) -> Iterator[Reason]:
    """Events between those that a step has taken, which it would have needed as well."""
    link, leaf = run.link, way.reach.leaf
    while link.move.reach.leaf is leaf and link.before is not None:
        before = link.before
        scope = scope_at(definition, run._replace(link=before), link.move.reach)
        for one in stream.events:
            if order(before.taken) < order(one) < order(link.taken) and isinstance(one.event, leaf.events):
                failed = _failing(leaf.element, one, scope)
                if failed:
                    yield Reason(cause="failed", step=leaf.name, event=one, checks=failed)
        link = before


def _complete(
    definition: Definition, stream: Stream, run: Nearest, ways: Sequence[Closed], end: Closed | None
) -> Reason:
    """Why a run that has all its steps is no match."""
    if end is not None and end.how == "forbidden":
        return _reason(end)
    until = FOREVER if stream.until is None else stream.until
    waits = [one for one in (*ways, end) if one is not None and one.how == "open"]
    if (end is not None and end.how == "open") or (end is None and waits and run.stage.end and run.stage.end.guards):
        left = max(one.moment[0] for one in waits) - until
        return Reason(cause="waiting", step=f"the end of {waits[-1].reach.leaf.name}", by=left)
    if definition.where is not None:
        steps = steps_of(run.automaton, run.link)
        view = partial_match(definition.pattern, definition.elements, steps, key=run.key)
        failed = tuple(
            one for one in whole_checks(definition.where, definition.name, Scope(view, vars(view))) if not one.holds
        )
        if failed:
            return Reason(cause="where", checks=failed)
    return Reason(cause="given_up")
