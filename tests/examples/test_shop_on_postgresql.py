"""Several processes of the shop on one PostgreSQL database come to the numbers of one that is left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
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
from tests.app.orders import until
from tests.examples.recount import recount, several_times
from tests.examples.workers import workers
from tests.servers.postgresql import PostgresServer
from tests.servers.processes import has_ended
from tests.servers.replicas import replicated

ORDERS = Path(__file__).parent / "data" / "orders.csv"
COPIES = 4
KILLS = 20
LOOKS = 4
SERVER_KILLS = 3
WORLD = RealWorld()


@pytest.mark.slow
def test_twenty_kills_of_four_processes_change_nothing(postgresql_url: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    with workers(postgresql_url, 4) as running:
        kills = 0

        async def kill(store: Store) -> None:
            nonlocal kills
            running.kill(chance.choice(running.pids))
            running.start()
            kills += 1
            if kills % (KILLS // LOOKS) == 0:  # the log is whole also while they write
                assert (await verify(store, WORLD)).findings == ()

        _compare(postgresql_url, 4, tmp_path, KILLS, kill)


@pytest.mark.slow
def test_a_server_that_is_killed_and_restarted_under_two_processes_changes_nothing(
    own_postgresql: PostgresServer, tmp_path: Path
) -> None:
    with workers(own_postgresql.url(), 2) as running:

        async def kill(store: Store) -> None:
            await asyncio.to_thread(own_postgresql.kill)
            await asyncio.to_thread(own_postgresql.start)
            await asyncio.to_thread(own_postgresql.restart)

        _compare(own_postgresql.url(), 2, tmp_path, SERVER_KILLS, kill)
        assert not any(has_ended(pid) for pid in running.pids)


@pytest.mark.slow
def test_a_replica_that_takes_over_from_a_dead_server_under_two_processes_changes_nothing(
    own_postgresql: PostgresServer, tmp_path: Path
) -> None:
    with replicated(own_postgresql) as (replica, url), workers(url, 2) as running:

        async def fail_over(store: Store) -> None:
            await asyncio.to_thread(own_postgresql.kill)
            await asyncio.to_thread(replica.promote)

        _compare(url, 2, tmp_path, 1, fail_over)
        assert not any(has_ended(pid) for pid in running.pids)


def _compare(url: str, count: int, folder: Path, times: int, disturb: Callable[[Store], Awaitable[None]]) -> None:
    """Place orders and disturb the `count` that work on them, so many times; nothing of it shows in the end."""
    orders = several_times(ORDERS, folder / "orders.csv", copies=COPIES)
    expected = recount(orders)
    last = expected["events_in_log"]
    assert isinstance(last, int)
    lengths = sorted(random.Random(7).sample(range(last), times))
    report = msgspec.structs.asdict(asyncio.run(_place(url, count, orders, lengths, disturb)))
    found = {name: Decimal(value) if name.startswith("amount_") else value for name, value in report.items()}
    assert {name: found[name] for name in expected} == expected


async def _place(
    url: str, count: int, orders: Path, lengths: Sequence[int], disturb: Callable[[Store], Awaitable[None]]
) -> Report:
    meter = Meter(WORLD)
    app = shop(url, observe=meter.observe, world=WORLD)
    async with asyncio.timeout(100), app.connected():
        disturbing = asyncio.ensure_future(_disturb(app.open_store(), count, lengths, disturb))
        report = await Run(app, WORLD, meter, stop=asyncio.Event(), show=lambda figures, lines: None).file(
            OrderFile(orders)
        )
        await disturbing
        assert (await verify(app.open_store(), WORLD)).findings == ()
    return report


async def _disturb(
    store: Store, count: int, lengths: Sequence[int], disturb: Callable[[Store], Awaitable[None]]
) -> None:
    """Each time that the log has grown to such a length. Not before all processes work: one that cannot open its log ends."""
    head = 0

    async def work() -> bool:
        return len(await store.nodes()) >= count

    await until(work)
    for length in lengths:
        while head < length:
            head = await store.changed(head)
        await disturb(store)
