"""The compiled form of patterns on a real Flink: it finds what the pattern means."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from ensue.patterns.flink.gateway import Session
from ensue.world import RealWorld
from tests.patterns.flink.cases import PATTERNS
from tests.patterns.flink.comparing import Found, ask_flink, found_by_the_oracle, random_events, write_events
from tests.servers.flink import FlinkAddress
from tests.servers.test_kafka_server import listening

STREAMS, SEED = 60, 20
"""So many keys; a pattern finds a few matches in most of them."""


def test_the_cluster_of_the_tests_listens_on_loopback_alone(flink: FlinkAddress) -> None:
    with urllib.request.urlopen(f"{flink.gateway}/v3/info", timeout=10) as response:
        assert flink.version.encode() in response.read()
    for url in (flink.gateway, flink.cluster):
        port = int(url.rpartition(":")[2])
        found = {place for place in listening() if place.endswith(f":{port:04X}")}
        loopback = {f"0100007F:{port:04X}", f"0000000000000000FFFF00000100007F:{port:04X}"}
        assert len(found & loopback) == len(found) == 1


@pytest.mark.slow
def test_every_portable_pattern_finds_on_flink_what_it_means(flink: FlinkAddress, tmp_path: Path) -> None:
    events = random_events(STREAMS, SEED)
    write_events(tmp_path / "events.json", events)

    async def asked() -> dict[str, list[Found]]:
        async with Session(flink.gateway, RealWorld(), {"execution.runtime-mode": "streaming"}) as session:
            return await ask_flink(session, PATTERNS, tmp_path / "events.json")

    found = asyncio.run(asked())
    for pattern in PATTERNS:
        expected = found_by_the_oracle(pattern, events)
        assert expected, f"{pattern.__name__} finds nothing, so that nothing is compared"
        assert found[pattern.__name__] == expected, pattern.__name__
