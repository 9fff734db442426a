"""MQTT 5 as a channel, on a real Mosquitto: what every broker promises, and what only this one has."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlencode

import mqtt5
import pytest

from ensue.channels.base import Message
from ensue.channels.mqtt import MqttBroker
from ensue.channels.urls import place
from ensue.errors import Unavailable, WiringError
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    CumulativeContract,
    GroupsContract,
    ProcessesContract,
    RestartContract,
    bodies,
    numbered,
)
from tests.channels.on_mqtt import GRANTED, Scripted, Tool, made, new_topic, opened, story, taken
from tests.servers.mosquitto import MosquittoAddress, MosquittoServer


class OnMosquitto:
    """How the adapter is made."""

    url: str
    knows_addresses = False

    @pytest.fixture(autouse=True)
    def _server(self, mosquitto: MosquittoAddress) -> None:
        self.url = mosquitto.url()

    def broker(self, **parameters: str) -> MqttBroker:
        query = urlencode(parameters, quote_via=quote)
        return MqttBroker(place(f"{self.url}{'&' if '?' in self.url else '?'}{query}" if query else self.url))


class TestContract(
    OnMosquitto, BrokerContract, GroupsContract, CumulativeContract, BroadcastContract, ProcessesContract
):
    """What it declares."""


class TestRestarts(OnMosquitto, RestartContract):
    """With a server of its own."""

    server: MosquittoServer

    @pytest.fixture(autouse=True)
    def _server(self, own_mosquitto: MosquittoServer) -> None:
        self.server = own_mosquitto
        self.url = own_mosquitto.url()

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        if not self.server.running():
            await asyncio.to_thread(self.server.start)


# ------------------------------------------------------------------------------------------------------------- topics


@story
async def test_a_filter_receives_from_all_its_topics_and_tells_which(mosquitto: MosquittoAddress) -> None:
    plant = new_topic()
    async with opened(mosquitto.url()) as broker:
        for group in ("billing", None):
            await broker.declare(f"{plant}/+/temperature")
            subscription = await broker.subscribe(f"{plant}/+/temperature", group=group, prefetch=10)
            for topic in ("north/temperature", "north/pressure", "south/temperature"):
                assert not await broker.publish(f"{plant}/{topic}", made(topic.encode()))
            received = await taken(subscription, 2)
            assert bodies(received) == [b"north/temperature", b"south/temperature"]
            assert [one.where.split(" @ ")[0] for one in received] == [
                f"{plant}/north/temperature",
                f"{plant}/south/temperature",
            ]


@pytest.mark.parametrize("wrong", ["", "plant+/temperature", "plant/#/temperature", "plant\n", "x" * 65536])
@story
async def test_what_is_no_topic_is_told_and_leaves_the_connection(mosquitto: MosquittoAddress, wrong: str) -> None:
    async with opened(mosquitto.url()) as broker:
        with pytest.raises(WiringError):
            await broker.declare(wrong)
        with pytest.raises(WiringError):
            await broker.subscribe(wrong, group="billing", prefetch=10)
        assert {type(error) for error in (await broker.publish(wrong, made(b"1", b"2"))).values()} == {WiringError}
        assert not await broker.publish(new_topic(), made(b"1"))


@story
async def test_a_filter_is_nothing_to_publish_to(mosquitto: MosquittoAddress) -> None:
    async with opened(mosquitto.url()) as broker:
        for address in ("plant/+/temperature", "plant/#"):
            told = await broker.publish(address, made(b"1", b"2"))
            assert {index: type(error) for index, error in told.items()} == dict.fromkeys(range(2), WiringError)


@story
async def test_what_nobody_subscribes_to_is_confirmed_and_gone(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        assert not await broker.publish(topic, made(b"1"))
        subscription = await broker.subscribe(topic, group="billing", prefetch=10)
        assert not await broker.publish(topic, made(b"2"))
        assert bodies(await taken(subscription, 1)) == [b"2"]


# ------------------------------------------------------------------------------------------------------------- groups


@story
async def test_each_address_has_a_group_of_its_own_by_the_same_name(mosquitto: MosquittoAddress) -> None:
    one, other = new_topic(), new_topic()
    async with opened(mosquitto.url()) as broker:
        of_one = await broker.subscribe(one, group="billing", prefetch=10)
        of_other = await broker.subscribe(other, group="billing", prefetch=10)
        assert not await broker.publish(one, made(b"1"))
        assert not await broker.publish(other, made(b"2"))
        assert bodies(await taken(of_one, 1)) == [b"1"]
        assert bodies(await taken(of_other, 1)) == [b"2"]


@story
async def test_its_clients_have_names_that_rules_and_people_can_read(own_mosquitto: MosquittoServer) -> None:
    async with opened(own_mosquitto.url(client="shop")) as broker:
        await broker.subscribe("plant/+/temperature", group="billing", prefetch=10)
        said = own_mosquitto.log.read_text()
        assert " as shop:billing:plant%2F%2B%2Ftemperature (" in said


@story
async def test_named_members_share_and_each_finds_again_what_it_was_given(mosquitto: MosquittoAddress) -> None:
    topic, urls = new_topic(), [mosquitto.url(member=name) for name in ("1", "2")]
    async with opened(urls[0]) as first, opened(urls[1]) as second:
        assert first.capabilities.shares
        members = [await broker.subscribe(topic, group="billing", prefetch=100) for broker in (first, second)]
        assert not await first.publish(topic, made(*numbered(1, 20)))
        given = [bodies(await taken(member, 10)) for member in members]
        assert sorted(int(body) for body in (*given[0], *given[1])) == list(range(1, 21))
        await second.close()
        assert not await first.publish(topic, made(*numbered(21, 24)))
        assert len(await taken(members[0], 2)) == 2
    async with opened(urls[1]) as second:
        member = await second.subscribe(topic, group="billing", prefetch=100)
        again = bodies(await taken(member, 12))
        assert again[:10] == given[1]
        await second.remove(topic, groups=["billing"])


@story
async def test_two_processes_with_one_name_do_not_both_receive(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url(member="1")) as first, opened(mosquitto.url(member="1")) as second:
        before = await first.subscribe(topic, group="billing", prefetch=10)
        await second.subscribe(topic, group="billing", prefetch=10)
        with pytest.raises(Unavailable, match="another client of this name"):
            await before.receive(1)
        await first.declare(topic)


@story
async def test_the_session_of_a_group_is_kept_for_ever_or_as_long_as_was_said_and_that_of_others_not_at_all() -> None:
    async with Scripted(subscribe=[GRANTED]) as server:
        for parameters in ("", "?session_seconds=60"):
            async with opened(server.url + parameters) as broker:
                for group in ("billing", None):
                    await broker.subscribe("orders", group=group, prefetch=10)
        asked = [packet for packet in server.heard if isinstance(packet, mqtt5.ConnectPacket)]
        assert [one.session_expiry_interval for one in asked] == [0, 2**32 - 1, 0, 0, 60, 0]
        assert [one.clean_start for one in asked] == [True, False, True, True, False, True]
        assert [one.receive_max for one in asked[1:3]] == [10, 10]


# ---------------------------------------------------------------------------------------------------- other producers


@story
async def test_what_others_publish_with_qos_0_is_received_and_accepted_however_much_it_is(
    mosquitto: MosquittoAddress,
) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker, Tool(mosquitto.port) as tool:
        subscription = await broker.subscribe(topic, group="billing", prefetch=5)
        tool.says(*(mqtt5.PublishPacket(topic, body) for body in numbered(1, 100)))
        received: list[bytes] = []
        while len(received) < 100:
            some = await subscription.receive(10)
            assert len(some) <= 5
            received += bodies(some)
            await subscription.accept(some)
        assert received == numbered(1, 100)


@story
async def test_a_message_of_a_foreign_producer_comes_with_what_it_has(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker, Tool(mosquitto.port) as tool:
        subscription = await broker.subscribe(topic, group="billing", prefetch=5)
        tool.says(mqtt5.PublishPacket(topic, b"\xff\x00"))
        doubled = [("a", "1"), ("a", "2"), ("partitionkey", "k")]
        tool.says(mqtt5.PublishPacket(topic, b"", content_type="text/plain", user_properties=doubled))
        bare, full = await taken(subscription, 2)
        assert (bare.body, bare.content_type, bare.headers, bare.key) == (b"\xff\x00", None, {}, None)
        assert (full.content_type, full.headers, full.key) == ("text/plain", {"a": "2", "partitionkey": "k"}, "k")


@story
async def test_a_key_travels_as_the_attribute_that_is_for_it(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        subscription = await broker.subscribe(topic, group="billing", prefetch=5)
        given = Message(body=b"1", headers={"partitionkey": "said"}, key="other")
        assert not await broker.publish(topic, [Message(body=b"1", headers={}, key="k"), given])
        received = await taken(subscription, 2)
        assert [one.headers for one in received] == [{"partitionkey": "k"}, {"partitionkey": "said"}]


@story
async def test_what_is_retained_is_received_only_where_that_is_said(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with Tool(mosquitto.port) as tool:
        retained = mqtt5.PublishPacket(topic, b"old", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1, retain=True)
        assert isinstance(await tool.asks(retained), mqtt5.PubAckPacket)
    for parameters, first in (({}, b"new"), ({"retained": "yes"}, b"old")):
        async with opened(mosquitto.url(**parameters)) as broker:
            for group in (f"billing{first.decode()}", None):
                subscription = await broker.subscribe(topic, group=group, prefetch=5)
                assert not await broker.publish(topic, made(b"new"))
                received = await taken(subscription, 1)
                assert bodies(received) == [first]
                await subscription.accept(received)
                await broker.remove(topic, groups=[group] if group else [])


# -------------------------------------------------------------------------------------------------------------- taking


@story
async def test_large_messages_come_whole(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        subscription = await broker.subscribe(topic, group="billing", prefetch=5)
        large = [bytes([number]) * 3_000_000 for number in range(4)]
        assert not await broker.publish(topic, made(*large))
        assert bodies(await taken(subscription, 4)) == large


@story
async def test_one_that_receives_slowly_gets_all_while_much_waits(mosquitto: MosquittoAddress) -> None:
    """More bytes than are read ahead, so that the server has to wait."""
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        subscription = await broker.subscribe(topic, group="billing", prefetch=1000)
        assert not await broker.publish(topic, made(*(b"%d " % number + b"x" * 5000 for number in range(1000))))
        numbers: list[int] = []
        while len(numbers) < 1000:
            some = await subscription.receive(7)
            numbers += [int(body.split()[0]) for body in bodies(some)]
            await subscription.accept(some)
        assert numbers == list(range(1000))
