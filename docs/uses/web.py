"""A web page in the CQRS manner: commands write, views answer, and a reader sees its own writes, also across HTTP.

Plain ASGI, so that it stands alone; with a framework, `lifespan=shop.lifespan` does what the first lines of `web` do.
Declared, not built: importing this raises `NotYetAvailable` at the view.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from decimal import Decimal
from typing import Any, Self

import msgspec

from ensue import App, Command, Event, Position, Query, Refusal, Transaction, View


class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
    order_id: str
    customer_id: str
    total: Decimal


class OrderShipped(Event, key="order_id"):
    order_id: str


class PlaceOrder(Command[OrderPlaced]):
    order_id: str
    customer_id: str
    total: Decimal


class EmptyOrder(Refusal):
    total: Decimal


class OrdersOf(Query["list[OrderRow]"]):
    customer_id: str


shop = App("shop")


@shop.view
class OrderRow(View, key="order_id", table="orders", index=("customer_id",)):
    order_id: str
    customer_id: str = ""
    total: Decimal = Decimal(0)
    status: str = "placed"

    def evolve(self, event: OrderPlaced | OrderShipped) -> Self:
        match event:
            case OrderPlaced():
                self.customer_id, self.total = event.customer_id, event.total
            case OrderShipped():
                self.status = "shipped"
        return self


@shop.command
def place(command: PlaceOrder) -> OrderPlaced:
    if command.total <= 0:
        raise EmptyOrder(total=command.total)
    return OrderPlaced(order_id=command.order_id, customer_id=command.customer_id, total=command.total)


@shop.query
def orders_of(query: OrdersOf, tx: Transaction) -> list[OrderRow]:
    return tx.rows(OrderRow, "SELECT * FROM orders WHERE customer_id = ? ORDER BY order_id", query.customer_id)


Message = MutableMapping[str, Any]


async def web(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        async with shop:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers: list[tuple[bytes, bytes]] = []
    if scope["method"] == "POST":  # POST /orders with a body
        try:
            receipt = await shop.send(msgspec.json.decode((await receive())["body"], type=PlaceOrder))
        except EmptyOrder as refusal:
            status, answer = 422, msgspec.json.encode({"total": refusal.total})
        else:
            status, answer = 201, msgspec.json.encode(receipt.result)
            headers.append((b"ensue-position", str(receipt.position).encode()))
    else:  # GET /orders/c1, which has what the client wrote if it sends the header back
        token = dict(scope["headers"]).get(b"ensue-position")
        question = OrdersOf(customer_id=str(scope["path"]).rpartition("/")[2])
        rows = await shop.ask(question, after=Position(token.decode()) if token else None)
        status, answer = 200, msgspec.json.encode(rows)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
