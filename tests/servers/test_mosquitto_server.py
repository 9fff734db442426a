"""The MQTT server that other tests stand on."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.guarded import ROOT
from tests.servers.mosquitto import MosquittoServer
from tests.servers.processes import ServerError, has_ended, until

PROGRAM = """
import sys
from tests.servers.mosquitto import MosquittoServer
server = MosquittoServer()
server.start()
print(server.pid, server.log, flush=True)
sys.stdin.read()
"""


def test_it_comes_back_on_its_port_after_a_stop_and_after_a_kill(own_mosquitto: MosquittoServer) -> None:
    port = own_mosquitto.port
    for end in (own_mosquitto.stop, own_mosquitto.kill):
        end()
        assert not own_mosquitto.running()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        own_mosquitto.start()
        socket.create_connection(("127.0.0.1", port)).close()
    assert own_mosquitto.port == port


def test_it_writes_its_database_when_it_is_told_to(own_mosquitto: MosquittoServer) -> None:
    database = own_mosquitto.log.parent / "mosquitto.db"
    assert not database.exists()
    own_mosquitto.save()
    assert database.stat().st_size > 0


def test_it_listens_on_loopback_alone(own_mosquitto: MosquittoServer) -> None:
    rows = [
        line.split()
        for file in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"  # it listens
    ]
    at = [row[1] for row in rows if row[1].endswith(f":{own_mosquitto.port:04X}")]
    assert at == [f"0100007F:{own_mosquitto.port:04X}"]


def test_a_setting_that_is_wrong_is_told_with_the_words_of_the_server(mosquitto_installed: None) -> None:
    with pytest.raises(ServerError, match="no_such_setting"):
        MosquittoServer(settings={"no_such_setting": 1}).__enter__()


def test_nothing_is_left_of_it_when_the_process_that_needs_it_is_killed(mosquitto_installed: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid, log = program.stdout.readline().split()
        assert not has_ended(int(pid))
        program.kill()
    until(lambda: has_ended(int(pid)), "the server was to end")
    until(lambda: not Path(log).parent.exists(), "its folder was to be removed")
