"""The shop taken apart comes to the numbers of the shop in one process: over every broker, while its processes are killed and the
broker is restarted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from ensue.examples.shop.apart import Apart
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.running_apart import ReportApart, RunApart
from ensue.world import RealWorld
from tests.examples.recount import recount, several_times

ORDERS = Path(__file__).parent / "data" / "orders.csv"
BROKERS = ("kafka", "rabbitmq", "nats", "redis", "mosquitto")
KILLS_PER_SERVICE = 2
LIMIT_SECONDS = 240


class Server(Protocol):
    """A broker that the test may restart."""

    def url(self) -> str: ...

    def restart(self) -> None: ...


async def run_apart(
    folder: Path, url: str, orders: Path, *, trouble: Callable[[Apart], asyncio.Task[None]] | None = None
) -> ReportApart:
    """The whole file; with what happens beside it."""
    world = RealWorld()
    async with asyncio.timeout(LIMIT_SECONDS), Apart(folder, url, world) as apart:
        run = RunApart(apart, world, stop=asyncio.Event(), show=lambda states, seconds, lines: None)
        beside = trouble(apart) if trouble is not None else None
        report = await run.file(OrderFile(orders))
        if beside is not None:
            await beside  # what it did late is got over as well
            report = await run.file(OrderFile(orders))
        return report


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what it waits for is another process
        await asyncio.sleep(0.02)


def started_again(apart: Apart, name: str, before: int) -> bool:
    return apart.starts()[name] > before


def agrees(report: ReportApart, orders: Path) -> None:
    found = {
        name: Decimal(value) if name.startswith("amount_") else value
        for name, value in msgspec.structs.asdict(report).items()
    }
    found["events_in_log"] = report.events_in_logs - report.events_received
    expected = recount(orders)
    assert {name: found[name] for name in expected} == expected


def test_two_logs_in_one_process_need_no_broker(tmp_path: Path) -> None:
    """The channel may be a log as well."""
    url = f"sqlite:////{str(tmp_path / 'channel.db').lstrip('/')}"
    agrees(asyncio.run(run_apart(tmp_path, url, ORDERS)), ORDERS)


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_kills_and_a_restart_of_the_broker_change_nothing(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"own_{broker}")
    orders = several_times(ORDERS, tmp_path / "orders.csv", copies=4)
    chance = random.Random(broker)
    killed: list[str] = []

    def trouble(apart: Apart) -> asyncio.Task[None]:
        async def make() -> None:
            victims = [*apart.pids()] * KILLS_PER_SERVICE
            chance.shuffle(victims)
            for number, name in enumerate(victims):
                before = apart.starts()[name]
                os.kill(apart.pids()[name], signal.SIGKILL)
                killed.append(name)
                if number == len(victims) // 2:
                    await asyncio.to_thread(server.restart)
                await until(partial(started_again, apart, name, before))

        return asyncio.get_running_loop().create_task(make())

    report = asyncio.run(run_apart(tmp_path, server.url(), orders, trouble=trouble))
    agrees(report, orders)
    assert report.restarts >= len(killed) == 5 * KILLS_PER_SERVICE
