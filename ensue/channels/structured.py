"""The JSON format of CloudEvents: one document with the attributes and the data of one event."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import msgspec

from ensue.channels.attributes import (
    ATTRIBUTES_SIZE,
    BARE,
    JSON,
    KNOWN,
    Envelope,
    NotAnEvent,
    check_content_type,
    is_json,
    quoted,
    read_event,
    write_attributes,
)
from ensue.channels.base import Message, Received

__all__ = ["looks_structured", "raw_json", "read_structured", "write_structured"]

STRUCTURED = "application/cloudevents+json; charset=utf-8"

raw_json = msgspec.json.Decoder(msgspec.Raw).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_scalar = msgspec.json.Decoder(str | int | bool | None).decode
_member = re.compile(rb'"[ \t\r\n]*:').findall
_member_among_escapes = re.compile(rb'(?<!\\)"[ \t\r\n]*:').findall
_document = msgspec.json.Encoder().encode


def _as_json(data: bytes) -> msgspec.Raw | None:
    """The data as it may stand in a document and come out again byte for byte, if it may."""
    try:
        if not data.isascii():
            data.decode()
        raw = raw_json(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return raw if len(memoryview(raw)) == len(data) else None


def write_structured(envelope: Envelope) -> Message:
    attributes = write_attributes(envelope, BARE)
    check_content_type(envelope.content_type)
    if envelope.version != 1:
        attributes["dataversion"] = envelope.version
    attributes["datacontenttype"] = envelope.content_type
    data = envelope.data
    if data:
        raw = _as_json(data) if is_json(envelope.content_type) else None
        if raw is not None:
            attributes["data"] = raw
        else:
            attributes["data_base64"] = b64encode(data).decode()
    return Message(body=_document(attributes), headers={}, content_type=STRUCTURED, key=envelope.key)


def looks_structured(body: bytes, data_bytes: int) -> bool:
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


def read_structured(received: Received, data_bytes: int) -> Envelope:
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
        raise NotAnEvent(f"the attribute {quoted(twice)} is there twice")
    found: dict[str, str] = {}
    for name, raw in members.items():
        value = _text(name, raw)
        if value is not None:
            found[name] = value
    content_type = found.pop("datacontenttype", None) or JSON
    content = _data(data, encoded, content_type)
    if len(content) > data_bytes:
        raise NotAnEvent(f"the data has {len(content)} bytes, the limit is {data_bytes}")
    if not found.get("specversion"):
        raise NotAnEvent("the attribute specversion is missing or empty")
    values = tuple([found.pop(name, None) for name in KNOWN])
    return read_event(values, found, content, content_type, received.key)


def _text(name: str, raw: msgspec.Raw) -> str | None:
    """The canonical text of an attribute's value. Errors: `NotAnEvent`."""
    try:
        value = _scalar(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise NotAnEvent(f"the attribute {quoted(name)} is neither a text, a whole number, true nor false") from error
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not -(2**31) <= value < 2**31:
        raise NotAnEvent(f"the attribute {quoted(name)} is a number beyond 32 bits")
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
    if inside is None or is_json(content_type):
        return inside or b""
    if inside == b"null":
        return b""
    try:
        content = msgspec.json.decode(inside, type=str)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise NotAnEvent(f"data is no text, and its content type {quoted(content_type)} is not JSON") from error
    charset = re.search(r";\s*charset=\"?([\w.:-]+)", content_type, re.IGNORECASE | re.ASCII)
    try:
        return content.encode(charset[1] if charset else "utf-8")
    except (LookupError, ValueError) as error:
        raise NotAnEvent(f"data cannot be put into the character set of {quoted(content_type)}") from error


def _repeated(
    body: bytes, data: msgspec.Raw | None, members: Mapping[str, msgspec.Raw], encoded: msgspec.Raw | None
) -> str | None:
    """A member of the document that is there twice: readers disagree which of the two counts.

    The decoder takes the last one and says nothing. So whatever looks like the name of a member is counted outside the data;
    when there are more of them than members, a slower reader tells.
    """
    inside = b"" if data is None else bytes(data)
    there = len(members) + (data is not None) + (encoded is not None)
    members_of = _member_among_escapes if b"\\" in body else _member  # the first takes four times as long
    if len(members_of(body)) - len(members_of(inside)) == there:
        return None
    keys: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> None:
        keys[:] = [name for name, _ in found]  # the last object to end is the outermost

    try:
        json.loads(body, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(f"the event is no JSON object: {error}") from error
    return next((name for name in keys if keys.count(name) > 1), None)
