"""The real servers that tests use: one of a kind for each process of a run.

A test asks for a server by a fixture. Where the server is not installed the test is skipped, and the last lines of the run say
so; with ENSUE_REQUIRE_SERVICES=1 in the environment it fails.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, Protocol

import pytest

from tests.servers import disks, flink, javascript, kafka, mosquitto, nats, pgbouncer, rabbitmq, redis
from tests.servers.flink import FlinkAddress, FlinkCluster
from tests.servers.kafka import KafkaAddress, KafkaServer
from tests.servers.mosquitto import MosquittoAddress, MosquittoServer
from tests.servers.nats import NatsAddress, NatsServer
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import ADVICE, PostgresAddress, PostgresServer, empty_schema, installed
from tests.servers.processes import die_with_parent
from tests.servers.rabbitmq import RabbitAddress, RabbitServer
from tests.servers.redis import RedisAddress, RedisServer


class _Servers(NamedTuple):
    """What this process knows of the servers of its run."""

    used: set[str]
    missing: set[str]


SERVERS = pytest.StashKey[_Servers]()


class _Worker(Protocol):
    """A worker process of the run, seen from the one that started it."""

    config: pytest.Config


@pytest.fixture(scope="session")
def postgresql_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `PostgresServer` themselves."""
    if installed() is None:
        _missing(request.config, ADVICE)
    request.config.stash[SERVERS].used.add(f"PostgreSQL {PostgresServer().version}")


@pytest.fixture
def own_postgresql(postgresql_installed: None) -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop, kill and copy."""
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql(postgresql_installed: None) -> Iterator[PostgresAddress]:
    """Where the PostgreSQL server of this process of the run is: nobody else has transactions there while a test runs. To stop
    or kill one, ask for `own_postgresql`."""
    with PostgresServer(durable=False) as server:
        yield server.address


@pytest.fixture
def postgresql_url(postgresql: PostgresAddress) -> str:
    """An empty place on the PostgreSQL server: a schema of the test's own."""
    return empty_schema(postgresql.url())


@pytest.fixture(scope="session")
def pgbouncer_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `Pooler` themselves."""
    if pgbouncer.installed() is None:
        _missing(request.config, pgbouncer.ADVICE)
    request.config.stash[SERVERS].used.add("PgBouncer")


@pytest.fixture(scope="session")
def pooler(pgbouncer_installed: None, postgresql: PostgresAddress) -> Iterator[Pooler]:
    """A pooler in transaction mode in front of that server."""
    with Pooler(postgresql) as running:
        yield running


@pytest.fixture(scope="session")
def mosquitto_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `MosquittoServer` themselves."""
    if mosquitto.installed() is None:
        _missing(request.config, mosquitto.ADVICE)
    request.config.stash[SERVERS].used.add(f"Mosquitto {MosquittoServer().version}")


@pytest.fixture
def own_mosquitto(mosquitto_installed: None) -> Iterator[MosquittoServer]:
    """An MQTT server that the test may stop and kill."""
    with MosquittoServer() as server:
        yield server


@pytest.fixture(scope="session", name="mosquitto")
def shared_mosquitto(mosquitto_installed: None) -> Iterator[MosquittoAddress]:
    """Where the MQTT server of this process of the run is. To stop or kill one, ask for `own_mosquitto`."""
    with MosquittoServer() as server:
        yield server.address


@pytest.fixture(scope="session")
def nats_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `NatsServer` themselves."""
    if nats.installed() is None:
        _missing(request.config, nats.ADVICE)
    request.config.stash[SERVERS].used.add(f"NATS {'.'.join(map(str, nats.version()))}")


@pytest.fixture
def own_nats(nats_installed: None) -> Iterator[NatsServer]:
    """A NATS server that the test may stop and kill."""
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session", name="nats")
def shared_nats(nats_installed: None) -> Iterator[NatsAddress]:
    """Where the NATS server of this process of the run is. To stop or kill one, ask for `own_nats`."""
    with NatsServer() as server:
        yield server.address


@pytest.fixture(scope="session")
def rabbitmq_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `RabbitServer` themselves."""
    if rabbitmq.installed() is None:
        _missing(request.config, rabbitmq.ADVICE)
    request.config.stash[SERVERS].used.add(f"RabbitMQ {rabbitmq.version()}")


@pytest.fixture
def own_rabbitmq(rabbitmq_installed: None) -> Iterator[RabbitServer]:
    """A RabbitMQ server that the test may stop and kill."""
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session", name="rabbitmq")
def shared_rabbitmq(rabbitmq_installed: None) -> Iterator[RabbitAddress]:
    """Where the RabbitMQ server of this process of the run is. To stop or kill one, ask for `own_rabbitmq`."""
    with RabbitServer() as server:
        yield server.address


@pytest.fixture(scope="session")
def kafka_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `KafkaServer` themselves."""
    if kafka.installed() is None:
        _missing(request.config, kafka.ADVICE)
    request.config.stash[SERVERS].used.add(f"Kafka {KafkaServer().version}")


@pytest.fixture
def own_kafka(kafka_installed: None) -> Iterator[KafkaServer]:
    """A Kafka server that the test may stop and kill."""
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session", name="kafka")
def shared_kafka(kafka_installed: None) -> Iterator[KafkaAddress]:
    """Where the Kafka server of this process of the run is. To stop or kill one, ask for `own_kafka`."""
    with KafkaServer() as server:
        yield server.address


@pytest.fixture(scope="session")
def redis_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `RedisServer` themselves."""
    if redis.installed() is None:
        _missing(request.config, redis.ADVICE)
    request.config.stash[SERVERS].used.add(f"Redis {RedisServer().version}")


@pytest.fixture
def own_redis(redis_installed: None) -> Iterator[RedisServer]:
    """A Redis server that the test may stop and kill."""
    with RedisServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session", name="redis")
def shared_redis(redis_installed: None) -> Iterator[RedisAddress]:
    """Where the Redis server of this process of the run is, which takes messages of 8 MB. To stop or kill one, ask for
    `own_redis`."""
    with RedisServer(durable=False, settings={"proto-max-bulk-len": "8mb"}) as server:
        yield server.address


@pytest.fixture(scope="session")
def flink_installed(request: pytest.FixtureRequest) -> None:
    """For tests that run Flink's classes themselves."""
    if (home := flink.installed()) is None:
        _missing(request.config, flink.ADVICE)
    request.config.stash[SERVERS].used.add(f"Flink {home.name}")


@pytest.fixture(scope="session", name="flink")
def shared_flink(flink_installed: None) -> Iterator[FlinkAddress]:
    """Where the Flink cluster and the SQL gateway of this process of the run are."""
    with FlinkCluster() as cluster:
        yield cluster.address


@pytest.fixture(scope="session")
def javascript_installed(request: pytest.FixtureRequest) -> None:
    """For tests that run a `JavaScript` program."""
    if javascript.installed() is None:
        _missing(request.config, javascript.ADVICE)
    request.config.stash[SERVERS].used.add("CloudEvents' SDK of JavaScript")


@pytest.fixture(scope="session")
def may_mount(request: pytest.FixtureRequest) -> None:
    """For tests that need a file system which can be full."""
    if not disks.mountable():
        _missing(request.config, disks.ADVICE)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _missing(config: pytest.Config, advice: str) -> NoReturn:
    config.stash[SERVERS].missing.add(advice)
    if os.environ.get("ENSUE_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{advice} (ENSUE_REQUIRE_SERVICES=1 demands it)", pytrace=False)
    pytest.skip(advice)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = _Servers(set(), set())
    if _is_worker(config):
        # Else it would finish its test, and need the servers, when the run is killed.
        die_with_parent(signal.SIGKILL)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process tells the one that started it what it used."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers"] = [list(names) for names in session.config.stash[SERVERS]]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: _Worker) -> None:
    """And that one listens."""
    said: tuple[list[str], list[str]] | None = getattr(node, "workeroutput", {}).get("servers")
    if said is not None:  # one that crashed says nothing
        servers = node.config.stash[SERVERS]
        servers.used.update(said[0])
        servers.missing.update(said[1])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line on what was used, and one on what was missing."""
    used, missing = config.stash[SERVERS]
    if used:
        terminalreporter.write_line(f"real servers used: {', '.join(sorted(used))}")
    if missing:
        terminalreporter.write_line(f"real servers MISSING: {', '.join(sorted(missing))}", red=True, bold=True)
