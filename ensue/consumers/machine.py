"""The delivery machine of one segment: what may run, what a commit says, what happens to a key that fails.

Pure: it is told what was read, how handlers ended, what time it is, and answers with slots to start and commits to
send. It never waits, reads a clock or draws a number, so the same inputs give the same machine; the test suite drives
this very code through every interleaving of small logs.

Theory of operation. Events of the segment are *routed* in position order and get a slot each. A slot is waiting, then
running, then finished or failed, then committing, then gone. Progress on disk is a mark (everything at or below it is
accounted for) and the positions accounted for ahead of it. An event is accounted for when its effects are committed,
when an operator discarded it, or when a *lane* owns it: a row for one key that does not go at the segment's pace.

A key gets a lane when one of its events fails (or is slow while the window is full). That commit hands everything of the
key that was routed to the lane, so the mark moves on and other keys flow. The lane then works through the key's events in
order, found through the log's index: `after` is the last one done. When nothing of the key is left up to where the
segment has read, the lane is dropped and the key flows with the others again. Four rules carry the proof:

1. after a take-over a lane rests until the segment has read past the highest position it had accounted for ahead;
2. a lane is dropped only by a commit computed while nothing of its key is left up to `routed`;
3. a key in a commit that is not answered yet starts nothing;
4. one commit in flight; it names the fence and revision it was computed from.

A segment that is to go to another process *drains*: it takes in and starts nothing more, and the first commit that finds
no call of it running gives it up. What waits is dropped with the machine, and read again by the next owner.

Transitions of a slot (drawn with the lanes' in docs/consumers.md): route → waiting, or nothing when its key has a lane;
start → running; succeeded → finished; cancelled → waiting; failed or detach → given to its key's lane; commit → committing;
committed → gone; refused → finished again, the guilty one given to a lane. A fenced or unknown outcome ends the machine:
its owner drops it and loads another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial

import msgspec

from ensue.consumers.deliveries import Delivered, Outcome, pack
from ensue.consumers.policy import Retry, delay_seconds
from ensue.events.stored import Draft, Row
from ensue.store.base import (
    ConsumerCommit,
    DeadLetter,
    Delivery,
    Emission,
    Fence,
    Lane,
    LaneState,
    Progress,
    Request,
)

__all__ = ["Failure", "LaneRun", "Lookup", "Machine", "Slot", "SlotState"]

SUSPECT_AFTER = 2
"""Take-overs without progress from owners that had not released, until attempts are written before they are made."""
SUSPECT_DELIVERIES = 64
_HANDLED, _DISCARDED = Outcome.HANDLED.value, Outcome.DISCARDED.value
_DIGEST = (1 << 64) - 1


class SlotState(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    COMMITTING = "committing"
    GIVEN = "given"


_WAITING, _RUNNING, _FINISHED = SlotState.WAITING, SlotState.RUNNING, SlotState.FINISHED
_COMMITTING, _GIVEN = SlotState.COMMITTING, SlotState.GIVEN


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed, and the policy that applies to it. `chance` in [0, 1) spreads the retries."""

    error: str
    traceback: str
    retry: Retry
    now: int
    chance: float


class Slot:
    """One delivery in work. `events` and `apply` are its effects once finished.

    `run` is set while a lane runs it, `before` is that lane's row as it was when the slot started. `data` replaces the
    payload after an operator's edit.
    """

    __slots__ = (
        "apply",
        "attempt",
        "before",
        "data",
        "discarded",
        "edits",
        "events",
        "key",
        "micros",
        "position",
        "row",
        "run",
        "started",
        "state",
    )

    def __init__(self, position: int, key: bytes, row: Row) -> None:
        self.position = position
        self.key = key
        self.row = row
        self.state = _WAITING
        self.events: Sequence[Draft] = ()
        self.apply: Emission | None = None
        self.run: LaneRun | None = None
        self.before: Lane | None = None
        self.attempt = 1
        self.edits = 0
        self.data: bytes | None = None
        self.discarded = False
        self.micros = 0
        self.started = 0


class LaneRun:
    """A lane in the memory of its owner.

    `seen` is the highest position of the key known to be routed, `cleared` how far the log was searched without finding
    a next event. `charged` says that the coming attempt is written already (suspect mode).
    """

    __slots__ = ("charged", "cleared", "lane", "looking", "seen", "slot")

    def __init__(self, lane: Lane, *, seen: int) -> None:
        self.lane = lane
        self.seen = seen
        self.cleared = lane.after
        self.slot: Slot | None = None
        self.looking = False
        self.charged = False

    @property
    def died(self) -> bool:
        """Its next event was in work when a process died: an attempt that was written ahead has no outcome."""
        return not self.charged and self.lane.attempts > 0 and self.lane.state == LaneState.LATE


class Lookup(msgspec.Struct, frozen=True):
    """Ask the log for the first event of the key with `after` < position < `before`, and answer with `found`."""

    key: bytes
    key_text: str
    after: int
    before: int


class _Flight:
    """The commit that is not answered yet, with all that is needed to take it back."""

    __slots__ = ("accounted", "ahead", "busy", "dropped", "letters", "mark", "records", "release", "rows", "units")

    def __init__(self, *, release: bool = False) -> None:
        self.release = release
        self.units: list[Slot] = []
        self.accounted: list[Slot] = []
        self.rows: dict[bytes, LaneRun] = {}
        self.dropped: dict[bytes, LaneRun] = {}
        self.letters: list[DeadLetter] = []
        self.records: list[Delivered] = []
        self.busy: frozenset[bytes] = frozenset()
        self.mark = 0
        self.ahead: set[int] = set()


class Machine:
    """See the module. `by_position` runs slots in position order ahead of commits (pure and inside handlers); otherwise
    a slot starts when everything before it of its key is committed.

    `retry` is the policy for a process that died while handling; `describe` gives a row's key as text. While `may_park` is
    False nothing is parked: what is out of attempts is tried again after the policy's longest delay. While `may_retry_died` is False, no event is tried, in
    suspect mode, that was in work when a process died: the runner lets one segment at a time do that, so that the next
    death charges one event and not one of each segment. `trying_died` is the key while its outcome is not durable.
    """

    def __init__(
        self,
        progress: Progress,
        lanes: Iterable[Lane] = (),
        *,
        by_position: bool,
        retry: Retry,
        describe: Callable[[Row], str],
    ) -> None:
        self.consumer = progress.consumer
        self.segment = progress.segment
        self.fence = progress.fence
        self.rev = progress.rev
        self.mark = progress.position
        self.routed = progress.position
        self.ahead = set(progress.ahead)
        self.rest_until = max(progress.ahead, default=progress.position)
        self.unclean = progress.unclean
        self.suspect_left = SUSPECT_DELIVERIES if progress.unclean >= SUSPECT_AFTER else 0
        self.by_position = by_position
        self.retry = retry
        self.describe = describe
        self.may_park = True
        self.may_retry_died = True
        self.trying_died: bytes | None = None
        self.draining = False
        self.fed = False
        """What brings it messages from outside the log still works on some: they are this owner's to finish."""
        self.slots: dict[int, Slot] = {}
        self.waiting: deque[Slot] = deque()
        self.keys: dict[bytes, deque[Slot]] = {}
        self.running = 0
        self.finished: list[Slot] = []
        self.bytes_finished = 0
        self.lanes: dict[bytes, LaneRun] = {}
        self.active: dict[bytes, LaneRun] = {}
        self.rows: dict[bytes, LaneRun] = {}
        self.letters: list[DeadLetter] = []
        self.records: list[Delivered] = []
        self.flight: _Flight | None = None
        for lane in lanes:
            self._keep(LaneRun(lane, seen=self.rest_until))

    @property
    def load(self) -> int:
        """Positions above the mark that are held in memory or in the progress row: what the window bounds."""
        return len(self.slots) + len(self.ahead)

    @property
    def parked(self) -> int:
        return len(self.lanes) - len(self.active)

    # ------------------------------------------------------------------------------------------------------ reading

    def route(self, position: int, key: bytes, row: Row) -> None:
        """The next event of the segment in position order. What was routed before is passed over, and all while it drains."""
        if position <= self.routed or self.draining:
            return
        self.routed = position
        if position in self.ahead:
            return
        run = self.lanes.get(key)
        if run is not None:
            run.seen = position
            self.ahead.add(position)
            return
        slot = Slot(position, key, row)
        self.slots[position] = slot
        if self.by_position:
            self.waiting.append(slot)
            return
        others = self.keys.get(key)
        if others is None:
            self.keys[key] = deque((slot,))
            self.waiting.append(slot)
        else:
            others.append(slot)

    def reached(self, position: int) -> None:
        """Everything of the segment at or below `position` has been routed."""
        if not self.draining:
            self.routed = max(self.routed, position)

    def drain(self) -> None:
        """Take in and start nothing more; the first commit that finds no call running gives the segment up."""
        self.draining = True

    def go_on(self) -> None:
        """Drain no more, and take in what comes after `routed`: unless it is `leaving`."""
        self.draining = self.leaving

    @property
    def leaving(self) -> bool:
        """The commit that gives it up is on its way."""
        return self.flight is not None and self.flight.release

    # ------------------------------------------------------------------------------------------------------ running

    def start(self, most: int, now: int) -> list[Slot]:
        """At most `most` slots to run now. Each must be answered by `succeeded`, `failed` or `cancelled`."""
        started: list[Slot] = []
        held: list[Slot] = []
        busy = self.flight.busy if self.flight is not None else ()
        if self.draining:
            return started
        while self.waiting and len(started) < most:
            if self.suspect_left and (self.running or started or self.rows or busy or self._charged()):
                break
            slot = self.waiting.popleft()
            if slot.state is not _WAITING:
                continue
            if busy and slot.key in busy:
                held.append(slot)
                continue
            if self.suspect_left:
                self._write_ahead(slot)
                break
            slot.state = _RUNNING
            slot.started = now
            started.append(slot)
        if held:
            self.waiting.extendleft(reversed(held))
        self.running += len(started)
        return started

    def succeeded(self, slot: Slot, events: Sequence[Draft], micros: int, apply: Emission | None = None) -> None:
        """The handler returned these events, or `apply` is a handler that runs inside the commit."""
        self.running -= 1
        slot.micros = micros
        if slot.state is _GIVEN:
            return
        slot.events = events
        slot.apply = apply
        slot.state = _FINISHED
        for event in events:
            self.bytes_finished += len(event.data)
        self.finished.append(slot)
        if slot.run is not None:
            self._pass(slot.run, slot)

    def failed(self, slot: Slot, failure: Failure, micros: int) -> None:
        """The handler raised, ran out of time, or returned what is not an event: its key becomes a lane."""
        self.running -= 1
        slot.micros = micros
        if slot.state is not _GIVEN:
            self._fail(slot, failure)

    def cancelled(self, slot: Slot) -> None:
        """We stopped the handler: no attempt is counted, and it may start again."""
        self.running -= 1
        if slot.state is _GIVEN:
            return
        slot.state = _WAITING
        run = slot.run
        if run is None:
            self.waiting.appendleft(slot)
            return
        run.slot = None
        self._take_back(run)

    def detach(self, slot: Slot) -> None:
        """The slot is slow and the window is full: its key becomes a lane, and the call goes on as the lane's."""
        assert slot.state is _RUNNING, "only a running slot can be detached"
        assert slot.run is None, "a lane's slot is detached already"
        run = LaneRun(self._row(slot, state=LaneState.LATE), seen=slot.position)
        self._give(slot, run)
        placeholder = Slot(slot.position, slot.key, slot.row)  # stands in the window for what the lane owns now
        placeholder.state = _GIVEN
        self.slots[slot.position] = placeholder
        run.slot = slot
        slot.state = _RUNNING
        slot.run = run
        slot.before = run.lane

    # -------------------------------------------------------------------------------------------------------- lanes

    def wanted(self, now: int, most: int) -> list[Lookup]:
        """At most `most` lanes that may go on now: where is their next event? Each must be answered by `found`."""
        if not self.active or self.draining or self.routed < self.rest_until:
            return []
        lookups: list[Lookup] = []
        for key, run in self._candidates():
            if len(lookups) >= most:
                break
            if self._ready(key, run, now):
                run.looking = True
                lookups.append(Lookup(key, run.lane.key_text, run.lane.after, self.routed + 1))
                if self.suspect_left:
                    break
        return lookups

    def wants_died(self, now: int) -> int:
        """In suspect mode, how many deaths the event has seen that was in work at the fewest of those that could be tried
        again now; 0 without any."""
        rests = self.draining or self.routed < self.rest_until
        if not self.suspect_left or rests or self.running or self._charged():
            return 0
        ready = (run.lane.attempts for key, run in self.active.items() if run.died and self._ready(key, run, now))
        return min(ready, default=0)

    def found(self, lookup: Lookup, row: Row | None, now: int) -> Slot | None:
        """The answer to a lookup. Returns a slot that runs now, or None when there is nothing to run (yet)."""
        run = self.active.get(lookup.key)
        if run is None or not run.looking:
            return None
        run.looking = False
        if self.draining:
            return None
        if row is None:
            run.cleared = lookup.before - 1
            return None
        if self.suspect_left and self.running:
            return None
        lane = run.lane
        slot = Slot(row[0], lookup.key, row)
        slot.run = run
        slot.before = lane
        slot.edits = lane.edits
        slot.data = lane.edit
        slot.attempt = lane.attempts if run.charged else lane.attempts + 1
        if lane.discard:
            slot.discarded = True
            slot.state = _FINISHED
            self.finished.append(slot)
            self._pass(run, slot)
            return None
        if self.suspect_left and not run.charged:
            self._charge(run, slot, now)
            return None
        run.slot = slot
        slot.state = _RUNNING
        slot.started = now
        self.running += 1
        return slot

    def lane_changed(self, lane: Lane) -> None:
        """An operator released a parked lane: its row as it is on disk now. A row from before it was parked, read while
        the parking is on its way, is older and passed over."""
        run = self.lanes.get(lane.key)
        if run is None or run.lane.state != LaneState.PARKED or lane.rev <= run.lane.rev:
            return
        run.lane = lane
        run.cleared = lane.after
        run.charged = False
        self.active[lane.key] = run

    def clock_set_back(self, by: int) -> None:
        """The clock that `now` is read from was set back by so many microseconds: nothing waits longer for it."""
        for run in self.active.values():
            if run.lane.due_at is not None:
                run.lane = msgspec.structs.replace(run.lane, due_at=run.lane.due_at - by)
        for slot in self.slots.values():
            slot.started -= by

    def next_due(self) -> int | None:
        """When the first waiting retry is due, in microseconds; None without any."""
        due = [run.lane.due_at for run in self.active.values() if run.slot is None and run.lane.due_at is not None]
        return min(due, default=None)

    # ------------------------------------------------------------------------------------------------------ commits

    def commit(self, now: int, *, flush: bool = False) -> Request | None:
        """The next commit, or None when nothing is to be written or one is in flight. `flush` writes a mark that moved
        over events the consumer does not handle. It gives the segment up when it drains and no call runs."""
        if self.flight is not None:
            return None
        release = self.draining and not (self.running or self.fed)
        if release:
            for run in self.active.values():
                self._take_back(run)
        dropped = self._droppable()
        if not (self.finished or self.rows or dropped or flush or release):
            return None
        flight = _Flight(release=release)
        flight.units = [slot for slot in self.finished if slot.state is _FINISHED]
        flight.dropped = {key: self._forget(key) for key in dropped}
        for slot in flight.units:
            slot.state = _COMMITTING
        flight.mark, flight.ahead, flight.accounted = self._progress()
        if not (flight.units or self.rows or dropped or release) and flight.mark <= self.mark:
            return None
        flight.rows, self.rows = self.rows, {}
        flight.letters, self.letters = self.letters, []
        flight.records, self.records = self.records, []
        self.finished, self.bytes_finished = [], 0
        flight.busy = frozenset((*flight.rows, *dropped))
        self.flight = flight
        return self._request(flight, now)

    def committed(self) -> None:
        """The commit in flight is durable."""
        flight = self._landed()
        self.rev += 1
        if flight.mark > self.mark:
            self.unclean = 0
        self.mark = flight.mark
        self.ahead = {position for position in self.ahead | flight.ahead if position > flight.mark}
        if self.suspect_left:
            left = self.suspect_left - len(flight.units)
            self.suspect_left = max(left, int(any(run.died for run in self.active.values())))
        run = flight.rows.get(self.trying_died) if self.trying_died is not None else None
        if run is not None and not run.charged:
            self.trying_died = None
        for slot in flight.accounted:
            del self.slots[slot.position]
            if not self.by_position and slot.state is _COMMITTING:
                self._next_of_key(slot)

    def refused(self, unit: int, failure: Failure, *, event: int | None = None) -> Slot:
        """The function of the `unit`-th delivery that runs inside the commit raised, or the `event`-th of the commit's events was
        refused: nothing was stored. Its delivery fails and is returned; the rest of the commit is taken back and goes into the
        next one."""
        flight = self._landed()
        inside = [slot for slot in flight.units if slot.apply is not None]
        if event is None and unit < len(inside):
            guilty = inside[unit]
        else:  # what was added behind the deliveries' own functions is about the events
            makers = [slot for slot in flight.units if slot.apply is None for _ in slot.events]
            guilty = makers[event or 0]
        for key, run in flight.dropped.items():
            self._keep(run)
            self._hand_over(key, 0, run)
        self.rows = {**flight.rows, **self.rows}
        self.letters = flight.letters + self.letters
        self.records = flight.records + self.records
        for slot in flight.units:
            slot.state = _FINISHED
        self.finished = [slot for slot in flight.units if slot is not guilty] + self.finished
        if guilty.run is not None:
            assert guilty.before is not None
            guilty.run.lane = guilty.before
            guilty.run.slot = guilty
        self._fail(guilty, failure)
        return guilty

    # ------------------------------------------------------------------------------------------------------- inside

    def _landed(self) -> _Flight:
        flight = self.flight
        assert flight is not None, "an answer without a commit in flight"
        self.flight = None
        return flight

    def _progress(self) -> tuple[int, set[int], list[Slot]]:
        """Mark, positions ahead of it and accounted slots, as they will be when the commit in the making is stored."""
        mark = self.routed
        accounted: list[Slot] = []
        beyond = False
        ahead: set[int] = set()
        for position, slot in self.slots.items():
            if slot.state is _COMMITTING or slot.state is _GIVEN:
                accounted.append(slot)
                if beyond:
                    ahead.add(position)
            elif not beyond:
                beyond = True
                mark = position - 1
        if self.ahead:
            ahead.update(position for position in self.ahead if position > mark)
        return mark, ahead, accounted

    def _request(self, flight: _Flight, now: int) -> Request:
        events: list[Draft] = []
        apply: list[Emission] = []
        positions: list[int] = []
        for slot in flight.units:
            positions.append(slot.position)
            if slot.apply is not None:
                apply.append(slot.apply)
            else:
                events.extend(slot.events)
        commit = ConsumerCommit(
            fence=Fence(self.consumer, self.segment, self.fence, self.rev),
            position=flight.mark,
            ahead=tuple(sorted(flight.ahead)),
            count=len(positions),
            digest=sum(position * position for position in positions) & _DIGEST,
            lanes=tuple(run.lane for run in flight.rows.values()),
            lanes_dropped=tuple(flight.dropped),
            parked=tuple(flight.letters),
            delivery=partial(self._delivery, flight, now) if flight.units or flight.records else None,
            clear_unclean=self.unclean > 0 and flight.mark > self.mark,
            release=flight.release,
        )
        return Request(events=events, apply=apply, commit=commit)

    def _delivery(self, flight: _Flight, now: int) -> Delivery:
        records = flight.records + [
            Delivered(slot.position, slot.micros, _DISCARDED if slot.discarded else _HANDLED, slot.attempt)
            for slot in flight.units
        ]
        touched = [record.position for record in records]
        # What runs in the commit itself has run since then.
        at = now + sum(slot.micros for slot in flight.units if slot.apply is not None)
        return Delivery(self.consumer, min(touched), max(touched), at, pack(records))

    def _next_of_key(self, slot: Slot) -> None:
        others = self.keys.get(slot.key)
        if others is None or others[0] is not slot:
            return
        others.popleft()
        if others:
            self.waiting.append(others[0])
        else:
            del self.keys[slot.key]

    def _droppable(self) -> list[bytes]:
        """Lanes with nothing left of their key up to where the segment has read."""
        if not self.active or self.routed < self.rest_until:
            return []
        return [
            key
            for key, run in self.active.items()
            if run.cleared >= run.seen and run.slot is None and not run.looking and key not in self.rows
        ]

    def _keep(self, run: LaneRun) -> None:
        self.lanes[run.lane.key] = run
        if run.lane.state != LaneState.PARKED:
            self.active[run.lane.key] = run

    def _forget(self, key: bytes) -> LaneRun:
        del self.active[key]
        return self.lanes.pop(key)

    def _hand_over(self, key: bytes, first: int, run: LaneRun) -> None:
        """Everything of the key from `first` on that is routed is the lane's from the next commit on."""
        for position, slot in self.slots.items():
            if slot.key == key and position >= first:
                slot.state = _GIVEN
                run.seen = max(run.seen, position)
        self.keys.pop(key, None)

    def _give(self, slot: Slot, run: LaneRun) -> None:
        self._hand_over(slot.key, slot.position, run)
        self._keep(run)
        self.rows[slot.key] = run

    def _row(
        self, slot: Slot, *, state: str, attempts: int = 0, due_at: int | None = None, error: str | None = None
    ) -> Lane:
        """The lane row of a slot's key, standing before the slot."""
        before = slot.before
        return Lane(
            consumer=self.consumer,
            segment=self.segment,
            key=slot.key,
            key_text=self._text(slot),
            after=before.after if before else slot.position - 1,
            state=state,
            attempts=attempts,
            due_at=due_at,
            error=error,
            edit=slot.data,
            edits=slot.edits,
            rev=before.rev + 1 if before else 0,
        )

    def _text(self, slot: Slot) -> str:
        return slot.before.key_text if slot.before is not None else self.describe(slot.row)

    def _pass(self, run: LaneRun, slot: Slot) -> None:
        """The lane's event is done: the row moves past it in the commit that holds its effects."""
        lane = run.lane
        run.lane = Lane(
            consumer=lane.consumer,
            segment=lane.segment,
            key=lane.key,
            key_text=lane.key_text,
            after=slot.position,
            state=LaneState.LATE,
            rev=lane.rev + 1,
        )
        run.cleared = slot.position
        run.slot = None
        run.charged = False
        self.rows[lane.key] = run

    def _fail(self, slot: Slot, failure: Failure) -> None:
        policy = failure.retry
        parks = slot.attempt >= policy.attempts and self.may_park
        if parks:
            row = self._row(slot, state=LaneState.PARKED, attempts=slot.attempt, error=failure.error)
            self._park(slot, failure.error, failure.traceback, failure.now)
        else:
            wait = delay_seconds(policy, min(slot.attempt, policy.attempts), failure.chance)
            due = failure.now + int(wait * 1_000_000)
            row = self._row(slot, state=LaneState.RETRY, attempts=slot.attempt, due_at=due, error=failure.error)
        outcome = Outcome.PARKED if parks else Outcome.FAILED
        self.records.append(Delivered(slot.position, slot.micros, outcome, slot.attempt))
        run = slot.run
        if run is None:
            # What failed later of this key (by position, ahead of the commit) is tried again after this one.
            self.letters = [
                letter for letter in self.letters if letter.key != slot.key or letter.position <= slot.position
            ]
            self._give(slot, LaneRun(row, seen=slot.position))
            return
        run.lane = row
        run.cleared = row.after
        run.slot = None
        run.charged = False
        self.rows[slot.key] = run
        if parks:
            self.active.pop(slot.key, None)

    def _park(self, slot: Slot, reason: str, traceback: str, now: int) -> None:
        self.letters.append(
            DeadLetter(
                id=0,
                consumer=self.consumer,
                position=slot.position,
                key=slot.key,
                key_text=self._text(slot),
                reason=reason,
                traceback=traceback,
                attempts=slot.attempt,
                parked_at=now,
            )
        )

    def _take_back(self, run: LaneRun) -> None:
        """An attempt that was written ahead and has not been made does not count."""
        if run.charged:
            run.charged = False
            run.lane = msgspec.structs.replace(run.lane, attempts=run.lane.attempts - 1, rev=run.lane.rev + 1)
            self.rows[run.lane.key] = run

    def _charged(self) -> bool:
        return any(run.charged for run in self.active.values())

    def _ready(self, key: bytes, run: LaneRun, now: int) -> bool:
        """The lane is idle and may have a next event that is due."""
        busy = key in self.rows or (self.flight is not None and key in self.flight.busy)
        idle = run.slot is None and not run.looking and not busy
        return idle and run.cleared < run.seen and (run.lane.due_at is None or run.lane.due_at <= now)

    def _candidates(self) -> list[tuple[bytes, LaneRun]]:
        """The lanes that may go on. In suspect mode one at a time: that whose attempt is written, if there is one."""
        if not self.suspect_left:
            return list(self.active.items())
        charged = [(key, run) for key, run in self.active.items() if run.charged]
        free = [(key, run) for key, run in self.active.items() if self.may_retry_died or not run.died]
        return charged or sorted(free, key=lambda pair: pair[1].lane.attempts)

    def _write_ahead(self, slot: Slot) -> None:
        """Suspect mode: write the attempt before it is made, so that one that kills the process is counted."""
        run = LaneRun(self._row(slot, state=LaneState.LATE, attempts=1), seen=slot.position)
        run.charged = True
        self._give(slot, run)

    def _charge(self, run: LaneRun, slot: Slot, now: int) -> None:
        """The same for a lane. Attempts used up by deaths of the process park the event, or make it wait before it may
        kill the next process."""
        if slot.attempt > self.retry.attempts and (self.may_park or run.died):
            slot.attempt -= 1
            self._fail(slot, Failure("the process died while handling it", "", self.retry, now, 0.0))
            return
        if run.died:
            self.trying_died = slot.key
        run.lane = self._row(slot, state=LaneState.LATE, attempts=slot.attempt)
        run.charged = True
        self.rows[slot.key] = run
