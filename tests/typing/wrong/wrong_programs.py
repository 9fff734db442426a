"""Wrong programs: what is published, sent, asked, waited for."""

from decimal import Decimal

from bank import BalanceOf, Deposited, Statement, Transfer, Withdraw, bank
from shop import OrderPlaced, OrderShipped, PaymentProcessed, shop

from ensue import seconds
from ensue.testing import given

order = OrderPlaced(order_id="o1", sku="tea", quantity=1, total=Decimal(9))


async def main() -> None:
    await bank.publish(Withdraw(account_id="a", amount=Decimal(1)))  # wrong: a command is sent
    await bank.send(Deposited(account_id="a", amount=Decimal(1)))  # wrong: an event is published
    await bank.send(BalanceOf(account_id="a"))  # wrong: a query is asked
    await bank.ask(Withdraw(account_id="a", amount=Decimal(1)))  # wrong: a command is sent
    await shop.publish(order, idempotency_key=17)  # wrong: a text
    await shop.publish([order])  # wrong: events, not a list of them

    amount: int = await bank.ask(BalanceOf(account_id="a"))  # wrong: it answers a Decimal
    taken = await bank.send(Withdraw(account_id="a", amount=Decimal(1)))
    taken.result.amuont  # wrong: no such field
    moved = await bank.send(Transfer(source="a", target="b", amount=Decimal(1)))
    moved.result.amount  # wrong: a list of movements
    await bank.ask(BalanceOf(account_id="a"), after=taken)  # wrong: its position
    await bank.get(Deposited, "a")  # wrong: a view
    row: Statement = await bank.get(Statement, "a")  # wrong: or None

    receipt = await shop.publish(order)
    receipt.result.amount  # wrong: publishing has no result
    shipped: OrderShipped = await receipt.first(PaymentProcessed)  # wrong: another event
    either = await receipt.first(OrderShipped, PaymentProcessed)
    either.amount  # wrong: only one of the two has it
    await receipt.first(Withdraw)  # wrong: an event
    await receipt.wait(timeout=5)  # wrong: durations are timedelta
    await receipt.wait(17)  # wrong: a handler, or its name
    await shop.wait(receipt)  # wrong: its position
    async for recorded in shop.log.read(OrderShipped):
        recorded.event.amount  # wrong: no such field
    await shop.dead_letters.discard(1)  # wrong: a note that says why
    await shop.transact(lambda tx: tx.row(int, "SELECT 1"), timeout=seconds(1))  # wrong: no such option
    print(amount, row, shipped)


given(shop, Withdraw(account_id="a", amount=Decimal(1)))  # wrong: events have happened
given(shop).when(order).then(17)  # wrong: events
