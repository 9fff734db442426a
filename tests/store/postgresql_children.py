"""Programs that tests of PostgreSQL start as processes of their own: `python -m tests.store.postgresql_children PROGRAM ARGUMENTS`.

They say when they are ready, begin when a line comes on standard input, and tell what they did on lines of standard output.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from ensue.app.urls import bring_up_to_date
from ensue.errors import Conflict, IdempotencyKeyReused
from ensue.events.stored import tag_hash
from ensue.store.base import Condition, Expected, Request, Term
from ensue.store.postgresql import PostgresqlStore
from ensue.testing.contracts.bench import key_of
from tests.store.children import say
from tests.store.logs import WORLD, draft


def _begin() -> None:
    say("ready")
    sys.stdin.readline()


async def upgrades(url: str) -> None:
    """Bring it up to date; the steps that were taken here."""
    _begin()
    done = await bring_up_to_date(url, WORLD)
    say(done.found, *(step.number for step in done.steps))


async def mixes(url: str, seed: int, count: int) -> None:
    """Requests of all kinds, eight at a time, some bound to fail. What is acknowledged is told: position, number of events, id of
    the first; then the position and tag of its condition, and its key, with `-` where there was none."""
    chance = random.Random(seed)
    _begin()
    store = PostgresqlStore(url)
    await store.open(WORLD)

    async def one(number: int) -> None:
        key, tag, kind = chance.choice("abcd"), f"x={chance.randrange(30)}", chance.randrange(4)
        request = Request(events=[draft(key=key, tags=[tag]) for _ in range(chance.randint(1, 3))])
        stated = ["-", "-", "-"]
        if kind == 1:
            ours = (Term(tags=(key_of(key),)),)
            last = (await store.read(ours, backwards=True, limit=1)).rows
            version = (last[0][4] or 0) if last else 0
            request = msgspec.structs.replace(request, expected=(Expected(key_of(key), version),))
        if kind == 2:
            reached = (await store.read(after=max(0, store.head() - 5))).reached
            condition = Condition((Term(tags=(tag_hash(tag),)),), reached)
            request, stated[:2] = msgspec.structs.replace(request, conditions=(condition,)), [str(reached), tag]
        if kind == 3:
            request = msgspec.structs.replace(request, idempotency_key=b"%016d" % number)
            stated[2] = str(number)
        try:
            written = await store.write(request)
        except (Conflict, IdempotencyKeyReused):
            return
        if not written.replayed:
            say(written.first, len(request.events), request.events[0].id.hex(), *stated)

    for start in range(0, count, 8):
        await asyncio.gather(*(one(number) for number in range(start, start + 8)))
    await store.close()


PROGRAMS: dict[str, Callable[[list[str]], Coroutine[Any, Any, None]]] = {
    "upgrades": lambda given: upgrades(given[0]),
    "mixes": lambda given: mixes(given[0], int(given[1]), int(given[2])),
}

if __name__ == "__main__":
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2:]))
