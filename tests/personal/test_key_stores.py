"""What every store of keys promises: one secret wins, what is destroyed stays destroyed, and what was answered is durable."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ensue.app.keys import open_keys
from ensue.errors import CorruptLog, Unavailable, WiringError
from ensue.events.stored import tag_hash
from ensue.store.keys import KeyRing, KeyStore, MemoryKeys
from ensue.world import RealWorld
from tests.servers.postgresql import PostgresServer

Make = Callable[[], KeyStore]


@pytest.fixture(params=["memory", "sqlite", "memdb", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Make]:
    """A store of keys at one place, not yet opened, any number of times."""
    opened: list[KeyStore] = []
    if request.param == "memory":
        only = MemoryKeys()
        yield lambda: only
        return
    if request.param == "memdb":
        from ensue.store.sqlite.keys import SqliteKeys

        def again() -> KeyStore:
            return SqliteKeys(f"file:/{tmp_path.name}?vfs=memdb")
    else:
        url = f"sqlite:///{tmp_path / 'a.keys'}"
        if request.param == "postgresql":
            url = request.getfixturevalue("postgresql_url")

        def again() -> KeyStore:
            return open_keys(url)

    def new() -> KeyStore:
        opened.append(again())
        return opened[-1]

    yield new
    for store in opened:
        store.close()


def test_of_two_that_meet_a_subject_at_once_one_secret_wins_and_both_use_it(make: Make) -> None:
    first, second = make(), make()
    first.open()
    second.open()
    one, other = first.create({"c=1": b"a" * 64}, 1), second.create({"c=1": b"b" * 64, "c=2": b"c" * 64}, 2)
    assert one[tag_hash("c=1")].secret == other[tag_hash("c=1")].secret == b"a" * 64
    assert first.find([tag_hash("c=2"), tag_hash("c=3")])[tag_hash("c=2")].secret == b"c" * 64
    assert tag_hash("c=3") not in first.find([tag_hash("c=3")])


def test_what_is_destroyed_stays_destroyed_and_is_known_to_be(make: Make) -> None:
    store = make()
    store.open()
    assert store.is_empty()
    store.create({"c=1": b"a" * 64, "c=2": b"b" * 64}, 1)
    assert not store.is_empty()
    assert store.destroy(["c=1", "c=9"], 2) == 1
    assert store.destroy(["c=1"], 3) == 0
    assert store.create({"c=1": b"z" * 64}, 4)[tag_hash("c=1")].secret is None
    assert sorted(store.forgotten()) == ["c=1", "c=9"]
    assert store.find([tag_hash("c=2")])[tag_hash("c=2")].secret == b"b" * 64


def test_a_ring_asks_its_store_again_about_whom_it_was_told_to_drop(make: Make) -> None:
    here, there = KeyRing(make(), RealWorld()), KeyRing(make(), RealWorld())
    secret = here.sealing("c=1")
    assert secret is not None
    assert there.opening(tag_hash("c=1")) == secret
    here.destroy(["c=1"])
    assert here.sealing("c=1") is None
    there.drop("c=1")
    assert there.opening(tag_hash("c=1")) is None
    assert there.sealing("c=1") is None
    here.close()
    there.close()


def test_many_subjects_are_made_ahead_together_and_once(make: Make) -> None:
    async def run() -> None:
        ring = KeyRing(make(), RealWorld())
        made: list[int] = []
        create = ring.store.create

        def counted(secrets: dict[str, bytes], now: int) -> object:
            made.append(len(secrets))
            return create(secrets, now)

        ring.store.create = counted  # type: ignore[method-assign, assignment]
        await asyncio.gather(*(ring.prepare([f"c={number % 40}"]) for number in range(200)))
        assert all(ring.sealing(f"c={number}") is not None for number in range(40))
        assert len(made) <= 3
        assert sum(made) <= 80
        ring.close()

    asyncio.run(run())


RACE = """
import asyncio, sys
from ensue import App, Event, Personal

class Joined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]

async def main():
    async with App("race", url=sys.argv[1]).connected() as app:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(60):
            await app.publish(Joined(customer_id=f"c{number}", email=f"mail-{number}@example.com"))
        read = [one.event async for one in app.log.read(Joined)]
        assert all(one.email == f"mail-{one.customer_id[1:]}@example.com" for one in read)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_meet_the_same_people_at_once_read_what_each_other_wrote(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'race.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql_url")
    processes = [
        subprocess.Popen([sys.executable, "-c", RACE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def test_a_file_that_holds_something_else_and_a_server_that_is_away_are_said_plainly(tmp_path: Path) -> None:
    import apsw

    connection = apsw.Connection(str(tmp_path / "other.db"))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(CorruptLog, match="holds no keys"):
        open_keys(f"sqlite:///{tmp_path / 'other.db'}").open()
    with pytest.raises(Unavailable):
        open_keys("postgresql://nobody:secret@127.0.0.1:1/keys").open()
    for wrong in ("shop.keys", "redis://host", "sqlite://host/x", "sqlite:///"):
        with pytest.raises(WiringError):
            open_keys(wrong)
    with pytest.raises(Unavailable, match="there is no key store"):
        open_keys(f"sqlite:///{tmp_path / 'none.keys'}", create=False).open()
    assert not (tmp_path / "none.keys").exists()


def test_a_connection_that_was_cut_is_made_anew(own_postgresql: PostgresServer) -> None:
    store = open_keys(own_postgresql.address.url())
    store.open()
    store.create({"c=1": b"a" * 64}, 1)
    own_postgresql.kill()
    with pytest.raises(Unavailable):
        store.find([tag_hash("c=1")])
    own_postgresql.start()
    assert store.find([tag_hash("c=1")])[tag_hash("c=1")].secret == b"a" * 64
    store.close()
