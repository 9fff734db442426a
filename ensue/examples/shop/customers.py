"""Customers that do not exist, for the demo: what they buy follows from a seed, so that a run can be repeated."""

from __future__ import annotations

from decimal import Decimal

from ensue.examples.chance import Chance
from ensue.examples.shop.events import Line, OrderCancelled, OrderPlaced, total_of

__all__ = ["Customers"]

PRODUCTS = 200
COUNTRIES = ("United Kingdom", "France", "Germany", "Ireland", "Spain")
CANCELLED = 0.05
"""The share of orders that are sent back later."""
LATER = 25
"""How many others order before."""


class Customers:
    """The n-th thing that happens is the same for the same seed, whenever it is asked for."""

    def __init__(self, seed: int) -> None:
        self._chance = Chance(seed)
        self._seed = seed

    def purchases(self, number: int) -> list[OrderPlaced | OrderCancelled]:
        """The n-th order, and the cancellation that comes in with it, if any. A cancellation is of an earlier order."""
        order = self._order(number)
        earlier = number - LATER
        if earlier < 0 or self._chance.of(f"cancelled/{earlier}") >= CANCELLED:
            return [order]
        back = self._order(earlier)
        cancelled = OrderCancelled(
            order_id=f"C{back.order_id}",
            customer_id=back.customer_id,
            country=back.country,
            ordered_at=back.ordered_at,
            lines=back.lines,
            total=back.total,
        )
        return [order, cancelled]

    def _order(self, number: int) -> OrderPlaced:
        customer = self._pick(f"customer/{number}", 1000)
        lines = tuple(self._line(f"{number}/{line}") for line in range(1 + self._pick(f"lines/{number}", 5)))
        return OrderPlaced(
            order_id=f"S{self._seed}-{number}",
            customer_id=str(12_000 + customer),
            country=COUNTRIES[customer % len(COUNTRIES)],
            ordered_at="",
            lines=lines,
            total=total_of(lines),
        )

    def _line(self, place: str) -> Line:
        product = self._pick(f"product/{place}", PRODUCTS)
        price = Decimal(95 + self._pick(f"price/{product}", 2400)).scaleb(-2)
        return Line(str(20_000 + product), 1 + self._pick(f"quantity/{place}", 12), price)

    def _pick(self, what: str, of: int) -> int:
        return int(self._chance.of(what) * of)
