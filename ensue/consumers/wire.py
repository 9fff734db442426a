"""Between a log and the wire: rows and events to messages, messages to events and to drafts that can be stored.

A message is known again by its source and id. What another Ensue application sent has an id that is a UUIDv7 of its own log,
and keeps it here, so that causes can be followed through all of them; any other gets one made of source and id. So the index of
ids, which every log has, is the memory of what has come: for as long as the log is kept, and in the transaction that stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from uuid import UUID

import msgspec

from ensue.channels import Channel
from ensue.channels.base import Message, Received
from ensue.channels.cloudevents import Envelope, Format, decode, encode
from ensue.errors import InvalidEvent, UnreadableEvent
from ensue.events.message import Event
from ensue.events.registry import Decode, Keyed, Registry
from ensue.events.stored import Draft, Meta, Origin, Row, decode_meta, encode_meta, tag_hash

__all__ = ["StoredMessage", "Wire", "id_of", "source_of", "stored_type", "uuid_text"]

JSON = "application/json"
_OURS = "urn:ensue:"


def source_of(application: str, log_id: str) -> str:
    """What an application's messages say that they come from: two of one name, each with a log of its own, are two sources."""
    return f"{_OURS}{application}:{log_id}"


def id_of(source: str, id: str) -> bytes:
    """The id of the event that a message is, in every log that stores it."""
    if source.startswith(_OURS):
        try:
            return UUID(id).bytes
        except ValueError:
            pass
    return blake2b(f"{source}\0{id}".encode(), digest_size=16).digest()


def uuid_text(id: bytes) -> str:
    """As `str(UUID(bytes=id))`, in a fifth of the time."""
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def stored_type(consumer: str) -> str:
    """The type under which a log keeps messages for one consumer, as they came."""
    return f"ensue.Message.{consumer}"


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as it came, kept in the log: because nobody can read it, or because its key waits. It is a `Received`."""

    headers: Mapping[str, str]
    content_type: str | None = None
    text: str | None = None
    data: bytes | None = None
    """The bytes, base64 in the log, where they are no text."""
    key: str | None = None
    where: str = ""
    reason: str = ""
    partition: int = 0
    deliveries: int = 1

    @classmethod
    def of(cls, received: Received, reason: str) -> StoredMessage:
        try:
            text, data = received.body.decode(), None
        except UnicodeDecodeError:
            text, data = None, received.body
        return cls(
            headers=dict(received.headers),
            content_type=received.content_type,
            text=text,
            data=data,
            key=received.key,
            where=received.where,
            reason=reason,
        )

    @property
    def body(self) -> bytes:
        return self.data if self.text is None and self.data is not None else (self.text or "").encode()

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


_decode_stored = msgspec.json.Decoder(StoredMessage).decode
_encode_stored = msgspec.json.Encoder().encode


class Wire:
    """One channel, as one application reads and writes it. `prefix` and `format` are the broker's and the URL's."""

    def __init__(
        self,
        registry: Registry,
        channel: Channel,
        *,
        source: str,
        prefix: str,
        format: Format,
        default_type: str | None = None,
        id_from: str | None = None,
    ) -> None:
        self.source = source
        self.lasting = False
        """`Received.where` means a message for ever, as it does in a stream: with it bare JSON that says no id is known again."""
        self._registry = registry
        self._channel = channel
        self._prefix = prefix
        self._format: Format = format
        self._default_type = default_type
        self._id_from = id_from
        self._type_header = f"{prefix}type"
        self._version_header = f"{prefix}dataversion"
        carried = registry.covering(channel.carried_events)
        former = registry.former()
        names = registry.names(carried)
        self.names: Collection[str] = frozenset((*names, *(was for name in names for was in former.get(name, ()))))
        self._decoders: dict[tuple[str | None, str | None], Decode] = {}

    # ------------------------------------------------------------------------------------------------------- writing

    def of_row(self, row: Row, name: str, version: int) -> Message:
        """An event of the log, as it is stored there."""
        meta = decode_meta(row[10])
        source, id = self.source, uuid_text(row[1])
        if meta.origin is not None:
            source, id = meta.origin.source, meta.origin.id
        return self.of(meta, name, version, row[11], source=source, id=id)

    def of_draft(self, draft: Draft) -> Message:
        """An event that is not sent from a log, such as an answer."""
        meta = decode_meta(draft.meta)
        return self.of(
            meta, draft.type_name, draft.type_version, draft.data, source=self.source, id=uuid_text(draft.id)
        )

    def fresh(self, envelope: Envelope, delay_seconds: float) -> Message:
        """What no log has."""
        message = encode(envelope, prefix=self._prefix, format=self._format)
        return message if not delay_seconds else msgspec.structs.replace(message, delay_seconds=delay_seconds)

    def of(self, meta: Meta, name: str, version: int, data: bytes, *, source: str, id: str) -> Message:
        """A message from its parts. What is personal is plain in it: the other side has no key. Errors: `KeyLost`, `Unavailable`."""
        data = self._registry.unsealed(name, data)
        envelope = Envelope(
            id=id,
            source=source,
            type=name,
            version=version,
            time=meta.time,
            key=meta.key.partition("=")[2] if meta.key is not None else None,
            correlation=uuid_text(meta.correlation),
            causation=uuid_text(meta.causation) if meta.causation is not None else None,
            traceparent=meta.traceparent,
            tracestate=meta.tracestate,
            headers=meta.headers,
            data=data,
        )
        return encode(envelope, prefix=self._prefix, format=self._format)

    # ------------------------------------------------------------------------------------------------------- reading

    def envelope(self, received: Received) -> Envelope:
        """Errors: `NotAnEvent`."""
        return decode(
            received,
            prefix=self._prefix,
            default_type=self._default_type,
            default_source=self._channel.name,
            id_from=self._id_from,
            lasting=self.lasting,
        )

    def event(self, received: Received) -> Event:
        """The event alone. Errors: `NotAnEvent`, `UnreadableEvent`."""
        name, version = received.header(self._type_header), received.header(self._version_header)
        decode = self._decoders.get((name, version))
        try:
            if decode is not None:
                return decode(received.body)
            envelope = self.envelope(received)
            decode = self._decoder(envelope.type, envelope.version)
            if name is not None and received.content_type == JSON:
                self._decoders[name, version] = decode  # from now on, what looks like this one is read like it
            return decode(envelope.data)
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            raise UnreadableEvent(f"{name or 'the message'} at {received.where} cannot be decoded: {error}") from error

    def _decoder(self, name: str, version: int) -> Decode:
        if name not in self.names:
            raise UnreadableEvent(f"the channel {self._channel.name} does not carry {name!r}")
        return self._registry.decoder(name, version, plain=True)

    def ours(self, envelope: Envelope) -> bool:
        """This application sent it itself."""
        return envelope.source == self.source

    def carries(self, envelope: Envelope) -> bool:
        return envelope.type in self.names

    def draft(self, envelope: Envelope, *, now: int) -> Draft:
        """Ready to be stored, byte for byte; `now` is its time where it says none. Errors: `UnreadableEvent`, `InvalidEvent`."""
        if not self.carries(envelope):
            raise UnreadableEvent(f"the channel {self._channel.name} does not carry {envelope.type!r}")
        id = id_of(envelope.source, envelope.id)

        def meta(keyed: Keyed) -> Meta:
            return self.meta(envelope, id, keyed, now)

        return self._registry.arrived(envelope.type, envelope.version, envelope.data, id=id, meta=meta)

    def meta(self, envelope: Envelope, id: bytes, keyed: Keyed, now: int) -> Meta:
        """What the log keeps beside the fields."""
        return Meta(
            envelope.time if envelope.time is not None else now,
            _id(envelope.correlation) or id,
            _id(envelope.causation),
            keyed.key,
            keyed.tags,
            0,
            envelope.traceparent,
            envelope.tracestate,
            envelope.headers,
            Origin(self._channel.name, envelope.source, envelope.id),
        )

    # --------------------------------------------------------------------------------------------------- kept as they came

    def kept(
        self,
        received: Received,
        consumer: str,
        reason: str,
        *,
        now: int,
        fresh: Callable[[], bytes],
        key: str | None = None,
    ) -> Draft:
        """The message as it came, for this consumer; `key` as `name=value` makes it wait with others of it.

        One that says no id is known again by where it stands, if that lasts. Elsewhere it gets a *fresh* id: it may be kept twice
        when it comes twice, but is never taken for another with the same bytes.
        """
        try:
            envelope = self.envelope(received)
            id, time = id_of(envelope.source, envelope.id), envelope.time or now
            origin = Origin(self._channel.name, envelope.source, envelope.id)
        except Exception:  # whatever is wrong with it: it is to be kept
            place = f"{self._channel.name}\0{received.where}".encode(errors="replace")
            id = blake2b(place + received.body, digest_size=16).digest() if self.lasting else fresh()
            time, origin = now, Origin(self._channel.name, "", received.where)
        id = blake2b(id + consumer.encode(), digest_size=16).digest()
        meta = Meta(time, id, None, key, origin=origin)
        return Draft(
            id=id,
            type_name=stored_type(consumer),
            type_version=1,
            stream=tag_hash(key) if key is not None else None,
            tags=(),
            meta=encode_meta(meta),
            data=_encode_stored(StoredMessage.of(received, reason)),
        )

    def stored(self, data: bytes) -> StoredMessage:
        """What `kept` kept, or what a person made of it. Errors: `InvalidEvent`."""
        try:
            return _decode_stored(data)
        except msgspec.MsgspecError as error:
            raise InvalidEvent(f"the stored message is none any more: {error}") from error


def _id(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return UUID(text).bytes
    except ValueError:
        return blake2b(text.encode(), digest_size=16).digest()
