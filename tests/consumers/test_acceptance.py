"""What may be accepted, in whatever order things are done: all of it once, in order, and nothing over a gap."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from ensue.channels.base import Received
from ensue.consumers.acceptance import Acceptance, Batch
from ensue.consumers.wire import StoredMessage


def message(number: int, partition: int = 0) -> Received:
    return StoredMessage(headers={}, text="x" * number, where=str(number), partition=partition)


def numbers(received: Sequence[Received]) -> list[int]:
    return [int(one.where) for one in received]


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("seed", range(50))
def test_everything_is_accepted_once_and_where_that_is_cumulative_nothing_over_a_gap(
    cumulative: bool, seed: int
) -> None:
    chance = random.Random(seed)
    acceptance = Acceptance(cumulative=cumulative)
    open_: list[tuple[Batch, int]] = []
    came: dict[int, int] = {}
    done: set[int] = set()
    accepted: list[int] = []

    def accept() -> None:
        given = numbers(acceptance.take())
        accepted.extend(given)
        acceptance.accepted()
        for number in given if cumulative else ():
            before = {other for other, place in came.items() if place == came[number] and other < number}
            assert before <= done, "a message was accepted before one that stands before it was done"

    while len(came) < 60 or open_:
        what = chance.random()
        if what < 0.2 and len(came) < 60:
            partitions = [chance.randrange(3) for _ in range(chance.randrange(1, 9))]
            first = len(came)
            came.update({first + nth: partition for nth, partition in enumerate(partitions)})
            batch = acceptance.add([message(first + nth, partition) for nth, partition in enumerate(partitions)])
            open_ += [(batch, index) for index in range(len(partitions))]
        elif what < 0.9 and open_:
            batch, index = open_.pop(chance.randrange(len(open_)))
            done.add(int(batch.messages[index].where))
            if acceptance.finished(batch, index):
                accept()
        elif acceptance.collect():
            accept()
        assert set(accepted) <= done
        assert acceptance.held == len(came) - len(accepted)
    assert sorted(accepted) == list(range(len(came)))
    assert acceptance.bytes == 0


def test_it_holds_messages_of_a_partition_until_they_are_known_to_be_accepted() -> None:
    acceptance = Acceptance(cumulative=False)
    batch = acceptance.add([message(0, 0), message(1, 1)])
    assert acceptance.holds_of({1})
    assert not acceptance.finished(batch, 1)
    assert acceptance.holds_of({1})
    assert acceptance.collect()
    assert numbers(acceptance.take()) == [1]
    assert acceptance.holds_of({1}), "it is only on its way"
    acceptance.accepted()
    assert not acceptance.holds_of({1})
    assert acceptance.holds_of({0, 1})


def test_what_is_not_begun_when_it_stops_is_never_begun() -> None:
    acceptance = Acceptance(cumulative=False)
    batch = acceptance.add([message(0), message(1), message(2)])
    index, _ = next(batch.rest)
    acceptance.stop()
    assert list(batch.rest) == []
    acceptance.finished(batch, index)
    acceptance.collect()
    assert numbers(acceptance.take()) == [0]
