"""A small transactional application to prove the simulation on, with bugs that can be planted.

Orders are recorded with their idempotency key. A clerk reads them in order, adds each to the turnover and writes a
parcel to the outbox, all in the transaction of its checkpoint. A relay hands parcels to a carrier outside, then marks
them as sent. A dock receives from the carrier, which delivers again what was not acknowledged, and records what was
shipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeAlias, TypeVar

import apsw

from ensue.testing.simulation import SimulatedWorld, Simulation, memory_database

__all__ = ["Bug", "Carrier", "Warehouse", "check", "is_quiet", "orders_are_shipped", "warehouse"]

T = TypeVar("T")

Bug: TypeAlias = Literal["none", "no deduplication", "checkpoint apart", "acknowledged early"]

_SCHEMA = """
create table if not exists orders (position integer primary key, id text unique, amount integer);
create table if not exists clerk (position integer, turnover integer);
create table if not exists outbox (id text primary key, sent integer default 0);
create table if not exists inbox (id text primary key);
create table if not exists shipped (id text);
insert into clerk select 0, 0 where not exists (select 1 from clerk);
"""


class Carrier:
    """Outside of every process: keeps parcels until they are acknowledged."""

    def __init__(self) -> None:
        self.parcels: list[str] = []

    def acknowledge(self, parcel: str) -> None:
        self.parcels.remove(parcel)


class Warehouse:
    def __init__(self, world: SimulatedWorld, database: Any, bug: Bug) -> None:
        self.world = world
        self.bug = bug
        self.carrier = world.outside(Carrier, Carrier)
        self.database: Any = database
        self.threads = world.threads(1, name="writer")
        self.changed = asyncio.Event()

    async def order(self, amount: int, *, idempotency_key: str | None = None) -> str:
        assert idempotency_key is not None
        sql = "insert or ignore into orders (id, amount) values (?, ?)"
        await self.write("order", lambda: self.database.execute(sql, (idempotency_key, amount)))
        return idempotency_key

    async def figures(self) -> tuple[int, int, list[str]]:
        """Turnover by the clerk, turnover by the orders, parcels shipped."""
        [(counted,)] = await self.read("select turnover from clerk")
        [(true,)] = await self.read("select coalesce(sum(amount), 0) from orders")
        return counted, true, [parcel for (parcel,) in await self.read("select id from shipped order by id")]

    async def is_quiet(self) -> bool:
        behind = await self.read("select 1 from orders, clerk where orders.position > clerk.position")
        unsent = await self.read("select 1 from outbox where not sent")
        return not (behind or unsent or self.carrier.parcels)

    async def clerk(self) -> None:
        next_order = "select o.position, o.id, o.amount from orders o, clerk c where o.position > c.position limit 1"
        while True:
            for position, order, amount in await self.read(next_order):
                await self.handle(position, order, amount)

    async def handle(self, position: int, order: str, amount: int) -> None:
        self.world.failpoint("clerk read")

        def effects() -> None:
            self.database.execute("update clerk set turnover = turnover + ?", (amount,))
            self.database.execute("insert or ignore into outbox (id) values (?)", (order,))

        def checkpoint() -> None:
            self.database.execute("update clerk set position = ?", (position,))

        def both() -> None:
            effects()
            checkpoint()

        if self.bug == "checkpoint apart":
            await self.write("effects", effects)
            await self.write("checkpoint", checkpoint)
        else:
            await self.write("effects and checkpoint", both)

    async def relay(self) -> None:
        while True:
            for (parcel,) in await self.read("select id from outbox where not sent order by rowid limit 1"):
                self.world.failpoint("relay sends")
                self.carrier.parcels.append(parcel)
                self.world.failpoint("relay sent")
                await self.mark_sent(parcel)

    async def mark_sent(self, parcel: str) -> None:
        await self.write("sent", lambda: self.database.execute("update outbox set sent = 1 where id = ?", (parcel,)))

    async def dock(self) -> None:
        while True:
            await self.world.sleep(0.5)
            for parcel in list(self.carrier.parcels):
                await self.receive(parcel)

    async def receive(self, parcel: str) -> None:
        if self.bug == "acknowledged early":
            self.carrier.acknowledge(parcel)
        await self.write("shipped", lambda: self.ship(parcel))
        self.world.failpoint("dock committed")
        if self.bug != "acknowledged early":
            self.carrier.acknowledge(parcel)

    def ship(self, parcel: str) -> None:
        self.database.execute("insert or ignore into inbox values (?)", (parcel,))
        if self.database.changes() or self.bug == "no deduplication":
            self.database.execute("insert into shipped values (?)", (parcel,))

    async def write(self, name: str, change: Callable[[], object]) -> None:
        def transaction() -> None:
            self.world.failpoint(f"{name}: begin")
            with self.database:
                change()
                self.world.failpoint(f"{name}: before commit")
            self.world.failpoint(f"{name}: committed")

        await self.on_thread(transaction)
        self.changed.set()
        self.changed.clear()

    async def read(self, sql: str) -> list[Any]:
        rows: list[Any] = await self.on_thread(lambda: self.database.execute(sql).fetchall())
        if not rows:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), 0.2)
        return rows

    async def on_thread(self, call: Callable[[], T]) -> T:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        self.threads.run(call, done)
        return await answer


def warehouse(bug: Bug = "none") -> Callable[[SimulatedWorld, str], Any]:
    """How to start it, with this bug planted."""

    @asynccontextmanager
    async def start(world: SimulatedWorld, name: str) -> AsyncGenerator[Warehouse, None]:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        database: Any = apsw.Connection(memory_database(name), flags=flags)
        database.execute(_SCHEMA)
        application = Warehouse(world, database, bug)
        workers = [world.spawn(work(), name=work.__name__) for work in (application.clerk, application.relay)]
        workers.append(world.spawn(application.dock(), name="dock"))
        yield application
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        database.close()

    return start


async def is_quiet(application: Warehouse) -> bool:
    return await application.is_quiet()


async def orders_are_shipped(sim: Simulation[Warehouse]) -> None:
    """Two orders, until nothing is left to do."""
    first = await sim.app.order(30)
    second = await sim.app.order(12)
    await sim.run_until_quiet()
    await check(sim, [first, second])


async def check(sim: Simulation[Warehouse], orders: list[str]) -> None:
    counted, true, shipped = await sim.app.figures()
    for order in orders:
        assert order in shipped, f"order {order} was never shipped"
        assert shipped.count(order) == 1, f"order {order} was shipped {shipped.count(order)} times"
    assert counted == true, f"the clerk counted a turnover of {counted}, the orders say {true}"
