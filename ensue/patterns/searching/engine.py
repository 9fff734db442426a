"""The general engine: finds the matches of any pattern by runs over its automaton, as docs/decisions/0030 says.

A run waits at a stage for one of its moves. Each event of its key lets it go on (a new run), closes moves that may not leave
that event out, and closes or completes its end. Runs of one beginning are kept in the order of preference, beginnings in the order
of time, so that going through them gives candidates in the order in which they count. Deadlines of all keys are in one heap;
entries that hold no more are passed over when they come up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any

from ensue.errors import ConditionFailed
from ensue.patterns.automata.automaton import Stage
from ensue.patterns.definition import Choice, Definition, elements_of
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Batch, Expired, Found, Output, Taken, identity
from ensue.patterns.searching.conditions import Conditions, Look
from ensue.patterns.searching.runs import Beginning, Link, Reader, Run, earlier_preferred, steps_of

__all__ = ["Engine"]

FORMAT = b"runs 1"
"""Changes when the state of a key, or what a move's number means, does."""


class Engine(Conditions):
    """An `Operator`. `timeouts`: beginnings that find no end in time are given as `Expired`."""

    def __init__(self, definition: Definition, *, timeouts: bool = False) -> None:
        super().__init__(definition)
        self.fingerprint = blake2b(
            definition.fingerprint + FORMAT + (b"timeouts" if timeouts else b""), digest_size=16
        ).digest()
        self.events = definition.events
        self.given_up = 0
        """Beginnings that were given up because more than `runs` runs of their key waited."""
        self._timeouts = timeouts
        self._reader = Reader(self._automaton)
        self._key_of = key_reader(definition.key_tag)
        self._keys: dict[str, list[Beginning]] = {}
        self._queue: list[tuple[int, int, int, int, Beginning]] = []
        self._serial = 0
        self._changed: set[str] = set()
        self._failures: list[ConditionFailed] = []
        """Of a deadline that was handled whole: still to be told."""
        self._skip = definition.skip
        self._twice = definition.skip.to == "none" and any(
            isinstance(element.node, Choice) for element in elements_of(definition.elements)
        )
        self._newly: list[tuple[Beginning, bool]] = []
        """For each match that an event gave, if none rules out another: its beginning, and whether that had one before."""
        self._timed = timeouts
        self._bound: tuple[int, int] | None = None
        """While an event or a deadline is looked at: beginnings before this are ruled out by a match it has given."""

    # ------------------------------------------------------------------------------------------------------------ the port

    def take(self, batch: Batch) -> list[Output]:
        """See `Operator`."""
        outputs: list[Output] = []
        keys, rows, key_of = batch.keys, batch.rows, self._key_of
        for at, event in enumerate(batch.events):
            time = batch.times[at]
            if self._queue and self._queue[0][0] <= time:
                try:
                    self._until(time, outputs)
                except ConditionFailed as failed:
                    failed.outputs, failed.done = outputs, at
                    raise
            kind = type(event)
            accepted = self._accepted.get(kind)
            if accepted is None:
                accepted = self._accepts(kind)
            if not accepted:
                continue
            taken = Taken(time, batch.positions[at], event, rows[at] if rows is not None else None)
            try:
                key = keys[at] if keys is not None else key_of(event)
                self._event(key, Look(taken, accepted), outputs)
            except ConditionFailed as failed:
                failed.outputs = outputs
                raise
        return outputs

    def advance(self, time: int) -> list[Output]:
        """See `Operator`. Errors: `ConditionFailed` for a `where` that raised when a deadline made a match complete. That match is
        none, and what comes behind it is still to be done: call it again."""
        outputs: list[Output] = []
        try:
            self._until(time, outputs)
        except ConditionFailed as failed:
            failed.outputs = outputs
            raise
        return outputs

    def due(self) -> int | None:
        """See `Operator`."""
        if not self._timed:
            return None
        while self._queue:
            time, _, _, _, beginning = self._queue[0]
            if beginning.live and beginning.queued == time and self._due_of(beginning) == time:
                return time
            self._requeue()
        return None

    def changed(self) -> Iterable[str]:
        """See `Operator`."""
        changed = self._changed
        self._changed = set()
        return changed

    def state(self, key: str) -> Any:
        """See `Operator`. Events are kept once; what took them is kept as the numbers of moves."""
        beginnings = self._keys.get(key)
        if not beginnings:
            return None
        events: dict[int, int] = {}
        taken: list[Taken] = []
        links: dict[int, int] = {}
        chain: list[tuple[int, int, int]] = []

        def number_of(link: Link) -> int:
            for one in link.all():
                if id(one) not in links:
                    if id(one.taken) not in events:
                        events[id(one.taken)] = len(taken)
                        taken.append(one.taken)
                    links[id(one)] = len(chain)
                    before = -1 if one.before is None else links[id(one.before)]
                    chain.append((before, one.move.number, events[id(one.taken)]))
            return links[id(link)]

        kept: list[Any] = []
        for one in beginnings:
            over = None if one.expired is None else (number_of(one.expired[0]), *one.expired[1:])
            runs = [
                (number_of(run.link), run.open, run.fresh, run.ended, run.end, run.guards, run.whole)
                for run in one.runs
            ]
            kept.append((runs, one.matched, list(one.given), over))
        return {"taken": taken, "chain": chain, "beginnings": kept}

    def restore(self, key: str, state: Any) -> None:
        """See `Operator`. What the key had before is no more; None: it has nothing."""
        for beginning in self._keys.pop(key, ()):
            beginning.live = False
        if state is None:
            return
        taken: Sequence[Taken] = state["taken"]
        links: list[Link] = []
        stages: list[Stage] = []
        for before, number, event in state["chain"]:
            stage = self._automaton.start if before < 0 else stages[before]
            move = stage.moves[number]
            links.append(self._link(None if before < 0 else links[before], move, taken[event]))
            stages.append(self._automaton.stage_behind(stage, move))
        beginnings: list[Beginning] = []
        for runs, matched, given, over in state["beginnings"]:
            beginning = Beginning(key, links[runs[0][0]].first)
            beginning.matched, beginning.given = matched, list(given)
            beginning.expired = None if over is None else (links[over[0]], over[1], over[2])
            for at, open_, fresh, ended, end, guards, whole in runs:
                run = Run(stages[at], links[at], open_, fresh=fresh, ended=ended, end=end, guards=guards, whole=whole)
                beginning.runs.append(self._with_due(beginning, run))
            beginnings.append(beginning)
            self._enqueue(beginning)
        self._keys[key] = beginnings

    # ------------------------------------------------------------------------------------------------------------ deadlines

    def _until(self, time: int, outputs: list[Output]) -> None:
        """All deadlines up to this time, in their order. Errors: `ConditionFailed`; call it again for what is left."""
        queue = self._queue
        while True:
            if self._failures:
                raise self._failures.pop(0)
            if not queue or queue[0][0] > time:
                return
            self._moment(queue[0][0], outputs)

    def _moment(self, moment: int, outputs: list[Output]) -> None:
        """The deadlines of one time: matches first, since they may rule out what is over at the same time."""
        queue = self._queue
        over: list[Beginning] = []
        while queue and queue[0][0] <= moment:
            beginning = queue[0][-1]
            if beginning.live and beginning.queued == moment and self._due_of(beginning) == moment:
                heappop(queue)
                beginning.queued = None
                if self._deadline(beginning, moment, outputs):
                    over.append(beginning)
            else:
                self._requeue()
        for beginning in over:
            if beginning.live:
                self._dead(beginning, outputs)
                left = self._keys[beginning.key]
                left.remove(
                    beginning
                )  # which is mostly the first: beginnings wait in the order in which their time is over
                if not left:
                    del self._keys[beginning.key]

    def _requeue(self) -> None:
        """The first entry of the queue is not so any more: where it belongs, if anywhere."""
        due, _, _, _, beginning = heappop(self._queue)
        if beginning.live and beginning.queued == due:
            beginning.queued = None
            self._enqueue(beginning)

    def _enqueue(self, beginning: Beginning) -> None:
        due = self._due_of(beginning)
        if due is not None and (beginning.queued is None or due < beginning.queued):
            self._serial += 1
            beginning.queued = due
            heappush(self._queue, (due, beginning.first.time, beginning.first.position, self._serial, beginning))

    @staticmethod
    def _due_of(beginning: Beginning) -> int | None:
        due: int | None = None
        for run in beginning.runs:
            if run.due is not None and (due is None or run.due < due):
                due = run.due
        return due

    def _deadline(self, beginning: Beginning, moment: int, outputs: list[Output]) -> bool:
        """What is over with one beginning at this time. True: all of it, and no match has ended it."""
        self._changed.add(beginning.key)
        self._bound = None
        kept: list[Run] = []
        for run in beginning.runs:
            if run.due is None or run.due > moment:
                kept.append(run)
                continue
            end = run.end
            whole = run.whole
            if end is not None and run.end_due is not None and run.end_due <= moment:
                end, whole = None, True
                try:
                    if self._candidate(beginning, run.link, moment, outputs):
                        self._rule_out(beginning.key, beginning)
                        return False
                except ConditionFailed as failed:
                    self._failures.append(failed)
            moves_due = self._moves_due(beginning, run)
            over = bool(run.open) and moves_due is not None and moves_due <= moment
            if over and self._timeouts and not whole and end is None:
                self._over(beginning, run, moves_due or moment)
            left = 0 if over else run.open
            if left or end is not None:
                kept.append(self._with_due(beginning, run.left(left, run.fresh, run.ended, end, run.guards, whole)))
        beginning.runs = kept
        if kept:
            self._enqueue(beginning)
        return not kept

    def _over(self, beginning: Beginning, run: Run, deadline: int) -> None:
        """The time of this run is over, and it is not whole."""
        best = beginning.expired
        if best is not None:
            link = best[0]
            if link.count > run.link.count or (link.count == run.link.count and earlier_preferred(link, run.link)):
                return
        beginning.expired = (run.link, deadline, run.stage.awaited or run.stage.moves[-1].reach.leaf.name)

    def _dead(self, beginning: Beginning, outputs: list[Output]) -> None:
        """It has no run left."""
        beginning.live = False
        if beginning.expired is not None and not beginning.matched:
            link, deadline, awaited = beginning.expired
            steps = steps_of(self._automaton, link)
            outputs.append(
                Expired(
                    id=identity(self.name, beginning.key, steps),
                    key=beginning.key,
                    started=beginning.first.time,
                    deadline=deadline,
                    waiting_for=awaited,
                    steps=steps,
                )
            )

    def _drop(self, key: str) -> None:
        left = [beginning for beginning in self._keys[key] if beginning.live]
        if left:
            self._keys[key] = left
        else:
            del self._keys[key]

    def _rule_out(self, key: str, matched: Beginning) -> None:
        """What the match just given rules out."""
        matched.live = False
        if self._bound is not None:
            for beginning in self._keys[key]:
                if beginning.order < self._bound:
                    beginning.live = False
        self._drop(key)

    def _moves_due(self, beginning: Beginning, run: Run) -> int | None:
        """When the last of its open moves is over."""
        within = self.definition.within
        whole = None if within is None else beginning.first.time + within
        latest = 0
        for move in run.stage.moves:
            if run.open & move.bit:
                if move.within is None:
                    return whole
                latest = max(latest, run.link.taken.time + move.within)
        return latest if whole is None else min(latest, whole)

    def _with_due(self, beginning: Beginning, run: Run) -> Run:
        due = self._moves_due(beginning, run) if run.open else None
        if run.end is not None:
            run.end_due = self._end_due(beginning, run)
            if run.end_due is not None:
                self._timed = True
                due = run.end_due if due is None else min(due, run.end_due)
        run.due = due
        return run

    def _end_due(self, beginning: Beginning, run: Run) -> int | None:
        end = run.stage.end
        assert end is not None
        assert run.end is not None
        spans: list[int | None]
        if end.absences:
            spans = [absence.within for at, absence in enumerate(end.absences) if run.end >> at & 1]
        else:
            spans = [guard.reach.leaf.within for at, guard in enumerate(end.guards) if run.guards >> at & 1]
        latest = 0
        for span in spans:
            deadline = self._deadline_of(beginning, run, span)
            if deadline is None:
                return None
            latest = max(latest, deadline)
        return latest

    def _deadline_of(self, beginning: Beginning, run: Run, span: int | None) -> int | None:
        within = self.definition.within
        own = None if span is None else run.link.taken.time + span
        whole = None if within is None else beginning.first.time + within
        if own is None or whole is None:
            return own if whole is None else whole
        return min(own, whole)

    # --------------------------------------------------------------------------------------------------------------- events

    def _event(self, key: str, look: Look, outputs: list[Output]) -> None:
        self._bound = None
        beginnings: Sequence[Beginning] = self._keys.get(key, ())
        self._newly.clear()
        found: list[Output] = []
        touched: dict[int, list[Run] | None] = {}
        reacting = look.reacting
        try:
            for at, beginning in enumerate(() if self._passes_all(key, beginnings, look) else beginnings):
                if self._bound is not None and beginning.order < self._bound:
                    continue
                before = beginning.runs
                if len(before) == 1:
                    run = before[0]
                    if reacting.get(run.stage) is False and not (run.fresh and run.stage.looks_next):
                        continue
                runs = self._looked_at(beginning, look, found)
                if runs is not before:
                    touched[at] = runs
            fresh = self._begun(key, look, found)
        except ConditionFailed:
            for one, matched in reversed(self._newly):
                one.matched = matched
                if self._twice:
                    one.given.pop()
            raise
        outputs += found
        if not touched and fresh is None and self._bound is None:
            if found:
                self._changed.add(key)
            return
        self._changed.add(key)
        kept: list[Beginning] = list(beginnings)
        if touched or self._bound is not None:
            kept = []
            for at, beginning in enumerate(beginnings):
                if at in touched:
                    self._settle(beginning, touched[at], kept, outputs)
                elif self._bound is not None and beginning.order < self._bound:
                    beginning.live = False
                else:
                    kept.append(beginning)
        if fresh is not None:
            kept.append(fresh)
            self._enqueue(fresh)
        self._keep(key, kept)

    def _passes_all(self, key: str, beginnings: Sequence[Beginning], look: Look) -> bool:
        """Whether the event can matter to no run, wherever it waits. Not looked at where it costs as much to ask each beginning."""
        stages = self._automaton.stages
        if len(stages) >= len(beginnings):
            return False
        return not any(stage.looks_next or self._reacts(stage, key, look) for stage in stages.values())

    def _settle(
        self, beginning: Beginning, runs: list[Run] | None, kept: list[Beginning], outputs: list[Output]
    ) -> None:
        """A beginning behind an event: its runs now; None: a match has ended it."""
        if runs is None or (self._bound is not None and beginning.order < self._bound):
            beginning.live = False
        elif not runs:
            beginning.runs = runs
            self._dead(beginning, outputs)
        else:
            beginning.runs = runs
            self._enqueue(beginning)
            kept.append(beginning)

    def _keep(self, key: str, kept: list[Beginning]) -> None:
        total = sum([len(beginning.runs) for beginning in kept])
        while total > self.definition.runs:
            oldest = kept.pop(0)
            oldest.live = False
            total -= len(oldest.runs)
            self.given_up += 1
        if kept:
            self._keys[key] = kept
        else:
            self._keys.pop(key, None)

    def _begun(self, key: str, look: Look, found: list[Output]) -> Beginning | None:
        """The runs that begin with this event."""
        stage = self._automaton.start
        look.views = {}
        beginning: Beginning | None = None
        runs: list[Run] = []
        for move in stage.moves:
            if move.reach.leaf.index in look.accepted and self._can(key, None, None, look, move.reach):
                beginning = beginning or Beginning(key, look.taken)
                if self._bound is not None and beginning.order < self._bound:
                    return None
                link = self._link(None, move, look.taken)
                if self._born(beginning, self._automaton.stage_behind(stage, move), link, runs, found):
                    return None
        if beginning is None or not runs:
            return None
        beginning.runs = runs
        return beginning

    def _looked_at(self, beginning: Beginning, look: Look, found: list[Output]) -> list[Run] | None:
        """The runs of a beginning behind this event; None: a match has ended it. The same list: nothing has changed."""
        runs: list[Run] = []
        same = True
        for run in beginning.runs:
            if (run.fresh and run.stage.looks_next) or self._reacts(run.stage, beginning.key, look):
                if look.views:
                    look.views = {}
                many = len(runs)
                if self._step(beginning, run, look, runs, found):
                    return None
                same = same and len(runs) == many + 1 and runs[many] is run
            else:
                runs.append(run)
        return beginning.runs if same else runs

    def _born(self, beginning: Beginning, stage: Stage, link: Link, runs: list[Run], found: list[Output]) -> bool:
        """A run that has just taken an event. True: it is whole, and its match ends the beginning."""
        end: int | None = None
        guards = 0
        whole = False
        if stage.end is not None:
            if not stage.end.absences and not stage.end.guards:
                whole = True
                if self._candidate(beginning, link, link.taken.time, found):
                    return True
            else:
                end, guards = (1 << len(stage.end.absences)) - 1, (1 << len(stage.end.guards)) - 1
        if stage.moves or end is not None:
            run = Run(stage, link, (1 << len(stage.moves)) - 1, end=end, guards=guards, whole=whole)
            runs.append(self._with_due(beginning, run))
        return False

    def _step(self, beginning: Beginning, run: Run, look: Look, runs: list[Run], found: list[Output]) -> bool:
        """What becomes of a run with this event: the runs that take it, the preferred first, and the one that leaves it out."""
        stage, link, key = run.stage, run.link, beginning.key
        own = link.move.reach.leaf
        ended = run.ended or (own.until is not None and self._has_ended(key, look, own))
        left = run.open
        for move in stage.moves:
            if not left & move.bit:
                continue
            if move.plain and not ended:
                if self._can(key, run, link, look, move.reach):
                    taken = self._link(link, move, look.taken)
                    if self._born(beginning, self._automaton.stage_behind(stage, move), taken, runs, found):
                        return True
                if move.strict:
                    left &= ~move.bit
                    continue
                for one in move.closers:
                    if self._can(key, run, link, look, one):
                        left &= ~move.bit
                        break
                continue
            if move.within is not None and look.taken.time - link.taken.time >= move.within:
                left &= ~move.bit
                continue
            closes = move.strict or (ended and move.reach.again)
            if run.fresh and self._forbids(key, run, look, move.forbidden_next):
                left &= ~move.bit
                continue
            if not (ended and move.reach.again) and self._can(key, run, link, look, move.reach):
                taken = self._link(link, move, look.taken)
                if self._born(beginning, self._automaton.stage_behind(stage, move), taken, runs, found):
                    return True
            if not closes:
                closes = any(self._can(key, run, link, look, one) for one in move.closers)
            if not closes and run.fresh:
                closes = any(self._can(key, run, link, look, one) for one in move.closers_next)
            if not closes:
                closes = self._forbids(key, run, look, move.absences)
            if closes:
                left &= ~move.bit
        end, guards, whole = run.end, run.guards, run.whole
        if end is not None:
            end, guards = self._step_end(beginning, run, look, ended=ended)
            if end == -1:
                end, whole = None, True
                if self._candidate(beginning, link, look.taken.time, found):
                    return True
        if left or end is not None:
            same = left == run.open and end == run.end and guards == run.guards and ended == run.ended
            if not same or (run.fresh and stage.looks_next):
                run = self._with_due(beginning, run.left(left, False, ended, end, guards, whole))
            runs.append(run)
        return False

    def _step_end(self, beginning: Beginning, run: Run, look: Look, *, ended: bool) -> tuple[int | None, int]:
        """The end of a run with this event: what is still pending. None: it cannot end here any more; -1: it is whole now."""
        end = run.stage.end
        assert end is not None
        assert run.end is not None
        key, link, now = beginning.key, run.link, look.taken.time
        pending, guards = run.end, run.guards
        for at, absence in enumerate(end.absences):
            if not pending >> at & 1:
                continue
            deadline = self._deadline_of(beginning, run, absence.within)
            if deadline is not None and now >= deadline:
                pending &= ~(1 << at)
            elif self._can(key, run, link, look, absence.reach):
                return None, 0
            elif absence.strict:
                pending &= ~(1 << at)
        for at, guard in enumerate(end.guards):
            if not guards >> at & 1:
                continue
            over = ended and guard.reach.again
            if not over and self._can(key, run, link, look, guard.reach):
                return None, 0
            deadline = self._deadline_of(beginning, run, guard.reach.leaf.within)
            if over or guard.only_next or (deadline is not None and now >= deadline):
                guards &= ~(1 << at)
        if not pending if end.absences else not guards:
            return -1, 0
        return pending, guards

    # ------------------------------------------------------------------------------------------------------------ candidates

    def _candidate(self, beginning: Beginning, link: Link, moment: int, found: list[Output]) -> bool:
        """A run is whole. True: it is a match that ends its beginning."""
        steps = self._reader.read(link)
        match = Found(
            of=self.name,
            key=beginning.key,
            started=beginning.first.time,
            ended=moment,
            steps=steps,
        )
        if beginning.given and match.id in beginning.given:
            return False
        where = self.definition.where
        if where is not None and not self._whole(where, match, link):
            return False
        found.append(match)
        skip = self._skip
        if skip.to == "none":
            self._newly.append((beginning, beginning.matched))
            beginning.matched = True
            if self._twice:
                beginning.given.append(match.id)
            return False
        if skip.to == "past_last":
            self._raise_bound((link.taken.time, link.taken.position + 1))
        elif skip.step is not None:
            took = [
                one.taken
                for one in link.all()
                if self._automaton.elements[one.move.reach.leaf.trail[0]].name == skip.step
            ]
            if took:
                event = took[0] if skip.to == "first" else took[-1]
                self._raise_bound((event.time, event.position))
        return True

    def _raise_bound(self, bound: tuple[int, int]) -> None:
        if self._bound is None or self._bound < bound:
            self._bound = bound
