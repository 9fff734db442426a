"""Views kept by several processes, some of which are killed; read by others all the while."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast

import pytest

from ensue import App, View
from ensue.domain.views import kept, parts, registry
from ensue.domain.views.registry import Database, Version
from ensue.events.message import Event
from ensue.store.base import SqlTransaction
from tests.domain.accounts import Balance, Profile, expected, some_events
from tests.domain.views_child import bank

NAMES: dict[str, type[View]] = {"balance": Balance, "profile": Profile}


@contextmanager
def child(url: str, *arguments: object) -> Generator[subprocess.Popen[str]]:
    """One more process of the application."""
    command = [sys.executable, "-m", "tests.domain.views_child", url, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


async def versions(app: App) -> list[Version]:
    return await registry.versions(cast(Database, app.open_store()))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def rows(app: App, name: str) -> list[View]:
    read = getattr(NAMES[name], "__ensue_row__")  # noqa: B009
    found = [read(line) for line in app.sql(f"SELECT * FROM {name}")]
    return sorted(found, key=lambda row: getattr(row, "account_id"))  # noqa: B009


async def check(app: App, events: Sequence[Event]) -> None:
    for name, view in NAMES.items():
        assert rows(app, name) == sorted(expected(view, events), key=lambda row: getattr(row, "account_id")), name  # noqa: B009


async def fill(url: str, events: Sequence[Event]) -> None:
    async with App("bank", url=url).connected() as app:
        for first in range(0, len(events), 500):
            await app.publish(*events[first : first + 500])


async def _built(app: App, number: int) -> bool:
    return [one.number for one in await versions(app) if one.current] == [number] * len(NAMES)


@pytest.mark.slow
def test_a_building_that_is_killed_again_and_again_is_gone_on_with(shared_url: str) -> None:
    events = some_events(1, 4000, accounts=60)

    async def run() -> None:
        await fill(shared_url, events)
        async with App("bank", url=shared_url).connected() as app:
            reached = 0
            for _ in range(3):
                with child(shared_url, 40) as process:

                    async def is_further(before: int = reached) -> bool:
                        return max([one.position for one in await versions(app)], default=0) > before

                    await until(is_further)
                    process.kill()
                    process.wait()
                reached = max(one.position for one in await versions(app))
            assert reached < 4000, "it was not built in one go"
            with child(shared_url, 40) as process:
                says(process, "open")
                await until(lambda: _built(app, 1))
            await check(app, events)

    asyncio.run(run())


@pytest.mark.slow
def test_readers_see_one_version_or_the_other_and_never_less_while_it_is_built_anew_by_two_processes(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events come, and somebody reads, while two processes build and follow."""
    monkeypatch.setattr(kept, "LOOK_SECONDS", 0.2)
    events = some_events(2, 3000, accounts=40)
    shown = {getattr(row, "account_id"): row for row in expected(Profile, events[:2000])}  # noqa: B009

    async def run() -> None:
        await fill(shared_url, events[:2000])
        async with bank(shared_url) as app:
            with child(shared_url, 100) as process:
                says(process, "open")
                await until(lambda: _built(app, 1))
                await check(app, events[:2000])
                for one in await versions(app):
                    await registry.write(cast(Database, app.open_store()), _anew(one))
                looks = 0

                async def read() -> None:
                    nonlocal looks
                    while True:
                        found = rows(app, "profile")
                        assert len(found) >= len(shown) * 0.7, "readers see it empty, or half"
                        looks += 1
                        await asyncio.sleep(0)

                reading = asyncio.create_task(read())
                receipts = [await app.publish(*events[first : first + 10]) for first in range(2000, 3000, 10)]
                await until(lambda: _built(app, 2))
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                for view in (Balance, Profile):
                    await app.get(view, "a1", after=receipts[-1].position)
                assert looks > 10
                await check(app, events)

    asyncio.run(run())


def _anew(version: Version) -> registry.Work:
    def rebuild(sql: SqlTransaction) -> None:
        registry.rebuild(sql, version, used=version.number, now=version.changed_at)

    return rebuild


@pytest.mark.slow
def test_a_killed_process_that_followed_is_followed_by_another(shared_url: str) -> None:
    events = some_events(3, 600, accounts=20)

    async def run() -> None:
        async with bank(shared_url).connected() as app:
            with child(shared_url) as first, child(shared_url) as second:
                says(first, "open")
                says(second, "open")
                receipt = await app.publish(*events[:20])
                for number in range(20, 600, 20):
                    receipt = await app.publish(*events[number : number + 20])
                    if number == 300:
                        first.kill()
                for view in (Balance, Profile):
                    await app.get(view, "a1", after=receipt.position)
                await check(app, events)

    asyncio.run(run())


@pytest.mark.slow
def test_processes_on_a_server_share_one_building_also_when_one_of_them_is_killed(postgresql_url: str) -> None:
    events = some_events(4, 4000, accounts=60)

    async def run() -> None:
        async with App("bank", url=postgresql_url).connected() as app:
            store = cast(Database, app.open_store())
            with child(postgresql_url, 20) as first, child(postgresql_url, 20) as second:
                says(first, "open")
                says(second, "open")
                await fill(postgresql_url, events)
                await until(lambda: _built(app, 1))
                for one in await versions(app):
                    await registry.write(store, _anew(one))

                async def both_have_begun() -> bool:
                    found = [await parts.parts_of(store, one) for one in await versions(app)]
                    owners = {part.owner for divided in found for part in divided if part.position > 0}
                    return len(owners - {None}) == 2

                await until(both_have_begun)
                second.kill()
                await until(lambda: _built(app, 2))
            await check(app, events)

    asyncio.run(run())
