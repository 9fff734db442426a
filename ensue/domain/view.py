"""Views: rows of a table that are kept from events."""

from __future__ import annotations

from typing import Any, Protocol, dataclass_transform

import msgspec

from ensue.consumers.handler import Declared
from ensue.domain.fold import FoldMeta

__all__ = ["SqlView", "View"]


@dataclass_transform(kw_only_default=True, frozen_default=False, field_specifiers=(msgspec.field,))
class View(msgspec.Struct, Declared, kw_only=True, metaclass=FoldMeta):
    """A row of a table kept from events. `evolve(self, event) -> Self | None`; None deletes the row. `key` is the row's
    key, `table` its table's name, `index` the columns it is also found by."""

    __ensue_declared__ = "views"


class SqlView(Protocol):
    """A view written as a function on rows: `def daily(event: OrderPlaced, tx: Transaction) -> None`."""

    def __call__(self, event: Any, tx: Any, /) -> None: ...
