"""Patterns in an application through a crash at every step: what is found is in the log once, and is what the log says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from ensue import App
from ensue.events.recorded import Recorded
from ensue.patterns import Pattern
from ensue.patterns.detection import detector
from ensue.testing import AppSimulation, simulate
from tests.patterns.cards import (
    Payment,
    Probed,
    Silent,
    Stuck,
    Suspected,
    WentSilent,
    cards,
    expected,
    expected_timeouts,
    found,
    quiet,
)

STORY: tuple[tuple[int, tuple[tuple[str, int], ...]], ...] = (
    (0, (("a", 1), ("b", 1))),
    (1, (("a", 300), ("b", 7), ("a", 301))),
)
"""Seconds that pass, and then payments."""


async def settled(sim: AppSimulation, seconds: int) -> None:
    """Until so much time has passed, also by a clock that was set back, and whatever was under way is done."""
    sim.calm()
    await sim.run_until_quiet()
    last = max(one.row[5] for one in await sim.recorded())
    sim.world.jump_clock(timedelta(microseconds=max(0, last - sim.world.now())) + timedelta(seconds=seconds))
    await sim.advance(timedelta(seconds=13))  # a lease of a process that died ends
    await sim.run_until_quiet()


def check(recorded: Sequence[Recorded[Any]], until: datetime) -> None:
    patterns: tuple[type[Pattern], ...] = (Probed, Silent)
    for pattern in patterns:
        name = pattern.__ensue_pattern__.name
        there = found(recorded, name)
        assert len(there) == len(set(there)), f"{name} twice"
        assert set(there) == expected(recorded, pattern, until=until), name
    assert set(found(recorded, "Probed.TimedOut")) == expected_timeouts(recorded, Probed, until=until)
    counts = {kind: sum(isinstance(one.event, kind) for one in recorded) for kind in (Suspected, WentSilent, Stuck)}
    assert counts == {
        Suspected: len(found(recorded, "Probed")),
        WentSilent: len(found(recorded, "Silent")),
        Stuck: len(found(recorded, "Probed.TimedOut")),
    }


async def payments(sim: AppSimulation) -> None:
    for passed, paid in STORY:
        if passed:
            await sim.advance(timedelta(seconds=passed))
        await sim.app.publish(*(Payment(card=card, amount=amount) for card, amount in paid))
    await settled(sim, 60)
    recorded = await sim.recorded()
    assert len(found(recorded, "Silent")) >= 2
    check(recorded, max(one.recorded_at for one in recorded) + timedelta(days=1))


async def silence(sim: AppSimulation) -> None:
    await sim.app.publish(Payment(card="a", amount=1), Payment(card="b", amount=1))
    await sim.advance(timedelta(seconds=1))
    await sim.app.publish(Payment(card="a", amount=2))
    await settled(sim, 60)
    recorded = await sim.recorded()
    there = found(recorded, "Silent")
    assert len(there) == len(set(there)) == sum(isinstance(one.event, WentSilent) for one in recorded)
    assert set(there) == expected(recorded, Silent, until=recorded[-1].recorded_at + timedelta(days=1))


@pytest.mark.slow
def test_what_is_found_is_stored_once_through_a_crash_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "KEYS_AT_ONCE", 1)
    checked = simulate(quiet, crashes="everywhere", runs=0)(silence)
    checked()
    assert checked.report is not None
    assert {
        "detector.taken",
        "detector.ticked",
        "detector.committed",
        "detector.loaded",
        "detector.saved some",
    } <= checked.report.failpoints.keys()


def test_what_is_found_is_stored_once_whatever_chance_does() -> None:
    simulate(cards, crashes="none", runs=12)(payments)()


async def two_processes(sim: AppSimulation) -> None:
    sim.start_another()
    await payments(sim)


def test_two_processes_find_each_match_once_whatever_chance_does() -> None:
    simulate(cards, crashes="none", runs=8)(two_processes)()


async def paused(sim: AppSimulation) -> None:
    async def set_status(app: App, status: str) -> None:
        consumers = {one.name: one.id for one in await app.open_store().consumers()}
        await app.open_store().set_status(consumers["pattern.Probed"], status, None)

    await sim.app.publish(Payment(card="a", amount=1), Payment(card="a", amount=300))
    await sim.run_until_quiet()
    await sim.inside(lambda app: set_status(app, "paused"))
    await sim.advance(timedelta(seconds=4))
    await sim.app.publish(Payment(card="a", amount=301))
    await sim.advance(timedelta(seconds=4))
    assert found(await sim.recorded(), "Probed") == []
    await sim.inside(lambda app: set_status(app, "active"))
    await sim.advance(timedelta(seconds=4))
    await sim.run_until_quiet()
    assert len(found(await sim.recorded(), "Probed")) == 1


def test_a_pattern_that_is_paused_goes_on_where_it_was() -> None:
    simulate(cards, crashes="none", runs=0)(paused)()
