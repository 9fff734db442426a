"""A pattern that runs on a real Flink between two topics of a real Kafka."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ensue.channels.cloudevents import Envelope, decode, encode
from ensue.events.message import declaration, seconds
from ensue.patterns import Pattern, absent, one
from ensue.patterns.flink import Session, Topic, submit
from ensue.world import RealWorld
from tests.channels.arrivals import Arrival
from tests.patterns.flink.cases import A, B, D
from tests.patterns.flink.comparing import Streamed, found_by_the_oracle, random_events
from tests.servers.flink import FlinkAddress
from tests.servers.kafka import KafkaAddress


class Unanswered(Pattern, within=seconds(3), disorder=seconds(1)):
    a = one(A, lambda a: a.ok)
    b = one(B, lambda b: b.price > 0)
    d = absent(D)


PATIENCE_SECONDS = 60.0
LATER = 3600 * 1_000_000


def _bootstrap(kafka: KafkaAddress) -> dict[str, Any]:
    return {"bootstrap.servers": f"127.0.0.1:{kafka.port}", "log_level": 0}


def _publish(kafka: KafkaAddress, topic: str, events: Streamed) -> None:
    """As the channels of Ensue do, and one event behind all deadlines."""
    producer = Producer(_bootstrap(kafka))
    encoder = msgspec.json.Encoder(decimal_format="string")
    end = (events[-1][0] + LATER, len(events), A(who="nobody", ok=False))
    for time, position, event in [*events, end]:
        message = encode(
            Envelope(
                id=str(position),
                source="/tests",
                type=declaration(type(event)).name,
                time=time,
                key=event.who,  # type: ignore[attr-defined]
                data=encoder.encode(event),
            ),
            prefix="ce_",
            format="binary",
        )
        headers: Any = [("content-type", message.content_type), *message.headers.items()]
        producer.produce(topic, message.body, message.key, headers=headers)
    assert producer.flush(30) == 0


def _consume(kafka: KafkaAddress, topic: str, count: int) -> list[Arrival]:
    consumer = Consumer({**_bootstrap(kafka), "group.id": topic, "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        found: list[Arrival] = []
        while len(found) < count:
            record = consumer.poll(PATIENCE_SECONDS)
            assert record is not None, f"{len(found)} of {count} matches came"
            assert record.error() is None, record.error()
            read: Any = record.headers()
            found.append(Arrival(record.value() or b"", {name: value.decode() for name, value in read}))
        return found
    finally:
        consumer.close()


@pytest.mark.slow
def test_a_job_between_two_topics_writes_each_match_as_a_cloudevent_with_an_id_that_it_will_always_have(
    flink: FlinkAddress, kafka: KafkaAddress
) -> None:
    events, matches = f"events-{uuid.uuid4()}", f"matches-{uuid.uuid4()}"
    administrator = AdminClient(_bootstrap(kafka))
    for made in administrator.create_topics([NewTopic(name, 1) for name in (events, matches)]).values():
        made.result()
    given = random_events(30, 7)
    expected = found_by_the_oracle(Unanswered, given)
    assert len(expected) > 3
    servers = f"127.0.0.1:{kafka.port}"

    async def story() -> list[Arrival]:
        _publish(kafka, events, given)
        job = await submit(
            Unanswered,
            gateway=flink.gateway,
            source=Topic(servers=servers, name=events),
            target=Topic(servers=servers, name=matches),
            world=RealWorld(),
            name="WasUnanswered",
        )
        try:
            return await asyncio.to_thread(_consume, kafka, matches, len(expected))
        finally:
            async with Session(flink.gateway, RealWorld()) as session:
                await session.cancel(job)

    found = asyncio.run(story())
    envelopes = [decode(message, prefix="ce_") for message in found]
    bodies = [msgspec.json.decode(message.body) for message in found]
    assert sorted((one["key"], one["started"], one["ended"], (one["a"], one["b"])) for one in bodies) == expected
    assert {envelope.type for envelope in envelopes} == {"WasUnanswered"}
    assert [(envelope.key, envelope.time) for envelope in envelopes] == [(one["key"], one["ended"]) for one in bodies]
    assert len({envelope.id for envelope in envelopes}) == len(expected)
