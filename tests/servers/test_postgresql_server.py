"""The servers that other tests stand on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers.guarded import ROOT
from tests.servers.postgresql import PostgresServer, empty_database, empty_schema
from tests.servers.processes import ServerError, family, has_ended, until

PROGRAM = """
import sys
from tests.servers.postgresql import PostgresServer
server = PostgresServer(durable=False)
server.start()
print(server.pid, server.data, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server(postgresql_installed: None) -> Iterator[PostgresServer]:
    access = ["host all guest 127.0.0.1/32 scram-sha-256", "host all stranger 127.0.0.1/32 reject"]
    with PostgresServer(durable=False, tls=True, settings={"work_mem": "5MB"}, access=access) as started:
        yield started


def ask(url: str, question: str) -> object:
    """The only column of the only row of the answer."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
        assert row is not None
        return row[0]


def tell(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_what_was_committed_survives_the_death_of_all_processes_of_a_server(own_postgresql: PostgresServer) -> None:
    server = own_postgresql
    tell(server.url(), "CREATE TABLE kept (number int)", "INSERT INTO kept SELECT generate_series(1, 1000)")
    with psycopg.connect(server.url()) as connection:
        connection.execute("DELETE FROM kept")
        members = family(server.pid)
        server.kill()
        assert len(members) > 5
        assert all(has_ended(pid) for pid in members)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    port = server.port
    server.start()
    assert ask(server.url(), "SELECT count(*) FROM kept") == 1000
    assert server.port == port


def test_a_promoted_replica_has_all_that_its_dead_primary_committed(own_postgresql: PostgresServer) -> None:
    primary = own_postgresql
    replica = primary.replica()
    try:
        tell(primary.url(), "CREATE TABLE kept (number int)", "INSERT INTO kept SELECT generate_series(1, 1000)")
        replica.catch_up()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            tell(replica.url(), "DELETE FROM kept")
        primary.kill()
        replica.promote()
        tell(replica.url(), "INSERT INTO kept VALUES (1001)")
        replica.restart()
        assert ask(replica.url(), "SELECT count(*) FROM kept") == 1001
    finally:
        replica.close()


def test_no_two_servers_have_the_same_port_not_even_while_one_is_down(server: PostgresServer) -> None:
    with PostgresServer(durable=False) as first:
        first.stop()
        with PostgresServer(durable=False) as second:
            first.start()
            ports = {server.port, first.port, second.port}
            assert {ask(one.url(), "SHOW port") for one in (server, first, second)} == set(map(str, ports))
            assert len(ports) == 3


def test_it_listens_on_loopback_alone_and_has_no_socket_in_the_file_system(server: PostgresServer) -> None:
    rows = [
        line.split()
        for file in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"  # it listens
    ]
    at = [row[1] for row in rows if row[1].endswith(f":{server.port:04X}")]
    assert at == [f"0100007F:{server.port:04X}"]
    assert ask(server.url(), "SHOW unix_socket_directories") == ""


def test_it_has_the_settings_it_was_given_and_keeps_them_over_a_restart(server: PostgresServer) -> None:
    assert ask(server.url(), "SHOW work_mem") == "5MB"
    server.settings["work_mem"] = "7MB"
    server.restart()
    assert ask(server.url(), "SHOW work_mem") == "7MB"
    assert ask(server.url(), "SHOW max_connections") == "200"
    assert ask(server.url(), "SHOW shared_buffers") == "128MB"


def test_whoever_is_not_its_superuser_needs_a_password(server: PostgresServer) -> None:
    tell(server.url(), "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'p@ss word'")
    assert ask(server.url(user="guest", password="p@ss word"), "SELECT current_user") == "guest"
    with pytest.raises(psycopg.OperationalError, match="password"):
        ask(server.url(user="guest", password="wrong"), "SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        ask(server.url(user="stranger"), "SELECT 1")


def test_its_certificate_can_be_checked(server: PostgresServer) -> None:
    url = server.url(sslmode="verify-full", sslrootcert=str(server.certificate))
    assert ask(url, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True


def test_a_durable_server_waits_for_its_disk_like_any_other() -> None:
    with PostgresServer() as durable:
        assert ask(durable.url(), "SHOW fsync") == "on"
        assert ask(durable.url(), "SHOW synchronous_commit") == "on"
        assert ask(durable.url(), "SHOW full_page_writes") == "on"


def test_a_setting_that_is_wrong_is_told_with_the_words_of_the_server(postgresql_installed: None) -> None:
    with pytest.raises(ServerError, match="no_such_setting"):
        PostgresServer(durable=False, settings={"no_such_setting": 1}).__enter__()


def test_nothing_is_left_of_a_server_when_the_process_that_needs_it_is_killed(postgresql_installed: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid, data = program.stdout.readline().split()
        assert not has_ended(int(pid))
        program.kill()
    until(lambda: has_ended(int(pid)), "the server was to end")
    until(lambda: not Path(data).parent.exists(), "its folder was to be removed")


def test_what_one_test_makes_in_its_empty_place_no_other_sees(server: PostgresServer) -> None:
    for make in (empty_schema, empty_database):
        one, other = make(server.url(application_name="a name")), make(server.url())
        tell(one, "CREATE TABLE things (number int)", "INSERT INTO things VALUES (1)")
        tell(other, "CREATE TABLE things (number int)")
        assert ask(one, "SELECT count(*) FROM things") == 1
        assert ask(other, "SELECT count(*) FROM things") == 0
        assert ask(one, "SHOW application_name") == "a name"
