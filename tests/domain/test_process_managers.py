"""Commands that handlers of events send: once however often the event is handled, with the event as the cause of what they led to."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from ensue import App, Context, Event, Retry, Transaction, seconds
from ensue.errors import IdempotencyKeyReused, InsideHandler
from ensue.testing import AppSimulation, simulate
from tests.consumers.invariants import violations
from tests.domain.desk import Account, Deposit, Deposited, Overdrawn, Withdraw, Withdrawn, desk


class Ordered(Event, key="order_id"):
    order_id: str
    account_id: str
    amount: Decimal


class Paid(Event, key="order_id"):
    order_id: str


class Unpaid(Event, key="order_id"):
    order_id: str
    available: Decimal


PATIENT = Retry(attempts=30, longest=seconds(1))
"""Nothing is given up because answers are lost, or processes die, many times one after another."""


def managed(url: str = "memory:") -> App:
    """Orders are paid from accounts, by a handler that sends what it wants done."""
    app = desk(url)

    @app.on(retry=PATIENT)
    async def pay(order: Ordered, bank: App, ctx: Context) -> Paid | Unpaid:
        try:
            await bank.send(
                Withdraw(account_id=order.account_id, amount=order.amount),
                idempotency_key=ctx.idempotency_key,
                principal="pay",
            )
        except Overdrawn as refusal:
            return Unpaid(order_id=order.order_id, available=refusal.available)
        return Paid(order_id=order.order_id)

    return app


def ordered(number: int, amount: int) -> Ordered:
    return Ordered(order_id=f"o{number}", account_id="a1", amount=Decimal(amount))


def test_what_a_sent_command_led_to_has_the_handled_event_as_its_cause(url: str) -> None:
    async def run() -> None:
        app = managed(url)
        async with app:
            await app.send(Deposit(account_id="a1", amount=Decimal(10)))
            receipt = await app.publish(ordered(1, 4))
            assert await receipt.first(Withdrawn) == Withdrawn(account_id="a1", amount=Decimal(4))
            await receipt.wait()
            await (await app.publish(ordered(2, 7))).first(Unpaid)
            rows = {type(row.event): row async for row in app.log.read(Event, before=receipt.position.last + 3)}
            order, withdrawn, paid = rows[Ordered], rows[Withdrawn], rows[Paid]
            assert (withdrawn.cause, withdrawn.root) == (order.row[0], order.row[0])
            assert withdrawn.causation_id == order.id
            assert withdrawn.correlation_id == order.correlation_id == paid.correlation_id
            assert withdrawn.meta.depth == 1
            assert withdrawn.headers == {"principal": "pay"}
            if not url.startswith("memory"):
                assert await violations(app) == []

    asyncio.run(asyncio.wait_for(run(), 60))


def test_without_a_key_it_is_refused_with_the_key_to_give(file_url: str) -> None:
    app, said = desk(file_url), list[str]()

    @app.on
    async def pay(order: Ordered, bank: App) -> None:
        with pytest.raises(InsideHandler) as refused:
            await bank.send(Withdraw(account_id=order.account_id, amount=order.amount))
        said.append(str(refused.value))

    async def run() -> None:
        async with app:
            await (await app.publish(ordered(1, 4))).wait()
            assert said == [
                "pay sent a Withdraw without an idempotency key while it handles an event: it would be sent again after a crash. "
                "Give it one that is the same at each attempt: send(command, idempotency_key=ctx.idempotency_key)"
            ]

    asyncio.run(run())


def test_another_command_under_the_same_key_is_told_apart(file_url: str) -> None:
    app, said = desk(file_url), list[type[Exception]]()

    @app.on
    async def pay(order: Ordered, bank: App, ctx: Context) -> None:
        for account in ("a1", "a1", "a2"):
            try:
                await bank.send(Deposit(account_id=account, amount=Decimal(1)), idempotency_key=ctx.idempotency_key)
            except Exception as error:
                said.append(type(error))

    async def run() -> None:
        async with app:
            await (await app.publish(ordered(1, 4))).wait()
            assert said == [IdempotencyKeyReused]
            assert [row.event.account_id async for row in app.log.read(Deposited)] == ["a1"]

    asyncio.run(run())


def test_a_command_to_another_application_goes_on_in_its_log_under_the_same_correlation(tmp_path: Path) -> None:
    shop, bank = App("shop", url=f"sqlite:///{tmp_path}/shop.db"), desk(f"sqlite:///{tmp_path}/bank.db", "bank")

    @shop.on
    async def pay(order: Ordered, ctx: Context) -> Paid:
        deposit = Deposit(account_id=order.account_id, amount=order.amount)
        await bank.send(deposit, idempotency_key=ctx.idempotency_key)
        return Paid(order_id=order.order_id)

    async def run() -> None:
        async with bank.connected(), shop:
            for number in range(3):
                await (await shop.publish(ordered(number, 4))).wait()
            orders = [row async for row in shop.log.read(Ordered)]
            deposited = [row async for row in bank.log.read(Deposited)]
            assert [row.correlation_id for row in deposited] == [row.correlation_id for row in orders]
            assert [row.causation_id for row in deposited] == [row.id for row in orders]
            assert {(row.cause, row.root) for row in deposited} == {(None, None)}
            assert await violations(bank) == []

    asyncio.run(asyncio.wait_for(run(), 60))


def test_queries_may_be_asked_where_an_event_is_handled(url: str) -> None:
    from tests.domain.desk import BalanceOf

    app, found = desk(url), list[Decimal]()

    @app.on
    async def look(order: Ordered, bank: App) -> None:
        found.append(await bank.ask(BalanceOf(account_id=order.account_id)))

    async def run() -> None:
        async with app:
            await app.send(Deposit(account_id="a1", amount=Decimal(10)))
            await (await app.publish(ordered(1, 4))).wait()
            assert found == [10]

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------- in trouble


async def each_order_is_paid_or_not_and_withdrawn_once(sim: AppSimulation, orders: int) -> None:
    await sim.app.publish(Deposited(account_id="a1", amount=Decimal(10)))
    for number in range(orders):
        await sim.app.publish(ordered(number, 4))
    await sim.run_until_quiet()
    withdrawn = await sim.events(Withdrawn)
    assert [event.amount for event in withdrawn] == [Decimal(4)] * min(orders, 2)
    paid = Counter(event.order_id for event in await sim.events(Paid))
    unpaid = Counter(event.order_id for event in await sim.events(Unpaid))
    assert len(paid) == min(orders, 2)
    assert set(paid.values()) | set(unpaid.values()) <= {1}
    assert len(paid) + len(unpaid) == orders
    causes = Counter(row.cause for row in await sim.recorded() if isinstance(row.event, Withdrawn))
    assert set(causes.values()) == {1}
    found = await sim.inside(lambda app: violations(app, emit_one=["pay"]))
    assert not found, found[0]


@simulate(managed(), crashes="everywhere", runs=0)
async def test_a_command_is_decided_once_through_a_crash_at_every_step(sim: AppSimulation) -> None:
    await each_order_is_paid_or_not_and_withdrawn_once(sim, 1)


@simulate(managed(), crashes="none", runs=20)
async def test_a_command_is_decided_once_whatever_chance_does(sim: AppSimulation) -> None:
    await each_order_is_paid_or_not_and_withdrawn_once(sim, 4)


def test_the_simulation_finds_a_command_that_is_sent_under_another_key_each_time() -> None:
    app = desk("memory:")

    @app.on
    async def pay(order: Ordered, bank: App, ctx: Context) -> Paid:
        command = Withdraw(account_id=order.account_id, amount=order.amount)
        await bank.send(command, idempotency_key=ctx.new_id())
        return Paid(order_id=order.order_id)

    @simulate(app, crashes="everywhere", runs=0)
    async def once(sim: AppSimulation) -> None:
        await each_order_is_paid_or_not_and_withdrawn_once(sim, 1)

    with pytest.raises(AssertionError, match="Replay"):
        once()


def decided_in_the_commit() -> App:
    app = App("counting")

    @app.command
    def withdraw(command: Withdraw, account: Account, tx: Transaction) -> Withdrawn:
        tx.execute("CREATE TABLE IF NOT EXISTS taken (account TEXT, amount TEXT)")
        if command.amount > account.balance:
            tx.execute("INSERT INTO taken VALUES ('never', 'kept')")
            raise Overdrawn(available=account.balance)
        tx.execute("INSERT INTO taken VALUES (?, ?)", command.account_id, str(command.amount))
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    @app.on(retry=PATIENT)
    async def pay(order: Ordered, bank: App, ctx: Context) -> Paid | Unpaid:
        try:
            await bank.send(
                Withdraw(account_id=order.account_id, amount=order.amount), idempotency_key=ctx.idempotency_key
            )
        except Overdrawn as refusal:
            return Unpaid(order_id=order.order_id, available=refusal.available)
        return Paid(order_id=order.order_id)

    return app


@simulate(decided_in_the_commit(), crashes="everywhere", runs=10)
async def test_rows_of_a_decision_in_the_commit_are_as_its_events_through_crashes_everywhere(
    sim: AppSimulation,
) -> None:
    await each_order_is_paid_or_not_and_withdrawn_once(sim, 3)
    rows = await sim.rows("SELECT account, amount FROM taken")
    assert rows == [("a1", "4"), ("a1", "4")]
