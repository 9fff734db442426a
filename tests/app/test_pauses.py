"""Processes that are paused beyond their lease, on PostgreSQL, where any machine may take over from any other."""

from __future__ import annotations

import asyncio
import signal

import psycopg
import pytest

from ensue import App
from ensue.consumers.verify import verify
from ensue.world import RealWorld
from tests.app.orders import PaymentProcessed
from tests.app.processes import Program
from tests.servers.processes import until

ORDERS = 20


@pytest.mark.slow
def test_what_a_paused_process_worked_at_is_done_by_others_and_not_again_when_it_goes_on(postgresql_url: str) -> None:
    with Program("publish", postgresql_url, str(ORDERS)) as publisher:
        publisher.until(f"acknowledged {ORDERS - 1}")
        assert publisher.ended() == 0
    with Program("hold", postgresql_url) as paused:
        paused.until("charging")
        paused.send(signal.SIGSTOP)
        with Program("work", postgresql_url) as other:
            until(lambda: len(_booked(postgresql_url)) == ORDERS, "the other was to do all of it")
            paused.send(signal.SIGCONT)
            paused.tell_no_more()  # several threads read there: what one of them buffers is no news for the others
            paused.send(signal.SIGTERM)
            assert paused.ended() == 0
            other.send(signal.SIGTERM)
            assert other.ended() == 0
    assert sorted(_booked(postgresql_url)) == sorted(f"o{number}" for number in range(ORDERS))
    asyncio.run(_check(postgresql_url))


def _booked(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        try:
            return [order for (order,) in connection.execute("SELECT order_id FROM book")]
        except psycopg.errors.UndefinedTable:
            return []


async def _check(url: str) -> None:
    async with App("shop", url=url).connected() as app:
        paid = [row.event.order_id async for row in app.log.read(PaymentProcessed)]
        assert len(paid) == len(set(paid)) == ORDERS
        assert (await verify(app.open_store(), RealWorld())).findings == ()
