"""What is said: events (facts), commands (wishes), queries (questions), and how an event declares its identity.

    class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
        order_id: str
        customer_id: str
        total: Decimal

An event is immutable and typed. Its *key* is what it is about: events of one key are handled in order and form a stream.
Its other *tags* are what it can be found by. Both are texts `name=value`; a log keeps them beside the payload, so that an
event that cannot be decoded still has its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast, dataclass_transform
from uuid import UUID

import msgspec

from ensue.errors import DefinitionError, InvalidEvent

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    R_co = _TypeVar("R_co", covariant=True, default=object)
else:
    R_co = TypeVar("R_co", covariant=True)

__all__ = [
    "Command",
    "Event",
    "EventType",
    "Message",
    "MessageMeta",
    "Query",
    "Tags",
    "closing_types",
    "days",
    "declaration",
    "hours",
    "minutes",
    "own_time",
    "seconds",
    "tag_of",
    "tag_text",
]

M = TypeVar("M", bound="MessageMeta")

Tags: TypeAlias = tuple[str, ...] | Mapping[str, str]

GENERIC_NAMES = frozenset(("id", "key", "uuid", "name"))
"""Field names that say nothing about what they identify: two event types would share streams by accident."""
KEY_CHARACTERS = 512


closing_types: list[type[Event]] = []
"""Every event class that says that it closes its stream."""


class EventType(msgspec.Struct, frozen=True, kw_only=True):
    """What an event class declares. `key`, `tags` and `subject` are pairs of a field and its tag's name."""

    name: str
    version: int
    was: tuple[str, ...]
    key: tuple[str, str] | None
    tags: tuple[tuple[str, str], ...]
    subject: tuple[str, str] | None = None
    """Whose the personal data among its fields is. Always the key or one of the tags."""
    closes: bool = False
    """Nothing follows it in its stream, which may be archived."""
    retention: timedelta | None = None
    """So long its payload is wanted; then it may be dropped."""
    time: str | None = None
    """The field that says when it happened; None: it happened when it was published."""


class MessageMeta(msgspec.StructMeta):
    """Makes messages frozen, with fields given by name; for events, checks the declaration."""

    def __new__(
        mcls: type[M],
        cls_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        key: str | Mapping[str, str] | None = None,
        tags: Tags = (),
        subject: str | Mapping[str, str] | None = None,
        name: str | None = None,
        version: int = 1,
        was: tuple[str, ...] = (),
        closes: bool = False,
        retention: timedelta | None = None,
        time: str | None = None,
        frozen: bool = True,
        kw_only: bool = True,
    ) -> M:
        cls = super().__new__(mcls, cls_name, bases, namespace, frozen=frozen, kw_only=kw_only)
        inherited = next(
            (vars(base)["__ensue_type__"] for base in cls.__mro__[1:] if "__ensue_type__" in vars(base)), None
        )
        own_key = _key(cls_name, cls, key)
        own_subject = _key(cls_name, cls, subject, "subject")
        own_key = own_key if own_key or inherited is None else inherited.key
        own_subject = own_subject if own_subject or inherited is None else inherited.subject
        own_tags = _tags(cls_name, cls, tags) or (inherited.tags if inherited else ())
        if time is not None:
            _checked_field(cls_name, cls, time, "time")
        elif inherited is not None:
            time = inherited.time
        if own_subject is not None and own_subject not in (own_key, *own_tags):
            own_tags += (own_subject,)  # all that is about a subject can be found by it
        if own_subject is not None:
            type.__setattr__(cls, "__repr__", _guarded_repr)
        type.__setattr__(
            cls,
            "__ensue_type__",
            EventType(
                name=_checked_name(cls_name, name or cls_name),
                version=_checked_version(cls_name, version),
                was=tuple(_checked_name(cls_name, former) for former in was),
                key=own_key,
                tags=own_tags,
                subject=own_subject,
                closes=_checked_closing(cls_name, own_key, own_tags, closes),
                retention=_checked_retention(cls_name, retention),
                time=time,
            ),
        )
        if closes:
            closing_types.append(cast("type[Event]", cls))
        return cls


def _guarded_repr(event: Event) -> str:
    """Without the values of personal fields: what is shown ends up in logs, errors and dead letters. Before it is known which
    fields these are, only key and tags are shown."""
    declared: EventType = vars(type(event))["__ensue_type__"]
    tags = {field for field, _ in ((declared.key,) if declared.key else ()) + declared.tags}
    personal: frozenset[str] | None = vars(type(event)).get("__ensue_hidden__")
    open_ = tags if personal is None else set(event.__struct_fields__) - personal
    shown = (f"{name}={repr(getattr(event, name)) if name in open_ else '…'}" for name in event.__struct_fields__)
    return f"{type(event).__name__}({', '.join(shown)})"


def _fields(cls: type) -> tuple[str, ...]:
    fields: tuple[str, ...] = getattr(cls, "__struct_fields__")  # noqa: B009
    return fields


def _checked_name(cls_name: str, name: str) -> str:
    if not name or len(name) > 200 or not all(part.isidentifier() for part in name.replace("-", "_").split(".")):
        raise DefinitionError(
            f"{cls_name}: {name!r} is not a name for an event type; use letters, digits, _, - and dots, like shop.OrderPlaced"
        )
    return name


def _checked_version(cls_name: str, version: int) -> int:
    if type(version) is not int or version < 1:
        raise DefinitionError(f"{cls_name}: version={version!r}; versions are whole numbers from 1")
    return version


def _checked_closing(
    cls_name: str, key: tuple[str, str] | None, tags: tuple[tuple[str, str], ...], closes: bool
) -> bool:
    if closes and key is None:
        raise DefinitionError(f"{cls_name}: closes=True, and it has no key: it is in no stream that it could close")
    if closes and key is not None and key[1] in [tag for _, tag in tags]:
        raise DefinitionError(
            f"{cls_name}: closes=True, and it has its key's tag {key[1]!r} a second time: another stream would seem closed by it"
        )
    return closes


def _checked_retention(cls_name: str, retention: timedelta | None) -> timedelta | None:
    given: Any = retention
    if given is not None and (not isinstance(given, timedelta) or given <= timedelta()):
        raise DefinitionError(f"{cls_name}: retention={given!r}; a positive duration, such as days(30)")
    return retention


def _checked_field(cls_name: str, cls: type, field: str, word: str) -> None:
    if field not in _fields(cls):
        known = ", ".join(_fields(cls)) or "none"
        raise DefinitionError(f"{cls_name}: {word}={field!r} is not a field of it; its fields are: {known}")


def _key(cls_name: str, cls: type, key: str | Mapping[str, str] | None, word: str = "key") -> tuple[str, str] | None:
    if key is None:
        return None
    if isinstance(key, Mapping):
        if len(key) != 1:
            raise DefinitionError(f"{cls_name}: {word}={dict(key)!r}; a {word} is one field: {word}={{'field': 'tag'}}")
        ((field, tag),) = key.items()
    else:
        field = tag = key
        if field in GENERIC_NAMES:
            raise DefinitionError(
                f"{cls_name}: the field {field!r} does not say what it identifies, and events of other types with such a "
                f'{word} would share its streams. Name the tag: {word}={{"{field}": "order"}}'
            )
    _checked_field(cls_name, cls, field, word)
    return field, _checked_tag(cls_name, tag)


def _checked_tag(cls_name: str, tag: str) -> str:
    if not tag.isidentifier():
        raise DefinitionError(f"{cls_name}: {tag!r} is not a name for a tag; use letters, digits and _")
    return tag


def _tags(cls_name: str, cls: type, tags: Tags) -> tuple[tuple[str, str], ...]:
    if isinstance(tags, str):
        raise DefinitionError(f'{cls_name}: tags={tags!r}; write tags=("{tags}",)')
    pairs = tuple(tags.items()) if isinstance(tags, Mapping) else tuple((field, field) for field in tags)
    for field, tag in pairs:
        _checked_field(cls_name, cls, field, "tags")
        _checked_tag(cls_name, tag)
    return pairs


def tag_text(message: object, field: str, tag: str) -> str | None:
    """`tag=value` for a field of a message; None where the value is None. Errors: `InvalidEvent`."""
    value = getattr(message, field)
    if type(value) is not str:
        if value is None:
            return None
        value = _text(type(message).__name__, field, value)
    if not value or len(value) > KEY_CHARACTERS:
        raise _unfit(type(message).__name__, field, value)
    return f"{tag}={value}"


def tag_of(tag: str, value: object) -> str:
    """`tag=value` as it stands beside an event whose field has this value, for whoever looks for it. Errors:
    `InvalidEvent` for a value that no key or tag can have."""
    text = value if type(value) is str else _text("tag", tag, value)
    if not text or len(text) > KEY_CHARACTERS:
        raise _unfit("tag", tag, text)
    return f"{tag}={text}"


def _unfit(name: str, field: str, text: str) -> InvalidEvent:
    found = "is empty" if not text else f"has {len(text)} characters, the limit is {KEY_CHARACTERS}"
    return InvalidEvent(f"{name}: {field}, which is a key or tag, {found}")


def _text(name: str, field: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str | UUID | Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise InvalidEvent(
        f"{name}: {field}={value!r}; a key or tag is a text, a whole number, a UUID, a date or an enum of "
        f"these, not {type(value).__name__}"
    )


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, kw_only=True, metaclass=MessageMeta):
    """What events, commands and queries share. Not for direct use."""


class Event(Message):
    """A fact: what happened, in the past tense, never changed.

    Keywords of the class: `key`, a field or `{field: tag}`; `tags`, fields or `{field: tag}`, by which it can be found;
    `subject`, a field or `{field: tag}`, whose its `Personal` fields are; it is a tag as well;
    `name`, under which it is stored (the class's own by default); `version` of its fields, from 1; `was`, former names.
    `closes`, that it is the last event of its stream, which may then be archived; `retention`, how long its payload is wanted.
    `time`, the field that says when it happened, an aware datetime, for patterns and windows by event time.
    Key, tags, subject and time are inherited by subclasses, all else is not. Errors: `DefinitionError`, when it is declared.
    """


def declaration(event: type[Event]) -> EventType:
    """What the class declares."""
    declared: EventType = vars(event)["__ensue_type__"]
    return declared


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def own_time(event: Event, field: str | None = None) -> int | None:
    """When an event says that it happened, in microseconds since 1970 UTC; None where its type declares no `time` (give the field to
    save the look-up). Errors: `InvalidEvent` for what is no time, or one without a UTC offset."""
    field = field or declaration(type(event)).time
    if field is None:
        return None
    value: object = getattr(event, field)
    if not isinstance(value, datetime) or value.utcoffset() is None:
        found = "has no UTC offset, so that it may be any of two dozen" if isinstance(value, datetime) else "is no time"
        raise InvalidEvent(
            f"{type(event).__name__}: {field}={value!r}, which says when it happened, {found}: give an aware datetime"
        )
    return (value - _EPOCH) // _MICROSECOND


class Command(Message, Generic[R_co]):
    """A wish. `Command[Withdrawn]` says what `send` answers when it is granted."""


class Query(Message, Generic[R_co]):
    """A question. `Query[list[OrderRow]]` says what `ask` answers."""


def seconds(number: float, /) -> timedelta:
    """A duration."""
    return timedelta(seconds=number)


def minutes(number: float, /) -> timedelta:
    """A duration."""
    return timedelta(minutes=number)


def hours(number: float, /) -> timedelta:
    """A duration."""
    return timedelta(hours=number)


def days(number: float, /) -> timedelta:
    """A duration."""
    return timedelta(days=number)
