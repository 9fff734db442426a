"""Wrong programs: views."""

from typing import Self

from ensue import App, Event, Transaction, View


class Placed(Event, key="order_id"):
    order_id: str


shop = App("shop")


class Row(View, key="order_id"):
    order_id: str

    def evolve(self, event: Placed) -> Self:
        return self


def daily(event: Placed, tx: Transaction) -> None: ...


shop.view(when="later")(Row)  # wrong: after, inline or live
shop.view(when="inline", database="sqlite:///rows.db")(Row)  # wrong: another database is no part of the commit
shop.view(when="live", database="sqlite:///rows.db")(Row)  # wrong: rows in memory are in no database
shop.view(schema="CREATE TABLE daily (day TEXT)", when="live")(daily)  # wrong: plain SQL has tables
shop.view(schema="CREATE TABLE daily (day TEXT)", when="inline", database="sqlite:///rows.db")(daily)  # wrong: as above
shop.view(schema="CREATE TABLE daily (day TEXT)")(Row)  # wrong: a function
shop.view(Placed)  # wrong: a view


async def main() -> None:
    row: Row = await shop.get(Row, "o1")  # wrong: or None
    print(row)
