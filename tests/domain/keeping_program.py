"""A program that keeps the rows of `tests.domain.test_queries.with_rows`, and says when it begins: to be killed.

`python -m tests.domain.keeping_program keep URL`
"""

from __future__ import annotations

import asyncio
import sys

from tests.domain.test_queries import with_rows

__all__ = ["main"]


async def main(url: str) -> None:
    """Keep them until the input ends."""
    async with with_rows(url):
        sys.stdout.write("keeping\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2]))
