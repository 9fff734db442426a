"""A channel read directly, with handlers, messages and members that behave badly."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ensue import App, Channel, Event, upcast
from ensue.consumers import lanes
from ensue.consumers.outbox import OutboxHandling
from ensue.errors import InvalidEvent
from ensue.events.message import seconds
from ensue.observe.signals import ChannelLost, HandlerStuck, Signal
from tests.app.channels import LIMIT_SECONDS, Paid, Placed, broker_at, channel, dead, raw, until
from tests.app.test_direct import QUICK, application, of_key, publish, readings


class Renamed(Event, key="order", version=2):
    """One whose older version cannot be brought up to date."""

    order: str


@upcast(Renamed, version=1)
def broken(old: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("nobody thought of that")


def drop_the_connection(app: App, consumer: str) -> None:
    broker: Any = app._open_engine()._traffic._connections[consumer]._broker
    broker._leave()


def test_a_message_whose_key_no_event_may_have_is_a_dead_letter_and_ends_nothing(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[str] = []

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Placed) -> None:
        if not placed.order:
            raise ValueError("an order without a name")
        handled.append(placed.order)

    async def story() -> None:
        async with app, broker_at(where) as broker:
            await broker.publish("orders", [raw(b'{"order": ""}', id="1"), raw(b'{"order": "o1"}', id="2")])
            await until(lambda: handled == ["o1"])
            await dead(app)

    asyncio.run(story())


@pytest.mark.parametrize("by", ["inbox", "directly"])
def test_a_message_on_which_the_applications_own_code_raises_anything_is_a_dead_letter(by: str, tmp_path: Path) -> None:
    where = channel(Renamed, Placed)
    url = f"sqlite:///{tmp_path}/app.db"
    app = App("app", url=url, inbox=[where]) if by == "inbox" else App("app", url=url)
    handled: list[str] = []

    async def handle(event: Renamed | Placed) -> None:
        handled.append(event.order)

    app.on(handle) if by == "inbox" else app.on(source=where)(handle)

    async def story() -> None:
        async with app, broker_at(where) as broker:
            poison = raw(b'{"name": "o1"}', id="1", type="Renamed", dataversion="1")
            await broker.publish("orders", [poison, raw(b'{"order": "o2"}', id="2")])
            await until(lambda: handled == ["o2"])
            (letter,) = await dead(app)
            assert "nobody thought of that" in letter.reason

    asyncio.run(story())


def test_a_handler_that_is_cancelled_from_inside_has_failed_and_holds_nobody_up(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    attempts: Counter[int] = Counter()

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Placed) -> None:
        attempts[placed.number] += 1
        if placed.number == 1 and attempts[1] == 1:
            raise asyncio.CancelledError

    async def story() -> None:
        async with app:
            await publish(where, [Placed(order="o", number=number) for number in range(3)])
            await until(lambda: attempts == {0: 1, 1: 2, 2: 1})

    asyncio.run(story())


def test_a_handler_of_batches_gets_batches_also_of_what_waited_for_its_key(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []

    @app.on(source=where)
    async def handle(placed: list[Placed]) -> None:
        numbers = [one.number for one in placed]
        await asyncio.sleep(0.005)
        handled.extend(numbers)

    async def story() -> None:
        async with app:
            for first in range(0, 200, 10):
                await publish(where, readings(200, 3)[first : first + 10])
            await until(lambda: len(handled) == 200)
            assert app.open_store().head() == 0, "something was kept, because it failed"
        for key in range(3):
            assert of_key(handled, key, 3) == list(range(key, 200, 3))

    asyncio.run(story())


def test_a_batch_handler_keeps_the_order_of_a_key_that_failed(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []
    failures = 2

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Sequence[Placed]) -> None:
        nonlocal failures
        if failures and any(one.order == "o1" for one in placed):
            failures -= 1
            raise ValueError("not yet")
        handled.extend(one.number for one in placed)

    async def story() -> None:
        async with app:
            for event in readings(60, 3):
                await publish(where, [event])
            await until(lambda: len(handled) == 60)
        for key in range(3):
            assert of_key(handled, key, 3) == list(range(key, 60, 3))

    asyncio.run(story())


def test_a_thread_past_its_limit_keeps_its_key_waiting_until_it_returns_and_nobody_else(tmp_path: Path) -> None:
    where = channel(Placed)
    signals: list[Signal] = []
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", observe=signals.append)
    running: Counter[str] = Counter()
    overlaps: list[int] = []
    handled: list[int] = []
    go = threading.Event()

    @app.on(source=where, retry=QUICK, timeout=seconds(0.05))
    def handle(placed: Placed) -> None:
        running[placed.order] += 1
        if running[placed.order] > 1:
            overlaps.append(placed.number)
        if placed.number == 0:
            go.wait(LIMIT_SECONDS)
        running[placed.order] -= 1
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, [Placed(order="slow", number=0), Placed(order="slow", number=1)])
            await publish(where, [Placed(order="other", number=2)])
            await until(lambda: 2 in handled and any(isinstance(signal, HandlerStuck) for signal in signals))
            assert handled == [2]
            go.set()
            await until(lambda: 1 in handled)
        assert not overlaps
        assert handled.index(0) < handled.index(1)

    asyncio.run(story())


def test_a_thread_that_goes_on_when_the_connection_broke_is_waited_for_before_its_key_goes_on(tmp_path: Path) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", drain_seconds=0.01)
    running: Counter[str] = Counter()
    overlaps: list[int] = []
    handled: list[int] = []
    go = threading.Event()

    @app.on(source=where, name="handle")
    def handle(placed: Placed) -> None:
        running[placed.order] += 1
        if running[placed.order] > 1:
            overlaps.append(placed.number)
        if placed.order == "slow":
            go.wait(LIMIT_SECONDS)
        running[placed.order] -= 1
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, [Placed(order="slow", number=0)])
            await until(lambda: running["slow"] == 1)
            drop_the_connection(app, "handle")
            await publish(where, [Placed(order="other", number=1)])
            await until(lambda: handled == [1])
            go.set()
            await until(lambda: handled.count(0) == 2)
        assert not overlaps

    asyncio.run(story())


@pytest.mark.parametrize("prefetch", [1, 4096])
def test_a_partition_goes_to_another_member_while_another_partition_is_in_work(prefetch: int, tmp_path: Path) -> None:
    where = channel(Placed)
    where = Channel("orders", Placed, url=f"{where.url}?partitions=2&assign=yes&prefetch={prefetch}")
    keys = {zlib.crc32(b"k%d" % number) % 2: f"k{number}" for number in range(20)}
    handled: dict[str, list[str]] = {"first": [], "second": []}
    go = asyncio.Event()

    def build(name: str) -> App:
        app = App("app", url=f"sqlite:///{tmp_path}/app.db")

        @app.on(source=where)
        async def handle(placed: Placed) -> None:
            if placed.number == 0:
                await go.wait()
            handled[name].append(placed.order)

        return app

    async def story() -> None:
        async with build("first"):
            await publish(where, [Placed(order=keys[1], number=1), Placed(order=keys[0], number=0)])
            await until(lambda: handled["first"] == [keys[1]])
            async with build("second"):
                # The first still works on its own partition, and has given up the other one.
                await publish(where, [Placed(order=keys[1], number=2)])
                await until(lambda: handled["second"] == [keys[1]])
                go.set()
                await until(lambda: handled["first"] == [keys[1], keys[0]])

    asyncio.run(story())


def test_an_answer_to_an_address_that_does_not_exist_disturbs_nobody(tmp_path: Path) -> None:
    where = channel(Placed, Paid)
    signals: list[Signal] = []
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", observe=signals.append)
    handled: list[str] = []

    @app.on(source=where)
    async def pay(placed: Placed) -> Paid:
        handled.append(placed.order)
        return Paid(order=placed.order)

    async def story() -> None:
        async with app, broker_at(where) as broker:
            asking = raw(b'{"order": "o1"}', id="1", replyto="nowhere")
            await broker.publish("orders", [asking, raw(b'{"order": "o2"}', id="2")])
            await until(lambda: app.open_store().head() == 2)
            assert not await broker.publish("orders", [raw(b'{"order": "o3"}', id="3")])
            await until(lambda: app.open_store().head() == 3)
        assert handled == ["o1", "o2", "o3"]
        assert not [signal for signal in signals if isinstance(signal, ChannelLost)]

    asyncio.run(story())


def test_so_many_bytes_are_held_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_BYTES", 100_000)
    where, app = channel(Placed), application(tmp_path)
    go = asyncio.Event()
    handled: list[int] = []

    @app.on(source=where)
    async def handle(placed: Placed) -> None:
        await go.wait()
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            async with broker_at(where) as broker:
                for number in range(20):
                    body = b'{"order": "o%d", "number": %d, "more": "%s"}' % (number, number, b"x" * 30_000)
                    await broker.publish("orders", [raw(body, id=str(number))])
                    await asyncio.sleep(0)
                watching: Any = app._open_engine()._traffic
                (receiving,) = watching._receiving
                await until(lambda: receiving._work._lanes._acceptance.bytes >= 100_000)
                assert receiving._work._lanes._acceptance.held < 20
                go.set()
                await until(lambda: len(handled) == 20)

    asyncio.run(story())


def test_an_event_that_no_message_can_carry_is_parked_by_the_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[where])
    message_of = OutboxHandling._message

    def refuses(self: Any, slot: Any, wire: Any) -> object:
        if b"bad" in slot.row[11]:
            raise InvalidEvent("the attribute x is none that a reader would take")
        return message_of(self, slot, wire)

    monkeypatch.setattr(OutboxHandling, "_message", refuses)

    async def story() -> None:
        async with app:
            await app.publish(Placed(order="bad"), Placed(order="good"))
            (letter,) = await dead(app)
            assert letter.key_text == "order=bad"

    asyncio.run(story())


def test_slow_messages_behind_quick_ones_of_their_batch_are_handled_beside_each_other(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    together = asyncio.Event()
    running = 0

    @app.on(source=where, concurrency=50)
    async def handle(placed: Placed) -> None:
        nonlocal running
        if placed.number < 200:
            hashlib.pbkdf2_hmac("sha256", b"work", b"for a fifth of a millisecond", 300)
            return
        running += 1
        if running == 50:
            together.set()
        await together.wait()

    async def story() -> None:
        async with broker_at(where) as broker:
            messages = [raw(b'{"order": "o%d", "number": %d}' % (n, n), id=str(n)) for n in range(250)]
            assert not await broker.publish("orders", messages)
        async with app:
            async with asyncio.timeout(LIMIT_SECONDS):
                await together.wait()

    asyncio.run(story())


def test_a_whole_batch_that_comes_again_with_new_messages_behind_it_is_stored_once_in_order(tmp_path: Path) -> None:
    where = channel(Placed)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[where])
    messages = [raw(b'{"order": "o1", "number": %d}' % n, id=str(n)) for n in range(300)]

    async def story() -> None:
        async with app, broker_at(where) as broker:
            assert not await broker.publish("orders", messages[:200])
            await until(lambda: app.open_store().head() == 200)
            assert not await broker.publish("orders", messages)
            await until(lambda: app.open_store().head() == 300)
            stored = [recorded.event async for recorded in app.log.read(Placed)]
        assert [placed.number for placed in stored] == list(range(300))

    asyncio.run(story())
