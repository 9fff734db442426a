"""Forgetting a subject: what it takes away, everywhere, and what it leaves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ensue import FORGOTTEN, App, Context, Event, Forgotten, Personal, Retry, SubjectForgotten, Transaction
from ensue.app.forgetting import SAID
from ensue.errors import AlreadyForgotten, InvalidEvent, KeyLost
from ensue.events.stored import tag_hash
from ensue.store.memory import MemoryStore
from ensue.store.sqlite.keys import SqliteKeys
from ensue.testing import AppSimulation, simulate
from ensue.world import RealWorld

EMAIL, OTHER = "ada.lovelace@example.com", "grace.hopper@example.com"


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


class WelcomeSent(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    to: Personal[str]


Make = Callable[[], App]


def application(url: str | None = None, keys: str | None = None) -> App:
    app = App("customers", url=url, keys=keys)

    @app.on
    async def welcome(joined: CustomerJoined) -> WelcomeSent:
        return WelcomeSent(customer_id=joined.customer_id, to=joined.email)

    return app


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """An application, made anew each time on the same log and keys."""
    if request.param == "memory":
        store = MemoryStore()
        blank = application()
        return lambda: blank.in_world(RealWorld(), store)
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    return lambda: application(url)


async def joined(app: App, *names: str) -> None:
    for name in names:
        receipt = await app.publish(CustomerJoined(customer_id=name, email=EMAIL if name == "c1" else OTHER))
        await receipt.wait()


async def emails(app: App) -> list[tuple[str, object]]:
    return [(one.event.customer_id, one.event.email) async for one in app.log.read(CustomerJoined)]


def test_events_of_a_forgotten_subject_show_it_as_forgotten_and_those_of_others_do_not(make: Make) -> None:
    async def run() -> None:
        async with make() as app:
            await joined(app, "c1", "c2")
            assert await emails(app) == [("c1", EMAIL), ("c2", OTHER)]
            receipt = await app.forget("customer_id", "c1")
            assert receipt.result is True
            await receipt.wait()
            assert await emails(app) == [("c1", FORGOTTEN), ("c2", OTHER)]
            sent = [one.event.to async for one in app.log.read(WelcomeSent)]
            assert sent == [FORGOTTEN, OTHER]
        async with make() as app:
            assert await emails(app) == [("c1", FORGOTTEN), ("c2", OTHER)]
            told = [one async for one in app.log.read(SubjectForgotten)]
            assert [(one.event.subject, one.key) for one in told] == [("customer_id=c1", "customer_id=c1")]

    asyncio.run(run())


def test_forgetting_again_gives_the_first_receipt_and_forgetting_nobody_does_nothing(make: Make) -> None:
    async def run() -> None:
        async with make() as app:
            await joined(app, "c1")
            first = await app.forget("customer_id", "c1")
            again = await app.forget("customer_id", "c1")
            assert (again.position, again.result, again.replayed) == (first.position, False, True)
            head = await app.log.head()
            nobody = await app.forget("customer_id", "c9")
            assert nobody.result is False
            assert await app.log.head() == head
            with pytest.raises(InvalidEvent):
                await app.forget("customer_id", "")

    asyncio.run(run())


def test_nothing_personal_is_published_about_who_was_forgotten(make: Make) -> None:
    async def run() -> None:
        async with make() as app:
            await joined(app, "c1")
            await app.forget("customer_id", "c1")
            with pytest.raises(AlreadyForgotten):
                await app.publish(CustomerJoined(customer_id="c1", email=EMAIL))
            await app.publish(CustomerJoined(customer_id="c1", email=FORGOTTEN))
            with pytest.raises(AlreadyForgotten):
                await app.publish(
                    CustomerJoined(customer_id="c3", email=OTHER), CustomerJoined(customer_id="c1", email=EMAIL)
                )
            assert await emails(app) == [("c1", FORGOTTEN), ("c1", FORGOTTEN)]

    asyncio.run(run())


def test_the_same_publish_with_the_same_key_is_the_same(make: Make) -> None:
    async def run() -> None:
        event = CustomerJoined(customer_id="c1", email=EMAIL)
        async with make().connected() as app:
            first = await app.publish(event, idempotency_key="k")
        async with make().connected() as app:
            again = await app.publish(event, idempotency_key="k")
            assert (again.position, again.replayed) == (first.position, True)

    asyncio.run(run())


def test_handlers_that_run_in_the_commit_and_those_that_only_compute_read_and_write_what_is_personal(
    tmp_path: Path,
) -> None:
    app = App("kinds", url=f"sqlite:///{tmp_path / 'kinds.db'}")
    seen: list[tuple[str, object]] = []

    @app.on(pure=True)
    def pure(event: CustomerJoined) -> WelcomeSent:
        seen.append(("pure", event.email))
        return WelcomeSent(customer_id=event.customer_id, to=event.email)

    @app.on
    def inside(event: CustomerJoined, tx: Transaction) -> WelcomeSent:
        seen.append(("inside", event.email))
        return WelcomeSent(customer_id=event.customer_id, to=event.email)

    @app.on
    def thread(event: CustomerJoined, ctx: Context) -> WelcomeSent:
        seen.append(("thread", event.email))
        return WelcomeSent(customer_id=event.customer_id, to=event.email)

    async def run() -> None:
        async with app:
            await (await app.publish(CustomerJoined(customer_id="c1", email=EMAIL))).wait()

            def again(tx: Transaction) -> None:
                tx.emit(CustomerJoined(customer_id="c2", email=OTHER))

            _, receipt = await app.transact(again)
            await receipt.wait()
            sent = [one.event async for one in app.log.read(WelcomeSent)]
            assert sorted(str(one.to) for one in sent) == [EMAIL] * 3 + [OTHER] * 3
        assert sorted(seen, key=str) == sorted(
            [(kind, who) for kind in ("pure", "inside", "thread") for who in (EMAIL, OTHER)], key=str
        )

    asyncio.run(run())


def test_a_handler_is_told_and_other_processes_drop_what_they_remember(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    told: list[str] = []
    first, second = application(url), application(url)

    @first.on
    async def erase(event: SubjectForgotten) -> None:
        told.append(event.subject)

    async def run() -> None:
        async with second.connected(), first:
            await joined(first, "c1", "c2")
            assert await emails(second) == [("c1", EMAIL), ("c2", OTHER)]
            await (await first.forget("customer_id", "c1")).wait()
            assert told == ["customer_id=c1"]
            async with asyncio.timeout(10):
                shown = await emails(second)
                while shown[0] != ("c1", FORGOTTEN):
                    await asyncio.sleep(0)
                    shown = await emails(second)

    asyncio.run(run())


def test_what_a_failure_said_about_a_forgotten_subject_is_taken_out(make: Make) -> None:
    async def run() -> None:
        app = make()

        @app.on(retry=Retry.never)
        async def fail(event: WelcomeSent) -> None:
            raise ValueError(f"cannot write to {event.to}")

        async with app:
            await app.publish(
                CustomerJoined(customer_id="c1", email=EMAIL), CustomerJoined(customer_id="c2", email=OTHER)
            )
            async with asyncio.timeout(20):
                letters = [one async for one in app.dead_letters.list()]
                while len(letters) < 2:
                    await asyncio.sleep(0)
                    letters = [one async for one in app.dead_letters.list()]
            assert EMAIL in str(letters)
            await app.forget("customer_id", "c1")
            letters = [one async for one in app.dead_letters.list()]
            assert EMAIL not in str(letters)
            assert SAID in str(letters)
            assert OTHER in str(letters)

    asyncio.run(run())


def in_files(folder: Path, text: str) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and text.encode() in file.read_bytes())


def test_no_byte_of_it_is_in_the_files_of_the_log_while_it_runs_nor_afterwards(tmp_path: Path) -> None:
    app = application(f"sqlite:///{tmp_path / 'shop.db'}")

    @app.on
    def keep(joined: CustomerJoined, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS mail (customer_id TEXT PRIMARY KEY, email TEXT)")
        email = None if isinstance(joined.email, Forgotten) else joined.email
        tx.execute("INSERT INTO mail VALUES (?, ?)", joined.customer_id, email)
        tx.execute("CREATE TABLE IF NOT EXISTS letter (customer_id TEXT, text TEXT)")
        tx.execute("INSERT INTO letter VALUES (?, ?)", joined.customer_id, str(email) * 1000)

    @app.on
    def drop(event: SubjectForgotten, tx: Transaction) -> None:
        tx.execute("UPDATE mail SET email = NULL WHERE 'customer_id=' || customer_id = ?", event.subject)
        tx.execute("DELETE FROM letter WHERE 'customer_id=' || customer_id = ?", event.subject)

    async def run() -> None:
        async with app:
            await joined(app, "c1", "c2", *(f"more{number}" for number in range(50)))
            assert in_files(tmp_path, EMAIL)
            receipt = await app.forget("customer_id", "c1")
            await receipt.wait()
            await app.forget("customer_id", "c1")
            assert in_files(tmp_path, EMAIL) == []
            assert in_files(tmp_path, OTHER)
        assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_no_byte_of_a_destroyed_key_is_in_the_files_of_the_key_store(tmp_path: Path) -> None:
    store = SqliteKeys(str(tmp_path / "a.keys"))
    store.open()
    secrets = {f"customer_id={number}": bytes((number,)) * 64 for number in range(1, 200)}
    store.create(secrets, 1)
    store.destroy(["customer_id=65"], 2)
    assert in_files(tmp_path, "A" * 20) == []
    assert in_files(tmp_path, "B" * 20)
    assert store.find([tag_hash("customer_id=66")])[tag_hash("customer_id=66")].secret == b"B" * 64
    store.close()
    assert in_files(tmp_path, "A" * 20) == []


def test_the_key_file_is_for_its_owner_alone_and_beside_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(f"sqlite:///{tmp_path / 'shop.db'}").connected() as app:
            await app.publish(CustomerJoined(customer_id="c1", email=EMAIL))

    asyncio.run(run())
    assert (tmp_path / "shop.keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("log", "keys"), [("a.db", "a.keys"), ("a.log", "a.log.keys"), ("a", "a.keys"), ("a.keys", "a.keys.keys")]
)
def test_no_two_logs_of_a_folder_share_their_keys_by_mistake(tmp_path: Path, log: str, keys: str) -> None:
    async def run() -> None:
        async with application(f"sqlite:///{tmp_path / log}").connected() as app:
            await app.publish(CustomerJoined(customer_id="c1", email=EMAIL))

    asyncio.run(run())
    assert (tmp_path / keys).is_file()


def test_an_application_without_personal_data_makes_no_key_file(tmp_path: Path) -> None:
    class Plain(Event, key="plain_id"):
        plain_id: str

    app = App("plain", url=f"sqlite:///{tmp_path / 'plain.db'}")

    @app.on
    async def see(event: Plain) -> None: ...

    async def run() -> None:
        async with app:
            await app.publish(Plain(plain_id="p"))

    asyncio.run(run())
    assert not (tmp_path / "plain.keys").exists()


def test_a_lost_key_store_is_refused_at_start_and_not_taken_for_forgetting(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"

    async def run() -> None:
        async with application(url) as app:
            await joined(app, "c1")
        (tmp_path / "shop.keys").rename(tmp_path / "elsewhere.keys")
        with pytest.raises(KeyLost, match=r"shop\.keys is empty, and the log holds personal data, at position 1"):
            async with application(url):
                pass
        async with application(url, keys=f"sqlite:///{tmp_path / 'elsewhere.keys'}") as app:
            assert await emails(app) == [("c1", EMAIL)]

    asyncio.run(run())


def test_a_backup_of_the_log_that_is_put_back_forgets_whom_the_keys_know_to_be_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"

    async def run() -> None:
        async with application(url) as app:
            await joined(app, "c1", "c2")
        shutil.copy(tmp_path / "shop.db", tmp_path / "backup.db")
        async with application(url) as app:
            await app.forget("customer_id", "c1")
        shutil.copy(tmp_path / "backup.db", tmp_path / "shop.db")
        async with application(url) as app:
            assert await emails(app) == [("c1", FORGOTTEN), ("c2", OTHER)]
            assert [one.event.subject async for one in app.log.read(SubjectForgotten)] == ["customer_id=c1"]

    asyncio.run(run())


def test_a_backup_of_the_keys_that_is_put_back_loses_the_keys_of_whom_the_log_says_to_be_forgotten(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"

    async def run() -> None:
        async with application(url) as app:
            await joined(app, "c1", "c2")
        shutil.copy(tmp_path / "shop.keys", tmp_path / "backup.keys")
        async with application(url) as app:
            await app.forget("customer_id", "c1")
        shutil.copy(tmp_path / "backup.keys", tmp_path / "shop.keys")
        async with application(url) as app:
            assert await emails(app) == [("c1", FORGOTTEN), ("c2", OTHER)]

    asyncio.run(run())


simulated = application()


@simulate(simulated, runs=40, pairs=60)
async def test_a_crash_anywhere_leaves_nobody_half_forgotten(sim: AppSimulation) -> None:
    await sim.app.publish(CustomerJoined(customer_id="c1", email=EMAIL), CustomerJoined(customer_id="c2", email=OTHER))
    await sim.run_until_quiet()
    await sim.inside(lambda app: app.forget("customer_id", "c1"))
    await sim.run_until_quiet()
    assert [one.subject for one in await sim.events(SubjectForgotten)] == ["customer_id=c1"]
    assert [(one.customer_id, one.email) for one in await sim.events(CustomerJoined)] == [
        ("c1", FORGOTTEN),
        ("c2", OTHER),
    ]
    assert sorted((one.customer_id, str(one.to)) for one in await sim.events(WelcomeSent)) == [
        ("c1", "forgotten"),
        ("c2", OTHER),
    ]
    assert not await sim.dead_letters()
