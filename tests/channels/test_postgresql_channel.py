"""A PostgreSQL database as the broker of a channel is held to the contract of all brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ensue.app.log_brokers import PostgresqlBroker
from ensue.channels.urls import place
from ensue.consumers import lease, log_subscription
from ensue.errors import AccessRefused, WiringError
from ensue.store import postgresql as store
from ensue.store.postgresql import writer
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    ChannelContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
)
from ensue.world import RealWorld
from tests.channels.log_members import MembersContract
from tests.servers.postgresql import PostgresAddress, PostgresServer, empty_schema, new_role

WORLD = RealWorld()


@pytest.fixture(scope="module")
def server(postgresql_installed: None) -> Iterator[PostgresServer]:
    """One that the tests of this module may stop and kill; at the end of each it runs."""
    with PostgresServer(durable=False) as running:
        yield running


class _Database(ChannelContract):
    writers = "few"

    @pytest.fixture(autouse=True)
    def _database(self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.url = f"{empty_schema(server.url())}&ensue_writers={self.writers}"
        for module in (lease, log_subscription):
            monkeypatch.setattr(module, "BEAT_SECONDS", 0.3)
        for patient in (writer, store):
            monkeypatch.setattr(patient, "PATIENCE_SECONDS", 0.2)

    def broker(self, **parameters: str) -> PostgresqlBroker:
        return PostgresqlBroker(place(f"{self.url}&{urlencode(parameters)}"))


class TestPostgresql(
    _Database, BrokerContract, GroupsContract, IndividualContract, BroadcastContract, ReplayContract, AssignsContract,
    DurableBrokerContract, ProcessesContract, MembersContract,
):  # fmt: skip
    slow_seconds = 0.5

    async def stop_server(self) -> None:
        if self.server.running():
            self.server.stop()

    async def kill_server(self) -> None:
        self.server.kill()

    async def start_server(self) -> None:
        if not self.server.running():
            self.server.start()


class TestManyWriters(_Database, GroupsContract, IndividualContract, ReplayContract, AssignsContract):
    slow_seconds = 0.1
    writers = "many"


def test_a_server_that_does_not_let_us_in_is_told_so_that_nobody_tries_again_and_again(
    postgresql: PostgresAddress,
) -> None:
    url = new_role(postgresql.url(), password="right").replace("right", "wrong")
    with pytest.raises(AccessRefused) as told:
        asyncio.run(PostgresqlBroker(place(url)).open(WORLD))
    assert "wrong" not in str(told.value)


def test_what_is_no_parameter_of_the_client_library_is_told() -> None:
    with pytest.raises(WiringError, match=r"ssl_mode.*sslmode"):
        PostgresqlBroker(place("postgresql://127.0.0.1/shop?ssl_mode=require"))
