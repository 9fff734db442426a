"""The NATS servers that other tests stand on. What a user may do, and TLS, is tested with the adapter."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.guarded import ROOT
from tests.servers.nats import NatsServer, version
from tests.servers.postgresql import HOST
from tests.servers.processes import ServerError, has_ended, until

PROGRAM = """
import sys
from tests.servers.nats import NatsServer
server = NatsServer()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def said(port: int) -> dict[str, object]:
    """What a server says of itself to whoever connects."""
    with socket.create_connection((HOST, port), timeout=10) as connection, connection.makefile("rb") as lines:
        found: dict[str, object] = json.loads(lines.readline().removeprefix(b"INFO "))
        return found


def test_it_starts_again_at_the_same_port_and_has_the_settings_of_then(own_nats: NatsServer) -> None:
    assert said(own_nats.port)["version"] == ".".join(map(str, version()))
    port, pid = own_nats.port, own_nats.pid
    own_nats.kill()
    assert has_ended(pid)
    own_nats.settings.append("max_payload: 4321")
    own_nats.start()
    assert own_nats.port == port
    assert said(port)["max_payload"] == 4321


def test_no_two_servers_have_the_same_port_not_even_while_one_is_down(own_nats: NatsServer) -> None:
    own_nats.stop()
    with NatsServer() as second:
        own_nats.start()
        assert own_nats.port != second.port
        assert said(own_nats.port)["server_id"] != said(second.port)["server_id"]


def test_a_setting_that_is_wrong_is_told_with_the_words_of_the_server(nats_installed: None) -> None:
    with pytest.raises(ServerError, match="no_such_setting"):
        NatsServer(settings=("no_such_setting: 1",)).__enter__()


def test_nothing_is_left_of_it(nats_installed: None) -> None:
    with NatsServer() as server:
        folder, pid = server.folder, server.pid
        assert folder.exists()
    assert has_ended(pid)
    assert not folder.exists()


def test_nothing_is_left_of_it_when_the_process_that_needs_it_is_killed(nats_installed: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid, folder = program.stdout.readline().split()
        assert not has_ended(int(pid))
        program.kill()
    until(lambda: has_ended(int(pid)), "the server was to end")
    until(lambda: not Path(folder).exists(), "its folder was to be removed")
