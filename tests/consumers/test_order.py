"""Events of one key one after another, other keys beside them, as many at once as the handler says."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

from ensue import ONE_ORDER, App, Context, Transaction
from ensue.consumers.runner import WINDOW
from ensue.store.base import Delivery, Page, Selection
from ensue.store.sqlite import SqliteStore
from ensue.testing import AppSimulation, simulate
from tests.consumers.clocks import Rang, Ticked, rung, tick, ticks


class Watched:
    """What runs at the moment, and in which order it began, by key."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.running: Counter[str] = Counter()
        self.most_of_a_key = self.most = 0
        self.begun: dict[str, list[int]] = defaultdict(list)

    async def handle(self, event: Ticked, key: str, seconds: float = 1.0) -> Rang:
        self.running[key] += 1
        self.begun[key].append(event.number)
        self.most_of_a_key = max(self.most_of_a_key, self.running[key])
        self.most = max(self.most, self.running.total())
        await asyncio.sleep(seconds)
        self.running[key] -= 1
        return Rang(clock_id=event.clock_id, number=event.number)


by_key, by_room, in_one_order, bounded, slow = Watched(), Watched(), Watched(), Watched(), Watched()

asynchronous = App("asynchronous")


@asynchronous.on
async def ring(event: Ticked) -> Rang:
    return await by_key.handle(event, event.clock_id)


@simulate(asynchronous, crashes="none", runs=0)
async def test_events_of_a_key_go_one_after_another_and_other_keys_beside_them(sim: AppSimulation) -> None:
    by_key.clear()
    await sim.app.publish(*ticks(30, "abcde"))
    await sim.run_until_quiet()
    assert by_key.most_of_a_key == 1
    assert by_key.most == 5
    assert all(numbers == [1, 2, 3, 4, 5, 6] for numbers in by_key.begun.values())


rooms = App("rooms")


@rooms.on(key="room_id")
async def ring_in_room(event: Ticked) -> Rang:
    return await by_room.handle(event, event.room_id)


@simulate(rooms, crashes="none", runs=0)
async def test_a_tag_may_be_the_key(sim: AppSimulation) -> None:
    by_room.clear()
    await sim.app.publish(tick(1, "a", "hall"), tick(2, "b", "hall"), tick(3, "c", "attic"), tick(4, "a", "hall"))
    await sim.run_until_quiet()
    assert by_room.most_of_a_key == 1
    assert by_room.most == 2
    assert by_room.begun == {"hall": [1, 2, 4], "attic": [3]}


ordered = App("ordered")


@ordered.on(key=ONE_ORDER)
async def ring_in_order(event: Ticked) -> Rang:
    return await in_one_order.handle(event, "all")


@simulate(ordered, crashes="none", runs=0)
async def test_one_order_handles_all_events_one_after_another(sim: AppSimulation) -> None:
    in_one_order.clear()
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(1, 7)))
    await sim.run_until_quiet()
    assert in_one_order.most == 1
    assert in_one_order.begun["all"] == [1, 2, 3, 4, 5, 6]


few = App("few")


@few.on(concurrency=3)
async def ring_three(event: Ticked) -> Rang:
    return await bounded.handle(event, event.clock_id)


@simulate(few, crashes="none", runs=0)
async def test_no_more_handlers_run_at_once_than_the_concurrency_says(sim: AppSimulation) -> None:
    bounded.clear()
    await sim.app.publish(*ticks(20, "abcdefghij"))
    await sim.run_until_quiet()
    assert bounded.most == 3


kinds = App("kinds")


@kinds.on
def on_a_thread(event: Ticked, ctx: Context) -> Rang:
    assert ctx.key == f"clock_id={event.clock_id}"
    return Rang(clock_id=f"thread-{event.clock_id}", number=event.number)


@kinds.on
async def on_the_loop(event: Ticked) -> list[Rang]:
    return [Rang(clock_id=f"async-{event.clock_id}", number=event.number)]


@kinds.on(pure=True)
def purely(event: Ticked) -> tuple[Rang, ...]:
    return (Rang(clock_id=f"pure-{event.clock_id}", number=event.number),)


@kinds.on
def inside(event: Ticked, tx: Transaction) -> Rang:
    tx.execute("CREATE TABLE IF NOT EXISTS seen (clock TEXT, number INTEGER)")
    tx.execute("INSERT INTO seen VALUES (?, ?)", event.clock_id, event.number)
    return Rang(clock_id=f"inside-{event.clock_id}", number=event.number)


@simulate(kinds, crashes="none", runs=10)
async def test_each_kind_of_handler_handles_each_event_once_in_key_order(sim: AppSimulation) -> None:
    await sim.app.publish(*ticks(8, "ab"))
    await sim.run_until_quiet()
    for kind in ("thread", "async", "pure", "inside"):
        for clock in ("a", "b"):
            assert await rung(sim, f"{kind}-{clock}") == [1, 2, 3, 4], f"{kind} of {clock}"
    seen = await sim.rows("SELECT number FROM seen WHERE clock = 'a' ORDER BY rowid")
    assert seen == [(1,), (2,), (3,), (4,)]


busy = App("busy")


@busy.on
async def ring_slowly(event: Ticked) -> Rang:
    return await slow.handle(event, event.clock_id, seconds=0.5 if event.clock_id == "slow" else 0.0)


class Seen(SqliteStore):
    """Remembers how far it was read."""

    reached = 0

    async def read(self, selection: Selection = (), **options: Any) -> Page:
        page = await super().read(selection, **options)
        Seen.reached = max(Seen.reached, page.rows[-1][0] if page.rows else 0)
        return page


@simulate(busy, crashes="none", runs=0, store=Seen)
async def test_a_slow_handler_bounds_what_is_held_in_memory(sim: AppSimulation) -> None:
    slow.clear()
    Seen.reached = 0
    for _ in range(6):
        await sim.app.publish(*(tick(number, "slow") for number in range(1_000)))
    await sim.advance(timedelta(milliseconds=900))
    assert slow.begun["slow"] == [0, 1]
    assert 1_000 <= Seen.reached <= WINDOW + 2


many = App("many")


@many.on(pure=True)
def echo(event: Ticked) -> Rang:
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(many, crashes="none", runs=0)
async def test_effects_of_many_keys_are_stored_in_few_commits(sim: AppSimulation) -> None:
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(2_000)))
    await sim.run_until_quiet()

    async def commits(app: App) -> int:
        store = app.open_store()
        records: list[Delivery] = list(await store.deliveries(range(1, 2_001)))
        return len(records)

    assert len(await rung(sim)) == 2_000
    batches = sum(entry.what == "append.committed" for entry in sim.surroundings.trace)
    assert batches < 60, f"{batches} transactions for 2,000 events"
    assert await sim.inside(commits) <= 16 * 4
