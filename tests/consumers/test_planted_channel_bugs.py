"""Bugs that inboxes, outboxes and subscriptions of other makes have, planted into ours: the simulation finds each and says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from ensue import App
from ensue.channels.base import Received
from ensue.channels.memory import MemoryBroker
from ensue.channels.urls import place
from ensue.consumers.direct_handling import DirectHandling
from ensue.consumers.inbox import Inbox
from ensue.consumers.kept_keys import KeptKeys
from ensue.consumers.machine import Slot
from ensue.consumers.outbox import OutboxHandling
from ensue.consumers.runner import Runner
from ensue.consumers.wire import Wire
from ensue.events.stored import Draft
from ensue.testing.simulation import Choice, Outcome, Setting, Simulation, Tape, run
from tests.app.channels import raw
from tests.consumers.apart import BROKER, Apart, Placed, back_of, front_of, nothing_left, starts
from tests.consumers.test_channel_crashes import one_order_is_paid
from tests.consumers.test_direct_crashes import (
    PLACED,
    front,
    one_fails_and_the_next_of_its_key_waits,
    one_fails_for_long_and_the_next_of_its_key_comes_meanwhile,
)
from tests.consumers.test_direct_crashes import back as direct

Story = Callable[[Apart], Awaitable[None]]
Plant = Callable[[pytest.MonkeyPatch], None]

# ------------------------------------------------------------------------------------------------------- the stories


async def a_message_that_nobody_can_read_becomes_a_dead_letter(sim: Apart) -> None:
    broker = MemoryBroker(place(BROKER))
    await broker.open(sim.world)
    await broker.declare("orders")
    assert not await broker.publish("orders", [raw(b"no json")])
    await sim.all_quiet()
    letters = await sim.dead_letters()
    assert len(letters) == 1, f"{len(letters)} dead letters"
    await broker.close()


async def an_order_is_paid_with_two_messages(sim: Apart) -> None:
    await one_order_is_paid(sim)
    broker = MemoryBroker(place(BROKER))
    await broker.open(sim.world)
    subscription = await broker.subscribe("orders", group="watching", prefetch=100)
    messages = len(await subscription.receive(100))
    assert messages == 2, f"{messages} messages were sent"
    await broker.close()


class Slow:
    running = 0
    most = 0
    handled = 0


slow = App("back")


@slow.on(source=PLACED)
async def dawdle(placed: Placed) -> None:
    Slow.running += 1
    Slow.most = max(Slow.most, Slow.running)
    await asyncio.sleep(20)
    Slow.running -= 1
    Slow.handled += 1


async def another_process_comes_while_a_key_is_in_work(sim: Apart) -> None:
    Slow.running = Slow.most = Slow.handled = 0
    await sim.app.publish(Placed(order="a", number=1))
    await sim.world.sleep(3.0)
    sim.start_another()
    await sim.world.sleep(6.0)
    await sim.app.publish(Placed(order="a", number=2))
    while Slow.handled < 2:
        await sim.world.sleep(1.0)
    await sim.all_quiet()
    assert Slow.most == 1, "two of one key were in work at the same time"


# -------------------------------------------------------------------------------------------------------- the plants


def accepts_before_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(self: Any, batch: Sequence[Received]) -> None:
        await self._subscription.accept(batch)
        self._world.failpoint("inbox.accepted")
        drafts = [await self._draft(received) for received in batch]
        await self._writer.write([draft for draft in drafts if draft is not None])

    monkeypatch.setattr(Inbox, "take", take)


def counts_as_sent_what_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def acall(self: Any, slot: Slot) -> Sequence[Draft]:
        message = self._message(slot, self._wire)
        if message is not None:
            self._world.call_later(0.01, lambda: self._outgoing.send(message))
        return ()

    monkeypatch.setattr(OutboxHandling, "acall", acall)


def sends_back_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def message(self: Any, slot: Slot, wire: Wire) -> object:
        return wire.of_row(slot.row, *self._types[slot.row[2]])

    monkeypatch.setattr(OutboxHandling, "_message", message)


def knows_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    draft_of = Inbox._draft

    async def draft(self: Any, received: Received) -> Draft | None:
        found = await draft_of(self, received)
        return found and msgspec.structs.replace(found, id=self._world.new_id())

    monkeypatch.setattr(Inbox, "_draft", draft)


def drops_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    draft_of = Inbox._draft

    async def draft(self: Any, received: Received) -> Draft | None:
        found = await draft_of(self, received)
        return None if found is not None and found.type_name.startswith("ensue.Message") else found

    monkeypatch.setattr(Inbox, "_draft", draft)


def stores_what_it_sent_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wire, "ours", lambda self, envelope: False)
    knows_no_duplicates(monkeypatch)


def has_no_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectHandling, "_field", lambda self, kind: None)


def forgets_kept_keys_when_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(self: Any) -> None:
        """Finds nothing."""

    monkeypatch.setattr(KeptKeys, "_find", find)


def forgets_kept_keys_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptKeys, "add", lambda self, key: None)


def gives_kept_keys_back_by_progress_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = KeptKeys._return

    class WithoutLanes:
        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def standing(self, consumer: int) -> Any:
            return msgspec.structs.replace(await self._store.standing(consumer), lanes=())

    async def give_back(self: Any) -> None:
        self._store = WithoutLanes(self._store)
        await returned(self)

    monkeypatch.setattr(KeptKeys, "_return", give_back)


def stores_what_comes_of_a_kept_message_under_a_new_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def store(self: Any, received: Received, result: Any, *, edits: int = 0) -> Sequence[Draft]:
        draft = self.after(result, self._cause(received), causation=self._world.new_id(), id=self._world.new_id())
        await self._writer.write([draft])
        return [draft]

    def cause(self: Any, received: Received) -> Any:
        from ensue.events.stored import decode_meta

        return decode_meta(self.wire.draft(self.wire.envelope(received), now=0).meta)

    monkeypatch.setattr(DirectHandling, "store", store)
    monkeypatch.setattr(DirectHandling, "_cause", cause, raising=False)


def gives_its_segment_up_while_messages_are_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "feeding", lambda self, segment, feeds: None)


class Case(NamedTuple):
    plant: Plant
    story: Story
    words: str
    first: App
    second: App
    groups: Sequence[str]
    crashes: bool = True


def between(plant: Plant, story: Story, words: str, *, crashes: bool = True) -> Case:
    """Two applications, each with an inbox and an outbox."""
    return Case(plant, story, words, front_of(), back_of(), ("front", "back"), crashes)


def directly(plant: Plant, story: Story, words: str, *, crashes: bool = True) -> Case:
    """An outbox, and a direct subscription."""
    return Case(plant, story, words, front, direct, ("back.pay",), crashes)


CASES = [
    between(accepts_before_it_is_stored, one_order_is_paid, "Paid in front: {}"),
    between(counts_as_sent_what_is_not_confirmed, one_order_is_paid, "Paid in front: {}"),
    between(knows_no_duplicates, one_order_is_paid, "Paid in front: {'a': [1, 1]}"),
    between(stores_what_it_sent_itself, one_order_is_paid, "Placed in front: {'a': [1, 1]}", crashes=False),
    between(sends_back_what_came, an_order_is_paid_with_two_messages, "4 messages were sent", crashes=False),
    between(
        drops_what_it_cannot_read,
        a_message_that_nobody_can_read_becomes_a_dead_letter,
        "0 dead letters",
        crashes=False,
    ),
    directly(has_no_lanes, one_fails_and_the_next_of_its_key_waits, "in the order [3, 1]", crashes=False),
    directly(forgets_kept_keys_when_it_dies, one_fails_and_the_next_of_its_key_waits, "in the order [3, 1]"),
    directly(forgets_kept_keys_at_once, one_fails_and_the_next_of_its_key_waits, "in the order", crashes=False),
    directly(
        gives_kept_keys_back_by_progress_alone,
        one_fails_for_long_and_the_next_of_its_key_comes_meanwhile,
        "in the order [2, 1]",
        crashes=False,
    ),
    directly(
        stores_what_comes_of_a_kept_message_under_a_new_id,
        one_fails_and_the_next_of_its_key_waits,
        "was paid 2 times",
    ),
    Case(
        gives_its_segment_up_while_messages_are_in_work,
        another_process_comes_while_a_key_is_in_work,
        "two of one key were in work",
        front,
        slow,
        ("back.dawdle",),
        crashes=False,
    ),
]

AT = ("channel", "inbox", "direct", "delivery.committed")


def outcomes(case: Case) -> Iterator[Outcome]:
    """Of a run in which nothing goes wrong, and of those with a crash where the channels' failpoints are."""

    async def scenario(sim: Simulation[App]) -> None:
        assert isinstance(sim, Apart)
        await case.story(sim)

    quiet = nothing_left(*case.groups)
    setting = Setting(scenario, starts(case.first, case.second), quiet=quiet, simulation=Apart, permuted=False)
    boring = run(setting, Tape.boring())
    yield boring
    for nth, label in boring.failpoints if case.crashes else ():
        if label.split("/", 2)[2].startswith(AT):
            yield run(setting, Tape.replay(0, [Choice(label, nth, 1)]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.plant.__name__)
def test_a_planted_bug_is_found_and_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.plant(monkeypatch)
    assert any(outcome.error is not None and case.words in str(outcome.error) for outcome in outcomes(case))


STORIES = {case.story: case for case in CASES if not case.crashes}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_without_the_bug_the_story_ends_well(story: Story) -> None:
    (outcome,) = outcomes(STORIES[story])
    assert outcome.error is None, outcome.error
