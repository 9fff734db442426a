"""The event types of one application: to bytes and back, across versions and names.

Encoding proves that what is stored can be read: it decodes its own bytes and compares types, so a wrong field, a NaN or an
infinity is refused before it is in the log and not found years later. Decoding goes through the upcasters that lead from the
stored version to the code's; payloads only, never key or tags, which stand beside the payload for ever.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from ensue.errors import DefinitionError, InvalidEvent, UnreadableEvent
from ensue.events.message import Event, EventType, tag_text
from ensue.events.recorded import Recorded, UnknownEvent
from ensue.events.stored import Draft, Meta, encode_meta, tag_hash

__all__ = ["Decode", "Fields", "Keyed", "Registry", "declaration", "fingerprint", "redraft", "upcast"]

Fields: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = Callable[[Fields], Fields]
U = TypeVar("U", bound=Upcaster)
Decode: TypeAlias = Callable[[bytes], Event]

PAYLOAD_BYTES = 1024 * 1024

_upcasters: dict[tuple[type[Event] | str, int], Upcaster] = {}
_encode = msgspec.json.Encoder(decimal_format="string").encode
_decode_fields = msgspec.json.Decoder(Fields).decode


def upcast(event: type[Event] | str, /, *, version: int) -> Callable[[U], U]:
    """The decorated function turns the fields of `version` into those of the next one.

    For an event type, or the former name of one. Errors: `DefinitionError` for a second one of the same version.
    """
    name = event if isinstance(event, str) else declaration(event).name

    def register(function: U) -> U:
        if _upcasters.setdefault((event, version), function) is not function:
            raise DefinitionError(f"{name} version {version} has two upcasters; one version leads to one next version")
        return function

    return register


def declaration(event: type[Event]) -> EventType:
    """What the class declares."""
    declared: EventType = vars(event)["__ensue_type__"]
    return declared


def fingerprint(drafts: Iterable[Draft]) -> bytes:
    """128 bits over types and payloads: whether an idempotency key comes back with the same events."""
    digest = blake2b(digest_size=16)
    for draft in drafts:
        digest.update(f"{draft.type_name}\0{draft.type_version}\0{len(draft.data)}\0".encode())
        digest.update(draft.data)
    return digest.digest()


def redraft(recorded: Recorded[Any]) -> Draft:
    """The event to be written again, byte for byte, with its id: unknown fields and unknown types survive."""
    meta = recorded.meta
    return Draft(
        id=recorded.row[1],
        type_name=recorded.type_name,
        type_version=recorded.type_version,
        stream=recorded.row[3],
        tags=tuple(tag_hash(text) for text in meta.tags),
        meta=recorded.row[10],
        data=recorded.data,
    )


class Keyed(NamedTuple):
    """The key and the further tags of an event."""

    key: str | None
    tags: tuple[str, ...]


class _Codec:
    """One event type, ready for use: the work that depends on the class only is done once."""

    __slots__ = ("containers", "decode", "declared", "key", "name", "numbers", "tags", "version")

    def __init__(self, event: type[Event]) -> None:
        self.declared = declaration(event)
        self.name = self.declared.name
        self.version = self.declared.version
        self.key = self.declared.key
        self.tags = self.declared.tags
        try:
            self.decode: Decode = msgspec.json.Decoder(event).decode
            info = msgspec.inspect.type_info(event)
            assert isinstance(info, msgspec.inspect.StructType)
            self.numbers = tuple(field.name for field in info.fields if isinstance(field.type, _NUMBERS))
            """Fields that are a float or a decimal; `containers` are those that may hold one."""
            self.containers = tuple(
                field.name for field in info.fields if field.name not in self.numbers and _may_be_infinite(field.type)
            )
        except (TypeError, NameError) as error:
            raise DefinitionError(f"{event.__name__}: a field has a type that cannot be stored: {error}") from error


_NUMBERS = msgspec.inspect.FloatType | msgspec.inspect.DecimalType


def _may_be_infinite(info: Any) -> bool:
    """Whether a value of this type may hold a float or a decimal, and so NaN or infinity."""
    kinds = _NUMBERS | msgspec.inspect.AnyType | msgspec.inspect.CustomType
    pending, seen = [info], 0
    while pending:
        found = pending.pop()
        seen += 1
        if isinstance(found, kinds) or seen > 2000:
            return True
        if isinstance(found, msgspec.Struct):
            pending.extend(getattr(found, name) for name in found.__struct_fields__ if name != "cls")
        elif isinstance(found, tuple):
            pending.extend(found)
    return False


_not_finite_encoded = re.compile(rb'NaN|Infinity|null|"nan"|"-?inf"').search
"""What a decimal, or a float as a value or a key, that is not finite looks like once it is encoded. Few payloads hold any
of these words, and only those need the walk through their containers."""


def _not_finite(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Decimal):
        return not value.is_finite()
    if isinstance(value, Mapping):
        return any(_not_finite(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return any(_not_finite(item) for item in value)
    if isinstance(value, msgspec.Struct):
        return any(_not_finite(getattr(value, name)) for name in value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return any(_not_finite(getattr(value, field.name)) for field in dataclasses.fields(value))
    return False


class Registry:
    """The types of one application. Adding is idempotent; two classes of one name are refused."""

    def __init__(self, events: Iterable[type[Event]] = (), *, payload_bytes: int = PAYLOAD_BYTES) -> None:
        self._by_name: dict[str, type[Event]] = {}
        self._codecs: dict[type[Event], _Codec] = {}
        self._payload_bytes = payload_bytes
        for event in events:
            self.add(event)

    def add(self, event: type[Event]) -> None:
        """Make the type and its former names known. Errors: `DefinitionError` for a name that another class has."""
        if event in self._codecs:
            return
        codec = _Codec(event)
        for name in (codec.name, *codec.declared.was):
            other = self._by_name.get(name)
            if other is not None and other is not event:
                raise DefinitionError(
                    f"two event types are called {name!r}: {other.__module__}.{other.__qualname__} and "
                    f'{event.__module__}.{event.__qualname__}; give one of them name="…"'
                )
        for name in (codec.name, *codec.declared.was):
            self._by_name[name] = event
        self._codecs[event] = codec

    def covering(self, events: Sequence[type[Event]]) -> tuple[type[Event], ...]:
        """These types and all their subclasses, known to the registry from now on. Bases without a key or fields of
        their own count as well; `Event` itself stands for every type that is known."""
        found: dict[type[Event], None] = {}
        pending = list(events)
        while pending:
            event = pending.pop(0)
            if event is Event:
                pending.extend(self._codecs)
                continue
            if event not in found and event is not UnknownEvent:
                found[event] = None
                pending.extend(event.__subclasses__())
        for event in found:
            self.add(event)
        return tuple(found)

    def names(self, events: Iterable[type[Event]]) -> tuple[str, ...]:
        """The names under which these types are stored now."""
        return tuple(declaration(event).name for event in events)

    def former(self) -> Mapping[str, tuple[str, ...]]:
        """Name → former names, for types that have any."""
        return {codec.name: codec.declared.was for codec in self._codecs.values() if codec.declared.was}

    def current_name(self, name: str) -> str:
        """The present name of a type stored under `name`."""
        event = self._by_name.get(name)
        return declaration(event).name if event is not None else name

    # ----------------------------------------------------------------------------------------------------- encoding

    def encode(self, event: Event) -> bytes:
        """The payload. Errors: `InvalidEvent`, naming type, field and value."""
        codec = self._codecs.get(type(event))
        if codec is None:
            self.add(type(event))
            codec = self._codecs[type(event)]
        try:
            data = _encode(event)
            codec.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise InvalidEvent(f"{codec.name}: {_guilty(event, error)}") from error
        suspects = codec.numbers
        if codec.containers and _not_finite_encoded(data):
            suspects += codec.containers
        for field in suspects:
            if _not_finite(getattr(event, field)):
                raise InvalidEvent(f"{codec.name}: {_guilty(event, None)}")
        if len(data) > self._payload_bytes:
            raise InvalidEvent(
                f"{codec.name}: the payload has {len(data)} bytes, the limit is {self._payload_bytes}; store large contents "
                "elsewhere and put a reference into the event"
            )
        return data

    def draft(
        self,
        event: Event,
        *,
        id: bytes,
        time: int,
        correlation: bytes | None = None,
        causation: bytes | None = None,
        depth: int = 0,
        traceparent: str | None = None,
        tracestate: str | None = None,
        headers: Mapping[str, str] | None = None,
        cause: int | None = None,
        root: int | None = None,
        maker: int | None = None,
        nth: int | None = None,
    ) -> Draft:
        """The event ready to be stored. Without a correlation it begins one, under its own id. Errors: `InvalidEvent`."""
        data = self.encode(event)
        codec = self._codecs[type(event)]
        key, tags = self.keyed(event)
        meta = Meta(time, correlation or id, causation, key, tags, depth, traceparent, tracestate, headers)
        return Draft(
            id,
            codec.name,
            codec.version,
            tag_hash(key) if key is not None else None,
            tuple(map(tag_hash, tags)) if tags else (),
            encode_meta(meta),
            data,
            cause,
            root,
            maker,
            nth,
        )

    def arrived(self, name: str, version: int, data: bytes, *, id: bytes, meta: Callable[[Keyed], Meta]) -> Draft:
        """What was encoded elsewhere, to be stored byte for byte: it is decoded to see that it can be, and for its key and
        tags, which `meta` is called with. Errors: `UnreadableEvent`, `InvalidEvent`."""
        if name not in self._by_name:
            raise UnreadableEvent(f"no event type is called {name!r} here")
        if len(data) > self._payload_bytes:
            raise InvalidEvent(f"{name}: the payload has {len(data)} bytes, the limit is {self._payload_bytes}")
        try:
            event = self.decoder(name, version)(data)
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            raise UnreadableEvent(f"{name} version {version} cannot be decoded: {error}") from error
        keyed = self.keyed(event)
        return Draft(
            id,
            name,
            version,
            tag_hash(keyed.key) if keyed.key is not None else None,
            tuple(map(tag_hash, keyed.tags)) if keyed.tags else (),
            encode_meta(meta(keyed)),
            data,
        )

    def keyed(self, event: Event) -> Keyed:
        """The key and the further tags of an event, as texts `name=value`. Errors: `InvalidEvent`."""
        codec = self._codecs[type(event)]
        key = None
        if codec.key is not None:
            key = tag_text(event, codec.key[0], codec.key[1])
            if key is None:
                raise InvalidEvent(f"{codec.name}: the key {codec.key[0]} is None; every event of this type needs one")
        tags: tuple[str, ...] = ()
        if codec.tags:
            texts = (tag_text(event, field, tag) for field, tag in codec.tags)
            tags = tuple(dict.fromkeys(text for text in texts if text is not None and text != key))
        return Keyed(key, tags)

    # ----------------------------------------------------------------------------------------------------- decoding

    def knows(self, name: str) -> bool:
        return name in self._by_name

    def decoder(self, name: str, version: int) -> Decode:
        """Bytes of this stored name and version to an event: through the upcasters where the code is newer, to an
        `UnknownEvent` where the name is unknown.

        Errors: `UnreadableEvent` for a version newer than the code's, or one that no upcaster leads on from.
        """
        event = self._by_name.get(name)
        if event is None:
            return lambda data: UnknownEvent(type_name=name, type_version=version, fields=_decode_fields(data))
        codec = self._codecs[event]
        if version > codec.version:
            raise UnreadableEvent(
                f"{name} was written in version {version}, this code knows versions up to {codec.version}: newer code is "
                "running beside it. Deploy that code here, too."
            )
        steps = [_step(name, event, number) for number in range(version, codec.version)]
        if not steps:
            return codec.decode

        def decode(data: bytes) -> Event:
            fields = _decode_fields(data)
            for step in steps:
                fields = step(fields)
            return codec.decode(_encode(fields))

        return decode


def _step(name: str, event: type[Event], version: int) -> Upcaster:
    current = declaration(event).name
    found = (_upcasters.get((known, version)) for known in (name, event, current))
    step = next((step for step in found if step is not None), None)
    if step is None:
        raise UnreadableEvent(
            f"{name} version {version} is in the log, and nothing leads from it to version {version + 1}: "
            f"declare @upcast({current}, version={version})"
        )
    return step


def _guilty(event: Event, error: Exception | None) -> str:
    """The field that cannot be stored, found by trying each."""
    hints = msgspec.inspect.type_info(type(event))
    assert isinstance(hints, msgspec.inspect.StructType)
    for field in hints.fields:
        value = getattr(event, field.name)
        if _not_finite(value):
            return f"{field.name}={value!r} holds NaN or infinity, which cannot be stored"
    for name, hint in _hints(type(event)).items():
        value = getattr(event, name, None)
        try:
            msgspec.json.decode(_encode(value), type=hint)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as wrong:
            return f"{name}={value!r} cannot be stored: {wrong}"
    return str(error)


def _hints(event: type[Event]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(event, include_extras=True)
