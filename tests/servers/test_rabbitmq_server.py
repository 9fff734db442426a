"""The RabbitMQ server that other tests stand on."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.guarded import ROOT
from tests.servers.processes import family, has_ended, until
from tests.servers.rabbitmq import RabbitServer

PROGRAM = """
import sys
from tests.servers.rabbitmq import RabbitServer
server = RabbitServer()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_comes_back_at_the_same_port_after_its_processes_died_and_listens_on_loopback_alone(
    own_rabbitmq: RabbitServer,
) -> None:
    port, members = own_rabbitmq.port, family(own_rabbitmq.pid)
    own_rabbitmq.kill()
    assert len(members) > 2, "the server itself, its name service and its helpers"
    assert all(has_ended(pid) for pid in members)
    assert not listens(port)
    own_rabbitmq.start()
    assert listens(port)
    assert own_rabbitmq.port == port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    assert places == {f"0100007F:{port:04X}"}


@pytest.mark.slow
def test_nothing_is_left_of_a_server_when_the_process_that_needs_it_is_killed(rabbitmq_installed: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid, folder = program.stdout.readline().split()
        members = family(int(pid))
        assert not has_ended(int(pid))
        program.kill()
    until(lambda: all(has_ended(member) for member in members), "the server and its name service were to end")
    until(lambda: not Path(folder).exists(), "its folder was to be removed")
