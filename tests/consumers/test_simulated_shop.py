"""The whole application survives a crash at every step, pairs of crashes, and chance; planted bugs do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from ensue.testing import AppSimulation, simulate
from tests.consumers.shop import Gateway, OrderPlaced, OrderShipped, PaymentProcessed, order, shop


class Bank:
    """Outside of every process. Charges once for each idempotency key, however often it is asked."""

    charged: dict[str, Decimal]

    def __init__(self) -> None:
        self.charged = {}

    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None:
        self.charged.setdefault(idempotency_key, amount)


def bank() -> Iterator[Gateway]:
    yield Bank()


async def orders_are_shipped(sim: AppSimulation) -> None:
    for number in (1, 2, 3):
        await sim.app.publish(order(number))
    await sim.run_until_quiet()
    placed = await sim.events(OrderPlaced)
    assert sorted(event.order_id for event in placed) == ["o1", "o2", "o3"], f"placed: {placed}"
    paid = Counter(event.order_id for event in await sim.events(PaymentProcessed))
    shipped = Counter(event.order_id for event in await sim.events(OrderShipped))
    for kind, counts in (("PaymentProcessed", paid), ("OrderShipped", shipped)):
        for order_id in ("o1", "o2", "o3"):
            assert counts[order_id] == 1, f"{order_id} has {counts[order_id]} {kind}"
    rows = Counter(row[0] for row in await sim.rows("SELECT order_id FROM turnover"))
    assert rows == {"o1": 1, "o2": 1, "o3": 1}, f"the books hold {dict(rows)}"


@simulate(shop, replace=[bank], crashes="pairs", pairs=60, runs=40)
async def test_every_order_is_paid_shipped_and_booked_once(sim: AppSimulation) -> None:
    await orders_are_shipped(sim)
