"""What is registered where, under which name, and what is refused when it is declared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from ensue import App, Context, DeadLetter, Event, Retry, Service
from ensue.errors import DefinitionError, WiringError
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed


def test_a_handler_on_the_app_has_its_functions_name_and_one_of_a_service_both_names() -> None:
    app, billing = App("shop"), Service("billing")

    @app.on
    def ship(payment: PaymentProcessed) -> None: ...

    @billing.on
    def charge(order: OrderPlaced) -> None: ...

    app.include(billing)
    assert [handler.name for handler in app.handlers] == ["ship", "billing.charge"]


def test_the_decorator_gives_the_function_back() -> None:
    app = App("shop")

    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    assert app.on(ship) is ship
    assert app.on(name="again")(ship) is ship


def test_an_option_names_the_handler() -> None:
    app = App("shop")

    @app.on(name="formerly_charge")
    def charge(order: OrderPlaced) -> None: ...

    assert app.handlers[0].name == "formerly_charge"


def test_options_reach_the_handler() -> None:
    app = App("shop")

    @app.on(retry=Retry(attempts=2), timeout=timedelta(seconds=3), concurrency=4, key="customer_id", start="now")
    async def charge(order: OrderPlaced) -> None: ...

    handler = app.handlers[0]
    assert handler.retry == Retry(attempts=2)
    assert handler.timeout == timedelta(seconds=3)
    assert (handler.concurrency, handler.key, handler.start) == (4, "customer_id", "now")


def test_services_nest_and_keep_their_own_name() -> None:
    app, outer, inner = App("shop"), Service("outer"), Service("inner")

    @inner.on
    def charge(order: OrderPlaced) -> None: ...

    outer.include(inner)
    app.include(outer)
    assert [handler.name for handler in app.handlers] == ["inner.charge"]


def test_a_service_that_comes_in_by_two_ways_is_in_the_app_once() -> None:
    app, left, right, shared = App("shop"), Service("left"), Service("right"), Service("shared")

    @shared.on
    def charge(order: OrderPlaced) -> None: ...

    left.include(shared)
    right.include(shared)
    app.include(left, right)
    app.include(shared)
    assert [handler.name for handler in app.handlers] == ["shared.charge"]


def test_a_service_may_be_part_of_several_apps(url: str) -> None:
    billing = Service("billing")

    @billing.on
    def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    async def run(app: App) -> None:
        app.include(billing)
        async with app:
            await (await app.publish(placed())).first(PaymentProcessed)

    asyncio.run(run(App("one", url=url.replace("app.db", "one.db"))))
    asyncio.run(run(App("two", url=url.replace("app.db", "two.db"))))


def test_a_handler_without_a_retry_policy_has_that_of_the_nearest_service_around_it() -> None:
    app, outer, inner = (
        App("shop", retry=Retry(attempts=2)),
        Service("outer", retry=Retry(attempts=3)),
        Service("inner"),
    )

    @app.on
    def first(order: OrderPlaced) -> None: ...

    @inner.on
    def second(order: OrderPlaced) -> None: ...

    @inner.on(retry=Retry(attempts=4))
    def third(order: OrderPlaced) -> None: ...

    outer.include(inner)
    app.include(outer)
    policies = {handler.name: handler.retry for handler in app.handlers}
    assert policies == {
        "first": Retry(attempts=2),
        "inner.second": Retry(attempts=3),
        "inner.third": Retry(attempts=4),
    }


def test_a_policy_by_exception_on_the_app_holds_in_its_services(url: str) -> None:
    app, billing = App("shop", url=url, retry={ValueError: Retry.never}), Service("billing")
    attempts: list[int] = []

    @billing.on
    async def charge(order: OrderPlaced, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no")

    app.include(billing)

    async def run() -> list[DeadLetter]:
        async with app:
            receipt = await app.publish(placed())
            with pytest.raises(Exception, match="parked"):
                await receipt.wait(charge)
            return [letter async for letter in app.dead_letters.list()]

    assert [letter.attempts for letter in asyncio.run(run())] == [1]
    assert attempts == [1]


def test_a_handler_of_a_base_handles_its_subclasses(url: str) -> None:
    app = App("shop", url=url)
    seen: list[str] = []

    class Opened(Event):
        account: str

    class OpenedOnline(Opened):
        address: str

    @app.on
    async def count(event: Opened) -> None:
        seen.append(type(event).__name__)

    async def run() -> None:
        async with app:
            await (await app.publish(OpenedOnline(account="a", address="b"))).wait(count)

    asyncio.run(run())
    assert seen == ["OpenedOnline"]


def test_two_handlers_of_one_name_are_refused_when_the_second_is_declared() -> None:
    app = App("shop")

    @app.on
    def charge(order: OrderPlaced) -> None: ...

    with pytest.raises(DefinitionError, match=r"two handlers are called 'charge'.*name="):
        app.on(charge)


def test_two_services_of_one_name_are_refused_when_their_handlers_meet() -> None:
    app, one, two = App("shop"), Service("billing"), Service("billing")

    def charge(order: OrderPlaced) -> None: ...

    one.on(charge)
    two.on(charge)
    app.include(one, two)
    with pytest.raises(DefinitionError, match=r"two handlers are called 'billing\.charge'"):
        app.handlers


def test_a_service_cannot_include_itself_by_any_way() -> None:
    one, two = Service("one"), Service("two")
    one.include(two)
    with pytest.raises(DefinitionError, match="'two' would include itself by way of 'one'"):
        two.include(one)
    with pytest.raises(DefinitionError, match="'one' would include itself"):
        one.include(one)


@pytest.mark.parametrize("name", ["", "my shop", "shop.eu", "shop/1", "1shop"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="is not a name for a service"):
        App(name)


def unannotated(order) -> None: ...  # type: ignore[no-untyped-def]


def of_no_event(order: int) -> None: ...


def of_nothing() -> None: ...


def of_many(order: OrderPlaced, *others: OrderPlaced) -> None: ...


def of_unknown(order: OrderPlaced, gateway) -> None: ...  # type: ignore[no-untyped-def]


async def streaming(order: OrderPlaced) -> Any:
    yield PaymentProcessed(order_id=order.order_id)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (unannotated, "annotate 'order' with the event it reacts to"),
        (of_no_event, "annotated int, which is not an Event"),
        (of_nothing, r"takes the event it reacts to: def of_nothing\(event: OrderPlaced\)"),
        (of_many, r"cannot take \*others"),
        (of_unknown, "annotate 'gateway'"),
        (streaming, "return a list of events"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_with_what_to_write(function: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=f"^{function.__name__}: .*{says}"):
        App("shop").on(function)


def test_a_decorator_that_was_given_an_instance_or_a_class_says_so() -> None:
    app: Any = App("shop")
    with pytest.raises(DefinitionError, match="decorates a function"):
        app.on(OrderPlaced)
    with pytest.raises(DefinitionError, match="decorates a function"):
        app.on(placed())


def test_an_app_is_not_opened_twice_at_once(url: str) -> None:
    app = App("shop", url=url)

    async def run() -> None:
        async with app:
            with pytest.raises(DefinitionError, match="the application shop is open already"):
                await app.__aenter__()

    asyncio.run(run())


@pytest.mark.parametrize("service", ["app", "included"])
def test_what_is_declared_while_the_app_is_open_is_refused_for_it_would_be_left_out(service: str, url: str) -> None:
    app, included = App("shop", url=url), Service("included")
    app.include(included)
    late = app if service == "app" else included

    def charge(order: OrderPlaced) -> None: ...

    def number() -> int:
        return 7

    def warm() -> Iterator[None]:
        yield

    declarations: dict[str, Callable[[], object]] = {
        "the handler charge": lambda: late.on(charge),
        "the factory number": lambda: late.provide(number),
        "the lifecycle hook warm": lambda: late.lifecycle(warm),
        "the service other": lambda: late.include(Service("other")),
    }

    async def run() -> None:
        async with app:
            for what, declare in declarations.items():
                with pytest.raises(DefinitionError, match=f"{what} is declared while the application is open"):
                    declare()

    asyncio.run(run())
    for declare in declarations.values():
        declare()
    assert len(app.handlers) == 1


def test_an_app_may_be_opened_again(file_url: str) -> None:
    app = App("shop", url=file_url)
    seen: list[str] = []

    @app.on
    async def charge(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    async def run(number: int) -> None:
        async with app:
            await (await app.publish(placed(number))).wait(charge)

    asyncio.run(run(1))
    asyncio.run(run(2))
    assert seen == ["o1", "o2"]


def test_a_new_handler_on_a_log_with_history_must_say_where_it_begins(file_url: str) -> None:
    first, second = App("first", url=file_url), App("second", url=file_url)

    @second.on
    def charge(order: OrderPlaced) -> None: ...

    async def run() -> None:
        async with first.connected():
            await first.publish(placed())
        with pytest.raises(WiringError, match="start="):
            async with second:
                pass

    asyncio.run(run())
