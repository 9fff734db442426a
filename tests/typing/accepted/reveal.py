"""What a decorator gives back has the type it was given: each pair of lines must be revealed alike."""

from typing import reveal_type

from bank import Account, BalanceOf, Withdraw, Withdrawn, bank
from shop import Gateway, OrderPlaced, OrderShipped, PaymentProcessed, shop

from ensue import Context, Flow, Retry


async def waits(order: OrderPlaced, gateway: Gateway, ctx: Context) -> PaymentProcessed | None:
    return None


def plain(event: OrderPlaced | OrderShipped) -> list[OrderShipped] | OrderShipped | None:
    return None


def decides(command: Withdraw, account: Account) -> Withdrawn:
    return Withdrawn(account_id=command.account_id, amount=account.balance)


def answers(query: BalanceOf, account: Account) -> int:
    return 0


async def flows(order: OrderPlaced, flow: Flow) -> OrderShipped:
    return OrderShipped(order_id=order.order_id)


def makes(ctx: int) -> Gateway:
    raise NotImplementedError


reveal_type(waits)
reveal_type(shop.on(waits))

reveal_type(waits)
reveal_type(shop.on(retry=Retry.never)(waits))

reveal_type(plain)
reveal_type(shop.on(plain))

reveal_type(decides)
reveal_type(bank.command(decides))

reveal_type(answers)
reveal_type(bank.query(answers))

reveal_type(flows)
reveal_type(shop.workflow(flows))

reveal_type(makes)
reveal_type(shop.provide(makes))
