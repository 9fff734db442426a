"""A message as an adapter hands it over, for tests of what is read from it."""

from __future__ import annotations

from collections.abc import Mapping

from ensue.channels.base import Message

__all__ = ["Arrival", "arrival"]


class Arrival:
    """A `Received` without a broker."""

    def __init__(
        self,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str | None = None,
        key: str | None = None,
        where: str = "orders/3 @ 1712",
    ) -> None:
        self.body = body
        self.headers: Mapping[str, str] = headers or {}
        self.content_type = content_type
        self.key = key
        self.where = where
        self.partition = 3
        self.deliveries = 1

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


def arrival(message: Message) -> Arrival:
    """The message on the other side of a broker that changes nothing."""
    return Arrival(message.body, message.headers, content_type=message.content_type, key=message.key)
