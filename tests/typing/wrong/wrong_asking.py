"""Wrong middleware and wrong questions. Each marked line is an error in both checkers, or in the one the mark names."""

from collections.abc import AsyncIterator
from decimal import Decimal

from bank import BalanceOf, Deposited, Withdraw, bank

from ensue import Answer, Call, Proceed, Query


class Lines(Query[AsyncIterator[Deposited]]): ...


@bank.middleware  # wrong: it is to be awaited
def plain(call: Call[Withdraw], proceed: Proceed) -> Answer:
    return Answer(None)


@bank.middleware  # wrong: it returns what proceed gives
async def without_an_answer(call: Call[Withdraw], proceed: Proceed) -> None:
    await proceed()


@bank.middleware  # wrong: it takes what goes on, too
async def without_proceeding(call: Call[Withdraw]) -> Answer:
    return Answer(None)


def of_an_event(call: Call[Deposited]) -> None: ...  # wrong: a call is of a command or a query


async def ask() -> None:
    balance: str = await bank.ask(BalanceOf(account_id="a"))  # wrong: it answers a Decimal
    await bank.send(BalanceOf(account_id="a"))  # wrong: a query is asked
    await bank.ask(Withdraw(account_id="a", amount=Decimal(1)))  # wrong: a command is sent
    await bank.send(Withdraw(account_id="a", amount=Decimal(1)), principal=7)  # wrong: nobody is called so
    bank.stream(BalanceOf(account_id="a"))  # wrong: it is answered at once
    async for deposited in bank.stream(Lines()):
        text: str = deposited.amount  # wrong: it is a Decimal
        print(text)
    async for now in bank.watch(BalanceOf(account_id="a")):
        number: int = now  # wrong: it is a Decimal
        print(number, balance)
