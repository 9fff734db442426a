"""What only Kafka has: partitions as its other clients see them, users, TLS, limits, what is deleted, full, cut or silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from ensue.channels.base import Message, Received, Subscription
from ensue.channels.kafka import KafkaBroker
from ensue.channels.urls import place
from ensue.errors import AccessRefused, EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.world import RealWorld
from tests.servers.disks import fill, small_disk
from tests.servers.kafka import KafkaAddress, KafkaServer
from tests.servers.relay import Relay

T = TypeVar("T")

WORLD = RealWorld()
QUICK = {"away_seconds": "0.3", "look_seconds": "0.2", "session_seconds": "2", "partitions": "4"}
LIMIT_SECONDS = 60.0
_AUTHORISED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS;User:owner;User:administrator",
}


@pytest.fixture(scope="module")
def guarded(kafka_installed: None) -> Iterator[KafkaServer]:
    """With TLS, and users of whom one may do everything and another nothing."""
    users = {"owner": "o p@ss", "guest": "g"}
    with KafkaServer(tls=True, users=users, settings=_AUTHORISED) as server:
        yield server


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(story, LIMIT_SECONDS))


def new_topic() -> str:
    return f"topic-{uuid.uuid4().hex[:16]}"


def message(body: bytes, key: str = "k") -> Message:
    return Message(body=body, key=key, headers={"ce_id": body.decode(), "ce_type": "Opened"})


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[KafkaBroker]:
    broker = KafkaBroker(place(url))
    await broker.open(WORLD)
    try:
        yield broker
    finally:
        await broker.close()


async def publish(broker: KafkaBroker, topic: str, *bodies: bytes) -> None:
    assert await broker.publish(topic, [message(body) for body in bodies]) == {}


async def take(subscription: Subscription, count: int) -> list[Received]:
    taken: list[Received] = []
    while len(taken) < count:
        taken += await subscription.receive(count - len(taken))
    return taken


async def bodies(subscription: Subscription, count: int) -> list[bytes]:
    return [one.body for one in await take(subscription, count)]


async def refused(url: str, kind: type[EnsueError], match: str) -> None:
    broker = KafkaBroker(place(url))
    with pytest.raises(kind, match=match) as told:
        await broker.open(WORLD)
    assert "p@ss" not in str(told.value)
    assert "wrong" not in str(told.value)
    await broker.close()


def bootstrap(address: KafkaAddress | KafkaServer) -> dict[str, Any]:
    return {"bootstrap.servers": f"127.0.0.1:{address.port}", "log_level": 0}


# ------------------------------------------------------------------------------------------------------ other clients


def test_other_clients_find_key_headers_and_content_type_where_cloudevents_says(kafka: KafkaAddress) -> None:
    topic = new_topic()

    async def story() -> None:
        async with opened(kafka.url(partitions="1")) as broker:
            await broker.declare(topic)
            await publish(broker, topic, b"42")

    run(story())
    consumer = Consumer({**bootstrap(kafka), "group.id": "other", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    (record,) = consumer.consume(1, 30)
    consumer.close()
    assert (record.key(), record.value()) == (b"k", b"42")
    headers = [("content-type", b"application/json"), ("ce_id", b"42"), ("ce_type", b"Opened")]
    assert record.headers() == headers


def test_a_key_is_in_the_partition_where_clients_in_java_put_it(kafka: KafkaAddress) -> None:
    """The hashes are those of the tests of Kafka's own `Utils.murmur2`."""
    hashes = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}

    async def story() -> dict[str | None, int]:
        topic = new_topic()
        async with opened(kafka.url(partitions="8")) as broker:
            member = await broker.subscribe(topic, group=topic, prefetch=10)
            await broker.publish(topic, [message(b"1", key) for key in hashes])
            return {one.key: one.partition for one in await take(member, len(hashes))}

    assert run(story()) == {key: (found & 0x7FFFFFFF) % 8 for key, found in hashes.items()}


def test_what_others_write_is_read_with_what_is_no_text_left_out(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(partitions="1")) as broker:
            member = await broker.subscribe(topic, group=topic, prefetch=10)
            producer = Producer(bootstrap(kafka))
            producer.produce(topic, None, b"\xff\x00", headers=[("text", "yes"), ("bytes", b"\xff"), ("none", None)])
            producer.flush()
            (received,) = await take(member, 1)
            assert (received.body, received.key, received.headers) == (b"", "\\xff\x00", {"text": "yes"})
            assert (received.content_type, received.where) == (None, f"{topic}/0 @ 0")

    run(story())


# ----------------------------------------------------------------------------------------------------- users and TLS


@pytest.mark.parametrize("sasl", ["plain", "scram-sha-256"])
def test_a_user_with_a_password_is_let_in_over_tls(guarded: KafkaServer, sasl: str) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(guarded.url(user="owner", password="o p@ss", sasl=sasl)) as broker:
            member = await broker.subscribe(topic, group=topic, prefetch=10)
            await publish(broker, topic, b"1")
            assert await bodies(member, 1) == [b"1"]

    run(story())


@pytest.mark.parametrize("sasl", ["plain", "scram-sha-256", "scram-sha-512"])
def test_a_password_that_is_wrong_is_tried_once(guarded: KafkaServer, sasl: str) -> None:
    before = guarded.log.read_text().count("ailed authentication with")
    run(refused(guarded.url(user="owner", password="wrong", sasl=sasl), AccessRefused, "check user, password"))
    run(refused(guarded.url(user="owner", password="wrong", sasl=sasl), AccessRefused, "check user, password"))
    assert guarded.log.read_text().count("ailed authentication with") - before == 2


def test_who_is_no_user_and_who_speaks_no_tls_is_told_what_to_look_at(guarded: KafkaServer) -> None:
    run(refused(guarded.url(), Unavailable, "are `tls` and the user right"))
    without = KafkaAddress(guarded.port, guarded.version).url(user="owner", password="o p@ss")
    run(refused(without, Unavailable, "are `tls` and the user right"))


def test_a_certificate_of_nobody_that_is_trusted_is_told(guarded: KafkaServer) -> None:
    without = KafkaAddress(guarded.port, guarded.version).url(user="owner", password="o p@ss", tls="yes")
    run(refused(without, WiringError, "tls_ca"))


def test_a_server_that_wants_a_certificate_lets_in_whom_it_knows(kafka_installed: None) -> None:
    with KafkaServer(tls="verify") as server:
        run(refused(server.url(), AccessRefused, "certificate"))

        async def story() -> None:
            async with opened(server.url(tls_certificate=str(server.certificate), tls_key=str(server.key))) as broker:
                await broker.declare(new_topic())

        run(story())


def test_who_may_not_use_a_topic_or_a_group_is_told(guarded: KafkaServer) -> None:
    topic = new_topic()

    async def story() -> None:
        async with opened(guarded.url(user="owner", password="o p@ss")) as owner:
            await owner.declare(topic)
        async with opened(guarded.url(user="guest", password="g")) as guest:
            with pytest.raises(AccessRefused, match=topic):
                await guest.declare(topic)
            with pytest.raises(AccessRefused, match=topic):
                await guest.subscribe(topic, group=topic, prefetch=10)
            told = await guest.publish(topic, [message(b"1")])
            assert {index: type(error) for index, error in told.items()} == {0: WiringError}

    run(story())


def test_what_is_not_kafka_is_told(kafka_installed: None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            await refused(f"kafka://127.0.0.1:{port}", WiringError, "not Kafka")

    run(story())


# --------------------------------------------------------------------------------------------------------- topology


def test_a_topic_that_is_not_as_the_url_says_is_told_with_both(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(partitions="3")) as broker:
            await broker.declare(topic)
        for parameters in ({"partitions": "5"}, {"partitions": "5", "create": "no"}):
            async with opened(kafka.url(**parameters)) as broker:
                with pytest.raises(WiringError, match=r"partitions is 3.*says 5"):
                    await broker.declare(topic)
        async with opened(kafka.url()) as broker:
            await broker.declare(topic)

    run(story())


def test_a_new_topic_is_as_the_url_says(kafka: KafkaAddress) -> None:
    topic = new_topic()

    async def story() -> None:
        async with opened(kafka.url(partitions="3", replication="1", retention_seconds="3600")) as broker:
            await broker.declare(topic)

    run(story())
    admin = AdminClient(bootstrap(kafka))
    assert len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == 3


def test_more_copies_than_there_are_brokers_are_refused(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(replication="3")) as broker:
            with pytest.raises(WiringError, match="eplication"):
                await broker.declare(topic)

    run(story())


def test_a_message_too_large_for_its_topic_is_refused_alone_among_many(kafka: KafkaAddress) -> None:
    """Its topic takes less than the broker. A batch that were larger than that would be refused as a whole."""

    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(partitions="1")) as broker:
            await broker.declare(topic)
            await _limit(kafka, topic, 5000)
            await broker.declare(topic)
            member = await broker.subscribe(topic, group=topic, prefetch=1000)
            sent = [message(body) for body in numbered(1, 500)]
            sent[250] = message(b"1" * 5001)
            told = await broker.publish(topic, sent)
            assert {index: type(error) for index, error in told.items()} == {250: MessageRefused}
            assert "5000" in str(told[250])
            assert await bodies(member, 499) == [body for body in numbered(1, 500) if body != b"251"]

    run(story())


async def _limit(kafka: KafkaAddress, topic: str, largest: int) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

    entry = ConfigEntry("max.message.bytes", str(largest), incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient(bootstrap(kafka))
    for future in admin.incremental_alter_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])]
    ).values():
        future.result(30)


def test_new_partitions_are_received_from_by_groups_and_broadcasts(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()
        async with (
            opened(kafka.url(**QUICK | {"partitions": "1"})) as first,
            opened(kafka.url(look_seconds="0.2")) as broker,
        ):
            await first.declare(topic)
            member = await broker.subscribe(topic, group=topic, prefetch=1000)
            broadcast = await broker.subscribe(topic, group=None, prefetch=1000)
            admin = AdminClient(bootstrap(kafka))
            admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
            keys = [f"key-{number}" for number in range(30)]
            for subscription in (member, broadcast):
                partitions: set[int] = set()
                while len(partitions) < 3:
                    assert await broker.publish(topic, [message(b"1", key) for key in keys]) == {}
                    partitions |= {one.partition for one in await subscription.receive(1000)}

    run(story())


def test_a_topic_that_was_deleted_and_made_again_is_another_one(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(**QUICK)) as broker, opened(kafka.url(**QUICK)) as other:
            member = await broker.subscribe(topic, group=topic, prefetch=1000)
            broadcast = await broker.subscribe(topic, group=None, prefetch=1000)
            await publish(broker, topic, b"1")
            await bodies(member, 1)
            await bodies(broadcast, 1)
            await other.remove(topic)
            await other.declare(topic)
            for subscription in (member, broadcast):
                with pytest.raises(WiringError, match=r"gone|made again"):
                    await subscription.receive(1)
            again = await broker.subscribe(topic, group=topic, prefetch=1000)
            await publish(broker, topic, b"2")
            assert await bodies(again, 1) == [b"2"]

    run(story())


# ------------------------------------------------------------------------------------------------------------ groups


def test_a_group_that_began_now_and_accepted_nothing_gets_what_came_while_it_was_away(kafka: KafkaAddress) -> None:
    """An offset that is only kept in a member would begin at the end again."""

    async def story() -> None:
        topic = new_topic()
        async with opened(kafka.url(**QUICK)) as broker:
            member = await broker.subscribe(topic, group=topic, start="now", prefetch=1000)
            await publish(broker, topic, *numbered(1, 3))
            assert await bodies(member, 3) == numbered(1, 3)
            await member.close()
            await publish(broker, topic, *numbered(4, 5))
            member = await broker.subscribe(topic, group=topic, start="now", prefetch=1000)
            assert await bodies(member, 5) == numbered(1, 5)

    run(story())


def test_a_member_with_a_slow_handler_gives_up_its_partitions_when_that_is_done_and_not_before(
    kafka: KafkaAddress,
) -> None:
    async def story() -> None:
        topic = new_topic()
        done, asked = asyncio.Event(), asyncio.Event()

        async def finish(partitions: frozenset[int]) -> None:
            asked.set()
            await done.wait()
            await first.accept([one for one in held if one.partition in partitions])

        async with opened(kafka.url(**QUICK)) as broker, opened(kafka.url(**QUICK)) as another:
            first = await broker.subscribe(topic, group=topic, prefetch=1000, revoked=finish)
            keys = [f"key-{number}" for number in range(20)]
            assert await broker.publish(topic, [message(b"1", key) for key in keys]) == {}
            held = await take(first, 20)
            second = await another.subscribe(topic, group=topic, prefetch=1000)
            await asked.wait()
            came = WORLD.spawn(_all_of(second), name="second")
            await publish(broker, topic, *numbered(101, 200))
            assert not came.done()
            done.set()
            await publish(another, topic, b"last")
            assert await another.publish(topic, [message(b"2", key) for key in keys]) == {}
            received = [one for one in await came if one.body in (b"1", b"2")]
            assert received
            assert all(one.body == b"2" for one in received)

    async def _all_of(member: Subscription) -> list[Received]:
        """Until something came of what was published last."""
        taken: list[Received] = []
        while not any(one.body == b"2" for one in taken):
            taken += await member.receive(1000)
        return taken

    run(story())


def test_a_handler_that_never_finishes_holds_a_partition_for_no_longer_than_is_allowed(kafka: KafkaAddress) -> None:
    async def story() -> None:
        topic = new_topic()

        async def never(partitions: frozenset[int]) -> None:
            await asyncio.Event().wait()

        patient = kafka.url(**QUICK, rebalance_seconds="2")
        async with opened(patient) as broker, opened(patient) as another:
            first = await broker.subscribe(topic, group=topic, prefetch=1000, revoked=never)
            assert await broker.publish(topic, [message(b"1", f"key-{number}") for number in range(20)]) == {}
            await take(first, 20)
            second = await another.subscribe(topic, group=topic, prefetch=1000)
            assert {one.body for one in await second.receive(1000)} == {b"1"}

    run(story())


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_a_connection_cut_in_the_midst_of_publishing_loses_and_doubles_nothing(kafka_installed: None) -> None:
    with Relay() as relay:
        advertised = {"advertised.listeners": f"CLIENT://127.0.0.1:{relay.port}"}
        with KafkaServer(settings=advertised) as server:
            relay.behind = server.port

            async def story() -> None:
                topic = new_topic()
                async with opened(KafkaAddress(relay.port, server.version).url(partitions="1")) as broker:
                    await broker.declare(topic)
                    for first in range(0, 20_000, 2000):
                        sent = numbered(first, first + 1999)
                        publishing = WORLD.spawn(publish(broker, topic, *sent), name="publish")
                        await asyncio.sleep(0)
                        relay.sever()
                        await publishing
                    member = await broker.subscribe(topic, group=topic, prefetch=1000)
                    received: list[bytes] = []
                    while len(received) < 20_000:
                        came = await member.receive(1000)
                        received += [one.body for one in came]
                        await member.accept(came)
                    assert received == numbered(0, 19_999)

            run(story())


def stopped(pid: int) -> bool:
    """Whether every thread of a process has stopped, as the kernel says."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def test_what_a_server_does_not_answer_is_given_up_and_may_be_stored(own_kafka: KafkaServer) -> None:
    async def story() -> None:
        topic = new_topic()
        async with opened(own_kafka.url()) as broker:
            await publish(broker, topic, b"0")  # the first one to a new server takes longer
        async with opened(own_kafka.url(delivery_seconds="1")) as broker:
            await publish(broker, topic, b"1")
            os.kill(own_kafka.pid, signal.SIGSTOP)
            while not stopped(own_kafka.pid):  # until then a thread of it may still answer
                pass
            try:
                told = await broker.publish(topic, [message(b"2")])
            finally:
                os.kill(own_kafka.pid, signal.SIGCONT)
            assert {index: type(error) for index, error in told.items()} == {0: OutcomeUnknown}

    run(story())


def test_what_was_confirmed_before_a_disk_was_full_is_there_when_it_has_room_again(
    may_mount: None, kafka_installed: None, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "disk", 200) as disk,
        KafkaServer(place=disk, settings={"log.segment.bytes": 1 << 20}) as server,
    ):

        async def until_full() -> tuple[str, int]:
            topic = new_topic()
            async with opened(server.url(away_seconds="0.3", delivery_seconds="3", partitions="1")) as broker:
                await publish(broker, topic, b"0")
                confirmed = 1
                filler = fill(disk, leave=2 << 20)
                while True:
                    bodies = numbered(confirmed, confirmed + 99)
                    told = await broker.publish(topic, [message(body.rjust(1000, b"0")) for body in bodies])
                    if told:
                        assert {type(error) for error in told.values()} <= {Unavailable, OutcomeUnknown}
                        filler.unlink()
                        return topic, confirmed
                    confirmed += 100

        async def what_is_there(topic: str, confirmed: int) -> None:
            async with opened(server.url(partitions="1")) as broker:
                member = await broker.subscribe(topic, group=topic, prefetch=confirmed)
                received = [int(body) for body in await bodies(member, confirmed)]
                assert received == list(range(confirmed))

        topic, confirmed = run(until_full())
        assert confirmed > 1
        if server.running():
            server.kill()
        server.start()
        run(what_is_there(topic, confirmed))
