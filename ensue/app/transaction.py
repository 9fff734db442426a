"""A transaction of the caller's own: `async with app.transaction() as tx`."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from ensue.events.message import Event

if TYPE_CHECKING:
    from ensue.app.receipt import Receipt
    from ensue.store.base import OwnTransaction

__all__ = ["OpenTransaction"]


class OpenTransaction:
    """Rows of your own tables and events of the log, in one commit at the end of the block; a raised exception undoes it all.

    Other than `app.transact`, it may be kept open across awaits: it holds no lock of the log before the end of the block.
    """

    __slots__ = ("_receipt", "_transaction", "emitted")

    def __init__(self, transaction: OwnTransaction, /) -> None:
        self.emitted: list[Event] = []
        self._transaction = transaction
        self._receipt: Receipt[None] | None = None

    def emit(self, *events: Event) -> None:
        """Append these events at the end of the block, in this order."""
        self.emitted.extend(events)

    async def execute(self, sql: LiteralString, /, *values: object) -> list[tuple[object, ...]]:
        """Run one statement with `?` for values; its rows. Errors of the database are raised as they are."""
        return await self._transaction.execute(sql, values)

    @property
    def receipt(self) -> Receipt[None]:
        """Of the commit. Errors: `ValueError` before the block has ended."""
        if self._receipt is None:
            raise ValueError("the transaction is not committed: its receipt is there when the block has ended")
        return self._receipt

    def committed(self, receipt: Receipt[None]) -> None:
        """For the application alone."""
        self._receipt = receipt
