"""Values as JSON can hold them, and back: the values of a closed window, in the event as which it is stored.

Numbers, texts, None and lists are themselves; what JSON has no word for stands under one that begins with `$`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from ensue.errors import InvalidEvent
from ensue.patterns.operator import Taken

__all__ = ["from_plain", "to_plain"]

_MICROSECOND = timedelta(microseconds=1)
_TEXTS: dict[str, tuple[type, Callable[[str], object]]] = {
    "$decimal": (Decimal, Decimal),
    "$datetime": (datetime, datetime.fromisoformat),
    "$date": (date, date.fromisoformat),
    "$time": (time, time.fromisoformat),
    "$uuid": (UUID, UUID),
}
_GROUPS: dict[str, type] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
_OF_TYPE = {kind: word for word, (kind, _) in _TEXTS.items()}
_OF_GROUP = {kind: word for word, kind in _GROUPS.items()}


def to_plain(value: Any, keep: Callable[[Taken], int]) -> Any:
    """As JSON can hold it; `keep` gives the number of an event. Errors: `InvalidEvent` for a value of another type."""
    kind: type = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [to_plain(one, keep) for one in value]
    if kind in _OF_TYPE:
        return {_OF_TYPE[kind]: str(value) if kind in (Decimal, UUID) else value.isoformat()}
    if kind in _OF_GROUP:
        # Sets have no order, and an event that is stored again must be the same bytes.
        listed = [to_plain(one, keep) for one in value]
        return {_OF_GROUP[kind]: listed if kind is tuple else sorted(listed, key=repr)}
    if kind is timedelta:
        return {"$microseconds": value // _MICROSECOND}
    if isinstance(value, Taken):
        return {"$event": keep(value)}
    if isinstance(value, Mapping):
        found: Mapping[Any, Any] = value
        if all(type(name) is str and not name.startswith("$") for name in found):
            return {name: to_plain(one, keep) for name, one in found.items()}
        return {"$pairs": [[to_plain(name, keep), to_plain(one, keep)] for name, one in found.items()]}
    raise InvalidEvent(f"{value!r} is of the type {kind.__name__}, which cannot be kept as a value of a window")


def from_plain(value: Any, taken: Sequence[Taken]) -> Any:
    """The value again, with these events."""
    if isinstance(value, list):
        several: list[Any] = value
        return [from_plain(one, taken) for one in several]
    if not isinstance(value, dict):
        return value
    said: dict[str, Any] = value
    word = next(iter(said), "")
    if len(said) != 1 or not word.startswith("$"):
        return {name: from_plain(one, taken) for name, one in said.items()}
    inner = said[word]
    if word in _TEXTS:
        return _TEXTS[word][1](inner)
    if word in _GROUPS:
        return _GROUPS[word](from_plain(one, taken) for one in inner)
    if word == "$microseconds":
        return timedelta(microseconds=inner)
    if word == "$event":
        return taken[inner]
    return {from_plain(name, taken): from_plain(one, taken) for name, one in inner}
