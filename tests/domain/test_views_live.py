"""Live views: rows in the memory of each process are what follows from the log, in every process, without a table anywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

from ensue import App, Event, Position
from ensue.domain.views import live
from ensue.errors import DefinitionError, HandlerFailed, NotCaughtUp, WrongLog
from ensue.observe.signals import EventParked, Signal
from tests.domain.balances import ACCOUNTS, Balance, Deposited, Noted, check_rows, events_of, folded, random_events


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(limited())


def bank(url: str, heard: list[Signal] | None = None) -> App:
    app = App("bank", url=url, observe=heard.append if heard is not None else None)
    app.view(when="live")(Balance)
    return app


@pytest.mark.parametrize("seed", range(2))
def test_rows_are_the_fold_of_the_log_from_its_beginning_and_after_each_write(
    url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAGE", 7)
    chance = random.Random(seed)

    async def story() -> None:
        app = bank(url)
        async with app.connected():
            await app.publish(*random_events(chance, 200))
            for number in range(10):
                receipt = await app.publish(*random_events(chance, 5, first=1000 + number * 10))
                await check_rows(app, sql=False, after=receipt.position)

    told(story)


def test_every_process_has_its_own_and_sees_what_others_write(shared_url: str) -> None:
    chance = random.Random(3)

    async def story() -> None:
        one, two = bank(shared_url), bank(shared_url)
        async with one, two.connected():
            for number in range(6):
                receipt = await one.publish(*random_events(chance, 5, first=number * 10))
                await check_rows(two, sql=False, after=receipt.position)
                receipt = await two.publish(*random_events(chance, 5, first=500 + number * 10))
                await check_rows(one, sql=False, after=receipt.position)

    told(story)


def test_nothing_is_written_for_it_anywhere(file_url: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app:
            receipt = await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            assert await app.get(Balance, "a1", after=receipt.position) is not None
            tables = app.sql("SELECT name FROM sqlite_schema WHERE name LIKE '%balance%' OR name = 'ensue_view'")
            assert tables == []

    told(story)


def test_reads_wait_for_what_was_there_when_the_application_was_opened(file_url: str) -> None:
    chance = random.Random(4)

    async def story() -> None:
        app = bank(file_url)
        async with app.connected():
            await app.publish(*random_events(chance, 3000))
        async with app.connected():
            await check_rows(app, sql=False)  # at once, and without a position

    told(story)


def test_an_event_that_evolve_cannot_take_stops_its_row_alone_and_is_told(file_url: str) -> None:
    heard: list[Signal] = []

    async def story() -> None:
        async with bank(file_url, heard) as app:
            await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            bad = await app.publish(Deposited(account_id="a1", amount=Decimal(-1)))
            with pytest.raises(HandlerFailed, match=r"a1.*position 8.*below nothing"):
                await app.get(Balance, "a1", after=bad.position)
            good = await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            rows = [await app.get(Balance, account, after=good.position) for account in ACCOUNTS]
            assert [row and row.balance for row in rows] == [2, 1, 2, 2, 2, 2, 2]
            assert rows[1] is not None
            assert rows[1].moves == ["+1"], "what evolve did before it raised is nowhere to be seen"
            assert [one.position for one in heard if isinstance(one, EventParked)] == [8]

    told(story)


def test_what_a_reader_does_to_a_row_is_nobody_elses_business(file_url: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app:
            receipt = await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            row = await app.get(Balance, "a1", after=receipt.position)
            assert row is not None
            row.moves.append("mine")
            row.balance += 100
            again = await app.get(Balance, "a1")
            assert again is not None
            assert again.balance == 1
            assert again.moves == ["+1"]

    told(story)


def test_a_position_that_never_comes_ends_in_time_and_one_of_another_log_at_once(file_url: str) -> None:
    async def story() -> None:
        async with bank(file_url) as app:
            receipt = await app.publish(Noted(account_id="a1"))
            later = Position.of(receipt.position.log_id, 5, 5)
            with pytest.raises(NotCaughtUp):
                await app._open_engine().domain.views.caught_up(later, timeout_seconds=0.05, only=Balance)
            with pytest.raises(WrongLog):
                await app.get(Balance, "a1", after=Position("0123.1-1"))

    told(story)


def test_a_view_that_is_not_registered_is_told_by_name(file_url: str) -> None:
    async def story() -> None:
        async with App("bank", url=file_url) as app:
            with pytest.raises(DefinitionError, match="Balance is no view of this application"):
                await app.get(Balance, "a1")

    told(story)


def test_rows_hold_what_stored_events_hold_whatever_they_are(file_url: str) -> None:
    chance = random.Random(11)

    async def story() -> None:
        async with bank(file_url) as app:
            events: list[Event] = random_events(chance, 400)
            receipt = await app.publish(*events)
            await check_rows(app, sql=False, after=receipt.position)
            assert folded(await events_of(app)) == folded(events)

    told(story)
