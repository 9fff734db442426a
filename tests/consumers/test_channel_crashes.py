"""Two applications joined by a channel go through crashes at every step of either, and through pairs of them, with each event in both
logs once and in the order of its key."""

from __future__ import annotations

import pytest

from ensue import App
from ensue.testing.simulation import Choice, Setting, Simulation, Tape, run
from tests.consumers.apart import (
    Apart,
    Placed,
    back_of,
    front_of,
    nothing_left,
    simulate_apart,
    starts,
)

ORDERS = [("a", 1), ("b", 2), ("a", 3)]
AT_BOTH_ENDS = ("channel.publish", "channel.confirmed", "inbox.received", "inbox.stored", "inbox.accepted")
DIRECTLY = ("direct.received", "direct.kept", "direct.accepted")


async def orders_are_paid(sim: Apart) -> None:
    for order, number in ORDERS:
        await sim.app.publish(Placed(order=order, number=number))
    await sim.all_quiet()
    await sim.logs_agree(ORDERS)


async def one_order_is_paid(sim: Apart) -> None:
    await sim.app.publish(Placed(order="a", number=1))
    await sim.all_quiet()
    await sim.logs_agree([("a", 1)])


def test_a_crash_of_either_between_receiving_and_accepting_or_sending_and_confirming_changes_nothing() -> None:
    async def scenario(sim: Simulation[App]) -> None:
        assert isinstance(sim, Apart)
        await one_order_is_paid(sim)

    quiet = nothing_left("front", "back")
    setting = Setting(scenario, starts(front_of(), back_of()), quiet=quiet, simulation=Apart, permuted=False)
    boring = run(setting, Tape.boring())
    crashed = set()
    for nth, label in boring.failpoints:
        name = label.split("/", 2)[2]
        if name in AT_BOTH_ENDS:
            outcome = run(setting, Tape.replay(0, [Choice(label, nth, 1)]))
            assert outcome.error is None, f"{label}: {outcome.error}"
            crashed.add(name)
    assert crashed == set(AT_BOTH_ENDS)


@pytest.mark.slow
def test_every_event_is_in_both_logs_once_through_crashes_of_either_at_every_step_and_pairs_of_them() -> None:
    checked = simulate_apart(front_of(), back_of(), crashes="pairs", pairs=60)(orders_are_paid)
    checked()
    assert checked.report is not None
    assert set(AT_BOTH_ENDS) <= checked.report.failpoints.keys()


@pytest.mark.slow
def test_every_event_is_in_both_logs_once_whatever_chance_does() -> None:
    simulate_apart(front_of(), back_of(), crashes="none", runs=60)(orders_are_paid)()
