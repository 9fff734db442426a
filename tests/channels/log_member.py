"""A member of a group in a process of its own: writes a line to its standard output for each message that it handles, and accepts
it when a line comes in; or, if it is told so, at once."""

from __future__ import annotations

import asyncio
import sys

from ensue.app.brokers import open_broker
from ensue.channels.urls import place
from ensue.consumers import lease, log_subscription
from ensue.errors import Unavailable
from ensue.world import RealWorld

__all__: list[str] = []


async def _work(url: str, address: str, group: str, when: str) -> None:
    for module in (lease, log_subscription):
        module.BEAT_SECONDS = 0.2  # type: ignore[attr-defined]
    lease.LEASE_SECONDS = 1.0
    idle = asyncio.Event()
    idle.set()

    async def revoked(_: frozenset[int]) -> None:
        await idle.wait()

    loop = asyncio.get_running_loop()
    broker = open_broker(place(url))
    await broker.open(RealWorld())
    member = await broker.subscribe(address, group=group, prefetch=50, revoked=revoked)
    try:
        while True:
            received = await member.receive(10)
            idle.clear()
            for one in received:
                print(f"{one.key} {one.body.decode()}", flush=True)
            if when == "told":
                await loop.run_in_executor(None, sys.stdin.readline)
            await member.accept(received)
            idle.set()
    except Unavailable as error:
        print(f"ended: {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
