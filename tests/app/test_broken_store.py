"""A store that breaks while an application runs: nobody waits in vain, the error comes to whoever holds the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ensue import App
from ensue.errors import CorruptLog, EnsueError, LogFileReplaced, OutcomeUnknown, WriterStopped
from ensue.observe.signals import ConsumerFailed, Signal
from tests.app.orders import OrderPlaced, PaymentProcessed, placed, until


def shop(tmp_path: Path) -> tuple[App, list[Signal]]:
    signals: list[Signal] = []
    app = App("shop", url=f"sqlite:///{tmp_path}/app.db", observe=signals.append, drain_seconds=1)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    return app, signals


def break_log(tmp_path: Path) -> None:
    """What a careless program does: it removes the write-ahead file of a log that is open."""
    (tmp_path / "app.db-wal").unlink()


async def broken(app: App, tmp_path: Path) -> None:
    """Publish into a log that just broke; the error of this write is the caller's."""
    await (await app.publish(placed(1))).wait()
    break_log(tmp_path)
    with pytest.raises(EnsueError):
        await app.publish(placed(2))


def test_the_block_is_cancelled_and_raises_what_broke_the_consumers(tmp_path: Path) -> None:
    app, signals = shop(tmp_path)

    async def run() -> None:
        async with asyncio.timeout(30):
            async with app:
                await broken(app, tmp_path)
                await asyncio.Event().wait()

    with pytest.raises(LogFileReplaced, match="restart it"):
        asyncio.run(run())
    assert any(isinstance(signal, ConsumerFailed) for signal in signals)


def test_a_block_that_ends_by_itself_raises_it_too(tmp_path: Path) -> None:
    app, _ = shop(tmp_path)

    async def run() -> None:
        async with asyncio.timeout(30):
            async with app:
                try:
                    await broken(app, tmp_path)
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return

    with pytest.raises(LogFileReplaced):
        asyncio.run(run())


def test_an_error_of_the_block_itself_goes_first(tmp_path: Path) -> None:
    app, signals = shop(tmp_path)

    async def run() -> None:
        async with asyncio.timeout(30), app:
            try:
                await broken(app, tmp_path)
                await asyncio.Event().wait()
            finally:
                raise LookupError("of the block")

    with pytest.raises(LookupError, match="of the block"):
        asyncio.run(run())
    assert any(isinstance(signal, ConsumerFailed) for signal in signals)


def test_who_cancelled_the_block_sees_its_own_cancellation(tmp_path: Path) -> None:
    app, _ = shop(tmp_path)

    async def hold() -> None:
        async with app:
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(hold())
        await until(lambda: app._engine is not None and app._engine.lifeline._holding != {})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_it_ends_tasks_and_other_applications_of_the_block_and_leaves_the_task_uncancelled(tmp_path: Path) -> None:
    app, _ = shop(tmp_path)
    told: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("task ended")

    async def hold() -> None:
        async with asyncio.timeout(30), app, App("other", url="memory:"), asyncio.TaskGroup() as group:
            group.create_task(endless())
            await broken(app, tmp_path)
            await asyncio.Event().wait()

    async def run() -> None:
        with pytest.raises(LogFileReplaced):
            await hold()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(run())
    assert told == ["task ended"]


def test_lifecycle_hooks_and_factories_end_when_the_store_breaks(tmp_path: Path) -> None:
    app, _ = shop(tmp_path)
    told: list[str] = []

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        yield
        told.append("hook ended")

    @app.provide
    async def number() -> AsyncIterator[int]:
        yield 7
        told.append("factory ended")

    async def run() -> None:
        async with asyncio.timeout(30), app:
            await broken(app, tmp_path)
            await asyncio.Event().wait()

    with pytest.raises(EnsueError):
        asyncio.run(run())
    assert told == ["hook ended", "factory ended"]


def test_a_synchronous_program_gets_the_error_in_its_calls_and_at_the_end(tmp_path: Path) -> None:
    app, _ = shop(tmp_path)

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    def program() -> None:
        with app.blocking() as call:
            call(broken(app, tmp_path))
            with pytest.raises(LogFileReplaced):
                call(wait_for_ever())
            with pytest.raises(LogFileReplaced):
                call(app.log.head())

    with pytest.raises(LogFileReplaced):
        program()


@pytest.mark.slow
def test_a_writer_that_has_stopped_ends_an_idle_application_too(tmp_path: Path) -> None:
    app, signals = shop(tmp_path)

    async def run() -> None:
        async with asyncio.timeout(30), app:
            await (await app.publish(placed(1))).wait()
            store: Any = app.open_store()
            store._writer.broken = OutcomeUnknown("the disk failed while a commit was written")
            with pytest.raises(WriterStopped, match="the disk failed"):
                await app.publish(placed(2))
            await asyncio.Event().wait()

    with pytest.raises(WriterStopped, match="restart it: the disk failed while a commit was written"):
        asyncio.run(run())
    assert any(isinstance(signal, ConsumerFailed) for signal in signals)


def test_a_file_that_is_no_log_is_an_error_at_the_start_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"not a database at all, but long enough to look like one" * 100)
    app, _ = shop(tmp_path)

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(CorruptLog, match=r"app\.db"):
        asyncio.run(run())
    assert (tmp_path / "app.db").read_bytes().startswith(b"not a database")
