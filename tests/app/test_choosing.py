"""A process that runs some of the consumers only; the others stay those of the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from ensue import App, Service
from ensue.errors import HandlerFailed, WiringError
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed, until


class Bank:
    pass


class Courier:
    pass


def shop(url: str, told: list[str] | None = None) -> App:
    """Two consumers of two services, each with a value of its own, and a hook of a third."""
    told = told if told is not None else []
    app, billing, shipping = App("shop", url=url), Service("billing"), Service("shipping")

    @billing.provide
    def bank() -> Bank:
        told.append("bank")
        return Bank()

    @shipping.provide
    def courier() -> Iterator[Courier]:
        told.append("courier")
        yield Courier()
        told.append("courier ends")

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        told.append("announce")
        yield

    @billing.on
    async def charge(order: OrderPlaced, bank: Bank) -> PaymentProcessed:
        told.append("charge")
        return PaymentProcessed(order_id=order.order_id)

    @shipping.on
    async def ship(payment: PaymentProcessed, courier: Courier) -> OrderShipped:
        told.append("ship")
        return OrderShipped(order_id=payment.order_id)

    app.include(billing, shipping)
    return app


@pytest.mark.parametrize(
    ("only", "without", "runs"),
    [
        ((), (), {"billing.charge", "shipping.ship"}),
        (("billing.charge",), (), {"billing.charge"}),
        (("billing*", "ship*"), (), {"billing.charge", "shipping.ship"}),
        ((), ("*.ship",), {"billing.charge"}),
        (("*",), ("billing.*",), {"shipping.ship"}),
    ],
)
def test_those_that_are_named_run_but_for_those_that_are_excepted(
    file_url: str, only: tuple[str, ...], without: tuple[str, ...], runs: set[str]
) -> None:
    async def run() -> set[str]:
        app = shop(file_url)
        async with app.running(only=only, without=without):
            store = app.open_store()
            standings = [(consumer.name, await store.standing(consumer.id)) for consumer in await store.consumers()]
            return {name for name, standing in standings if any(row.owner for row in standing.progress)}

    assert asyncio.run(run()) == runs


@pytest.mark.parametrize(
    ("only", "without", "said"),
    [
        (("billing.chrage",), (), "only names 'billing.chrage', and no consumer is called so"),
        ((), ("bill",), "except names 'bill', and no consumer is called so"),
        (("billing*",), ("*charge",), "none of its consumers is left to run here"),
    ],
)
def test_a_name_that_fits_nothing_and_nothing_left_are_errors_that_list_the_consumers(
    url: str, only: tuple[str, ...], without: tuple[str, ...], said: str
) -> None:
    async def run() -> None:
        async with shop(url).running(only=only, without=without):
            raise AssertionError

    with pytest.raises(WiringError, match=f"shop: {said}.*; there are: billing.charge, shipping.ship") as raised:
        asyncio.run(run())
    assert "\n" not in str(raised.value)


def test_a_text_in_place_of_a_list_of_names_is_an_error(url: str) -> None:
    async def run() -> None:
        async with shop(url).running(only="billing.charge"):
            raise AssertionError

    with pytest.raises(WiringError, match="give a list of names"):
        asyncio.run(run())


def test_only_what_the_chosen_ones_and_the_hooks_need_is_made(url: str) -> None:
    told: list[str] = []

    async def run() -> None:
        async with shop(url, told).running(only=["billing*"]):
            pass

    asyncio.run(run())
    assert told == ["bank", "announce"]


def test_all_of_them_by_name_is_the_same_as_the_application_itself(url: str) -> None:
    told: list[str] = []

    async def run() -> None:
        async with shop(url, told).running(only=["*"]):
            pass

    asyncio.run(run())
    assert told == ["bank", "courier", "announce", "courier ends"]


def test_one_that_runs_elsewhere_keeps_its_place_and_is_not_taken_for_gone(file_url: str) -> None:
    """With history in the log a consumer that was gone from the code, or new in it, would refuse the start."""

    async def run() -> list[str]:
        told: list[str] = []
        app = shop(file_url, told)
        async with app.running(only=["billing*"]):
            receipt = await app.publish(placed())
            await receipt.wait("billing.charge")
        async with app.connected():
            await app.publish(placed(2))
        async with app.running(without=["billing*"]):
            await until(lambda: "ship" in told)
        return told

    assert [word for word in asyncio.run(run()) if word in ("charge", "ship")] == ["charge", "ship"]


def test_whoever_waits_for_one_that_nobody_runs_is_told_so(file_url: str) -> None:
    async def run() -> None:
        app = shop(file_url)
        async with app.running(only=["billing*"]):
            receipt = await app.publish(placed())
            await receipt.first(OrderShipped, timeout=timedelta(seconds=20))

    with pytest.raises(HandlerFailed, match=r"shipping\.ship"):
        asyncio.run(run())


def test_two_with_complementary_choices_do_all_of_it(file_url: str) -> None:
    async def run() -> OrderShipped:
        one, two = shop(file_url), shop(file_url)
        async with one.running(only=["billing*"]), two.running(without=["billing*"]):
            receipt = await one.publish(placed())
            return await receipt.first(OrderShipped)

    assert asyncio.run(run()) == OrderShipped(order_id="o1")


def test_an_error_of_the_block_ends_it_and_comes_out(url: str) -> None:
    app = shop(url)

    async def run() -> None:
        async with app.running(only=["billing*"]):
            raise LookupError("of the block")

    with pytest.raises(LookupError, match="of the block"):
        asyncio.run(run())
    assert app._engine is None
