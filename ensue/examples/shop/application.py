"""The shop put together: five services, none of which knows another."""

from __future__ import annotations

from ensue import App
from ensue.examples.shop.gateway import SimulatedGateway
from ensue.examples.shop.inventory import inventory
from ensue.examples.shop.notification import notification
from ensue.examples.shop.orders import orders
from ensue.examples.shop.payment import Gateway, payment
from ensue.examples.shop.shipping import shipping
from ensue.observe.signals import Observer
from ensue.world import World

__all__ = ["shop"]


def shop(url: str | None = None, *, seed: int = 0, observe: Observer | None = None, world: World | None = None) -> App:
    """The shop on the log at `url`, with a bank whose failures follow from the seed."""
    app = App("shop", url=url, observe=observe, world=world)
    app.include(orders, inventory, payment, shipping, notification)

    @app.provide
    def gateway() -> Gateway:
        return SimulatedGateway(seed)

    return app
