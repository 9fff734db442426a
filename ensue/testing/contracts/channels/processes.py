"""What happens when the process of a member is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator

from ensue.channels.base import Broker
from ensue.channels.urls import place
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered
from ensue.world import RealWorld

__all__ = ["ProcessesContract"]


class ProcessesContract(ChannelContract):
    """For brokers that other processes reach. The class of what `broker()` returns must be one that they can import.

    How soon a broker sees that a member is gone is mostly a setting: choose one for tests that is far below a minute.
    """

    url: str
    """Where another process finds the broker of the test."""

    @channel_test
    async def test_what_a_process_held_when_it_was_killed_comes_again_in_order_and_before_what_is_new(
        self, bench: Bench
    ) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 10))
        async with self._process(bench, count=10) as held:
            assert held == numbered(1, 10)
        await bench.publish(*numbered(11, 15))
        assert bodies(await bench.take(await bench.member(), 15)) == numbered(1, 15)

    @channel_test
    async def test_what_a_process_held_when_it_was_killed_comes_to_a_member_that_waits(self, bench: Bench) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 10))
        async with self._process(bench, count=10) as held:
            assert held == numbered(1, 10)
            receiving = bench.start(bench.take(await bench.member(), 10))
            await bench.step(3)
        assert bodies(await receiving) == numbered(1, 10)

    @contextlib.asynccontextmanager
    async def _process(self, bench: Bench, count: int) -> AsyncGenerator[list[bytes]]:
        """A member in a process of its own that holds so many messages, and is killed."""
        kind = type(self.broker())
        given = [kind.__module__, kind.__qualname__, self.url, bench.address, bench.group("billing"), count]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, json.dumps(given)), stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            bench.waits_for = f"waited until a process has received {count} messages"
            yield [bytes.fromhex((await process.stdout.readline()).decode()) for _ in range(count)]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def _hold(module: str, name: str, url: str, address: str, group: str, count: int) -> None:
    """Receive, tell what was received, and hold it until killed."""
    kind: type[Broker] = getattr(__import__(module, fromlist=[name]), name)
    broker = kind(place(url))
    await broker.open(RealWorld())
    member = await broker.subscribe(address, group=group, prefetch=count)
    told = 0
    while told < count:
        for received in await member.receive(count - told):
            print(received.body.hex(), flush=True)
            told += 1
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_hold(*json.loads(sys.argv[1])))
