"""The contract of a broker on Redis, and what only Redis has."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ensue.channels.redis import RedisBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
)
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def restarted(redis_installed: None) -> Iterator[RedisServer]:
    """A server that the tests of the contract stop, kill and start again."""
    with RedisServer(durable=False, settings={"proto-max-bulk-len": "8mb"}) as server:
        yield server


class TestRedis(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ReplayContract,
    DurableBrokerContract,
    ProcessesContract,
):
    @pytest.fixture(autouse=True)
    def _server(self, restarted: RedisServer) -> None:
        self.server = restarted
        self.url = restarted.url()

    def broker(self, **parameters: str) -> RedisBroker:
        return RedisBroker(place(f"{self.url}?{urlencode(parameters)}"))

    async def stop_server(self) -> None:
        self.server.stop()

    async def kill_server(self) -> None:
        self.server.kill()

    async def start_server(self) -> None:
        if not self.server.running():
            self.server.start()
