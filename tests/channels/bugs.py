"""Brokers with one bug each: what adapters get wrong. Each is found by the test of the contract that is named with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from ensue.app.log_brokers import SqliteBroker
from ensue.channels.base import Capabilities, From, Message, Received, Revoked, Subscription
from ensue.channels.memory import MemoryBroker, _Group, _Member
from ensue.channels.urls import Place
from ensue.errors import EnsueError, MessageRefused, Unavailable
from ensue.world import World
from tests.channels.doubles import Double, DoubleSubscription, Power

# ---------------------------------------------------------------------------------------------------------- publishing


class DropsEmptyBodies(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, [message for message in messages if message.body])


class _Changes(Double):
    """What is stored is not what was given."""

    def changed(self, message: Message) -> Message:
        raise NotImplementedError

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        return await super().publish(address, list(map(self.changed, messages)))


class ManglesHeaders(_Changes):
    def changed(self, message: Message) -> Message:
        headers = {name: value.encode().decode("latin-1") for name, value in message.headers.items()}
        return msgspec.structs.replace(message, headers=headers)


class StripsHeaders(_Changes):
    def changed(self, message: Message) -> Message:
        headers = {name: value.strip() for name, value in message.headers.items()}
        return msgspec.structs.replace(message, headers=headers)


class AddsHeaders(_Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, headers={**message.headers, f"{self.prefix}time": "now"})


class ForgetsTheContentType(_Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, content_type="application/json")


class CutsLargeBodies(_Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, body=message.body[:8192])


class ForgetsDelays(_Changes):
    def changed(self, message: Message) -> Message:
        return msgspec.structs.replace(message, delay_seconds=0)


class DelaysAllBehindIt(_Changes):
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


# -------------------------------------------------------------------------------------------------- addresses, closing


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
            await super().accept(received or [_Held(entry) for entry in self.inner._held.values()])  # type: ignore[misc]


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
            await super().accept(_until(self.inner, received))


class RejectsAllBefore(Double):
    class subscription(DoubleSubscription):
        async def reject(self, received: Sequence[Received]) -> None:
            await super().reject(_until(self.inner, received))


class RequeuesAll(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            await super().requeue(_until(self.inner, received, all_of_them=True))


class AnswersInOrderOnly(Double):
    """As one that makes room only when the oldest is accepted."""

    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            first = min(self.inner._held, default=0)
            if any(_number(one) == first for one in received):
                await super().accept(received)


class RequeueAccepts(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            await super().accept(received)


class RequeuesInReverse(Double):
    class subscription(DoubleSubscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            messages = [_message(one) for one in reversed(received)]
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


# -------------------------------------------------------------------------------------------------------------- groups


class _Subscribes(Double):
    """Subscribes as something else."""

    def as_what(self, given: dict[str, Any]) -> None:
        raise NotImplementedError

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        given: dict[str, Any] = {"group": group, "start": start, "prefetch": prefetch, "revoked": revoked}
        self.as_what(given)
        return await super().subscribe(address, **given)


class EveryMemberAGroup(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] and f"{given['group']}-{id(self)}"


class AllGroupsAreOne(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] and "one"


class BroadcastsAreAGroup(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] or "broadcast"


class BroadcastsSeeThePast(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        if given["group"] is None:
            given |= {"group": self.world.new_id().hex(), "start": "beginning"}


class BroadcastsOfAConnectionAreOne(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] or f"broadcast-{id(self)}"


class BeginsAlwaysWithAll(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        if given["group"] is not None:
            given["start"] = "beginning"


class BeginsAlwaysNow(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["start"] = "now"


class IgnoresThePrefetch(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["prefetch"] = 1_000_000


class FetchesMoreThanThePrefetch(_Subscribes):
    """It is not shown, but others get nothing."""

    class subscription(DoubleSubscription):
        def __init__(self, inner: Subscription, broker: Double) -> None:
            super().__init__(inner, broker)
            self.fetched: list[Received] = []

        async def receive(self, most: int) -> Sequence[Received]:
            self.fetched += [] if self.fetched else await super().receive(100)
            received, self.fetched = self.fetched[:most], self.fetched[most:]
            return received

    def as_what(self, given: dict[str, Any]) -> None:
        given["prefetch"] = 1_000_000


class HoldsOneForEver(Double):
    """What is accepted makes no room."""

    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            before = len(self.inner._held)
            await super().accept(received)
            self.inner._prefetch -= before - len(self.inner._held)


class _WithGroup(Double):
    """Does something to a group when a member joins it."""

    def to_group(self, group: _Group, start: From) -> None:
        raise NotImplementedError

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        topic = self.inner._topic(self.inner._opened(), address)
        if group in topic._groups:
            self.to_group(topic._groups[group], start)
        return await super().subscribe(address, group=group, start=start, prefetch=prefetch, revoked=revoked)


class ReplaysWhatWasAccepted(_WithGroup):
    def to_group(self, group: _Group, start: From) -> None:
        for cursor in group._cursors:
            cursor.next, cursor.returned = 0, []


class StartsAnewEachTime(_WithGroup):
    def to_group(self, group: _Group, start: From) -> None:
        if start == "now":
            for cursor in group._cursors:
                cursor.next, cursor.returned = len(cursor._log), []


class GroupsEndWithTheirMembers(_WithGroup):
    def to_group(self, group: _Group, start: From) -> None:
        if not group.members:
            for cursor in group._cursors:
                cursor.next = len(cursor._log)


# ---------------------------------------------------------------------------------------------------------- partitions


class SpreadsAKey(_Changes):
    count = 0

    def changed(self, message: Message) -> Message:
        self.count += 1
        return msgspec.structs.replace(message, key=f"{message.key}-{self.count}")


class TakesWithoutAWord(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["revoked"] = None


class TakesAtOnce(_Subscribes):
    """Tells that partitions go, and does not wait until they are finished."""

    finishing: asyncio.Task[None] | None = None

    def as_what(self, given: dict[str, Any]) -> None:
        revoked, running = given["revoked"], self.world

        async def at_once(partitions: frozenset[int]) -> None:
            self.finishing = running.spawn(revoked(partitions), name="finish")

        given["revoked"] = revoked and at_once


class GoesOnReceivingWhatIsRevoked(Double):
    """Partitions seem to be nobody's own."""

    class subscription(DoubleSubscription):
        def __init__(self, inner: Subscription, broker: Double) -> None:
            super().__init__(inner, broker)
            self.inner._group._assign = False


class KeepsReceivingWhatWentToAnother(_Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        revoked = given["revoked"]

        async def in_vain(partitions: frozenset[int]) -> None:
            await revoked(partitions)
            for member in self.inner._members:
                member._group._assign = False

        given["revoked"] = revoked and in_vain


class TakesThePlaceAndDoesNotTell(Double):
    """One member at a time, and the one before waits for ever."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, shares=False)

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        for connection in self.power.connections:
            for member in list(connection.inner._members):
                if member._group._name == group and group is not None:
                    self.takes_the_place(member)
        return await super().subscribe(address, group=group, start=start, prefetch=prefetch, revoked=revoked)

    def takes_the_place(self, member: _Member) -> None:
        held, member._held = member._held, {}
        member._group.members.remove(member)
        member._group.give_back(list(held.values()))


class TakesThePlace(TakesThePlaceAndDoesNotTell):
    """No bug: this is how it is to be."""

    def takes_the_place(self, member: _Member) -> None:
        member.leave(Unavailable("another one has its place"))


class KeepsThePartitionsOfWhoLeft(Double):
    class subscription(DoubleSubscription):
        async def close(self) -> None:
            group = self.inner._group
            owned = [cursor for cursor in group._cursors if cursor.owner is self.inner]
            await super().close()
            for cursor in owned:
                cursor.owner = self.inner


class LosesThePlaceOfTheSlow(Double):
    """As a client that must be polled does."""

    class subscription(DoubleSubscription):
        timer: asyncio.TimerHandle | None = None

        async def receive(self, most: int) -> Sequence[Received]:
            if self.timer is not None:
                self.timer.cancel()
            received = await super().receive(most)
            member: _Member = self.inner
            self.timer = self.broker.world.call_later(0.05, lambda: member.leave(Unavailable("too slow")))
            return received


# ------------------------------------------------------------------------------------------------------------- restart


class ConfirmsWhatItCannotSend(Double):
    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        errors = await super().publish(address, messages)
        return {index: error for index, error in errors.items() if not isinstance(error, Unavailable)}


class ConfirmsBeforeStoring(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        super().__init__(place, power)
        self.later: list[Message] = []

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        errors = await super().publish(address, self.later)
        self.later = list(messages)
        return dict.fromkeys(range(len(messages)), errors[0]) if errors else {}


class OpensWithoutAServer(Double):
    async def open(self, world: World) -> None:
        self.world = world
        self.power.connections.add(self)
        await self.inner.open(world)


class MendsItself(Double):
    def __init__(self, place: Place, power: Power | None = None) -> None:
        super().__init__(place, power)
        self.was_cut = False

    def breaks(self) -> None:
        super().breaks()
        self.was_cut = True

    async def declare(self, address: str) -> None:
        if self.was_cut and self.power.on:
            self.inner = MemoryBroker(self.place)
            await self.inner.open(self.world)
        await super().declare(address)


class ForgetsMessagesWithItsServer(Double):
    def breaks(self) -> None:
        if self.inner._server is not None:
            for topic in self.inner._server.topics.values():
                for log in topic.logs:
                    log.clear()
                topic._groups.clear()
        super().breaks()


class LosesTheNewestWithItsServer(Double):
    def breaks(self) -> None:
        if self.inner._server is not None:
            for topic in self.inner._server.topics.values():
                for log in topic.logs:
                    del log[-10:]
        super().breaks()


class ForgetsGroupsWithItsServer(Double):
    def breaks(self) -> None:
        if self.inner._server is not None:
            for topic in self.inner._server.topics.values():
                topic._groups.clear()
        super().breaks()


class ForgetsWhatWasHeldWithItsServer(Double):
    def breaks(self) -> None:
        for member in self.inner._members:
            member._held.clear()
        super().breaks()


# ------------------------------------------------------------------------------------------------------------ processes


class AcceptsOnReceiveInAFile(SqliteBroker):
    """One that other processes reach."""

    async def subscribe(self, address: str, **given: Any) -> Subscription:
        return _LeavesAfterEach(super().subscribe, address, given, await super().subscribe(address, **given))


class _LeavesAfterEach:
    """Accepts whatever it receives, and makes sure that it is known before anything can happen."""

    def __init__(self, subscribe: Any, address: str, given: Any, inner: Subscription) -> None:
        self._subscribe = subscribe
        self._address = address
        self._given = given
        self._inner = inner

    async def receive(self, most: int) -> Sequence[Received]:
        received = await self._inner.receive(most)
        await self._inner.accept(received)
        await self._inner.close()
        self._inner = await self._subscribe(self._address, **self._given)
        return received

    async def accept(self, received: Sequence[Received]) -> None:
        pass

    async def reject(self, received: Sequence[Received]) -> None:
        pass

    async def requeue(self, received: Sequence[Received]) -> None:
        pass

    async def backlog(self) -> int | None:
        return await self._inner.backlog()

    async def close(self) -> None:
        await self._inner.close()


def _number(received: Received) -> int:
    number: int = received.entry.number  # type: ignore[attr-defined]
    return number


def _message(received: Received) -> Message:
    message: Message = received.entry.message  # type: ignore[attr-defined]
    return message


def _until(member: _Member, received: Sequence[Received], *, all_of_them: bool = False) -> Sequence[Received]:
    """With all that the member holds before it, or just all."""
    last = max(map(_number, received))
    return [_Held(entry) for number, entry in member._held.items() if all_of_them or number <= last]  # type: ignore[misc]


class _Held:
    def __init__(self, entry: object) -> None:
        self.entry = entry
