"""Connections that come and go under a store: whose server is another one now, or whose store is closed; and their locks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ensue.errors import EnsueError, Unavailable, WiringError
from ensue.store.postgresql import own, server
from ensue.store.postgresql.order import Concurrent
from ensue.store.postgresql.session import Session, Statement
from tests.store.postgresql_logs import append, opened, rows_of, told


def test_a_server_that_is_too_old_now_refuses_what_is_written_and_breaks_no_writer(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            await append(store, b"1")
            assert store._writer is not None
            assert store._writer._session is not None
            store._writer._session.close()  # as after a failover
            with monkeypatch.context() as patched:
                patched.setattr(server, "OLDEST", 99)
                with pytest.raises(WiringError, match="needs 99 or later"):
                    await append(store, b"2")
            await append(store, b"3")
            assert [row[11] for row in await rows_of(store)] == [b"1", b"3"]

    told(story)


def test_the_connection_of_a_transaction_ends_with_it_when_the_store_is_closed_meanwhile(postgresql_url: str) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            own = await store.begin()
        assert own._session.lost is None
        await own.roll_back()
        assert own._session.lost is not None

    told(story)


def test_a_connection_that_is_made_while_the_store_is_closed_is_closed_with_it(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made: list[Session] = []
        connect = Session.connect

        async def closing(conninfo: str, *, notified: Callable[[], None] | None = None) -> Session:
            made.append(await connect(conninfo, notified=notified))
            store.abandon()
            return made[-1]

        async with opened(postgresql_url) as store:
            assert store._desk is not None
            store._desk.close()  # as after a restart of the server
            monkeypatch.setattr(Session, "connect", closing)
            with pytest.raises(Unavailable, match="not open"):
                await store.read()
        assert [session.lost is not None for session in made] == [True]

    told(story)


def test_a_connection_on_which_no_transaction_can_begin_is_closed(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            assert store._own is not None
            session = await store._own.session()
            store._own.give_back(session)
            monkeypatch.setattr(own, "_PATIENT", Statement("SELECT 1/0")())
            with pytest.raises(EnsueError):
                await store.begin()
            assert session.lost is not None

    told(story)


def test_logs_in_one_database_have_locks_of_their_own_and_none_that_an_application_may_use() -> None:
    one, other = Concurrent("1" * 32), Concurrent("2" * 32)
    keys = [key for order in (one, other) for key in (order.everything, order.naming, order.taking)]
    assert len(set(keys)) == 6
    assert min(map(abs, keys)) > 1 << 32
