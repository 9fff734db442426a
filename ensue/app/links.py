"""A channel without a log: publish to it, receive from it, ask a question over it. For tools, telemetry and other frameworks.

What an application's own handlers do with a channel is better said by `inbox=`, `outbox=` and `@on(source=…)`: there duplicates,
order, retries and dead letters are taken care of. Here a message is yours to accept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from ensue.app.checks import check_event, checked_headers, checked_seconds, checked_traceparent
from ensue.channels import Channel
from ensue.errors import EnsueError, MissingCapability, OutcomeUnknown, Unavailable
from ensue.events.message import Event
from ensue.events.recorded import instant, microseconds
from ensue.events.registry import Registry, declaration
from ensue.observe.log import log_signal
from ensue.observe.signals import Observer

if TYPE_CHECKING:  # what runs a link is imported when one is made, so that `import ensue` is quick
    import asyncio

    from ensue.channels.base import Broker, Capabilities, From, Message, Received, Subscription
    from ensue.channels.connection import Connection
    from ensue.consumers.wire import Wire
    from ensue.world import World

__all__ = ["Incoming", "Link", "Subscribed", "connect"]

E = TypeVar("E", bound=Event)
MOST_MESSAGES = 500


def connect(
    channel: Channel, /, *, source: str = "link", observe: Observer | None = None, world: World | None = None
) -> Link:
    """`async with connect(orders) as link:`. `source` is part of what its messages say that they come from."""
    from ensue.world import RealWorld

    return Link(channel, source=source, observe=observe or log_signal, world=world or RealWorld())


class Incoming(Generic[E]):
    """A message that came. What of it is not asked for is not decoded."""

    __slots__ = ("_event", "_received", "_subscribed", "_wire")

    def __init__(self, received: Received, wire: Wire, subscribed: Subscribed[Any]) -> None:
        self._received = received
        self._wire = wire
        self._subscribed = subscribed
        self._event: E | None = None

    @property
    def event(self) -> E:
        """Errors: `GiveUp` for a message that is no event, or none that this channel carries or this code can read."""
        if self._event is None:
            event: Any = self._wire.event(self._received)
            self._event = event
        assert self._event is not None
        return self._event

    @property
    def body(self) -> bytes:
        return self._received.body

    @property
    def where(self) -> str:
        """Where the broker has it, for people."""
        return self._received.where

    @property
    def deliveries(self) -> int:
        """How often it was delivered, where the broker counts; else 1."""
        return self._received.deliveries

    @property
    def id(self) -> str:
        return self._wire.envelope(self._received).id

    @property
    def source(self) -> str:
        return self._wire.envelope(self._received).source

    @property
    def time(self) -> datetime | None:
        time = self._wire.envelope(self._received).time
        return None if time is None else instant(time)

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that the sender gave to `publish`."""
        return self._wire.envelope(self._received).headers or {}

    async def accept(self) -> None:
        """It is done with. Where the broker only knows up to where a partition is done, so is what came before it there.
        Errors: `Unavailable`."""
        await self._subscribed.subscription.accept((self._received,))

    async def reject(self) -> None:
        """It is given up: to the broker's own dead letters, if it has any. Errors: `Unavailable`."""
        await self._subscribed.subscription.reject((self._received,))

    async def requeue(self) -> None:
        """It is to come again. Errors: `Unavailable`."""
        await self._subscribed.subscription.requeue((self._received,))


class Subscribed(Generic[E]):
    """An open subscription: iterate it, by message or by `batches()`."""

    def __init__(self, subscription: Subscription, wire: Wire) -> None:
        self.subscription = subscription
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[Incoming[E]]:
        """Errors: `Unavailable` when the connection breaks; subscribe again."""
        async for batch in self.batches():
            for message in batch:
                yield message

    async def batches(self, most: int = MOST_MESSAGES) -> AsyncIterator[Sequence[Incoming[E]]]:
        """What has come, at least one message and at most so many at a time, in order."""
        while True:
            received = await self.subscription.receive(most)
            yield [Incoming(one, self._wire, self) for one in received]

    async def accept(self, messages: Sequence[Incoming[E]]) -> None:
        """Accept all of them at once. Errors: `Unavailable`."""
        await self.subscription.accept([message._received for message in messages])


class Link:
    """See the module. A connection that breaks is opened again by the next call; what a call had begun raises."""

    def __init__(self, channel: Channel, *, source: str, observe: Observer, world: World) -> None:
        import asyncio

        from ensue.app.brokers import place_of
        from ensue.app.traffic import wire_of

        self._channel = channel
        self._source = f"urn:ensue:{source}"
        self._observe = observe
        self._world = world
        self._where = place_of(channel, os.environ)
        self._registry = Registry()
        self._wire = wire_of(self._where, self._registry, channel, source=self._source)
        self._connection = self._connect(self._where.address(channel.name))
        self._replies = f"{self._connection.address}-replies"
        self._asking: dict[str, tuple[asyncio.Future[Event], Wire]] = {}
        self._answers: asyncio.Task[None] | None = None
        self._answering: Connection | None = None
        self._preparing = asyncio.Lock()

    def _connect(self, address: str) -> Connection:
        from ensue.app.brokers import open_broker
        from ensue.channels.connection import Connection

        def make() -> Broker:
            return open_broker(self._where)

        return Connection(
            make, self._world, self._observe, consumer="link", channel=self._channel.name, address=address
        )

    async def __aenter__(self) -> Self:
        """Errors: `Unavailable` after the URL's `wait_seconds`; `AccessRefused`, `WiringError`."""
        await self._connection.broker(wait_seconds=self._where.seconds("wait_seconds", 30.0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        import asyncio

        if self._answers is not None:
            self._answers.cancel()
            await asyncio.gather(self._answers, return_exceptions=True)
        if self._answering is not None:
            await self._answering.close()
        await self._connection.close()

    async def capabilities(self) -> Capabilities:
        """What the broker can do. Errors: `Unavailable`."""
        return (await self._broker()).capabilities

    async def _broker(self) -> Broker:
        return await self._connection.broker(wait_seconds=0)

    # ------------------------------------------------------------------------------------------------------- publishing

    async def publish(
        self,
        *events: Event,
        headers: Mapping[str, str] | None = None,
        traceparent: str | None = None,
        delay: timedelta | None = None,
    ) -> None:
        """Send these events and return when the broker has confirmed all of them. Of one key they keep their order.

        With `delay` they are not received before so long, where the broker can do that itself. Errors: `InvalidEvent`;
        `MissingCapability`; `MessageRefused`, `Unavailable`, `OutcomeUnknown`, `WiringError`, `AccessRefused` of the first that was
        not confirmed: the others may be. Sent again, they are other messages.
        """
        known, trace = checked_headers(headers), checked_traceparent(traceparent)
        seconds = checked_seconds(delay) if delay is not None else 0.0
        messages = [self._message(event, known, trace, None, seconds) for event in events]
        await self._publish(messages)

    async def _publish(self, messages: Sequence[Message]) -> None:
        broker = await self._broker()
        if messages and messages[0].delay_seconds and not broker.capabilities.delay:
            raise MissingCapability(
                f"{self._where.shown} has no delay; an application with the channel in its outbox keeps what is due later in its "
                "log: App.publish_later"
            )
        failed = await broker.publish(self._connection.address, messages)
        if not failed:
            self._connection.worked()
            return
        first: EnsueError = failed[min(failed)]
        broken = next((error for error in failed.values() if isinstance(error, (Unavailable, OutcomeUnknown))), None)
        if broken is not None:
            self._connection.broke(broker, broken)
        first.add_note(
            f"{len(failed)} of {len(messages)} messages were not confirmed, the first of them number {min(failed)}"
        )
        raise first

    def _message(
        self,
        event: Event,
        headers: Mapping[str, str] | None,
        traceparent: str | None,
        reply_to: str | None,
        delay_seconds: float,
        id: bytes | None = None,
    ) -> Message:
        from ensue.channels.cloudevents import Envelope
        from ensue.consumers.wire import uuid_text

        check_event(event)
        data = self._registry.encode(event)
        key = self._registry.keyed(event).key
        declared = declaration(type(event))
        return self._wire.fresh(
            Envelope(
                id=uuid_text(id or self._world.new_id()),
                source=self._source,
                type=declared.name,
                version=declared.version,
                time=self._world.now(),
                key=None if key is None else key[key.index("=") + 1 :],
                traceparent=traceparent,
                reply_to=reply_to,
                headers=headers,
                data=data,
            ),
            delay_seconds,
        )

    # -------------------------------------------------------------------------------------------------------- receiving

    @contextlib.asynccontextmanager
    async def subscribe(
        self,
        *types: type[E],
        group: str | None = None,
        start: Literal["beginning", "now"] | datetime = "now",
        prefetch: int = 1000,
    ) -> AsyncGenerator[Subscribed[E], None]:
        """Receive in this block. With a `group`, its members share the messages, and what none of them accepted comes again; without
        one, everything that is published from now on is received once. `start` is where a new group begins, where the
        broker keeps what was sent. `types` say no more than which type `event` is: nothing is filtered.

        Errors: `MissingCapability`, `WiringError`, `AccessRefused`, `Unavailable`.
        """
        begin: From = microseconds(start) if isinstance(start, datetime) else start
        named = self._where.group(group) if group is not None else None
        broker = await self._broker()
        try:
            subscription = await broker.subscribe(self._connection.address, group=named, start=begin, prefetch=prefetch)
            try:
                yield Subscribed(subscription, self._wire)
            finally:
                await subscription.close()
        except Unavailable as error:
            self._connection.broke(broker, error)
            raise

    # ----------------------------------------------------------------------------------------------------------- asking

    async def request(self, event: Event, reply: type[E], /, *, timeout: timedelta) -> E:
        """Publish the event and wait for the answer: the first event of this type that a handler of it returned
        (`@on(source=…)`). The handler may run after the deadline all the same.

        Errors: `TimeoutError` when no answer came in time, the time to connect included; those of `publish`.
        """
        import asyncio

        from ensue.app.traffic import wire_of
        from ensue.consumers.wire import uuid_text

        seconds = checked_seconds(timeout)
        id = self._world.new_id()
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        carried = Channel(self._channel.name, reply)
        wire = wire_of(self._where, self._registry, carried, source=self._source)
        self._asking[uuid_text(id)] = (answer, wire)
        try:
            async with asyncio.timeout(seconds):
                replies = await self._answered_at()
                await self._publish([self._message(event, None, None, replies, 0.0, id)])
                found: Any = await answer
                return found  # type: ignore[no-any-return]
        except TimeoutError:
            raise TimeoutError(
                f"no {reply.__name__} came within {seconds:g} s for the {type(event).__name__} on {self._where.shown}"
            ) from None
        finally:
            del self._asking[uuid_text(id)]

    async def _answered_at(self) -> str:
        """The address of answers, once they are received."""
        async with self._preparing:  # those who ask at the same time share one subscription
            if self._answers is None or self._answers.done():
                if self._answering is None:
                    self._answering = self._connect(self._replies)
                broker = await self._answering.broker(wait_seconds=0)
                try:
                    subscription = await broker.subscribe(self._replies, group=None, start="now", prefetch=1000)
                except Unavailable as error:
                    self._answering.broke(broker, error)
                    raise
                self._answers = self._world.spawn(self._receive_answers(broker, subscription), name="answers")
        return self._replies

    async def _receive_answers(self, broker: Broker, subscription: Subscription) -> None:
        try:
            while True:
                for received in await subscription.receive(MOST_MESSAGES):
                    self._take_answer(received)
        except EnsueError as error:
            assert self._answering is not None
            self._answering.broke(broker, error)
            for answer, _ in self._asking.values():
                if not answer.done():
                    answer.set_exception(Unavailable(f"the connection broke while an answer was awaited: {error}"))
        finally:
            await subscription.close()

    def _take_answer(self, received: Received) -> None:
        from ensue.channels.cloudevents import NotAnEvent

        try:
            causation = self._wire.envelope(received).causation
        except NotAnEvent:
            return
        asked = self._asking.get(causation or "")
        if asked is None or asked[0].done():
            return  # somebody else's, or too late
        answer, wire = asked
        try:
            answer.set_result(wire.event(received))
        except EnsueError as error:
            answer.set_exception(error)
