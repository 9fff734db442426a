"""Real processes that look for patterns, killed while they do."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from ensue.consumers.verify import verify
from ensue.world import RealWorld
from tests.app.processes import Program
from tests.patterns.cards import Payment, Probed, Suspected, expected, found
from tests.patterns.program import application


class Detecting(Program):
    module = "tests.patterns.program"


def payments(number: int) -> list[Payment]:
    """Some cards with a match each, cut at different places by each batch."""
    return [
        Payment(card=f"c{at % 7}", amount=1 if at % 5 == 0 else 201 + at) for at in range(number * 23, number * 23 + 23)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_a_process_that_is_killed_loses_no_match_and_another_repeats_none(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sqlite = f"sqlite:///{tmp_path}/cards.db"
    url: str = sqlite if place == "sqlite" else request.getfixturevalue("postgresql_url")

    async def publish(number: int) -> None:
        async with application(url).connected() as app:
            for payment in payments(number):
                await app.publish(payment)

    with ExitStack() as stack:
        first = stack.enter_context(Detecting("run", url))
        first.until("runs")
        second = stack.enter_context(Detecting("run", url))  # ready to take over
        second.until("runs")
        asyncio.run(publish(0))
        first.send(signal.SIGKILL)
        asyncio.run(publish(1))
        second.send(signal.SIGKILL)

    async def rest() -> None:
        async with application(url) as app:
            receipt = await app.publish(*payments(2))
            await receipt.wait(timeout=timedelta(seconds=60))
            recorded = [one async for one in app.log.read()]
            there = found(recorded, "Probed")
            until = max(one.recorded_at for one in recorded)
            assert len(there) > 10
            assert len(there) == len(set(there))
            assert set(there) == expected(recorded, Probed, until=until)
            assert sum(isinstance(one.event, Suspected) for one in recorded) == len(there)
            assert (await verify(app.open_store(), RealWorld())).findings == ()

    asyncio.run(rest())
