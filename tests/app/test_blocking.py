"""An application in a plain synchronous program."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ensue import App, Recorded, Retry
from ensue.errors import HandlerFailed, InsideHandler, InvalidEvent, Misuse, Unavailable
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed


def shop(url: str) -> App:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        return OrderShipped(order_id=payment.order_id)

    return app


def test_a_call_gives_what_the_coroutine_returns(url: str) -> None:
    app = shop(url)
    with app.blocking() as call:
        receipt = call(app.publish(placed()))
        assert call(receipt.first(OrderShipped)) == OrderShipped(order_id="o1")
        assert call(receipt.wait()) is receipt


def test_errors_cross_over_as_they_are(url: str) -> None:
    app = shop(url)
    with app.blocking() as call:
        with pytest.raises(InvalidEvent, match="is a class"):
            call(app.publish(OrderPlaced))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no consumer is called"):
            call(call(app.publish(placed())).wait("nobody"))


def test_the_log_is_read_through_a_coroutine(url: str) -> None:
    app = shop(url)

    async def everything() -> list[Recorded[Any]]:
        return [row async for row in app.log.read()]

    with app.blocking(consume=False) as call:
        call(app.publish(placed(1), placed(2)))
        assert [row.event for row in call(everything())] == [placed(1), placed(2)]


def test_rows_are_read_directly(file_url: str) -> None:
    app = shop(file_url)
    with app.blocking() as call:
        call(app.publish(placed()))
        assert app.sql("SELECT count(*) FROM ensue_event WHERE position = 1") == [(1,)]


def test_many_threads_may_call_at_once(url: str) -> None:
    app, replies = shop(url), list[OrderShipped]()

    def work(call: Any, number: int) -> None:
        for step in range(10):
            receipt = call(app.publish(placed(number * 10 + step)))
            replies.append(call(receipt.first(OrderShipped)))

    with app.blocking() as call:
        threads = [threading.Thread(target=work, args=(call, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(reply.order_id for reply in replies) == sorted(f"o{number}" for number in range(80))


def test_a_call_ends_at_its_time_limit_and_is_cancelled(url: str) -> None:
    app, told = shop(url), list[str]()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    with app.blocking() as call:
        with pytest.raises(TimeoutError):
            call(endless(), timeout=timedelta(milliseconds=20))
        call(app.publish(placed()), timeout=timedelta(seconds=30))
    assert told == ["cancelled"]


def test_an_error_in_the_block_closes_the_app_and_is_raised(url: str) -> None:
    app, told = shop(url), list[str]()

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        yield
        told.append("ended")

    with pytest.raises(LookupError, match="of the program"), app.blocking():
        raise LookupError("of the program")
    assert told == ["ended"]


def test_a_start_that_fails_raises_and_leaves_no_thread(url: str) -> None:
    app, before = shop(url), threading.active_count()

    @app.lifecycle
    async def fail() -> AsyncIterator[None]:
        raise ConnectionError("nobody there")
        yield

    with pytest.raises(ConnectionError, match="nobody there"), app.blocking():
        pass
    assert threading.active_count() == before


def test_control_c_in_a_call_closes_the_app_cleanly(url: str) -> None:
    app, told, waiting = shop(url), list[str](), threading.Event()

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        yield
        told.append("ended")

    async def endless() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    def press() -> None:
        waiting.wait()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # where the system delivers the signal of a keyboard

    def program() -> None:
        with app.blocking() as call:
            threading.Thread(target=press).start()
            call(endless())

    with pytest.raises(KeyboardInterrupt):
        program()
    assert sorted(told) == ["cancelled", "ended"]
    gc.collect()  # a task that was left pending would complain now
    assert not [thread for thread in threading.enumerate() if thread.name == "shop loop"]


def test_what_still_runs_when_the_block_ends_is_cancelled(url: str) -> None:
    app, told = shop(url), list[str]()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        return task

    with app.blocking() as call:
        call(begin())
    assert told == ["cancelled"]


def test_a_call_after_the_block_says_so(url: str) -> None:
    app = shop(url)
    with app.blocking() as call:
        pass
    with pytest.raises(Unavailable, match="not open any more: call inside its `with` block"):
        call(app.publish(placed()))
    gc.collect()


@pytest.mark.parametrize("thing", [lambda app: app.publish, lambda app: None, lambda app: "SELECT 1"])
def test_a_call_of_what_is_no_coroutine_says_what_to_write(thing: Callable[[App], Any], url: str) -> None:
    app = shop(url)
    with app.blocking() as call:
        with pytest.raises(TypeError, match=r"call\(app\.publish\(event\)\), not a"):
            call(thing(app))


def test_a_call_on_the_loops_own_thread_is_refused_and_does_not_hang(url: str) -> None:
    app, told = App("shop", url=url), list[str]()
    portals: list[Any] = []

    @app.on
    async def charge(order: OrderPlaced) -> None:
        with pytest.raises(Misuse, match="use `await`"):
            portals[0](app.log.head())
        told.append("refused")

    with app.blocking() as call:
        portals.append(call)
        call(call(app.publish(placed())).wait(charge))
    assert told == ["refused"]


def test_a_handler_on_a_thread_cannot_write_through_the_portal_either(url: str) -> None:
    app, told = App("shop", url=url), list[str]()
    portals: list[Any] = []

    @app.on
    def charge(order: OrderPlaced) -> None:
        with pytest.raises(InsideHandler):
            portals[0](app.publish(placed()))
        told.append("refused")

    with app.blocking() as call:
        portals.append(call)
        call(call(app.publish(placed())).wait(charge))
    assert told == ["refused"]


def test_a_failed_handler_is_told_to_who_waits(url: str) -> None:
    app = App("shop", url=url, retry=Retry.never)

    @app.on
    def charge(order: OrderPlaced) -> None:
        raise ConnectionError("no gateway")

    with app.blocking() as call:
        with pytest.raises(HandlerFailed, match="no gateway"):
            call(call(app.publish(placed())).wait())


def test_it_works_while_another_loop_runs_in_the_callers_thread(url: str) -> None:
    async def legacy() -> int:
        app = shop(url)
        with app.blocking() as call:
            return call(app.publish(placed())).position.last

    assert asyncio.run(legacy()) == 1
