"""The Redis servers that other tests stand on."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgresql import HOST
from tests.servers.processes import ServerError, has_ended
from tests.servers.redis import RedisServer, ask


@pytest.fixture(scope="module")
def server(redis_installed: None) -> Iterator[RedisServer]:
    with RedisServer(
        durable=False, tls=True, users={"guest": ">secret ~* +@all"}, settings={"databases": 3}
    ) as started:
        yield started


def test_what_was_answered_survives_the_death_of_a_server_at_the_same_port(own_redis: RedisServer) -> None:
    assert ask(own_redis.port, "SET kept 1") == ["+OK"]
    port, pid = own_redis.port, own_redis.pid
    own_redis.kill()
    assert has_ended(pid)
    own_redis.start()
    assert own_redis.port == port
    assert ask(port, "GET kept") == ["$1", "1"]


def test_a_durable_server_has_each_command_on_disk_before_it_answers(redis_installed: None) -> None:
    with RedisServer() as durable:
        assert ask(durable.port, "CONFIG GET appendonly")[-1] == "yes"
        assert ask(durable.port, "CONFIG GET appendfsync")[-1] == "always"


def test_it_has_the_settings_it_was_given(server: RedisServer) -> None:
    assert ask(server.port, "CONFIG GET databases")[-1] == "3"
    assert ask(server.port, "CONFIG GET bind")[-1] == HOST


def test_a_user_needs_the_password(server: RedisServer) -> None:
    assert ask(server.port, "AUTH guest wrong")[0].startswith("-WRONGPASS")
    assert ask(server.port, "AUTH guest secret", "ACL WHOAMI")[-1] == "guest"


def test_its_certificate_can_be_checked(server: RedisServer) -> None:
    trusting = ssl.create_default_context(cafile=str(server.certificate))
    assert ask(server.tls_port, "PING", tls=trusting) == ["+PONG"]


def test_a_setting_that_is_wrong_is_told_with_the_words_of_the_server(redis_installed: None) -> None:
    with pytest.raises(ServerError, match="no-such-setting"):
        RedisServer(durable=False, settings={"no-such-setting": 1}).__enter__()


def test_nothing_is_left_of_it(redis_installed: None) -> None:
    with RedisServer(durable=False) as ended:
        folder, pid = Path(ended.log).parent, ended.pid
    assert has_ended(pid)
    assert not folder.exists()
