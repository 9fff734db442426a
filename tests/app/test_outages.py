"""An application whose PostgreSQL server is gone for longer than anybody is patient."""

from __future__ import annotations

import asyncio
import gc

import pytest

from ensue import App
from ensue.consumers import lease, node
from ensue.consumers.verify import verify
from ensue.errors import Unavailable
from ensue.observe.signals import SegmentsLost, Signal, WriterTrouble
from ensue.store import postgresql
from ensue.store.postgresql import writer
from ensue.world import RealWorld
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed, until
from tests.servers.postgresql import PostgresServer

ORDERS = 10


@pytest.mark.slow
def test_it_says_so_runs_on_and_does_what_was_left_when_the_server_is_back(
    own_postgresql: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (writer, postgresql):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(node, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    server = own_postgresql
    troubles: list[WriterTrouble] = []
    unheard: list[str] = []
    lost: set[str] = set()

    def observe(signal: Signal) -> None:
        if isinstance(signal, WriterTrouble):
            troubles.append(signal)
        elif isinstance(signal, SegmentsLost):
            lost.add(signal.consumer)

    app = App("shop", url=server.url(), observe=observe)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        if order.order_id == f"o{ORDERS - 1}":
            server.stop("immediate")  # under the commit of all the others
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
        async with app:
            receipt = await app.publish(*(placed(number) for number in range(ORDERS)))
            await until(lambda: {trouble.consumer for trouble in troubles} >= {"charge", "ship"})
            assert "the server cannot be reached" in troubles[-1].error
            with pytest.raises(Unavailable):
                await app.publish(placed("late"))
            assert not (await app.health()).ready
            await until(lambda: lost >= {"charge", "ship"})  # the lease has run out
            monkeypatch.setattr(server, "stop", lambda mode: None)
            server.start()
            await receipt.wait()
            assert (await app.health()).ready
            shipped = [row.event.order_id async for row in app.log.read(OrderShipped)]
            assert sorted(shipped) == [f"o{number}" for number in range(ORDERS)]
            assert (await verify(app.open_store(), RealWorld())).findings == ()

    asyncio.run(asyncio.wait_for(story(), 60))
    gc.collect()
    assert unheard == []  # no error is left to nobody
