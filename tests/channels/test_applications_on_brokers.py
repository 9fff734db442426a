"""Whole applications on each real broker, and what happens to brokers: absent, refusing, restarted, full, deleted under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from nats.aio.client import Client as NatsClient

from ensue import App, Channel, connect
from ensue.errors import AccessRefused, Unavailable
from ensue.events.message import seconds
from ensue.world import RealWorld
from tests.app.channels import Paid, Placed, dead
from tests.channels.on_brokers import (
    BROKERS,
    SITES,
    Large,
    Seen,
    Server,
    at_another_port,
    by_key,
    front_and_back,
    opened,
    until,
)
from tests.servers import processes, redis
from tests.servers.postgresql import reserved_port
from tests.servers.rabbitmq import RabbitServer
from tests.servers.relay import Relay

KEYS, ROUNDS = 10, 30
CUTS = 8
DELETABLE = ("kafka", "rabbitmq", "nats", "redis")
"""An MQTT server has nothing that could be deleted: topics are names."""
_world = RealWorld()


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    name = cast("str", request.param)
    request.getfixturevalue(f"{name}_installed")
    return name


@pytest.fixture(scope="module")
def own(broker: str) -> Iterator[Server]:
    with SITES[broker].limited() as started:
        yield started


@pytest.fixture
def server(own: Server) -> Server:
    """One for each broker, which tests stop and start again."""
    if not own.running():
        own.start()
    return own


def a_channel(broker: str, server: Server, **parameters: str) -> Channel:
    """Of the test's own."""
    given = {**SITES[broker].parameters, "prefix": f"{_world.new_id().hex()[:12]}.", **parameters}
    return Channel("orders", Placed, Paid, Large, url=server.url(**given))


@pytest.fixture
def orders(broker: str, server: Server) -> Channel:
    return a_channel(broker, server)


def rounds(first: int, count: int) -> list[list[Placed]]:
    return [[Placed(order=f"o{key}", number=number) for key in range(KEYS)] for number in range(first, first + count)]


async def nothing_counted(*apps: tuple[App, Seen]) -> None:
    for app, seen in apps:
        assert not seen.failed()
        assert not [letter async for letter in app.dead_letters.list()]


# ------------------------------------------------------------------------------------------------------------ at start


@pytest.mark.parametrize("name", BROKERS)
def test_a_broker_that_is_absent_at_start_is_waited_for_so_long_and_then_named(name: str, tmp_path: Path) -> None:
    with reserved_port() as held:
        port = held.getsockname()[1]
        scheme = {"rabbitmq": "amqp", "mosquitto": "mqtt"}.get(name, name)
        url = f"{scheme}://shop:secret@127.0.0.1:{port}?wait_seconds=1"
        front, _, _, (seen, _) = front_and_back(tmp_path, Channel("orders", Placed, url=url))

        async def story() -> None:
            began = _world.monotonic()
            with pytest.raises(Unavailable, match=str(port)) as told:
                async with front:
                    pass
            assert 0.9 < _world.monotonic() - began < 5
            assert "secret" not in str(told.value)
            assert 1 <= len(seen.lost("outbox.orders")) <= 20
            assert str(port) in seen.lost("outbox.orders")[0].error

        asyncio.run(story())


@pytest.mark.slow
def test_a_broker_that_comes_while_it_is_waited_for_is_used(server: Server, orders: Channel, tmp_path: Path) -> None:
    front, back, handled, (_, seen) = front_and_back(tmp_path, orders)

    async def story() -> None:
        server.stop()

        async def come() -> None:
            await until(lambda: len(seen.lost("inbox.orders")) >= 2)
            await asyncio.to_thread(server.start)

        coming = asyncio.create_task(come())
        async with back, front:
            await coming
            await front.publish(Placed(order="o1", number=1))
            await until(lambda: handled == [Placed(order="o1", number=1)])

    asyncio.run(story())


@pytest.mark.parametrize("name", BROKERS)
@pytest.mark.parametrize("way", ["outbox", "inbox", "directly"])
def test_what_a_broker_refuses_at_start_is_told_after_one_attempt(
    name: str, way: str, guarded: dict[str, Any], tmp_path: Path
) -> None:
    with Relay() as relay:
        relay.behind = guarded[name].port
        url = at_another_port(guarded[name].url(user="shop", password="mistaken"), relay.port)
        orders = Channel("orders", Placed, url=url)
        app = App(
            "app",
            url=f"sqlite:///{tmp_path}/app.db",
            outbox=[orders] if way == "outbox" else [],
            inbox=[orders] if way == "inbox" else [],
        )
        if way == "directly":

            @app.on(source=orders)
            async def handle(placed: Placed) -> None: ...

        async def story() -> None:
            began = _world.monotonic()
            with pytest.raises(AccessRefused) as told:
                async with app:
                    pass
            assert _world.monotonic() - began < 5
            assert "mistaken" not in str(told.value)

        asyncio.run(story())
        assert relay.accepted == 1


class _Guarded(dict[str, Any]):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def __missing__(self, name: str) -> Any:
        self._request.getfixturevalue(f"{name}_installed")
        self[name] = SITES[name].guarded()
        self[name].start()
        return self[name]


@pytest.fixture(scope="module")
def guarded(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Servers that want a password, started when they are asked for."""
    servers = _Guarded(request)
    yield servers
    for server in servers.values():
        server.close()


# ----------------------------------------------------------------------------------------------------------- under way


async def all_comes(folder: Path, orders: Channel, trouble: Callable[[], object]) -> None:
    """Whatever happens while events flow: all of them come, once by the inbox, in the order of each key; nothing is counted."""
    front, back, handled, (seen_front, seen_back) = front_and_back(folder, orders)
    direct: list[Placed] = []

    @back.on(source=orders)
    async def watch(placed: Placed) -> None:
        direct.append(placed)

    async with back, front:
        sent = 0
        happening = asyncio.create_task(asyncio.to_thread(trouble))
        while not happening.done():
            (events,) = rounds(sent, 1)
            await front.publish(*events)
            sent += 1
            await asyncio.sleep(0.01)  # a load that a log has no trouble with
        await happening
        for events in rounds(sent, ROUNDS):
            await front.publish(*events)
        total = (sent + ROUNDS) * KEYS
        await until(lambda: len(handled) >= total and len({(one.order, one.number) for one in direct}) == total)
        # A client that connects again by itself, as Kafka's may, has nothing to tell.
        assert sent > 1, "all was over before anything was sent"
        await nothing_counted((front, seen_front), (back, seen_back))
        assert by_key(handled) == {f"o{key}": list(range(sent + ROUNDS)) for key in range(KEYS)}
        assert by_key(list(dict.fromkeys(direct))) == by_key(handled)


@pytest.mark.slow
def test_a_restart_under_load_loses_and_repeats_nothing_and_counts_as_no_failure(
    server: Server, orders: Channel, tmp_path: Path
) -> None:
    asyncio.run(all_comes(tmp_path, orders, server.restart))


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq", "nats", "redis"], indirect=True)
def test_a_server_that_is_killed_under_load_has_what_it_confirmed(broker: str, server: Server, tmp_path: Path) -> None:
    orders = a_channel(broker, server, **({"settle_seconds": "2.5"} if broker == "rabbitmq" else {}))

    def kill() -> None:
        server.kill()
        server.start()

    asyncio.run(all_comes(tmp_path, orders, kill))


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["rabbitmq", "nats", "redis", "mosquitto"], indirect=True)
def test_connections_that_are_cut_again_and_again_under_load_lose_and_repeat_nothing(
    broker: str, server: Server, tmp_path: Path
) -> None:
    """Kafka's clients go where its server says that it is, past anything between."""
    orders = a_channel(broker, server)
    with Relay() as relay:
        relay.behind = server.port

        def cut() -> None:
            while (before := relay.accepted) < 3 * CUTS:
                relay.sever()
                processes.until(lambda before=before: relay.accepted > before, "one was to connect again", 20)  # type: ignore[misc]

        url = at_another_port(str(orders.url), relay.port)
        asyncio.run(all_comes(tmp_path, Channel("orders", Placed, url=url), cut))


@pytest.mark.parametrize("broker", DELETABLE, indirect=True)
def test_what_is_deleted_under_an_application_is_made_anew(orders: Channel, tmp_path: Path) -> None:
    front, back, handled, (seen_front, seen_back) = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back, front:
            await front.publish(Placed(order="o0"))
            await until(lambda: handled == [Placed(order="o0")])
            async with opened(orders) as (broker, address):
                await broker.remove(address, groups=[address.removesuffix("orders") + "back"])
            await until(lambda: bool(seen_back.lost("inbox.orders")))
            number = 0
            while len(handled) == 1:  # what is sent before the group is there again is for nobody, on some
                number += 1
                await front.publish(Placed(order="o1", number=number))
                await asyncio.sleep(0.1)
            for event in rounds(number + 1, 1)[0]:
                await front.publish(event)
            await until(lambda: {o.order for o in handled if o.number > number} == {f"o{key}" for key in range(KEYS)})
            assert by_key(handled)["o1"] == sorted(set(by_key(handled)["o1"]))
            await nothing_counted((front, seen_front), (back, seen_back))

    asyncio.run(story())


async def remove_group(broker: str, server: Any, address: str) -> None:
    """By the server's own means, and nothing else of the channel."""
    group = address.removesuffix("orders") + "back"
    if broker == "rabbitmq":
        await asyncio.to_thread(server.control, "delete_queue", f"{address}.{group}")
    elif broker == "redis":
        assert redis.ask(server.port, f"XGROUP DESTROY {address} {group}") == [":1"]
    else:
        client = NatsClient()
        await client.connect(server.url())
        stream = address.replace(".", "_")
        for consumer in await client.jetstream().consumers_info(stream):
            await client.jetstream().delete_consumer(stream, consumer.name)
        await client.close()


@pytest.mark.parametrize("broker", ["rabbitmq", "nats", "redis"], indirect=True)
def test_a_group_that_is_deleted_under_an_application_is_made_anew(
    broker: str, server: Server, orders: Channel, tmp_path: Path
) -> None:
    """Kafka deletes no group that has members."""
    front, back, handled, (seen_front, seen_back) = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back, front:
            await front.publish(Placed(order="o0"))
            await until(lambda: handled == [Placed(order="o0")])
            before = seen_back.connected("inbox.orders")
            async with opened(orders) as (_, address):
                await remove_group(broker, server, address)
            await until(lambda: bool(seen_back.lost("inbox.orders")))
            await until(lambda: seen_back.connected("inbox.orders") > before)
            number = 0
            while len(handled) == 1:  # what is sent before the group is there again is for nobody, on some
                number += 1
                await front.publish(Placed(order="o1", number=number))
                await asyncio.sleep(0.1)
            await front.publish(Placed(order="o1", number=number + 1))
            await until(lambda: handled[-1].number == number + 1)
            assert by_key(handled)["o1"] == list(range(handled[1].number, number + 2))
            assert by_key(handled)["o0"] == [0], "what had come before came again"
            await nothing_counted((front, seen_front), (back, seen_back))

    asyncio.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("broker", DELETABLE, indirect=True)
def test_what_is_deleted_and_not_to_be_created_is_told_and_asked_for_less_and_less_often(
    broker: str, server: Server, tmp_path: Path
) -> None:
    made = a_channel(broker, server)
    orders = Channel("orders", Placed, Paid, Large, url=f"{made.url}&create=no")
    front, back, handled, (seen_front, seen_back) = front_and_back(tmp_path, orders)

    async def make() -> None:
        async with opened(made) as (hands, address):
            await hands.declare(address)
            group = address.removesuffix("orders") + "back"
            subscription = await hands.subscribe(address, group=group, start="now", prefetch=1)
            await subscription.close()

    async def story() -> None:
        await make()
        async with back, front:
            await front.publish(Placed(order="o0"))
            await until(lambda: len(handled) == 1)
            async with opened(made) as (hands, address):
                await hands.remove(address, groups=[address.removesuffix("orders") + "back"])
            await front.publish(Placed(order="o1"))
            for seen, consumer in ((seen_front, "outbox.orders"), (seen_back, "inbox.orders")):
                await until(lambda seen=seen, consumer=consumer: len(seen.lost(consumer)) >= 5)  # type: ignore[misc]
                lost = seen.lost(consumer)
                assert "orders" in lost[-1].error
                assert lost[4].retry_in_seconds > 0.35, [one.error for one in lost]
            await make()
            await until(lambda: len(handled) == 2)
            await nothing_counted((front, seen_front), (back, seen_back))

    asyncio.run(story())


# -------------------------------------------------------------------------------------------------- full and too large


async def refill(tmp_path: Path, orders: Channel, *, full: Any = None, empty: Any = None, room: Any = None) -> None:
    """The outbox waits while there is no room, and goes on when there is: `empty` makes it, or who receives and `room`."""
    front, back, handled, (seen_front, seen_back) = front_and_back(tmp_path, orders)
    async with front:
        if full is not None:
            await full()
        for events in rounds(0, 3):
            await front.publish(*events)
        await until(lambda: len(seen_front.lost("outbox.orders")) >= 2)
        if empty is not None:
            await empty()
        async with back:
            if room is not None:
                await room(handled)
            await until(lambda: len(handled) == 3 * KEYS)
            assert by_key(handled) == {f"o{key}": [0, 1, 2] for key in range(KEYS)}
            await nothing_counted((front, seen_front), (back, seen_back))


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_queue_that_is_full_is_waited_for(broker: str, server: Server, tmp_path: Path) -> None:
    made = a_channel(broker, server, max_length="8")
    group = made.url and made.url.partition("prefix=")[2].partition("&")[0] + "back"
    orders = Channel("orders", Placed, Paid, Large, url=f"{made.url}&groups={group}")

    asyncio.run(refill(tmp_path, orders))


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_server_without_memory_is_waited_for(server: RabbitServer, orders: Channel, tmp_path: Path) -> None:
    front, back, handled, (seen_front, seen_back) = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back, front:
            await asyncio.to_thread(server.alarm, True)
            for events in rounds(0, 3):
                await front.publish(*events)
            await asyncio.to_thread(server.control, "status")  # which takes a second
            assert not handled
            await asyncio.to_thread(server.alarm, False)
            await until(lambda: len(handled) == 3 * KEYS)
            assert by_key(handled) == {f"o{key}": [0, 1, 2] for key in range(KEYS)}
            await nothing_counted((front, seen_front), (back, seen_back))

    asyncio.run(story())


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
def test_a_stream_that_is_full_is_waited_for(broker: str, server: Server, tmp_path: Path) -> None:
    orders = a_channel(broker, server, max_messages="20")

    async def room(handled: list[Placed]) -> None:
        await until(lambda: len(handled) == 20)
        client = NatsClient()
        await client.connect(server.url())
        async with opened(orders) as (_, address):
            await client.jetstream().purge_stream(address.replace(".", "_"))
        await client.close()

    asyncio.run(refill(tmp_path, orders, room=room))


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_memory_that_is_full_is_waited_for(server: Server, orders: Channel, tmp_path: Path) -> None:
    async def full() -> None:
        assert redis.ask(server.port, "CONFIG SET maxmemory 1") == ["+OK"]

    async def empty() -> None:
        assert redis.ask(server.port, "CONFIG SET maxmemory 0") == ["+OK"]

    asyncio.run(refill(tmp_path, orders, full=full, empty=empty))


def test_a_message_that_is_too_large_waits_with_its_key_alone_until_it_is_discarded(
    broker: str, server: Server, tmp_path: Path
) -> None:
    orders = a_channel(broker, server, format="structured")
    front, back, handled, (seen, _) = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back, front:
            large = Large(order="o1", text="x" * SITES[broker].oversized)
            await front.publish(
                Placed(order="o1", number=1), large, Placed(order="o1", number=2), Placed(order="o2", number=3)
            )
            (letter,) = await dead(front)
            await front.publish(Placed(order="o3", number=4))
            await until(lambda: {event.order for event in handled} == {"o1", "o2", "o3"})
            assert [one async for one in front.dead_letters.list(consumer="outbox.orders")] == [letter]
            assert letter.key_text == "order=o1"
            assert len(handled) == 3
            await front.dead_letters.discard(letter.id, note="nobody takes so much")
            await until(lambda: len(handled) == 4)
            assert by_key(handled) == {"o1": [1, 2], "o2": [3], "o3": [4]}
            assert not seen.failed()

    asyncio.run(story())


# --------------------------------------------------------------------------------------------------- in good order


NO_EVENT = b"\xff\x00 no event"


@pytest.mark.parametrize("way", ["inbox", "directly"])
def test_bytes_of_another_program_that_are_no_event_are_a_dead_letter_with_these_bytes(
    way: str, broker: str, server: Server, orders: Channel, tmp_path: Path
) -> None:
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders] if way == "inbox" else [])
    handled: list[str] = []

    async def handle(placed: Placed) -> None:
        handled.append(placed.order)

    app.on(handle) if way == "inbox" else app.on(source=orders)(handle)

    async def story() -> None:
        async with app, connect(orders) as link, opened(orders) as (_, address):
            await link.publish(Placed(order="before"))
            await SITES[broker].publish(server, address, NO_EVENT)
            await link.publish(Placed(order="after"))
            await until(lambda: set(handled) == {"before", "after"})
            (letter,) = await dead(app)
            (kept,) = [row async for row in app.log.read() if row.position.last == letter.position]
            assert msgspec.convert(msgspec.json.decode(kept.data)["data"], bytes) == NO_EVENT

    asyncio.run(story())


def test_a_question_is_answered(orders: Channel, tmp_path: Path) -> None:
    app = App("app", url=f"sqlite:///{tmp_path}/app.db")

    @app.on(source=orders)
    async def answer(placed: Placed) -> Paid:
        return Paid(order=placed.order, number=placed.number + 1)

    async def story() -> None:
        async with app, connect(orders) as link:
            questions = (link.request(Placed(order=f"o{n}", number=n), Paid, timeout=seconds(20)) for n in range(20))
            answers = await asyncio.gather(*questions)
            assert answers == [Paid(order=f"o{n}", number=n + 1) for n in range(20)]

    asyncio.run(story())


def test_what_is_to_be_sent_later_is_sent_when_it_is_due_also_after_a_restart(orders: Channel, tmp_path: Path) -> None:
    front, back, handled, _ = front_and_back(tmp_path, orders)
    again, *_ = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back:
            async with front:
                began = _world.monotonic()
                await front.publish_later(orders, Placed(order="o1", number=1), at=seconds(1.5))
                await front.publish(Placed(order="o1", number=0))
                await until(lambda: len(handled) == 1)
            async with again:
                await until(lambda: len(handled) == 2)
                assert _world.monotonic() - began >= 1.5
                assert by_key(handled) == {"o1": [0, 1]}

    asyncio.run(story())
