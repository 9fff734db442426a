"""Brokers with one bug each: what they get wrong about groups, partitions, restarts, processes and ranges. Each is found by the
test of the contract that is named with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ensue.app.log_brokers import SqliteBroker
from ensue.channels.base import Capabilities, From, Message, Received, Revoked, Subscription
from ensue.channels.memory import MemoryBroker, _Group, _Member
from ensue.channels.urls import Place
from ensue.errors import EnsueError, Unavailable
from ensue.world import World
from tests.channels.doubles import (
    Changes,
    Double,
    DoubleSubscription,
    Power,
    Subscribes,
    held_until,
    number_of,
)

# -------------------------------------------------------------------------------------------------------------- groups


class EveryMemberAGroup(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] and f"{given['group']}-{id(self)}"


class AllGroupsAreOne(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] and "one"


class AllIsOneGroup(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = "one"


class DoesWhatItCannot(Double):
    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, replay=False, broadcast=False)


class BroadcastsAreAGroup(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] or "broadcast"


class BroadcastsSeeThePast(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        if given["group"] is None:
            given |= {"group": self.world.new_id().hex(), "start": "beginning"}


class BroadcastsOfAConnectionAreOne(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["group"] = given["group"] or f"broadcast-{id(self)}"


class BeginsAlwaysWithAll(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        if given["group"] is not None:
            given["start"] = "beginning"


class BeginsAlwaysNow(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["start"] = "now"


class IgnoresThePrefetch(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["prefetch"] = 1_000_000


class FetchesMoreThanThePrefetch(Subscribes):
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


class SpreadsAKey(Changes):
    count = 0

    def changed(self, message: Message) -> Message:
        self.count += 1
        return msgspec.structs.replace(message, key=f"{message.key}-{self.count}")


class TakesWithoutAWord(Subscribes):
    def as_what(self, given: dict[str, Any]) -> None:
        given["revoked"] = None


class TakesAtOnce(Subscribes):
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


class KeepsReceivingWhatWentToAnother(Subscribes):
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


# -------------------------------------------------------------------------------------------------------------- ranges


class AcceptsAndRequeuesInRanges(Double):
    """No bug where that is declared: this is how `cumulative` is to be."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, cumulative=True)

    class subscription(DoubleSubscription):
        async def accept(self, received: Sequence[Received]) -> None:
            await super().accept(held_until(self.inner, received))

        async def requeue(self, received: Sequence[Received]) -> None:
            first = min(map(number_of, received), default=1 << 62)
            held = held_until(self.inner, received, all_of_them=True)
            await super().requeue([one for one in held if number_of(one) >= first])


class RequeuesOneOfARange(AcceptsAndRequeuesInRanges):
    class subscription(AcceptsAndRequeuesInRanges.subscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            await DoubleSubscription.requeue(self, received)


class AcceptsOneOfARange(AcceptsAndRequeuesInRanges):
    class subscription(AcceptsAndRequeuesInRanges.subscription):
        async def accept(self, received: Sequence[Received]) -> None:
            await DoubleSubscription.accept(self, received)


class RequeuesTheWholeRange(AcceptsAndRequeuesInRanges):
    """Also what was accepted: it goes back to where the member began."""

    class subscription(AcceptsAndRequeuesInRanges.subscription):
        async def requeue(self, received: Sequence[Received]) -> None:
            for cursor in self.inner._group._cursors:
                cursor.next, cursor.returned = 0, []
            self.inner._held.clear()
