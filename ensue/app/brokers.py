"""From a channel to its place, and from a place to an adapter: the only module that names the adapters of brokers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ensue.channels import Channel
from ensue.channels.urls import Place, place
from ensue.errors import WiringError

if TYPE_CHECKING:
    from ensue.channels.base import Broker

__all__ = ["SCHEMES", "broker_class", "open_broker", "place_of"]

SCHEMES: Mapping[str, str] = {
    "memory": "memory",
    "kafka": "kafka",
    "kafkas": "kafka",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "nats": "nats",
    "tls": "nats",
    "redis": "redis",
    "rediss": "redis",
    "mqtt": "mqtt",
    "mqtts": "mqtt",
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
"""Scheme → the adapter's module, which is the name of its extra, too; those of logs are all in `ensue.app.log_brokers`."""


def place_of(channel: Channel, environment: Mapping[str, str]) -> Place:
    """Where a channel is: what it says itself, else the environment. Errors: `WiringError`."""
    url = channel.url or environment.get(channel.variable) or environment.get("ENSUE_CHANNELS")
    if not url:
        raise WiringError(
            f"nothing says where the channel {channel.name!r} is: set {channel.variable} (or ENSUE_CHANNELS, for all of them) to a "
            f"URL such as kafka://127.0.0.1:9092, or write Channel({channel.name!r}, …, url=…)"
        )
    return place(url)


def open_broker(where: Place) -> Broker:
    """The adapter for a place, not yet opened. Errors: `WiringError` for a scheme that no adapter has, and for one whose client
    library is not installed."""
    return broker_class(where)(where)


def broker_class(where: Place) -> type[Broker]:
    """Errors: as `open_broker`."""
    module = SCHEMES.get(where.scheme)
    try:
        if module == "memory":
            from ensue.channels.memory import MemoryBroker

            return MemoryBroker
        if module == "kafka":
            from ensue.channels.kafka import KafkaBroker

            return KafkaBroker
        if module == "rabbitmq":
            from ensue.channels.rabbitmq import RabbitBroker

            return RabbitBroker
        if module == "nats":
            from ensue.channels.nats import NatsBroker

            return NatsBroker
        if module == "redis":
            from ensue.channels.redis import RedisBroker

            return RedisBroker
        if module == "mqtt":
            from ensue.channels.mqtt import MqttBroker

            return MqttBroker
        if module == "sqlite":
            from ensue.app.log_brokers import SqliteBroker

            return SqliteBroker
        if module == "postgresql":
            from ensue.app.log_brokers import PostgresqlBroker

            return PostgresqlBroker
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ensue"):
            raise
        raise WiringError(
            f"the URL {where.shown} needs a client library that is not installed ({error.name}): pip install 'ensue[{module}]'"
        ) from None
    known = ", ".join(f"{scheme}:" for scheme in SCHEMES)
    raise WiringError(f"no broker for the URL {where.shown} of a channel: this version knows {known}")
