"""The rows of a view are what follows from its events: built from history or followed, whole or in parts, in each database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from ensue import App, Query, Transaction, View
from ensue.domain.views import building, parts, registry
from ensue.domain.views.kept import KeptView
from ensue.events.message import Event
from tests.domain.accounts import Balance, Daily, Profile, expected, some_events

VIEWS: tuple[type[View], ...] = (Balance, Profile, Daily)


class Rows(Query[dict[str, list[View]]]): ...


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building in transactions of few events, that forgets all rows after each."""
    for name, value in (("PAGE", 7), ("EVENTS_AT_ONCE", 20), ("ROWS_AT_ONCE", 5), ("ROWS_KEPT", 3)):
        monkeypatch.setattr(building, name, value)


def application(url: str, views: Sequence[type[View]] = VIEWS) -> App:
    app = App("bank", url=url)
    for view in views:
        app.view(view)

    @app.query
    def rows(query: Rows, tx: Transaction) -> dict[str, list[View]]:
        return {
            "Balance": list(tx.rows(Balance, "SELECT * FROM balance ORDER BY account_id")),
            "Profile": list(tx.rows(Profile, "SELECT * FROM profile ORDER BY account_id")),
            "Daily": list(tx.rows(Daily, "SELECT * FROM daily ORDER BY account_id, day")),
        }

    return app


def by_key(rows: list[View]) -> list[View]:
    """In the order of Python, which is not that of every database."""
    return sorted(rows, key=lambda row: (getattr(row, "account_id"), str(getattr(row, "day", ""))))  # noqa: B009


async def check(app: App, events: Sequence[Event]) -> None:
    found = await app.ask(Rows())
    for view in VIEWS:
        assert by_key(found[view.__name__]) == by_key(expected(view, events)), view.__name__


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_fold_of_the_log_built_from_history_and_followed_from_there(shared_url: str, seed: int) -> None:
    events = some_events(seed, 300)

    async def run() -> None:
        async with application(shared_url, ()).connected() as app:
            await app.publish(*events[:200])
        async with application(shared_url) as app:
            await check(app, events[:200])
            receipts = [await app.publish(*events[first : first + 10]) for first in range(200, 300, 10)]
            for view in VIEWS:
                await app.get(view, *(("a1", "2026-03-01") if view is Daily else ("a1",)), after=receipts[-1].position)
            await check(app, events)
        async with application(shared_url) as app:  # what is there is found again
            await check(app, events)

    asyncio.run(run())


@pytest.mark.usefixtures("small_steps")
def test_building_in_parts_comes_to_the_same(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "worth_dividing", lambda _store, _processes: 4)
    events = some_events(8, 400)

    async def run() -> None:
        async with application(shared_url, ()).connected() as app:
            await app.publish(*events)
        async with application(shared_url) as app:
            await check(app, events)

    asyncio.run(run())


@pytest.mark.usefixtures("small_steps")
def test_building_in_many_transactions_that_forget_all_rows_comes_to_the_same(shared_url: str) -> None:
    events = some_events(7, 400)

    async def run() -> None:
        async with application(shared_url, ()).connected() as app:
            await app.publish(*events)
        async with application(shared_url) as app:
            await check(app, events)

    asyncio.run(run())


def test_get_finds_a_row_by_its_key_in_the_types_of_its_class(shared_url: str) -> None:
    events = some_events(5, 200)
    rows: dict[Any, View] = {getattr(row, "account_id"): row for row in expected(Profile, events)}  # noqa: B009

    async def run() -> None:
        async with application(shared_url) as app:
            receipt = await app.publish(*events)
            for account, row in rows.items():
                assert await app.get(Profile, account, after=receipt.position) == row
            assert await app.get(Profile, "nobody") is None
            daily = expected(Daily, events)[0]
            assert isinstance(daily, Daily)
            assert await app.get(Daily, daily.account_id, daily.day, after=receipt.position) == daily
            assert await app.get(Daily, daily.account_id, daily.day.isoformat()) == daily
            with pytest.raises(TypeError, match="found by account_id, day; given were 1"):
                await app.get(Daily, "a1")

    asyncio.run(run())


def test_who_begins_a_version_that_another_process_has_built_meanwhile_changes_nothing(shared_url: str) -> None:
    events = some_events(1, 40)

    async def run() -> None:
        async with application(shared_url) as app:
            receipt = await app.publish(*events)
            for row in VIEWS:
                await app.get(row, *(("a1", "2026-03-01") if row is Daily else ("a1",)), after=receipt.position)
            engine = app._open_engine()
            view = engine.domain.views._views[Profile]
            assert isinstance(view, KeptView)
            (known,) = [one for one in await registry.versions(view._store) if one.name == "profile"]
            seen_before = msgspec.structs.replace(known, state=registry.BUILDING, position=0, began_at=None, rev=0)
            builder = building.Builder(view._reading, view._store, engine.world, seen_before, owner="other")
            assert not await builder.run()
            await check(app, events)

    asyncio.run(run())
