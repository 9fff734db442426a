"""A changed view is built beside the one that is read, shown when it has caught up, and left again by deploying the old code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, cast

import psycopg
import pytest

from ensue import App, Event, Retry, View
from ensue.domain.views import following, kept, parts, registry
from ensue.domain.views.registry import Database, Version
from ensue.errors import HandlerFailed, NotCaughtUp, WiringError
from ensue.store.sqlite.transfer import SqliteTransfer
from ensue.store.transfer import copy
from ensue.world import RealWorld

SOON = timedelta(seconds=20)


class Paid(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Account(View, key="account_id", table="account"):
    account_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> Self:
        self.total += event.amount
        return self


class Doubled(View, key="account_id", table="account"):
    """Other code, the same columns."""

    account_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> Self:
        self.total += 2 * event.amount
        return self


class Counted(View, key="account_id", table="account"):
    """Other columns."""

    account_id: str
    total: Decimal = Decimal(0)
    payments: int = 0

    def evolve(self, event: Paid) -> Self:
        self.total += event.amount
        self.payments += 1
        return self


class Choosy(View, key="account_id", table="account"):
    """Does not take every event."""

    account_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> Self:
        if event.amount == 13:
            raise ValueError("an unlucky payment")
        self.total += event.amount
        return self


class Constant(View, key="account_id", table="account"):
    """All rows alike."""

    account_id: str
    total: Decimal = Decimal(7)

    def evolve(self, event: Paid) -> Self:
        return self


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LOOK_SECONDS", 0.05)


def bank(url: str, *views: type[View]) -> App:
    app = App("bank", url=url)
    for view in views:
        app.view(view)
    return app


def paid(account: str, *amounts: int) -> list[Paid]:
    return [Paid(account_id=account, amount=Decimal(amount)) for amount in amounts]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def versions(app: App) -> list[Version]:
    return await registry.versions(cast(Database, app.open_store()))


async def current(app: App) -> int | None:
    return next((one.number for one in await versions(app) if one.current), None)


def lines(app: App) -> list[tuple[Any, ...]]:
    return app.sql("SELECT * FROM account ORDER BY account_id")


def plain(found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(Decimal(one) if name == 1 else one for name, one in enumerate(line)) for line in found]


def test_the_name_is_there_and_empty_when_an_application_opens_on_an_empty_log(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            assert lines(app) == []
            assert await app.get(Account, "a1") is None
            assert await current(app) == 1

    asyncio.run(run())


def test_the_same_code_opens_to_the_same_version(shared_url: str) -> None:
    async def run() -> None:
        for _ in range(3):
            async with bank(shared_url, Account) as app:
                await app.publish(*paid("a1", 1))
                assert [one.number for one in await versions(app)] == [1]

    asyncio.run(run())


@pytest.mark.parametrize("other", [Doubled, Counted])
def test_changed_code_is_built_from_history_and_shown(shared_url: str, other: type[View]) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            receipt = await app.publish(*paid("a1", 1, 2), *paid("a2", 3))
            assert await app.get(Account, "a1", after=receipt.position) == Account(account_id="a1", total=Decimal(3))
        async with bank(shared_url, other) as app:
            assert await current(app) == 2
            rows: dict[type[View], list[tuple[Any, ...]]] = {
                Doubled: [("a1", Decimal(6)), ("a2", Decimal(6))],
                Counted: [("a1", Decimal(3), 2), ("a2", Decimal(3), 1)],
            }
            assert plain(lines(app)) == rows[other]
            receipt = await app.publish(*paid("a2", 5))
            row = await app.get(other, "a2", after=receipt.position)
            assert row is not None
            assert getattr(row, "total") == (16 if other is Doubled else 8)  # noqa: B009
            retired = [one.name for one in await app.open_store().consumers() if one.status == "retired"]
            assert retired == ["view.account.v1"], "nobody waits for the version that nobody keeps"
            await receipt.wait()

    asyncio.run(run())


def test_going_back_to_the_old_code_catches_its_version_up_and_shows_it(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            await app.publish(*paid("a1", 1))
        async with bank(shared_url, Counted) as app:
            await app.publish(*paid("a1", 2), *paid("a2", 5))
            assert await current(app) == 2
        async with bank(shared_url, Account) as app:
            await until(lambda: _is(app, 1))
            assert plain(lines(app)) == [("a1", Decimal(3)), ("a2", Decimal(5))]
            assert [one.number for one in await versions(app)] == [1, 2]
        async with bank(shared_url, Counted) as app:
            await until(lambda: _is(app, 2))
            assert plain(lines(app)) == [("a1", Decimal(3), 2), ("a2", Decimal(5), 1)]

    asyncio.run(run())


async def _is(app: App, number: int) -> bool:
    return await current(app) == number


def test_old_and_new_code_run_side_by_side_and_readers_see_the_newer(shared_url: str) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            old = await stack.enter_async_context(bank(shared_url, Account))
            await old.publish(*paid("a1", 1))
            new = await stack.enter_async_context(bank(shared_url, Counted))
            await until(lambda: _is(new, 2))
            receipt = await old.publish(*paid("a1", 10))
            assert await old.get(Account, "a1", after=receipt.position) == Account(account_id="a1", total=Decimal(11))
            counted = Counted(account_id="a1", total=Decimal(11), payments=2)
            assert await new.get(Counted, "a1", after=receipt.position) == counted
            assert plain(lines(old)) == [("a1", Decimal(11), 2)]
            await receipt.wait()
            # An old process that starts again does not take the name back while a new one lives.
            again = await stack.enter_async_context(bank(shared_url, Account))
            await asyncio.sleep(0)
            for _ in range(5):
                await until(lambda: _settled(again))
                assert await current(again) == 2

    asyncio.run(run())


async def _settled(app: App) -> bool:
    receipt = await app.publish(*paid("a9", 1))
    await receipt.wait()
    return True


def test_of_old_versions_one_is_kept(shared_url: str) -> None:
    async def run() -> None:
        for view in (Account, Doubled, Counted, Choosy):
            async with bank(shared_url, view) as app:
                await app.publish(*paid("a1", 1))
                await until(lambda app=app, view=view: _two(app))  # type: ignore[misc]
        assert [one.number for one in found] == [3, 4]

    found: list[Version] = []

    async def _two(app: App) -> bool:
        found[:] = await versions(app)
        return len(found) <= 2 and found[-1].current

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("count", [1, 3])
def test_an_event_that_evolve_does_not_take_parks_its_key_and_no_other(
    shared_url: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of what is built, whole or in parts, and again behind it."""
    monkeypatch.setattr(parts, "worth_dividing", lambda _store, _processes: count)

    async def run() -> None:
        async with bank(shared_url).connected() as app:
            await app.publish(*paid("a1", 1), *paid("a2", 2, 13, 4), *paid("a1", 5), *paid("a3", 6))
        async with bank(shared_url, Choosy) as app:
            receipt = await app.publish(*paid("a1", 7), *paid("a3", 8))
            third = Choosy(account_id="a3", total=Decimal(14))
            assert await app.get(Choosy, "a3", after=receipt.position, timeout=SOON) == third
            assert plain(lines(app)) == [("a1", Decimal(13)), ("a2", Decimal(2)), ("a3", Decimal(14))]
            (letter,) = [letter async for letter in app.dead_letters.list()]
            assert (letter.key_text, letter.attempts) == ("account_id=a2", 1)
            assert letter.reason == "ValueError: an unlucky payment"
            parked = await app.publish(*paid("a2", 1))
            with pytest.raises(HandlerFailed, match="a2 is parked"):
                await app.get(Choosy, "a2", after=parked.position)
            (version,) = await versions(app)
            assert version.reason is not None
            assert "an unlucky payment, at position 3" in version.reason
            await app.dead_letters.discard(letter.id, note="a joke", by="the test")
            await until(lambda: _has(app, ("a2", Decimal(7))))

    asyncio.run(run())


async def _has(app: App, line: tuple[Any, ...]) -> bool:
    return line in plain(lines(app))


class Measured(Event, key="meter_id"):
    meter_id: str
    number: int
    at: datetime


class Meter(View, key="meter_id"):
    meter_id: str
    number: int = 0
    at: datetime | None = None

    def evolve(self, event: Measured) -> Self:
        self.number, self.at = event.number, event.at
        return self


@pytest.mark.parametrize(
    ("number", "at", "error"),
    [
        (2**70, datetime(2026, 3, 1, tzinfo=UTC), ""),
        (1, datetime(2026, 3, 1), "a datetime with a zone was expected"),
    ],
)
def test_a_value_that_fits_no_column_parks_its_key_and_no_other(
    shared_url: str, number: int, at: datetime, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what is built, and in what is followed."""
    monkeypatch.setattr(following, "RETRY", Retry.never)
    good = datetime(2026, 3, 1, tzinfo=UTC)

    async def run() -> None:
        async with bank(shared_url).connected() as app:
            await app.publish(Measured(meter_id="m1", number=1, at=good), Measured(meter_id="m2", number=number, at=at))
        async with bank(shared_url, Meter) as app:
            receipt = await app.publish(
                Measured(meter_id="m1", number=3, at=good), Measured(meter_id="m3", number=number, at=at)
            )
            later = await app.publish(Measured(meter_id="m1", number=4, at=good))
            assert await app.get(Meter, "m1", after=later.position, timeout=SOON) == Meter(
                meter_id="m1", number=4, at=good
            )
            with pytest.raises(HandlerFailed, match="m3 is parked"):
                await app.get(Meter, "m3", after=receipt.position)
            letters = [letter async for letter in app.dead_letters.list()]
            assert sorted(letter.key_text for letter in letters) == ["meter_id=m2", "meter_id=m3"]
            assert all(error in letter.reason for letter in letters)
            assert app.sql("SELECT meter_id, number FROM meter") == [("m1", 4)]

    asyncio.run(run())


def test_a_new_version_with_parked_keys_does_not_replace_one_that_shows_them(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            receipt = await app.publish(*paid("a1", 1, 13))
            await app.get(Account, "a1", after=receipt.position)
        async with bank(shared_url, Choosy) as app:
            await until(lambda: _reasoned(app))
            assert await current(app) == 1
            assert plain(lines(app)) == [("a1", Decimal(14))]
            assert await app.get(Choosy, "a1") == Choosy(account_id="a1", total=Decimal(14)), "of the same columns"
            (letter,) = [letter async for letter in app.dead_letters.list()]
            await app.dead_letters.discard(letter.id, note="a joke", by="the test")
            await until(lambda: _is(app, 2))
            assert plain(lines(app)) == [("a1", Decimal(1))]

    asyncio.run(run())


async def _reasoned(app: App) -> bool:
    return any("keys are parked" in (one.reason or "") for one in await versions(app))


def test_who_reads_waits_for_the_first_building_and_is_told_how_far_it_is(file_url: str) -> None:
    async def run() -> None:
        async with bank(file_url).connected() as app:
            await app.publish(*paid("a1", 1))
        async with bank(file_url, Account).connected() as app:
            with pytest.raises(NotCaughtUp, match="no process has begun to build it"):
                await app.get(Account, "a1", timeout=timedelta())
            store = cast(Database, app.open_store())
            view = app._open_engine().domain.views._views[Account]
            assert isinstance(view, kept.KeptView)
            await view._create()
            (version,) = await registry.versions(store)
            now = version.changed_at
            await registry.write(
                store, lambda sql: registry.change(sql, version, began_at=now - 10_000_000, position=1, owner="gone")
            )
            await app.publish(*paid("a1", 1, 1, 1))
            with pytest.raises(NotCaughtUp, match=r"version 1 is being built, 25 % are done, \d+ s are left"):
                await app.get(Account, "a1", timeout=timedelta())

    asyncio.run(run())


def test_a_table_of_that_name_which_is_somebody_elses_is_left_alone(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url).connected() as app:
            await app.transact(lambda tx: tx.execute("CREATE TABLE account (mine TEXT)"))
            await app.publish(*paid("a1", 1))
        with pytest.raises(WiringError, match="has a table of that name already"):
            async with bank(shared_url, Account):
                pass
        async with bank(shared_url).connected() as app:
            assert app.sql("SELECT mine FROM account") == []

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------ ordinary tables


def test_indexes_of_owners_are_made_on_the_next_version_too(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            await app.publish(*paid("a1", 1))
            await app.transact(lambda tx: tx.execute("CREATE INDEX by_total ON account__v1 (total, account_id)"))
            await app.transact(
                lambda tx: (
                    tx.execute("CREATE UNIQUE INDEX \"few (of) 'them'\" ON account__v1 (account_id) WHERE total > '5'")
                    if "sqlite" in shared_url
                    else tx.execute(
                        "CREATE UNIQUE INDEX \"few (of) 'them'\" ON account__v1 (account_id) WHERE total > 5"
                    )
                )
            )
        async with bank(shared_url, Counted) as app:
            assert await current(app) == 2
            found = _indexes(app, shared_url, "account__v2")
            assert [name for name in found if "_pkey" not in name] == ["by_total__v2", "few (of) 'them'__v2"]
        async with bank(shared_url, Doubled) as app:
            assert "by_total__v3" in _indexes(app, shared_url, "account__v3")

    asyncio.run(run())


def test_an_owners_index_that_the_next_version_cannot_have_is_told_and_holds_nothing_up(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            receipt = await app.publish(*paid("a1", 1), *paid("a2", 2, 2))
            await app.get(Account, "a1", after=receipt.position)
            await app.transact(lambda tx: tx.execute("CREATE UNIQUE INDEX once ON account__v1 (total)"))
        async with bank(shared_url, Constant) as app:
            assert await current(app) == 2
            assert await _told(app, "without indexes that could not be made: once__v2")
            assert plain(lines(app)) == [("a1", Decimal(7)), ("a2", Decimal(7))]

    asyncio.run(run())


def _indexes(app: App, url: str, table: str) -> list[str]:
    if "sqlite" in url:
        sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = ? ORDER BY name"
    else:
        sql = "SELECT indexname::text FROM pg_indexes WHERE tablename = ? AND schemaname = current_schema() ORDER BY 1"
    return [row[0] for row in app.sql(sql, table)]


def test_an_owners_view_of_the_name_and_grants_go_on_through_a_swap_of_the_same_columns(postgresql_url: str) -> None:
    async def run() -> None:
        async with bank(postgresql_url, Account) as app:
            await app.publish(*paid("a1", 1))
            await app.transact(lambda tx: tx.execute("CREATE VIEW rich AS SELECT * FROM account WHERE total > 1"))
            await app.transact(lambda tx: tx.execute("GRANT SELECT ON account TO PUBLIC"))
        async with bank(postgresql_url, Doubled) as app:
            assert await current(app) == 2
            assert app.sql("SELECT * FROM rich") == [("a1", Decimal(2))]
        async with bank(postgresql_url, Counted) as app:  # what depends on the columns holds it up, and is told
            await until(lambda: _told(app, "other objects depend on it"))
            assert await current(app) == 2
            await app.transact(lambda tx: tx.execute("DROP VIEW rich"))
            await until(lambda: _is(app, 3))
            granted = app.sql(
                "SELECT 1 FROM information_schema.role_table_grants WHERE table_name = 'account' AND grantee = 'PUBLIC' "
                "AND privilege_type = 'SELECT' AND table_schema = current_schema()"
            )
            assert granted == [(1,)]

    asyncio.run(run())


def test_who_reads_a_view_for_long_holds_up_its_swap_and_nothing_else(postgresql_url: str) -> None:
    async def run() -> None:
        async with bank(postgresql_url, Account) as app:
            receipt = await app.publish(*paid("a1", 1))
            await app.get(Account, "a1", after=receipt.position)
        async with await psycopg.AsyncConnection.connect(postgresql_url) as report:
            await report.execute("SELECT * FROM account")  # and the transaction stays open
            async with bank(postgresql_url, Counted) as app:
                await until(lambda: _told(app, "lock timeout"))
                began = RealWorld().monotonic()
                await app.publish(*paid("a1", 2))
                assert RealWorld().monotonic() - began < 5
                assert await current(app) == 1
                await report.rollback()
                await until(lambda: _is(app, 2))
                assert plain(lines(app)) == [("a1", Decimal(3), 2)]

    asyncio.run(run())


async def _told(app: App, words: str) -> bool:
    return any(words in (one.reason or "") for one in await versions(app))


def test_rows_can_be_joined_with_tables_of_the_application(shared_url: str) -> None:
    async def run() -> None:
        async with bank(shared_url, Account) as app:
            receipt = await app.publish(*paid("a1", 1), *paid("a2", 2))
            await app.get(Account, "a1", after=receipt.position)
            await app.transact(lambda tx: tx.execute("CREATE TABLE holder (account_id TEXT PRIMARY KEY, name TEXT)"))
            await app.transact(lambda tx: tx.execute("INSERT INTO holder VALUES ('a2', 'Ada')"))
            found = app.sql("SELECT name, total FROM account JOIN holder USING (account_id)")
            assert [(name, Decimal(total)) for name, total in found] == [("Ada", Decimal(2))]

    asyncio.run(run())


def test_a_log_that_has_moved_builds_its_views_anew_and_waits_for_none_of_the_old(tmp_path: Path) -> None:
    async def run() -> None:
        here, there = tmp_path / "here.db", tmp_path / "there.db"
        async with bank(f"sqlite:///{here}", Account) as app:
            receipt = await app.publish(*paid("a1", 1))
            await app.get(Account, "a1", after=receipt.position)
        assert (await copy(SqliteTransfer(str(here)), SqliteTransfer(str(there)), RealWorld())).difference is None
        async with bank(f"sqlite:///{there}", Account) as app:
            receipt = await app.publish(*paid("a1", 2))
            assert await app.get(Account, "a1", after=receipt.position) == Account(account_id="a1", total=Decimal(3))
            await receipt.wait()
            tables = app.sql("SELECT name FROM sqlite_schema WHERE name LIKE 'account%' ORDER BY name")
            assert tables == [("account",), ("account__v2",)]

    asyncio.run(run())
