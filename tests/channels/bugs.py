"""Brokers with one bug each: what adapters get wrong. Each is found by the test of the contract that is named with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import msgspec

from ensue.channels.base import Message, Received, Subscription
from ensue.channels.urls import Place
from ensue.errors import EnsueError, MessageRefused, Unavailable, WiringError
from tests.channels.doubles import (
    Changes,
    Double,
    DoubleSubscription,
    HeldMessage,
    Power,
    held_until,
    message_of,
    number_of,
)

# ---------------------------------------------------------------------------------------------------------- publishing


class DropsEmptyBodies(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, [message for message in messages if message.body])


class ManglesHeaders(Changes):
    def changed(self, message: Message) -> Message:
        headers = {name: value.encode().decode("latin-1") for name, value in message.headers.items()}
        return msgspec.structs.replace(message, headers=headers)


class StripsHeaders(Changes):
    def changed(self, message: Message) -> Message:
        headers = {name: value.strip() for name, value in message.headers.items()}
        return msgspec.structs.replace(message, headers=headers)


class AddsHeaders(Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, headers={**message.headers, f"{self.prefix}time": "now"})


class ForgetsTheContentType(Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, content_type="application/json")


class CutsLargeBodies(Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, body=message.body[:8192])


class ForgetsDelays(Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, delay_seconds=0)


class DelaysAllBehindIt(Changes):
    longest = 0.0

    def changed(self, message: Message) -> Message:
        self.longest = max(self.longest, message.delay_seconds)
        return msgspec.structs.replace(message, delay_seconds=self.longest)


class ReordersABatch(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, [*messages[5:], *messages[:5]])


class SendsBatchesMixed(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        answers = [self.inner.publish(address, [message]) for message in reversed(messages)]
        await asyncio.gather(*answers)
        return {}


class KnowsDuplicates(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        super().__init__(place, power)
        self.seen: set[str] = set()

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        new = [one for one in messages if one.headers.get("ce-id", "") not in self.seen]
        self.seen |= {one.headers.get("ce-id", "") for one in messages}
        return await super().publish(address, new)


class OneTooLargeRefusesAll(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        if any(len(message.body) > (self.capabilities.largest or 0) for message in messages):
            return dict.fromkeys(range(len(messages)), MessageRefused("too large"))
        return await super().publish(address, messages)


class OneTooLargeBreaksTheConnection(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        errors = await super().publish(address, messages)
        if errors:
            self.breaks()
        return errors


class LosesOneInAThousand(Double):
    count = 0

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        self.count += len(messages)
        lost = self.count % 1000 == 0
        return await super().publish(address, messages[: len(messages) - lost])


class FailsWithNothing(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, messages) if messages else {0: Unavailable("there is no message")}


class WaitsForAnAnswerForEver(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        errors = await super().publish(address, messages)
        if self.inner._server is None:
            await asyncio.Event().wait()
        return errors


class IsAloneInTheWorld(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        super().__init__(msgspec.structs.replace(place, path=str(id(self))), power)


# -------------------------------------------------------------------------------------------------- addresses, closing


class FindsNothing(Double):
    async def declare(self, address: str) -> None:
        if not self.place.create:
            raise WiringError(f"there is no {address}")
        await super().declare(address)


class ExplainsNothing(Double):
    parameters: ClassVar[Mapping[str, str]] = {**Double.parameters, "prefetch": "how many"}


class ConfirmsWithoutAnAddress(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        await super().publish(address, messages)
        return {}


class CreatesWhereItMayNot(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        parameters = {name: value for name, value in place.parameters.items() if name != "create"}
        super().__init__(msgspec.structs.replace(place, parameters=parameters), power)


class DeclaresAnew(Double):
    async def declare(self, address: str) -> None:
        assert self.inner._server is not None
        self.inner._server.topics.pop(address, None)
        await super().declare(address)


class RemovesNothing(Double):
    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        pass


class TakesAnyParameter(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        known = {name: value for name, value in place.parameters.items() if name in self.parameters}
        super().__init__(msgspec.structs.replace(place, parameters=known), power)


class ClosesOnce(Double):
    closed = False

    async def close(self) -> None:
        if self.closed:
            raise Unavailable("it is closed already")
        self.closed = True
        await super().close()


class RaisesWhenItIsClosed(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        errors = await super().publish(address, messages)
        if any(isinstance(error, Unavailable) for error in errors.values()):
            raise Unavailable("it is closed")
        return errors


class ClosesTheConnectionWithASubscription(Double):
    class subscription(DoubleSubscription):
        async def close(self) -> None:
            await super().close()
            for connection in list(self.broker.power.connections):
                connection.breaks()


class WaitsForEver(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            try:
                return await super().receive(most)
            except EnsueError:
                await asyncio.Event().wait()
                raise


# ----------------------------------------------------------------------------------------------------------- receiving


class LosesWhatACancelledReceiveHad(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            received = await super().receive(most)
            await asyncio.sleep(0)
            return received


class ReceivesMoreThanIsAskedFor(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            return await super().receive(max(most, 4))


class ReturnsNothing(Double):
    class subscription(DoubleSubscription):
        calls = 0

        async def receive(self, most: int) -> Sequence[Received]:
            self.calls += 1
            return [] if self.calls % 2 else await super().receive(most)


class OneCallAtATime(Double):
    class subscription(DoubleSubscription):
        def __init__(self, inner: Subscription, broker: Double) -> None:
            super().__init__(inner, broker)
            self.busy = asyncio.Lock()

        async def receive(self, most: int) -> Sequence[Received]:
            async with self.busy:
                return await super().receive(most)

        async def accept(self, received: Sequence[Received]) -> None:
            async with self.busy:
                await super().accept(received)


class AcceptsOnReceive(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            received = await super().receive(most)
            await super().accept(received)
            return received


class AcceptsNothing(Double):
    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            pass


class AcceptsWhenTheSubscriptionIsClosed(Double):
    """And not when the connection is."""

    class subscription(DoubleSubscription):
        def __init__(self, inner: Subscription, broker: Double) -> None:
            super().__init__(inner, broker)
            self.accepted: list[Received] = []

        async def accept(self, received: Sequence[Received]) -> None:
            self.accepted += received

        async def close(self) -> None:
            await super().accept(self.accepted)
            await super().close()


class AcceptsWhenTheConnectionIsClosed(Double):
    """And not when the subscription is."""

    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            self.broker.at_its_end.append(lambda: DoubleSubscription.accept(self, received))

        async def close(self) -> None:
            self.broker.at_its_end.append(lambda: DoubleSubscription.close(self))


class AcceptsAllForNone(Double):
    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            await super().accept(received or [HeldMessage(entry) for entry in self.inner._held.values()])  # type: ignore[misc]


class LosesWhatABroadcastHasNoRoomFor(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            received = await super().receive(most)
            if self.inner._group._name is None:
                for cursor in self.inner._group._cursors:
                    cursor.next = len(cursor._log)
            return received


class AcceptsAllBefore(Double):
    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            await super().accept(held_until(self.inner, received))


class RejectsAllBefore(Double):
    class subscription(DoubleSubscription):
        async def reject(self, received: Sequence[Received]) -> None:
            await super().reject(held_until(self.inner, received))


class RequeuesAll(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            await super().requeue(held_until(self.inner, received, all_of_them=True))


class AnswersInOrderOnly(Double):
    """As one that makes room only when the oldest is accepted."""

    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            first = min(self.inner._held, default=0)
            if any(number_of(one) == first for one in received):
                await super().accept(received)


class RequeueAccepts(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            await super().accept(received)


class RequeuesInReverse(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            messages = [message_of(one) for one in reversed(received)]
            await super().accept(received)
            await self.broker.inner.publish(self.inner._topic.name, messages)


class RejectRequeues(Double):
    class subscription(DoubleSubscription):
        async def reject(self, received: Sequence[Received]) -> None:
            await super().requeue(received)


class ComesAgainBehindWhatIsNew(Double):
    class subscription(DoubleSubscription):
        async def close(self) -> None:
            held = list(self.inner._held.values())
            await self.broker.inner.publish(self.inner._topic.name, [entry.message for entry in held])
            self.inner._held.clear()
            await super().close()


class ForgetsToGiveBack(Double):
    class subscription(DoubleSubscription):
        async def close(self) -> None:
            self.inner._held.clear()
            await super().close()


class ForgetsToGiveBackWithTheConnection(Double):
    async def close(self) -> None:
        for member in self.inner._members:
            member._held.clear()
        await super().close()


class GivesBackWhenItIsReopened(Double):
    """Only the next member gets what this one held, and not one that waits."""

    class subscription(DoubleSubscription):
        async def close(self) -> None:
            group = self.inner._group
            others, group.members = group.members, [self.inner]
            await super().close()
            group.members = [member for member in others if member is not self.inner]


class ForgetsWhatItFetched(Double):
    """More was fetched than was received, and is gone with the member."""

    class subscription(DoubleSubscription):
        def __init__(self, inner: Subscription, broker: Double) -> None:
            super().__init__(inner, broker)
            self.fetched: list[Received] = []

        async def receive(self, most: int) -> Sequence[Received]:
            if not self.fetched:
                self.fetched += await super().receive(100)
                await super().accept(self.fetched)
            received, self.fetched = self.fetched[:most], self.fetched[most:]
            return received


class CountsNothing(Double):
    class subscription(DoubleSubscription):
        async def receive(self, most: int) -> Sequence[Received]:
            self.inner._group.again.clear()
            return await super().receive(most)


class TellsNoBacklog(Double):
    class subscription(DoubleSubscription):
        async def backlog(self) -> int | None:
            return 0
