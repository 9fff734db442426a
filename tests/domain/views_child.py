"""A process that keeps the views of `tests.domain.accounts`: `views_child.py URL [EVENTS_AT_ONCE]`. It ends when its stdin does."""

from __future__ import annotations

import asyncio
import sys

from ensue import App
from ensue.domain.views import building, parts
from tests.domain.accounts import Balance, Profile

__all__ = ["bank"]


def bank(url: str) -> App:
    """The application of the tests with several processes."""
    app = App("bank", url=url)
    app.view(Balance)
    app.view(Profile)
    return app


async def main(url: str) -> None:
    async with bank(url):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        parts.FROM_POSITIONS = 1000
        building.EVENTS_AT_ONCE = building.ROWS_AT_ONCE = building.PAGE = int(sys.argv[2])
    asyncio.run(main(sys.argv[1]))
