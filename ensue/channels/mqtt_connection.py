"""One connection to an MQTT 5 server: packets in and out, by the package `mqtt5`, and whether the other side lives.

It is broken once and for ever; nothing is sent a second time, and nothing is known of what packets are for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias, cast

import mqtt5
from mqtt5 import ConnAckReasonCode as Connected

from ensue.channels.urls import Place
from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.world import World

__all__ = ["PACKET_TOO_LARGE", "Connection", "Owner", "Packet", "Refused", "connect", "said", "tls_context"]

UNREAD_BYTES = 1 << 18
"""So much may lie here unread, while there is room for no more messages, before the server has to wait."""
PIECE = 50
"""Packets that are read together. They have many parts that Python's collector of garbage looks at: with a thousand packets at a
time that takes a third of the speed."""
CONNACK, PUBACK = 0x20, 0x40
"""The first bytes of such packets."""
CLOSING_SECONDS = 5.0
"""How long the server may take to end a connection when it is asked to."""
PACKET_TOO_LARGE = 149
"""Mosquitto says so of a message above `message_size_limit`, with a code that MQTT has for other packets."""

# What an answer to CONNECT means. What is not listed may go better another time.
_MEANINGS: Mapping[int, type[AccessRefused] | type[WiringError]] = {
    Connected.BAD_USER_NAME_OR_PASSWORD.value: AccessRefused,
    Connected.NOT_AUTHORIZED.value: AccessRefused,
    Connected.BANNED.value: AccessRefused,
    Connected.BAD_AUTHENTICATION_METHOD.value: AccessRefused,
    Connected.UNSUPPORTED_PROTOCOL_VERSION.value: WiringError,
    Connected.CLIENT_ID_NOT_VALID.value: WiringError,
    Connected.USE_ANOTHER_SERVER.value: WiringError,
    Connected.SERVER_MOVED.value: WiringError,
}


class Refused(NamedTuple):
    """The answer to a message, with a code that MQTT does not know there."""

    packet_id: int
    code: int


Packet: TypeAlias = mqtt5.Packet | Refused


class Owner(Protocol):
    """Whose a connection is. Called while data is read, and never after `ended`."""

    def room(self) -> int:
        """How many packets it takes now."""
        ...

    def take(self, packets: list[Packet]) -> None: ...
    def may_write(self) -> None:
        """The server has read, or has answered."""
        ...

    def ended(self, error: EnsueError) -> None: ...


class Connection(asyncio.Protocol):
    """See the module. Made by `connect`."""

    def __init__(self, owner: Owner, world: World, shown: str) -> None:
        self.error: EnsueError | None = None
        """Why it is broken."""
        self.may_write = True
        """Whether the server reads as quickly as is written here."""
        self._owner = owner
        self._world = world
        self._shown = shown
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[mqtt5.ConnAckPacket] | None = asyncio.get_running_loop().create_future()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unread = bytearray()
        self._waits = False
        """The server does: nothing is read."""
        self._closing = False
        self._heard = self._asked = False
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def greet(self, packet: mqtt5.ConnectPacket) -> mqtt5.ConnAckPacket:
        """The server's answer. Errors: `Unavailable`; `AccessRefused` and `WiringError` as it says."""
        assert self._greeting is not None, "greeted once"
        self.write(packet.write())
        answer = await self._greeting
        code = answer.reason_code
        if code != Connected.SUCCESS:
            kind = _MEANINGS.get(code.value, Unavailable)
            raise kind(f"{self._shown} does not let us in: {said(code.name, answer.reason_str)}")
        seconds = packet.keep_alive if answer.server_keep_alive is None else answer.server_keep_alive
        if seconds:
            self._pause = seconds / 2
            self._timer = self._world.call_later(self._pause, self._ask)
        return answer

    def write(self, data: bytes) -> None:
        """Nothing, if it is broken."""
        if self._transport is not None and self.error is None:
            self._transport.write(data)

    def read(self) -> None:
        """Give away what is here, as long as there is room for it."""
        if self._greeting is not None and self._unread and self._unread[0] != CONNACK:
            self.fail("it is no server of MQTT 5", WiringError)
        while self._unread and self.error is None and (packets := self._packets(min(self._owner.room(), PIECE))):
            if self._greeting is not None:
                self._greeted(packets.pop(0))
            self._owner.take(packets)
        if self.error is None:
            self._owner.may_write()
            self._let_wait(self._owner.room() <= 0)

    def _packets(self, most: int) -> list[Packet]:
        packets: list[Packet] = []
        offset = 0
        try:
            with memoryview(self._unread) as view:
                while len(packets) < most and offset < len(view):
                    packet, size = mqtt5.read(view[offset:])
                    offset += size
                    packets.append(packet)
        except IndexError:
            pass  # the rest of it is still to come
        except ValueError as error:
            refused = self._refused(offset)
            if refused is not None:
                packets.append(refused)
                offset += 2 + self._unread[offset + 1]
            elif not packets:
                wrong = "it is no server of MQTT 5" if self._greeting else "the server sent what is no packet of MQTT 5"
                self.fail(f"{wrong}: {error}", WiringError if self._greeting else Unavailable)
        del self._unread[:offset]
        return packets

    def other(self, packet: Packet) -> None:
        """A packet that is for nobody else."""
        if isinstance(packet, mqtt5.DisconnectPacket):
            self.fail(f"the server ended it: {said(packet.reason_code.name, packet.reason_str)}")
        elif not isinstance(packet, mqtt5.PingRespPacket):
            self.fail(f"the server sent what was not asked for: {packet!r}")

    def fail(self, why: str, kind: type[EnsueError] = Unavailable) -> None:
        """It is broken, from now on. Idempotent."""
        self.end(kind(f"the connection to {self._shown} broke: {why}"))

    def end(self, error: EnsueError) -> None:
        """The same, because of another one that broke."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()  # whoever greeted may have given up
        self._owner.ended(error)

    async def close(self) -> None:
        """Say good-bye, and wait until the server has read all up to that. Idempotent; raises nothing."""
        if self._transport is None:
            return
        if self.error is None and not self._closing:
            self._closing = True
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._let_wait(False)
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await asyncio.shield(self._lost)
        except TimeoutError:
            pass
        finally:
            self.fail("it was closed")

    def _greeted(self, packet: Packet) -> None:
        if not isinstance(packet, mqtt5.ConnAckPacket):
            self.fail(f"it is no server of MQTT 5: it answered CONNECT with {packet!r}", WiringError)
            return
        greeting, self._greeting = self._greeting, None
        if greeting is not None and not greeting.done():
            greeting.set_result(packet)

    def _refused(self, offset: int) -> Refused | None:
        """What is there instead of a packet, if it is that."""
        answer = bytes(self._unread[offset : offset + 5])
        if len(answer) < 5 or answer[0] != PUBACK or not 3 <= answer[1] < 128:
            return None
        return Refused(answer[2] << 8 | answer[3], answer[4])

    def _let_wait(self, full: bool) -> None:
        """Whether the server is to wait until there is room. Not for a little: while it waits nobody sees it end."""
        assert self._transport is not None, "connected"
        waits = full and len(self._unread) >= UNREAD_BYTES and not self._closing
        if waits != self._waits:
            self._waits = waits
            if waits:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _ask(self) -> None:
        """Whether the other side is there. What was read since the last time says so as well as an answer does."""
        if self._asked and not self._heard and not self._waits:
            self.fail(f"nothing was heard for {self._pause:g} s, although an answer was asked for")
            return
        self._heard, self._asked = False, True
        self.write(mqtt5.PingReqPacket().write())
        self._timer = self._world.call_later(self._pause, self._ask)

    # ------------------------------------------------------------------------------------------ what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self.error is None and (not self._closing or self._owner.room() > 0):
            self._unread += data
            self.read()

    def pause_writing(self) -> None:
        self.may_write = False

    def resume_writing(self) -> None:
        self.may_write = True
        if self.error is None:
            self._owner.may_write()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)
        why = str(exc or "") or "the server ended it, or another client of this name took its place"
        if self._greeting is None or self._transport is None or self._transport.get_extra_info("sslcontext") is None:
            self.fail(why)
        elif isinstance(exc, ssl.SSLError) and "CERTIFICATE" in (exc.reason or ""):
            self.fail(f"it does not take our certificate, or wants one: {why}; see tls_certificate", AccessRefused)
        else:  # that may be hidden by the end of the connection, which comes at the same time
            self.fail(f"{why}; if it wants a certificate of ours, see tls_certificate")


async def connect(
    owner: Owner,
    world: World,
    place: Place,
    host: tuple[str, int],
    context: ssl.SSLContext | None,
    packet: mqtt5.ConnectPacket,
) -> tuple[Connection, mqtt5.ConnAckPacket]:
    """A connection, with what the server answered; within the seconds that the place says. Errors: those of `Broker.open`."""
    name, port = host
    shown = f"{place.shown} ({name}:{port})" if len(place.hosts) > 1 else place.shown
    connection: Connection | None = None
    try:
        async with asyncio.timeout(place.connect_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(owner, world, shown), name, port or (8883 if place.tls else 1883), ssl=context
            )
            return connection, await connection.greet(packet)
    except BaseException as error:
        if connection is not None:
            connection.fail("it was given up")
        if isinstance(error, TimeoutError):
            raise Unavailable(f"{shown} did not answer within {place.connect_seconds:g} s") from error
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"{error.verify_message}; tls_ca names the authorities to trust"
            raise WiringError(f"the certificate of {shown} is not to be trusted: {why}") from error
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise WiringError(f"{shown} does not speak TLS as we do: {error}") from error
        if isinstance(error, OSError):
            raise Unavailable(f"{shown} cannot be reached: {error}") from error
        raise


def tls_context(place: Place) -> ssl.SSLContext | None:
    """None where TLS is not spoken. Errors: `WiringError` for files that cannot be read."""
    if not place.tls:
        return None
    certificate, key = place.text("tls_certificate") or None, place.text("tls_key") or None
    if key is not None and certificate is None:
        raise WiringError(f"{place.shown}: tls_key is there, and tls_certificate is not")
    try:
        context = ssl.create_default_context(cafile=place.text("tls_ca") or None)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # so are those of ssl
        raise WiringError(f"{place.shown}: the files of tls_ca, tls_certificate and tls_key: {error}") from error
    return context


def said(name: str, more: str | None) -> str:
    """A code of the server, and what it says beside that, for people."""
    return name.lower().replace("_", " ") + (f" ({more})" if more else "")
