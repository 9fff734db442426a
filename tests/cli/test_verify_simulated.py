"""`verify` calls no log damaged that the framework leaves behind, whatever happens to its processes, also in their midst."""

from __future__ import annotations

from decimal import Decimal

from ensue import App
from ensue.consumers.verify import Verification, verify
from ensue.testing import AppSimulation, simulate
from tests.cli.shop import OrderPlaced, PaymentProcessed, shop


async def verified(app: App) -> Verification:
    engine = app._open_engine()
    return await verify(engine.store, engine.world)


def order(number: int, customer: str) -> OrderPlaced:
    return OrderPlaced(order_id=f"o{number}", customer=customer, total=Decimal(number))


@simulate(shop("sqlite:///unused.db"), crashes="everywhere", runs=5)
async def test_a_log_is_whole_after_crashes_and_dead_letters_and_while_they_happen(sim: AppSimulation) -> None:
    await sim.app.publish(order(1, "anna"), order(2, "broke"))
    during = await sim.inside(verified)
    assert during.findings == ()
    await sim.run_until_quiet()
    after = await sim.inside(verified)
    assert after.findings == ()
    assert after.dead_letters == 1
    assert len(await sim.events(PaymentProcessed)) == 1
