"""The consumer that looks for a pattern or window in a log: `pattern.NAME`, of one segment, in one process at a time.

    read a page → decode → order by time → operator → one commit: findings as events, progress, what changed of the state

All of that is one transaction, so that after a crash the log, the progress and the state tell the same. What is found at a
deadline, while nothing comes, is stored under the condition that no event came behind the position that was read: if one did, it is
read first, so that a replay of the log finds the same. An event that cannot be read, or for which a condition raises, is a dead letter
of its own, and everything else goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import msgspec

from ensue.consumers.deliveries import Delivered, Outcome, pack
from ensue.consumers.handler import HandlerDefinition, Start
from ensue.consumers.handling import Handling, Scope
from ensue.consumers.lease import Lease
from ensue.consumers.policy import Retry
from ensue.consumers.runner import OPERATED, Runner
from ensue.consumers.waiting import Bell
from ensue.errors import (
    ApplyFailed,
    Conflict,
    DuplicateEventId,
    Fenced,
    InvalidEvent,
    OutcomeUnknown,
    StorageFull,
    Unavailable,
)
from ensue.events.message import Event, declaration
from ensue.events.registry import Registry
from ensue.events.stored import Draft, Row, tag_hash
from ensue.observe.signals import EventParked, Observer, SegmentsClaimed, SegmentsLost, SegmentsReleased
from ensue.patterns.detection import state
from ensue.patterns.detection.reading import Reading, TooNew
from ensue.patterns.detection.recording import Recording
from ensue.patterns.detection.sought import Sought, ordered_of
from ensue.patterns.detection.warming import warm_start
from ensue.patterns.operator import Output
from ensue.patterns.ordering import Failed, Ordered
from ensue.patterns.ordering import Outcome as Told
from ensue.store.base import (
    Condition,
    Consumer,
    ConsumerCommit,
    DeadLetter,
    Delivery,
    Emission,
    Fence,
    Lane,
    LaneState,
    Progress,
    Request,
    Standing,
    Store,
    Term,
)
from ensue.world import World

__all__ = ["Detector", "DetectorHandling"]

PAGE = 1000
FLUSH_POSITIONS, FLUSH_SECONDS = 10_000, 1.0
"""How far, and how long, the progress may run over events of others before it is written."""
STORAGE_RETRY_SECONDS = 1.0
TRACEBACK_CHARACTERS, ERROR_CHARACTERS = 16_384, 1_024
KEYS_AT_ONCE = 2_000
SAVE_SECONDS = 1.0
"""So seldom the state is written where events alone have made it: what came since is taken once more at the next start."""
QUIET_SECONDS = 0.05
"""So long nothing must have come before the clock is asked what is over: what comes all the time tells the time itself."""
_DIGEST = (1 << 64) - 1


class DetectorHandling(Handling):
    """The handling of a detector's consumer: which events, from where on. It calls nobody."""

    def __init__(self, definition: HandlerDefinition, registry: Registry, world: World, scope: Scope) -> None:
        super().__init__(definition, registry, world, scope, retry=Retry.never)
        assert isinstance(definition.sought, Sought)
        self.drives = Detector
        self.sought: Sought = definition.sought
        of = self.sought.definition
        self.reading = Reading.shared(
            of.events,
            registry,
            key_tag=of.key_tag,
            time=of.time,
            sources=of.watermark == "source",
            tenants=self.sought.tenants,
        )
        self.recording = Recording(of, self.sought.noticed, registry, tenants=self.sought.tenants)
        self.type_names = self.reading.names
        registry.found.update(declaration(one.event).name for one in self.sought.noticed)
        self.start: Start | None = "now"
        self.key_tag = None  # it has one segment, and its time orders all keys: the key may be another one tomorrow

    @property
    def segments(self) -> int:
        return 1

    async def start_position(self, store: Store) -> int:
        """The earliest that one of its handlers asks for; without any, the end of the log: what began before is known all the
        same, since its time is read again."""
        positions: list[int] = []
        for start in self.sought.starts:
            self.start = start
            positions.append(await super().start_position(store))
        return min(positions, default=store.head())

    def missing(self, consumer: Consumer) -> list[str]:
        """None: types that a pattern named once and does not any more are read and passed over."""
        return []


class _Commit(msgspec.Struct, kw_only=True):
    """What one commit is to store, as far as it is known."""

    position: int
    count: int = 0
    digest: int = 0
    handled: list[int] = msgspec.field(default_factory=lambda: list[int]())
    drafts: list[Draft] = msgspec.field(default_factory=lambda: list[Draft]())
    letters: dict[int, DeadLetter] = msgspec.field(default_factory=lambda: dict[int, DeadLetter]())
    dropped: tuple[bytes, ...] = ()
    saves: bool = False
    """The state is to be written with it: it is not what events up to the position make of it by themselves."""
    conditions: tuple[Condition, ...] = ()
    started: float = 0.0
    release: bool = False


class _Held(msgspec.Struct, kw_only=True):
    """The segment, as this process owns it, and what is in memory of it."""

    progress: Progress
    ordered: Ordered
    read_to: int
    lanes: dict[bytes, Lane]
    anew: bool
    """The state in memory is not what is stored: all of it is to be written."""
    changed: set[str] = msgspec.field(default_factory=lambda: set[str]())
    """Keys whose state is another one than when it was written last."""
    saved_at: float = float("-inf")
    events: int = 0
    findings: int = 0
    micros: int = 0
    """What was looked at and stored since then, and how long that took."""


class Detector(Runner):
    """See the module. It is run as any consumer's runner is."""

    handling: DetectorHandling

    def __init__(
        self,
        store: Store,
        world: World,
        lease: Lease,
        consumer: Consumer,
        handling: DetectorHandling,
        observe: Observer,
        bell: Bell,
    ) -> None:
        super().__init__(store, world, lease, consumer, handling, observe, bell)
        self.sought = handling.sought
        self.recording, self.reading = handling.recording, handling.reading
        self._claimed: Standing | None = None
        self._held: _Held | None = None
        self._sql = state.sql_of(store)
        self._made = False
        self._saves_always = self.sought.definition.time == "processing"
        """What was taken when is in no log, so that it cannot be taken once more."""
        self._came_at, self._quiet_seconds = float("-inf"), QUIET_SECONDS
        self._again = False
        """The segment is taken once more only to read the state again."""
        self._own = (Term(types=tuple(dict.fromkeys((*consumer.handles, *self.reading.names)))),)
        self._selection = (Term(types=(*self._own[0].types, OPERATED)),)
        self._fingerprint = self.sought.fingerprint(store.log_id)

    # ------------------------------------------------------------------------------------------------------ running

    async def _turn(self) -> bool:
        try:
            return await self._turned()
        except TooNew as error:
            self._stand_by(str(error))
            return True

    async def _turned(self) -> bool:
        if not self._lease.held:
            self._drop("the lease ran out: this process was paused, or could not write its heartbeat")
        if not self.able:
            await self._release()
            return False
        await self._compare()
        await self.claim()
        if self._held is None:
            if self._claimed is None:
                return False
            await self._load(self._claimed)
        held = self._held
        if held is None or not self._lease.may_start:
            return False
        return await self._take_page(held) or await self._tick(held)

    async def stop(self, *, limit_seconds: float) -> None:
        """See `Runner.stop`: what is being taken is committed, and the segment is released."""
        self._stopping = self._health.quiet = True
        self._wake.set()
        deadline = self._world.monotonic() + limit_seconds
        while self._in_turn and self._world.monotonic() < deadline:
            await self._wait(min(0.05, deadline - self._world.monotonic()))
        if not self._in_turn:
            await self._release()
        self._drop("it had to stop")

    def owns(self, segment: int) -> bool:
        return self._held is not None

    def _seconds_to_next(self) -> float:
        waits = [3600.0]
        held = self._held
        if not self._lease.may_start:
            return 1.0
        if held is not None:
            waits.append(self._lease.seconds_left)
            due = held.ordered.due()
            if due is not None:
                quiet_in = self._came_at + self._quiet_seconds - self._world.monotonic()
                waits.append(max(0.01, quiet_in, (due - self._world.now()) / 1_000_000))
            if held.read_to > held.progress.position or held.changed:
                self._flush_at = self._flush_at or self._world.monotonic() + FLUSH_SECONDS
                waits.append(self._flush_at - self._world.monotonic())
        elif self.able:
            waits.append(max(0.05, self._next_claim - self._world.monotonic()))
        return max(0.001, min(waits))

    # ----------------------------------------------------------------------------------------------------- claiming

    async def claim(self) -> None:
        """Take the segment when it is free; not all the time."""
        now = self._world.monotonic()
        if self._claimed is not None or not self.able or not self._lease.may_start or now < self._next_claim:
            return
        self._next_claim = now + 1.0
        if not self._lease.may_judge:
            return
        standing = await self._store.claim(self.consumer.id, self._lease.node, now=self._world.now(), most=1)
        if standing.progress:
            self._world.failpoint("segments.claimed")
            self._claimed = standing
            if not self._again:
                self._observe(SegmentsClaimed(consumer=self.consumer.name, segments=(0,)))
            self._again = False

    async def _compare(self) -> None:
        if self._doubts == self._lease.doubts:
            return
        self._doubts = self._lease.doubts
        held = self._held
        if held is None:
            return
        standing = await self._store.standing(self.consumer.id)
        own = standing.progress[0]
        if (own.owner, own.fence) != (self._lease.node.id, held.progress.fence):
            self._drop("another process owns it now")

    def _drop(self, reason: str, *, told: bool = True) -> None:
        """Forget what is in memory: all of it that is not committed is looked for again."""
        if self._claimed is None:
            return
        self._claimed = self._held = None
        self._next_claim = 0.0 if not told else self._world.monotonic() + 1.0
        self._again = not told
        if told:
            self._observe(SegmentsLost(consumer=self.consumer.name, segments=(0,), reason=reason))
        self._wake.set()

    async def _release(self) -> None:
        held = self._held
        if held is None:
            self._claimed = None
            return
        if await self._commit(held, _Commit(position=held.read_to, release=True)):
            self._claimed = self._held = None
            self._observe(SegmentsReleased(consumer=self.consumer.name, segments=(0,)))

    # ------------------------------------------------------------------------------------------------------ loading

    async def _load(self, claimed: Standing) -> None:
        """Have the state again: as it was stored with this progress, or by reading its time of the log again."""
        progress = claimed.progress[0]
        if len(self._store.known_types()) != self._known_types or not self._known_types:
            await self._store.types()
            await self._learn_types()
        ordered, after = await self._stored(progress.position)
        anew = after is None
        if not await self._warm(ordered, progress.position, after=after):
            return
        if anew and progress.rev == 0 and progress.position > 0:
            await self._begin_here(ordered, progress.position)
        self._world.failpoint("detector.loaded")
        self._held = _Held(
            progress=progress,
            ordered=ordered,
            read_to=progress.position,
            lanes={lane.key: lane for lane in claimed.lanes},
            anew=anew,
        )
        self._behind = True
        await self._decided(self._held, claimed.lanes)

    async def _begin_here(self, ordered: Ordered, position: int) -> None:
        """What was over before a new pattern began, though nothing came that would have told so, is not told either."""
        page = await self._store.read(self._own, after=position, limit=1)
        now = self._world.now()
        ordered.tick(min(now, page.rows[0][5]) if page.rows else now)

    async def _stored(self, position: int) -> tuple[Ordered, int | None]:
        """The state as it was written last by the code of now, and the position of which it is: what came behind that is to be taken
        once more. None where there is none such, and the state is empty."""
        found = await state.read(self._sql, self.consumer.name) if self._sql is not None else None
        if found is None or found[0].fingerprint != self._fingerprint or found[0].position > position:
            return ordered_of(self.sought), None
        types = self._store.known_types()

        def event(row: Row, name: str) -> Event:
            return self.reading.event(row, name, types)

        ordered = ordered_of(self.sought)
        try:
            ordered.resume(state.unpack(found[0].progress, event))
            for number, (key, packed) in enumerate(found[1], 1):
                ordered.restore(key, state.unpack(packed, event))
                if number % KEYS_AT_ONCE == 0:
                    await self._world.sleep(0)  # the lease of this process is renewed meanwhile
        except (TooNew, Unavailable, StorageFull):
            raise
        except Exception:
            # Of another form, or of an event that cannot be read any more: of no use, and built anew.
            return ordered_of(self.sought), None
        return ordered, found[0].position

    async def _warm(self, ordered: Ordered, upto: int, *, after: int | None = None) -> bool:
        """Read again what may still be going on at a position; what was found there was told then. False when it had to stop."""
        types = self._store.known_types
        if after is None:
            after = await warm_start(self._store, self.sought.definition, self.reading, self._own, upto)
        while after < upto:
            if self._stopping or not self._lease.held:
                return False
            page = await self._store.read(self._own, after=after, before=upto + 1, limit=PAGE)
            arrivals, _ = self.reading.arrivals(page.rows, types(), now=None)
            ordered.take(arrivals)
            after = max(page.reached, after + 1)
            await self._world.sleep(0)
        return True

    # ------------------------------------------------------------------------------------------------------- taking

    async def _take_page(self, held: _Held) -> bool:
        """Take one page and commit what came of it. True when there may be more."""
        idle = self._flush_at is not None and self._world.monotonic() >= self._flush_at
        if not self._behind and not idle:
            return False
        self._flush_at = None
        read = await self.reading.page(
            self._store, self._selection, after=held.read_to, limit=PAGE, now=self._world.now()
        )
        if len(self._store.known_types()) != self._known_types:
            await self._learn_types()
        page, arrivals = read.page, read.arrivals
        self._behind = page.reached < self._store.head()
        started = self._world.monotonic()
        rows = [row for row in page.rows if row[2] not in self._operated]
        if rows:
            self._came_at = self._world.monotonic()
        told = held.ordered.take(arrivals) if arrivals.positions else []
        held.read_to = max(held.read_to, page.reached)
        commit = _Commit(position=held.read_to, started=started)
        self._account(commit, rows)
        for one in read.unread:
            self._give_up(commit, held, one.row[0], one.error)
        self._found(commit, held, told)
        far = held.read_to - held.progress.position >= FLUSH_POSITIONS
        if commit.handled or commit.drafts or arrivals.positions or far or idle:
            if rows:
                self._world.failpoint("detector.taken")
            if not await self._commit(held, commit):
                return True
        if len(rows) < len(page.rows):
            await self._decided(held, (await self._store.standing(self.consumer.id)).lanes)
        return self._behind

    async def _tick(self, held: _Held) -> bool:
        """What is over by the clock, while nothing comes. True when there may be more."""
        now, due = self._world.now(), held.ordered.due()
        quiet = self._world.monotonic() - self._came_at >= self._quiet_seconds
        if due is None or due > now or not quiet or held.read_to < self._store.head():
            return False
        started = self._world.monotonic()
        told = held.ordered.tick(now)
        commit = _Commit(position=held.read_to, started=started, saves=True)
        if self.sought.definition.time != "processing":
            commit.conditions = (Condition(self._own, held.read_to),)
        self._found(commit, held, told)
        held.changed.update(held.ordered.changed())
        if not (held.changed or commit.drafts or commit.letters):
            return False
        self._world.failpoint("detector.ticked")
        if await self._commit(held, commit):
            self._quiet_seconds = QUIET_SECONDS
        return self._held is None

    def _account(self, commit: _Commit, rows: Sequence[Row]) -> None:
        for row in rows:
            since = self._types.get(row[2])
            if since is not None and row[0] > since:
                commit.handled.append(row[0])
                commit.digest += row[0] * row[0]
        commit.count = len(commit.handled)

    def _found(self, commit: _Commit, held: _Held, told: Sequence[Told]) -> None:
        for one in told:
            if isinstance(one, Failed):
                self._give_up(commit, held, one.error.position, one.error.__cause__ or one.error, what=str(one.error))
            else:
                self._record(commit, held, one)

    def _record(self, commit: _Commit, held: _Held, output: Output) -> None:
        types, now = self._store.known_types(), self._world.now()
        try:
            commit.drafts += self.recording.drafts(output, types, now=now, maker=self.consumer.id)
        except InvalidEvent as error:
            row = self.recording.last_row(output)
            if row is None:
                raise
            self._give_up(commit, held, row[0], error)

    def _give_up(
        self, commit: _Commit, held: _Held, position: int, error: BaseException, *, what: str | None = None
    ) -> None:
        """An event is passed over. Its dead letter stands by itself, and keeps nothing else of its key waiting."""
        text = f"event #{position}"  # no key of any event: nothing else waits behind it
        key = tag_hash(text)
        if position in commit.letters or (key in held.lanes and key not in commit.dropped):
            return
        said = (what or f"{type(error).__name__}: {error}")[:ERROR_CHARACTERS]
        commit.letters[position] = DeadLetter(
            id=0,
            consumer=self.consumer.id,
            position=position,
            key=key,
            key_text=text,
            reason=said,
            traceback="".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
            attempts=1,
            parked_at=self._world.now(),
        )

    # ---------------------------------------------------------------------------------------------- what people decide

    async def _decided(self, held: _Held, lanes: Sequence[Lane]) -> None:
        """Take up what was decided of dead letters: one that was discarded is done with; for one that is to be tried again the time
        around it is looked at anew, and what is found that was not found before is told now."""
        held.lanes = {lane.key: lane for lane in lanes}
        late = [lane for lane in lanes if lane.state == LaneState.LATE]
        if not late:
            return
        again = min((lane.after + 1 for lane in late if not lane.discard), default=None)
        commit = _Commit(position=held.read_to, dropped=tuple(lane.key for lane in late))
        if again is not None and not await self._look_again(held, commit, again):
            return
        await self._commit(held, commit)

    async def _look_again(self, held: _Held, commit: _Commit, position: int) -> bool:
        ordered = ordered_of(self.sought)
        after = await warm_start(self._store, self.sought.definition, self.reading, self._own, position - 1)
        if not await self._warm(ordered, position - 1, after=after):
            return False
        at = position - 1
        while at < held.read_to:
            page = await self._store.read(self._own, after=at, before=held.read_to + 1, limit=PAGE)
            arrivals, unread = self.reading.arrivals(page.rows, self._store.known_types(), now=None)
            for one in unread:
                self._give_up(commit, held, one.row[0], one.error)
            self._found(commit, held, ordered.take(arrivals))
            at = max(page.reached, at + 1)
        commit.drafts = await self._new(commit.drafts)
        held.ordered, held.anew, commit.saves = ordered, True, True
        held.changed.clear()
        return True

    async def _new(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Those that are not in the log already."""
        found: list[Draft] = []
        for draft in {draft.id: draft for draft in drafts}.values():
            if not await self._store.positions_of(draft.id, draft.id, limit=1):
                found.append(draft)
        return found

    # --------------------------------------------------------------------------------------------------- committing

    async def _commit(self, held: _Held, commit: _Commit) -> bool:
        """Store it. False when what is in memory was dropped, or is to be."""
        held.changed.update(held.ordered.changed())
        now = self._world.monotonic()
        held.micros += int((now - commit.started) * 1_000_000) if commit.started else 0
        commit.saves = commit.saves or self._saves_always or commit.release or held.anew
        commit.saves = commit.saves or now - held.saved_at >= SAVE_SECONDS
        while True:
            try:
                await self._made_tables()
                if commit.saves and self._sql is not None:
                    await self._save_most(held)
                written = await self._store.write(self._request(held, commit))
            except (Conflict, OutcomeUnknown) as error:
                # An event came first, or nobody knows whether this is stored: all is read again, and computed from that. Where
                # events come all the time they tell the time themselves, and the clock is asked later.
                self._quiet_seconds = min(2 * self._quiet_seconds, 1.0)
                self._drop(str(error), told=isinstance(error, OutcomeUnknown))
                return False
            except Fenced:
                self._drop("another process owns it now")
                return False
            except DuplicateEventId:
                commit.drafts = await self._new(commit.drafts)
            except ApplyFailed as error:
                self._without(commit, held, error)
            except (StorageFull, Unavailable) as error:
                if self._stopping or not self._lease.held:
                    self._drop(str(error))
                    return False
                self._trouble(error)
                await self._world.sleep(STORAGE_RETRY_SECONDS)
            else:
                self._committed(held, commit, written.last)
                return True

    def _request(self, held: _Held, commit: _Commit) -> Request:
        progress, now = held.progress, self._world.now()
        lanes = tuple(_parked(letter) for letter in commit.letters.values())
        micros = int((self._world.monotonic() - commit.started) * 1_000_000) if commit.started else 0
        apply = (self._saving(held, commit),) if commit.saves and self._sql is not None else ()
        each = micros // max(1, commit.count)
        return Request(
            events=tuple(commit.drafts),
            conditions=commit.conditions,
            apply=apply,
            commit=ConsumerCommit(
                fence=Fence(progress.consumer, progress.segment, progress.fence, progress.rev),
                position=commit.position,
                ahead=(),
                count=commit.count,
                digest=commit.digest & _DIGEST,
                lanes=lanes,
                lanes_dropped=tuple(key for key in commit.dropped if key not in {lane.key for lane in lanes}),
                parked=tuple(commit.letters.values()),
                delivery=self._delivery(commit, each, now) if commit.handled else None,
                clear_unclean=progress.unclean > 0,
                release=commit.release,
            ),
        )

    async def _save_most(self, held: _Held) -> None:
        """Of a large state all but the last keys, some at a time: each under the fence, and of no use until the commit that names it."""
        while len(held.changed) > KEYS_AT_ONCE:
            some = list(islice(held.changed, KEYS_AT_ONCE))
            progress = held.progress
            nothing = state.Kept(
                name=self.consumer.name, fingerprint=b"", position=0, progress=state.pack(None), watermark=None
            )
            commit = ConsumerCommit(
                fence=Fence(progress.consumer, progress.segment, progress.fence, progress.rev),
                position=progress.position,
                ahead=(),
                count=0,
                digest=0,
            )
            saving = state.put(nothing, self._packed(held, some), anew=held.anew)
            await self._store.write(Request(apply=(saving,), commit=commit))
            self._world.failpoint("detector.saved some")
            held.progress, held.anew = msgspec.structs.replace(progress, rev=progress.rev + 1), False
            held.changed.difference_update(some)

    def _packed(self, held: _Held, keys: Iterable[str]) -> list[tuple[str, bytes | None]]:
        states = [(key, held.ordered.state(key)) for key in keys]
        return [(key, None if one is None else state.pack(one)) for key, one in states]

    def _saving(self, held: _Held, commit: _Commit) -> Emission:
        kept = state.Kept(
            name=self.consumer.name,
            fingerprint=self._fingerprint,
            position=commit.position,
            progress=state.pack(held.ordered.progress()),
            watermark=held.ordered.watermark(),
            events=held.events + commit.count,
            findings=held.findings + len(commit.drafts),
            micros=held.micros,
        )
        return state.put(kept, self._packed(held, held.changed), anew=held.anew)

    def _delivery(self, commit: _Commit, micros: int, now: int) -> Callable[[], Delivery]:
        def made() -> Delivery:
            handled = [
                Delivered(position, micros, Outcome.PARKED if position in commit.letters else Outcome.HANDLED)
                for position in commit.handled
            ]
            return Delivery(self.consumer.id, commit.handled[0], commit.handled[-1], now, pack(handled))

        return made

    def _committed(self, held: _Held, commit: _Commit, last: int) -> None:
        self._world.failpoint("detector.committed")
        held.progress = msgspec.structs.replace(
            held.progress, position=commit.position, rev=held.progress.rev + 1, unclean=0
        )
        held.events, held.findings = held.events + commit.count, held.findings + len(commit.drafts)
        if commit.saves:
            held.changed.clear()
            held.anew, held.saved_at = False, self._world.monotonic()
            held.events = held.findings = held.micros = 0
        for key in commit.dropped:
            held.lanes.pop(key, None)
        for letter in commit.letters.values():
            held.lanes[letter.key] = _parked(letter)
            self._observe(
                EventParked(
                    consumer=self.consumer.name,
                    position=letter.position,
                    key=letter.key_text,
                    attempt=1,
                    error=letter.reason,
                )
            )
        self._bell.ring()

    def _without(self, commit: _Commit, held: _Held, error: ApplyFailed) -> None:
        """An inline view, or a closed stream, refuses a finding: it is given up, and the rest is stored."""
        number = error.event
        if number is None or not 0 <= number < len(commit.drafts):
            raise error
        draft = commit.drafts.pop(number)
        if draft.cause is None:
            raise error
        self._give_up(commit, held, draft.cause, error.__cause__ or error)

    async def _made_tables(self) -> None:
        if self._sql is None or self._made:
            return
        if not await state.are_there(self._sql):
            await self._store.write(Request(apply=(state.create(self._sql.dialect),)))
        self._made = True


def _parked(letter: DeadLetter) -> Lane:
    return Lane(
        consumer=letter.consumer,
        segment=0,
        key=letter.key,
        key_text=letter.key_text,
        after=letter.position - 1,
        state=LaneState.PARKED,
        attempts=letter.attempts,
        error=letter.reason,
    )
