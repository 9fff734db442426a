"""What was given up: listed, tried again, edited, discarded; and later events of the key go on in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ensue import App, Context, DeadLetter, Event, Retry, upcast
from ensue.errors import Conflict, HandlerFailed, InvalidEvent
from tests.app.orders import OrderPlaced, PaymentProcessed, placed


class Shop:
    """An application whose gateway can be down, and refuses the customer c2."""

    def __init__(self, url: str) -> None:
        self.app = App("shop", url=url, retry=Retry.never)
        self.down = True
        self.charged: list[str] = []
        self.keys: list[str] = []

        @self.app.on
        async def charge(order: OrderPlaced, ctx: Context) -> PaymentProcessed:
            self.keys.append(ctx.idempotency_key)
            if self.down or order.customer_id == "c2":
                raise ConnectionError("no gateway")
            self.charged.append(f"{order.order_id} {order.customer_id}")
            return PaymentProcessed(order_id=order.order_id)

    async def letters(self, consumer: str | None = None) -> list[DeadLetter]:
        return [letter async for letter in self.app.dead_letters.list(consumer=consumer)]

    async def fail(self, *events: OrderPlaced) -> list[DeadLetter]:
        receipt = await self.app.publish(*events)
        for _ in range(2):
            with pytest.raises(HandlerFailed):
                await receipt.wait()
        return await self.letters()


def running(url: str, work: Callable[[Shop], Awaitable[None]]) -> None:
    async def run() -> None:
        shop = Shop(url)
        async with asyncio.timeout(30), shop.app:
            await work(shop)

    asyncio.run(run())


def test_a_dead_letter_says_what_failed_where_why_and_how_often(url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        assert (letter.position, letter.key_text, letter.attempts) == (1, "order_id=o1", 1)
        assert letter.reason == "ConnectionError: no gateway"
        assert "in charge" in letter.traceback
        assert letter.resolution is None

    running(url, work)


def test_letters_are_listed_by_consumer(url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        assert await shop.letters("charge") == [letter]
        with pytest.raises(ValueError, match="no consumer is called 'ship'; there are: charge"):
            await shop.letters("ship")

    running(url, work)


def test_a_retry_handles_the_event_and_those_that_waited_behind_it_in_order(url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed(1, "c1"))
        behind = await shop.app.publish(placed(1, "c3"), placed(1, "c4"))
        shop.down = False
        await shop.app.dead_letters.retry(letter.id, by="ann")
        await behind.wait()
        assert shop.charged == ["o1 c1", "o1 c3", "o1 c4"]
        assert await shop.letters() == []

    running(url, work)


def test_a_retry_that_fails_is_a_dead_letter_again(url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        await shop.app.dead_letters.retry(letter.id)
        position = await shop.app.log.head()
        with pytest.raises(HandlerFailed):
            await shop.app.wait(type(position).of(position.log_id, 1, 1), "charge")
        (again,) = await shop.letters()
        assert again.id != letter.id
        assert shop.keys[0] == shop.keys[1]

    running(url, work)


def test_an_edit_is_handled_in_place_of_the_event_by_this_consumer_only(url: str) -> None:
    async def work(shop: Shop) -> None:
        shop.down = False
        (letter,) = await shop.fail(placed(1, "c2"))
        behind = await shop.app.publish(placed(1, "c3"))
        await shop.app.dead_letters.retry(letter.id, event=placed(1, "c9"))
        await behind.wait()
        assert shop.charged == ["o1 c9", "o1 c3"]
        assert [row.event async for row in shop.app.log.read(OrderPlaced)][:1] == [placed(1, "c2")]
        assert len(set(shop.keys)) == 3, "an edited event is another call for the outside"

    running(url, work)


def test_a_discard_passes_over_the_event_and_keeps_the_note(url: str) -> None:
    async def work(shop: Shop) -> None:
        shop.down = False
        (letter,) = await shop.fail(placed(1, "c2"))
        behind = await shop.app.publish(placed(1, "c3"))
        with pytest.raises(InvalidEvent, match="needs a note"):
            await shop.app.dead_letters.discard(letter.id, note=" ")
        await shop.app.dead_letters.discard(letter.id, note="a test order", by="ann")
        await behind.wait()
        assert shop.charged == ["o1 c3"]
        (kept,) = await shop.app.open_store().dead_letters(open_only=False)
        assert (kept.resolution, kept.note, kept.by) == ("discarded", "a test order", "ann")

    running(url, work)


def test_a_letter_is_resolved_once(url: str) -> None:
    async def work(shop: Shop) -> None:
        shop.down = False
        (letter,) = await shop.fail(placed(1, "c2"))
        acts: list[Any] = [
            shop.app.dead_letters.discard(letter.id, note="one"),
            shop.app.dead_letters.discard(letter.id, note="two"),
        ]
        results = await asyncio.gather(*acts, return_exceptions=True)
        assert sorted(map(type, results), key=str) == sorted([Conflict, type(None)], key=str)
        with pytest.raises(Conflict, match=f"the dead letter {letter.id} was discarded already"):
            await shop.app.dead_letters.retry(letter.id)
        with pytest.raises(ValueError, match="there is no dead letter 99"):
            await shop.app.dead_letters.retry(99)

    running(url, work)


def test_an_edit_to_another_type_is_refused(url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        with pytest.raises(InvalidEvent, match="holds an OrderPlaced; it cannot become a PaymentProcessed"):
            await shop.app.dead_letters.retry(letter.id, event=PaymentProcessed(order_id="o1"))
        with pytest.raises(InvalidEvent):
            await shop.app.dead_letters.retry(letter.id, event={"order_id": "o1"})  # type: ignore[arg-type]
        assert await shop.letters() == [letter]

    running(url, work)


class OldBill(Event, key="order_id", name="test.Bill"):
    order_id: str
    sum: int


class Bill(Event, key="order_id", name="test.Bill", version=2):
    order_id: str
    total: int


@upcast(Bill, version=1)
def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": fields["order_id"], "total": fields["sum"]}


def test_an_event_of_an_old_version_is_edited_as_it_is_stored_and_not_as_the_present_one(file_url: str) -> None:
    async def write() -> None:
        async with App("old", url=file_url).connected() as app:
            await app.publish(OldBill(order_id="o1", sum=7))

    async def run() -> None:
        app = App("shop", url=file_url, retry=Retry.never)

        @app.on(start="beginning")
        async def pay(bill: Bill) -> None:
            raise ConnectionError("no gateway")

        async with asyncio.timeout(30), app:
            with pytest.raises(HandlerFailed):
                await app.wait(await app.log.head(), pay)
            with pytest.raises(InvalidEvent, match="of version 1, and this code writes version 2"):
                await app.dead_letters.retry(1, event=Bill(order_id="o1", total=9))

    asyncio.run(write())
    asyncio.run(run())


def test_who_only_connects_can_resolve_what_another_process_handles(file_url: str) -> None:
    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        shop.down = False
        async with App("console", url=file_url).connected() as console:
            await console.dead_letters.retry(letter.id, by="ann")
        await shop.app.wait(await shop.app.log.head())
        assert await shop.letters() == []
        (kept,) = await shop.app.open_store().dead_letters(open_only=False)
        assert (kept.resolution, kept.by) == ("retried", "ann")

    running(file_url, work)


def test_without_a_name_the_user_of_the_process_has_done_it_also_one_without_a_name(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)

    async def work(shop: Shop) -> None:
        (letter,) = await shop.fail(placed())
        await shop.app.dead_letters.discard(letter.id, note="a test order")
        (kept,) = await shop.app.open_store().dead_letters(open_only=False)
        assert kept.by == "user 54321"

    running(url, work)
