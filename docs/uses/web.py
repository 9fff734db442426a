"""A web application in the CQRS manner: commands write, views answer, and a reader sees its own writes, also across HTTP.

`uvicorn web:web` serves it. A command is posted to its name, `POST /place-order`, and answered with its result and a header
`Ensue-Position`; a query is asked there, `GET /orders-of?customer_id=c1`, and has seen the write whose position it sends along
as `Ensue-After`. An empty order is refused with 422, its type and its fields.
"""

from decimal import Decimal
from typing import Self

from ensue import App, Command, Event, Query, Refusal, Transaction, View
from ensue.http import asgi


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


web = asgi(shop)
