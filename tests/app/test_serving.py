"""Signals to real processes: the first drains, the second ends at once; and what is killed loses nothing."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from ensue import App, Position
from ensue.errors import Misuse
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed
from tests.app.processes import Program
from tests.app.program import application

pytestmark = pytest.mark.slow

STOPS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


def publish(url: str, *numbers: int) -> None:
    async def run() -> None:
        async with App("publisher", url=url).connected() as app:
            await app.publish(*(placed(number) for number in numbers))

    asyncio.run(run())


def settle(url: str) -> dict[str, Counter[str]]:
    """Run the consumers here until all is done; how often each order has each event, and is in the book."""

    async def run() -> dict[str, Counter[str]]:
        app = application(url)
        async with asyncio.timeout(60), app:
            head = await app.log.head()
            await app.wait(Position.of(head.log_id, 1, head.last))
            return {
                "OrderPlaced": Counter([row.event.order_id async for row in app.log.read(OrderPlaced)]),
                "PaymentProcessed": Counter([row.event.order_id async for row in app.log.read(PaymentProcessed)]),
                "OrderShipped": Counter([row.event.order_id async for row in app.log.read(OrderShipped)]),
                "book": Counter(row[0] for row in app.sql("SELECT order_id FROM book")),
            }

    return asyncio.run(run())


def events(url: str) -> list[str]:
    async def run() -> list[str]:
        async with App("reader", url=url).connected() as app:
            return [row.type_name async for row in app.log.read()]

    return asyncio.run(run())


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_lets_handlers_finish_and_commits_what_they_made(number: signal.Signals, url: str) -> None:
    publish(url, 1)
    with Program("hold", url) as program:
        program.until("charging o1")
        program.send(number)
        program.tell("go on")
        program.until("stopped")
        assert program.ended() == 0
        assert program.errors() == ""
    assert events(url)[:2] == ["OrderPlaced", "PaymentProcessed"]
    assert all(counts == {"o1": 1} for counts in settle(url).values())


@pytest.mark.parametrize("act", ["hang", "stuck"])
def test_a_handler_that_does_not_finish_is_given_up_after_the_limit_and_handled_again(act: str, url: str) -> None:
    publish(url, 1)
    with Program(act, url, ENSUE_DRAIN_SECONDS="0.1") as program:
        program.until("stuck with o1" if act == "stuck" else "charging o1")
        program.send(signal.SIGTERM)
        program.until("stopped")
        assert program.ended() == 0
    assert all(counts == {"o1": 1} for counts in settle(url).values())


@pytest.mark.parametrize("number", STOPS)
def test_a_second_signal_ends_the_process_at_once_and_nothing_half_done_is_there(
    number: signal.Signals, url: str
) -> None:
    publish(url, 1)
    with Program("hang", url, ENSUE_DRAIN_SECONDS="600") as program:
        program.until("charging o1")
        program.send(number)
        status = None
        while (
            status is None
        ):  # the first may not have been taken yet when the second comes: they are the same to a process
            program.send(number)
            status = program._process.poll()
        assert status == -number
    assert events(url) == ["OrderPlaced"]
    assert all(counts == {"o1": 1} for counts in settle(url).values())


def test_an_idle_process_stops_at_once(url: str) -> None:
    with Program("work", url, ENSUE_DRAIN_SECONDS="600") as program:
        program.until("ready")
        program.send(signal.SIGTERM)
        program.until("stopped")
        assert program.ended() == 0


def test_a_stop_gives_the_consumers_up_so_that_the_next_process_has_them_at_once(url: str) -> None:
    with Program("work", url) as first:
        first.until("ready")
        first.send(signal.SIGTERM)
        assert first.ended() == 0
    with Program("work", url) as second:
        second.until("ready")
        publish(url, 1)
        second.until("charging o1")


def test_control_c_in_a_program_of_ones_own_closes_the_app_and_gives_the_consumers_up(url: str) -> None:
    with Program("block", url, ENSUE_DRAIN_SECONDS="600") as first:
        first.until("ready")
        publish(url, 1)
        first.until("charging o1")
        first.send(signal.SIGINT)
        first.until("stopped")
        assert first.ended() == 0
        assert first.errors() == ""
    with Program("work", url) as second:
        second.until("ready")
        publish(url, 2)
        second.until("charging o2")


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_happens_twice(url: str) -> None:
    choice = random.Random(7)
    orders, acknowledged = 60, 0
    for _ in range(4):
        with Program("work", url) as worker, Program("publish", url, str(orders)) as publisher:
            worker.until("ready")
            for _ in range(choice.randint(1, orders // 2)):
                line = publisher.line()
                if not line:
                    break
                acknowledged = max(acknowledged, int(line.split()[1]) + 1)
            publisher.send(signal.SIGKILL)
            worker.send(signal.SIGKILL)
            publisher.ended()
            worker.ended()
    with Program("publish", url, str(orders)) as publisher:
        assert publisher.ended() == 0
    results = settle(url)
    everything = {f"o{number}": 1 for number in range(orders)}
    assert acknowledged > 0
    assert results == dict.fromkeys(("OrderPlaced", "PaymentProcessed", "OrderShipped", "book"), everything)


def test_two_processes_of_the_same_consumers_take_turns_and_double_nothing(url: str) -> None:
    orders = 80
    with Program("work", url) as one, Program("work", url) as two, Program("publish", url, str(orders)) as publisher:
        one.until("ready")
        two.until("ready")
        publisher.until(f"acknowledged {orders // 2}")
        one.send(signal.SIGTERM)
        publisher.until(f"acknowledged {orders - 1}")
        assert one.ended() == 0
        two.send(signal.SIGTERM)
        assert two.ended() == 0
    everything = {f"o{number}": 1 for number in range(orders)}
    results = settle(url)
    assert results == dict.fromkeys(("OrderPlaced", "PaymentProcessed", "OrderShipped", "book"), everything)


def test_one_process_publishes_and_waits_for_what_another_one_handles(url: str) -> None:
    with Program("work", url) as worker, Program("wait", url) as caller:
        worker.until("ready")
        position = Position(caller.line())
        assert caller.line() == "shipped o1"
        assert caller.ended() == 0

        async def wait() -> None:
            async with App("third", url=url).connected() as app:
                await app.wait(position, "book")
                assert app.sql("SELECT order_id FROM book") == [("o1",)]

        asyncio.run(wait())


def test_serving_outside_the_main_thread_says_what_to_do() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            App("shop", url="memory:").run()
        except Misuse as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "hold the application open with `async with app:`" in str(raised[0])


def test_serving_leaves_the_signals_as_they_were() -> None:
    before = [signal.getsignal(number) for number in STOPS]

    async def run() -> None:
        app = App("shop", url="memory:")
        await app.serve(ready=lambda: signal.raise_signal(signal.SIGTERM))

    asyncio.run(run())
    assert [signal.getsignal(number) for number in STOPS] == before
