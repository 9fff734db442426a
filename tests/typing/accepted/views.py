"""Views of each kind, as they may be written."""

from decimal import Decimal
from typing import Self, assert_type

from ensue import App, Event, Position, Recorded, Transaction, View


class Placed(Event, key="order_id"):
    order_id: str
    day: str
    total: Decimal


class Shipped(Event, key="order_id"):
    order_id: str


shop = App("shop")


@shop.view
class Plain(View, key="order_id"):
    order_id: str
    total: Decimal = Decimal(0)

    def evolve(self, event: Placed) -> Self:
        self.total = event.total
        return self


@shop.view(when="inline")
class Inline(View, key="order_id"):
    order_id: str
    shipped: bool = False

    def evolve(self, event: Placed | Shipped) -> Self | None:
        return None if isinstance(event, Shipped) else self


@shop.view(when="live")
class Live(View, key="order_id"):
    order_id: str

    def evolve(self, event: Recorded[Placed]) -> Self:
        return self


@shop.view(database="sqlite:///reports.db")
class Elsewhere(View, key="order_id"):
    order_id: str

    def evolve(self, event: Placed) -> Self:
        return self


@shop.view(schema="CREATE TABLE daily (day TEXT PRIMARY KEY, orders INTEGER NOT NULL)")
def daily(event: Placed, tx: Transaction) -> None:
    tx.execute("INSERT INTO daily VALUES (?, 1) ON CONFLICT (day) DO UPDATE SET orders = daily.orders + 1", event.day)


@shop.view(schema="CREATE TABLE open_orders (order_id TEXT PRIMARY KEY)", when="inline", version=2)
def open_orders(event: Placed | Shipped, tx: Transaction) -> None:
    tx.execute("DELETE FROM open_orders WHERE order_id = ?", event.order_id)


@shop.view(schema="CREATE TABLE log (order_id TEXT, at TEXT)", database="postgresql://reports@host/reports")
def reports(event: Recorded[Placed | Shipped], tx: Transaction) -> None:
    tx.execute("INSERT INTO log VALUES (?, ?)", event.event.order_id, event.recorded_at.isoformat())


async def main(position: Position) -> None:
    assert_type(await shop.get(Inline, "o1"), Inline | None)
    assert_type(await shop.get(Live, "o1", after=position), Live | None)
    row = await shop.get(Elsewhere, "o1")
    if row is not None:
        assert_type(row.order_id, str)
