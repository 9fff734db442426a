"""`ensue channels`: where an application's channels are, and what the brokers there can do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Ensue
from tests.servers.postgresql import reserved_port

APPLICATION = """
from ensue import App, Channel, Event

class OrderPlaced(Event, key="order_id"):
    order_id: str

orders, away = Channel("orders", OrderPlaced), Channel("away", OrderPlaced)
app = App("shop", inbox=[orders], outbox=[away])

@app.on(source=Channel("telemetry", OrderPlaced))
async def watch(order: OrderPlaced) -> None: ...

none = App("none")
"""


@pytest.fixture
def application(folder: Path) -> str:
    (folder / "channelled.py").write_text(APPLICATION)
    return "channelled:app"


def test_each_use_of_a_channel_is_told_with_its_place_and_what_the_broker_can_do(
    application: str, ensue_: Ensue
) -> None:
    result = ensue_("channels", application, "--json", ENSUE_CHANNELS="memory:?prefix=eu-")
    found = {one["consumer"]: one for one in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 0
    assert {name: (one["use"], one["address"], one["group"]) for name, one in found.items()} == {
        "inbox.orders": ("inbox", "eu-orders", "eu-shop"),
        "outbox.away": ("outbox", "eu-away", None),
        "watch": ("direct", "eu-telemetry", "eu-shop.watch"),
    }
    assert all(one["capabilities"]["groups"] and one["carries"] == ["OrderPlaced"] for one in found.values())


def test_a_broker_that_cannot_be_reached_is_told_beside_the_others_without_its_secrets(
    application: str, ensue_: Ensue
) -> None:
    with reserved_port() as port:
        place = f"redis://shop:sesame@127.0.0.1:{port.getsockname()[1]}"
        result = ensue_("channels", application, ENSUE_CHANNELS="memory:", ENSUE_CHANNEL_AWAY=place)
    assert result.exit_code == 1
    said = {line.partition("\t")[0]: line for line in result.stdout.splitlines()}
    assert "one receiver at a time" in said["orders"]
    assert "127.0.0.1" in said["away"]
    assert "one receiver" not in said["away"]
    assert "sesame" not in result.output
    assert "1 of 3 cannot be used" in result.stderr


def test_an_application_without_channels_is_told_how_to_have_some(application: str, ensue_: Ensue) -> None:
    result = ensue_("channels", "channelled:none")
    assert result.exit_code == 0
    assert "uses no channels" in result.stdout


def test_without_an_application_it_says_how_to_name_one(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("channels")
    assert result.exit_code == 2
    assert "say which application" in result.stderr
