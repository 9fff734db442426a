"""What carries events between applications.

A channel is a name and what it carries. Where it is comes from the settings, so that the same code runs over any broker.
State lives in a log, never in a channel: what an application's *outbox* names is sent after it was stored, what its *inbox*
names is stored before it is handled, each event once by its source and id. A handler may also read a channel directly
(`@on(source=…)`), without the log: at least once.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast

from ensue.errors import DefinitionError
from ensue.events.message import Command, Event, Query

__all__ = ["Channel", "ChannelStart"]

ChannelStart: TypeAlias = Literal["beginning", "now"] | datetime


class Channel:
    """`orders = Channel("orders", OrderPlaced, OrderShipped)`; `ENSUE_CHANNEL_ORDERS` or `url=` says where it is.

    `ENSUE_CHANNELS` is the place of all channels that have none of their own.
    """

    __slots__ = ("carries", "name", "start", "unknown", "url")

    def __init__(
        self,
        name: str,
        /,
        *carries: type[Event] | type[Command[Any]] | type[Query[Any]],
        url: str | None = None,
        start: ChannelStart | None = None,
        unknown: Literal["park", "skip"] = "park",
    ) -> None:
        """`carries` are the messages that travel on it, with their subclasses; others are never sent.

        `start` is where an application begins that is new to it: with what the broker still has ("beginning"), with what comes
        ("now"), or at a time; without it, at the beginning where the broker keeps one. For an outbox on a log that already
        holds such events it must be said. `unknown` is what happens to messages of other types than `carries`: they are kept
        as dead letters, or passed over, as on a topic that others use too. Errors: `DefinitionError`.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise DefinitionError(f"{name!r} is not a name for a channel; use letters, digits, _ and -")
        if not carries:
            raise DefinitionError(
                f"the channel {name} carries nothing; name the events: Channel({name!r}, OrderPlaced)"
            )
        if unknown not in ("park", "skip"):
            raise DefinitionError(f'the channel {name}: unknown={unknown!r}; it is "park" or "skip"')
        given = cast("object", start)
        if given not in (None, "beginning", "now") and not isinstance(given, datetime):
            raise DefinitionError(f'the channel {name}: start={start!r}; it is "beginning", "now" or a datetime')
        self.name = name
        self.carries = carries
        self.url = url
        self.start: ChannelStart | None = start
        self.unknown = unknown

    @property
    def carried_events(self) -> tuple[type[Event], ...]:
        """The events among what it carries."""
        return tuple(message for message in self.carries if issubclass(message, Event))

    @property
    def variable(self) -> str:
        """The environment variable that says where it is."""
        return f"ENSUE_CHANNEL_{self.name.upper().replace('-', '_')}"

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {', '.join(message.__name__ for message in self.carries)})"
