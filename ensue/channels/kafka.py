"""Kafka: a channel is a topic, a group is a consumer group, a broadcast reads all partitions from their ends.

The client is librdkafka (`confluent_kafka`), whose calls block: they happen on threads of the world's. It finds its way back to
a broker by itself. But when no broker has been there for `away_seconds`, this connection is broken for ever, like any other: what
waits is told so, and nothing is sent any more. That is soon, because a consumer that came back so was seen to receive nothing.

Publishing is idempotent: the library repeats what was not answered, without doubles and in order, for `delivery_seconds`. There
are no transactions: they would join offsets and messages of one Kafka, and what must be joined here is a log and a channel; the
outbox and the inbox do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from ensue.channels.base import Capabilities, From, Message, Revoked, Subscription
from ensue.channels.kafka_subscription import ACCESS, GONE, PASSING, KafkaSubscription, Reading, Topic, translated
from ensue.channels.urls import Place
from ensue.errors import AccessRefused, EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.world import Threads, World

__all__ = ["KafkaBroker"]

T = TypeVar("T")

PARTITIONS = 8
"""Of a new topic: as many members of a group can share it."""
LARGEST = 1_048_588
"""What a broker takes that says nothing else."""
GLANCE_SECONDS = 0.02
"""Between looks at whether the broker has done what it was told."""
PROBE_SECONDS = 1.0
OPENING_SECONDS = 0.05
"""Between looks at what the library was told. Shorter than it waits before it tries again what was refused."""
BACKOFF_MILLISECONDS = 200
"""Between attempts of the library while it opens; up to half as much more, so that two addresses of a host fit into `CALM_SECONDS`."""
CALM_SECONDS = 0.5
"""How long the other addresses of a host may take after the first did not answer."""
POLL_SECONDS = 0.005
"""How long a publish waits at most for its turn, when nothing is answered of those that are on their way."""
ANSWERS = 500
"""After so many messages, those that are answered by then are looked at."""

_REFUSED = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
    )
)
_NOT_STORED = frozenset(
    (
        KafkaError._PURGE_QUEUE,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._QUEUE_FULL,
        KafkaError.NOT_ENOUGH_REPLICAS,
    )
)
_MEMBERS = frozenset((KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS))
"""Said to who is no member of a group that has some: one of them has said where the group begins."""


class _Batch:
    """One call of `publish`, filled by the thread of the publisher."""

    def __init__(self, messages: Sequence[Message], done: asyncio.Future[None]) -> None:
        self.messages = messages
        self.errors: dict[int, KafkaError] = {}
        self.done = done
        self._open = len(messages)
        self._loop = asyncio.get_running_loop()

    def answered(self, index: int, error: KafkaError | None, record: Record | None) -> None:
        if error is not None:
            self.errors[index] = error
        self._open -= 1
        if self._open == 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Publisher:
    """A producer and its thread, which runs as long as anything is on its way."""

    def __init__(self, config: Mapping[str, Any], world: World) -> None:
        self._producer = Producer(dict(config))
        self._threads = world.threads(1, name="kafka-publish")
        self._batches: queue.SimpleQueue[tuple[str, _Batch]] = queue.SimpleQueue()
        self._runs = False
        self._ending = False

    async def publish(self, topic: str, messages: Sequence[Message]) -> Mapping[int, KafkaError]:
        batch = _Batch(messages, asyncio.get_running_loop().create_future())
        self._batches.put((topic, batch))
        self._start()
        await batch.done
        return batch.errors

    def close(self) -> None:
        """What is on its way is told at once, stored or not."""
        self._ending = True
        self._start()

    def _start(self) -> None:
        if not self._runs:
            self._runs = True
            self._threads.run(self._run, self._stopped)

    def _stopped(self, result: None, error: BaseException | None) -> None:
        self._runs = False
        if not self._batches.empty():
            self._start()
        elif self._ending:
            self._threads.close()

    def _run(self) -> None:
        producer = self._producer
        while True:
            if self._ending:
                producer.purge()
            try:
                topic, batch = self._batches.get_nowait()
            except queue.Empty:
                if len(producer):
                    producer.poll(POLL_SECONDS)
                    continue
                if self._ending and self._batches.empty():
                    del self._producer  # whoever drops it waits for the library's own threads
                return
            for index, message in enumerate(batch.messages):
                answered = partial(batch.answered, index)
                headers: Any = [("content-type", message.content_type), *message.headers.items()]
                try:
                    producer.produce(topic, message.body, message.key, headers=headers, on_delivery=answered)
                except KafkaException as error:
                    answered(error.args[0], None)
                except BufferError:
                    answered(KafkaError(KafkaError._QUEUE_FULL), None)
                if index % ANSWERS == 0:
                    producer.poll(0)


class KafkaBroker:
    """See `Broker`."""

    prefix: ClassVar[str] = "ce_"
    parameters: ClassVar[Mapping[str, str]] = {
        "partitions": f"how many a new topic gets, and one that is there must have (default: {PARTITIONS} for a new one)",
        "replication": "how many brokers keep a new topic, and one that is there must have (default: as the broker says)",
        "retention_seconds": "how long a new topic keeps messages (default: as the broker says)",
        "sasl": "how to log in with user and password: `plain` (default), `scram-sha-256`, `scram-sha-512`",
        "compression": "`none` (default), `gzip`, `snappy`, `lz4`, `zstd`",
        "acks": "`all` (default) replicas in step, or the `leader` alone, have a message when it is confirmed",
        "delivery_seconds": "after how long what was published and not answered is given up (default: 30)",
        "away_seconds": "how long there may be no broker before the connection counts as broken (default: 1)",
        "session_seconds": "after how long a member that is not heard of is dead (default: 10)",
        "rebalance_seconds": "how long a member may finish what goes to another (default: 300)",
        "look_seconds": "how often to look whether the topic is still there and has new partitions (default: 5)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        self._place = place
        self._partitions = place.number("partitions", 0)
        self._replication = place.number("replication", 0)
        self._retention = place.number("retention_seconds", 0)
        self._delivery_seconds = place.seconds("delivery_seconds", 30.0)
        self._away_seconds = place.seconds("away_seconds", 1.0)
        self._session_seconds = place.seconds("session_seconds", 10.0)
        self._rebalance_seconds = max(place.seconds("rebalance_seconds", 300.0), self._session_seconds)
        self._look_seconds = place.seconds("look_seconds", 5.0)
        self._connect_seconds = place.connect_seconds
        self._acks = place.choice("acks", "all", "leader")
        self._compression = place.choice("compression", "none", "gzip", "snappy", "lz4", "zstd")
        self._create = place.create
        self._config = self._common()
        self._largest = LARGEST
        self._topics: dict[str, Topic] = {}
        self._publishers: dict[int, _Publisher] = {}
        self._subscriptions: set[KafkaSubscription] = set()
        self._error: EnsueError | None = Unavailable(f"{place.shown}: the connection is not open")
        self._probe: asyncio.TimerHandle | None = None
        self._admin: AdminClient | None = None
        self._threads: Threads | None = None
        self._world: World

    def _common(self) -> dict[str, Any]:
        place = self._place
        if not place.hosts:
            raise WiringError(f"{place.shown}: no host is named; one looks like kafka://host:9092")
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(f"{_bracketed(name)}:{port or 9092}" for name, port in place.hosts),
            "client.id": "ensue",
            "log_level": 0,  # what it would log is told by `error_cb`
            "allow.auto.create.topics": False,
            "socket.timeout.ms": _milliseconds(self._connect_seconds),
            "socket.connection.setup.timeout.ms": max(_milliseconds(self._connect_seconds), 1000),
            "socket.keepalive.enable": True,
            "socket.nagle.disable": True,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": max(_milliseconds(self._look_seconds), 10),
            "topic.metadata.propagation.max.ms": 5000,
            "security.protocol": ("SASL_" if place.user is not None else "") + ("SSL" if place.tls else "PLAINTEXT"),
        }
        mechanism = place.choice("sasl", "plain", "scram-sha-256", "scram-sha-512")
        if place.user is not None:
            config |= {
                "sasl.mechanism": mechanism.upper(),
                "sasl.username": place.user,
                "sasl.password": place.password or "",
            }
        files = {
            "tls_ca": "ssl.ca.location",
            "tls_certificate": "ssl.certificate.location",
            "tls_key": "ssl.key.location",
        }
        if place.tls:
            config |= {option: place.text(name) for name, option in files.items() if place.text(name)}
        return config

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            durable=True,
            groups=True,
            broadcast=True,
            replay=True,
            assigns=True,
            cumulative=True,
            counts=False,
            delay=False,
            largest=self._largest,
        )

    # ----------------------------------------------------------------------------------------------------- connection

    async def open(self, world: World) -> None:
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._threads = world.threads(4, name="kafka")
        self._error = None
        try:
            self._admin, self._largest = await self._on_thread(self._connect)
        except EnsueError as error:
            self._error = error
            raise

    def _connect(self) -> tuple[AdminClient, int]:
        """On a thread. Asks once, which the library cannot be told to: whatever it hears ends it."""
        what = f"connecting to {self._place.shown}"
        told: list[KafkaError] = []
        begin = self._world.monotonic()
        try:
            # A second attempt is to be later than the first is looked at, also on a machine that has much to do.
            config: dict[str, Any] = {
                **self._config,
                "error_cb": told.append,
                "reconnect.backoff.ms": BACKOFF_MILLISECONDS,
            }
            admin = AdminClient(config)
        except KafkaException as error:
            raise WiringError(f"{what}: {error.args[0].str()}") from error
        down: float | None = None
        failure: EnsueError | None = None
        while failure is None:
            try:
                found = admin.list_topics(timeout=min(OPENING_SECONDS, self._connect_seconds))
                return admin, self._broker_largest(admin, found.orig_broker_id)
            except KafkaException as error:
                last = cast(KafkaError, error.args[0])
            admin.poll(0)
            now = self._world.monotonic()
            if down is None and any(one.code() == KafkaError._ALL_BROKERS_DOWN for one in told):
                down = now
            late = now - begin >= self._connect_seconds or (down is not None and now - down >= CALM_SECONDS)
            failure = _failure(what, told, last if late else None)
        del admin  # at once, and not when nobody knows the error any more: it goes on trying
        raise failure

    def _broker_largest(self, admin: AdminClient, broker: int) -> int:
        try:
            resource = ConfigResource(ConfigResource.Type.BROKER, str(broker))
            found = admin.describe_configs([resource], request_timeout=self._connect_seconds)[resource].result()
            return int(found["message.max.bytes"].value)
        except KafkaException:  # it is not told to everybody
            return LARGEST

    def _client(self, **more: Any) -> dict[str, Any]:
        """What a client is made of that tells us when all brokers are gone."""
        return self._config | {"error_cb": self._troubled} | more

    def _troubled(self, error: KafkaError) -> None:
        """On the thread of a client."""
        if error.fatal() or error.code() in ACCESS or error.code() == KafkaError._ALL_BROKERS_DOWN:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._trouble, error)

    def _trouble(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._break(translated(error, f"{self._place.shown}: the connection is broken"))
        elif self._probe is None and self._error is None:
            self._probe = self._world.call_later(self._away_seconds, self._look_for_brokers)

    def _look_for_brokers(self) -> None:
        admin, threads = self._admin, self._threads
        if admin is None or threads is None:  # it is closed
            return

        def looked(result: object, error: BaseException | None) -> None:
            self._probe = None
            if error is not None:
                away = f"no broker was to be found for {self._away_seconds:g} s"
                self._break(Unavailable(f"{self._place.shown}: the connection is broken: {away}"))

        threads.run(lambda: admin.list_topics(timeout=PROBE_SECONDS), looked)

    def _break(self, error: EnsueError) -> None:
        if self._error is None:
            self._error = error
            for subscription in self._subscriptions:
                subscription.abandon(error)
            for publisher in self._publishers.values():
                publisher.close()

    async def close(self) -> None:
        if self._threads is None:
            return
        # As long as the connection stands: they tell the broker what was accepted.
        await asyncio.gather(*(subscription.close() for subscription in tuple(self._subscriptions)))
        self._break(Unavailable(f"{self._place.shown}: the connection is closed"))
        if self._probe is not None:
            self._probe.cancel()
        self._threads.run(self._drop_admin, lambda result, error: None)
        self._threads.close()

    def _drop_admin(self) -> None:
        """On a thread: it waits for threads of the library's own."""
        self._admin = None

    # ------------------------------------------------------------------------------------------------------- topology

    async def declare(self, address: str) -> None:
        topic = await self._look(address)
        if topic is None:
            if not self._create:
                raise WiringError(f"{self._what(address)}: it is not there, and the URL says create=no; create it")
            topic = await self._make(address)
        wanted = {
            "partitions": (self._partitions, topic.partitions),
            "replication": (self._replication, topic.replicas),
        }
        for name, (said, found) in wanted.items():
            if said and said != found:
                raise WiringError(
                    f"{self._what(address)}: {name} is {found}, and the URL says {said}; change one of them"
                )
        self._topics[address] = topic

    async def _look(self, address: str) -> Topic | None:
        """The topic as it is; None if it is not there."""

        def look(admin: AdminClient, seconds: float) -> Topic | None:
            asked = TopicCollection([address])
            try:
                found = admin.describe_topics(asked, request_timeout=seconds)[address].result()
            except KafkaException as error:
                if error.args[0].code() in GONE:
                    return None
                raise
            return Topic(
                name=address,
                identity=str(found.topic_id),
                partitions=len(found.partitions),
                replicas=min(len(partition.replicas) for partition in found.partitions),
                largest=self._topic_largest(admin, address, seconds),
            )

        return await self._ask(self._what(address), look)

    def _topic_largest(self, admin: AdminClient, address: str, seconds: float) -> int:
        try:
            resource = ConfigResource(ConfigResource.Type.TOPIC, address)
            found = admin.describe_configs([resource], request_timeout=seconds)[resource].result()
            return int(found["max.message.bytes"].value)
        except KafkaException:  # it is not told to everybody
            return self._largest

    async def _make(self, address: str) -> Topic:
        """Returns when its partitions have leaders, before which nothing can be done with it."""

        def make(admin: AdminClient, seconds: float) -> None:
            config = {"retention.ms": str(self._retention * 1000)} if self._retention else {}
            topic = NewTopic(address, self._partitions or PARTITIONS, self._replication or -1, config=config)
            try:
                admin.create_topics([topic], request_timeout=seconds)[address].result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was quicker
                    raise

        await self._ask(f"{self._what(address)}: creating it", make)
        while (topic := await self._look(address)) is None:
            await self._world.sleep(GLANCE_SECONDS)
        await self._offsets(topic, "now")
        return topic

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        def remove(admin: AdminClient, seconds: float) -> None:
            # What a group has committed goes with the topic, also that of one which has a member left.
            gone = {*GONE, KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP}
            futures = list(admin.delete_topics([address], request_timeout=seconds).values())
            if groups:
                futures += admin.delete_consumer_groups(list(groups), request_timeout=seconds).values()
            for future in futures:
                try:
                    future.result()
                except KafkaException as error:
                    if error.args[0].code() not in gone:
                        raise

        await self._ask(f"{self._what(address)}: removing it", remove)
        self._topics.pop(address, None)
        while await self._look(address) is not None:
            await self._world.sleep(GLANCE_SECONDS)

    # ----------------------------------------------------------------------------------------------------- publishing

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        if not messages:
            return {}
        try:
            if address not in self._topics:
                await self.declare(address)
            self._check()
        except AccessRefused as error:
            return dict.fromkeys(range(len(messages)), WiringError(str(error)))
        except EnsueError as error:
            return dict.fromkeys(range(len(messages)), error)
        errors = await self._publisher(self._topics[address].largest).publish(address, messages)
        if any(error.code() in GONE for error in errors.values()):
            self._topics.pop(address, None)
        return {index: self._undelivered(address, error) for index, error in errors.items()} if errors else {}

    def _publisher(self, largest: int) -> _Publisher:
        """One for each limit: when the broker refuses a batch, all of it is lost, so a batch must be smaller than what one
        message may be."""
        publisher = self._publishers.get(largest)
        if publisher is None:
            every = self._acks == "all"
            config = self._client(
                **{
                    "enable.idempotence": every,
                    "acks": "all" if every else "1",
                    "max.in.flight.requests.per.connection": 5 if every else 1,
                    "compression.type": self._compression,
                    "delivery.timeout.ms": _milliseconds(self._delivery_seconds),
                    "linger.ms": 1,
                    "partitioner": "murmur2_random",  # as that of Java, so that a key has one partition for all
                    "message.max.bytes": min(max(largest, 1000), 1_000_000_000),
                    "batch.size": min(max(largest * 9 // 10, 1), 1_000_000),
                    "queue.buffering.max.messages": 0,
                    "queue.buffering.max.kbytes": 2_097_151,
                }
            )
            publisher = self._publishers[largest] = _Publisher(config, self._world)
        return publisher

    def _undelivered(self, address: str, error: KafkaError) -> EnsueError:
        said = f"publishing to {self._what(address)}: {error.str()} ({error.name()})"
        if error.code() in _REFUSED:
            largest = self._topics[address].largest if address in self._topics else self._largest
            return MessageRefused(f"{said}; it takes {largest} bytes at most")
        if error.code() in GONE or error.code() in ACCESS:
            return WiringError(said)
        if error.code() in _NOT_STORED:
            return Unavailable(said)
        return OutcomeUnknown(said)

    # ------------------------------------------------------------------------------------------------------ receiving

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        await self.declare(address)
        topic = self._topics[address]
        starts: Mapping[int, int] | None = None
        if group is None:
            starts = await self._offsets(topic, "now")
        else:
            await self._begin(topic, group, start)
        self._check()
        reading = Reading(
            config=self._consumer_config(group),
            topic=topic,
            starts=starts,
            prefetch=prefetch,
            patience_seconds=self._rebalance_seconds * 0.9,
            look_seconds=self._look_seconds,
            look=partial(self._look, address),
            waiting=partial(self._waiting, topic, group),
        )
        subscription = KafkaSubscription(reading, self._world, revoked=revoked, ended=self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def _consumer_config(self, group: str | None) -> Mapping[str, Any]:
        session = _milliseconds(self._session_seconds)
        return self._client(
            **{
                # The library wants one also where nothing is grouped; nothing is ever committed for this one.
                "group.id": group if group is not None else f"ensue-broadcast-{self._world.new_id().hex()}",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session,
                "heartbeat.interval.ms": min(session // 3, 3000),
                "max.poll.interval.ms": _milliseconds(self._rebalance_seconds),
                "enable.auto.commit": group is not None,
                "enable.auto.offset.store": False,
                "auto.commit.interval.ms": 500,
                # Where a group stands is committed before it begins. This is for what the broker deleted meanwhile.
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 16_384,
                "fetch.queue.backoff.ms": 10,
                "fetch.error.backoff.ms": 50,
            }
        )

    async def _begin(self, topic: Topic, group: str, start: From) -> None:
        """Make a new group begin where it is to. Committed at once: one that has accepted nothing when its member ends would
        else begin again where the topic ends by then."""
        # Asked before it is known whether the group is new: when two members find it so at once, the later word is no later place.
        offsets = await self._offsets(topic, start)
        given = [TopicPartition(topic.name, *offset) for offset in offsets.items()]

        def begin(consumer: Consumer, seconds: float) -> None:
            if any(one.offset >= 0 for one in consumer.committed(_unread(topic), seconds)):
                return
            try:
                consumer.commit(offsets=given, asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() not in _MEMBERS:
                    raise

        await self._ask(
            f"{self._what(topic.name)}: looking at the group {group}", partial(self._as_group, group, begin)
        )

    def _as_group(self, group: str, call: Callable[[Consumer, float], T], admin: AdminClient, seconds: float) -> T:
        """On a thread. Not with the administrator's client, which dies of an answer "not coordinator" to the same questions."""
        consumer = Consumer({**self._config, "group.id": group, "enable.auto.commit": False})
        try:
            return call(consumer, seconds)
        finally:
            consumer.close()

    async def _committed(self, topic: Topic, group: str) -> Mapping[int, int]:
        def committed(consumer: Consumer, seconds: float) -> Mapping[int, int]:
            found = consumer.committed(_unread(topic), seconds)
            return {one.partition: one.offset for one in found if one.offset >= 0}

        return await self._ask(
            f"{self._what(topic.name)}: looking at the group {group}", partial(self._as_group, group, committed)
        )

    async def _offsets(self, topic: Topic, start: From) -> Mapping[int, int]:
        """Where each partition begins, ends, or is at a time."""
        spec: Any
        if isinstance(start, int):
            spec = OffsetSpec.for_timestamp(-(-start // 1000))
        else:
            spec = OffsetSpec.earliest() if start == "beginning" else OffsetSpec.latest()  # type: ignore[no-untyped-call]
        partitions = range(topic.partitions)

        def offsets(admin: AdminClient, seconds: float) -> Mapping[int, int]:
            asked = {TopicPartition(topic.name, partition): spec for partition in partitions}
            found = admin.list_offsets(asked, request_timeout=seconds)
            return {one.partition: future.result().offset for one, future in found.items()}

        found = await self._ask(f"{self._what(topic.name)}: looking at its offsets", offsets)
        if any(offset < 0 for offset in found.values()):  # nothing is as late as that
            known = {partition: offset for partition, offset in found.items() if offset >= 0}
            found = {**await self._offsets(topic, "now"), **known}
        return found

    async def _waiting(self, topic: Topic, group: str | None, behind: Mapping[int, int]) -> int:
        if group is not None:
            behind = {**await self._committed(topic, group), **behind}
        ends = await self._offsets(topic, "now")
        return sum(max(0, end - behind.get(partition, 0)) for partition, end in ends.items())

    # ---------------------------------------------------------------------------------------------------------- parts

    def _what(self, address: str) -> str:
        return f"the topic {address} at {self._place.shown}"

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _ask(self, what: str, call: Callable[[AdminClient, float], T]) -> T:
        """A call of the administrator's client, on a thread. Errors: as `translated`."""
        deadline = self._world.monotonic() + self._connect_seconds
        while True:
            self._check()
            try:
                return await self._on_thread(partial(self._administer, call))
            except KafkaException as error:
                if error.args[0].code() not in PASSING or self._world.monotonic() > deadline:
                    raise translated(error.args[0], what) from error
            await self._world.sleep(GLANCE_SECONDS)

    def _administer(self, call: Callable[[AdminClient, float], T]) -> T:
        assert self._admin is not None, "it is open"
        return call(self._admin, self._connect_seconds)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(T, result))

        assert self._threads is not None, "it is open"
        self._threads.run(call, done)
        return await future


def _unread(topic: Topic) -> list[TopicPartition]:
    return [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]


def _failure(what: str, told: Sequence[KafkaError], last: KafkaError | None) -> EnsueError | None:
    """What the library has told, if it will not pass by itself; anything if it is the `last`."""
    for one in told:
        if one.code() in ACCESS:
            return AccessRefused(f"{what}: {one.str()}; check user, password and `sasl`")
        if "SSL alert number" in one.str():
            return AccessRefused(f"{what}: {one.str()}; check `tls_certificate` and `tls_key`")
        if one.code() == KafkaError._SSL:
            return WiringError(f"{what}: {one.str()}; check `tls`, `tls_ca` and the client's certificate")
        if one.code() == KafkaError._BAD_MSG:
            return WiringError(f"{what}: what answers there is not Kafka ({one.str()})")
    if last is None:
        return None
    heard = next((one.str() for one in told if one.code() != KafkaError._ALL_BROKERS_DOWN), None)
    silent = f"it does not answer: is it Kafka, and are `tls` and the user right? ({last.str()})"
    return Unavailable(f"{what}: {heard or silent}")


def _milliseconds(seconds: float) -> int:
    return max(1, min(int(seconds * 1000), 2_000_000))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
