"""What was handled is forgotten: the memory of a consumer does not grow with the events that have passed through it."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from ensue import App, Event, Transaction
from ensue.consumers.machine import Slot
from tests.app.orders import until

EVENTS = 500


class Asked(Event, key="number"):
    number: int


class Answered(Event, key="number"):
    number: int


def pure(app: App) -> None:
    @app.on(pure=True)
    def answer(asked: Asked) -> Answered:
        return Answered(number=asked.number)


def inside(app: App) -> None:
    @app.on
    def answer(asked: Asked, tx: Transaction) -> Answered:
        return Answered(number=asked.number)


def outside(app: App) -> None:
    @app.on
    async def answer(asked: Asked) -> Answered:
        return Answered(number=asked.number)


@pytest.mark.parametrize("kind", [pure, inside, outside])
def test_no_delivery_stays_in_memory_when_it_is_done(tmp_path: Path, kind: object) -> None:
    assert callable(kind)
    app = App("memory", url=f"sqlite:///{tmp_path / 'memory.db'}")
    kind(app)

    def forgotten() -> bool:
        gc.collect()
        return sum(isinstance(thing, Slot) for thing in gc.get_objects()) < EVENTS / 10

    async def run() -> None:
        async with app:
            receipts = [await app.publish(*(Asked(number=n) for n in range(EVENTS))) for _ in range(2)]
            for receipt in receipts:
                await receipt.wait()
            # A wait sees the last commit in the log, and may be back before the machine has heard of it.
            await until(forgotten)

    asyncio.run(run())
