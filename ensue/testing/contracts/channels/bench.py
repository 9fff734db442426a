"""What the contracts stand on: a broker that is open, an address and groups of the test's own, short ways to publish and receive."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest

from ensue.channels.base import Broker, From, Message, Received, Revoked, Subscription
from ensue.errors import EnsueError
from ensue.world import RealWorld, World

__all__ = ["CLOSING_SECONDS", "KEY", "Bench", "ChannelContract", "bodies", "channel_test", "numbered", "received_by"]

S = TypeVar("S", bound="ChannelContract")
T = TypeVar("T")

LIMIT_SECONDS = 60.0
"""A test that takes longer than this waits for something that never comes."""
CLOSING_SECONDS = 10.0
"""How long a connection may take to be closed."""
KEY = "k"
"""Of messages for which no other is said: so all of them are in one partition, and have an order."""


class ChannelContract(ABC):
    """The base of all contracts."""

    address: str
    """The test's own, made for it and removed afterwards. A test must not set it."""
    knows_addresses: ClassVar[bool] = True
    """Whether the broker can tell that an address is missing. Where any name may be published to, say False."""

    @abstractmethod
    def broker(self, **parameters: str) -> Broker:
        """An adapter, not yet opened, on the server of the test, with these parameters in its URL beside those that the tests
        of this adapter always give. A test may ask for several."""


def channel_test(test: Callable[[S, Bench], Awaitable[None]]) -> Callable[[S], None]:
    """The test as a plain function: opened before, closed after, in a loop of its own and within a limit of time."""

    def run(self: S) -> None:
        async def story() -> None:
            bench = Bench(self)
            limit = bench.limit
            try:
                async with limit:
                    await bench.open()
                    await test(self, bench)
            except TimeoutError:
                if not limit.expired():
                    raise
                pytest.fail(f"not done after {LIMIT_SECONDS:g} s: {bench.waits_for}")
            finally:
                await bench.close()

        asyncio.run(story())

    run.__name__ = run.__qualname__ = getattr(test, "__name__", "test")
    run.__doc__ = test.__doc__
    return run


def bodies(received: Iterable[Received]) -> list[bytes]:
    return [one.body for one in received]


def numbered(first: int, last: int) -> list[bytes]:
    """Bodies that tell their places: from `first` to `last`, this one included."""
    return [b"%d" % number for number in range(first, last + 1)]


async def received_by(subscription: Subscription, most: int) -> list[bytes]:
    """A receive that runs beside the test."""
    return bodies(await subscription.receive(most))


class Bench:
    """One address of one broker under test."""

    def __init__(self, contract: ChannelContract) -> None:
        self.world: World = RealWorld()
        self.address = contract.address = f"contract-{self.world.new_id().hex()}"
        self.broker: Broker = contract.broker()
        self.waits_for = "it was being opened"
        """For people: what the test waits for."""
        self.limit = asyncio.timeout(LIMIT_SECONDS)
        self._contract = contract
        self._opened: list[Broker] = []
        self._groups: set[str] = set()
        self._tasks: list[asyncio.Task[Any]] = []

    async def open(self) -> None:
        self._opened.append(self.broker)
        await self.broker.open(self.world)
        await self.broker.declare(self.address)
        self.waits_for = "a call did not return"

    async def another(self, **parameters: str) -> Broker:
        """A second connection to the same broker, opened beside the first one."""
        broker = self._contract.broker(**parameters)
        self._opened.append(broker)
        await broker.open(self.world)
        return broker

    async def reopen(self) -> Broker:
        """The connection closed, and another one opened, as its owner does when it broke."""
        await self.broker.close()
        self.broker = await self.another()
        await self.broker.declare(self.address)
        return self.broker

    async def close(self) -> None:
        """End what was started, and remove what was made."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with asyncio.timeout(2 * CLOSING_SECONDS):
            for broker in self._opened:
                await broker.close()
            remover = self._contract.broker()
            try:
                await remover.open(self.world)
                await remover.remove(self.address, groups=self._groups)
            finally:
                await remover.close()

    # -------------------------------------------------------------------------------------------------------- waiting

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it beside the test, and no longer than the test."""
        task = self.world.spawn(work, name="beside the test")
        self._tasks.append(task)
        return task

    async def step(self, times: int = 1) -> None:
        """Let what was started come as far as it gets."""
        for _ in range(times):
            await self.world.sleep(0)

    @contextlib.asynccontextmanager
    async def not_counted(self) -> AsyncGenerator[None]:
        """How long this takes does not count for the limit of the test, which begins anew."""
        if not self.limit.expired():
            self.limit.reschedule(None)
        yield
        if not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + LIMIT_SECONDS)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        self.waits_for = f"waited until {what}"
        while not condition():
            await self.world.sleep(0.005)

    # ----------------------------------------------------------------------------------------------------- publishing

    def message(self, body: bytes, *, key: str | None = KEY, **rest: Any) -> Message:
        headers = {f"{self.broker.prefix}id": self.world.new_id().hex(), f"{self.broker.prefix}type": "Opened"}
        return msgspec.structs.replace(Message(body=body, key=key, headers=headers), **rest)

    async def publish(self, *messages: bytes | Message, broker: Broker | None = None) -> None:
        """Publish them in one batch, of which each must be confirmed."""
        made = [one if isinstance(one, Message) else self.message(one) for one in messages]
        errors = await (broker or self.broker).publish(self.address, made)
        assert not errors, f"not confirmed: {errors}"

    async def told(self, *messages: Message) -> dict[int, EnsueError]:
        """Publish them in one batch; what is told of those that are not confirmed."""
        return dict(await self.broker.publish(self.address, messages))

    # ------------------------------------------------------------------------------------------------------ receiving

    def group(self, name: str) -> str:
        """A group of the test's own: some brokers have them beside their addresses. Applications name them like this."""
        group = f"{self.address}-app.{name}_1"
        self._groups.add(group)
        return group

    async def member(
        self,
        name: str = "billing",
        *,
        start: From = "beginning",
        prefetch: int = 1000,
        broker: Broker | None = None,
        revoked: Revoked | None = None,
    ) -> Subscription:
        """A member of this group."""
        return await (broker or self.broker).subscribe(
            self.address, group=self.group(name), start=start, prefetch=prefetch, revoked=revoked
        )

    async def broadcast(self, broker: Broker | None = None, *, prefetch: int = 1000) -> Subscription:
        """A subscription without a group."""
        return await (broker or self.broker).subscribe(self.address, group=None, start="now", prefetch=prefetch)

    async def subscription(self, broker: Broker | None = None) -> Subscription:
        """Of the kind that the broker has: a member of a group, or else a broadcast."""
        if self.broker.capabilities.groups:
            return await self.member(broker=broker)
        return await self.broadcast(broker)

    async def take(self, subscription: Subscription, count: int, *, accept: bool = False) -> list[Received]:
        """Receive until so many are here, and never ask for more; accept them if it is said."""
        taken: list[Received] = []
        while len(taken) < count:
            self.waits_for = f"waited for message {len(taken) + 1} of {count}; there came {bodies(taken)[-10:]}"
            more = await subscription.receive(count - len(taken))
            assert 1 <= len(more) <= count - len(taken), f"receive({count - len(taken)}) returned {len(more)}"
            taken += more
            if accept:
                await subscription.accept(more)
        self.waits_for = "a call did not return"
        return taken

    async def nothing_waits(self, subscription: Subscription) -> None:
        """What is published now is what comes next."""
        marker = b"published last, " + self.world.new_id().hex().encode()
        await self.publish(marker)
        (received,) = await self.take(subscription, 1, accept=True)
        assert received.body == marker, f"{received.where} came although it was not to come: {received.body[:100]!r}"
