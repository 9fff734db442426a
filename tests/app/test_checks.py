"""What a caller gets who gives the wrong thing: at once, with what was given and what to write instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from ensue import App, Retry, Service
from ensue.errors import DefinitionError, InvalidEvent
from tests.app.orders import OrderPlaced, placed


def charge(order: OrderPlaced) -> None: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retry": 5}, r"charge: retry= has 5 in it; give a policy, Retry\(attempts=5\)"),
        ({"retry": {"ConnectionError": Retry()}}, "retry= has 'ConnectionError' in it; .* one by type of exception"),
        ({"retry": {ConnectionError: 5}}, "retry= has 5 in it"),
        ({"timeout": 5}, r"charge: timeout=5; give a duration, timedelta\(seconds=5\) or seconds\(5\)"),
        ({"timeout": timedelta()}, "timeout= is a positive duration"),
        ({"concurrency": 0}, "charge: concurrency=0; at least one must run"),
        ({"concurrency": "many"}, "charge: concurrency='many'"),
        ({"start": "end"}, 'charge: start=\'end\'; a consumer begins at "beginning", "now", a position or a time'),
        ({"key": "customer"}, "charge: key='customer' must be one tag"),
        ({"retries": Retry()}, "charge: @on has no option 'retries'; its options are: name, retry, timeout"),
    ],
)
def test_an_option_that_is_none_is_told_when_the_handler_is_declared(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        App("shop").on(**options)(charge)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: App("shop", url=5), "shop: url=5; give a text"),  # type: ignore[arg-type]
        (lambda: App("shop", observe=5), "shop: observe=5; give a function"),  # type: ignore[arg-type]
        (lambda: App("shop", retry=5), "shop: retry= has 5 in it"),  # type: ignore[arg-type]
        (lambda: Service("billing", retry={int: Retry()}), "billing: retry= has <class 'int'>"),  # type: ignore[dict-item]
        (lambda: App("shop").include("billing"), r"include\(\) takes services, not 'billing'"),  # type: ignore[arg-type]
        (lambda: Retry(first=1), r"Retry\(first=1, .* both are durations"),  # type: ignore[arg-type]
        (lambda: Retry(attempts=0), "attempts and factor are at least 1"),
    ],
)
def test_a_declaration_that_is_none_is_told_when_it_is_made(declare: Callable[[], object], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        declare()


async def in_transaction(tx: object) -> int:
    return 1


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda app: app.publish(placed(), idempotency_key=5), InvalidEvent, "idempotency_key=5; it is a text"),
        (lambda app: app.publish(placed(), idempotency_key=""), InvalidEvent, "idempotency_key=''"),
        (lambda app: app.log.append(placed(), idempotency_key=""), InvalidEvent, "idempotency_key=''"),
        (lambda app: app.transact(lambda tx: 1, idempotency_key=""), InvalidEvent, "idempotency_key=''"),
        (lambda app: app.transact(in_transaction), DefinitionError, "cannot wait for an `async def`"),
        (lambda app: app.transact(lambda: 5), TypeError, "positional argument"),
        (lambda app: app.wait("abc.1-1"), TypeError, r"'abc\.1-1' is no position; Position\(text\) makes one"),
        (lambda app: app.wait(17), TypeError, "17 is no position; such as receipt.position"),
        (lambda app: waiting(app, timeout=5), TypeError, r"timeout=5; give a duration, timedelta\(seconds=5\)"),
        (lambda app: reading(app, after="abc"), TypeError, "'abc' is no place in the log"),
        (lambda app: reading(app, before=True), TypeError, "True is no place in the log"),
    ],
)
def test_a_call_with_the_wrong_thing_is_told_and_stores_nothing(
    act: Callable[[App], Awaitable[object]], error: type[Exception], says: str
) -> None:
    async def run() -> None:
        app = App("shop", url="memory:")
        async with app.connected():
            with pytest.raises(error, match=says):
                await act(app)
            assert (await app.log.head()).last == 0

    asyncio.run(run())


async def waiting(app: App, **options: Any) -> None:
    await (await app.publish()).wait(**options)


async def reading(app: App, **places: Any) -> None:
    async for _ in app.log.read(**places):
        pass
