"""Commands and queries as they pass middleware, and are asked, streamed and watched."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, assert_type

from ensue import Answer, App, Call, Command, Event, Position, Proceed, Query, Receipt, Refusal, Service, Transaction


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Deposit(Command[Deposited]):
    account_id: str
    amount: Decimal


class Total(Query[Decimal]): ...


class Lines(Query[AsyncIterator[Deposited]]): ...


class Denied(Refusal):
    who: str | None


class User:
    """A principal of the application's own."""

    def __init__(self, id: str, *, admin: bool) -> None:
        self.id = id
        self.admin = admin


class Journal:
    def note(self, line: str) -> None: ...


tills = Service("tills")


@tills.provide
def journal() -> Journal:
    return Journal()


@tills.middleware
async def audit(call: Call[Any], proceed: Proceed, journal: Journal) -> Answer:
    answer = await proceed()
    assert_type(answer, Answer)
    assert_type(answer.position, Position | None)
    journal.note(f"{call.principal_id} {call.handler} {call.attempt} {call.time:%H:%M}")
    return answer


@tills.middleware
async def authorise(call: Call[Deposit], proceed: Proceed) -> Answer:
    assert_type(call.message.amount, Decimal)
    if not (isinstance(call.principal, User) and call.principal.admin):
        raise Denied(who=call.principal_id)
    return await proceed()


@tills.middleware
async def for_queries(call: Call[Query[Any]], proceed: Proceed) -> Answer:
    return await proceed()


@tills.middleware
async def for_two(call: Call[Deposit | Total], proceed: Proceed) -> Answer:
    return await proceed()


@tills.command
def deposit(command: Deposit, call: Call[Deposit]) -> Deposited:
    assert_type(call.message, Deposit)
    return Deposited(account_id=command.account_id, amount=command.amount)


@tills.query
def total(query: Total, tx: Transaction) -> Decimal:
    return sum(tx.rows(Decimal, "SELECT amount FROM deposit"), Decimal(0))


@tills.query
async def lines(query: Lines, bank: App) -> AsyncIterator[Deposited]:
    async for row in bank.log.read(Deposited):
        yield row.event


app = App("till")
app.include(tills)


async def main() -> None:
    async with app.connected():
        user = User("u1", admin=True)
        receipt = await app.send(Deposit(account_id="a", amount=Decimal(1)), principal=user, headers={"desk": "3"})
        assert_type(receipt, Receipt[Deposited])
        assert_type(await app.ask(Total(), principal="u2"), Decimal)
        async for line in app.stream(Lines(), after=receipt.position):
            assert_type(line, Deposited)
        async for now in app.watch(Total(), principal=user):
            assert_type(now, Decimal)
