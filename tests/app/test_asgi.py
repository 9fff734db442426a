"""An application inside a web application: the lifespan protocol of ASGI 3, driven by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from ensue import App, Position
from ensue.errors import Unavailable
from tests.app.orders import OrderPlaced, OrderShipped, PaymentProcessed, placed

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class WebApplication:
    """The least that a framework does: a lifespan, and one route that publishes and answers with a position."""

    def __init__(self, lifespan: Callable[[Any], AbstractAsyncContextManager[None]], shop: App) -> None:
        self._lifespan = lifespan
        self._shop = shop

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._answer(send)

    async def _live(self, receive: Receive, send: Send) -> None:
        started = False
        assert (await receive())["type"] == "lifespan.startup"
        try:
            async with self._lifespan(self):
                await send({"type": "lifespan.startup.complete"})
                started = True
                assert (await receive())["type"] == "lifespan.shutdown"
        except Exception as error:
            await send({"type": f"lifespan.{'shutdown' if started else 'startup'}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, send: Send) -> None:
        receipt = await self._shop.publish(placed())
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": str(receipt.position).encode()})


class Server:
    """The least that a server does: holds the lifespan open around the requests."""

    def __init__(self, application: WebApplication) -> None:
        self._application = application
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()

    async def __aenter__(self) -> Server:
        work = self._application({"type": "lifespan", "asgi": {"version": "3.0"}}, self._inbox.get, self._outbox.put)
        self._lifespan = asyncio.create_task(work)
        await self._inbox.put({"type": "lifespan.startup"})
        self.started = await self._outbox.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inbox.put({"type": "lifespan.shutdown"})
        self.stopped = await self._outbox.get()
        await self._lifespan

    async def request(self) -> str:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        await asyncio.create_task(self._application({"type": "http"}, receive, send))
        body: bytes = sent[1]["body"]
        return body.decode()


def shop(url: str, told: list[str]) -> App:
    app = App("shop", url=url)

    @app.on
    async def charge(order: OrderPlaced) -> PaymentProcessed:
        return PaymentProcessed(order_id=order.order_id)

    @app.on
    def ship(payment: PaymentProcessed) -> OrderShipped:
        told.append(f"shipped {payment.order_id}")
        return OrderShipped(order_id=payment.order_id)

    @app.lifecycle
    async def announce() -> AsyncIterator[None]:
        told.append("begun")
        yield
        told.append("ended")

    return app


def test_the_consumers_run_as_long_as_the_web_application(url: str) -> None:
    told: list[str] = []
    app = shop(url, told)

    async def run() -> None:
        server = Server(WebApplication(app.lifespan, app))
        async with asyncio.timeout(30), server:
            assert server.started == {"type": "lifespan.startup.complete"}
            text = await server.request()
            await app.wait(Position(text))
            assert told == ["begun", "shipped o1"]
        assert server.stopped == {"type": "lifespan.shutdown.complete"}

    asyncio.run(run())
    assert told == ["begun", "shipped o1", "ended"]


def test_the_position_in_an_answer_is_read_by_another_process_like_opening(file_url: str) -> None:
    app = shop(file_url, [])

    async def run() -> None:
        reader = App("reader", url=file_url)
        async with asyncio.timeout(30), Server(WebApplication(app.lifespan, app)) as server, reader.connected():
            position = Position(await server.request())
            await reader.wait(position, "charge", "ship")
            assert [row.type_name async for row in reader.log.read(after=position)] == [
                "PaymentProcessed",
                "OrderShipped",
            ]

    asyncio.run(run())


def test_a_start_that_fails_is_the_servers_to_tell(url: str) -> None:
    app = shop(url, [])

    @app.lifecycle
    async def fail() -> AsyncIterator[None]:
        raise ConnectionError("nobody there")
        yield

    async def run() -> None:
        server = Server(WebApplication(app.lifespan, app))
        await server.__aenter__()
        assert server.started == {"type": "lifespan.startup.failed", "message": "nobody there"}
        with pytest.raises(ConnectionError):
            await server._lifespan
        with pytest.raises(Unavailable):
            await app.publish(placed())

    asyncio.run(run())


def test_a_lifespan_may_be_entered_by_hand_among_others(url: str) -> None:
    told: list[str] = []
    app = shop(url, told)

    async def run() -> None:
        async with app.lifespan(object()):
            await (await app.publish(placed())).wait()

    asyncio.run(run())
    assert told == ["begun", "shipped o1", "ended"]
