"""A version of a view kept by following the log: in the log's own database or another, by any number of processes.

Each step reads events behind the version's position and takes them, in one transaction with the position that it moves on: by
compare-and-set on the version's row, so that of several processes one does it, and what is in the rows is what the position says,
also after a crash, and when the database is put back to an earlier state: it then goes on from there. A database that is away is
waited for.

States, in `ensue_view` of the database that holds the rows: building until it has come to the end of the log once, in which
transaction readers are shown it; following from then on. An event that `evolve` cannot take stops its row, in another database, and is recorded there; what has no
rows of keys, or is inline, stops before it. Code that can take it takes over as a version of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ensue.domain.view import View
from ensue.domain.views import registry
from ensue.domain.views.keeping import CannotTake, Kept, Mark, Place, RowsKept, show, show_others
from ensue.domain.views.progress import used
from ensue.domain.views.registry import BUILDING, FOLLOWING, Stale, Version
from ensue.domain.views.table import quoted
from ensue.errors import EnsueError, HandlerFailed, NotCaughtUp, OutcomeUnknown, UnreadableEvent, WiringError
from ensue.events.recorded import Position
from ensue.observe.signals import ConsumerStandsBy, EventParked, Observer, WriterTrouble
from ensue.store.base import Page, SqlTransaction, Store
from ensue.world import World

__all__ = ["Keeper"]

PAGE = 4000
LOOK_SECONDS = 3.0
"""How late what others do to a version is noticed at most: that it is paused, or a database put back."""
LEFT_SECONDS = 10.0
"""A version that readers see, and that is behind and has not moved for so long, is kept by nobody: as long as a lease."""
AGAIN_SECONDS = 0.5
POLL_SECONDS = 0.05
FAR_POSITIONS = 10_000
"""Over so many positions without an event of the view its position is moved on, for people and for whoever begins there."""

_SOURCE = "CREATE TABLE IF NOT EXISTS ensue_view_source (name TEXT PRIMARY KEY, log_id TEXT NOT NULL)"

_STOPPED = (
    "CREATE TABLE IF NOT EXISTS ensue_view_stopped (name TEXT NOT NULL, number BIGINT NOT NULL, key TEXT NOT NULL, "
    "position BIGINT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (name, number, key))"
)


class _Declared(msgspec.Struct, frozen=True):
    """What of a view stands in its version's row."""

    name: str
    row: Any
    when: str


class Keeper:
    """See the module. Of one view in one process."""

    def __init__(
        self, kept: Kept, place: Place, log: Store, world: World, observe: Observer, *, elsewhere: bool = False
    ) -> None:
        """`elsewhere` says that the place is not the log's own database, and may hold views of other logs."""
        self._source_known = not elsewhere
        self._elsewhere = elsewhere
        self.kept = kept
        self.name = kept.name
        self._consumer = f"view.{kept.name}"
        self.mark = Mark(f"the view {kept.shown}", world)
        self._place = place
        self._log = log
        self._world = world
        self._observe = observe
        self._versions: list[Version] = []
        self._looked_at = float("-inf")
        self._reached: dict[int, tuple[int, int]] = {}
        """Number of a version → its position, and the position behind it up to which there is nothing for it."""
        self._shown = 0
        """The version whose further tables readers were last shown by this process."""
        self._left: tuple[int, float] | None = None
        """Where the newer version stands that readers see, and since when this process has seen it stand there."""
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopped: dict[int, Exception] = {}
        """Versions that cannot go on in this process."""

    # ------------------------------------------------------------------------------------------------------ following

    def begin(self) -> asyncio.Task[None]:
        """Follow from now on. The task ends with an error that is the application's."""
        if self._task is None:
            self._task = self._world.spawn(self._follow(), name=f"view {self.name}")
        return self._task

    async def stop(self) -> None:
        """Follow no more here. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                if not await self.step():
                    await self._changed()
            except WiringError:
                raise
            except (
                Exception
            ) as error:  # the database's own words, where they are no trouble that we know: it may be mended
                self.mark.reason = f"{type(error).__name__}: {error}"
                self._observe(
                    WriterTrouble(consumer=self._consumer, error=self.mark.reason, retry_in_seconds=AGAIN_SECONDS)
                )
                await self._world.sleep(AGAIN_SECONDS)

    async def _changed(self) -> None:
        """Until the log goes on, or it is time to look what others have done."""
        waiting = self._world.spawn(self._log.changed(self._log.head()), name=f"view {self.name}: changed")
        timer = self._world.call_later(LOOK_SECONDS, lambda: _end(waiting))
        try:
            await asyncio.wait([waiting])
        finally:
            timer.cancel()
            waiting.cancel()
        if not waiting.cancelled():
            waiting.result()

    async def catch_up(self) -> None:
        """Take all there is now. Errors: those of a step; `CannotTake` or `UnreadableEvent` where a version of this code stands
        still before an event."""
        while await self.step():
            pass
        mine = self._mine()
        if mine is not None and mine.number in self._stopped:
            raise self._stopped[mine.number]

    async def step(self) -> bool:
        """Do the next thing that is to be done. True where there is more. Errors: those of the log and of the place."""
        async with self._turn:
            try:
                return await self._step()
            except (OutcomeUnknown, Stale):
                return True  # the version's row will tell

    async def _step(self) -> bool:
        if not self._source_known:
            if await registry.is_there(cast(Any, self._place), "ensue_log"):
                raise WiringError(
                    f"the view {self.kept.shown} is to be kept in a database that is a log, this one or another: leave database= out to "
                    "keep it beside its own log, or give it a database, file or schema of its own"
                )
            await self._place.transact(self._check_source)
            self._source_known = True
        await self._look()
        mine = self._mine()
        if mine is None:
            for name, former in self.kept.former_names.items():
                await self._log.rename(name, former)
            highest = 0 if self._elsewhere else used(await self._log.consumers(), self.name)
            await self._place.transact(lambda sql: self._create(sql, highest))
            self._world.failpoint("view.created")
            return True
        await self._show_others()
        more = False
        for version in self.followed(self._versions):
            more |= await self._advance(version)
        if not more:
            await self._show_mine(mine)
        return more

    async def _show_others(self) -> None:
        """A person may have made another version current, who knows of its first table only."""
        current = next((one for one in self._versions if one.current), None)
        if len(self.kept.tables) < 2 or current is None or current.fingerprint != self.kept.fingerprint:
            return
        if self._shown != current.number:
            await self._place.transact(lambda sql: show_others(sql, self.kept, current))
            self._shown = current.number

    async def _show_mine(self, mine: Version) -> None:
        """Show readers this code's version where they see an older one; and where the newer one, which they see, is kept by nobody
        any more: it is behind, and does not move."""
        current = next((one for one in self._versions if one.current), None)
        if mine.current or not mine.ready or mine.paused or mine.number in self._stopped:
            return
        if current is not None and (current.pinned or current.paused):
            self._left = None
            return
        if current is None or current.number < mine.number:
            at, dialect = self._world.now(), self._place.dialect
            await self._place.transact(lambda sql: show(sql, self.kept, mine, dialect=dialect, now=at))
            return
        now = self._world.monotonic()
        if current.position >= self._reached.get(mine.number, (0, 0))[0]:
            self._left = None
        elif self._left is None or self._left[0] != current.position:
            self._left = (current.position, now)
        elif now - self._left[1] >= LEFT_SECONDS:
            self._left, dialect, at = None, self._place.dialect, self._world.now()
            await self._place.transact(lambda sql: self._show_again(sql, mine.number, current, dialect, at))
            self._world.failpoint("view.shown again")

    def _show_again(self, sql: SqlTransaction, number: int, current: Version, dialect: str, at: int) -> None:
        registry.lock(sql, self.name)
        found = {one.number: one for one in registry.of_name(sql, self.name)}
        if found.get(current.number) == current and number in found:
            shown = registry.show(sql, found[number], dialect=dialect, now=at)
            show_others(sql, self.kept, shown)

    def followed(self, versions: Sequence[Version]) -> list[Version]:
        """Those that this code keeps: its newest, and the one before it until that is current."""
        own = [one for one in versions if one.fingerprint == self.kept.fingerprint]
        return [one for one in own if one.number == own[-1].number or not own[-1].current]

    async def _advance(self, version: Version) -> bool:
        """Take what is next for a version. True where there is more."""
        number = version.number
        if version.paused or number in self._stopped:
            self.mark.reason = str(self._stopped.get(number, f"it is paused: ensue views resume {self.name}"))
            return False
        known = self._reached.get(number)
        after = known[1] if known is not None and known[0] == version.position else version.position
        page = await self._log.read(self.kept.selection, after=after, limit=PAGE)
        at_head = page.reached >= self._log.head()
        if version.position > self._log.head():
            said = (
                f"its rows hold events up to position {version.position}, and the log ends at {self._log.head()}: was the log restored "
                f"from a backup? Build it anew: ensue views rebuild {self.name}"
            )
            self._stand_still(version, CannotTake(said, 0))
            self._observe(ConsumerStandsBy(consumer=self._consumer, reason=said))
            return False
        return await self._advance_by(version, page, at_head=at_head)

    async def _advance_by(self, version: Version, page: Page, *, at_head: bool) -> bool:
        idle = version.state == FOLLOWING and page.reached - version.position < FAR_POSITIONS
        if not page.rows and idle and version.began_at is not None:
            self._reach(version, page.reached)
            return not at_head
        try:
            moved = await self._place.transact(lambda sql: self._take(sql, version, page, at_head=at_head))
        except CannotTake as error:
            return await self._cannot(version, page, error)
        except UnreadableEvent as error:
            self._stand_still(version, error)
            self._observe(ConsumerStandsBy(consumer=self._consumer, reason=str(error)))
            return False
        except Stale:
            return True
        except EnsueError:
            raise
        except Exception:
            if len(page.rows) < 2:
                raise
            # A row that the database refuses, and it does not say of which event: found by halves.
            some = page.rows[: len(page.rows) // 2]
            return await self._advance_by(version, Page(some, some[-1][0]), at_head=False)
        self._world.failpoint("view.taken")
        if moved is not None:
            self._reach(moved, page.reached)
        return moved is None or not at_head

    def _take(self, sql: SqlTransaction, version: Version, page: Page, *, at_head: bool) -> Version | None:
        """The version as it is after these events. None where somebody else has changed it."""
        registry.lock(sql, version.name)
        found = next((one for one in registry.of_name(sql, version.name) if one.number == version.number), None)
        if found is None or found.rev != version.rev:
            return None
        now, dialect = self._world.now(), self._place.dialect
        changes: dict[str, Any] = {"position": max(version.position, page.reached)}
        if version.began_at is None:
            for table in self.kept.tables:
                sql.execute(f"DROP TABLE IF EXISTS {quoted(registry.table_name(table, version.number))}")
            for statement in self.kept.creation(version.number, dialect):
                sql.execute(statement)
            changes["began_at"] = now
        if page.rows:
            types, log_id = self._log.known_types(), self._log.log_id
            stopped = self._stopped_keys(sql, version.number)
            self.kept.take(sql, version.number, page.rows, types, log_id, stopped=stopped)
        if not at_head or version.state != BUILDING:
            return registry.change(sql, found, **changes)
        following = registry.change(sql, found, **changes, state=FOLLOWING, ready=True, changed_at=now, reason=None)
        return show(sql, self.kept, following, dialect=dialect, now=now)

    def _check_source(self, sql: SqlTransaction) -> None:
        """Errors: `WiringError` where the rows of this name follow another log."""
        sql.execute(_SOURCE)
        sql.execute(_STOPPED)
        sql.execute("INSERT INTO ensue_view_source VALUES (?, ?) ON CONFLICT DO NOTHING", (self.name, self._log.log_id))
        ((found,),) = sql.execute("SELECT log_id FROM ensue_view_source WHERE name = ?", (self.name,))
        if found != self._log.log_id:
            raise WiringError(
                f"the view {self.kept.shown} is to be kept in a database that holds {self.name} of the log {found}, and this is the "
                f"log {self._log.log_id}: give it another table= or database=, or, if that log is gone, drop its tables and its rows "
                "of ensue_view and ensue_view_source"
            )

    def _kept_how(self) -> str:
        when = str(self.kept.definition.when)
        if self._elsewhere:
            return "elsewhere"
        return when if when == "inline" else "followed"

    def _create(self, sql: SqlTransaction, highest: int) -> None:
        sql.execute(registry.creation(self._place.dialect))
        kept, now, dialect = self.kept, self._world.now(), self._place.dialect
        declared: Any = _Declared(kept.name, kept.definition.row, self._kept_how())
        registry.create(sql, declared, kept.fingerprint, kept.shape, used=highest, now=now, dialect=dialect)

    async def _cannot(self, version: Version, page: Page, error: CannotTake) -> bool:
        """Take what is before the event, and stop there."""
        position = page.rows[error.nth][0]
        before = Page(page.rows[: error.nth], position - 1)
        if before.rows or version.began_at is None:
            await self._place.transact(lambda sql: self._take(sql, version, before, at_head=False))
            return True
        if self._elsewhere and error.key is not None:
            key, why = error.key, str(error)
            await self._place.transact(lambda sql: self._stop_key(sql, version, key, position, why))
            self._world.failpoint("view.key stopped")
            self._observe(EventParked(consumer=self._consumer, position=position, key=key, attempt=1, error=why))
            return True
        reason = f"stands still before the event at position {position}: {error}"
        await self._place.transact(lambda sql: self._stop_before(sql, version, reason))
        self._stand_still(version, CannotTake(reason, 0))
        self._observe(EventParked(consumer=self._consumer, position=position, key="", attempt=1, error=str(error)))
        return False

    def _stopped_keys(self, sql: SqlTransaction, number: int) -> frozenset[str]:
        if not self._elsewhere:
            return frozenset()
        found = sql.execute("SELECT key FROM ensue_view_stopped WHERE name = ? AND number = ?", (self.name, number))
        return frozenset(str(key) for (key,) in found)

    def _stop_key(self, sql: SqlTransaction, version: Version, key: str, position: int, why: str) -> None:
        """The row of this key stays as it is from here on."""
        sql.execute(
            "INSERT INTO ensue_view_stopped VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (self.name, version.number, key, position, why),
        )
        count = len(self._stopped_keys(sql, version.number))
        reason = (
            f"{count} rows stand still, see ensue_view_stopped; the last one is {key}, at position {position}: {why}"
        )
        registry.change(sql, version, reason=reason)

    def _stop_before(self, sql: SqlTransaction, version: Version, reason: str) -> None:
        """Say why. The first version of a view is shown with what it has; what is shown already is not taken from readers."""
        if version.reason == reason:
            return
        version = registry.change(sql, version, reason=reason)
        if version.state == BUILDING and not any(one.current for one in registry.of_name(sql, self.name)):
            now = self._world.now()
            version = registry.change(sql, version, state=FOLLOWING, ready=True, changed_at=now)
            shown = show(sql, self.kept, version, dialect=self._place.dialect, now=now)
            registry.change(sql, shown, reason=reason)

    def _stand_still(self, version: Version, error: Exception) -> None:
        self._stopped[version.number] = error
        self.mark.reason = str(error)
        self.mark.wake()

    def _reach(self, version: Version, position: int) -> None:
        self._reached[version.number] = (version.position, position)
        mine = self._mine()
        if mine is not None and mine.number == version.number:
            self.mark.reason = ""
            self.mark.reach(position)

    # -------------------------------------------------------------------------------------------------------- reading

    async def row(self, key: Sequence[object], /, *, timeout_seconds: float) -> View | None:
        """See `Keeping.row`."""
        assert isinstance(self.kept, RowsKept)
        given = self.kept.reading.key_given(key)
        deadline = self._world.monotonic() + timeout_seconds
        if self._world.monotonic() - self._looked_at > LOOK_SECONDS:
            await self._look()
        while (version := self._readable()) is None:
            await self._pause(deadline)
        table = self.kept.table(version.number)
        lines = await self._place.select(*table.selection(given))
        return table.row(lines[0]) if lines else None

    async def caught_up(self, position: Position, /, *, timeout_seconds: float) -> None:
        """See `Keeping.caught_up`."""
        position.within(self._log.log_id)
        deadline = self._world.monotonic() + timeout_seconds
        await self._written(position, timeout_seconds)
        while not await self._has(position.last):
            await self._pause(deadline)
        if self._elsewhere and (mine := self._mine()) is not None:
            found = await self._place.select(
                "SELECT key, position, error FROM ensue_view_stopped WHERE name = ? AND number = ? AND position >= ? AND "
                "position <= ?",
                (self.name, mine.number, position.first, position.last),
            )
            if found:
                key, where, why = found[0]
                raise HandlerFailed(
                    f"the row {key} of the view {self.kept.shown} stands still before the event at position {where}: {why}",
                    consumer=self._consumer,
                    position=where,
                )

    async def _has(self, position: int) -> bool:
        """Whether what `row` reads has all up to a position."""
        await self._look()
        version = self._readable()
        if version is None or version.fingerprint != self.kept.fingerprint:
            version = self._mine()
            if version is None or not version.ready:
                return False
        if version.position >= position:
            if version.position > self._log.head():
                await self._log.read(self.kept.selection, after=version.position, limit=1)  # which tells the head
            return version.position <= self._log.head()
        page = await self._log.read(self.kept.selection, after=version.position, before=position + 1, limit=1)
        return not page.rows and page.reached >= position

    async def _written(self, position: Position, timeout_seconds: float) -> None:
        """Until the write is in the log, also where another process has yet to make it."""
        try:
            async with asyncio.timeout(max(timeout_seconds, 0.0)):
                while self._log.head() < position.last:
                    await self._log.changed(self._log.head())
        except TimeoutError:
            raise NotCaughtUp(
                f"the position {position} is not written yet; the log has come to {self._log.head()}. Was the position made by "
                "hand, or the database restored from a backup?"
            ) from None

    async def _pause(self, deadline: float) -> None:
        left = deadline - self._world.monotonic()
        if left <= 0:
            mine = self._mine()
            said = (
                f": {mine.reason or self.mark.reason}" if mine is not None and (mine.reason or self.mark.reason) else ""
            )
            state = (
                "no process has begun to build it"
                if mine is None
                else (
                    f"version {mine.number} is {mine.state}, and has come to position {mine.position} of {self._log.head()}"
                )
            )
            raise NotCaughtUp(
                f"the view {self.kept.shown} has not come so far in time; {state}{said}. See `ensue views`"
            )
        await self._world.sleep(min(left, POLL_SECONDS))
        await self._look()

    def _readable(self) -> Version | None:
        """The version that is read: what readers see, where this code keeps it or can read its rows; else its own."""
        mine = self._mine()
        if mine is not None and mine.ready:
            return mine
        return next((one for one in self._versions if one.current and one.shape == self.kept.shape), None)

    # ---------------------------------------------------------------------------------------------------------- pieces

    async def _look(self) -> None:
        found = await registry.versions(cast(Any, self._place))
        self._versions = [one for one in found if one.name == self.name]
        self._looked_at = self._world.monotonic()

    def _mine(self) -> Version | None:
        own = [one for one in self._versions if one.fingerprint == self.kept.fingerprint]
        return own[-1] if own else None


def _end(task: asyncio.Task[int]) -> None:
    task.cancel()
