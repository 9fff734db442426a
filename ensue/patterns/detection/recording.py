"""What is found, as events: a match, a run that timed out, a match withdrawn, a late event, a closed window.

For each kind of finding of a pattern or window there is one event type, called as the pattern is (`Unpaid`, `Unpaid.TimedOut`,
`Unpaid.Withdrawn`; `Reading.Late`). It holds the events taken as the log holds them, their payloads byte for byte: personal
fields are still sealed there, and read as forgotten when their subject is. Whoever handles it is given the typed object again.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from hashlib import blake2b
from typing import Any, cast, get_args, get_origin
from uuid import UUID

import msgspec

from ensue.consumers.handler import Noticed
from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.message import Event, declaration
from ensue.events.registry import Registry
from ensue.events.stored import TENANT, Draft, Row, decode_meta, tenant_of
from ensue.events.upcasting import Parts
from ensue.patterns.definition import Definition
from ensue.patterns.detection.plain import from_plain, to_plain
from ensue.patterns.language import Late, Pattern, TimedOut, Withdrawn
from ensue.patterns.matches import late, match_of, timed_out, withdrawn
from ensue.patterns.operator import Closed, Expired, Found, Output, Revoked, Taken, Untimely

__all__ = ["Finding", "Recording", "StoredEvent", "noticed_by", "tag_of_findings"]

ONE_KEY = "pattern"
"""The tag of findings of which all are of one key: its value is the pattern's name."""


class StoredEvent(msgspec.Struct, frozen=True):
    """An event that was taken, as the log holds it. `time` is in microseconds."""

    position: int
    time: int
    type: str
    version: int
    data: msgspec.Raw


class Finding(Event):
    """What was found. `found` is its identity; `key` the text of its key."""

    found: str
    key: str


class _Match(Finding):
    started: int
    ended: int
    steps: dict[str, Any]
    """By the name of each step: numbers of events in `taken`, in lists and by names as the step has them."""
    taken: tuple[StoredEvent, ...]


class _TimedOut(Finding):
    started: int
    deadline: int
    waiting_for: str
    steps: dict[str, Any]
    taken: tuple[StoredEvent, ...]


class _Withdrawn(_Match):
    because: StoredEvent


class _Late(Finding):
    event: StoredEvent
    by: int
    missed_by: str


class _Closed(Finding):
    start: int
    end: int
    final: bool
    replaces: tuple[str, ...]
    values: dict[str, Any]
    taken: tuple[StoredEvent, ...]


# ------------------------------------------------------------------------------------------------ which type is which


@cache
def _type(
    base: type[Finding], name: str, tag: str | None, module: str, events: tuple[type[Event], ...]
) -> type[Finding]:
    # It holds their payloads, and so no longer than the first of them is wanted.
    spans = [declaration(event).retention for event in events]
    retention = min((span for span in spans if span is not None), default=None)
    keywords: dict[str, Any] = {"name": name, "retention": retention}
    if tag is not None:
        keywords["key"] = {"key": tag}
    made = types.new_class(name.replace(".", "_"), (base,), keywords, lambda body: body.update(__module__=module))
    return cast("type[Finding]", made)


def noticed_by(hint: Any) -> Noticed | None:
    """What an annotation of a handler stands for, where it is a pattern, a window, or what else is said of one. Errors:
    `DefinitionError` for what is none of a pattern or event."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if not isinstance(kind, type):
        return None
    if issubclass(kind, Pattern) and kind is not Pattern:
        return _of_pattern(kind, "match", _Match, "", _read_match)
    if kind in (TimedOut, Withdrawn):
        of = _argument(kind, arguments, Pattern)
        if kind is TimedOut:
            return _of_pattern(of, "timed out", _TimedOut, ".TimedOut", _read_timed_out)
        if not of.__ensue_pattern__.lateness:
            raise DefinitionError(
                f"Withdrawn[{of.__name__}]: nothing that came late is looked at, so that no match is withdrawn; say lateness= on it"
            )
        return _of_pattern(of, "withdrawn", _Withdrawn, ".Withdrawn", _read_withdrawn)
    if kind is Late:
        event = _argument(kind, arguments, Event)
        declared = declaration(event)
        tag = declared.key[1] if declared.key is not None else None
        stored = _type(_Late, f"{declared.name}.Late", tag, event.__module__, (event,))
        return Noticed(event, "late", stored, _read_late)
    window: Any = getattr(kind, "__ensue_window__", None)
    if window is not None:
        stored = _type(_Closed, window.name, tag_of_findings(window), kind.__module__, window.events)
        return Noticed(kind, "closed", stored, partial(_read_closed, kind))
    return None


def _argument(kind: type, arguments: tuple[Any, ...], of: type) -> Any:
    if len(arguments) != 1 or not isinstance(arguments[0], type) or not issubclass(arguments[0], of):
        raise DefinitionError(f"{kind.__name__} is of one {of.__name__.lower()}: {kind.__name__}[…], not {arguments!r}")
    return arguments[0]


def _of_pattern(
    pattern: type[Pattern], kind: str, base: type[Finding], suffix: str, read: Callable[..., object]
) -> Noticed:
    definition = pattern.__ensue_pattern__
    stored = _type(
        base, f"{definition.name}{suffix}", tag_of_findings(definition), pattern.__module__, definition.events
    )
    return Noticed(pattern, kind, stored, partial(read, definition))


def tag_of_findings(definition: Any) -> str:
    tag: str | None = definition.key_tag
    if tag is not None:
        return tag or ONE_KEY
    keys = (declaration(event).key for event in definition.events)
    return next(key[1] for key in keys if key is not None)


# --------------------------------------------------------------------------------------------------------- reading


def _read_match(definition: Definition, event: _Match, registry: Registry) -> object:
    return match_of(definition, _found(definition, event, registry))


def _found(definition: Definition, event: _Match, registry: Registry) -> Found:
    return Found(
        of=UUID(event.found).bytes,
        key=_key_of(definition, event),
        started=event.started,
        ended=event.ended,
        steps=_steps(event.steps, _taken(event.taken, registry)),
    )


def _read_timed_out(definition: Definition, event: _TimedOut, registry: Registry) -> object:
    expired = Expired(
        id=UUID(event.found).bytes,
        key=_key_of(definition, event),
        started=event.started,
        deadline=event.deadline,
        waiting_for=event.waiting_for,
        steps=_steps(event.steps, _taken(event.taken, registry)),
    )
    return timed_out(definition, expired)


def _read_withdrawn(definition: Definition, event: _Withdrawn, registry: Registry) -> object:
    found, because = _found(definition, event, registry), _taken((event.because,), registry)[0]
    return withdrawn(definition, Revoked(id=found.id, found=found, because=because))


def _read_late(event: _Late, registry: Registry) -> object:
    taken = _taken((event.event,), registry)[0]
    return late(event.missed_by, Untimely(id=UUID(event.found).bytes, taken=taken, by=event.by))


def _read_closed(window: Any, event: _Closed, registry: Registry) -> object:
    closed = Closed(
        id=UUID(event.found).bytes,
        key=_key_of(window.__ensue_window__, event),
        start=event.start,
        end=event.end,
        values=cast(dict[str, Any], from_plain(event.values, _taken(event.taken, registry))),
        final=event.final,
        replaces=tuple(UUID(one).bytes for one in event.replaces),
    )
    return window.__ensue_closed__(closed)


def _key_of(definition: Any, event: Finding) -> str:
    return "" if definition.key_tag == "" else event.key


def _taken(stored: tuple[StoredEvent, ...], registry: Registry) -> list[Taken]:
    found: list[Taken] = []
    for one in stored:
        event = registry.reader(one.type, one.version)(bytes(one.data))
        if isinstance(event, Parts):
            raise UnreadableEvent(f"the {one.type} at position {one.position} is read as several events by now")
        found.append(Taken(one.time, one.position, event))
    return found


def _steps(shape: Mapping[str, Any], taken: list[Taken]) -> dict[str, Any]:
    return {name: _shaped(value, taken) for name, value in shape.items()}


def _shaped(value: Any, taken: list[Taken]) -> Any:
    if isinstance(value, int):
        return taken[value]
    if isinstance(value, list):
        several: list[Any] = value
        return tuple(_shaped(one, taken) for one in several)
    return None if value is None else _steps(value, taken)


# --------------------------------------------------------------------------------------------------------- writing


class Recording:
    """Findings of one pattern or window, as drafts: only of the kinds that somebody handles."""

    def __init__(self, definition: Any, noticed: tuple[Noticed, ...], registry: Registry, *, tenants: bool) -> None:
        self._definition = definition
        self._types = {one.kind: one.event for one in noticed if one.kind != "late"}
        self._late = [(one.source, one.event) for one in noticed if one.kind == "late"]
        self._registry = registry
        self._tenants = tenants

    def drafts(self, output: Output, types: Mapping[int, tuple[str, int]], *, now: int, maker: int) -> list[Draft]:
        """The events as which it is stored: none, where nobody handles such, or several. Their cause is the last event that was
        taken. Errors: `InvalidEvent` for one that is too large."""
        taken: list[Taken] = []
        found = list(self._events(output, taken, types))
        if not found:
            return []
        last = max(taken, key=lambda one: (one.time, one.position), default=None)
        tenant = self._tenant(output, last)
        headers = {TENANT: tenant} if tenant is not None else None
        return [
            self._draft(event, id, now if time is None else time, last, maker, headers) for event, id, time in found
        ]

    def last_row(self, output: Output) -> Row | None:
        """The last event that was taken for it, as the log holds it."""
        taken: list[Taken] = []
        keep = partial(self._keep, taken)
        if isinstance(output, Untimely):
            keep(output.taken)
        elif isinstance(output, Closed):
            to_plain(output.values, keep)
        else:
            _shape((output.found if isinstance(output, Revoked) else output).steps, keep)
        last = max(taken, key=lambda one: (one.time, one.position), default=None)
        return last.row if last is not None else None

    def _tenant(self, output: Output, last: Taken | None) -> str | None:
        if not self._tenants:
            return None
        if isinstance(output, Closed):
            return output.key.partition("/")[0]
        return tenant_of(decode_meta(cast(Row, cast(Taken, last).row)[10]))

    def _events(
        self, output: Output, taken: list[Taken], types: Mapping[int, tuple[str, int]]
    ) -> Iterator[tuple[Finding, bytes, int | None]]:
        if isinstance(output, Untimely):
            taken.append(output.taken)
            yield from self._late_events(output, types)
            return
        kind = _KINDS[type(output)]
        made: Any = self._types.get(kind)
        if made is None:
            return
        keep = partial(self._keep, taken)
        if isinstance(output, Closed):
            values = to_plain(output.values, keep)
            closed = made(
                found=str(UUID(bytes=output.id)),
                key=self._key(output.key),
                start=output.start,
                end=output.end,
                final=output.final,
                replaces=tuple(str(UUID(bytes=one)) for one in output.replaces),
                values=values,
                taken=self._stored(taken, types),
            )
            yield closed, output.id, None
            return
        match = output.found if isinstance(output, Revoked) else output
        shape = {name: _shape(value, keep) for name, value in match.steps.items()}
        fields: dict[str, Any] = {
            "found": str(UUID(bytes=match.id)),
            "key": self._key(match.key),
            "started": match.started,
            "steps": shape,
            "taken": self._stored(taken, types),
        }
        if isinstance(match, Expired):
            fields |= {"deadline": match.deadline, "waiting_for": match.waiting_for}
            yield made(**fields), _other(match.id, kind), match.deadline
            return
        fields["ended"] = match.ended
        if isinstance(output, Revoked):
            fields["because"] = self._stored([output.because], types)[0]
            taken.append(output.because)
            yield made(**fields), _other(output.id, kind), None
            return
        yield made(**fields), match.id, match.ended

    def _late_events(
        self, output: Untimely, types: Mapping[int, tuple[str, int]]
    ) -> Iterator[tuple[Finding, bytes, int | None]]:
        event = output.taken.event
        for source, made in self._late:
            if isinstance(event, source):
                tag = declaration(cast(Any, source)).key
                key = "" if tag is None else str(getattr(event, tag[0]))
                late: Any = made
                yield (
                    late(
                        found=str(UUID(bytes=output.id)),
                        key=key,
                        event=self._stored([output.taken], types)[0],
                        by=output.by,
                        missed_by=self._definition.name,
                    ),
                    _other(output.id, declaration(made).name),
                    None,
                )

    def _key(self, key: str) -> str:
        if self._definition.key_tag == "":
            return cast(str, self._definition.name)
        return key.partition("/")[2] if self._tenants else key

    @staticmethod
    def _keep(taken: list[Taken], one: Taken) -> int:
        for number, known in enumerate(taken):
            if known.position == one.position and known.event is one.event:
                return number
        taken.append(one)
        return len(taken) - 1

    def _stored(self, taken: list[Taken], types: Mapping[int, tuple[str, int]]) -> tuple[StoredEvent, ...]:
        stored: list[StoredEvent] = []
        for one in taken:
            row = cast(Row, one.row)
            name, version = types[row[2]]
            data = row[11]
            if not self._registry.knows(name):  # it has become several, of which this is one
                declared = declaration(type(one.event))
                name, version, data = declared.name, declared.version, self._registry.encode(one.event)
            stored.append(StoredEvent(one.position, one.time, name, version, msgspec.Raw(data)))
        return tuple(stored)

    def _draft(
        self, event: Finding, id: bytes, time: int, last: Taken | None, maker: int, headers: dict[str, str] | None
    ) -> Draft:
        row = last.row if last is not None else None
        if row is None:
            return self._registry.draft(event, id=id, time=time, headers=headers)
        meta = decode_meta(row[10])
        return self._registry.draft(
            event,
            id=id,
            time=time,
            correlation=meta.correlation,
            causation=row[1],
            depth=meta.depth + 1,
            traceparent=meta.traceparent,
            tracestate=meta.tracestate,
            headers=headers,
            cause=row[0],
            root=row[0] if row[7] is None else row[7],
            maker=maker,
            nth=0,
        )


_KINDS: dict[type, str] = {Found: "match", Expired: "timed out", Revoked: "withdrawn", Closed: "closed"}


def _other(id: bytes, kind: str) -> bytes:
    """An id of the event apart from that of the match: one run may be told of in several ways."""
    return blake2b(id + kind.encode(), digest_size=16).digest()


def _shape(value: Any, keep: Callable[[Taken], int]) -> Any:
    if isinstance(value, Taken):
        return keep(value)
    if isinstance(value, Mapping):
        return {name: _shape(one, keep) for name, one in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, tuple):
        several: tuple[Any, ...] = value
        return [_shape(one, keep) for one in several]
    return None
