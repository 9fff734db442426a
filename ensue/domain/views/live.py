"""Rows in the memory of each process: folded from the log when it opens, followed from there, gone when it closes.

Each process has its own, and folds all of the view's events for it; nothing is written anywhere. Rows are kept as bytes, so that
nobody who was given one holds what is kept, and an `evolve` that raises half way has changed nothing. What all rows take is bounded
by nothing but their number: a view that grows with the log belongs into a table.

An event on which `evolve` raises stops its row, which stays as it was before, and no other. The view goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ensue.domain.view import View
from ensue.domain.views.keeping import Mark
from ensue.domain.views.reading import Reading
from ensue.domain.views.table import Key
from ensue.errors import EnsueError, GiveUp, HandlerFailed, TryAgain, UnreadableEvent
from ensue.events.recorded import Position, Recorded
from ensue.events.stored import Row
from ensue.observe.signals import EventParked, Observer, WriterTrouble
from ensue.store.base import Log
from ensue.world import World

__all__ = ["LiveView"]

PAGE = 1000
AGAIN_SECONDS = 0.5


class _Stopped(msgspec.Struct, frozen=True):
    """Why a row does not go on, and since which position."""

    position: int
    error: str


class LiveView:
    """See the module. Open from `open` to `close`."""

    def __init__(self, reading: Reading, log: Log, world: World, observe: Observer) -> None:
        self.definition = reading.definition
        self.mark = Mark(f"the view {reading.definition.row.__name__}", world)
        self._name = f"view.{reading.definition.name}"
        self._reading = reading
        self._log = log
        self._world = world
        self._observe = observe
        self._rows: dict[Key, bytes] = {}
        self._stopped: dict[Key, _Stopped] = {}
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self._decode: Callable[[bytes], View] = msgspec.msgpack.Decoder(reading.definition.row).decode
        self._begins = 0
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    async def open(self) -> None:
        """Begin to fold. Returns at once: reads wait."""
        self._begins = self._log.head()
        self._task = self._world.spawn(self._follow(), name=f"live view {self.definition.name}")

    async def start(self, node: object, watch: object, /) -> None:
        """See `Keeping.start`. It follows already."""

    async def stop(self) -> None:
        """See `Keeping.stop`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -------------------------------------------------------------------------------------------------------- reading

    async def row(self, key: Sequence[object], /, *, timeout_seconds: float) -> View | None:
        """See `Keeping.row`: once the view has come to what there was when it was opened. It is the caller's own."""
        await self.mark.wait(self._begins, timeout_seconds)
        if self.mark.failure is not None:
            raise self.mark.failure
        data = self._rows.get(self._reading.key_given(key))
        return self._decode(data) if data is not None else None

    async def caught_up(self, position: Position, /, *, timeout_seconds: float) -> None:
        """See `Keeping.caught_up`. Errors: `HandlerFailed` where an event of the write has stopped its row."""
        position.within(self._log.log_id)
        await self.mark.wait(max(self._begins, position.last), timeout_seconds)
        for key, stopped in self._stopped.items():
            if position.first <= stopped.position <= position.last:
                raise HandlerFailed(
                    f"the row {key!r} of the view {self.definition.row.__name__} stopped before the event at position "
                    f"{stopped.position}, which its evolve could not take: {stopped.error}. Correct it and start this process anew",
                    consumer=self._name,
                    position=stopped.position,
                )

    # ------------------------------------------------------------------------------------------------------ following

    async def _follow(self) -> None:
        while True:
            try:
                await self._page()
                if self.mark.position >= self._log.head():
                    await self._log.changed(self.mark.position)
            except UnreadableEvent as error:  # newer code runs beside it; in this process nothing will help
                self.mark.fail(error)
                self._observe(
                    EventParked(consumer=self._name, position=self.mark.position, key="", attempt=1, error=str(error))
                )
                return
            except TryAgain as error:
                self._observe(WriterTrouble(consumer=self._name, error=str(error), retry_in_seconds=AGAIN_SECONDS))
                await self._world.sleep(AGAIN_SECONDS)
            except EnsueError as error:
                self.mark.fail(error)
                return

    async def _page(self) -> None:
        page = await self._log.read(self._reading.selection, after=self.mark.position, limit=PAGE)
        types = self._log.known_types()
        for row in page.rows:
            self._take(row, types)
        self.mark.reach(max(self.mark.position, page.reached))

    def _take(self, row: Row, types: Any) -> None:
        """One stored event. Errors: `UnreadableEvent`, also for one that cannot be decoded: whose rows it is about is not known."""
        try:
            touched = [(one, self._reading.keys(one)) for one in self._reading.events(row, types, self._log.log_id)]
        except GiveUp:
            raise
        except Exception as error:
            raise UnreadableEvent(
                f"the view {self.definition.row.__name__} cannot read the {types[row[2]][0]} at position {row[0]}: {type(error).__name__}: {error}"
            ) from error
        for recorded, keys in touched:
            for key in keys:
                if key not in self._stopped:
                    self._evolve(key, recorded)

    def _evolve(self, key: Key, recorded: Recorded[Any]) -> None:
        data = self._rows.get(key)
        try:
            row = self._reading.follow(self._decode(data) if data is not None else None, key, recorded)
            encoded = self._encode(row) if row is not None else None
            if encoded is not None:
                self._decode(encoded)  # what cannot be read back must not be kept
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            self._stopped[key] = _Stopped(recorded.row[0], said)
            self._observe(
                EventParked(consumer=self._name, position=recorded.row[0], key=repr(key), attempt=1, error=said)
            )
            return
        if encoded is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = encoded
