"""Messages of many callers, sent together: whoever calls while a batch is on its way is in the next one.

Nothing is waited for to make a batch larger. One batch is on its way at a time, so messages of one caller keep their order.
"""

from __future__ import annotations

import asyncio

from ensue.channels.base import Message
from ensue.channels.connection import BROKEN, Connection, unforeseen
from ensue.errors import EnsueError, OutcomeUnknown, Unavailable
from ensue.world import World

__all__ = ["Outgoing"]

MOST_MESSAGES, MOST_BYTES = 1000, 4 * 1024 * 1024


class Outgoing:
    """See the module."""

    def __init__(self, connection: Connection, world: World, *, address: str | None = None) -> None:
        self._connection = connection
        self._address = address or connection.address
        # What is wrong with an address that the connection is not for, is nothing that another connection would help.
        self._breaking = BROKEN if self._address == connection.address else (Unavailable, OutcomeUnknown)
        self._world = world
        self._waiting: list[tuple[Message, asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def busy(self) -> bool:
        """Something waits, or is on its way."""
        return self._sending is not None

    def send(self, message: Message) -> asyncio.Future[None]:
        """Queue it; the future ends when it is confirmed. Not a coroutine: the order of calls is the order of messages.

        Errors: `MessageRefused`, `Unavailable`, `OutcomeUnknown` (send it again: receivers know it by its id), `WiringError`,
        `AccessRefused`.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.closed:
            confirmed.set_exception(Unavailable("the application stops, and sends no more"))
            return confirmed
        self._waiting.append((message, confirmed))
        if self._sending is None:
            self._sending = self._world.spawn(self._send_all(), name=f"send to {self._address}")
        return confirmed

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._world.sleep(0)
                batch = self._take()
                if not batch:
                    continue
                try:
                    failed = await self._publish([message for message, _ in batch])
                except BaseException:
                    for _, confirmed in batch:
                        confirmed.cancel()
                    raise
                for index, (_, confirmed) in enumerate(batch):
                    error = failed.get(index) if failed else None
                    if confirmed.done():
                        continue
                    if error is None:
                        confirmed.set_result(None)
                    else:
                        confirmed.set_exception(error)
        finally:
            self._sending = None

    def _take(self) -> list[tuple[Message, asyncio.Future[None]]]:
        """The next batch. What nobody waits for any more is not sent: another process may have its key by now."""
        self._waiting = [pair for pair in self._waiting if not pair[1].done()]
        size = count = 0
        for message, _ in self._waiting:
            size += len(message.body)
            if count == MOST_MESSAGES or (count and size > MOST_BYTES):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _publish(self, messages: list[Message]) -> dict[int, EnsueError]:
        broker = await self._connection.broker()
        self._world.failpoint("channel.publish")
        try:
            failed: dict[int, EnsueError] = dict(await broker.publish(self._address, messages))
        except Exception as error:  # it should have been among the answers
            unknown = OutcomeUnknown(str(unforeseen(f"publishing to {self._address}", error)))
            unknown.__cause__ = error
            failed = dict.fromkeys(range(len(messages)), unknown)
        broken = next((error for error in failed.values() if isinstance(error, self._breaking)), None)
        if broken is None:
            self._connection.worked()
        else:
            self._connection.broke(broker, broken)
        self._world.failpoint("channel.confirmed")
        return failed

    async def close(self) -> None:
        """Send nothing more. What waits is cancelled."""
        self.closed = True
        sending = self._sending
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        for _, confirmed in self._waiting:
            confirmed.cancel()
        self._waiting = []
