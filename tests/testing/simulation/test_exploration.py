"""The strategies find planted bugs in a transactional application on real SQLite, and tell them in a few lines."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from ensue.testing.simulation import (
    NotQuiet,
    Setting,
    SimulatedWorld,
    Simulation,
    SimulationFailure,
    Tape,
    explore,
    run,
    simulate,
)
from ensue.testing.simulation.shrink import shrink
from tests.testing.simulation.warehouse import Bug, Warehouse, is_quiet, orders_are_shipped, warehouse


def setting(bug: Bug = "none") -> Setting[Warehouse]:
    return Setting(orders_are_shipped, warehouse(bug), quiet=is_quiet)


def test_a_correct_application_survives_a_crash_at_every_failpoint() -> None:
    report = explore(setting(), name="test", runs=0)
    assert report.crash_points == 32
    assert report.runs == 1 + report.crash_points
    assert sum(report.failpoints.values()) == report.crash_points
    assert len(report.failpoints) == 16


def test_pairs_of_crashes_are_spread_within_the_budget() -> None:
    report = explore(setting(), name="test", crashes="pairs", pairs=40, runs=0)
    assert report.pairs_tried == 40
    assert report.pairs > 500
    assert report.runs == 1 + report.crash_points + 40


def test_a_correct_application_survives_chance() -> None:
    assert explore(setting(), name="test", crashes="none", runs=60).seeds == 60


@pytest.mark.parametrize(
    ("bug", "complaint", "dies_at"),
    [
        ("no deduplication", "order simulation-1 was shipped 2 times", "relay sent"),
        ("checkpoint apart", "the clerk counted a turnover of 72, the orders say 42", "effects: committed"),
        ("acknowledged early", "order simulation-1 was never shipped", "shipped: begin"),
    ],
)
def test_a_planted_bug_is_found_and_named(bug: Bug, complaint: str, dies_at: str) -> None:
    with pytest.raises(SimulationFailure) as caught:
        explore(setting(bug), name="test", runs=0)
    story = str(caught.value)
    assert story.startswith(complaint)
    assert f"app#1 dies at `{dies_at}`, the 1st time it comes there" in story
    assert f"the check fails: {complaint}" in story
    assert len(caught.value.story) <= 10


def test_chance_finds_a_planted_bug_and_its_story_is_made_short() -> None:
    outcomes = (run(setting("checkpoint apart"), Tape.record(seed)) for seed in range(1, 200))
    failed = next(each for each in outcomes if each.error is not None and len(each.tape.choices) > 30)
    simplest = shrink(failed, lambda choices: run(setting("checkpoint apart"), Tape.replay(failed.tape.seed, choices)))
    assert len(simplest.tape.choices) <= 3
    assert len(simplest.trace) < len(failed.trace)
    assert type(simplest.error) is type(failed.error)


def test_what_a_failure_prints_repeats_it() -> None:
    @simulate(warehouse("acknowledged early"), quiet=is_quiet, crashes="none", runs=200)
    async def test(sim: Simulation[Warehouse]) -> None:
        await orders_are_shipped(sim)

    with pytest.raises(SimulationFailure) as first:
        test()
    with pytest.raises(SimulationFailure) as again:
        test.replay(first.value.replay)
    assert again.value.story == first.value.story
    assert test.report is None


def test_the_environment_says_what_to_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    @simulate(warehouse(), quiet=is_quiet)
    async def test(sim: Simulation[Warehouse]) -> None:
        seeds.append(sim.seed)

    monkeypatch.setenv("ENSUE_SIMULATION", "17")
    test()
    assert seeds == [17]


def test_the_failure_prints_the_command_that_repeats_it() -> None:
    @simulate(warehouse(), quiet=is_quiet)
    async def test(sim: Simulation[Warehouse]) -> None:
        assert sim.seed < 0, "seeds are positive"

    with pytest.raises(SimulationFailure) as caught:
        test()
    last = str(caught.value).splitlines()[-1]
    assert last.startswith("Replay: ENSUE_SIMULATION='simulation=1 python=3.")
    assert "seed=0' pytest" in last
    assert last.endswith("::test_the_failure_prints_the_command_that_repeats_it")


@simulate(warehouse(), quiet=is_quiet, runs=5)
async def test_a_simulated_test_takes_fixtures(
    sim: Simulation[Warehouse], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert tmp_path_factory is not None
    await sim.app.order(1)
    await sim.crash()
    await sim.run_until_quiet()
    assert (await sim.app.figures())[0] == 1


def test_an_application_that_is_never_done_is_not_quiet() -> None:
    async def never(_application: Warehouse) -> bool:
        return False

    async def scenario(sim: Simulation[Warehouse]) -> None:
        await sim.run_until_quiet(within=timedelta(seconds=30))

    outcome = run(Setting(scenario, warehouse(), quiet=never), Tape.boring())
    assert isinstance(outcome.error, NotQuiet)
    assert "clerk waits at" in str(outcome.error)


def test_two_processes_share_the_database() -> None:
    async def scenario(sim: Simulation[Warehouse]) -> None:
        other = sim.start_another()
        await other.app.order(5)
        await asyncio.gather(sim.app.order(6), other.app.order(7))
        await sim.advance(timedelta(seconds=1))
        assert (await sim.app.figures())[1] == (await other.app.figures())[1] == 18
        await other.stop()

    assert run(Setting(scenario, warehouse(), quiet=is_quiet), Tape.boring()).error is None


class Lease:
    """Outside of every process, as a row of a database is."""

    owner = ""
    until = 0.0


def test_a_zombie_that_writes_without_a_fence_is_found() -> None:
    """A process takes a lease, is paused beyond it, and writes although another owns it by then."""

    async def scenario(sim: Simulation[Warehouse]) -> None:
        lease = Lease()
        written: list[str] = sim.world.outside("written", list[str])

        async def owner(world: SimulatedWorld, _database: str) -> None:
            while lease.until > world.monotonic():
                await world.sleep(1)
            lease.owner, lease.until = str(world.process), world.monotonic() + 10
            world.failpoint("owner")
            await world.sleep(1)
            written.append(f"{world.process} {lease.owner}")

        await asyncio.gather(sim.process(owner, name="first"), sim.process(owner, name="second"))
        for line in written:
            writer, rightful = line.split()
            assert writer == rightful, f"{writer} wrote while {rightful} owned the lease"

    with pytest.raises(SimulationFailure, match="wrote while") as caught:
        explore(Setting(scenario, warehouse(), quiet=is_quiet), name="test", crashes="none", runs=500)
    assert any("pauses for" in line or "is late by 15 s" in line for line in caught.value.story)
