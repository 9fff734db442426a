"""Drives the delivery machines of one consumer: reads the log, calls the handlers, sends the commits.

It holds one machine for each segment that this process owns and turns as long as there is something to do: claim up to its
share of the segments or drain one above it, read a page, route it, start what may start, look up the next events of
lanes, commit what is finished; then it sleeps until an event arrives, a handler ends, a commit is answered, or a retry is
due. All decisions are the machines'; all I/O and all timing are here. Nothing is polled but free segments, while it is below
its share.

Bounds: at most `WINDOW` positions of the consumer are in memory, `concurrency` handlers run, and each segment has one
commit in flight. A slow handler therefore bounds memory; one that is slow while the window is full gets out of the way.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from ensue.consumers.calls import Calls
from ensue.consumers.handling import Handling, Mode, NotDue, UnreadableHere
from ensue.consumers.health import TRIP_FAILURES, Health
from ensue.consumers.lease import BEAT_SECONDS, Lease
from ensue.consumers.machine import Failure, Lookup, Machine, Slot
from ensue.consumers.policy import Retry
from ensue.consumers.routing import ONE_ORDER, Routing, position_of
from ensue.consumers.waiting import Bell
from ensue.errors import ApplyFailed, EnsueError, Fenced, OutcomeUnknown, StorageFull, TryAgain, Unavailable
from ensue.events.stored import Draft, Row
from ensue.observe.signals import (
    AttemptFailed,
    ConsumerResumed,
    ConsumerStandsBy,
    EventParked,
    HandlerStuck,
    Observer,
    SegmentsClaimed,
    SegmentsLost,
    SegmentsReleased,
    WriterTrouble,
)
from ensue.store.base import Consumer, ConsumerCommit, Lane, LaneState, Page, Request, Selection, Store, Term, Written
from ensue.world import World

__all__ = ["OPERATED", "Runner"]

OPERATED = "ensue.DeadLetterResolved"
"""The type of the event that an operator's change of a parked lane appends; it wakes the lane's owner."""
WINDOW = 4096
PAGE = 1000
FLUSH_POSITIONS = 10_000
"""How far the mark may run over events the consumer does not handle before it is written."""
AHEAD_FLUSH = 256
SLOW_SECONDS = 1.0
INLINE_SECONDS = 0.005
"""How long handlers may run on the loop's thread before others get a turn."""
BYTES_FINISHED = 4 * 1024 * 1024
CLAIM_SECONDS, CLAIM_SOON_SECONDS = 1.0, 0.1
"""How often to ask for free segments while below the share; and how often soon after others came, went or gave some up."""
SOON = BEAT_SECONDS + 1.0
"""So many seconds after a process came, the others have seen it and drain what is above their share."""
STORAGE_RETRY_SECONDS = 1.0
FLUSH_SECONDS = 1.0
"""How long a mark that moved over foreign events only may stay unwritten while nothing else is to be committed."""
LONGEST_SLEEP_SECONDS = 3600.0
LIMIT_OF_A_COMMIT_SECONDS = 30.0
CLOCK_TOLERANCE = 500_000
TRACEBACK_CHARACTERS = 16_384
ERROR_CHARACTERS = 1_024
_TAKEN = "another process owns it now"


class Runner:
    """One consumer in this process. `run` until `stop`; `standing_by` says why it does nothing, if so.

    It is the `Caller` of its `Calls`.
    """

    def __init__(
        self,
        store: Store,
        world: World,
        lease: Lease,
        consumer: Consumer,
        handling: Handling,
        observe: Observer,
        bell: Bell,
    ) -> None:
        self.consumer = consumer
        self.handling = handling
        self.machines: dict[int, Machine] = {}
        self.paused = consumer.status in ("paused", "retired")
        self.changed: Callable[[], None] = _nothing
        """Called when `owns` or `receives` may have changed, for what feeds this consumer."""
        self.standing_by = _missing(handling.missing(consumer))
        self._store = store
        self._world = world
        self._lease = lease
        self._observe = observe
        self._bell = bell
        self._routing = Routing(consumer.key_tag)
        self._segments = consumer.segments
        self._wake = asyncio.Event()
        self._read_to = 0
        self._behind = True
        self._stopping = False
        self._in_turn = False
        self._next_claim = 0.0
        self._soon_until = world.monotonic() + SOON
        self._lost = False
        """Segments were dropped from memory that may still be this process's own."""
        self._doubts = lease.doubts
        self._drains = False
        self._wall, self._wall_at = world.now(), world.monotonic()
        self._turns = 0
        self._calls = Calls(world, handling, self, name=consumer.name)
        failures = TRIP_FAILURES if handling.failures_trip else None
        self._health = Health(store, world, consumer, observe, self._health_changed, failures=failures)
        self._flush_at: float | None = None
        self._types: dict[int, int] = {}
        self._operated: frozenset[int] = frozenset()
        self._known_types = 0
        names = (*consumer.handles, OPERATED)
        self._selection: Selection = (Term(types=names),)
        self._handled: Selection = (Term(types=tuple(consumer.handles)),)

    # ------------------------------------------------------------------------------------------------------ running

    async def run(self) -> None:
        """Until `stop` is called. Raises nothing that a handler raised. A store that cannot be reached, or has no room, is
        asked again; any other error of it ends the consumer and is raised, with everything in memory discarded."""
        if self.standing_by is not None:
            self._stand_by(self.standing_by)
        watch = self._world.spawn(self._watch(), name=f"{self.consumer.name}: watch")
        try:
            while not self._stopping:
                self._wake.clear()
                self._in_turn = True
                try:
                    more = await self._turn()
                except (TryAgain, StorageFull) as error:
                    self._in_turn = False
                    self._trouble(error)
                    await self._wait(STORAGE_RETRY_SECONDS)
                    continue
                finally:
                    self._in_turn = False
                if watch.done():
                    watch.result()
                if more:
                    await self._world.sleep(0)
                else:
                    await self._sleep()
        except EnsueError as error:
            if not self._stopping:
                self._lose(f"{type(error).__name__}: {error}", self.machines.values())
                raise
        finally:
            watch.cancel()

    async def stop(self, *, limit_seconds: float) -> None:
        """Start nothing more, release what nothing runs of, let handlers finish within the limit, cancel the rest, commit and
        release all."""
        self._stopping = self._health.quiet = True
        self._drain_all()
        self._wake.set()
        deadline = self._world.monotonic() + limit_seconds
        while (self._calls.running or self._in_turn) and self._world.monotonic() < deadline:
            self._commit_all()
            await self._wait(deadline - self._world.monotonic())
        await self._calls.cancel_all()
        deadline = self._world.monotonic() + LIMIT_OF_A_COMMIT_SECONDS
        while self.machines:
            self._commit_all()
            left = deadline - self._world.monotonic()
            if left <= 0 or not any(machine.flight for machine in self.machines.values()):
                break
            await self._wait(left)
        self._lose(
            "a handler still ran, or a commit was not answered, when the consumer had to stop", self.machines.values()
        )

    async def _turn(self) -> bool:
        """One round. True when there is more to do at once."""
        if not self._lease.held:
            self._lose(
                "the lease ran out: this process was paused, or could not write its heartbeat", self.machines.values()
            )
        if not self.able:
            self._end_turns()
            self._commit_all()
            return False
        await self._compare()
        await self.claim()
        if not self.machines:
            return False
        self._balance()
        more = await self._read()
        await self._lanes()
        more = self._start() or more
        self._commit_all()
        return more

    def _now(self) -> int:
        """The wall clock. When it was set back, what waits for an instant here waits no longer for that."""
        now, monotonic = self._world.now(), self._world.monotonic()
        back = self._wall + int((monotonic - self._wall_at) * 1_000_000) - now
        if back > CLOCK_TOLERANCE:
            for machine in self.machines.values():
                machine.clock_set_back(back)
        self._wall, self._wall_at = now, monotonic
        return now

    def _in_reach(self, lane: Lane) -> Lane:
        """A retry that is due later than any policy says was planned before the clock was set back."""
        latest = self._now() + int(self.handling.longest_delay_seconds * 1_000_000)
        if lane.due_at is None or lane.due_at <= latest:
            return lane
        return msgspec.structs.replace(lane, due_at=latest)

    async def _sleep(self) -> None:
        await self._wait(self._seconds_to_next())

    async def _wait(self, seconds: float) -> None:
        timer = self._world.call_later(max(0.0, seconds), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()

    def _seconds_to_next(self) -> float:
        """Until something happens by itself: a retry is due, a probe, a claim, a slow handler, the end of the lease."""
        waits = [LONGEST_SLEEP_SECONDS]
        now = self._now()
        if self.machines:
            waits.append(self._lease.seconds_left)
        for machine in self.machines.values():
            due = machine.next_due() if machine.active and not machine.draining else None
            if due is not None and machine.flight is None and self._budget() > 0:
                waits.append(max(0.0, (due - now) / 1_000_000))
        if self.able and (len(self.machines) < self._share or self._lost):
            waits.append(self._next_claim - self._world.monotonic() if self._lease.may_start else CLAIM_SECONDS)
        if self.able and self._health.tripped is not None and not self._calls.running:
            waits.append(self._health.seconds_to_probe)
        if self._calls.running and self._room() <= 0:
            waits.append(SLOW_SECONDS)
        if any(machine.routed > machine.mark for machine in self.machines.values()):
            self._flush_at = self._flush_at or self._world.monotonic() + FLUSH_SECONDS
            waits.append(self._flush_at - self._world.monotonic())
        return max(0.001, min(waits))

    async def _watch(self) -> None:
        head = 0
        try:
            while True:
                try:
                    head = await self._store.changed(head)
                except (TryAgain, StorageFull) as error:
                    self._trouble(error)
                    await self._world.sleep(STORAGE_RETRY_SECONDS)
                self._behind = True
                self._wake.set()
        finally:
            self._wake.set()

    def _trouble(self, error: EnsueError) -> None:
        if not self._stopping:
            self._observe(
                WriterTrouble(consumer=self.consumer.name, error=str(error), retry_in_seconds=STORAGE_RETRY_SECONDS)
            )

    # ----------------------------------------------------------------------------------------------------- claiming

    @property
    def able(self) -> bool:
        """This process runs the consumer: it is neither paused nor standing by, nor does it stop."""
        return not (self.paused or self._stopping or self.standing_by is not None)

    @property
    def receives(self) -> bool:
        """Whether what feeds this consumer from outside the log may go on: it runs here, and has not tripped."""
        return self.able and self._health.tripped is None

    def owns(self, segment: int) -> bool:
        """This process owns the segment, and does not give it up."""
        machine = self.machines.get(segment)
        return machine is not None and not machine.draining

    def feeding(self, segment: int, feeds: bool) -> None:
        """Something outside the log works for this segment, or no more: it is not given up meanwhile."""
        machine = self.machines.get(segment)
        if machine is not None:
            machine.fed = feeds
        self._wake.set()

    @property
    def _share(self) -> int:
        return self._lease.share(self.consumer.id, self._segments)

    def spread(self) -> None:
        """Other processes have come or gone: claim or give up segments now."""
        self._next_claim, self._soon_until = 0.0, self._world.monotonic() + SOON
        self._wake.set()

    async def claim(self) -> None:
        """Take free segments up to the share, and back what this process has dropped; not all the time."""
        most = self._share - len(self.machines)
        asks = most > 0 or self._lost
        now = self._world.monotonic()
        if not (asks and self.able and self._lease.may_start) or now < self._next_claim:
            return
        if not self._lease.may_judge:
            self._next_claim = now + CLAIM_SECONDS
            return
        self._next_claim = now + (CLAIM_SOON_SECONDS if now < self._soon_until else CLAIM_SECONDS)
        lost, self._lost = self._lost, False
        try:
            standing = await self._store.claim(
                self.consumer.id, self._lease.node, now=self._world.now(), most=max(0, most), held=tuple(self.machines)
            )
        except EnsueError:
            self._lost = self._lost or lost
            raise
        if standing.progress:
            self._world.failpoint("segments.claimed")
        for progress in standing.progress:
            lanes = [self._in_reach(lane) for lane in standing.lanes if lane.segment == progress.segment]
            machine = Machine(
                progress,
                lanes,
                by_position=self.handling.mode in (Mode.PURE, Mode.INSIDE),
                retry=self.handling.retry_of_deaths,
                describe=self._routing.text,
            )
            machine.may_park = self._health.tripped is None
            self.machines[progress.segment] = machine
        if self._stopping:
            self._drain_all()
        if standing.progress:
            self._soon_until = now + SOON
            self._read_again()
            segments = tuple(progress.segment for progress in standing.progress)
            self._observe(SegmentsClaimed(consumer=self.consumer.name, segments=segments))
            self.changed()

    async def _compare(self) -> None:
        """When the lease is in doubt, drop what is another's now: it would count in the share, and run calls in vain."""
        if self._doubts == self._lease.doubts:
            return
        self._doubts = self._lease.doubts
        standing = await self._store.standing(self.consumer.id)
        own = {row.segment: row.fence for row in standing.progress if row.owner == self._lease.node.id}
        taken = [
            machine
            for machine in self.machines.values()
            if own.get(machine.segment) != machine.fence and not machine.leaving
        ]
        self._lose(_TAKEN, taken)

    def _balance(self) -> None:
        """Above the share, drain one segment after the other for those who are below theirs: that of which least runs. All
        others go on, and the one does so too when it need not go."""
        above = len(self.machines) - self._share
        if (above <= 0 and not self._drains) or self._stopping:
            return
        draining = [machine for machine in self.machines.values() if machine.draining]
        if above > 0 and not draining:
            min(self.machines.values(), key=lambda machine: (machine.running, machine.load)).drain()
            self.changed()
        elif above <= 0:
            for machine in draining:
                machine.go_on()
            self._read_again()
            self.changed()
        self._drains = above > 0

    def _drain_all(self) -> None:
        for machine in self.machines.values():
            machine.drain()
        self.changed()

    def _read_again(self) -> None:
        """From where the first of the machines has read to. Those that drain read no more."""
        reading = [machine.routed for machine in self.machines.values() if not machine.draining]
        self._read_to = min(reading, default=self._read_to)
        self._behind = True

    def _lose(self, reason: str, machines: Iterable[Machine]) -> None:
        """Drop the memory of these segments: everything of them not committed is discarded."""
        lost = [machine for machine in machines if self.machines.get(machine.segment) is machine]
        for machine in lost:
            del self.machines[machine.segment]
            self._lease.turn.give_back(machine)
            self._calls.drop(machine)
        if lost:
            self._lost = True
            self._next_claim = self._world.monotonic() + CLAIM_SECONDS
            segments = tuple(machine.segment for machine in lost)
            self._observe(SegmentsLost(consumer=self.consumer.name, segments=segments, reason=reason))
            self._wake.set()
            self.changed()

    # ------------------------------------------------------------------------------------------------------ reading

    def _room(self) -> int:
        """Beside what a segment holds that drains: it may wait long for a call, and shall not keep the others waiting."""
        return WINDOW - sum(machine.load for machine in self.machines.values() if not machine.draining)

    async def _read(self) -> bool:
        """Route one page. True when there may be more."""
        if not self._behind or (self._health.tripped is not None and self._can_probe()):
            return False
        room = self._room()
        if room <= 0:
            self._detach_slow()
            return False
        page = await self._store.read(self._selection, after=self._read_to, limit=min(PAGE, room))
        if len(self._store.known_types()) != self._known_types:
            await self._learn_types()
        operated = self._route(page)
        if page.rows:
            self._world.failpoint("delivery.routed")
        self._read_to = max(self._read_to, page.reached)
        for machine in self.machines.values():
            machine.reached(self._read_to)
        if operated:
            await self._reload_lanes()
        self._behind = self._read_to < self._store.head()
        return self._behind

    def _route(self, page: Page) -> bool:
        """Rows to the machines of their segments. True when an operator's change is among them."""
        machines, types, key_of, segments = self.machines, self._types, self._routing.key, self._segments
        operated = False
        for row in page.rows:
            since = types.get(row[2])
            if since is None:
                operated = operated or row[2] in self._operated
                continue
            if row[0] <= since:
                continue
            key = key_of(row)
            machine = machines.get(key[0] % segments)
            if machine is not None:
                machine.route(row[0], key, row)
        return operated

    async def _learn_types(self) -> None:
        types = self._store.known_types()
        self._known_types = len(types)
        handles = self.handling.positions_since(self.consumer.handles, types)
        self._types = dict(handles)
        self._operated = frozenset(number for number, (name, _) in types.items() if name == OPERATED)

    async def _reload_lanes(self) -> None:
        standing = await self._store.standing(self.consumer.id)
        for lane in standing.lanes:
            machine = self.machines.get(lane.segment)
            if machine is not None:
                machine.lane_changed(lane)

    async def _lanes(self) -> None:
        if self._health.tripped is not None and not self._health.probe_due:
            return self._end_turns()
        now = self._now()
        for machine in list(self.machines.values()):
            if not machine.active:
                if machine.trying_died is None:
                    self._lease.turn.give_back(machine)
                continue
            deaths = machine.wants_died(now) if self._budget() > 0 else 0
            machine.may_retry_died = deaths > 0 and self._lease.turn.take(machine, deaths, self._wake.set)
            for lookup in machine.wanted(now, self._budget()):
                slot = machine.found(lookup, await self._next_of_lane(lookup), now)
                if slot is not None:
                    self._health.probed()
                    self._begin(machine, slot)
            if machine.trying_died is None and (machine.may_retry_died or not deaths):
                self._lease.turn.give_back(machine)

    def _end_turns(self) -> None:
        for machine in self.machines.values():
            self._lease.turn.give_back(machine)

    async def _next_of_lane(self, lookup: Lookup) -> Row | None:
        """The first event of a lane's key that the consumer handles, by the log's index."""
        after, before, selection = lookup.after, lookup.before, self._handled
        alone = position_of(lookup.key_text)
        # What comes behind one that is its own key has lanes of its own, also where nobody remembers how this one began.
        if alone is not None:
            after, before = max(after, alone - 1), alone + 1
        elif self.consumer.key_tag != ONE_ORDER:
            selection = (Term(types=tuple(self.consumer.handles), tags=(lookup.key,)),)
        while after < before - 1:
            page = await self._store.read(selection, after=after, before=before, limit=1)
            for row in page.rows:
                # An event of another key may carry this one as a further tag.
                if row[0] > self._types.get(row[2], row[0]) and self._routing.key(row) == lookup.key:
                    return row
            if page.reached <= after:
                return None
            after = page.reached
        return None

    # ------------------------------------------------------------------------------------------------------ calling

    def _budget(self) -> int:
        if not self._lease.may_start or not self.able:
            return 0
        if self._health.tripped is not None:
            return 1 if self._health.probe_due and not self._calls.running else 0
        return max(0, self.handling.concurrency - self._calls.running)

    def _start(self) -> bool:
        """Start what may start. True when inline work was cut short to give others a turn."""
        self._turns += 1
        order = list(self.machines.values())
        shift = self._turns % len(order)
        ends = self._world.monotonic() + INLINE_SECONDS
        for machine in order[shift:] + order[:shift]:
            while machine.waiting and machine.bytes_finished < BYTES_FINISHED and (budget := self._budget()) > 0:
                slots = machine.start(min(budget, 64), self._now())
                if not slots:
                    break
                self._health.probed()
                if self.handling.mode is Mode.PURE:
                    self._call_inline(machine, slots)
                    if self._world.monotonic() > ends:
                        return True
                    continue
                for slot in slots:
                    self._begin(machine, slot)
        return False

    def _begin(self, machine: Machine, slot: Slot) -> None:
        mode = self.handling.mode
        if mode is Mode.PURE:
            self._call_inline(machine, (slot,))
            return
        self._world.failpoint("delivery.started")
        if mode is not Mode.INSIDE:
            self._calls.begin(machine, slot)
            return
        try:
            self.handling.check(slot)
        except Exception as error:
            self.failed(machine, slot, error, 0)
        else:
            machine.succeeded(slot, (), 0, self.handling.emission(slot))

    def _call_inline(self, machine: Machine, slots: Sequence[Slot]) -> None:
        started = self._world.monotonic()
        for slot in slots:
            self._world.failpoint("delivery.started")
            try:
                events = self.handling.call(slot)
            except Exception as error:
                ended = self._world.monotonic()
                self.failed(machine, slot, error, int((ended - started) * 1_000_000))
            else:
                ended = self._world.monotonic()
                self.succeeded(machine, slot, events, int((ended - started) * 1_000_000))
            started = ended

    def succeeded(self, machine: Machine, slot: Slot, events: Sequence[Draft], micros: int, /) -> None:
        """See `Caller`."""
        machine.succeeded(slot, events, micros)
        self._health.succeeded(self._parked)

    def failed(self, machine: Machine, slot: Slot, error: BaseException, micros: int, /) -> None:
        """See `Caller`."""
        if isinstance(error, UnreadableHere):
            machine.cancelled(slot)
            self._stand_by(str(error))
            return
        self._world.failpoint("delivery.failed")
        failure = self._failure(error)
        machine.failed(slot, failure, micros)
        if not isinstance(error, NotDue):
            self._tell_failure(machine, slot, failure)

    def stuck(self, machine: Machine, slot: Slot, limit_seconds: float, /) -> None:
        """See `Caller`. The others of the segment go on; the key waits for the call to return."""
        self._observe(HandlerStuck(consumer=self.consumer.name, position=slot.position, seconds=limit_seconds))
        self._detach(machine, slot)
        self._wake.set()

    def ended(self) -> None:
        """See `Caller`."""
        self._wake.set()

    def _detach(self, machine: Machine, slot: Slot) -> None:
        if self.machines.get(machine.segment) is machine and slot.run is None:
            machine.detach(slot)
            self._world.failpoint("delivery.detached")

    def _detach_slow(self) -> None:
        for machine, slot in self._calls.started_before(self._now() - int(SLOW_SECONDS * 1_000_000)):
            self._detach(machine, slot)

    # ------------------------------------------------------------------------------------------------------ failing

    def _failure(self, error: BaseException) -> Failure:
        text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
        described = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
        policy: Retry = self.handling.policy(error)
        return Failure(described, text, policy, self._now(), self._world.random())

    def _tell_failure(self, machine: Machine, slot: Slot, failure: Failure) -> None:
        run = machine.lanes.get(slot.key)
        parked = run is not None and run.lane.state == LaneState.PARKED
        signal = EventParked if parked else AttemptFailed
        self._observe(
            signal(
                consumer=self.consumer.name,
                position=slot.position,
                key=run.lane.key_text if run else "",
                attempt=slot.attempt,
                error=failure.error,
            )
        )
        self._health.failed(slot.key, failure.error, self._parked())

    def _parked(self) -> int:
        return sum(machine.parked for machine in self.machines.values())

    def _health_changed(self) -> None:
        self._behind = True
        for machine in self.machines.values():
            machine.may_park = self._health.tripped is None
        self.changed()

    def _stand_by(self, reason: str) -> None:
        """An event this code is too old for: finish what runs and give everything up, so that a newer process can go on."""
        self.standing_by = reason
        self._drain_all()
        self._observe(ConsumerStandsBy(consumer=self.consumer.name, reason=reason))
        self._wake.set()

    def _can_probe(self) -> bool:
        """Whether something that was read already can be tried. Without that a tripped consumer reads on."""
        return any(
            machine.slots or (machine.active and machine.routed >= machine.rest_until)
            for machine in self.machines.values()
            if not machine.draining
        )

    def set_status(self, status: str, reason: str | None) -> None:
        """An operator's word, read from the log: paused or active again."""
        was, self.paused = self.paused, status in ("paused", "retired")
        self._health.quiet = self.paused or self._stopping
        if was and not self.paused:
            self._observe(ConsumerResumed(consumer=self.consumer.name))
        self._wake.set()
        if was != self.paused:
            self.changed()

    # --------------------------------------------------------------------------------------------------- committing

    def _commit_all(self) -> None:
        now = self._world.now()
        idle = self._flush_at is not None and self._world.monotonic() >= self._flush_at
        if idle:
            self._flush_at = None
        for machine in list(self.machines.values()):
            far = machine.routed - machine.mark >= FLUSH_POSITIONS or len(machine.ahead) > AHEAD_FLUSH
            request = machine.commit(now, flush=far or idle)
            if request is not None:
                self._send(machine, request)

    def _send(self, machine: Machine, request: Request) -> None:
        if self.machines.get(machine.segment) is not machine:
            return  # lost while it waited to be sent again
        self._world.failpoint("delivery.finished")
        self._store.write(request).add_done_callback(partial(self._answered, machine, request))

    def _answered(self, machine: Machine, request: Request, answer: asyncio.Future[Written]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if self.machines.get(machine.segment) is not machine:
            return
        if error is None:
            self._world.failpoint("delivery.committed")
            machine.committed()
            self._bell.ring()
            assert request.commit is not None
            self._passed(request.commit)
            if request.apply:
                self._health.succeeded(self._parked)
            if request.commit.release:
                del self.machines[machine.segment]
                self._lease.turn.give_back(machine)
                self._observe(SegmentsReleased(consumer=self.consumer.name, segments=(machine.segment,)))
                self.changed()
        elif isinstance(error, ApplyFailed):
            self._refused(machine, error)
        elif isinstance(error, Fenced):
            self._lose(_TAKEN, [machine])
        elif isinstance(error, StorageFull | Unavailable) and not self._stopping:
            self._trouble(error)
            self._world.call_later(STORAGE_RETRY_SECONDS, partial(self._send, machine, request))
        elif isinstance(error, OutcomeUnknown):
            self._lose("it cannot be told whether its last commit is stored, so it is read anew", [machine])
        else:
            self._lose(f"{type(error).__name__}: {error}", [machine])
        self._wake.set()

    def _passed(self, commit: ConsumerCommit) -> None:
        if commit.lanes:
            self._world.failpoint("lane.written")
        if commit.parked:
            self._world.failpoint("lane.parked")
        if commit.lanes_dropped:
            self._world.failpoint("lane.dropped")

    def _refused(self, machine: Machine, error: ApplyFailed) -> None:
        cause = error.__cause__ or error
        failure = self._failure(cause)
        slot = machine.refused(error.unit, failure, event=error.event)
        self._tell_failure(machine, slot, failure)


def _nothing() -> None:
    pass


def _missing(names: list[str]) -> str | None:
    if not names:
        return None
    return (
        f"the log says that it also handles {', '.join(names)}, which this code does not know: newer code runs beside it, "
        "or has run. Deploy that here, too; if the type was dropped for good, give the consumer a new name"
    )
