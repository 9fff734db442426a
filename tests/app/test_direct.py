"""A channel read directly: order by key, what fails is kept by the log, at least once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from ensue import ONE_ORDER, App, Channel, Context, Event, Recorded, Retry, Transaction
from ensue.app.links import connect
from ensue.channels.base import Received
from ensue.channels.memory import MemoryBroker
from ensue.errors import DefinitionError, InsideHandler, Unavailable
from ensue.events.message import seconds
from tests.app.channels import Paid, Placed, broker_at, channel, dead, raw, until

QUICK = Retry(attempts=3, first=seconds(0.01), jitter=False)


def application(tmp_path: Path) -> App:
    return App("app", url=f"sqlite:///{tmp_path}/app.db", drain_seconds=5)


def readings(count: int, keys: int) -> list[Placed]:
    return [Placed(order=f"o{number % keys}", number=number) for number in range(count)]


async def publish(where: Channel, events: Sequence[Event]) -> None:
    async with connect(where) as link:
        await link.publish(*events)


def of_key(numbers: Sequence[int], key: int, keys: int) -> list[int]:
    return [number for number in numbers if number % keys == key]


def test_messages_of_a_key_are_handled_in_order_and_keys_beside_each_other(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []
    running: Counter[str] = Counter()
    most = 0

    @app.on(source=where)
    async def handle(placed: Placed) -> None:
        nonlocal most
        running[placed.order] += 1
        assert running[placed.order] == 1, "two of one key at the same time"
        most = max(most, running.total())
        await asyncio.sleep(0.002)
        running[placed.order] -= 1
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, readings(640, 32))
            await until(lambda: len(handled) == 640)
        for key in range(32):
            assert of_key(handled, key, 32) == list(range(key, 640, 32))
        assert most > 16

    asyncio.run(story())


def test_nothing_goes_through_the_log(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []

    @app.on(source=where)
    async def handle(placed: Placed) -> None:
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, readings(100, 10))
            await until(lambda: len(handled) == 100)
            assert app.open_store().head() == 0

    asyncio.run(story())


def test_a_key_that_fails_waits_in_order_and_nobody_else_does(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: dict[str, list[int]] = defaultdict(list)
    broken = True

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Placed) -> None:
        if broken and placed.order == "o3":
            raise ValueError("no")
        handled[placed.order].append(placed.number)

    async def story() -> None:
        nonlocal broken
        async with app:
            await publish(where, readings(200, 10))
            (letter,) = await dead(app)
            await until(lambda: sum(map(len, handled.values())) == 180)
            assert "o3" not in handled
            assert letter.key_text == "order=o3"
            assert "ValueError: no" in letter.reason
            broken = False
            await app.dead_letters.retry(letter.id)
            await until(lambda: len(handled["o3"]) == 20)
            await publish(where, [Placed(order="o3", number=1000)])
            await until(lambda: len(handled["o3"]) == 21)
        assert handled["o3"] == [*range(3, 200, 10), 1000]

    asyncio.run(story())


def test_a_key_that_failed_goes_past_the_log_again_once_the_log_is_done_with_it(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []
    failures = 1

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Placed) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ValueError("once")
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            number = 0
            grown, head = True, 0
            while grown:  # what is kept while the key waits ends by itself
                await publish(where, [Placed(order="o1", number=number)])
                number += 1
                await until(lambda expected=number: len(handled) == expected)  # type: ignore[misc]
                grown, head = app.open_store().head() > head, app.open_store().head()
            assert head >= 1
        assert handled == list(range(number))

    asyncio.run(story())


def test_keys_that_the_log_holds_still_wait_after_a_restart(tmp_path: Path) -> None:
    where, url = channel(Placed), f"sqlite:///{tmp_path}/app.db"
    handled: list[int] = []

    def build(*, broken: bool) -> App:
        app = App("app", url=url)

        @app.on(source=where, retry=QUICK)
        async def handle(placed: Placed) -> None:
            if broken and placed.number == 0:
                raise ValueError("no")
            handled.append(placed.number)

        return app

    async def story() -> None:
        async with build(broken=True) as app:
            await publish(where, [Placed(order="o1", number=0), Placed(order="o1", number=1)])
            await dead(app)
        async with build(broken=False) as app:
            await publish(where, [Placed(order="o1", number=2), Placed(order="o2", number=3)])
            await until(lambda: handled == [3])
            (letter,) = await dead(app)
            await app.dead_letters.retry(letter.id)
            await until(lambda: len(handled) == 4)
        assert handled == [3, 0, 1, 2]

    asyncio.run(story())


def test_a_message_that_cannot_be_read_is_a_dead_letter_and_the_others_flow(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[str] = []

    @app.on(source=where)
    async def handle(placed: Placed) -> None:
        handled.append(placed.order)

    async def story() -> None:
        async with app, broker_at(where) as broker:
            await broker.publish("orders", [raw(b"\xff", id="1"), raw(b'{"order": "o1"}', id="2")])
            await until(lambda: handled == ["o1"])
            assert len(await dead(app)) == 1

    asyncio.run(story())


def test_what_a_handler_returns_is_stored_once_also_when_its_message_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: Counter[int] = Counter()
    broken = [True]

    @app.on(source=where)
    async def handle(placed: Placed) -> list[Paid]:
        handled[placed.number] += 1
        return [Paid(order=placed.order, number=placed.number), Paid(order=placed.order, number=-placed.number)]

    subscribe = MemoryBroker.subscribe

    async def breaking(self: MemoryBroker, *given: object, **more: object) -> object:
        subscription = await subscribe(self, *given, **more)  # type: ignore[arg-type]
        accept = subscription.accept

        async def once(received: Sequence[Received]) -> None:
            if broken:
                broken.clear()
                raise Unavailable("the connection broke before this was accepted")
            await accept(received)

        monkeypatch.setattr(subscription, "accept", once, raising=False)
        return subscription

    monkeypatch.setattr(MemoryBroker, "subscribe", breaking)

    async def story() -> None:
        async with app:
            await publish(where, readings(20, 4))
            await until(lambda: min((handled[number] for number in range(20)), default=0) == 2)
            await until(lambda: app.open_store().head() == 40)
            stored = [row.event for row in [r async for r in app.log.read(Paid)]]
        assert len(stored) == len({(paid.order, paid.number) for paid in stored if isinstance(paid, Paid)}) + 1

    asyncio.run(story())


def test_a_handler_of_batches_gets_what_has_come_and_every_key_in_order(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    batches: list[list[int]] = []

    @app.on(source=where)
    async def handle(placed: list[Placed]) -> None:
        batches.append([one.number for one in placed])

    async def story() -> None:
        async with app:
            await publish(where, readings(1000, 7))
            await until(lambda: sum(map(len, batches)) == 1000)
        assert len(batches) < 200
        flat = [number for batch in batches for number in batch]
        for key in range(7):
            assert of_key(flat, key, 7) == list(range(key, 1000, 7))

    asyncio.run(story())


def test_each_of_a_batch_that_fails_is_tried_alone(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Sequence[Placed]) -> None:
        if any(one.number == 5 for one in placed):
            raise ValueError("five")
        handled.extend(one.number for one in placed)

    async def story() -> None:
        async with app:
            await publish(where, [Placed(order=f"o{number}", number=number) for number in range(10)])
            await until(lambda: len(handled) == 9)
            (letter,) = await dead(app)
            assert letter.key_text == "order=o5"
        assert sorted(handled) == [0, 1, 2, 3, 4, 6, 7, 8, 9]

    asyncio.run(story())


def test_a_plain_handler_runs_on_a_thread_with_the_context_of_its_message(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    seen: list[tuple[str, str, int]] = []

    @app.on(source=where)
    def handle(placed: Placed, context: Context) -> None:
        seen.append((context.key, context.idempotency_key, context.attempt))

    async def story() -> None:
        async with app:
            await publish(where, readings(10, 10))
            await until(lambda: len(seen) == 10)
        assert {key for key, _, _ in seen} == {f"order=o{number}" for number in range(10)}
        assert len({key for _, key, _ in seen}) == 10

    asyncio.run(story())


def test_the_idempotency_key_of_a_message_is_the_same_directly_and_from_the_log(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    keys: list[str] = []

    @app.on(source=where, retry=QUICK)
    async def handle(placed: Placed, context: Context) -> None:
        keys.append(context.idempotency_key)
        if len(keys) < 3:
            raise ValueError("again")

    async def story() -> None:
        async with app:
            await publish(where, readings(1, 1))
            await until(lambda: len(keys) == 3)
        assert len(set(keys)) == 1

    asyncio.run(story())


def test_one_order_for_all_handles_messages_one_after_another(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []

    @app.on(source=where, key=ONE_ORDER)
    async def handle(placed: Placed) -> None:
        await asyncio.sleep(0)
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, readings(200, 20))
            await until(lambda: len(handled) == 200)
        assert handled == list(range(200))

    asyncio.run(story())


def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_kept(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    attempts: list[int] = []

    @app.on(source=where, retry=QUICK, timeout=seconds(0.05))
    async def handle(placed: Placed) -> None:
        attempts.append(placed.number)
        if len(attempts) == 1:
            await asyncio.sleep(60)

    async def story() -> None:
        async with app:
            await publish(where, readings(1, 1))
            await until(lambda: len(attempts) == 2)
            assert app.open_store().head() >= 1

    asyncio.run(story())


def test_a_handler_cannot_publish_past_what_it_handles(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    raised: list[BaseException] = []

    @app.on(source=where)
    async def handle(placed: Placed) -> None:
        try:
            await app.publish(Paid(order="o1"))
        except InsideHandler as error:
            raised.append(error)

    async def story() -> None:
        async with app:
            await publish(where, readings(1, 1))
            await until(lambda: bool(raised))

    asyncio.run(story())


def test_a_stop_waits_for_what_works_and_what_was_not_begun_comes_again(tmp_path: Path) -> None:
    where = channel(Placed)
    begun: list[int] = []
    ended: list[int] = []

    def build() -> App:
        app = application(tmp_path)

        @app.on(source=where, concurrency=4)
        async def handle(placed: Placed) -> None:
            begun.append(placed.number)
            await asyncio.sleep(0.05)
            ended.append(placed.number)

        return app

    async def story() -> None:
        async with build():
            await publish(where, readings(100, 100))
            await until(lambda: len(begun) >= 8)
        assert begun == ended, "what was begun has ended"
        assert len(begun) < 100
        async with build():
            await until(lambda: len(set(ended)) == 100)
        assert len(ended) == 100, "and was not handled again"

    asyncio.run(story())


def test_a_slow_key_holds_nobody_up_where_messages_are_accepted_one_by_one(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)
    handled: list[int] = []
    go = asyncio.Event()
    small = Channel(where.name, Placed, url=f"{where.url}?prefetch=50")

    @app.on(source=small)
    async def handle(placed: Placed) -> None:
        if placed.order == "slow":
            await go.wait()
        handled.append(placed.number)

    async def story() -> None:
        async with app:
            await publish(where, [Placed(order="slow", number=-1), *readings(400, 10)])
            await until(lambda: len(handled) == 400)
            go.set()
            await until(lambda: len(handled) == 401)

    asyncio.run(story())


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_what_needs_the_log_is_refused_where_it_is_declared(tmp_path: Path) -> None:
    where, app = channel(Placed), application(tmp_path)

    with pytest.raises(DefinitionError, match="there is no Transaction"):

        @app.on(source=where)
        def inside(placed: Placed, tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError, match="Recorded"):

        @app.on(source=where)
        async def recorded(placed: Recorded[Placed]) -> None: ...

    with pytest.raises(DefinitionError, match="does not carry Paid"):

        @app.on(source=where)
        async def other(paid: Paid) -> None: ...

    with pytest.raises(DefinitionError, match="a list of events is for what comes by a channel"):

        @app.on
        async def several(placed: list[Placed]) -> None: ...
