"""A program for tests of real processes that look for patterns: `python -m tests.patterns.program run URL`. It says `runs`, and ends
when it is told."""

from __future__ import annotations

import asyncio
import sys

from ensue import App
from tests.patterns.cards import cards

__all__ = ["application"]


def application(url: str) -> App:
    """The cards, at this log."""
    app = App("cards", url=url)
    app._handlers = list(cards._handlers)
    return app


async def run(url: str) -> None:
    async with application(url):
        sys.stdout.write("runs\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[2]))
