"""Whether the event types of the code can read what was recorded: against a schema file, which remembers every version, or
against a log, which has the events themselves.

Backward, and over the whole history: each recorded version of each recorded name must lead to a type of today, and stay in its
stream. `docs/history.md` has the user's side.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.message import Event, declaration
from ensue.events.recorded import UnknownEvent
from ensue.events.registry import Registry
from ensue.events.shapes import Field, fields_of, reasons
from ensue.events.stored import Row, decode_meta
from ensue.events.upcasting import Parts, chain, splits

__all__ = ["Finding", "Schema", "TypeSchema", "chain_findings", "check", "check_row", "describe", "merged", "own_types"]


class TypeSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of an event type, as it is recorded. `key` and `tags` are pairs of a field and its tag's name."""

    name: str
    version: int
    key: tuple[str, str] | None = None
    tags: tuple[tuple[str, str], ...] = ()
    closed: bool = False
    fields: dict[str, Field]


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """Every version that was ever recorded, by name and version."""

    ensue_schema: int = 1
    types: tuple[TypeSchema, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is recorded, or may be, and could not be read back as it was meant."""

    type: str
    version: int
    reason: str
    do: str
    """What to do about it."""
    field: str | None = None
    position: int | None = None


def own_types(registry: Registry, packages: Iterable[str], also: Collection[str] = ()) -> list[type[Event]]:
    """The event types of an application: those its registry knows, and all that its packages declare, since what is only
    published is an event, too; `also` those of these names. Of two classes of one name the registry's counts."""
    known = dict.fromkeys(registry.covering((Event,)))
    names = {name for event in known for name in (declaration(event).name, *declaration(event).was)}
    roots = tuple(packages)
    loaded = list(Event.__subclasses__())
    for event in loaded:  # it grows
        loaded.extend(event.__subclasses__())
    found = [event for event in loaded if event not in known and _stands_in_its_module(event)]
    own = [
        event
        for event in found
        if any(event.__module__ == root or event.__module__.startswith(f"{root}.") for root in roots)
    ]
    # What the application itself declares comes before what only bears the name.
    for event in (*own, *(event for event in found if declaration(event).name in also)):
        if declaration(event).name not in names:
            registry.add(event)
            known[event] = None
            names.add(declaration(event).name)
    return sorted((one for one in known if not _internal(declaration(one).name)), key=lambda one: declaration(one).name)


def _stands_in_its_module(event: type[Event]) -> bool:
    """Whether the class can be imported as it is: not one of a function, nor of a module that was loaded anew."""
    found: object = sys.modules.get(event.__module__)
    for part in event.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is event


def _internal(name: str) -> bool:
    return name.startswith("ensue.") or name == UnknownEvent.__name__


def describe(events: Iterable[type[Event]]) -> Schema:
    """The schema of these types as the code has them now."""
    return Schema(types=tuple(sorted((_described(event) for event in events), key=_place)))


def _described(event: type[Event]) -> TypeSchema:
    declared = declaration(event)
    config: Any = getattr(event, "__struct_config__")  # noqa: B009
    return TypeSchema(
        name=declared.name,
        version=declared.version,
        key=declared.key,
        tags=declared.tags,
        closed=bool(config.forbid_unknown_fields),
        fields=fields_of(event),
    )


def _place(described: TypeSchema) -> tuple[str, int]:
    return described.name, described.version


def merged(recorded: Schema, present: Schema) -> Schema:
    """What was recorded, and beside it the present versions, which take the place of the same ones."""
    types = {_place(one): one for one in (*recorded.types, *present.types)}
    return Schema(types=tuple(types[place] for place in sorted(types)))


# ------------------------------------------------------------------------------------------------- against a schema file


def check(registry: Registry, events: Sequence[type[Event]], recorded: Schema) -> list[Finding]:
    """What of the recorded versions could not be read back by these types. Errors: `DefinitionError`."""
    names = {name: event for event in events for name in (declaration(event).name, *declaration(event).was)}
    gone = dict(splits())
    found: list[Finding] = []
    for old in recorded.types:
        event = names.get(old.name)
        if event is None and old.name in gone:
            found.extend(_of_split(registry, old, gone[old.name]))
        elif event is None:
            found.append(_removed(old, events, recorded))
        else:
            found.extend(_of_type(old, event))
    return found


def _of_type(old: TypeSchema, event: type[Event]) -> Iterator[Finding]:
    declared = declaration(event)
    yield from chain_findings(old.name, old.version, event)
    # The fields of a former version go through upcasters, and only a reading tells what those make of them.
    if old.version == declared.version and not (old.name != declared.name and chain(old.name, old.version, event)):
        closed = bool(getattr(event, "__struct_config__").forbid_unknown_fields)  # noqa: B009
        for field, reason in reasons(old.fields, fields_of(event), closed=closed):
            yield Finding(
                type=old.name,
                version=old.version,
                field=field,
                reason=reason,
                do=f"give the type version={old.version + 1} and declare @upcast({event.__name__}, version={old.version}), "
                "or let the field read what it read before",
            )
    was, now = old.key and old.key[1], declared.key and declared.key[1]
    if was != now:
        yield _streams(
            old, f"its key was the tag {was} and is {now}: its streams would split, old events here, new ones there"
        )
    missing = sorted({tag for _, tag in declared.tags} - {tag for _, tag in old.tags})
    if missing:
        yield _streams(old, f"has the new tag {missing[0]}, by which no recorded event of it is found")
    lost = sorted({tag for _, tag in old.tags} - {tag for _, tag in declared.tags})
    if lost:
        yield _streams(
            old, f"has not the tag {lost[0]} any more, by which its recorded events are found and new ones would not be"
        )


def _streams(old: TypeSchema, reason: str) -> Finding:
    return Finding(
        type=old.name,
        version=old.version,
        reason=reason,
        do="keep key and tags; for another key, make another type beside it, and let a handler write the old events anew",
    )


def _of_split(registry: Registry, old: TypeSchema, parts: Sequence[type[Event]]) -> Iterator[Finding]:
    yield from chain_findings(old.name, old.version, None)
    tags = {tag for _, tag in (*((old.key,) if old.key else ()), *old.tags)}
    for event in registry.covering(parts):
        declared = declaration(event)
        if declared.key is not None and declared.key[1] not in tags:
            yield Finding(
                type=old.name,
                version=old.version,
                reason=f"becomes {declared.name}, whose key is the tag {declared.key[1]}, and its recorded events have: "
                f"{', '.join(sorted(tags)) or 'none'}",
                do="split only into events of keys that the recorded events carry; else let a handler write them anew",
            )


def chain_findings(name: str, version: int, event: type[Event] | None) -> Iterator[Finding]:
    """What keeps a recorded version from leading to the present."""
    try:
        chain(name, version, event)
    except (UnreadableEvent, DefinitionError) as error:
        present = declaration(event) if event is not None else None
        newer = present is not None and name == present.name and version > present.version
        yield Finding(
            type=name,
            version=version,
            reason=f"is recorded, and the code is at version {present.version}: versions never fall"
            if newer and present is not None
            else str(error),
            do=f"give the type version={version} or more" if newer else "declare what the message says",
        )


def _removed(old: TypeSchema, events: Sequence[type[Event]], recorded: Schema) -> Finding:
    known = {one.name for one in recorded.types}
    alike = [
        event
        for event in events
        if declaration(event).name not in known
        and declaration(event).key == old.key
        and fields_of(event).keys() == old.fields.keys()
    ]
    if alike:
        return Finding(
            type=old.name,
            version=old.version,
            reason=f"is recorded, and no type of the code is called so; {alike[0].__name__} is new and has the same fields",
            do=f'if it was renamed, say so: class {alike[0].__name__}(Event, …, was=("{old.name}",))',
        )
    return _unknown(old.name, old.version)


def _unknown(name: str, version: int) -> Finding:
    return Finding(
        type=name,
        version=version,
        reason="is recorded, and no type of the code is called so",
        do=f'keep the class; or name its successor with was=("{name}",); or say what it became with '
        f'@upcast("{name}", version={version}) returning events',
    )


# ------------------------------------------------------------------------------------------------------ against a log


def check_row(registry: Registry, row: Row, name: str, version: int) -> Finding | None:
    """What is wrong with reading this very event. Its type must be known to lead somewhere: see `chain_findings`."""
    try:
        read = registry.reader(name, version)(row[11])
        meta = decode_meta(row[10])
        if isinstance(read, Parts):
            list(registry.selected(read, row))
            return None
        if isinstance(read, UnknownEvent):
            return _unknown(name, version)
        keyed = registry.keyed(read)
    except Exception as error:  # an upcaster is the user's code
        return Finding(
            type=name,
            version=version,
            position=row[0],
            reason=f"cannot be read: {error}",
            do="mend the upcaster or the type, and check again",
        )
    if keyed.key != meta.key:
        reason = f"is in the stream {meta.key}, and its key would be {keyed.key}: its streams would split"
    elif set(keyed.tags) != set(meta.tags):
        reason = f"is found by {', '.join(meta.tags) or 'no tags'}, and would be by {', '.join(keyed.tags) or 'none'}"
    else:
        return None
    return Finding(
        type=name, version=version, position=row[0], reason=reason,
        do="keep key and tags; for others, make another type beside it, and let a handler write the old events anew",
    )  # fmt: skip
