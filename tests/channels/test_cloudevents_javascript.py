"""Another language reads what we write, and we read what it writes: CloudEvents' official SDK of JavaScript.

Its binding for HTTP stands for NATS, whose rules are the same, and, with the names' prefix exchanged, for AMQP, for which it has
no binding; that for Kafka stands for Redis, where names begin the same.

Three things the SDK does not do are part of the tests: it cuts times to milliseconds; it does not decode values that are
percent-encoded; and its binding for MQTT leaves data in binary mode as text.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import unquote

import msgspec
import pytest

from ensue.channels.base import Message
from ensue.channels.cloudevents import Envelope, decode, encode
from ensue.channels.mqtt import MqttBroker
from ensue.channels.urls import place
from ensue.world import RealWorld
from tests.channels.arrivals import Arrival
from tests.servers.javascript import JavaScript
from tests.servers.mosquitto import MosquittoAddress

Mode = Literal["binary", "structured"]
MODES: tuple[Mode, ...] = ("binary", "structured")
ORDER = Envelope(
    id="0192f0c1-7e5a-7c5b-9a5e-0123456789ab",
    source="/shop/orders",
    type="OrderPlaced",
    version=3,
    time=1_523_073_384_001_000,
    key="4711",
    correlation="0192f0c1-7e5a-7c5b-9a5e-0123456789aa",
    causation="0192f0c1-7e5a-7c5b-9a5e-0123456789a9",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="rojo=00f067aa0ba902b7",
    reply_to="answers",
    headers={"X-Tenant": "grün"},
    extensions={"subject": "4711", "comexampleothervalue": "5"},
    data=b'{"total":"12.50","lines":[1,2,3],"text":"\xc3\xa4"}',
)
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "0192f0c1-7e5a-7c5b-9a5e-0123456789ab",
    "source": "/shop/orders",
    "type": "OrderPlaced",
    "time": "2018-04-07T03:56:24.001Z",
    "datacontenttype": "application/json",
    "dataversion": "3",
    "partitionkey": "4711",
    "correlationid": "0192f0c1-7e5a-7c5b-9a5e-0123456789aa",
    "causationid": "0192f0c1-7e5a-7c5b-9a5e-0123456789a9",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "rojo=00f067aa0ba902b7",
    "replyto": "answers",
    "headers": '{"X-Tenant":"grün"}',
    "subject": "4711",
    "comexampleothervalue": "5",
}
EVENT = {**ATTRIBUTES, "data": json.loads(ORDER.data)}
"""The same event as the SDK makes it."""

BINDINGS = [("kafka", "ce_"), ("mqtt", ""), ("http", "ce-"), ("http", "cloudEvents:"), ("http", "cloudEvents_")]


@pytest.fixture(scope="module")
def sdk(javascript_installed: None) -> Iterator[JavaScript]:
    with JavaScript("sdk.js") as program:
        yield program


def renamed(headers: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    return {new + name.removeprefix(old): value for name, value in headers.items()}


def asked(binding: str, prefix: str, message: Message) -> dict[str, Any]:
    """The request to read a message of ours."""
    headers = renamed(message.headers, prefix, "ce-") if binding == "http" else dict(message.headers)
    body = b64encode(message.body).decode()
    return {"read": binding, "headers": headers, "contentType": message.content_type, "key": message.key, "body": body}


def received(answer: Mapping[str, Any], prefix: str) -> Arrival:
    """A message of the SDK, as it comes from a broker: with texts for values."""
    headers = {name: str(value) for name, value in answer["headers"].items() if name != "content-type"}
    if prefix.startswith("cloudEvents"):
        headers = renamed(headers, "ce-", prefix)
    body, key = b64decode(answer["body"]), answer.get("key")
    return Arrival(body, headers, content_type=answer.get("contentType"), key=key)


def texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in attributes.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("binding", "prefix"), BINDINGS)
def test_the_sdk_reads_what_we_write(sdk: JavaScript, binding: str, prefix: str, mode: Mode) -> None:
    event = sdk.ask(asked(binding, prefix, encode(ORDER, prefix=prefix, format=mode)))
    found = texts(event["attributes"])
    if prefix == "ce-" and mode == "binary":
        found = {name: unquote(value) for name, value in found.items()}
    assert found == ATTRIBUTES
    assert json.loads(b64decode(event["data"])) == json.loads(ORDER.data)
    assert event["parsed"] is not (binding == "mqtt" and mode == "binary")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("binding", "prefix"), BINDINGS)
def test_we_read_what_the_sdk_writes(sdk: JavaScript, binding: str, prefix: str, mode: Mode) -> None:
    answer = sdk.ask({"write": binding, "mode": mode, "event": EVENT})
    found = decode(received(answer, prefix), prefix=prefix)
    assert json.loads(found.data) == json.loads(ORDER.data)
    assert msgspec.structs.replace(found, data=ORDER.data) == ORDER


@pytest.mark.parametrize(("binding", "prefix"), BINDINGS)
def test_the_sdk_reads_bytes_that_are_no_text(sdk: JavaScript, binding: str, prefix: str) -> None:
    picture = Envelope(id="1", source="/s", type="T", time=0, data=bytes(range(256)), content_type="image/png")
    event = sdk.ask(asked(binding, prefix, encode(picture, prefix=prefix, format="structured")))
    assert b64decode(event["data"]) == picture.data
    assert event["attributes"]["datacontenttype"] == "image/png"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("binding", "prefix"), BINDINGS)
def test_we_read_bytes_that_the_sdk_writes(sdk: JavaScript, binding: str, prefix: str, mode: Mode) -> None:
    event = {"id": "1", "source": "/s", "type": "T", "datacontenttype": "image/png"}
    answer = sdk.ask(
        {"write": binding, "mode": mode, "event": event | {"data_bytes": b64encode(bytes(range(256))).decode()}}
    )
    found = decode(received(answer, prefix), prefix=prefix)
    assert found.data == bytes(range(256))
    assert found.content_type == "image/png"


# ----------------------------------------------------------------------------------------------------- over a real broker


@pytest.mark.parametrize("mode", MODES)
def test_what_we_publish_to_an_mqtt_server_is_an_event_for_the_sdk(
    sdk: JavaScript, mosquitto: MosquittoAddress, mode: Mode
) -> None:
    world = RealWorld()
    topic = f"orders/{world.new_id().hex()}"

    async def publish() -> None:
        broker = MqttBroker(place(mosquitto.url()))
        await broker.open(world)
        try:
            assert not await broker.publish(topic, [encode(ORDER, prefix=broker.prefix, format=mode)])
        finally:
            await broker.close()

    sdk.ask({"subscribe": topic, "broker": mosquitto.url()})
    asyncio.run(publish())
    event = sdk.listen()
    assert texts(event["attributes"]) == ATTRIBUTES
    assert json.loads(b64decode(event["data"])) == json.loads(ORDER.data)


@pytest.mark.parametrize("mode", MODES)
def test_what_the_sdk_publishes_to_an_mqtt_server_is_an_event_for_us(
    sdk: JavaScript, mosquitto: MosquittoAddress, mode: Mode
) -> None:
    world = RealWorld()
    topic = f"orders/{world.new_id().hex()}"

    async def receive() -> Envelope:
        broker = MqttBroker(place(mosquitto.url()))
        await broker.open(world)
        try:
            subscription = await broker.subscribe(topic, group=None, prefetch=1)
            request = {"publish": topic, "broker": mosquitto.url(), "mode": mode, "event": EVENT}
            await asyncio.to_thread(sdk.ask, request)
            (message,) = await subscription.receive(1)
            return decode(message, prefix=broker.prefix)
        finally:
            await broker.close()

    found = asyncio.run(receive())
    assert json.loads(found.data) == json.loads(ORDER.data)
    assert msgspec.structs.replace(found, data=ORDER.data) == ORDER
