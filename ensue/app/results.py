"""What a function inside a transaction returned, kept with its idempotency key so that a repetition gets it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from ensue.consumers.handler import hints_of
from ensue.errors import DefinitionError, IdempotencyKeyReused, InvalidEvent

__all__ = ["Results"]

T = TypeVar("T")

RESULT_BYTES = 64 * 1024


class Results(Generic[T]):
    """The result of one call. When it is `kept`, it is data of the type that the function says it returns (plain data
    where it says none), as JSON of at most 64 KiB."""

    value: T

    def __init__(self, function: Callable[..., T], *, kept: bool) -> None:
        self._function = function
        self._kept = kept
        self._data = b""

    def take(self, value: T) -> None:
        """Errors: `InvalidEvent` for a value that could not be given back."""
        self.value = value
        if not self._kept:
            return
        try:
            self._data = msgspec.json.encode(value)
            same = self._decoded(self._data) == value
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise InvalidEvent(f"{self._name} returned {value!r}, which cannot be kept: {error}. {_ADVICE}") from error
        if not same:
            raise InvalidEvent(f"{self._name} returned {value!r}, which would not come back as it is. {_ADVICE}")
        if len(self._data) > RESULT_BYTES:
            raise InvalidEvent(f"{self._name} returned {len(self._data)} bytes; the limit is {RESULT_BYTES}. {_ADVICE}")

    def encoded(self) -> bytes:
        """What is stored beside the idempotency key."""
        return self._data

    def again(self, data: bytes) -> T:
        """The result of the first time. Errors: `IdempotencyKeyReused` where it is not one of this function's."""
        try:
            return self._decoded(data)
        except msgspec.MsgspecError as error:
            raise IdempotencyKeyReused(
                f"the idempotency key given to {self._name} was used before, by a write with another result: {error}. Use "
                "a new key for a new write"
            ) from error

    def _decoded(self, data: bytes) -> T:
        try:
            kind = hints_of(self._function, {}).get("return", Any)
        except (DefinitionError, TypeError):  # nothing that can be looked up from here: plain data, then
            kind = Any
        return cast(T, msgspec.json.decode(data, type=kind))

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))


_ADVICE = (
    "With idempotency_key= the result is stored for repetitions: return data (text, numbers, structs, lists of these) and "
    "annotate the function with its type, or return None"
)
