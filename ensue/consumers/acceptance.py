"""What of a subscription may be accepted: messages are handled out of order, and accepted without leaving a gap.

Pure: it is told what came and what is done, and says what to accept. A batch, as it was received, is accepted when all of it is
done and, where accepting is cumulative, all before it. What is done of a batch that is not is accepted one by one on demand
(`collect`): where accepting is cumulative only what has nothing open before it in its partition.

States of a message: open, done, given (on its way to be accepted), accepted and forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from ensue.channels.base import Received

__all__ = ["Acceptance", "Batch"]

OPEN, DONE, GIVEN = 0, 1, 2


class Batch:
    """What one `receive` gave. `states` has a byte a message; `left` of them are open; `rest` are those not begun."""

    __slots__ = ("left", "messages", "rest", "states")

    def __init__(self, messages: Sequence[Received]) -> None:
        self.messages = messages
        self.left = len(messages)
        self.states = bytearray(len(messages))
        self.rest: Iterator[tuple[int, Received]] = iter(enumerate(messages))


class Acceptance:
    """See the module."""

    def __init__(self, *, cumulative: bool) -> None:
        self.held = 0
        """Messages that came and are not known to be accepted."""
        self.bytes = 0
        """Of their bodies."""
        self._cumulative = cumulative
        self._batches: deque[Batch] = deque()
        self._ready: list[Received] = []
        self._under_way: Sequence[Received] = ()

    def add(self, messages: Sequence[Received]) -> Batch:
        """They came, in this order."""
        batch = Batch(messages)
        self.held += len(messages)
        self.bytes += _size(messages)
        self._batches.append(batch)
        return batch

    def finished(self, batch: Batch, index: int) -> bool:
        """The message is done. True when there is something to accept."""
        batch.states[index] = DONE
        batch.left -= 1
        return not batch.left and self.complete(batch)

    def complete(self, batch: Batch) -> bool:
        """All of the batch is done. True when there is something to accept."""
        if self._cumulative:
            while self._batches and not self._batches[0].left:
                self._give(self._batches.popleft())
        else:
            self._batches.remove(batch)
            self._give(batch)
        return bool(self._ready)

    def collect(self) -> bool:
        """Let what is done of unfinished batches be accepted, so that a slow one holds up no others, or none of another
        partition. True when there is something to accept."""
        blocked: set[int] = set()
        for batch in self._batches:
            for index, state in enumerate(batch.states):
                if state == OPEN and self._cumulative:
                    blocked.add(batch.messages[index].partition)
                elif state == DONE and batch.messages[index].partition not in blocked:
                    batch.states[index] = GIVEN
                    self._ready.append(batch.messages[index])
        return bool(self._ready)

    def take(self) -> Sequence[Received]:
        """What to accept now, in order. `accepted` must follow before the next."""
        self._under_way, self._ready = self._ready, []
        return self._under_way

    def accepted(self) -> None:
        """The broker has been told of what was taken."""
        self.held -= len(self._under_way)
        self.bytes -= _size(self._under_way)
        self._under_way = ()

    def holds_of(self, partitions: Collection[int]) -> bool:
        """Whether messages of these partitions are not accepted yet."""
        if any(one.partition in partitions for one in (*self._ready, *self._under_way)):
            return True
        return any(
            state != GIVEN and message.partition in partitions
            for batch in self._batches
            for message, state in zip(batch.messages, batch.states, strict=True)
        )

    def stop(self) -> None:
        """Begin nothing more of what came."""
        for batch in self._batches:
            deque(batch.rest, maxlen=0)

    def _give(self, batch: Batch) -> None:
        if GIVEN in batch.states:
            self._ready.extend(m for m, state in zip(batch.messages, batch.states, strict=True) if state == DONE)
        else:
            self._ready.extend(batch.messages)


def _size(messages: Sequence[Received]) -> int:
    return sum([len(message.body) for message in messages])
