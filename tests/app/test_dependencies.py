"""What handlers are given: values by type, made once, those that others need first, ended in reverse order."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import msgspec
import pytest

from ensue import App, Service
from ensue.errors import DefinitionError, WiringError
from tests.app.orders import OrderPlaced, placed


class Gateway:
    def __init__(self, label: str = "real") -> None:
        self.label = label


class Cache:
    """Another thing that handlers need."""


@dataclasses.dataclass
class Account:
    gateway: Gateway
    currency: str = "EUR"


class Limits(msgspec.Struct):
    account: Account


async def given_to(app: App, **hints: Any) -> dict[str, Any]:
    """What a handler of the app with these parameters is given."""
    found: dict[str, Any] = {}

    class Handler:
        """A function whose signature is made of `hints`."""

        __name__ = "handler"
        __signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("order", *hints)]
        )
        __annotations__ = {"order": OrderPlaced, **hints}

        def __call__(self, order: OrderPlaced, *values: Any) -> None:
            found.update(zip(hints, values, strict=True))

    app.on(Handler())
    async with app:
        await (await app.publish(placed())).wait("handler")
    return found


def test_a_handler_is_given_what_a_factory_returns(url: str) -> None:
    app = App("shop", url=url)
    made: list[Gateway] = []

    @app.provide
    def gateway() -> Gateway:
        made.append(Gateway())
        return made[-1]

    found = asyncio.run(given_to(app, one=Gateway, two=Gateway))
    assert made == [found["one"]] == [found["two"]]


def test_a_factory_may_be_async_a_generator_or_an_async_generator(url: str) -> None:
    app = App("shop", url=url)

    @app.provide
    async def number() -> int:
        return 7

    @app.provide()
    def word() -> Iterator[str]:
        yield "seven"

    @app.provide
    async def rate() -> AsyncIterator[float]:
        yield 0.7

    assert asyncio.run(given_to(app, a=int, b=str, c=float)) == {"a": 7, "b": "seven", "c": 0.7}


def test_a_class_is_a_factory_of_itself_and_is_given_what_it_asks_for(url: str) -> None:
    app = App("shop", url=url)

    app.provide(Limits)
    app.provide(Account)
    app.provide(Gateway)
    limits = asyncio.run(given_to(app, limits=Limits))["limits"]
    assert limits.account.gateway.label == "real"
    assert limits.account.currency == "EUR"


def test_factories_take_what_other_factories_provide_in_any_order_of_registration(url: str) -> None:
    app = App("shop", url=url)

    @app.provide
    def text(number: int, limit: float = 0.5) -> str:
        return f"{number} up to {limit}"

    @app.provide
    def number() -> int:
        return 7

    assert asyncio.run(given_to(app, text=str)) == {"text": "7 up to 0.5"}


def test_a_parameter_with_a_default_needs_no_factory_and_takes_it_where_there_is_one(url: str) -> None:
    app = App("shop", url=url)
    gateway, seen = Gateway(), dict[str, Any]()

    @app.provide
    def provided() -> Gateway:
        return gateway

    @app.on
    async def charge(
        order: OrderPlaced, gateway: Gateway | None = None, cache: Cache | None = None, n: int = 3
    ) -> None:
        seen.update(gateway=gateway, cache=cache, n=n)

    async def run() -> None:
        async with app:
            await (await app.publish(placed())).wait(charge)

    asyncio.run(run())
    assert seen == {"gateway": gateway, "cache": None, "n": 3}


def test_annotated_types_tell_two_values_of_one_type_apart(url: str) -> None:
    app = App("shop", url=url)
    read, write = Annotated[str, "read"], Annotated[str, "write"]

    def reader() -> str:
        return "reader"

    def writer() -> str:
        return "writer"

    reader.__annotations__["return"], writer.__annotations__["return"] = read, write
    app.provide(reader)
    app.provide(writer)
    assert asyncio.run(given_to(app, a=read, b=write)) == {"a": "reader", "b": "writer"}


def test_a_service_brings_its_factories(url: str) -> None:
    app, billing = App("shop", url=url), Service("billing")

    @billing.provide
    def number() -> int:
        return 7

    app.include(billing)
    assert asyncio.run(given_to(app, number=int)) == {"number": 7}


def test_an_iterable_value_that_is_no_generator_is_left_alone(url: str) -> None:
    app = App("shop", url=url)

    class Feed:
        def __aiter__(self) -> Feed:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

    @app.provide
    def feed() -> Feed:
        return Feed()

    assert isinstance(asyncio.run(given_to(app, feed=Feed))["feed"], Feed)


def test_generators_end_in_reverse_order_when_the_consumers_have_stopped(url: str) -> None:
    app = App("shop", url=url)
    told: list[str] = []

    @app.provide
    async def number() -> AsyncIterator[int]:
        told.append("number begins")
        yield 7
        told.append("number ends")

    @app.provide
    def text(number: int) -> Iterator[str]:
        told.append("text begins")
        yield str(number)
        told.append("text ends")

    @app.on
    async def charge(order: OrderPlaced, text: str) -> None:
        await asyncio.sleep(0)
        told.append(f"handled with {text}")

    async def run() -> None:
        async with app:
            await (await app.publish(placed())).wait(charge)

    asyncio.run(run())
    assert told == ["number begins", "text begins", "handled with 7", "text ends", "number ends"]


def test_what_was_made_is_ended_when_a_later_factory_fails(url: str) -> None:
    app = App("shop", url=url)
    told: list[str] = []

    @app.provide
    def number() -> Iterator[int]:
        yield 7
        told.append("number ends")

    @app.provide
    def text(number: int) -> str:
        raise ConnectionError("no gateway there")

    async def run() -> None:
        async with app:
            told.append("open")

    with pytest.raises(ConnectionError, match="no gateway there") as caught:
        asyncio.run(run())
    assert told == ["number ends"]
    assert "raised by text" in "".join(caught.value.__notes__)


def test_a_failing_end_does_not_keep_the_others_from_ending(url: str) -> None:
    app = App("shop", url=url)
    told: list[str] = []

    @app.provide
    def number() -> Iterator[int]:
        yield 7
        told.append("number ends")

    @app.provide
    def text(number: int) -> Iterator[str]:
        yield "seven"
        raise ConnectionError("lost while closing")

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(ConnectionError, match="lost while closing"):
        asyncio.run(run())
    assert told == ["number ends"]
    asyncio.run(closed(app))


async def closed(app: App) -> None:
    """The application can be used again, so it was closed."""
    async with app.connected():
        await app.publish(placed())


def test_all_that_is_missing_is_told_at_once_with_names(url: str) -> None:
    app, billing = App("shop", url=url), Service("billing")

    @billing.on
    async def charge(order: OrderPlaced, gateway: Gateway, cache: Cache) -> None: ...

    @app.provide
    def number(text: str) -> int:
        return len(text)

    @app.lifecycle
    def warm(cache: Cache) -> Iterator[None]:
        yield

    app.include(billing)

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(WiringError) as caught:
        asyncio.run(run())
    lines = str(caught.value).splitlines()
    assert [line.partition(", which")[0] for line in lines] == [
        "billing.charge needs gateway: Gateway",
        "billing.charge needs cache: Cache",
        "the factory number needs text: str",
        "the lifecycle hook warm needs cache: Cache",
    ]


def test_what_is_missing_is_found_before_anything_is_opened(url: str, tmp_path: Any) -> None:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced, gateway: Gateway) -> None: ...

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(WiringError):
        asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_factories_in_a_circle_and_doubled_ones_are_told_with_names(url: str) -> None:
    app = App("shop", url=url)

    @app.provide
    def number(text: str) -> int:
        return len(text)

    @app.provide
    def text(rate: float) -> str:
        return str(rate)

    @app.provide
    def rate(number: int) -> float:
        return float(number)

    @app.provide
    def other_rate() -> float:
        return 0.5

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(WiringError) as caught:
        asyncio.run(run())
    doubled, circle = str(caught.value).splitlines()
    assert "float is provided twice, by rate and by other_rate" in doubled
    assert circle == "factories need each other in a circle: int → str → float → int"


def test_who_only_connects_needs_no_dependencies(url: str) -> None:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced, gateway: Gateway) -> None: ...

    asyncio.run(closed(app))


def no_return():  # type: ignore[no-untyped-def]
    return 7


def no_parameter(text) -> int:  # type: ignore[no-untyped-def]
    return len(text)


def endless() -> Iterator:  # type: ignore[type-arg]
    yield 7


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (no_return, "no_return: annotate what it returns"),
        (no_parameter, "no_parameter: annotate text"),
        (endless, "endless: annotate what it returns"),
        (Gateway(), "is neither"),
    ],
)
def test_a_factory_whose_types_cannot_be_told_is_refused(factory: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        App("shop").provide(factory)


def test_replacements_take_the_place_of_factories_by_type() -> None:
    from ensue.testing import given

    app = App("shop")
    labels: list[str] = []

    @app.provide
    def gateway() -> Gateway:
        return Gateway()

    @app.on
    async def charge(order: OrderPlaced, gateway: Gateway) -> None:
        labels.append(gateway.label)

    def toy() -> Gateway:
        return Gateway("toy")

    factories: list[Callable[..., object]] = [toy]
    given(app, replace=factories).when(placed()).then_nothing()
    assert labels == ["toy"]
