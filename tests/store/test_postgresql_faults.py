"""Real servers that stop, die, fill up, refuse or are replaced while applications use them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import uuid
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import psycopg
import pytest

from ensue.consumers.verify import verify
from ensue.errors import OutcomeUnknown, StorageFull, Unavailable
from ensue.events.stored import Draft
from ensue.store import postgresql as store_module
from ensue.store.base import Consumer, Node, Request, SqlTransaction
from ensue.store.postgresql import PostgresqlStore, writer
from tests.servers.disks import fill, small_disk
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import PostgresServer, new_role
from tests.servers.processes import family
from tests.servers.proxy import Cut, Incident, proxy_to
from tests.servers.replicas import replicated
from tests.store.crowds import Crowd
from tests.store.logs import WORLD, child, draft, line, rest, soon
from tests.store.postgresql_logs import opened

T = TypeVar("T")


def on(url: str, story: Callable[[PostgresqlStore], Awaitable[T]]) -> T:
    """Play it on the log there, within a minute; the log is whole afterwards."""

    async def run() -> T:
        async with opened(url) as store:
            result = await asyncio.wait_for(story(store), 60)
            await check_whole(store)
            return result

    return asyncio.run(run())


async def check_whole(store: PostgresqlStore) -> None:
    found = await verify(store, WORLD)
    assert [one for one in found.findings if one.check != "contents"] == []  # the drafts' keys are made up


def ask(url: str, question: str, *values: object) -> object:
    """The only column of the only row of the answer."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(question.encode(), values).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.parametrize("writers", ["few", "many"])
def test_a_log_is_whole_whenever_one_looks_while_many_write(postgresql_url: str, writers: str) -> None:
    url = f"{postgresql_url}&ensue_writers={writers}"

    async def story(store: PostgresqlStore) -> None:
        crowd = Crowd(url)

        async def looks() -> None:
            for _ in range(10):
                await crowd.more(20)
                await check_whole(store)

        await crowd.during(looks)
        await crowd.check(store, dense=writers == "few")

    on(url, story)


# ------------------------------------------------------------------------------------------ the server comes and goes


def test_a_server_that_is_restarted_stops_nobody_and_loses_and_doubles_nothing(own_postgresql: PostgresServer) -> None:
    server = own_postgresql

    async def story(store: PostgresqlStore) -> None:
        crowd = Crowd(server.url())

        async def restarts() -> None:
            for _ in range(2):
                await crowd.more(100)
                await asyncio.to_thread(server.restart)
            await crowd.more(100)

        await crowd.during(restarts)
        assert crowd.refused == []
        await crowd.check(store)

    on(server.url(), story)


@pytest.mark.slow
@pytest.mark.parametrize("writers", ["few", "many"])
def test_a_server_that_is_killed_at_random_moments_stops_nobody_and_loses_and_doubles_nothing(
    own_postgresql: PostgresServer, writers: str
) -> None:
    server, chance = own_postgresql, random.Random(3)

    async def story(store: PostgresqlStore) -> None:
        crowd = Crowd(server.url(ensue_writers=writers))

        async def kills() -> None:
            for _ in range(5):
                await crowd.more(chance.randint(1, 150))
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await crowd.more(100)

        await crowd.during(kills)
        assert crowd.refused == []
        await crowd.check(store, dense=writers == "few")

    on(server.url(ensue_writers=writers), story)


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_sessions_and_statements_that_an_administrator_ends_again_and_again_lose_and_double_nothing(
    postgresql_url: str, end: str
) -> None:
    name = f"ended {uuid.uuid4().hex}"
    ours = "FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"

    async def story(store: PostgresqlStore) -> None:
        crowd = Crowd(f"{postgresql_url}&application_name={quote(name)}")

        async def ends() -> None:
            for _ in range(20):
                await crowd.more(5)
                ended = 0
                while not ended:
                    counted = ask(postgresql_url, f"SELECT count({end}(pid)) {ours}", name)
                    assert isinstance(counted, int)
                    ended = counted
                    await asyncio.sleep(0)
            await crowd.more(50)

        await crowd.during(ends)
        assert crowd.refused == []
        await crowd.check(store)

    on(postgresql_url, story)


def test_a_position_that_a_dead_server_had_given_is_not_passed_when_it_is_given_again(
    own_postgresql: PostgresServer,
) -> None:
    """Where writers take no turns: who waits for a transaction to end must not take the death of the server for its end."""
    server = own_postgresql
    url = server.url(ensue_writers="many")
    looks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reader' AND query LIKE '%%snapshot_xip%%'"

    async def story(store: PostgresqlStore) -> None:
        await store.write(Request(events=[draft(b'"first"')]))
        with proxy_to(url) as proxy:
            async with opened(proxy.url) as cut_off, opened(f"{url}&application_name=reader") as reader:
                incident = proxy.at_commit(Cut.BEFORE, silent=True)
                lost = cut_off.write(Request(events=[draft(b'"second"')]))
                await _has(incident)
                waiting = asyncio.ensure_future(reader.changed(1))
                await soon(lambda: ask(server.url(), looks) == 1, "the reader was to wait for the transaction")
                with proxy.closed():
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                    proxy.end(incident)
                    returned = (
                        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' OR query LIKE '%%names%%'"
                    )
                    await soon(lambda: waiting.done() or ask(server.url(), returned) != 0, "the reader was to be back")
                # The position that was given before may be given again, or be left without an event: whether the server had
                # it on disk when it died is its own affair.
                place = await waiting
                before = await reader.read(after=1, before=place + 1)
                written = await lost
                await reader.changed(written.last - 1)
                behind = await reader.read(after=place)
                assert [row[11] for row in (*before.rows, *behind.rows)] == [b'"second"']

    on(url, story)


@pytest.mark.slow
def test_a_server_that_comes_and_goes_behind_a_pooler_stops_nobody_and_loses_and_doubles_nothing(
    own_postgresql: PostgresServer, pgbouncer_installed: None
) -> None:
    server = own_postgresql
    with Pooler(server.address) as pooler:
        url = pooler.pooled(new_role(server.url()))

        async def story(store: PostgresqlStore) -> None:
            crowd = Crowd(url)

            async def disturbs() -> None:
                for disturb in (server.restart, server.kill, server.start, server.restart):
                    if server.running():
                        await crowd.more(30)
                    await asyncio.to_thread(disturb)
                await crowd.more(50)

            await crowd.during(disturbs)
            assert crowd.refused == []
            await crowd.check(store)

        on(url, story)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (writer, store_module):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)


def test_a_server_that_is_gone_for_too_long_makes_calls_unavailable_until_it_is_back(
    own_postgresql: PostgresServer, impatient: None
) -> None:
    server = own_postgresql

    async def story(store: PostgresqlStore) -> None:
        await store.write(Request(events=[draft(b'"kept"')]))
        waiting = asyncio.ensure_future(store.changed(store.head()))
        server.stop()
        calls: list[Awaitable[object]] = [store.read(), waiting]
        calls += [store.write(Request(events=[draft(b'"refused"')])) for _ in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert "the server cannot be reached. Does it run" in str(answers[0])
        with pytest.raises(Unavailable):
            await store.write(Request(events=[draft(b'"refused"')]))
        server.start()
        assert (await store.write(Request(events=[draft(b'"later"')]))).first == 2
        assert [row[11] for row in (await store.read()).rows] == [b'"kept"', b'"later"']

    on(server.url(), story)


def test_a_server_that_hangs_keeps_what_was_asked_and_goes_on_with_it(own_postgresql: PostgresServer) -> None:
    server = own_postgresql

    async def story(store: PostgresqlStore) -> None:
        await store.write(Request(events=[draft()]))
        with hanging(server):
            writes = [store.write(Request(events=[draft()])) for _ in range(10)]
            reading = asyncio.ensure_future(store.read())
            await asyncio.sleep(0)
        assert [one.first for one in await asyncio.gather(*writes)] == list(range(2, 12))
        await reading

    on(server.url(), story)


def test_a_log_whose_server_hangs_is_closed_within_the_patience(
    own_postgresql: PostgresServer, impatient: None
) -> None:
    server = own_postgresql

    async def run() -> None:
        store = PostgresqlStore(server.url())
        await store.open(WORLD)
        await store.write(Request(events=[draft()]))
        with hanging(server):
            unknown = store.write(Request(events=[draft()]))
            await asyncio.wait_for(store.close(), 30)
            with pytest.raises(OutcomeUnknown, match="the log was closed while this was being written"):
                await unknown
        await store.open(WORLD)
        assert (await store.write(Request(events=[draft()]))).first in (2, 3)
        await store.close()

    asyncio.run(run())


@contextmanager
def hanging(server: PostgresServer) -> Generator[None, None, None]:
    """No process of the server runs."""
    members = family(server.pid)
    for pid in members:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in members:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("cut", Cut, ids=[cut.name.lower() for cut in Cut])
def test_a_commit_that_cannot_be_asked_about_for_too_long_is_unknown_and_its_key_tells_later(
    postgresql_url: str, impatient: None, cut: Cut
) -> None:
    """What waits behind it was not sent, so that is certain."""

    async def run() -> None:
        with proxy_to(postgresql_url) as proxy:

            async def story(store: PostgresqlStore) -> None:
                await store.write(Request(events=[draft()]))
                sent = Request(events=[draft()], idempotency_key=b"a key of 16 bytes", fingerprint=b"same")
                incident = proxy.at_commit(cut)
                with proxy.closed():
                    unknown = store.write(sent)
                    await _has(incident)
                    behind = store.write(Request(events=[draft()]))
                    with pytest.raises(OutcomeUnknown, match="Ask again with the same idempotency key"):
                        await unknown
                    with pytest.raises(Unavailable):
                        await behind
                written = await store.write(sent)
                assert (written.first, written.replayed) == (2, cut is Cut.ANSWER)
                assert len((await store.read()).rows) == 2

            async with opened(proxy.url) as store:
                await asyncio.wait_for(story(store), 30)

    asyncio.run(run())


async def _has(incident: Incident) -> None:
    await soon(lambda: incident.happened, incident.cut.value)


# ------------------------------------------------------------------------------------------------ no more connections


@contextmanager
def exhausted(url: str) -> Generator[list[psycopg.Connection], None, None]:
    """All connections that the server has left, taken by others."""
    with ExitStack() as stack:
        taken: list[psycopg.Connection] = []
        while True:
            try:
                taken.append(stack.enter_context(psycopg.connect(url)))
            except psycopg.OperationalError:
                break
        yield taken


@pytest.fixture(scope="module")
def small(postgresql_installed: None) -> Generator[PostgresServer, None, None]:
    """A server that takes six connections."""
    settings: dict[str, str | int] = {"max_connections": 6, "superuser_reserved_connections": 0}
    with PostgresServer(durable=False, settings=settings) as server:
        yield server


def test_a_server_that_takes_no_more_connections_is_told_at_the_opening_with_what_to_do(small: PostgresServer) -> None:
    with exhausted(small.url()), pytest.raises(Unavailable) as refused:
        on(small.url(), lambda store: store.read())
    assert "the server takes no more connections" in str(refused.value)
    assert "raise max_connections, run fewer processes, or put a pooler between" in str(refused.value)


def test_an_application_goes_on_when_a_lost_connection_cannot_be_replaced_for_a_moment(small: PostgresServer) -> None:
    async def story(store: PostgresqlStore) -> None:
        await store.write(Request(events=[draft()]))
        head = store.head()
        with exhausted(small.url()) as others:
            watcher = others.pop()
            watcher.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ensue'")
            with exhausted(small.url()):
                write = store.write(Request(events=[draft()]))
                read = asyncio.ensure_future(store.read())
                for _ in range(3):  # the first has failed for certain when a further one cannot be made
                    with pytest.raises(psycopg.OperationalError):
                        await psycopg.AsyncConnection.connect(small.url())
                assert not write.done()
        assert (await write).first == head + 1
        assert (await read).reached >= head

    on(small.url(), story)


# ------------------------------------------------------------------------------------------------- stopped processes


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.slow
def test_a_process_that_stops_in_its_transaction_holds_others_up_for_seconds_and_changes_nothing_when_it_goes_on(
    postgresql_url: str,
) -> None:
    async def story(store: PostgresqlStore) -> None:
        with child("stops", postgresql_url) as process:
            assert line(process) == "inside"
            await soon(lambda: stopped(process.pid), "the process was to stop")
            others = [await store.write(Request(events=[draft(b'"other"')])) for _ in range(3)]
            os.kill(process.pid, signal.SIGCONT)
            assert rest(process) == ["inside", str(others[-1].last + 1)]
        assert store.query("SELECT number FROM thing") == [(2,)]
        assert [row[11] for row in (await store.read()).rows] == [*[b'"other"'] * 3, b'"mine"']

    on(postgresql_url, story)


def test_segments_that_a_stopped_process_keeps_locked_are_left_for_later(postgresql_url: str) -> None:
    consumer = Consumer(id=0, name="billing", start=0, key_tag=None, segments=2, handles={"Opened": 0})
    now = WORLD.now()
    node = Node(id=b"n" * 16, host="elsewhere.invalid", pid=1, started_at=now, expires_at=now + 10_000_000)

    async def story(store: PostgresqlStore) -> None:
        defined = await store.define(consumer)
        with psycopg.connect(postgresql_url) as other:
            other.execute("SELECT 1 FROM ensue_progress WHERE segment = 1 FOR UPDATE")
            assert (await store.claim(defined.id, node, now=now, most=2)).progress == ()
        assert [row.segment for row in (await store.claim(defined.id, node, now=now, most=2)).progress] == [0, 1]

    on(postgresql_url, story)


# ------------------------------------------------------------------------------------------------------------ failover


@pytest.mark.slow
def test_an_application_goes_on_where_a_replica_was_promoted_and_nothing_is_lost_or_doubled(
    own_postgresql: PostgresServer,
) -> None:
    with replicated(own_postgresql) as (replica, url):

        async def story(store: PostgresqlStore) -> None:
            crowd = Crowd(url)

            async def fails_over() -> None:
                await crowd.more(150)
                await asyncio.to_thread(own_postgresql.kill)
                await asyncio.to_thread(replica.promote)
                await crowd.more(150)

            await crowd.during(fails_over)
            assert crowd.refused == []
            await crowd.check(store)

        on(url, story)


@pytest.mark.slow
def test_what_is_found_stored_after_a_cut_is_not_acknowledged_before_the_replica_has_it(
    own_postgresql: PostgresServer,
) -> None:
    """A primary that is restarted while a commit waits for its replica shows what is committed on itself alone."""
    primary = own_postgresql
    with replicated(primary) as (replica, url):

        async def story(store: PostgresqlStore) -> None:
            await store.write(Request(events=[draft(b'"first"')]))
            replica.stop()
            answer = store.write(Request(events=[draft(b'"second"')]))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'ensue'"
            await soon(lambda: ask(primary.url(), waits) == 1, "the commit was to wait for the replica")
            await asyncio.to_thread(primary.restart)
            await soon(lambda: answer.done() or ask(primary.url(), waits) == 1, "it was to be found stored")
            primary.kill()
            await asyncio.to_thread(replica.start)
            await asyncio.to_thread(replica.promote)
            acknowledged = (await answer).last
            assert {row[0]: row[11] for row in (await store.read()).rows} == {1: b'"first"', acknowledged: b'"second"'}

        on(url, story)


# ----------------------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_of_the_server_refuses_writes_and_takes_them_again_when_there_is_room(
    own_postgresql: PostgresServer, may_mount: None
) -> None:
    server = own_postgresql
    with small_disk(server.data.parent / "disk", 64) as disk:
        place = disk / "data"
        place.mkdir(mode=0o777)
        shutil.chown(place, server.data.owner(), server.data.group())
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
            connection.execute("CREATE DATABASE log TABLESPACE small")

        async def story(store: PostgresqlStore) -> None:
            await store.write(Request(events=[draft(b'"kept"')]))
            filler = fill(disk, leave=256 * 1024)
            large = [
                store.write(Request(events=[draft(b'"' + os.urandom(100_000).hex().encode() + b'"')]))
                for _ in range(20)
            ]
            answers = await asyncio.gather(*large, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StorageFull}
            assert "the server's disk is full. Nothing of this write is stored" in str(answers[0])
            assert len((await store.read()).rows) == 1
            filler.unlink()
            assert (await store.write(Request(events=[draft(b'"later"')]))).first == 2

        on(server.url("log"), story)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE log")


@pytest.mark.slow
def test_a_server_that_dies_of_a_full_disk_in_the_middle_of_a_commit_leaves_nothing_in_doubt(
    own_postgresql: PostgresServer, may_mount: None
) -> None:
    """Without room for its write-ahead log PostgreSQL crashes, and does not start before there is some."""
    server = own_postgresql
    with small_disk(server.data.parent / "disk", 72) as disk:
        server.stop()
        wal = disk / "wal"
        shutil.copytree(server.data / "pg_wal", wal)
        for path in (wal, *wal.rglob("*")):
            shutil.chown(path, server.data.owner(), server.data.group())
        wal.chmod(0o700)
        (server.data / "pg_wal").rename(server.data / "pg_wal.before")
        (server.data / "pg_wal").symlink_to(wal)
        server.settings.update(wal_recycle="off", min_wal_size="32MB")
        server.start()

        async def story(store: PostgresqlStore) -> None:
            crowd = Crowd(server.url())

            async def fills() -> None:
                await crowd.more(50)
                filler = fill(disk, leave=64 * 1024)
                while server.running():
                    with contextlib.suppress(psycopg.OperationalError):
                        ask(server.url(), "SELECT pg_switch_wal()::text")
                        ask(server.url(), "SELECT pg_create_restore_point('further')::text")
                filler.unlink()
                await asyncio.to_thread(server.start)
                await crowd.more(50)

            await crowd.during(fills)
            assert crowd.refused == []
            await crowd.check(store)

        on(server.url(), story)
        server.stop()


def test_ten_processes_that_find_no_log_at_once_make_one(postgresql_url: str) -> None:
    async def run() -> None:
        stores = [PostgresqlStore(postgresql_url) for _ in range(10)]
        await asyncio.gather(*(store.open(WORLD) for store in stores))
        assert len({store.log_id for store in stores}) == 1
        written = await asyncio.gather(*(store.write(Request(events=[draft()])) for store in stores))
        assert sorted(one.first for one in written) == list(range(1, 11))
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(run())


def test_a_table_of_the_users_that_is_changed_while_it_is_in_use_stops_nobody(postgresql_url: str) -> None:
    found: list[object] = []

    def look(tx: SqlTransaction) -> Sequence[Draft]:
        found.append(tx.execute("SELECT * FROM thing"))
        return ()

    async def story(store: PostgresqlStore) -> None:
        with psycopg.connect(postgresql_url, autocommit=True) as other:
            other.execute("CREATE TABLE thing (number integer)")
            other.execute("INSERT INTO thing VALUES (1)")
            await store.write(Request(apply=(look,)))
            other.execute("ALTER TABLE thing ADD COLUMN further integer")
            await store.write(Request(apply=(look,)))
        assert found == [[(1,)], [(1, None)]]

    on(postgresql_url, story)
