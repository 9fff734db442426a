"""What is kept in the log of a channel: each message once where it can be known again, no message in the place of another."""

from __future__ import annotations

import itertools
from typing import Any, cast

import msgspec
import pytest

from ensue import Channel, Event
from ensue.consumers.inbox import Writer
from ensue.consumers.kept_keys import KeptKeys
from ensue.consumers.wire import StoredMessage, Wire
from ensue.errors import StorageFull, Unavailable
from ensue.events.registry import Registry
from ensue.events.stored import Draft
from ensue.observe.signals import Signal
from ensue.store.base import Consumer, Page, Progress, Request, Standing
from ensue.testing.simulation import SimulatedWorld, SimulationLoop, Tape
from ensue.testing.simulation.simulated import Surroundings


class Placed(Event, key="order"):
    order: str


NOT_AN_EVENT = StoredMessage(headers={}, text="hello", where="7")


def wire(*, lasting: bool) -> Wire:
    found = Wire(Registry(), Channel("orders", Placed), source="urn:ensue:test", prefix="ce-", format="binary")
    found.lasting = lasting
    return found


@pytest.mark.parametrize("lasting", [True, False])
def test_a_message_without_an_id_is_known_again_by_its_place_only_where_that_lasts(lasting: bool) -> None:
    ids = itertools.count()
    reading = wire(lasting=lasting)
    first, again = (
        reading.kept(NOT_AN_EVENT, "inbox.orders", "why", now=0, fresh=lambda: b"%16d" % next(ids)) for _ in range(2)
    )
    assert (first.id == again.id) == lasting


def test_messages_of_other_places_or_bodies_are_others() -> None:
    reading = wire(lasting=True)
    others = [
        NOT_AN_EVENT,
        msgspec.structs.replace(NOT_AN_EVENT, where="8"),
        msgspec.structs.replace(NOT_AN_EVENT, text="hallo"),
    ]
    drafts = [reading.kept(one, "inbox.orders", "why", now=0, fresh=bytes) for one in others]
    assert len({draft.id for draft in drafts}) == 3


class Failing:
    """A store of which some calls fail first."""

    def __init__(self, **errors: list[Exception]) -> None:
        self.errors = errors
        self.written: list[Draft] = []

    def _fail(self, call: str) -> None:
        if self.errors.get(call):
            raise self.errors[call].pop(0)

    async def room(self) -> None:
        self._fail("room")

    async def write(self, request: Request) -> None:
        self._fail("write")
        self.written += request.events

    def head(self) -> int:
        return 7

    async def read(self, *given: object, **more: object) -> Page:
        self._fail("read")
        return Page([], 7)

    async def standing(self, consumer: int) -> Standing:
        self._fail("standing")
        rest: Any = {"ahead": (), "fence": 1, "owner": None, "rev": 0, "unclean": 0, "count": 0, "digest": 0}
        progress = [Progress(consumer=1, segment=segment, position=9, **rest) for segment in range(16)]
        return Standing(progress=tuple(progress), lanes=())


CONSUMER = Consumer(id=1, name="direct", start=0, key_tag=None, segments=16, handles={})


def in_virtual_time(story: Any) -> float:
    """Run it; how many seconds it took, none of them real."""
    loop = SimulationLoop(Tape.boring())
    world = SimulatedWorld(Surroundings(Tape.boring(), loop))
    try:
        loop.run_until_complete(story(world))
        return loop.time()
    finally:
        loop.close()


def test_a_store_without_room_is_asked_once_a_second_until_it_has_some() -> None:
    signals: list[Signal] = []
    store = Failing(room=[Unavailable("no")], write=[StorageFull("full")] * 50)

    async def story(world: SimulatedWorld) -> None:
        writer = Writer(cast(Any, store), world, signals.append, consumer="inbox.orders")
        draft = wire(lasting=True).kept(NOT_AN_EVENT, "inbox.orders", "why", now=0, fresh=bytes)
        await writer.write([draft])

    assert in_virtual_time(story) == pytest.approx(51.0)
    assert len(store.written) == 1
    assert len(signals) == 51


def test_keys_that_were_kept_return_also_after_the_store_could_not_be_read() -> None:
    store = Failing(standing=[Unavailable("no"), StorageFull("no"), Unavailable("no")], read=[Unavailable("no")])

    async def story(world: SimulatedWorld) -> None:
        kept = KeptKeys(CONSUMER, cast(Any, store), world, lambda signal: None, ["ensue.Message.direct"])
        await kept.find()
        kept.add(b"k" * 16)
        await world.sleep(10.0)
        assert not kept.positions
        await kept.close()

    in_virtual_time(story)
