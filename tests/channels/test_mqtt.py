"""MQTT 5 as a channel, on a real Mosquitto: what every broker promises, and what only this one has."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlencode

import pytest

from ensue.channels.mqtt import MqttBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    BroadcastContract,
    BrokerContract,
    CumulativeContract,
    GroupsContract,
    ProcessesContract,
    RestartContract,
)
from tests.servers.mosquitto import MosquittoAddress, MosquittoServer


class OnMosquitto:
    """How the adapter is made."""

    url: str
    knows_addresses = False

    @pytest.fixture(autouse=True)
    def _server(self, mosquitto: MosquittoAddress) -> None:
        self.url = mosquitto.url()

    def broker(self, **parameters: str) -> MqttBroker:
        query = urlencode(parameters, quote_via=quote)
        return MqttBroker(place(f"{self.url}{'&' if '?' in self.url else '?'}{query}" if query else self.url))


class TestContract(
    OnMosquitto, BrokerContract, GroupsContract, CumulativeContract, BroadcastContract, ProcessesContract
):
    """What it declares."""


class TestRestarts(OnMosquitto, RestartContract):
    """With a server of its own."""

    server: MosquittoServer

    @pytest.fixture(autouse=True)
    def _server(self, own_mosquitto: MosquittoServer) -> None:
        self.server = own_mosquitto
        self.url = own_mosquitto.url()

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        if not self.server.running():
            await asyncio.to_thread(self.server.start)
