"""What a run of the shop must come to, counted from the file in plain Python and in another way."""

from __future__ import annotations

import csv
from collections import Counter
from decimal import Decimal
from pathlib import Path

__all__ = ["recount", "several_times"]

GOODS = set("0123456789")


def recount(path: Path) -> dict[str, object]:
    """The figures of `ensue demo shop --orders PATH --json` that do not depend on the run. For files without records that
    are cut short and without numbers that are none."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    orders: set[str] = set()
    products: Counter[str] = Counter()
    amounts = {"placed": Decimal(0), "cancelled": Decimal(0), "rejected": Decimal(0)}
    rejected = 0
    for row in rows:
        number, sku = row["InvoiceNo"], row["StockCode"]
        quantity, price = int(row["Quantity"]), Decimal(row["UnitPrice"])
        back = number.startswith("C")
        goods = set(sku[:5]) <= GOODS and len(sku) >= 5
        if goods and price > 0 and (quantity < 0 if back else quantity > 0):
            orders.add(number)
            products[f"{number} {sku}"] += 1
            amounts["cancelled" if back else "placed"] += quantity * price
        else:
            rejected += 1
            amounts["rejected"] += quantity * price
    cancelled = sum(number.startswith("C") for number in orders)
    placed = len(orders) - cancelled
    return {
        "lines": len(rows),
        "orders_placed": placed,
        "orders_cancelled": cancelled,
        "lines_rejected": rejected,
        **{f"amount_{name}": amount for name, amount in amounts.items()},
        "payments": placed,
        "shipments": placed,
        "stock_balanced": True,
        # An order is itself, paid, shipped and told; a cancellation is itself, refunded and told; each product of either is
        # split off and moved.
        "events_in_log": 4 * placed + 3 * cancelled + 2 * len(products) + rejected,
        "dead_letters": 0,
    }


def several_times(path: Path, target: Path, *, copies: int) -> Path:
    """The same orders under other numbers, one after another."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for copy in range(copies):
            writer.writerows([f"{row[0][:-5]}{copy}{row[0][-5:]}", *row[1:]] for row in rows)
    return target
