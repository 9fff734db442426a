"""Every interleaving of one segment's delivery: the real `Machine`, two owners, a tiny store, and all that may go wrong.

Breadth first over all states that can be reached within the budgets of a `Case`. A state is what is on disk, the memory of
each owner that lives (one is a zombie if its segment was taken), and what is left of the budgets. The machine is the
product's own; only the runner and the store are modelled here, each of their steps by itself, so that anything may fall
between any two: reading an event, calling the handler, its end, sending the commit, storing it, hearing of it.

In every state the ghost history (`effects`, `discarded`) is compared with what the progress on disk claims. In every state
from which only trouble could lead on, everything must be done or wait behind a parked key.

Run the large cases with `python -m tests.consumers.explorer`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from ensue.consumers.machine import Failure, LaneRun, Lookup, Machine, Slot, SlotState
from ensue.consumers.policy import Retry
from ensue.events.stored import Draft, Row
from ensue.store.base import Lane, LaneState, Progress, Request

__all__ = ["CASES", "LARGE_CASES", "Case", "Disk", "Report", "Wrong", "explore"]

RETRY = Retry(attempts=2, first=timedelta(), jitter=False)
DIGEST = (1 << 64) - 1
STATES_AT_MOST = 3_000_000
UNHANDLED = "."
"""In a log: an event of a type that the consumer does not handle."""


class Wrong(Exception):
    """A promise is broken in a state that can be reached."""


class Budget(NamedTuple):
    """How often each kind of trouble may still happen."""

    appends: int = 0
    crashes: int = 0
    thefts: int = 0
    failures: int = 0
    slow: int = 0
    operations: int = 0
    cancels: int = 0
    drains: int = 0
    refusals: int = 0


class Case(NamedTuple):
    """A log (one letter an event: its key), how much of it is there at first, and the budgets."""

    log: str
    budget: Budget
    head: int = 2
    window: int = 3
    inside: bool = False
    """The handler runs inside the commit, in position order."""
    machine: type[Machine] = Machine
    store: str = ""
    """A bug planted into the store; empty for none."""


class Disk(NamedTuple):
    """One segment in the store, and the ghost history of what was really done."""

    head: int
    position: int = 0
    ahead: tuple[int, ...] = ()
    fence: int = 0
    rev: int = 0
    owned: bool = False
    unclean: int = 0
    accounted: int = 0
    digest: int = 0
    lanes: tuple[Lane, ...] = ()
    letters: tuple[bytes, ...] = ()
    """Keys with an open dead letter."""
    effects: tuple[int, ...] = ()
    discarded: tuple[int, ...] = ()


class Owner:
    """A living process: its machine, the commit it has sent, the look-up it waits for. Unchanged once it is in a state."""

    __slots__ = ("_key", "answer", "discarding", "effects", "lookup", "machine", "request")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.request: Request | None = None
        self.effects: tuple[int, ...] = ()
        self.discarding: tuple[int, ...] = ()
        self.answer = ""
        self.lookup: Lookup | None = None
        self._key: tuple[Any, ...] | None = None

    def copy(self) -> Owner:
        other = Owner(clone(self.machine))
        other.request, other.effects, other.discarding = self.request, self.effects, self.discarding
        other.answer, other.lookup = self.answer, self.lookup
        return other

    def key(self) -> tuple[Any, ...]:
        if self._key is None:
            self._key = (fingerprint(self.machine), self.request is not None, self.answer, self.lookup)
        return self._key


class State(NamedTuple):
    disk: Disk
    owners: tuple[Owner, ...]
    budget: Budget


class Report(NamedTuple):
    """What an exploration came to. `wrong` is empty if every promise held; `story` leads to the state that broke one."""

    states: int
    quiet: int
    wrong: str = ""
    story: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------- copying a machine


def clone(machine: Machine) -> Machine:
    """A machine that shares nothing mutable with this one. `copy.deepcopy` does the same, twenty times as slow."""
    slots: dict[int, Slot] = {}
    runs: dict[int, LaneRun] = {}

    def slot_of(slot: Slot) -> Slot:
        known = slots.get(id(slot))
        if known is None:
            known = slots[id(slot)] = Slot(slot.position, slot.key, slot.row)
            known.state, known.events, known.apply, known.before = slot.state, slot.events, slot.apply, slot.before
            known.attempt, known.edits, known.data, known.discarded = (
                slot.attempt,
                slot.edits,
                slot.data,
                slot.discarded,
            )
            if slot.run is not None:
                known.run = run_of(slot.run)
        return known

    def run_of(run: LaneRun) -> LaneRun:
        known = runs.get(id(run))
        if known is None:
            known = runs[id(run)] = LaneRun.__new__(LaneRun)
            known.lane, known.seen, known.cleared = run.lane, run.seen, run.cleared
            known.looking, known.charged = run.looking, run.charged
            known.slot = slot_of(run.slot) if run.slot is not None else None
        return known

    def runs_of(found: dict[bytes, LaneRun]) -> dict[bytes, LaneRun]:
        return {key: run_of(run) for key, run in found.items()}

    other = object.__new__(type(machine))
    other.__dict__.update(machine.__dict__)
    other.ahead = set(machine.ahead)
    other.slots = {position: slot_of(slot) for position, slot in machine.slots.items()}
    other.waiting = deque(map(slot_of, machine.waiting))
    other.keys = {key: deque(map(slot_of, queue)) for key, queue in machine.keys.items()}
    other.finished = list(map(slot_of, machine.finished))
    other.lanes, other.active, other.rows = runs_of(machine.lanes), runs_of(machine.active), runs_of(machine.rows)
    other.letters, other.records = list(machine.letters), list(machine.records)
    flight = machine.flight
    if flight is not None:
        copied = type(flight)()
        copied.units = list(map(slot_of, flight.units))
        copied.accounted = list(map(slot_of, flight.accounted))
        copied.rows, copied.dropped = runs_of(flight.rows), runs_of(flight.dropped)
        copied.letters, copied.records = list(flight.letters), list(flight.records)
        copied.busy, copied.mark, copied.ahead = flight.busy, flight.mark, set(flight.ahead)
        copied.release = flight.release
        other.flight = copied
    return other


def fingerprint(machine: Machine) -> tuple[Any, ...]:
    """Everything that the future of a machine depends on, as a value."""

    def slot(one: Slot) -> tuple[Any, ...]:
        return (one.position, one.state.value, one.attempt, one.edits, one.discarded, one.before, one.run is not None)

    def runs(found: dict[bytes, LaneRun]) -> tuple[Any, ...]:
        return tuple(
            (run.lane, run.seen, run.cleared, run.looking, run.charged, slot(run.slot) if run.slot else None)
            for _, run in sorted(found.items())
        )

    flight = machine.flight
    sent = flight and (
        tuple(map(slot, flight.units)),
        tuple(one.position for one in flight.accounted),
        runs(flight.rows),
        tuple(sorted(flight.dropped)),
        flight.mark,
        tuple(sorted(flight.ahead)),
        flight.busy,
        flight.release,
    )
    return (
        machine.fence,
        machine.rev,
        machine.mark,
        machine.routed,
        tuple(sorted(machine.ahead)),
        machine.rest_until,
        machine.suspect_left > 0,
        machine.running,
        machine.draining,
        tuple(map(slot, machine.slots.values())),
        tuple(one.position for one in machine.waiting),
        tuple((key, tuple(one.position for one in queue)) for key, queue in sorted(machine.keys.items())),
        tuple(map(slot, machine.finished)),
        runs(machine.lanes),
        tuple(sorted(machine.rows)),
        len(machine.letters),
        sent,
    )


# --------------------------------------------------------------------------------------------------- what may happen


def key_of(case: Case, position: int) -> bytes:
    return case.log[position - 1].encode()


def row_of(case: Case, position: int) -> Row:
    key = key_of(case, position)
    return (position, b"", 1, key, 1, 0, None, None, None, None, b"", b"")


def describe(row: Row) -> str:
    return (row[3] or b"").decode()


def positions(case: Case, key: bytes, after: int, before: int) -> list[int]:
    return [position for position in range(after + 1, before) if key_of(case, position) == key]


def moves(case: Case, state: State) -> Iterator[tuple[str, bool, State]]:
    """Every step that may come next: its name, whether it is trouble, and the state after it."""
    disk, owners, budget = state
    if budget.appends:
        yield (
            "append",
            True,
            state._replace(disk=disk._replace(head=disk.head + 1), budget=budget._replace(appends=budget.appends - 1)),
        )
    living = any(owner.machine.fence == disk.fence for owner in owners) and disk.owned
    if len(owners) < 2 and (not living or budget.thefts):
        taken, owner = claim(case, disk)
        left = budget._replace(thefts=budget.thefts - 1) if living else budget
        yield "is taken" if living else "claim", living, State(taken, _with(owners, owner), left)
    if budget.operations:
        for name, operated in operations(case, disk):
            left = budget._replace(operations=budget.operations - 1)
            yield name, True, state._replace(disk=operated, budget=left)
    for number, owner in enumerate(owners):
        rest = owners[:number] + owners[number + 1 :]
        who = "" if owner.machine.fence == disk.fence else "zombie: "
        if budget.crashes:
            yield who + "crash", True, State(disk, rest, budget._replace(crashes=budget.crashes - 1))
        for name, trouble, after, changed, left in steps(case, disk, owner, budget):
            yield who + name, trouble, State(changed, rest if after is None else _with(rest, after), left)


Step = tuple[str, bool, Owner | None, Disk, Budget]


def steps(case: Case, disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    """The steps of one owner; without an owner after it, it is gone."""
    machine = owner.machine
    if machine.routed < disk.head and machine.load < case.window:
        after = owner.copy()
        position = machine.routed + 1
        if case.log[position - 1] != UNHANDLED:
            after.machine.route(position, key_of(case, position), row_of(case, position))
        after.machine.reached(position)
        if after.machine.routed == position:
            yield f"route {position}", False, after, disk, budget
    if budget.drains:
        yield from draining(disk, owner, budget._replace(drains=budget.drains - 1))
    yield from calling(case, disk, owner, budget)
    yield from looking(case, disk, owner, budget)
    yield from committing(case, disk, owner, budget)


def draining(disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    """It shall go to another process; or that is gone, and it shall not."""
    after = owner.copy()
    if owner.machine.draining:
        after.machine.go_on()
        yield "goes on", True, after, disk, budget
    else:
        after.machine.drain()
        yield "drains", True, after, disk, budget


def calling(case: Case, disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    after = owner.copy() if owner.machine.waiting else owner
    started = after.machine.start(1, 0) if owner.machine.waiting else []
    if owner.machine.suspect_left and not started and len(after.machine.rows) != len(owner.machine.rows):
        yield "write the attempt ahead", False, after, disk, budget
    for slot in started:
        if case.inside:
            after.machine.succeeded(slot, (), 0, apply=_nothing)
            yield f"start {slot.position}", False, after, disk, budget
            continue
        _check_start(case, disk, slot.position)
        yield f"start {slot.position}", False, after, disk, budget
    for position in _running(owner.machine):
        yield from ending(disk, owner, budget, position)


def ending(disk: Disk, owner: Owner, budget: Budget, position: int) -> Iterator[Step]:
    def then(change: Callable[[Machine, Slot], None]) -> Owner:
        after = owner.copy()
        change(after.machine, _running(after.machine)[position])
        return after

    yield f"{position} succeeds", False, then(lambda m, s: m.succeeded(s, (emitted(position),), 0)), disk, budget
    if budget.failures:
        left = budget._replace(failures=budget.failures - 1)
        yield f"{position} fails", True, then(lambda m, s: m.failed(s, failure(), 0)), disk, left
    if budget.cancels:
        left = budget._replace(cancels=budget.cancels - 1)
        yield f"{position} is cancelled", True, then(lambda m, s: m.cancelled(s)), disk, left
    if budget.slow and _running(owner.machine)[position].run is None:
        left = budget._replace(slow=budget.slow - 1)
        yield f"{position} is slow: detached", True, then(lambda m, s: m.detach(s)), disk, left


def looking(case: Case, disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    if owner.lookup is None and owner.machine.active:
        after = owner.copy()
        for lookup in after.machine.wanted(0, 1):
            after.lookup = lookup
            yield f"look for {lookup.key_text} behind {lookup.after}", False, after, disk, budget
    elif owner.lookup is not None:
        after = owner.copy()
        lookup, after.lookup = owner.lookup, None
        found = positions(case, lookup.key, lookup.after, min(lookup.before, disk.head + 1))
        slot = after.machine.found(lookup, row_of(case, found[0]) if found else None, 0)
        if slot is not None:
            _check_start(case, disk, slot.position)
            if case.inside:
                after.machine.succeeded(slot, (), 0, apply=_nothing)
        yield f"found {found[:1]}", False, after, disk, budget
    for lane in disk.lanes:
        run = owner.machine.lanes.get(lane.key)
        if run is not None and run.lane.state == LaneState.PARKED and lane.state != LaneState.PARKED:
            after = owner.copy()
            after.machine.lane_changed(lane)
            yield f"hears that {lane.key_text} was released", False, after, disk, budget


def committing(case: Case, disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    if owner.request is None:
        machine = owner.machine
        if not (machine.finished or machine.rows or machine.active or machine.draining):
            return
        after = owner.copy()
        request = after.machine.commit(0)
        if request is not None:
            flight = after.machine.flight
            assert flight is not None
            after.request = request
            after.effects = tuple(slot.position for slot in flight.units if not slot.discarded)
            after.discarding = tuple(slot.position for slot in flight.units if slot.discarded)
            if case.store == "told before it is stored":
                after.answer = "told"
                after.machine.committed()
            yield "send the release" if flight.release else "send", False, after, disk, budget
    elif owner.answer == "stored":
        after = owner.copy()
        after.machine.committed()
        gone = owner.request.commit is not None and owner.request.commit.release
        after.request, after.answer = None, ""
        yield "hears: stored", False, None if gone else after, disk, budget
    else:
        yield from storing(case, disk, owner, budget)


def storing(case: Case, disk: Disk, owner: Owner, budget: Budget) -> Iterator[Step]:
    assert owner.request is not None
    assert owner.request.commit is not None
    fence = owner.request.commit.fence
    current = (fence.fence, fence.rev) == (disk.fence, disk.rev)
    if not current and case.store not in ("no fence", "fence stays, revision ignored"):
        yield "is refused: fenced", False, None, disk, budget
        return
    if case.store == "fence stays, revision ignored" and fence.fence != disk.fence:
        yield "is refused: fenced", False, None, disk, budget
        return
    if budget.refusals and owner.request.apply:
        for unit in range(len(owner.request.apply)):
            after = owner.copy()
            after.machine.refused(unit, failure())
            after.request, after.answer = None, ""
            yield f"is refused: unit {unit}", True, after, disk, budget._replace(refusals=budget.refusals - 1)
    for half in halves(case, disk, owner):
        yield "half is stored, then crash", True, None, half, budget._replace(crashes=budget.crashes - 1)
    running = _running(owner.machine)
    if owner.request.commit.release and running:
        raise Wrong(f"the segment is given up while position {min(running)} of it runs")
    after = owner.copy()
    after.answer = "stored"
    if case.store == "told before it is stored":
        after.request, after.answer = None, ""
    yield f"is stored, mark {owner.request.commit.position}", False, after, stored(disk, owner), budget


def stored(disk: Disk, owner: Owner) -> Disk:
    """What one transaction changes, all of it."""
    assert owner.request is not None
    commit = owner.request.commit
    assert commit is not None
    lanes = {lane.key: lane for lane in disk.lanes}
    lanes.update((lane.key, lane) for lane in commit.lanes)
    for key in commit.lanes_dropped:
        lanes.pop(key, None)
    return disk._replace(
        position=commit.position,
        ahead=commit.ahead,
        rev=disk.rev + 1,
        owned=disk.owned and not commit.release,
        unclean=0 if commit.clear_unclean or commit.release else disk.unclean,
        accounted=disk.accounted + commit.count,
        digest=(disk.digest + commit.digest) & DIGEST,
        lanes=tuple(lanes[key] for key in sorted(lanes)),
        letters=tuple(sorted({*disk.letters, *(letter.key for letter in commit.parked)})),
        effects=disk.effects + owner.effects,
        discarded=disk.discarded + owner.discarding,
    )


def halves(case: Case, disk: Disk, owner: Owner) -> Iterator[Disk]:
    """What is on disk when a store without transactions dies between two of its writes."""
    full = stored(disk, owner)
    progress: dict[str, Any] = {
        "position": full.position,
        "ahead": full.ahead,
        "rev": full.rev,
        "accounted": full.accounted,
        "digest": full.digest,
    }
    if case.store == "effects, then checkpoint":
        yield disk._replace(effects=full.effects, discarded=full.discarded)
    elif case.store == "checkpoint, then effects":
        yield disk._replace(lanes=full.lanes, letters=full.letters, **progress)
    elif case.store == "lanes in a transaction of their own":
        yield disk._replace(effects=full.effects, discarded=full.discarded, **progress)


def claim(case: Case, disk: Disk) -> tuple[Disk, Owner]:
    fence = disk.fence + (case.store != "fence stays, revision ignored")
    taken = disk._replace(fence=fence, unclean=min(disk.unclean + disk.owned, 3), owned=True)
    progress = Progress(
        consumer=1, segment=0, position=taken.position, ahead=taken.ahead, fence=fence, owner=b"", rev=taken.rev,
        unclean=taken.unclean, count=taken.accounted, digest=taken.digest,
    )  # fmt: skip
    machine = case.machine(progress, taken.lanes, by_position=case.inside, retry=RETRY, describe=describe)
    return taken, Owner(machine)


def operations(case: Case, disk: Disk) -> Iterator[tuple[str, Disk]]:
    for number, lane in enumerate(disk.lanes):
        if lane.state != LaneState.PARKED:
            if case.store == "an operator may touch any lane":
                yield f"an operator discards {lane.key_text}", _discard(case, disk, number)
            continue
        after = msgspec.structs.replace(
            lane, state=LaneState.LATE, attempts=0, due_at=None, error=None, rev=lane.rev + 1
        )
        letters = tuple(key for key in disk.letters if key != lane.key)
        edited = msgspec.structs.replace(after, edit=b"better", edits=lane.edits + 1)
        discarded = msgspec.structs.replace(after, discard=True)
        for name, released in (("retries", after), ("edits", edited), ("discards", discarded)):
            lanes = (*disk.lanes[:number], released, *disk.lanes[number + 1 :])
            yield f"an operator {name} {lane.key_text}", disk._replace(lanes=lanes, letters=letters)


def _discard(case: Case, disk: Disk, number: int) -> Disk:
    """What an operator must never do: pass over the next event of a lane that its owner may be running."""
    lane = disk.lanes[number]
    position = positions(case, lane.key, lane.after, disk.head + 1)[0]
    passed = msgspec.structs.replace(lane, after=position, rev=lane.rev + 1)
    return disk._replace(
        lanes=(*disk.lanes[:number], passed, *disk.lanes[number + 1 :]),
        discarded=(*disk.discarded, position),
        accounted=disk.accounted + 1,
        digest=disk.digest + position * position,
    )


def emitted(position: int) -> Draft:
    return Draft(b"", "Done", 1, None, (), b"", b"", cause=position)


def failure() -> Failure:
    return Failure("it failed", "", RETRY, 0, 0.0)


def _nothing(_: object) -> list[Draft]:
    return []


def _running(machine: Machine) -> dict[int, Slot]:
    running = [slot for slot in machine.slots.values() if slot.state is SlotState.RUNNING]
    running += [run.slot for run in machine.lanes.values() if run.slot and run.slot.state is SlotState.RUNNING]
    return {slot.position: slot for slot in running}


def _with(owners: tuple[Owner, ...], owner: Owner) -> tuple[Owner, ...]:
    return tuple(sorted((*owners, owner), key=lambda each: each.machine.fence))


# --------------------------------------------------------------------------------------------------- what must hold


def done(case: Case, disk: Disk, position: int) -> bool:
    """What the rows on disk claim: the definition of the specification."""
    for lane in disk.lanes:
        if lane.key == key_of(case, position):
            return position <= lane.after
    return position <= disk.position or position in disk.ahead


def check(case: Case, disk: Disk) -> None:
    """The promises about what is on disk. Raises `Wrong`."""
    if len(set(disk.effects)) < len(disk.effects):
        raise Wrong(f"an effect is there twice: {disk.effects}")
    if both := set(disk.effects) & set(disk.discarded):
        raise Wrong(f"position {min(both)} is both handled and discarded")
    truly = {*disk.effects, *disk.discarded}
    for position in range(1, disk.head + 1):
        if case.log[position - 1] == UNHANDLED:
            continue
        claims, truth = done(case, disk, position), position in truly
        if claims != truth:
            raise Wrong(f"progress says done={claims} for position {position}, the truth is {truth}")
    passed = set(disk.discarded)
    for position in disk.effects:
        for before in positions(case, key_of(case, position), 0, position):
            if before not in passed:
                raise Wrong(f"position {position} was handled before {before} of the same key")
        passed.add(position)
    if list(disk.ahead) != sorted(set(disk.ahead)) or (disk.ahead and disk.ahead[0] <= disk.position):
        raise Wrong(f"mark {disk.position} and the set ahead of it {disk.ahead} contradict each other")
    if max((disk.position, *disk.ahead)) > disk.head:
        raise Wrong("progress is beyond the head")
    if (disk.accounted, disk.digest) != (len(truly), sum(position * position for position in truly) & DIGEST):
        raise Wrong(f"the count is {disk.accounted}, in truth {len(truly)} are done")
    if orphans := set(disk.letters) - {lane.key for lane in disk.lanes if lane.state == LaneState.PARKED}:
        raise Wrong(f"a dead letter is open for {min(orphans).decode()}, which is not parked")
    for lane in disk.lanes:
        if lane.state == LaneState.PARKED and lane.key not in disk.letters:
            raise Wrong(f"the key {lane.key_text} is parked without a dead letter")
        if lane.attempts > RETRY.attempts:
            raise Wrong(f"the key {lane.key_text} was attempted {lane.attempts} times")


def _check_start(case: Case, disk: Disk, position: int) -> None:
    """A call to the outside begins when everything before it of its key is durably done, whoever makes it."""
    for before in positions(case, key_of(case, position), 0, position):
        if not case.inside and not done(case, disk, before):
            raise Wrong(f"position {position} was started while {before} of its key is not durably done")


def check_quiet(case: Case, disk: Disk) -> None:
    """Nothing is left to do by itself: everything is done, or waits behind a parked key."""
    parked = {lane.key for lane in disk.lanes if lane.state == LaneState.PARKED}
    for position in range(1, disk.head + 1):
        open_ = case.log[position - 1] != UNHANDLED and not done(case, disk, position)
        if open_ and key_of(case, position) not in parked:
            raise Wrong(f"everything rests, but position {position} is neither done nor behind a parked key")


def explore(case: Case) -> Report:
    """Visit every state. Ends at the first that breaks a promise, which breadth first makes the shortest way to one."""
    first = State(Disk(case.head), (), case.budget._replace(appends=len(case.log) - case.head))
    origin: dict[Any, tuple[Any, str]] = {_key(first): (None, "")}
    queue: deque[tuple[State, Any]] = deque([(first, _key(first))])
    quiet = 0
    while queue:
        state, known = queue.popleft()
        step = ""
        try:
            goes_on = False
            for step, trouble, after in moves(case, state):
                goes_on = goes_on or not trouble
                key = _key(after)
                if len(origin) > STATES_AT_MOST:
                    raise Wrong(f"there are more than {STATES_AT_MOST:,} states: something goes on for ever")
                if key not in origin:
                    origin[key] = (known, step)
                    queue.append((after, key))
                    known, before = key, known
                    check(case, after.disk)
                    known = before
            if not goes_on:
                quiet += 1
                step = ""
                check_quiet(case, state.disk)
        except (Wrong, AssertionError, KeyError) as wrong:
            story = _story(origin, known)
            return Report(
                len(origin), quiet, str(wrong) or repr(wrong), (*story, *([step] if story[-1:] != (step,) else ()))
            )
    return Report(len(origin), quiet)


def _key(state: State) -> Any:
    return (state.disk, tuple(owner.key() for owner in state.owners), state.budget)


def _story(origin: dict[Any, tuple[Any, str]], key: Any) -> tuple[str, ...]:
    steps_back: list[str] = []
    while key is not None:
        key, step = origin[key]
        steps_back.append(step)
    return tuple(step for step in reversed(steps_back) if step)


# ------------------------------------------------------------------------------------------------------------ cases

CASES: dict[str, Case] = {
    "one event, a crash, a theft, two failures": Case("a", Budget(crashes=1, thefts=1, failures=2), head=1),
    "two keys, a crash, a theft": Case("ab", Budget(crashes=1, thefts=1)),
    "two keys, two crashes, two failures": Case("ab", Budget(crashes=2, failures=2)),
    "one key, two failures, an operator": Case("aa", Budget(failures=2, operations=1, crashes=1)),
    "a growing log, two failures": Case("aba", Budget(failures=2)),
    "a slow event that fails": Case("aab", Budget(slow=1, failures=1)),
    "a slow event, taken": Case("aa", Budget(slow=1, thefts=1)),
    "stopping": Case("ab", Budget(cancels=1, drains=1)),
    "handed over to another": Case("aa", Budget(drains=2, failures=1)),
    "handed over, and then not": Case("ab", Budget(drains=2, slow=1)),
    "handed over while the next owner dies": Case("ab", Budget(drains=1, crashes=1, failures=1)),
    "handed over between deaths": Case("a", Budget(drains=1, crashes=4), head=1),
    "handed over inside the commit": Case("ab", Budget(drains=2, refusals=1), inside=True),
    "an event that is not handled": Case("a.a", Budget(failures=1, crashes=1), head=3),
    "deaths make it suspect": Case("a", Budget(crashes=5, failures=1), head=1),
    "inside the commit": Case("aab", Budget(refusals=2, crashes=1), inside=True),
    "inside the commit, taken": Case("ab", Budget(refusals=1, thefts=1), inside=True),
}

LARGE_CASES: dict[str, Case] = {
    "ab, a crash, a theft, a failure": Case("ab", Budget(crashes=1, thefts=1, failures=1)),
    "aba, two crashes, two failures": Case("aba", Budget(crashes=2, failures=2)),
    "aaa, two failures, an operator": Case("aaa", Budget(failures=2, operations=1)),
    "abaa, a failure, a crash, growing by two": Case("abaa", Budget(failures=1, crashes=1)),
    "aab, two thefts": Case("aab", Budget(thefts=2), head=3),
    "ab, two failures, an operator, a theft": Case("ab", Budget(failures=2, operations=1, thefts=1)),
    "aab, slow, a theft": Case("aab", Budget(slow=1, thefts=1)),
    "aba, inside, a refusal, a theft": Case("aba", Budget(refusals=1, thefts=1), inside=True, head=3),
    "aba, a crash, a theft, two failures": Case("aba", Budget(crashes=1, thefts=1, failures=2)),
    "aab, handed over, a failure": Case("aab", Budget(drains=2, failures=1)),
    "aab, inside, handed over, a refusal": Case("aab", Budget(drains=2, refusals=1), inside=True),
    "aba, handed over twice, a crash, a failure": Case("aba", Budget(drains=3, crashes=1, failures=1)),
    "ab, handed over, an operator, a theft": Case("ab", Budget(drains=2, failures=2, operations=1, thefts=1)),
    "aab, two thefts, a failure": Case("aab", Budget(thefts=2, failures=1)),
}


def main() -> None:
    for name, case in {**CASES, **LARGE_CASES}.items():
        report = explore(case)
        print(f"{name:45} {report.wrong or 'holds'}  states={report.states:,} quiet={report.quiet:,}", flush=True)
        for number, step in enumerate(report.story, 1):
            print(f"    {number:2}. {step}")


if __name__ == "__main__":
    main()
