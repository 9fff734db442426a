"""The shop of five services goes through whatever chance has for it (crashes, delays, lost answers), with its books in order."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from ensue.examples.shop import shop
from ensue.examples.shop.audit import Audit
from ensue.examples.shop.events import CustomerNotified, Line, OrderCancelled, OrderPlaced, total_of
from ensue.testing import AppSimulation, simulate

LINES = (Line("20001", 2, Decimal("1.25")), Line("20002", 1, Decimal("9.99")))


@simulate(shop(seed=3), crashes="none", runs=60)
async def test_the_books_are_in_order_whatever_happens(sim: AppSimulation) -> None:
    about = {"customer_id": "1", "country": "Spain", "ordered_at": ""}
    await sim.app.publish(OrderPlaced(order_id="1", lines=LINES, total=total_of(LINES), **about))
    await sim.app.publish(OrderCancelled(order_id="C2", lines=LINES, total=total_of(LINES), **about))
    await sim.run_until_quiet(within=timedelta(hours=1))
    books = Audit()
    for recorded in await sim.recorded():
        books.add(recorded.event)
    assert books.stock_balanced, f"on hand: {books.stock}"
    assert dict(await sim.rows("SELECT sku, on_hand FROM shop_stock")) == books.stock
    assert (books.payments, books.shipments) == (1, 1)
    assert sorted(told.order_id for told in await sim.events(CustomerNotified)) == ["1", "C2"]
