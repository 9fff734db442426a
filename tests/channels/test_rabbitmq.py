"""The adapter of RabbitMQ against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiormq
import msgspec
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from ensue.channels.base import Message
from ensue.channels.rabbitmq import RabbitBroker
from ensue.channels.urls import place
from ensue.errors import AccessRefused, EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
)
from ensue.world import RealWorld
from tests.servers.rabbitmq import RabbitAddress, RabbitServer


@pytest.fixture(scope="module")
def restarted(rabbitmq_installed: None) -> Iterator[RabbitServer]:
    """A server for tests that stop and kill it, and leave it running."""
    with RabbitServer() as server:
        yield server


class TestContract(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ProcessesContract,
    DurableBrokerContract,
):
    """What it declares."""

    @pytest.fixture(autouse=True)
    def _server(self, restarted: RabbitServer, request: pytest.FixtureRequest) -> None:
        self.server = restarted
        self.url = restarted.url()
        # Only where the server is killed does it matter how soon after a queue was made.
        kills = hasattr(DurableBrokerContract, request.function.__name__)
        self.given = {} if kills else {"settle_seconds": "0.001"}

    def broker(self, **parameters: str) -> RabbitBroker:
        return RabbitBroker(place(f"{self.url}?{urlencode(self.given | parameters)}"))

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        if not self.server.running():
            await asyncio.to_thread(self.server.start)


async def opened(url: str) -> RabbitBroker:
    broker = RabbitBroker(place(url))
    await broker.open(RealWorld())
    return broker


def message(body: bytes, **rest: Any) -> Message:
    return msgspec.structs.replace(Message(body=body, headers={"cloudEvents:id": body.decode()}), **rest)


@pytest.fixture
def address(rabbitmq: RabbitAddress) -> Iterator[str]:
    """An address of the test's own; it, its group `billing` and its dead letters are removed afterwards."""
    name = f"test-{RealWorld().new_id().hex()}"
    yield name

    async def remove() -> None:
        broker = await opened(rabbitmq.url())
        await broker.remove(name, groups=["billing"])
        await broker.remove(f"{name}-dead")
        await broker.close()
        async with raw(rabbitmq) as channel:
            await channel.queue_delete(f"{name}-dead")

    asyncio.run(remove())


@asynccontextmanager
async def raw(server: RabbitAddress) -> AsyncGenerator[AbstractChannel]:
    """What another program sees."""
    connection = await aiormq.connect(server.url())
    try:
        yield await connection.channel()
    finally:
        await connection.close()


class TestOtherPrograms:
    """What they find where they look for it."""

    def test_a_queue_bound_by_the_type_of_events_gets_them_with_id_time_and_content_type(
        self, rabbitmq: RabbitAddress, address: str
    ) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url())
            await broker.declare(address)
            async with raw(rabbitmq) as channel:
                queue = (await channel.queue_declare("", exclusive=True)).queue or ""
                await channel.queue_bind(queue, address, "shop.*")
                headers = {"cloudEvents:id": "17", "cloudEvents:type": "shop.Opened", "traceparent": "00-1"}
                other = {**headers, "cloudEvents:type": "bank.Opened"}
                before = int(time.time())
                assert not await broker.publish(
                    address, [Message(body=b"not this", headers=other), Message(body=b"{}", headers=headers)]
                )
                got = await channel.basic_get(queue, no_ack=True)
            await broker.close()
            properties = got.header.properties
            assert got.body == b"{}"
            assert (properties.message_id, properties.content_type, properties.delivery_mode) == (
                "17",
                "application/json",
                2,
            )
            assert dict(properties.headers or {}) == headers
            assert isinstance(properties.timestamp, datetime)
            assert before <= properties.timestamp.timestamp() <= before + 10

        asyncio.run(story())

    def test_headers_of_all_kinds_are_read_and_both_prefixes_are_one(
        self, rabbitmq: RabbitAddress, address: str
    ) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url())
            subscription = await broker.subscribe(address, group=None, prefetch=10)
            table: dict[str, Any] = {
                "cloudEvents_id": "1",
                "number": 12,
                "large": 1 << 40,
                "yes": True,
                "half": 0.5,
                "list": ["a", 1],
                "deep": {"a": "b"},
                "nothing": None,
                "when": datetime(2026, 1, 1, tzinfo=UTC),
                "last": "Zoë",
            }
            async with raw(rabbitmq) as channel:
                properties = Basic.Properties(headers=table, correlation_id="c", priority=1, message_id="m", app_id="a")
                await channel.basic_publish(b"x", exchange=address, properties=properties)
                await channel.basic_publish(b"y", exchange=address)
            received = [*await subscription.receive(1), *await subscription.receive(1)]
            await broker.close()
            assert received[0].headers == {"cloudEvents:id": "1", "last": "Zoë"}
            assert received[0].content_type is None
            assert received[0].where.endswith(" @ m")
            assert (received[1].body, received[1].headers) == (b"y", {})

        asyncio.run(story())

    def test_rejected_messages_go_where_the_url_says(self, rabbitmq: RabbitAddress, address: str) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url(dead_letter_exchange=f"{address}-dead", settle_seconds="0.001"))
            member = await broker.subscribe(address, group="billing", prefetch=10)
            assert not await broker.publish(address, [message(b"1"), message(b"2"), message(b"3")])
            received = [*await member.receive(3)]
            while len(received) < 3:
                received += await member.receive(3)
            await member.accept([received[0], received[2]])
            await member.reject([received[1]])
            dead: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
            async with raw(rabbitmq) as channel, asyncio.timeout(20):
                await channel.basic_consume(f"{address}-dead", dead.put)
                got = await dead.get()
            await broker.close()
            assert got.body == b"2"

        asyncio.run(story())

    def test_a_queue_that_is_not_as_the_url_says_is_told_with_both(self, rabbitmq: RabbitAddress, address: str) -> None:
        async def story() -> None:
            async with raw(rabbitmq) as channel:
                await channel.queue_declare(f"{address}.billing", durable=True)
            broker = await opened(rabbitmq.url())
            with pytest.raises(WiringError, match=rf"{address}\.billing.*'quorum'.* but current is none"):
                await broker.subscribe(address, group="billing", prefetch=10)
            async with raw(rabbitmq) as channel:
                await channel.exchange_delete(address)
                await channel.exchange_declare(address, exchange_type="direct", durable=True)
            with pytest.raises(WiringError, match=rf"{address}.*received 'topic' but current is 'direct'"):
                await broker.declare(address)
            await broker.close()

        asyncio.run(story())


class TestWhatIsNotTaken:
    """Messages that the server refuses, and how that is told."""

    def test_a_full_queue_is_told_and_takes_more_when_there_is_room(
        self, rabbitmq: RabbitAddress, address: str
    ) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url(max_length="5", settle_seconds="0.001"))
            member = await broker.subscribe(address, group="billing", prefetch=1)
            told: Mapping[int, EnsueError] = {}
            async with asyncio.timeout(20):
                while not told:
                    told = await broker.publish(address, [message(b"x") for _ in range(5)])
                assert {type(error) for error in told.values()} == {Unavailable}
                while told:
                    await member.accept(await member.receive(1))
                    told = await broker.publish(address, [message(b"x")])
            await broker.close()

        asyncio.run(story())

    def test_what_no_group_would_get_is_told_where_the_url_says_so(self, rabbitmq: RabbitAddress, address: str) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url(mandatory="yes", settle_seconds="0.001"))
            await broker.declare(address)
            told = await broker.publish(address, [message(b"1"), message(b"2")])
            assert {index: type(error) for index, error in told.items()} == {0: Unavailable, 1: Unavailable}
            await broker.subscribe(address, group="billing", prefetch=1)
            assert await broker.publish(address, [message(b"3")]) == {}
            await broker.close()

        asyncio.run(story())

    def test_groups_in_the_url_get_what_is_published_before_their_first_member_comes(
        self, rabbitmq: RabbitAddress, address: str
    ) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url(groups="billing", settle_seconds="0.001"))
            await broker.declare(address)
            assert not await broker.publish(address, [message(b"early")])
            member = await broker.subscribe(address, group="billing", prefetch=1)
            assert [received.body for received in await member.receive(1)] == [b"early"]
            await broker.close()

        asyncio.run(story())

    @pytest.mark.parametrize(
        "refused",
        [
            {"headers": {"n" * 256: "x"}},
            {"headers": {"name": "x" * 140_000}},
            {"headers": {"name": "\ud800"}},
            {"headers": {"cloudEvents:type": "x" * 256}},
            {"content_type": "x" * 256},
            {"delay_seconds": 1.0},
        ],
        ids=["name", "headers", "surrogate", "type", "content-type", "delay"],
    )
    def test_what_amqp_cannot_carry_is_refused_alone(
        self, rabbitmq: RabbitAddress, address: str, refused: dict[str, Any]
    ) -> None:
        async def story() -> None:
            broker = await opened(rabbitmq.url())
            subscription = await broker.subscribe(address, group=None, prefetch=10)
            told = await broker.publish(address, [message(b"1"), message(b"2", **refused), message(b"3")])
            assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
            received = [*await subscription.receive(1), *await subscription.receive(1)]
            assert [one.body for one in received] == [b"1", b"3"]
            await broker.close()

        asyncio.run(story())


@pytest.fixture(scope="module")
def guarded(rabbitmq_installed: None) -> Iterator[RabbitServer]:
    """A server that speaks TLS to those who show a certificate, takes small messages and knows a user who may not do all."""
    with RabbitServer(
        tls="verify", users={"guest": ("p@ss/w:rd", "^open.*")}, settings={"max_message_size": 20_000}
    ) as server:
        yield server


class TestAccess:
    """TLS, credentials and what the server allows."""

    def test_messages_go_over_tls_with_a_certificate_of_the_client(self, guarded: RabbitServer) -> None:
        async def story() -> None:
            files = {"tls_ca": guarded.authority, "tls_certificate": guarded.certificate, "tls_key": guarded.key}
            url = guarded.url(tls=True, **{name: str(path) for name, path in files.items()})
            broker = await opened(url)
            subscription = await broker.subscribe("open-tls", group=None, prefetch=100)
            assert not await broker.publish("open-tls", [message(b"%d" % number) for number in range(100)])
            received: list[bytes] = []
            while len(received) < 100:
                received += [one.body for one in await subscription.receive(100)]
            assert received == [b"%d" % number for number in range(100)]
            await broker.close()

        asyncio.run(story())

    def test_a_server_whose_certificate_nobody_vouches_for_is_not_trusted(self, guarded: RabbitServer) -> None:
        with pytest.raises(WiringError, match=r"not trusted.*tls_ca"):
            asyncio.run(opened(guarded.url(tls=True)))

    def test_a_client_without_a_certificate_is_not_let_in(self, guarded: RabbitServer) -> None:
        # What the server says to it may be lost, for it ends the connection at once.
        with pytest.raises((AccessRefused, Unavailable)):
            asyncio.run(opened(guarded.url(tls=True, tls_ca=str(guarded.authority))))

    @pytest.mark.parametrize("which", ["password", "user", "host"])
    def test_credentials_that_are_wrong_are_refused_and_not_shown(self, guarded: RabbitServer, which: str) -> None:
        url = {
            "password": guarded.url(password="s3cret"),
            "user": guarded.url(user="nobody", password="s3cret"),
            "host": guarded.url("elsewhere"),
        }[which]
        with pytest.raises(WiringError if which == "host" else AccessRefused) as told:
            asyncio.run(opened(url))
        assert "s3cret" not in str(told.value)

    def test_a_user_may_do_what_it_may_and_nothing_else(self, guarded: RabbitServer) -> None:
        async def story() -> None:
            broker = await opened(guarded.url(user="guest", password="p@ss/w:rd"))
            await broker.declare("open-1")
            assert not await broker.publish("open-1", [message(b"1")])
            with pytest.raises(AccessRefused, match="closed-1"):
                await broker.declare("closed-1")
            admin = await opened(guarded.url())
            await admin.declare("closed-1")
            told = await broker.publish("closed-1", [message(b"1")])
            assert {index: type(error) for index, error in told.items()} == {0: AccessRefused}
            assert not await broker.publish("open-1", [message(b"2")])
            await admin.close()
            await broker.close()

        asyncio.run(story())

    def test_a_server_that_takes_less_than_is_usual_refuses_what_is_larger(self, guarded: RabbitServer) -> None:
        async def story() -> None:
            broker = await opened(guarded.url())
            await broker.declare("open-2")
            told = await broker.publish("open-2", [message(b"1"), message(b"x" * 20_001), message(b"3")])
            assert type(told[1]) is MessageRefused
            assert {type(error) for error in told.values()} <= {MessageRefused, OutcomeUnknown, Unavailable}
            assert broker.capabilities.largest == 20_000
            told = await broker.publish("open-2", [message(b"1"), message(b"x" * 20_001), message(b"3")])
            assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
            await broker.close()

        asyncio.run(story())

    def test_what_is_no_rabbitmq_is_told(self) -> None:
        async def story() -> None:
            async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(8)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()

            async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(WiringError, match=r"no RabbitMQ.*HTTP"):
                    await opened(f"amqp://127.0.0.1:{port}")

        asyncio.run(story())

    def test_a_server_that_runs_out_of_memory_is_told_and_others_can_still_accept(self, guarded: RabbitServer) -> None:
        async def story() -> None:
            broker = await opened(guarded.url(settle_seconds="0.001"))
            member = await broker.subscribe("open-3", group="billing", prefetch=10)
            assert not await broker.publish("open-3", [message(b"1")])
            received = await member.receive(1)
            await asyncio.to_thread(guarded.alarm, True)
            try:
                async with asyncio.timeout(20):
                    while not (told := await broker.publish("open-3", [message(b"2")])):
                        pass
                    assert isinstance(told[0], OutcomeUnknown | Unavailable)
                    told = await broker.publish("open-3", [message(b"3")])
                    assert isinstance(told[0], Unavailable)
                    await member.accept(received)
                    await member.close()
                    await broker.close()
            finally:
                await asyncio.to_thread(guarded.alarm, False)
            broker = await opened(guarded.url())
            assert not await broker.publish("open-3", [message(b"last")])
            await broker.remove("open-3", groups=["billing"])
            await broker.close()

        asyncio.run(story())


class _Cut:
    """In front of a server: cuts the connection when it has passed on so many bytes of a client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.left = 1 << 60

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._pass_on(from_server, writer, counted=False))
        await self._pass_on(reader, to_server, counted=True)
        for one in (writer, to_server):
            one.transport.abort()
        await back

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while self.left > 0 and (data := await reader.read(65536)):
                if counted:
                    data = data[: self.left]
                    self.left -= len(data)
                writer.write(data)
                await writer.drain()


class TestCuts:
    def test_a_connection_that_is_cut_in_the_middle_of_a_publish_confirms_nothing_that_is_not_there(
        self, rabbitmq: RabbitAddress, address: str
    ) -> None:
        async def story() -> None:
            cut = _Cut(rabbitmq.port)
            admin = await opened(rabbitmq.url(settle_seconds="0.001"))
            member = await admin.subscribe(address, group="billing", prefetch=5000)
            async with await asyncio.start_server(cut, "127.0.0.1", 0) as proxy:
                broker = await opened(rabbitmq.url(port=proxy.sockets[0].getsockname()[1]))
                assert not await broker.publish(address, [message(b"first")])
                cut.left = 300_000
                sent = [message(b"%d" % number, headers={"name": "x" * 300}) for number in range(3000)]
                told = await broker.publish(address, sent)
                assert {type(error) for error in told.values()} <= {OutcomeUnknown, Unavailable}
                assert told, "the connection was cut before all was sent"
                with pytest.raises(Unavailable):
                    await broker.declare(address)
                await broker.close()
            assert not await admin.publish(address, [message(b"last")])
            received: list[bytes] = []
            while b"last" not in received:
                received += [one.body for one in await member.receive(5000)]
            confirmed = {one.body for index, one in enumerate(sent) if index not in told}
            assert confirmed <= set(received)
            not_sent = {sent[index].body for index, error in told.items() if type(error) is Unavailable}
            assert not_sent.isdisjoint(received)
            await admin.close()

        asyncio.run(story())
