"""What may go wrong while the consumers of a process start."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ensue import App, Event
from ensue.errors import Unavailable
from ensue.observe.signals import Signal, WriterTrouble
from ensue.store.base import Node, Standing
from ensue.store.memory import MemoryStore
from ensue.testing.applications import is_quiet
from ensue.world import RealWorld
from tests.app.orders import OrderPlaced, OrderShipped, placed, until


class AwayOnce(MemoryStore):
    """Cannot be reached when segments are claimed first."""

    away = True

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        if self.away:
            self.away = False
            raise Unavailable("the server was restarted")
        return await super().claim(consumer, node, now=now, most=most, held=held)


def test_a_store_that_cannot_be_reached_at_the_first_claim_is_told_of_and_claimed_again() -> None:
    app = App("starting")
    told: list[Signal] = []

    @app.on
    def ship(event: OrderPlaced) -> OrderShipped:
        return OrderShipped(order_id=event.order_id)

    async def run() -> list[Event]:
        async with app.in_world(RealWorld(), AwayOnce(), observe=told.append) as running:
            await running.publish(placed(1))
            await until(lambda: is_quiet(running))
            return [recorded.event async for recorded in running.log.read(OrderShipped)]

    assert asyncio.run(run()) == [OrderShipped(order_id="o1")]
    assert [signal.consumer for signal in told if isinstance(signal, WriterTrouble)] == ["ship"]
