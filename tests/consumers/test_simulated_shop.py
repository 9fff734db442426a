"""The whole application survives a crash at every step, pairs of crashes, and chance, with each kind of trouble."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

from ensue import App, Context, Event, Retry, Service
from ensue.errors import OutcomeUnknown
from ensue.testing import AppSimulation, simulate
from tests.consumers.invariants import violations
from tests.consumers.shop import Gateway, OrderPlaced, OrderShipped, PaymentProcessed, order, shop

EMIT_ONE = ("payments.take_payment", "shipping.ship")


class Bank:
    """Outside of every process. Charges once for each idempotency key, however often it is asked."""

    def __init__(self) -> None:
        self.charged: dict[str, Decimal] = {}

    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None:
        self.charged.setdefault(idempotency_key, amount)


def bank() -> Iterator[Gateway]:
    yield Bank()


async def all_is_well(sim: AppSimulation) -> None:
    found = await sim.inside(lambda app: violations(app, emit_one=EMIT_ONE))
    assert not found, found[0]


async def orders_are_shipped(sim: AppSimulation, orders: int = 3) -> None:
    for number in range(1, orders + 1):
        await sim.app.publish(order(number))
    await sim.run_until_quiet()
    counts = {
        "OrderPlaced": Counter(event.order_id for event in await sim.events(OrderPlaced)),
        "PaymentProcessed": Counter(event.order_id for event in await sim.events(PaymentProcessed)),
        "OrderShipped": Counter(event.order_id for event in await sim.events(OrderShipped)),
        "line in the books": await booked(sim),
    }
    for what, count in counts.items():
        for id in (f"o{number}" for number in range(1, orders + 1)):
            assert count[id] == 1, f"{id} has {count[id]} {what}"
    await all_is_well(sim)


async def booked(sim: AppSimulation) -> Counter[str]:
    tables = await sim.rows("SELECT 1 FROM sqlite_schema WHERE name = 'turnover'")
    return Counter(row[0] for row in await sim.rows("SELECT order_id FROM turnover")) if tables else Counter()


@simulate(shop, replace=[bank], crashes="pairs", pairs=60, runs=0)
async def test_an_order_is_paid_shipped_and_booked_once_through_crashes_everywhere_and_pairs_of_them(
    sim: AppSimulation,
) -> None:
    await orders_are_shipped(sim, orders=1)


@simulate(shop, replace=[bank], crashes="none", runs=80)
async def test_orders_are_paid_shipped_and_booked_once_whatever_chance_does(sim: AppSimulation) -> None:
    await orders_are_shipped(sim, orders=3)


# ------------------------------------------------------------------------------------------------ every crash point

HAPPY_PATH = {
    "append.queued": 1,
    "append.locked": 2,
    "append.rows written": 3,
    "append.commit": 4,
    "append.committed": 5,
    "append.answered": 6,
    "delivery.routed": 7,
    "delivery.started": 8,
    "delivery.called": 9,
    "delivery.finished": 10,
    "delivery.committed": 12,
    "segments.claimed": 20,
    "consumer.defined": 30,
}
"""Failpoints by the number of the crash in the specification. 11 is 2 to 4 of a consumer's commit."""


def test_the_process_died_at_every_place_between_reading_an_event_and_its_commit() -> None:
    @simulate(shop, replace=[bank], crashes="everywhere", runs=0)
    async def one_order(sim: AppSimulation) -> None:
        await sim.app.publish(order(1))
        await sim.run_until_quiet()
        await all_is_well(sim)

    one_order()
    assert one_order.report is not None
    assert HAPPY_PATH.keys() <= one_order.report.failpoints.keys()


# --------------------------------------------------------------------------------------------- failures and operators


class Counted(Event, key="track"):
    track: str
    number: int


class Kept(Event, key="track"):
    track: str
    number: int


steps = Service("steps")
RETRY = Retry(attempts=2, first=timedelta(seconds=1), jitter=False)


@steps.on(retry=RETRY)
async def keep(counted: Counted, broken: set[int]) -> Kept:
    if counted.number in broken:
        raise ValueError(f"{counted.number} cannot be kept")
    return Kept(track=counted.track, number=counted.number)


broken_numbers: set[int] = set()
"""What the world outside refuses at the moment. It survives the processes, as the world does."""


@steps.provide
def refused() -> set[int]:
    return broken_numbers


counting = App("counting")
counting.include(steps)

FAILING = {"delivery.failed": 13, "lane.written": 14, "lane.dropped": 17, "lane.parked": 18, "operator.written": 19}


async def a_key_is_parked_and_released(sim: AppSimulation) -> None:
    broken_numbers.clear()
    broken_numbers.add(2)
    for name, number in (("a", 1), ("a", 2), ("b", 1), ("a", 3)):
        await sim.app.publish(Counted(track=name, number=number))
    await sim.run_until_quiet()
    (letter,) = await sim.dead_letters()
    assert letter.key_text == "track=a"
    assert letter.attempts >= 2, "more, where an attempt was written ahead and its process died before it made it"
    kept = [(event.track, event.number) for event in await sim.events(Kept)]
    assert sorted(kept) == [("a", 1), ("b", 1)], f"kept before the release: {kept}"
    broken_numbers.clear()
    await release(sim, letter.id)
    await sim.run_until_quiet()
    while died := await sim.dead_letters():  # by as many deaths in a row as there are attempts
        assert [one.reason for one in died] == ["the process died while handling it"]
        await release(sim, died[0].id)
        await sim.run_until_quiet()
    kept = [(event.track, event.number) for event in await sim.events(Kept)]
    assert [number for name, number in kept if name == "a"] == [1, 2, 3], f"kept after the release: {kept}"
    found = await sim.inside(lambda app: violations(app, emit_one=["steps.keep"]))
    assert not found, found[0]


async def release(sim: AppSimulation, letter: int) -> None:
    """What an operator does; a second time, when the process died or it is not known whether it was done."""

    async def retry(app: App) -> None:
        while letter in [each.id async for each in app.dead_letters.list()]:
            with contextlib.suppress(OutcomeUnknown):
                await app.dead_letters.retry(letter, by="the test")

    await sim.inside(retry)


def test_a_parked_key_and_its_release_survive_a_crash_at_every_step() -> None:
    checked = simulate(counting, crashes="everywhere", runs=30)(a_key_is_parked_and_released)
    checked()
    assert checked.report is not None
    assert FAILING.keys() <= checked.report.failpoints.keys()


# ------------------------------------------------------------------------------------------------------ slow handlers

slow = App("slow")


@slow.on(name="keep", retry=RETRY, timeout=timedelta(seconds=2))
async def dawdle(counted: Counted, ctx: Context) -> Kept:
    if counted.number == 1 and ctx.attempt == 1:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(4)
    return Kept(track=counted.track, number=counted.number)


def test_a_handler_that_runs_past_its_limit_survives_a_crash_at_every_step() -> None:
    @simulate(slow, crashes="everywhere", runs=10)
    async def three_events(sim: AppSimulation) -> None:
        await sim.app.publish(
            *(Counted(track=track, number=number) for track, number in (("a", 1), ("a", 2), ("b", 3)))
        )
        await sim.run_until_quiet()
        kept = [(event.track, event.number) for event in await sim.events(Kept)]
        assert [number for track, number in kept if track == "a"] == [1, 2], f"kept: {kept}"
        assert ("b", 3) in kept
        found = await sim.inside(lambda app: violations(app, emit_one=["keep"]))
        assert not found, found[0]

    three_events()
    assert three_events.report is not None
    detached = {"delivery.detached": 15, "lane.written": 16, "lane.dropped": 17}
    assert detached.keys() <= three_events.report.failpoints.keys()
