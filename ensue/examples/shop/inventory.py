"""Inventory: what is on the shelf.

The number on hand is a row, because a decision needs it: the handler reads and writes it in the commit that stores its
event, so the row and the log cannot disagree. Everything else in this shop is derived from the log.
"""

from __future__ import annotations

from ensue import Service, Transaction
from ensue.examples.shop.events import GoodsOrdered, GoodsReturned, StockUpdated

__all__ = ["INITIAL_STOCK", "inventory", "update_stock"]

INITIAL_STOCK = 1_000
"""What is on the shelf of a product before its first order."""

inventory = Service("inventory")


@inventory.on
def update_stock(goods: GoodsOrdered | GoodsReturned, tx: Transaction) -> StockUpdated:
    """Take goods from the shelf, or put them back."""
    change = -goods.quantity if isinstance(goods, GoodsOrdered) else goods.quantity
    tx.execute("CREATE TABLE IF NOT EXISTS shop_stock (sku TEXT NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL)")
    on_hand = tx.row(
        int,
        "INSERT INTO shop_stock (sku, on_hand) VALUES (?, ?) "
        "ON CONFLICT (sku) DO UPDATE SET on_hand = shop_stock.on_hand + ? RETURNING on_hand",
        goods.sku,
        INITIAL_STOCK + change,
        change,
    )
    assert on_hand is not None
    return StockUpdated(sku=goods.sku, order_id=goods.order_id, change=change, on_hand=on_hand)
