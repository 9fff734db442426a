"""Each service of the shop by itself, and all of them together: given, when, then."""

from __future__ import annotations

import ast
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import ensue.examples.shop as package
from ensue import App, Event, Service
from ensue.examples.shop import shop
from ensue.examples.shop.events import (
    CustomerNotified,
    GoodsOrdered,
    GoodsReturned,
    Line,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentProcessed,
    PaymentRefunded,
    StockUpdated,
)
from ensue.examples.shop.inventory import INITIAL_STOCK, inventory
from ensue.examples.shop.notification import notification
from ensue.examples.shop.orders import orders
from ensue.examples.shop.payment import Gateway, payment
from ensue.examples.shop.shipping import shipping
from ensue.testing import given

SERVICES = ("orders", "inventory", "payment", "shipping", "notification")
LINES = (Line("20001", 2, Decimal("1.25")), Line("20002A", 1, Decimal("0.001")), Line("20001", 3, Decimal("1.20")))


def alone(service: Service, gateway: Callable[[], Gateway] | None = None) -> App:
    app = App("alone")
    app.include(service)
    if gateway is not None:
        app.provide(gateway)
    return app


def placed(order_id: str = "536365", lines: tuple[Line, ...] = LINES) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id, customer_id="17850", country="France", ordered_at="", lines=lines, total=Decimal("6.101")
    )


def cancelled(order_id: str = "C536379", lines: tuple[Line, ...] = LINES) -> OrderCancelled:
    return OrderCancelled(
        order_id=order_id, customer_id=None, country="France", ordered_at="", lines=lines, total=Decimal("6.101")
    )


class Bank:
    """Loses the first `failures` calls, and remembers the key of each call."""

    def __init__(self, failures: int = 0, refuses: bool = False) -> None:
        self.keys: list[str] = []
        self.failures = failures
        self.refuses = refuses

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        self.keys.append(idempotency_key)
        if self.refuses:
            raise PermissionError("the card is blocked")
        if len(self.keys) <= self.failures:
            raise ConnectionError("no answer")
        return f"paid {amount}"

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        return f"refunded {amount}"


def bank(known: Bank) -> Callable[[], Gateway]:
    def gateway() -> Gateway:
        return known

    return gateway


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_knows_nothing_of_the_shop_but_its_events(service: str) -> None:
    source = (Path(package.__file__).parent / f"{service}.py").read_text()
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and "shop" in name} == {"ensue.examples.shop.events"}


def test_an_order_is_split_into_one_event_for_each_product() -> None:
    given(alone(orders)).when(placed()).then(
        GoodsOrdered(sku="20001", order_id="536365", quantity=5),
        GoodsOrdered(sku="20002A", order_id="536365", quantity=1),
    )


def test_a_cancellation_is_split_into_one_event_for_each_product() -> None:
    given(alone(orders)).when(cancelled(lines=LINES[:1])).then(
        GoodsReturned(sku="20001", order_id="C536379", quantity=2)
    )


def test_goods_leave_a_shelf_that_begins_full() -> None:
    given(alone(inventory)).when(GoodsOrdered(sku="20001", order_id="1", quantity=3)).then(
        StockUpdated(sku="20001", order_id="1", change=-3, on_hand=INITIAL_STOCK - 3)
    )


def test_goods_come_back_to_their_own_shelf_only() -> None:
    before = (GoodsOrdered(sku="20001", order_id="1", quantity=3), GoodsOrdered(sku="20002", order_id="1", quantity=7))
    given(alone(inventory), *before).when(GoodsReturned(sku="20001", order_id="C2", quantity=1)).then(
        StockUpdated(sku="20001", order_id="C2", change=1, on_hand=INITIAL_STOCK - 2)
    )


def test_more_can_be_ordered_than_is_there() -> None:
    outcome = given(alone(inventory)).when(GoodsOrdered(sku="20001", order_id="1", quantity=INITIAL_STOCK + 5))
    outcome.then(StockUpdated(sku="20001", order_id="1", change=-INITIAL_STOCK - 5, on_hand=-5))


def test_an_order_is_charged_in_full() -> None:
    given(alone(payment, bank(Bank()))).when(placed()).then(
        PaymentProcessed(order_id="536365", amount=Decimal("6.101"), receipt="paid 6.101")
    )


def test_a_cancellation_is_paid_back() -> None:
    given(alone(payment, bank(Bank()))).when(cancelled()).then(
        PaymentRefunded(order_id="C536379", amount=Decimal("6.101"), receipt="refunded 6.101")
    )


def test_a_bank_that_does_not_answer_is_asked_again_with_the_same_key() -> None:
    known = Bank(failures=3)
    given(alone(payment, bank(known))).when(placed())
    assert len(known.keys) == 4
    assert len(set(known.keys)) == 1


def test_a_payment_that_is_refused_is_a_dead_letter_at_once() -> None:
    known = Bank(refuses=True)
    given(alone(payment, bank(known))).when(placed()).then_dead_letter(PermissionError)
    assert len(known.keys) == 1


def test_a_paid_order_is_shipped() -> None:
    given(alone(shipping)).when(PaymentProcessed(order_id="1", amount=Decimal(1), receipt="r")).then(
        OrderShipped(order_id="1")
    )


@pytest.mark.parametrize(
    ("news", "message"),
    [
        (OrderShipped(order_id="1"), "Your order 1 is on its way."),
        (PaymentRefunded(order_id="C2", amount=Decimal("3.50"), receipt="r"), "We have paid back 3.50 for C2."),
    ],
)
def test_a_customer_is_told_how_it_ended(news: Event, message: str) -> None:
    outcome = given(alone(notification)).when(news)
    assert [event.message for event in outcome.caused if isinstance(event, CustomerNotified)] == [message]


def test_an_order_is_taken_from_stock_paid_shipped_and_told() -> None:
    caused = given(shop()).when(placed()).caused
    kinds = sorted(type(event).__name__ for event in caused)
    assert kinds == sorted(
        [*["GoodsOrdered", "StockUpdated"] * 2, "PaymentProcessed", "OrderShipped", "CustomerNotified"]
    )


def test_a_cancellation_restores_the_stock_of_its_order() -> None:
    caused = given(shop(), placed()).when(cancelled()).caused
    on_hand = {event.sku: event.on_hand for event in caused if isinstance(event, StockUpdated)}
    assert on_hand == {"20001": INITIAL_STOCK, "20002A": INITIAL_STOCK}
