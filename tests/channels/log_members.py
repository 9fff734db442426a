"""What members of a group in processes of their own do on a log: the same tests for each database."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator

import pytest

from ensue.testing.contracts.channels import Bench, ChannelContract, bodies, channel_test, numbered

__all__ = ["MembersContract"]

KEYS, ROUNDS = 8, 60


class _Other:
    """A member in another process, and what it says: `key number` for each message that it handled."""

    def __init__(self, process: asyncio.subprocess.Process, said: list[str]) -> None:
        self.process = process
        self.handled = 0
        self._said = said

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self._said.append(line.decode().strip())
            self.handled += 1

    def goes_on(self) -> None:
        """It may accept what it holds."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


class MembersContract(ChannelContract):
    url: str

    @contextlib.asynccontextmanager
    async def other(self, bench: Bench, said: list[str], *, accepts: str) -> AsyncGenerator[_Other]:
        given = (self.url, bench.address, bench.group("billing"), accepts)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.channels.log_member", *given), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        other = _Other(process, said)
        listening = bench.start(other.listen())
        try:
            yield other
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await listening

    @channel_test
    async def test_a_process_that_was_stopped_longer_than_its_lease_accepts_nothing_of_what_it_held(
        self, bench: Bench
    ) -> None:
        await (await bench.member()).close()
        await bench.publish(*numbered(1, 10))
        said: list[str] = []
        async with self.other(bench, said, accepts="told") as stopped:
            await bench.until(lambda: len(said) == 10, "it holds ten")
            stopped.process.send_signal(signal.SIGSTOP)
            member = await bench.member()
            assert bodies(await bench.take(member, 10)) == numbered(1, 10)
            stopped.process.send_signal(signal.SIGCONT)
            stopped.goes_on()
            await bench.until(lambda: len(said) > 10, "it is told")
            assert said[-1].startswith("ended: ")
            await member.close()
            assert bodies(await bench.take(await bench.member(), 10, accept=True)) == numbered(1, 10)

    @pytest.mark.slow
    @channel_test
    async def test_processes_that_are_killed_one_after_the_other_lose_nothing_and_keep_the_order_of_each_key(
        self, bench: Bench
    ) -> None:
        said: list[str] = []

        async def publishes() -> None:
            for number in range(ROUNDS):
                await bench.publish(*(bench.message(b"%d" % number, key=f"key-{key}") for key in range(KEYS)))
                await bench.world.sleep(0.02)

        async with self.other(bench, said, accepts="at once") as stays:
            publishing = bench.start(publishes())
            for _ in range(3):
                async with self.other(bench, said, accepts="at once") as passes:
                    await bench.until(lambda passes=passes: passes.handled > 0 or publishing.done(), "it has its share")  # type: ignore[misc]
            await publishing
            await bench.until(lambda: len(set(said)) >= KEYS * ROUNDS, "all is handled")
            assert stays.handled
        for key in range(KEYS):
            of_key = [line for line in dict.fromkeys(said) if line.startswith(f"key-{key} ")]
            assert of_key == [f"key-{key} {number}" for number in range(ROUNDS)]
