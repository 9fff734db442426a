"""Who is let in to a NATS server, what is no such server, and how the bytes that come are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from nats.errors import ProtocolError

from ensue.channels.nats_connection import _Client, _Parser
from ensue.errors import AccessRefused, EnsueError, Unavailable, WiringError
from ensue.testing.contracts.channels import bodies
from tests.channels.on_nats import made, new_address, opened, taken
from tests.servers.nats import NatsAddress, NatsServer


@pytest.fixture
def address() -> str:
    return new_address()


async def failing(url: str) -> EnsueError:
    """What opening raises."""
    with pytest.raises(EnsueError) as raised:
        async with opened(url):
            pass
    return raised.value


def test_a_password_that_is_wrong_is_refused_and_tried_once(nats_installed: None) -> None:
    with NatsServer(users={"shop": "right"}) as server:
        error = asyncio.run(failing(server.url(user="shop", password="wrong-word")))
        assert isinstance(error, AccessRefused)
        assert "wrong-word" not in str(error)
        assert server.log.read_text().count("authentication error") == 1
        asyncio.run(_works(server.url(user="shop", password="right"), "orders"))


def test_a_user_without_a_password_is_a_token(nats_installed: None) -> None:
    with NatsServer(settings=('authorization { token: "t0ken" }',)) as server:
        asyncio.run(_works(server.url(user="t0ken"), "orders"))
        assert isinstance(asyncio.run(failing(server.url(user="other"))), AccessRefused)


async def _works(url: str, address: str) -> None:
    async with opened(url) as broker:
        await broker.declare(address)
        member = await broker.subscribe(address, group="billing", prefetch=10)
        assert not await broker.publish(address, made(b"1"))
        assert bodies(await taken(member, 1)) == [b"1"]


def test_what_a_user_may_not_do_is_told_and_names_it(nats_installed: None) -> None:
    limited = '{ password: "p", permissions: { publish: { deny: ["orders", "$JS.API.STREAM.CREATE.>"] }, subscribe: { deny: "secret" } } }'

    async def story(server: NatsServer) -> None:
        async with opened(server.url(user="all", password="p")) as owner:
            await owner.declare("orders")
            await owner.declare("secret")
        async with opened(server.url(user="limited", password="p")) as broker:
            with pytest.raises(AccessRefused, match=r"stream\.create"):
                await broker.declare("others")
            await broker.declare("orders")
            errors = await broker.publish("orders", made(b"1", b"2"))
            assert {index: type(error) for index, error in errors.items()} == {0: WiringError, 1: WiringError}
            assert "denied" in str(errors[0])
            with pytest.raises(AccessRefused, match="secret"):
                await broker.subscribe("secret", group=None, prefetch=10)

    with NatsServer(users={"all": "p", "limited": limited}) as server:
        asyncio.run(story(server))


def test_a_server_with_tls_is_believed_by_its_certificate(nats_installed: None) -> None:
    with NatsServer(tls=True) as server:
        asyncio.run(_works(server.url(tls_ca=str(server.certificate)), "orders"))
        error = asyncio.run(failing(server.url()))
        assert isinstance(error, WiringError)
        assert "tls_ca" in str(error)


def test_a_client_shows_its_certificate_where_the_server_wants_one(nats_installed: None) -> None:
    with NatsServer(tls="verify") as server:
        ca = str(server.certificate)
        asyncio.run(_works(server.url(tls_ca=ca, tls_certificate=ca, tls_key=str(server.key)), "orders"))
        assert isinstance(asyncio.run(failing(server.url(tls_ca=ca))), AccessRefused)
        with NatsServer(tls=True) as stranger:
            foreign = {"tls_certificate": str(stranger.certificate), "tls_key": str(stranger.key)}
            assert isinstance(asyncio.run(failing(server.url(tls_ca=ca, **foreign))), AccessRefused)


def test_who_wants_tls_sends_nothing_in_the_clear(nats: NatsAddress) -> None:
    url = f"tls://shop:secret@127.0.0.1:{nats.port}"
    error = asyncio.run(failing(url))
    assert isinstance(error, WiringError)
    assert "TLS" in str(error)


def test_a_file_of_certificates_that_is_none_is_told(nats: NatsAddress) -> None:
    assert isinstance(asyncio.run(failing(nats.url(tls_ca="/nowhere.pem"))), WiringError)


@pytest.mark.parametrize(
    ("hello", "kind"), [(b"SSH-2.0-OpenSSH_9.2\r\n", WiringError), (b"", Unavailable), (None, Unavailable)]
)
def test_another_kind_of_server_is_told(hello: bytes | None, kind: type[EnsueError]) -> None:
    async def story() -> EnsueError:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if hello is not None:
                writer.write(hello)
            else:
                with suppress(OSError):
                    await reader.read(1)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            ended.set()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            error = await failing(f"nats://127.0.0.1:{port}?connect_seconds=0.5")
            await ended.wait()
            return error

    assert isinstance(asyncio.run(story()), kind)


def test_a_server_without_jetstream_is_told(nats_installed: None) -> None:
    with NatsServer(jetstream=False) as server:
        assert "-js" in str(asyncio.run(failing(server.url())))


def test_the_second_of_two_hosts_is_taken_when_the_first_is_not_there(nats: NatsAddress, address: str) -> None:
    asyncio.run(_works(f"nats://127.0.0.1:1,127.0.0.1:{nats.port}", address))


def test_what_comes_is_read_alike_wherever_it_is_cut() -> None:
    body = b"MSG x 1 3\r\nPING\r\n" * 3
    head = b"NATS/1.0\r\nce-id: 1\r\n\r\n"
    stream = b"".join(
        (
            b"MSG a.b 1 %d\r\n%b\r\n" % (len(body), body),
            b"PONG\r\n",
            b"HMSG a.b 1 $JS.ACK.s.c.1.2.3.4.5 %d %d\r\n%b%b\r\n" % (len(head), len(head) + len(body), head, body),
            b"MSG a.b 2 0\r\n\r\n",  # of nobody here
            b"+OK\r\n",
            b"MSG a.b 1 reply 0\r\n\r\n",
        )
    )
    expected = [(b"a.b", b"", b"", body), (b"a.b", b"$JS.ACK.s.c.1.2.3.4.5", head, body), (b"a.b", b"reply", b"", b"")]

    async def read(parts: Sequence[bytes]) -> list[tuple[bytes, bytes, bytes, bytes]]:
        client = _Client()
        found: list[tuple[bytes, bytes, bytes, bytes]] = []
        client.routes[1] = lambda *message: found.append(message)
        parser = _Parser(client)
        for part in parts:
            await parser.parse(part)
        return found

    async def story() -> None:
        for first in range(len(stream)):
            assert await read([stream[:first], stream[first:]]) == expected
        assert await read([stream[place : place + 1] for place in range(len(stream))]) == expected

    asyncio.run(story())


def test_words_that_are_no_protocol_end_the_connection() -> None:
    async def story(data: bytes) -> None:
        with pytest.raises(ProtocolError):
            await _Parser(_Client()).parse(data)

    for data in (b"MSG a 1 many\r\n", b"HMSG\r\n", b"nonsense\r\n"):
        asyncio.run(story(data))
