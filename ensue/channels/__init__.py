"""What carries events between applications: declared here, not built in this version.

A channel is a name and what it carries. Where it is comes from the settings, so that the same code runs over any broker.
State lives in a log, never in a channel: what an application's *outbox* names is sent after it was stored, what its *inbox*
names is stored before it is handled, each event once by its id. Using a channel raises `NotYetAvailable`.
"""

from __future__ import annotations

from typing import Any

from ensue.errors import DefinitionError
from ensue.events.message import Command, Event, Query

__all__ = ["Channel"]


class Channel:
    """`orders = Channel("orders", OrderPlaced, OrderShipped)`; with `ENSUE_CHANNEL_ORDERS` or `url=` saying where it is.

    Declared, not built: giving it to `App(inbox=…)`, `App(outbox=…)` or `@on(source=…)` raises `NotYetAvailable`.
    """

    __slots__ = ("carries", "name", "url")

    def __init__(
        self, name: str, /, *carries: type[Event] | type[Command[Any]] | type[Query[Any]], url: str | None = None
    ) -> None:
        """`carries` are the messages that travel on it; others are never sent. Errors: `DefinitionError`."""
        if not name.replace("-", "_").isidentifier():
            raise DefinitionError(f"{name!r} is not a name for a channel; use letters, digits, _ and -")
        if not carries:
            raise DefinitionError(
                f"the channel {name} carries nothing; name the events: Channel({name!r}, OrderPlaced)"
            )
        self.name = name
        self.carries = carries
        self.url = url

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {', '.join(message.__name__ for message in self.carries)})"
