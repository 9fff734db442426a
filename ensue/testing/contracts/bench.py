"""What the contracts stand on: an open log in a world whose clock can be moved, and short ways to write and read."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from ensue.errors import EnsueError
from ensue.events.stored import Draft, Meta, Row, encode_meta, tag_hash
from ensue.store.base import (
    Consumer,
    ConsumerCommit,
    Fence,
    Lane,
    LaneState,
    Node,
    Progress,
    Request,
    Selection,
    Store,
    Term,
    Written,
)
from ensue.world import RealWorld

__all__ = ["SECOND", "Bench", "Contract", "MovableWorld", "commit_of", "contract_test", "key_of"]

S = TypeVar("S", bound="Contract")
T = TypeVar("T")

SECOND = 1_000_000
LIMIT_SECONDS = 60.0
"""A test that takes longer than this waits for something that never comes."""


class MovableWorld(RealWorld):
    """The real world, with a wall clock that the test may move either way."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def now(self) -> int:
        return super().now() + self.moved


class Contract(ABC):
    """The base of all contracts."""

    @abstractmethod
    def store(self) -> Store:
        """An adapter, not yet opened, of this test's own log, which is empty at first."""


def contract_test(test: Callable[[S, Bench], Awaitable[None]]) -> Callable[[S], None]:
    """The test as a plain function: opened before, closed after, in a loop of its own and within a limit of time."""

    def run(self: S) -> None:
        async def story() -> None:
            bench = Bench(self)
            try:
                await bench.open()
                await asyncio.wait_for(test(self, bench), LIMIT_SECONDS)
            finally:
                await bench.close()

        asyncio.run(story())

    run.__name__ = run.__qualname__ = getattr(test, "__name__", "test")
    run.__doc__ = test.__doc__
    return run


def key_of(name: str) -> bytes:
    """The stream of the key `order=name`, and the hash of that tag."""
    return tag_hash(f"order={name}")


class Bench:
    """One log under test."""

    def __init__(self, contract: Contract) -> None:
        self.world = MovableWorld()
        self.log: Store = contract.store()
        self._contract = contract
        self._opened: list[Store] = []

    async def open(self) -> None:
        await self.log.open(self.world)
        self._opened.append(self.log)

    async def another(self) -> Store:
        """A second adapter on the same log, opened beside the first one."""
        store = self._contract.store()
        await store.open(self.world)
        self._opened.append(store)
        return store

    async def reopened(self) -> Store:
        """The log closed, and opened by a new adapter."""
        await self.log.close()
        self.log = await self.another()
        return self.log

    async def close(self) -> None:
        for store in self._opened:
            await store.close()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it beside the test."""
        return self.world.spawn(work, name="beside the test")

    async def step(self) -> None:
        """Let what was started come as far as it gets."""
        await self.world.sleep(0)

    # ----------------------------------------------------------------------------------------------------- appending

    def draft(
        self,
        type_name: str = "Opened",
        key: str | None = None,
        tags: Sequence[str] = (),
        *,
        version: int = 1,
        data: bytes = b"{}",
        id: bytes | None = None,
        cause: int | None = None,
        root: int | None = None,
    ) -> Draft:
        """An event: `key` names a stream, `tags` are hashed as they are."""
        id = id or self.world.new_id()
        return Draft(
            id=id,
            type_name=type_name,
            type_version=version,
            stream=key_of(key) if key is not None else None,
            tags=tuple(map(tag_hash, tags)),
            meta=encode_meta(Meta(self.world.now(), id)),
            data=data,
            cause=cause,
            root=root,
        )

    async def append(self, *events: Draft, **request: Any) -> Written:
        """Write one request and wait for its answer."""
        return await self.log.write(Request(events=events, **request))

    async def answers(self, *requests: Request) -> list[Written | EnsueError]:
        """Write all of them in one go; what each was answered, its error if it was refused."""
        futures = [self.log.write(request) for request in requests]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for answer in answers:
            if not isinstance(answer, Written | EnsueError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Written | EnsueError)]

    # ------------------------------------------------------------------------------------------------------- reading

    async def rows(self, selection: Selection = (), **window: Any) -> list[Row]:
        """All that matches, in one page."""
        return (await self.log.read(selection, limit=100_000, **window)).rows

    async def found(self, *terms: Term, **window: Any) -> list[int]:
        """The positions of what matches any of the terms."""
        return [row[0] for row in await self.rows(terms, **window)]

    async def names(self) -> list[str]:
        """The type names of all events, in order."""
        types = await self.log.types()
        return [types[row[2]][0] for row in await self.rows()]

    # ----------------------------------------------------------------------------------------------------- consuming

    async def consumer(self, name: str = "billing", *, segments: int = 4, start: int = 0) -> Consumer:
        """A consumer of `Opened`, defined."""
        wanted = Consumer(id=0, name=name, start=start, key_tag=None, segments=segments, handles={"Opened": start})
        return await self.log.define(wanted)

    def node(self, number: int = 1, *, lives: float = 10.0, can: tuple[int, ...] = ()) -> Node:
        """A process of another machine, whose lease ends in `lives` seconds, or has ended so long ago."""
        now = self.world.now()
        return Node(
            id=number.to_bytes(16, "big"), host="elsewhere.invalid", pid=number, started_at=now,
            expires_at=now + round(lives * SECOND), can=can,
        )  # fmt: skip

    async def owner(self, consumer: Consumer, number: int = 1, *, most: int = 100) -> tuple[Progress, ...]:
        """Let a node beat and claim; the rows it got."""
        node = self.node(number)
        await self.log.beat(node)
        return (await self.log.claim(consumer.id, node, now=self.world.now(), most=most)).progress

    async def ends(self, number: int, *, ago: float = 1.0) -> None:
        """The lease of a node ends: in this way, and not by moving the clock, because a store may measure by its own."""
        await self.log.beat(self.node(number, lives=-ago))

    async def progress(self, consumer: Consumer, segment: int = 0) -> Progress:
        return (await self.log.standing(consumer.id)).progress[segment]

    async def parked(self, consumer: Consumer, name: str, after: int) -> Lane:
        """A key of segment 0 that is parked behind `after`, written by whoever owns it."""
        lane = Lane(
            consumer=consumer.id, segment=0, key=key_of(name), key_text=f"order={name}", after=after,
            state=LaneState.PARKED, attempts=3, error="boom",
        )  # fmt: skip
        await self.append(commit=commit_of(await self.progress(consumer), lanes=(lane,)))
        return lane


def commit_of(row: Progress, **changes: Any) -> ConsumerCommit:
    """A commit computed from this row, that moves nothing but what is said."""
    fence = Fence(row.consumer, row.segment, row.fence, row.rev)
    unmoved = ConsumerCommit(fence=fence, position=row.position, ahead=row.ahead, count=0, digest=0)
    return msgspec.structs.replace(unmoved, **changes)
