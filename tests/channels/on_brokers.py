"""What the tests of whole applications on real brokers stand on: one table of what differs, and what an application saw."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import aiormq
import paho.mqtt.publish
from confluent_kafka import Producer
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from ensue import App, Channel, Event, Retry
from ensue.app.brokers import open_broker
from ensue.channels.base import Broker
from ensue.channels.urls import place
from ensue.observe.signals import AttemptFailed, ChannelConnected, ChannelLost, Signal
from ensue.world import RealWorld
from tests.app.channels import Paid, Placed
from tests.servers.kafka import KafkaServer
from tests.servers.mosquitto import MosquittoServer
from tests.servers.nats import NatsServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

__all__ = [
    "BROKERS",
    "LARGEST",
    "Large",
    "SITES",
    "Seen",
    "Server",
    "Site",
    "at_another_port",
    "by_key",
    "front_and_back",
    "opened",
    "until",
]

LARGEST = 200_000
"""What the servers of these tests take; Redis has no limit below 1 MiB."""
LIMIT_SECONDS = 20
_world = RealWorld()


class Large(Event, key="order"):
    order: str
    text: str


class Server(Protocol):
    """A broker that the test may stop and start."""

    @property
    def port(self) -> int: ...
    def url(self, *, user: str = ..., password: str = ..., **parameters: str) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def running(self) -> bool: ...
    def close(self) -> None: ...


async def _kafka_bytes(server: Server, address: str, body: bytes) -> None:
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    producer.produce(address, body)
    assert await asyncio.to_thread(producer.flush, 10) == 0


async def _rabbitmq_bytes(server: Server, address: str, body: bytes) -> None:
    connection = await aiormq.connect(server.url())
    channel = await connection.channel()
    await channel.basic_publish(body, exchange=address, routing_key="anything")
    await connection.close()


async def _nats_bytes(server: Server, address: str, body: bytes) -> None:
    client = NatsClient()
    await client.connect(server.url())
    await client.jetstream().publish(address, body)
    await client.close()


async def _redis_bytes(server: Server, address: str, body: bytes) -> None:
    async with Redis(port=server.port) as client:
        await client.xadd(address, {"data": body})


async def _mosquitto_bytes(server: Server, address: str, body: bytes) -> None:
    await asyncio.to_thread(
        paho.mqtt.publish.single, address, body, qos=1, hostname="127.0.0.1", port=server.port
    )  # fmt: skip


class Site(NamedTuple):
    """What differs between brokers."""

    limited: Callable[[], Any]
    """A server that takes no message above `LARGEST`."""
    guarded: Callable[[], Any]
    """A server where the user `shop` has the password `right`."""
    publish: Callable[[Server, str, bytes], Any]
    """Another program's message: nothing but these bytes."""
    oversized: int = LARGEST + 1000
    parameters: Mapping[str, str] = {}
    """What the URL says of a server that is `limited`."""


SITES: Mapping[str, Site] = {
    "kafka": Site(
        limited=lambda: KafkaServer(settings={"message.max.bytes": LARGEST}),
        guarded=lambda: KafkaServer(users={"shop": "right"}),
        publish=_kafka_bytes,
        parameters={"partitions": "2", "look_seconds": "1", "session_seconds": "2"},
    ),
    "rabbitmq": Site(
        limited=lambda: RabbitServer(settings={"max_message_size": LARGEST}),
        guarded=RabbitServer,
        publish=_rabbitmq_bytes,
        # A server that is stopped in good order loses no queue, however new it is.
        parameters={"settle_seconds": "0.01", "max_message_bytes": str(LARGEST)},
    ),
    "nats": Site(
        limited=lambda: NatsServer(settings=(f"max_payload: {LARGEST}",)),
        guarded=lambda: NatsServer(users={"shop": "right"}),
        publish=_nats_bytes,
    ),
    "redis": Site(
        limited=lambda: RedisServer(durable=False, settings={"proto-max-bulk-len": "1mb"}),
        guarded=lambda: RedisServer(durable=False, users={"shop": ">right ~* &* +@all"}),
        publish=_redis_bytes,
        oversized=(1 << 20)
        - 100,  # the largest event there may be; with its attributes in the body it is more than that
    ),
    "mosquitto": Site(
        limited=lambda: MosquittoServer(settings={"max_packet_size": LARGEST}),
        guarded=lambda: MosquittoServer(users={"shop": "right"}),
        publish=_mosquitto_bytes,
    ),
}
BROKERS = tuple(SITES)


class Seen:
    """What an application told, for `observe=`."""

    def __init__(self) -> None:
        self.signals: list[Signal] = []

    def __call__(self, signal: Signal) -> None:
        self.signals.append(signal)

    def lost(self, consumer: str) -> list[ChannelLost]:
        return [one for one in self.signals if isinstance(one, ChannelLost) and one.consumer == consumer]

    def connected(self, consumer: str) -> int:
        return sum(isinstance(one, ChannelConnected) and one.consumer == consumer for one in self.signals)

    def failed(self) -> list[AttemptFailed]:
        return [one for one in self.signals if isinstance(one, AttemptFailed)]


def at_another_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()


@asynccontextmanager
async def opened(channel: Channel) -> AsyncGenerator[tuple[Broker, str]]:
    """The broker behind a channel, and the channel's address there: an administrator's hands."""
    where = place(cast("str", channel.url))
    broker = open_broker(where)
    await broker.open(_world)
    try:
        yield broker, where.address(channel.name)
    finally:
        await broker.close()


def front_and_back(
    folder: Path, orders: Channel, *, retry: Retry = Retry.forever
) -> tuple[App, App, list[Placed], tuple[Seen, Seen]]:
    """One that sends, another that receives; and what it handled."""
    seen = Seen(), Seen()
    front = App("front", url=f"sqlite:///{folder}/front.db", outbox=[orders], observe=seen[0])
    back = App("back", url=f"sqlite:///{folder}/back.db", inbox=[orders], observe=seen[1])
    handled: list[Placed] = []

    @back.on(retry=retry)
    async def handle(placed: Placed) -> None:
        handled.append(placed)

    return front, back, handled, seen


def by_key(events: Sequence[Event]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for event in events:
        assert isinstance(event, (Placed, Paid))
        found[event.order].append(event.number)
    return found


async def until(holds: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> None:
    """Errors: `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it waits for is a broker
            await asyncio.sleep(0.01)
