"""What every broker promises: publishing, receiving, addresses, closing."""

from __future__ import annotations

import asyncio

import pytest

from ensue.channels.base import Message
from ensue.channels.urls import COMMON
from ensue.errors import EnsueError, MessageRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered, received_by

__all__ = ["AddressContract", "ClosingContract", "PublishingContract"]


class PublishingContract(ChannelContract):
    """What is published is received, as it was and in order."""

    @channel_test
    async def test_a_message_comes_as_it_was_published(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        prefix = bench.broker.prefix
        headers = {
            f"{prefix}id": "42/a",
            f"{prefix}source": "https://example.com/shop?a=1&b=%20",
            f"{prefix}subject": "Zoë ordered 漢字 🙂 – 100 %",
            f"{prefix}note": '  "spaces" around  ',
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }
        content_type = "application/json; charset=utf-8"
        sent = Message(body=bytes(range(256)) * 4, headers=headers, content_type=content_type, key="Zoë/7 🙂")
        await bench.publish(sent)
        (received,) = await bench.take(subscription, 1)
        assert received.body == sent.body
        assert received.content_type == content_type
        assert received.key in (None, sent.key)
        assert {name: received.headers.get(name) for name in headers} == headers
        assert {name: received.header(name) for name in headers} == headers
        assert received.header(f"{prefix}nothing") is None
        assert received.deliveries == 1
        assert received.where

    @channel_test
    async def test_no_header_of_an_event_is_added(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        prefix = bench.broker.prefix
        await bench.publish(bench.message(b"{}", headers={f"{prefix}id": "1"}))
        (received,) = await bench.take(subscription, 1)
        assert [name for name in received.headers if prefix and name.startswith(prefix)] == (
            [f"{prefix}id"] if prefix else []
        )

    @channel_test
    async def test_an_empty_body_and_no_headers_come_as_they_are(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(Message(body=b"", headers={}, key=None), bench.message(b"behind it", key=None))
        received = await bench.take(subscription, 2)
        assert sorted(bodies(received)) == [b"", b"behind it"]

    @channel_test
    async def test_messages_of_one_key_come_in_order_within_a_batch_and_over_batches(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        for first in range(0, 200, 20):
            await bench.publish(*numbered(first, first + 19))
        assert bodies(await bench.take(subscription, 200)) == numbered(0, 199)

    @channel_test
    async def test_each_of_many_keys_keeps_its_order(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        keys = [f"key-{number % 7}" for number in range(210)]
        batch = [bench.message(f"{key} {number}".encode(), key=key) for number, key in enumerate(keys)]
        await bench.publish(*batch[:100])
        await bench.publish(*batch[100:])
        received = bodies(await bench.take(subscription, 210))
        for key in sorted(set(keys)):
            of_key = [body for body in received if body.startswith(key.encode())]
            assert of_key == [message.body for message in batch if message.key == key]

    @channel_test
    async def test_five_thousand_messages_come_whole_and_in_order(self, bench: Bench) -> None:
        subscription = await bench.subscription()

        async def publishes() -> None:
            for first in range(0, 5000, 500):
                await bench.publish(*numbered(first, first + 499))

        publishing = bench.start(publishes())
        assert bodies(await bench.take(subscription, 5000, accept=True)) == numbered(0, 4999)
        await publishing

    @channel_test
    async def test_publishes_at_the_same_time_are_all_confirmed_and_each_keeps_its_order(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        batches = [numbered(first, first + 9) for first in range(0, 500, 10)]
        await asyncio.gather(*(bench.publish(*batch) for batch in batches))
        received = bodies(await bench.take(subscription, 500))
        assert sorted(received) == sorted(body for batch in batches for body in batch)
        for batch in batches:
            assert [body for body in received if body in batch] == batch

    @channel_test
    async def test_an_empty_batch_is_confirmed(self, bench: Bench) -> None:
        assert await bench.told() == {}

    @channel_test
    async def test_duplicates_pass_through(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        message = bench.message(b"twice")
        await bench.publish(message, message)
        await bench.publish(message)
        received = await bench.take(subscription, 3)
        assert [one.header(f"{bench.broker.prefix}id") for one in received] == [
            message.headers[f"{bench.broker.prefix}id"]
        ] * 3

    @channel_test
    async def test_a_message_of_a_megabyte_or_as_large_as_the_broker_takes_comes_whole(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        largest = bench.broker.capabilities.largest
        body = b"x" * min(1_000_000 if largest is None else largest // 2, 1_000_000)
        await bench.publish(body)
        (received,) = await bench.take(subscription, 1)
        assert received.body == body

    @channel_test
    async def test_one_that_is_too_large_is_refused_alone(self, bench: Bench) -> None:
        largest = bench.broker.capabilities.largest
        if largest is None:
            return  # nothing is known to be too large; what comes whole is tested above
        subscription = await bench.subscription()
        large = bench.message(b"x" * (largest + 1))
        told = await bench.told(bench.message(b"before"), large, bench.message(b"after"))
        assert {index: type(error) for index, error in told.items()} == {1: MessageRefused}
        assert bodies(await bench.take(subscription, 2)) == [b"before", b"after"]
        await bench.publish(b"next")
        assert bodies(await bench.take(subscription, 1)) == [b"next"]

    @channel_test
    async def test_no_more_are_received_than_were_asked_for(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(*numbered(1, 20))
        received: list[bytes] = []
        while len(received) < 20:
            more = await subscription.receive(3)
            assert 1 <= len(more) <= 3
            received += bodies(more)
        assert received == numbered(1, 20)

    @channel_test
    async def test_a_receive_that_is_cancelled_loses_nothing(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        received: list[bytes] = []
        for number in range(1, 41):
            receiving = bench.start(received_by(subscription, 10))
            await bench.step(number % 4)
            publishing = bench.start(bench.publish(b"%d" % number))
            if number % 2:
                await publishing
            await bench.step(number % 7)
            receiving.cancel()
            answers = await asyncio.gather(receiving, return_exceptions=True)
            received += [body for answer in answers if isinstance(answer, list) for body in answer]
            await publishing
        received += bodies(await bench.take(subscription, 40 - len(received)))
        assert received == numbered(1, 40)

    @channel_test
    async def test_others_may_be_called_while_receive_waits(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(*numbered(1, 3))
        received = await bench.take(subscription, 3)
        waiting = bench.start(received_by(subscription, 10))
        await bench.step(3)
        await subscription.accept(received[:1])
        assert await subscription.backlog() in (None, 0)
        await subscription.accept(received[1:])
        await bench.publish(b"4")
        assert await waiting == [b"4"]

    @channel_test
    async def test_one_connection_publishes_to_one_that_receives(self, bench: Bench) -> None:
        subscription = await bench.subscription(await bench.another())
        await bench.publish(*numbered(1, 5))
        assert bodies(await bench.take(subscription, 5)) == numbered(1, 5)


class AddressContract(ChannelContract):
    """Addresses are declared, checked and removed."""

    @channel_test
    async def test_declaring_again_changes_nothing(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(b"before")
        await bench.broker.declare(bench.address)
        await (await bench.another()).declare(bench.address)
        await bench.publish(b"after")
        assert bodies(await bench.take(subscription, 2)) == [b"before", b"after"]

    @channel_test
    async def test_what_is_there_is_found_where_nothing_may_be_created(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        checks = await bench.another(create="no")
        await checks.declare(bench.address)
        await bench.publish(b"1", broker=checks)
        assert bodies(await bench.take(subscription, 1)) == [b"1"]

    @channel_test
    async def test_what_is_missing_is_told_and_not_made_where_nothing_may_be_created(self, bench: Bench) -> None:
        if not self.knows_addresses:
            return
        await bench.broker.remove(bench.address)
        checks = await bench.another(create="no")
        for _ in range(2):
            with pytest.raises(WiringError, match=bench.address):
                await checks.declare(bench.address)

    @channel_test
    async def test_publishing_to_a_missing_address_is_told_for_each_message(self, bench: Bench) -> None:
        if not self.knows_addresses:
            return
        await bench.broker.remove(bench.address)
        checks = await bench.another(create="no")
        told = await checks.publish(bench.address, [bench.message(b"1"), bench.message(b"2")])
        assert {index: type(error) for index, error in told.items()} == {0: WiringError, 1: WiringError}

    @channel_test
    async def test_subscribing_to_a_missing_address_is_told(self, bench: Bench) -> None:
        if not self.knows_addresses:
            return
        await bench.broker.remove(bench.address)
        checks = await bench.another(create="no")
        with pytest.raises(WiringError, match=bench.address):
            await bench.subscription(checks)

    @channel_test
    async def test_removing_is_for_what_is_there_and_for_what_is_not(self, bench: Bench) -> None:
        await bench.publish(b"before")
        for _ in range(2):
            await bench.broker.remove(bench.address, groups=[bench.group("billing")])
        await bench.broker.declare(bench.address)
        subscription = await bench.subscription()
        await bench.nothing_waits(subscription)

    @channel_test
    async def test_a_subscription_whose_address_is_removed_ends(self, bench: Bench) -> None:
        if not self.knows_addresses:
            return
        subscription = await bench.subscription()
        await bench.publish(b"1")
        await bench.take(subscription, 1, accept=True)
        receiving = bench.start(received_by(subscription, 1))
        await bench.step(3)
        await (await bench.another()).remove(bench.address, groups=[bench.group("billing")])
        bench.waits_for = "receive goes on waiting although its address is gone"
        with pytest.raises((WiringError, Unavailable)):
            await receiving
        await subscription.close()

    @channel_test
    async def test_a_parameter_that_there_is_not_is_told_with_those_that_there_are(self, bench: Bench) -> None:
        with pytest.raises(WiringError, match=r"prefetchh.*prefetch"):
            self.broker(prefetchh="1")

    @channel_test
    async def test_its_parameters_are_explained_and_none_is_one_of_every_channel(self, bench: Bench) -> None:
        parameters = bench.broker.parameters
        assert all(parameters.values())
        assert not set(parameters) & set(COMMON)


class ClosingContract(ChannelContract):
    """What is closed is closed."""

    @channel_test
    async def test_closing_again_does_nothing(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await subscription.close()
        await subscription.close()
        await bench.broker.close()
        await bench.broker.close()
        await subscription.close()

    @channel_test
    async def test_one_that_was_never_opened_can_be_closed(self, bench: Bench) -> None:
        broker = self.broker()
        await broker.close()
        await broker.close()

    @channel_test
    async def test_a_connection_that_is_closed_is_unavailable(self, bench: Bench) -> None:
        await bench.broker.close()
        with pytest.raises(Unavailable):
            await bench.broker.declare(bench.address)
        with pytest.raises(Unavailable):
            await bench.subscription()
        told = await bench.told(bench.message(b"1"), bench.message(b"2"))
        assert {index: type(error) for index, error in told.items()} == {0: Unavailable, 1: Unavailable}

    @channel_test
    async def test_a_subscription_that_is_closed_is_unavailable(self, bench: Bench) -> None:
        subscription = await bench.subscription()
        await bench.publish(b"1")
        received = await bench.take(subscription, 1)
        await subscription.close()
        with pytest.raises(Unavailable):
            await subscription.receive(1)
        with pytest.raises(Unavailable):
            await subscription.accept(received)
        with pytest.raises(Unavailable):
            await subscription.requeue(received)

    @channel_test
    async def test_closing_ends_a_receive_that_waits(self, bench: Bench) -> None:
        for ending in ("subscription", "connection"):
            subscription = await bench.subscription()
            receiving = bench.start(received_by(subscription, 1))
            await bench.step(3)
            await (subscription if ending == "subscription" else bench.broker).close()
            bench.waits_for = f"receive goes on waiting although its {ending} is closed"
            with pytest.raises(Unavailable):
                await receiving
            await bench.reopen()

    @channel_test
    async def test_closing_one_subscription_leaves_the_connection_and_the_others(self, bench: Bench) -> None:
        first, second = await bench.subscription(), await bench.subscription(await bench.another())
        await first.close()
        await bench.publish(b"1")
        assert bodies(await bench.take(second, 1)) == [b"1"]

    @channel_test
    async def test_a_publish_that_a_close_meets_is_confirmed_or_told(self, bench: Bench) -> None:
        async def publishes() -> dict[int, EnsueError]:
            return await bench.told(*(bench.message(body) for body in numbered(0, 99)))

        publishing = bench.start(publishes())
        await bench.step()
        await bench.broker.close()
        told = await publishing
        assert {type(error) for error in told.values()} <= {Unavailable, OutcomeUnknown}
