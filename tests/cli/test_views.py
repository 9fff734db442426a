"""`ensue views` shows the versions of views, and changes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, cast

import pytest

from ensue import App, Event, View
from ensue.domain.views import kept, registry
from ensue.domain.views.registry import Database
from ensue.errors import NotCaughtUp
from tests.cli.conftest import Ensue
from tests.cli.shop import until

URL = "sqlite:///bank.db"


class Paid(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Account(View, key="account_id"):
    account_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> Self:
        if event.amount == 13:
            raise ValueError("unlucky")
        self.total += event.amount
        return self


class Doubled(View, key="account_id", table="account"):
    account_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> Self:
        self.total += event.amount * 2
        return self


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LOOK_SECONDS", 0.05)


def bank(view: type[View] | None = Account) -> App:
    app = App("bank", url=URL)
    if view is not None:
        app.view(view)
    return app


def run(*amounts: int, view: type[View] = Account) -> None:
    """Open the application, let it catch up, and close it."""

    async def go() -> None:
        async with bank(view) as app:
            receipt = await app.publish(*(Paid(account_id="a1", amount=Decimal(amount)) for amount in amounts))
            await app.get(view, "a1", after=receipt.position)

    asyncio.run(go())


def shown(ensue_: Ensue) -> list[dict[str, Any]]:
    result = ensue_("views", "--json", "--url", URL)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["views"]
    return found


def running(look: Callable[[App], Awaitable[None]], view: type[View] = Account) -> None:
    async def go() -> None:
        async with bank(view) as app:
            await look(app)

    asyncio.run(go())


def current(ensue_: Ensue) -> int:
    return next(int(one["version"]) for one in shown(ensue_) if one["current"])


def test_a_version_is_shown_with_its_rows_and_lag_and_who_keeps_it(folder: Path, ensue_: Ensue) -> None:
    run(1, 2)
    (one,) = shown(ensue_)
    facts = ("name", "version", "state", "current", "rows", "lag_events", "lag_exact", "percent", "table", "consumer")
    assert [one[fact] for fact in facts] == [
        "account", 1, "unkept", True, 1, 0, True, 100.0, "account__v1", "view.account.v1",
    ]  # fmt: skip

    async def look(app: App) -> None:
        found = await asyncio.to_thread(shown, ensue_)
        assert found[0]["state"] == "following"

    running(look)


def test_in_a_pipe_it_is_a_tab_separated_table_with_headings(folder: Path, ensue_: Ensue) -> None:
    run(1)
    heading, *rows = [line.split("\t") for line in ensue_("views", "--url", URL).stdout.splitlines()]
    assert heading == ["view", "version", "state", "readers", "rows", "lag", "built", "left", "dead"]
    assert rows == [["account", "1", "unkept", "see it", "1", "0", "100 %", "-", "0"]]


def test_without_views_it_says_how_they_come(folder: Path, ensue_: Ensue) -> None:
    async def go() -> None:
        async with bank(None).connected():
            pass

    asyncio.run(go())
    assert "no view is known to sqlite:///bank.db" in ensue_("views", "--url", URL).stdout


def test_what_is_built_is_shown_with_how_far_it_is_and_how_long_it_takes(folder: Path, ensue_: Ensue) -> None:
    run(1, 1, 1, 1)

    async def half() -> None:
        async with bank(None).connected() as app:
            store = cast(Database, app.open_store())
            (version,) = await registry.versions(store)
            now = app._open_engine().world.now()
            await registry.write(store, lambda sql: registry.rebuild(sql, version, used=1, now=now))
            anew = (await registry.versions(store))[1]
            await registry.write(
                store, lambda sql: registry.change(sql, anew, began_at=now - 30_000_000, position=2, owner="gone")
            )

    asyncio.run(half())
    one = shown(ensue_)[1]
    assert (one["state"], one["percent"], one["lag_events"], one["rows"]) == ("stopped", 50.0, 2, None)
    assert 30 <= one["seconds_left"] < 60


def test_rebuild_makes_the_next_version_which_a_process_builds_and_shows(folder: Path, ensue_: Ensue) -> None:
    run(1, 2)
    result = ensue_("views", "rebuild", "account", "--url", URL)
    assert result.stdout == "version 2 of account is to be built: a process with its code begins within three seconds\n"
    assert ensue_("views", "rebuild", "account", "--url", URL).exit_code == 1
    assert current(ensue_) == 1

    async def look(app: App) -> None:
        await until(lambda: _all(app, [(1, False), (2, True)]))
        assert app.sql("SELECT * FROM account") == [("a1", "3")]

    running(look)


async def _all(app: App, wanted: list[tuple[int, bool]]) -> bool:
    found = await registry.versions(cast(Database, app.open_store()))
    return [(one.number, one.current) for one in found] == wanted


def test_pause_and_resume_reach_the_processes_that_run(folder: Path, ensue_: Ensue) -> None:
    run(1)
    assert ensue_("views", "resume", "account", "--url", URL).exit_code == 1
    result = ensue_("views", "pause", "account", "--reason", "no room", "--url", URL)
    assert result.exit_code == 0, result.output
    assert shown(ensue_)[0]["state"] == "paused"

    async def look(app: App) -> None:
        receipt = await app.publish(Paid(account_id="a1", amount=Decimal(5)))
        assert app.sql("SELECT total FROM account") == [("1",)]
        assert (await asyncio.to_thread(ensue_, "views", "resume", "account", "--url", URL)).exit_code == 0
        await until(lambda: _total(app, "6"))
        assert await app.get(Account, "a1", after=receipt.position) == Account(account_id="a1", total=Decimal(6))

    running(look)


async def _total(app: App, total: str) -> bool:
    return app.sql("SELECT total FROM account") == [(total,)]


def test_a_paused_building_goes_on_when_it_is_resumed(folder: Path, ensue_: Ensue) -> None:
    run(1)
    ensue_("views", "rebuild", "account", "--url", URL)
    ensue_("views", "pause", "account", "--url", URL)
    assert [one["state"] for one in shown(ensue_)] == ["paused", "paused"]

    async def look(app: App) -> None:
        assert not await _all(app, [(1, False), (2, True)])
        assert (await asyncio.to_thread(ensue_, "views", "resume", "account", "--url", URL)).exit_code == 0
        await until(lambda: _all(app, [(1, False), (2, True)]))

    running(look)


def test_swap_shows_another_version_and_stays_until_it_is_swapped_to_the_newest(folder: Path, ensue_: Ensue) -> None:
    run(1)
    run(1, view=Doubled)
    assert current(ensue_) == 2
    result = ensue_("views", "swap", "account", 1, "--url", URL)
    assert result.stdout == (
        "readers see version 1 of account, and stay there until it is swapped to the newest\n"
        "It is 1 event behind, and no living process keeps it.\n"
    )

    async def look(app: App) -> None:
        receipt = await app.publish(Paid(account_id="a1", amount=Decimal(1)))
        await receipt.wait("view.account.v2")
        with pytest.raises(NotCaughtUp, match="nobody keeps version 1, which is read"):
            await app.get(Doubled, "a1", after=receipt.position, timeout=timedelta(seconds=0.1))

    running(look, Doubled)
    assert (current(ensue_), shown(ensue_)[0]["pinned"]) == (1, True)
    assert ensue_("views", "swap", "account", 1, "--url", URL).exit_code == 1
    assert ensue_("views", "swap", "account", 2, "--url", URL).stdout == "readers see version 2 of account\n"
    assert not any(one["pinned"] for one in shown(ensue_))


def test_drop_deletes_what_nobody_reads_or_runs(folder: Path, ensue_: Ensue) -> None:
    run(1)
    run(1, view=Doubled)
    result = ensue_("views", "drop", "account", 2, "--url", URL)
    assert (result.exit_code, result.stderr) == (
        1, "ensue: readers see version 2 of account; swap to another first\n",
    )  # fmt: skip

    async def look(app: App) -> None:
        result = await asyncio.to_thread(ensue_, "views", "drop", "account", "--url", URL)
        assert "is run by a living process" in result.stderr

    running(look, Doubled)
    assert ensue_("views", "drop", "account", 1, "--url", URL).exit_code == 0
    assert [one["version"] for one in shown(ensue_)] == [2]
    assert ensue_("views", "drop", "account", "--url", URL).exit_code == 0
    assert shown(ensue_) == []
    run(1)
    assert [(one["version"], one["rows"]) for one in shown(ensue_)] == [(3, 1)]


def test_dead_letters_of_a_view_are_counted(folder: Path, ensue_: Ensue) -> None:
    async def look(app: App) -> None:
        await app.publish(Paid(account_id="a1", amount=Decimal(13)))
        await until(lambda: _parked(ensue_))

    running(look)


async def _parked(ensue_: Ensue) -> bool:
    found = await asyncio.to_thread(shown, ensue_)
    return [one["parked"] for one in found] == [1]


@pytest.mark.parametrize(
    "command", [("rebuild", "nothing"), ("pause", "nothing"), ("swap", "nothing", 1), ("drop", "nothing")]
)
def test_a_name_that_no_view_has_is_wrong_usage(folder: Path, ensue_: Ensue, command: tuple[object, ...]) -> None:
    run(1)
    result = ensue_("views", *command, "--url", URL)
    assert result.exit_code == 2
    assert "no view of sqlite:///bank.db is called 'nothing'; there are: account" in result.stderr


def test_a_number_that_no_version_has_is_wrong_usage(folder: Path, ensue_: Ensue) -> None:
    run(1)
    result = ensue_("views", "swap", "account", 7, "--url", URL)
    assert result.exit_code == 2
    assert "account has no version 7; there are: 1" in result.stderr
