"""Wrong deciders, aggregates and states."""

from decimal import Decimal
from typing import Self

from bank import Account, Deposited, Withdraw, bank
from decider import Account as Plain
from decider import bank as plain_bank
from decider import Withdrawn as PlainlyWithdrawn
from decider import evolve

from ensue import App, Command, Criteria, Decided, Decider, Of, State


@bank.command  # wrong: a decision returns events
def text(command: Withdraw, account: Account) -> str:
    return command.account_id


@bank.aggregate  # wrong (pyright): a state
class NoState:  # wrong (mypy): a state
    def open(self, command: Withdraw) -> None: ...


class Wrong(State, key="account_id"):
    balance: Decimal = Decimal(0)

    def evolve(self, event: Deposited) -> Self:
        return self.balance  # wrong: a state


class Total(Command[Decimal]):
    account_id: str


def total(command: Total, account: Account) -> Decided[Decimal]:
    return Decided([], result="all")  # wrong: a number


def other(account: str, command: Total) -> list[PlainlyWithdrawn]:
    return []


def number(account: Plain, command: Total) -> int:
    return 0


def decide(account: Plain, command: Total) -> list[PlainlyWithdrawn]:
    return []


Decider(key="account_id", initial=Plain, evolve=evolve, decide=other)  # wrong: another state
Decider(key="account_id", initial=Plain, evolve=evolve, decide=number)  # wrong: events
Decider(key="account_id", initial=Plain, evolve=evolve)  # wrong: it decides nothing
Of(17)  # wrong: fields, or a function
Of(lambda command: "account_id")  # wrong: it gives criteria
decider = Decider(
    criteria=lambda command: Criteria(account_id=command.account_id), initial=Plain, evolve=evolve, decide=decide
)


async def main(app: App) -> None:
    amount: str = (await app.send(Total(account_id="a"))).result  # wrong: it answers a number
    (await app.state(Account, "a")).solde  # wrong: no such field
    await app.state(Deposited, "a")  # wrong: a state
    await app.state(Account, "a", at="yesterday")  # wrong: a place or a time
    await app.state(Account, "a", version="1")  # wrong: a number
    account: Account = await plain_bank.state(decider, "a")  # wrong: another class
    print(amount, account)
