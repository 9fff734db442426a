"""The event types of one application: to bytes and back, across versions and names.

Encoding proves that what is stored can be read: it decodes its own bytes and compares types, so a wrong field, a NaN or an
infinity is refused before it is in the log and not found years later. Decoding goes through the upcasters that lead from the
stored version to the code's; payloads only, never key or tags, which stand beside the payload for ever.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec

from ensue.errors import DefinitionError, InvalidEvent, UnreadableEvent
from ensue.events.message import Event, closing_types, declaration, own_time, tag_text
from ensue.events.personal import (
    Keys,
    PersonalCodec,
    SubjectForgotten,
    check_cipher,
    personal_fields,
    plain_type,
    unsealed,
    unsealed_fields,
)
from ensue.events.recorded import Recorded, UnknownEvent, archived_error
from ensue.events.stored import Draft, Meta, Row, decode_meta, encode_meta, tag_hash
from ensue.events.upcasting import Fields, Parts, chain, led_on, splits

__all__ = ["Decode", "Keyed", "Read", "Registry", "declaration", "fingerprint", "redraft"]

Decode: TypeAlias = Callable[[bytes], Event]
Read: TypeAlias = Callable[[bytes], Event | Parts]

PAYLOAD_BYTES = 1024 * 1024

_encode = msgspec.json.Encoder(decimal_format="string").encode
_decode_fields = msgspec.json.Decoder(Fields).decode


def fingerprint(drafts: Iterable[Draft]) -> bytes:
    """128 bits over types and payloads: whether an idempotency key comes back with the same events."""
    digest = blake2b(digest_size=16)
    for draft in drafts:
        digest.update(f"{draft.type_name}\0{draft.type_version}\0{len(draft.data)}\0".encode())
        digest.update(draft.data)
    return digest.digest()


def redraft(recorded: Recorded[Any]) -> Draft:
    """The event to be written again, byte for byte, with its id: unknown fields and unknown types survive. Errors: `InvalidEvent`
    for one whose payload is in an archive."""
    gone = archived_error(recorded.row, recorded.type_name)
    if gone is not None:
        raise InvalidEvent(f"it cannot be written again: {gone}")
    meta = recorded.meta
    return Draft(
        id=recorded.row[1],
        type_name=recorded.type_name,
        type_version=recorded.type_version,
        stream=tag_hash(meta.key) if meta.key is not None else None,
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

    __slots__ = ("containers", "decode", "declared", "key", "name", "numbers", "personal", "tags", "time", "version")

    def __init__(self, event: type[Event]) -> None:
        self.declared = declaration(event)
        self.name = self.declared.name
        self.version = self.declared.version
        self.key = self.declared.key
        self.tags = self.declared.tags
        self.time = self.declared.time
        try:
            self.personal = PersonalCodec(event) if personal_fields(event) else None
            if self.personal is None:
                self.decode: Decode = msgspec.json.Decoder(event).decode
            else:
                self.decode = partial(self.personal.decode, keys=None, type_name=self.name)
            info = msgspec.inspect.type_info(event if self.personal is None else plain_type(event))
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
    """The types of one application. Adding is idempotent; two classes of one name are refused.

    With `keys` personal fields are sealed where they are encoded, and opened where what is stored is decoded; without, they are
    plain, as on the wire.
    """

    def __init__(
        self,
        events: Iterable[type[Event]] = (),
        *,
        payload_bytes: int = PAYLOAD_BYTES,
        keys: Keys | None = None,
    ) -> None:
        self.keys = keys
        self.found: set[str] = set()
        """Names of types that say what was found in other events: such as come behind the last event of a stream as well."""
        self.shared: dict[object, object] = {}
        """What those who read with these types have in common, by what they read."""
        self._by_name: dict[str, type[Event]] = {}
        self._codecs: dict[type[Event], _Codec] = {}
        self._payload_bytes = payload_bytes
        self._closing: tuple[tuple[int, int], dict[str, tuple[str, ...]]] = ((0, 0), {})
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
        if codec.personal is not None and self.keys is not None:
            check_cipher()
            self.add(SubjectForgotten)

    @property
    def closing(self) -> Mapping[str, tuple[str, ...]]:
        """For the tag of a key: the names of the event types that close a stream of such a key. Also those that are declared and that
        nobody here has handled or written yet, because they close streams all the same."""
        seen = (len(closing_types), len(self._codecs))
        if seen != self._closing[0]:
            found: dict[str, tuple[str, ...]] = {}
            for event in closing_types:
                declared = declaration(event)
                if declared.key is not None and self._by_name.get(declared.name, event) is event:
                    names = found.get(declared.key[1], ())
                    found[declared.key[1]] = tuple(dict.fromkeys((*names, declared.name)))
            self._closing = (seen, found)
        return self._closing[1]

    @property
    def personal(self) -> tuple[type[Event], ...]:
        """The types with personal fields that are known."""
        return tuple(event for event, codec in self._codecs.items() if codec.personal is not None)

    def subjects(self, events: Iterable[Event]) -> Iterator[str]:
        """Whose personal data these events hold, as `name=value`. Errors: `InvalidEvent`, `DefinitionError`."""
        for event in events:
            self.add(type(event))
            personal = self._codecs[type(event)].personal
            if personal is not None:
                yield from personal.subjects(event)

    async def prepare(self, events: Iterable[object]) -> None:
        """Make the keys that encoding these will need, without blocking; what is no event is passed over. Errors: `InvalidEvent`,
        `DefinitionError`, `Unavailable`."""
        if self.keys is None:
            return
        personal = [one for one in events if isinstance(one, Event) and declaration(type(one)).subject is not None]
        if personal:
            await self.keys.prepare(self.subjects(personal))

    def unsealed(self, name: str, data: bytes) -> bytes:
        """A stored payload as it is on the wire. Errors: `UnreadableEvent`, `KeyLost`, `Unavailable`."""
        return unsealed(name, data, self.keys)

    def seals(self, name: str, version: int) -> bool:
        """Whether `sealed` seals payloads of this stored name and version."""
        event = self._by_name.get(name)
        codec = self._codecs[event] if event is not None else None
        return codec is not None and codec.personal is not None and self.keys is not None and version == codec.version

    def sealed(self, name: str, version: int, data: bytes) -> bytes:
        """A payload that was written elsewhere or by hand, for the log: of the type's present version, with its personal fields
        sealed. Those of older versions are as they are. Errors: `UnreadableEvent`, `InvalidEvent`, those of decoding."""
        event = self._by_name.get(name)
        personal = self._codecs[event].personal if event is not None else None
        if personal is None or event is None or self.keys is None or version != self._codecs[event].version:
            return data
        opened = self.unsealed(name, data)
        return personal.sealed(self.decoder(name, version, plain=True)(opened), opened, self.keys, name)

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
        """The names under which events of these types are stored: their own, and those of types that are gone of which they
        are parts. Errors: `DefinitionError` for a type that has become others and is a type of this application."""
        wanted = tuple(events)
        found = dict.fromkeys(declaration(event).name for event in wanted)
        for gone, parts in splits():
            if any(issubclass(event, parts) for event in wanted):
                self._check_gone(gone)
                found[gone] = None
        return tuple(found)

    def _check_gone(self, name: str) -> None:
        event = self._by_name.get(name)
        if event is not None:
            raise DefinitionError(
                f"events called {name!r} are split by an upcaster, and {event.__qualname__} is called so, or was: only a type "
                'that is gone becomes others. Give the class another name="…", without was='
            )

    def former(self) -> Mapping[str, tuple[str, ...]]:
        """Name → former names, for types that have any."""
        return {codec.name: codec.declared.was for codec in self._codecs.values() if codec.declared.was}

    def current_name(self, name: str) -> str:
        """The present name of a type stored under `name`."""
        event = self._by_name.get(name)
        return declaration(event).name if event is not None else name

    # ----------------------------------------------------------------------------------------------------- encoding

    def encode(self, event: Event, *, name: str | None = None) -> bytes:
        """The payload; `name` is that under which it is stored, where that is a former one. Errors: `InvalidEvent`, naming type,
        field and value; where there are personal fields, `AlreadyForgotten` and `Unavailable`."""
        codec = self._codecs.get(type(event))
        if codec is None:
            self.add(type(event))
            codec = self._codecs[type(event)]
        try:
            if codec.personal is None:
                data = _encode(event)
                codec.decode(data)
            else:
                data = codec.personal.encode(event, self.keys, name or codec.name)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise InvalidEvent(f"{codec.name}: {_guilty(event, error)}") from error
        suspects = codec.numbers
        if codec.containers and (codec.personal is not None or _not_finite_encoded(data)):
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
        """The event ready to be stored. Without a correlation it begins one, under its own id. `time` is when it happened, where its
        type does not say it itself. Errors: `InvalidEvent`."""
        data = self.encode(event)
        codec = self._codecs[type(event)]
        if codec.time is not None:
            time = cast(int, own_time(event, codec.time))
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
        tags, which `meta` is called with. Personal fields are sealed, those of who was forgotten are forgotten; what holds any
        in an older version is stored in the present one. Errors: `UnreadableEvent`, `InvalidEvent`."""
        if name not in self._by_name:
            raise UnreadableEvent(f"no event type is called {name!r} here")
        if len(data) > self._payload_bytes:
            raise InvalidEvent(f"{name}: the payload has {len(data)} bytes, the limit is {self._payload_bytes}")
        try:
            event = self.decoder(name, version, plain=True)(data)
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            raise UnreadableEvent(f"{name} version {version} cannot be decoded: {error}") from error
        codec = self._codecs[type(event)]
        if codec.personal is not None and self.keys is not None:
            if (name, version) != (codec.name, codec.version):
                name, version, data = codec.name, codec.version, codec.personal.encode(event, None, codec.name)
            data = codec.personal.sealed(event, data, self.keys, name)
        keyed = self.keyed(event)
        said = meta(keyed)
        if codec.time is not None:
            said = msgspec.structs.replace(said, time=cast(int, own_time(event, codec.time)))
        return Draft(
            id,
            name,
            version,
            tag_hash(keyed.key) if keyed.key is not None else None,
            tuple(map(tag_hash, keyed.tags)) if keyed.tags else (),
            encode_meta(said),
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

    def event(self, name: str) -> type[Event] | None:
        """The type that events stored under this name are of, where there is one."""
        return self._by_name.get(name)

    def knows(self, name: str) -> bool:
        return name in self._by_name

    def decoder(self, name: str, version: int, *, plain: bool = False) -> Decode:
        """Bytes of this stored name and version to an event: through the upcasters where the code is newer, to an
        `UnknownEvent` where the name is unknown. `plain` is for what no log of ours wrote: nothing in it is opened.

        Errors: `UnreadableEvent` for a version newer than the code's, one that no upcaster leads on from, and a type that has
        become others, for which there is `reader`.
        """
        event = self._by_name.get(name)
        steps = chain(name, version, event)
        if event is None:
            if steps:
                raise UnreadableEvent(f"{name} version {version} is read as several events, and here one is expected")
            return lambda data: UnknownEvent(type_name=name, type_version=version, fields=_decode_fields(data))
        codec = self._codecs[event]
        keys = None if plain else self.keys
        if event is SubjectForgotten and keys is not None:
            return partial(_told, keys)
        if not steps:
            return codec.decode if codec.personal is None else partial(codec.personal.decode, keys=keys, type_name=name)

        def decode(data: bytes) -> Event:
            return codec.decode(_encode(led_on(steps, unsealed_fields(name, data, keys))))

        return decode

    def reader(self, name: str, version: int) -> Read:
        """As `decoder`, for those who can read `Parts` as well. Errors: `UnreadableEvent`."""
        if name in self._by_name:
            return self.decoder(name, version)
        steps = chain(name, version, None)
        if not steps:
            return self.decoder(name, version)
        self.covering(steps[-1].parts or ())

        def read(data: bytes) -> Parts:
            events: Any = led_on(steps, unsealed_fields(name, data, self.keys))
            plain = Registry(payload_bytes=self._payload_bytes)
            try:
                # What is made by hand is checked as what is written is.
                return Parts(tuple(self._codecs[type(event)].decode(plain.encode(event)) for event in events))
            except InvalidEvent as error:
                raise UnreadableEvent(f"{steps[-1]} gave an event that is none: {error}") from error

        return read

    def selected(
        self, parts: Parts, row: Row, terms: Sequence[tuple[Collection[str], Collection[bytes]]] = ()
    ) -> Iterator[tuple[int, Event]]:
        """The parts of a stored event, each with its number from 1; those that match one of the terms, where any are given: of
        one of these types (none: of any), with all of these tags.

        Errors: `UnreadableEvent` for a part with a key that the stored event has neither as its key nor as a tag: who looks for
        that key would never find it.
        """
        meta = decode_meta(row[10])
        for number, event in enumerate(parts.events, 1):
            keyed = self.keyed(event)
            if keyed.key is not None and keyed.key != meta.key and keyed.key not in meta.tags:
                known = ", ".join((meta.key or "no key", *meta.tags))
                raise UnreadableEvent(
                    f"part {number}, {declaration(type(event)).name}, has the key {keyed.key}, and the stored event has {known}: "
                    "it could not be found by that key. Events that are to be split by other keys are to be written anew"
                )
            name = declaration(type(event)).name
            tags = {tag_hash(text) for text in (keyed.key, *keyed.tags) if text is not None}
            chosen = [not types or name in types for types, wanted in terms if tags.issuperset(wanted)]
            if any(chosen) or not terms:
                yield number, event


def _told(keys: Keys, data: bytes) -> Event:
    """Whoever reads on behind this event finds no key of the subject in this process."""
    event = msgspec.json.decode(data, type=SubjectForgotten)
    keys.drop(event.subject)
    return event


def _guilty(event: Event, error: Exception | None) -> str:
    """The field that cannot be stored, found by trying each. Of personal ones no value is told."""
    personal = {field.name for field in personal_fields(type(event))}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if _not_finite(value):
            told = name if name in personal else f"{name}={value!r}"
            return f"{told} holds NaN or infinity, which cannot be stored"
    for name, hint in _hints(type(event)).items():
        if name in personal:
            continue
        value = getattr(event, name, None)
        try:
            msgspec.json.decode(_encode(value), type=hint)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as wrong:
            return f"{name}={value!r} cannot be stored: {wrong}"
    return str(error)


def _hints(event: type[Event]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(event, include_extras=True)
