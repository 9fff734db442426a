"""Publishing, waiting, reading, dead letters, tests: from async and from plain code."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

from bank import BalanceOf, Deposited, Overdrawn, Statement, Withdraw, Withdrawn, bank, withdraw
from shop import Gateway, OrderPlaced, OrderShipped, PaymentProcessed, StockMissing, shop, take_payment
from web import OrderRow, OrdersOf

from ensue import Criteria, DeadLetter, Event, Fields, Position, Receipt, Recorded, Transaction, seconds, upcast
from ensue.errors import Conflict, GiveUp, HandlerFailed, Misuse, TryAgain
from ensue.testing import AppSimulation, given, simulate

order = OrderPlaced(order_id="o1", sku="tea", quantity=1, total=Decimal(9))


class Card:
    async def charge(self, amount: Decimal, *, idempotency_key: str) -> None: ...


@shop.provide
async def gateway() -> AsyncIterator[Gateway]:
    yield Card()


@shop.lifecycle
async def greet(gateway: Gateway) -> AsyncIterator[None]:
    await shop.publish(order)
    yield
    await gateway.charge(Decimal(0), idempotency_key="bye")


class Renamed(Event, key={"id": "renamed"}, tags={"other": "renamed"}, name="shop.Renamed", version=2, was=("Old",)):
    id: str
    other: str


@upcast(Renamed, version=1)
def add_other(fields: Fields) -> Fields:
    return {**fields, "other": ""}


async def main() -> None:
    async with shop:
        receipt: Receipt[None] = await shop.publish(order, order, idempotency_key="form-17", headers={"a": "b"})
        await (await receipt.wait(take_payment, "shipping.ship")).wait(timeout=seconds(5))
        end: OrderShipped | StockMissing = await receipt.first(OrderShipped, StockMissing, timeout=seconds(5))
        place: Position = receipt.position
        await shop.wait(Position(str(place)), take_payment, timeout=seconds(5))
        async for recorded in shop.log.read(PaymentProcessed, criteria=Criteria(order_id="o1"), after=place):
            amount: Decimal = recorded.event.amount
            print(recorded.position, recorded.time, amount, end.order_id)
        async for either in shop.log.read(OrderPlaced, backwards=True, before=datetime(2026, 1, 1, tzinfo=UTC)):
            same: Recorded[Event] = either
            print(same.event, either.event.sku)
        everything: list[Recorded[Event]] = [recorded async for recorded in shop.log.read(after=place, follow=True)]
        letters: list[DeadLetter] = [
            letter async for letter in shop.dead_letters.list(consumer="payments.take_payment")
        ]
        print(everything)
        await shop.dead_letters.retry(letters[0].id, event=order)
        await shop.dead_letters.discard(letters[0].id, note="by telephone")
        try:
            await shop.log.append(order, unless=Criteria(OrderPlaced, order_id="o1") | Criteria(sku="tea"), since=place)
        except Conflict as conflict:
            print(conflict.actual)
        except (Misuse, TryAgain) as error:
            print(error)
        except HandlerFailed as failed:
            print(failed.consumer)
        except GiveUp:
            raise


async def ask() -> None:
    async with bank.connected():
        try:
            receipt = await bank.send(Withdraw(account_id="a1", amount=Decimal(50)))
        except Overdrawn as refusal:
            available: Decimal = refusal.available
            print(available)
        else:
            taken: Withdrawn = receipt.result
            left: Decimal = await bank.ask(BalanceOf(account_id="a1"), after=receipt.position)
            statement: Statement | None = await bank.get(Statement, "a1", after=receipt.position)
            rows: list[OrderRow] = await bank.ask(OrdersOf(customer_id="c1"))
            print(taken, left, statement, rows)


def count_orders(tx: Transaction) -> int:
    tx.emit(order)
    found: int | None = tx.row(int, "SELECT count(*) FROM orders WHERE sku = ?", "tea")
    return found or 0


def plain() -> None:
    with shop.blocking() as call:
        receipt = call(shop.publish(order))
        shipped: OrderShipped = call(receipt.first(OrderShipped), timeout=seconds(5))
        number, at = call(shop.transact(count_orders))
        total: int = number
        print(shipped.order_id, total, at.position)


def test_a_decision_is_a_function() -> None:
    from bank import Account

    assert withdraw(Withdraw(account_id="a", amount=Decimal(5)), Account(balance=Decimal(9))).amount == 5
    given(bank, Deposited(account_id="a", amount=Decimal(9))).when(Deposited(account_id="a", amount=Decimal(1))).then()


@simulate(shop, replace=[gateway], crashes="everywhere", runs=10)
async def test_every_payment_ships(sim: AppSimulation) -> None:
    await sim.app.publish(order)
    await sim.run_until_quiet()
    paid, shipped = await sim.events(PaymentProcessed), await sim.events(OrderShipped)
    assert [event.order_id for event in paid] == [event.order_id for event in shipped]


if __name__ == "__main__":
    asyncio.run(main())
