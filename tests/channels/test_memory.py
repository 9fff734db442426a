"""The broker in memory is held to the contract that others are given, in each of its forms, and to what is its own."""

from __future__ import annotations

import itertools
from urllib.parse import urlencode

import pytest

from ensue.channels.memory import MemoryBroker
from ensue.channels.urls import place
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    DelayContract,
    GroupsContract,
    IndividualContract,
    ReplayContract,
)

_numbers = itertools.count()


class _Memory(BrokerContract, GroupsContract, IndividualContract, BroadcastContract, ReplayContract, DelayContract):
    @pytest.fixture(autouse=True)
    def _name(self) -> None:
        self.name = f"contract-{next(_numbers)}"

    def url(self, **parameters: str) -> str:
        return f"memory://{self.name}?{urlencode({'largest': '100000', **parameters})}"

    def broker(self, **parameters: str) -> MemoryBroker:
        return MemoryBroker(place(self.url(**parameters)))


class TestMemory(_Memory):
    pass


class TestPartitions(_Memory):
    def url(self, **parameters: str) -> str:
        return super().url(partitions="4", **parameters)


class TestAssigned(_Memory, AssignsContract):
    slow_seconds = 0.1

    def url(self, **parameters: str) -> str:
        return super().url(partitions="4", assign="yes", **parameters)
