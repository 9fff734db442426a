"""CloudEvents 1.0 on the wire: an event to a message of a broker, and back.

Three formats. *Binary*: the attributes are headers that begin with the prefix of the protocol's binding, the body is the
payload. *Structured*: the body is one JSON document with attributes and payload. *JSON*: the body is the payload and no event is
made of it, for other programs that know nothing of CloudEvents. Reading finds out which of them a message is.

What the specification leaves open, and what a reader of another make sees, is in `docs/wire.md`. Nothing here does input or
output, asks for time or draws ids.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import msgspec

from ensue.channels.base import Message, Received
from ensue.errors import GiveUp, InvalidEvent

__all__ = ["Envelope", "Format", "NotAnEvent", "decode", "encode"]

Format: TypeAlias = Literal["binary", "structured", "json"]

JSON = "application/json"
STRUCTURED = "application/cloudevents+json; charset=UTF-8"

DATA_BYTES = 1024 * 1024
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


def encode(envelope: Envelope, *, prefix: str, format: Format) -> Message:
    """The message to publish. Errors: `InvalidEvent`, naming the attribute, for what no reader would take."""
    codec = _codec(prefix)
    if format == "binary":
        return codec.binary(envelope)
    if format == "structured":
        return _structured(envelope)
    return codec.bare(envelope)


def decode(
    received: Received,
    *,
    prefix: str,
    default_type: str | None = None,
    default_source: str = "",
    id_from: str | None = None,
    lasting: bool = False,
    fresh: Callable[[], str] | None = None,
    data_bytes: int = DATA_BYTES,
) -> Envelope:
    """The event in a message, whatever its format.

    Bare JSON is an event only with a `default_type`, which counts where the message says none. Its id is the first of: what
    `id_from` names (`header:NAME`, or `field:NAME` with dots for fields in fields); the header `id` under the prefix; where
    *lasting* says that `Received.where` means this message for ever, a hash of that and the body; a *fresh* one, by which a
    message that comes again is not known.

    Errors: `NotAnEvent`, and no other.
    """
    codec = _codec(prefix)
    content_type = received.content_type
    if content_type is not None and content_type != JSON:
        kind = _kind(content_type[:CONTENT_TYPE_SIZE])
        if kind == "structured":
            return _read_structured(received, data_bytes)
        if kind != "data":
            raise NotAnEvent(_REFUSED[kind].format(content_type=_quoted(content_type)))
    found = codec.attributes(received.headers)
    if "specversion" in found:
        return _read_binary(received, found, content_type, data_bytes)
    body = received.body
    if content_type is None and b'"specversion"' in body and _looks_structured(body, data_bytes):
        return _read_structured(received, data_bytes)
    if default_type is None:
        raise NotAnEvent(codec.missing(found, content_type))
    if len(body) > data_bytes:
        raise NotAnEvent(f"the body has {len(body)} bytes, the limit is {data_bytes}")
    identity = _Identity(id_from, lasting, fresh)
    return codec.read_bare(received, found, default_type, default_source, identity)


# ----------------------------------------------------------------------------------------------------- attributes

_ILLEGAL = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
"""Characters that no attribute may hold: control characters, lone surrogates, and what Unicode never assigns."""

_name = re.compile(r"[a-z0-9]+", re.ASCII).fullmatch
_integer = re.compile(r"-?(0|[1-9][0-9]{0,9})", re.ASCII).fullmatch
_uri_reference = re.compile(r"([A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", re.ASCII).fullmatch
_media_type = re.compile(r"[!#-~]+/[!#-~]+( *;[ -~]*)?", re.ASCII).fullmatch

_OWN = frozenset(
    {
        *("specversion", "id", "source", "type", "time", "datacontenttype", "data", "dataversion", "partitionkey"),
        *("correlationid", "causationid", "traceparent", "tracestate", "replyto", "headers"),
    }
)


class _Texts(msgspec.Struct, frozen=True):
    """The decoder of `headers`, and the encoder."""

    encode: Any = msgspec.json.Encoder().encode
    decode: Any = msgspec.json.Decoder(dict[str, str]).decode


_texts = _Texts()


def _quoted(text: str) -> str:
    """A foreign text, short enough and harmless for a message to people."""
    return ascii(text if len(text) <= 60 else text[:57] + "…")


def _fault(value: str) -> str | None:
    """What is wrong with the text of an attribute."""
    found = _ILLEGAL.search(value)
    return None if found is None else f"holds the character U+{ord(found[0]):04X}, which no attribute may hold"


def _check_written(attributes: Mapping[str, str], text: str) -> None:
    """For the few events whose attributes are not all printable or too long. `text` is all values. Errors: `InvalidEvent`."""
    if len(text) > ATTRIBUTES_SIZE:
        raise InvalidEvent(
            f"the attributes and headers of an event have {len(text)} characters, the limit on the wire is {ATTRIBUTES_SIZE}"
        )
    for name, value in attributes.items():
        fault = _fault(value)
        if fault is not None:
            raise InvalidEvent(f"{name} {_quoted(value)} cannot be published: it {fault}")


def _headers_text(headers: Mapping[str, str]) -> str:
    """The application's headers as the text of one attribute."""
    try:
        text: str = _texts.encode(headers).decode()
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidEvent(f"headers {_quoted(str(headers))} cannot be published: {error}") from error
    return text if text.isprintable() else json.dumps(dict(headers))


@lru_cache(maxsize=1024)
def _check_source(source: str) -> None:
    if not _uri_reference(source):
        raise InvalidEvent(
            f"source {_quoted(source)} cannot be published: it is no URI-reference; a path such as /shop/orders is one"
        )


def _is_media_type(content_type: str) -> bool:
    return len(content_type) <= CONTENT_TYPE_SIZE and _media_type(content_type) is not None


@lru_cache(maxsize=256)
def _check_content_type(content_type: str) -> None:
    if not _is_media_type(content_type):
        raise InvalidEvent(f"content_type {_quoted(content_type)} cannot be published: it is no media type")
    if _kind(content_type) != "data":
        raise InvalidEvent(
            f"content_type {_quoted(content_type)} cannot be published: it is that of an event, not of its data"
        )


def _optional(envelope: Envelope, names: _Names) -> dict[str, str]:
    """The attributes that many events lack: by name, prefixed. Errors: `InvalidEvent`."""
    attributes: dict[str, str] = {}
    if envelope.version != 1:
        if not 1 <= envelope.version < 2**31:
            raise InvalidEvent(f"version {envelope.version} cannot be published: it is not between 1 and 2147483647")
        attributes[names.dataversion] = str(envelope.version)
    if envelope.key is not None:
        attributes[names.partitionkey] = envelope.key
    if envelope.correlation is not None:
        attributes[names.correlationid] = envelope.correlation
    if envelope.causation is not None:
        attributes[names.causationid] = envelope.causation
    if envelope.traceparent is not None:
        attributes[names.traceparent] = envelope.traceparent
        if envelope.tracestate:
            attributes[names.tracestate] = envelope.tracestate
    if envelope.reply_to is not None:
        attributes[names.replyto] = envelope.reply_to
    if envelope.headers:
        attributes[names.headers] = _headers_text(envelope.headers)
    if "" in attributes.values():
        name = next(name for name, value in attributes.items() if not value)
        raise InvalidEvent(f"{name} cannot be published: it is empty")
    if len(envelope.extensions) > EXTENSIONS:
        raise InvalidEvent(f"{len(envelope.extensions)} extensions cannot be published: the limit is {EXTENSIONS}")
    for name, value in envelope.extensions.items():
        if name in _OWN or not _name(name) or len(name) > NAME_SIZE:
            raise InvalidEvent(f"the extension {_quoted(name)} cannot be published: {_name_fault(name)}")
        attributes[names.prefix + name] = value
    return attributes


def _name_fault(name: str) -> str:
    if name in _OWN:
        return "the name has a meaning already"
    if len(name) > NAME_SIZE:
        return f"the name has more than {NAME_SIZE} characters"
    return "the names of attributes are lower-case letters and digits"


class _Names(msgspec.Struct, frozen=True):
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
    def under(cls, prefix: str) -> _Names:
        return cls(prefix, *(prefix + field for field in cls.__struct_fields__[1:]))


_BARE = _Names.under("")


def _required(envelope: Envelope) -> None:
    """Errors: `InvalidEvent`."""
    for name in ("id", "source", "type"):
        if not getattr(envelope, name):
            raise InvalidEvent(f"an event without {name} cannot be published")


# ----------------------------------------------------------------------------------------------------- time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
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
    """Of `2026-11-29T01:02:03`."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def _microseconds(text: str) -> int:
    """An RFC 3339 time; what is finer than a microsecond is cut off. Errors: `NotAnEvent`."""
    found = _timestamp(text)
    if found is not None:
        day, minute, second, fraction, zone = found.groups()
        leap = second == "60"  # a second that RFC 3339 knows and Python does not
        try:
            whole = _seconds_of(f"{day}T{minute}:{'59' if leap else second}")
        except ValueError:
            pass
        else:
            micro = int(fraction[:6].ljust(6, "0")) if fraction else 0
            if leap:
                whole += 1_000_000
            if zone in "Zz":
                return whole + micro
            hours, minutes = int(zone[1:3]), int(zone[4:])
            if hours < 24 and minutes < 60:
                offset = (hours * 60 + minutes) * 60_000_000
                return whole + micro - (offset if zone[0] == "+" else -offset)
    raise NotAnEvent(f"the attribute time is {_quoted(text)}, which is no RFC 3339 time")


# ----------------------------------------------------------------------------------------------------- binary

_safe = re.compile(r"[!#$&-~]*", re.ASCII).fullmatch
_unsafe = re.compile(r"[^!#$&-~]")


def _escaped(value: str) -> str:
    """Percent-encoded as the HTTP binding has it: spaces, quotes, per cent, and all but printable ASCII."""
    return _unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)


def _unescaped(name: str, value: str) -> str:
    """Errors: `NotAnEvent`."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    if "%" not in value:
        return value
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise NotAnEvent(f"the attribute {name} is percent-encoded and not UTF-8") from error


class _Codec:
    """One binding: how names begin, and how values are written."""

    __slots__ = ("escapes", "names", "prefixes", "says_content_type")

    def __init__(self, prefix: str) -> None:
        self.names = _Names.under(prefix)
        self.escapes = prefix == "ce-"
        """Values are percent-encoded, names are the same in upper and lower case: HTTP and NATS."""
        self.says_content_type = prefix in ("ce-", "")
        """`datacontenttype` is a header as well: NATS wants it, and readers of MQTT look nowhere else."""
        self.prefixes = (prefix, "cloudEvents:", "cloudEvents_") if prefix.startswith("cloudEvents") else (prefix,)
        """AMQP has two, and a message uses one of them."""

    def binary(self, envelope: Envelope) -> Message:
        names = self.names
        content_type = envelope.content_type
        if content_type != JSON:
            _check_content_type(content_type)
        if not (envelope.id and envelope.source and envelope.type):
            _required(envelope)
        _check_source(envelope.source)
        headers = {
            names.specversion: "1.0",
            names.id: envelope.id,
            names.source: envelope.source,
            names.type: envelope.type,
        }
        if envelope.time is not None:
            headers[names.time] = _instant(envelope.time)
        headers.update(_optional(envelope, names))
        if self.says_content_type:
            headers[names.datacontenttype] = content_type
        text = "".join(headers.values())
        if not text.isprintable() or len(text) > ATTRIBUTES_SIZE:
            _check_written(headers, text)
        if self.escapes and not _safe(text):
            headers = {name: _escaped(value) for name, value in headers.items()}
        return Message(body=envelope.data, headers=headers, content_type=content_type, key=envelope.key)

    def bare(self, envelope: Envelope) -> Message:
        """The payload, and beside it what makes a repetition known and a type told."""
        _required(envelope)
        _check_content_type(envelope.content_type)
        headers = {self.names.id: envelope.id, self.names.type: envelope.type}
        _check_written(headers, envelope.id + envelope.type)
        if self.escapes:
            headers = {name: _escaped(value) for name, value in headers.items()}
        return Message(body=envelope.data, headers=headers, content_type=envelope.content_type, key=envelope.key)

    def attributes(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Those headers that are attributes, without the prefix. Errors: `NotAnEvent`."""
        if self.escapes:
            return self._folded(headers)
        for prefix in self.prefixes:
            if not prefix:
                return {name: value for name, value in headers.items() if len(name) <= NAME_SIZE and _name(name)}
            start = len(prefix)
            found = {name[start:]: value for name, value in headers.items() if name.startswith(prefix)}
            if found:
                return found
        return {}

    def _folded(self, headers: Mapping[str, str]) -> dict[str, str]:
        start = len(self.names.prefix)
        found: dict[str, str] = {}
        for header, value in headers.items():
            name = header.lower()
            if name.startswith("ce-"):
                name = name[start:]
                if name in found:
                    raise NotAnEvent(f"the attribute {_quoted(name)} is there twice")
                found[name] = value if _safe(value) else _unescaped(name, value)
        return found

    def missing(self, found: Mapping[str, str], content_type: str | None) -> str:
        """Why a message without `specversion` is none, where bare JSON is not declared."""
        if self.names.prefix and found:
            return f"the attribute specversion is missing; there are: {', '.join(map(_quoted, list(found)[:12]))}"
        said = "none" if content_type is None else _quoted(content_type)
        return (
            f"it has no header {self.names.specversion!r} and no content type application/cloudevents+json (but {said}): it is "
            "no CloudEvent; where the messages are bare JSON, say format=json and type=… in the channel's URL"
        )

    def read_bare(
        self, received: Received, found: Mapping[str, str], default_type: str, default_source: str, identity: _Identity
    ) -> Envelope:
        body = received.body
        try:
            body.decode()
            document = _raw(body)
        except UnicodeDecodeError as error:
            raise NotAnEvent(f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02X}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise NotAnEvent(f"the body is no CloudEvent and no JSON: {error}") from error
        told = {name: found[name] for name in ("id", "source", "type") if found.get(name)}
        _check_read(told)
        own = {prefix + name for prefix in self.prefixes for name in told}
        others = {
            name: value
            for name, value in received.headers.items()
            if (name.lower() if self.escapes else name) not in own and name.lower() != "content-type"
        }
        _check_headers(others)
        return Envelope(
            id=identity.of(received, told.get("id"), document),
            source=told.get("source") or default_source,
            type=told.get("type") or default_type,
            key=_broker_key(received.key),
            headers=others or None,
            data=body,
        )


@lru_cache(maxsize=64)
def _codec(prefix: str) -> _Codec:
    return _Codec(prefix)


def _check_read(attributes: Mapping[str, str]) -> None:
    """Errors: `NotAnEvent`."""
    text = "".join(attributes.values())
    if len(attributes) > EXTENSIONS + len(_OWN):
        raise NotAnEvent(f"it has {len(attributes)} attributes, the limit is {EXTENSIONS + len(_OWN)}")
    if len(text) > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its attributes have {len(text)} characters, the limit is {ATTRIBUTES_SIZE}")
    if not text.isprintable():
        for name, value in attributes.items():
            fault = _fault(value)
            if fault is not None:
                raise NotAnEvent(f"the attribute {_quoted(name)} {fault}")


def _check_headers(headers: Mapping[str, str]) -> None:
    """Errors: `NotAnEvent`."""
    try:
        size = len(_texts.encode(headers))
    except UnicodeEncodeError as error:
        raise NotAnEvent("a header holds half a character (a lone surrogate)") from error
    if size > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its headers have {size} bytes, the limit is {ATTRIBUTES_SIZE}")


def _broker_key(key: str | None) -> str | None:
    """The broker's own key, as an attribute may hold it: one for each key. Errors: `NotAnEvent`."""
    if not key:
        return None
    if not key.isprintable() and _ILLEGAL.search(key):
        key = key.encode("unicode_escape").decode()
    if len(key) > ATTRIBUTES_SIZE:
        raise NotAnEvent(f"its key has {len(key)} characters, the limit is {ATTRIBUTES_SIZE}")
    return key


def _read_binary(received: Received, found: dict[str, str], content_type: str | None, data_bytes: int) -> Envelope:
    data = received.body
    if len(data) > data_bytes:
        raise NotAnEvent(f"the data has {len(data)} bytes, the limit is {data_bytes}")
    said = found.pop("datacontenttype", None) or content_type or JSON
    return _event(found, data, said, received.key)


def _event(found: dict[str, str], data: bytes, content_type: str, key: str | None) -> Envelope:
    """Of all its attributes but `datacontenttype`; takes those that are known out of the dictionary. Errors: `NotAnEvent`."""
    if content_type != JSON and not _is_media_type(content_type):
        raise NotAnEvent(f"its content type {_quoted(content_type)} is no media type")
    _check_read(found)
    take = found.pop
    specversion = take("specversion", "")
    if specversion != "1.0" and not _is_one(specversion):
        raise NotAnEvent(
            f"the attribute specversion is {_quoted(specversion)}; only versions 1.x of CloudEvents are read"
        )
    id, source, type = take("id", ""), take("source", ""), take("type", "")
    if not (id and source and type):
        name = "id" if not id else "source" if not source else "type"
        raise NotAnEvent(f"the attribute {name} is missing or empty")
    time = take("time", None)
    version = take("dataversion", None)
    headers = take("headers", None)
    traceparent, tracestate = take("traceparent", None) or None, take("tracestate", None) or None
    envelope = Envelope(
        id=id,
        source=source,
        type=type,
        version=1 if version is None else _version(version),
        time=None if time is None else _microseconds(time),
        key=take("partitionkey", None) or _broker_key(key),
        correlation=take("correlationid", None) or None,
        causation=take("causationid", None) or None,
        traceparent=traceparent,
        tracestate=tracestate if traceparent else None,
        reply_to=take("replyto", None) or None,
        headers=None if headers is None else _application_headers(headers),
        extensions=found,
        data=data,
        content_type=content_type,
    )
    for name in found:
        if name == "data" or not _name(name) or len(name) > NAME_SIZE:
            raise NotAnEvent(f"the attribute {_quoted(name)} is illegal: {_name_fault(name)}")
    return envelope


def _is_one(specversion: str) -> bool:
    return re.fullmatch(r"1\.[0-9]{1,4}", specversion, re.ASCII) is not None


def _version(text: str) -> int:
    if not _integer(text) or not 1 <= int(text) < 2**31:
        raise NotAnEvent(f"the attribute dataversion is {_quoted(text)}, which is no whole number from 1")
    return int(text)


def _application_headers(text: str) -> Mapping[str, str] | None:
    try:
        headers: dict[str, str] = _texts.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NotAnEvent(f"the attribute headers is no JSON object of texts: {error}") from error
    return headers or None


# ----------------------------------------------------------------------------------------------------- structured

_REFUSED = {
    "batch": "its content type {content_type} is a batch; events are read one to a message",
    "unknown": "its content type {content_type} is an event format that is not known here; application/cloudevents+json is",
}

_raw = msgspec.json.Decoder(msgspec.Raw).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_scalar = msgspec.json.Decoder(str | int | bool | None).decode
_document = msgspec.json.Encoder().encode


@lru_cache(maxsize=256)
def _kind(content_type: str) -> Literal["data", "structured", "batch", "unknown"]:
    media = content_type.partition(";")[0].strip().lower()
    if not media.startswith("application/cloudevents"):
        return "data"
    if media == "application/cloudevents+json":
        return "structured"
    return "batch" if media.startswith("application/cloudevents-batch") else "unknown"


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media.endswith(("/json", "+json"))


def _as_json(data: bytes) -> msgspec.Raw | None:
    """The data as it may stand in a document and come out again byte for byte, if it may."""
    try:
        if not data.isascii():
            data.decode()
        raw = _raw(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return raw if len(memoryview(raw)) == len(data) else None


def _structured(envelope: Envelope) -> Message:
    _required(envelope)
    _check_source(envelope.source)
    _check_content_type(envelope.content_type)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
    }
    if envelope.time is not None:
        attributes["time"] = _instant(envelope.time)
    attributes.update(_optional(envelope, _BARE))
    attributes["datacontenttype"] = envelope.content_type
    text = "".join(attributes.values())
    if not text.isprintable() or len(text) > ATTRIBUTES_SIZE:
        _check_written(attributes, text)
    if "dataversion" in attributes:
        attributes["dataversion"] = envelope.version
    data = envelope.data
    if data:
        raw = _as_json(data) if _is_json(envelope.content_type) else None
        if raw is not None:
            attributes["data"] = raw
        else:
            attributes["data_base64"] = b64encode(data).decode()
    return Message(body=_document(attributes), headers={}, content_type=STRUCTURED, key=envelope.key)


def _looks_structured(body: bytes, data_bytes: int) -> bool:
    """Whether a message that says no content type is an event: messages of MQTT 3.1.1 cannot say one."""
    if len(body) > _document_bytes(data_bytes):
        return False
    try:
        members = _members(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return {"specversion", "id", "source", "type"} <= members.keys()


def _document_bytes(data_bytes: int) -> int:
    """How large a document may be whose data is within the limit: in Base64, with every character of its attributes escaped."""
    return data_bytes * 4 // 3 + 12 * ATTRIBUTES_SIZE


def _read_structured(received: Received, data_bytes: int) -> Envelope:
    body = received.body
    if len(body) > _document_bytes(data_bytes):
        raise NotAnEvent(f"the event has {len(body)} bytes, the limit is {_document_bytes(data_bytes)}")
    try:
        body.decode()
        members = _members(body)
    except UnicodeDecodeError as error:
        raise NotAnEvent(f"the event is not UTF-8: byte {error.start} is 0x{body[error.start]:02X}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAnEvent(f"the event is no JSON object: {error}") from error
    data = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    twice = _repeated(body, data, members, encoded)
    if twice is not None:
        raise NotAnEvent(f"the attribute {_quoted(twice)} is there twice")
    found: dict[str, str] = {}
    for name, raw in members.items():
        value = _text(name, raw)
        if value is not None:
            found[name] = value
    content_type = found.pop("datacontenttype", None) or JSON
    content = _data(data, encoded, content_type)
    if len(content) > data_bytes:
        raise NotAnEvent(f"the data has {len(content)} bytes, the limit is {data_bytes}")
    if "specversion" not in found:
        raise NotAnEvent("the attribute specversion is missing or empty")
    return _event(found, content, content_type, received.key)


def _text(name: str, raw: msgspec.Raw) -> str | None:
    """The canonical text of an attribute's value. Errors: `NotAnEvent`."""
    try:
        value = _scalar(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise NotAnEvent(f"the attribute {_quoted(name)} is neither a text, a whole number, true nor false") from error
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not -(2**31) <= value < 2**31:
        raise NotAnEvent(f"the attribute {_quoted(name)} is a number beyond 32 bits")
    return str(value)


def _data(data: msgspec.Raw | None, encoded: msgspec.Raw | None, content_type: str) -> bytes:
    """Errors: `NotAnEvent`."""
    inside = None if data is None else bytes(data)
    text = None if encoded is None else _text("data_base64", encoded)
    if text is not None:
        if inside is not None and inside != b"null":
            raise NotAnEvent("data and data_base64 are both there")
        try:
            return b64decode(text, validate=True)
        except ValueError as error:
            raise NotAnEvent(f"data_base64 is no Base64: {error}") from error
    if inside is None or _is_json(content_type):
        return inside or b""
    if inside == b"null":
        return b""
    try:
        content = msgspec.json.decode(inside, type=str)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise NotAnEvent(f"data is no text, and its content type {_quoted(content_type)} is not JSON") from error
    charset = re.search(r";\s*charset=\"?([\w.:-]+)", content_type, re.IGNORECASE | re.ASCII)
    try:
        return content.encode(charset[1] if charset else "utf-8")
    except (LookupError, ValueError) as error:
        raise NotAnEvent(f"data cannot be put into the character set of {_quoted(content_type)}") from error


def _repeated(
    body: bytes, data: msgspec.Raw | None, members: Mapping[str, msgspec.Raw], encoded: msgspec.Raw | None
) -> str | None:
    """A member of the document that is there twice: readers disagree which of the two counts.

    The decoder takes the last one and says nothing. So each name is counted outside the data; what looks like a second one, or
    may be one in disguise, is settled by a slower reader.
    """
    inside = b"" if data is None else bytes(data)
    names = [*members]
    names += ["data"] * (data is not None) + ["data_base64"] * (encoded is not None)
    suspect = body.count(b"\\u") > inside.count(b"\\u") or any(
        body.count(quoted) - inside.count(quoted) > 1 for quoted in (b'"%s"' % name.encode() for name in names)
    )
    if not suspect:
        return None
    keys: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> None:
        keys[:] = [name for name, _ in found]  # the last object to end is the outermost

    try:
        json.loads(body, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(f"the event is no JSON object: {error}") from error
    return next((name for name in keys if keys.count(name) > 1), None)


# ----------------------------------------------------------------------------------------------------- bare JSON


class _Identity(msgspec.Struct, frozen=True):
    """How a message that is no CloudEvent gets an id. See `decode`."""

    id_from: str | None
    lasting: bool
    fresh: Callable[[], str] | None

    def of(self, received: Received, told: str | None, document: msgspec.Raw) -> str:
        """Errors: `NotAnEvent`."""
        if self.id_from is not None:
            return self._declared(self.id_from, received, document)
        if told:
            return told
        if self.lasting:
            digest = blake2b(received.where.encode(errors="replace"), digest_size=16)
            digest.update(b"\0")
            digest.update(received.body)
            return digest.hexdigest()
        if self.fresh is not None:
            return self.fresh()
        raise NotAnEvent(
            "it says no id, and this broker does not tell a message that comes again from a new one; say where its id is, by "
            "id=header:NAME or id=field:NAME in the channel's URL"
        )

    def _declared(self, id_from: str, received: Received, document: msgspec.Raw) -> str:
        kind, _, name = id_from.partition(":")
        if kind == "header":
            value: Any = received.header(name)
        else:
            try:
                value = msgspec.json.decode(document)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise NotAnEvent(f"the body is no JSON: {error}") from error
            for step in name.split("."):
                value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64:
            value = str(value)
        if not isinstance(value, str) or not value:
            raise NotAnEvent(f"its id is to be in the {kind} {_quoted(name)}, where there is no text or whole number")
        _check_read({f"{kind} {name}": value})
        return value
