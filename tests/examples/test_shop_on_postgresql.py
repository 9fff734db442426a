"""Several processes of the shop on one PostgreSQL database come to the numbers of one that is left alone."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from ensue.consumers.verify import verify
from ensue.examples.shop import shop
from ensue.examples.shop.meter import Meter
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.running import Report, Run
from ensue.store.base import Store
from ensue.world import RealWorld
from tests.examples.recount import recount, several_times
from tests.examples.workers import Workers, workers

ORDERS = Path(__file__).parent / "data" / "orders.csv"
COPIES = 4
KILLS = 20
LOOKS = 4
WORLD = RealWorld()


@pytest.mark.slow
def test_twenty_kills_of_four_processes_change_nothing(postgresql_url: str, tmp_path: Path) -> None:
    orders = several_times(ORDERS, tmp_path / "orders.csv", copies=COPIES)
    expected = recount(orders)
    last = expected["events_in_log"]
    assert isinstance(last, int)
    chance = random.Random(7)
    with workers(postgresql_url, 4) as running:
        report = asyncio.run(_place(postgresql_url, orders, running, chance, last))
    found = {
        name: Decimal(value) if name.startswith("amount_") else value
        for name, value in msgspec.structs.asdict(report).items()
    }
    assert {name: found[name] for name in expected} == expected


async def _place(url: str, orders: Path, running: Workers, chance: random.Random, last: int) -> Report:
    meter = Meter(WORLD)
    app = shop(url, observe=meter.observe, world=WORLD)
    async with asyncio.timeout(100), app.connected():
        disturbing = asyncio.ensure_future(_disturb(app.open_store(), running, chance, last))
        report = await Run(app, WORLD, meter, stop=asyncio.Event(), show=lambda figures, lines: None).file(
            OrderFile(orders)
        )
        await disturbing
        assert (await verify(app.open_store(), WORLD)).findings == ()
    return report


async def _disturb(store: Store, running: Workers, chance: random.Random, last: int) -> None:
    """Kill one and start another, each time that the log has grown by a random length; and see now and then that it is whole,
    while they write."""
    head = 0
    for kill, length in enumerate(sorted(chance.sample(range(last), KILLS)), 1):
        while head < length:
            head = await store.changed(head)
        running.kill(chance.choice(running.pids))
        running.start()
        if kill % (KILLS // LOOKS) == 0:
            assert (await verify(store, WORLD)).findings == ()
