"""What a request is refused with, in the same words by every store with a database."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.errors import ApplyFailed, Conflict, Fenced, IdempotencyKeyReused
from ensue.store.base import Condition, Expected, Fence, Lane, Request

__all__ = [
    "another_version",
    "fenced",
    "function_failed",
    "happened",
    "key_reused",
    "not_parked",
    "part_known",
    "row_refused",
]


def another_version(expected: Expected, actual: int) -> Conflict:
    """The stream is not at the version expected."""
    return Conflict(
        f"the stream is at version {actual}, expected was {expected.version}: somebody appended to it. Read it again and "
        "decide anew",
        expected=expected.version,
        actual=actual,
    )


def happened(condition: Condition, position: int) -> Conflict:
    """The event at this position breaks the condition."""
    return Conflict(
        f"the event at position {position} matches what must not have happened since {condition.after}. Read again and decide "
        "anew",
        expected=condition.after,
        actual=position,
    )


def not_parked(lane: Lane) -> Conflict:
    """The lane of an operation is not as it was."""
    return Conflict(
        f"the key {lane.key_text} is not parked as it was when it was read: somebody else has changed it. Look again",
        expected=lane.rev,
        actual=-1,
    )


def fenced(fence: Fence, found: Sequence[int] | None) -> Fenced:
    """The progress row is at `found`, its fence and revision, or is not there."""
    return Fenced(
        f"segment {fence.segment} of consumer {fence.consumer} is at fence and revision {found and tuple(found)}, the commit "
        f"was computed from {(fence.fence, fence.rev)}: another process owns it now"
    )


def key_reused(first: int, last: int) -> IdempotencyKeyReused:
    """The idempotency key belongs to what is stored there."""
    return IdempotencyKeyReused(
        f"the idempotency key was used for other events, stored at positions {first} to {last}. Use a new key for a new write; "
        "the same key repeats the same write"
    )


def part_known(first: int, last: int) -> Conflict:
    """A part of a request has an idempotency key that is known."""
    return Conflict(
        f"the idempotency key of a part of this request is known, of what is stored at positions {first} to {last}. Ask for that "
        "part by itself",
        expected=-1,
        actual=first,
    )


def row_refused(error: Exception, request: Request) -> ApplyFailed:
    """The database refused what a function of the request wrote, when all was sent or committed. Which of them is not known."""
    refused = ApplyFailed(
        f"the database refused what is kept in the commit itself: {' '.join(str(error).split())}. Nothing was stored",
        unit=len(request.apply) - 1,
        event=0 if request.events else None,
    )
    refused.__cause__ = error
    return refused


def function_failed(error: Exception, unit: int) -> ApplyFailed:
    """This function of the request raised the error."""
    if isinstance(error, ApplyFailed):  # it said itself what it could not do
        return ApplyFailed(str(error), unit=unit, event=error.event)
    return ApplyFailed(f"a function inside the transaction raised {type(error).__name__}: {error}", unit=unit)
