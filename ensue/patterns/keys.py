"""The text of an event's key, as a pattern or window knows it: the value of the tag, without the tag's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from ensue.errors import InvalidEvent
from ensue.events.message import Event, declaration, tag_text

__all__ = ["key_reader", "keys_reader"]


def key_reader(key_tag: str | None) -> Callable[[Event], str]:
    """Reads the key of events: the value of this tag; of None, of each event's own key; of "", one key for all, the empty text.

    The reader's errors: `InvalidEvent` for an event without this tag, or in which it is None.
    """
    if key_tag == "":
        return _one_key
    fields: dict[type[Event], tuple[str, int]] = {}

    def key_of(event: Event) -> str:
        kind = type(event)
        found = fields.get(kind)
        if found is None:
            found = fields[kind] = _field(kind, key_tag)
        value = getattr(event, found[0])
        if type(value) is str and 0 < len(value) <= 512:
            return value
        text = tag_text(event, found[0], key_tag or "key")
        if text is None:
            raise InvalidEvent(f"{kind.__name__}: {found[0]} is None, so that it belongs to no key")
        return text[found[1] :]

    return key_of


def keys_reader(key_tag: str | None) -> Callable[[Sequence[Event]], list[str]]:
    """The same for many events at once. Errors: as `key_reader`."""
    key_of = key_reader(key_tag)
    fields: dict[type[Event], Callable[[Event], object]] = {}

    def keys_of(events: Sequence[Event]) -> list[str]:
        if key_tag == "" or not events:
            return [""] * len(events)
        kinds = set(map(type, events))
        if len(kinds) == 1:
            (kind,) = kinds
            read = fields.get(kind)
            if read is None:
                read = fields[kind] = attrgetter(_field(kind, key_tag)[0])
            keys = list(map(read, events))
            if set(map(type, keys)) == {str} and all(keys):
                return keys  # pyright: ignore[reportReturnType]
        return list(map(key_of, events))

    return keys_of


def _one_key(event: Event) -> str:
    return ""


def _field(kind: type[Event], key_tag: str | None) -> tuple[str, int]:
    declared = declaration(kind)
    pairs = ((declared.key,) if declared.key else ()) + declared.tags
    for field, tag in pairs:
        if key_tag is None or tag == key_tag:
            if key_tag is None and declared.key is None:
                break
            return field, len(key_tag or "key") + 1
    wanted = "a key" if key_tag is None else f"the tag {key_tag!r}"
    raise InvalidEvent(
        f"{kind.__name__} has not {wanted}; its tags are: {', '.join(tag for _, tag in pairs) or 'none'}"
    )
