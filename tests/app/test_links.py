"""A channel without a log: publish, subscribe, ask; and what an application sends later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ensue import App
from ensue.app.links import connect
from ensue.channels.base import Message
from ensue.channels.memory import MemoryBroker
from ensue.errors import DefinitionError, EnsueError, GiveUp, OutcomeUnknown, Unavailable
from ensue.events.message import seconds
from tests.app.channels import Paid, Placed, broker_at, channel, drained, raw, until


def test_members_of_a_group_share_what_is_published_and_another_group_gets_all() -> None:
    where = channel(Placed)

    async def story() -> None:
        async with connect(where) as link, connect(where) as other:
            async with (
                link.subscribe(Placed, group="a") as first,
                other.subscribe(Placed, group="a") as second,
                link.subscribe(Placed, group="b") as third,
            ):
                await link.publish(*(Placed(order=f"o{number}", number=number) for number in range(100)))
                seen: list[int] = []

                async def take(subscribed: object) -> None:
                    async for message in subscribed:  # type: ignore[attr-defined]
                        seen.append(message.event.number)
                        await message.accept()

                tasks = [asyncio.get_running_loop().create_task(take(one)) for one in (first, second)]
                await until(lambda: len(seen) == 100)
                for task in tasks:
                    task.cancel()
                assert sorted(seen) == list(range(100))
                alone: list[int] = []
                async for batch in third.batches():
                    alone += [message.event.number for message in batch]
                    await third.accept(batch)
                    if len(alone) == 100:
                        break
                assert alone == list(range(100))

    asyncio.run(story())


def test_what_is_requeued_comes_again_and_what_is_rejected_does_not() -> None:
    where = channel(Placed)

    async def story() -> None:
        async with connect(where) as link, link.subscribe(Placed, group="a") as subscribed:
            await link.publish(Placed(order="o1", number=1), Placed(order="o2", number=2))
            seen: list[int] = []
            async for message in subscribed:
                seen.append(message.event.number)
                if seen.count(1) == 1 and message.event.number == 1:
                    await message.requeue()
                elif message.event.number == 2:
                    await message.reject()
                else:
                    await message.accept()
                if seen.count(1) == 2 and 2 in seen:
                    break
            assert sorted(seen) == [1, 1, 2]

    asyncio.run(story())


def test_what_is_known_of_a_message_is_told_and_one_that_is_no_event_says_so_when_asked() -> None:
    where = channel(Placed)

    async def story() -> None:
        async with connect(where, source="sensors") as link, link.subscribe(Placed) as subscribed:
            async with broker_at(where) as broker:
                await link.publish(Placed(order="o1"), headers={"tenant": "t1"})
                await broker.publish("orders", [raw(b"no")])
            messages = []
            async for message in subscribed:
                messages.append(message)
                if len(messages) == 2:
                    break
            event, other = messages
            assert (event.source, event.headers, event.deliveries) == ("urn:ensue:sensors", {"tenant": "t1"}, 1)
            assert event.time is not None
            assert abs(datetime.now(UTC) - event.time) < timedelta(minutes=1)
            assert other.body == b"no"
            with pytest.raises(GiveUp):
                _ = other.event

    asyncio.run(story())


def test_a_request_is_answered_by_what_a_handler_returns(tmp_path: Path) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db")

    @app.on(source=where)
    async def handle(placed: Placed) -> Paid:
        return Paid(order=placed.order, number=placed.number * 2)

    async def story() -> None:
        async with app, connect(where) as link, connect(where) as other:
            asked = [link.request(Placed(order="o", number=n), Paid, timeout=seconds(10)) for n in range(20)]
            asked += [other.request(Placed(order="p", number=n), Paid, timeout=seconds(10)) for n in range(20)]
            answers = await asyncio.gather(*asked)
            assert [answer.number for answer in answers] == [2 * n for n in range(20)] * 2
            assert [answer.order for answer in answers] == ["o"] * 20 + ["p"] * 20

    asyncio.run(story())


def test_a_request_that_nobody_answers_ends_at_its_deadline() -> None:
    async def story() -> None:
        async with connect(channel(Placed)) as link:
            with pytest.raises(TimeoutError, match=r"no Paid came within 0\.05 s"):
                await link.request(Placed(order="o1"), Paid, timeout=seconds(0.05))

    asyncio.run(story())


def test_those_who_ask_at_the_same_time_share_one_subscription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, subscribed = channel(Placed), list[str]()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db")
    subscribe = MemoryBroker.subscribe

    async def counted(self: MemoryBroker, address: str, **more: object) -> object:
        subscribed.append(address)
        return await subscribe(self, address, **more)  # type: ignore[arg-type]

    @app.on(source=where)
    async def handle(placed: Placed) -> Paid:
        return Paid(order=placed.order)

    async def story() -> None:
        async with app, connect(where) as link:
            monkeypatch.setattr(MemoryBroker, "subscribe", counted)
            await asyncio.gather(*(link.request(Placed(order="o"), Paid, timeout=seconds(10)) for _ in range(5)))
        assert subscribed == ["orders-replies"]

    asyncio.run(story())


@pytest.mark.parametrize("error", [OutcomeUnknown, Unavailable])
def test_a_link_whose_connection_broke_while_it_published_has_another_one_for_the_next_call(
    error: type[EnsueError], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, broken = channel(Placed), list[MemoryBroker]()
    publish = MemoryBroker.publish

    async def breaking(self: MemoryBroker, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        if not broken:
            broken.append(self)
        if self in broken:  # for ever, as the port says
            return dict.fromkeys(range(len(messages)), error("the connection is cut"))
        return await publish(self, address, messages)

    async def story() -> None:
        monkeypatch.setattr(MemoryBroker, "publish", breaking)
        async with connect(where) as link:
            with pytest.raises(error):
                await link.publish(Placed(order="o1"))
            await link.publish(Placed(order="o2"))
        assert len(await drained(where, "all", 1)) == 1

    asyncio.run(story())


def test_a_broker_that_can_delay_does(tmp_path: Path) -> None:
    where = channel(Placed)

    async def story() -> None:
        async with connect(where) as link, link.subscribe(Placed) as subscribed:
            await link.publish(Placed(order="late"), delay=seconds(0.2))
            await link.publish(Placed(order="soon"))
            seen: list[str] = []
            async for message in subscribed:
                seen.append(message.event.order)
                if len(seen) == 2:
                    break
            assert seen == ["soon", "late"]

    asyncio.run(story())


def test_what_is_sent_later_is_sent_when_it_is_due_and_holds_nothing_up(tmp_path: Path) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[where])

    async def story() -> None:
        async with app, connect(where) as link, link.subscribe(Placed) as subscribed:
            at = datetime.now(UTC) + timedelta(seconds=0.5)
            await app.publish_later(where, Placed(order="o1", number=2), at=at)
            await app.publish_later(where, Placed(order="o1", number=3), at=timedelta(hours=1))
            await app.publish(Placed(order="o1", number=1))
            seen: list[int] = []
            async for message in subscribed:
                seen.append(message.event.number)
                if message.event.number == 2:
                    assert datetime.now(UTC) >= at
                    break
            assert seen == [1, 2]

    asyncio.run(story())


def test_what_is_sent_later_survives_a_restart_and_is_sent_once(tmp_path: Path) -> None:
    where, url = channel(Placed), f"sqlite:///{tmp_path}/app.db"

    async def story() -> None:
        async with App("app", url=url, outbox=[where]) as app:
            await app.publish_later(where, Placed(order="o1"), at=timedelta(seconds=0.3), idempotency_key="once")
            await app.publish_later(where, Placed(order="o1"), at=timedelta(seconds=0.3), idempotency_key="once")
        async with App("app", url=url, outbox=[where]) as app:
            (sent,) = await drained(where, "all", 1)
            assert b"o1" in sent.body
            receipt = await app.publish(Placed(order="o2"))
            await receipt.wait(timeout=seconds(10))
            assert len(await drained(where, "again", 2)) == 2

    asyncio.run(story())


def test_only_what_the_outbox_carries_is_sent_later(tmp_path: Path) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[where])

    async def story() -> None:
        async with app:
            with pytest.raises(DefinitionError, match="does not carry Paid"):
                await app.publish_later(where, Paid(order="o1"), at=seconds(1))
            with pytest.raises(TypeError, match="give a time"):
                await app.publish_later(where, Placed(order="o1"), at="soon")  # type: ignore[arg-type]
            with pytest.raises(DefinitionError, match="not in the outbox"):
                await app.publish_later(channel(Placed), Placed(order="o1"), at=seconds(1))

    asyncio.run(story())


def test_publishing_what_is_too_large_says_so_and_the_link_goes_on() -> None:
    where = channel(Placed)
    small = type(where)(where.name, Placed, url=f"{where.url}?largest=300")

    async def story() -> None:
        async with connect(small) as link:
            with pytest.raises(EnsueError) as raised:
                await link.publish(Placed(order="o1"), Placed(order="x" * 300), Placed(order="o2"))
            assert type(raised.value).__name__ == "MessageRefused"
            assert any("1 of 3" in note for note in raised.value.__notes__)
            await link.publish(Placed(order="o3"))
        assert [b"o1" in m.body or b"o2" in m.body or b"o3" in m.body for m in await drained(small, "all", 3)] == [
            True
        ] * 3

    asyncio.run(story())
