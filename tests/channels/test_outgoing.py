"""Messages of many callers, sent together: each caller hears how its own ended, whatever happens to the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from ensue.channels.base import Broker, Message
from ensue.channels.connection import Connection
from ensue.channels.outgoing import MOST_MESSAGES, Outgoing
from ensue.channels.urls import Place, place
from ensue.errors import EnsueError, OutcomeUnknown, Unavailable, WiringError
from ensue.observe.signals import ChannelLost, Signal
from ensue.world import RealWorld
from tests.channels.doubles import Double

Answer = Callable[[int], Mapping[int, EnsueError]]


class Answering(Double):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.answers: list[Answer] = []
        self.published: list[list[bytes]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        await self.go.wait()
        self.published.append([message.body for message in messages])
        if self.answers:
            return self.answers.pop(0)(len(messages))
        return await super().publish(address, messages)


class Sending:
    """An `Outgoing` on a broker that answers as a test says."""

    def __init__(self, *answers: Answer, address: str | None = None) -> None:
        self.signals: list[Signal] = []
        self.broker = Answering(place("memory://outgoing"))
        self.broker.answers += answers
        world = RealWorld()
        self.connection = Connection(
            self._make, world, self.signals.append, consumer="test", channel="orders", address="orders"
        )
        self.outgoing = Outgoing(self.connection, world, address=address)

    def _make(self) -> Broker:
        return self.broker

    def send(self, *bodies: bytes) -> list[asyncio.Future[None]]:
        return [self.outgoing.send(Message(body=body, headers={})) for body in bodies]

    async def close(self) -> None:
        await self.outgoing.close()
        await self.connection.close()


def raises(count: int) -> Mapping[int, EnsueError]:
    raise KeyError("a bug of an adapter")


def test_what_an_adapter_raises_reaches_every_caller_and_stops_no_later_message() -> None:
    async def story() -> None:
        sending = Sending(raises)
        several = sending.send(*[b"%d" % number for number in range(MOST_MESSAGES + 5)])
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*several, return_exceptions=True)
        assert all(isinstance(end, OutcomeUnknown) for end in ends[:MOST_MESSAGES])
        assert ends[MOST_MESSAGES:] == [None] * 5
        assert "KeyError" in str(ends[0])
        await sending.close()

    asyncio.run(story())


def test_a_message_that_nobody_waits_for_any_more_is_not_sent() -> None:
    async def story() -> None:
        sending = Sending()
        sending.broker.go.clear()
        (first,) = sending.send(b"first")
        await asyncio.sleep(0.01)
        second, third = sending.send(b"second", b"third")
        second.cancel()
        sending.broker.go.set()
        await asyncio.gather(first, third)
        assert sending.broker.published == [[b"first"], [b"third"]]
        await sending.close()

    asyncio.run(story())


def test_closing_ends_every_wait() -> None:
    async def story() -> None:
        sending = Sending()
        sending.broker.go.clear()
        waiting = sending.send(b"first")
        await asyncio.sleep(0.01)
        waiting += sending.send(b"second")
        await sending.outgoing.close()
        assert all(one.cancelled() for one in waiting)
        with pytest.raises(Unavailable, match="sends no more"):
            await sending.send(b"third")[0]
        await sending.connection.close()

    asyncio.run(story())


@pytest.mark.parametrize(("address", "breaks"), [("orders", True), ("somebody-elses", False)])
def test_an_address_that_is_gone_breaks_the_connection_only_where_it_is_the_connections_own(
    address: str, breaks: bool
) -> None:
    def gone(count: int) -> Mapping[int, EnsueError]:
        return dict.fromkeys(range(count), WiringError("there is no such address"))

    async def story() -> None:
        sending = Sending(gone, address=address)
        with pytest.raises(WiringError):
            await sending.send(b"first")[0]
        assert any(isinstance(signal, ChannelLost) for signal in sending.signals) == breaks
        await sending.close()

    asyncio.run(story())
