"""Many who write to a log on PostgreSQL at once, and one who reads; what they are told is compared with what is stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from ensue.errors import EnsueError, OutcomeUnknown, Unavailable
from ensue.events.stored import Row
from ensue.store.base import Request
from ensue.store.postgresql import PostgresqlStore
from tests.store.logs import draft, soon
from tests.store.postgresql_logs import opened, opened_many

__all__ = ["Crowd"]


class Crowd:
    """Producers of several processes' stores, each of which writes one event after the other, with idempotency keys; and a
    reader that follows."""

    def __init__(self, url: str, *, stores: int = 2, producers: int = 8) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self.refused: list[EnsueError] = []
        self.read: list[Row] = []
        self._url = url
        self._stores, self._producers = stores, producers
        self._ends = False

    async def during(self, story: Callable[[], Awaitable[None]]) -> None:
        """Play the story while they write. Then let each end, and the reader come to the end as well."""
        async with opened(self._url) as followed, opened_many(self._url, self._stores) as stores:
            work = (self._produce(stores[number % self._stores], number) for number in range(self._producers))
            tasks = [asyncio.ensure_future(one) for one in work]
            reader = asyncio.ensure_future(self._follow(followed))
            await story()
            self._ends = True
            await asyncio.gather(*tasks)
            seen = "the reader was to see all of it"
            await soon(lambda: reader.done() or len(self.read) >= len(self.acknowledged), seen)
            if reader.done():
                await reader
            reader.cancel()

    async def more(self, count: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        await soon(lambda: len(self.acknowledged) >= wanted, f"{count} more writes were to be acknowledged")

    async def _produce(self, store: PostgresqlStore, producer: int) -> None:
        for number in itertools.count():
            if self._ends:
                return
            data = b'"%d-%d"' % (producer, number)
            request = Request(
                events=[draft(data, key=str(producer))], idempotency_key=b"key %012d" % (producer * 1_000_000 + number),
                fingerprint=data,
            )  # fmt: skip
            while data not in self.acknowledged:
                try:
                    self.acknowledged[data] = (await store.write(request)).first
                except (Unavailable, OutcomeUnknown) as error:
                    self.refused.append(error)

    async def _follow(self, store: PostgresqlStore) -> None:
        reached = 0
        while True:
            await store.changed(reached)
            page = await store.read(after=reached, limit=100)
            self.read += page.rows
            reached = page.reached

    async def check(self, store: PostgresqlStore, *, dense: bool = True) -> None:
        """Nothing acknowledged is lost or elsewhere, nothing is there twice, the reader has seen all of it, in order."""
        stored = (await store.read(limit=1_000_000)).rows
        if dense:
            assert [row[0] for row in stored] == list(range(1, len(stored) + 1))
        assert {row[11]: row[0] for row in stored} == self.acknowledged
        assert len(stored) == len(self.acknowledged)
        assert self.read == stored
