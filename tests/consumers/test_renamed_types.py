"""Old code and new code side by side: what the old one stores under a former name, the new one handles, and waits know it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ensue import App, Event
from ensue.world import RealWorld


class BreadBaked(Event, key="bread"):
    bread: str


class LoafBaked(Event, key="bread", was=("BreadBaked",)):
    bread: str


def test_a_wait_knows_that_an_event_under_a_former_name_is_handled_under_the_present_one(tmp_path: Path) -> None:
    url, sold = f"sqlite:///{tmp_path}/bakery.db", list[str]()
    new = App("bakery", url=url)

    @new.on
    async def sell(baked: LoafBaked) -> None:
        await RealWorld().sleep(0.05)  # long enough that a wait which does not know of it is over before
        sold.append(baked.bread)

    async def run() -> None:
        async with new, App("bakery", url=url).connected() as old:
            receipt = await old.publish(BreadBaked(bread="rye"))
            await receipt.wait()
            assert sold == ["rye"]

    asyncio.run(run())
