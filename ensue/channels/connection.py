"""The one way back after a connection broke: close what is left of it, wait, open another.

Adapters do not reconnect. So whatever a broker loses when it restarts (consumers, subscriptions, half of a batch) is made
anew by the same code that made it at first, and a connection that works for publishing and not for receiving cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ensue.channels.base import Broker
from ensue.errors import AccessRefused, EnsueError, OutcomeUnknown, Unavailable, WiringError
from ensue.observe.signals import ChannelConnected, ChannelLost, Observer
from ensue.world import World

__all__ = ["BROKEN", "Connection", "unforeseen"]

BROKEN = (Unavailable, OutcomeUnknown, WiringError, AccessRefused)
"""What a broker may answer that another attempt later may get over, also when a person has to help first."""
FIRST_SECONDS, LONGEST_SECONDS = 0.1, 10.0
REFUSED_SECONDS = 60.0
"""Between attempts with credentials that were refused: more of them lock accounts."""
CLOSE_SECONDS = 10.0
"""How long an adapter may take to close, before it is left to itself."""


def unforeseen(what: str, error: Exception) -> Unavailable:
    """What an adapter raised and should not have: it counts as a connection that broke, and is told as what it is."""
    broken = Unavailable(f"{what} failed in a way that its adapter does not know, which is a bug of it: {error!r}")
    broken.__cause__ = error
    return broken


class Connection:
    """An open broker for whoever asks, opened when first asked for and again after it `broke`. `consumer` is who uses it, for
    the signals; `channel` and `address` are what it is used for."""

    def __init__(
        self, make: Callable[[], Broker], world: World, observe: Observer, *, consumer: str, channel: str, address: str
    ) -> None:
        self.address = address
        self._make = make
        self._world = world
        self._observe = observe
        self._consumer = consumer
        self._channel = channel
        self._broker: Broker | None = None
        self._opening = asyncio.Lock()
        self._failures = 0
        self._due = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def broker(self, *, wait_seconds: float | None = None) -> Broker:
        """The open broker, with the address declared; waits until there is one. With `wait_seconds` it gives up after that
        time, and at once where waiting does not help. Errors, only then: `Unavailable`, `AccessRefused`, `WiringError`."""
        deadline = None if wait_seconds is None else self._world.monotonic() + wait_seconds
        async with self._opening:
            while self._broker is None:
                await self._world.sleep(max(0.0, self._due - self._world.monotonic()))
                try:
                    self._broker = await self._opened()
                except BROKEN as error:
                    left = None if deadline is None else deadline - self._world.monotonic()
                    if left is not None and (left <= 0 or not isinstance(error, Unavailable)):
                        raise
                    self._failed(error, left)
            return self._broker

    async def _opened(self) -> Broker:
        broker = self._make()
        try:
            await broker.open(self._world)
            await broker.declare(self.address)
        except BaseException as error:
            await self._close(broker)
            if isinstance(error, EnsueError) or not isinstance(error, Exception):
                raise
            raise unforeseen(f"connecting for {self._channel}", error) from error
        self._observe(ChannelConnected(consumer=self._consumer, channel=self._channel))
        return broker

    def worked(self) -> None:
        """Something was done with it: the next failure is a first one."""
        self._failures = 0

    def broke(self, broker: Broker, error: EnsueError) -> None:
        """Use this broker no more: it failed with this. Who asks next gets another, after a while."""
        if broker is self._broker:
            self._broker = None
            self._failed(error, None)
            closing = self._world.spawn(self._close(broker), name=f"{self._consumer}: close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _failed(self, error: EnsueError, left: float | None) -> None:
        pause = min(FIRST_SECONDS * 2**self._failures, LONGEST_SECONDS) * (0.5 + self._world.random() / 2)
        self._failures = min(self._failures + 1, 16)
        pause = REFUSED_SECONDS if isinstance(error, AccessRefused) else pause if left is None else min(pause, left)
        self._due = self._world.monotonic() + pause
        self._observe(
            ChannelLost(
                consumer=self._consumer, channel=self._channel, error=str(error), retry_in_seconds=round(pause, 3)
            )
        )

    async def _close(self, broker: Broker) -> None:
        """Close what is given up, and wait for it no longer than is reasonable."""
        with contextlib.suppress(Exception):  # of what is given up nothing is expected any more
            async with asyncio.timeout(CLOSE_SECONDS):
                await broker.close()

    async def close(self) -> None:
        """Close what is open. Idempotent."""
        broker, self._broker = self._broker, None
        if broker is not None:
            await self._close(broker)
        if self._closing:
            await asyncio.wait(list(self._closing))
