"""What a Redis server may say and do: passwords, TLS, full, cut, silent, and another kind of server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import wraps
from typing import ParamSpec

import pytest

from ensue.channels import redis as redis_adapter
from ensue.channels import redis_protocol
from ensue.channels.base import Message
from ensue.channels.redis import RedisBroker
from ensue.channels.urls import place
from ensue.errors import AccessRefused, OutcomeUnknown, Unavailable, WiringError
from ensue.testing.contracts.channels import bodies, numbered
from ensue.world import RealWorld
from tests.servers.redis import RedisServer, ask

P = ParamSpec("P")

WORLD = RealWorld()
RIGHTS = (
    "+hello +ping +type +exists +unlink +xadd +xread +xreadgroup +xack +xclaim +xpending +xtrim +xgroup +xinfo "
    "+eval +pubsub +subscribe"
)
"""What a user needs, as the module says."""
USERS = {
    "default": "nopass ~* &* +@all",
    "shop": f">secret ~shop* &ensue-* {RIGHTS}",
    "deaf": f">secret ~shop* resetchannels {RIGHTS}",
    "reader": f">secret %R~shop* &ensue-* {RIGHTS}",
}


def story(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run it in a loop of its own, within a limit of time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[RedisBroker, None]:
    broker = RedisBroker(place(url))
    try:
        await broker.open(WORLD)
        yield broker
    finally:
        await broker.close()


async def until(condition: Callable[[], bool]) -> None:
    """Within the limit of the story."""
    while not condition():
        await WORLD.sleep(0.005)


def messages(*texts: bytes) -> list[Message]:
    return [Message(body=text, headers={"ce_id": text.hex()}, key="k") for text in texts]


@pytest.fixture(scope="module")
def guarded(redis_installed: None) -> Iterator[RedisServer]:
    with RedisServer(durable=False, tls=True, users=USERS) as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "guarded" in request.fixturenames:
        ask(request.getfixturevalue("guarded").port, "FLUSHALL")


# ----------------------------------------------------------------------------------------------------------- access


@story
async def test_a_user_with_the_rights_that_are_documented_can_do_all(guarded: RedisServer) -> None:
    async with opened(guarded.url(user="shop", password="secret", trim="accepted")) as broker:
        await broker.declare("shop.orders")
        assert not await broker.publish("shop.orders", messages(*numbered(1, 3)))
        member = await broker.subscribe("shop.orders", group="billing", prefetch=10)
        broadcast = await broker.subscribe("shop.orders", group=None, prefetch=10)
        received = await member.receive(3)
        await member.requeue(received[2:])
        assert bodies(await member.receive(1)) == [b"3"]
        await member.accept(received[:1])
        await member.close()
        member = await broker.subscribe("shop.orders", group="billing", prefetch=10)
        assert bodies(await member.receive(10)) == [b"2", b"3"]
        await broker.publish("shop.orders", messages(b"4"))
        assert bodies(await broadcast.receive(1)) == [b"4"]
        assert await member.backlog() in (0, 1)
        await broker.remove("shop.orders")


def test_the_rights_that_are_documented_are_those() -> None:
    assert redis_adapter.__doc__ is not None
    assert RIGHTS in " ".join(redis_adapter.__doc__.split())


@story
async def test_a_user_without_a_password_is_not_taken_for_another(guarded: RedisServer) -> None:
    broker = RedisBroker(place(guarded.url(user="shop").replace("shop:@", "shop@")))
    with pytest.raises(AccessRefused):
        await broker.open(WORLD)
    await broker.close()


@story
async def test_a_password_that_is_wrong_is_tried_once(guarded: RedisServer) -> None:
    ask(guarded.port, "ACL LOG RESET")
    broker = RedisBroker(place(guarded.url(user="shop", password="false")))
    with pytest.raises(AccessRefused) as told:
        await broker.open(WORLD)
    await broker.close()
    log = ask(guarded.port, "ACL LOG")
    assert log[0] == "*1"
    assert log[log.index("count") + 1] == ":1"
    assert "false" not in str(told.value)


@story
async def test_a_user_who_may_not_use_an_address_is_told(guarded: RedisServer) -> None:
    async with opened(guarded.url(user="shop", password="secret")) as broker:
        with pytest.raises(AccessRefused, match="private"):
            await broker.declare("private")


@story
async def test_a_user_who_may_not_publish_is_told_for_each_message(guarded: RedisServer) -> None:
    ask(guarded.port, "XADD shop.orders * a b")
    async with opened(guarded.url(user="reader", password="secret")) as broker:
        await broker.declare("shop.orders")
        told = await broker.publish("shop.orders", messages(b"1", b"2"))
        assert {index: type(error) for index, error in told.items()} == {0: AccessRefused, 1: AccessRefused}


@story
async def test_a_member_that_may_not_have_a_channel_of_its_own_is_told_of_the_channel(guarded: RedisServer) -> None:
    async with opened(guarded.url(user="deaf", password="secret")) as broker:
        with pytest.raises(AccessRefused, match="channel of its name, ensue-"):
            await broker.subscribe("shop.orders", group="billing", prefetch=10)


@story
async def test_whether_it_is_durable_is_what_the_server_says_or_else_the_url(guarded: RedisServer) -> None:
    urls = {
        guarded.url(): True,
        guarded.url(durable="no"): False,
        guarded.url(user="shop", password="secret"): False,
        guarded.url(user="shop", password="secret", durable="yes"): True,
    }
    for url, durable in urls.items():
        async with opened(url) as broker:
            assert broker.capabilities.durable == durable, url
    with RedisServer(durable=False, settings={"appendfsync": "everysec"}) as server:
        async with opened(server.url()) as broker:
            assert not broker.capabilities.durable


# -------------------------------------------------------------------------------------------------------------- TLS


@story
async def test_it_speaks_tls_with_a_server_whose_authority_is_trusted(guarded: RedisServer) -> None:
    async with opened(guarded.url(tls=True, tls_ca=str(guarded.certificate))) as broker:
        member = await broker.subscribe("shop.orders", group="billing", prefetch=1000)
        assert not await broker.publish("shop.orders", messages(*numbered(1, 500)))
        received = bodies(await member.receive(1000))
        while len(received) < 500:
            received += bodies(await member.receive(1000))
        assert received == numbered(1, 500)
        await member.close()
        again = await broker.subscribe("shop.orders", group="billing", prefetch=10)
        assert bodies(await again.receive(1)) == [b"1"]


@pytest.mark.parametrize("wrong", ["no authority", "no file", "no TLS there"])
@story
async def test_tls_that_cannot_be_is_told_and_what_to_look_at(guarded: RedisServer, wrong: str) -> None:
    trusting = guarded.url(tls=True, tls_ca=str(guarded.certificate))
    url = {
        "no authority": guarded.url(tls=True),
        "no file": guarded.url(tls=True, tls_ca="/no/such/file"),
        "no TLS there": trusting.replace(str(guarded.tls_port), str(guarded.port)),
    }[wrong]
    broker = RedisBroker(place(f"{url}&connect_seconds=0.3" if "?" in url else url))
    with pytest.raises((WiringError, Unavailable), match=r"TLS|tls_ca"):
        await broker.open(WORLD)
    await broker.close()


@story
async def test_a_server_that_asks_for_a_certificate_lets_in_who_has_one_and_nobody_else(redis_installed: None) -> None:
    with RedisServer(durable=False, tls=True, settings={"tls-auth-clients": "yes"}) as server:
        mine = {"tls_certificate": str(server.certificate), "tls_key": str(server.key)}
        async with opened(server.url(tls=True, tls_ca=str(server.certificate), **mine)) as broker:
            await broker.declare("orders")
        broker = RedisBroker(place(server.url(tls=True, tls_ca=str(server.certificate))))
        # Whether its reason arrives before the connection is reset is a matter of chance.
        with pytest.raises((AccessRefused, Unavailable), match="tls_certificate"):
            await broker.open(WORLD)
        await broker.close()


# ------------------------------------------------------------------------------------------------- full, and replicas


@story
async def test_a_server_without_room_is_unavailable_until_there_is_some(redis_installed: None) -> None:
    with RedisServer(durable=False, settings={"maxmemory": "4mb", "maxmemory-policy": "noeviction"}) as server:
        async with opened(server.url()) as broker:
            member = await broker.subscribe("orders", group="billing", prefetch=10)
            confirmed = 0
            while not (told := await broker.publish("orders", messages(*[b"x" * 10_000] * 10))):
                confirmed += 10
            assert {type(error) for error in told.values()} == {Unavailable}
            assert "OOM" in str(told[max(told)])
            confirmed += 10 - len(told)
            received = 0
            while received < confirmed:
                batch = await member.receive(10)
                await member.accept(batch)
                received += len(batch)
            ask(server.port, "CONFIG SET maxmemory 100mb")
            assert not await broker.publish("orders", messages(b"last"))
            assert bodies(await member.receive(10)) == [b"last"]


@story
async def test_what_too_few_replicas_have_is_not_confirmed(redis_installed: None) -> None:
    with RedisServer(durable=False, settings={"repl-diskless-sync-delay": 0}) as server:
        async with opened(server.url(replicas="1", replica_seconds="0.05")) as broker:
            await broker.declare("orders")
            told = await broker.publish("orders", messages(b"1", b"2"))
            assert {index: type(error) for index, error in told.items()} == {0: OutcomeUnknown, 1: OutcomeUnknown}
        with RedisServer(durable=False, settings={"replicaof": f"127.0.0.1 {server.port}"}) as replica:
            await until(lambda: "master_link_status:up" in ask(replica.port, "INFO replication"))
            async with opened(server.url(replicas="1", replica_seconds="10")) as broker:
                assert not await broker.publish("orders", messages(b"3", b"4"))
            assert ask(replica.port, "XLEN orders")[0] == ":4"
            async with opened(replica.url()) as broker:
                told = await broker.publish("orders", messages(b"5"))
                assert type(told[0]) is Unavailable
                assert "READONLY" in str(told[0])


# ------------------------------------------------------------------------------------------------------ cut, and silent


@story
async def test_a_connection_that_is_cut_in_the_middle_of_a_publish_leaves_the_outcome_unknown(
    own_redis: RedisServer,
) -> None:
    async with opened(own_redis.url()) as broker:
        await broker.declare("orders")
        assert not await broker.publish("orders", messages(b"before"))
        ask(own_redis.port, "CLIENT PAUSE 60000 WRITE")
        publishing = asyncio.ensure_future(broker.publish("orders", messages(*numbered(1, 5))))
        await until(
            lambda: any("cmd=xadd" in line and "flags=b" in line for line in ask(own_redis.port, "CLIENT LIST"))
        )
        ask(own_redis.port, "CLIENT KILL TYPE normal", "CLIENT UNPAUSE")
        told = await publishing
        assert {index: type(error) for index, error in told.items()} == dict.fromkeys(range(5), OutcomeUnknown)
        told = await broker.publish("orders", messages(b"after"))
        assert type(told[0]) is Unavailable
    async with opened(own_redis.url()) as broker:
        member = await broker.subscribe("orders", group="billing", prefetch=10)
        assert bodies(await member.receive(1)) == [b"before"]


@story
async def test_with_the_connection_of_one_subscription_all_of_them_break(own_redis: RedisServer) -> None:
    async with opened(own_redis.url()) as broker:
        member = await broker.subscribe("orders", group="billing", prefetch=10)
        broadcast = await broker.subscribe("orders", group=None, prefetch=10)
        waiting = [asyncio.ensure_future(one.receive(1)) for one in (member, broadcast)]
        blocked: list[str] = []

        def reads() -> bool:
            blocked[:] = [line for line in ask(own_redis.port, "CLIENT LIST") if "cmd=xreadgroup" in line]
            return bool(blocked)

        await until(reads)
        ask(own_redis.port, f"CLIENT KILL ID {blocked[0].split()[0].removeprefix('id=')}")
        for one in waiting:
            with pytest.raises(Unavailable, match="broke"):
                await one
        with pytest.raises(Unavailable):
            await broker.declare("orders")
        assert type((await broker.publish("orders", messages(b"1")))[0]) is Unavailable
        with pytest.raises(Unavailable):
            await member.accept([])


@story
async def test_a_server_that_says_nothing_any_more_is_unavailable(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_protocol, "SILENCE_SECONDS", 0.3)
    async with opened(own_redis.url(lease_seconds="0.4", connect_seconds="0.2")) as broker:
        await broker.declare("orders")
        own_redis.send(signal.SIGSTOP)
        try:
            told = await broker.publish("orders", messages(b"1"))
            assert type(told[0]) is OutcomeUnknown
            assert "has not answered" in str(told[0])
            with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
                await RedisBroker(place(own_redis.url(connect_seconds="0.2"))).open(WORLD)
        finally:
            own_redis.send(signal.SIGCONT)


@story
async def test_a_member_that_only_holds_messages_is_no_silence(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_protocol, "SILENCE_SECONDS", 0.4)
    async with opened(own_redis.url(lease_seconds="0.4")) as broker:
        member = await broker.subscribe("orders", group="billing", prefetch=1)
        await broker.publish("orders", messages(b"1"))
        received = await member.receive(1)
        begun = WORLD.monotonic()
        await until(lambda: WORLD.monotonic() > begun + 0.9)
        await member.accept(received)
        assert not await broker.publish("orders", messages(b"2"))
        assert bodies(await member.receive(1)) == [b"2"]


# ------------------------------------------------------------------------------------------------ other kinds of servers


@story
async def test_a_cluster_is_told_that_it_is_none_of_what_is_supported(redis_installed: None) -> None:
    with RedisServer(durable=False, settings={"cluster-enabled": "yes"}) as server:
        broker = RedisBroker(place(server.url()))
        with pytest.raises(WiringError, match="Cluster"):
            await broker.open(WORLD)
        await broker.close()


@story
async def test_a_server_that_takes_no_more_connections_is_unavailable(redis_installed: None) -> None:
    with RedisServer(durable=False, settings={"maxclients": 1}) as server:
        async with opened(server.url()):
            broker = RedisBroker(place(server.url()))
            with pytest.raises(Unavailable, match="max number of clients"):
                await broker.open(WORLD)
            await broker.close()


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", WiringError), (b"", Unavailable), (None, Unavailable)]
)
@story
async def test_another_kind_of_server_is_told_from_one_that_is_away(
    answer: bytes | None, kind: type[Exception]
) -> None:
    ended = asyncio.Event()

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        broker = RedisBroker(place(f"redis://127.0.0.1:{port}/?connect_seconds=0.2"))
        with pytest.raises(kind):
            await broker.open(WORLD)
        await broker.close()
        await ended.wait()


@story
async def test_nothing_that_listens_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        broker = RedisBroker(place(f"redis://127.0.0.1:{held.getsockname()[1]}/"))
        with pytest.raises(Unavailable, match="cannot be reached"):
            await broker.open(WORLD)
        await broker.close()
