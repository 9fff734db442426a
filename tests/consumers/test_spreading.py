"""The segments of a consumer spread over the processes that live, whoever comes, stops, dies or sleeps; nothing is doubled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from ensue import ONE_ORDER, App, Context, Transaction
from ensue.consumers import runner
from ensue.consumers.lease import Lease
from ensue.consumers.machine import Machine
from ensue.consumers.ownership import Ownership, ownership, share
from ensue.consumers.runner import Runner
from ensue.store.base import Node, Request
from ensue.testing import AppSimulation, simulate
from ensue.testing.simulation import SimulationFailure
from ensue.testing.simulation.simulation import Started
from tests.consumers.clocks import Rang, Ticked, said, tick
from tests.consumers.invariants import violations

CLOCKS = "abcdefghijklmnopqrstuvwxyzABCDEF"
"""So many that each segment has some."""
WORKS_SECONDS = 0.9
QUIET = timedelta(hours=2)

app = App("spreading")
calls: Counter[int] = Counter()
working: Counter[str] = Counter()
together: list[str] = []
"""Keys of which two events were handled at once."""


@app.on
async def ring(event: Ticked, ctx: Context) -> Rang:
    calls[ctx.position] += 1
    working[event.clock_id] += 1
    if working[event.clock_id] > 1:
        together.append(event.clock_id)
    try:
        await asyncio.sleep(WORKS_SECONDS)
    finally:
        working[event.clock_id] -= 1
    return Rang(clock_id=event.clock_id, number=event.number)


@app.on(pure=True)
def echo(event: Ticked) -> Rang:
    return Rang(clock_id=f"echo of {event.clock_id}", number=event.number)


@app.on
def note(event: Ticked, tx: Transaction) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS noted (clock_id TEXT, number INTEGER)")
    tx.execute("INSERT INTO noted VALUES (?, ?)", event.clock_id, event.number)


@app.on(key=ONE_ORDER)
async def line_up(event: Ticked) -> Rang:
    return Rang(clock_id="the line", number=event.number)


EMIT_ONE = ("ring", "echo", "line_up")
SPREAD = ("ring", "echo", "note")


class Clocks:
    """Ticks are published one after another, over the clocks in turn."""

    def __init__(self, sim: AppSimulation) -> None:
        calls.clear()
        working.clear()
        together.clear()
        self._sim = sim
        self._count = 0

    async def tick(self, count: int) -> None:
        numbers = range(self._count, self._count + count)
        self._count += count
        await self._sim.app.publish(*(tick(number // len(CLOCKS), CLOCKS[number % len(CLOCKS)]) for number in numbers))

    async def all_is_well(self) -> None:
        """Everything was done once, and in order for each key."""
        found = await self._sim.inside(lambda app: violations(app, emit_one=EMIT_ONE))
        assert not found, found[0]
        noted = await self._sim.rows("SELECT clock_id, number FROM noted ORDER BY rowid") if self._count else []
        assert len(noted) == len(set(noted)) == self._count
        for clock in CLOCKS:
            numbers = [number for name, number in noted if name == clock]
            assert numbers == sorted(numbers), f"clock {clock} was noted as {numbers}"


async def spread(sim: AppSimulation, consumer: str = "ring") -> Ownership:
    async def look(app: App) -> Ownership:
        store = app.open_store()
        (found,) = (one for one in await store.consumers() if one.name == consumer)
        return await ownership(store, sim.world, found)

    return await sim.inside(look)


async def counts(sim: AppSimulation, consumer: str = "ring") -> list[int]:
    """How many segments each owner has, most first, and a 0 at the end if some have none."""
    found = await spread(sim, consumer)
    return sorted((len(owner.segments) for owner in found.owners), reverse=True) + [0] * bool(found.unowned)


async def unbalanced(sim: AppSimulation, processes: int) -> str:
    """What is not as it should be at rest; empty if nothing."""
    for consumer in (*SPREAD, "line_up"):
        found = await spread(sim, consumer)
        owned = [len(owner.segments) for owner in found.owners]
        if len(found.able) != processes:
            return f"{consumer} can be run by {len(found.able)} processes, and {processes} live"
        if found.unowned:
            return f"nobody owns segment {found.unowned[0]} of {consumer}, and {processes} could"
        if max(owned) > found.share:
            return f"a process owns {max(owned)} segments of {consumer}, its share is {found.share}"
        for owner in found.owners:
            held = _held(sim, owner.node.id, consumer)
            if held != list(owner.segments):
                return f"a process holds segments {held} of {consumer}, and owns {owner.segments}"
    return ""


def _held(sim: AppSimulation, node: bytes, consumer: str) -> list[int]:
    """What a process has in its memory."""
    for place in sim._nodes:
        engine = place.life.application._engine if place.life is not None else None
        if engine is not None and engine._node is not None and engine._node.lease.node.id == node:
            return [
                seg for one in engine._node.runners if one.consumer.name == consumer for seg in sorted(one.machines)
            ]
    return []


async def comes_to_rest(
    sim: AppSimulation, processes: int, *, within_seconds: float, looks_every: float = 0.1
) -> float:
    """Wait until shares are balanced; how long that took."""
    began = sim.world.monotonic()
    while wrong := await unbalanced(sim, processes):
        took = sim.world.monotonic() - began
        assert took < within_seconds, f"after {took:.1f} s, {wrong}"
        await sim.advance(timedelta(seconds=looks_every))
    return sim.world.monotonic() - began


async def fences(sim: AppSimulation) -> list[int]:
    """They grow by each change of owner."""

    async def read(app: App) -> list[int]:
        store = app.open_store()
        return [row.fence for one in await store.consumers() for row in (await store.standing(one.id)).progress]

    return await sim.inside(read)


# ------------------------------------------------------------------------------------------------------ orderly change


async def two_come_and_one_goes(sim: AppSimulation) -> None:
    clocks = Clocks(sim)
    others: list[Started[App]] = []
    for second in range(14):
        if second in (2, 3):
            others.append(sim.start_another())
        if second == 8:
            await others.pop().stop()
        await clocks.tick(len(CLOCKS))
        await sim.advance(timedelta(seconds=1))
    await sim.run_until_quiet(within=QUIET)
    await comes_to_rest(sim, 2, within_seconds=10)
    await clocks.all_is_well()
    twice = [position for position, count in calls.items() if count > 1]
    assert not twice, f"position {twice[0]} was handled {calls[twice[0]]} times though nobody died"
    assert not together, f"two events of clock {together[0]} were handled at once"
    assert not said(sim, "SegmentsLost")


@simulate(app, crashes="none", runs=0)
async def test_while_processes_come_and_go_in_order_every_event_is_handled_exactly_once(sim: AppSimulation) -> None:
    await two_come_and_one_goes(sim)


@simulate(app, crashes="none", runs=0)
async def test_a_process_that_comes_has_its_share_within_a_beat_and_the_drain(sim: AppSimulation) -> None:
    await sim.advance(timedelta(seconds=20))
    assert await counts(sim) == [16]
    for processes in (2, 3, 4):
        sim.start_another()
        await comes_to_rest(sim, processes, within_seconds=4.5)
    assert await counts(sim) == [4, 4, 4, 4]


@simulate(app, crashes="none", runs=0)
async def test_one_global_order_stays_with_whoever_has_it(sim: AppSimulation) -> None:
    await sim.advance(timedelta(seconds=20))
    (before,) = (await spread(sim, "line_up")).owners
    other = sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)
    await sim.advance(timedelta(minutes=1))
    assert (await spread(sim, "line_up")).owners[0].node.id == before.node.id
    await other.stop()
    await sim.advance(timedelta(seconds=5))
    assert (await spread(sim, "line_up")).owners[0].node.id == before.node.id


@simulate(app, crashes="none", runs=0)
async def test_what_a_process_gives_up_when_it_stops_is_taken_while_its_last_handlers_work(sim: AppSimulation) -> None:
    clocks = Clocks(sim)
    other = sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)
    await clocks.tick(1)
    stopping = sim.world.spawn(other.stop(), name="stopping")
    await comes_to_rest(sim, 1, within_seconds=2.5)
    await stopping
    await sim.run_until_quiet()
    await clocks.all_is_well()


@simulate(app, crashes="none", runs=0)
async def test_what_a_dead_process_of_another_machine_owned_is_taken_when_its_lease_ends(sim: AppSimulation) -> None:
    other = sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)
    other.pause(timedelta(minutes=20))
    took = await comes_to_rest(sim, 1, within_seconds=10.2)
    assert took > 6.9, "it was still alive by its lease"


async def robbed(sim: AppSimulation) -> None:
    """Somebody who takes the living for dead takes a few segments, and dies. Then the clock is set."""
    sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)

    async def rob(app: App) -> None:
        now = sim.world.now()
        thief = Node(id=b"the thief.......", host="elsewhere", pid=1, started_at=now, expires_at=now, can=())
        await app.open_store().claim(1, thief, now=now + 20_000_000, most=3)

    await sim.inside(rob)
    sim.world.jump_clock(timedelta(seconds=-5))
    await comes_to_rest(sim, 2, within_seconds=20)


@simulate(app, crashes="none", runs=0)
async def test_who_may_have_looked_dead_notices_what_was_taken_and_takes_it_back(sim: AppSimulation) -> None:
    await robbed(sim)


async def one_sleeps_and_wakes(sim: AppSimulation) -> None:
    other = sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)
    for sleeps in (9, 11, 14, 40):
        other.pause(timedelta(seconds=sleeps))
        await sim.advance(timedelta(seconds=sleeps))
        await comes_to_rest(sim, 2, within_seconds=8)


@simulate(app, crashes="none", runs=0)
async def test_who_wakes_after_its_lease_holds_nothing_that_is_another_s_and_gets_its_share(sim: AppSimulation) -> None:
    await one_sleeps_and_wakes(sim)


@simulate(app, crashes="none", runs=0)
async def test_a_paused_consumer_moves_not_and_spreads_when_it_is_resumed(sim: AppSimulation) -> None:
    async def set_status(status: str) -> None:
        await sim.inside(lambda app: _set_status(app, status))

    await sim.advance(timedelta(seconds=5))
    await set_status("paused")
    await sim.advance(timedelta(seconds=5))
    sim.start_another()
    await sim.advance(timedelta(seconds=20))
    assert await counts(sim) == [16]
    assert (await spread(sim)).able == ()
    await set_status("active")
    await comes_to_rest(sim, 2, within_seconds=8)


async def _set_status(app: App, status: str) -> None:
    store = app.open_store()
    await store.set_status(1, status, None)


@simulate(app, crashes="none", runs=0)
async def test_at_rest_nothing_changes_its_owner_any_more(sim: AppSimulation) -> None:
    for _ in range(2):
        sim.start_another()
    await comes_to_rest(sim, 3, within_seconds=10)
    assert await counts(sim) == [6, 6, 4]
    before = await fences(sim)
    await sim.advance(timedelta(minutes=2))
    assert await fences(sim) == before


@simulate(app, crashes="none", runs=0)
async def test_a_clock_that_is_set_takes_nothing_from_anybody(sim: AppSimulation) -> None:
    sim.start_another()
    await comes_to_rest(sim, 2, within_seconds=10)
    before = await fences(sim)
    for jump in (-3600, 90, -5, 10_000):
        sim.world.jump_clock(timedelta(seconds=jump))
        await sim.advance(timedelta(seconds=30))
    assert await fences(sim) == before
    assert not said(sim, "SegmentsLost")


# ------------------------------------------------------------------------------------------------------------- hanging

hanging = App("hanging")


@hanging.on(name="ring")
async def hang(event: Ticked) -> Rang:
    if event.clock_id == "stuck":
        await asyncio.sleep(300)
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(hanging, crashes="none", runs=0)
async def test_a_segment_whose_handler_hangs_stays_and_all_others_go(sim: AppSimulation) -> None:
    await sim.advance(timedelta(seconds=1))
    await sim.app.publish(tick(1, "stuck"))
    await sim.advance(timedelta(seconds=1))
    for _ in range(15):
        sim.start_another()
    await sim.advance(timedelta(seconds=20))
    assert await counts(sim) == [1] * 16
    receipt = await sim.app.publish(*(tick(2, clock) for clock in CLOCKS))
    began = sim.world.monotonic()
    await sim.inside(lambda app: _wait(app, receipt))
    assert sim.world.monotonic() - began < 5


async def _wait(app: App, receipt: Any) -> None:
    await receipt.wait()


# -------------------------------------------------------------------------------------------------------------- chance


async def whatever_happens(sim: AppSimulation) -> None:
    """Processes come, stop, die, and sleep beyond their lease, as the seed says; and as the tape says, at every step."""
    chance = random.Random(f"spreading {sim.seed}")
    clocks, others = Clocks(sim), list[Started[App]]()
    for _ in range(12):
        await clocks.tick(chance.randint(1, 8))
        step = chance.choice(("start", "start", "stop", "crash", "sleep", "sleep", "wait"))
        if step == "start" and len(others) < 3:
            others.append(sim.start_another())
        elif step == "stop" and others:
            await others.pop(chance.randrange(len(others))).stop()
        elif step == "crash":
            await (chance.choice(others).crash() if others else sim.crash())
        elif step == "sleep" and others:
            chance.choice(others).pause(timedelta(seconds=chance.choice((3, 12, 25))))
        await sim.advance(timedelta(seconds=chance.choice((0.1, 1, 4, 11))))
    await sim.run_until_quiet(within=QUIET)
    await clocks.all_is_well()
    sim.calm()
    await comes_to_rest(sim, 1 + len(others), within_seconds=90, looks_every=0.5)


@simulate(app, crashes="none", runs=20)
async def test_processes_that_come_stop_die_and_sleep_double_nothing_and_come_to_rest(sim: AppSimulation) -> None:
    await whatever_happens(sim)


# ------------------------------------------------------------------------------------------------------- planted bugs


class GivesUpWhileACallRuns(Machine):
    """It does not wait for the calls that run when it is to give a segment up."""

    def commit(self, now: int, *, flush: bool = False) -> Request | None:
        running, self.running = self.running, 0
        try:
            return super().commit(now, flush=flush)
        finally:
            self.running = running


def owns_all(self: Lease, consumer: int, segments: int) -> int:
    return segments


def found_wrong(scenario: Callable[[AppSimulation], Awaitable[None]]) -> str:
    checked = simulate(app, crashes="none", runs=0)(scenario)
    with pytest.raises(SimulationFailure) as failure:
        checked()
    return str(failure.value)


def test_giving_up_a_segment_while_a_call_of_it_runs_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Machine", GivesUpWhileACallRuns)
    assert "times though nobody died" in found_wrong(two_come_and_one_goes)


async def three_come_to_rest(sim: AppSimulation) -> None:
    await sim.advance(timedelta(seconds=5))
    for _ in range(2):
        sim.start_another()
    await comes_to_rest(sim, 3, within_seconds=15)
    before = await fences(sim)
    await sim.advance(timedelta(seconds=15))
    assert await fences(sim) == before, "segments go to and fro"


def test_keeping_more_than_the_share_for_ever_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "share", owns_all)
    assert "a process owns 16 segments of ring, its share is 6" in found_wrong(three_come_to_rest)


def test_holding_what_another_has_taken_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believes(self: Runner) -> None:
        """It holds what it holds."""

    monkeypatch.setattr(Runner, "_compare", believes)
    assert "nobody owns segment" in found_wrong(robbed)


def test_giving_up_what_is_within_the_share_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    balance = Runner._balance

    def drains_too_much(self: Runner) -> None:
        if not any(machine.draining for machine in self.machines.values()) and len(self.machines) == self._share > 1:
            next(iter(self.machines.values())).drain()
        balance(self)

    monkeypatch.setattr(Runner, "_balance", drains_too_much)
    assert "segments go to and fro" in found_wrong(three_come_to_rest)


# ----------------------------------------------------------------------------------------------------- the rule itself


def rests(segments: int, owned: Sequence[int]) -> None:
    """Every order of giving up and taking, from this start, ends with all segments owned and nobody above the share, and
    gives up no more than what was above it at first."""
    most, seen = share(segments, len(owned)), dict[tuple[int, ...], int]()
    excess = sum(max(0, one - most) for one in owned)
    todo = [(tuple(sorted(owned)), 0)]
    while todo:
        state, given_up = todo.pop()
        if seen.get(state, -1) >= given_up:
            continue
        seen[state] = given_up
        assert given_up <= excess
        moves = 0
        for place, one in enumerate(state):
            if one > most:
                moves += 1
                todo.append((tuple(sorted((*state[:place], one - 1, *state[place + 1 :]))), given_up + 1))
            if one < most and sum(state) < segments:
                moves += 1
                todo.append((tuple(sorted((*state[:place], one + 1, *state[place + 1 :]))), given_up))
        if not moves:
            assert sum(state) == segments
            assert max(state) <= most


def starts(segments: int, processes: int) -> Iterator[list[int]]:
    if processes == 1:
        yield from ([count] for count in range(segments + 1))
        return
    for first in range(segments + 1):
        for rest in starts(segments - first, processes - 1):
            if not rest or first >= rest[0]:
                yield [first, *rest]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5])
def test_from_whatever_start_the_rule_comes_to_rest(processes: int) -> None:
    for segments in (1, 2, 7, 16) if processes < 5 else (1, 2, 7):
        for owned in starts(segments, processes):
            rests(segments, owned)
