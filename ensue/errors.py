"""Every error Ensue raises, one tree, split by what the caller can do.

    EnsueError
    ├── Misuse                  fix the call
    │   ├── DefinitionError     a declaration is wrong; raised when it is made
    │   ├── WiringError         something is missing or doubled; raised at start-up
    │   ├── MissingCapability   the backend cannot do what the application needs
    │   ├── NotYetAvailable     declared in the public interface, not built yet
    │   ├── NotPortable         a pattern that another system cannot be made to answer equally
    │   ├── InvalidEvent        a value that could not be read back
    │   ├── DuplicateEventId    an event with this id is stored already
    │   ├── AlreadyForgotten    personal data of a subject that was forgotten
    │   ├── IdempotencyKeyReused  the key was used for other events
    │   ├── StreamClosed        an event for a stream behind the one that closed it
    │   ├── InsideHandler       a write or wait that would leave the handler's transaction
    │   ├── InvalidTenant       a name of no tenant, or a call that says no tenant
    │   ├── WrongLog            a position of another log
    │   └── ForeignConnection   a second SQLite library opened the log's file
    ├── TryAgain                the same call may succeed later
    │   ├── Conflict            what the decision was based on has changed
    │   ├── NotCaughtUp         a wait did not reach its position in time
    │   ├── Unavailable         the database cannot be reached; nothing was stored
    │   ├── OutcomeUnknown      the answer was lost; ask again with the same idempotency key
    │   ├── Fenced              another process owns this work now
    │   └── ApplyFailed         a function inside the transaction failed; nothing was stored
    └── GiveUp                  no call will help; a person must look
        ├── HandlerFailed       something this write caused is a dead letter, or cannot run
        ├── MessageRefused      a broker will never take this message
        ├── AccessRefused       a broker does not let us in, or not do this
        ├── ConditionFailed     a condition or value of a pattern raised for an event
        ├── FlinkFailed         a Flink cluster refuses a statement, or its job failed
        ├── UnreadableEvent     an event that this code is too old for, or knows no way to read
        │   └── ArchivedEvent   an event whose payload is in an archive, or was dropped
        ├── KeyLost             personal data whose key is gone, though nobody was forgotten
        ├── CorruptLog          the log contradicts itself or is not a log
        ├── LogTooNew           a newer version of Ensue made this log
        ├── ReadOnlyLog         the log cannot be written
        ├── StorageFull         the disk is full
        ├── LogFileReplaced     the file was replaced under a running process
        └── WriterStopped       this process writes no more since an earlier failure

`Refusal` stands beside the tree: it is the application's own typed answer, not a failure of Ensue.

Every message says what was attempted, on what, what was found, and what to do next. The same facts are attributes
where a program would act on them. No message holds a secret: URLs are shown without passwords.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, dataclass_transform

__all__ = [
    "AccessRefused",
    "AlreadyForgotten",
    "ApplyFailed",
    "ArchivedEvent",
    "ConditionFailed",
    "Conflict",
    "CorruptLog",
    "DefinitionError",
    "DuplicateEventId",
    "EnsueError",
    "Fenced",
    "FlinkFailed",
    "ForeignConnection",
    "GiveUp",
    "HandlerFailed",
    "IdempotencyKeyReused",
    "InsideHandler",
    "InvalidEvent",
    "InvalidTenant",
    "KeyLost",
    "LogFileReplaced",
    "LogTooNew",
    "MessageRefused",
    "Misuse",
    "MissingCapability",
    "NotCaughtUp",
    "NotPortable",
    "NotYetAvailable",
    "OutcomeUnknown",
    "ReadOnlyLog",
    "Refusal",
    "StorageFull",
    "StreamClosed",
    "TryAgain",
    "Unavailable",
    "UnreadableEvent",
    "WiringError",
    "WriterStopped",
    "WrongLog",
]


class EnsueError(Exception):
    """Anything Ensue raises, except `Refusal`."""


class Misuse(EnsueError):
    """Fix the call. The same call will fail again."""


class DefinitionError(Misuse):
    """An event, handler or service is declared wrongly. Raised where it is declared, at import."""


class WiringError(Misuse):
    """A dependency, handler or module is missing or doubled. Raised at start-up, all of them at once."""


class MissingCapability(Misuse):
    """What the application needs and its backend lacks. Raised at start-up; names both."""


class NotYetAvailable(Misuse):
    """Part of the public interface whose engine does not exist in this version. Nothing was done."""


class NotPortable(Misuse):
    """A pattern cannot be compiled so that the other system's matches are provably ours. `reasons` say what is in the way, each
    with the nearest form that can be compiled. Nothing was done."""

    def __init__(self, message: str, /, *, reasons: tuple[str, ...]) -> None:
        super().__init__(message)
        self.reasons = reasons


class InvalidEvent(Misuse):
    """A value that could not be read back: wrong type, NaN, infinity, empty key, too large. Nothing was stored."""


class DuplicateEventId(Misuse):
    """An event with this id is in the log already. Nothing of the request was stored."""


class AlreadyForgotten(Misuse):
    """An event holds personal data of a subject that was forgotten. Nothing was stored: give `FORGOTTEN` in its place."""


class IdempotencyKeyReused(Misuse):
    """The idempotency key was used before, for other events. Nothing was stored."""


class StreamClosed(Misuse):
    """An event was to go into a stream behind the one that closed it. Nothing was stored."""


class InsideHandler(Misuse):
    """A write or a wait inside a handler would commit apart from its checkpoint. Return the event instead."""


class InvalidTenant(Misuse):
    """A name that no tenant can have or has, or a call for no tenant where every one is for one. Nothing was done."""


class WrongLog(Misuse):
    """The position, or the target of a copy, belongs to another log."""


class ForeignConnection(Misuse):
    """A second SQLite library opened the log's file in this process, which can lose acknowledged events."""


class TryAgain(EnsueError):
    """The same call may succeed later."""


class Conflict(TryAgain):
    """An append condition did not hold. Nothing was stored.

    `expected` and `actual` are stream versions, or the position the decision was based on and the position of the
    event that contradicts it.
    """

    def __init__(self, message: str, /, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class NotCaughtUp(TryAgain):
    """A wait did not reach its position in time. What was written stays written."""


class Unavailable(TryAgain):
    """The database or broker cannot be reached or is busy. Certain: nothing was stored."""


class OutcomeUnknown(TryAgain):
    """The answer of a commit was lost: stored or not, nobody knows. Ask again with the same idempotency key."""


class Fenced(TryAgain):
    """Another process owns this part of the consumer now. Nothing was stored, and the work was discarded."""


class ApplyFailed(TryAgain):
    """A function that ran inside the transaction raised (its `__cause__`). Nothing of the request was stored.

    `unit` is the index of the function among those of the request; `event` that of the event of the request which it could
    not take, where it was about one.
    """

    def __init__(self, message: str, /, *, unit: int, event: int | None = None) -> None:
        super().__init__(message)
        self.unit = unit
        self.event = event


class GiveUp(EnsueError):
    """No call will help; a person must look."""


class HandlerFailed(GiveUp):
    """Something a write caused cannot finish: it is a dead letter, waits behind one, or its consumer is stopped.

    `consumer` and `position` name the delivery; `dead_letter` is the id to look up, if there is one.
    """

    def __init__(self, message: str, /, *, consumer: str, position: int, dead_letter: int | None = None) -> None:
        super().__init__(message)
        self.consumer = consumer
        self.position = position
        self.dead_letter = dead_letter


class MessageRefused(GiveUp):
    """A broker will not take this message, however often it is sent: too large, or against a rule of the topic."""


class AccessRefused(GiveUp):
    """A broker does not let this user in, or does not let it do this. Not tried again: that locks accounts."""


class ConditionFailed(GiveUp):
    """A condition of a pattern, or a value of a window, raised for an event (its `__cause__`), so that this event was passed over.

    `name` is the pattern's, `step` the step's or value's, `position` and `key` are the event's. `outputs` is what was given
    for the events before it in the same batch; whoever fed them goes on behind it. Where not the event failed but a deadline, the
    candidate is given up, and `done` says how many events of the batch were taken.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        name: str,
        step: str,
        position: int,
        key: str,
        outputs: Sequence[Any] = (),
        done: int | None = None,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.step = step
        self.position = position
        self.key = key
        self.outputs = outputs
        self.done = done


class FlinkFailed(GiveUp):
    """A Flink cluster would not run a statement, or a job of it failed. The message ends with its own reason."""


class UnreadableEvent(GiveUp):
    """The event was written by newer code, or in an older version that no upcaster leads on from."""


class ArchivedEvent(UnreadableEvent):
    """The event's payload is not in the log any more: in the archive `file`, which is to be given to the application, or, where
    `file` is empty, nowhere since retention dropped it."""

    def __init__(self, message: str, /, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class KeyLost(GiveUp):
    """Personal data cannot be read: its key is not in the key store, and nothing says that its subject was forgotten."""


class CorruptLog(GiveUp):
    """The log contradicts itself, or the file is not a log. Nothing was written to it."""


class LogTooNew(GiveUp):
    """A newer version of Ensue made this log. Nothing was written to it; install that version."""


class ReadOnlyLog(GiveUp):
    """The log cannot be written: permissions of the file or its folder. Reading still works."""


class StorageFull(GiveUp):
    """The disk is full. Certain: nothing of the request was stored; what was acknowledged before is safe."""


class LogFileReplaced(GiveUp):
    """The log's file or its write-ahead file was replaced or removed under the running process.

    Nothing of the request was acknowledged. This process writes no more.
    """


class WriterStopped(GiveUp):
    """An earlier commit failed so that nobody knows what is on disk, and this process writes no more: restart it.

    Nothing of the request was stored.
    """


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class Refusal(Exception):
    """A typed no: the application's own answer to a command, with fields.

    `class Overdrawn(Refusal): available: Decimal`, raised as `Overdrawn(available=...)`. The caller of `send` gets it
    back with its fields; nothing is appended.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(eq=False, kw_only=True)(cls)

    def __str__(self) -> str:
        return repr(self)
