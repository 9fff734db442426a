"""The real servers that tests use: one of a kind for a whole run, however many processes the run has.

A test asks for a server by a fixture. Where the server is not installed the test is skipped, and the last lines of the run say
so; with ENSUE_REQUIRE_SERVICES=1 in the environment it fails.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import pytest

from tests.servers import disks, pgbouncer
from tests.servers.guarded import Needed
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import ADVICE, PostgresAddress, PostgresServer, empty_schema, installed
from tests.servers.processes import die_with_parent, has_ended, until
from tests.servers.sharing import shared


class _Servers(NamedTuple):
    """What this process knows of the servers of its run."""

    used: set[str]
    missing: set[str]
    guards: set[int]


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
def postgresql(
    postgresql_installed: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresAddress]:
    """Where the PostgreSQL server of this run is. It is shared: to stop or kill one, ask for `own_postgresql`."""

    def start(needed: Needed) -> str:
        address, guard = PostgresServer(durable=False).share(needed)
        return f"{address.port} {address.version} {guard}"

    with shared(_folder_of_the_run(tmp_path_factory, request.config), "postgresql", start) as told:
        port, version, guard = told.split()
        request.config.stash[SERVERS].guards.add(int(guard))
        yield PostgresAddress(int(port), version)


@pytest.fixture
def postgresql_url(postgresql: PostgresAddress) -> str:
    """An empty place on the PostgreSQL server of this run: a schema of the test's own."""
    return empty_schema(postgresql.url())


@pytest.fixture(scope="session")
def pgbouncer_installed(request: pytest.FixtureRequest) -> None:
    """For tests that start a `Pooler` themselves."""
    if pgbouncer.installed() is None:
        _missing(request.config, pgbouncer.ADVICE)
    request.config.stash[SERVERS].used.add("PgBouncer")


@pytest.fixture(scope="session")
def pooler(pgbouncer_installed: None, postgresql: PostgresAddress) -> Iterator[Pooler]:
    """A pooler in transaction mode in front of the server of this run."""
    with Pooler(postgresql) as running:
        yield running


@pytest.fixture(scope="session")
def may_mount(request: pytest.FixtureRequest) -> None:
    """For tests that need a file system which can be full."""
    if not disks.mountable():
        _missing(request.config, disks.ADVICE)


def _folder_of_the_run(factory: pytest.TempPathFactory, config: pytest.Config) -> Path:
    """The same for all processes of a run, and for no other run."""
    own = factory.getbasetemp()
    return own.parent if _is_worker(config) else own


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _missing(config: pytest.Config, advice: str) -> NoReturn:
    config.stash[SERVERS].missing.add(advice)
    if os.environ.get("ENSUE_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{advice} (ENSUE_REQUIRE_SERVICES=1 demands it)", pytrace=False)
    pytest.skip(advice)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = _Servers(set(), set(), set())
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
    said: tuple[list[str], list[str], list[int]] | None = getattr(node, "workeroutput", {}).get("servers")
    if said is not None:  # one that crashed says nothing
        servers = node.config.stash[SERVERS]
        servers.used.update(said[0])
        servers.missing.update(said[1])
        servers.guards.update(said[2])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line on what was used, and one on what was missing."""
    used, missing, _ = config.stash[SERVERS]
    if used:
        terminalreporter.write_line(f"real servers used: {', '.join(sorted(used))}")
    if missing:
        terminalreporter.write_line(f"real servers MISSING: {', '.join(sorted(missing))}", red=True, bold=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run is over when its servers are."""
    if not _is_worker(config):
        for guard in config.stash[SERVERS].guards:
            until(partial(has_ended, guard), f"the server of process {guard} was to end with the run")
