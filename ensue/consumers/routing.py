"""Where a delivery belongs: the key an event has for a consumer, and the segment that owns the key.

Segments are the unit of ownership. Their number is fixed when a consumer is created: `SEGMENTS`, or one for a consumer
that wants a single global order. Part of the specification is that the same key is always in the same segment, on
every process and in every version.
"""

from __future__ import annotations

from hashlib import blake2b

from ensue.events.stored import Row, decode_meta, of_tenant, tag_hash, tenant_of

__all__ = ["ONE_ORDER", "SEGMENTS", "Routing", "idempotency_key", "key_of_position", "position_of", "segment_of"]

SEGMENTS = 16
ONE_ORDER = ""
"""As a consumer's key tag: all its events have one key, so they are handled one after another."""

_EVERYTHING = tag_hash("#")


def segment_of(key: bytes, segments: int) -> int:
    """The segment of a key hash. Its first byte is already evenly spread."""
    return key[0] % segments


def key_of_position(position: int) -> bytes:
    """The key of an event that declares none: it is its own key, and waits for nobody."""
    return blake2b(b"#%d" % position, digest_size=16).digest()


class Routing:
    """The key of each event for one consumer.

    `key_tag` is None for the key that the event type declares, `ONE_ORDER`, or the name of a tag that every event of
    the consumer carries. An event without that tag is its own key.
    """

    def __init__(self, key_tag: str | None) -> None:
        self.key_tag = key_tag
        self._prefix = f"{key_tag}="

    @property
    def segments(self) -> int:
        return 1 if self.key_tag == ONE_ORDER else SEGMENTS

    def key(self, row: Row) -> bytes:
        """The hash of the event's key for this consumer."""
        if self.key_tag is None:
            return row[3] or key_of_position(row[0])
        if self.key_tag == ONE_ORDER:
            return _EVERYTHING
        text, tenant = self._tag(row), tenant_of(decode_meta(row[10]))
        if not text:
            return key_of_position(row[0])
        return tag_hash(text) if tenant is None else of_tenant(tag_hash(text), tenant)

    def text(self, row: Row) -> str:
        """The key as people read it: `order_id=o1`, `acme/order_id=o1` where tenants share the log, or `#17` for an event that is
        its own key."""
        if self.key_tag == ONE_ORDER:
            return "#"
        meta = decode_meta(row[10])
        text, tenant = meta.key if self.key_tag is None else self._tag(row), tenant_of(meta)
        if text is None:
            return f"#{row[0]}"
        return text if tenant is None else f"{tenant}/{text}"

    def _tag(self, row: Row) -> str | None:
        meta = decode_meta(row[10])
        if meta.key is not None and meta.key.startswith(self._prefix):
            return meta.key
        return next((tag for tag in meta.tags if tag.startswith(self._prefix)), None)


def position_of(key_text: str) -> int | None:
    """Of an event that is its own key, its position; None for a key that others may have."""
    number = key_text.removeprefix("#")
    return int(number) if number != key_text and number.isdecimal() else None


def idempotency_key(log_id: str, consumer: str, position: int, edits: int) -> str:
    """The key for calls to the outside: the same on every attempt at one delivery, another after an edit."""
    return blake2b(f"{log_id}/{consumer}/{position}/{edits}".encode(), digest_size=16).hexdigest()
