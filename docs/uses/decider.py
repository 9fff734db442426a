"""The core form of a decision: three plain functions, for those who have a decider already."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from ensue import App, Command, Decider, Event, Refusal


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Withdrawn(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: Decimal


class Overdrawn(Refusal):
    available: Decimal


@dataclass(frozen=True)
class Account:
    balance: Decimal = Decimal(0)


def evolve(account: Account, event: Deposited | Withdrawn) -> Account:
    change = event.amount if isinstance(event, Deposited) else -event.amount
    return replace(account, balance=account.balance + change)


def decide(account: Account, command: Withdraw) -> Sequence[Withdrawn]:
    if command.amount > account.balance:
        raise Overdrawn(available=account.balance)
    return [Withdrawn(account_id=command.account_id, amount=command.amount)]


bank = App("bank")
bank.include(Decider(key="account_id", initial=Account, evolve=evolve, decide=decide))


async def main() -> None:
    async with bank.connected():
        await bank.publish(Deposited(account_id="a1", amount=Decimal(100)))
        receipt = await bank.send(Withdraw(account_id="a1", amount=Decimal(40)))
        print(receipt.result)
        try:
            await bank.send(Withdraw(account_id="a1", amount=Decimal(500)))
        except Overdrawn as refusal:
            print(f"no: {refusal.available} is there")


if __name__ == "__main__":
    asyncio.run(main())
