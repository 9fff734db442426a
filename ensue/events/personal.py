"""Personal data in events: stored under a key of the person's own, so that destroying the key forgets it everywhere.

    class CustomerJoined(Event, key="customer_id", subject="customer_id"):
        customer_id: str
        email: Personal[str]

`subject` says whose the personal fields are. In a log such a field is `{"$personal": "…"}`: sealed with AES-256-GCM under the
subject's key, with the event's type, the field and the subject as associated data. With the key it is read as its value, and once
the key is destroyed as `FORGOTTEN`, for ever and in every copy of the log. On the wire, and where there are no keys, it is plain.

This module knows neither where keys are nor how they are made: it asks `Keys`. What is sealed twice has the same bytes, so that
an idempotency key still knows its events again; the nonce is made of the value by a secret of the subject's own.
"""

from __future__ import annotations

import binascii
import dataclasses
import hmac
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Protocol, TypeAlias, TypeVar

import msgspec

from ensue.errors import AlreadyForgotten, DefinitionError, InvalidEvent, UnreadableEvent, WiringError
from ensue.events.message import Event, declaration, tag_text
from ensue.events.stored import tag_hash

__all__ = [
    "FORGOTTEN",
    "SECRET_BYTES",
    "Forgotten",
    "Keys",
    "Personal",
    "PersonalCodec",
    "PersonalField",
    "Subject",
    "SubjectForgotten",
    "check_cipher",
    "hidden",
    "holds_personal",
    "is_sealed",
    "personal_fields",
    "personal_value",
    "plain_type",
    "sealed_fields",
    "sealed_subjects",
    "unsealed",
    "unsealed_fields",
]

T = TypeVar("T")


class Forgotten(msgspec.Struct, frozen=True, tag="forgotten"):
    """What stands where personal data was. Ask with `isinstance(joined.email, Forgotten)`, or compare with `FORGOTTEN`."""

    def __repr__(self) -> str:
        return "FORGOTTEN"

    def __str__(self) -> str:
        return "forgotten"


FORGOTTEN = Forgotten()
"""Also to be given where an event is published about somebody who was forgotten."""


class _Mark:
    def __repr__(self) -> str:
        return "personal"


_MARK = _Mark()
Personal: TypeAlias = Annotated[T | Forgotten, _MARK]
"""A field with personal data: `email: Personal[str]`, `phone: Personal[str | None] = None`. To a type checker it is
`str | Forgotten`, because that is what a reader may find. That there is none, None, is no personal data, and stays readable."""


class Subject:
    """`payee: Annotated[Personal[str], Subject("payee_id")]`: this field is of another subject than the event's.

    `payee_id` is the event's key or one of its tags.
    """

    def __init__(self, field: str, /) -> None:
        self.field = field


class SubjectForgotten(Event, name="ensue.SubjectForgotten"):
    """A subject was forgotten: its key is destroyed. Handlers may erase what they hold of it outside the log.

    It is in the stream of the subject, behind all that was stored about it before; `subject` is `name=value`.
    """

    subject: str


class Keys(Protocol):
    """The secrets of subjects, `SECRET_BYTES` each. Both methods answer at once or block for as long as their store needs."""

    def sealing(self, subject: str, /) -> bytes | None:
        """The secret to seal data of a subject with, made durable if it is new; None for one that was forgotten.
        Errors: `Unavailable`."""
        ...

    def opening(self, subject: bytes, /) -> bytes | None:
        """The secret of the subject whose tag has this hash; None for one that was forgotten. Errors: `KeyLost`,
        `Unavailable`."""
        ...

    async def prepare(self, subjects: Iterable[str], /) -> None:
        """Make what `sealing` will be asked for, without blocking. Errors: `Unavailable`."""
        ...

    def drop(self, subject: str, /) -> None:
        """The subject was forgotten: remember nothing of it."""
        ...


class PersonalField(msgspec.Struct, frozen=True):
    """A field with personal data: its name in the code and as it is stored, the type of its values, and its subject as a pair of
    a field and its tag's name."""

    name: str
    stored: str
    type: Any
    subject: tuple[str, str]


# ------------------------------------------------------------------------------------------------------- declarations


def personal_fields(event: type[Event]) -> tuple[PersonalField, ...]:
    """The personal fields of an event type. Errors: `DefinitionError` for those without a subject, and for `Personal` where it
    would not be found: in a value, in a union, in a key or tag."""
    known: tuple[PersonalField, ...] | None = vars(event).get("__ensue_personal__")
    if known is None:
        known = tuple(_fields(event))
        type.__setattr__(event, "__ensue_personal__", known)
        type.__setattr__(event, "__ensue_hidden__", frozenset(field.name for field in known))
    return known


def _fields(event: type[Event]) -> Iterator[PersonalField]:
    declared = declaration(event)
    tags = ((declared.key,) if declared.key else ()) + declared.tags
    for info in msgspec.structs.fields(event):
        hint: Any = info.type
        extra: tuple[Any, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, *found = typing.get_args(hint)
            extra = tuple(found)
        if _MARK not in extra:
            if holds_personal(info.type):
                raise DefinitionError(
                    f"{event.__name__}: {info.name} holds personal data inside its value, where it would not be protected. Make the "
                    "field itself personal: Personal[…] around its whole type, also around None"
                )
            continue
        named = next((one.field for one in extra if isinstance(one, Subject)), None)
        subject = declared.subject if named is None else next((pair for pair in tags if pair[0] == named), None)
        if subject is None:
            missing = f'subject="{named or "customer_id"}"' if named is None else f"{named} among its tags"
            raise DefinitionError(
                f"{event.__name__}: {info.name} is personal, and nothing says whose: declare {missing}, so that it can be forgotten"
            )
        if info.name in {field for field, _ in tags}:
            raise DefinitionError(
                f"{event.__name__}: {info.name} is a key or tag, and these are kept for ever as they are: a personal field cannot be "
                "one. Use an id that says nothing about the person"
            )
        yield PersonalField(info.name, info.encode_name, _without_forgotten(hint), subject)


def _without_forgotten(hint: Any) -> Any:
    left = tuple(one for one in typing.get_args(hint) if one is not Forgotten)
    if len(left) == 1:
        return left[0]
    return typing.Union[left]  # noqa: UP007


def holds_personal(hint: Any) -> bool:
    """Whether `Personal` stands anywhere in a type."""
    pending, seen = [hint], set[int]()
    while pending:
        found = pending.pop()
        if found is _MARK:
            return True
        if id(found) in seen or len(seen) > 2000:
            continue
        seen.add(id(found))
        pending.extend(typing.get_args(found))
        if isinstance(found, type) and not isinstance(found, types.GenericAlias):
            try:
                if issubclass(found, msgspec.Struct):
                    pending.extend(info.type for info in msgspec.structs.fields(found))
                elif dataclasses.is_dataclass(found):
                    pending.extend(typing.get_type_hints(found, include_extras=True).values())
            except (TypeError, NameError):
                continue
    return False


def personal_value(hint: Any) -> Any:
    """The `T` of a `Personal[T]`; `Forgotten` itself for another type."""
    if typing.get_origin(hint) is Annotated and _MARK in typing.get_args(hint):
        return _without_forgotten(typing.get_args(hint)[0])
    return Forgotten


def plain_type(event: type[Event]) -> type[msgspec.Struct]:
    """A struct with the fields of an event type, its personal ones of the type of their values: what it is without keys."""
    personal = {field.name: field.type for field in personal_fields(event)}
    return _twin(event, lambda info: (personal.get(info.name, info.type), _default(info)))


def _default(info: Any) -> Any:
    if info.default is not msgspec.NODEFAULT:
        return msgspec.field(default=info.default)
    if info.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=info.default_factory)
    return None


def _twin(event: type[Event], of: Callable[[Any], tuple[Any, Any]]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    renamed: dict[str, str] = {}
    for info in msgspec.structs.fields(event):
        kind, default = of(info)
        fields.append((info.name, kind) if default is None else (info.name, kind, default))
        if info.encode_name != info.name:
            renamed[info.name] = info.encode_name
    return msgspec.defstruct(event.__name__, fields, rename=renamed or None, kw_only=True, frozen=True)


# ------------------------------------------------------------------------------------------------------------ sealing

SECRET_BYTES = 64
"""Half of them are the cipher's key, half make nonces."""
_VERSION = 1
_NONCE_BYTES = 12
_SEALED = b'{"$personal":"'
_HIDDEN = '{"$personal":"…"}'.encode()
_encode = msgspec.json.Encoder(decimal_format="string").encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_FORGOTTEN = _encode(FORGOTTEN)
_SAYING_NOTHING = (_FORGOTTEN, b"null")
"""What is stored in plain also where there are keys: that it is forgotten, and that there is none."""
_FORGOTTEN_FIELDS = _decode_fields(_FORGOTTEN)


def check_cipher() -> None:
    """Errors: `WiringError` where the cipher is not installed."""
    try:
        import_module("cryptography.hazmat.primitives.ciphers.aead")
    except ModuleNotFoundError:
        raise WiringError(
            "events with personal fields need a cipher that is not installed: pip install 'ensue[personal]'"
        ) from None


def is_sealed(stored: bytes) -> bool:
    """Whether a member of a payload is sealed."""
    return stored.startswith(_SEALED)


def _about(type_name: str, field: str, subject: bytes) -> bytes:
    return b"\0".join((type_name.encode(), field.encode(), subject))


def _sealed(plain: bytes, secret: bytes, type_name: str, field: str, subject: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    about = _about(type_name, field, subject)
    nonce = hmac.digest(secret[32:], about + b"\0" + plain, "sha256")[:_NONCE_BYTES]
    sealed = AESGCM(secret[:32]).encrypt(nonce, plain, about)
    return _SEALED + binascii.b2a_base64(bytes((_VERSION,)) + subject + nonce + sealed, newline=False) + b'"}'


def _opened(stored: bytes, keys: Keys | None, type_name: str, field: str) -> bytes | None:
    """The value's own bytes, or None where it is forgotten. Errors: `UnreadableEvent`, `KeyLost`, `Unavailable`."""
    if keys is None:
        raise UnreadableEvent(f"{type_name}: {field} is personal data, and there are no keys here to read it with")
    try:
        packed = binascii.a2b_base64(stored[len(_SEALED) : -2], strict_mode=True)
        version, subject, nonce, sealed = packed[0], packed[1:17], packed[17:29], packed[29:]
    except (ValueError, IndexError):
        version, subject, nonce, sealed = 0, b"", b"", b""
    if version != _VERSION or not sealed:
        raise UnreadableEvent(f"{type_name}: {field} is sealed in a way that this code does not know")
    secret = keys.opening(subject)
    if secret is None:
        return None
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(secret[:32]).decrypt(nonce, sealed, _about(type_name, field, subject))
    except (InvalidTag, ValueError):
        raise UnreadableEvent(
            f"{type_name}: {field} does not open with its subject's key: it was changed, moved from another event, or sealed with "
            "the key of another key store"
        ) from None


def unsealed(type_name: str, data: bytes, keys: Keys | None) -> bytes:
    """A stored payload with its personal fields as they are on the wire: plain, or as `FORGOTTEN` is written. Errors:
    `UnreadableEvent`, `KeyLost`, `Unavailable`."""
    if _SEALED not in data:
        return data
    members = dict(_members(data))
    for field, raw in members.items():
        stored = bytes(raw)
        if is_sealed(stored):
            plain = _opened(stored, keys, type_name, field)
            members[field] = msgspec.Raw(_FORGOTTEN if plain is None else plain)
    return _encode(members)


def hidden(data: bytes) -> bytes:
    """A stored payload without what is sealed in it, for people."""
    if _SEALED not in data:
        return data
    members = {field: msgspec.Raw(_HIDDEN) if is_sealed(bytes(raw)) else raw for field, raw in _members(data).items()}
    return _encode(members)


def sealed_subjects(data: bytes) -> Iterator[bytes]:
    """The hashes of the subjects by whose keys something is sealed in a stored payload."""
    if _SEALED in data:
        for raw in _members(data).values():
            stored = bytes(raw)
            if is_sealed(stored):
                yield binascii.a2b_base64(stored[len(_SEALED) : -2])[1:17]


def sealed_fields(data: bytes) -> frozenset[str]:
    """The members of a stored payload that are sealed."""
    if _SEALED not in data:
        return frozenset()
    return frozenset(field for field, raw in _members(data).items() if is_sealed(bytes(raw)))


def unsealed_fields(type_name: str, data: bytes, keys: Keys | None) -> dict[str, Any]:
    """The fields of a stored payload for upcasters: personal ones as they are in JSON, or `FORGOTTEN`. Errors: as `unsealed`, and
    those of msgspec."""
    if _SEALED not in data:
        return _decode_fields(data)
    fields = _decode_fields(unsealed(type_name, data, keys))
    sealed = sealed_fields(data)
    return {
        field: FORGOTTEN if field in sealed and value == _FORGOTTEN_FIELDS else value for field, value in fields.items()
    }


# -------------------------------------------------------------------------------------------------------------- codec


class PersonalCodec:
    """An event type with personal fields, to bytes and back."""

    def __init__(self, event: type[Event]) -> None:
        self.fields = personal_fields(event)
        self.names = frozenset(field.name for field in self.fields)
        self._event = event
        self._others = tuple(name for name in event.__struct_fields__ if name not in self.names)
        absent = msgspec.field(default=msgspec.Raw(b""))
        self._twin = _twin(
            event, lambda info: (msgspec.Raw, absent) if info.name in self.names else (info.type, _default(info))
        )
        self._decode_twin: Callable[[bytes], Any] = msgspec.json.Decoder(self._twin).decode
        self._decoders: Mapping[str, Callable[[bytes], Any]] = {
            field.name: msgspec.json.Decoder(field.type).decode for field in self.fields
        }
        self._required = frozenset(info.name for info in msgspec.structs.fields(event) if info.required)

    def encode(self, event: Event, keys: Keys | None, type_name: str, *, lenient: bool = False) -> bytes:
        """The payload, checked to read back; sealed where there are keys. With `lenient` what is of a forgotten subject is
        forgotten. Errors: `InvalidEvent`, `AlreadyForgotten`, `Unavailable`; of other fields those of msgspec."""
        values: dict[str, Any] = {name: getattr(event, name) for name in self._others}
        for field in self.fields:
            value = getattr(event, field.name)
            stored = _FORGOTTEN if isinstance(value, Forgotten) else self._plain(field, value)
            if keys is not None and stored not in _SAYING_NOTHING:
                stored = self._seal(event, field, stored, keys, type_name, lenient)
            values[field.name] = msgspec.Raw(stored)
        data = _encode(self._twin(**values))
        self._decode_twin(data)
        return data

    def _plain(self, field: PersonalField, value: object) -> bytes:
        try:
            plain = _encode(value)
            self._decoders[field.name](plain)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
            # Neither the value nor the error is told: it may hold the value.
            raise InvalidEvent(
                f"{self._event.__name__}: the value of {field.name}, a {type(value).__name__}, cannot be stored as {field.type}; it "
                "is personal and not shown"
            ) from None
        return plain

    def _seal(
        self, event: Event, field: PersonalField, plain: bytes, keys: Keys, type_name: str, lenient: bool
    ) -> bytes:
        subject = self._subject(event, field)
        secret = keys.sealing(subject)
        if secret is None:
            if lenient:
                return _FORGOTTEN
            raise AlreadyForgotten(
                f"{self._event.__name__}: {field.name} holds personal data of {subject}, who was forgotten: nothing is stored about "
                f"somebody who was. Give {field.name}=FORGOTTEN, or another id to a person who came back"
            )
        return _sealed(plain, secret, type_name, field.stored, tag_hash(subject))

    def _subject(self, event: Event, field: PersonalField) -> str:
        subject = tag_text(event, *field.subject)
        if subject is None:
            raise InvalidEvent(
                f"{self._event.__name__}: {field.subject[0]} is None, and it says whose {field.name} is: without a subject there is "
                "no personal data"
            )
        return subject

    def subjects(self, event: Event) -> Iterator[str]:
        """Whose data an event holds. Errors: `InvalidEvent`."""
        for field in self.fields:
            if not isinstance(getattr(event, field.name), Forgotten | None):
                yield self._subject(event, field)

    def decode(self, data: bytes, keys: Keys | None, type_name: str) -> Event:
        """Errors: those of msgspec, `UnreadableEvent`, `KeyLost`, `Unavailable`."""
        twin = self._decode_twin(data)
        values: dict[str, Any] = {name: getattr(twin, name) for name in self._others}
        for field in self.fields:
            stored = bytes(getattr(twin, field.name))
            if not stored:
                if field.name in self._required:
                    raise msgspec.ValidationError(f"Object missing required field `{field.stored}`")
                continue
            plain: bytes | None = stored
            if is_sealed(stored):
                plain = _opened(stored, keys, type_name, field.stored)
            values[field.name] = FORGOTTEN if plain is None or plain == _FORGOTTEN else self._value(field, plain)
        return self._event(**values)

    def _value(self, field: PersonalField, plain: bytes) -> Any:
        try:
            return self._decoders[field.name](plain)
        except (msgspec.MsgspecError, ValueError):
            # Neither the value nor the error is told: it may hold the value.
            raise msgspec.ValidationError(f"The value is not of its type - at `$.{field.stored}`") from None

    def sealed(self, event: Event, data: bytes, keys: Keys | None, type_name: str) -> bytes:
        """A payload that was written elsewhere, its personal fields sealed or forgotten and all others byte for byte; `event` is
        what it was decoded to. Errors: as `encode`."""
        if keys is None:
            return data
        members = dict(_members(data))
        for field in self.fields:
            if field.stored in members and bytes(members[field.stored]) not in _SAYING_NOTHING:
                value = getattr(event, field.name)
                stored = self._seal(event, field, self._plain(field, value), keys, type_name, True)
                members[field.stored] = msgspec.Raw(stored)
        return _encode(members)
