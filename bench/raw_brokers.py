"""Each broker through the client that its own field uses, in the way in which that client is quickest and keeps what we keep: what
is published is confirmed, what is received is acknowledged after the handler, in batches where the client can.

The messages are CloudEvents as ours are; the payload is encoded and decoded by `msgspec`, into the same class."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from bench.orders import OrderPlaced

__all__ = ["RAW", "Raw", "RawKafka"]

BATCH = 500
encode = msgspec.json.Encoder(decimal_format="string").encode
decode = msgspec.json.Decoder(OrderPlaced).decode
Handler = Callable[[OrderPlaced], Awaitable[None]]


def attributes(event: OrderPlaced) -> dict[str, str]:
    """Of a CloudEvent, without the prefix of a binding."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "urn:bench",
        "type": "OrderPlaced",
        "time": datetime.now(UTC).isoformat(),
        "partitionkey": event.order_id,
    }


class Raw(Protocol):
    """One broker's client. `group` is what `ours` would be at the same broker, or made anew."""

    client: str

    def __init__(self, url: str) -> None: ...

    async def prepare(self, address: str, group: str) -> None:
        """Make the group, so that it gets what is published from now on."""
        ...

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        """All of them, confirmed; `begin` is called when the client is open and has had the first of them confirmed."""
        ...

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        """Until `done`, and what is handled is acknowledged."""
        ...


class RawKafka:
    """With `reads_type` it looks into the headers for the type of each event, as whoever carries several types must."""

    client = "confluent-kafka"
    reads_type = False

    def __init__(self, url: str) -> None:
        self._servers = urlsplit(url).netloc

    async def prepare(self, address: str, group: str) -> None:
        """A group begins at the beginning."""

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self._servers, "enable.idempotence": True, "linger.ms": 5})
        await asyncio.to_thread(self._publish, producer, address, events[:1])
        begin()
        await asyncio.to_thread(self._publish, producer, address, events[1:])

    def _publish(self, producer: Any, address: str, events: Sequence[OrderPlaced]) -> None:
        failed: list[Any] = []

        def answered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        for number, event in enumerate(events):
            headers: Any = [(f"ce_{name}", value) for name, value in attributes(event).items()]
            headers.append(("content-type", "application/json"))
            while True:
                try:
                    producer.produce(address, encode(event), event.order_id, headers=headers, on_delivery=answered)
                    break
                except BufferError:
                    producer.poll(0.1)
            if number % BATCH == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        assert not failed, failed

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        from confluent_kafka import Consumer

        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
            }
        )
        consumer.subscribe([address])
        try:
            while not done.is_set():
                messages = await asyncio.to_thread(consumer.consume, BATCH, 0.2)
                for message in messages:
                    if self.reads_type:
                        headers: Any = message.headers()
                        assert dict(headers)["ce_type"] == b"OrderPlaced"
                    await handler(decode(message.value() or b""))
                if messages:
                    consumer.commit(asynchronous=True)
        finally:
            await asyncio.to_thread(consumer.close)


class RawRabbit:
    client = "aio-pika"

    def __init__(self, url: str) -> None:
        self._url = url.partition("?")[0]

    async def prepare(self, address: str, group: str) -> None:
        import aio_pika

        connection = await aio_pika.connect(self._url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(address, "topic", durable=True)
            queue = await channel.declare_queue(
                f"{address}.{group}", durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(exchange, "#")

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        import aio_pika

        connection = await aio_pika.connect(self._url)
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            exchange = await channel.declare_exchange(address, "topic", durable=True)
            await self._publish(exchange, events[:1])
            begin()
            for start in range(1, len(events), BATCH):
                await self._publish(exchange, events[start : start + BATCH])

    async def _publish(self, exchange: Any, events: Sequence[OrderPlaced]) -> None:
        import aio_pika

        messages = [
            aio_pika.Message(
                encode(event),
                headers={f"cloudEvents:{n}": v for n, v in attributes(event).items()},
                content_type="application/json",
                delivery_mode=2,
            )
            for event in events
        ]
        await asyncio.gather(*(exchange.publish(message, "OrderPlaced") for message in messages))

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        import aio_pika

        connection = await aio_pika.connect(self._url)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=2 * BATCH)
            queue = await channel.get_queue(f"{address}.{group}")
            handled = 0
            last: Any = None

            async def take(message: Any) -> None:
                nonlocal handled, last
                await handler(decode(message.body))
                handled, last = handled + 1, message
                if handled % BATCH == 0:
                    await message.ack(multiple=True)

            await queue.consume(take)
            await done.wait()
            if handled % BATCH:
                await last.ack(multiple=True)


class RawNats:
    client = "nats-py"

    def __init__(self, url: str) -> None:
        self._url = url.partition("?")[0]

    async def prepare(self, address: str, group: str) -> None:
        """A consumer begins at the beginning."""

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        import nats

        client = await nats.connect(self._url)
        stream = client.jetstream(publish_async_max_pending=2 * BATCH)
        await self._publish(stream, address, events[:1])
        begin()
        for start in range(1, len(events), BATCH):
            await self._publish(stream, address, events[start : start + BATCH])
        await client.close()

    async def _publish(self, stream: Any, address: str, events: Sequence[OrderPlaced]) -> None:
        answers = [
            await stream.publish_async(
                address, encode(event), headers={f"ce-{name}": value for name, value in attributes(event).items()}
            )
            for event in events
        ]
        await asyncio.gather(*answers)

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        import nats
        from nats.js.api import ConsumerConfig

        client = await nats.connect(self._url)
        stream = client.jetstream()
        config = ConsumerConfig(max_ack_pending=4 * BATCH, ack_wait=60)
        pull = await stream.pull_subscribe(address, durable=group, config=config)
        while not done.is_set():
            try:
                messages = await pull.fetch(BATCH, timeout=0.5)
            except TimeoutError:
                continue
            for message in messages:
                await handler(decode(message.data))
                await message.ack()
        await client.close()


class RawRedis:
    client = "redis-py, hiredis"

    def __init__(self, url: str) -> None:
        self._url = url.partition("?")[0]

    async def prepare(self, address: str, group: str) -> None:
        """A group begins at the beginning."""

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        import redis.asyncio

        client = redis.asyncio.from_url(self._url)
        await self._publish(client, address, events[:1])
        begin()
        for start in range(1, len(events), BATCH):
            await self._publish(client, address, events[start : start + BATCH])
        await client.aclose()

    async def _publish(self, client: Any, address: str, events: Sequence[OrderPlaced]) -> None:
        pipeline = client.pipeline(transaction=False)
        for event in events:
            fields: Any = {f"ce_{name}": value for name, value in attributes(event).items()}
            fields["content-type"] = "application/json"
            fields["data"] = encode(event)
            pipeline.xadd(address, fields)
        await pipeline.execute()

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        import redis.asyncio

        client: Any = redis.asyncio.from_url(self._url)
        await client.xgroup_create(address, group, "0", mkstream=True)
        ids: list[bytes] = []
        while not done.is_set():
            pipeline = client.pipeline(transaction=False)
            if ids:
                pipeline.xack(address, group, *ids)
            pipeline.xreadgroup(group, "one", {address: ">"}, count=BATCH)
            found = (await pipeline.execute())[-1]
            ids = []
            for id, fields in found[0][1] if found else ():
                await handler(decode(fields[b"data"]))
                ids.append(id)
            if not ids:
                await asyncio.sleep(0.005)
        if ids:
            await client.xack(address, group, *ids)
        await client.aclose()


class _Packets(asyncio.Protocol):
    """MQTT as the package `mqtt5` reads and writes it, on asyncio's own connection: nothing between."""

    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self.take = take
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        import mqtt5

        data = self._rest + data if self._rest else data
        view, offset, packets = memoryview(data), 0, list[Any]()
        while True:
            try:
                packet, size = mqtt5.read(view[offset:])
            except IndexError:  # the rest is still to come
                break
            offset += size
            packets.append(packet)
        self._rest = data[offset:]
        self.take(packets)


class RawMqtt:
    client = "mqtt5"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 1883

    async def _connected(self, name: str, **more: Any) -> _Packets:
        import mqtt5

        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        _, packets = await loop.create_connection(lambda: _Packets(answered.set_result), self._host, self._port)
        packets.transport.write(mqtt5.ConnectPacket(name, **more).write())
        await answered
        return packets

    async def _session(self, group: str) -> _Packets:
        return await self._connected(group, session_expiry_interval=3600, receive_max=4 * BATCH)

    async def prepare(self, address: str, group: str) -> None:
        import mqtt5

        packets = await self._session(f"{group}-{address}")
        subscribed = asyncio.Event()
        packets.take = lambda some: subscribed.set()
        topic = mqtt5.TopicFilter(address, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
        packets.transport.write(mqtt5.SubscribePacket(1, [topic]).write())
        await subscribed.wait()
        packets.transport.write(mqtt5.DisconnectPacket().write())
        packets.transport.close()

    async def publish(self, address: str, events: Sequence[OrderPlaced], begin: Callable[[], None]) -> None:
        packets = await self._connected(str(uuid4()), clean_start=True)
        await self._publish(packets, address, events[:1])
        begin()
        for start in range(1, len(events), BATCH):
            await self._publish(packets, address, events[start : start + BATCH])
        packets.transport.close()

    async def _publish(self, packets: _Packets, address: str, events: Sequence[OrderPlaced]) -> None:
        import mqtt5

        confirmed, left = asyncio.Event(), len(events)

        def take(some: list[Any]) -> None:
            nonlocal left
            left -= len(some)
            if not left:
                confirmed.set()

        packets.take = take
        packets.transport.write(
            b"".join(
                mqtt5.PublishPacket(
                    address,
                    encode(event),
                    qos=mqtt5.QoS.AT_LEAST_ONCE,
                    packet_id=number,
                    content_type="application/json",
                    user_properties=list(attributes(event).items()),
                ).write()
                for number, event in enumerate(events, 1)
            )
        )
        await confirmed.wait()

    async def consume(self, address: str, group: str, handler: Handler, done: asyncio.Event) -> None:
        import mqtt5

        queue: asyncio.Queue[list[Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        _, packets = await loop.create_connection(lambda: _Packets(queue.put_nowait), self._host, self._port)
        connect = mqtt5.ConnectPacket(f"{group}-{address}", session_expiry_interval=3600, receive_max=4 * BATCH)
        packets.transport.write(connect.write())
        while not done.is_set():
            ends, comes = asyncio.ensure_future(done.wait()), asyncio.ensure_future(queue.get())
            await asyncio.wait({ends, comes}, return_when=asyncio.FIRST_COMPLETED)
            ends.cancel()
            if not comes.done():
                comes.cancel()
                break
            answers = []
            for packet in comes.result():
                if isinstance(packet, mqtt5.PublishPacket):
                    await handler(decode(packet.payload or b""))
                    answers.append(mqtt5.PubAckPacket(packet.packet_id or 0).write())
            packets.transport.write(b"".join(answers))
        packets.transport.close()


RAW: dict[str, type[Raw]] = {
    "kafka": RawKafka,
    "rabbitmq": RawRabbit,
    "nats": RawNats,
    "redis": RawRedis,
    "mqtt": RawMqtt,
}
