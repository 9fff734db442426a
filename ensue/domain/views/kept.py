"""A view that follows the log: which version is the code's, who builds it, who keeps it, and which one readers see.

One task for each view, in each process that runs its consumer. It looks at `ensue_view` every `LOOK_SECONDS` and does the next thing
that is to be done; what it finds done by another process it takes as it is. No step depends on one that this process remembers.

- The code's version is the newest with the code's fingerprint; where there is none, it is created.
- While it is building, one living process builds it; when that one dies, another goes on.
- When it follows, this process runs its consumer, and that of an older version of the same code until the new one is current.
- Readers see the newest version that has caught up. One becomes current at the end of its building, or when its consumer has caught
  up: over an older one always, over a newer one only when no living process can run that, which is how going back to old code goes.
- Consumers of versions that no living process can run are retired, so that nobody waits for them. Of such versions one is kept for
  going back; the others are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ensue.consumers.handling import Scope
from ensue.consumers.node import VIEWS, Node
from ensue.consumers.waiting import Bell, Done, handled_numbers, wait_until_done
from ensue.domain.view import View, ViewDefinition
from ensue.domain.views import parts, registry
from ensue.domain.views.building import Builder
from ensue.domain.views.following import ViewHandling
from ensue.domain.views.progress import numbered, percent, seconds_left, used
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import BUILDING, FOLLOWING, Database, Stale, Version
from ensue.domain.views.table import Table, quoted
from ensue.errors import ApplyFailed, HandlerFailed, NotCaughtUp, OutcomeUnknown, StorageFull, TryAgain, UnreadableEvent
from ensue.events.recorded import Position
from ensue.events.registry import Registry
from ensue.events.stored import Row
from ensue.observe.signals import Observer, ViewBuilt, ViewShown, WriterTrouble
from ensue.store.base import Consumer, Term
from ensue.store.nodes import living
from ensue.world import World

__all__ = ["KeptView"]

LOOK_SECONDS = 3.0
"""How late what another process has done to a version is noticed at most."""
SOON_SECONDS = 0.2
"""The same while another process builds the version, which this one is to follow as soon as it is built."""
OPENING_SECONDS = 5.0
"""So long an application that opens waits at most for what another process builds."""
POLL_SECONDS = 0.05
QUICK_POSITIONS = 10_000
"""A view with so little to read is there when the application is open; a longer building goes on behind that."""
PAGE = 1000
DRAIN_SECONDS = 5.0


class KeptView:
    """See the module. `start` is for processes that keep it; all others only read."""

    def __init__(
        self,
        definition: ViewDefinition,
        store: Database,
        types: Registry,
        world: World,
        observe: Observer,
        bell: Bell,
        scope: Scope,
    ) -> None:
        self.definition = definition
        self.name = definition.name
        self._store = store
        self._types = types
        self._world = world
        self._observe = observe
        self._bell = bell
        self._scope = scope
        self._reading = Reading(definition, types)
        self._print = registry.fingerprint(definition, self._reading.names, self._reading.covered)
        self._shape = registry.shape(definition)
        self._node: Node | None = None
        self._watch: Callable[[Sequence[asyncio.Task[None]]], None] = lambda _tasks: None
        self._running: dict[int, Consumer] = {}
        """The consumers that run here, by the numbers of their versions."""
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._is_built = False
        """Another process builds it."""
        self._looked_at = float("-inf")
        self._versions: list[Version] = []
        self._tables: dict[int, Table] = {}

    # ------------------------------------------------------------------------------------------------------ running

    async def open(self) -> None:
        """See `Keeping.open`: it is made by those who keep it."""

    async def start(self, node: Node, watch: Callable[[Sequence[asyncio.Task[None]]], None]) -> None:
        """Keep it here. Returns when it is up to date, or at once where that takes long. Errors: `WiringError`; those of the
        store."""
        self._node, self._watch = node, watch
        await self._look()
        first = asyncio.Event()
        self._task = self._world.spawn(self._keep(first), name=f"view {self.name}")
        mine = self._mine()
        far = self._store.head() - (mine.position if mine is not None else 0) > QUICK_POSITIONS
        if mine is None or mine.state == FOLLOWING or not far:
            waiting = self._world.spawn(first.wait(), name=f"view {self.name}: first")
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=OPENING_SECONDS)
            waiting.cancel()
        if self._task.done():
            self._task.result()
        watch([self._task])

    async def stop(self) -> None:
        """Keep it no more here. What was being built is gone on with by another process, or the next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, first: asyncio.Event) -> None:
        while True:
            try:
                more = await self._step()
            except (Stale, OutcomeUnknown):
                more = True  # what is there now is looked up
            except (TryAgain, StorageFull) as error:
                more = False
                self._observe(
                    WriterTrouble(consumer=f"{VIEWS}{self.name}", error=str(error), retry_in_seconds=LOOK_SECONDS)
                )
            if more:
                await self._world.sleep(0)
                continue
            mine = self._mine()
            elsewhere = mine is not None and mine.state == BUILDING and not mine.paused and self._is_built
            if not elsewhere:
                first.set()
            self._wake.clear()
            timer = self._world.call_later(SOON_SECONDS if elsewhere else LOOK_SECONDS, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def _step(self) -> bool:
        """Do the next thing. True when there is more to do at once."""
        assert self._node is not None
        await self._look()
        mine = self._mine()
        self._is_built = False
        if mine is None:
            await self._create()
            return True
        await self._run_consumers(mine)
        consumers = {one.name: one for one in await self._store.consumers()}
        can = await self._living()
        await self._retire(mine, consumers, can)
        if mine.state == BUILDING:
            return await self._build(mine)
        if not mine.current:
            await self._try_to_show(mine, consumers, can)
        return False

    async def _create(self) -> None:
        await registry.prepare(self._store)
        highest = used(await self._store.consumers(), self.name)
        dialect, now = self._store.dialect, self._world.now()
        names = self._reading.former_names
        for name, former in names.items():
            await self._store.rename(name, former)
        await registry.write(
            self._store,
            lambda sql: registry.create(
                sql, self.definition, self._print, self._shape, used=highest, now=now, dialect=dialect
            ),
        )
        self._world.failpoint("view.created")

    async def _build(self, version: Version) -> bool:
        assert self._node is not None
        me = self._node.lease.node.id.hex()
        if version.paused:
            return False
        if version.owner != me and await self._is_living(version.owner):
            self._is_built = True
            return False
        divided = await parts.parts_of(self._store, version)
        if divided:
            return await self._build_part(version, divided, me)
        if version.began_at is None:
            nodes = living(await self._store.nodes(), self._world.now())
            count = parts.worth_dividing(self._store, len(nodes)) if version.reason is None else 1
            if count > 1:
                await parts.divide(self._store, self._world, version, self._table(version.number), count)
                return True
        builder = Builder(self._reading, self._store, self._world, version, owner=me)
        return await self._built(builder)

    async def _built(self, builder: Builder) -> bool:
        try:
            await builder.run()
        except UnreadableEvent as error:
            reason = f"waits for newer code: {error}"
            if builder.version.reason != reason:
                await registry.write(
                    self._store, lambda sql: registry.change(sql, builder.version, owner=None, reason=reason)
                )
            return False
        self._tell_built(builder.version)
        self._bell.ring()
        return True

    def _tell_built(self, version: Version) -> None:
        if version.state != FOLLOWING:
            return  # a part, or somebody else goes on
        name = registry.consumer_name(self.name, version.number)
        seconds = (self._world.now() - (version.began_at or 0)) / 1e6
        self._observe(
            ViewBuilt(
                consumer=name, version=version.number, position=version.position, seconds=seconds, reason=version.reason
            )
        )
        if version.current:
            self._observe(ViewShown(consumer=name, version=version.number))

    async def _build_part(self, version: Version, divided: Sequence[parts.Part], me: str) -> bool:
        """Build a part that nobody builds, or make one of all when they are done."""
        if all(part.done for part in divided):
            await parts.merge(self._store, self._world, version, divided[0].goal)
            return True
        for part in divided:
            if not part.done and (part.owner == me or not await self._is_living(part.owner)):
                builder = parts.PartBuilder(self._reading, self._store, self._world, version, part, owner=me)
                more = await self._built(builder)
                if builder.failure is not None:
                    await parts.give_up(self._store, self._world, version, builder.failure)
                return more
        self._is_built = True
        return False

    # ---------------------------------------------------------------------------------------------------- consumers

    async def _run_consumers(self, mine: Version) -> None:
        """Run those of the versions that this code keeps."""
        kept = [one for one in self._versions if one.state == FOLLOWING and one.fingerprint == self._print]
        kept = [one for one in kept if one.number == mine.number or not mine.current]
        numbers = {one.number for one in kept}
        for version in kept:
            await self._run(version)
        for number in self._running.keys() - numbers:
            consumer = self._running.pop(number)
            assert self._node is not None
            await self._node.remove(consumer.id, limit_seconds=DRAIN_SECONDS)

    async def _run(self, version: Version) -> None:
        assert self._node is not None
        table, start = self._table(version.number), version.position
        handling = ViewHandling(self._reading, version, table, self._types, self._world, self._scope)
        known = self._running.get(version.number)
        if known is None or (await self._status(known)) == "retired":
            defined = await self._store.define(
                Consumer(
                    id=0,
                    name=handling.name,
                    start=start,
                    key_tag=handling.key_tag,
                    segments=handling.segments,
                    handles=dict.fromkeys(handling.type_names, start),
                )
            )
            self._world.failpoint("view.consumer defined")
            if known is None:
                self._running[version.number] = defined
                self._watch([await self._node.add(defined, handling)])
                self._bell.ring()

    async def _status(self, consumer: Consumer) -> str:
        found = [one.status for one in await self._store.consumers() if one.id == consumer.id]
        return found[0] if found else "retired"

    async def _living(self) -> set[int]:
        """The consumers that a living process can run."""
        assert self._node is not None
        nodes = living(await self._store.nodes(), self._world.now())
        return {id for node in nodes for id in node.can} | {one.id for one in self._running.values()}

    async def _is_living(self, owner: str | None) -> bool:
        if owner is None:
            return False
        return any(node.id.hex() == owner for node in living(await self._store.nodes(), self._world.now()))

    async def _retire(self, mine: Version, consumers: Mapping[str, Consumer], can: set[int]) -> None:
        await self._retire_unknown(consumers, can)
        left: list[Version] = []
        given_up: list[Version] = []
        for version in self._versions:
            if version.number == mine.number or version.number in self._running:
                continue
            if version.state == BUILDING:
                if version.number < mine.number and not await self._is_living(version.owner):
                    given_up.append(version)
                continue
            consumer = consumers.get(registry.consumer_name(self.name, version.number))
            if consumer is not None and (consumer.id in can or consumer.status == "paused"):
                continue
            if consumer is not None and consumer.status != "retired":
                await self._store.set_status(consumer.id, "retired", "no running process has the code of this version")
            if not version.current:
                left.append(version)
        for version in [*given_up, *left[:-1]] if mine.current else ():
            forget = [parts.forgetting(version)] if await parts.parts_of(self._store, version) else []
            with contextlib.suppress(ApplyFailed):  # somebody reads its table for long: at the next look
                await registry.write(self._store, *forget, _dropping(version, self._store.dialect))

    async def _retire_unknown(self, consumers: Mapping[str, Consumer], can: set[int]) -> None:
        """Of versions that are in another place: a log that was copied brings their consumers and tables, and not what knows of
        them."""
        known = {registry.consumer_name(self.name, version.number) for version in self._versions}
        for number, consumer in numbered(consumers.values(), self.name):
            if consumer.name in known or consumer.status == "retired" or consumer.id in can:
                continue
            table = registry.table_name(self.name, number)
            await registry.write(self._store, _dropping_table(table))
            await self._store.set_status(consumer.id, "retired", "its version was left in another place")

    async def _try_to_show(self, mine: Version, consumers: Mapping[str, Consumer], can: set[int]) -> None:
        """Make it current, where it may be and has caught up."""
        current = next((one for one in self._versions if one.current), None)
        if current is not None:
            other = consumers.get(registry.consumer_name(self.name, current.number))
            kept = other is not None and (other.id in can or other.status == "paused")
            if current.pinned or (current.number > mine.number and kept):
                return
        reason = await self._not_caught_up(mine, first=current is None)
        if reason is None:
            try:
                now, dialect = self._world.now(), self._store.dialect
                await registry.write(
                    self._store,
                    lambda sql: registry.show(sql, registry.change(sql, mine, ready=True), dialect=dialect, now=now),
                )
            except ApplyFailed as error:
                reason = f"{registry.HELD_UP}: {error.__cause__}"
            else:
                self._world.failpoint("view.shown")
                name = registry.consumer_name(self.name, mine.number)
                self._observe(ViewShown(consumer=name, version=mine.number))
                await self._look()
                return
        if reason != mine.reason and reason:
            await registry.write(self._store, lambda sql: registry.change(sql, mine, reason=reason))

    async def _not_caught_up(self, version: Version, *, first: bool) -> str | None:
        """Why a following version is not to be shown yet. The first one is shown with what it has, where keys are parked; one that
        replaces another is not, because that one may show them."""
        name = registry.consumer_name(self.name, version.number)
        consumer = next((one for one in await self._store.consumers() if one.name == name), None)
        if consumer is None:
            return ""
        undone, parked = await self._undone(consumer, self._store.head(), limit=1)
        if undone:
            return ""
        if parked and not first:
            return f"{registry.HELD_UP}: {parked} keys are parked, which the version before may show; see `ensue dead-letters`"
        return None

    # ------------------------------------------------------------------------------------------------------ reading

    async def row(self, key: Sequence[object], *, timeout_seconds: float) -> View | None:
        """The row of a key, or None. Errors: `NotCaughtUp` while the first version is built; `TypeError` for another number of
        values; `msgspec.ValidationError`."""
        given = self._reading.key_given(key)
        version = self._seen() or await self._served(timeout_seconds)
        table = self._table(version.number)
        lines = await self._store.select(*table.selection(given))
        return table.row(lines[0]) if lines else None

    async def caught_up(self, position: Position, *, timeout_seconds: float) -> None:
        """Until all events at or below the position are in the rows that `row` reads, but for keys that are parked. Errors:
        `NotCaughtUp`; `HandlerFailed` where an event of the write itself is parked, or nobody runs the consumer; `WrongLog`."""
        position.within(self._store.log_id)
        deadline = self._world.monotonic() + timeout_seconds
        await self._written(position, timeout_seconds)
        while True:
            version = await self._served(deadline - self._world.monotonic(), fresh=True)
            name = registry.consumer_name(self.name, version.number)
            consumer = next((one for one in await self._store.consumers() if one.name == name), None)
            if consumer is not None and consumer.status != "retired":
                break
            if version.fingerprint == self._print and version.position >= position.last:
                return
            await self._pause(deadline, f"nobody keeps version {version.number}, which is read")
        pending, _ = await self._undone(consumer, position.last, own=position)
        while pending:
            left = deadline - self._world.monotonic()
            try:
                await wait_until_done(
                    self._store, self._world, self._bell, pending, consumers=[name], timeout_seconds=left
                )
                return
            except HandlerFailed as failed:
                if failed.dead_letter is None or position.first <= failed.position <= position.last:
                    raise
                pending = [row for row in pending if row[0] != failed.position]

    async def _written(self, position: Position, timeout_seconds: float) -> None:
        """Until the write is in the log, also where another process has yet to make it."""
        try:
            async with asyncio.timeout(max(timeout_seconds, 0.0)):
                while self._store.head() < position.last:
                    await self._store.changed(self._store.head())
        except TimeoutError:
            raise NotCaughtUp(
                f"the position {position} is not written yet; the log has come to {self._store.head()}. Was the position made by "
                "hand, or the database restored from a backup?"
            ) from None

    async def _undone(
        self, consumer: Consumer, last: int, *, limit: int | None = None, own: Position | None = None
    ) -> tuple[list[Row], int]:
        """The events up to `last` that the consumer has yet to do (at most about `limit`, where that is given), without those that
        wait behind a dead letter and are not of the write `own`; and how many keys are parked."""
        standing = await self._store.standing(consumer.id)
        done = Done(consumer, standing, await handled_numbers(self._store, consumer))
        parked = [lane for lane in standing.lanes if lane.state == "parked"]
        late = [lane.after for lane in standing.lanes if lane.state != "parked" and lane.after < last]
        after = min([*(row.position for row in standing.progress), *late], default=0)
        if own is not None and parked:
            after = min(after, own.first - 1)
        selection = (Term(types=tuple(consumer.handles)),)
        found: list[Row] = []
        while after < last and (limit is None or len(found) < limit):
            page = await self._store.read(selection, after=after, before=last + 1, limit=PAGE)
            for row in page.rows:
                lane = done.lane(row)
                waits = lane is not None and lane.state == "parked" and not (own and own.first <= row[0] <= own.last)
                if not done.done(row) and not waits:
                    found.append(row)
            if page.reached <= after:
                break
            after = page.reached
        return found, len(parked)

    def _seen(self) -> Version | None:
        """The version that is read, as it was last looked at."""
        if self._task is None and self._world.monotonic() - self._looked_at > LOOK_SECONDS:
            return None
        return self._choose()

    def _choose(self) -> Version | None:
        """What readers see, where this code can read it; else the code's own version as soon as it has caught up."""
        current = next((one for one in self._versions if one.current), None)
        if current is not None and current.shape == self._shape:
            return current
        mine = self._mine()
        return mine if mine is not None and mine.ready else None

    async def _served(self, timeout_seconds: float, *, fresh: bool = False) -> Version:
        deadline = self._world.monotonic() + timeout_seconds
        if fresh:
            await self._look()
        while (version := self._seen()) is None:
            await self._look()
            if (version := self._choose()) is not None:
                break
            await self._pause(deadline, await self._progress())
        return version

    async def _pause(self, deadline: float, why: str) -> None:
        left = deadline - self._world.monotonic()
        if left <= 0:
            raise NotCaughtUp(f"the view {self.name} cannot be read yet: {why}. See `ensue views`")
        await self._bell.wait(self._world, min(left, POLL_SECONDS))

    async def _progress(self) -> str:
        mine = self._mine()
        if mine is None:
            return "no process has begun to build it; run the application with its consumers"
        if mine.state == FOLLOWING:
            return f"version {mine.number} has not caught up with the log" + (f": {mine.reason}" if mine.reason else "")
        mine = await parts.with_progress(self._store, mine)
        said = f"version {mine.number} is being built, {percent(mine, self._store.head()):.0f} % are done"
        left = seconds_left(mine, self._store.head(), self._world.now())
        return (
            said
            + (f", {left:.0f} s are left" if left is not None else "")
            + (f"; {mine.reason}" if mine.reason else "")
        )

    # ------------------------------------------------------------------------------------------------------- pieces

    async def _look(self) -> None:
        self._versions = [one for one in await registry.versions(self._store) if one.name == self.name]
        self._looked_at = self._world.monotonic()

    def _mine(self) -> Version | None:
        own = [one for one in self._versions if one.fingerprint == self._print]
        return own[-1] if own else None

    def _table(self, number: int) -> Table:
        table = self._tables.get(number)
        if table is None:
            name = registry.table_name(self.name, number)
            table = self._tables[number] = Table(self.definition, name, self._store.dialect)
        return table


def _dropping_table(name: str) -> registry.Work:
    return lambda sql: sql.execute(f"DROP TABLE IF EXISTS {quoted(name)}")


def _dropping(version: Version, dialect: str) -> registry.Work:
    def drop(sql: Any) -> None:
        registry.drop(sql, version, dialect=dialect)

    return drop
