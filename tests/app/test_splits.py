"""Events of a type that is gone: everything that reads sees what they became, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ensue import ONE_ORDER, App, Command, Context, Criteria, Event, Fields, Recorded, Retry, State, seconds, upcast
from ensue.errors import Conflict
from ensue.world import RealWorld
from tests.app.channels import channel, dead, drained
from tests.events.declared import define


class Debited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Credited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Blessed(Event, key="account_id"):
    account_id: str


@upcast("MoneySent", version=1)
def split(old: Fields) -> Iterator[Debited | Credited]:
    yield Debited(account_id=old["source"], amount=Decimal(old["amount"]))
    yield Credited(account_id=old["target"], amount=Decimal(old["amount"]))


MoneySent = define(
    "MoneySent",
    {"source": str, "target": str, "amount": Decimal},
    key={"source": "account_id"},
    tags={"target": "account_id"},
)


def sent(source: str, target: str, amount: int) -> Event:
    fields: dict[str, Any] = {"source": source, "target": target, "amount": Decimal(amount)}
    return MoneySent(**fields)


class Account(State, key="account_id"):
    balance: Decimal = Decimal(0)

    def evolve(self, event: Debited | Credited) -> Account:
        self.balance += event.amount if isinstance(event, Credited) else -event.amount
        return self


class Bless(Command[Blessed]):
    account_id: str
    least: int


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """A log's URL; in memory one that is kept by the test itself."""
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgresql_url"))
        return lambda: url
    return lambda: "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/bank.db"


class Bank:
    """One log; what old code wrote to it, and new code on it."""

    def __init__(self, url: str) -> None:
        from ensue.app.urls import open_store

        self.store = open_store(url)

    @asynccontextmanager
    async def opened(self, app: App, *, consume: bool = False) -> AsyncGenerator[App, None]:
        async with asyncio.timeout(60):
            here = app.in_world(RealWorld(), self.store)
            async with here if consume else here.connected() as running:
                yield running

    async def write(self, *events: Event) -> None:
        async with self.opened(App("old")) as old:
            for event in events:
                await old.publish(event)


def on(place: Callable[[], str], work: Callable[[Bank], Awaitable[None]]) -> None:
    asyncio.run(work(Bank(place())))  # type: ignore[arg-type]  # pyright: ignore


def three(bank: Bank) -> Awaitable[None]:
    """Two transfers, and a credit of new code between them."""
    return bank.write(sent("a", "b", 10), Credited(account_id="a", amount=Decimal(3)), sent("b", "a", 4))


def told(recorded: Recorded[Any]) -> tuple[int, int, str, str, int]:
    event = recorded.event
    return recorded.position.last, recorded.part, type(event).__name__, event.account_id, int(event.amount)


def test_reading_gives_the_parts_at_their_position_and_only_those_asked_for(place: Callable[[], str]) -> None:
    async def work(bank: Bank) -> None:
        await three(bank)
        async with bank.opened(App("new")) as app:
            assert [told(one) async for one in app.log.read(Debited, Credited)] == [
                (1, 1, "Debited", "a", 10),
                (1, 2, "Credited", "b", 10),
                (2, 0, "Credited", "a", 3),
                (3, 1, "Debited", "b", 4),
                (3, 2, "Credited", "a", 4),
            ]
            assert [told(one) async for one in app.log.read()] == [
                told(one) async for one in app.log.read(Debited, Credited)
            ]
            of_a = Criteria(Credited, account_id="a")
            assert [told(one)[0] async for one in app.log.read(criteria=of_a)] == [2, 3]
            assert [told(one)[0] async for one in app.log.read(Credited, criteria=of_a)] == [2, 3]
            either = of_a | Criteria(Debited, account_id="b")
            assert [told(one)[:3] async for one in app.log.read(criteria=either, after=2)] == [
                (3, 1, "Debited"),
                (3, 2, "Credited"),
            ]
            assert [told(one)[0] async for one in app.log.read(Debited, backwards=True)] == [3, 1]

    on(place, work)


def test_a_condition_over_a_part_sees_the_event_that_it_was_part_of(place: Callable[[], str]) -> None:
    async def work(bank: Bank) -> None:
        await bank.write(sent("a", "b", 10))
        async with bank.opened(App("new")) as app:
            blessed = Blessed(account_id="b")
            with pytest.raises(Conflict):
                await app.log.append(blessed, unless=Criteria(Credited, account_id="b"))
            with pytest.raises(Conflict):
                await app.log.append(blessed, unless=Criteria(Debited, account_id="a"))
            await app.log.append(blessed, unless=Criteria(Credited, account_id="c"))

    on(place, work)


def test_a_state_follows_the_parts_that_are_its_own_and_decisions_are_made_on_it(place: Callable[[], str]) -> None:
    app = App("new")

    @app.command
    def bless(command: Bless, account: Account) -> Blessed:
        assert account.balance == command.least, account.balance
        return Blessed(account_id=command.account_id)

    async def work(bank: Bank) -> None:
        await three(bank)
        async with bank.opened(app) as new:
            await new.send(Bless(account_id="a", least=-3))
            await new.send(Bless(account_id="b", least=6))

    on(place, work)


@pytest.mark.parametrize("kind", ["async", "thread", "pure"])
def test_a_handler_is_called_for_each_part_of_its_types_in_order_in_one_delivery(
    place: Callable[[], str], kind: str
) -> None:
    app, heard = App("new"), list[tuple[str, str]]()

    if kind == "async":

        @app.on(start="beginning", key=ONE_ORDER)
        async def hear(event: Debited | Credited) -> Blessed:
            heard.append((type(event).__name__, event.account_id))
            return Blessed(account_id=event.account_id)

    elif kind == "thread":

        @app.on(start="beginning", key=ONE_ORDER, name="hear")
        def hear_on_a_thread(event: Debited | Credited) -> Blessed:
            heard.append((type(event).__name__, event.account_id))
            return Blessed(account_id=event.account_id)

    else:

        @app.on(start="beginning", key=ONE_ORDER, pure=True, name="hear")
        def hear_purely(event: Debited | Credited) -> Blessed:
            heard.append((type(event).__name__, event.account_id))
            return Blessed(account_id=event.account_id)

    async def work(bank: Bank) -> None:
        await three(bank)
        async with bank.opened(app, consume=True) as new:
            await new.wait((await new.log.head()), "hear")
            blessed = [(one.cause, one.event.account_id) async for one in new.log.read(Blessed)]
            assert blessed == [(1, "a"), (1, "b"), (2, "a"), (3, "b"), (3, "a")]
        assert heard == [("Debited", "a"), ("Credited", "b"), ("Credited", "a"), ("Debited", "b"), ("Credited", "a")]

    on(place, work)


def test_parts_are_told_apart_by_their_idempotency_keys_and_come_again_together(place: Callable[[], str]) -> None:
    app, keys = App("new"), list[str]()

    @app.on(start="beginning", retry=Retry(attempts=3, first=seconds(0.01)))
    async def charge(event: Credited | Debited, context: Context) -> None:
        keys.append(context.idempotency_key)
        if isinstance(event, Credited) and context.attempt == 1:
            raise ValueError("not yet")

    async def work(bank: Bank) -> None:
        await bank.write(sent("a", "b", 1))
        async with bank.opened(app, consume=True) as new:
            await new.wait(await new.log.head(), "charge")
        assert keys[:2] == keys[2:]
        assert len(set(keys)) == 2

    on(place, work)


def test_a_consumer_of_one_part_passes_over_what_was_no_such_part(place: Callable[[], str]) -> None:
    app, heard = App("new"), list[str]()

    @app.on(start="beginning")
    async def hear(recorded: Recorded[Credited]) -> None:
        heard.append(f"{recorded.event.account_id} {recorded.part} {recorded.type_name}")

    async def work(bank: Bank) -> None:
        await bank.write(sent("a", "b", 1), Debited(account_id="b", amount=Decimal(1)))
        async with bank.opened(app, consume=True) as new:
            await new.wait(await new.log.head(), "hear")
        assert heard == ["b 2 MoneySent"]

    on(place, work)


def test_parts_are_written_again_as_the_event_they_are_part_of_once(tmp_path: Path) -> None:
    async def work() -> None:
        bank = Bank(f"sqlite:///{tmp_path}/bank.db")
        await three(bank)
        async with bank.opened(App("new")) as app:
            read = [one async for one in app.log.read()]
        other = App("other", url=f"sqlite:///{tmp_path}/other.db")
        async with other.connected():
            await other.log.append(*read)
            again = [one async for one in other.log.read()]
            assert [told(one) for one in again] == [told(one) for one in read]
            assert [(one.id, one.data) for one in again] == [(one.id, one.data) for one in read]

    asyncio.run(work())


class Send(Command[Any]):
    source: str
    target: str


def test_a_command_whose_first_answer_was_of_a_type_that_is_gone_is_answered_with_its_parts(
    place: Callable[[], str],
) -> None:
    old, new = App("old"), App("new")

    @old.command
    def move(command: Send) -> Event:
        return sent(command.source, command.target, 5)

    @new.command(attempts=10)
    def move_now(command: Send) -> list[Debited | Credited]:
        raise AssertionError("it has its answer")

    async def work(bank: Bank) -> None:
        async with bank.opened(old) as app:
            await app.send(Send(source="a", target="b"), idempotency_key="k")
        async with bank.opened(new) as app:
            again = await app.send(Send(source="a", target="b"), idempotency_key="k")
            assert again.replayed
            five = Decimal(5)
            assert again.result == [Debited(account_id="a", amount=five), Credited(account_id="b", amount=five)]

    on(place, work)


def test_an_outbox_sends_a_type_that_is_gone_as_it_is_stored_and_an_inbox_keeps_it_for_people(tmp_path: Path) -> None:
    async def work() -> None:
        bank = Bank(f"sqlite:///{tmp_path}/bank.db")
        await bank.write(sent("a", "b", 1), Credited(account_id="b", amount=Decimal(2)))
        carried = channel(Credited, start="beginning")
        receiving = App("receiving", url=f"sqlite:///{tmp_path}/receiving.db", inbox=[carried])
        async with bank.opened(App("new", outbox=[carried]), consume=True) as app, receiving:
            await app.wait(await app.log.head())
            (letter,) = await dead(receiving)
            assert "MoneySent" in letter.reason
        assert [message.body for message in await drained(carried, "group", 2)] == [
            b'{"source":"a","target":"b","amount":"1"}',
            b'{"account_id":"b","amount":"2"}',
        ]

    asyncio.run(work())
