"""A process that keeps views of each kind and writes for them without end: `kinds_child.py URL ROWS_URL SEED`. It dies by a kill."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Self

from ensue import App, View
from tests.domain.balances import Closed, Deposited, Opened, Transferred, deposits, ledger, random_events

__all__ = ["Inline", "Rows", "bank"]


class Inline(View, key="account_id", table="inline_rows"):
    """How often an account's events were taken, and in which order."""

    account_id: str
    taken: int = 0
    order: str = ""

    def evolve(self, event: Deposited | Transferred | Opened | Closed) -> Self:
        self.taken += 1
        self.order = f"{self.order}{type(event).__name__[0]}"[-200:]
        return self


class Rows(View, key="account_id", table="rows_elsewhere"):
    """The same, elsewhere."""

    account_id: str
    taken: int = 0
    order: str = ""

    def evolve(self, event: Deposited | Transferred | Opened | Closed) -> Self:
        self.taken += 1
        self.order = f"{self.order}{type(event).__name__[0]}"[-200:]
        return self


def bank(url: str, rows_url: str) -> App:
    app = App("bank", url=url)
    app.view(when="inline")(Inline)
    app.view(database=rows_url)(Rows)
    app.view(schema=ledger.schema)(deposits)
    return app


def batches(seed: int) -> Iterator[int]:
    yield from range(seed * 1_000_000, (seed + 1) * 1_000_000, 10)


async def main(url: str, rows_url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with bank(url, rows_url) as app:
        print("open", flush=True)
        for first in batches(seed):
            await app.publish(*random_events(chance, chance.randrange(1, 5), first=first))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
