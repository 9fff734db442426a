"""The shop begun on a file goes on elsewhere, with work under way: every order is paid once, and the numbers are those of a
run that nothing disturbed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from ensue import App
from ensue.app.urls import open_store, open_transfer
from ensue.consumers.verify import verify
from ensue.examples.shop.events import PaymentProcessed
from ensue.examples.shop.inventory import inventory
from ensue.examples.shop.meter import Meter
from ensue.examples.shop.notification import notification
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.orders import orders
from ensue.examples.shop.payment import Gateway, payment
from ensue.examples.shop.placing import place_invoice
from ensue.examples.shop.running import Report, Run
from ensue.examples.shop.shipping import shipping
from ensue.store.base import LaneState, Store
from ensue.store.transfer import copy
from ensue.world import RealWorld
from tests.examples.recount import recount

ORDERS = Path(__file__).parent / "data" / "orders.csv"
PLACED_BEFORE = 50
WORLD = RealWorld()


class Bank(Gateway):
    """Remembers who asked. While it is `in_trouble` it refuses the fifth, cannot be reached for the eighth, and leaves all after
    the fifteenth without an answer."""

    def __init__(self, *, in_trouble: bool) -> None:
        self.keys: dict[str, set[str]] = defaultdict(set)
        self._in_trouble = in_trouble

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        self.keys[order_id].add(idempotency_key)
        number = list(self.keys).index(order_id) + 1
        if self._in_trouble and number == 5:
            raise ValueError("there is no such account")
        if self._in_trouble and number == 8:
            raise ConnectionError("no answer")
        if self._in_trouble and number > 15:
            await asyncio.Event().wait()
        return f"charge-{idempotency_key[:12]}"

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        return f"refund-{idempotency_key[:12]}"


def shop(url: str, bank: Bank, meter: Meter) -> App:
    app = App("shop", url=url, observe=meter.observe, world=WORLD, drain_seconds=0.1)
    app.include(orders, inventory, payment, shipping, notification)

    @app.provide
    def gateway() -> Gateway:
        return bank

    return app


async def lanes(store: Store) -> Counter[str]:
    """How many keys of all consumers are in which state."""
    standings = [await store.standing(consumer.id) for consumer in await store.consumers()]
    return Counter(lane.state for standing in standings for lane in standing.lanes)


async def begin(url: str) -> Bank:
    """Orders come in; when the bank is in trouble with some of them, the shop is stopped."""
    bank = Bank(in_trouble=True)
    async with shop(url, bank, Meter(WORLD)) as app:
        for invoice in islice(OrderFile(ORDERS), PLACED_BEFORE):
            await place_invoice(app, invoice, file="orders.csv")
        store = app.open_store()
        async with asyncio.timeout(30):
            while not {LaneState.RETRY, LaneState.PARKED} <= (await lanes(store)).keys() or len(bank.keys) < 20:
                await WORLD.sleep(0.005)
    return bank


async def go_on(url: str) -> tuple[Bank, Report, Counter[str]]:
    """The account is there now; all orders of the file are placed, those of before once more."""
    bank, meter = Bank(in_trouble=False), Meter(WORLD)
    async with shop(url, bank, meter) as app:
        async for letter in app.dead_letters.list():
            await app.dead_letters.retry(letter.id, by="ann")
        report = await Run(app, WORLD, meter, stop=asyncio.Event(), show=lambda figures, lines: None).file(
            OrderFile(ORDERS)
        )
        paid = Counter([recorded.event.order_id async for recorded in app.log.read(PaymentProcessed)])
    return bank, report, paid


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_shop_that_moves_with_work_under_way_pays_every_order_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    here = f"sqlite:///{tmp_path / 'shop.db'}"
    there = f"sqlite:///{tmp_path / 'there.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql_url")

    async def story() -> None:
        before = await begin(here)
        copied = await copy(open_transfer(here), open_transfer(there), WORLD)
        assert (copied.difference, copied.left) == (None, ())
        assert copied.rows["dead letters"] == 1
        assert copied.rows["lanes"] >= 2
        after, report, paid = await go_on(there)
        expected = recount(ORDERS)
        found = {
            name: Decimal(value) if name.startswith("amount_") else value
            for name, value in msgspec.structs.asdict(report).items()
        }
        found["events_in_log"] = report.events_in_log - 1  # the retry by hand is an event as well
        assert {name: found[name] for name in expected} == expected
        assert report.duplicates_ignored == PLACED_BEFORE
        assert set(paid.values()) == {1}
        assert len(paid) == expected["orders_placed"]
        # Those that were paid before are not charged again; those that were under way are, under the key of before.
        assert len(before.keys.keys() - after.keys.keys()) >= 13
        again = before.keys.keys() & after.keys.keys()
        assert len(again) >= 2
        assert all(before.keys[order] == after.keys[order] for order in again)
        store = open_store(there, read_only=True)
        await store.open(WORLD)
        assert (await verify(store, WORLD)).findings == ()
        await store.close()

    asyncio.run(story())
