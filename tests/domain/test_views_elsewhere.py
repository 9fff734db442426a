"""Views in another database: rows and how far they have come are one transaction there, whatever happens to either database."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest

from ensue import App, View
from ensue.app.urls import open_target
from ensue.domain.views import keeper
from ensue.errors import EnsueError, HandlerFailed, NotCaughtUp, WiringError
from ensue.observe.signals import EventParked, Signal, WriterTrouble
from ensue.world import RealWorld
from tests.domain.balances import (
    ACCOUNTS,
    Balance,
    Deposited,
    Noted,
    deposited,
    events_of,
    folded,
    ledger,
    random_events,
)
from tests.servers.postgresql import PostgresServer, empty_schema


@pytest.fixture(params=["sqlite", "postgresql"])
def rows_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database beside the log's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/rows.db"
    found: str = request.getfixturevalue("postgresql_url")
    return empty_schema(found)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.2)


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(story(), 120)

    asyncio.run(limited())


def bank(url: str, rows: str, heard: list[Signal] | None = None) -> App:
    app = App("bank", url=url, observe=heard.append if heard is not None else None)
    app.view(database=rows)(Balance)
    app.view(schema=ledger.schema, database=rows)(ledger.function)
    return app


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def selected(rows_url: str, sql: str) -> list[tuple[object, ...]]:
    target = open_target(rows_url)
    await target.open(RealWorld())
    try:
        return await target.select(sql)
    finally:
        await target.close()


async def check(app: App, rows_url: str) -> None:
    """What is in the other database follows from the log, as it is now."""
    receipt = await app.publish(Noted(account_id="a1"))
    expected = folded(await events_of(app))
    for account in ACCOUNTS:
        found = await app.get(Balance, account, after=receipt.position)
        assert (found and (found.owner, found.balance, found.moves)) == expected.get(account), account
    await app._open_engine().domain.views.caught_up(receipt.position, timeout_seconds=20)
    found_rows = await selected(rows_url, "SELECT account, number, hundredths FROM deposits ORDER BY account")
    assert found_rows == deposited(await events_of(app))


@pytest.mark.parametrize("seed", range(2))
def test_rows_elsewhere_are_the_fold_of_the_log(shared_url: str, rows_url: str, seed: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        async with App("bank", url=shared_url).connected() as unaware:
            await unaware.publish(*random_events(chance, 1500))
        async with bank(shared_url, rows_url) as app:
            await check(app, rows_url)
            for number in range(10):
                await app.publish(*random_events(chance, 10, first=2000 + number * 10))
                await check(app, rows_url)
        async with bank(shared_url, rows_url) as app:
            await check(app, rows_url)

    told(story)


def test_processes_that_keep_the_same_rows_take_each_event_once(file_url: str, rows_url: str) -> None:
    chance = random.Random(3)

    async def story() -> None:
        async with bank(file_url, rows_url) as one, bank(file_url, rows_url) as two, bank(file_url, rows_url) as three:
            for number in range(20):
                app = chance.choice([one, two, three])
                await app.publish(*random_events(chance, 5, first=number * 10))
            for app in (one, two, three):
                await check(app, rows_url)

    told(story)


def test_a_database_that_is_away_is_waited_for_and_told_and_caught_up_with(
    file_url: str, own_postgresql: PostgresServer
) -> None:
    chance = random.Random(4)
    heard: list[Signal] = []

    async def story() -> None:
        rows_url = own_postgresql.address.url()
        own_postgresql.kill()
        async with bank(file_url, rows_url, heard) as app:  # it opens without it
            receipt = await app.publish(*random_events(chance, 15))
            with pytest.raises(EnsueError):
                await app.get(Balance, "a1", after=receipt.position)
            own_postgresql.start()
            await check(app, rows_url)
            own_postgresql.kill()
            await app.publish(*random_events(chance, 5, first=100))

            async def is_told() -> bool:
                return any(isinstance(one, WriterTrouble) and one.consumer == "view.balances" for one in heard)

            heard.clear()
            await until(is_told)
            own_postgresql.start()
            await check(app, rows_url)

    told(story)


def test_a_database_that_is_put_back_to_an_earlier_state_goes_on_from_there(file_url: str, tmp_path: Path) -> None:
    chance = random.Random(5)
    rows, kept = tmp_path / "rows.db", tmp_path / "backup.db"

    async def story() -> None:
        rows_url = f"sqlite:///{rows}"
        async with bank(file_url, rows_url) as app:
            await app.publish(*random_events(chance, 50))
            await check(app, rows_url)
        shutil.copy(rows, kept)
        async with bank(file_url, rows_url) as app:
            await app.publish(*random_events(chance, 50, first=100))
            await check(app, rows_url)
        assert not await asyncio.to_thread(Path(f"{rows}-wal").exists), "a file that is closed is one"
        shutil.copy(kept, rows)
        async with bank(file_url, rows_url) as app:
            await app.publish(*random_events(chance, 5, first=200))
            await check(app, rows_url)
            await put_back(rows, kept)  # under the feet of a running application
            await app.publish(*random_events(chance, 5, first=300))
            await check(app, rows_url)

    told(story)


PUT_BACK = """
import sqlite3, sys
rows, kept = sys.argv[1:]
to = sqlite3.connect(rows, timeout=20, isolation_level=None)
to.execute("ATTACH ? AS kept", (kept,))
to.execute("BEGIN IMMEDIATE")
for (name,) in to.execute("SELECT name FROM kept.sqlite_schema WHERE type = 'table'").fetchall():
    to.execute(f'DELETE FROM "{name}"')
    to.execute(f'INSERT INTO "{name}" SELECT * FROM kept."{name}"')
to.execute("COMMIT")
to.close()
"""


async def put_back(rows: Path, kept: Path) -> None:
    """The tables as they were, in the same file, by another process: this one has the file open by another library."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PUT_BACK, str(rows), str(kept))
    assert await process.wait() == 0


def test_a_log_that_ends_before_what_the_rows_hold_is_told(tmp_path: Path) -> None:
    log, rows_url = tmp_path / "log.db", f"sqlite:///{tmp_path}/rows.db"
    chance = random.Random(6)

    async def story() -> None:
        async with bank(f"sqlite:///{log}", rows_url) as app:
            await app.publish(*random_events(chance, 10))
            await check(app, rows_url)
        shutil.copy(log, tmp_path / "earlier.db")
        async with bank(f"sqlite:///{log}", rows_url) as app:
            await app.publish(*random_events(chance, 10, first=20))
            await check(app, rows_url)
        shutil.copy(tmp_path / "earlier.db", log)
        async with bank(f"sqlite:///{log}", rows_url) as app:
            receipt = await app.publish(Noted(account_id="a1"))
            with pytest.raises(NotCaughtUp, match="restored from a backup"):
                await app._open_engine().domain.views.caught_up(receipt.position, timeout_seconds=1)

    told(story)


def test_rows_of_another_log_are_left_alone(tmp_path: Path, rows_url: str) -> None:
    async def story() -> None:
        async with bank(f"sqlite:///{tmp_path}/one.db", rows_url) as app:
            await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            await check(app, rows_url)
        with pytest.raises(WiringError, match="of the log"):
            async with bank(f"sqlite:///{tmp_path}/two.db", rows_url):
                await asyncio.Event().wait()
        assert await selected(rows_url, "SELECT account, number FROM deposits") == [("a1", 1)]

    told(story)


def test_a_database_that_is_a_log_is_refused(shared_url: str) -> None:
    async def story() -> None:
        with pytest.raises(WiringError, match="leave database= out"):
            async with bank(shared_url, shared_url):
                await asyncio.Event().wait()

    told(story)


def test_an_event_that_evolve_cannot_take_stops_its_row_alone_and_is_told(file_url: str, rows_url: str) -> None:
    heard: list[Signal] = []

    async def story() -> None:
        app = App("bank", url=file_url, observe=heard.append)
        app.view(database=rows_url)(Balance)
        async with app:
            for _ in range(2):
                await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            bad = await app.publish(
                Deposited(account_id="a2", amount=Decimal(7)),
                Deposited(account_id="a1", amount=Decimal(7)),
                Deposited(account_id="a1", amount=Decimal(-1)),
                Deposited(account_id="a1", amount=Decimal(7)),
                Deposited(account_id="a2", amount=Decimal(7)),
            )
            with pytest.raises(HandlerFailed, match=r"a1.*position 17.*below nothing") as failed:
                await app.get(Balance, "a1", after=bad.position)
            assert failed.value.position == 17
            good = await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            rows = [await app.get(Balance, account, after=good.position) for account in ACCOUNTS]
            assert [row and row.balance for row in rows] == [3, 9, 17, 3, 3, 3, 3], (
                "it stands before what it could not take"
            )
            assert [one.position for one in heard if isinstance(one, EventParked)] == [17]
            assert await selected(rows_url, "SELECT key, position FROM ensue_view_stopped") == [('["a1"]', 17)]
        async with bank(file_url, rows_url) as again:
            receipt = await again.publish(Deposited(account_id="a1", amount=Decimal(1)))
            found = await again.get(Balance, "a1", after=receipt.position)
            assert found is not None and found.balance == 9

    told(story)


def test_a_view_in_plain_sql_stops_before_what_it_cannot_take_and_shows_what_it_has(
    file_url: str, rows_url: str
) -> None:
    heard: list[Signal] = []

    async def story() -> None:
        async with App("bank", url=file_url).connected() as unaware:
            await unaware.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            await unaware.publish(Deposited(account_id="a1", amount=Decimal(-1)))
        async with bank(file_url, rows_url, heard) as app:
            receipt = await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
            with pytest.raises(NotCaughtUp, match=r"position 8.*below nothing"):
                await app._open_engine().domain.views.caught_up(receipt.position, timeout_seconds=1)
            found = await selected(rows_url, "SELECT account, number FROM deposits ORDER BY account")
            assert found == [(account, 1) for account in ACCOUNTS]
            assert {one.position for one in heard if isinstance(one, EventParked)} == {8}

    told(story)


class Small(View, key="account_id", table="balances"):
    """Newer code of the same table."""

    account_id: str
    number: int = 0

    def evolve(self, event: Deposited) -> Small:
        self.number += 1
        return self


def test_newer_code_is_built_beside_and_readers_never_see_it_empty(file_url: str, rows_url: str) -> None:
    chance = random.Random(7)

    async def story() -> None:
        async with bank(file_url, rows_url) as app:
            await app.publish(*random_events(chance, 2500))
            await check(app, rows_url)
        newer = App("bank", url=file_url)
        newer.view(database=rows_url)(Small)
        seen: list[int] = []

        async def look() -> None:
            while True:
                found = await selected(rows_url, "SELECT count(*) FROM balances")
                seen.append(int(str(found[0][0])))

        looking = asyncio.create_task(look())
        async with newer:
            receipt = await newer.publish(Deposited(account_id="a1", amount=Decimal(1)))
            found = await newer.get(Small, "a1", after=receipt.position)
            count = sum(isinstance(one, Deposited) and one.account_id == "a1" for one in await events_of(newer))
            assert found is not None and found.number == count
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert all(seen), "never empty"
        assert await selected(rows_url, "SELECT number FROM balances WHERE account_id = 'a1'") == [(count,)]
        assert await selected(rows_url, "SELECT count(*) FROM balances__v1 WHERE owner IS NULL OR owner > ''") != [(0,)]

    told(story)
