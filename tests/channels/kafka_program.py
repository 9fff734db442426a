"""A process of an application with a slow direct handler, for tests of what happens to its group: `URL LOG JOURNAL SECONDS`.

The handler writes a line to the journal when it begins and when it ends. The process ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import os
import sys

from ensue import App, Channel
from tests.app.channels import Placed

__all__ = ["main"]


async def main(url: str, log: str, journal: str, seconds: float) -> None:
    app = App("plant", url=log, drain_seconds=10)
    lines = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @app.on(source=Channel("orders", Placed, url=url))
    async def handle(placed: Placed) -> None:
        os.write(lines, f"begin {placed.order} {placed.number} {os.getpid()}\n".encode())
        await asyncio.sleep(seconds)
        os.write(lines, f"end {placed.order} {placed.number} {os.getpid()}\n".encode())

    async with app:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    its_url, its_log, its_journal, its_seconds = sys.argv[1:]
    asyncio.run(main(its_url, its_log, its_journal, float(its_seconds)))
