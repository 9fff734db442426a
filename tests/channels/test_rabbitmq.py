"""The adapter of RabbitMQ against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ensue.channels.rabbitmq import RabbitBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
)
from tests.servers.rabbitmq import RabbitAddress, RabbitServer


@pytest.fixture(scope="module")
def restarted(rabbitmq_installed: None) -> Iterator[RabbitServer]:
    """A server for tests that stop and kill it, and leave it running."""
    with RabbitServer() as server:
        yield server


class TestContract(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ProcessesContract,
    DurableBrokerContract,
):
    """What it declares."""

    @pytest.fixture(autouse=True)
    def _server(self, restarted: RabbitServer, request: pytest.FixtureRequest) -> None:
        self.server = restarted
        self.url = restarted.url()
        # Only where the server is killed does it matter how soon after a queue was made.
        kills = hasattr(DurableBrokerContract, request.function.__name__)
        self.given = {} if kills else {"settle_seconds": "0.001"}

    def broker(self, **parameters: str) -> RabbitBroker:
        return RabbitBroker(place(f"{self.url}?{urlencode(self.given | parameters)}"))

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        if not self.server.running():
            await asyncio.to_thread(self.server.start)
