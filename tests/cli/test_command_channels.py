"""`ensue channels`: where an application's channels are, and what the brokers there can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.bakery import says
from tests.cli.conftest import Ensue, Start
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


def test_running_says_where_each_channel_is(folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "channelled.py").write_text(APPLICATION)
    monkeypatch.setenv("ENSUE_CHANNELS", "memory:?prefix=eu-")
    lines = says(start("run", "channelled:app"), "outbox.away")
    told = {line.split()[1]: line.partition("  ")[2].strip() for line in lines[1:]}
    assert told["watch"].endswith("← OrderPlaced from eu-telemetry at memory:?prefix=…")
    assert told["inbox.orders"].endswith("← eu-orders at memory:?prefix=…")
    assert told["outbox.away"].endswith("→ eu-away at memory:?prefix=…")


def test_running_says_that_a_broker_is_away_and_stops_though_it_waits_for_it(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "channelled.py").write_text(APPLICATION)
    with reserved_port() as port:
        monkeypatch.setenv("ENSUE_CHANNELS", f"redis://127.0.0.1:{port.getsockname()[1]}?wait_seconds=600")
        process = start("run", "channelled:app")
        says(process, "it is tried again")
        process.terminate()
        says(process, "stopped before it ran")
        assert process.wait(timeout=20) == 0


KEPT = """
import asyncio
from channelled import OrderPlaced, app
from ensue import Channel, Event, connect

class OrderLost(Event): ...


async def main():
    async with app:
        async with connect(Channel("orders", OrderLost)) as link:
            await link.publish(OrderLost())
        while not [letter async for letter in app.dead_letters.list()]:
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_an_edited_message_is_said_to_be_read_when_it_is_handled(folder: Path, ensue_: Ensue) -> None:
    (folder / "channelled.py").write_text(APPLICATION)
    (folder / "kept.py").write_text(KEPT)
    environment = {**os.environ, "ENSUE_CHANNELS": "memory:", "PYTHONPATH": str(folder)}
    subprocess.run(
        [sys.executable, "kept.py"], cwd=folder, env=environment, check=True, timeout=60, capture_output=True
    )
    result = ensue_("dead-letters", "edit", 1, "--app", "channelled:app", "--set", "text=x", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "a message is read when it is handled" in result.stderr
    assert "--app" not in result.output
