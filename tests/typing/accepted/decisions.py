"""Deciding: handlers with states, deciders, aggregates, boundaries by criteria, and states as of any time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

from ensue import App, Command, Criteria, Decided, Decider, Event, Of, Receipt, Refusal, Service, State, Transaction


class Opened(Event, key="shop_id"):
    shop_id: str


class Sold(Event, key="shop_id", tags=("item_id",)):
    shop_id: str
    item_id: str


class Sell(Command[Sold]):
    shop_id: str
    item_id: str


class SellAll(Command[list[Sold]]):
    shop_id: str


class CountSold(Command[int]):
    shop_id: str


class Open(Command[Opened | None]):
    shop_id: str


class SoldOut(Refusal):
    item_id: str


shops = App("shops")
service = Service("selling")


@shops.aggregate
class Shop(State, key="shop_id"):
    is_open: bool = False
    sold: int = 0

    def evolve(self, event: Opened | Sold) -> Self:
        if isinstance(event, Opened):
            self.is_open = True
        else:
            self.sold += 1
        return self

    def open(self, command: Open) -> Opened | None:
        return None if self.is_open else Opened(shop_id=command.shop_id)

    def count(self, command: CountSold) -> Decided[int]:
        return Decided([], result=self.sold)


class Items(State):
    names: tuple[str, ...] = ()

    def evolve(self, event: Sold) -> Self:
        self.names += (event.item_id,)
        return self


@service.command(attempts=3)
async def sell(
    command: Sell,
    shop: Shop,
    items: Annotated[Items, Of(lambda sold: Criteria(item_id=sold.item_id) | Criteria(shop_id=sold.shop_id))],
) -> Sold:
    if command.item_id in items.names or not shop.is_open:
        raise SoldOut(item_id=command.item_id)
    return Sold(shop_id=command.shop_id, item_id=command.item_id)


class Book(Command[int]):
    shop_id: str


@service.command
def book(command: Book, shop: Shop, tx: Transaction) -> Decided[int]:
    found = tx.row(int, "SELECT count(*) FROM books WHERE shop = ?", command.shop_id)
    return Decided(Opened(shop_id=command.shop_id), result=found or 0)


@dataclass(frozen=True)
class Closed:
    why: str = ""


@dataclass(frozen=True)
class Stock:
    items: tuple[str, ...] = ()


def evolve(stock: Stock | Closed, event: Sold | Opened) -> Stock | Closed:
    return Stock((*stock.items, event.item_id)) if isinstance(stock, Stock) and isinstance(event, Sold) else stock


def decide(stock: Stock | Closed, command: SellAll) -> Sequence[Sold]:
    if isinstance(stock, Closed):
        raise SoldOut(item_id=stock.why)
    return [Sold(shop_id=command.shop_id, item_id=item) for item in stock.items]


def initial() -> Stock | Closed:
    return Stock()


selling = Decider(key="shop_id", initial=initial, evolve=evolve, decide=decide)
anywhere = Decider(
    criteria=lambda command: Criteria(Sold, shop_id=command.shop_id), initial=initial, evolve=evolve, decide=decide
)
shops.include(service, selling)


async def main(then: datetime) -> None:
    async with shops.connected():
        receipt: Receipt[Sold] = await shops.send(Sell(shop_id="s", item_id="i"))
        several: list[Sold] = (await shops.send(SellAll(shop_id="s"))).result
        number: int = (await shops.send(CountSold(shop_id="s"))).result
        opened: Opened | None = (await shops.send(Open(shop_id="s"))).result
        now: Shop = await shops.state(Shop, "s")
        former: Shop = await shops.state(Shop, shop_id="s", at=then)
        before: Shop = await shops.state(Shop, "s", at=receipt.position)
        first: Items = await shops.state(Items, version=1)
        stock: Stock | Closed = await shops.state(selling, "s", at=17)
        everywhere: Stock | Closed = await shops.state(anywhere, Criteria(Sold, shop_id="s"))
        print(several, number, opened, now.sold, former, before, first.names, stock, everywhere)
