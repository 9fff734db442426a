"""What is personal goes to other applications in plain while there is a key, and as forgotten afterwards; what comes is sealed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from ensue import FORGOTTEN, App, Channel, Event, Personal
from ensue.errors import Unavailable
from ensue.store.sqlite.keys import SqliteKeys

EMAIL = "ada.lovelace@example.com"


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


customers = Channel("customers", CustomerJoined)


@pytest.fixture(autouse=True)
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_CHANNELS", f"sqlite:///{tmp_path / 'channels' / 'customers.db'}")
    (tmp_path / "channels").mkdir()


def sender(folder: Path) -> App:
    return App("crm", url=f"sqlite:///{folder / 'crm.db'}", outbox=[customers])


def receiver(folder: Path) -> App:
    return App("shop", url=f"sqlite:///{folder / 'shop.db'}", inbox=[customers])


async def came(app: App, count: int = 1) -> list[CustomerJoined]:
    found = [one.event async for one in app.log.read(CustomerJoined)]
    while len(found) < count:
        await asyncio.sleep(0)
        found = [one.event async for one in app.log.read(CustomerJoined)]
    return found


def in_files(folder: Path, text: str) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and text.encode() in file.read_bytes())


def test_a_message_holds_the_value_and_the_log_that_stores_it_seals_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with receiver(tmp_path) as shop, sender(tmp_path) as crm:
            await (await crm.publish(CustomerJoined(customer_id="c1", email=EMAIL))).wait()
            assert await came(shop) == [CustomerJoined(customer_id="c1", email=EMAIL)]
            assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_a_message_that_is_not_sent_yet_says_that_it_is_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with sender(tmp_path).connected() as crm:
            await crm.publish(CustomerJoined(customer_id="c1", email=EMAIL))
            await crm.publish_later(
                customers, CustomerJoined(customer_id="c1", email=EMAIL), at=timedelta(milliseconds=1)
            )
            await crm.forget("customer_id", "c1")
        async with receiver(tmp_path) as shop, sender(tmp_path):
            assert await came(shop, 2) == [CustomerJoined(customer_id="c1", email=FORGOTTEN)] * 2
            assert in_files(tmp_path / "channels", EMAIL) == []

    asyncio.run(run())


def test_what_comes_about_somebody_who_was_forgotten_here_is_stored_as_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with receiver(tmp_path) as shop, sender(tmp_path) as crm:
            await (await crm.publish(CustomerJoined(customer_id="c1", email=EMAIL))).wait()
            await came(shop)
            await shop.forget("customer_id", "c1")
            await (await crm.publish(CustomerJoined(customer_id="c1", email=EMAIL))).wait()
            assert await came(shop, 2) == [CustomerJoined(customer_id="c1", email=FORGOTTEN)] * 2
            assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_while_keys_cannot_be_had_messages_and_handlers_wait_and_nothing_is_parked_or_stored_in_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [3]
    find = SqliteKeys.find

    def sometimes(self: SqliteKeys, subjects: list[bytes]) -> object:
        if "shop" in self.path and away[0]:
            away[0] -= 1
            raise Unavailable("the key store is away")
        return find(self, subjects)

    monkeypatch.setattr(SqliteKeys, "find", sometimes)
    shop = receiver(tmp_path)
    seen, done = list[object](), asyncio.Event()

    @shop.on
    async def see(event: CustomerJoined) -> None:
        seen.append(event.email)
        done.set()

    async def run() -> None:
        async with shop, sender(tmp_path) as crm:
            await (await crm.publish(CustomerJoined(customer_id="c1", email=EMAIL))).wait()
            await asyncio.wait_for(done.wait(), 20)
            assert seen == [EMAIL]
            assert [letter async for letter in shop.dead_letters.list()] == []
            assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())
    assert away == [0]
