"""FastStream on the same brokers, with the guarantee that ours has: a message is acknowledged after its handler.

In its quickest setting: payloads are decoded by `msgspec` (its own decoding is slower), no middleware, no schema; subscribers
take as many at once as they may. It keeps neither order by key beyond the broker's, nor does it know repetitions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bench.orders import OrderPlaced

__all__ = ["consume"]

_decode = msgspec.json.Decoder(OrderPlaced).decode
Handler = Callable[[OrderPlaced], Awaitable[None]]


async def decode(message: Any) -> OrderPlaced:
    """In place of FastStream's own."""
    return _decode(message.body)


def _subscribed(name: str, url: str, address: str, group: str) -> tuple[Any, Any]:
    """The broker, and its subscriber."""
    from faststream import AckPolicy

    plain = url.partition("?")[0]
    after: Any = {"ack_policy": AckPolicy.NACK_ON_ERROR, "decoder": decode, "no_reply": True}
    quiet: Any = {"logger": None, "apply_types": False}
    if name == "kafka":
        from faststream.confluent import KafkaBroker

        broker: Any = KafkaBroker(plain.removeprefix("kafka://"), **quiet)
        return broker, broker.subscriber(address, group_id=group, auto_offset_reset="earliest", **after)
    if name == "rabbitmq":
        from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue

        broker = RabbitBroker(plain, default_channel=Channel(prefetch_count=1000), **quiet)
        queue = RabbitQueue(f"{address}.{group}", queue_type=QueueType.QUORUM, durable=True, routing_key="#")
        exchange = RabbitExchange(address, type=ExchangeType.TOPIC, durable=True)
        return broker, broker.subscriber(queue, exchange, **after)
    if name == "nats":
        from faststream.nats import JStream, NatsBroker, PullSub

        broker = NatsBroker(plain, **quiet)
        pull = PullSub(batch_size=500, timeout=0.5)
        subscriber = broker.subscriber(
            address, durable=group, stream=JStream(address, declare=False), pull_sub=pull, **after
        )
        return broker, subscriber
    if name == "redis":
        from faststream.redis import RedisBroker, StreamSub

        broker = RedisBroker(plain, **quiet)
        stream = StreamSub(address, group=group, consumer="one", max_records=500, last_id=">")
        return broker, broker.subscriber(stream=stream, **after)
    from faststream.mqtt import MQTTBroker

    host, _, port = plain.removeprefix("mqtt://").partition(":")
    broker = MQTTBroker(host, int(port), client_id=group, **quiet)
    return broker, broker.subscriber(address, qos=1, **after)


async def consume(name: str, url: str, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
    """Until `done`."""
    logging.getLogger("faststream").setLevel(logging.CRITICAL)
    if name == "redis":  # its own group would begin with what comes
        import redis.asyncio

        client: Any = redis.asyncio.from_url(url.partition("?")[0])
        await client.xgroup_create(address, group, "0", mkstream=True)
        await client.aclose()
    broker, subscriber = _subscribed(name, url, address, group)

    @subscriber  # type: ignore[untyped-decorator]
    async def handle(event: Any) -> None:
        await handler(event)

    await broker.start()
    try:
        await done.wait()
    finally:
        await broker.stop()
