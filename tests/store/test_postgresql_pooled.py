"""A log through a pooler: in transaction mode a session is another client's after each transaction, so nothing may be left on
it, and nobody is told anything by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from ensue.errors import Unavailable, WiringError
from ensue.events.stored import Draft
from ensue.store.base import Consumer, Node, Request, SqlTransaction, Store
from ensue.store.postgresql import POOLED_POLL_SECONDS, PostgresqlStore
from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import PostgresAddress, new_role
from tests.store.logs import WORLD, draft
from tests.store.postgresql_logs import append, opened, rows_of, sql, told


class TestPooled(StoreContract, DurableContract, SharedContract, SqlContract):
    """The whole contract, through a pooler in transaction mode."""

    @pytest.fixture(autouse=True)
    def _place(self, pooler: Pooler, postgresql: PostgresAddress) -> None:
        self.url = pooler.pooled(new_role(postgresql.url()))

    def store(self) -> Store:
        return PostgresqlStore(self.url)


@pytest.fixture
def narrow(pgbouncer_installed: None, postgresql: PostgresAddress) -> Iterator[str]:
    """A log behind a pooler that has one session of the server for everybody."""
    with Pooler(postgresql, connections=1) as pooler:
        yield pooler.pooled(new_role(postgresql.url()))


async def _busy(url: str) -> None:
    """All that a store does: writes and reads, waits, claims, and asks for what it likes."""
    async with opened(url) as store, opened(url) as other:
        for number in range(4):
            waiter = asyncio.ensure_future(other.changed(number))
            assert (await append(store, b"{}")).first == number + 1
            assert await waiter == number + 1
            assert store.query("SELECT count(*) FROM ensue_event WHERE position <= ?", [number + 1]) == [(number + 1,)]
        begun = await other.begin()
        await begun.execute("SET LOCAL statement_timeout = '9s'")
        assert (await begun.commit(Request(events=[draft()]))).first == 5
        billing = Consumer(id=0, name="billing", start=0, key_tag=None, segments=4, handles={"Opened": 0})
        node = Node(id=b"1" * 16, host="elsewhere.invalid", pid=1, started_at=1, expires_at=WORLD.now() + 10_000_000)
        consumer = await store.define(billing)
        await store.beat(node)
        assert len((await other.claim(consumer.id, node, now=WORLD.now(), most=4)).progress) == 4
        assert len(await rows_of(other)) == 5


@pytest.mark.parametrize("writers", ["few", "many"])
def test_nothing_is_left_on_a_session_that_others_get(narrow: str, writers: str) -> None:
    told(lambda: _busy(f"{narrow}?ensue_writers={writers}"))
    assert sql(narrow, "SELECT name FROM pg_prepared_statements") == []
    assert sql(narrow, "SELECT pg_listening_channels()") == []
    # The pooler itself sets the name.
    ours = "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
    assert sql(narrow, ours) == []
    assert sql(narrow, "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()") == []


def test_the_settings_of_a_writer_hold_within_each_of_its_transactions(narrow: str) -> None:
    found: list[object] = []

    def look(transaction: SqlTransaction) -> Sequence[Draft]:
        for name in ("idle_in_transaction_session_timeout", "lock_timeout", "synchronous_commit"):
            found.extend(transaction.execute("SELECT current_setting(?)", [name])[0])
        return ()

    async def story() -> None:
        async with opened(narrow) as store:
            await store.write(Request(apply=(look,)))
            await store.write(Request(apply=(look,)))

    told(story)
    assert found == ["5s", "2s", "on"] * 2


def test_a_users_questions_are_never_prepared_on_a_session_that_others_get(narrow: str) -> None:
    async def story() -> None:
        async with opened(narrow) as store, opened(narrow) as other:
            for _ in range(8):  # the client library prepares what it has run five times
                assert store.query("SELECT count(*) FROM ensue_event") == [(0,)]
                assert other.query("SELECT count(*) FROM ensue_event") == [(0,)]

    told(story)


def test_a_pooler_that_gives_a_session_for_good_works_as_well(
    pgbouncer_installed: None, postgresql: PostgresAddress
) -> None:
    with Pooler(postgresql, mode="session") as pooler:
        url = pooler.pooled(new_role(postgresql.url()))
        told(lambda: _busy(url))


def test_a_pooler_that_knows_no_transactions_is_refused_at_the_opening(
    pgbouncer_installed: None, postgresql: PostgresAddress
) -> None:
    url = new_role(postgresql.url())

    async def story() -> None:
        async with opened(url):  # the tables are there
            pass
        with Pooler(postgresql, mode="statement") as pooler:
            with pytest.raises(WiringError, match="a pooler in statement mode"):
                await PostgresqlStore(pooler.pooled(url)).open(WORLD)

    told(story)


def test_a_search_path_in_the_url_is_refused_by_a_pooler_and_the_error_says_what_to_do(
    pooler: Pooler, postgresql_url: str
) -> None:
    async def story() -> None:
        with pytest.raises(Unavailable, match="ALTER ROLE"):
            await PostgresqlStore(pooler.pooled(postgresql_url)).open(WORLD)

    told(story)


def test_what_another_process_wrote_is_seen_by_polling(pooler: Pooler, postgresql: PostgresAddress) -> None:
    url = new_role(postgresql.url())

    async def story() -> float:
        async with opened(pooler.pooled(url)) as reader, opened(url) as writer:
            waiter = asyncio.ensure_future(reader.changed(0))
            await asyncio.sleep(0)
            await append(writer, b"{}")
            began = WORLD.monotonic()
            assert await waiter == 1
            return WORLD.monotonic() - began

    assert told(story) < 20 * POOLED_POLL_SECONDS
