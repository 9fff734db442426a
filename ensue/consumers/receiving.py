"""Who receives a channel, and since when: the life of a subscription in one process.

    may not → connecting → receiving → ended, and again

A process *may* receive while its consumer runs here and has not tripped and, where the broker does not assign partitions to the
members of a group, while it owns segment 0 of the consumer: then one process receives at a time, and the order of each key is
the broker's. A take-over needs no more than that of the segment, which is not given up before what was received is done with:
what the former receiver had not accepted comes again.

When a connection breaks, or a subscription gets nothing although messages wait, the session ends and a new one begins from the
connection on. There is no other way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from ensue.channels.base import Broker, From, Received, Subscription
from ensue.channels.connection import BROKEN, Connection, unforeseen
from ensue.consumers.runner import Runner
from ensue.errors import EnsueError, OutcomeUnknown, Unavailable
from ensue.observe.signals import ChannelRepaired, Observer
from ensue.world import World

__all__ = ["Receiving", "Work"]

MOST_MESSAGES = 500
STALL_SECONDS = 30.0
"""So long a subscription may get nothing while messages wait, twice in a row, before it is opened anew."""


class Work(Protocol):
    """What is done with what is received."""

    @property
    def error(self) -> BaseException | None:
        """Why no more can be accepted on this subscription. Who sets it cancels the task that called `begin`."""
        ...

    async def begin(self, broker: Broker, subscription: Subscription) -> None:
        """Messages come from this subscription now."""
        ...

    async def take(self, batch: Sequence[Received]) -> None:
        """Returns when more may come. What is done is accepted on the subscription, now or later."""
        ...

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Finish and accept what was received of these partitions."""
        ...

    async def end(self) -> None:
        """Let what is in work end within its limit and accept it; nothing is accepted afterwards."""
        ...


class Receiving:
    """See the module. `run` until `stop`."""

    def __init__(
        self,
        work: Work,
        runner: Runner,
        world: World,
        observe: Observer,
        connection: Connection,
        *,
        channel: str,
        group: str,
        start: From,
        prefetch: int,
        assigns: bool,
        wait_seconds: float,
    ) -> None:
        """`wait_seconds` is how long whoever starts waits for `settled`."""
        self.what = f"{runner.consumer.name} receives {channel}"
        self.wait_seconds = wait_seconds
        self._work = work
        self._runner = runner
        self._world = world
        self._observe = observe
        self._connection = connection
        self._channel = channel
        self._group = group
        self._start: From = start
        self._prefetch = prefetch
        self._assigns = assigns
        self._changed = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self.settled = asyncio.Event()
        """Set once it has subscribed for the first time, or may not: from then on, what is published reaches the group."""
        runner.changed = self._changed.set

    async def run(self) -> None:
        """Errors: those of a store that nothing can be written to any more; `MissingCapability`."""
        while not self._stopping:
            self._changed.clear()
            if not self._may_receive:
                self.settled.set()
                await self._changed.wait()
                continue
            session = self._world.spawn(self._session(), name=f"receive {self._channel}")
            watch = self._world.spawn(self._until_it_may_not(), name=f"watch {self._channel}")
            try:
                await asyncio.wait({session, watch}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watch.cancel()
                session.cancel()
                (ended, _) = await asyncio.gather(session, watch, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended

    def stop(self) -> None:
        """Receive no more; `run` returns when the work has ended."""
        self._stopping = True
        self._changed.set()

    @property
    def _may_receive(self) -> bool:
        return not self._stopping and self._runner.receives and (self._assigns or self._runner.owns(0))

    async def _until_it_may_not(self) -> None:
        while self._may_receive:
            self._changed.clear()
            await self._changed.wait()

    async def _session(self) -> None:
        broker = await self._connection.broker()
        self._runner.feeding(0, not self._assigns)
        try:
            await self._subscribed(broker)
        except BROKEN as error:
            if not self.settled.is_set() and not isinstance(error, (Unavailable, OutcomeUnknown)):
                raise  # at start, what waiting does not help is told to whoever starts
            self._connection.broke(broker, error)
        except EnsueError:
            raise
        except Exception as error:
            self._connection.broke(broker, unforeseen(f"receiving from {self._channel}", error))
        finally:
            self._runner.feeding(0, False)

    async def _subscribed(self, broker: Broker) -> None:
        subscription = await broker.subscribe(
            self._connection.address,
            group=self._group,
            start=self._start,
            prefetch=self._prefetch,
            revoked=self._work.revoked,
        )
        self.settled.set()
        try:
            await self._work.begin(broker, subscription)
            await self._receive(subscription)
        except asyncio.CancelledError:
            if (error := self._work.error) is None:
                raise
            if isinstance(error, Exception):
                raise error from None
            raise unforeseen(f"handling what comes from {self._channel}", RuntimeError(repr(error))) from None
        finally:
            await self._ended(subscription)

    async def _ended(self, subscription: Subscription) -> None:
        """Ended in order, also when it is cancelled once more meanwhile: what would be left half-way goes on for ever."""
        ending = self._world.spawn(self._end(subscription), name=f"end receiving {self._channel}")
        cancelled = False
        while not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError:
                cancelled = True
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    async def _end(self, subscription: Subscription) -> None:
        try:
            await self._work.end()
        finally:
            await subscription.close()

    async def _receive(self, subscription: Subscription) -> None:
        self._stalled = False
        while True:
            limit = asyncio.timeout(STALL_SECONDS)
            try:
                async with limit:
                    batch = await subscription.receive(MOST_MESSAGES)
            except TimeoutError:
                if not limit.expired():
                    raise
                await self._check_backlog(subscription)
                continue
            self._stalled = False
            await self._work.take(batch)

    async def _check_backlog(self, subscription: Subscription) -> None:
        """Errors: `Unavailable` when it gets nothing although messages wait, for the second time in a row."""
        waiting = await subscription.backlog()
        if waiting and self._stalled:
            consumer = self._runner.consumer.name
            self._observe(ChannelRepaired(consumer=consumer, channel=self._channel, waiting=waiting))
            raise Unavailable(f"{self._channel}: {waiting} messages wait, and none of them came in {STALL_SECONDS:g} s")
        self._stalled = bool(waiting)
