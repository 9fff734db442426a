"""What is seen of a shop while it runs: when it is quiet, who is behind, what was parked."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import msgspec

from ensue.app import open_store
from ensue.examples.shop import shop
from ensue.examples.shop.events import Line, OrderPlaced
from ensue.examples.shop.meter import Meter, quantile_of
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.payment import Gateway
from ensue.examples.shop.running import Report, Run
from ensue.world import RealWorld

ORDERS = Path(__file__).parent / "data" / "orders.csv"
REFUSED = "536366"


class Bank:
    """Refuses one order."""

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        if order_id == REFUSED:
            raise PermissionError("the card is blocked")
        return "paid"

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        return "refunded"


def bank() -> Gateway:
    return Bank()


def test_a_run_ends_though_a_payment_is_a_dead_letter(tmp_path: Path) -> None:
    async def run() -> tuple[Report, Meter]:
        world = RealWorld()
        meter = Meter(world)
        store = open_store(f"sqlite:///{tmp_path / 'shop.db'}")
        app = shop().in_world(world, store, replace=[bank], observe=meter.observe)
        async with app:
            running = Run(app, world, meter, stop=asyncio.Event(), show=lambda figures, lines: None)
            return await running.file(OrderFile(ORDERS)), meter

    report, meter = asyncio.run(run())
    assert (report.orders_placed, report.payments, report.shipments) == (58, 57, 57)
    assert (report.dead_letters, meter.parked, report.stock_balanced) == (1, 1, True)


def test_what_is_not_handled_yet_is_the_lag_of_its_consumers(tmp_path: Path) -> None:
    async def look() -> dict[str, object]:
        world = RealWorld()
        meter = Meter(world)
        app = shop(f"sqlite:///{tmp_path / 'shop.db'}", world=world)
        order = OrderPlaced(
            order_id="1",
            customer_id=None,
            country="",
            ordered_at="",
            lines=(Line("20001", 1, Decimal(1)),),
            total=Decimal(1),
        )
        async with app.connected():
            await app.publish(order)
            figures = await meter.look(app.open_store())
            assert not meter.quiet
            return msgspec.structs.asdict(figures)

    found = asyncio.run(look())
    assert (found["events"], found["orders"], found["notified"]) == (1, 1, 0)
    assert found["lag"] == {
        "orders.split_order": 1,
        "orders.split_cancellation": 0,
        "inventory.update_stock": 0,
        "payment.take_payment": 1,
        "payment.refund": 0,
        "shipping.ship": 0,
        "notification.notify": 0,
    }


def test_the_quantile_of_nothing_is_zero_and_the_highest_is_the_last() -> None:
    assert quantile_of([], 0.5) == 0.0
    assert quantile_of([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile_of([1.0, 2.0, 3.0], 1.0) == 3.0
