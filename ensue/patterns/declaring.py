"""What patterns, windows and joins check alike of their declarations."""

from __future__ import annotations

from datetime import timedelta

from ensue.errors import DefinitionError
from ensue.events.message import Event, declaration

__all__ = ["checked_duration", "common_key"]

_MICROSECOND = timedelta(microseconds=1)


def checked_duration(where: str, word: str, given: object) -> int | None:
    """In microseconds. Errors: `DefinitionError` for what is no positive duration."""
    if given is None:
        return None
    if not isinstance(given, timedelta) or given <= timedelta():
        raise DefinitionError(f"{where}: {word}={given!r}; it is a positive duration, such as minutes(10)")
    return given // _MICROSECOND


def common_key(where: str, events: tuple[type[Event], ...], key: str | None) -> str | None:
    """The tag that is the key, as `key_tag` of a definition. Errors: `DefinitionError` where the events have none in common."""
    if key == "":
        return key
    tags: dict[str, str] = {}
    for event in events:
        declared = declaration(event)
        own = [tag for _, tag in ((declared.key,) if declared.key else ()) + declared.tags]
        if key is not None and own.count(key) != 1:
            raise DefinitionError(
                f"{where}: key={key!r} must be one tag of every event; the tags of {declared.name} are: {', '.join(own) or 'none'}"
            )
        if key is None and declared.key is None:
            raise DefinitionError(
                f"{where}: {declared.name} has no key; say which tag its events have in common, key=…, or key=ONE_ORDER for all as one"
            )
        if declared.key is not None:
            tags[declared.name] = declared.key[1]
    if key is None and len(set(tags.values())) > 1:
        shown = ", ".join(f"{tag!r} ({name})" for name, tag in tags.items())
        raise DefinitionError(
            f"{where}: its events have different keys: {shown}; say which tag they have in common, key=…"
        )
    return key
