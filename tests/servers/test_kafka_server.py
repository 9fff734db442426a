"""The Kafka server that other tests stand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.servers.guarded import ROOT
from tests.servers.kafka import KafkaServer
from tests.servers.processes import ServerError, has_ended, until

PROGRAM = """
import sys
from tests.servers.kafka import KafkaServer
server = KafkaServer()
server.start()
print(server.pid, server.log.parent, flush=True)
sys.stdin.read()
"""


def listening() -> set[str]:
    """Addresses, as the kernel writes them."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return {line.split()[1] for table in tables for line in table if line.split()[3] == "0A"}


def test_it_comes_back_at_the_same_port_after_it_was_killed_and_listens_on_loopback_alone(
    own_kafka: KafkaServer,
) -> None:
    port, pid = own_kafka.port, own_kafka.pid
    own_kafka.kill()
    assert has_ended(pid)
    assert not any(place.endswith(f":{port:04X}") for place in listening())
    own_kafka.start()
    assert own_kafka.port == port
    found = {place for place in listening() if place.endswith(f":{port:04X}")}
    loopback = {f"0100007F:{port:04X}", f"0000000000000000FFFF00000100007F:{port:04X}"}
    assert len(found & loopback) == len(found) == 1
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    assert len(client.list_topics(timeout=10).brokers) == 1


def test_a_setting_that_is_wrong_is_told_with_the_words_of_the_server(kafka_installed: None) -> None:
    with pytest.raises(ServerError, match=r"num\.io\.threads"):
        KafkaServer(settings={"num.io.threads": 0}).__enter__()


@pytest.mark.slow
def test_nothing_is_left_of_a_server_when_the_process_that_needs_it_is_killed(kafka_installed: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid, folder = program.stdout.readline().split()
        assert not has_ended(int(pid))
        program.kill()
    until(lambda: has_ended(int(pid)), "the server was to end")
    until(lambda: not Path(folder).exists(), "its folder was to be removed")
