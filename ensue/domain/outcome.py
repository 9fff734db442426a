"""What a decision led to, and how it is kept beside an idempotency key, so that a repetition has the same answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from ensue.domain.answers import one_event_of
from ensue.domain.command import CommandDefinition
from ensue.domain.decided import Decided
from ensue.errors import IdempotencyKeyReused, InvalidEvent, Refusal
from ensue.events.message import Command, Event
from ensue.events.personal import holds_personal
from ensue.events.stored import tag_hash

__all__ = ["Keyed", "Outcome", "Stored", "encoded", "outcome_of", "refusal_of"]


class Outcome(msgspec.Struct, frozen=True):
    """What one call of a handler led to. A refusal has no events."""

    events: tuple[Event, ...]
    result: Any
    shape: str
    refusal: Refusal | None = None


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands beside an idempotency key. `shape`: one, many, none (the events themselves), value or refused."""

    shape: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    kind: str = ""


class Keyed:
    """A command that is sent with an idempotency key."""

    def __init__(self, command: Command[Any], key: str) -> None:
        self.command = command
        self.key = tag_hash(f"idempotency={key}")
        name = f"{type(command).__module__}.{type(command).__qualname__}"
        try:
            said = msgspec.json.encode(command, order="deterministic")
        except (TypeError, ValueError) as error:
            raise InvalidEvent(
                f"{type(command).__name__} cannot be sent with an idempotency key: {error}. Its fields must be data, so that a "
                "repetition can be told from another command"
            ) from error
        # Keyed by what the log does not know: else whoever has it could try out what a command may have said of a person.
        secret = blake2b(key.encode()).digest()
        self.fingerprint = blake2b(name.encode() + b"\0" + said, digest_size=16, key=secret).digest()


def outcome_of(definition: CommandDefinition, command: type[Command[Any]], result: Any) -> Outcome:
    """What a handler returned. Errors: `TypeError`."""
    if isinstance(result, Decided):
        inner = outcome_of(definition, command, result.events)
        return Outcome(inner.events, result.result, "value")
    if result is None:
        return Outcome((), None, "none")
    if isinstance(result, Event):
        return Outcome((result,), result, "one")
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping):
        events = tuple(result)
        wrong = next((event for event in events if not isinstance(event, Event)), None)
        if wrong is None:
            return _several(definition.name, command, events, result)
        result = wrong
    raise TypeError(
        f"{definition.name} returned a value of type {type(result).__name__}; a command handler returns an event, several, "
        "none, or Decided(events, result=…) to answer something else"
    )


def _several(name: str, command: type[Command[Any]], events: tuple[Event, ...], result: Any) -> Outcome:
    """Events in a list, or the only one where that is what the command answers. Errors: `TypeError`."""
    wanted = one_event_of(command)
    if not wanted:
        return Outcome(events, result if isinstance(result, list) else list(events), "many")
    if len(events) == 1 and isinstance(events[0], wanted):
        return Outcome(events, events[0], "one")
    raise TypeError(
        f"{name} returned {[type(event).__name__ for event in events]}, and {command.__name__} says that it answers one "
        f"{' or '.join(event.__name__ for event in wanted)}: declare Command[list[…]], or return Decided(events, result=…)"
    )


def encoded(outcome: Outcome) -> bytes:
    """What stands beside the idempotency key. Errors: `InvalidEvent` for what could not be given back, and for what is personal:
    no key of a subject would forget it there."""
    answer = outcome.refusal if outcome.refusal is not None else outcome.result
    if outcome.shape in ("value", "refused") and holds_personal(type(answer)):
        raise InvalidEvent(
            f"the answer, a {type(answer).__name__}, holds personal data, and would be kept in plain for repetitions: answer with the "
            "events or an id, and let a query tell the rest; or send without an idempotency key"
        )
    try:
        if outcome.refusal is not None:
            kind, fields = type(outcome.refusal), vars(outcome.refusal)
            stored = Stored(
                "refused", msgspec.Raw(msgspec.json.encode(fields)), f"{kind.__module__}.{kind.__qualname__}"
            )
        elif outcome.shape == "value":
            stored = Stored("value", msgspec.Raw(msgspec.json.encode(outcome.result)))
        else:
            stored = Stored(outcome.shape)
        return msgspec.json.encode(stored)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(
            f"the answer {outcome.refusal or outcome.result!r} cannot be kept for repetitions: {error}"
        ) from error


def refusal_of(stored: Stored) -> Refusal:
    pending = list(Refusal.__subclasses__())
    for kind in pending:  # it grows
        pending.extend(kind.__subclasses__())
        if f"{kind.__module__}.{kind.__qualname__}" == stored.kind:
            return msgspec.json.decode(stored.value, type=kind)
    raise IdempotencyKeyReused(
        f"the first answer was the refusal {stored.kind}, which this code does not know any more"
    )
