"""Inline views: rows change in the transaction that appends, whoever appends and however; what they cannot take is not stored."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import pytest

from ensue import App, Channel, Command, Event, Retry, State, Transaction, View
from ensue.domain.views import inline, keeper, registry
from ensue.errors import ApplyFailed, DuplicateEventId, MissingCapability, NotCaughtUp, WiringError
from ensue.observe.signals import Signal, WriterTrouble
from ensue.store.base import DeadLetter
from tests.domain.balances import (
    ACCOUNTS,
    Balance,
    Closed,
    Deposited,
    Noted,
    Opened,
    Transferred,
    check_rows,
    events_of,
    folded,
    ledger,
    ledger_of,
    random_events,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log with one order of commits, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bank.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


class Deposit(Command[Deposited]):
    account_id: str
    amount: Decimal


class Asked(Event, key="account_id"):
    """Handlers answer with a deposit."""

    account_id: str
    amount: Decimal
    how: str


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(story(), 120)

    asyncio.run(limited())


def bank(url: str, *, views: bool = True) -> App:
    app = App("bank", url=url, retry=Retry.never)
    if views:
        app.view(when="inline")(Balance)
        app.view(schema=ledger.schema, when="inline")(ledger.function)

    @app.command
    def deposit(command: Deposit) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    @app.on
    async def slowly(event: Asked) -> Deposited | None:
        return Deposited(account_id=event.account_id, amount=event.amount) if event.how == "async" else None

    @app.on(pure=True)
    def purely(event: Asked) -> list[Deposited]:
        return [Deposited(account_id=event.account_id, amount=event.amount)] if event.how == "pure" else []

    @app.on
    def inside(event: Asked, tx: Transaction) -> Deposited | None:
        return Deposited(account_id=event.account_id, amount=event.amount) if event.how == "inside" else None

    return app


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def connected(app: App) -> AsyncGenerator[App, None]:
    async with app.connected():
        yield app


async def written(app: App, chance: random.Random, number: int) -> None:
    """Something is appended, in one of the ways in which that can be done."""
    events = random_events(chance, chance.randrange(1, 4), first=number * 10)
    deposit = Deposited(account_id=chance.choice(ACCOUNTS), amount=Decimal(number))
    how = chance.choice(["publish", "publish", "append", "send", "transact", "own", "handler", "many"])
    if how == "publish":
        await app.publish(*events, idempotency_key=f"p{number}")
    elif how == "append":
        await app.log.append(*events)
    elif how == "send":
        await app.send(Deposit(account_id=deposit.account_id, amount=deposit.amount))
    elif how == "transact":
        await app.transact(lambda tx: tx.emit(*events, deposit))
    elif how == "own" and app.open_store().capabilities.own_transactions:
        async with app.transaction() as tx:
            tx.emit(*events)
    elif how == "many":
        await asyncio.gather(*(app.publish(event) for event in events))
    else:
        kind = chance.choice(["async", "pure", "inside"])
        receipt = await app.publish(Asked(account_id=deposit.account_id, amount=deposit.amount, how=kind))
        await receipt.wait()


@pytest.mark.parametrize("seed", range(2))
def test_rows_are_the_fold_of_the_log_after_each_write_in_every_process(log_url: str, seed: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        async with bank(log_url) as app, connected(bank(log_url)) as other:
            for number in range(40):
                await written(app, chance, number)
                await check_rows(app)
                await check_rows(other)
                await ledger_of(app)
                if number % 3 == 0:
                    await other.publish(*random_events(chance, 2, first=number * 10 + 5))
                    await check_rows(app)

    told(story)


def test_an_event_that_evolve_refuses_is_not_stored_nor_what_came_with_it(log_url: str) -> None:
    wrong = Deposited(account_id="a1", amount=Decimal(-1))
    right = Deposited(account_id="a1", amount=Decimal(5))

    async def story() -> None:
        async with bank(log_url) as app:
            await app.publish(right)
            ways: list[Callable[[], Awaitable[Any]]] = [
                lambda: app.publish(Noted(account_id="a1"), wrong),
                lambda: app.log.append(wrong),
                lambda: app.send(Deposit(account_id="a1", amount=Decimal(-1))),
                lambda: app.transact(lambda tx: tx.emit(right, wrong)),
            ]
            for way in ways:
                with pytest.raises(
                    ApplyFailed, match=r"the view \w+ cannot take the Deposited: .*a deposit below nothing"
                ):
                    await way()
            if app.open_store().capabilities.own_transactions:
                with pytest.raises(ApplyFailed, match="below nothing"):
                    async with app.transaction() as tx:
                        tx.emit(wrong)
            answers = await asyncio.gather(
                *(app.publish(event) for event in [right, wrong, right]), return_exceptions=True
            )
            assert [isinstance(answer, ApplyFailed) for answer in answers] == [False, True, False]
            assert app.open_store().head() == 3
            await check_rows(app)

    told(story)


@pytest.mark.parametrize("how", ["async", "pure", "inside"])
def test_a_handler_whose_event_is_refused_fails_alone_and_its_neighbours_go_on(file_url: str, how: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app:
            asked = [
                Asked(account_id=f"a{number}", amount=Decimal(-1 if number == 3 else number), how=how)
                for number in range(7)
            ]
            await app.publish(*asked)
            found: list[DeadLetter] = []

            async def over() -> bool:
                found[:] = [letter async for letter in app.dead_letters.list()]
                return bool(found) and len(folded(await events_of(app))) == 6

            await until(over)
            assert [letter.position for letter in found] == [4]
            assert "below nothing" in found[0].reason
            await check_rows(app)

    told(story)


def test_what_a_process_appends_that_does_not_know_the_view_is_taken_before_the_next_event(log_url: str) -> None:
    chance = random.Random(5)

    async def story() -> None:
        async with bank(log_url) as app, connected(bank(log_url, views=False)) as unaware:
            for number in range(15):
                await unaware.publish(*random_events(chance, 3, first=number * 10))
                if number % 2:
                    await app.publish(*random_events(chance, 2, first=number * 10 + 5))
                    await ledger_of(app)
                await check_rows(app)

    told(story)


def test_so_much_is_missed_that_it_is_left_to_transactions_of_their_own(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "MISSED", 3)
    chance = random.Random(6)

    async def story() -> None:
        async with bank(file_url) as app, connected(bank(file_url, views=False)) as unaware:
            for number in range(8):
                await unaware.publish(*random_events(chance, 9, first=number * 20))
                await app.publish(*random_events(chance, 2, first=number * 20 + 15))
                await check_rows(app)
                await ledger_of(app)

    told(story)


def test_a_stored_event_that_the_view_cannot_take_stops_it_and_not_the_application(file_url: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app, connected(bank(file_url, views=False)) as unaware:
            await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            await unaware.publish(Deposited(account_id="a1", amount=Decimal(-1)))
            with pytest.raises(NotCaughtUp, match=r"position 2.*below nothing"):
                await app.get(Balance, "a1")
            with contextlib.suppress(ApplyFailed):  # it may be this write that finds it
                await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            receipt = await app.publish(Deposited(account_id="a2", amount=Decimal(1)))
            with pytest.raises(NotCaughtUp, match="below nothing"):
                await app.get(Balance, "a2", after=receipt.position)
            assert app.sql("SELECT account_id, balance FROM balances") == [("a1", "1")]
        with pytest.raises(WiringError, match=r"inline view \w+ .*position 2.*below nothing"):
            async with bank(file_url):
                pass

    told(story)


def test_a_view_that_is_new_to_a_log_is_built_before_the_application_is_open(log_url: str) -> None:
    chance = random.Random(8)

    async def story() -> None:
        async with connected(bank(log_url, views=False)) as unaware:
            for number in range(30):
                await unaware.publish(*random_events(chance, 100, first=number * 100))
        async with bank(log_url) as app:
            await ledger_of(app, caught_up=False)
            await check_rows(app)

    told(story)


class Richer(View, key="account_id", table="balances"):
    """The same view in newer code."""

    account_id: str
    balance: Decimal = Decimal(0)
    deposits: int = 0

    def evolve(self, event: Deposited | Transferred | Closed) -> Self | None:
        match event:
            case Deposited():
                self.balance += event.amount
                self.deposits += 1
            case Transferred():
                self.balance += event.amount * ((event.target == self.account_id) - (event.source == self.account_id))
            case Closed():
                return None
        return self


def test_old_and_new_code_keep_a_version_each_side_by_side(log_url: str) -> None:
    chance = random.Random(9)

    async def story() -> None:
        new = App("bank", url=log_url)
        new.view(when="inline")(Richer)
        async with bank(log_url) as old:
            await old.publish(*random_events(chance, 50))
            async with new:
                for number in range(1, 10):
                    await old.publish(*random_events(chance, 3, first=number * 100))
                    await new.publish(*random_events(chance, 3, first=number * 100 + 50))
                    await check_rows(old, sql=False)
                    rows = folded(await events_of(old))
                    for account, (_, balance, _) in rows.items():
                        found = await new.get(Richer, account)
                        assert (found.balance if found is not None else 0) == balance
                    shown = {row[0] for row in new.sql("SELECT account_id FROM balances WHERE deposits >= 0")}
                    assert shown <= set(rows), "readers see the newer version, in its columns"

    told(story)


def test_an_inline_view_on_a_log_with_many_writers_at_a_time_is_refused(postgresql_url: str) -> None:
    async def story() -> None:
        with pytest.raises(MissingCapability, match=r"Balance.*ensue_writers=many"):
            async with bank(f"{postgresql_url}&ensue_writers=many"):
                pass

    told(story)


def test_an_inline_view_on_a_log_in_memory_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(MissingCapability, match="SQL"):
            async with bank("memory:"):
                pass

    told(story)


def test_events_that_no_view_reads_are_appended_without_a_look_at_views(file_url: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app:
            await app.publish(Opened(account_id="a1", owner="o"))
            position = app.sql("SELECT position FROM ensue_view WHERE name = 'balances'")
            await app.publish(Noted(account_id="a1"))
            assert app.sql("SELECT position FROM ensue_view WHERE name = 'balances'") == position

    told(story)


def test_going_back_to_old_code_shows_its_version_again_when_nobody_keeps_the_newer(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(keeper, "LEFT_SECONDS", 0.5)
    chance = random.Random(10)

    async def story() -> None:
        old, new = bank(log_url), App("bank", url=log_url)
        new.view(when="inline")(Richer)
        async with old:
            await old.publish(*random_events(chance, 20))
            async with new:
                await old.publish(*random_events(chance, 20, first=100))
                assert new.sql("SELECT max(deposits) FROM balances") != []
        async with old:
            await old.publish(*random_events(chance, 20, first=200))

            async def is_shown() -> bool:
                return bool(old.sql("SELECT 1 FROM ensue_view WHERE name = 'balances' AND number = 1 AND current = 1"))

            await until(is_shown)
            await check_rows(old)
        async with new:  # and forward
            await new.publish(*random_events(chance, 20, first=300))

            async def is_newer() -> bool:
                return bool(new.sql("SELECT 1 FROM ensue_view WHERE name = 'balances' AND number = 2 AND current = 1"))

            await until(is_newer)

    told(story)


def test_a_view_that_becomes_inline_is_built_anew_and_never_counts_twice(file_url: str) -> None:
    chance = random.Random(11)

    async def story() -> None:
        after = App("bank", url=file_url)
        after.view(Balance)
        async with after:
            receipt = await after.publish(*random_events(chance, 30))
            await check_rows(after, after=receipt.position)
        async with bank(file_url) as app:
            await app.publish(*random_events(chance, 30, first=100))
            await check_rows(app)
        async with after:
            receipt = await after.publish(*random_events(chance, 30, first=200))
            await check_rows(after, sql=False, after=receipt.position)

    told(story)


def test_an_operator_pauses_and_resumes_it_and_has_it_built_anew(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.1)
    chance = random.Random(12)

    async def story() -> None:
        async with bank(log_url) as app:
            store: Any = app.open_store()
            await app.publish(*random_events(chance, 20))
            (version,) = [one for one in await registry.versions(store) if one.name == "balances"]
            await registry.write(store, lambda sql: registry.change(sql, version, paused=True))
            rows = app.sql("SELECT * FROM balances ORDER BY 1")
            await app.publish(*random_events(chance, 20, first=100))
            assert app.sql("SELECT * FROM balances ORDER BY 1") == rows
            with pytest.raises(NotCaughtUp, match="paused"):
                await app.get(Balance, "a1")
            (version,) = [one for one in await registry.versions(store) if one.name == "balances"]
            await registry.write(store, lambda sql: registry.change(sql, version, paused=False))
            await app.publish(*random_events(chance, 20, first=200))
            await check_rows(app)
            (version,) = [one for one in await registry.versions(store) if one.name == "balances"]
            await registry.write(store, lambda sql: registry.rebuild(sql, version, used=0, now=0))

            async def is_built() -> bool:
                await app.publish(*random_events(chance, 2, first=next(numbers)))
                await check_rows(app)
                return bool(app.sql("SELECT 1 FROM ensue_view WHERE name = 'balances' AND number = 2 AND current = 1"))

            numbers = iter(range(1000, 100_000, 10))
            await until(is_built)
            await app.publish(*random_events(chance, 20, first=300))
            await check_rows(app)

    told(story)


def test_a_batch_that_is_undone_and_written_again_is_taken_once(log_url: str) -> None:
    """An event that is stored already undoes the whole batch on its way: the writer finds it by halves, and runs functions again."""
    chance = random.Random(13)

    async def story() -> None:
        async with bank(log_url) as app:
            await app.publish(*random_events(chance, 3))
            (known, *_) = [recorded async for recorded in app.log.read(Event)]
            for number in range(12):
                events = random_events(chance, 8, first=100 * (number + 1))

                def emits(tx: Transaction, events: list[Event] = events) -> None:
                    tx.emit(*events[2:5])

                answers = await asyncio.gather(
                    app.publish(events[0], events[1]),
                    app.transact(emits),
                    app.log.append(known),
                    app.transact(lambda tx: tx.emit(Noted(account_id="a1"))),
                    app.publish(*events[5:]),
                    return_exceptions=True,
                )
                refused = [type(answer) for answer in answers if isinstance(answer, Exception)]
                assert refused == [DuplicateEventId]
                await check_rows(app)
                await ledger_of(app)
                stored = await events_of(app)
                last = max(nth for nth, event in enumerate(stored, 1) if not isinstance(event, Noted))
                ((position,),) = app.sql("SELECT position FROM ensue_view WHERE name = 'balances'")
                assert last <= position <= app.open_store().head(), "each append moved it to where it ended"

    told(story)


def test_a_message_that_the_view_refuses_holds_up_what_comes_behind_it_and_nothing_before(
    file_url: str, tmp_path: Path
) -> None:
    deposits = Channel("deposits", Deposited, url=f"memory://{tmp_path.name[-8:].replace(chr(95), chr(45))}")
    heard: list[Signal] = []

    async def story() -> None:
        app = App("bank", url=file_url, inbox=[deposits], observe=heard.append)
        app.view(when="inline")(Balance)
        sends = App("sends", url=f"sqlite:///{tmp_path}/sends.db", outbox=[deposits])
        amounts = [1, 2, 3, -1, 5]

        async def has_come() -> bool:
            return len(await events_of(app)) == 3 and any(isinstance(one, WriterTrouble) for one in heard)

        async with sends:
            async with app:
                await sends.publish(*(Deposited(account_id="a1", amount=Decimal(amount)) for amount in amounts))
                await until(has_come)
                row = await app.get(Balance, "a1")
                assert row is not None and row.balance == 6

    told(story)


def test_a_row_that_the_database_refuses_refuses_its_append_and_no_other(log_url: str) -> None:
    """As an owner's unique index does."""

    async def story() -> None:
        async with bank(log_url) as app:
            await app.publish(Opened(account_id="a1", owner="o"))
            await app.transact(lambda tx: tx.execute("CREATE UNIQUE INDEX one_owner ON balances__v1 (owner)"))
            answers = await asyncio.gather(
                *(app.publish(Opened(account_id=f"a{number}", owner=f"o{number % 5}")) for number in range(2, 7)),
                app.publish(Opened(account_id="a0", owner="o")),
                app.publish(Deposited(account_id="a1", amount=Decimal(1))),
                app.transact(lambda tx: tx.emit(Deposited(account_id="a1", amount=Decimal(1)))),
                return_exceptions=True,
            )
            refused = [type(answer).__name__ for answer in answers if isinstance(answer, Exception)]
            assert refused == ["ApplyFailed"]
            await check_rows(app)

    told(story)


def picky(event: Deposited, tx: Transaction) -> None:
    if event.amount == 13:
        raise ValueError("not thirteen")


def test_what_one_view_took_is_undone_where_another_refuses(log_url: str) -> None:
    async def story() -> None:
        app = App("bank", url=log_url)
        app.view(when="inline")(Balance)
        app.view(schema="CREATE TABLE picked (n INTEGER)", when="inline")(picky)
        async with app:
            for number in range(5):
                amounts = [1, 13, 2, 13, 13, 3, 4]
                answers = await asyncio.gather(
                    *(app.publish(Deposited(account_id="a1", amount=Decimal(amount))) for amount in amounts),
                    app.publish(Deposited(account_id="a2", amount=Decimal(1))),
                    return_exceptions=True,
                )
                assert sum(isinstance(answer, ApplyFailed) for answer in answers) == 3
                row = await app.get(Balance, "a1")
                assert row is not None
                assert row.balance == 10 * (number + 1)
                await check_rows(app)

    told(story)


class Purse(State, key="account_id"):
    deposits: int = 0

    def evolve(self, event: Deposited) -> Self:
        self.deposits += 1
        return self


class Fill(Command[Deposited]):
    account_id: str
    amount: Decimal


def test_of_commands_that_are_decided_together_only_the_one_whose_event_is_refused_fails(log_url: str) -> None:
    async def story() -> None:
        app = bank(log_url)

        @app.command
        def fill(command: Fill, purse: Purse) -> Deposited:
            return Deposited(account_id=command.account_id, amount=command.amount)

        async with app:
            amounts = [1, 2, -1, 3, -1, 4]
            answers = await asyncio.gather(
                *(app.send(Fill(account_id="a1", amount=Decimal(amount))) for amount in amounts), return_exceptions=True
            )
            assert [isinstance(answer, ApplyFailed) for answer in answers] == [amount < 0 for amount in amounts]
            await check_rows(app)

    told(story)
