"""The log, bare: append with conditions, read from and to places, backwards, and follow."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ensue import App, Criteria, Event, Position, Recorded, UnknownEvent, upcast
from ensue.errors import Conflict, DuplicateEventId, IdempotencyKeyReused, InvalidEvent, Unavailable, UnreadableEvent
from ensue.events.recorded import microseconds
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed, until


def connected(url: str, work: Callable[[App], Awaitable[None]]) -> None:
    async def run() -> None:
        app = App("shop", url=url)
        async with asyncio.timeout(60), app.connected():
            await work(app)

    asyncio.run(run())


async def positions(app: App, *types: type[Event], **places: Any) -> list[int]:
    return [row.position.last async for row in app.log.read(*types, **places)]


async def five(app: App) -> None:
    """Orders of two customers at 1 and 2, a payment at 3, an order at 4, a shipment at 5."""
    await app.publish(placed(1, "c1"), placed(2, "c2"))
    await app.publish(PaymentProcessed(order_id="o1"))
    await app.publish(placed(3, "c1"))
    await app.publish(OrderShipped(order_id="o1"))


# --------------------------------------------------------------------------------------------------------- appending


def test_an_expected_version_is_that_of_the_first_events_stream(url: str) -> None:
    async def work(app: App) -> None:
        await app.log.append(placed(1), expected_version=0)
        await app.log.append(PaymentProcessed(order_id="o1"), OrderShipped(order_id="o1"), expected_version=1)
        with pytest.raises(Conflict, match="version") as caught:
            await app.log.append(placed(1), expected_version=1)
        assert (caught.value.expected, caught.value.actual) == (1, 3)
        assert await app.log.version(OrderPlaced, "o1") == 3

    connected(url, work)


def test_of_writers_at_one_version_one_wins(url: str) -> None:
    async def work(app: App) -> None:
        tries = [app.log.append(placed(1), expected_version=0) for _ in range(10)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(not isinstance(result, Conflict) for result in results) == 1
        assert await positions(app) == [1]

    connected(url, work)


def test_a_condition_holds_while_nothing_like_it_came_after_its_position(url: str) -> None:
    async def work(app: App) -> None:
        await five(app)
        taken = Criteria(OrderPlaced, customer_id="c2")
        with pytest.raises(Conflict) as caught:
            await app.log.append(placed(9, "c2"), unless=taken)
        assert caught.value.actual == 2
        receipt = await app.log.append(placed(9, "c2"), unless=taken, since=2)
        with pytest.raises(Conflict):
            await app.log.append(placed(10, "c2"), unless=taken, since=Position.of(receipt.position.log_id, 2, 2))
        await app.log.append(placed(10, "c2"), unless=taken, since=receipt.position)

    connected(url, work)


def test_a_condition_over_types_that_exclude_each_other_always_holds(url: str) -> None:
    async def work(app: App) -> None:
        await five(app)
        await app.log.append(placed(9), unless=Criteria(OrderPlaced, customer_id="nobody") | Criteria(Cancelled))

    connected(url, work)


class Cancelled(Event, key="order_id"):
    order_id: str


class Nameless(Event):
    text: str


def test_conditions_that_say_nothing_are_refused(url: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(ValueError, match="stream of the first event's key"):
            await app.log.append(Nameless(text="a"), expected_version=0)
        with pytest.raises(ValueError, match="stream of the first event's key"):
            await app.log.append(expected_version=0)
        with pytest.raises(ValueError, match="give both"):
            await app.log.append(placed(), since=1)
        with pytest.raises(ValueError, match="Nameless declares no key"):
            await app.log.version(Nameless, "a")

    connected(url, work)


def test_an_append_with_a_key_happens_once(url: str) -> None:
    async def work(app: App) -> None:
        first = await app.log.append(placed(), expected_version=0, idempotency_key="k")
        again = await app.log.append(placed(), expected_version=0, idempotency_key="k")
        assert (again.position, again.replayed) == (first.position, True)
        with pytest.raises(IdempotencyKeyReused):
            await app.log.append(placed(2), idempotency_key="k")

    connected(url, work)


def test_a_recorded_event_is_written_again_byte_for_byte_also_when_its_type_is_unknown(file_url: str) -> None:
    connected(file_url, lambda app: ignored(app.publish(placed(), headers={"tenant": "eu"})))

    async def run() -> None:
        stranger, target = App("stranger", url=file_url), App("target", url="memory:")
        async with stranger.connected(), target.connected():
            (original,) = [row async for row in stranger.log.read()]
            assert original.event == UnknownEvent(
                type_name="OrderPlaced", type_version=1, fields={"order_id": "o1", "customer_id": "c1"}
            )
            with pytest.raises(InvalidEvent, match=r"give log\.append the Recorded it came in"):
                await target.log.append(original.event)
            await target.log.append(original)
            with pytest.raises(DuplicateEventId):
                await target.log.append(original)
            (copy,) = [row async for row in target.log.read(OrderPlaced)]
            assert copy.event == placed()
            assert (copy.id, copy.data, copy.meta) == (original.id, original.data, original.meta)

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------- reading


def test_reads_select_by_type_by_tag_and_by_both(url: str) -> None:
    async def work(app: App) -> None:
        await five(app)
        assert await positions(app) == [1, 2, 3, 4, 5]
        assert await positions(app, OrderPlaced) == [1, 2, 4]
        assert await positions(app, PaymentProcessed, OrderShipped) == [3, 5]
        assert await positions(app, Event) == [1, 2, 3, 4, 5]
        assert await positions(app, criteria=Criteria(order_id="o1")) == [1, 3, 5]
        assert await positions(app, OrderPlaced, criteria=Criteria(order_id="o1")) == [1]
        assert await positions(app, criteria=Criteria(customer_id="c1") | Criteria(OrderShipped)) == [1, 4, 5]
        assert await positions(app, criteria=Criteria(customer_id="c1", order_id="o3")) == [4]
        assert await positions(app, criteria=Criteria()) == [1, 2, 3, 4, 5]

    connected(url, work)


def test_a_selection_that_excludes_everything_finds_nothing(url: str) -> None:
    async def work(app: App) -> None:
        await five(app)
        assert await positions(app, OrderPlaced, criteria=Criteria(OrderShipped)) == []
        assert await positions(app, Cancelled) == []
        assert await positions(app, UnknownEvent) == []
        with pytest.raises(InvalidEvent, match="'OrderPlaced' is not an event type"):
            await positions(app, "OrderPlaced")  # type: ignore[arg-type]

    connected(url, work)


@pytest.mark.parametrize(
    ("after", "before", "found"),
    [
        (None, None, [1, 2, 3, 4, 5]),
        (0, 6, [1, 2, 3, 4, 5]),
        (2, None, [3, 4, 5]),
        (None, 3, [1, 2]),
        (1, 4, [2, 3]),
        (3, 4, []),
        (4, 2, []),
        (None, 1_000, [1, 2, 3, 4, 5]),
        (1_000, None, []),
        (1_000, 2_000, []),
    ],
)
def test_a_read_begins_behind_after_and_ends_in_front_of_before_in_both_directions(
    after: int | None, before: int | None, found: list[int], url: str
) -> None:
    async def work(app: App) -> None:
        await five(app)
        assert await positions(app, after=after, before=before) == found
        assert await positions(app, after=after, before=before, backwards=True) == found[::-1]

    connected(url, work)


def test_a_write_is_a_place_as_a_whole(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(1))
        middle = (await app.publish(placed(2), placed(3))).position
        await app.publish(placed(4))
        assert await positions(app, after=middle) == [4]
        assert await positions(app, before=middle) == [1]
        assert await positions(app, before=middle, backwards=True) == [1]

    connected(url, work)


def test_a_time_is_a_place_before_its_first_event(file_url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(1))
        (first,) = [row async for row in app.log.read()]
        await until(lambda: datetime.now(UTC) > first.recorded_at)
        await app.publish(placed(2))
        second = [row async for row in app.log.read()][1].recorded_at
        assert await positions(app, after=second) == [2]
        assert await positions(app, before=second) == [1]
        assert await positions(app, after=first.recorded_at) == [1, 2]
        assert await positions(app, before=first.recorded_at) == []
        assert await positions(app, before=second + timedelta(days=1)) == [1, 2]
        assert await positions(app, after=second + timedelta(days=1)) == []
        assert await positions(app, after=first.recorded_at, before=second, backwards=True) == [1]
        assert microseconds(second) > microseconds(first.recorded_at)

    connected(file_url, work)


def test_reads_over_several_pages_find_each_event_once_in_both_directions(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(*(placed(number, f"c{number % 3}") for number in range(2_600)))
        assert await positions(app) == list(range(1, 2_601))
        assert await positions(app, backwards=True) == list(range(2_600, 0, -1))
        of_one = [number + 1 for number in range(2_600) if number % 3 == 1]
        assert await positions(app, criteria=Criteria(customer_id="c1")) == of_one
        assert await positions(app, criteria=Criteria(customer_id="c1"), backwards=True) == of_one[::-1]

    connected(url, work)


def test_backwards_and_follow_exclude_each_other(url: str) -> None:
    async def work(app: App) -> None:
        with pytest.raises(ValueError, match="give one of them"):
            await positions(app, backwards=True, follow=True)

    connected(url, work)


class OldOrder(Event, key="order_id", name="test.Order"):
    order_id: str
    sum: int


class NewOrder(Event, key="order_id", name="test.Order", version=2):
    order_id: str
    total: int


class NewestOrder(Event, key="order_id", name="test.Order", version=3):
    order_id: str
    total: int


@upcast(NewOrder, version=1)
def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": fields["order_id"], "total": fields["sum"]}


def test_an_old_version_is_read_as_the_present_one(file_url: str) -> None:
    connected(file_url, lambda app: ignored(app.publish(OldOrder(order_id="o1", sum=7))))

    async def work(app: App) -> None:
        (row,) = [row async for row in app.log.read(NewOrder)]
        assert row.event == NewOrder(order_id="o1", total=7)
        assert row.type_version == 1

    connected(file_url, work)


async def ignored(work: Awaitable[object]) -> None:
    await work


def test_what_this_code_cannot_read_stops_only_the_reads_that_meet_it(file_url: str) -> None:
    async def write(app: App) -> None:
        await app.publish(placed(1))
        await app.publish(NewestOrder(order_id="o1", total=7))

    async def work(app: App) -> None:
        assert await positions(app, OrderPlaced) == [1]
        with pytest.raises(UnreadableEvent, match=r"test\.Order"):
            await positions(app, NewOrder)

    connected(file_url, write)
    connected(file_url, work)


# --------------------------------------------------------------------------------------------------------- following


def test_following_goes_on_from_what_is_there_to_what_comes_with_no_gap_and_no_repeat(url: str) -> None:
    most = 3_000

    async def work(app: App) -> None:
        await app.publish(*(placed(number) for number in range(1_500)))

        async def append() -> None:
            number = 1_500
            while number < most:
                await app.publish(*(placed(number + step) for step in range(7)))
                number += 7

        found: list[int] = []
        appending = asyncio.create_task(append())
        async for row in app.log.read(OrderPlaced, follow=True):
            found.append(row.position.last)
            if len(found) == most:
                break
        await appending
        assert found == list(range(1, most + 1))

    connected(url, work)


def test_several_followers_in_another_process_like_opening_see_the_same(file_url: str) -> None:
    async def work(app: App) -> None:
        other = App("other", url=file_url)

        async def follow(reader: App) -> list[int]:
            found: list[int] = []
            async for row in reader.log.read(follow=True, criteria=Criteria(customer_id="c1")):
                found.append(row.position.last)
                if row.position.last == 31:
                    break
            return found

        async with other.connected():
            following = [asyncio.create_task(follow(reader)) for reader in (app, other, other)]
            for number in range(30):
                await app.publish(placed(number, f"c{number % 2}"))
            await app.publish(placed("end"))
            results = await asyncio.gather(*following)
        assert results[0] == results[1] == results[2]
        assert results[0] == [number + 1 for number in range(30) if number % 2 == 1] + [31]

    connected(file_url, work)


def test_following_up_to_a_place_ends_there(url: str) -> None:
    async def work(app: App) -> None:
        await app.publish(placed(1))
        reading = asyncio.create_task(positions(app, before=4, follow=True))
        for number in (2, 3, 4, 5):
            await app.publish(placed(number))
        assert await reading == [1, 2, 3]

    connected(url, work)


def test_following_ends_with_an_error_when_the_app_is_closed(url: str) -> None:
    async def run() -> None:
        app, begun = App("shop", url=url), asyncio.Event()

        async def follow() -> None:
            async for _ in app.log.read(follow=True):
                begun.set()

        async with app.connected():
            following = asyncio.create_task(follow())
            await app.publish(placed())
            await begun.wait()
        with pytest.raises(Unavailable):
            await following

    asyncio.run(run())


class Note(Event):
    text: str


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(1_000, 20_000), (500_000, 60)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_log_is_read_in_bounded_memory(size: int, count: int, backwards: bool, file_url: str) -> None:
    async def work(app: App) -> None:
        for _ in range(20):
            await app.publish(*(Note(text="x" * size) for _ in range(count // 20)))
        tracemalloc.start()
        found = 0
        async for _ in app.log.read(Note, backwards=backwards):
            found += 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == count
        assert peak < 14_000_000, f"{peak} bytes for a log of {size * count}"

    connected(file_url, work)


# ------------------------------------------------------------------------------------------------- versions and head


class Noted(Event, key="note_id", tags=("order_id",)):
    note_id: str
    order_id: str


def test_the_version_of_a_stream_counts_its_own_events_only(url: str) -> None:
    async def work(app: App) -> None:
        assert await app.log.version(OrderPlaced, "o1") == 0
        await five(app)
        for number in range(3):
            await app.publish(Noted(note_id=f"n{number}", order_id="o1"))
        assert await app.log.version(OrderPlaced, "o1") == 3
        assert await app.log.version(OrderShipped, "o1") == 3
        assert await app.log.version(OrderPlaced, "o9") == 0

    connected(url, work)


def test_the_head_is_where_the_log_ends_also_when_another_opening_wrote(file_url: str) -> None:
    async def work(app: App) -> None:
        other = App("other", url=file_url)
        assert (await app.log.head()).last == 0
        async with other.connected():
            await other.publish(placed(1), placed(2))
        assert (await app.log.head()).last == 2

    connected(file_url, work)


def test_recorded_events_tell_where_when_and_why(url: str) -> None:
    async def work(app: App) -> None:
        before = datetime.now(UTC)
        await five(app)
        rows: list[Recorded[Any]] = [row async for row in app.log.read()]
        assert [row.stream_version for row in rows] == [1, 1, 2, 1, 3]
        assert [row.position.last for row in rows] == [1, 2, 3, 4, 5]
        times = [row.recorded_at for row in rows]
        assert times == sorted(times)
        assert before - timedelta(seconds=1) < times[0]
        assert len({row.id for row in rows}) == 5

    connected(url, work)
