"""Streams and consumers of NATS: as they are made, as others made them, full, deleted, and cut off in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from ensue.channels import nats_subscriptions
from ensue.channels.base import Message
from ensue.errors import MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.testing.contracts.channels import bodies, numbered
from tests.channels.on_nats import Line, another_tool, made, new_address, opened, taken, until
from tests.servers.nats import NatsAddress, NatsServer, version


@pytest.fixture
def address() -> str:
    return new_address()


@pytest.mark.parametrize("name", ["orders.*", "orders.>", "two words", "", "a..b", "line\r\nPUB x 0\r\n\r\n"])
def test_an_address_that_is_no_subject_is_told(nats: NatsAddress, name: str) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker:
            with pytest.raises(WiringError, match="no address"):
                await broker.declare(name)
            errors = await broker.publish(name, made(b"1"))
            assert isinstance(errors[0], WiringError)

    asyncio.run(story())


def test_a_stream_that_is_other_than_the_url_says_is_told_with_both(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool:
            await tool.jetstream().add_stream(
                StreamConfig(name=address.replace(".", "_"), subjects=[address], storage=StorageType.MEMORY)
            )
        async with opened(nats.url(storage="file", max_bytes="1000")) as broker:
            with pytest.raises(WiringError, match=r"storage is 'memory' and was to be 'file'.*max_bytes is -1"):
                await broker.declare(address)

    asyncio.run(story())


def test_a_larger_stream_of_another_maker_is_used_and_other_subjects_of_it_do_not_come(
    nats: NatsAddress, address: str
) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url(create="no")) as checks:
            await tool.jetstream().add_stream(StreamConfig(name=f"ALL-{address[-32:]}", subjects=[f"{address}.>"]))
            created, paid = f"{address}.created", f"{address}.paid"
            await checks.declare(created)
            async with opened(nats.url()) as broker:
                member = await broker.subscribe(created, group="billing", prefetch=10)
                await tool.jetstream().publish(paid, b"other")
                assert not await checks.publish(created, made(b"1"))
                assert bodies(await taken(member, 1)) == [b"1"]
                assert member._stream.startswith("ALL-")
                await broker.remove(created, groups=["billing"])
                assert (await tool.jetstream().stream_info(f"ALL-{address[-32:]}")).state.messages == 1

    asyncio.run(story())


def test_subjects_with_wildcards_are_stored_and_received(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url(subjects=f"{address},{address}.>")) as broker:
            await broker.declare(address)
            member = await broker.subscribe(address, group="billing", prefetch=10)
            broadcast = await broker.subscribe(address, group=None, prefetch=10)
            await tool.jetstream().publish(f"{address}.paid", b"1")
            await broker.publish(address, made(b"2"))
            assert bodies(await taken(member, 2)) == [b"1", b"2"]
            assert bodies(await taken(broadcast, 2)) == [b"1", b"2"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (ConsumerConfig(deliver_subject="elsewhere", ack_policy=AckPolicy.EXPLICIT), "deliver_subject"),
        (ConsumerConfig(ack_policy=AckPolicy.ALL), "ack_policy"),
        (ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_deliver=3), "3 deliveries"),
    ],
)
def test_a_consumer_that_would_lose_messages_of_a_group_is_told(
    nats: NatsAddress, address: str, config: ConsumerConfig, match: str
) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await broker.declare(address)
            config.durable_name = "billing"
            await tool.jetstream().add_consumer(address.replace(".", "_"), config)
            with pytest.raises(WiringError, match=match):
                await broker.subscribe(address, group="billing", prefetch=10)

    asyncio.run(story())


def test_a_group_that_is_not_there_is_told_where_nothing_may_be_created(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker, opened(nats.url(create="no")) as checks:
            await broker.declare(address)
            with pytest.raises(WiringError, match="nats consumer add"):
                await checks.subscribe(address, group="billing", prefetch=10)
            await (await broker.subscribe(address, group="billing", prefetch=10)).close()
            await checks.subscribe(address, group="billing", prefetch=10)

    asyncio.run(story())


def test_groups_whose_names_are_no_names_of_consumers_are_kept_apart(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker:
            await broker.declare(address)
            await broker.publish(address, made(b"1"))
            for name in ("a.b", "a b", "a_b", "a>b"):
                member = await broker.subscribe(address, group=name, prefetch=10)
                (received,) = await taken(member, 1)
                await member.accept([received])
                assert received.deliveries == 1

    asyncio.run(story())


def test_addresses_whose_streams_would_have_one_name_are_told(nats: NatsAddress) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker:
            await broker.declare("same.name")
            with pytest.raises(WiringError, match="already in use"):
                await broker.declare("same_name")
            await broker.remove("same.name")

    asyncio.run(story())


def test_other_tools_find_streams_consumers_and_cloudevents_headers(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await broker.declare(address)
            await (await broker.subscribe(address, group="billing", prefetch=10)).close()
            await broker.publish(address, made(b"{}"))
            stream = address.replace(".", "_")
            theirs = await tool.jetstream().pull_subscribe_bind(durable="billing", stream=stream)
            (message,) = await theirs.fetch(1)
            assert message.subject == address
            assert message.headers == {"ce-type": "Opened", "content-type": "application/json"}

    asyncio.run(story())


@pytest.mark.parametrize("waits", [True, False])
def test_a_consumer_that_is_deleted_under_a_member_is_told(nats: NatsAddress, address: str, waits: bool) -> None:
    """Also to one that holds all it may, and so has asked the server for nothing that could be answered."""

    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await broker.declare(address)
            member = await broker.subscribe(address, group="billing", prefetch=1)
            await broker.publish(address, made(b"1"))
            held = await taken(member, 1)
            if waits:
                await member.accept(held)
            await tool.jetstream().delete_consumer(address.replace(".", "_"), "billing")
            if not waits:
                await member.accept(held)
            with pytest.raises(WiringError, match="billing"):
                await taken(member, 1)

    if version() < (2, 11) and not waits:
        pytest.skip("NATS 2.10 does not answer who asks a consumer that is gone; that is noticed by its silence")
    asyncio.run(story())


def test_a_stream_that_is_full_refuses_what_is_new_and_keeps_what_it_has(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url(max_messages="5")) as broker:
            await broker.declare(address)
            assert not broker.capabilities.delay
            errors = await broker.publish(address, made(*numbered(1, 7)))
            assert {index: type(error) for index, error in errors.items()} == {5: Unavailable, 6: Unavailable}
            member = await broker.subscribe(address, group="billing", prefetch=10)
            assert bodies(await taken(member, 5)) == numbered(1, 5)

    asyncio.run(story())


def test_what_a_stream_never_takes_is_refused_alone(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await tool.jetstream().add_stream(
                StreamConfig(name=address.replace(".", "_"), subjects=[address], max_msg_size=100)
            )
            errors = await broker.publish(address, made(b"1", b"x" * 100, b"2"))
            assert {index: type(error) for index, error in errors.items()} == {1: MessageRefused}

    asyncio.run(story())


@pytest.mark.parametrize(
    "headers", [{"ce-note": "two\r\nlines"}, {"ce-note": "\n"}, {"a b": "1"}, {"a:b": "1"}, {"": "1"}, {"x": "\ud800"}]
)
def test_a_header_that_cannot_be_sent_is_refused_and_nothing_of_it_becomes_another_command(
    nats: NatsAddress, address: str, headers: dict[str, str]
) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker:
            await broker.declare(address)
            bad = Message(body=b"bad", headers=headers)
            errors = await broker.publish(address, [*made(b"1"), bad, *made(b"2")])
            assert {index: type(error) for index, error in errors.items()} == {1: MessageRefused}
            member = await broker.subscribe(address, group="billing", prefetch=10)
            assert bodies(await taken(member, 2)) == [b"1", b"2"]

    asyncio.run(story())


def test_many_messages_of_one_call_are_confirmed_and_in_order(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker:
            await broker.declare(address)
            assert not await broker.publish(address, made(*numbered(1, 20_000)))
            member = await broker.subscribe(address, group="billing", prefetch=1000)
            for first in range(1, 20_000, 1000):
                received = await taken(member, 1000)
                assert bodies(received) == numbered(first, first + 999)
                await member.accept(received)

    asyncio.run(story())


def test_a_stream_that_is_deleted_is_told_also_when_broadcasts_listen(nats: NatsAddress, address: str) -> None:
    """To the server a broadcast is somebody who could answer, so it does not say that nobody does."""

    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url(publish_seconds="0.3")) as broker:
            await broker.declare(address)
            broadcast = await broker.subscribe(address, group=None, prefetch=10)
            await tool.jetstream().delete_stream(address.replace(".", "_"))
            errors = await broker.publish(address, made(b"1"))
            assert isinstance(errors[0], WiringError)
            await broadcast.close()
            errors = await broker.publish(address, made(b"1"))
            assert isinstance(errors[0], WiringError)

    asyncio.run(story())


def test_delay_that_a_stream_of_another_maker_has_not_is_told(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await tool.jetstream().add_stream(StreamConfig(name=address.replace(".", "_"), subjects=[address]))
            await broker.declare(address)
            assert not broker.capabilities.delay
            errors = await broker.publish(address, [Message(body=b"1", headers={}, delay_seconds=1)])
            assert isinstance(errors[0], WiringError)
            assert "allow_msg_schedules" in str(errors[0])

    asyncio.run(story())


@pytest.mark.parametrize("bytes_sent", [10, 1000, 20_000])
def test_a_connection_that_is_cut_in_the_middle_of_a_publish_confirms_nothing_that_is_not_there(
    nats: NatsAddress, address: str, bytes_sent: int
) -> None:
    async def story() -> None:
        async with opened(nats.url()) as owner, Line(nats.port) as line:
            await owner.declare(address)
            async with opened(line.url) as broker:
                line.left = bytes_sent
                errors = await broker.publish(address, made(*numbered(0, 999)))
                assert {type(error) for error in errors.values()} <= {OutcomeUnknown, Unavailable}
                assert errors
                await owner.publish(address, made(b"last"))
                member = await owner.subscribe(address, group="billing", prefetch=2000)
                stored: list[bytes] = []
                while b"last" not in stored:
                    stored += bodies(await taken(member, 1))
                assert stored[:-1] == numbered(0, len(stored) - 2)
                confirmed = {b"%d" % index for index in range(1000) if index not in errors}
                assert confirmed <= set(stored)
                sent = {b"%d" % index for index, error in errors.items() if isinstance(error, OutcomeUnknown)}
                assert set(stored[:-1]) <= confirmed | sent, "told as not stored, and there it is"

    asyncio.run(story())


def test_a_server_that_says_nothing_more_is_told_to_publishers_and_members(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_subscriptions, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(nats_subscriptions, "LEAVE_SECONDS", 0.2)
    monkeypatch.setattr("ensue.channels.nats.API_SECONDS", 0.2)

    async def story() -> None:
        async with opened(own_nats.url(publish_seconds="0.3", ack_wait_seconds="0.6")) as broker:
            await broker.declare("orders")
            member = await broker.subscribe("orders", group="billing", prefetch=10)
            os.kill(own_nats.pid, signal.SIGSTOP)
            threads = Path(f"/proc/{own_nats.pid}/task")
            await until(lambda: all(") T" in (one / "stat").read_text() for one in threads.iterdir()))
            try:
                errors = await broker.publish("orders", made(b"1"))
                assert isinstance(errors[0], OutcomeUnknown)
                with pytest.raises(Unavailable, match="silent"):
                    async with asyncio.timeout(10):
                        await member.receive(1)
                before = time.monotonic()
                await broker.close()
                assert time.monotonic() - before < 5
            finally:
                os.kill(own_nats.pid, signal.SIGCONT)

    asyncio.run(story())
