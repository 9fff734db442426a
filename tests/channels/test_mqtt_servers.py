"""What MQTT servers say and do: who is let in, what they refuse, drop and lose, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import mqtt5
import pytest

from ensue.channels.base import Message
from ensue.channels.mqtt import WINDOW, MqttBroker
from ensue.channels.urls import place
from ensue.errors import (
    AccessRefused,
    EnsueError,
    MessageRefused,
    MissingCapability,
    OutcomeUnknown,
    Unavailable,
    WiringError,
)
from ensue.testing.contracts.channels import bodies, numbered
from tests.channels.on_mqtt import GRANTED, WORLD, Line, Scripted, made, new_topic, opened, story, taken
from tests.servers.mosquitto import MosquittoAddress, MosquittoServer

QOS = mqtt5.QoS.AT_LEAST_ONCE


@pytest.fixture(scope="module")
def guarded(mosquitto_installed: None) -> Iterator[MosquittoServer]:
    """A server with users, of whom `guest` may only write to topics below `open`."""
    access = ["user owner", "topic readwrite #", "user guest", "topic readwrite open/#"]
    with MosquittoServer(users={"owner": "p@ss: word", "guest": "guest"}, access=access) as server:
        yield server


@pytest.fixture(scope="module")
def secure(mosquitto_installed: None) -> Iterator[MosquittoServer]:
    """A server that speaks TLS, and wants a certificate of whoever comes."""
    with MosquittoServer(tls=True, settings={"require_certificate": "true"}) as server:
        yield server


async def refusal(url: str) -> EnsueError:
    """Why it cannot be opened."""
    broker = MqttBroker(place(url))
    try:
        with pytest.raises(EnsueError) as caught:
            await broker.open(WORLD)
        return caught.value
    finally:
        await broker.close()


async def goes_round(url: str, topic: str) -> None:
    """Publish and receive there."""
    async with opened(url) as broker:
        subscription = await broker.subscribe(topic, group="billing", prefetch=10)
        assert not await broker.publish(topic, made(b"1"))
        assert bodies(await taken(subscription, 1)) == [b"1"]


async def ends(broker: MqttBroker) -> bool:
    """Wait until its connection is broken."""
    while True:
        try:
            await broker.declare("orders")
        except Unavailable:
            return True
        await asyncio.sleep(0.005)


# --------------------------------------------------------------------------------------------------------- who is let in


@story
async def test_a_user_with_a_password_is_let_in(guarded: MosquittoServer) -> None:
    await goes_round(guarded.url(user="owner", password="p@ss: word"), new_topic())


@story
async def test_a_wrong_password_is_access_refused_in_one_attempt_and_not_shown(guarded: MosquittoServer) -> None:
    before = guarded.log.read_text().count("New connection")
    for url in (guarded.url(user="owner", password="s3cret"), guarded.url()):
        error = await refusal(url)
        assert type(error) is AccessRefused
        assert "s3cret" not in str(error)
        assert "127.0.0.1" in str(error)
    assert guarded.log.read_text().count("New connection") == before + 2


@story
async def test_what_a_user_may_not_write_is_access_refused(guarded: MosquittoServer) -> None:
    url = guarded.url(user="guest", password="guest")
    async with opened(url) as broker:
        told = await broker.publish("closed/orders", made(b"1"))  # Debian's Mosquitto hangs up after one
        assert type(told[0]) is AccessRefused
        assert "closed/orders" in str(told[0])
    async with opened(url) as broker:
        assert not await broker.publish("open/orders", made(b"1"))


@story
async def test_a_server_is_trusted_by_its_certificate_and_the_client_by_its_own(secure: MosquittoServer) -> None:
    own = {"tls_certificate": str(secure.certificate), "tls_key": str(secure.key)}
    await goes_round(secure.url(**own), new_topic())


@story
async def test_without_a_certificate_that_is_asked_for_nobody_is_let_in_and_is_told_why(
    secure: MosquittoServer,
) -> None:
    error = await refusal(secure.url())
    # With TLS 1.3 the end of the connection may overtake what the server says.
    assert isinstance(error, AccessRefused | Unavailable)
    assert "tls_certificate" in str(error)


@story
async def test_a_certificate_that_is_not_trusted_is_told(secure: MosquittoServer) -> None:
    error = await refusal(f"mqtts://127.0.0.1:{secure.port}")
    assert type(error) is WiringError
    assert "tls_ca" in str(error)


@story
async def test_files_for_tls_that_are_missing_are_told(secure: MosquittoServer) -> None:
    for wrong in ({"tls_certificate": "/no/such/file"}, {"tls_key": "/some/file"}, {"tls_ca": "/no/such/file"}):
        error = await refusal(secure.url(**wrong))
        assert type(error) is WiringError
        assert "tls_certificate" in str(error)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mqtt://", "host"),
        ("mqtt://host/orders", "address=orders"),
        ("mqtt://host?session_seconds=soon", "session_seconds"),
        ("mqtt://host?retained=1", "retained"),
        ("mqtt://host?client=a%0Ab", "client"),
    ],
)
def test_a_url_that_says_what_there_is_not_is_told(wrong: str, said: str) -> None:
    with pytest.raises(WiringError, match=said):
        MqttBroker(place(wrong))


# ------------------------------------------------------------------------------------------------------ other servers


@story
async def test_what_is_no_server_of_mqtt_5_is_told() -> None:
    others = {
        "mqtt 3": Scripted(connect=b"\x20\x02\x00\x01"),
        "amqp": Scripted(b"AMQP\x00\x00\x09\x01"),
        "http": Scripted(connect=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        "another packet": Scripted(connect=[mqtt5.PingRespPacket()]),
        "another version": Scripted(
            connect=[mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION)]
        ),
        "no QoS 1": Scripted(connect=[mqtt5.ConnAckPacket(max_qos=mqtt5.QoS.AT_MOST_ONCE)]),
    }
    found: dict[str, type[EnsueError]] = {}
    for name, other in others.items():
        async with other:
            found[name] = type(await refusal(other.url))
    assert found == dict.fromkeys(others, WiringError)


@story
async def test_one_that_does_not_answer_is_unavailable_after_the_seconds_that_were_said() -> None:
    async with Scripted(connect=b"") as silent:
        started = WORLD.monotonic()
        assert "0.2 s" in str(await refusal(f"{silent.url}?connect_seconds=0.2"))
        assert 0.2 <= WORLD.monotonic() - started < 5


@story
async def test_of_several_hosts_the_first_that_answers_is_taken(own_mosquitto: MosquittoServer) -> None:
    with MosquittoServer() as dead:
        dead.stop()
        url = own_mosquitto.url().replace("127.0.0.1:", f"127.0.0.1:{dead.port},127.0.0.1:")
        await goes_round(url, "orders")


@story
async def test_one_that_says_nothing_any_more_is_noticed() -> None:
    async with (
        Scripted(subscribe=[GRANTED]) as falls_silent,
        opened(f"{falls_silent.url}?keep_alive_seconds=1") as broker,
    ):
        subscription = await broker.subscribe("orders", group="billing", prefetch=10)
        with pytest.raises(Unavailable, match="nothing was heard"):
            await subscription.receive(1)


@story
async def test_one_that_has_nothing_to_say_is_kept() -> None:
    async with (
        Scripted(subscribe=[GRANTED], pingreq=[mqtt5.PingRespPacket()]) as quiet,
        opened(f"{quiet.url}?keep_alive_seconds=1") as broker,
    ):
        subscription = await broker.subscribe("orders", group="billing", prefetch=10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(subscription.receive(1), 2.2)
        await broker.declare("orders")


@story
async def test_one_that_keeps_sessions_for_less_than_was_asked_is_told() -> None:
    greeting = mqtt5.ConnAckPacket(session_expiry_interval=60)
    async with Scripted(connect=[greeting], subscribe=[GRANTED]) as forgets:
        async with opened(forgets.url) as broker:
            with pytest.raises(WiringError, match="session_seconds=60"):
                await broker.subscribe("orders", group="billing", prefetch=10)
        async with opened(f"{forgets.url}?session_seconds=60") as broker:
            await broker.subscribe("orders", group="billing", prefetch=10)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (mqtt5.SubAckReasonCode.NOT_AUTHORIZED, AccessRefused),
        (mqtt5.SubAckReasonCode.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, MissingCapability),
        (mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE, WiringError),
        (mqtt5.SubAckReasonCode.QUOTA_EXCEEDED, Unavailable),
    ],
)
@story
async def test_a_subscription_that_is_not_granted_is_told(code: mqtt5.SubAckReasonCode, kind: type[EnsueError]) -> None:
    async with Scripted(subscribe=[mqtt5.SubAckPacket(1, [code])]) as server, opened(server.url) as broker:
        with pytest.raises(kind, match="orders"):
            await broker.subscribe("orders", group="billing", prefetch=10)
        await broker.declare("orders")


@story
async def test_messages_are_acknowledged_in_the_order_in_which_they_came_and_no_sooner_than_accepted() -> None:
    came = [mqtt5.PublishPacket("orders", b"%d" % number, qos=QOS, packet_id=number) for number in (7, 3, 9, 5)]
    async with Scripted(subscribe=[*came[:2], GRANTED, *came[2:]]) as server, opened(server.url) as broker:
        subscription = await broker.subscribe("orders", group="billing", prefetch=10)
        received = await taken(subscription, 4)
        await subscription.accept([received[2], received[0]])
        await subscription.close()
        acknowledged = [packet.packet_id for packet in server.heard if isinstance(packet, mqtt5.PubAckPacket)]
        assert acknowledged == [7, 3, 9]


@story
async def test_no_more_are_received_than_the_prefetch_also_when_the_server_sends_more() -> None:
    """As Mosquitto does when a member comes back."""
    came = [mqtt5.PublishPacket("orders", b"%d" % number, qos=QOS, packet_id=number) for number in range(1, 8)]
    async with Scripted(subscribe=[*came[:5], GRANTED, *came[5:]]) as server, opened(server.url) as broker:
        subscription = await broker.subscribe("orders", group="billing", prefetch=3)
        received = await subscription.receive(10)
        assert bodies(received) == numbered(1, 3)
        receiving = asyncio.ensure_future(subscription.receive(10))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not receiving.done()
        await subscription.accept(received[:2])
        assert bodies(await receiving) == numbered(4, 5)
        await subscription.accept(received[2:])
        assert bodies(await subscription.receive(10)) == numbered(6, 6)


@story
async def test_a_server_that_is_full_says_so_and_stored_nothing() -> None:
    full = mqtt5.PubAckPacket(1, reason_code=mqtt5.PubAckReasonCode.QUOTA_EXCEEDED)
    async with Scripted(publish=[full]) as server, opened(server.url) as broker:
        told = await broker.publish("orders", made(b"1"))
        assert type(told[0]) is Unavailable
        assert "quota exceeded" in str(told[0])


# ----------------------------------------------------------------------------------------------------------- too much


@story
async def test_the_largest_packet_is_known_and_what_is_larger_is_refused_alone(mosquitto_installed: None) -> None:
    with MosquittoServer(settings={"max_packet_size": 5000}) as server:
        async with opened(server.url()) as broker:
            assert broker.capabilities.largest == 5000
            subscription = await broker.subscribe("orders", group="billing", prefetch=10)
            told = await broker.publish("orders", made(b"before", b"x" * 5000, b"x" * 4900, b"after"))
            assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
            assert "5000" in str(told[1])
            assert [len(body) for body in bodies(await taken(subscription, 3))] == [6, 4900, 5]


@story
async def test_what_is_above_the_limit_that_mosquitto_tells_nobody_is_refused_and_breaks_the_connection(
    mosquitto_installed: None,
) -> None:
    with MosquittoServer(settings={"message_size_limit": 5000}) as server:
        async with opened(server.url()) as broker:
            told = await broker.publish("orders", made(b"before", b"x" * 5001))
            assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
            assert await ends(broker)


@story
async def test_what_mosquitto_drops_because_a_queue_is_full_it_confirms_all_the_same(mosquitto_installed: None) -> None:
    """A promise that is not kept, and cannot be: nothing tells."""
    with MosquittoServer(settings={"max_queued_messages": 10}) as server:
        async with opened(server.url()) as broker:
            await (await broker.subscribe("orders", group="billing", prefetch=10)).close()
            assert not await broker.publish("orders", made(*numbered(1, 50)))
            member = await broker.subscribe("orders", group="billing", prefetch=100)
            assert bodies(await taken(member, 10)) == numbered(1, 10)
            assert not await broker.publish("orders", made(b"51"))
            assert bodies(await taken(member, 1)) == [b"51"]


@story
async def test_a_text_that_mosquitto_would_hang_up_on_is_refused_alone(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        subscription = await broker.subscribe(topic, group="billing", prefetch=100)
        wrong = ["\0", "a\nb", "\x1f", "\x7f", "\x80", "\ufdd0", "\uffff", "\U0010ffff", "\ud800", "x" * 65536]
        allowed = ["", '"quoted"', "back\\slash", "ü\xa0\u200b\ufffd\ue000 🙂", "x" * 65535]
        for text in wrong:
            for headers in ({"note": text}, {text: "note"}):
                told = await broker.publish(topic, [Message(body=b"1", headers=headers)])
                assert type(told[0]) is MessageRefused, ascii(text[:10])
        told = await broker.publish(topic, [Message(body=b"1", headers={}, content_type="a\nb")])
        assert type(told[0]) is MessageRefused
        assert not await broker.publish(topic, [Message(body=b"2", headers={"note": text}) for text in allowed])
        assert [one.header("note") for one in await taken(subscription, len(allowed))] == allowed


@story
async def test_ten_thousand_messages_that_nobody_accepted_are_all_there_for_the_next(
    mosquitto: MosquittoAddress,
) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker:
        member = await broker.subscribe(topic, group="billing", prefetch=20000)
        assert not await broker.publish(topic, made(*numbered(1, 10_000)))
        await taken(member, 6_000)
        await broker.close()
    async with opened(mosquitto.url()) as broker:
        member = await broker.subscribe(topic, group="billing", prefetch=20000)
        received = await taken(member, 10_000)
        assert bodies(received) == numbered(1, 10_000)
        await member.accept(received)


# ---------------------------------------------------------------------------------------------------------- how it ends


@story
async def test_why_a_server_ends_a_connection_is_told() -> None:
    ending = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER, reason_str="by another")
    async with Scripted(subscribe=[GRANTED, ending]) as server, opened(server.url) as broker:
        subscription = await broker.subscribe("orders", group="billing", prefetch=10)
        with pytest.raises(Unavailable, match=r"session taken over \(by another\)"):
            await subscription.receive(1)
        await broker.declare("orders")


@story
async def test_what_is_no_packet_breaks_the_connection_and_what_came_before_it_is_received() -> None:
    one = mqtt5.PublishPacket("orders", b"1", qos=QOS, packet_id=1).write()
    answers = GRANTED.write() + one + b"\xf0\x01\x00"
    async with Scripted(subscribe=answers) as server, opened(server.url) as broker:
        subscription = await broker.subscribe("orders", group="billing", prefetch=10)
        assert bodies(await subscription.receive(1)) == [b"1"]
        with pytest.raises(Unavailable, match="no packet"):
            await subscription.receive(1)


@story
async def test_what_was_confirmed_survives_a_server_that_stops_in_good_order(own_mosquitto: MosquittoServer) -> None:
    async with opened(own_mosquitto.url()) as broker:
        member = await broker.subscribe("orders", group="billing", prefetch=10)
        assert not await broker.publish("orders", made(*numbered(1, 20)))
        await member.accept((await taken(member, 10))[:4])
        await broker.close()
    await asyncio.to_thread(own_mosquitto.restart)
    async with opened(own_mosquitto.url()) as broker:
        assert not await broker.publish("orders", made(*numbered(21, 25)))
        member = await broker.subscribe("orders", group="billing", prefetch=100)
        assert bodies(await taken(member, 21)) == numbered(5, 25)


@story
async def test_a_server_that_is_killed_has_what_it_saved_and_not_what_it_confirmed_since(
    own_mosquitto: MosquittoServer,
) -> None:
    """Why it is not called durable."""
    async with opened(own_mosquitto.url()) as broker:
        assert broker.capabilities.durable is False
        await (await broker.subscribe("orders", group="billing", prefetch=10)).close()
        assert not await broker.publish("orders", made(b"saved"))
        await asyncio.to_thread(own_mosquitto.save)
        assert not await broker.publish("orders", made(b"lost"))
        await asyncio.to_thread(own_mosquitto.kill)
    await asyncio.to_thread(own_mosquitto.start)
    async with opened(own_mosquitto.url()) as broker:
        assert not await broker.publish("orders", made(b"after"))
        member = await broker.subscribe("orders", group="billing", prefetch=10)
        assert bodies(await taken(member, 2)) == [b"saved", b"after"]


def test_whoever_has_a_server_that_is_durable_can_say_so() -> None:
    assert MqttBroker(place("mqtt://host?durable=yes")).capabilities.durable is True


@story
async def test_a_connection_that_is_cut_in_the_middle_of_a_publish_leaves_the_outcome_unknown(
    mosquitto: MosquittoAddress,
) -> None:
    topic = new_topic()
    async with Line(mosquitto.port) as line, opened(mosquitto.url()) as receives:
        subscription = await receives.subscribe(topic, group="billing", prefetch=WINDOW)
        async with opened(line.url) as broker:
            assert not await broker.publish(topic, made(b"before"))
            line.waits()
            publishing = asyncio.ensure_future(broker.publish(topic, made(*numbered(1, WINDOW + 100))))
            # All that could be sent was sent, and confirmed to nobody.
            assert bodies(await taken(subscription, WINDOW)) == [b"before", *numbered(1, WINDOW - 1)]
            line.cut()
            told = await publishing
            kinds = [type(told.get(index)) for index in range(WINDOW + 100)]
            assert kinds == [OutcomeUnknown] * WINDOW + [Unavailable] * 100
            assert type((await broker.publish(topic, made(b"after")))[0]) is Unavailable


@story
async def test_when_the_connection_to_publish_on_breaks_nothing_is_received_any_more(
    mosquitto: MosquittoAddress,
) -> None:
    async with Line(mosquitto.port) as line, opened(line.url) as broker:
        subscription = await broker.subscribe(new_topic(), group="billing", prefetch=10)
        line.cut()
        with pytest.raises(Unavailable):
            await subscription.receive(1)
        with pytest.raises(Unavailable):
            await broker.subscribe("orders", group="billing", prefetch=10)


@story
async def test_a_publish_that_is_cancelled_sends_nothing_more(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with Line(mosquitto.port) as line, opened(mosquitto.url()) as receives, opened(line.url) as broker:
        subscription = await receives.subscribe(topic, group="billing", prefetch=WINDOW + 200)
        line.waits()
        publishing = asyncio.ensure_future(broker.publish(topic, made(*numbered(1, WINDOW + 100))))
        assert len(await taken(subscription, WINDOW)) == WINDOW
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        line.goes_on()
        assert not await broker.publish(topic, made(b"next"))
        assert bodies(await taken(subscription, 1)) == [b"next"]


@story
async def test_a_number_that_has_no_answer_yet_is_given_to_no_other_message(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with Line(mosquitto.port) as line, opened(mosquitto.url()) as receives, opened(line.url) as broker:
        subscription = await receives.subscribe(topic, group="billing", prefetch=100)
        line.waits()
        first = asyncio.ensure_future(broker.publish(topic, made(*numbered(1, 5))))
        await asyncio.sleep(0)
        broker._number = 65533  # all the others were used meanwhile
        second = asyncio.ensure_future(broker.publish(topic, made(*numbered(6, 15))))
        assert bodies(await taken(subscription, 15)) == numbered(1, 15)
        assert sorted(broker._sent) == [*range(1, 14), 65534, 65535]
        line.goes_on()
        assert (await first, await second) == ({}, {})
        assert not broker._sent


@story
async def test_a_member_whose_group_is_removed_is_told(mosquitto: MosquittoAddress) -> None:
    topic = new_topic()
    async with opened(mosquitto.url()) as broker, opened(mosquitto.url()) as removes:
        subscription = await broker.subscribe(topic, group="billing", prefetch=10)
        assert not await broker.publish(topic, made(b"1"))
        receiving = asyncio.ensure_future(subscription.receive(1))
        assert bodies(await receiving) == [b"1"]
        receiving = asyncio.ensure_future(subscription.receive(1))
        await removes.remove(topic, groups=["billing"])
        with pytest.raises(Unavailable):
            await receiving
        subscription = await removes.subscribe(topic, group="billing", prefetch=10)
        assert not await removes.publish(topic, made(b"2"))
        assert bodies(await subscription.receive(1)) == [b"2"]
