"""NATS under the contract of channels, and what only NATS has."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ensue.channels.nats import NatsBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    DelayContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
)
from tests.servers.nats import NatsServer, version

DEAD_SECONDS = 3
"""After which time what a dead member held comes to one that waits."""

DELAYS = (2, 12)
OLDER_LACK = {
    "test_it_is_held_to_all_that_it_declares": "delays no messages, and says so",
    "test_a_delayed_message_comes_when_its_time_has_passed_and_holds_up_no_other": "delays no messages",
    "test_delayed_messages_come_by_their_times": "delays no messages",
}


@pytest.fixture(scope="module")
def server(nats_installed: None) -> Iterator[NatsServer]:
    """Of the contract, whose tests leave it running."""
    with NatsServer() as started:
        yield started


class TestNats(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ReplayContract,
    DelayContract,
    DurableBrokerContract,
    ProcessesContract,
):
    @pytest.fixture(autouse=True)
    def _server(self, server: NatsServer, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__
        if version() < DELAYS and name in OLDER_LACK:
            pytest.skip(f"NATS {'.'.join(map(str, version()))} {OLDER_LACK[name]}")
        self.server = server
        self.url = server.url(ack_wait_seconds=str(DEAD_SECONDS))

    def broker(self, **parameters: str) -> NatsBroker:
        return NatsBroker(place("&".join((self.url, urlencode(parameters)))))

    async def stop_server(self) -> None:
        self.server.stop()

    async def kill_server(self) -> None:
        self.server.kill()

    async def start_server(self) -> None:
        if not self.server.running():
            self.server.start()
