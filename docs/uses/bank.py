"""A bank ledger: accounts decided from their own events, a typed refusal, a transfer over two accounts, a statement."""

import asyncio
from decimal import Decimal
from typing import Annotated, Self, assert_never

from ensue import App, Command, Event, Of, Query, Refusal, State, View


class Opened(Event, key="account_id"):
    account_id: str
    limit: Decimal = Decimal(0)


class Movement(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Deposited(Movement): ...


class Withdrawn(Movement): ...


class Overdrawn(Refusal):
    available: Decimal


class Account(State, key="account_id"):
    balance: Decimal = Decimal(0)
    limit: Decimal = Decimal(0)

    def evolve(self, event: Opened | Deposited | Withdrawn) -> Self:
        match event:
            case Opened():
                self.limit = event.limit
            case Deposited():
                self.balance += event.amount
            case Withdrawn():
                self.balance -= event.amount
            case _:
                assert_never(event)
        return self


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: Decimal


class Transfer(Command[list[Movement]]):
    source: str
    target: str
    amount: Decimal


class BalanceOf(Query[Decimal]):
    account_id: str


bank = App("bank")


@bank.view
class Statement(View, key="account_id"):
    account_id: str
    balance: Decimal = Decimal(0)
    movements: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        self.movements += 1
        return self


@bank.command
def withdraw(command: Withdraw, account: Account) -> Withdrawn:
    available = account.balance + account.limit
    if command.amount > available:
        raise Overdrawn(available=available)
    return Withdrawn(account_id=command.account_id, amount=command.amount)


@bank.command  # what it looked at, two accounts, is what must not have changed when it is stored
def transfer(
    command: Transfer,
    source: Annotated[Account, Of("source")],
    target: Annotated[Account, Of("target")],
) -> list[Movement]:
    taken = withdraw(Withdraw(account_id=command.source, amount=command.amount), source)
    return [taken, Deposited(account_id=command.target, amount=command.amount)]


@bank.query
def balance(query: BalanceOf, account: Account) -> Decimal:
    return account.balance


async def main() -> None:
    async with bank:
        await bank.publish(Opened(account_id="a1"), Deposited(account_id="a1", amount=Decimal(100)))
        try:
            await bank.send(Withdraw(account_id="a1", amount=Decimal(500)), idempotency_key="form-17")
        except Overdrawn as refusal:
            print(f"no: {refusal.available} is there")
        receipt = await bank.send(Withdraw(account_id="a1", amount=Decimal(40)), idempotency_key="form-18")
        print(receipt.result.amount, await bank.get(Statement, "a1", after=receipt.position))


if __name__ == "__main__":
    asyncio.run(main())
