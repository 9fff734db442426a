"""Consumers against the raw limit: `make bench-pipeline`. What each line means is in bench/README.md."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from bench import ours
from bench.measure import Outcome, Report, alternate, fdatasync_seconds
from bench.orders import OrderPlaced, PaymentProcessed, digest, order
from ensue import App, Event, Transaction

__all__ = ["handle", "main", "pure"]

ROUNDS = 5
EVENTS = 20_000
ALONE = 300
FSYNCS_ALLOWED = 3
BEFORE = 30_000
"""Events after which the write-ahead file has come round."""

Register: TypeAlias = Callable[[App], None]


def pure(app: App) -> None:
    """A handler that only computes."""

    @app.on(name="pay", pure=True, start="beginning")
    def pay(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id, amount=order.total)


def coroutine(app: App) -> None:
    """An async handler: each event of an order after the commit of the one before."""

    @app.on(name="pay", start="beginning")
    async def pay(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id, amount=order.total)


def thread(app: App) -> None:
    """A plain handler, on a thread."""

    @app.on(name="pay", start="beginning")
    def pay(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id, amount=order.total)


def inside(app: App) -> None:
    """A handler inside the commit, which keeps a table of its own besides."""

    @app.on(name="pay", start="beginning")
    def pay(order: OrderPlaced, sql: Transaction) -> PaymentProcessed:
        sql.execute("INSERT INTO paid VALUES (?, ?)", order.order_id, str(order.total))
        return PaymentProcessed(order_id=order.order_id, amount=order.total)


def main() -> None:
    """All of it, about two minutes."""
    report = Report("Consumers, and what they are measured against")
    fsync = fdatasync_seconds()
    report.row("one fdatasync of this disk", "", f"{fsync * 1e3:.3f} ms")
    report.section()
    _throughput(report)
    _latency(report)
    report.show()


def _throughput(report: Report) -> None:
    report.say(f"{EVENTS:,} events in, one out each, by each kind of handler")
    events = [order(number) for number in range(EVENTS)]
    sides = {
        "bulk append of as many": partial(ours.append_batches, ours.new_file, events),
        "pure": partial(handle, ours.new_file, events, pure),
        "async": partial(handle, ours.new_file, events, coroutine),
        "thread": partial(handle, ours.new_file, events, thread),
        "inside the commit": partial(handle, ours.new_file, events, inside),
    }
    figures = alternate("pipeline", ROUNDS, sides)
    report.rates("events in, one event out each, exactly once", figures)
    bulk = figures["bulk append of as many"]
    report.ratio("pipeline", figures["pure"], bulk)
    report.ratio("pipeline-async", figures["async"], bulk)
    report.ratio("pipeline-thread", figures["thread"], bulk)
    report.ratio("pipeline-inside", figures["inside the commit"], bulk)


def handle(place: ours.Place, events: Sequence[OrderPlaced], register: Register) -> Outcome:
    """The log is full; the consumer is new. Measured until the last effect is durable."""

    async def run() -> Outcome:
        with place() as url:
            app = ours.application(url)
            async with app.connected():
                await ours.fill(app, events)
                await app.transact(lambda sql: sql.execute("CREATE TABLE paid (order_id TEXT, total TEXT)"))
            app = ours.application(url)
            register(app)
            began = time.perf_counter()
            async with app:
                await app.open_store().changed(2 * len(events) - 1)
                seconds = time.perf_counter() - began
                return Outcome(len(events) / seconds, await _checked(app, len(events)))

    return asyncio.run(run())


async def _checked(app: App, count: int) -> str:
    """The digest of the orders, each with exactly one payment that it caused."""
    orders: dict[int, OrderPlaced] = {}
    paid: set[int] = set()
    async for recorded in app.log.read(Event):
        event = recorded.event
        if isinstance(event, OrderPlaced):
            orders[recorded.row[0]] = event
        elif isinstance(event, PaymentProcessed):
            cause = orders[recorded.cause or 0]
            if recorded.cause in paid or (cause.order_id, cause.total) != (event.order_id, event.amount):
                sys.exit(f"the payment at {recorded.position} is not the one and only of its order")
            paid.add(recorded.cause or 0)
    if len(paid) != count:
        sys.exit(f"{count - len(paid)} of {count} orders have no payment")
    return digest((event.order_id, event.sku, event.quantity, event.total) for event in orders.values())


def _latency(report: Report) -> None:
    """One event at a time, from the call of `publish` until the event its handler emitted is durable.

    The log has run for a while: its write-ahead file has come round, so that commits write over it. In a new log each
    commit makes the file longer, which costs this disk as much again; that is the line "in a new log".
    """
    report.say(f"{ALONE} events alone, through one handler")
    kinds: dict[str, Register] = {"pure": pure, "async": coroutine, "thread": thread}
    times: dict[str, list[float]] = {name: [] for name in (*kinds, "pure, in a new log")}
    fsyncs: list[float] = []
    for _ in range(ROUNDS):
        fsyncs.append(fdatasync_seconds())
        for name, register in kinds.items():
            with ours.new_file() as url:
                times[name] += asyncio.run(_one_by_one(url, register, BEFORE))
        with ours.new_file() as url:
            times["pure, in a new log"] += asyncio.run(_one_by_one(url, pure, 0))
    fsync = statistics.median(fsyncs)
    for name, values in times.items():
        p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        report.row("one event alone, to its durable effect", name, f"p50 {p50 * 1e3:.3f} ms, p99 {p99 * 1e3:.3f} ms")
    report.row("one fdatasync, in between", "", f"{fsync * 1e3:.3f} ms")
    report.ratio("latency", FSYNCS_ALLOWED * fsync, statistics.median(times["pure"]))


async def _one_by_one(url: str, register: Register, before: int) -> list[float]:
    app = ours.application(url)
    register(app)
    times: list[float] = []
    async with app:
        await ours.fill(app, [order(number) for number in range(before)])
        store = app.open_store()
        await store.changed(2 * before - 1)
        for number in range(before, before + ALONE):
            event = order(number)
            began = time.perf_counter()
            durable = asyncio.ensure_future(store.changed(2 * number + 1))
            await app.publish(event)
            await durable
            times.append(time.perf_counter() - began)
        paid = [recorded.event.order_id async for recorded in app.log.read(PaymentProcessed, after=2 * before)]
        if paid != [order(number).order_id for number in range(before, before + ALONE)]:
            sys.exit("the payments are not those of the orders, so their latency says nothing")
    return times[ALONE // 10 :]


if __name__ == "__main__":
    main()
