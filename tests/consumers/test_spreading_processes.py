"""Real processes share the consumers of one file, while some are killed and some stand still for longer than their lease."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ensue import App
from ensue.consumers.lease import BEAT_SECONDS, LEASE_SECONDS
from ensue.consumers.ownership import Ownership, ownership
from ensue.testing.applications import is_quiet
from ensue.world import RealWorld
from tests.app.orders import until
from tests.app.processes import Program
from tests.consumers.invariants import violations
from tests.consumers.program import EMIT_ONE, Pulse, application

CLOCKS = [f"clock-{number}" for number in range(32)]
BUSY = 5.0
"""Seconds beside what is promised, for a machine that has much else to do."""


class Worker(Program):
    """One process that runs the consumers."""

    module = "tests.consumers.program"

    def __init__(self, url: str) -> None:
        super().__init__("work", url)

    @property
    def pid(self) -> int:
        return self._process.pid


class Shared:
    """The log as it is seen from outside of all workers."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.ticked = 0

    async def tick(self) -> None:
        """One tick of each clock."""
        self.ticked += 1
        await self.app.publish(*(Pulse(clock_id=clock, number=self.ticked) for clock in CLOCKS))

    @asynccontextmanager
    async def ticking(self) -> AsyncGenerator[None, None]:
        """Tick all the time while something happens."""

        async def go_on() -> None:
            while True:
                await self.tick()
                await asyncio.sleep(0.1)

        ticking = asyncio.create_task(go_on())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    async def spread(self, consumer: str) -> Ownership:
        store = self.app.open_store()
        (found,) = (one for one in await store.consumers() if one.name == consumer)
        return await ownership(store, RealWorld(), found)

    async def owned_by(self, *workers: Worker, seconds: float) -> float:
        """Wait until these and no others share all segments of each consumer; how long that took."""
        began, pids = time.monotonic(), sorted(worker.pid for worker in workers)

        async def balanced() -> bool:
            for consumer in ("ring", "echo", "note"):
                found = await self.spread(consumer)
                owners = sorted(owner.node.pid for owner in found.owners)
                if found.unowned or owners != pids or max(len(one.segments) for one in found.owners) > found.share:
                    return False
            return True

        try:
            await until(balanced, seconds=seconds)
        except TimeoutError:
            found = [await self.spread(consumer) for consumer in ("ring", "echo", "note")]
            owned = [[(one.node.pid, len(one.segments)) for one in spread.owners] for spread in found]
            now = RealWorld().now()
            left = {node.pid: (node.expires_at - now) / 1e6 for node in await self.app.open_store().nodes()}
            raise AssertionError(f"{pids} do not share within {seconds:g} s: {owned}, leases {left}") from None
        return time.monotonic() - began

    async def quiet(self) -> None:
        await until(lambda: is_quiet(self.app), seconds=60)

    async def all_is_well(self) -> None:
        """Everything was done once, and in order for each clock."""
        found = await violations(self.app, emit_one=EMIT_ONE)
        assert not found, found[0]
        noted = self.app.sql("SELECT clock_id, number FROM noted ORDER BY rowid")
        assert len(noted) == len(set(noted))
        for clock in CLOCKS:
            numbers = [number for name, number in noted if name == clock and number > 0]
            assert numbers == list(range(1, self.ticked + 1)), f"{clock} was noted as {numbers}"


@pytest.mark.slow
def test_three_processes_share_a_file_while_one_is_killed_and_one_sleeps_beyond_its_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/clocks.db"

    async def story(shared: Shared, stack: AsyncExitStack) -> None:
        first, second, third = (stack.enter_context(Worker(url)) for _ in range(3))
        for worker in (first, second, third):
            worker.until("ready")
        async with shared.ticking():
            await shared.owned_by(first, second, third, seconds=BEAT_SECONDS + BUSY)
            second.send(signal.SIGKILL)
            await shared.owned_by(first, third, seconds=BUSY)

        await shared.quiet()
        # In the middle of its handlers, and not of a commit: that would stop all writers.
        slow = await shared.app.publish(*(Pulse(clock_id=clock, number=-1) for clock in CLOCKS))
        third.until("began")
        await slow.wait("echo", "note")
        third.send(signal.SIGSTOP)
        async with shared.ticking():
            await shared.owned_by(first, seconds=LEASE_SECONDS + BUSY)
            third.send(signal.SIGCONT)
            await shared.owned_by(first, third, seconds=2 * BEAT_SECONDS + BUSY)

        await shared.quiet()
        await shared.all_is_well()
        third.send(signal.SIGTERM)
        assert third.ended() == 0
        await shared.owned_by(first, seconds=BUSY)
        first.send(signal.SIGTERM)
        assert first.ended() == 0

    async def run() -> None:
        async with application(url).connected() as app, AsyncExitStack() as stack:
            await story(Shared(app), stack)

    asyncio.run(run())
