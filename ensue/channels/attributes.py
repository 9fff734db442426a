"""The attributes of a CloudEvent: what an event has, what is legal, and how values are texts.

What all formats share. `ensue.channels.cloudevents` is the way in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from ensue.errors import GiveUp, InvalidEvent

__all__ = [
    "ATTRIBUTES_SIZE",
    "BARE",
    "CONTENT_TYPE_SIZE",
    "Envelope",
    "JSON",
    "KNOWN",
    "NAME_SIZE",
    "Names",
    "NotAnEvent",
    "Values",
    "broker_key",
    "check_content_type",
    "check_headers",
    "check_read",
    "is_json",
    "is_name",
    "kind_of",
    "quoted",
    "read_event",
    "write_attributes",
]

JSON = "application/json"

ATTRIBUTES_SIZE = 64 * 1024
"""Characters in all attributes of one event together."""
EXTENSIONS = 100
NAME_SIZE = 64
CONTENT_TYPE_SIZE = 256


class NotAnEvent(GiveUp):
    """A message that is no event, or not one that can be read. `reason` says what was found in it; it holds no payload."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event between two applications. Texts hold no control characters and are not empty where they are given."""

    id: str
    source: str
    """A URI-reference. `source` and `id` together are one event: who has seen both has seen the event."""
    type: str
    version: int = 1
    """Of the payload's schema."""
    time: int | None = None
    """When it happened, in microseconds since 1970."""
    key: str | None = None
    correlation: str | None = None
    causation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    reply_to: str | None = None
    headers: Mapping[str, str] | None = None
    """The application's own, under any names."""
    extensions: Mapping[str, str] = {}
    """Attributes that mean nothing here, `subject` and `dataschema` among them. Kept as they came."""
    data: bytes = b""
    content_type: str = JSON


# ----------------------------------------------------------------------------------------------------- writing

_ILLEGAL = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
"""Characters that no attribute may hold: control characters, lone surrogates, and what Unicode never assigns."""

is_name = re.compile(r"[a-z0-9]+", re.ASCII).fullmatch
_integer = re.compile(r"-?(0|[1-9][0-9]{0,9})", re.ASCII).fullmatch
_uri_reference = re.compile(r"([A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", re.ASCII).fullmatch
_media_type = re.compile(r"[!#-~]+/[!#-~]+( *;[ -~]*)?", re.ASCII).fullmatch

KNOWN = (
    *("specversion", "id", "source", "type", "time", "dataversion", "partitionkey", "correlationid", "causationid"),
    *("traceparent", "tracestate", "replyto", "headers", "datacontenttype"),
)
"""The attributes that an `Envelope` has fields for. Their values are handed on in this order, None for one that is missing."""
OWN = frozenset((*KNOWN, "data"))

Values: TypeAlias = tuple[str | None, ...]


class _Texts(msgspec.Struct, frozen=True):
    """The decoder of `headers`, and the encoder."""

    encode: Any = msgspec.json.Encoder().encode
    decode: Any = msgspec.json.Decoder(dict[str, str]).decode


_texts = _Texts()


def quoted(text: str) -> str:
    """A foreign text, short enough and harmless for a message to people."""
    return ascii(text if len(text) <= 60 else text[:57] + "…")


def _fault(value: str) -> str | None:
    """What is wrong with the text of an attribute."""
    found = _ILLEGAL.search(value)
    return None if found is None else f"holds the character U+{ord(found[0]):04X}, which no attribute may hold"


def _check_written(attributes: Mapping[str, str], size: int) -> None:
    """For the few events whose attributes are not all printable, or long. Errors: `InvalidEvent`."""
    if size > ATTRIBUTES_SIZE:
        raise InvalidEvent(
            f"the attributes and headers of an event have {size} characters, the limit on the wire is {ATTRIBUTES_SIZE}"
        )
    for name, value in attributes.items():
        fault = _fault(value)
        if fault is not None:
            raise InvalidEvent(f"{name} {quoted(value)} cannot be published: it {fault}")


def _headers_text(headers: Mapping[str, str]) -> str:
    """The application's headers as the text of one attribute."""
    try:
        text: str = _texts.encode(headers).decode()
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidEvent(f"headers {quoted(str(headers))} cannot be published: {error}") from error
    return text if text.isprintable() else json.dumps(dict(headers))


@lru_cache(maxsize=4096)
def _check_origin(source: str, type: str) -> None:
    """Few of them are in many events. Errors: `InvalidEvent`."""
    if not type:
        raise InvalidEvent("an event without type cannot be published")
    if not _uri_reference(source):
        raise InvalidEvent(
            f"source {quoted(source)} cannot be published: it is no URI-reference; a path such as /shop/orders is one"
        )
    _check_written({"type": type}, 2 * (len(source) + len(type)))


def _is_media_type(content_type: str) -> bool:
    return len(content_type) <= CONTENT_TYPE_SIZE and _media_type(content_type) is not None


@lru_cache(maxsize=256)
def check_content_type(content_type: str) -> None:
    if not _is_media_type(content_type):
        raise InvalidEvent(f"content_type {quoted(content_type)} cannot be published: it is no media type")
    if kind_of(content_type) != "data":
        raise InvalidEvent(
            f"content_type {quoted(content_type)} cannot be published: it is that of an event, not of its data"
        )


def _add_rare(attributes: dict[str, Any], envelope: Envelope, names: Names) -> None:
    """The attributes that few events have. Errors: `InvalidEvent`."""
    start = len(attributes)
    if envelope.version != 1:
        if not 1 <= envelope.version < 2**31:
            raise InvalidEvent(f"version {envelope.version} cannot be published: it is not between 1 and 2147483647")
        attributes[names.dataversion] = str(envelope.version)
    if envelope.tracestate and envelope.traceparent:
        attributes[names.tracestate] = envelope.tracestate
    if envelope.reply_to is not None:
        attributes[names.replyto] = envelope.reply_to
    if envelope.headers:
        attributes[names.headers] = _headers_text(envelope.headers)
    if len(envelope.extensions) > EXTENSIONS:
        raise InvalidEvent(f"{len(envelope.extensions)} extensions cannot be published: the limit is {EXTENSIONS}")
    for name, value in envelope.extensions.items():
        if name in OWN or not is_name(name) or len(name) > NAME_SIZE:
            raise InvalidEvent(f"the extension {quoted(name)} cannot be published: {_name_fault(name)}")
        attributes[names.prefix + name] = value
    if len(attributes) > start:
        _check_written(attributes, sum(map(len, attributes.values())))


def write_attributes(envelope: Envelope, names: Names) -> dict[str, Any]:
    """All but `datacontenttype`, as texts. Errors: `InvalidEvent`."""
    key, correlation, causation = envelope.key, envelope.correlation, envelope.causation
    traceparent = envelope.traceparent
    _check_origin(envelope.source, envelope.type)
    attributes: dict[str, Any] = {
        names.specversion: "1.0",
        names.id: envelope.id,
        names.source: envelope.source,
        names.type: envelope.type,
    }
    if envelope.time is not None:
        attributes[names.time] = _instant(envelope.time)
    if key is not None:
        attributes[names.partitionkey] = key
    if correlation is not None:
        attributes[names.correlationid] = correlation
    if causation is not None:
        attributes[names.causationid] = causation
    if traceparent is not None:
        attributes[names.traceparent] = traceparent
    text = f"{envelope.id}{key}{correlation}{causation}{traceparent}"
    if not text.isprintable() or len(text) > ATTRIBUTES_SIZE // 2:
        _check_written(attributes, sum(map(len, attributes.values())))
    if (
        envelope.version != 1
        or envelope.extensions
        or envelope.headers
        or envelope.reply_to is not None
        or envelope.tracestate
    ):
        _add_rare(attributes, envelope, names)
    if not all(attributes.values()):
        _check_empty(attributes, envelope.extensions, names)
    return attributes


def _check_empty(attributes: Mapping[str, str], extensions: Mapping[str, str], names: Names) -> None:
    """Only extensions may be empty. Errors: `InvalidEvent`."""
    start = len(names.prefix)
    for name, value in attributes.items():
        if not value and name[start:] not in extensions:
            raise InvalidEvent(f"an event without {name[start:]} cannot be published: it is empty")


def _name_fault(name: str) -> str:
    if name in OWN:
        return "the name has a meaning already"
    if len(name) > NAME_SIZE:
        return f"the name has more than {NAME_SIZE} characters"
    return "the names of attributes are lower-case letters and digits"


class Names(msgspec.Struct, frozen=True):
    """The names of attributes as headers."""

    prefix: str
    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    dataversion: str
    partitionkey: str
    correlationid: str
    causationid: str
    traceparent: str
    tracestate: str
    replyto: str
    headers: str

    @classmethod
    def under(cls, prefix: str) -> Names:
        return cls(prefix, *(prefix + field for field in cls.__struct_fields__[1:]))


BARE = Names.under("")


# ----------------------------------------------------------------------------------------------------- time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_second_text = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII).fullmatch
_timestamp = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
).fullmatch


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def _instant(time: int) -> str:
    seconds, microseconds = divmod(time, 1_000_000)
    try:
        return f"{_second(seconds)}.{microseconds:06d}Z"
    except OverflowError as error:
        raise InvalidEvent(f"time {time} cannot be published: it is not in the years 1 to 9999") from error


@lru_cache(maxsize=4096)
def _seconds_of(text: str) -> int:
    """The microseconds of `2026-11-29T01:02:03`. Errors: `ValueError`."""
    if not _second_text(text):
        raise ValueError(text)
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def _microseconds(text: str) -> int:
    """An RFC 3339 time; what is finer than a microsecond is cut off. Errors: `NotAnEvent`."""
    try:
        if len(text) == 27 and text[19] == "." and text[26] == "Z":
            fraction = text[20:26]
            if fraction.isascii() and fraction.isdecimal():
                return _seconds_of(text[:19]) + int(fraction)
        return _any_microseconds(text)
    except ValueError as error:
        raise NotAnEvent(f"the attribute time is {quoted(text)}, which is no RFC 3339 time") from error


def _any_microseconds(text: str) -> int:
    """Errors: `ValueError`."""
    found = _timestamp(text)
    if found is None:
        raise ValueError(text)
    day, minute, second, fraction, zone = found.groups()
    leap = second == "60"  # a second that RFC 3339 knows and Python does not
    whole = _seconds_of(f"{day}T{minute}:{'59' if leap else second}")
    whole += int(fraction[:6].ljust(6, "0")) if fraction else 0
    if leap:
        whole += 1_000_000
    if zone in "Zz":
        return whole
    hours, minutes = int(zone[1:3]), int(zone[4:])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    offset = (hours * 60 + minutes) * 60_000_000
    return whole - offset if zone[0] == "+" else whole + offset


# ----------------------------------------------------------------------------------------------------- reading


def check_read(attributes: Mapping[str, str]) -> None:
    """Errors: `NotAnEvent`."""
    size = sum(map(len, attributes.values()))
    if size > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its attributes have {size} characters, the limit is {ATTRIBUTES_SIZE}")
    for name, value in attributes.items():
        fault = _fault(value)
        if fault is not None:
            raise NotAnEvent(f"the attribute {quoted(name)} {fault}")


def check_headers(headers: Mapping[str, str]) -> None:
    """Errors: `NotAnEvent`."""
    try:
        size = len(_texts.encode(headers))
    except UnicodeEncodeError as error:
        raise NotAnEvent("a header holds half a character (a lone surrogate)") from error
    if size > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its headers have {size} bytes, the limit is {ATTRIBUTES_SIZE}")


def broker_key(key: str | None) -> str | None:
    """The broker's own key, as an attribute may hold it: one for each key. Errors: `NotAnEvent`."""
    if not key:
        return None
    if not key.isprintable() and _ILLEGAL.search(key):
        key = key.encode("unicode_escape").decode()
    if len(key) > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its key has {len(key)} characters, the limit is {ATTRIBUTES_SIZE}")
    return key


def read_event(values: Values, others: dict[str, str], data: bytes, content_type: str, key: str | None) -> Envelope:
    """Errors: `NotAnEvent`."""
    specversion, id, source, type, time, version, own_key, *_ = values
    correlation, causation, traceparent, tracestate, reply_to, headers, _ = values[7:]
    if content_type != JSON and not _is_media_type(content_type):
        raise NotAnEvent(f"its content type {quoted(content_type)} is no media type")
    if specversion != "1.0" and not _is_one(specversion):
        raise NotAnEvent(
            f"the attribute specversion is {quoted(specversion or '')}; only versions 1.x of CloudEvents are read"
        )
    if not (id and source and type):
        name = "id" if not id else "source" if not source else "type"
        raise NotAnEvent(f"the attribute {name} is missing or empty")
    text = f"{id}{source}{type}{own_key}{correlation}{causation}{traceparent}{tracestate}{reply_to}"
    if headers is not None or others or not text.isprintable() or len(text) > ATTRIBUTES_SIZE // 2:
        _check_all(values, others)
    if not own_key:
        own_key = None if key is None else broker_key(key)
    return Envelope(
        id=id,
        source=source,
        type=type,
        version=1 if version is None else _version(version),
        time=None if time is None else _microseconds(time),
        key=own_key,
        correlation=correlation or None,
        causation=causation or None,
        traceparent=traceparent or None,
        tracestate=(tracestate or None) if traceparent else None,
        reply_to=reply_to or None,
        headers=None if headers is None else _application_headers(headers),
        extensions=others,
        data=data,
        content_type=content_type,
    )


def _check_all(values: Values, others: Mapping[str, str]) -> None:
    """Errors: `NotAnEvent`."""
    if len(others) > EXTENSIONS:
        raise NotAnEvent(f"it has {len(others)} extensions, the limit is {EXTENSIONS}")
    for name in others:
        if name == "data" or not is_name(name) or len(name) > NAME_SIZE:
            raise NotAnEvent(f"the attribute {quoted(name)} is illegal: {_name_fault(name)}")
    known = {name: value for name, value in zip(KNOWN[:-1], values, strict=False) if value is not None}
    check_read({**known, **others})


def _is_one(specversion: str | None) -> bool:
    return specversion is not None and re.fullmatch(r"1\.[0-9]{1,4}", specversion, re.ASCII) is not None


def _version(text: str) -> int:
    if not _integer(text) or not 1 <= int(text) < 2**31:
        raise NotAnEvent(f"the attribute dataversion is {quoted(text)}, which is no whole number from 1")
    return int(text)


def _application_headers(text: str) -> Mapping[str, str] | None:
    try:
        headers: dict[str, str] = _texts.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NotAnEvent(f"the attribute headers is no JSON object of texts: {error}") from error
    return headers or None


@lru_cache(maxsize=256)
def kind_of(content_type: str) -> Literal["data", "structured", "batch", "unknown"]:
    media = content_type.partition(";")[0].strip().lower()
    if not media.startswith("application/cloudevents"):
        return "data"
    if media == "application/cloudevents+json":
        return "structured"
    return "batch" if media.startswith("application/cloudevents-batch") else "unknown"


@lru_cache(maxsize=256)
def is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media.endswith(("/json", "+json"))
