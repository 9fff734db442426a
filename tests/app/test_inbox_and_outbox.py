"""Between applications: what is stored is sent, what comes is stored, each event once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from ensue import App, Channel, Event, Recorded, Retry
from ensue.consumers.verify import verify
from ensue.errors import DefinitionError, MissingCapability, Unavailable, WiringError
from ensue.events.message import seconds
from tests.app.channels import Paid, Placed, broker_at, channel, dead, drained, raw, until


def front_and_back(tmp_path: Path, orders: Channel) -> tuple[App, App]:
    """One places orders and hears what was paid, the other pays; both send and receive on the same channel."""
    front = App("front", url=f"sqlite:///{tmp_path}/front.db", inbox=[orders], outbox=[orders])
    back = App("back", url=f"sqlite:///{tmp_path}/back.db", inbox=[orders], outbox=[orders])

    @back.on
    async def pay(placed: Placed) -> Paid:
        return Paid(order=placed.order, number=placed.number)

    return front, back


async def events(app: App, *types: type[Event]) -> list[Recorded[Event]]:
    return [recorded async for recorded in app.log.read(*types)]


def test_what_one_application_stores_another_handles_and_answers_in_the_order_of_each_key(tmp_path: Path) -> None:
    front, back = front_and_back(tmp_path, channel())
    heard: list[Paid] = []

    @front.on
    async def hear(paid: Paid) -> None:
        heard.append(paid)

    async def story() -> None:
        async with back, front:
            for number in range(20):
                await front.publish(*(Placed(order=f"o{order}", number=number) for order in range(10)))
            await until(lambda: len(heard) >= 200)
        for order in range(10):
            assert [paid.number for paid in heard if paid.order == f"o{order}"] == list(range(20))

    asyncio.run(story())


def test_no_application_stores_its_own_messages_nor_sends_back_what_came(tmp_path: Path) -> None:
    orders = channel()
    front, back = front_and_back(tmp_path, orders)

    async def story() -> None:
        async with back, front:
            receipt = await front.publish(Placed(order="o1"))
            await receipt.wait(timeout=seconds(10))
            assert len(await drained(orders, "somebody else", 2)) == 2  # placed, and paid
            await (await front.publish(Placed(order="o2"))).wait(timeout=seconds(10))
            assert len(await drained(orders, "yet another", 4)) == 4
            await until(lambda: front.open_store().head() == 4)
        async with front.connected(), back.connected():
            assert len(await events(front)) == len(await events(back)) == 4

    asyncio.run(story())


def test_an_event_keeps_its_id_its_time_its_correlation_and_its_cause_from_log_to_log(tmp_path: Path) -> None:
    front, back = front_and_back(tmp_path, channel())

    async def story() -> None:
        async with back, front:
            await front.publish(Placed(order="o1"), headers={"x tenant": "ü"})
            await until(lambda: front.open_store().head() == 2)
            placed, paid = await events(front)
            placed_there, paid_there = await events(back)
            assert (placed_there.id, placed_there.time) == (placed.id, placed.time)
            assert placed_there.headers == {"x tenant": "ü"}
            assert (paid.id, paid.correlation_id, paid.causation_id) == (
                paid_there.id,
                placed.correlation_id,
                placed.id,
            )

    asyncio.run(story())


def test_a_message_that_comes_twice_is_stored_once_whoever_sent_it(tmp_path: Path) -> None:
    orders = channel()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders])
    handled: list[Placed] = []

    @app.on
    async def handle(placed: Placed) -> None:
        handled.append(placed)

    async def story() -> None:
        async with app, broker_at(orders) as broker:
            body = b'{"order": "o1"}'
            first = [raw(body, id="7"), raw(body, id="7"), raw(body, id="7", source="/other"), raw(body, id="8")]
            assert not await broker.publish("orders", first)
            await until(lambda: len(handled) == 3)
            assert not await broker.publish("orders", [raw(body, id="8"), raw(b'{"order": "o2"}', id="9")])
            await until(lambda: len(handled) == 4)
            assert [placed.order for placed in handled] == ["o1", "o1", "o1", "o2"]
            assert len(await events(app)) == 4

    asyncio.run(story())


def test_only_what_the_channel_carries_is_sent(tmp_path: Path) -> None:
    paid_only = channel(Paid)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[paid_only])

    async def story() -> None:
        async with app:
            receipt = await app.publish(Placed(order="o1"), Paid(order="o1"), Placed(order="o2"), Paid(order="o2"))
            await receipt.wait(timeout=seconds(10))
            sent = await drained(paid_only, "all", 2)
            assert [message.header("ce-type") for message in sent] == ["Paid", "Paid"]

    asyncio.run(story())


def test_what_came_by_one_channel_goes_on_by_another_under_its_own_name(tmp_path: Path) -> None:
    first, second = channel(), Channel("further", Placed, url="memory://bridge")
    bridge = App("bridge", url=f"sqlite:///{tmp_path}/bridge.db", inbox=[first], outbox=[second])

    async def story() -> None:
        async with bridge, broker_at(first) as broker:
            await broker.publish("orders", [raw(b'{"order": "o1"}', id="7")])
            (sent,) = await drained(second, "end", 1)
            assert (sent.header("ce-id"), sent.header("ce-source")) == ("7", "/elsewhere")

    asyncio.run(story())


UNREADABLE = {
    "is no JSON": raw(b"\xff\x00 no json"),
    "lacks a field": raw(b'{"number": 1}'),
    "has an empty key": raw(b'{"order": ""}'),
    "is of a type that nobody knows": raw(b'{"order": "o1"}', type="Unknown"),
    "is of newer code": raw(b'{"order": "o1"}', dataversion="9"),
    "is too large": raw(b'{"order": "' + b"x" * 2_000_000 + b'"}'),
    "is no event at all": msgspec.structs.replace(raw(b"hello"), headers={"color": "blue"}),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_message_that_cannot_be_read_becomes_a_dead_letter_with_its_bytes_and_the_others_flow(
    what: str, tmp_path: Path
) -> None:
    orders = channel()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders])
    handled: list[str] = []

    @app.on
    async def handle(placed: Placed) -> None:
        handled.append(placed.order)

    async def story() -> None:
        async with app, broker_at(orders) as broker:
            message = UNREADABLE[what]
            good = (raw(b'{"order": "before"}', id="a"), raw(b'{"order": "after"}', id="b"))
            assert not await broker.publish("orders", [good[0], message, good[1]])
            await until(lambda: set(handled) == {"before", "after"})
            (letter,) = await dead(app)
            (kept,) = [row async for row in app.log.read() if row.position.last == letter.position]
            stored = msgspec.json.decode(kept.data)
            body = stored["text"].encode() if "text" in stored else msgspec.convert(stored["data"], bytes)
            assert body == message.body
            assert stored["headers"] == message.headers

    asyncio.run(story())


async def edited_and_handled(tmp_path: Path, then: Callable[[App], Awaitable[None]]) -> list[str]:
    """A message that cannot be read is edited and handled; what was handled."""
    from ensue.consumers.operations import release

    orders = channel()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders])
    handled: list[str] = []

    @app.on
    async def handle(placed: Placed) -> None:
        handled.append(placed.order)

    async with app, broker_at(orders) as broker:
        await broker.publish("orders", [raw(b'{"ordre": "o1"}')])
        (letter,) = await dead(app)
        (kept,) = [row async for row in app.log.read() if row.position.last == letter.position]
        edit = kept.data.replace(b"ordre", b"order")
        engine = app._open_engine()
        await release(engine.store, engine.world, letter, edit=edit, by="a test")
        await until(lambda: bool(handled))
        await then(app)
    return handled


def test_a_dead_message_that_was_edited_is_read_again_and_handled(tmp_path: Path) -> None:
    async def nothing(app: App) -> None: ...

    assert asyncio.run(edited_and_handled(tmp_path, nothing)) == ["o1"]


def test_a_log_with_a_message_that_was_read_later_is_whole(tmp_path: Path) -> None:
    async def whole(app: App) -> None:
        engine = app._open_engine()
        assert (await verify(engine.store, engine.world)).findings == ()

    asyncio.run(edited_and_handled(tmp_path, whole))


def test_types_that_others_put_on_the_topic_can_be_passed_over(tmp_path: Path) -> None:
    orders = channel(Placed, unknown="skip")
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders])

    async def story() -> None:
        async with app, broker_at(orders) as broker:
            foreign = [raw(b"{}", id="1", type="org.other.thing"), raw(b'{"order": "o1"}', id="2")]
            await broker.publish("orders", foreign)
            await until(lambda: app.open_store().head() == 1)
            (recorded,) = await events(app)
            assert recorded.event == Placed(order="o1")

    asyncio.run(story())


def test_a_hundred_messages_that_cannot_be_read_do_not_stop_the_inbox(tmp_path: Path) -> None:
    orders = channel()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders])
    handled: list[str] = []

    @app.on
    async def handle(placed: Placed) -> None:
        handled.append(placed.order)

    async def story() -> None:
        async with app, broker_at(orders) as broker:
            await broker.publish("orders", [raw(b"no", id=str(number)) for number in range(100)])
            await broker.publish("orders", [raw(b'{"order": "o1"}', id="good")])
            await until(lambda: handled == ["o1"])
            assert len(await dead(app, 100)) == 100

    asyncio.run(story())


def test_ten_thousand_messages_that_wait_do_not_hold_a_stop_and_none_is_lost(tmp_path: Path) -> None:
    orders = channel()
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[orders], drain_seconds=5)
    handled: list[int] = []

    @app.on(retry=Retry.never)
    async def handle(placed: Placed) -> None:
        handled.append(placed.number)

    async def story() -> None:
        messages = [raw(b'{"order": "o%d", "number": %d}' % (n % 50, n), id=str(n)) for n in range(10_000)]
        async with broker_at(orders) as broker:
            assert not await broker.publish("orders", messages)
        async with asyncio.timeout(20), app:
            await until(lambda: len(handled) > 10)
        assert len(handled) < 10_000
        async with app:
            await until(lambda: len(handled) == 10_000)
        for order in range(50):
            numbers = [number for number in handled if number % 50 == order]
            assert numbers == sorted(numbers)

    asyncio.run(story())


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_a_channel_that_nothing_places_is_an_error_at_start_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENSUE_CHANNELS", raising=False)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[Channel("late-orders", Placed)])

    async def story() -> None:
        with pytest.raises(WiringError, match="set ENSUE_CHANNEL_LATE_ORDERS"):
            async with app:
                pass

    asyncio.run(story())


def test_the_environment_places_one_channel_or_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_CHANNELS", "memory://for-all")
    monkeypatch.setenv("ENSUE_CHANNEL_SPECIAL", "memory://for-one")
    common, special = Channel("common", Placed), Channel("special", Paid)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[common, special])

    async def story() -> None:
        async with app:
            await (await app.publish(Placed(order="o1"), Paid(order="o1"))).wait(timeout=seconds(10))
            assert len(await drained(Channel("common", Placed, url="memory://for-all"), "g", 1)) == 1
            assert len(await drained(Channel("special", Paid, url="memory://for-one"), "g", 1)) == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("carrier-pigeon://loft", "no broker for the URL"),
        ("memory://x?colour=blue", "there is no parameter 'colour'"),
        ("kafka://user:p@ss@host", "cannot be read in one way"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_at_start_without_its_secrets(url: str, said: str, tmp_path: Path) -> None:
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[Channel("orders", Placed, url=url)])

    async def story() -> None:
        with pytest.raises(WiringError, match=said) as raised:
            async with app:
                pass
        assert "ss@host" not in str(raised.value)

    asyncio.run(story())


def test_a_broker_that_is_absent_at_start_is_waited_for_as_long_as_the_url_says(tmp_path: Path) -> None:
    from tests.servers.postgresql import reserved_port

    with reserved_port() as port:
        url = f"nats://127.0.0.1:{port.getsockname()[1]}?wait_seconds=0.3"
        app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[Channel("orders", Placed, url=url)])
        losses: list[object] = []

        async def story() -> None:
            app._observers = [losses.append]
            with pytest.raises(Unavailable, match="is the server running"):
                async with app:
                    pass

        asyncio.run(story())
    assert any(type(signal).__name__ == "ChannelLost" for signal in losses)


def test_a_broker_that_refuses_is_told_at_once_though_another_one_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensue.channels.memory import MemoryBroker
    from ensue.errors import AccessRefused

    async def opened(self: MemoryBroker, world: object) -> None:
        raise AccessRefused("not you") if "refuses" in repr(self._place) else Unavailable("is away")

    monkeypatch.setattr(MemoryBroker, "open", opened)
    away, refuses = Channel("away", Placed, url="memory://away"), Channel("refuses", Paid, url="memory://refuses")
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", outbox=[away, refuses])

    async def story() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(AccessRefused):
                async with app:
                    pass

    asyncio.run(story())


def test_a_new_outbox_on_a_log_with_history_must_say_where_it_begins(tmp_path: Path) -> None:
    url, orders = f"sqlite:///{tmp_path}/app.db", channel()

    async def story() -> None:
        async with App("app", url=url).connected() as app:
            await app.publish(Placed(order="old"))
        with pytest.raises(WiringError, match=r"'outbox\.orders' is new"):
            async with App("app", url=url, outbox=[orders]):
                pass
        now = Channel("orders", Placed, url=orders.url, start="now")
        async with App("app", url=url, outbox=[now]) as app:
            await (await app.publish(Placed(order="new"))).wait(timeout=seconds(10))
        (sent,) = await drained(orders, "all", 1)
        assert b"new" in sent.body

    asyncio.run(story())


def test_what_is_no_channel_is_refused_where_it_is_given() -> None:
    with pytest.raises(DefinitionError, match="takes channels"):
        App("app", inbox=["orders"])  # type: ignore[list-item]
    with pytest.raises(DefinitionError, match="takes a list of channels"):
        App("app", outbox=Channel("orders", Placed))  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="give a channel"):
        App("app").on(source="orders")(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="two channels of outbox="):
        App("app", outbox=[channel(), channel()])


def test_a_start_that_a_broker_cannot_give_is_an_error_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensue.channels.memory import MemoryBroker

    found = MemoryBroker.capabilities
    assert isinstance(found, property)
    less = property(lambda broker: msgspec.structs.replace(found.__get__(broker), replay=False))
    monkeypatch.setattr(MemoryBroker, "capabilities", less)
    app = App("app", url=f"sqlite:///{tmp_path}/app.db", inbox=[channel(Placed, start="beginning")])

    async def story() -> None:
        with pytest.raises(MissingCapability, match=r"inbox\.orders.*'beginning'.*memory"):
            async with app:
                pass

    asyncio.run(story())
