"""NATS: streams of JetStream for groups, core NATS for those without one. Needs a server of 2.10 or later with JetStream.

**What stands for what.** An address is a subject and the stream that stores it: the one that stores it already, whatever its name,
else a new one that is named like the address, with `_` for what a stream's name may not hold. A group is a durable pull consumer
with explicit acknowledgement. Publishing is confirmed when the stream has stored the message. A new stream is in files, keeps
all, and refuses what is above its limits rather than drop what is there. It survives the death of the server's process; for a loss of
power set `jetstream { sync_interval: always }` in the server's configuration, or `replicas`.

**Order after a member ended.** The server gives again what a member held when `ack_wait` has passed, and then behind what is newer.
So who joins a group asks first whether another member lives: each answers on a subject of the group's own. If none does, all that
is not acknowledged between the group's floor and its newest delivery is given back to the server in order (`-NAK`, as the one who held
it would have done), which delivers that before anything new, and what comes first is put in order here. What was accepted beyond the
floor stays accepted. A member that lives and is slow says so every third of `ack_wait` for each message it holds, and takes
nothing twice that it still holds. Among several members there is no order; what one of them held comes to the others when it
closes, or after `ack_wait` when it died. Two that join in the same moment may both take over; then what was held comes twice.

**Broadcasts** are subscriptions of core NATS: a member that is too slow is told so (`Unavailable`), and nothing is lost in silence.
They see a message also where the stream then refuses it.

**Rights** that a user needs: to publish to the address, `$JS.API.>`, `$JS.ACK.>`, `_ensue.living.>` and `_INBOX.>`; to subscribe to the
last two, and for broadcasts to the address.

No message ids are set: within its window the server would drop what is published again knowingly, and ids of other sources.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from ensue.channels.base import Capabilities, From, Message, Revoked
from ensue.channels.nats_connection import NoResponder, Wire
from ensue.channels.nats_subscriptions import Broadcast, Member
from ensue.channels.urls import Place
from ensue.errors import (
    AccessRefused,
    EnsueError,
    MessageRefused,
    OutcomeUnknown,
    Unavailable,
    WiringError,
)
from ensue.world import World

__all__ = ["NatsBroker"]

OLDEST, DELAYS = (2, 10), (2, 12)
"""2.9 delivers to members that are gone, and what it could not deliver twice."""
API_SECONDS = 10.0
CHUNK_MESSAGES, CHUNK_BYTES = 256, 256 * 1024
UNCONFIRMED = 2048
"""How many messages of one publish may be on their way: far less than the server queues for one stream (10,000)."""
STREAM_NOT_FOUND, CONSUMER_NOT_FOUND = 10059, 10014
TOO_LARGE = (10054, 10097)
BUSY = (10023, 10028, 10047, 10077, 10118, 10119, 10167, 10194, 10195, 10008, 10009)
"""Full, or without a leader at this moment: trying again may help."""
GONE = frozenset({STREAM_NOT_FOUND, 10076, 10039, 10109, 10188})
NANOSECONDS = 1_000_000_000

_name = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_subject = re.compile(r"[^\s*>.\x00-\x1f]+(\.[^\s*>.\x00-\x1f]+)*").fullmatch
_illegal = re.compile(r"[^A-Za-z0-9_=-]")


class _Failure(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Confirmation(msgspec.Struct):
    error: _Failure | None = None


class _Stream(msgspec.Struct, frozen=True):
    """As it was found."""

    name: str
    subjects: tuple[str, ...]
    delays: bool
    ahead: float
    """Seconds that the server's clock is ahead of ours, at most."""


_confirmation = msgspec.json.Decoder(_Confirmation).decode


class NatsBroker:
    """See the module and `ensue.channels.base.Broker`."""

    prefix: ClassVar[str] = "ce-"
    parameters: ClassVar[Mapping[str, str]] = {
        "stream": "the name of the stream (default: of the one that has the address, else the address with _ for dots)",
        "subjects": "what a new stream holds and subscriptions get, with NATS' wildcards, separated by commas (default: the address)",
        "storage": "`file` (default) or `memory`, of a new stream; memory does not survive a restart",
        "replicas": "on how many servers of a cluster a new stream is kept (default: 1)",
        "max_bytes": "how large a new stream may become; then it is full and publishing fails (default: no limit)",
        "max_messages": "the same in messages",
        "max_age_seconds": "after which time a new stream drops messages, accepted or not (default: never)",
        "ack_wait_seconds": "after which time another member of a new group gets what a dead one held (default: 30)",
        "publish_seconds": "how long to wait for a confirmation (default: 10)",
    }

    def __init__(self, place: Place) -> None:
        place.check(self.parameters)
        if place.path:
            raise WiringError(f"{place.shown}: a path means nothing here; the address is a parameter")
        self._place = place
        self._storage = place.choice("storage", "file", "memory")
        self._ack_wait = place.seconds("ack_wait_seconds", 30.0)
        self._patience = place.seconds("publish_seconds", 10.0)
        self._config = self._configured()
        self._create = place.create
        self._streams: dict[str, _Stream] = {}
        self._subscriptions: set[Member | Broadcast] = set()
        self._wire: Wire | None = None
        self._world: World | None = None
        self._able = Capabilities(
            durable=self._storage == "file",
            groups=True,
            broadcast=True,
            replay=True,
            assigns=False,
            cumulative=False,
            counts=True,
            delay=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._able

    async def open(self, world: World) -> None:
        wire = Wire(self._place, world)
        await wire.open()
        try:
            version = wire.version
            if version < OLDEST:
                found = ".".join(map(str, version))
                raise WiringError(f"{self._place.shown}: the server is NATS {found}; 2.10 or later is needed")
            if not wire.server.get("jetstream"):
                raise WiringError(f"{self._place.shown}: the server has no JetStream; start it with -js")
        except BaseException:
            await wire.close()
            raise
        self._wire, self._world = wire, world
        self._able = msgspec.structs.replace(
            self._able, delay=version >= DELAYS, largest=int(wire.server.get("max_payload", 1 << 20))
        )

    async def close(self) -> None:
        wire, world = self._wire, self._world
        if wire is None or world is None:
            return
        closing = [world.spawn(one.close(), name="close a subscription") for one in self._subscriptions]
        if closing:
            await asyncio.wait(closing)
        await wire.close()

    # ------------------------------------------------------------------------------------------------------- addresses

    async def declare(self, address: str) -> None:
        found = await self._find(address)
        if found is None:
            if not self._create:
                raise WiringError(
                    f"{self._place.shown}: no stream stores the subject {address}; create=no only checks; "
                    f"create one: nats stream add --subjects {address}"
                )
            found = await self._made(address)
        stream, config = found
        differing = [
            f"{name} is {config.get(name)!r} and was to be {value!r}"
            for name, value in self._config.items()
            if config.get(name) != value
        ]
        wanted = self._place.text("stream")
        if wanted and stream.name != wanted:
            differing.append(f"{address} is stored by {stream.name!r} and was to be by {wanted!r}")
        missing = [one for one in self._wanted(address) if not any(_covers(two, one) for two in stream.subjects)]
        if missing:
            differing.append(f"it stores {', '.join(stream.subjects)} and not {', '.join(missing)}")
        if differing:
            raise WiringError(
                f"{self._place.shown}: the stream {stream.name} of {address} is another one: {'; '.join(differing)}"
            )
        self._streams[address] = stream
        if not stream.delays and self._able.delay:
            self._able = msgspec.structs.replace(self._able, delay=False)

    def _configured(self) -> dict[str, Any]:
        """What the URL says about a stream, in the server's words. Errors: `WiringError`."""
        place = self._place
        said: dict[str, Any] = {}
        if "storage" in place.parameters:
            said["storage"] = self._storage
        for ours, its in (("replicas", "num_replicas"), ("max_bytes", "max_bytes"), ("max_messages", "max_msgs")):
            if ours in place.parameters:
                said[its] = place.number(ours, 1)
        if "max_age_seconds" in place.parameters:
            said["max_age"] = int(place.seconds("max_age_seconds", 1.0) * NANOSECONDS)
        return said

    def _wanted(self, address: str) -> tuple[str, ...]:
        """The subjects that subscriptions get. Errors: `WiringError`."""
        if not _subject(address):
            raise WiringError(
                f"{self._place.shown}: {address!r} is no address here: that is words with dots between, without *, > and spaces"
            )
        return tuple(self._place.text("subjects", address).split(","))

    async def _find(self, address: str) -> tuple[_Stream, dict[str, Any]] | None:
        """The stream that stores the address."""
        self._wanted(address)
        found = await self._api("STREAM.NAMES", {"subject": address})
        for name in found.get("streams") or ():
            return await self._stream(name)
        return None

    async def _stream(self, name: str) -> tuple[_Stream, dict[str, Any]]:
        assert self._world is not None
        asked = self._world.now() / 1e6
        answer = await self._api(f"STREAM.INFO.{name}", {})
        config = answer["config"]
        said = answer.get("ts")
        ahead = datetime.fromisoformat(said).timestamp() - asked if said else 0.0
        delays = bool(config.get("allow_msg_schedules"))
        return _Stream(name, tuple(config.get("subjects") or ()), delays, max(0.0, ahead)), config

    async def _made(self, address: str) -> tuple[_Stream, dict[str, Any]]:
        name = self._place.text("stream") or _illegal.sub("_", address)
        config: dict[str, Any] = {
            "name": name,
            "subjects": list(self._wanted(address)),
            "retention": "limits",
            "discard": "new",
            "storage": self._storage,
            "num_replicas": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            **self._config,
        }
        if self._able.delay and not {"max_bytes", "max_msgs"} & set(self._config):
            # The server delays nothing where what is above a limit is refused; without limits nothing is dropped either.
            config["subjects"].append(_delayed(address, "*"))
            config |= {"allow_msg_schedules": True, "allow_rollup_hdrs": True, "discard": "old"}
        await self._api(f"STREAM.CREATE.{name}", config)
        return await self._stream(name)

    async def remove(self, address: str, *, groups: Collection[str] = ()) -> None:
        self._streams.pop(address, None)
        found = await self._find(address)
        if found is None:
            return
        stream, _ = found
        own = {*self._wanted(address), _delayed(address, "*")}
        if own.issuperset(stream.subjects):
            await self._api(f"STREAM.DELETE.{stream.name}", {}, missing=STREAM_NOT_FOUND)
            return
        await self._api(f"STREAM.PURGE.{stream.name}", {"filter": address})
        for group in groups:
            await self._api(f"CONSUMER.DELETE.{stream.name}.{_durable(group)}", {}, missing=CONSUMER_NOT_FOUND)

    # ------------------------------------------------------------------------------------------------------ publishing

    async def publish(self, address: str, messages: Sequence[Message]) -> Mapping[int, EnsueError]:
        wire = self._wire
        batch = _Batch(self._place.shown, address, len(messages))
        if wire is None or not messages:
            batch.give_up(Unavailable(f"{self._place.shown}: not connected"))
            return batch.errors
        reply = wire.wait(batch)
        try:
            self._wanted(address)
            await self._send_all(wire, address, messages, batch, reply)
        except WiringError as error:
            batch.give_up(error)
        except Unavailable as error:
            batch.failed(error)
        finally:
            wire.done(reply)
        return batch.errors

    async def _send_all(
        self, wire: Wire, address: str, messages: Sequence[Message], batch: _Batch, reply: bytes
    ) -> None:
        wire.check()
        parts: list[bytes] = []
        size = 0
        last = len(messages) - 1
        for index, message in enumerate(messages):
            try:
                part = self._encoded(address, message, b"%b.%d" % (reply, index))
            except (MessageRefused, WiringError) as error:
                batch.settle(index, error)
            else:
                parts.append(part)
                batch.sent[index] = 1
                size += len(part)
            if parts and (index == last or len(parts) >= CHUNK_MESSAGES or size >= CHUNK_BYTES):
                wire.send(b"".join(parts))
                batch.unconfirmed += len(parts)
                parts, size = [], 0
                await wire.drain()
                await self._confirmed(wire, address, batch, UNCONFIRMED)
                if batch.over:
                    return
        await self._confirmed(wire, address, batch, 0)

    async def _confirmed(self, wire: Wire, address: str, batch: _Batch, most: int) -> None:
        """Wait until at most so many are unconfirmed, or nothing more is to be expected."""
        while batch.unconfirmed > most and not batch.over:
            before = batch.unconfirmed
            try:
                async with asyncio.timeout(self._patience):
                    await batch.until(most)
            except TimeoutError:
                if batch.unconfirmed == before:
                    batch.give_up(await self._silence(address))

    async def _silence(self, address: str) -> EnsueError:
        """Why nothing was confirmed. Subscribers of core NATS are enough for the server not to say that nobody stores it."""
        try:
            if await self._find(address) is None:
                return self._gone(address)
        except EnsueError as error:
            return OutcomeUnknown(f"{self._place.shown}: publishing to {address}: no answer, and then: {error}")
        return OutcomeUnknown(
            f"{self._place.shown}: publishing to {address} was not confirmed within {self._patience:g} s"
        )

    def _gone(self, address: str) -> WiringError:
        return WiringError(f"{self._place.shown}: no stream stores the subject {address}, or it has no leader")

    def _encoded(self, address: str, message: Message, reply: bytes) -> bytes:
        """Errors: `MessageRefused`, `WiringError`."""
        subject, headers = address, message.headers
        if message.delay_seconds > 0:
            subject, headers = self._schedule(address, message)
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        try:
            head = f"NATS/1.0\r\n{''.join(lines)}content-type: {message.content_type}\r\n\r\n".encode()
        except UnicodeEncodeError as error:
            raise MessageRefused(f"{address}: a header is no text that can be sent: {error}") from error
        if head.count(b"\n") != len(lines) + 3 or head.count(b"\r") != len(lines) + 3:
            raise MessageRefused(f"{address}: a header holds the end of a line, which NATS cannot carry")
        for name in headers:
            if name not in _legal_names:
                _check_name(address, name)
        size = len(head) + len(message.body)
        if size > (self._able.largest or size):
            raise MessageRefused(
                f"{address}: a message of {size} bytes with its headers is above max_payload of the server, {self._able.largest}"
            )
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply, len(head), size, head, message.body)

    def _schedule(self, address: str, message: Message) -> tuple[str, dict[str, str]]:
        """Subject and headers by which the stream keeps a message, and stores it under its address at the time. Errors:
        `WiringError`."""
        assert self._world is not None
        stream = self._streams.get(address)
        if stream is None or not stream.delays:
            raise WiringError(
                f"{self._place.shown}: the stream of {address} delays no messages; that takes a server of 2.12 or later, "
                "allow_msg_schedules, and the subject " + _delayed(address, "*")
            )
        due = datetime.fromtimestamp(self._world.now() / 1e6 + message.delay_seconds + stream.ahead, UTC)
        schedule = {"Nats-Schedule": f"@at {due.isoformat()}", "Nats-Schedule-Target": address}
        return _delayed(address, self._world.new_id().hex()), {**message.headers, **schedule}

    # ----------------------------------------------------------------------------------------------------- subscribing

    async def subscribe(
        self,
        address: str,
        *,
        group: str | None,
        start: From = "beginning",
        prefetch: int,
        revoked: Revoked | None = None,
    ) -> Member | Broadcast:
        wire, world = self._wire, self._world
        if wire is None or world is None:
            raise Unavailable(f"{self._place.shown}: not connected")
        wire.check()
        await self.declare(address)
        stream = self._streams[address]
        wanted = self._wanted(address)
        if group is None:
            broadcast = Broadcast(wire, self._place.shown, address, prefetch, self._subscriptions.discard)
            self._subscriptions.add(broadcast)
            await broadcast.begin(wanted)
            return broadcast
        consumer = _durable(group)
        filters = [] if set(wanted) == set(stream.subjects) else list(wanted)
        config = await self._consumer(address, stream.name, consumer, group, start, filters)
        member = Member(
            wire,
            world,
            self._place.shown,
            address,
            prefetch,
            self._subscriptions.discard,
            stream=stream.name,
            consumer=consumer,
            ack_wait=config.get("ack_wait", 0) / NANOSECONDS or 30.0,
            info=lambda: self._api(f"CONSUMER.INFO.{stream.name}.{consumer}", {}),
        )
        self._subscriptions.add(member)
        try:
            await member.begin()
        except BaseException:
            await member.close()
            raise
        return member

    async def _consumer(
        self, address: str, stream: str, consumer: str, group: str, start: From, filters: list[str]
    ) -> dict[str, Any]:
        """The configuration of the group's consumer, made if it is not there. Errors: `WiringError` and those of the server."""
        name = f"{stream}.{consumer}"
        info = await self._api(f"CONSUMER.INFO.{name}", {}, missing=CONSUMER_NOT_FOUND)
        if not info:
            if not self._create:
                raise WiringError(
                    f"{self._place.shown}: the stream {stream} of {address} has no consumer {consumer} for the group {group}; "
                    f"create=no only checks; create one: nats consumer add {stream} {consumer} --pull --ack=explicit"
                )
            config: dict[str, Any] = {
                "durable_name": consumer,
                "description": f"The group {group} of Ensue",
                "ack_policy": "explicit",
                "ack_wait": int(self._ack_wait * NANOSECONDS),
                "max_deliver": -1,
                "max_ack_pending": -1,
                "replay_policy": "instant",
                "deliver_policy": {"beginning": "all", "now": "new"}.get(str(start), "by_start_time"),
            }
            if isinstance(start, int):
                since = datetime.fromtimestamp(start // 1_000_000, UTC).replace(microsecond=start % 1_000_000)
                config["opt_start_time"] = since.isoformat()
            if filters:
                config |= {"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": filters}
            info = await self._api(f"CONSUMER.DURABLE.CREATE.{name}", {"stream_name": stream, "config": config})
        found: dict[str, Any] = info["config"]
        differing = [
            f"{key} is {found.get(key)!r}"
            for key, value in {"ack_policy": "explicit", "deliver_subject": None}.items()
            if found.get(key) != value
        ]
        filtered = found.get("filter_subjects") or [one for one in [found.get("filter_subject")] if one]
        if filters and filtered and set(filtered) != set(filters):
            differing.append(f"it gets {', '.join(filtered)} and not {', '.join(filters)}")
        if found.get("max_deliver", -1) > 0:
            differing.append(f"it gives up a message after {found['max_deliver']} deliveries")
        if differing:
            raise WiringError(
                f"{self._place.shown}: the consumer {consumer} of {address} is none for a group: {'; '.join(differing)}"
            )
        return found

    async def _api(self, call: str, given: dict[str, Any], *, missing: int = 0) -> dict[str, Any]:
        """What the server answers to a call of JetStream's; nothing if it says that it misses this. Errors: `WiringError`,
        `AccessRefused`, `Unavailable`."""
        if self._wire is None:
            raise Unavailable(f"{self._place.shown}: not connected")
        try:
            body = msgspec.json.encode(given) if given else b""
            answer = await self._wire.request(f"$JS.API.{call}", body, seconds=API_SECONDS)
        except NoResponder as error:
            raise Unavailable(f"{self._place.shown}: JetStream does not answer: it is off, or has no leader") from error
        except TimeoutError as error:
            raise Unavailable(f"{self._place.shown}: {call} was not answered within {API_SECONDS:g} s") from error
        found: dict[str, Any] = msgspec.json.decode(answer)
        if "error" not in found:
            return found
        failure = msgspec.convert(found["error"], _Failure)
        if missing and failure.err_code == missing:
            return {}
        text = f"{self._place.shown}: {call}: {failure.description} ({failure.err_code})"
        raise Unavailable(text) if failure.err_code in BUSY else WiringError(text)


class _Batch:
    """The messages of one publish. A future for all of them, and a byte for each."""

    def __init__(self, shown: str, address: str, count: int) -> None:
        self.subjects = frozenset({address.lower()})
        self.errors: dict[int, EnsueError] = {}
        self.sent = bytearray(count)
        """1 for those that are on their way."""
        self.unconfirmed = 0
        self.over = False
        self._name = f"{shown}: publishing to {address}"
        self._count = count
        self._open = bytearray(b"\1" * count)
        self._most = 0
        self._waiter: asyncio.Future[None] | None = None

    def answered(self, part: bytes, headers: bytes, body: bytes) -> None:
        index = int(part)
        if not self._open[index] or self.over:
            return
        self._open[index] = 0
        self.unconfirmed -= 1
        if headers or b'"error"' in body:
            error = self._error(headers, body)
            if error is not None:
                self.errors[index] = error
        if self.unconfirmed <= self._most:
            self._wake()

    def settle(self, index: int, error: EnsueError) -> None:
        """One that is not sent at all."""
        self._open[index] = 0
        self.errors[index] = error

    async def until(self, most: int) -> None:
        """Wait until at most so many are unconfirmed."""
        self._most = most
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def failed(self, error: EnsueError) -> None:
        """The connection broke, or the server denied the subject."""
        if isinstance(error, AccessRefused):
            self.give_up(WiringError(*error.args))
            return
        self.give_up(OutcomeUnknown(f"{self._name}: not confirmed: {error}"), Unavailable(*error.args))

    def give_up(self, error: EnsueError, unsent: EnsueError | None = None) -> None:
        """All that is open fails with this, or with the other what was never sent."""
        if not self.over:
            self.over = True
            for index in range(self._count):
                if self._open[index]:
                    self.errors[index] = error if self.sent[index] or unsent is None else unsent
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _error(self, headers: bytes, body: bytes) -> EnsueError | None:
        if headers.startswith(b"NATS/1.0 503"):
            return WiringError(f"{self._name}: no stream stores this subject; was it deleted?")
        failure = _confirmation(body).error
        if failure is None:
            return None
        text = f"{self._name}: {failure.description} ({failure.err_code})"
        if failure.err_code in TOO_LARGE:
            return MessageRefused(text)
        if failure.err_code in GONE:
            return WiringError(text)
        return MessageRefused(text) if failure.code == 400 else Unavailable(text)


# -------------------------------------------------------------------------------------------------------------- names

_legal_names = {"ce-id", "ce-source", "ce-type", "ce-specversion"}
"""Names of headers that were looked at, at most some thousand."""


def _check_name(address: str, name: str) -> None:
    """Errors: `MessageRefused`."""
    if not _name(name):
        raise MessageRefused(f"{address}: {name!r} cannot be the name of a header")
    if len(_legal_names) < 4096:
        _legal_names.add(name)


def _durable(group: str) -> str:
    """A group's name as that of a consumer: itself where that is legal, else with a mark that keeps similar ones apart."""
    legal = _illegal.sub("_", group)
    return group if legal == group else f"{legal}-{hashlib.sha256(group.encode()).hexdigest()[:8]}"


def _delayed(address: str, name: str) -> str:
    """The subject of a message that waits for its time."""
    return f"_delayed.{address}.{name}"


def _covers(pattern: str, subject: str) -> bool:
    """Whether all that matches the subject, which may have wildcards too, matches the pattern."""
    words, others = pattern.split("."), subject.split(".")
    for index, word in enumerate(words):
        if word == ">":
            return len(others) > index
        if index >= len(others) or others[index] == ">" or (word != "*" and word != others[index]):
            return False
    return len(words) == len(others)
