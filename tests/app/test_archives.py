"""What is in an archive is read as it was where the archive is given, and told plainly where it is not; closed streams stay closed."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ensue import (
    FORGOTTEN,
    App,
    Archived,
    Command,
    Criteria,
    Event,
    Personal,
    Receipt,
    Refusal,
    State,
    Transaction,
    days,
)
from ensue.app import open_store
from ensue.consumers.archiving import archive_closed, drop_old
from ensue.errors import ArchivedEvent, HandlerFailed, InvalidEvent, StreamClosed
from ensue.store.base import Store
from ensue.world import RealWorld
from tests.app.channels import channel, dead, drained


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class AccountClosed(Event, key="account_id", closes=True):
    account_id: str


class Ticked(Event, retention=days(30)):
    number: int


class Noted(Event, key="account_id"):
    account_id: str


class Account(State, key="account_id"):
    balance: Decimal = Decimal(0)

    def evolve(self, event: Deposited | AccountClosed) -> Account:
        if isinstance(event, Deposited):
            self.balance += event.amount
        return self


class Deposit(Command[Deposited]):
    account_id: str
    amount: Decimal


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "postgresql":
        return open_store(request.getfixturevalue("postgresql_url"))
    return open_store("memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/log.db")


def bank(**more: Any) -> App:
    app = App("bank", **more)

    @app.command
    def deposit(command: Deposit, account: Account) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    return app


@asynccontextmanager
async def opened(app: App, store: Store, *, consume: bool = False) -> AsyncGenerator[App, None]:
    async with asyncio.timeout(60):
        here = app.in_world(RealWorld(), store)
        async with here if consume else here.connected() as running:
            yield running


def deposited(key: str, amount: int) -> Deposited:
    return Deposited(account_id=key, amount=Decimal(amount))


async def fill(store: Store) -> None:
    async with opened(bank(), store) as app:
        await app.publish(deposited("a", 1), deposited("b", 2), deposited("a", 3))
        await app.publish(Ticked(number=1), Ticked(number=2))
        await app.publish(AccountClosed(account_id="a"))


async def bury(store: Store, file: Path | None = None, *, drop: bool = False) -> None:
    await store.open(RealWorld())
    if file is not None:
        await archive_closed(store, RealWorld(), file, closing=["AccountClosed"])
    if drop:
        await drop_old(store, RealWorld(), {"Ticked": -(10**7)}, dry_run=False)
    await store.close()


def told(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


async def read(app: App, *types: type[Event], **more: Any) -> list[Event]:
    return [recorded.event async for recorded in app.log.read(*types, **more)]


# ------------------------------------------------------------------------------------------------------------- archives


def test_with_the_archive_everything_is_as_before_and_without_it_is_told_where_it_is(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "2024.jsonl.gz"

    async def work() -> None:
        await fill(store)
        async with opened(bank(), store) as app:
            before = await read(app)
        await bury(store, file)
        async with opened(bank(archives=[file]), store) as app:
            assert await read(app) == before
            assert await read(app, Deposited, backwards=True) == [
                deposited("a", 3),
                deposited("b", 2),
                deposited("a", 1),
            ]
            assert (await app.send(Deposit(account_id="b", amount=Decimal(1)))).result == deposited("b", 1)
        async with opened(bank(), store) as app:
            events = await read(app)
            assert told(events) == [
                "Archived", "Deposited", "Archived", "UnknownEvent", "UnknownEvent", "Archived", "Deposited",
            ]  # fmt: skip
            assert events[0] == Archived(type_name="Deposited", type_version=1, file="2024.jsonl.gz")
            assert await read(app, Deposited, criteria=Criteria(account_id="b")) == [
                deposited("b", 2),
                deposited("b", 1),
            ]
            with pytest.raises(
                ArchivedEvent, match=r"Deposited at position 1 is in the archive 2024.jsonl.gz: .*archives="
            ) as gone:
                await read(app, Deposited)
            assert gone.value.file == "2024.jsonl.gz"
            one, *_ = [recorded async for recorded in app.log.read()]
            assert (one.key, one.stream_version, one.type_name) == ("account_id=a", 1, "Deposited")
            with pytest.raises(InvalidEvent, match=r"cannot be written again: .*2024.jsonl.gz"):
                await app.log.append(one)
            with pytest.raises(ArchivedEvent, match="Deposited at position 1 is in the archive"):
                await app.send(Deposit(account_id="a", amount=Decimal(1)))

    asyncio.run(work())


def test_a_handler_that_begins_at_the_beginning_is_given_archived_events_or_parks_their_keys(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "2024.parquet"

    def hearing(name: str, archives: Sequence[Path]) -> tuple[App, list[str]]:
        app, heard = bank(archives=archives), list[str]()

        @app.on(start="beginning", name=name)
        async def hear(event: Deposited) -> None:
            heard.append(f"{event.account_id} {event.amount}")

        return app, heard

    async def work() -> None:
        await fill(store)
        await bury(store, file)
        with_file, heard = hearing("first", [file])
        async with opened(with_file, store, consume=True) as app:
            await app.wait(await app.log.head(), "first")
            for position in (1, 2, 3):
                await _until_done(app, "first", position)
        assert sorted(heard) == ["a 1", "a 3", "b 2"]
        without, heard = hearing("second", [])
        async with opened(without, store, consume=True) as app:
            await _until_done(app, "second", 2)
            with pytest.raises(HandlerFailed, match=r"is in the archive 2024.parquet"):
                await _until_done(app, "second", 1)
        assert heard == ["b 2"]

    asyncio.run(work())


async def _until_done(app: App, name: str, position: int) -> None:
    from ensue import Position

    await app.wait(Position.of(app.open_store().log_id, position, position), name)


def test_what_retention_dropped_is_passed_over_by_those_who_ask_for_its_type(store: Store) -> None:
    app, heard = bank(), list[int]()

    @app.on(start="beginning")
    async def hear(event: Ticked) -> None:
        heard.append(event.number)

    async def work() -> None:
        await fill(store)
        await bury(store, drop=True)
        async with opened(app, store, consume=True) as running:
            await running.publish(Ticked(number=3))
            for position in (4, 5, 7):
                await _until_done(running, "hear", position)
            assert await read(running, Ticked) == [Ticked(number=3)]
            dropped = Archived(type_name="Ticked", type_version=1, file="")
            assert (await read(running))[3:5] == [dropped, dropped]
        assert heard == [3]

    asyncio.run(work())


def test_a_command_whose_answer_is_in_an_archive_is_answered_from_there_or_told_where_it_is(
    store: Store, tmp_path: Path
) -> None:
    file, command = tmp_path / "2024.jsonl.gz", Deposit(account_id="a", amount=Decimal(7))

    async def work() -> None:
        async with opened(bank(), store) as app:
            await app.send(command, idempotency_key="k")
            await app.publish(AccountClosed(account_id="a"))
        await bury(store, file)
        async with opened(bank(archives=[file]), store) as app:
            assert (await app.send(command, idempotency_key="k")).result == deposited("a", 7)
        async with opened(bank(), store) as app:
            with pytest.raises(ArchivedEvent, match=r"is in the archive 2024.jsonl.gz"):
                await app.send(command, idempotency_key="k")

    asyncio.run(work())


class Joined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


class Left(Event, key="customer_id", closes=True):
    customer_id: str


def test_who_is_forgotten_is_forgotten_in_archives_as_well(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/log.db", tmp_path / "left.jsonl.gz"

    async def work() -> None:
        joined = Joined(customer_id="c1", email="ada@example.org")
        async with App("crm", url=url).connected() as app:
            await app.publish(joined, Left(customer_id="c1"))
        store = open_store(url)
        await store.open(RealWorld())
        assert (await archive_closed(store, RealWorld(), file, closing=["Left"])).events == 2
        await store.close()
        assert b"ada@" not in gzip.decompress(file.read_bytes())
        async with App("crm", url=url, archives=[file]).connected() as app:
            assert await read(app, Joined) == [joined]
            await app.forget("customer_id", "c1")
            assert await read(app, Joined) == [Joined(customer_id="c1", email=FORGOTTEN)]
            with pytest.raises(StreamClosed):
                await app.publish(Left(customer_id="c1"))

    asyncio.run(work())


def test_a_stream_whose_subject_was_forgotten_is_closed_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    async def work() -> None:
        async with App("crm", url=url).connected() as app:
            await app.publish(Joined(customer_id="c1", email="ada@example.org"), Left(customer_id="c1"))
            await app.forget("customer_id", "c1")
        store = open_store(url)
        await store.open(RealWorld())
        done = await archive_closed(store, RealWorld(), tmp_path / "left.jsonl.gz", closing=["Left"])
        assert (done.events, done.streams) == (2, 1)
        await store.close()
        async with App("crm", url=url).connected() as app:
            assert told(await read(app))[:2] == ["Archived", "Archived"]
            assert len(await read(app)) == 3

    asyncio.run(work())


def test_while_the_application_goes_on_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    """Streams are closed and gone on with in other keys while run after run archives what is closed by then."""

    async def work() -> None:
        async with opened(bank(), store) as app:

            async def customers() -> None:
                for number in range(60):
                    await app.publish(deposited(f"k{number}", 1), deposited(f"k{number}", 2))
                    await app.publish(AccountClosed(account_id=f"k{number}"), deposited("open", number))

            async def archivist() -> None:
                for run in range(6):
                    file = tmp_path / f"run-{run}.jsonl.gz"
                    await archive_closed(app.open_store(), RealWorld(), file, closing=["AccountClosed"])
                    await asyncio.sleep(0.01)

            await asyncio.gather(customers(), archivist())
            await archive_closed(
                app.open_store(), RealWorld(), tmp_path / "run-last.jsonl.gz", closing=["AccountClosed"]
            )
            assert [type(event).__name__ for event in await read(app)].count("Archived") == 180
        files = [file for run in (*range(6), "last") if os.path.exists(file := tmp_path / f"run-{run}.jsonl.gz")]  # noqa: ASYNC240
        async with opened(bank(archives=files), store) as app:
            events = await read(app)
            assert told(events).count("AccountClosed") == 60
            assert sum(event.amount for event in events if isinstance(event, Deposited)) == 60 * 3 + sum(range(60))

    asyncio.run(work())


def test_an_outbox_sends_what_it_has_passes_over_what_was_dropped_and_parks_what_is_in_a_file(
    store: Store, tmp_path: Path
) -> None:
    async def work() -> None:
        await fill(store)
        await bury(store, tmp_path / "2024.jsonl.gz", drop=True)
        orders = channel(Deposited, Ticked, start="beginning")
        app = App("sender", outbox=[orders])
        async with opened(app, store, consume=True) as running:
            (letter,) = await dead(running)
            assert (letter.position, "is in the archive 2024.jsonl.gz" in letter.reason) == (1, True)
            await running.publish(Ticked(number=3))
            messages = await drained(orders, "group", 2)
        assert sorted(message.body for message in messages) == [b'{"account_id":"b","amount":"2"}', b'{"number":3}']

    asyncio.run(work())


# -------------------------------------------------------------------------------------------------------- closed streams


async def append(app: App, *events: Event) -> Receipt[None]:
    return await app.log.append(*events)


@pytest.mark.parametrize(
    "way",
    [
        lambda app: app.publish(deposited("a", 9)),
        lambda app: app.publish(deposited("c", 9), deposited("a", 9)),
        lambda app: append(app, AccountClosed(account_id="a")),
        lambda app: app.publish(Noted(account_id="a")),
        lambda app: app.send(Deposit(account_id="a", amount=Decimal(9))),
        lambda app: app.send(Deposit(account_id="a", amount=Decimal(9)), idempotency_key="k"),
        lambda app: app.publish(deposited("d", 1), AccountClosed(account_id="d"), deposited("d", 2)),
    ],
)
def test_nothing_goes_into_a_closed_stream_and_nothing_of_the_write_is_stored(
    store: Store, way: Callable[[App], Awaitable[object]]
) -> None:
    async def work() -> None:
        await fill(store)
        async with opened(bank(), store) as app:
            before = await read(app)
            with pytest.raises(StreamClosed, match=r"the stream account_id=[ad] is closed, and \w+ was to go into it"):
                await way(app)
            assert await read(app) == before
            await app.publish(deposited("b", 9))

    asyncio.run(work())


def test_who_closes_a_stream_goes_into_it_no_more(store: Store) -> None:
    async def work() -> None:
        async with opened(bank(), store) as app:
            await app.publish(deposited("a", 1))
            await app.publish(deposited("a", 2), AccountClosed(account_id="a"))
            for _ in range(2):
                with pytest.raises(StreamClosed):
                    await app.publish(deposited("a", 3))
            await app.publish(deposited("b", 3), AccountClosed(account_id="b"), idempotency_key="b")
            assert (await app.publish(deposited("b", 3), AccountClosed(account_id="b"), idempotency_key="b")).replayed
            with pytest.raises(StreamClosed):
                await app.publish(deposited("b", 3))

    asyncio.run(work())


def test_of_those_who_close_and_those_who_go_on_at_once_none_comes_behind_the_end(store: Store) -> None:
    async def work() -> None:
        async with opened(bank(), store) as app:
            ways = [app.publish(deposited("z", number)) for number in range(20)]
            ways.insert(10, app.publish(AccountClosed(account_id="z")))
            ways.append(app.publish(AccountClosed(account_id="z")))
            ends = await asyncio.gather(*ways, return_exceptions=True)
            assert all(isinstance(end, Receipt | StreamClosed) for end in ends)
            events = await read(app)
            assert told(events).count("AccountClosed") == 1
            assert told(events)[-1] == "AccountClosed"
            assert len(events) == sum(isinstance(end, Receipt) for end in ends)

    asyncio.run(work())


class CloseAccount(Command[AccountClosed]):
    account_id: str


class Withdraw(Command[Deposited]):
    account_id: str


class Gone(Refusal):
    account_id: str


def deciding() -> App:
    """One that looks whether an account is closed, and one that does not."""
    app = bank()

    @app.command
    def close(command: CloseAccount, account: Account) -> AccountClosed:
        return AccountClosed(account_id=command.account_id)

    class Standing(State, key="account_id"):
        closed: bool = False

        def evolve(self, event: AccountClosed) -> Standing:
            self.closed = True
            return self

    @app.command
    def withdraw(command: Withdraw, standing: Standing) -> Deposited:
        if standing.closed:
            raise Gone(account_id=command.account_id)
        return deposited(command.account_id, -1)

    return app


def test_decisions_that_meet_the_end_of_a_stream_are_each_answered_for_themselves(store: Store) -> None:
    async def work() -> None:
        async with opened(deciding(), store) as app:
            sends: list[Command[Any]] = [Deposit(account_id="a", amount=Decimal(number)) for number in range(30)]
            sends[15] = CloseAccount(account_id="a")
            sends += [Deposit(account_id="b", amount=Decimal(1)), Withdraw(account_id="a"), Withdraw(account_id="b")]
            ends = await asyncio.gather(*map(app.send, sends), return_exceptions=True)
            assert {type(end) for end in ends} <= {Receipt, StreamClosed, Gone}, ends
            events = [event for event in await read(app) if getattr(event, "account_id", "") == "a"]
            assert told(events).index("AccountClosed") == len(events) - 1
            assert len(events) == sum(isinstance(end, Receipt) for end in [*ends[:30], ends[31]])
            assert isinstance(ends[30], Receipt)
            assert isinstance(ends[32], Receipt)

    asyncio.run(work())


def test_who_looks_at_the_end_of_a_stream_refuses_in_its_own_words_also_when_it_comes_meanwhile(store: Store) -> None:
    async def work() -> None:
        async with opened(deciding(), store) as app:
            await app.send(Withdraw(account_id="a"))
            await app.publish(AccountClosed(account_id="a"))  # which the remembered state does not know
            with pytest.raises(Gone):
                await app.send(Withdraw(account_id="a"))

    asyncio.run(work())


def test_a_handler_that_emits_into_a_closed_stream_fails_alone(store: Store) -> None:
    app = bank()

    @app.on(start="beginning", pure=True)
    def echo(event: Ticked) -> Noted:
        return Noted(account_id="a" if event.number == 1 else "b")

    async def work() -> None:
        await fill(store)
        async with opened(app, store, consume=True) as running:
            await _until_done(running, "echo", 5)
            with pytest.raises(HandlerFailed, match="the stream account_id=a is closed, and Noted was to go into it"):
                await _until_done(running, "echo", 4)
            assert [event.account_id for event in await read(running, Noted)] == ["b"]  # type: ignore[attr-defined]

    asyncio.run(work())


def test_what_is_emitted_inside_the_transaction_is_refused_as_well(tmp_path: Path) -> None:
    async def work() -> None:
        store = open_store(f"sqlite:///{tmp_path}/log.db")
        await fill(store)
        async with opened(bank(), store) as app:

            def note(transaction: Transaction) -> None:
                transaction.emit(Noted(account_id="a"))

            with pytest.raises(StreamClosed, match="account_id=a is closed"):
                await app.transact(note)

    asyncio.run(work())
