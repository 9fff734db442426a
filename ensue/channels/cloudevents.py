"""CloudEvents 1.0 on the wire: an event to a message of a broker, and back.

Three formats. *Binary*: the attributes are headers that begin with the prefix of the protocol's binding, the body is the
payload. *Structured*: the body is one JSON document with attributes and payload. *JSON*: the body is the payload and no event is
made of it, for other programs that know nothing of CloudEvents. Reading finds out which of them a message is.

What the specification leaves open, and what a reader of another make sees, is in `docs/wire.md`. Nothing here does input or
output, asks for time or draws ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import msgspec

from ensue.channels.attributes import (
    CONTENT_TYPE_SIZE,
    JSON,
    KNOWN,
    NAME_SIZE,
    Envelope,
    Names,
    NotAnEvent,
    Values,
    broker_key,
    check_content_type,
    check_headers,
    check_read,
    is_name,
    kind_of,
    quoted,
    read_event,
    write_attributes,
)
from ensue.channels.base import Message, Received
from ensue.channels.structured import looks_structured, raw_json, read_structured, write_structured

__all__ = ["Envelope", "Format", "NotAnEvent", "decode", "encode"]

Format: TypeAlias = Literal["binary", "structured", "json"]

DATA_BYTES = 1024 * 1024

_REFUSED = {
    "batch": "its content type {content_type} is a batch; events are read one to a message",
    "unknown": "its content type {content_type} is an event format that is not known here; application/cloudevents+json is",
}


def encode(envelope: Envelope, *, prefix: str, format: Format) -> Message:
    """The message to publish. Errors: `InvalidEvent`, naming the attribute, for what no reader would take."""
    codec = _codec(prefix)
    if format == "binary":
        return codec.binary(envelope)
    if format == "structured":
        return write_structured(envelope)
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
        kind = kind_of(content_type[:CONTENT_TYPE_SIZE])
        if kind == "structured":
            return read_structured(received, data_bytes)
        if kind != "data":
            raise NotAnEvent(_REFUSED[kind].format(content_type=quoted(content_type)))
    values, others = codec.attributes(received.headers)
    body = received.body
    if values[0] is not None:
        if len(body) > data_bytes:
            raise NotAnEvent(f"the data has {len(body)} bytes, the limit is {data_bytes}")
        return read_event(values, others, body, values[-1] or content_type or JSON, received.key)
    if content_type is None and b'"specversion"' in body and looks_structured(body, data_bytes):
        return read_structured(received, data_bytes)
    if default_type is None:
        raise NotAnEvent(codec.missing(values, content_type))
    if len(body) > data_bytes:
        raise NotAnEvent(f"the body has {len(body)} bytes, the limit is {data_bytes}")
    return codec.bare_event(received, values, default_type, default_source, _Identity(id_from, lasting, fresh))


# ----------------------------------------------------------------------------------------------------- binary

_unsafe = re.compile(r"[^!#$&-~]")


def _escaped(value: str) -> str:
    """Percent-encoded as the HTTP binding has it: spaces, quotes, per cent, and all but printable ASCII."""
    return _unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)


def _all_escaped(headers: dict[str, str]) -> dict[str, str]:
    text = "".join(headers.values())
    if text.isascii() and not (" " in text or '"' in text or "%" in text):
        return headers
    return {name: _escaped(value) for name, value in headers.items()}


def _unescaped(name: str, value: str | None) -> str | None:
    """Errors: `NotAnEvent`."""
    if value is None:
        return None
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

    __slots__ = ("escapes", "known", "names", "other", "places", "prefix", "says_content_type")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.names = Names.under(prefix)
        self.known = tuple(prefix + name for name in KNOWN)
        self.places = {name: place for place, name in enumerate(self.known)}
        self.escapes = prefix == "ce-"
        """Values are percent-encoded, names are the same in upper and lower case: HTTP and NATS."""
        self.says_content_type = prefix in ("ce-", "")
        """`datacontenttype` is a header as well: NATS wants it, and readers of MQTT look nowhere else."""
        self.other = {"cloudEvents:": "cloudEvents_", "cloudEvents_": "cloudEvents:"}.get(prefix)
        """AMQP has two prefixes, and a message uses one of them."""

    def binary(self, envelope: Envelope) -> Message:
        content_type = envelope.content_type
        headers = write_attributes(envelope, self.names)
        if content_type != JSON:
            check_content_type(content_type)
        if self.says_content_type:
            headers[self.names.datacontenttype] = content_type
            if self.escapes:
                headers = _all_escaped(headers)
        return Message(body=envelope.data, headers=headers, content_type=content_type, key=envelope.key)

    def bare(self, envelope: Envelope) -> Message:
        """The payload, and beside it what makes a repetition known and a type told."""
        attributes = write_attributes(envelope, self.names)
        check_content_type(envelope.content_type)
        headers = {name: attributes[name] for name in (self.names.id, self.names.type)}
        if self.escapes:
            headers = _all_escaped(headers)
        return Message(body=envelope.data, headers=headers, content_type=envelope.content_type, key=envelope.key)

    def attributes(self, headers: Mapping[str, str]) -> tuple[Values, dict[str, str]]:
        """Of the headers those that are attributes: the known ones, and others by name. Errors: `NotAnEvent`."""
        values: Values = tuple(map(headers.get, self.known))
        others: dict[str, str] = {}
        if len(headers) - ("content-type" in headers) > len(values) - values.count(None):
            values, others = self._with_others(headers, values)
            if self.other is not None and not others and values.count(None) == len(values):
                other = _codec(self.other)
                return other._with_others(headers, tuple(map(headers.get, other.known)))
        if self.escapes:
            text = "".join(filter(None, values))
            if '"' in text or "%" in text:
                values = tuple(map(_unescaped, KNOWN, values))
            others = {name: _unescaped(name, value) or "" for name, value in others.items()}
        return values, others

    def _with_others(self, headers: Mapping[str, str], values: Values) -> tuple[Values, dict[str, str]]:
        prefix, places = self.prefix, self.places
        start = len(prefix)
        folded = list(values)
        others: dict[str, str] = {}
        for header in headers:
            if header in places:
                continue
            name = header.lower() if self.escapes else header
            if not name.startswith(prefix):
                continue
            place = places.get(name)
            short = name[start:]
            if short in others or (place is not None and folded[place] is not None):
                raise NotAnEvent(f"the attribute {quoted(short)} is there twice")
            if place is not None:
                folded[place] = headers[header]
            elif prefix or (len(short) <= NAME_SIZE and is_name(short)):
                # Without a prefix, a name that no attribute may have is none.
                others[short] = headers[header]
        return tuple(folded), others

    def missing(self, values: Values, content_type: str | None) -> str:
        """Why a message without `specversion` is none, where bare JSON is not declared."""
        there = [name for name, value in zip(KNOWN, values, strict=True) if value is not None]
        if self.prefix and there:
            return f"the attribute specversion is missing; there are: {', '.join(there)}"
        said = "none" if content_type is None else quoted(content_type)
        return (
            f"it has no header {self.names.specversion!r} and no content type application/cloudevents+json (but {said}): it is "
            "no CloudEvent; where the messages are bare JSON, say type=… in the channel's URL"
        )

    def bare_event(
        self, received: Received, values: Values, default_type: str, default_source: str, identity: _Identity
    ) -> Envelope:
        body = received.body
        try:
            body.decode()
            document = raw_json(body)
        except UnicodeDecodeError as error:
            raise NotAnEvent(f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02X}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise NotAnEvent(f"the body is no CloudEvent and no JSON: {error}") from error
        _, id, source, type, *_ = values
        check_read({"id": id or "", "source": source or "", "type": type or ""})
        said = self.known[1:4]
        headers = {
            name: value
            for name, value in received.headers.items()
            if (name.lower() if self.escapes else name) not in said and name.lower() != "content-type"
        }
        check_headers(headers)
        return Envelope(
            id=identity.of(received, id, document),
            source=source or default_source,
            type=type or default_type,
            key=broker_key(received.key),
            headers=headers or None,
            data=body,
        )


@lru_cache(maxsize=64)
def _codec(prefix: str) -> _Codec:
    return _Codec(prefix)


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
            raise NotAnEvent(f"its id is to be in the {kind} {quoted(name)}, where there is no text or whole number")
        check_read({f"{kind} {name}": value})
        return value
