"""Kafka under the contract of channels, and what only Kafka has."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ensue.channels.kafka import KafkaBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    CumulativeContract,
    DurableBrokerContract,
    GroupsContract,
    ProcessesContract,
    ReplayContract,
)
from tests.servers.kafka import KafkaServer

QUICK = {"away_seconds": "0.3", "look_seconds": "0.3", "session_seconds": "2", "partitions": "4"}
"""What a test waits for, and a person would not notice."""


@pytest.fixture(scope="module")
def server(kafka_installed: None) -> Iterator[KafkaServer]:
    """Of the contract, whose tests leave it running."""
    with KafkaServer() as started:
        yield started


class TestKafka(
    BrokerContract,
    GroupsContract,
    CumulativeContract,
    BroadcastContract,
    ReplayContract,
    AssignsContract,
    DurableBrokerContract,
    ProcessesContract,
):
    @pytest.fixture(autouse=True)
    def _server(self, server: KafkaServer) -> None:
        self.server = server
        self.url = server.url(**QUICK)

    def broker(self, **parameters: str) -> KafkaBroker:
        return KafkaBroker(place("&".join((self.url, urlencode(parameters)))))

    async def stop_server(self) -> None:
        self.server.stop()

    async def kill_server(self) -> None:
        self.server.kill()

    async def start_server(self) -> None:
        if not self.server.running():
            self.server.start()
