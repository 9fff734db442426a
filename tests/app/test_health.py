"""What an application says when somebody asks whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from ensue import App
from ensue.app import Health
from ensue.errors import EnsueError
from tests.app.orders import OrderPlaced, PaymentProcessed, placed, until

Work = Callable[[App], Awaitable[Health]]


def shop(url: str) -> App:
    app = App("shop", url=url, drain_seconds=1)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    return app


def while_it_runs(url: str, work: Work) -> Health:
    async def run() -> Health:
        app = shop(url)
        async with asyncio.timeout(30), app:
            return await work(app)

    return asyncio.run(run())


def test_an_application_that_runs_is_alive_and_ready_and_says_what_was_looked_at(url: str) -> None:
    health = while_it_runs(url, App.health)
    assert (health.alive, health.ready, health.reasons) == (True, True, ())
    assert [part.name for part in health.parts] == ["writer", "lease", "application", "store", "consumer charge"]
    assert [part.name for part in health.parts if part.vital] == ["writer"]


def test_one_that_is_not_open_is_alive_and_not_ready(url: str) -> None:
    health = asyncio.run(shop(url).health())
    assert (health.alive, health.ready, health.reasons) == (True, False, ("application: is not open",))


def test_one_that_is_starting_or_stopping_is_alive_and_not_ready(url: str) -> None:
    app, found = shop(url), list[Health]()

    @app.lifecycle
    async def look() -> AsyncIterator[None]:
        found.append(await app.health())
        yield
        found.append(await app.health())

    async def run() -> None:
        async with app:
            pass

    asyncio.run(run())
    assert [health.alive for health in found] == [True, True]
    assert [health.reasons for health in found] == [("application: is starting",), ("application: is stopping",)]


def test_one_that_only_connects_has_no_lease_and_no_consumers_and_is_ready(url: str) -> None:
    async def run() -> Health:
        async with shop(url).connected() as app:
            return await app.health()

    health = asyncio.run(run())
    assert health.ready
    assert [part.name for part in health.parts] == ["writer", "application", "store"]


def test_a_consumer_that_has_tripped_is_not_ready_and_says_why(url: str) -> None:
    async def work(app: App) -> Health:
        (charge,) = await app.open_store().consumers()
        await app.open_store().set_status(charge.id, "tripped", "20 keys in a row failed")
        return await app.health()

    health = while_it_runs(url, work)
    assert (health.alive, health.ready) == (True, False)
    assert health.reasons == ("consumer charge: has tripped: 20 keys in a row failed",)


def test_a_consumer_that_an_operator_paused_is_as_it_should_be(url: str) -> None:
    async def work(app: App) -> Health:
        (charge,) = await app.open_store().consumers()
        await app.open_store().set_status(charge.id, "paused", "stock-taking")
        return await app.health()

    health = while_it_runs(url, work)
    assert health.ready
    assert health.parts[-1].said == "is paused: stock-taking"


def test_a_consumer_that_this_code_is_too_old_for_is_not_ready(url: str) -> None:
    async def work(app: App) -> Health:
        engine = app._engine
        assert engine is not None
        assert engine._node is not None
        engine._node.runners[0].standing_by = "newer code runs beside it"
        return await app.health()

    assert while_it_runs(url, work).reasons == ("consumer charge: stands by: newer code runs beside it",)


def test_segments_that_nobody_owns_are_forgiven_for_as_long_as_a_lease(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(app: App) -> Health:
        store = app.open_store()
        nodes = await store.nodes()

        async def ended() -> tuple[object, ...]:
            return tuple(msgspec.structs.replace(node, expires_at=0) for node in nodes)

        monkeypatch.setattr(store, "nodes", ended)
        first = await app.health()
        assert (first.ready, first.parts[-1].said) == (True, "nobody owns 16 of 16 segments, for 0 s at least")
        monkeypatch.setattr("ensue.app.checkup.LEASE_SECONDS", -1.0)
        return await app.health()

    health = while_it_runs(url, work)
    assert (health.alive, health.ready) == (True, False)
    assert "nobody owns 16 of 16 segments" in health.reasons[0]


def test_another_process_that_owns_a_consumer_is_as_good_as_this_one(file_url: str) -> None:
    async def work(app: App) -> Health:
        async with shop(file_url) as other:
            return await other.health()

    assert while_it_runs(file_url, work).ready


def test_a_lease_that_ran_out_makes_it_unready_and_is_no_reason_to_start_it_anew(url: str) -> None:
    async def work(app: App) -> Health:
        engine = app._engine
        assert engine is not None
        assert engine._node is not None
        engine._node.lease._beaten_at -= 20
        return await app.health()

    health = while_it_runs(url, work)
    assert (health.alive, health.ready) == (True, False)
    assert health.reasons[0].startswith("lease: ran out 1")


def test_a_store_that_does_not_answer_is_not_ready_and_keeps_nobody_waiting(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(app: App) -> Health:
        monkeypatch.setattr("ensue.app.checkup.STORE_SECONDS", 0.01)
        monkeypatch.setattr(app.open_store(), "consumers", asyncio.Event().wait)
        try:
            return await app.health()
        finally:
            monkeypatch.undo()

    health = while_it_runs(url, work)
    assert (health.alive, health.ready) == (True, False)
    assert health.reasons == ("store: does not answer within 0.01 s",)


def test_a_broken_writer_is_not_alive(tmp_path: Path) -> None:
    found: list[Health] = []

    async def run() -> None:
        app = shop(f"sqlite:///{tmp_path}/app.db")
        async with asyncio.timeout(30), app:
            await (await app.publish(placed(1))).wait()
            (tmp_path / "app.db-wal").unlink()
            with pytest.raises(EnsueError):
                await app.publish(placed(2))
            engine = app._engine
            assert engine is not None
            try:
                await until(lambda: engine.lifeline.failure is not None)
            finally:
                found.append(await app.health())

    with pytest.raises(EnsueError):
        asyncio.run(run())
    assert not found[0].alive
    assert found[0].reasons[0].startswith("writer: LogFileReplaced: ")
