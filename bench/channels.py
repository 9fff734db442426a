"""Channels against the raw clients and FastStream, on every broker: `make bench-channels`. What each line means is in
bench/README.md. Names of brokers as arguments measure those alone."""

from __future__ import annotations

import asyncio
import itertools
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from bench import peer_faststream
from bench.measure import Outcome, Report, alternate, folder
from bench.orders import OrderPlaced, order
from bench.raw_brokers import RAW, Raw, RawKafka
from ensue import App, Channel
from ensue.app.brokers import open_broker
from ensue.app.links import connect
from ensue.channels.urls import place
from ensue.world import RealWorld
from tests.servers.kafka import KafkaServer
from tests.servers.mosquitto import MosquittoServer
from tests.servers.nats import NatsServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

__all__ = ["main"]

ROUNDS = 3
PUBLISHED = {"kafka": 50_000, "rabbitmq": 10_000, "nats": 10_000, "redis": 20_000, "mqtt": 10_000}
FASTSTREAM = 3_000
WAITING_SECONDS, KEYS, LANES, ALONE = 0.005, 64, 6_400, 200
PACED, PER_SECOND = 1_000, 500
STARTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "kafka": KafkaServer,
    "rabbitmq": RabbitServer,
    "nats": NatsServer,
    "redis": RedisServer,
    "mqtt": MosquittoServer,
}
AT_ONCE = 5_000
Begin = Callable[[], None]
_numbers = itertools.count()


def _nothing() -> None:
    pass


class Sink:
    """What a handler does: it counts, and knows when the first and the last came."""

    def __init__(self, count: int) -> None:
        self.done = asyncio.Event()
        self._count = count
        self._seen = 0
        self._sum = 0
        self._began = self._ended = 0.0

    async def handle(self, event: OrderPlaced) -> None:
        if not self._seen:
            self._began = time.perf_counter()
        self._seen += 1
        self._sum += event.quantity
        if self._seen == self._count:
            self._ended = time.perf_counter()
            self.done.set()

    @property
    def outcome(self) -> Outcome:
        return Outcome((self._count - 1) / (self._ended - self._began), f"{self._seen} {self._sum}")


class _Late(Sink):
    """Notes besides how long each event was on its way."""

    def __init__(self, count: int, sent: Mapping[str, float], late: list[float]) -> None:
        super().__init__(count)
        self._sent = sent
        self._late = late

    async def handle(self, event: OrderPlaced) -> None:
        self._late.append(time.perf_counter() - self._sent[event.order_id])
        await super().handle(event)


class Server(Protocol):
    def url(self) -> str: ...


def main() -> None:
    """All of it, or the brokers that are named."""
    logging.disable(logging.WARNING)
    report = Report("Channels, and what they are measured against")
    for name in sys.argv[1:] or STARTS:
        with STARTS[name]() as server:
            _Broker(name, server.url(), report).measure()
    report.show()


class _Broker:
    def __init__(self, name: str, url: str, report: Report) -> None:
        self.name = name
        self.url = url
        self.report = report
        self.raw: Raw = RAW[name](url)
        self.events = [order(number) for number in range(PUBLISHED[name])]

    def measure(self) -> None:
        name, report = self.name, self.report
        report.say(f"{name}: publishing {len(self.events):,} events, confirmed")
        publish = alternate(
            "publish",
            ROUNDS,
            {
                self.raw.client: partial(self._published, self._publish_raw),
                "ensue": partial(self._published, self._publish),
            },
        )
        report.rates(f"{name}: publish, confirmed", publish)
        report.ratio(f"{name}-publish", publish["ensue"], publish[self.raw.client])
        consume = alternate(
            "consume",
            ROUNDS,
            {
                self.raw.client: partial(self._run, self._consume_raw, len(self.events)),
                "ensue": partial(self._run, self._consume, len(self.events)),
            },
        )
        report.rates(f"{name}: consume, acknowledged after the handler", consume)
        report.ratio(f"{name}-consume", consume["ensue"], consume[self.raw.client])
        if isinstance(self.raw, RawKafka):
            self.raw.reads_type = True
            typed = alternate("typed", ROUNDS, {"type read": partial(self._run, self._consume_raw, len(self.events))})
            self.raw.reads_type = False
            report.rates(f"{name}: the same, and the type read from the headers", typed)
            report.ratio(f"{name}-consume-typed", consume["ensue"], typed["type read"])
        peer = alternate("FastStream", ROUNDS, {"FastStream": partial(self._run, self._consume_faststream, FASTSTREAM)})
        inbox = alternate("inbox", ROUNDS, {"ensue inbox": partial(self._run, self._inbox, len(self.events))})
        report.rates(f"{name}: consume, with the same guarantee", peer)
        report.rates(f"{name}: inbox, durable, each once, in order of each key", inbox)
        report.ratio(f"{name}-faststream", consume["ensue"], peer["FastStream"])
        report.ratio(f"{name}-inbox", inbox["ensue inbox"], peer["FastStream"])
        lanes = {
            "one at a time": self._run(partial(self._lanes, 1), ALONE).per_second,
            "lanes": self._run(partial(self._lanes, KEYS), LANES).per_second,
        }
        report.rates(f"{name}: a handler waits {WAITING_SECONDS * 1e3:.0f} ms, {KEYS} keys", lanes)
        report.ratio(f"{name}-lanes", lanes["lanes"], lanes["one at a time"])
        for who, consumer in ((self.raw.client, self._consume_raw), ("ensue", self._consume)):
            late = asyncio.run(self._latency(who == "ensue", consumer))
            p50, p99 = (1e3 * statistics.quantiles(late, n=100)[n] for n in (49, 98))
            report.row(f"{name}: published to handled, {PER_SECOND}/s", who, f"p50 {p50:.2f} ms  p99 {p99:.2f} ms")
            report.say(f"    {who}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        report.section()

    # ------------------------------------------------------------------------------------------------------ publishing

    def _published(self, publish: Callable[[str, Sequence[OrderPlaced], Begin], Awaitable[None]]) -> Outcome:
        """What is there afterwards is counted by whoever takes it out again."""

        async def story() -> Outcome:
            address = self._address()
            await self._declare(address)
            await self._prepare(address, "check.direct")
            began = 0.0

            def begin() -> None:
                nonlocal began
                began = time.perf_counter()

            await publish(address, self.events, begin)
            seconds = time.perf_counter() - began
            sink = Sink(len(self.events))
            await self._until_done(self._consume(address, "check", sink), sink)
            return Outcome(len(self.events) / seconds, sink.outcome.contents)

        return asyncio.run(story())

    async def _publish_raw(self, address: str, events: Sequence[OrderPlaced], begin: Begin) -> None:
        await self.raw.publish(address, events, begin)

    async def _publish(self, address: str, events: Sequence[OrderPlaced], begin: Begin = _nothing) -> None:
        async with connect(self._channel(address)) as link:
            await link.publish(*events[:1])
            begin()
            for start in range(1, len(events), AT_ONCE):
                await link.publish(*events[start : start + AT_ONCE])

    # ------------------------------------------------------------------------------------------------------- consuming

    def _run(self, consumer: Callable[[str, str, Sink], Coroutine[Any, Any, None]], count: int) -> Outcome:
        """Fill an address, then let somebody take it out."""

        async def story() -> Outcome:
            address, sink = self._address(), Sink(count)
            await self._declare(address)
            if consumer == self._consume_raw or (consumer == self._consume_faststream and self.name == "rabbitmq"):
                await self.raw.prepare(address, "bench")
            elif consumer != self._consume_faststream:
                await self._prepare(address, "bench-inbox" if consumer == self._inbox else "bench.direct")
            if self.name == "mqtt" and consumer == self._consume_faststream:
                return await self._gated(address, sink, count)
            await self._publish(address, self.events[:count])
            await self._until_done(consumer(address, "bench", sink), sink)
            return sink.outcome

        return asyncio.run(story())

    async def _gated(self, address: str, sink: Sink, count: int) -> Outcome:
        """For a peer whose session we cannot make: its handler waits until all is published."""
        gate = asyncio.Event()

        async def handle(event: OrderPlaced) -> None:
            await gate.wait()
            await sink.handle(event)

        work = asyncio.ensure_future(
            peer_faststream.consume(self.name, self.url, address, f"fs-{next(_numbers)}", handle, sink.done)
        )
        await asyncio.sleep(1)
        await self._publish(address, self.events[:count])
        gate.set()
        await self._until_done(work, sink)
        return sink.outcome

    async def _until_done(self, work: Awaitable[None], sink: Sink) -> None:
        async with asyncio.timeout(300):
            await work
        assert sink.done.is_set()

    async def _consume_raw(self, address: str, group: str, sink: Sink) -> None:
        await self.raw.consume(address, group, sink.handle, sink.done)

    async def _consume_faststream(self, address: str, group: str, sink: Sink) -> None:
        await peer_faststream.consume(self.name, self.url, address, group, sink.handle, sink.done)

    async def _consume(self, address: str, group: str, sink: Sink, concurrency: int = 100) -> None:
        with folder() as path:
            app = App(group, url=f"sqlite:////{str(path / 'log.db').lstrip('/')}")

            @app.on(source=self._channel(address), name="direct", concurrency=concurrency)
            async def handle(event: OrderPlaced) -> None:
                await sink.handle(event)

            async with app:
                await sink.done.wait()

    async def _inbox(self, address: str, group: str, sink: Sink) -> None:
        with folder() as path:
            app = App(
                f"{group}-inbox", url=f"sqlite:////{str(path / 'log.db').lstrip('/')}", inbox=[self._channel(address)]
            )

            @app.on
            async def handle(event: OrderPlaced) -> None:
                await sink.handle(event)

            async with app:
                await sink.done.wait()

    async def _lanes(self, concurrency: int, address: str, group: str, sink: Sink) -> None:
        with folder() as path:
            app = App(group, url=f"sqlite:////{str(path / 'log.db').lstrip('/')}")
            working: set[str] = set()

            @app.on(source=self._channel(address), name="direct", concurrency=concurrency)
            async def handle(event: OrderPlaced) -> None:
                assert event.order_id not in working, "two of one key at once"
                working.add(event.order_id)
                await asyncio.sleep(WAITING_SECONDS)
                working.discard(event.order_id)
                await sink.handle(event)

            async with app:
                await sink.done.wait()

    async def _latency(
        self, ours: bool, consumer: Callable[[str, str, Sink], Coroutine[Any, Any, None]]
    ) -> list[float]:
        """Events one by one at a steady pace; each carries the time at which it was given to `publish`."""
        address, sent, late = self._address(), dict[str, float](), list[float]()
        await self._declare(address)
        if ours:
            await self._prepare(address, "bench.direct")
        else:
            await self.raw.prepare(address, "bench")
        sink = _Late(PACED, sent, late)
        work = asyncio.ensure_future(consumer(address, "bench", sink))
        await asyncio.sleep(4 if self.name == "kafka" else 1.5)
        async with connect(self._channel(address)) as link:
            began = time.perf_counter()
            for number in range(PACED):
                await asyncio.sleep(max(0.0, began + number / PER_SECOND - time.perf_counter()))
                event = OrderPlaced(order_id=f"o{number}", sku="s", quantity=1, total=self.events[0].total)
                sent[event.order_id] = time.perf_counter()
                await link.publish(event)
            await self._until_done(work, sink)
        return late[PACED // 10 :]

    # ----------------------------------------------------------------------------------------------------------- places

    def _address(self) -> str:
        return f"bench-{next(_numbers)}"

    def _channel(self, address: str) -> Channel:
        return Channel("bench", OrderPlaced, url=self._url(address))

    def _url(self, address: str) -> str:
        return f"{self.url}{'&' if '?' in self.url else '?'}address={address}"

    async def _declare(self, address: str) -> None:
        broker = open_broker(place(self._url(address)))
        await broker.open(RealWorld())
        await broker.declare(address)
        await broker.close()

    async def _prepare(self, address: str, group: str) -> None:
        """Make the group before anything is published, where a broker keeps nothing for who comes later."""
        broker = open_broker(place(self._url(address)))
        await broker.open(RealWorld())
        if not broker.capabilities.replay:
            subscription = await broker.subscribe(address, group=group, start="now", prefetch=1)
            await subscription.close()
        await broker.close()


if __name__ == "__main__":
    main()
