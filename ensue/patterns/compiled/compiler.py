"""Patterns as programs: an `Operator` whose loop over events is Python source, written for the pattern and read by `explain`.

It is for patterns whose every beginning has one run (`ensue.patterns.compiled.places`); `compiled` says why another is none of them. It finds
what the general engine finds, in the same order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import heapify, heappop
from types import CodeType
from typing import Any

from ensue.errors import ConditionFailed
from ensue.events.message import Event
from ensue.events.stored import Row
from ensue.patterns.compiled.layout import Layout
from ensue.patterns.compiled.places import NoPlaces, Place, places_of
from ensue.patterns.compiled.plain_program import PlainProgram, Shape, plain_shape
from ensue.patterns.compiled.program import Program
from ensue.patterns.compiled.relevance import Test
from ensue.patterns.compiled.source import Names, Steps, Writer, identifier
from ensue.patterns.compiled.strict_program import StrictProgram, is_strict
from ensue.patterns.definition import Definition
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Batch, Expired, Found, Output, Taken, identity

__all__ = ["Compiled", "Form", "NoPlaces", "Plain", "compiled", "constructor", "predicate", "selector"]

CHUNK = 4096
"""So many events go through a program at a time; then what is over is thrown away."""
FORMAT = b"places 1"
"""Changes when a run's list, or what a place means, does."""

Run = list[Any]
Waiting = dict[str, list[Run]]


def compiled(definition: Definition, *, timeouts: bool = False) -> Compiled:
    """An operator for the pattern. Errors: `NoPlaces`, which says why it is not of the kind that is compiled."""
    form = _form_of(definition, timeouts)
    return Compiled(form) if form.shape is None else Plain(form, form.shape)


class Form:
    """What all operators of one pattern have in common: its places, and programs by the classes of events that they are for."""

    def __init__(self, definition: Definition, *, timeouts: bool, plainly: bool = True) -> None:
        self.definition = definition
        self.shape = plain_shape(definition, timeouts=timeouts) if plainly else None
        timeouts = timeouts and self.shape is None  # an absence at the end has none
        self.places = places_of(definition, timeouts=timeouts)
        self.layout = Layout(definition, self.places, timeouts=timeouts)
        self.strict = self.shape is None and is_strict(self.layout)
        said = f"{self.layout.blank!r} {self.places.all!r} {timeouts} {self.shape} {self.strict}".encode()
        self.fingerprint = blake2b(definition.fingerprint + FORMAT + said, digest_size=16).digest()
        self.accepted: dict[type, bool] = {}
        self._programs: dict[tuple[tuple[type, ...], bool, bool], dict[str, Any]] = {}

    def accepts(self, kind: type) -> bool:
        """Whether events of a class are among those of the pattern."""
        known = self.accepted.get(kind)
        if known is None:
            known = self.accepted[kind] = issubclass(kind, self.definition.events)
        return known

    def written(self, classes: tuple[type[Event], ...], *, others: bool, lazy: bool = False) -> Program:
        if self.shape is not None:
            return PlainProgram(self.layout, self.shape, classes, others=others, lazy=lazy)
        if self.strict:
            return StrictProgram(self.layout, classes, others=others, lazy=lazy)
        return Program(self.layout, classes, others=others, lazy=lazy)

    def program(self, classes: tuple[type[Event], ...], *, others: bool, lazy: bool = False) -> dict[str, Any]:
        """The functions `take`, `found` and perhaps `lapse`."""
        known = self._programs.get((classes, others, lazy))
        if known is None:
            program = self.written(classes, others=others, lazy=lazy)
            source = program.source()
            known = dict(program.names.values)
            exec(_code(source), known)  # noqa: S102 - written from the expression tree alone
            self._programs[classes, others, lazy] = known
        return known

    @property
    def any_program(self) -> dict[str, Any]:
        """For what does not depend on the class of events."""
        return next(iter(self._programs.values()), None) or self.program(self.definition.events[:1], others=True)


_forms: OrderedDict[tuple[int, bool], tuple[Definition, Form | NoPlaces]] = OrderedDict()
"""By the identity of a definition, which is kept, so that it stays its own."""
FORMS = 1024


def _form_of(definition: Definition, timeouts: bool) -> Form:
    known = _forms.get((id(definition), timeouts))
    if known is None:
        try:
            form: Form | NoPlaces = Form(definition, timeouts=timeouts)
        except NoPlaces as reason:
            form = NoPlaces(str(reason))  # without the frames that it was raised in
        known = _forms[id(definition), timeouts] = (definition, form)
        if len(_forms) > FORMS:
            _forms.popitem(last=False)
    if isinstance(known[1], NoPlaces):
        raise NoPlaces(str(known[1]))
    return known[1]


def constructor(event: type[Event], fields: Sequence[str]) -> Callable[..., Event]:
    """Makes such an event of the values of these fields, in their order: what costs a dictionary each time without it."""
    names = [f"v{number}" for number in range(len(fields))]
    given = ", ".join(f"{identifier(field)}={name}" for field, name in zip(fields, names, strict=True))
    space: dict[str, Any] = {"event": event}
    exec(f"def make({', '.join(names)}, event=event): return event({given})", space)  # noqa: S102 - of names of fields alone
    made: Callable[..., Event] = space["make"]
    return made


def predicate(*tests: Test) -> Callable[[Any], bool]:
    """Whether all parts of one of these tests hold of an event, or of what has the fields that they read."""
    known, said, space = _asked(tests)
    exec(f"def holds(e, {known}): return {said}", space)  # noqa: S102 - written from the expression tree alone
    found: Callable[[Any], bool] = space["holds"]
    return found


def selector(*tests: Test) -> Callable[[Sequence[Any]], list[int]]:
    """Gives the places of those events for which the `predicate` of these tests holds."""
    known, said, space = _asked(tests)
    exec(f"def select(events, {known}): return [i for i, e in enumerate(events) if {said}]", space)  # noqa: S102 - as above
    found: Callable[[Sequence[Any]], list[int]] = space["select"]
    return found


def _asked(tests: Sequence[Test]) -> tuple[str, str, dict[str, Any]]:
    """The parameters that a source has for its constants, the source of whether one of these tests holds, and the constants."""
    names = Names()
    writer = Writer(names, "e", Steps())
    said = [
        " and ".join(f"{names.of(part, 'f')}(e)" if callable(part) else writer.write(part) for part in test)
        for test in tests
    ]
    return ", ".join(f"{name}={name}" for name in names.values), " or ".join(said) or "False", dict(names.values)


class Compiled:
    """See `Operator`. What has no underscore beside that is for the programs."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.definition = definition = form.definition
        self.name = definition.name
        self.events = definition.events
        self.places, self.layout, self.fingerprint = form.places, form.layout, form.fingerprint
        self.waiting: list[Waiting] = [{}] if form.strict else [{} for _ in self.places.all]
        """By key, in the order of their beginnings: the runs of each place, or of all."""
        self.queue: Any = deque() if self.layout.deadlines == "fifo" else []
        self.touched: set[str] | None = None
        self.given_up = 0
        """Beginnings that were given up because too many of one key waited."""
        self.key_of = key_reader(definition.key_tag)
        self._program: tuple[Any, frozenset[type], bool] | None = None
        self._swept: int | None = None
        self._restored = False
        self._queued = self.layout.place is not None
        self._place = self.layout.place or 0
        self._lifetime = definition.horizon

    # --------------------------------------------------------------------------------------------- the port

    def take(self, batch: Batch) -> list[Output]:
        out: list[Output] = []
        self._in_order()
        events, times, rows = batch.events, batch.times, batch.rows
        for at in range(0, len(events), CHUNK):
            some = events[at : at + CHUNK] if len(events) > CHUNK else events
            program = self._program_for(set(map(type, some)))
            if program is not None:
                program(self, enumerate(some, at), times, batch.positions, rows, batch.keys, out)
            self._passed(times[at + len(some) - 1], out)
        return out

    def take_some(self, batch: Batch, numbers: Sequence[int]) -> list[Output]:
        """Take those events of a batch that have these numbers in it; the others are none that it needs. Else as `take`."""
        out: list[Output] = []
        self._in_order()
        events = batch.events
        some = [events[number] for number in numbers]
        program = self._program_for(set(map(type, some)))
        if program is not None:
            program(self, zip(numbers, some, strict=True), batch.times, batch.positions, batch.rows, batch.keys, out)
            self._given(batch.times[numbers[-1]], out)
        return out

    def advance(self, time: int) -> list[Output]:
        out: list[Output] = []
        self._in_order()
        self._passed(time, out)
        return out

    def due(self) -> int | None:
        self._in_order()
        queue = self.queue
        while queue:
            due, run = queue[0][0], queue[0][-1]
            if self._is_due(run, due):
                return int(due)
            self._pop()
        return None

    def changed(self) -> Iterable[str]:
        touched, self.touched = self.touched, set()
        return {key for waiting in self.waiting for key in waiting} if touched is None else touched

    def state(self, key: str) -> Any:
        kept = [waiting.get(key, ()) for waiting in self.waiting]
        return [[_copy(run) for run in runs] for runs in kept] if any(kept) else None

    def restore(self, key: str, state: Any) -> None:
        for number, (waiting, runs) in enumerate(zip(self.waiting, state, strict=True)):
            if runs:
                waiting[key] = [_copy(run) for run in runs]
                for run in waiting[key]:
                    self._wait_again(key, run, self.places.all[number])
        self._restored = True
        if self.touched is None:
            self.touched = set()

    def source(self) -> str:
        """The program, as it is for events of the classes that the pattern names."""
        return self.form.written(self.events, others=False).source()

    # ---------------------------------------------------------------------------------------- for the programs

    def fire(self, time: int, out: list[Output]) -> None:
        """Give what is complete or expired at deadlines up to this time."""
        while self.queue and self.queue[0][0] <= time:
            due = self.queue[0][0]
            over: list[tuple[str, Run]] = []
            while self.queue and self.queue[0][0] == due:
                entry = self._pop()
                if self._is_due(entry[-1], due):
                    over.append((entry[-2], entry[-1]))
            if len(over) > 1:
                over.sort(key=_beginning)
            waits = [pair for pair in over if not self._complete_at(due, *pair, out)]
            for key, run in waits:
                if run[self._place] >= 0:  # no match of this moment ruled it out
                    waits_for = self.places.all[run[self._place]].waits_for
                    self._remove(key, run)
                    if self.layout.timeouts:
                        out.append(self._expired(key, run, due, waits_for))

    def settle(self, key: str, done: list[Run], time: int, out: list[Output]) -> tuple[int, int] | None:
        """Give these complete runs, and rule out what they rule out: up to the time and position that is returned."""
        done.sort()
        ruled: tuple[int, int] | None = None
        for run in done:
            if self._queued:
                run[self._place] = -1
            if ruled is None or not self._ruled_out(run, ruled):
                out.append(self._match(run, key, time))
                until = self._rules_out(run)
                ruled = until if ruled is None or (until is not None and until > ruled) else ruled
        if ruled is not None:
            self._rule_out(key, ruled)
        return ruled

    def bound(self, key: str) -> None:
        """Keep at most as many runs of a key as the pattern allows; the oldest beginnings are given up."""
        runs = [run for waiting in self.waiting for run in waiting.get(key, ())]
        for run in sorted(runs)[: max(len(runs) - self.definition.runs, 0)]:
            self._remove(key, run)
            self.given_up += 1

    def carefully(
        self,
        number: int,
        event: Event,
        times: Sequence[int],
        positions: Sequence[int],
        rows: Sequence[Row] | None,
        keys: Sequence[str] | None,
        out: list[Output],
    ) -> None:
        """Take one event, asking nothing that is not needed: something was asked that raised."""
        program = self.form.program((type(event),), others=False, lazy=True)["take"]
        program(self, iter(((number, event),)), times, positions, rows, keys, out)

    def failed(
        self,
        error: Exception,
        step: str,
        number: int,
        event: Event,
        positions: Sequence[int],
        keys: Sequence[str] | None,
        out: list[Output],
    ) -> ConditionFailed:
        """The error for an event whose condition raised."""
        key = self.key_of(event) if keys is None else keys[number]
        return ConditionFailed(
            f"{self.name}.{step}: its condition raised {type(error).__name__} for the {type(event).__name__} at position "
            f"{positions[number]} of key {key!r}: {error}. The pattern goes on as if this event had not been there",
            name=self.name,
            step=step,
            position=positions[number],
            key=key,
            outputs=out,
        )

    # ---------------------------------------------------------------------------------------------------- inner

    def _given(self, time: int, out: list[Output]) -> None:
        """Behind the events of a program's call, of which the last has this time."""

    def _passed(self, time: int, out: list[Output]) -> None:
        if self.layout.deadlines != "none":
            self.fire(time, out)
        elif self._swept is None:
            self._swept = time
        elif self._lifetime is not None and time - self._swept >= self._lifetime:
            self._swept = time
            self._sweep(time)

    def _sweep(self, time: int) -> None:
        """Throw away runs that are over, of keys to which nothing came. Seldom, so that it costs little for each run."""
        limit = time - (self._lifetime or 0)
        for waiting in self.waiting:
            for key in [key for key, runs in waiting.items() if runs[-1][0] <= limit]:
                left = [run for run in waiting[key] if run[0] > limit]
                if left:
                    waiting[key] = left
                else:
                    del waiting[key]
                if self.touched is not None:
                    self.touched.add(key)

    def _wait_again(self, key: str, run: Run, place: Place) -> None:
        """The entry of the queue for a run that was restored."""
        if self.layout.deadlines == "fifo":
            due = self.layout.due_of(place, run[0], run[0])
            if due is not None:
                self.queue.append((due, key, run))
        elif self.layout.due is not None and run[self.layout.due] is not None:
            self.queue.append((run[self.layout.due], run[0], run[1], key, run))

    def _pop(self) -> Any:
        return self.queue.popleft() if self.layout.deadlines == "fifo" else heappop(self.queue)

    def _is_due(self, run: Run, due: int) -> bool:
        """Whether an entry of the queue still holds."""
        return run[self._place] >= 0 and (self.layout.due is None or run[self.layout.due] == due)

    def _in_order(self) -> None:
        """The queue as it must be, when runs were restored key by key."""
        if self._restored:
            self._restored = False
            if self.layout.deadlines == "fifo":
                self.queue = deque(sorted(self.queue, key=_entry))
            else:
                heapify(self.queue)

    def _complete_at(self, due: int, key: str, run: Run, out: list[Output]) -> bool:
        """A run whose time is over: given, if it is a match."""
        if run[self._place] < 0:
            return True
        place = self.places.all[run[self._place]]
        if not place.ends and not place.absences:
            return False
        self._remove(key, run)
        self.settle(key, [run], due, out)
        return True

    def _remove(self, key: str, run: Run) -> None:
        """A run that waits, waits no more."""
        for waiting in self.waiting:
            runs = waiting.get(key, ())
            if runs and runs[0] is run:
                del waiting[key][0]
            elif any(one is run for one in runs):
                waiting[key] = [one for one in runs if one is not run]
            else:
                continue
            if not waiting[key]:
                del waiting[key]
        if self._queued:
            run[self._place] = -1
        if self.touched is not None:
            self.touched.add(key)

    def _took(self, run: Run, at: int) -> Sequence[Taken]:
        took = run[self.layout.slots[at]]
        return () if took is None else took if self.layout.elements[at].several else (took,)

    def _rules_out(self, run: Run) -> tuple[int, int] | None:
        """Up to which time and position a match of this run rules out beginnings."""
        skip = self.definition.skip
        if skip.to == "past_last":
            last = next(took[-1] for at in reversed(self.layout.slots) if (took := self._took(run, at)))
            return last.time, last.position
        if skip.step is None or not (took := self._took(run, self.layout.by_name[skip.step])):
            return None
        event = took[0] if skip.to == "first" else took[-1]
        return event.time, event.position

    def _ruled_out(self, run: Run, ruled: tuple[int, int]) -> bool:
        begun = (run[0], run[1])
        return begun < ruled or (begun == ruled and self.definition.skip.to == "past_last")

    def _rule_out(self, key: str, ruled: tuple[int, int]) -> None:
        for waiting in self.waiting:
            for run in list(waiting.get(key, ())):
                if self._ruled_out(run, ruled):
                    self._remove(key, run)

    def _expired(self, key: str, run: Run, due: int, waits_for: str) -> Expired:
        steps = {
            self.layout.elements[at].name: tuple(run[slot]) if self.layout.elements[at].several else run[slot]
            for at, slot in self.layout.slots.items()
        }
        return Expired(
            id=identity(self.name, key, steps),
            key=key,
            started=run[0],
            deadline=due,
            waiting_for=waits_for,
            steps=steps,
        )

    def _match(self, run: Run, key: str, ended: int) -> Found:
        found: Found = self.form.any_program["found"](run, key, ended)
        return found

    # ------------------------------------------------------------------------------------------------- programs

    def _program_for(self, kinds: set[type]) -> Any:
        """The program for events of these classes; None: the pattern wants none of them."""
        accepts = self.form.accepts
        wanted = frozenset(kind for kind in kinds if accepts(kind))
        if not wanted:
            return None
        others = len(wanted) < len(kinds)
        if self._program is not None:
            program, known, known_others = self._program
            if (wanted == known or (wanted <= known and len(known) > 1)) and others <= known_others:
                return program
            wanted, others = wanted | known, others or known_others
        classes = tuple(sorted(wanted, key=_name))
        self._program = (
            self.form.program(classes, others=others)["take"],
            wanted,
            others or len(wanted) > 1,
        )
        return self._program[0]


class Plain(Compiled):
    """For patterns of two steps: `plain_shape`. What a key has is the event that began a run, or a list of such, in their order."""

    def __init__(self, form: Form, shape: Shape) -> None:
        super().__init__(form)
        self.shape = shape
        self.begun: dict[str, Any] = {}
        self.queue = deque()
        self.keyed: deque[str] = deque()
        """The keys of what is in the queue."""
        self._lifetime = shape.span

    def due(self) -> int | None:
        self._in_order()
        while self.queue:
            known = self.begun.get(self.keyed[0])
            first: Taken = self.queue[0]
            if first is (known[0] if type(known) is list else known):
                return int(first.time + self.shape.span)
            self.queue.popleft()
            self.keyed.popleft()
        return None

    def changed(self) -> Iterable[str]:
        touched, self.touched = self.touched, set()
        return set(self.begun) if touched is None else touched

    def state(self, key: str) -> Any:
        known = self.begun.get(key)
        return list(known) if type(known) is list else None if known is None else [known]

    def restore(self, key: str, state: Any) -> None:
        self.begun[key] = state[0] if len(state) == 1 and self.shape.times == 1 else list(state)
        if self.shape.absent:
            self.queue.extend(state)
            self.keyed.extend(key for _ in state)
            self._restored = True
        if self.touched is None:
            self.touched = set()

    def fire(self, time: int, out: list[Output]) -> None:
        self.form.any_program["lapse"](self, time, out)

    def prune(self, key: str, time: int) -> None:
        """Throw away the beginnings of a key that are over, and the oldest of too many."""
        known = self.begun.get(key, [])
        begun: list[Taken] = known if type(known) is list else [known]
        left = [one for one in begun if time - one.time < self.shape.span]
        excess = max(len(left) - self.definition.runs, 0)
        self.given_up += excess
        left = left[excess:]
        if not left:
            self.begun.pop(key, None)
        else:
            self.begun[key] = left[0] if len(left) == 1 and self.shape.times == 1 else left
        if self.touched is not None:
            self.touched.add(key)

    def _given(self, time: int, out: list[Output]) -> None:
        if self.shape.absent:
            self.fire(time, out)

    def _passed(self, time: int, out: list[Output]) -> None:
        if self.shape.absent:
            self.fire(time, out)
        elif self._swept is None:
            self._swept = time
        elif time - self._swept >= self.shape.span:
            self._swept = time
            limit = time - self.shape.span
            over = [key for key, one in self.begun.items() if _newest(one).time <= limit]
            for key in over:
                del self.begun[key]
            if self.touched is not None:
                self.touched.update(over)

    def _in_order(self) -> None:
        if self._restored:
            self._restored = False
            pairs = sorted(zip(self.queue, self.keyed, strict=True), key=_when)
            self.queue, self.keyed = deque(one for one, _ in pairs), deque(key for _, key in pairs)


def _newest(begun: Any) -> Taken:
    newest: Taken = begun[-1] if type(begun) is list else begun
    return newest


def _when(pair: tuple[Taken, str]) -> tuple[int, int]:
    return pair[0].time, pair[0].position


@lru_cache(maxsize=1024)
def _code(source: str) -> CodeType:
    """Patterns of one form have one source, since it names values and does not contain them."""
    return compile(source, "<pattern>", "exec")


def _copy(run: Run) -> Run:
    return [list(one) if type(one) is list else one for one in run]


def _beginning(pair: tuple[str, Run]) -> tuple[int, int]:
    return pair[1][0], pair[1][1]


def _entry(entry: Any) -> tuple[int, int, int]:
    return entry[0], entry[-1][0], entry[-1][1]


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__
