"""The same shop taken apart: five applications, each with a log of its own, joined by four channels.

    orders ──orders──► payment ──payments──► shipping ──shipments──► notification
       └────goods────► inventory       └─────────payments─────────────────┘

The services are those of the shop in one process, line for line; only who hears what of whom is said here. Where the channels
are comes from the environment: `ENSUE_CHANNELS=kafka://…`, `amqp://…`, `nats://…`, `redis://…`, `mqtt://…`.

    ENSUE_URL=sqlite:///payment.db ENSUE_CHANNELS=nats://127.0.0.1 ensue run ensue.examples.shop.services:payment
"""

from __future__ import annotations

from collections.abc import Mapping

from ensue import App, Channel
from ensue.examples.shop import inventory as inventory_module
from ensue.examples.shop import notification as notification_module
from ensue.examples.shop import orders as orders_module
from ensue.examples.shop import payment as payment_module
from ensue.examples.shop import shipping as shipping_module
from ensue.examples.shop.events import (
    GoodsOrdered,
    GoodsReturned,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentProcessed,
    PaymentRefunded,
)
from ensue.examples.shop.gateway import SimulatedGateway
from ensue.examples.shop.payment import Gateway

__all__ = ["LINKS", "SERVICES", "inventory", "notification", "orders", "payment", "service", "shipping"]

_orders = Channel("orders", OrderPlaced, OrderCancelled)
_goods = Channel("goods", GoodsOrdered, GoodsReturned)
_payments = Channel("payments", PaymentProcessed, PaymentRefunded)
_payments_to_ship = Channel("payments", PaymentProcessed, unknown="skip")
_payments_back = Channel("payments", PaymentRefunded, unknown="skip")
_shipments = Channel("shipments", OrderShipped)

SERVICES = ("orders", "inventory", "payment", "shipping", "notification")

LINKS: Mapping[tuple[str, str], tuple[type, ...]] = {
    ("orders", "inventory"): (GoodsOrdered, GoodsReturned),
    ("orders", "payment"): (OrderPlaced, OrderCancelled),
    ("payment", "shipping"): (PaymentProcessed,),
    ("payment", "notification"): (PaymentRefunded,),
    ("shipping", "notification"): (OrderShipped,),
}
"""Who sends what to whom: when all is done, each has as many of it."""


def service(name: str, url: str | None = None) -> App:
    """One of the five applications, on the log at `url`."""
    if name == "orders":
        app = App(name, url=url, outbox=[_orders, _goods])
        app.include(orders_module.orders)
    elif name == "inventory":
        app = App(name, url=url, inbox=[_goods])
        app.include(inventory_module.inventory)
    elif name == "payment":
        app = App(name, url=url, inbox=[_orders], outbox=[_payments])
        app.include(payment_module.payment)
        app.provide(_gateway)
    elif name == "shipping":
        app = App(name, url=url, inbox=[_payments_to_ship], outbox=[_shipments])
        app.include(shipping_module.shipping)
    else:
        app = App(name, url=url, inbox=[_payments_back, _shipments])
        app.include(notification_module.notification)
    return app


def _gateway() -> Gateway:
    return SimulatedGateway(0)


orders, inventory, payment, shipping, notification = map(service, SERVICES)
