"""All consumers of one application in one process: defined, leased, run, and stopped together.

Start: define every consumer (one transaction each), beat, see who else lives, then run them. Every `BEAT_SECONDS` the lease
is renewed and the operators' words (pause, resume) are read; when other processes come or go, each consumer claims or gives
up segments until it has its share. Stop: others are told that they may have all; no consumer starts anything more, what
no handler works at is released at once, handlers end within the limit, what is finished is committed, the rest is
released, the lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ensue.consumers.handling import Handling
from ensue.consumers.lease import BEAT_SECONDS, Lease
from ensue.consumers.runner import Runner
from ensue.consumers.waiting import Bell
from ensue.errors import EnsueError, StorageFull, TryAgain, WiringError
from ensue.observe.signals import Observer, WriterTrouble
from ensue.store.base import Consumer, Store, Term
from ensue.world import World

__all__ = ["PATTERNS", "VIEWS", "Node", "define_consumers"]

VIEWS, PATTERNS = "view.", "pattern."
"""How the consumers of views and patterns are called: no handler was ever one."""


async def define_consumers(store: Store, world: World, handlings: Sequence[Handling]) -> list[Consumer]:
    """Make every consumer known to the log, in the order given; returns them as stored.

    Errors: `WiringError` for a new consumer on a log that already holds events it handles and that does not say where
    to start, and for one that looks like another renamed: either would replay history.
    """
    known = {consumer.name: consumer for consumer in await store.consumers() if consumer.status != "retired"}
    declared = {handling.name for handling in handlings}
    problems: list[str] = []
    defined: list[Consumer] = []
    for handling in handlings:
        found = known.get(handling.name)
        if found is None:
            problem = await _problem_of_new(store, handling, known, declared)
            if problem is not None:
                problems.append(problem)
        elif found.key_tag != handling.key_tag:
            problems.append(
                f"the consumer {handling.name!r} orders its events by {_by(found.key_tag)} in this log, and by "
                f"{_by(handling.key_tag)} in the code. What is under way was ordered the old way: give it another name "
                "and say start= where it begins"
            )
    if problems:
        raise WiringError("\n".join(problems))
    for handling in handlings:
        for name, former in handling.former_names.items():
            await store.rename(name, former)
        start = 0 if handling.name in known else await handling.start_position(store)
        defined.append(
            await store.define(
                Consumer(
                    id=0,
                    name=handling.name,
                    start=start,
                    key_tag=handling.key_tag,
                    segments=handling.segments,
                    handles=dict.fromkeys(handling.type_names, start),
                )
            )
        )
        world.failpoint("consumer.defined")
    return defined


def _by(key_tag: str | None) -> str:
    return "their own key" if key_tag is None else repr(key_tag) if key_tag else "one order for all"


async def _problem_of_new(
    store: Store, handling: Handling, known: dict[str, Consumer], declared: set[str]
) -> str | None:
    if handling.start is not None:
        return None
    page = await store.read((Term(types=handling.type_names),), limit=1)
    while not page.rows and page.reached < store.head():
        page = await store.read((Term(types=handling.type_names),), after=page.reached, limit=1)
    if not page.rows:
        return None
    orphans = [
        name
        for name, consumer in known.items()
        if name not in declared
        and not name.startswith((VIEWS, PATTERNS))
        and set(consumer.handles) & set(handling.type_names)
    ]
    if orphans:
        return (
            f"the consumer {handling.name!r} is new to this log, and {orphans[0]!r}, which handled the same events, is "
            f"gone from the code. If it was renamed, keep its progress with name={orphans[0]!r}; if not, retire the old "
            f"one with `ensue consumers retire {orphans[0]}` and say start= on the new one."
        )
    return (
        f"the consumer {handling.name!r} is new, and the log already holds events it handles. Say where it begins: "
        'start="beginning" handles all of them, start="now" only what comes.'
    )


class Node:
    """The consumers of this process. `start` returns when every consumer has tried to claim its segments once."""

    def __init__(self, store: Store, world: World, observe: Observer, bell: Bell, *, host: str, pid: int) -> None:
        self.runners: list[Runner] = []
        self._store = store
        self._world = world
        self._observe = observe
        self._bell = bell
        self.lease = Lease(store, world, host=host, pid=pid)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, consumers: Sequence[Consumer], handlings: Sequence[Handling]) -> None:
        for consumer, handling in zip(consumers, handlings, strict=True):
            self._runner(consumer, handling)
        await self.lease.beat(self._can)
        await self.lease.look()
        for runner in self.runners:
            await self._begin(runner)
        self._spawn(self._beat(), "heartbeat")

    async def add(self, consumer: Consumer, handling: Handling) -> asyncio.Task[None]:
        """Run one more consumer while the others run; its task. Errors: those of the store, and it is not added then."""
        runner = self._runner(consumer, handling)
        try:
            await self.lease.beat(self._can)
        except BaseException:
            self.runners.remove(runner)
            raise
        return await self._begin(runner)

    async def remove(self, consumer: int, *, limit_seconds: float) -> None:
        """Run a consumer no more, and release what it owns; the others go on."""
        runner = next((one for one in self.runners if one.consumer.id == consumer), None)
        if runner is None:
            return
        self.runners.remove(runner)
        await runner.stop(limit_seconds=limit_seconds)
        # Others may have all of it; who is not told now is told by the next beat.
        with contextlib.suppress(EnsueError):
            await self.lease.beat(self._can)

    def _runner(self, consumer: Consumer, handling: Handling) -> Runner:
        handling.bind(consumer, self._store.log_id)
        make: Callable[..., Runner] = handling.drives or Runner
        runner = make(self._store, self._world, self.lease, consumer, handling, self._observe, self._bell)
        self.runners.append(runner)
        return runner

    async def _begin(self, runner: Runner) -> asyncio.Task[None]:
        name = runner.consumer.name
        try:
            await runner.claim()
        except (TryAgain, StorageFull) as error:  # it goes on trying while it runs
            self._observe(WriterTrouble(consumer=name, error=str(error), retry_in_seconds=BEAT_SECONDS))
        return self._spawn(runner.run(), f"consumer {name}")

    async def stop(self, *, limit_seconds: float) -> None:
        """See the module. Returns when nothing of this process can change the log any more."""
        self._stopping = True
        stops = (runner.stop(limit_seconds=limit_seconds) for runner in self.runners)
        ends = await asyncio.gather(self._resign(), *stops, return_exceptions=True)
        for task in self._tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The lease ends by itself, too; a broken store has been told by whoever wrote to it.
        with contextlib.suppress(EnsueError):
            await self.lease.end()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """The consumers' tasks and the heartbeat: one that ends before `stop` met a broken store."""
        return tuple(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._world.spawn(work, name=name)
        self._tasks.append(task)
        return task

    @property
    def _can(self) -> tuple[int, ...]:
        """The consumers that run here, or would."""
        return () if self._stopping else tuple(sorted(runner.consumer.id for runner in self.runners if runner.able))

    async def _resign(self) -> None:
        """Leave all shares to the others, while handlers here still end."""
        with contextlib.suppress(EnsueError):
            await self.lease.beat(self._can)

    async def _beat(self) -> None:
        beat_at = self._world.monotonic() + BEAT_SECONDS
        while True:
            left = beat_at - self._world.monotonic()
            await self._world.sleep(max(0.0, min(left, self.lease.seconds_to_look)))
            due = self._world.monotonic() >= beat_at or self.lease.misleads
            if due:
                beat_at = self._world.monotonic() + BEAT_SECONDS
            try:
                if due:
                    await self._renew()
                if await self.lease.look():
                    for runner in self.runners:
                        runner.spread()
            except (TryAgain, StorageFull) as error:
                self._observe(WriterTrouble(consumer="", error=str(error), retry_in_seconds=BEAT_SECONDS))
                await self._world.sleep(beat_at - self._world.monotonic())

    async def _renew(self) -> None:
        """Beat, and hear the operators' words. What they change is told to the others at once."""
        await self.lease.beat(self._can)
        status = {row.name: (row.status, row.reason) for row in await self._store.consumers()}
        for runner in self.runners:
            runner.set_status(*status.get(runner.consumer.name, ("retired", None)))
        if self._can != self.lease.node.can:
            await self.lease.beat(self._can)
