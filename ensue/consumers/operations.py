"""What an operator does to a parked key: retry, edit, discard. The event that tells it wakes the key's owner."""

from __future__ import annotations

import getpass
import os

import msgspec

from ensue.consumers.node import PATTERNS
from ensue.consumers.runner import OPERATED
from ensue.errors import Conflict, InvalidEvent
from ensue.events.stored import Draft, Meta, encode_meta
from ensue.store.base import DeadLetter, Lane, LaneState, Operation, Request, Store
from ensue.world import World

__all__ = ["parked_lane", "release"]


async def parked_lane(store: Store, letter: DeadLetter) -> Lane:
    """The parked key of an open dead letter. Errors: `Conflict` when it is not parked at that event any more."""
    standing = await store.standing(letter.consumer)
    for lane in standing.lanes:
        if lane.key == letter.key and lane.state == LaneState.PARKED:
            return lane
    raise Conflict(
        f"the key {letter.key_text} is not parked any more: somebody else has released it", expected=letter.id, actual=0
    )


async def release(
    store: Store,
    world: World,
    letter: DeadLetter,
    *,
    edit: bytes | None = None,
    discard: bool = False,
    note: str | None = None,
    by: str = "",
) -> None:
    """Let the key go on: at the event again, at it with another payload, or behind it. One request, one transaction.

    Errors: `Conflict` when somebody else was faster; nothing is changed then. `InvalidEvent` for another payload where the consumer looks
    for a pattern: that reads the log as it is.
    """
    if edit is not None:
        await _check_edit(store, letter)
    lane = await parked_lane(store, letter)
    resolution = "discarded" if discard else "retried" if edit is None else "edited"
    released = msgspec.structs.replace(
        lane,
        state=LaneState.LATE,
        attempts=0,
        due_at=None,
        error=None,
        edit=edit if edit is not None else lane.edit,
        edits=lane.edits + (edit is not None),
        discard=discard,
    )
    operation = Operation(lane=released, position=letter.position, resolution=resolution, note=note, by=by or _user())
    facts = {"dead_letter": letter.id, "position": letter.position, "resolution": resolution, "note": note}
    id = world.new_id()
    told = Draft(
        id=id,
        type_name=OPERATED,
        type_version=1,
        stream=None,
        tags=(),
        meta=encode_meta(Meta(world.now(), id)),
        data=msgspec.json.encode(facts),
    )
    await store.write(Request(events=(told,), operation=operation))
    world.failpoint("operator.written")


async def _check_edit(store: Store, letter: DeadLetter) -> None:
    name = next((one.name for one in await store.consumers() if one.id == letter.consumer), "")
    if name.startswith(PATTERNS):
        raise InvalidEvent(
            f"the dead letter {letter.id} is of {name}, which finds what is in the log: with another payload it would find what nobody "
            "finds who reads the log again. Mend the pattern and retry, or discard it"
        )


def _user() -> str:
    """Who runs this process; a container's user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
