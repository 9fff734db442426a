"""The port of a channel: what the adapter of a broker does, and what it says that it can do.

An adapter moves messages and nothing else: it contains no retry, no order by key, no memory of what came before, no dead
letters and no reconnecting. When a connection breaks, whatever waits on it raises, and its owner opens another
(`ensue.channels.connection`): one way back for every broker, after which publishing and receiving both work or neither does.

**Publishing.** A message is confirmed when the broker has it as safely as it keeps anything. What is not confirmed may be there
all the same, so it is sent again under the same id, and receivers know the repetition by that.

**Receiving.** Members of a *group* share the messages of an address; every group gets all of them, from its `start` on. A
message is a member's from `receive` on until it is accepted, rejected or requeued; when the member ends before, however it
ends, the message comes again, to it or another one. Without a group a subscription is a *broadcast*: it gets what is published
while it exists, and nothing of it comes again.

A *partition* is where a broker keeps order. Messages of one partition are received in the order in which they were confirmed,
and of one key are all in one partition. Where brokers know no partitions all is in partition 0, and order holds as long as the
group has one member; `Capabilities.assigns` says where several members keep it. What comes again, because a member ended, comes
in order and before what is new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

import msgspec

from ensue.channels.urls import Place
from ensue.errors import EnsueError

if TYPE_CHECKING:
    from ensue.world import World

__all__ = ["Broker", "Capabilities", "From", "Message", "Received", "Revoked", "Subscription"]

From: TypeAlias = Literal["beginning", "now"] | int
"""Where a new group, or a replay, begins: with all there is, with what comes, or at a time in microseconds since 1970."""

Revoked: TypeAlias = Callable[[frozenset[int]], Awaitable[None]]
"""Called with partitions that go to another member, before they go: finish and accept what was received of them. The adapter
waits for it as long as the broker lets a member wait, and no longer."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker can do. An application that needs more does not start. The tests of the contract hold an adapter to it."""

    durable: bool
    """What was confirmed survives a restart of the broker."""
    groups: bool
    """Queue: each group gets all messages, and what no member of it accepted comes again."""
    shares: bool = True
    """Several members of a group receive at the same time, and share its messages. Without it the newest member takes the place
    of the one before, whose subscription ends."""
    broadcast: bool
    """Publish and subscribe: each subscription without a group gets everything that is published from then on."""
    replay: bool
    """Stream: a group may begin with what is there already, all of it or from a time on."""
    assigns: bool
    """Partitions are assigned to the members of a group: several of them keep the order of each key. Without it, a group that
    needs order has one member at a time."""
    cumulative: bool
    """Accepting a message accepts all before it in its partition; requeueing it requeues all after it."""
    counts: bool
    """`Received.deliveries` tells how often a message has been delivered."""
    delay: bool
    """`Message.delay_seconds` is kept by the broker."""
    largest: int | None = None
    """The largest message in bytes that the broker takes, as far as it is known before it refuses one."""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is published. `headers` are texts; the names of those that CloudEvents defines begin with the broker's prefix."""

    body: bytes
    headers: Mapping[str, str]
    content_type: str = "application/json"
    key: str | None = None
    """Messages of one key keep their order, and are all in one partition."""
    delay_seconds: float = 0.0
    """Not to be received before so many seconds have passed. Only with `Capabilities.delay`."""


class Received(Protocol):
    """A message that came. An adapter's own class: what is costly to read is read when it is asked for."""

    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def key(self) -> str | None:
        """The broker's own key, where it has one; else None."""
        ...

    @property
    def partition(self) -> int: ...
    @property
    def deliveries(self) -> int:
        """How often it was delivered, this time included; 1 where the broker does not count."""
        ...

    @property
    def where(self) -> str:
        """Where it stands, for people: `orders/3 @ 1712`."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """All of them. A header that is no text is left out."""
        ...

    def header(self, name: str) -> str | None:
        """One of them, without reading all."""
        ...


class Subscription(Protocol):
    """What one member of a group, or one broadcast, receives. Its calls are made one after another, but for `receive`, during
    which the others may be called. After an error only `close` may be called.

    Not calling `receive` bounds what is held here; it never costs the member its place in the group.
    """

    async def receive(self, most: int) -> Sequence[Received]:
        """Wait until there is at least one message; at most `most`, in order. Cancelling it loses none.

        Errors: `Unavailable` when the connection broke, or the broker ended the subscription; `WiringError` when its queue or
        topic is gone or has become another.
        """
        ...

    async def accept(self, received: Sequence[Received]) -> None:
        """They are done with and never come again, once this is known to the broker: at the latest when `close` returned.
        With `Capabilities.cumulative`, also all before them in their partitions. Errors: `Unavailable`."""
        ...

    async def reject(self, received: Sequence[Received]) -> None:
        """They are given up: to the broker's own place for such messages where one is set up, else as `accept`.
        Errors: `Unavailable`."""
        ...

    async def requeue(self, received: Sequence[Received]) -> None:
        """They are to come again, to this member or another, as soon as may be. Errors: `Unavailable`."""
        ...

    async def backlog(self) -> int | None:
        """How many messages wait that no member has received; None where the broker cannot tell. Errors: `Unavailable`."""
        ...

    async def close(self) -> None:
        """Tell the broker what was accepted, and leave. What was neither accepted nor rejected comes again. Idempotent; raises
        nothing of a connection that is broken."""
        ...


class Broker(Protocol):
    """One connection to a broker. Opened once; closed once; broken for ever when it breaks."""

    prefix: ClassVar[str]
    """What the names of CloudEvents attributes begin with in headers, by the protocol's binding."""
    parameters: ClassVar[Mapping[str, str]]
    """The URL's parameters beside those of every channel (`ensue.channels.urls.COMMON`), each with what it says."""

    def __init__(self, place: Place) -> None:
        """Not yet connected. Errors: `WiringError` for a parameter that is unknown or has no possible value."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Of the broker as it was found; before `open`, as it is commonly."""
        ...

    async def open(self, world: World) -> None:
        """Connect. Tries once, within `Place.connect_seconds`. Errors: `Unavailable`; `AccessRefused`, which trying again does
        not help; `WiringError` when it is another kind of server, or too old."""
        ...

    async def declare(self, address: str) -> None:
        """Make sure that the address can be published to: created if it is not there, unless the URL says `create=no`; checked,
        where the broker tells, to be as the URL's parameters say. Idempotent. Errors: `WiringError`, naming what is and what
        was to be; `AccessRefused`; `Unavailable`."""
        ...

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        """Send them and wait until each is confirmed or not; those that are not, by their index, with the reason. Messages of one
        key are stored in the order given; but one behind another that was not confirmed may be there all the same.

        Each error is one of: `MessageRefused` (the same message will be refused again), `Unavailable` (not stored),
        `OutcomeUnknown`, `WiringError` (the address is gone), `AccessRefused` (not allowed to publish there). Raises nothing of the broker's. May be called again before it has
        returned; between two such calls there is no order.
        """
        ...

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Subscription:
        """Begin to receive. `start` counts when the group is new. At most `prefetch` messages (at least 1) are held here that
        are neither accepted, rejected nor requeued; `receive` waits then.

        What is published after this returned is received. Errors: `MissingCapability`, `WiringError`, `AccessRefused`,
        `Unavailable`.
        """
        ...

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        """Delete the address, these groups and all their messages, as far as they exist: for tests and tools."""
        ...

    async def close(self) -> None:
        """Close the connection and its subscriptions. Idempotent; raises nothing."""
        ...
