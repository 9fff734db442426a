"""What members of groups on NATS receive when others die, sleep or join, and how what came is read."""

from __future__ import annotations

import asyncio
import time

import pytest

from ensue.channels import nats_subscriptions
from ensue.channels.nats import NatsBroker
from ensue.errors import Unavailable
from ensue.testing.contracts.channels import bodies, numbered
from tests.channels.on_nats import another_tool, made, new_address, opened, taken, until
from tests.servers.nats import NatsAddress


@pytest.fixture
def address() -> str:
    return new_address()


async def died(broker: NatsBroker) -> None:
    """Its connection ends without a word."""
    assert broker._wire is not None and broker._wire._client is not None
    broker._wire._client.abandon()
    await until(lambda: broker._wire is None or broker._wire._error is not None)


def test_what_was_accepted_stays_accepted_and_the_rest_comes_in_order_after_a_member_died(
    nats: NatsAddress, address: str
) -> None:
    async def story() -> None:
        async with opened(nats.url()) as broker, opened(nats.url()) as dying:
            await broker.declare(address)
            await broker.publish(address, made(*numbered(1, 12)))
            member = await dying.subscribe(address, group="billing", prefetch=10)
            held = await taken(member, 10)
            await member.accept([held[0], held[2], held[8]])
            await member.requeue([held[6]])
            await member.backlog()  # so that the server knows
            await died(dying)
            await broker.publish(address, made(b"13"))
            again = await taken(await broker.subscribe(address, group="billing", prefetch=100), 10)
            assert bodies(again) == [b"2", *numbered(4, 8), *numbered(10, 13)]
            assert [one.deliveries for one in again[:6]] == [2, 2, 2, 2, 3, 2]
            assert again[-1].deliveries == 1

    asyncio.run(story())


def test_what_dead_members_held_comes_in_order_also_when_those_between_have_room_for_few(
    nats: NatsAddress, address: str
) -> None:
    """The server has it in the order in which it was given back: by the first of them, then again by the second."""

    async def story() -> None:
        async with opened(nats.url()) as broker, opened(nats.url()) as dying:
            await broker.declare(address)
            await broker.publish(address, made(*numbered(1, 100)))
            await taken(await dying.subscribe(address, group="billing", prefetch=60), 60)
            await died(dying)
            for _ in range(2):
                member = await broker.subscribe(address, group="billing", prefetch=7)
                assert bodies(await taken(member, 7)) == numbered(1, 7)
                await member.close()
            member = await broker.subscribe(address, group="billing", prefetch=7)
            for number in range(1, 101):
                received = await taken(member, 1)
                assert bodies(received) == [b"%d" % number]
                await member.accept(received)

    asyncio.run(story())


def test_one_that_does_not_answer_is_taken_for_dead(
    nats: NatsAddress, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose machine is gone, and whose connection the server has not given up yet."""
    monkeypatch.setattr(nats_subscriptions, "LIVING_SECONDS", 0.2)

    async def story() -> None:
        async with opened(nats.url()) as broker, opened(nats.url()) as asleep:
            await broker.declare(address)
            await broker.publish(address, made(*numbered(1, 10)))
            frozen = await asleep.subscribe(address, group="billing", prefetch=10)
            await taken(frozen, 10)
            monkeypatch.setattr(frozen, "_lives", lambda *_: None)
            assert asleep._wire is not None and asleep._wire._client is not None
            asleep._wire._client.routes[frozen._subscribed[1]] = lambda *_: None
            member = await broker.subscribe(address, group="billing", prefetch=10)
            assert bodies(await taken(member, 10)) == numbered(1, 10)

    asyncio.run(story())


def test_one_that_lives_keeps_what_it_holds_when_another_joins(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url()) as one, opened(nats.url()) as other:
            await one.declare(address)
            await one.publish(address, made(*numbered(1, 10)))
            first = await one.subscribe(address, group="billing", prefetch=5)
            held = await taken(first, 5)
            second = await other.subscribe(address, group="billing", prefetch=50)
            assert bodies(await taken(second, 5)) == numbered(6, 10)
            await one.publish(address, made(b"11"))
            assert bodies(await taken(second, 1)) == [b"11"]
            await first.accept(held)

    asyncio.run(story())


def test_a_handler_that_is_slower_than_the_patience_of_the_server_keeps_its_message(
    nats: NatsAddress, address: str
) -> None:
    async def story() -> None:
        url = nats.url(ack_wait_seconds="0.8")
        async with opened(url) as one, opened(url) as other:
            await one.declare(address)
            await one.publish(address, made(b"1"))
            first = await one.subscribe(address, group="billing", prefetch=5)
            held = await taken(first, 1)
            second = await other.subscribe(address, group="billing", prefetch=5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.8):
                    await second.receive(1)
            await first.accept(held)

    asyncio.run(story())


def test_a_process_that_slept_does_not_get_again_what_it_holds(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with opened(nats.url(ack_wait_seconds="0.3")) as broker:
            await broker.declare(address)
            await broker.publish(address, made(*numbered(1, 3)))
            member = await broker.subscribe(address, group="billing", prefetch=10)
            held = await taken(member, 3)
            time.sleep(0.6)  # noqa: ASYNC251  nothing runs here meanwhile, as on a machine that was suspended
            assert broker._wire is not None
            await broker.publish(address, made(b"4"))
            assert bodies(await taken(member, 1)) == [b"4"]
            await member.accept(held)

    asyncio.run(story())


def test_a_broadcast_that_is_too_slow_is_told(nats: NatsAddress, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_subscriptions, "SLOW_MESSAGES", 50)

    async def story() -> None:
        async with opened(nats.url()) as broker:
            await broker.declare(address)
            slow, quick = [await broker.subscribe(address, group=None, prefetch=10) for _ in range(2)]
            for first in (1, 21, 41):
                await broker.publish(address, made(*numbered(first, first + 19)))
                for half in (first, first + 10):
                    received = await taken(quick, 10)
                    assert bodies(received) == numbered(half, half + 9)
                    await quick.accept(received)
            with pytest.raises(Unavailable, match="too slow"):
                await slow.receive(1)
            await slow.close()
            assert not await broker.publish(address, made(b"more"))

    asyncio.run(story())


def test_messages_of_other_makers_are_read_as_far_as_they_are_text(nats: NatsAddress, address: str) -> None:
    async def story() -> None:
        async with another_tool(nats) as tool, opened(nats.url()) as broker:
            await broker.declare(address)
            await tool.publish(address, b"bare")
            await tool.flush()
            await tool.publish(address, b"typed", headers={"Content-Type": "text/plain", "empty": ""})
            await tool.flush()
            head = b"NATS/1.0\r\nclose:together\r\nbinary: \xff\xfe\r\ngood: Zo\xc3\xab\r\n\r\n"
            assert broker._wire is not None
            broker._wire.send(b"HPUB %b %d %d\r\n%bx\r\n" % (address.encode(), len(head), len(head) + 1, head))
            member = await broker.subscribe(address, group="billing", prefetch=10)
            bare, typed, mixed = await taken(member, 3)
            assert (bare.headers, bare.content_type, bare.header("x")) == ({}, None, None)
            assert (typed.content_type, typed.header("empty")) == ("text/plain", "")
            assert mixed.headers == {"close": "together", "good": "Zoë"}
            assert (mixed.header("close"), mixed.header("binary"), mixed.header("good")) == ("together", None, "Zoë")
            assert mixed.where.endswith("@ 3")

    asyncio.run(story())
