"""What is run around the consumers, in which order, and what is ended when a start fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ensue import App, Service
from ensue.errors import DefinitionError, EnsueError, WiringError
from tests.app.orders import OrderPlaced, PaymentProcessed, placed


async def opened(app: App, told: list[str]) -> None:
    async with app:
        told.append("open")


def test_hooks_run_around_the_consumers_and_the_values_around_the_hooks(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.lifecycle
    async def announce(number: int) -> AsyncIterator[None]:
        told.append(f"announce begins with {number}")
        yield
        told.append("announce ends")

    @app.lifecycle
    def warm() -> Iterator[None]:
        told.append("warm begins")
        yield
        told.append("warm ends")

    @app.provide
    def number() -> Iterator[int]:
        told.append("number begins")
        yield 7
        told.append("number ends")

    @app.on
    async def charge(order: OrderPlaced) -> None:
        told.append("handled")

    async def run() -> None:
        async with app:
            await (await app.publish(placed())).wait(charge)

    asyncio.run(run())
    begins = ["number begins", "announce begins with 7", "warm begins"]
    assert told == [*begins, "handled", "warm ends", "announce ends", "number ends"]


def test_hooks_of_services_follow_those_of_the_app(url: str) -> None:
    app, billing, told = App("shop", url=url), Service("billing"), list[str]()

    @billing.lifecycle
    def second() -> Iterator[None]:
        told.append("second")
        yield

    @app.lifecycle
    def first() -> Iterator[None]:
        told.append("first")
        yield

    app.include(billing)
    asyncio.run(opened(app, told))
    assert told == ["first", "second", "open"]


def test_a_hook_may_publish_before_the_consumers_run_and_after_they_have_stopped(file_url: str) -> None:
    app, handled = App("shop", url=file_url), list[str]()

    @app.lifecycle
    async def open_and_close() -> AsyncIterator[None]:
        await app.publish(placed("pening"))
        yield
        await app.publish(placed("ver"))

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        handled.append(order.order_id)
        return PaymentProcessed(order_id=order.order_id)

    async def run() -> list[str]:
        async with app:
            head = await app.log.head()
            await app.wait(head, charge)
        async with app.connected():
            return [row.event.order_id async for row in app.log.read(OrderPlaced)]

    assert asyncio.run(run()) == ["opening", "over"]
    assert handled == ["opening"]


def test_no_hook_runs_for_who_only_connects(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.lifecycle
    def announce() -> Iterator[None]:
        told.append("announce")
        yield

    async def run() -> None:
        async with app.connected():
            await app.publish(placed())

    asyncio.run(run())
    assert told == []


def test_a_hook_that_fails_stops_the_start_and_what_had_begun_is_ended(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.provide
    def number() -> Iterator[int]:
        yield 7
        told.append("number ends")

    @app.lifecycle
    def warm() -> Iterator[None]:
        told.append("warm begins")
        yield
        told.append("warm ends")

    @app.lifecycle
    async def connect() -> AsyncIterator[None]:
        raise ConnectionError("nobody there")
        yield

    with pytest.raises(ConnectionError, match="nobody there") as caught:
        asyncio.run(opened(app, told))
    assert told == ["warm begins", "warm ends", "number ends"]
    assert caught.value.__notes__ == ["raised by connect, while the application was opened"]


def test_hooks_end_when_the_block_raises(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        yield
        told.append("ended")

    async def run() -> None:
        async with app:
            raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        asyncio.run(run())
    assert told == ["ended"]


def test_hooks_end_when_the_block_is_cancelled(url: str) -> None:
    app, told = App("shop", url=url), list[str]()

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        yield
        told.append("ended")

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), app:
                await asyncio.Event().wait()

    asyncio.run(run())
    assert told == ["ended"]


def never() -> Iterator[None]:
    return
    yield


def twice() -> Iterator[None]:
    yield
    yield


async def never_async() -> AsyncIterator[None]:
    return
    yield


async def twice_async() -> AsyncIterator[None]:
    yield
    yield


@pytest.mark.parametrize("hook", [never, twice, never_async, twice_async])
def test_a_hook_yields_once(hook: Any, url: str) -> None:
    app = App("shop", url=url)
    app.lifecycle(hook)
    with pytest.raises(WiringError, match=f"{hook.__name__} yielded .*; it yields once"):
        asyncio.run(opened(app, []))


def test_a_hook_that_is_no_generator_is_refused_when_it_is_declared() -> None:
    app: Any = App("shop")

    def start() -> None: ...

    with pytest.raises(DefinitionError, match="start: @lifecycle is for a generator with one yield"):
        app.lifecycle(start)


def test_hooks_run_in_simulation_too() -> None:
    from ensue.testing import given

    app, told = App("shop"), list[str]()

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        told.append("begun")
        yield

    given(app).when(placed()).then_nothing()
    assert told == ["begun"]


def test_the_app_is_closed_after_a_failed_start(url: str) -> None:
    app = App("shop", url=url)

    @app.lifecycle
    def fail() -> Iterator[None]:
        raise LookupError
        yield

    async def run() -> None:
        with pytest.raises(LookupError):
            async with app:
                pass
        with pytest.raises(EnsueError, match="the application shop is not open"):
            await app.publish(placed())

    asyncio.run(run())
